//! Each role through the object manager, on real engines: what it may it gets, what it may not answers access denied and
//! changes nothing; and methods that wait for a second person.

use lifeboat_cim::{CimError, InstanceName, Raw, Status};
use lifeboat_engine::action::{Action, Answer};
use lifeboat_engine::by::{By, Surface};
use lifeboat_sim::World;
use lifeboat_sim::harness::{A, B, TWO_HOSTS, four_eyes, simulate_small};
use lifeboat_wbem::cim::methods::METHODS;
use lifeboat_wbem::cim::{Caller, Outcome, Role, VIRTUALIZATION};

use crate::cim_methods::world::*;

const DENIED: u32 = 32769;

/// Calls a method of the VM or of a service in a role.
async fn by(w: &World, host: usize, role: Role, target: InstanceName, method: &str, args: Args) -> Outcome {
    let manager = manager(w, host);
    let outcome = manager
        .invoke(&caller(role), VIRTUALIZATION, &target, method, args)
        .await;
    outcome.unwrap_or_else(|e| panic!("{method}: {e}"))
}

async fn service_by(w: &World, host: usize, role: Role, method: &str, args: Args) -> Outcome {
    by(w, host, role, replication_service(), method, args).await
}

async fn state_by(w: &World, host: usize, role: Role, name: &str, method: &str, state: &str) -> u32 {
    let args = vec![text("RequestedState", state)];
    by(w, host, role, system(name).name, method, args).await.value
}

/// Everything of a host that a call could change.
fn everything(w: &World, host: usize) -> String {
    let s = w.shared.state();
    let host = &s.hosts[host];
    let rel: Vec<_> = host
        .catalog
        .relationships
        .iter()
        .map(|r| (r.mode, r.state, &r.settings, &r.network))
        .collect();
    format!(
        "{rel:?} {:?} {:?} {:?} {:?} {:?}",
        host.catalog.jobs,
        host.catalog.entries,
        host.catalog.server,
        host.catalog.requests,
        host.processes
            .iter()
            .map(|(vm, p)| (vm, p.power))
            .collect::<Vec<_>>()
    )
}

fn destroy(name: &str) -> Args {
    vec![arg("AffectedSystem", Raw::Path(system(name)))]
}

fn management() -> InstanceName {
    service("Msvm_VirtualSystemManagementService")
}

fn test_vm(w: &World) -> String {
    let rel = w.recorded(B).unwrap();
    let test = rel.replica().unwrap().test.clone();
    test.unwrap().vm.to_string().to_uppercase()
}

#[test]
fn a_tester_tests_and_does_nothing_else() {
    use Role::{Monitor, Operator, Tester};
    simulate_small(31, TWO_HOSTS, async |w| {
        crate::cim_methods::stories::replicating(w).await;
        w.run(40).await;
        let own = guid();
        let power = "RequestStateChange";
        assert_eq!(
            service_by(w, B, Monitor, "TestReplicaSystem", vec![vm()])
                .await
                .value,
            DENIED
        );
        let started = service_by(w, B, Tester, "TestReplicaSystem", vec![vm()]).await;
        assert_eq!(ended(w, B, &started).await, 7);
        let test = test_vm(w);
        assert_eq!(state_by(w, B, Monitor, &test, power, "2").await, DENIED);
        for state in ["2", "9", "2", "11", "3", "2"] {
            assert_eq!(state_by(w, B, Tester, &test, power, state).await, 0, "{state}");
        }
        let shutdown = |name: &str| InstanceName::new("Msvm_ShutdownComponent", &[("SystemName", name)]);
        let force = || vec![text("Force", "true")];
        // Of no other VM, on either host.
        for state in ["2", "3", "9", "11"] {
            assert_eq!(
                state_by(w, A, Tester, &own, power, state).await,
                DENIED,
                "{state}"
            );
            assert_eq!(
                state_by(w, B, Tester, &own, power, state).await,
                DENIED,
                "{state}"
            );
        }
        let before = [everything(w, A), everything(w, B)];
        let target = shutdown(&own);
        assert_eq!(
            by(w, A, Tester, target, "InitiateShutdown", force()).await.value,
            DENIED
        );
        assert_eq!([everything(w, A), everything(w, B)], before);
        let ask = by(w, B, Tester, management(), "DestroySystem", destroy(&own)).await;
        assert_eq!(ask.value, 32770, "only tests are destroyed, whoever asks");
        let ask = by(w, B, Monitor, management(), "DestroySystem", destroy(&test)).await;
        assert_eq!(ask.value, DENIED);
        let ask = by(w, B, Tester, management(), "DestroySystem", destroy(&test)).await;
        assert_eq!(ended(w, B, &ask).await, 7);
        assert_eq!(state_by(w, A, Operator, &own, power, "9").await, 0);
        assert_eq!(state_by(w, A, Operator, &own, power, "2").await, 0);
    });
}

