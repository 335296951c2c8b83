//! What the engine makes of files that cannot be used: nothing is promised on them, the next good point is named, and
//! what the store has seen is in the health and in the events.

use lifeboat_engine::action::{Action, PointSelector, PointView};
use lifeboat_engine::ports::storage::{StorageFault, StorageFaultKind as Kind};
use lifeboat_engine::ports::store::Target;
use lifeboat_model::hint::{self, Hint};
use lifeboat_model::{JobState, ReplicationHealth as Health, ReplicationState as State, Timestamp};
use lifeboat_sim::harness::texts;
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, commit, failover, healthy, job, points, refused, replicating, revert, simulate, state,
};
use lifeboat_sim::{VM, World};

/// A replica with several points whose primary is lost.
async fn lost(w: &mut World) -> Vec<PointView> {
    replicating(w).await;
    for _ in 0..30 {
        w.write(20);
        w.run(5).await;
    }
    w.cut(true);
    w.run(30).await;
    let sealed = |p: &PointView| matches!(p.target, Target::Point { .. });
    let sealed: Vec<_> = points(w).await.into_iter().filter(sealed).collect();
    assert!(sealed.len() >= 3, "{sealed:?}");
    sealed
}

/// Damages a file of a point (`None`: puts everything back).
fn spoil(w: &World, point: Option<&PointView>) {
    let mut s = w.shared.state();
    let rotten = &mut s.hosts[REPLICA].replicas.get_mut(&VM).unwrap().rotten;
    match point.map(|p| p.target) {
        Some(Target::Point { id }) => {
            rotten.insert(id);
        }
        Some(Target::Cycle { .. } | Target::Abandoned) => panic!("not sealed"),
        None => rotten.clear(),
    }
}

fn test(point: &PointView) -> Action {
    Action::StartTest {
        vm: World::vm(),
        point: PointSelector::Id(point.id.clone()),
        start: false,
    }
}

fn events(w: &World) -> String {
    format!("{:?}", w.shared.state().hosts[REPLICA].events)
}

#[test]
fn a_point_with_a_damaged_file_is_refused_and_the_next_good_one_named() {
    simulate(410, async |w| {
        let sealed = lost(w).await;
        spoil(w, Some(&sealed[1]));
        let (bad, good) = (&sealed[0], &sealed[2]);
        for action in [
            failover(PointSelector::Id(bad.id.clone())),
            failover(PointSelector::Id(sealed[1].id.clone())),
            failover(PointSelector::Latest),
            test(bad),
        ] {
            let e = refused(w, REPLICA, action).await;
            assert!(e.message.contains(".qcow2: it is no qcow2 image"), "{e}");
            // What lies between them needs the damaged file as well.
            let Some(Hint::Failover(hint::Failover::UsePoint { point: named })) = e.hint.clone() else {
                panic!("{e:?}");
            };
            let named = points(w).await.into_iter().find(|p| p.id == named).unwrap();
            assert!(
                named.instant < sealed[1].instant && named.instant >= good.instant,
                "{e}"
            );
        }
        assert_eq!(state(w, REPLICA), State::Replicating);
        let start = failover(PointSelector::Id(good.id.clone()));
        assert_eq!(job(w, REPLICA, start).await.unwrap(), JobState::Completed);
        assert_eq!(state(w, REPLICA), State::Recovered);
        w.check(REPLICA).unwrap();
    });
}

#[test]
fn revert_and_commit_are_refused_on_files_that_cannot_be_used() {
    simulate(411, async |w| {
        let sealed = lost(w).await;
        let start = failover(PointSelector::Id(sealed[0].id.clone()));
        assert_eq!(job(w, REPLICA, start).await.unwrap(), JobState::Completed);
        spoil(w, Some(&sealed[2]));
        let e = refused(w, REPLICA, commit()).await;
        assert!(
            e.message.contains("cannot be committed") && e.message.contains(".qcow2"),
            "{e}"
        );
        let vm = World::vm();
        w.insist(REPLICA, Action::StopVm { vm, force: true })
            .await
            .unwrap();
        let gentle = Action::RevertFailover {
            vm: World::vm(),
            force: false,
        };
        let e = refused(w, REPLICA, gentle).await;
        assert!(
            e.message.contains(".qcow2") && e.hint == Some(hint::Failover::CommitOrForce.into()),
            "{e}"
        );
        assert_eq!(state(w, REPLICA), State::Recovered);
        // Whoever insists gets it, and an honest word.
        assert_eq!(job(w, REPLICA, revert()).await.unwrap(), JobState::Completed);
        assert!(events(w).contains("failover reverted; recovery point"));
        spoil(w, None);
        let start = failover(PointSelector::Id(sealed[0].id.clone()));
        assert_eq!(job(w, REPLICA, start).await.unwrap(), JobState::Completed);
        assert_eq!(job(w, REPLICA, commit()).await.unwrap(), JobState::Completed);
    });
}

#[test]
fn a_storage_fault_is_in_the_health_and_once_in_the_events() {
    simulate(412, async |w| {
        replicating(w).await;
        for (kind, health) in [(Kind::SetAside, Health::Warning), (Kind::Lost, Health::Critical)] {
            let fault = StorageFault {
                kind,
                path: format!("/replicas/{kind:?}").into(),
                detail: "it is gone".into(),
                since: Timestamp(1),
            };
            w.shared.state().hosts[REPLICA]
                .replicas
                .get_mut(&VM)
                .unwrap()
                .faults = vec![fault.clone()];
            let seen = w.view(REPLICA).await.unwrap().replication.unwrap();
            assert_eq!(seen.health, health, "{:?}", seen.health_notes);
            assert!(
                texts(&seen.health_notes).contains(&fault.to_string().as_str()),
                "{:?}",
                seen.health_notes
            );
            w.write(5);
            w.run(400).await;
            let told = events(w).matches(&fault.to_string()).count();
            assert_eq!(told, 1, "said once");
        }
        w.shared.state().hosts[REPLICA]
            .replicas
            .get_mut(&VM)
            .unwrap()
            .faults
            .clear();
        w.write(5);
        w.run(400).await;
        for host in [PRIMARY, REPLICA] {
            let seen = w.view(host).await.unwrap().replication.unwrap();
            assert_eq!(seen.health, Health::Ok, "{:?}", seen.health_notes);
        }
    });
}

/// Logs go on arriving while one that came before cannot be applied.
#[test]
fn arriving_logs_do_not_clear_a_failure_to_apply() {
    simulate(430, async |w| {
        replicating(w).await;
        w.shared.state().hosts[REPLICA].log_damaged = true;
        w.write(20);
        w.run(20).await;
        let before = w.shared.state().hosts[REPLICA].replicas[&VM].durable;
        for second in 0..60 {
            w.write(5);
            w.run(1).await;
            let v = w.view(REPLICA).await.unwrap().replication.unwrap();
            assert_eq!(
                (v.state, v.health),
                (State::Critical, Health::Critical),
                "{second}: {v:?}"
            );
        }
        let after = w.shared.state().hosts[REPLICA].replicas[&VM].durable;
        assert_ne!(before, after, "nothing arrived");
        w.shared.state().hosts[REPLICA].log_damaged = false;
        healthy(w, PRIMARY, REPLICA).await;
    });
}
