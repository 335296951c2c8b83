//! What the tests of the simulated world share: a runtime in virtual time for each seed, and the usual beginnings.
#![allow(unreachable_pub, reason = "shared by the test files")]

use std::collections::HashSet;

use lifeboat_engine::action::{Action, Answer, InitialCopy, PointSelector, PointView, Refusal};
use lifeboat_engine::paging::Paging;
use lifeboat_engine::ports::store::Target;
use lifeboat_engine::query::Query;
use lifeboat_engine::records::{FailoverPhase, Side};
use lifeboat_model::{JobState, PointId, ReplicationMode as Mode, ReplicationState as State};
use lifeboat_sim::{Content, VM, World};

/// The seed to replay, if one was asked for.
pub fn asked() -> Option<u64> {
    std::env::var("LIFEBOAT_SEED").ok()?.parse().ok()
}

/// Runs a scenario in its own world.
pub fn simulate<T>(seed: u64, scenario: impl AsyncFnOnce(&mut World) -> T) -> T {
    simulate_with(seed, &["a", "b"], lifeboat_sim::SYS_BYTES, scenario)
}

/// The same with these hosts and a first disk of this size.
pub fn simulate_with<T>(
    seed: u64,
    hosts: &[&str],
    bytes: u64,
    scenario: impl AsyncFnOnce(&mut World) -> T,
) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::with(seed, hosts, bytes).await;
        scenario(&mut world).await
    })
}

