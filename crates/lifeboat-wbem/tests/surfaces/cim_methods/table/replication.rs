//! Situations of the replication service's methods.

use super::*;
use Stage::*;
use lifeboat_sim::harness::{A, B};

const UNREACHABLE: &str = "the other host is not reached";
const NOT_WRITTEN: &str = "the catalog cannot be written";

/// Relationships and the data in them.
pub(super) const LIFECYCLE: &[Situation] = {
    let create = "CreateReplicationRelationship";
    let start = "StartReplication";
    let modify = "ModifyReplicationSettings";
    let remove = "RemoveReplicationRelationship";
    let remove_ex = "RemoveReplicationRelationshipEx";
    let reverse = "ReverseReplicationRelationship";
    let onward = "ChangeReplicationModeToPrimary";
    let import = "ImportInitialReplica";
    let resync = "Resynchronize";
    &[
        at(
            create,
            0,
            "the VM is not replicated, and the other host takes it",
            (Fresh, A),
            |_| vec![vm(), to("b")],
        ),
        at(
            create,
            0,
            "on a replica: the third host takes it",
            (ThreeHosts, B),
            |_| vec![vm(), third()],
        ),
        at(create, 32768, NOT_WRITTEN, (Fresh, A), |_| vec![vm(), to("b")]).spoilt(catalogs_full),
        at(
            create,
            32769,
            "the other host takes no replicas of this one",
            (Unauthorized, A),
            |_| vec![vm(), to("b")],
        ),
        at(
            create,
            32770,
            "AuthenticationType is 1, Kerberos",
            (Fresh, A),
            |_| vec![vm(), kerberos()],
        ),
        at(
            create,
            32773,
            "the settings name no other host",
            (Fresh, A),
            |_| vec![vm(), settings(&[])],
        ),
        at(
            create,
            32775,
            "the VM is replicated already",
            (Replicating, A),
            |_| vec![vm(), to("b")],
        ),
        at(
            create,
            32775,
            "the other host has a replica of it already",
            (LetGo, A),
            |_| vec![vm(), to("b")],
        ),
        at(create, 32777, UNREACHABLE, (Fresh, A), |_| vec![vm(), to("b")]).spoilt(cut),
        at(
            start,
            4096,
            "the relationship waits for its copy, over the network",
            (Related, A),
            |_| copy("1"),
        ),
        at(start, 4096, "the same to a medium", (Related, A), |_| export()),
        at(start, 4096, "the same in an hour", (Related, A), |w| {
            copy_at(w, 3600)
        }),
        at(
            start,
            4096,
            "on a replica: the relationship to the third host waits for its copy",
            (Third, B),
            |_| copy("1"),
        ),
        at(start, 32768, NOT_WRITTEN, (Related, A), |_| copy("1")).spoilt(catalogs_full),
        at(
            start,
            32769,
            "the directory is not one that this host opens to remote callers",
            (Related, A),
            |_| export_to("/srv/usb"),
        ),
        at(
            start,
            32770,
            "on a replica: the copy to the third host is to go by a medium",
            (Third, B),
            |_| export(),
        ),
        at(start, 32773, "InitialReplicationType is 4", (Related, A), |_| {
            copy("4")
        }),
        at(
            start,
            32773,
            "StartTime is more than seven days ahead",
            (Related, A),
            |w| copy_at(w, 8 * 86_400),
        ),
        at(start, 32775, "the copy has been made", (Replicating, A), |_| {
            copy("1")
        }),
        at(
            start,
            32777,
            "a seeded copy, and the other host is not reached",
            (Related, A),
            |_| copy("3"),
        )
        .spoilt(cut),
        at(
            import,
            4096,
            "the copy has come on a medium",
            (Exported, B),
            |_| import_from("/media/usb/web_", true),
        ),
        at(import, 32768, NOT_WRITTEN, (Exported, B), |_| {
            import_from("/media/usb/web_", true)
        })
        .spoilt(catalogs_full),
        at(
            import,
            32769,
            "the directory is not one that this host opens to remote callers",
            (Exported, B),
            |_| import_from("/media/../srv/usb", false),
        ),
        at(import, 32773, "the location is null", (Exported, B), just_vm),
        at(import, 32775, "nothing is awaited", (Replicating, B), |_| {
            import_from("/media/usb/web_", true)
        }),
        at(
            import,
            32779,
            "there is no export in the location",
            (Exported, B),
            |_| import_from("/nowhere", false),
        ),
        at(modify, 0, "the primary's settings", (Replicating, A), |_| {
            vec![vm(), history("7")]
        }),
        at(
            modify,
            0,
            "on a replica: those of the third host",
            (Extended, B),
            |_| vec![vm(), history("7")],
        ),
        at(modify, 32768, NOT_WRITTEN, (Replicating, A), |_| {
            vec![vm(), history("7")]
        })
        .spoilt(catalogs_full),
        at(
            modify,
            32770,
            "AuthenticationType is 1, Kerberos",
            (Replicating, A),
            |_| vec![vm(), kerberos()],
        ),
        at(modify, 32773, "RecoveryHistory is 25", (Replicating, A), |_| {
            vec![vm(), history("25")]
        }),
        at(
            modify,
            32774,
            "on a replica that is becoming the primary of the third host",
            (Turning, B),
            |_| vec![vm(), history("7")],
        ),
        at(
            modify,
            32775,
            "on a replica that is not extended",
            (Replicating, B),
            |_| vec![vm(), history("7")],
        ),
        at(modify, 32777, UNREACHABLE, (Replicating, A), |_| {
            vec![vm(), history("7")]
        })
        .spoilt(cut),
        at(remove, 0, "the VM is replicated", (Replicating, A), just_vm),
        at(remove, 32768, NOT_WRITTEN, (Replicating, A), just_vm).spoilt(catalogs_full),
        at(
            remove,
            32774,
            "there is a test of this replica",
            (Testing, B),
            just_vm,
        ),
        at(remove, 32775, "the VM is not replicated", (Fresh, A), just_vm),
        at(
            remove,
            32775,
            "the replica is extended to a third host",
            (Extended, B),
            just_vm,
        ),
        at(remove_ex, 0, "the first relationship", (Replicating, A), |_| {
            vec![vm(), relationship(0)]
        }),
        at(remove_ex, 0, "the extended one", (Extended, B), |_| {
            vec![vm(), relationship(1)]
        }),
        at(remove_ex, 32768, NOT_WRITTEN, (Extended, B), |_| {
            vec![vm(), relationship(1)]
        })
        .spoilt(catalogs_full),
        at(
            remove_ex,
            32773,
            "ReplicationRelationship is null",
            (Replicating, A),
            just_vm,
        ),
        at(
            remove_ex,
            32774,
            "there is a test of this replica",
            (Testing, B),
            |_| vec![vm(), relationship(0)],
        ),
        at(
            remove_ex,
            32774,
            "the extended one, while this host becomes the primary of the third",
            (Turning, B),
            |_| vec![vm(), relationship(1)],
        ),
        at(
            remove_ex,
            32775,
            "the first one while there is an extended one",
            (Extended, B),
            |_| vec![vm(), relationship(0)],
        ),
        at(resync, 4096, "replication is suspended", (Suspended, A), just_vm),
        at(resync, 32768, NOT_WRITTEN, (Suspended, A), just_vm).spoilt(catalogs_full),
        at(
            resync,
            32773,
            "StartTime is more than seven days ahead",
            (Suspended, A),
            |w| vec![vm(), text("StartTime", &instant(w, 8 * 86_400))],
        ),
        at(
            resync,
            32775,
            "there is no copy yet that could be compared",
            (Related, A),
            just_vm,
        ),
        at(reverse, 4096, "the failover is committed", (Committed, B), |_| {
            vec![vm(), to("a")]
        }),
        at(reverse, 32768, NOT_WRITTEN, (Committed, B), |_| {
            vec![vm(), to("a")]
        })
        .spoilt(catalogs_full),
        at(
            reverse,
            32770,
            "AuthenticationType is 1, Kerberos",
            (Committed, B),
            |_| vec![vm(), kerberos()],
        ),
        at(
            reverse,
            32773,
            "the settings do not name the old primary",
            (Committed, B),
            |_| vec![vm(), history("7")],
        ),
        at(reverse, 32775, "nothing is failed over", (Replicating, B), |_| {
            vec![vm(), to("a")]
        }),
        at(
            onward,
            4096,
            "the failover is committed, and there is a third host",
            (ExtendedCommitted, B),
            |_| vec![vm(), relationship(1)],
        ),
        at(onward, 32768, NOT_WRITTEN, (ExtendedCommitted, B), |_| {
            vec![vm(), relationship(1)]
        })
        .spoilt(catalogs_full),
        at(
            onward,
            32773,
            "the relationship is the first one",
            (ExtendedCommitted, B),
            |_| vec![vm(), relationship(0)],
        ),
        at(onward, 32775, "nothing is failed over", (Extended, B), |_| {
            vec![vm(), relationship(1)]
        }),
    ]
};

