//! Which methods there are: one table of those that are served, with the role they need and what carries them out, and one
//! of those that are not, with the reason. A test holds both against the schema.

use lifeboat_model::api::ReturnCode;

use super::{Handler, failover, job, management, replication, server, statistics, system};
use crate::cim::Role;

/// How a class numbers its refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// As the replication service does: 32768 to 32779.
    Api,
    /// The same without 32779: there a VM that does not exist is a bad parameter.
    NoFileNotFound,
    /// As `CIM_ConcreteJob.RequestStateChange` does: 1 to 6, and 4097 for a transition that is not possible.
    Job,
    /// By 1, not supported, except where the caller's role is not enough.
    Stub,
}

impl Numbers {
    /// The return value of a refusal.
    #[must_use]
    pub const fn of(self, code: ReturnCode) -> u32 {
        match (self, code) {
            (Self::NoFileNotFound, ReturnCode::FileNotFound) => ReturnCode::InvalidParameter.number(),
            (Self::Api | Self::NoFileNotFound, code) | (Self::Job, code @ ReturnCode::AccessDenied) => {
                code.number()
            }
            (Self::Stub, ReturnCode::AccessDenied) => ReturnCode::AccessDenied.number(),
            (Self::Stub, _) => 1,
            (Self::Job, code) => match code {
                ReturnCode::Completed => 0,
                ReturnCode::JobStarted => 4096,
                ReturnCode::NotSupported => 1,
                ReturnCode::Unknown => 2,
                ReturnCode::Timeout => 3,
                ReturnCode::InvalidParameter | ReturnCode::IncorrectType => 5,
                ReturnCode::InUse => 6,
                ReturnCode::InvalidState => 4097,
                ReturnCode::AccessDenied
                | ReturnCode::Failed
                | ReturnCode::Unavailable
                | ReturnCode::OutOfMemory
                | ReturnCode::FileNotFound => 4,
            },
        }
    }
}

/// A method that is served.
pub struct Entry {
    /// The method's declared name.
    pub method: &'static str,
    /// The least role that may call it. Each action that a call carries out is checked again, so that some calls of a method need
    /// a higher role than others.
    pub role: Role,
    /// How it numbers refusals.
    pub numbers: Numbers,
    pub(super) handler: Handler,
}

/// Methods of a class that are not served.
pub struct NotServed {
    /// The class.
    pub class: &'static str,
    /// The methods' declared names.
    pub methods: &'static [&'static str],
    /// How they number the refusal.
    pub numbers: Numbers,
    /// Why they are not served, for the log.
    pub reason: &'static str,
}

/// A method that every role may call.
const fn monitor(method: &'static str, handler: Handler) -> Entry {
    entry(method, Role::Monitor, handler)
}

const fn tester(method: &'static str, handler: Handler) -> Entry {
    entry(method, Role::Tester, handler)
}

const fn operator(method: &'static str, handler: Handler) -> Entry {
    entry(method, Role::Operator, handler)
}

const fn administrator(method: &'static str, handler: Handler) -> Entry {
    entry(method, Role::Administrator, handler)
}

const fn entry(method: &'static str, role: Role, handler: Handler) -> Entry {
    Entry {
        method,
        role,
        numbers: Numbers::Api,
        handler,
    }
}

impl Entry {
    const fn numbered(mut self, numbers: Numbers) -> Self {
        self.numbers = numbers;
        self
    }
}

/// The methods that are served, by class.
pub const METHODS: &[(&str, &[Entry])] = &[
    ("Msvm_ReplicationService", REPLICATION),
    ("Msvm_ComputerSystem", SYSTEM),
    ("Msvm_ShutdownComponent", SHUTDOWN),
    ("Msvm_ConcreteJob", JOB),
    ("Msvm_VirtualSystemManagementService", MANAGEMENT),
    ("Msvm_VirtualSystemSnapshotService", SNAPSHOT),
];

