//! Situations of the replication service's methods.

use super::*;
use Stage::*;

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
            (Fresh, 0),
            |_| vec![vm(), to("b")],
        ),
        at(
            create,
            0,
            "on a replica: the third host takes it",
            (ThreeHosts, 1),
            |_| vec![vm(), third()],
        ),
        at(create, 32768, NOT_WRITTEN, (Fresh, 0), |_| vec![vm(), to("b")]).spoilt(catalogs_full),
        at(
            create,
            32769,
            "the other host takes no replicas of this one",
            (Unauthorized, 0),
            |_| vec![vm(), to("b")],
        ),
        at(
            create,
            32770,
            "AuthenticationType is 1, Kerberos",
            (Fresh, 0),
            |_| vec![vm(), kerberos()],
        ),
        at(
            create,
            32773,
            "the settings name no other host",
            (Fresh, 0),
            |_| vec![vm(), settings(&[])],
        ),
        at(
            create,
            32775,
            "the VM is replicated already",
            (Replicating, 0),
            |_| vec![vm(), to("b")],
        ),
        at(
            create,
            32775,
            "the other host has a replica of it already",
            (LetGo, 0),
            |_| vec![vm(), to("b")],
        ),
        at(create, 32777, UNREACHABLE, (Fresh, 0), |_| vec![vm(), to("b")]).spoilt(cut),
        at(
            start,
            4096,
            "the relationship waits for its copy, over the network",
            (Related, 0),
            |_| copy("1"),
        ),
        at(start, 4096, "the same to a medium", (Related, 0), |_| export()),
        at(start, 4096, "the same in an hour", (Related, 0), |w| {
            copy_at(w, 3600)
        }),
        at(
            start,
            4096,
            "on a replica: the relationship to the third host waits for its copy",
            (Third, 1),
            |_| copy("1"),
        ),
        at(start, 32768, NOT_WRITTEN, (Related, 0), |_| copy("1")).spoilt(catalogs_full),
        at(
            start,
            32769,
            "the directory is not one that this host opens to remote callers",
            (Related, 0),
            |_| export_to("/srv/usb"),
        ),
        at(
            start,
            32770,
            "on a replica: the copy to the third host is to go by a medium",
            (Third, 1),
            |_| export(),
        ),
        at(start, 32773, "InitialReplicationType is 4", (Related, 0), |_| {
            copy("4")
        }),
        at(
            start,
            32773,
            "StartTime is more than seven days ahead",
            (Related, 0),
            |w| copy_at(w, 8 * 86_400),
        ),
        at(start, 32775, "the copy has been made", (Replicating, 0), |_| {
            copy("1")
        }),
        at(
            start,
            32777,
            "a seeded copy, and the other host is not reached",
            (Related, 0),
            |_| copy("3"),
        )
        .spoilt(cut),
        at(
            import,
            4096,
            "the copy has come on a medium",
            (Exported, 1),
            |_| import_from("/media/usb/web_", true),
        ),
        at(import, 32768, NOT_WRITTEN, (Exported, 1), |_| {
            import_from("/media/usb/web_", true)
        })
        .spoilt(catalogs_full),
        at(
            import,
            32769,
            "the directory is not one that this host opens to remote callers",
            (Exported, 1),
            |_| import_from("/media/../srv/usb", false),
        ),
        at(import, 32773, "the location is null", (Exported, 1), just_vm),
        at(import, 32775, "nothing is awaited", (Replicating, 1), |_| {
            import_from("/media/usb/web_", true)
        }),
        at(
            import,
            32779,
            "there is no export in the location",
            (Exported, 1),
            |_| import_from("/nowhere", false),
        ),
        at(modify, 0, "the primary's settings", (Replicating, 0), |_| {
            vec![vm(), history("7")]
        }),
        at(
            modify,
            0,
            "on a replica: those of the third host",
            (Extended, 1),
            |_| vec![vm(), history("7")],
        ),
        at(modify, 32768, NOT_WRITTEN, (Replicating, 0), |_| {
            vec![vm(), history("7")]
        })
        .spoilt(catalogs_full),
        at(
            modify,
            32770,
            "AuthenticationType is 1, Kerberos",
            (Replicating, 0),
            |_| vec![vm(), kerberos()],
        ),
        at(modify, 32773, "RecoveryHistory is 25", (Replicating, 0), |_| {
            vec![vm(), history("25")]
        }),
        at(
            modify,
            32774,
            "on a replica that is becoming the primary of the third host",
            (Turning, 1),
            |_| vec![vm(), history("7")],
        ),
        at(
            modify,
            32775,
            "on a replica that is not extended",
            (Replicating, 1),
            |_| vec![vm(), history("7")],
        ),
        at(modify, 32777, UNREACHABLE, (Replicating, 0), |_| {
            vec![vm(), history("7")]
        })
        .spoilt(cut),
        at(remove, 0, "the VM is replicated", (Replicating, 0), just_vm),
        at(remove, 32768, NOT_WRITTEN, (Replicating, 0), just_vm).spoilt(catalogs_full),
        at(
            remove,
            32774,
            "there is a test of this replica",
            (Testing, 1),
            just_vm,
        ),
        at(remove, 32775, "the VM is not replicated", (Fresh, 0), just_vm),
        at(
            remove,
            32775,
            "the replica is extended to a third host",
            (Extended, 1),
            just_vm,
        ),
        at(remove_ex, 0, "the first relationship", (Replicating, 0), |_| {
            vec![vm(), relationship(0)]
        }),
        at(remove_ex, 0, "the extended one", (Extended, 1), |_| {
            vec![vm(), relationship(1)]
        }),
        at(remove_ex, 32768, NOT_WRITTEN, (Extended, 1), |_| {
            vec![vm(), relationship(1)]
        })
        .spoilt(catalogs_full),
        at(
            remove_ex,
            32773,
            "ReplicationRelationship is null",
            (Replicating, 0),
            just_vm,
        ),
        at(
            remove_ex,
            32774,
            "there is a test of this replica",
            (Testing, 1),
            |_| vec![vm(), relationship(0)],
        ),
        at(
            remove_ex,
            32774,
            "the extended one, while this host becomes the primary of the third",
            (Turning, 1),
            |_| vec![vm(), relationship(1)],
        ),
        at(
            remove_ex,
            32775,
            "the first one while there is an extended one",
            (Extended, 1),
            |_| vec![vm(), relationship(0)],
        ),
        at(resync, 4096, "replication is suspended", (Suspended, 0), just_vm),
        at(resync, 32768, NOT_WRITTEN, (Suspended, 0), just_vm).spoilt(catalogs_full),
        at(
            resync,
            32773,
            "StartTime is more than seven days ahead",
            (Suspended, 0),
            |w| vec![vm(), text("StartTime", &instant(w, 8 * 86_400))],
        ),
        at(
            resync,
            32775,
            "there is no copy yet that could be compared",
            (Related, 0),
            just_vm,
        ),
        at(reverse, 4096, "the failover is committed", (Committed, 1), |_| {
            vec![vm(), to("a")]
        }),
        at(reverse, 32768, NOT_WRITTEN, (Committed, 1), |_| {
            vec![vm(), to("a")]
        })
        .spoilt(catalogs_full),
        at(
            reverse,
            32770,
            "AuthenticationType is 1, Kerberos",
            (Committed, 1),
            |_| vec![vm(), kerberos()],
        ),
        at(
            reverse,
            32773,
            "the settings do not name the old primary",
            (Committed, 1),
            |_| vec![vm(), history("7")],
        ),
        at(reverse, 32775, "nothing is failed over", (Replicating, 1), |_| {
            vec![vm(), to("a")]
        }),
        at(
            onward,
            4096,
            "the failover is committed, and there is a third host",
            (ExtendedCommitted, 1),
            |_| vec![vm(), relationship(1)],
        ),
        at(onward, 32768, NOT_WRITTEN, (ExtendedCommitted, 1), |_| {
            vec![vm(), relationship(1)]
        })
        .spoilt(catalogs_full),
        at(
            onward,
            32773,
            "the relationship is the first one",
            (ExtendedCommitted, 1),
            |_| vec![vm(), relationship(0)],
        ),
        at(onward, 32775, "nothing is failed over", (Extended, 1), |_| {
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
        at(test, 4096, "cycles flow", (Replicating, 1), just_vm),
        at(test, 32768, NOT_WRITTEN, (Replicating, 1), just_vm).spoilt(catalogs_full),
        at(
            test,
            32773,
            "the recovery point is none of this VM",
            (Replicating, 1),
            |_| vec![vm(), snapshot(NO_POINT)],
        ),
        at(
            test,
            32774,
            "another VM has the name of the test VM",
            (Namesake, 1),
            just_vm,
        ),
        at(
            test,
            32775,
            "there is no recovery point yet",
            (Related, 1),
            just_vm,
        ),
        at(test, 32775, "there is a test already", (Testing, 1), just_vm),
        at(initiate, 4096, "cycles flow", (Replicating, 1), just_vm),
        at(initiate, 32768, NOT_WRITTEN, (Replicating, 1), just_vm).spoilt(catalogs_full),
        at(
            initiate,
            32773,
            "the recovery point is none of this VM",
            (Replicating, 1),
            |_| vec![vm(), snapshot(NO_POINT)],
        ),
        at(
            initiate,
            32775,
            "it is failed over already",
            (FailedOver, 1),
            just_vm,
        ),
        at(initiate, 32775, "on the primary", (Replicating, 0), just_vm),
        at(
            initiate,
            32776,
            "the recovery point is a reference to a job",
            (Replicating, 1),
            |_| {
                vec![
                    vm(),
                    arg("SnapshotSettingData", by_id("Msvm_ConcreteJob", NO_POINT)),
                ]
            },
        ),
        at(revert, 4096, "it is failed over", (FailedOver, 1), just_vm),
        at(revert, 32768, NOT_WRITTEN, (FailedOver, 1), just_vm).spoilt(catalogs_full),
        at(revert, 32775, "nothing is failed over", (Replicating, 1), just_vm),
        at(revert, 32775, "it is committed", (Committed, 1), just_vm),
        at(commit, 4096, "it is failed over", (FailedOver, 1), just_vm),
        at(commit, 32768, NOT_WRITTEN, (FailedOver, 1), just_vm).spoilt(catalogs_full),
        at(commit, 32775, "nothing is failed over", (Replicating, 1), just_vm),
        at(network, 0, "the VM is replicated", (Replicating, 1), |_| {
            vec![vm(), arg("NetworkSettings", Raw::List(Vec::new()))]
        }),
        at(network, 32768, NOT_WRITTEN, (Replicating, 1), |_| {
            vec![vm(), arg("NetworkSettings", Raw::List(Vec::new()))]
        })
        .spoilt(catalogs_full),
        at(
            network,
            32773,
            "the settings are for a card the VM does not have",
            (Replicating, 1),
            |_| {
                let id = format!("Microsoft:{}\\525400000009\\Failover", guid());
                let xml = xml(
                    "Msvm_FailoverNetworkAdapterSettingData",
                    &[("InstanceID", "string", &id)],
                );
                vec![vm(), text("NetworkSettings", &xml)]
            },
        ),
        at(network, 32775, "the VM is not replicated", (Fresh, 0), |_| {
            vec![vm(), arg("NetworkSettings", Raw::List(Vec::new()))]
        }),
        at("InitiateFailback", 32770, "always", (Committed, 1), just_vm),
    ]
};