fn history(points: &str) -> (String, Raw) {
    settings(&[("RecoveryHistory", "uint16", points)])
}

fn import_from(dir: &str, of_this_vm: bool) -> Args {
    let dir = if of_this_vm {
        format!("{dir}{}", guid())
    } else {
        dir.to_owned()
    };
    vec![vm(), text("InitialReplicationImportLocation", &dir)]
}

const NO_POINT: &str = "Microsoft:00000000-0000-0000-0000-0000000000FF";

/// Test, failover, and what follows it.
pub(super) const FAILOVER: &[Situation] = {
    let test = "TestReplicaSystem";
    let initiate = "InitiateFailover";
    let revert = "RevertFailover";
    let commit = "CommitFailover";
    let network = "SetFailoverNetworkAdapterSettings";
    &[
        at(test, 4096, "cycles flow", (Replicating, B), just_vm),
        at(test, 32768, NOT_WRITTEN, (Replicating, B), just_vm).spoilt(catalogs_full),
        at(
            test,
            32773,
            "the recovery point is none of this VM",
            (Replicating, B),
            |_| vec![vm(), snapshot(NO_POINT)],
        ),
        at(
            test,
            32774,
            "another VM has the name of the test VM",
            (Namesake, B),
            just_vm,
        ),
        at(
            test,
            32775,
            "there is no recovery point yet",
            (Related, B),
            just_vm,
        ),
        at(test, 32775, "there is a test already", (Testing, B), just_vm),
        at(initiate, 4096, "cycles flow", (Replicating, B), just_vm),
        at(initiate, 32768, NOT_WRITTEN, (Replicating, B), just_vm).spoilt(catalogs_full),
        at(
            initiate,
            32773,
            "the recovery point is none of this VM",
            (Replicating, B),
            |_| vec![vm(), snapshot(NO_POINT)],
        ),
        at(
            initiate,
            32775,
            "it is failed over already",
            (FailedOver, B),
            just_vm,
        ),
        at(initiate, 32775, "on the primary", (Replicating, A), just_vm),
        at(
            initiate,
            32776,
            "the recovery point is a reference to a job",
            (Replicating, B),
            |_| {
                vec![
                    vm(),
                    arg("SnapshotSettingData", by_id("Msvm_ConcreteJob", NO_POINT)),
                ]
            },
        ),
        at(revert, 4096, "it is failed over", (FailedOver, B), just_vm),
        at(revert, 32768, NOT_WRITTEN, (FailedOver, B), just_vm).spoilt(catalogs_full),
        at(revert, 32775, "nothing is failed over", (Replicating, B), just_vm),
        at(revert, 32775, "it is committed", (Committed, B), just_vm),
        at(commit, 4096, "it is failed over", (FailedOver, B), just_vm),
        at(commit, 32768, NOT_WRITTEN, (FailedOver, B), just_vm).spoilt(catalogs_full),
        at(commit, 32775, "nothing is failed over", (Replicating, B), just_vm),
        at(network, 0, "the VM is replicated", (Replicating, B), |_| {
            vec![vm(), arg("NetworkSettings", Raw::List(Vec::new()))]
        }),
        at(network, 32768, NOT_WRITTEN, (Replicating, B), |_| {
            vec![vm(), arg("NetworkSettings", Raw::List(Vec::new()))]
        })
        .spoilt(catalogs_full),
        at(
            network,
            32773,
            "the settings are for a card the VM does not have",
            (Replicating, B),
            |_| {
                let id = format!("Microsoft:{}\\525400000009\\Failover", guid());
                let xml = xml(
                    "Msvm_FailoverNetworkAdapterSettingData",
                    &[("InstanceID", "string", &id)],
                );
                vec![vm(), text("NetworkSettings", &xml)]
            },
        ),
        at(network, 32775, "the VM is not replicated", (Fresh, A), |_| {
            vec![vm(), arg("NetworkSettings", Raw::List(Vec::new()))]
        }),
        at("InitiateFailback", 32770, "always", (Committed, B), just_vm),
    ]
};

