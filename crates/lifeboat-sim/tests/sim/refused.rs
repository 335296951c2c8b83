//! What was refused because the catalog could not be written has not happened: not in what the host shows, not in its
//! catalog, not after a restart; also when the write that failed had arrived. Each action that changes a relationship meets
//! a failed write once.

use lifeboat_engine::action::{Action, PointSelector, RelationshipRef, ReplicationView};
use lifeboat_engine::records::{FailoverPhase, Job, Relationship, Side};
use lifeboat_model::{JobState, ReplicationSettings, ReplicationState as State, Timestamp};
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, cancel_planned, commit, eventually, failover, job, phase, prepare, replicating, resync,
    reverse, revert, simulate_with, start_copy, state,
};
use lifeboat_sim::{Fault, World};

/// An action, on the host and in the situation where it is possible.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Case {
    StartCopy,
    CancelCopy,
    Suspend,
    Resume,
    Modify,
    ScheduleResync,
    Unschedule,
    Prepare,
    CancelPlanned,
    ResetStatistics,
    FailOver,
    Revert,
    Commit,
    Reverse,
    StartTest,
    StopTest,
    HoldPoints,
    ReleasePoints,
    Bind,
    Scrub,
    Extend,
    RemoveExtended,
    SuspendExtended,
    GiveUpThird,
    BecomeReplica,
}

const CASES: [Case; 25] = [
    Case::StartCopy,
    Case::CancelCopy,
    Case::Suspend,
    Case::Resume,
    Case::Modify,
    Case::ScheduleResync,
    Case::Unschedule,
    Case::Prepare,
    Case::CancelPlanned,
    Case::ResetStatistics,
    Case::FailOver,
    Case::Revert,
    Case::Commit,
    Case::Reverse,
    Case::StartTest,
    Case::StopTest,
    Case::HoldPoints,
    Case::ReleasePoints,
    Case::Bind,
    Case::Scrub,
    Case::Extend,
    Case::RemoveExtended,
    Case::SuspendExtended,
    Case::GiveUpThird,
    Case::BecomeReplica,
];

impl Case {
    fn host(self) -> usize {
        match self {
            Self::StartCopy
            | Self::CancelCopy
            | Self::Suspend
            | Self::Resume
            | Self::Modify
            | Self::ScheduleResync
            | Self::Unschedule
            | Self::Prepare
            | Self::CancelPlanned
            | Self::ResetStatistics
            | Self::BecomeReplica => PRIMARY,
            Self::FailOver
            | Self::Revert
            | Self::Commit
            | Self::Reverse
            | Self::StartTest
            | Self::StopTest
            | Self::HoldPoints
            | Self::ReleasePoints
            | Self::Bind
            | Self::Scrub
            | Self::Extend
            | Self::RemoveExtended
            | Self::SuspendExtended
            | Self::GiveUpThird => REPLICA,
        }
    }
}

fn third() -> ReplicationSettings {
    ReplicationSettings {
        peer: "c:7000".into(),
        interval_s: 15,
        ..World::settings()
    }
}

fn extend() -> Action {
    Action::ExtendReplication {
        vm: World::vm(),
        settings: third(),
        start: true,
    }
}

async fn recovered(w: &mut World) {
    replicating(w).await;
    w.cut_between(PRIMARY, REPLICA, true);
    w.run(5).await;
    w.kill_vm(PRIMARY);
    job(w, REPLICA, failover(PointSelector::Latest)).await.unwrap();
    assert_eq!(state(w, REPLICA), State::Recovered);
}

async fn extended(w: &mut World) {
    replicating(w).await;
    w.insist(REPLICA, extend()).await.unwrap();
    eventually(w, "the third host has a copy", |w| {
        third_state(w) == Some(State::Replicating)
    })
    .await;
}

fn third_state(w: &World) -> Option<State> {
    let rel = w.recorded(REPLICA)?;
    Some(rel.outgoing().first()?.state)
}

async fn done(w: &World, host: usize, action: Action) {
    w.insist(host, action).await.unwrap();
}