#[test]
fn each_use_of_a_method_needs_its_own_role() {
    use Role::{Administrator, Operator, Tester};
    simulate_small(32, TWO_HOSTS, async |w| {
        crate::cim_methods::stories::replicating(w).await;
        let change = "RequestReplicationStateChange";
        let before = [everything(w, A), everything(w, B)];
        for state in ["1", "2", "3", "4", "7", "9"] {
            assert_eq!(
                state_by(w, A, Tester, &guid(), change, state).await,
                DENIED,
                "{state}"
            );
        }
        // Becoming a replica is not an operator's, though the method is.
        assert_eq!(state_by(w, A, Operator, &guid(), change, "2").await, DENIED);
        let export = vec![
            vm(),
            text("InitialReplicationType", "2"),
            text("InitialReplicationExportLocation", "/media/usb"),
        ];
        assert_eq!(
            service_by(w, A, Operator, "StartReplication", export).await.value,
            DENIED
        );
        let reverse = vec![vm(), to("a")];
        let ask = service_by(w, B, Operator, "ReverseReplicationRelationship", reverse).await;
        assert_eq!(ask.value, DENIED);
        assert_eq!([everything(w, A), everything(w, B)], before);
        assert_eq!(state_by(w, A, Operator, &guid(), change, "7").await, 0);
        assert_eq!(state_by(w, A, Operator, &guid(), change, "3").await, 0);
        // A night without an administrator: all but the commit.
        for _ in 0..6 {
            w.write(10);
            w.run(10).await;
        }
        w.cut(true);
        w.run(30).await;
        for method in ["InitiateFailover", "RevertFailover", "InitiateFailover"] {
            let ask = service_by(w, B, Operator, method, vec![vm()]).await;
            assert_eq!(ended(w, B, &ask).await, 7, "{method}");
        }
        assert_eq!(
            state_by(w, B, Operator, &guid(), "RequestStateChange", "2").await,
            0
        );
        let before = everything(w, B);
        assert_eq!(
            service_by(w, B, Operator, "CommitFailover", vec![vm()])
                .await
                .value,
            DENIED
        );
        assert_eq!(everything(w, B), before);
        let ask = service_by(w, B, Administrator, "CommitFailover", vec![vm()]).await;
        assert_eq!(ended(w, B, &ask).await, 7);
    });
}

#[test]
fn every_method_is_denied_below_its_role() {
    simulate_small(33, TWO_HOSTS, async |w| {
        // A job that waits for its time, so that every class has an instance.
        done(w, A, "CreateReplicationRelationship", vec![vm(), to("b")]).await;
        let when = (w.shared.now().0 / 1000 + 3600) * 1_000_000;
        let when = lifeboat_cim::DateTime::Instant(i64::try_from(when).unwrap()).to_string();
        let copy = vec![
            vm(),
            text("InitialReplicationType", "1"),
            text("StartTime", &when),
        ];
        assert_eq!(ask(w, A, "StartReplication", copy).await.value, 4096);
        let job = w.jobs(A).last().unwrap().id.to_string();
        let before = [everything(w, A), everything(w, B)];
        let mut denied = 0;
        for (class, entries) in METHODS {
            let target = match *class {
                "Msvm_ComputerSystem" => system(&guid()).name,
                "Msvm_ShutdownComponent" => InstanceName::new(class, &[("SystemName", &guid())]),
                "Msvm_ConcreteJob" => InstanceName::new(class, &[("InstanceID", &job)]),
                class => service(class),
            };
            for entry in *entries {
                for role in Role::ALL.into_iter().filter(|r| *r < entry.role) {
                    let args = match entry.method {
                        "InitiateShutdown" => vec![text("Force", "true")],
                        "RequestStateChange" => vec![text("RequestedState", "4")],
                        _ => Vec::new(),
                    };
                    let answer = by(w, A, role, target.clone(), entry.method, args).await;
                    assert_eq!(
                        (answer.value, answer.out.len()),
                        (DENIED, 0),
                        "{class}.{}",
                        entry.method
                    );
                    denied += 1;
                }
            }
        }
        assert!(denied > 60, "{denied}");
        assert_eq!([everything(w, A), everything(w, B)], before);
    });
}