const REPLICATION: &[Entry] = &[
    administrator("CreateReplicationRelationship", |c| {
        Box::pin(replication::create(c))
    }),
    operator("StartReplication", |c| Box::pin(replication::start(c))),
    administrator("ImportInitialReplica", |c| Box::pin(replication::import(c))),
    administrator("ModifyReplicationSettings", |c| Box::pin(replication::modify(c))),
    administrator("RemoveReplicationRelationship", |c| {
        Box::pin(replication::remove(c))
    }),
    administrator("RemoveReplicationRelationshipEx", |c| {
        Box::pin(replication::remove_ex(c))
    }),
    operator("Resynchronize", |c| Box::pin(replication::resynchronize(c))),
    operator("ReverseReplicationRelationship", |c| {
        Box::pin(replication::reverse(c))
    }),
    operator("ChangeReplicationModeToPrimary", |c| {
        Box::pin(replication::mode_to_primary(c))
    }),
    tester("TestReplicaSystem", |c| Box::pin(failover::test(c))),
    operator("InitiateFailover", |c| Box::pin(failover::initiate(c))),
    operator("RevertFailover", |c| Box::pin(failover::revert(c))),
    administrator("CommitFailover", |c| Box::pin(failover::commit(c))),
    operator("SetFailoverNetworkAdapterSettings", |c| {
        Box::pin(failover::network(c))
    })
    .numbered(Numbers::NoFileNotFound),
    monitor("GetReplicationStatistics", |c| Box::pin(statistics::get(c))),
    monitor("GetReplicationStatisticsEx", |c| Box::pin(statistics::get_ex(c))),
    operator("ResetReplicationStatistics", |c| Box::pin(statistics::reset(c))),
    operator("ResetReplicationStatisticsEx", |c| {
        Box::pin(statistics::reset_ex(c))
    }),
    administrator("ModifyServiceSettings", |c| Box::pin(server::modify(c))).numbered(Numbers::NoFileNotFound),
    administrator("AddAuthorizationEntry", |c| Box::pin(server::add_entry(c))),
    administrator("ModifyAuthorizationEntry", |c| Box::pin(server::modify_entry(c))),
    administrator("RemoveAuthorizationEntry", |c| Box::pin(server::remove_entry(c))),
    administrator("SetAuthorizationEntry", |c| Box::pin(server::set_entry(c))),
    operator("TestReplicationConnection", |c| Box::pin(server::connection(c))),
    monitor("GetSystemCertificates", |c| Box::pin(server::certificates(c))),
    operator("RequestStateChange", |c| {
        Box::pin(server::request_state_change(c))
    })
    .numbered(Numbers::Stub),
    operator("StartService", |c| Box::pin(server::start_service(c))).numbered(Numbers::Stub),
];

const SYSTEM: &[Entry] = &[
    operator("RequestReplicationStateChange", |c| {
        Box::pin(system::replication_state(c))
    }),
    operator("RequestReplicationStateChangeEx", |c| {
        Box::pin(system::replication_state_ex(c))
    }),
    tester("RequestStateChange", |c| Box::pin(system::state(c))).numbered(Numbers::NoFileNotFound),
];

const SHUTDOWN: &[Entry] = &[tester("InitiateShutdown", |c| Box::pin(system::shutdown(c)))];

const JOB: &[Entry] = &[
    operator("RequestStateChange", |c| Box::pin(job::request_state_change(c))).numbered(Numbers::Job),
    monitor("GetError", |c| Box::pin(job::error(c))),
    monitor("GetErrorEx", |c| Box::pin(job::errors(c))),
];

const MANAGEMENT: &[Entry] = &[
    tester("DestroySystem", |c| Box::pin(management::destroy(c))),
    monitor("GetSummaryInformation", |c| Box::pin(management::summary(c))).numbered(Numbers::NoFileNotFound),
    operator("RequestStateChange", |c| {
        Box::pin(server::request_state_change(c))
    })
    .numbered(Numbers::Stub),
    operator("StartService", |c| Box::pin(server::start_service(c))).numbered(Numbers::Stub),
];

const SNAPSHOT: &[Entry] = &[
    operator("RequestStateChange", |c| {
        Box::pin(server::request_state_change(c))
    })
    .numbered(Numbers::Stub),
    operator("StartService", |c| Box::pin(server::start_service(c))).numbered(Numbers::Stub),
];

const FILES: &str = "VMs are described by files in this host's VM directory, not through the management API";
const STOPS: &str = "services are stopped with the daemon, by an administrator of this host";

