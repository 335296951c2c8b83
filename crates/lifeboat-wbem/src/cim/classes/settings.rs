//! The active settings of a VM: the machine itself, its processors and memory, and which parts belong to it.

use lifeboat_cim::{Instance, ObjectPath};
use lifeboat_engine::action::VmView;
use lifeboat_model::{Firmware, Hardware};

use super::names::{active_id, by_id, guid, part_id, vm_path};
use super::replication::defines;
use super::{ClassView, Make, element, link, network, part, resources, span, view};
use crate::cim::HostFacts;
use crate::cim::facts::VmParts;

pub(super) const CLASSES: &[ClassView] = &[
    view(ACTIVE, Make::Vm(active)),
    view(PROCESSOR, Make::Vm(processor)),
    view(MEMORY, Make::Vm(memory)),
    view("Msvm_SettingsDefineState", Make::Vm(defined)),
    view("Msvm_VirtualSystemSettingDataComponent", Make::Vm(components)),
];

/// The class of active settings and of recovery points.
pub(crate) const ACTIVE: &str = "Msvm_VirtualSystemSettingData";
const PROCESSOR: &str = "Msvm_ProcessorSettingData";
const MEMORY: &str = "Msvm_MemorySettingData";

/// What the settings of a machine and of a recovery point of it have in common.
pub(super) fn machine(view: &VmView, id: &str, kind: &str, name: &str, description: &str) -> Instance {
    let spec = &view.spec;
    let Hardware::Own(hardware) = &spec.hardware;
    let generation = match hardware.firmware {
        Firmware::Bios => "Microsoft:Hyper-V:SubType:1",
        Firmware::Uefi { .. } => "Microsoft:Hyper-V:SubType:2",
    };
    element(ACTIVE, "Virtual Machine Settings", description, name)
        .with("InstanceID", id)
        .with("VirtualSystemIdentifier", guid(spec.uuid))
        .with("VirtualSystemType", kind)
        .with("Notes", vec![""])
        .with("ConfigurationID", guid(spec.uuid))
        .with("AutomaticStartupAction", 2_u16)
        .with("AutomaticStartupActionDelay", span(0))
        .with("AutomaticStartupActionSequenceNumber", 0_u16)
        .with("AutomaticShutdownAction", 2_u16)
        .with("AutomaticRecoveryAction", 2_u16)
        .with("BIOSGUID", format!("{{{}}}", guid(spec.uuid)))
        .with("BIOSNumLock", false)
        .with("UserSnapshotType", 2_u16)
        .with("IsSaved", false)
        .with("IncrementalBackupEnabled", false)
        .with("VirtualNumaEnabled", false)
        .with("VirtualSystemSubType", generation)
        .with("AutomaticSnapshotsEnabled", false)
        .with("IsAutomaticSnapshot", false)
        .with("SecureBootEnabled", false)
        .with("Version", hardware.machine.as_str())
}

fn active(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let (view, kind) = (&of.view, "Microsoft:Hyper-V:System:Realized");
    let description = "Active settings for the virtual machine";
    let id = active_id(view.spec.uuid);
    vec![machine(view, &id, kind, &view.spec.name, description)]
}

/// The active settings of a VM.
pub(super) fn active_path(view: &VmView) -> ObjectPath {
    by_id(ACTIVE, &active_id(view.spec.uuid))
}

fn processor_id(view: &VmView) -> String {
    part_id(view.spec.uuid, "Processor")
}

fn processor(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let names = (
        "Processor",
        "A logical processor of the hypervisor running on the host computer system.",
        "Processor",
    );
    let kind = (3, "Microsoft:Hyper-V:Processor");
    let count = u64::from(of.view.spec.cpus);
    let part = part(PROCESSOR, &processor_id(&of.view), names, kind, "count", count)
        // Thousandths of a percent of a processor: no VM has a reservation, and none a limit.
        .with("AllocationUnits", "percent / 1000")
        .with("Reservation", 0_u64)
        .with("Limit", 100_000_u64)
        .with("Weight", 100_u32)
        .with("LimitCPUID", false)
        .with("LimitProcessorFeatures", false)
        .with("HwThreadsPerCore", 0_u64)
        .with("MaxProcessorsPerNumaNode", count)
        .with("MaxNumaNodesPerSocket", 1_u64)
        .with("EnableHostResourceProtection", false)
        .with("ExposeVirtualizationExtensions", false);
    vec![part]
}

fn memory_id(view: &VmView) -> String {
    part_id(view.spec.uuid, "Memory")
}

fn memory(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let names = (
        "Memory Default Settings",
        "Describes the default settings for the memory resources.",
        "Memory",
    );
    let mib = u64::from(of.view.spec.memory_mib);
    let kind = (4, "Microsoft:Hyper-V:Memory");
    let part = part(MEMORY, &memory_id(&of.view), names, kind, "byte * 2^20", mib)
        .with("Weight", 5000_u32)
        .with("DynamicMemoryEnabled", false)
        .with("TargetMemoryBuffer", 0_u32)
        .with("IsVirtualized", true)
        .with("SwapFilesInUse", false)
        .with("MaxMemoryBlocksPerNumaNode", mib)
        .with("HugePagesEnabled", false)
        .with("SgxEnabled", false)
        .with("SgxSize", 0_u64);
    vec![part]
}

fn defined(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    vec![defines(vm_path(of.view.spec.uuid), active_path(&of.view))]
}

fn components(_: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let view = &of.view;
    let own = [
        by_id(PROCESSOR, &processor_id(view)),
        by_id(MEMORY, &memory_id(view)),
    ];
    let parts = own
        .into_iter()
        .chain(resources::paths(view))
        .chain(network::paths(view));
    let component = |part| {
        let whole = ("GroupComponent", active_path(view));
        let class = "Msvm_VirtualSystemSettingDataComponent";
        link(class, whole, ("PartComponent", part))
    };
    parts.map(component).collect()
}