fn person(name: &str, role: Role) -> Caller {
    Caller {
        name: name.into(),
        role,
        from: Some((Surface::CimXml, "192.0.2.7:5".parse().unwrap())),
    }
}

async fn person_asks(w: &World, name: &str, method: &str, args: Args) -> Result<Outcome, CimError> {
    let caller = person(name, Role::Administrator);
    let target = replication_service();
    manager(w, B)
        .invoke(&caller, VIRTUALIZATION, &target, method, args)
        .await
}

#[test]
fn a_method_that_waits_says_for_whom_and_is_listed_as_a_job() {
    simulate_small(34, TWO_HOSTS, async |w| {
        four_eyes(w, &[B]).await;
        crate::cim_methods::stories::replicating(w).await;
        for _ in 0..6 {
            w.write(10);
            w.run(10).await;
        }
        w.cut(true);
        w.run(30).await;
        let failed_over = person_asks(w, "ada", "InitiateFailover", vec![vm()])
            .await
            .unwrap();
        assert_eq!(ended(w, B, &failed_over).await, 7);
        let e = person_asks(w, "ada", "CommitFailover", vec![vm()])
            .await
            .unwrap_err();
        assert_eq!(e.status, Status::AccessDenied, "{e}");
        let asked = w.shared.state().hosts[B].catalog.requests[0].clone();
        let how = format!("confirms request {}", asked.id);
        assert!(e.message.contains(&how), "{e}");
        assert_eq!(stands(w, B).await, (2, 5));
        // It is a job that has not begun.
        let id = asked.id.to_string().to_uppercase();
        let name = InstanceName::new("Msvm_ConcreteJob", &[("InstanceID", &id)]);
        let job = read(w, B, &name).await;
        assert_eq!(
            (job.unsigned("JobState"), job.unsigned("JobType")),
            (Some(2), Some(99))
        );
        assert_eq!(job.text("Owner"), Some("ada"));
        assert!(job.text("JobStatus").unwrap().contains(&how), "{job:?}");
        // Terminating it is denying the request, which is an administrator's.
        let stop = || vec![text("RequestedState", "4")];
        let ask = by(w, B, Role::Operator, name.clone(), "RequestStateChange", stop()).await;
        assert_eq!(
            (ask.value, w.shared.state().hosts[B].catalog.requests.len()),
            (DENIED, 1)
        );
        let ask = by(
            w,
            B,
            Role::Administrator,
            name.clone(),
            "RequestStateChange",
            stop(),
        )
        .await;
        assert_eq!(
            (ask.value, w.shared.state().hosts[B].catalog.requests.len()),
            (0, 0)
        );
        assert!(manager(w, B).get(VIRTUALIZATION, &name).await.is_err());
        assert_eq!(stands(w, B).await, (2, 5));
    });
}

#[test]
fn removals_wait_whichever_method_they_come_by() {
    simulate_small(35, TWO_HOSTS, async |w| {
        four_eyes(w, &[B]).await;
        crate::cim_methods::stories::replicating(w).await;
        // Entries as well, which are no VM's.
        let ex = vec![vm(), relationship(0)];
        let primary = vec![text("AllowedPrimaryHostSystem", "a")];
        for (method, args) in [
            ("RemoveReplicationRelationship", vec![vm()]),
            ("RemoveReplicationRelationshipEx", ex),
            ("RemoveAuthorizationEntry", primary),
        ] {
            let e = person_asks(w, "ada", method, args).await.unwrap_err();
            assert_eq!(e.status, Status::AccessDenied, "{method}: {e}");
        }
        let requests = w.shared.state().hosts[B].catalog.requests.clone();
        assert_eq!(
            requests.len(),
            2,
            "one relationship, asked for twice, and one entry"
        );
        // Another person on this host.
        let by = By::process(1001, None);
        let request = requests.iter().find(|r| r.vm.is_none()).unwrap().id;
        let answer = w.act_by(B, Some(by), Action::ConfirmRequest { request }).await;
        assert_eq!(answer, Some(Ok(Answer::Done)));
        assert!(w.shared.state().hosts[B].catalog.entries.is_empty());
    });
}
