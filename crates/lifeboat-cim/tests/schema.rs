//! The built-in schema against facts about the management API that are written down here, and against an independent reader.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use lifeboat_cim::schema::QualifierDeclaration;
use lifeboat_cim::{CimType, Class, Instance, Namespace, ObjectPath, Qualifier, Schema, Status, Value};

fn v2() -> &'static Namespace {
    Schema::builtin().namespace("root/virtualization/v2").unwrap()
}

fn class(name: &str) -> &'static Class {
    v2().class(name).unwrap()
}

#[test]
fn the_replication_service_has_its_methods_and_no_other() {
    let mut methods: Vec<&str> = class("Msvm_ReplicationService")
        .methods
        .iter()
        .map(|m| m.name.as_str())
        .collect();
    methods.sort_unstable();
    let expected = [
        "AddAuthorizationEntry",
        "ChangeReplicationModeToPrimary",
        "CommitFailover",
        "CreateReplicationRelationship",
        "GetReplicationStatistics",
        "GetReplicationStatisticsEx",
        "GetSystemCertificates",
        "ImportInitialReplica",
        "InitiateFailback",
        "InitiateFailover",
        "ModifyAuthorizationEntry",
        "ModifyReplicationSettings",
        "ModifyServiceSettings",
        "RemoveAuthorizationEntry",
        "RemoveReplicationRelationship",
        "RemoveReplicationRelationshipEx",
        "RequestStateChange",
        "ResetReplicationStatistics",
        "ResetReplicationStatisticsEx",
        "Resynchronize",
        "ReverseReplicationRelationship",
        "RevertFailover",
        "SetAuthorizationEntry",
        "SetFailoverNetworkAdapterSettings",
        "StartReplication",
        "StartService",
        "StopService",
        "TestReplicaSystem",
        "TestReplicationConnection",
    ];
    assert_eq!(methods, expected);
}

#[test]
fn methods_that_clients_call_elsewhere() {
    for (owner, method) in [
        ("Msvm_ComputerSystem", "RequestStateChange"),
        ("Msvm_ComputerSystem", "RequestReplicationStateChange"),
        ("Msvm_ComputerSystem", "RequestReplicationStateChangeEx"),
        ("Msvm_ComputerSystem", "InjectNonMaskableInterrupt"),
        ("Msvm_ConcreteJob", "RequestStateChange"),
        ("Msvm_ConcreteJob", "GetError"),
        ("Msvm_ConcreteJob", "GetErrorEx"),
        ("Msvm_ShutdownComponent", "InitiateShutdown"),
        ("Msvm_VirtualSystemManagementService", "DestroySystem"),
        ("Msvm_VirtualSystemManagementService", "GetSummaryInformation"),
        ("Msvm_VirtualSystemManagementService", "ModifySystemSettings"),
        ("Msvm_VirtualSystemSnapshotService", "ApplySnapshot"),
        ("Msvm_VirtualSystemSnapshotService", "DestroySnapshot"),
    ] {
        let found = class(owner).method(&method.to_lowercase());
        assert!(found.is_some_and(|m| m.name == method), "{owner}.{method}");
    }
}