/// Brings about the situation in which the action is possible.
async fn situation(case: Case, w: &mut World) {
    let vm = World::vm();
    let settings = World::settings();
    match case {
        Case::StartCopy => done(w, PRIMARY, Action::EnableReplication { vm, settings }).await,
        Case::CancelCopy => {
            done(w, PRIMARY, Action::EnableReplication { vm, settings }).await;
            w.cut(true);
            done(w, PRIMARY, start_copy()).await;
        }
        Case::Revert | Case::Commit => recovered(w).await,
        Case::Reverse => {
            recovered(w).await;
            job(w, REPLICA, commit()).await.unwrap();
            eventually(w, "merged", |w| phase(w) == Some(FailoverPhase::Done)).await;
            w.cut_between(PRIMARY, REPLICA, false);
        }
        Case::RemoveExtended | Case::SuspendExtended => extended(w).await,
        _ => replicating(w).await,
    }
    let vm = World::vm();
    match case {
        Case::GiveUpThird => {
            done(w, REPLICA, extend()).await;
            w.cut_between(REPLICA, 2, true);
        }
        Case::BecomeReplica => {
            w.guest_off(PRIMARY);
            w.run(5).await;
        }
        Case::Resume => {
            done(
                w,
                PRIMARY,
                Action::SuspendReplication {
                    vm,
                    relationship: Default::default(),
                },
            )
            .await
        }
        Case::Unschedule => done(w, PRIMARY, schedule(w)).await,
        Case::CancelPlanned => {
            done(w, PRIMARY, prepare()).await;
            eventually(w, "prepared", |w| {
                state(w, PRIMARY) == State::SyncedReplicationComplete
            })
            .await;
        }
        Case::StopTest => assert_eq!(job(w, REPLICA, start_test()).await.unwrap(), JobState::Completed),
        Case::ReleasePoints => done(w, REPLICA, Action::HoldPoints { vm }).await,
        Case::FailOver => {
            w.cut(true);
            w.kill_vm(PRIMARY);
            w.run(5).await;
        }
        _ => {}
    }
}

fn schedule(w: &World) -> Action {
    Action::Resynchronize {
        vm: World::vm(),
        at: Some(Timestamp(w.shared.now().0 + 3_600_000)),
        relationship: Default::default(),
    }
}

fn action(case: Case, w: &World) -> Action {
    let vm = World::vm();
    match case {
        Case::StartCopy => start_copy(),
        Case::CancelCopy => Action::CancelJob {
            job: w.jobs(PRIMARY).iter().find(|j| !j.state.is_final()).unwrap().id,
        },
        Case::Suspend => Action::SuspendReplication {
            vm,
            relationship: Default::default(),
        },
        Case::Resume => Action::ResumeReplication {
            vm,
            relationship: Default::default(),
        },
        Case::Modify => Action::ModifyReplication {
            vm,
            settings: ReplicationSettings {
                interval_s: 30,
                ..World::settings()
            },
            relationship: Default::default(),
        },
        Case::ScheduleResync => schedule(w),
        Case::Unschedule => Action::CancelResync {
            vm,
            relationship: Default::default(),
        },
        Case::Prepare => prepare(),
        Case::CancelPlanned => cancel_planned(false),
        Case::ResetStatistics => Action::ResetStatistics {
            vm,
            relationship: Default::default(),
        },
        Case::FailOver => failover(PointSelector::Latest),
        Case::Revert => revert(),
        Case::Commit => commit(),
        Case::Reverse => reverse(),
        Case::StartTest => start_test(),
        Case::StopTest => Action::StopTest { vm },
        Case::HoldPoints => Action::HoldPoints { vm },
        Case::ReleasePoints => Action::ReleasePoints { vm },
        Case::Bind => Action::SetAuthorization {
            vm,
            primary: w.shared.state().hosts[REPLICA].catalog.entries[0].primary.clone(),
        },
        Case::Scrub => Action::Scrub { vm },
        Case::Extend => extend(),
        Case::RemoveExtended => Action::RemoveReplication {
            vm,
            relationship: RelationshipRef::Outgoing,
        },
        Case::SuspendExtended => Action::SuspendReplication {
            vm,
            relationship: RelationshipRef::Outgoing,
        },
        Case::GiveUpThird => Action::CancelInitialCopy {
            vm,
            relationship: RelationshipRef::Outgoing,
        },
        Case::BecomeReplica => Action::BecomeReplica { vm },
    }
}

fn start_test() -> Action {
    Action::StartTest {
        vm: World::vm(),
        point: PointSelector::Latest,
        start: true,
    }
}