/// The methods that are not served.
pub const NOT_SERVED: &[NotServed] = &[
    NotServed {
        class: "Msvm_ReplicationService",
        methods: &["InitiateFailback"],
        numbers: Numbers::Api,
        reason: "there are no external replication providers; go back with a planned failover",
    },
    NotServed {
        class: "Msvm_ReplicationService",
        methods: &["StopService"],
        numbers: Numbers::Stub,
        reason: STOPS,
    },
    NotServed {
        class: "Msvm_ComputerSystem",
        methods: &["SetPowerState", "InjectNonMaskableInterrupt"],
        numbers: Numbers::Api,
        reason: "the power of a VM is changed with RequestStateChange; interrupts are not injected",
    },
    NotServed {
        class: "Msvm_ShutdownComponent",
        methods: &[
            "InitiateReboot",
            "SetPowerState",
            "EnableDevice",
            "OnlineDevice",
            "QuiesceDevice",
            "SaveProperties",
            "RestoreProperties",
        ],
        numbers: Numbers::Api,
        reason: "a guest is asked to shut down with InitiateShutdown and started with RequestStateChange; there is nothing else",
    },
    NotServed {
        class: "Msvm_ShutdownComponent",
        methods: &["RequestStateChange", "Reset"],
        numbers: Numbers::Stub,
        reason: "the component is there whenever the VM runs",
    },
    NotServed {
        class: "Msvm_ConcreteJob",
        methods: &["KillJob"],
        numbers: Numbers::Api,
        reason: "a job is ended with RequestStateChange, so that what it works on stays whole",
    },
    NotServed {
        class: "Msvm_VirtualSystemManagementService",
        methods: &["StopService"],
        numbers: Numbers::Stub,
        reason: STOPS,
    },
    NotServed {
        class: "Msvm_VirtualSystemSnapshotService",
        methods: &["StopService"],
        numbers: Numbers::Stub,
        reason: STOPS,
    },
    NotServed {
        class: "Msvm_VirtualSystemSnapshotService",
        methods: &[
            "ApplySnapshot",
            "ClearSnapshotState",
            "ConvertToReferencePoint",
            "CreateSnapshot",
            "DestroySnapshot",
            "DestroySnapshotTree",
        ],
        numbers: Numbers::Api,
        reason: "there are recovery points, which replication makes and removes, and no checkpoints",
    },
    NotServed {
        class: "Msvm_VirtualSystemManagementService",
        methods: &[
            "AddBootSourceSettings",
            "AddFeatureSettings",
            "AddFibreChannelChap",
            "AddGuestServiceSettings",
            "AddKvpItems",
            "AddResourceSettings",
            "AddSystemComponentSettings",
            "DefinePlannedSystem",
            "DefineSystem",
            "DiagnoseNetworkConnection",
            "ExportSystemDefinition",
            "FormatError",
            "GenerateWwpn",
            "GetCurrentWwpnFromGenerator",
            "GetDefinitionFileSummaryInformation",
            "GetSizeOfSystemFiles",
            "GetVirtualSystemThumbnailImage",
            "ImportSnapshotDefinitions",
            "ImportSystemDefinition",
            "ModifyDiskMergeSettings",
            "ModifyFeatureSettings",
            "ModifyGuestServiceSettings",
            "ModifyKvpItems",
            "ModifyResourceSettings",
            "ModifyServiceSettings",
            "ModifySystemComponentSettings",
            "ModifySystemSettings",
            "RealizePlannedSystem",
            "RemoveBootSourceSettings",
            "RemoveFeatureSettings",
            "RemoveFibreChannelChap",
            "RemoveGuestServiceSettings",
            "RemoveKvpItems",
            "RemoveResourceSettings",
            "RemoveSystemComponentSettings",
            "SetGuestNetworkAdapterConfiguration",
            "SetInitialMachineConfigurationData",
            "TestNetworkConnection",
            "UpgradeSystemVersion",
            "ValidatePlannedSystem",
        ],
        numbers: Numbers::Api,
        reason: FILES,
    },
];

/// What the tables say of a method.
pub(super) enum Found {
    /// It is served, as this entry says.
    Served(&'static Entry),
    /// It is declared and not served, for this reason.
    Not(&'static NotServed),
}

impl Found {
    /// How it numbers refusals.
    pub(super) const fn numbers(&self) -> Numbers {
        match self {
            Self::Served(entry) => entry.numbers,
            Self::Not(why) => why.numbers,
        }
    }
}

/// Looks a method up by its declared names.
pub(super) fn find(class: &str, method: &str) -> Option<Found> {
    let served = METHODS
        .iter()
        .filter(|(c, _)| *c == class)
        .flat_map(|(_, entries)| *entries);
    if let Some(entry) = served.into_iter().find(|e| e.method == method) {
        return Some(Found::Served(entry));
    }
    let not = NOT_SERVED
        .iter()
        .find(|n| n.class == class && n.methods.contains(&method));
    not.map(Found::Not)
}