#[test]
fn keys() {
    let system = &[
        "SystemCreationClassName",
        "SystemName",
        "CreationClassName",
        "Name",
    ][..];
    let device = &[
        "SystemCreationClassName",
        "SystemName",
        "CreationClassName",
        "DeviceID",
    ][..];
    let pair = &["Antecedent", "Dependent"][..];
    let id = &["InstanceID"][..];
    for (name, mut expected) in [
        ("Msvm_ComputerSystem", ["CreationClassName", "Name"].to_vec()),
        ("Msvm_ReplicationService", system.to_vec()),
        ("Msvm_VirtualSystemManagementService", system.to_vec()),
        ("Msvm_VirtualSystemSnapshotService", system.to_vec()),
        ("Msvm_ShutdownComponent", device.to_vec()),
        ("Msvm_ReplicationRelationship", id.to_vec()),
        ("Msvm_ReplicationSettingData", id.to_vec()),
        ("Msvm_ReplicationServiceSettingData", id.to_vec()),
        ("Msvm_ReplicationAuthorizationSettingData", id.to_vec()),
        ("Msvm_VirtualSystemSettingData", id.to_vec()),
        ("Msvm_ConcreteJob", id.to_vec()),
        ("Msvm_SystemReplicationRelationship", pair.to_vec()),
        ("Msvm_SnapshotOfVirtualSystem", pair.to_vec()),
        ("Msvm_ReplicaSystemDependency", pair.to_vec()),
        (
            "Msvm_SettingsDefineState",
            ["ManagedElement", "SettingData"].to_vec(),
        ),
        (
            "Msvm_AffectedJobElement",
            ["AffectedElement", "AffectingElement"].to_vec(),
        ),
        ("Msvm_SystemDevice", ["GroupComponent", "PartComponent"].to_vec()),
        // These are only found embedded.
        ("Msvm_ReplicationStatistics", Vec::new()),
        ("Msvm_Error", Vec::new()),
    ] {
        let mut keys: Vec<&str> = class(name).keys().map(|k| k.name.as_str()).collect();
        keys.sort_unstable();
        expected.sort_unstable();
        assert_eq!(keys, expected, "{name}");
    }
}

