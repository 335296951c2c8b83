//! What a method costs: how often the engine is asked for one call of it. A method of one VM is one action and nothing else, but for
//! a few that have to read before they act; a service is known to exist without asking anybody.

use std::collections::BTreeSet;

use lifeboat_cim::{InstanceName, Raw, Status};
use lifeboat_sim::harness::{PRIMARY, REPLICA, TWO_HOSTS, simulate_small};
use lifeboat_wbem::cim::{CIMV2, INTEROP, Role, VIRTUALIZATION};

use crate::cim_methods::conformance::play;
use crate::cim_methods::stories::replicating;
use crate::cim_methods::table::{self, Situation};
use crate::cim_methods::world::*;

const VIEW: &[&str] = &["ShowVm"];

/// What else is asked: the method, how the words of its situation begin, the questions, and why they cannot be left out.
const READS: &[(&str, &str, &[&str], &str)] = &[
    (
        "CreateReplicationRelationship",
        "",
        VIEW,
        "the disks of the VM, and whether it is a replica",
    ),
    (
        "StartReplication",
        "the same to a medium",
        VIEW,
        "the directory is named like the VM",
    ),
    (
        "ModifyReplicationSettings",
        "",
        VIEW,
        "what is not given stays as it is",
    ),
    (
        "ReverseReplicationRelationship",
        "",
        VIEW,
        "with settings: what is not given stays as it is",
    ),
    (
        "SetFailoverNetworkAdapterSettings",
        "",
        VIEW,
        "cards that are not given stay as they are",
    ),
    (
        "TestReplicaSystem",
        "",
        VIEW,
        "the test VM is an out parameter, and no part of the engine's answer",
    ),
    (
        "SetAuthorizationEntry",
        "",
        &["ListAuthorization"],
        "the entry must exist, however it is written",
    ),
    (
        "RequestReplicationStateChange",
        "4:",
        VIEW,
        "the VM must be off, and this its primary",
    ),
    (
        "RequestReplicationStateChangeEx",
        "4:",
        VIEW,
        "the VM must be off, and this its primary",
    ),
    (
        "RequestReplicationStateChangeEx",
        "7: the extended",
        VIEW,
        "the API has two words where the engine has one",
    ),
    (
        "InitiateShutdown",
        "",
        VIEW,
        "the component exists only where there is an agent's channel",
    ),
    (
        "DestroySystem",
        "",
        &["ListVms", "ShowVm"],
        "it must be a test VM, and its replica is looked for",
    ),
];

/// Situations in which a method of one VM does what it is called for.
fn granted() -> Vec<Situation> {
    let mut methods: BTreeSet<&str> = table::about_a_vm().iter().map(|(_, e, _)| e.method).collect();
    methods.insert("GetSummaryInformation");
    let of_a_vm = |s: &Situation| match s.class {
        "Msvm_ComputerSystem" | "Msvm_ShutdownComponent" => true,
        _ => methods.contains(s.method),
    };
    let all = table::situations().into_iter();
    all.filter(|s| [0, 4096].contains(&s.code) && of_a_vm(s))
        .collect()
}

/// Whether one action is all that is left of what was asked without what may be asked as well.
fn one_action(mut asked: Vec<(String, u32)>, besides: &[&str]) -> bool {
    for question in besides {
        match asked.iter_mut().find(|(name, _)| name == question) {
            Some((_, n)) => *n -= 1,
            None => return false,
        }
    }
    asked.retain(|(_, n)| *n > 0);
    matches!(asked.as_slice(), [(_, 1)])
}

