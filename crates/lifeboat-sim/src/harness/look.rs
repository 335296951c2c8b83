//! What can be read off a host: from its catalog, from its answers, and from the world's own record of disks. Which of these is
//! meant, each function says; a verdict must not come from what is judged.

use std::collections::HashSet;

use lifeboat_engine::action::{Action, Answer, PointView, Refusal, ReplicationView, ServerView};
use lifeboat_engine::paging::Paging;
use lifeboat_engine::ports::store::Target;
use lifeboat_engine::records::{Event, FailoverPhase, OutgoingRelationship, Side};
use lifeboat_model::{Finding, Hint};
use lifeboat_model::{PointId, Position, ReplicationMode as Mode, ReplicationState as State};

use super::{A, C, REPLICA};
use crate::disk::Content;
use crate::world::{VM, World};

/// The recorded state of a host; `Disabled` when there is no relationship.
#[must_use]
pub fn state(w: &World, host: usize) -> State {
    w.recorded(host).map_or(State::Disabled, |r| r.state)
}

/// The recorded role of a host.
#[must_use]
pub fn mode(w: &World, host: usize) -> Mode {
    w.recorded(host).map_or(Mode::None, |r| r.mode)
}

/// The recorded phase of a failover on the replica.
#[must_use]
pub fn phase(w: &World) -> Option<FailoverPhase> {
    match w.recorded(REPLICA)?.side {
        Side::Replica(replica) => replica.failover.map(|f| f.phase),
        Side::Primary(_) | Side::Test { .. } | Side::Alone => None,
    }
}

/// The first recorded relationship to a third host, as the host in the middle has it.
#[must_use]
pub fn extended(w: &World, host: usize) -> Option<OutgoingRelationship> {
    w.recorded(host)?.outgoing().first().cloned()
}

/// Whether one host is recorded as the primary of the other, and data flows.
#[must_use]
pub fn flows(w: &World, primary: usize, replica: usize) -> bool {
    mode(w, primary) == Mode::Primary
        && mode(w, replica) == Mode::Replica
        && (state(w, primary), state(w, replica)) == (State::Replicating, State::Replicating)
        && w.recorded(primary)
            .is_some_and(|r| r.primary().is_some_and(|p| p.sync.is_none()))
}

/// Whether `c` has applied everything that the host in the middle has, and both know that it is so.
#[must_use]
pub fn follows(w: &World, middle: usize) -> bool {
    extended(w, middle).is_some_and(|e| gets_all(w, middle, &e, C))
}

/// The same of a host that this outgoing relationship of the middle one leads to.
#[must_use]
pub fn gets_all(w: &World, middle: usize, of: &OutgoingRelationship, host: usize) -> bool {
    let wanted = durable(w, middle);
    let applied = w.shared.state().hosts[host].replicas.get(&VM).map(|r| r.applied);
    of.state == State::Replicating
        && of.problem.is_none()
        && state(w, host) == State::Replicating
        && applied == Some(wanted)
}

/// The newest position that is durable in the store of a host, which has a replica.
#[must_use]
pub fn durable(w: &World, host: usize) -> Position {
    w.shared.state().hosts[host].replicas[&VM].durable
}

/// Blocks that initial copies sent so far, and blocks that comparisons did.
#[must_use]
pub fn moved(w: &World) -> (u64, u64) {
    let s = w.shared.state();
    (s.bulk_blocks, s.sync_blocks)
}

/// Events of a host that contain these words, oldest first.
#[must_use]
pub fn events(w: &World, host: usize, words: &str) -> Vec<Event> {
    let s = w.shared.state();
    let all = s.hosts[host].events.iter();
    all.filter(|e| e.message.contains(words)).cloned().collect()
}

/// Whether an event of a host contains these words.
#[must_use]
pub fn said(w: &World, host: usize, words: &str) -> bool {
    !events(w, host, words).is_empty()
}

/// How a host shows the VM's replication. It has one, and its daemon lives.
pub async fn replication(w: &World, host: usize) -> ReplicationView {
    let view = w.view(host).await.expect("the daemon shows the VM");
    view.replication.expect("the VM is replicated")
}

/// How a host shows itself.
pub async fn server(w: &World, host: usize) -> ServerView {
    match w.act(host, Action::ShowServer).await {
        Some(Ok(Answer::Server(view))) => view,
        other => panic!("{other:?}"),
    }
}

/// All points that the replica lists, page by page.
pub async fn points(w: &World) -> Vec<PointView> {
    let (mut all, mut page) = (Vec::new(), Paging::FIRST);
    loop {
        let vm = World::vm();
        match w.insist(REPLICA, Action::ListPoints { vm, page }).await {
            Ok(Answer::Points(points)) => {
                all.extend(points.items);
                let limit = None;
                page = match points.next {
                    None => return all,
                    after => Paging { limit, after },
                };
            }
            other => panic!("{other:?}"),
        }
    }
}

/// The sealed ones of the points that the replica lists.
pub async fn sealed(w: &World) -> HashSet<PointId> {
    let id = |p: &PointView| match p.target {
        Target::Point { id } => Some(id),
        Target::Cycle { .. } | Target::Abandoned => None,
    };
    points(w).await.iter().filter_map(id).collect()
}

/// What the disks held at a point that the replica lists, by the world's own record.
#[must_use]
pub fn truth(w: &World, point: &PointView) -> Vec<Content> {
    let s = w.shared.state();
    let kept = &s.hosts[REPLICA].replicas[&VM].points;
    let position = match point.target {
        Target::Point { id } => kept.iter().find(|(p, _)| p.id == id).map(|(p, _)| p.position),
        Target::Cycle { position } => Some(position),
        Target::Abandoned => panic!("what was abandoned is no point of the replica"),
    };
    let position = position.expect("a listed point is in the store");
    let truth = s.truth_at(VM, position).expect("its instant was captured");
    truth.disks.clone()
}

/// What the images hold that host `a` had when the world began.
#[must_use]
pub fn local_disks(w: &World) -> Vec<Content> {
    let s = w.shared.state();
    let content = |k: &str| s.hosts[A].images[k].content.clone();
    ["/vm/sys.qcow2", "/vm/data.qcow2"].map(content).to_vec()
}

/// Blocks in which two copies differ, and how many of them hold data in the second one.
#[must_use]
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

/// The refusal of an action that a host must not carry out.
pub async fn refused(w: &World, host: usize, action: Action) -> Refusal {
    let answer = w.act(host, action.clone()).await;
    let answer = answer.expect("the daemon lives to answer");
    answer.expect_err(&format!("{action:?} should be refused"))
}

/// What findings say, each as its sentence.
#[must_use]
pub fn texts(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|f| f.text.as_str()).collect()
}

/// Whether one of these findings has this hint.
#[must_use]
pub fn hints_at(findings: &[Finding], hint: impl Into<Hint>) -> bool {
    let hint = Some(hint.into());
    findings.iter().any(|f| f.hint == hint)
}

/// A refusal with a hint that says what to do instead.
pub async fn refused_with_hint(w: &World, host: usize, action: Action) -> Refusal {
    let refusal = refused(w, host, action.clone()).await;
    assert!(refusal.hint.is_some(), "{action:?}: {refusal} has no hint");
    refusal
}