/// How far a clock is off, in milliseconds, as it was seen in the field; often not at all.
pub fn clock_step(rng: &mut lifeboat_sim::Rng) -> i64 {
    const HOUR: i64 = 3_600_000;
    match rng.below(8) {
        0 => -HOUR,
        1 => HOUR,
        2 => 24 * HOUR,
        3 => 960 * HOUR,
        4 => -960 * HOUR,
        _ => 0,
    }
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

/// All points of the replica, page by page.
pub async fn points(w: &World) -> Vec<PointView> {
    let (mut all, mut page) = (Vec::new(), Paging::FIRST);
    loop {
        let points = w.insist_on(1, Query::list_points(World::vm(), page)).await;
        let points = points.unwrap();
        all.extend(points.items);
        let limit = None;
        page = match points.next {
            None => return all,
            after => Paging { limit, after },
        };
    }
}

/// Somebody on the replica's host agrees to less history, if that is what the primary asks for now.
pub async fn agreed(w: &World) {
    w.run(1).await;
    let held = |r: lifeboat_engine::action::ReplicationView| r.hold.is_some();
    if w.view(1).await.and_then(|v| v.replication).is_some_and(held) {
        w.insist(1, Action::ReleasePoints { vm: World::vm() })
            .await
            .unwrap();
    }
}

/// The sealed points of the replica.
pub async fn sealed(w: &World) -> HashSet<PointId> {
    let id = |p: &PointView| match p.target {
        Target::Point { id } => Some(id),
        Target::Cycle { .. } | Target::Abandoned => None,
    };
    points(w).await.iter().filter_map(id).collect()
}

/// Starts a job and waits for its end.
pub async fn job(w: &World, host: usize, action: Action) -> Result<JobState, Refusal> {
    let job = match w.act(host, action).await {
        Some(Ok(Answer::Job(job))) => job,
        Some(Err(e)) => return Err(e),
        other => panic!("{other:?}"),
    };
    for _ in 0..600 {
        let found = w.jobs(host).into_iter().find(|j| j.id == job.id).unwrap();
        if found.state.is_final() {
            return Ok(found.state);
        }
        w.run(1).await;
    }
    panic!(
        "job {job:?} does not end: {:?}\n{:?}\n{}",
        w.recorded(0),
        w.recorded(1),
        w.tail(40).join("\n")
    );
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

pub fn planned(start: bool) -> Action {
    Action::PlannedFailover {
        vm: World::vm(),
        force: false,
        prepare_only: false,
        start,
    }
}

pub fn prepare() -> Action {
    Action::PlannedFailover {
        vm: World::vm(),
        force: false,
        prepare_only: true,
        start: false,
    }
}

pub fn cancel_planned(force: bool) -> Action {
    Action::CancelPlanned {
        vm: World::vm(),
        force,
    }
}

pub fn reverse() -> Action {
    Action::ReverseReplication {
        vm: World::vm(),
        settings: None,
    }
}

pub fn resync() -> Action {
    Action::Resynchronize {
        vm: World::vm(),
        at: None,
    }
}

pub fn start_vm() -> Action {
    Action::StartVm {
        vm: World::vm(),
        force: false,
    }
}

/// The recorded role of a host.
pub fn mode(w: &World, host: usize) -> Mode {
    w.recorded(host).map_or(Mode::None, |r| r.mode)
}

/// Whether one host is the primary of the other, and data flows.
pub fn flows(w: &World, primary: usize, replica: usize) -> bool {
    mode(w, primary) == Mode::Primary
        && mode(w, replica) == Mode::Replica
        && (state(w, primary), state(w, replica)) == (State::Replicating, State::Replicating)
        && w.recorded(primary)
            .is_some_and(|r| r.primary().is_some_and(|p| p.sync.is_none()))
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
    let side = |h: usize| {
        w.recorded(h).map(|r| {
            format!(
                "{:?} {:?} {} {:?} {:?}",
                r.mode, r.state, r.position, r.side, r.problem
            )
        })
    };
    let all: Vec<_> = (0..w.hosts()).filter_map(side).collect();
    panic!(
        "{what} never comes true:\n{}\n{}",
        all.join("\n"),
        w.tail(30).join("\n")
    );
}

/// Data flows from the one to the other, nothing is left over, and everything is what it should be.
pub async fn healthy(w: &mut World, primary: usize, replica: usize) {
    eventually(w, "replication", |w| flows(w, primary, replica)).await;
    let durable = |w: &World| w.shared.state().hosts[replica].replicas[&VM].durable;
    let before = durable(w);
    w.write(20);
    w.run(40).await;
    assert!(durable(w) != before, "no progress: {:?}", w.recorded(primary));
    assert!(
        flows(w, primary, replica),
        "{:?}\n{:?}",
        w.recorded(primary),
        w.recorded(replica)
    );
    let problem = w.recorded(primary).unwrap().problem;
    assert!(problem.is_none(), "{problem:?}");
    for host in [primary, replica] {
        let open = w.jobs(host).into_iter().find(|j| !j.state.is_final());
        assert!(open.is_none(), "left behind on {host}: {open:?}");
    }
    w.check_all().unwrap();
}

/// Cycles, then a cut, and writes that do not arrive.
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

/// Fails over on host 1, writes there, and commits.
pub async fn taken_over(w: &mut World, point: PointSelector, writes: u64) {
    assert_eq!(job(w, 1, failover(point)).await.unwrap(), JobState::Completed);
    w.write(writes);
    assert_eq!(job(w, 1, commit()).await.unwrap(), JobState::Completed);
}

/// Blocks in which two copies differ, and how many of them hold data in the second one.
pub fn difference(a: &[Content], b: &[Content]) -> (u64, u64) {
    let (mut all, mut data) = (0, 0);
    for (a, b) in a.iter().zip(b) {
        let mut blocks: Vec<u64> = a.keys().chain(b.keys()).copied().collect();
        blocks.sort_unstable();
        blocks.dedup();
        for block in blocks.iter().filter(|n| a.get(n) != b.get(n)) {
            all += 1;
            data += u64::from(b.contains_key(block));
        }
    }
    (all, data)
}

/// The local images of host 0.
pub fn local_disks(w: &World) -> Vec<Content> {
    let s = w.shared.state();
    let content = |k: &str| s.hosts[0].images[k].content.clone();
    ["/vm/sys.qcow2", "/vm/data.qcow2"].map(content).to_vec()
}
