//! How stories begin, and how they go on: actions that are carried out to their end, and waiting for what must come true. Everything
//! ends after a bounded virtual time, with what the hosts have recorded in the message.

use lifeboat_engine::action::{Action, Answer, PointSelector, Refusal};
use lifeboat_model::{JobId, JobState, ReplicationState as State};

use super::{PRIMARY, REPLICA, commit, durable, enable, extend, failover, flows, follows, start_copy, state};
use crate::world::World;

/// Enables replication and waits until cycles flow and the first point is there.
pub async fn replicating(w: &mut World) {
    w.insist(PRIMARY, enable()).await.expect("it can be enabled");
    w.insist(PRIMARY, start_copy()).await.expect("it can be started");
    for _ in 0..30 {
        w.write(5);
        w.run(1).await;
        if state(w, PRIMARY) == State::Replicating && state(w, REPLICA) == State::Replicating {
            return;
        }
    }
    panic!(
        "the initial copy does not end: {:?} {:?}",
        w.recorded(PRIMARY),
        w.recorded(REPLICA)
    );
}

/// Replicates from `a` to `b` and from there to `c`, and waits until `c` has everything.
pub async fn chain(w: &mut World) {
    replicating(w).await;
    let extended = job(w, REPLICA, extend("c:7000")).await;
    assert_eq!(extended.expect("it can be extended"), JobState::Completed);
    eventually(w, "the third host follows", |w| follows(w, REPLICA)).await;
}

/// Replicates for so many cycles of ten seconds, cuts the link, and lets guests write what does not arrive.
pub async fn history(w: &mut World, cycles: u32, unsent: u64) {
    replicating(w).await;
    for _ in 0..cycles {
        w.write(10);
        w.run(10).await;
    }
    w.cut(true);
    w.write(unsent);
    w.run(5).await;
}

/// Fails over on host `b`, writes there, and commits.
pub async fn taken_over(w: &mut World, point: PointSelector, writes: u64) {
    let up = job(w, REPLICA, failover(point)).await;
    assert_eq!(up.expect("it can be failed over"), JobState::Completed);
    w.write(writes);
    let kept = job(w, REPLICA, commit()).await;
    assert_eq!(kept.expect("it can be committed"), JobState::Completed);
}

/// These hosts want a second person for what cannot be undone, from now on.
pub async fn four_eyes(w: &World, hosts: &[usize]) {
    for host in hosts {
        w.shared.state().hosts[*host].four_eyes = true;
        w.restart(*host).await;
    }
}

/// An administrator of the replica's host agrees to less history, if that is what the primary asks for now.
pub async fn agreed(w: &World) {
    w.run(1).await;
    let view = w.view(REPLICA).await.and_then(|v| v.replication);
    if view.is_some_and(|r| r.hold.is_some()) {
        let release = Action::ReleasePoints { vm: World::vm() };
        w.insist(REPLICA, release).await.expect("points can be released");
    }
}

/// Starts a job and waits for its end. The daemon lives until it has answered.
///
/// # Errors
/// The job is refused.
pub async fn job(w: &World, host: usize, action: Action) -> Result<JobState, Refusal> {
    match w.act(host, action).await {
        Some(Ok(Answer::Job(job))) => Ok(ended(w, host, job.id).await),
        Some(Err(e)) => Err(e),
        other => panic!("{other:?}"),
    }
}

/// Asks for a job until it is not refused for a passing reason, and waits until it has been completed.
pub async fn completed(w: &World, host: usize, action: Action) {
    let Ok(Answer::Job(job)) = w.insist(host, action.clone()).await else {
        panic!("{action:?} is no job");
    };
    let state = ended(w, host, job.id).await;
    assert_eq!(state, JobState::Completed, "{action:?}: {:?}", w.jobs(host));
}

/// Waits for the end of a job that a host has recorded; its last state.
async fn ended(w: &World, host: usize, id: JobId) -> JobState {
    for _ in 0..600 {
        let found = w.jobs(host).into_iter().find(|j| j.id == id);
        let state = found.expect("a job that was answered is recorded").state;
        if state.is_final() {
            return state;
        }
        w.run(1).await;
    }
    panic!(
        "job {id:?} does not end: {:?}\n{:?}\n{}",
        w.recorded(PRIMARY),
        w.recorded(REPLICA),
        w.tail(40).join("\n")
    );
}

/// Asks a host again and again until something has come true, as a person would.
pub async fn insist_until(w: &World, host: usize, action: Action, granted: impl Fn(&World) -> bool) {
    for _ in 0..15 {
        if granted(w) {
            return;
        }
        let _ = w.act(host, action.clone()).await;
        for _ in 0..20 {
            if granted(w) {
                return;
            }
            w.run(2).await;
        }
    }
    panic!("{action:?} never comes true:\n{}", told(w));
}

/// Waits until something has come true, while guests write now and then.
pub async fn eventually(w: &World, what: &str, granted: impl Fn(&World) -> bool) {
    for _ in 0..200 {
        if granted(w) {
            return;
        }
        w.run(1).await;
        w.write(1);
    }
    panic!("{what} never comes true:\n{}", told(w));
}

/// What the hosts have recorded, and the end of the history.
fn told(w: &World) -> String {
    let side = |h: usize| {
        w.recorded(h).map(|r| {
            format!(
                "{:?} {:?} {} {:?} {:?}",
                r.mode, r.state, r.position, r.side, r.problem
            )
        })
    };
    let all: Vec<_> = (0..w.hosts()).filter_map(side).collect();
    format!("{}\n{}", all.join("\n"), w.tail(30).join("\n"))
}

/// Data flows from the one to the other, nothing is left over, and everything is what it should be.
pub async fn healthy(w: &mut World, primary: usize, replica: usize) {
    eventually(w, "replication", |w| flows(w, primary, replica)).await;
    let before = durable(w, replica);
    w.write(20);
    w.run(40).await;
    assert!(
        durable(w, replica) != before,
        "no progress: {:?}",
        w.recorded(primary)
    );
    assert!(
        flows(w, primary, replica),
        "{:?}\n{:?}",
        w.recorded(primary),
        w.recorded(replica)
    );
    let problem = w.recorded(primary).and_then(|r| r.problem);
    assert!(problem.is_none(), "{problem:?}");
    for host in [primary, replica] {
        let open = w.jobs(host).into_iter().find(|j| !j.state.is_final());
        assert!(open.is_none(), "left behind on {host}: {open:?}");
    }
    let right = w.check_all();
    assert!(right.is_ok(), "{right:?}");
}