/// Statistics.
pub(super) const MONITORING: &[Situation] = {
    let get = "GetReplicationStatistics";
    let get_ex = "GetReplicationStatisticsEx";
    let reset = "ResetReplicationStatistics";
    let reset_ex = "ResetReplicationStatisticsEx";
    &[
        at(get, 0, "the VM is replicated", (Replicating, A), just_vm),
        at(get, 32775, "the VM is not replicated", (Fresh, A), just_vm),
        at(get_ex, 0, "of either relationship", (Extended, B), |_| {
            vec![vm(), relationship(1)]
        }),
        at(
            get_ex,
            32773,
            "ReplicationRelationship is null",
            (Replicating, A),
            just_vm,
        ),
        at(
            get_ex,
            32775,
            "there is no extended relationship",
            (Replicating, B),
            |_| vec![vm(), relationship(1)],
        ),
        at(reset, 0, "the VM is replicated", (Replicating, A), just_vm),
        at(reset, 32768, NOT_WRITTEN, (Replicating, A), just_vm).spoilt(catalogs_full),
        at(reset, 32775, "the VM is not replicated", (Fresh, A), just_vm),
        at(reset_ex, 0, "of either relationship", (Extended, B), |_| {
            vec![vm(), relationship(1)]
        }),
        at(reset_ex, 32768, NOT_WRITTEN, (Replicating, A), |_| {
            vec![vm(), relationship(0)]
        })
        .spoilt(catalogs_full),
        at(
            reset_ex,
            32773,
            "ReplicationRelationship is null",
            (Replicating, A),
            just_vm,
        ),
        at(
            reset_ex,
            32775,
            "there is no extended relationship",
            (Replicating, B),
            |_| vec![vm(), relationship(1)],
        ),
    ]
};

