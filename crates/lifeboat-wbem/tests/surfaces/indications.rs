//! Who is told of what: subscriptions over real engines in the simulated world, in virtual time. How indications travel is
//! tested in `indications_remote`.

use std::sync::Arc;
use std::time::Duration;

use crate::cim_views::world::{GUID, managed, manager, simulate_several, tested};
use lifeboat_cim::{CimError, Instance, Status, Value, wql};
use lifeboat_engine::action::{Action, InitialCopy};
use lifeboat_sim::World;
use lifeboat_sim::harness::{PRIMARY, REPLICA, TWO_HOSTS, completed};
use lifeboat_wbem::cim::indications::{IN_ALL, Indications, PER_USER, QUEUE, Subscription};
use lifeboat_wbem::cim::{Caller, ObjectManager, Role};
use tokio::time::Instant;

const JOBS: &str = "SELECT * FROM CIM_InstModification WHERE SourceInstance ISA \"Msvm_ConcreteJob\"";
/// Suspended.
const PAUSED: &str = "select * from __InstanceModificationEvent within 1 where TargetInstance isa \
                      'Msvm_ReplicationRelationship' and TargetInstance.ReplicationState = 7";
const RELATIONS: &str =
    "SELECT * FROM CIM_InstModification WHERE SourceInstance ISA Msvm_ReplicationRelationship";

fn user(name: &str, role: Role) -> Caller {
    Caller {
        name: name.into(),
        role,
        from: None,
    }
}

fn watching(manager: Arc<ObjectManager>) -> Arc<Indications> {
    let indications = Indications::new(manager);
    tokio::spawn(indications.clone().run());
    indications
}

async fn subscribe(
    to: &Indications,
    by: &Caller,
    query: &str,
    life: Option<u64>,
) -> Result<Arc<Subscription>, CimError> {
    let query = wql::parse(query).unwrap();
    to.subscribe(by, &query, life.map(Duration::from_secs)).await
}

/// The next event for which this is true, within ten minutes of the world's time.
async fn event(of: &Subscription, wanted: impl Fn(&Instance) -> bool) -> Arc<Instance> {
    let until = Instant::now() + Duration::from_secs(600);
    loop {
        let next = of.next(1, until).await.expect("it has not ended");
        let next = next.first().expect("there is an event");
        of.confirm(next.sequence);
        if wanted(&next.instance) {
            return next.instance.clone();
        }
    }
}

fn inner<'a>(event: &'a Instance, name: &str) -> &'a Instance {
    match event.get(name) {
        Some(Value::Instance(inner)) => inner,
        other => panic!("{name} is {other:?}"),
    }
}

fn state_of(event: &Instance, subject: &str, property: &str) -> u64 {
    inner(event, subject).unsigned(property).unwrap()
}

#[test]
fn the_life_of_a_job_and_a_change_of_state_are_told() {
    simulate_several(11, TWO_HOSTS, async |w| {
        let indications = watching(manager(w, PRIMARY));
        let eve = user("eve", Role::Monitor);
        let born = "SELECT * FROM CIM_InstCreation WHERE SourceInstance ISA CIM_ConcreteJob";
        let born = subscribe(&indications, &eve, born, None).await.unwrap();
        let jobs = subscribe(&indications, &eve, JOBS, None).await.unwrap();
        let paused = subscribe(&indications, &eve, PAUSED, None).await.unwrap();
        w.replicate().await;
        let job = event(&born, |_| true).await;
        let id = inner(&job, "SourceInstance")
            .text("InstanceID")
            .unwrap()
            .to_owned();
        assert_eq!(job.class, "CIM_InstCreation");
        let path = job.text("SourceInstanceModelPath").unwrap();
        assert!(
            path.ends_with(&format!(":Msvm_ConcreteJob.InstanceID=\"{id}\"")),
            "{path}"
        );
        let of_it = |e: &Instance| inner(e, "SourceInstance").text("InstanceID") == Some(&id);
        let done = event(&jobs, |e| {
            of_it(e) && state_of(e, "SourceInstance", "JobState") == 7
        })
        .await;
        assert_ne!(state_of(&done, "PreviousInstance", "JobState"), 7);
        // Of all that has happened to the relationship, nothing was that it is suspended.
        assert_eq!(paused.next(1, Instant::now()).await, Some(Vec::new()));
        let vm = World::vm();
        w.insist(
            PRIMARY,
            Action::SuspendReplication {
                vm,
                relationship: Default::default(),
            },
        )
        .await
        .unwrap();
        let told = event(&paused, |_| true).await;
        assert_eq!(told.class, "__InstanceModificationEvent");
        assert_eq!(state_of(&told, "TargetInstance", "ReplicationState"), 7);
        let relationship = inner(&told, "TargetInstance").text("InstanceID").unwrap();
        assert_eq!(relationship, format!("Microsoft:{GUID}\\HVR\\0"));
        assert!(told.unsigned("TIME_CREATED").unwrap() > 132_000_000_000_000_000);
    });
}

