//! The story the product is for, from the first copy to the commit, with every refusal on the way.

use lifeboat_engine::action::{Action, PointSelector, PointView};
use lifeboat_engine::ports::store::Target;
use lifeboat_engine::records::FailoverPhase;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{JobState, ReplicationState as State};
use lifeboat_sim::World;
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, commit, durable, enable, failover, job, phase, points, refused_with_hint, replicating,
    revert, simulate, start_copy, state, truth,
};

/// What an administrator asks for in this story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Enable,
    StartCopy,
    Suspend,
    Resume,
    Remove,
    Failover,
    Revert,
    Commit,
}

/// Every request there is.
const ALL: [Request; 8] = [
    Request::Enable,
    Request::StartCopy,
    Request::Suspend,
    Request::Resume,
    Request::Remove,
    Request::Failover,
    Request::Revert,
    Request::Commit,
];

/// What a host may be asked for whose VM is not replicated.
const OF_NO_REPLICATION: &[Request] = &[Request::Enable];
/// What a primary may be asked for while data flows.
const OF_A_PRIMARY: &[Request] = &[Request::Suspend, Request::Resume, Request::Remove];
/// What a replica may be asked for while data flows, and while its primary is away.
const OF_A_REPLICA: &[Request] = &[
    Request::Suspend,
    Request::Resume,
    Request::Remove,
    Request::Failover,
];
/// What a replica may be asked for whose VM was brought up.
const OF_A_FAILOVER: &[Request] = &[Request::Revert, Request::Commit];
/// What a replica may be asked for after a commit, while the old primary is away.
const OF_A_COMMIT: &[Request] = &[Request::Remove];

impl Request {
    fn action(self) -> Action {
        let vm = World::vm();
        match self {
            Self::Enable => enable(),
            Self::StartCopy => start_copy(),
            Self::Suspend => Action::SuspendReplication {
                vm,
                relationship: Default::default(),
            },
            Self::Resume => Action::ResumeReplication {
                vm,
                relationship: Default::default(),
            },
            Self::Remove => Action::RemoveReplication {
                vm,
                relationship: Default::default(),
            },
            Self::Failover => failover(PointSelector::Latest),
            Self::Revert => revert(),
            Self::Commit => commit(),
        }
    }
}

/// It is refused in this state, and the refusal says what leads out.
async fn refused(w: &World, host: usize, action: Action) {
    let e = refused_with_hint(w, host, action.clone()).await;
    assert_eq!(e.code, ReturnCode::InvalidState, "{action:?}: {e}");
}

/// A host refuses every request but these. The allowed ones are not asked for.
async fn refuses_all_but(w: &World, host: usize, allowed: &[Request]) {
    for request in ALL.into_iter().filter(|request| !allowed.contains(request)) {
        refused(w, host, request.action()).await;
    }
}

async fn try_point(w: &mut World, selector: PointSelector, wanted: &PointView) {
    let want = truth(w, wanted);
    assert_eq!(
        job(w, REPLICA, failover(selector)).await.unwrap(),
        JobState::Completed
    );
    assert_eq!(state(w, REPLICA), State::Recovered);
    assert_eq!(w.disks_now(REPLICA), want, "the branch holds the point");
    refuses_all_but(w, REPLICA, OF_A_FAILOVER).await;
    refused(w, REPLICA, start_copy()).await;
    w.write(60);
    // Longer than any timer that may be left over from before the failover.
    w.run(40).await;
    assert_ne!(w.disks_now(REPLICA), want);
    w.check(REPLICA).unwrap();
}

async fn story(w: &mut World) {
    refuses_all_but(w, PRIMARY, OF_NO_REPLICATION).await;
    replicating(w).await;
    refuses_all_but(w, PRIMARY, OF_A_PRIMARY).await;
    for _ in 0..30 {
        w.write(20);
        w.run(5).await;
        w.check(REPLICA).unwrap();
    }
    let bulk = w.shared.state().bulk_blocks;
    let before = points(w).await;
    assert!(before.len() >= 6, "{before:?}");
    assert!(before.iter().any(|p| matches!(p.target, Target::Cycle { .. })));
    refuses_all_but(w, REPLICA, OF_A_REPLICA).await;
    // The primary is lost.
    w.cut(true);
    w.run(30).await;
    assert_eq!(state(w, PRIMARY), State::Critical);
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
        assert_eq!(job(w, REPLICA, revert()).await.unwrap(), JobState::Completed);
        assert_eq!((state(w, REPLICA), phase(w)), (State::Replicating, None));
        w.check(REPLICA).unwrap();
        let now = points(w).await;
        let instants = |p: &[PointView]| p.iter().map(|p| p.instant).collect::<Vec<_>>();
        assert!(instants(&now).iter().all(|i| instants(&before).contains(i)));
        refuses_all_but(w, REPLICA, OF_A_REPLICA).await;
    }
    try_point(w, PointSelector::Id(point.id.clone()), &point).await;
    assert_eq!(job(w, REPLICA, commit()).await.unwrap(), JobState::Completed);
    w.run(30).await;
    assert_eq!(
        (state(w, REPLICA), phase(w)),
        (State::Committed, Some(FailoverPhase::Done))
    );
    refuses_all_but(w, REPLICA, OF_A_COMMIT).await;
    // The old primary comes back, and is the past.
    w.cut(false);
    w.write(10);
    w.run(90).await;
    assert_eq!(state(w, PRIMARY), State::Critical);
    let shown = w.view(PRIMARY).await.unwrap().replication.unwrap();
    let problem = shown.problem.unwrap();
    assert!(problem.message.contains("newer generation"), "{problem:?}");
    assert_eq!(w.shared.state().bulk_blocks, bulk, "nothing is copied again");
    w.check(REPLICA).unwrap();
}

#[test]
fn a_vm_is_replicated_failed_over_reverted_failed_over_again_and_committed() {
    for seed in 1..6 {
        simulate(seed, story);
    }
}

#[test]
fn a_primary_that_is_suspended_sends_nothing() {
    simulate(1, async |w| {
        replicating(w).await;
        w.insist(PRIMARY, Request::Suspend.action()).await.unwrap();
        let before = durable(w, REPLICA);
        w.write(20);
        w.run(60).await;
        assert_eq!(durable(w, REPLICA), before);
    });
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
