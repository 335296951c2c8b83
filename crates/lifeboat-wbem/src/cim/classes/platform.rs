//! What clients read before they begin: the server and its namespaces, the profile that leads to the replication service,
//! and a few classes about the host that another system defines, without which some clients do not connect at all.

use lifeboat_cim::{Instance, InstanceName, ObjectPath};

use super::names::{SYSTEM, guid, replication_service_path};
use super::{ClassView, Make, element, link, well};
use crate::cim::facts::HostParts;
use crate::cim::{CIMV2, HostFacts, INTEROP, VIRTUALIZATION};

pub(super) const CLASSES: &[ClassView] = &[
    at(INTEROP, MANAGER, Make::Host(manager)),
    at(INTEROP, NAMESPACE, Make::Host(namespaces)),
    at(INTEROP, "CIM_NamespaceInManager", Make::Host(in_manager)),
    at(INTEROP, PROFILE, Make::Host(profile)),
    at(INTEROP, "Msvm_ElementConformsToProfile", Make::Host(conforms)),
    at(
        VIRTUALIZATION,
        "Msvm_ElementConformsToProfile",
        Make::Host(conforms),
    ),
    at(CIMV2, "Win32_ComputerSystemProduct", Make::Host(product)),
    at(CIMV2, "Win32_OperatingSystem", Make::Host(system)),
    at(CIMV2, COMPUTER, Make::Host(computer)),
    at(CIMV2, PROCESSOR, Make::Host(processor)),
    at(CIMV2, "Win32_ComputerSystemProcessor", Make::Host(has_processor)),
];

const MANAGER: &str = "CIM_ObjectManager";
const NAMESPACE: &str = "CIM_Namespace";
const PROFILE: &str = "Msvm_RegisteredProfile";
const PRODUCT: &str = "Lifeboat";
const COMPUTER: &str = "Win32_ComputerSystem";
const PROCESSOR: &str = "Win32_Processor";
const PROCESSOR_ID: &str = "CPU0";

const fn at(namespace: &'static str, class: &'static str, make: Make) -> ClassView {
    ClassView {
        namespace,
        class,
        make,
    }
}

fn manager_path(host: &HostFacts) -> ObjectPath {
    let keys = [
        ("SystemCreationClassName", SYSTEM),
        ("SystemName", &host.name),
        ("CreationClassName", MANAGER),
        ("Name", PRODUCT),
    ];
    ObjectPath::new(INTEROP, InstanceName::new(MANAGER, &keys))
}

fn manager(host: &HostFacts, _: &HostParts) -> Vec<Instance> {
    let description = format!("{PRODUCT} Version {}", host.version);
    let manager = well(element(MANAGER, PRODUCT, &description, PRODUCT))
        .with("SystemCreationClassName", SYSTEM)
        .with("SystemName", host.name.as_str())
        .with("CreationClassName", MANAGER)
        .with("Name", PRODUCT)
        .with("EnabledState", 5_u16)
        .with("RequestedState", 12_u16)
        .with("EnabledDefault", 2_u16)
        .with("Started", true)
        .with("GatherStatisticalData", false);
    vec![manager]
}

const NAMESPACES: [&str; 3] = [VIRTUALIZATION, INTEROP, CIMV2];

fn namespace_keys<'a>(host: &'a HostFacts, name: &'a str) -> [(&'a str, &'a str); 6] {
    [
        ("SystemCreationClassName", SYSTEM),
        ("SystemName", &host.name),
        ("ObjectManagerCreationClassName", MANAGER),
        ("ObjectManagerName", PRODUCT),
        ("CreationClassName", NAMESPACE),
        ("Name", name),
    ]
}

fn namespaces(host: &HostFacts, _: &HostParts) -> Vec<Instance> {
    let namespace = |name: &&str| {
        let instance = Instance::new(NAMESPACE)
            .with("ElementName", *name)
            .with("ClassInfo", 201_u16)
            .with("ClassType", 200_u16);
        let keys = namespace_keys(host, name);
        keys.into_iter().fold(instance, |i, (n, v)| i.with(n, v))
    };
    NAMESPACES.iter().map(namespace).collect()
}

fn in_manager(host: &HostFacts, _: &HostParts) -> Vec<Instance> {
    let inside = |name: &&str| {
        let keys = namespace_keys(host, name);
        let namespace = ObjectPath::new(INTEROP, InstanceName::new(NAMESPACE, &keys));
        let antecedent = ("Antecedent", manager_path(host));
        link("CIM_NamespaceInManager", antecedent, ("Dependent", namespace))
    };
    NAMESPACES.iter().map(inside).collect()
}

const PROFILE_ID: &str = "Lifeboat:Virtual Machine Replication";

