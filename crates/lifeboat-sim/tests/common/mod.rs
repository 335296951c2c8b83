//! What the tests of the simulated world share: a runtime in virtual time for each seed, and the usual beginnings.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(unreachable_pub, reason = "shared by the test files")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

use lifeboat_engine::action::{Action, Answer, InitialCopy, PointSelector, PointView, Refusal};
use lifeboat_engine::records::{FailoverPhase, Side};
use lifeboat_model::{JobState, ReplicationState as State};
use lifeboat_sim::World;

/// The seed to replay, if one was asked for.
pub fn asked() -> Option<u64> {
    std::env::var("LIFEBOAT_SEED").ok()?.parse().ok()
}

/// Runs a scenario in its own world.
pub fn simulate<T>(seed: u64, scenario: impl AsyncFnOnce(&mut World) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new(seed).await;
        scenario(&mut world).await
    })
}

/// Enables replication and waits until cycles flow and the first point is there.
pub async fn replicating(w: &mut World) {
    let (vm, settings) = (World::vm(), World::settings());
    w.insist(0, Action::EnableReplication { vm, settings })
        .await
        .unwrap();
    w.insist(0, start_copy()).await.unwrap();
    for _ in 0..30 {
        w.write(5);
        w.run(1).await;
        if state(w, 0) == State::Replicating && state(w, 1) == State::Replicating {
            return;
        }
    }
    panic!(
        "the initial copy does not end: {:?} {:?}",
        w.recorded(0),
        w.recorded(1)
    );
}

/// The recorded state of a host; 0 when there is no relationship.
pub fn state(w: &World, host: usize) -> State {
    w.recorded(host).map_or(State::Disabled, |r| r.state)
}

/// The recorded phase of a failover.
pub fn phase(w: &World) -> Option<FailoverPhase> {
    match w.recorded(1)?.side {
        Side::Replica(replica) => replica.failover.map(|f| f.phase),
        Side::Primary(_) | Side::Test { .. } | Side::Alone => None,
    }
}

pub async fn points(w: &World) -> Vec<PointView> {
    match w.insist(1, Action::ListPoints { vm: World::vm() }).await {
        Ok(Answer::Points(points)) => points,
        other => panic!("{other:?}"),
    }
}

/// Starts a job and waits for its end.
pub async fn job(w: &World, host: usize, action: Action) -> Result<JobState, Refusal> {
    let job = match w.act(host, action).await {
        Some(Ok(Answer::Job(job))) => job,
        Some(Err(e)) => return Err(e),
        other => panic!("{other:?}"),
    };
    for _ in 0..60 {
        let found = w.jobs(host).into_iter().find(|j| j.id == job.id).unwrap();
        if found.state.is_final() {
            return Ok(found.state);
        }
        w.run(1).await;
    }
    panic!("job {job:?} does not end");
}

pub fn failover(point: PointSelector) -> Action {
    Action::InitiateFailover {
        vm: World::vm(),
        point,
        start: true,
        force: false,
    }
}

pub fn start_copy() -> Action {
    Action::StartReplication {
        vm: World::vm(),
        how: InitialCopy::Network,
        at: None,
    }
}

pub fn revert() -> Action {
    Action::RevertFailover {
        vm: World::vm(),
        force: true,
    }
}

pub fn commit() -> Action {
    Action::CommitFailover { vm: World::vm() }
}