/// What an action decides, without what cycles change by themselves.
#[derive(Clone, Debug, PartialEq)]
struct Decided {
    state: State,
    mode: String,
    settings: ReplicationSettings,
    side: String,
    counted_since: Option<Timestamp>,
    unfinished: Vec<(String, JobState)>,
}

fn decided(case: Case, rel: &Relationship, jobs: &[Job]) -> Decided {
    let side = match &rel.side {
        Side::Primary(p) => format!("{:?} {:?} {:?}", p.planned, p.scheduled, p.export),
        Side::Replica(r) => format!(
            "{:?} {:?} {:?} {:?} {:?} {:?}",
            r.failover,
            r.test,
            r.import,
            r.allowed,
            r.keeping.hold,
            r.outgoing
                .all()
                .iter()
                .map(|e| (e.state, e.job, e.scheduled, e.settings.clone()))
                .collect::<Vec<_>>()
        ),
        Side::Test { .. } | Side::Alone => String::new(),
    };
    let unfinished = jobs.iter().filter(|j| !j.state.is_final());
    Decided {
        state: rel.state,
        mode: format!("{:?}", rel.mode),
        settings: rel.settings.clone(),
        side,
        counted_since: rel.counters.since.filter(|_| case == Case::ResetStatistics),
        unfinished: unfinished.map(|j| (j.id.to_string(), j.state)).collect(),
    }
}

async fn shown(w: &World, host: usize) -> ReplicationView {
    w.view(host).await.unwrap().replication.unwrap()
}

/// The action meets the fault at its `n`-th call; false: it makes fewer.
async fn refused(case: Case, w: &mut World, n: u64, fault: Fault) -> bool {
    let host = case.host();
    situation(case, w).await;
    let action = action(case, w);
    let before = decided(case, &w.recorded(host).unwrap(), &w.jobs(host));
    let was = shown(w, host).await;
    w.gate(host).arm(n, fault);
    let answer = w.act(host, action.clone()).await.unwrap();
    let Some(hit) = w.gate(host).disarm() else {
        return false;
    };
    if hit != "catalog.put" {
        return true;
    }
    let what = format!("{case:?} call {n} {fault:?}");
    let Err(refusal) = answer else {
        panic!("{what}: a change that could not be written was answered with {answer:?}");
    };
    assert!(refusal.message.contains("catalog"), "{what}: {refusal}");
    let after = decided(case, &w.recorded(host).unwrap(), &w.jobs(host));
    assert_eq!(after, before, "{what}: in the catalog");
    let is = shown(w, host).await;
    assert_eq!(
        (is.state, is.settings),
        (was.state, was.settings),
        "{what}: shown"
    );
    w.restart(host).await;
    let again = shown(w, host).await;
    assert_eq!(again.state, was.state, "{what}: after a restart");
    // Asked again it comes true.
    w.insist(host, action).await.unwrap();
    true
}

#[test]
fn a_refused_action_has_not_happened() {
    for case in CASES {
        let mut met = 0;
        for fault in [Fault::Fail, Fault::FailAfter] {
            for n in 1..40 {
                let hosts = ["a", "b", "c"];
                let (more, hit) = simulate_with(5, &hosts, lifeboat_sim::SYS_BYTES, async |w| {
                    let more = refused(case, w, n, fault).await;
                    (more, more)
                });
                met += u32::from(hit);
                if !more {
                    break;
                }
            }
        }
        assert!(met > 0, "{case:?} made no call");
    }
}

#[test]
fn resync_is_refused_as_a_whole() {
    simulate_with(5, &["a", "b"], 16 << 20, async |w| {
        replicating(w).await;
        w.kill_vm(PRIMARY);
        w.run(12).await;
        w.insist(PRIMARY, lifeboat_sim::harness::start_vm())
            .await
            .unwrap();
        w.write(20);
        w.run(20).await;
        assert_eq!(state(w, PRIMARY), State::WaitingToStartResynchronization);
        w.gate(PRIMARY).arm(1, Fault::FailAfter);
        w.act(PRIMARY, resync()).await.unwrap().unwrap_err();
        assert_eq!(w.gate(PRIMARY).disarm(), Some("catalog.put"));
        assert_eq!(state(w, PRIMARY), State::WaitingToStartResynchronization);
        assert!(
            w.jobs(PRIMARY).iter().all(|j| j.state.is_final()),
            "{:?}",
            w.jobs(PRIMARY)
        );
    });
}