/// Statistics.
pub(super) const MONITORING: &[Situation] = {
    let get = "GetReplicationStatistics";
    let get_ex = "GetReplicationStatisticsEx";
    let reset = "ResetReplicationStatistics";
    let reset_ex = "ResetReplicationStatisticsEx";
    &[
        at(get, 0, "the VM is replicated", (Replicating, 0), just_vm),
        at(get, 32775, "the VM is not replicated", (Fresh, 0), just_vm),
        at(get_ex, 0, "of either relationship", (Extended, 1), |_| {
            vec![vm(), relationship(1)]
        }),
        at(
            get_ex,
            32773,
            "ReplicationRelationship is null",
            (Replicating, 0),
            just_vm,
        ),
        at(
            get_ex,
            32775,
            "there is no extended relationship",
            (Replicating, 1),
            |_| vec![vm(), relationship(1)],
        ),
        at(reset, 0, "the VM is replicated", (Replicating, 0), just_vm),
        at(reset, 32768, NOT_WRITTEN, (Replicating, 0), just_vm).spoilt(catalogs_full),
        at(reset, 32775, "the VM is not replicated", (Fresh, 0), just_vm),
        at(reset_ex, 0, "of either relationship", (Extended, 1), |_| {
            vec![vm(), relationship(1)]
        }),
        at(reset_ex, 32768, NOT_WRITTEN, (Replicating, 0), |_| {
            vec![vm(), relationship(0)]
        })
        .spoilt(catalogs_full),
        at(
            reset_ex,
            32773,
            "ReplicationRelationship is null",
            (Replicating, 0),
            just_vm,
        ),
        at(
            reset_ex,
            32775,
            "there is no extended relationship",
            (Replicating, 1),
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
        at(modify, 0, "settings that are the host's", (Fresh, 1), |_| {
            server("MonitoringInterval", "uint32", "7200")
        }),
        at(modify, 32768, NOT_WRITTEN, (Fresh, 1), |_| {
            server("MonitoringInterval", "uint32", "7200")
        })
        .spoilt(catalogs_full),
        at(
            modify,
            32770,
            "another port: it is in the configuration file",
            (Fresh, 1),
            |_| server("HttpsPort", "uint16", "443"),
        ),
        at(
            modify,
            32770,
            "AllowedAuthenticationType with Kerberos in it",
            (Fresh, 1),
            |_| server("AllowedAuthenticationType", "uint16", "3"),
        ),
        at(
            modify,
            32773,
            "MonitoringInterval is less than an hour",
            (Fresh, 1),
            |_| server("MonitoringInterval", "uint32", "60"),
        ),
        at(add, 0, "a primary without an entry", (Fresh, 1), |_| {
            vec![entry("*.example.org")]
        }),
        at(add, 32768, NOT_WRITTEN, (Fresh, 1), |_| {
            vec![entry("*.example.org")]
        })
        .spoilt(catalogs_full),
        at(add, 32773, "the primary has an entry", (Fresh, 1), |_| {
            vec![entry("a")]
        }),
        at(
            add,
            32773,
            "a wildcard in the middle of a name",
            (Fresh, 1),
            |_| vec![entry("a.*.org")],
        ),
        at(change, 0, "the primary has an entry", (Fresh, 1), |_| {
            vec![entry("a")]
        }),
        at(change, 32768, NOT_WRITTEN, (Fresh, 1), |_| vec![entry("a")]).spoilt(catalogs_full),
        at(change, 32773, "the entry is null", (Fresh, 1), |_| Vec::new()),
        at(change, 32779, "the primary has no entry", (Fresh, 1), |_| {
            vec![entry("x")]
        }),
        at(remove, 0, "the primary has an entry", (Fresh, 1), primary),
        at(remove, 32768, NOT_WRITTEN, (Fresh, 1), primary).spoilt(catalogs_full),
        at(remove, 32773, "the primary is null", (Fresh, 1), |_| Vec::new()),
        at(remove, 32779, "the primary has no entry", (Fresh, 1), |_| {
            vec![text("AllowedPrimaryHostSystem", "x")]
        }),
        at(
            set,
            0,
            "the replica's primary is covered by the entry",
            (Replicating, 1),
            |_| vec![vm(), entry("a")],
        ),
        at(set, 32768, NOT_WRITTEN, (Replicating, 1), |_| {
            vec![vm(), entry("a")]
        })
        .spoilt(catalogs_full),
        at(set, 32775, "on a primary", (Replicating, 0), |_| {
            vec![vm(), entry("b")]
        }),
        at(set, 32779, "there is no such entry", (Replicating, 1), |_| {
            vec![vm(), entry("x")]
        }),
        at(
            test,
            0,
            "the other host is there and takes replicas of this one",
            (Fresh, 0),
            |_| connection("2"),
        ),
        at(
            test,
            32769,
            "the other host takes no replicas of this one",
            (Unauthorized, 0),
            |_| connection("2"),
        ),
        at(
            test,
            32770,
            "AuthenticationType is 1, Kerberos",
            (Fresh, 0),
            |_| connection("1"),
        ),
        at(test, 32773, "RecoveryConnectionPoint is null", (Fresh, 0), |_| {
            connection("2")[1..].to_vec()
        }),
        at(test, 32777, UNREACHABLE, (Fresh, 0), |_| connection("2")).spoilt(cut),
        at("GetSystemCertificates", 0, "always", (Fresh, 0), |_| Vec::new()),
        at(
            "RequestStateChange",
            0,
            "RequestedState is 2, enabled, which it is",
            (Fresh, 0),
            |_| vec![text("RequestedState", "2")],
        ),
        at("RequestStateChange", 1, "any other state", (Fresh, 0), |_| {
            vec![text("RequestedState", "3")]
        }),
        at("StartService", 0, "always", (Fresh, 0), |_| Vec::new()),
        at("StopService", 1, "always", (Fresh, 0), |_| Vec::new()),
    ]
};
