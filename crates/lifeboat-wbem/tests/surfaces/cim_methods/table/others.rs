//! Situations of the methods of VMs, jobs, and the other services.

use super::*;
use Stage::*;
use lifeboat_sim::harness::{A, B};

pub(super) fn nobody() -> Raw {
    Raw::Path(crate::cim_methods::world::system(
        "00000000-0000-0000-0000-0000000000FF",
    ))
}

/// The settings of the VM, where the VM itself belongs.
pub(super) fn settings_of_vm() -> Raw {
    by_id("Msvm_VirtualSystemSettingData", &format!("Microsoft:{}", guid()))
}

pub(super) fn component(_: &World) -> InstanceName {
    InstanceName::new("Msvm_ShutdownComponent", &[("SystemName", &guid())])
}

/// The only job of the first host.
pub(super) fn job(w: &World) -> InstanceName {
    let jobs = w.jobs(A);
    let id = jobs.last().unwrap().id.to_string();
    InstanceName::new("Msvm_ConcreteJob", &[("InstanceID", &id)])
}

pub(super) fn management(_: &World) -> InstanceName {
    service("Msvm_VirtualSystemManagementService")
}

fn state(n: &str) -> Args {
    vec![text("RequestedState", n)]
}

fn state_of(index: u8, n: &str) -> Args {
    vec![text("RequestedState", n), relationship(index)]
}

const fn of_vm(
    method: &'static str,
    code: u32,
    words: &'static str,
    place: (Stage, usize),
    args: fn(&World) -> Args,
) -> Situation {
    Situation {
        class: "Msvm_ComputerSystem",
        target: |_| crate::cim_methods::world::system(&guid()).name,
        ..at(method, code, words, place, args)
    }
}

/// The same of the host instead of a VM.
const fn of_host(method: &'static str, args: fn(&World) -> Args) -> Situation {
    Situation {
        target: |_| crate::cim_methods::world::system("a").name,
        ..of_vm(method, 32776, "it is the host's, not a VM's", (Fresh, A), args)
    }
}

const NOT_WRITTEN: &str = "the catalog cannot be written";