/// Name, `in`, `out` or `inout`, type, array, class of the reference or embedded instance.
type Expected = (&'static str, &'static str, CimType, bool, Option<&'static str>);

const JOB: Expected = ("Job", "out", CimType::Reference, false, Some("CIM_ConcreteJob"));
const VM: Expected = (
    "ComputerSystem",
    "in",
    CimType::Reference,
    false,
    Some("CIM_ComputerSystem"),
);

fn check_parameters(owner: &str, method: &str, expected: &[Expected]) {
    let method = class(owner).method(method).unwrap();
    let found: Vec<_> = method
        .parameters
        .iter()
        .map(|p| {
            let direction = match (p.input, p.output) {
                (true, false) => "in",
                (false, true) => "out",
                (true, true) => "inout",
                (false, false) => "neither",
            };
            let class = p.reference_class.as_deref().or(p.embedded.as_deref());
            (p.name.as_str(), direction, p.kind, p.array, class)
        })
        .collect();
    assert_eq!(found, expected, "{owner}.{}", method.name);
    assert_eq!(method.returns, CimType::Uint32);
}

#[test]
fn parameters() {
    use CimType::{Reference, String};
    let service = "Msvm_ReplicationService";
    let snapshot = |name| (name, "in", Reference, false, Some("CIM_VirtualSystemSettingData"));
    check_parameters(
        service,
        "InitiateFailover",
        &[VM, snapshot("SnapshotSettingData"), JOB],
    );
    check_parameters(
        service,
        "CreateReplicationRelationship",
        &[
            VM,
            (
                "ReplicationSettingData",
                "in",
                String,
                false,
                Some("Msvm_ReplicationSettingData"),
            ),
            JOB,
        ],
    );
    check_parameters(service, "RevertFailover", &[VM, JOB]);
    check_parameters(
        service,
        "GetReplicationStatistics",
        &[
            VM,
            (
                "ReplicationStatistics",
                "out",
                String,
                true,
                Some("Msvm_ReplicationStatistics"),
            ),
            ("ReplicationHealthIssues", "out", String, true, Some("Msvm_Error")),
            JOB,
        ],
    );
}

#[test]
fn parameters_of_other_classes() {
    use CimType::{Boolean, Reference, String, Uint16};
    check_parameters(
        "Msvm_VirtualSystemManagementService",
        "DestroySystem",
        &[
            (
                "AffectedSystem",
                "in",
                Reference,
                false,
                Some("CIM_ComputerSystem"),
            ),
            JOB,
        ],
    );
    check_parameters(
        "Msvm_ShutdownComponent",
        "InitiateShutdown",
        &[
            ("Force", "in", Boolean, false, None),
            ("Reason", "in", String, false, None),
        ],
    );
    check_parameters(
        "Msvm_ComputerSystem",
        "RequestReplicationStateChange",
        &[
            ("RequestedState", "in", Uint16, false, None),
            JOB,
            ("TimeoutPeriod", "in", CimType::DateTime, false, None),
        ],
    );
    check_parameters(
        "Msvm_ConcreteJob",
        "GetErrorEx",
        &[("Errors", "out", String, true, Some("Msvm_Error"))],
    );
}

/// A client in the field refuses an instance that lacks one of the properties that it knows.
const INSISTED: &[(&str, &str)] = &[
    (
        "Msvm_ComputerSystem",
        "InstanceID Caption Description ElementName InstallDate OperationalStatus StatusDescriptions Status HealthState \
             CommunicationStatus DetailedStatus OperatingStatus PrimaryStatus EnabledState OtherEnabledState RequestedState \
             EnabledDefault TimeOfLastStateChange AvailableRequestedStates TransitioningToState CreationClassName Name \
             PrimaryOwnerName PrimaryOwnerContact Roles NameFormat OtherIdentifyingInfo IdentifyingDescriptions Dedicated \
             OtherDedicatedDescriptions ResetCapability PowerManagementCapabilities OnTimeInMilliseconds ProcessID \
             TimeOfLastConfigurationChange NumberOfNumaNodes ReplicationState ReplicationHealth ReplicationMode \
             FailedOverReplicationType LastReplicationType LastApplicationConsistentReplicationTime LastReplicationTime \
             LastSuccessfulBackupTime EnhancedSessionModeState",
    ),
    (
        "Msvm_ConcreteJob",
        "JobStatus TimeSubmitted ScheduledStartTime StartTime ElapsedTime JobRunTimes RunMonth RunDay RunDayOfWeek \
             RunStartInterval LocalOrUtcTime UntilTime Notify Owner Priority PercentComplete DeleteOnCompletion ErrorCode \
             ErrorDescription ErrorSummaryDescription RecoveryAction OtherRecoveryAction JobState TimeOfLastStateChange \
             TimeBeforeRemoval Cancellable JobType",
    ),
    (
        "Msvm_VirtualSystemSettingData",
        "VirtualSystemIdentifier VirtualSystemType Notes CreationTime ConfigurationID ConfigurationDataRoot \
             ConfigurationFile SnapshotDataRoot SuspendDataRoot SwapFileDataRoot LogDataRoot AutomaticStartupAction \
             AutomaticStartupActionDelay AutomaticStartupActionSequenceNumber AutomaticShutdownAction \
             AutomaticRecoveryAction RecoveryFile BIOSGUID BIOSSerialNumber BaseBoardSerialNumber ChassisSerialNumber \
             ChassisAssetTag BIOSNumLock BootOrder Parent IsSaved AdditionalRecoveryInformation AllowFullSCSICommandSet \
             DebugChannelId DebugPortEnabled DebugPort Version IncrementalBackupEnabled VirtualNumaEnabled \
             AllowReducedFcRedundancy VirtualSystemSubType BootSourceOrder PauseAfterBootFailure \
             NetworkBootPreferredProtocol SecureBootEnabled LowMmioGapSize",
    ),
    (
        "Msvm_ResourceAllocationSettingData",
        "ResourceType OtherResourceType ResourceSubType PoolID ConsumerVisibility HostResource AllocationUnits \
             VirtualQuantity Reservation Limit Weight AutomaticAllocation AutomaticDeallocation Parent Connection Address \
             MappingBehavior AddressOnParent VirtualQuantityUnits VirtualSystemIdentifiers",
    ),
    (
        "Msvm_MemorySettingData",
        "VirtualQuantityUnits DynamicMemoryEnabled TargetMemoryBuffer IsVirtualized SwapFilesInUse \
             MaxMemoryBlocksPerNumaNode",
    ),
    (
        "Msvm_ProcessorSettingData",
        "VirtualQuantityUnits LimitCPUID LimitProcessorFeatures MaxProcessorsPerNumaNode MaxNumaNodesPerSocket",
    ),
    (
        "Msvm_StorageAllocationSettingData",
        "VirtualResourceBlockSize VirtualQuantityUnits Access HostResourceBlockSize Reservation \
             HostExtentStartingAddress HostExtentName HostExtentNameFormat OtherHostExtentNameFormat \
             HostExtentNameNamespace OtherHostExtentNameNamespace IOPSLimit IOPSReservation IOPSAllocationUnits \
             PersistentReservationsSupported",
    ),
    (
        "Msvm_SyntheticEthernetPortSettingData",
        "DesiredVLANEndpointMode OtherEndpointMode VirtualSystemIdentifiers StaticMacAddress ClusterMonitored",
    ),
    (
        "Msvm_EthernetPortAllocationSettingData",
        "DesiredVLANEndpointMode OtherEndpointMode EnabledState RequiredFeatures RequiredFeatureHints \
             TestReplicaPoolID TestReplicaSwitchName",
    ),
    (
        "Msvm_SerialPortSettingData",
        "VirtualSystemIdentifiers DebuggerMode",
    ),
    (
        "Msvm_ShutdownComponent",
        "SystemCreationClassName SystemName CreationClassName DeviceID PowerManagementSupported \
             PowerManagementCapabilities Availability StatusInfo LastErrorCode ErrorDescription ErrorCleared \
             OtherIdentifyingInfo PowerOnHours TotalPowerOnHours IdentifyingDescriptions AdditionalAvailability \
             MaxQuiesceTime",
    ),
    (
        "Msvm_Keyboard",
        "IsLocked Layout NumberOfFunctionKeys Password UnicodeSupported MaxQuiesceTime",
    ),
    (
        "Msvm_DiskDrive",
        "Capabilities CapabilityDescriptions ErrorMethodology CompressionMethod NumberOfMediaSupported MaxMediaSize \
             DefaultBlockSize MaxBlockSize MinBlockSize NeedsCleaning MediaIsLocked Security LastCleaned MaxAccessTime \
             UncompressedDataRate LoadTime UnloadTime MountCount TimeOfLastMount TotalMountTime UnitsDescription \
             MaxUnitsBeforeCleaning UnitsUsed DriveNumber",
    ),
    (
        "Msvm_VirtualEthernetSwitch",
        "Dedicated ResetCapability MaxVMQOffloads MaxIOVOffloads",
    ),
    (
        "Msvm_KvpExchangeComponent",
        "GuestExchangeItems GuestIntrinsicExchangeItems DeviceID",
    ),
    (
        "Msvm_VirtualSystemManagementService",
        "SystemCreationClassName SystemName CreationClassName PrimaryOwnerName PrimaryOwnerContact StartMode Started",
    ),
];

#[test]
fn properties_that_one_client_insists_upon() {
    for &(name, properties) in INSISTED {
        let class = class(name);
        for property in properties.split_whitespace() {
            assert!(class.property(property).is_some(), "{name}.{property}");
        }
    }
}

#[test]
fn lookups_ignore_case_and_say_what_is_missing() {
    let schema = Schema::builtin();
    for name in [
        "ROOT/Virtualization/V2",
        r"root\virtualization\v2",
        concat!("/", "root/virtualization/v2", "/"),
    ] {
        assert_eq!(schema.namespace(name).unwrap().name, "root/virtualization/v2");
    }
    let error = schema.namespace("root/virtualization").unwrap_err();
    assert_eq!(error.status, Status::InvalidNamespace);
    assert!(error.message.contains("root/virtualization/v2"), "{error}");
    let error = v2().class("Msvm_Nothing").unwrap_err();
    assert_eq!(error.status, Status::InvalidClass);
    assert!(error.message.contains("Msvm_Nothing"), "{error}");
    let class = v2().class("MSVM_COMPUTERSYSTEM").unwrap();
    assert_eq!(class.name, "Msvm_ComputerSystem");
    assert_eq!(class.property("enabledstate").unwrap().name, "EnabledState");
}

#[test]
fn ancestry() {
    assert!(v2().is_a("msvm_computersystem", "CIM_ManagedElement"));
    assert!(v2().is_a("Msvm_ComputerSystem", "Msvm_ComputerSystem"));
    assert!(!v2().is_a("CIM_ComputerSystem", "Msvm_ComputerSystem"));
    assert!(!v2().is_a("Msvm_Nothing", "CIM_ManagedElement"));
    let mut systems: Vec<&str> = v2()
        .with_subclasses("cim_computersystem")
        .map(|c| c.name.as_str())
        .collect();
    assert_eq!(systems.remove(0), "CIM_ComputerSystem");
    systems.sort_unstable();
    assert_eq!(
        systems,
        [
            "Msvm_ComputerSystem",
            "Msvm_PlannedComputerSystem",
            "Msvm_VirtualEthernetSwitch"
        ]
    );
    assert_eq!(v2().with_subclasses("Msvm_Nothing").count(), 0);
}

#[test]
fn an_instance_is_named_by_its_keys() {
    let vm = Instance::new("Msvm_ComputerSystem")
        .with("CreationClassName", "Msvm_ComputerSystem")
        .with("Name", "8F5B1C1E-54D2-4B86-8B3A-0C6F3A5B9E01")
        .with("ElementName", "db1");
    let name = v2().name_of(&vm);
    assert_eq!(name.text("Name"), Some("8F5B1C1E-54D2-4B86-8B3A-0C6F3A5B9E01"));
    assert_eq!(name.keys.len(), 2);
    let path = ObjectPath::new("root/virtualization/v2", name);
    let link = Instance::new("Msvm_SystemReplicationRelationship").with("Antecedent", path.clone());
    let name = v2().name_of(&link);
    assert_eq!(name.keys.len(), 1, "a key without a value is left out");
    assert_eq!(
        name.key("antecedent"),
        Some(&lifeboat_cim::KeyValue::Reference(Box::new(path)))
    );
}

#[test]
fn defaults_are_typed() {
    let settings = class("Msvm_ReplicationSettingData");
    let default = |name| settings.property(name).unwrap().default.clone();
    assert_eq!(default("ReplicationInterval"), Some(Value::Unsigned(300)));
    assert_eq!(default("AutoResynchronizeEnabled"), Some(Value::Boolean(false)));
    // 18 hours 30 minutes, 6 hours.
    let hour = 3_600_000_000;
    let start = lifeboat_cim::DateTime::Interval(18 * hour + hour / 2);
    assert_eq!(
        default("AutoResynchronizeIntervalStart"),
        Some(Value::DateTime(start))
    );
}

/// Every class that may have instances can name them, and every value map has a name for each value.
#[test]
fn the_schema_is_consistent() {
    for namespace in Schema::builtin().namespaces.values() {
        for class in namespace.classes.values() {
            if class.association {
                let references = class.properties.iter().filter(|p| p.kind == CimType::Reference);
                assert!(references.count() >= 2, "{} in {}", class.name, namespace.name);
                assert!(class.keys().count() >= 2, "{} in {}", class.name, namespace.name);
            }
            for property in &class.properties {
                same_length(&property.qualifiers, &format!("{}.{}", class.name, property.name));
            }
            for method in &class.methods {
                same_length(&method.qualifiers, &format!("{}.{}", class.name, method.name));
                for parameter in &method.parameters {
                    assert!(parameter.input || parameter.output);
                    same_length(&parameter.qualifiers, &format!("{}.{}", class.name, method.name));
                }
            }
        }
    }
}

fn same_length(qualifiers: &[Qualifier], what: &str) {
    let items = |name: &str| {
        let found = qualifiers.iter().find(|q| q.name == name)?;
        match &found.value {
            Some(Value::Array(items)) => Some(items.len()),
            _ => None,
        }
    };
    assert_eq!(items("ValueMap"), items("Values"), "{what}");
}

/// The MOF compiler of pywbem and ours, asked the same about every class, property, method, parameter and qualifier.
#[test]
fn two_readers_understand_the_same() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = own.join("../../target/python/bin/python");
    assert!(
        python.exists(),
        "pywbem is missing in target/python: run `make setup`"
    );
    let output = Command::new(python)
        .arg(own.join("tests/listing.py"))
        .arg(own.join("mof"))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "pywbem cannot compile the MOF:\n{errors}"
    );
    let theirs = String::from_utf8(output.stdout).unwrap();
    let ours = listing(Schema::builtin());
    for (line, (ours, theirs)) in ours.lines().zip(theirs.lines()).enumerate() {
        assert_eq!(ours, theirs, "line {} of the listings", line + 1);
    }
    assert_eq!(ours.lines().count(), theirs.lines().count());
    assert!(ours.lines().count() > 4000, "there is something in it");
}