fn profile(host: &HostFacts, _: &HostParts) -> Vec<Instance> {
    let name = "Virtual Machine Replication";
    let profile = element(
        PROFILE,
        name,
        "Replication of virtual machines between hosts",
        name,
    )
    .with("InstanceID", PROFILE_ID)
    // No organization has registered such a profile; it lets a client that knows nothing else find the service.
    .with("RegisteredOrganization", 1_u16)
    .with("OtherRegisteredOrganization", PRODUCT)
    .with("RegisteredName", name)
    .with("RegisteredVersion", host.version.as_str())
    .with("AdvertiseTypes", vec![2_u16]);
    vec![profile]
}

fn conforms(host: &HostFacts, _: &HostParts) -> Vec<Instance> {
    let name = InstanceName::new(PROFILE, &[("InstanceID", PROFILE_ID)]);
    let standard = ("ConformantStandard", ObjectPath::new(INTEROP, name));
    let element = ("ManagedElement", replication_service_path(host));
    vec![link("Msvm_ElementConformsToProfile", standard, element)]
}

/// The host's UUID for clients that identify hosts by one: of version 8, made from its name, so that it stays the same as
/// long as the name does and says nothing about the hardware.
fn host_uuid(host: &HostFacts) -> String {
    let digest = blake3::hash(format!("lifeboat host {}", host.name.to_lowercase()).as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_bytes()[..16]);
    guid(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

fn product(host: &HostFacts, _: &HostParts) -> Vec<Instance> {
    let name = "Win32_ComputerSystemProduct";
    let product = Instance::new(name)
        .with("Caption", PRODUCT)
        .with("Description", "Host of virtual machines")
        .with("IdentifyingNumber", host_uuid(host))
        .with("Name", host.name.as_str())
        .with("UUID", host_uuid(host))
        .with("Vendor", PRODUCT)
        .with("Version", host.version.as_str());
    vec![product]
}

/// The version of the API that is spoken: that of the Hyper-V whose classes have all that ours have. Clients choose by it
/// between the namespaces of old and new, and read nothing else from it.
const API_VERSION: &str = "10.0.20348";

fn system(host: &HostFacts, of: &HostParts) -> Vec<Instance> {
    let kib = host.machine.memory / 1024;
    let system = Instance::new("Win32_OperatingSystem")
        .with("Caption", PRODUCT)
        .with("Description", format!("{PRODUCT} {} on Linux", host.version))
        .with("CreationClassName", "Win32_OperatingSystem")
        .with("CSCreationClassName", COMPUTER)
        .with("CSName", host.name.as_str())
        .with("Name", PRODUCT)
        .with("Manufacturer", PRODUCT)
        .with("Version", API_VERSION)
        .with("BuildNumber", "20348")
        .with("OSArchitecture", "64-bit")
        .with("OSType", 36_u16)
        .with("Primary", true)
        .with("Status", "OK")
        .with("LocalDateTime", super::instant(of.now))
        .with("TotalVisibleMemorySize", kib)
        // How much memory is free changes while it is read: the total is shown instead.
        .with("FreePhysicalMemory", kib);
    vec![system]
}

fn computer(host: &HostFacts, _: &HostParts) -> Vec<Instance> {
    let computer = Instance::new(COMPUTER)
        .with("Caption", host.name.as_str())
        .with("Description", "Host of virtual machines")
        .with("CreationClassName", COMPUTER)
        .with("Name", host.name.as_str())
        .with("DNSHostName", host.name.as_str())
        .with("Domain", "")
        .with("Manufacturer", PRODUCT)
        .with("Model", PRODUCT)
        .with("Status", "OK")
        .with("SystemType", "x64-based PC")
        .with("PartOfDomain", false)
        .with("NumberOfLogicalProcessors", host.machine.cpus)
        .with("NumberOfProcessors", 1_u32)
        .with("TotalPhysicalMemory", host.machine.memory);
    vec![computer]
}

fn processor(host: &HostFacts, _: &HostParts) -> Vec<Instance> {
    let machine = &host.machine;
    let processor = Instance::new(PROCESSOR)
        .with("Caption", machine.processor.as_str())
        .with("Description", machine.processor.as_str())
        .with("CreationClassName", PROCESSOR)
        .with("DeviceID", PROCESSOR_ID)
        .with("Name", machine.processor.as_str())
        .with("SystemCreationClassName", COMPUTER)
        .with("SystemName", host.name.as_str())
        .with("Status", "OK")
        .with("AddressWidth", 64_u16)
        .with("DataWidth", 64_u16)
        .with("Architecture", 9_u16)
        .with("MaxClockSpeed", 0_u32)
        .with("NumberOfCores", machine.cpus)
        .with("NumberOfLogicalProcessors", machine.cpus);
    vec![processor]
}

fn has_processor(host: &HostFacts, _: &HostParts) -> Vec<Instance> {
    let computer = InstanceName::new(COMPUTER, &[("Name", &host.name)]);
    let processor = InstanceName::new(PROCESSOR, &[("DeviceID", PROCESSOR_ID)]);
    let group = ("GroupComponent", ObjectPath::new(CIMV2, computer));
    let part = ("PartComponent", ObjectPath::new(CIMV2, processor));
    vec![link("Win32_ComputerSystemProcessor", group, part)]
}
