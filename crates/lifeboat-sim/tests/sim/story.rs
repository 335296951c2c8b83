//! The story the product is for, from the first copy to the commit, with every refusal on the way.

use crate::common::{commit, failover, job, phase, points, replicating, revert, simulate, start_copy, state};
use lifeboat_engine::action::{Action, PointSelector, PointView};
use lifeboat_engine::ports::store::Target;
use lifeboat_engine::records::FailoverPhase;
use lifeboat_model::{JobState, ReplicationState as State};
use lifeboat_sim::{Content, VM, World};

/// What the disks held at a listed point, by the world's own memory.
fn truth(w: &World, point: &PointView) -> Vec<Content> {
    let s = w.shared.state();
    let r = &s.hosts[1].replicas[&VM];
    let position = match point.target {
        Target::Point { id } => r.points.iter().find(|(p, _)| p.id == id).unwrap().0.position,
        Target::Cycle { position } => position,
        Target::Abandoned => panic!("nothing was abandoned"),
    };
    s.truth_at(VM, position).unwrap().disks.clone()
}

async fn refused(w: &World, host: usize, action: Action) {
    let answer = w.act(host, action.clone()).await.unwrap();
    let e = answer.expect_err(&format!("{action:?} should be refused"));
    assert_eq!(e.code.number(), 32775, "{action:?}: {e}");
    assert!(!e.hint.is_empty(), "{action:?}: {e} has no way out");
}

fn vm_actions() -> Vec<Action> {
    let vm = World::vm;
    vec![
        Action::EnableReplication {
            vm: vm(),
            settings: World::settings(),
        },
        start_copy(),
        Action::SuspendReplication { vm: vm() },
        Action::ResumeReplication { vm: vm() },
        Action::RemoveReplication { vm: vm() },
        failover(PointSelector::Latest),
        revert(),
        commit(),
    ]
}

/// Refuses all but the actions with these numbers in the list above.
async fn only(w: &World, host: usize, allowed: &[usize]) {
    for (n, action) in vm_actions().into_iter().enumerate() {
        if !allowed.contains(&n) {
            refused(w, host, action).await;
        }
    }
}

async fn try_point(w: &mut World, selector: PointSelector, wanted: &PointView) {
    let want = truth(w, wanted);
    assert_eq!(job(w, 1, failover(selector)).await.unwrap(), JobState::Completed);
    assert_eq!(state(w, 1), State::Recovered);
    assert_eq!(w.disks_now(1), want, "the branch holds the point");
    only(w, 1, &[6, 7]).await;
    refused(w, 1, start_copy()).await;
    w.write(60);
    // Longer than any timer that may be left over from before the failover.
    w.run(40).await;
    assert_ne!(w.disks_now(1), want);
    w.check(1).unwrap();
}

async fn story(w: &mut World) {
    only(w, 0, &[0]).await;
    replicating(w).await;
    only(w, 0, &[2, 3, 4]).await;
    for _ in 0..30 {
        w.write(20);
        w.run(5).await;
        w.check(1).unwrap();
    }
    let bulk = w.shared.state().bulk_blocks;
    let before = points(w).await;
    assert!(before.len() >= 6, "{before:?}");
    assert!(before.iter().any(|p| matches!(p.target, Target::Cycle { .. })));
    only(w, 1, &[2, 3, 4, 5]).await;
    // The primary is lost.
    w.cut(true);
    w.run(30).await;
    assert_eq!(state(w, 0), State::Critical);
    let before = points(w).await;
    let newest = before[0].clone();
    let point = before
        .iter()
        .rev()
        .find(|p| matches!(p.target, Target::Point { .. }))
        .unwrap()
        .clone();
    let cycle = before
        .iter()
        .rev()
        .find(|p| matches!(p.target, Target::Cycle { .. }))
        .unwrap()
        .clone();
    let by_time = before[before.len() / 2].clone();
    let tries = [
        (PointSelector::Latest, &newest),
        (PointSelector::Id(point.id.clone()), &point),
        (PointSelector::At(by_time.instant), &by_time),
        (PointSelector::Id(cycle.id.clone()), &cycle),
    ];
    for (selector, wanted) in tries {
        try_point(w, selector, wanted).await;
        assert_eq!(job(w, 1, revert()).await.unwrap(), JobState::Completed);
        assert_eq!((state(w, 1), phase(w)), (State::Replicating, None));
        w.check(1).unwrap();
        let now = points(w).await;
        let instants = |p: &[PointView]| p.iter().map(|p| p.instant).collect::<Vec<_>>();
        assert!(instants(&now).iter().all(|i| instants(&before).contains(i)));
        only(w, 1, &[2, 3, 4, 5]).await;
    }
    try_point(w, PointSelector::Id(point.id.clone()), &point).await;
    assert_eq!(job(w, 1, commit()).await.unwrap(), JobState::Completed);
    w.run(30).await;
    assert_eq!(
        (state(w, 1), phase(w)),
        (State::Committed, Some(FailoverPhase::Done))
    );
    only(w, 1, &[4]).await;
    // The old primary comes back, and is the past.
    w.cut(false);
    w.write(10);
    w.run(90).await;
    assert_eq!(state(w, 0), State::Critical);
    let problem = w.view(0).await.unwrap().replication.unwrap().problem.unwrap();
    assert!(problem.message.contains("newer generation"), "{problem:?}");
    assert_eq!(w.shared.state().bulk_blocks, bulk, "nothing is copied again");
    w.check(1).unwrap();
}

#[test]
fn a_vm_is_replicated_failed_over_reverted_failed_over_again_and_committed() {
    for seed in 1..6 {
        simulate(seed, story);
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let trace = |seed| {
        simulate(seed, async |w| {
            story(w).await;
            w.shared.state().trace
        })
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}