fn listing(schema: &Schema) -> String {
    let mut out = String::new();
    for namespace in schema.namespaces.values() {
        writeln!(out, "namespace {}", namespace.name).unwrap();
        for q in sorted(namespace.qualifiers.values(), |q| &q.name) {
            list_declaration(&mut out, q);
        }
        for class in sorted(namespace.classes.values(), |c| &c.name) {
            let superclass = class.superclass.as_deref().unwrap_or("None");
            writeln!(out, "class {} : {superclass}", class.name).unwrap();
            list_class(&mut out, class);
        }
    }
    out
}

fn sorted<'a, T>(items: impl IntoIterator<Item = &'a T>, name: impl Fn(&T) -> &String) -> Vec<&'a T> {
    let mut items: Vec<&T> = items.into_iter().collect();
    items.sort_by(|a, b| name(a).cmp(name(b)));
    items
}

fn list_declaration(out: &mut String, q: &QualifierDeclaration) {
    let mut scopes = q.scopes.clone();
    scopes.sort();
    writeln!(
        out,
        "qualifier {} {} = {} {} overridable={} tosubclass={} translatable={}",
        q.name,
        kind(q.kind, q.array, None),
        optional(q.default.as_ref()),
        scopes.join(","),
        q.overridable,
        q.to_subclass,
        q.translatable
    )
    .unwrap();
}