fn entry(primary: &str) -> (String, Raw) {
    let values = [
        ("AllowedPrimaryHostSystem", "string", primary),
        ("ReplicaStorageLocation", "string", "/replicas"),
        ("TrustGroup", "string", "t"),
    ];
    text(
        "AuthorizationEntry",
        &xml("Msvm_ReplicationAuthorizationSettingData", &values),
    )
}

fn connection(kind: &str) -> Args {
    vec![
        text("RecoveryConnectionPoint", "b"),
        text("RecoveryServerPortNumber", "7000"),
        text("AuthenticationType", kind),
    ]
}

fn server(name: &str, kind: &str, value: &str) -> Args {
    let xml = xml("Msvm_ReplicationServiceSettingData", &[(name, kind, value)]);
    vec![text("SettingData", &xml)]
}

fn primary(_: &World) -> Args {
    vec![text("AllowedPrimaryHostSystem", "a")]
}

/// The host and who may replicate to it.
pub(super) const HOST: &[Situation] = {
    let modify = "ModifyServiceSettings";
    let add = "AddAuthorizationEntry";
    let change = "ModifyAuthorizationEntry";
    let remove = "RemoveAuthorizationEntry";
    let set = "SetAuthorizationEntry";
    let test = "TestReplicationConnection";
    &[
        at(modify, 0, "settings that are the host's", (Fresh, B), |_| {
            server("MonitoringInterval", "uint32", "7200")
        }),
        at(modify, 32768, NOT_WRITTEN, (Fresh, B), |_| {
            server("MonitoringInterval", "uint32", "7200")
        })
        .spoilt(catalogs_full),
        at(
            modify,
            32770,
            "another port: it is in the configuration file",
            (Fresh, B),
            |_| server("HttpsPort", "uint16", "443"),
        ),
        at(
            modify,
            32770,
            "AllowedAuthenticationType with Kerberos in it",
            (Fresh, B),
            |_| server("AllowedAuthenticationType", "uint16", "3"),
        ),
        at(
            modify,
            32773,
            "MonitoringInterval is less than an hour",
            (Fresh, B),
            |_| server("MonitoringInterval", "uint32", "60"),
        ),
        at(add, 0, "a primary without an entry", (Fresh, B), |_| {
            vec![entry("*.example.org")]
        }),
        at(add, 32768, NOT_WRITTEN, (Fresh, B), |_| {
            vec![entry("*.example.org")]
        })
        .spoilt(catalogs_full),
        at(add, 32773, "the primary has an entry", (Fresh, B), |_| {
            vec![entry("a")]
        }),
        at(
            add,
            32773,
            "a wildcard in the middle of a name",
            (Fresh, B),
            |_| vec![entry("a.*.org")],
        ),
        at(change, 0, "the primary has an entry", (Fresh, B), |_| {
            vec![entry("a")]
        }),
        at(change, 32768, NOT_WRITTEN, (Fresh, B), |_| vec![entry("a")]).spoilt(catalogs_full),
        at(change, 32773, "the entry is null", (Fresh, B), |_| Vec::new()),
        at(change, 32779, "the primary has no entry", (Fresh, B), |_| {
            vec![entry("x")]
        }),
        at(remove, 0, "the primary has an entry", (Fresh, B), primary),
        at(remove, 32768, NOT_WRITTEN, (Fresh, B), primary).spoilt(catalogs_full),
        at(remove, 32773, "the primary is null", (Fresh, B), |_| Vec::new()),
        at(remove, 32779, "the primary has no entry", (Fresh, B), |_| {
            vec![text("AllowedPrimaryHostSystem", "x")]
        }),
        at(
            set,
            0,
            "the replica's primary is covered by the entry",
            (Replicating, B),
            |_| vec![vm(), entry("a")],
        ),
        at(set, 32768, NOT_WRITTEN, (Replicating, B), |_| {
            vec![vm(), entry("a")]
        })
        .spoilt(catalogs_full),
        at(set, 32775, "on a primary", (Replicating, A), |_| {
            vec![vm(), entry("b")]
        }),
        at(set, 32779, "there is no such entry", (Replicating, B), |_| {
            vec![vm(), entry("x")]
        }),
        at(
            test,
            0,
            "the other host is there and takes replicas of this one",
            (Fresh, A),
            |_| connection("2"),
        ),
        at(
            test,
            32769,
            "the other host takes no replicas of this one",
            (Unauthorized, A),
            |_| connection("2"),
        ),
        at(
            test,
            32770,
            "AuthenticationType is 1, Kerberos",
            (Fresh, A),
            |_| connection("1"),
        ),
        at(test, 32773, "RecoveryConnectionPoint is null", (Fresh, A), |_| {
            connection("2")[1..].to_vec()
        }),
        at(test, 32777, UNREACHABLE, (Fresh, A), |_| connection("2")).spoilt(cut),
        at("GetSystemCertificates", 0, "always", (Fresh, A), |_| Vec::new()),
        at(
            "RequestStateChange",
            0,
            "RequestedState is 2, enabled, which it is",
            (Fresh, A),
            |_| vec![text("RequestedState", "2")],
        ),
        at("RequestStateChange", 1, "any other state", (Fresh, A), |_| {
            vec![text("RequestedState", "3")]
        }),
        at("StartService", 0, "always", (Fresh, A), |_| Vec::new()),
        at("StopService", 1, "always", (Fresh, A), |_| Vec::new()),
    ]
};