/// Methods of a VM.
pub(super) const SYSTEM: &[Situation] = {
    let change = "RequestReplicationStateChange";
    let ex = "RequestReplicationStateChangeEx";
    let power = "RequestStateChange";
    &[
        of_vm(change, 0, "1: the initial copy is given up", (Copying, A), |_| {
            state("1")
        }),
        of_vm(
            change,
            0,
            "1: the initial copy waits for its time and is given up",
            (Scheduled, A),
            |_| state("1"),
        ),
        of_vm(change, 0, "7: replication is suspended", (Replicating, A), |_| {
            state("7")
        }),
        of_vm(change, 0, "3: it goes on", (Suspended, A), |_| state("3")),
        of_vm(
            change,
            0,
            "3: a planned failover is cancelled",
            (Prepared, A),
            |_| state("3"),
        ),
        of_vm(change, 0, "9: a comparison is given up", (Comparing, A), |_| {
            state("9")
        }),
        of_vm(change, 0, "2: an old primary becomes a replica", (Off, A), |_| {
            state("2")
        }),
        of_vm(
            change,
            4096,
            "4: a planned failover is prepared",
            (Off, A),
            |_| state("4"),
        ),
        of_vm(change, 32768, NOT_WRITTEN, (Replicating, A), |_| state("7")).spoilt(catalogs_full),
        of_vm(
            change,
            32773,
            "5: no such state can be asked for",
            (Replicating, A),
            |_| state("5"),
        ),
        of_vm(change, 32775, "4: the VM runs", (Replicating, A), |_| state("4")),
        of_vm(change, 32775, "7: the VM is not replicated", (Fresh, A), |_| {
            state("7")
        }),
        of_vm(
            change,
            32777,
            "3: the replica may have taken over, and is not reached",
            (Prepared, A),
            |_| state("3"),
        )
        .spoilt(cut),
        of_host(change, |_| state("7")),
        of_vm(
            ex,
            0,
            "7: the extended relationship is suspended",
            (Extended, B),
            |_| state_of(1, "7"),
        ),
        of_vm(
            ex,
            0,
            "7: without a relationship, the first one is",
            (Replicating, A),
            |_| state("7"),
        ),
        of_vm(ex, 4096, "4: a planned failover is prepared", (Off, A), |_| {
            state_of(0, "4")
        }),
        of_vm(ex, 32768, NOT_WRITTEN, (Extended, B), |_| state_of(1, "7")).spoilt(catalogs_full),
        of_vm(
            ex,
            32773,
            "5: no such state can be asked for",
            (Extended, B),
            |_| state_of(1, "5"),
        ),
        of_vm(
            ex,
            32773,
            "the relationship is none of this VM",
            (Replicating, A),
            |_| {
                let mut args = state("7");
                args.push(text(
                    "ReplicationRelationship",
                    "Microsoft:00000000-0000-0000-0000-0000000000FF\\HVR\\0",
                ));
                args
            },
        ),
        of_vm(
            ex,
            32775,
            "4: not offered for the extended relationship",
            (Extended, B),
            |_| state_of(1, "4"),
        ),
        of_vm(
            ex,
            32775,
            "7: there is no extended relationship",
            (Replicating, B),
            |_| state_of(1, "7"),
        ),
        of_vm(
            ex,
            32777,
            "3: the replica may have taken over, and is not reached",
            (Prepared, A),
            |_| state_of(0, "3"),
        )
        .spoilt(cut),
        of_host(ex, |_| state("7")),
        of_vm(power, 0, "2: a VM that is off is started", (Off, A), |_| {
            state("2")
        }),
        of_vm(power, 0, "3: a VM that runs is turned off", (Fresh, A), |_| {
            state("3")
        }),
        of_vm(power, 0, "9: it is paused", (Fresh, A), |_| state("9")),
        of_vm(power, 0, "11: it is reset", (Fresh, A), |_| state("11")),
        of_vm(power, 32768, NOT_WRITTEN, (Off, A), |_| state("2")).spoilt(catalogs_full),
        of_vm(power, 32770, "6: memory is not saved to disk", (Fresh, A), |_| {
            state("6")
        }),
        of_vm(
            power,
            32773,
            "8: no such state can be asked for",
            (Fresh, A),
            |_| state("8"),
        ),
        of_vm(
            power,
            32774,
            "2, 11: a planned failover is being prepared",
            (Preparing, A),
            |_| state("11"),
        ),
        of_vm(
            power,
            32775,
            "2: a replica is not started",
            (Replicating, B),
            |_| state("2"),
        ),
        of_vm(
            power,
            32775,
            "2: a prepared primary is not started",
            (Prepared, A),
            |_| state("2"),
        ),
        of_host(power, |_| state("3")),
        shutdown(0, "the guest shuts down", (Fresh, A), |_| {
            vec![text("Force", "false")]
        }),
        shutdown(
            4096,
            "the guest takes longer than an answer; it goes on without a job",
            (Fresh, A),
            |_| vec![text("Force", "true")],
        )
        .spoilt(|w| w.shared.state().stubborn = true),
        shutdown(32768, "the VM's process does not do it", (Fresh, A), |_| {
            vec![text("Force", "true")]
        })
        .spoilt(|w| w.gate(A).arm(3, Fault::Fail)),
        shutdown(32773, "Force is null", (Fresh, A), |_| Vec::new()),
    ]
};

const fn shutdown(
    code: u32,
    words: &'static str,
    place: (Stage, usize),
    args: fn(&World) -> Args,
) -> Situation {
    Situation {
        class: "Msvm_ShutdownComponent",
        target: component,
        ..at("InitiateShutdown", code, words, place, args)
    }
}

