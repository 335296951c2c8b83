//! Bit rot in the simulated world: a scrub finds it, says so, repairs it with the primary's help, and nothing that is
//! spoiled is brought up. The simulated store believes only the number that was there.

use lifeboat_engine::action::{Action, PointSelector, PointView, ReplicationView};
use lifeboat_engine::ports::store::Target;
use lifeboat_model::hint::{self, Hint};
use lifeboat_model::{JobState, ReplicationHealth, ReplicationSettings, ReplicationState as State};
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, eventually, failover, healthy, job, local_disks, points, replicating, simulate, state,
};
use lifeboat_sim::{VM, World};

fn scrub() -> Action {
    Action::Scrub { vm: World::vm() }
}

async fn replica(w: &World) -> ReplicationView {
    w.view(REPLICA).await.unwrap().replication.unwrap()
}

/// Points enough, none of which expires while a test looks at them.
async fn several_points(w: &mut World) {
    replicating(w).await;
    let (vm, disks) = (World::vm(), w.recorded(PRIMARY).unwrap().settings.disks);
    let settings = ReplicationSettings {
        disks,
        history: 24,
        ..World::settings()
    };
    w.insist(
        PRIMARY,
        Action::ModifyReplication {
            vm,
            settings,
            relationship: Default::default(),
        },
    )
    .await
    .unwrap();
    for _ in 0..40 {
        w.write(6);
        w.run(60).await;
        if w.shared.state().hosts[REPLICA].replicas[&VM].points.len() >= 3 {
            return;
        }
    }
    panic!("no points");
}

/// A block of the oldest point that every newer content still shows, or that none of them does; logs no longer have it.
fn rot(w: &World, shown: bool) -> bool {
    let primary = local_disks(w);
    let mut s = w.shared.state();
    let r = s.hosts[REPLICA].replicas.get_mut(&VM).unwrap();
    let oldest = r.points[0].1[0].clone();
    let found = oldest.iter().find(|(b, n)| {
        let now = primary[0].get(b) == Some(n);
        let newer = r.points[1..].iter().map(|(_, c)| &c[0]).chain([&r.head[0]]);
        let same = newer.clone().all(|c| c.get(b) == Some(n));
        let other = newer.clone().all(|c| c.get(b) != Some(n));
        !r.logged(0, **b, **n) && if shown { now && same } else { !now && other }
    });
    let Some((&block, _)) = found else { return false };
    r.rot(0, 0, block);
    true
}

#[test]
fn rot_is_repaired_from_what_the_primary_has_now() {
    let mut seen = 0;
    for seed in 1..6 {
        simulate(seed, async |w| {
            several_points(w).await;
            if !rot(w, true) {
                return;
            }
            seen += 1;
            let _ = job(w, REPLICA, scrub()).await.unwrap();
            eventually(w, "the repair", |w| {
                w.shared.state().hosts[REPLICA].replicas[&VM].rot.is_empty()
            })
            .await;
            w.run(30).await;
            assert!(points(w).await.iter().all(|p| p.unusable.is_none()));
            assert_eq!(job(w, REPLICA, scrub()).await.unwrap(), JobState::Completed);
            healthy(w, PRIMARY, REPLICA).await;
        });
    }
    assert!(seen > 0, "no seed had a block to rot");
}

#[test]
fn damage_that_cannot_be_repaired_is_critical_and_its_points_are_not_offered() {
    let mut seen = 0;
    for seed in 1..12 {
        simulate(seed, async |w| {
            several_points(w).await;
            if !rot(w, false) {
                return;
            }
            assert_eq!(job(w, REPLICA, scrub()).await.unwrap(), JobState::Exception);
            let view = replica(w).await;
            let listed = points(w).await;
            // Cycles that would be replayed onto it are not offered either.
            let spoiled = |p: &&PointView| p.unusable.is_some() && matches!(p.target, Target::Point { .. });
            let hurt = listed.iter().find(spoiled).unwrap();
            assert_eq!(view.health, ReplicationHealth::Critical);
            assert!(
                view.health_notes.iter().any(|n| n.text.contains(&hurt.id)),
                "{view:?}"
            );
            assert!(listed[0].unusable.is_none(), "the newest is good");
            let by_id = failover(PointSelector::Id(hurt.id.clone()));
            let refused = w.insist(REPLICA, by_id).await.unwrap_err();
            seen += 1;
            let mut good = listed.iter().filter(|p| p.unusable.is_none());
            let Some(Hint::Failover(hint::Failover::UsePoint { point })) = &refused.hint else {
                panic!("{refused:?}");
            };
            assert!(good.any(|p| p.id == *point), "{refused:?}");
            let at = failover(PointSelector::At(hurt.instant));
            assert!(w.insist(REPLICA, at).await.is_err(), "nothing good is that old");
            assert_eq!(state(w, REPLICA), State::Replicating);
        });
    }
    assert!(seen > 0, "no seed had a block to rot");
}

#[test]
fn spoiled_newest_data_is_compared_and_made_good_again() {
    let mut seen = 0;
    for seed in 1..6 {
        simulate(seed, async |w| {
            several_points(w).await;
            // The primary is away while the rot is found: only a comparison can help when it has written over it.
            if !rot(w, true) {
                return;
            }
            seen += 1;
            w.cut(true);
            let _ = job(w, REPLICA, scrub()).await;
            let notes = replica(w).await.health_notes;
            assert!(notes.iter().any(|n| n.text.contains("newest data")), "{notes:?}");
            let spoiled = points(w).await;
            assert!(spoiled.iter().all(|p| p.unusable.is_some()), "{spoiled:?}");
            let refused = w
                .insist(REPLICA, failover(PointSelector::Latest))
                .await
                .unwrap_err();
            assert!(refused.message.contains("damaged"), "{refused:?}");
            w.cut(false);
            w.run(400).await;
            eventually(w, "good data", |w| {
                w.shared.state().hosts[REPLICA].replicas[&VM].rot.is_empty()
            })
            .await;
            w.run(60).await;
            assert!(points(w).await[0].unusable.is_none());
        });
    }
    assert!(seen > 0, "no seed had a block to rot");
}

#[test]
fn a_host_without_a_replica_has_nothing_to_scrub() {
    simulate(1, async |w| {
        replicating(w).await;
        let refused = w.insist(PRIMARY, scrub()).await.unwrap_err();
        assert_eq!(
            refused.hint,
            Some(hint::Replicate::OnReplicaHost.into()),
            "{refused:?}"
        );
        assert_eq!(job(w, REPLICA, scrub()).await.unwrap(), JobState::Completed);
    });
}