#[test]
fn created_and_deleted_instances_are_indicated() {
    simulate_several(12, TWO_HOSTS, async |w| {
        w.replicate().await;
        let indications = watching(manager(w, REPLICA));
        let eve = user("eve", Role::Monitor);
        let query = "SELECT * FROM __InstanceOperationEvent WITHIN 1 WHERE TargetInstance ISA 'Msvm_ComputerSystem' \
                     AND (__CLASS = '__InstanceCreationEvent' OR __CLASS = '__InstanceDeletionEvent')";
        let systems = subscribe(&indications, &eve, query, None).await.unwrap();
        let test = tested(w).await.to_string().to_uppercase();
        let is = |class: &str, e: &Instance| {
            e.class == class && inner(e, "TargetInstance").text("Name") == Some(&test)
        };
        event(&systems, |e| is("__InstanceCreationEvent", e)).await;
        completed(w, REPLICA, Action::StopTest { vm: World::vm() }).await;
        let gone = event(&systems, |e| is("__InstanceDeletionEvent", e)).await;
        assert_eq!(gone.get("PreviousInstance"), None);
    });
}

/// Changes the state of the relationship so often, each time seen by the sampler.
async fn toggled(w: &World, times: usize) {
    for n in 0..times {
        let vm = World::vm();
        let action = match n % 2 {
            0 => Action::SuspendReplication {
                vm,
                relationship: Default::default(),
            },
            _ => Action::ResumeReplication {
                vm,
                relationship: Default::default(),
            },
        };
        w.insist(PRIMARY, action).await.unwrap();
        w.run(5).await;
    }
}

#[test]
fn a_subscriber_that_does_not_read_loses_the_oldest_and_can_count_them() {
    simulate_several(13, TWO_HOSTS, async |w| {
        w.replicate().await;
        let indications = watching(manager(w, PRIMARY));
        let eve = user("eve", Role::Monitor);
        let slow = subscribe(&indications, &eve, RELATIONS, None).await.unwrap();
        let quick = subscribe(&indications, &eve, RELATIONS, None).await.unwrap();
        let mut read = 0;
        while read <= QUEUE as u64 + 20 {
            toggled(w, 2).await;
            for one in quick.next(QUEUE, Instant::now()).await.unwrap() {
                assert_eq!(one.sequence, read, "nothing is lost on who reads");
                quick.confirm(one.sequence);
                read += 1;
            }
        }
        let rest = slow.next(usize::MAX, Instant::now()).await.unwrap();
        assert_eq!(rest.len(), QUEUE);
        assert_eq!(
            (rest[0].sequence, slow.lost()),
            (read - QUEUE as u64, read - QUEUE as u64)
        );
        assert_eq!((rest[QUEUE - 1].sequence, quick.lost()), (read - 1, 0));
        slow.give_up(rest[3].sequence);
        assert_eq!(slow.lost(), read - QUEUE as u64 + 4);
        let rest = slow.next(1, Instant::now()).await.unwrap();
        assert_eq!(rest[0].sequence, read - QUEUE as u64 + 4);
    });
}