fn list_class(out: &mut String, class: &Class) {
    for p in sorted(&class.properties, |p| &p.name) {
        let kind = kind(p.kind, p.array, p.reference_class.as_ref());
        let default = optional(p.default.as_ref());
        writeln!(
            out,
            "  property {} {kind} = {default}{}",
            p.name,
            qualifiers(&p.qualifiers)
        )
        .unwrap();
    }
    for m in sorted(&class.methods, |m| &m.name) {
        writeln!(
            out,
            "  method {} {}{}",
            m.name,
            m.returns.name(),
            qualifiers(&m.qualifiers)
        )
        .unwrap();
        for p in &m.parameters {
            let kind = kind(p.kind, p.array, p.reference_class.as_ref());
            writeln!(
                out,
                "    parameter {} {kind}{}",
                p.name,
                qualifiers(&p.qualifiers)
            )
            .unwrap();
        }
    }
}

fn kind(kind: CimType, array: bool, class: Option<&String>) -> String {
    let array = if array { "[]" } else { "" };
    let class = class.map(|c| format!(" to {c}")).unwrap_or_default();
    format!("{}{array}{class}", kind.name())
}

fn qualifiers(qualifiers: &[Qualifier]) -> String {
    let written = qualifiers.iter();
    let mut written: Vec<String> = written
        .map(|q| format!(" {}={}", q.name, optional(q.value.as_ref())))
        .collect();
    written.sort();
    written.concat()
}

fn optional(value: Option<&Value>) -> String {
    value.map_or_else(|| "null".to_owned(), text)
}

fn text(value: &Value) -> String {
    match value {
        Value::Boolean(b) => b.to_string(),
        Value::Unsigned(n) => n.to_string(),
        Value::Signed(n) => n.to_string(),
        Value::Real(n) => n.to_string(),
        Value::Text(text) => text.clone(),
        Value::DateTime(time) => time.to_string(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(text).collect();
            format!("{{{}}}", items.join(","))
        }
        Value::Reference(_) | Value::Instance(_) => panic!("not in a schema"),
    }
}