#[test]
fn a_method_of_one_vm_is_one_action() {
    let (mut wrong, mut used) = (Vec::new(), BTreeSet::new());
    let granted = granted();
    assert!(granted.len() > 40, "{}", granted.len());
    for situation in &granted {
        let fits = |(method, words, ..): &&(&str, &str, &[&str], &str)| {
            *method == situation.method && situation.words.starts_with(words)
        };
        let listed = READS.iter().find(fits);
        used.extend(listed.map(|(method, words, ..)| (*method, *words)));
        let besides = listed.map_or(&[][..], |(_, _, besides, _)| *besides);
        let (value, asked) = play(situation);
        assert_eq!(value, situation.code, "{}", situation.words);
        if !one_action(asked.clone(), besides) {
            wrong.push(format!("{}: {}: {asked:?}", situation.method, situation.words));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(used.len(), READS.len(), "{used:?}");
}

/// What an administrator's script asks for, one call after the other.
#[test]
fn a_failover_and_its_revert_are_one_call_each() {
    simulate_small(61, TWO_HOSTS, async |w| {
        replicating(w).await;
        w.run(40).await;
        let (m, counting) = counted(w, REPLICA);
        for method in [
            "InitiateFailover",
            "RevertFailover",
            "InitiateFailover",
            "CommitFailover",
        ] {
            let caller = caller(Role::Administrator);
            let args = vec![vm()];
            let outcome = m
                .invoke(&caller, VIRTUALIZATION, &replication_service(), method, args)
                .await
                .unwrap();
            assert_eq!(counting.take(), [(method.to_owned(), 1)], "{method}");
            assert_eq!(ended(w, 1, &outcome).await, 7, "{method}");
        }
    });
}

/// A copy is imported from the directory of its VM; from the location above it takes a second attempt.
#[test]
fn an_import_asks_for_the_name_of_the_vm_only_below_a_location() {
    for (below, asked) in [
        (true, vec![("ImportCopy", 1)]),
        (false, vec![("ImportCopy", 2), ("ShowVm", 1)]),
    ] {
        simulate_small(62, TWO_HOSTS, async |w| {
            table::Stage::Exported.reach(w).await;
            let dir = if below {
                format!("/media/usb/web_{}", guid())
            } else {
                "/media/usb".to_owned()
            };
            let (m, counting) = counted(w, REPLICA);
            let args = vec![vm(), text("InitialReplicationImportLocation", &dir)];
            let caller = caller(Role::Administrator);
            let outcome = m
                .invoke(
                    &caller,
                    VIRTUALIZATION,
                    &replication_service(),
                    "ImportInitialReplica",
                    args,
                )
                .await
                .unwrap();
            let asked: Vec<_> = asked.iter().map(|(n, c)| ((*n).to_owned(), *c)).collect();
            assert_eq!((outcome.value, counting.take()), (4096, asked), "{dir}");
        });
    }
}

#[test]
fn what_the_host_is_made_of_is_known_without_the_engine() {
    simulate_small(63, TWO_HOSTS, async |w| {
        let (m, counting) = counted(w, PRIMARY);
        for (namespace, class) in [
            (VIRTUALIZATION, "Msvm_ReplicationService"),
            (VIRTUALIZATION, "Msvm_VirtualSystemManagementService"),
            (VIRTUALIZATION, "Msvm_VirtualSystemSnapshotService"),
            (INTEROP, "CIM_ObjectManager"),
            (CIMV2, "Win32_OperatingSystem"),
        ] {
            m.get(namespace, &service(class)).await.unwrap();
            assert_eq!(counting.take(), [], "{class}");
        }
        let settings = service("Msvm_ReplicationServiceSettingData");
        m.get(VIRTUALIZATION, &settings).await.unwrap();
        let asked = ["ListAuthorization", "ShowServer"].map(|n| (n.to_owned(), 1));
        assert_eq!(counting.take(), asked);
        // Another name than the service has is nobody's, and that is known as well.
        let another = InstanceName::new("Msvm_ReplicationService", &[("Name", "another")]);
        let e = m.get(VIRTUALIZATION, &another).await.unwrap_err();
        assert_eq!((e.status, counting.take()), (Status::NotFound, Vec::new()));
    });
}

/// A VM that is not here is no instance, whatever is called, by whomever, and with whatever parameters.
#[test]
fn a_vm_that_is_not_here_has_no_methods() {
    simulate_small(64, TWO_HOSTS, async |w| {
        let nobody = system("00000000-0000-0000-0000-0000000000FF").name;
        let calls: [(&str, Args, Role); 6] = [
            (
                "RequestStateChange",
                vec![text("RequestedState", "2")],
                Role::Administrator,
            ),
            (
                "RequestStateChange",
                vec![text("RequestedState", "2")],
                Role::Tester,
            ),
            ("RequestStateChange", Vec::new(), Role::Monitor),
            (
                "RequestReplicationStateChange",
                vec![text("RequestedState", "99")],
                Role::Operator,
            ),
            (
                "RequestReplicationStateChange",
                vec![arg("Colour", Raw::Null)],
                Role::Operator,
            ),
            ("SetPowerState", Vec::new(), Role::Administrator),
        ];
        for (method, args, role) in calls {
            let m = manager(w, 0);
            let answered = m
                .invoke(&caller(role), VIRTUALIZATION, &nobody, method, args)
                .await;
            assert_eq!(answered.unwrap_err().status, Status::NotFound, "{method} {role}");
        }
        // One that is here is told what is wrong.
        let here = system(&guid()).name;
        let (m, wrong) = (manager(w, 0), vec![arg("Colour", Raw::Null)]);
        let answered = m
            .invoke(
                &caller(Role::Operator),
                VIRTUALIZATION,
                &here,
                "RequestStateChange",
                wrong,
            )
            .await;
        assert_eq!(answered.unwrap_err().status, Status::InvalidParameter);
    });
}