/// Methods of a job.
pub(super) fn jobs() -> Vec<Situation> {
    let of = |method, code, words, stage, args| Situation {
        class: "Msvm_ConcreteJob",
        target: job,
        ..at(method, code, words, (stage, 0), args)
    };
    let change = "RequestStateChange";
    vec![
        of(
            change,
            0,
            "4: a copy that waits or goes on is ended",
            Scheduled,
            |_| state("4"),
        ),
        of(change, 1, "2: a job is not started by hand", Scheduled, |_| {
            state("2")
        }),
        of(change, 4, NOT_WRITTEN, Copying, |_| state("4")).spoilt(catalogs_full),
        of(change, 5, "9: no such state can be asked for", Scheduled, |_| {
            state("9")
        }),
        of(change, 4097, "4: the job has ended", Exported, |_| state("4")),
        of(change, 4098, "a time limit is given", Scheduled, |_| {
            vec![
                text("RequestedState", "4"),
                text("TimeoutPeriod", "00000000000010.000000:000"),
            ]
        }),
        of(
            "GetError",
            0,
            "always; null while nothing is wrong",
            Scheduled,
            |_| Vec::new(),
        ),
        of(
            "GetErrorEx",
            0,
            "always; empty while nothing is wrong",
            Scheduled,
            |_| Vec::new(),
        ),
    ]
}

fn destroyed(w: &World) -> Args {
    let test = test_vm(w);
    vec![arg(
        "AffectedSystem",
        Raw::Path(crate::cim_methods::world::system(&test)),
    )]
}

fn summary(of: Raw) -> Args {
    summaries(vec![of])
}

fn summaries(of: Vec<Raw>) -> Args {
    let codes = Raw::List(vec![Raw::Text("1".into())]);
    vec![
        arg("SettingData", Raw::List(of)),
        arg("RequestedInformation", codes),
    ]
}

/// Methods of the other services.
pub(super) fn services() -> Vec<Situation> {
    let of = |method, code, words, place, args| Situation {
        class: "Msvm_VirtualSystemManagementService",
        target: management,
        ..at(method, code, words, place, args)
    };
    let (destroy, get) = ("DestroySystem", "GetSummaryInformation");
    let mut all = vec![
        of(destroy, 4096, "a test VM", (Testing, B), destroyed),
        of(destroy, 32768, NOT_WRITTEN, (Testing, B), destroyed).spoilt(catalogs_full),
        of(destroy, 32770, "a VM that is no test", (Fresh, A), |_| {
            vec![arg(
                "AffectedSystem",
                Raw::Path(crate::cim_methods::world::system(&guid())),
            )]
        }),
        of(get, 0, "VMs of this host, or all of them", (Fresh, A), |_| {
            summary(settings_of_vm())
        }),
        of(get, 32773, "RequestedInformation is null", (Fresh, A), |_| {
            Vec::new()
        }),
        of(
            get,
            32773,
            "no VM of this host has these settings",
            (Fresh, A),
            |_| {
                let id = "Microsoft:00000000-0000-0000-0000-0000000000FF";
                summary(by_id("Msvm_VirtualSystemSettingData", id))
            },
        ),
        of(get, 32773, "it is of more than 1,000 VMs", (Fresh, A), |_| {
            summaries((0..1001).map(|_| settings_of_vm()).collect())
        }),
        of(
            get,
            32776,
            "the reference is neither to a VM nor to its settings",
            (Fresh, A),
            |_| summary(by_id("Msvm_ConcreteJob", "1")),
        ),
    ];
    for class in [
        "Msvm_VirtualSystemManagementService",
        "Msvm_VirtualSystemSnapshotService",
    ] {
        let of = |method, code, words, args| Situation {
            class,
            target: target_of(class),
            ..at(method, code, words, (Fresh, A), args)
        };
        all.extend([
            of(
                "RequestStateChange",
                0,
                "RequestedState is 2, enabled, which it is",
                |_| state("2"),
            ),
            of("RequestStateChange", 1, "any other state", |_| state("3")),
            of("StartService", 0, "always", |_| Vec::new()),
        ]);
    }
    all
}