#[test]
fn subscriptions_are_limited_and_end() {
    simulate_several(14, TWO_HOSTS, async |w| {
        let indications = watching(manager(w, PRIMARY));
        let eve = user("eve", Role::Monitor);
        let full = |r: Result<Arc<Subscription>, CimError>| {
            assert_eq!(
                r.map(|s| s.id.clone()).unwrap_err().status,
                Status::ServerLimitsExceeded
            );
        };
        let mut own = Vec::new();
        for _ in 0..PER_USER {
            own.push(subscribe(&indications, &eve, JOBS, Some(30)).await.unwrap());
        }
        full(subscribe(&indications, &eve, JOBS, None).await);
        for n in PER_USER..IN_ALL {
            let other = user(&format!("user {}", n / PER_USER), Role::Monitor);
            subscribe(&indications, &other, JOBS, None).await.unwrap();
        }
        full(subscribe(&indications, &user("mallory", Role::Administrator), JOBS, None).await);

        let (first, second) = (own[0].clone(), own[1].clone());
        assert!(indications.find(&eve, &first.id).is_some());
        let mallory = user("mallory", Role::Operator);
        assert!(indications.find(&mallory, &first.id).is_none());
        assert!(!indications.end(&mallory, &first.id), "it is not hers");
        assert!(indications.end(&eve, &first.id));
        assert!(!indications.end(&eve, &first.id), "it has ended before");
        assert!(first.is_over() && first.next(1, Instant::now()).await.is_none());
        assert!(indications.end(&user("root", Role::Administrator), &second.id));

        // Whoever waits for events hears of the end in time.
        let began = Instant::now();
        let until = began + Duration::from_secs(3600);
        assert_eq!(own[2].next(1, until).await, None);
        assert!(began.elapsed() <= Duration::from_secs(30));
        assert!(indications.find(&eve, &own[2].id).is_none());
        subscribe(&indications, &eve, JOBS, None).await.unwrap();
    });
}

#[test]
fn the_engine_is_not_asked_while_nobody_subscribes() {
    simulate_several(15, TWO_HOSTS, async |w| {
        let (manager, asked) = managed(w, PRIMARY);
        let indications = watching(manager);
        w.run(120).await;
        assert_eq!(asked.take(), []);
        let eve = user("eve", Role::Monitor);
        let one = subscribe(&indications, &eve, PAUSED, None).await.unwrap();
        w.run(10).await;
        let most = asked.take();
        assert!(
            matches!(most.as_slice(), [(name, 1..=3)] if name == "ListVms"),
            "for the first samples, and nothing but what the query needs: {most:?}"
        );
        w.run(60).await;
        assert_eq!(asked.take(), [], "nothing changes");
        let (vm, settings) = (World::vm(), World::settings());
        w.insist(PRIMARY, Action::EnableReplication { vm, settings })
            .await
            .unwrap();
        w.run(5).await;
        let once = asked.take();
        assert!(
            matches!(once.as_slice(), [(name, 1..=4)] if name == "ListVms"),
            "because something has changed: {once:?}"
        );
        assert!(indications.end(&eve, &one.id));
        w.run(5).await;
        asked.take();
        w.run(120).await;
        assert_eq!(asked.take(), []);
        // And it begins again.
        let again = subscribe(&indications, &eve, JOBS, None).await.unwrap();
        let (vm, how) = (World::vm(), InitialCopy::Network);
        w.insist(
            PRIMARY,
            Action::StartReplication {
                vm,
                how,
                at: None,
                relationship: Default::default(),
            },
        )
        .await
        .unwrap();
        event(&again, |e| state_of(e, "SourceInstance", "JobState") == 7).await;
    });
}

#[test]
fn queries_that_watch_nothing_are_refused() {
    simulate_several(16, TWO_HOSTS, async |w| {
        let indications = watching(manager(w, PRIMARY));
        let eve = user("eve", Role::Monitor);
        for query in [
            "SELECT * FROM Msvm_ConcreteJob",
            "SELECT * FROM CIM_InstModification",
            "SELECT * FROM CIM_InstModification WHERE SourceInstance ISA 'Msvm_ReplicationService'",
            "SELECT * FROM CIM_InstModification WHERE TargetInstance ISA 'Msvm_ConcreteJob'",
            "SELECT * FROM CIM_InstModification WHERE NOT SourceInstance ISA 'Msvm_ConcreteJob'",
            "SELECT Nothing FROM CIM_InstCreation WHERE SourceInstance ISA 'Msvm_ConcreteJob'",
            "SELECT * FROM __TimerEvent",
            "ASSOCIATORS OF {Msvm_ConcreteJob.InstanceID=\"1\"}",
        ] {
            let refused = subscribe(&indications, &eve, query, None).await;
            let refused = refused.map(|s| s.id.clone()).unwrap_err();
            assert_eq!(refused.status, Status::InvalidQuery, "{query}: {refused}");
        }
    });
}
