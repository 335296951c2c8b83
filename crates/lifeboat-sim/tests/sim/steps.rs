//! Every step of every saga fails once, and the daemon dies before and after every step. A step is a call of a port; the
//! test counts them, so a new one is covered the day it is added.

use lifeboat_engine::action::{Action, PointSelector};
use lifeboat_engine::ports::store::Target;
use lifeboat_engine::records::FailoverPhase;
use lifeboat_model::ReplicationState as State;
use lifeboat_sim::harness::{
    A, B, Steps, cancel_planned, commit, durable, enable, failover, flows, healthy, history, insist_until,
    phase, planned, points, prepare, remove, replicating, resume, resync, reverse, revert, start_copy,
    start_vm, state, suspend,
};
use lifeboat_sim::{VM, World};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Saga {
    Enable,
    Copy,
    Cycle,
    Suspend,
    Failover,
    FailoverToCycle,
    Revert,
    Commit,
    RemovePrimary,
    RemoveReplica,
    Planned,
    CancelPlanned,
    Reverse,
    ReverseCompared,
    Resync,
}

async fn failed_over(w: &mut World) {
    history(w, 8, 0).await;
    insist_until(w, B, failover(PointSelector::Latest), |w| {
        state(w, B) == State::Recovered
    })
    .await;
    w.write(50);
}

async fn bring_about(saga: Saga, w: &mut World) {
    match saga {
        Saga::Enable => {}
        Saga::Copy => {
            w.insist(A, enable()).await.unwrap();
        }
        Saga::Cycle | Saga::Suspend | Saga::RemovePrimary | Saga::RemoveReplica => replicating(w).await,
        Saga::Failover | Saga::FailoverToCycle => history(w, 8, 0).await,
        Saga::Planned => replicating(w).await,
        Saga::CancelPlanned => {
            replicating(w).await;
            insist_until(w, A, prepare(), |w| {
                state(w, A) == State::SyncedReplicationComplete
            })
            .await;
        }
        Saga::Reverse | Saga::ReverseCompared => {
            failed_over(w).await;
            insist_until(w, B, commit(), |w| phase(w) == Some(FailoverPhase::Done)).await;
            if saga == Saga::Reverse {
                w.guest_off(A);
            } else {
                w.kill_vm(A);
            }
            w.cut(false);
            w.run(40).await;
        }
        Saga::Resync => {
            replicating(w).await;
            w.kill_vm(A);
            w.run(12).await;
            w.insist(A, start_vm()).await.unwrap();
            w.write(20);
            w.run(20).await;
            assert_eq!(state(w, A), State::WaitingToStartResynchronization);
        }
        Saga::Revert | Saga::Commit => failed_over(w).await,
    }
}

async fn older_cycle(w: &World) -> PointSelector {
    let listed = points(w).await;
    let mut cycles = listed.iter().filter(|p| matches!(p.target, Target::Cycle { .. }));
    PointSelector::Id(cycles.next_back().unwrap().id.clone())
}

async fn run(saga: Saga, w: &mut World) {
    let vm = World::vm;
    let recovered = |w: &World| state(w, B) == State::Recovered;
    match saga {
        Saga::Enable => {
            insist_until(w, A, enable(), |w| state(w, A) == State::ReadyForReplication).await;
        }
        Saga::Copy => {
            insist_until(w, A, start_copy(), |w| {
                w.write(1);
                state(w, A) == State::Replicating && state(w, B) == State::Replicating
            })
            .await;
        }
        Saga::Cycle => {
            w.write(30);
            let before = durable(w, B).sequence();
            insist_until(w, A, Action::ReplicateNow { vm: vm() }, |w| {
                durable(w, B).sequence() > before
            })
            .await;
        }
        Saga::Suspend => {
            insist_until(w, A, suspend(), |w| state(w, A) == State::Suspended).await;
            w.write(10);
            insist_until(w, A, resume(), |w| state(w, A) == State::Replicating).await;
        }
        Saga::Failover => insist_until(w, B, failover(PointSelector::Latest), recovered).await,
        Saga::FailoverToCycle => {
            let point = older_cycle(w).await;
            insist_until(w, B, failover(point), recovered).await;
        }
        Saga::Revert => insist_until(w, B, revert(), |w| phase(w).is_none()).await,
        Saga::Commit => {
            insist_until(w, B, commit(), |w| phase(w) == Some(FailoverPhase::Done)).await;
        }
        Saga::RemovePrimary => {
            insist_until(w, A, remove(), |w| w.recorded(A).is_none()).await;
        }
        Saga::RemoveReplica => {
            insist_until(w, B, remove(), |w| w.recorded(B).is_none()).await;
        }
        Saga::Planned => moved(w).await,
        Saga::CancelPlanned => {
            insist_until(w, A, cancel_planned(false), |w| state(w, A) == State::Replicating).await;
            insist_until(w, A, start_vm(), |w| w.runs(A)).await;
        }
        Saga::Reverse | Saga::ReverseCompared => insist_until(w, B, reverse(), |w| flows(w, B, A)).await,
        Saga::Resync => insist_until(w, A, resync(), |w| flows(w, A, B)).await,
    }
}

/// Asks for a planned failover until the roles are swapped.
async fn moved(w: &World) {
    insist_until(w, A, planned(true), |w| flows(w, B, A)).await;
}

/// Afterwards everything must be whole, and go on.
async fn whole(saga: Saga, w: &mut World) {
    w.run(60).await;
    w.check(B).unwrap();
    for host in [A, B] {
        let open = w.jobs(host).into_iter().find(|j| !j.state.is_final());
        assert!(open.is_none(), "left behind on {host}: {open:?}");
    }
    match saga {
        Saga::Enable => {
            insist_until(w, A, start_copy(), |w| {
                state(w, A) == State::Replicating && state(w, B) == State::Replicating
            })
            .await;
        }
        Saga::Failover | Saga::FailoverToCycle => {
            w.write(20);
            insist_until(w, B, revert(), |w| phase(w).is_none()).await;
        }
        Saga::Commit | Saga::RemovePrimary | Saga::RemoveReplica => return,
        Saga::Planned | Saga::Reverse | Saga::ReverseCompared => {
            let twins = w.shared.state().twins.clone();
            assert!(twins.is_empty(), "{twins:?}");
            if !w.runs(B) {
                // The one call that was to start it may have failed; that is told, and not tried for ever.
                w.insist(B, start_vm()).await.unwrap();
            }
            return healthy(w, B, A).await;
        }
        Saga::CancelPlanned | Saga::Resync => return healthy(w, A, B).await,
        Saga::Copy | Saga::Cycle | Saga::Suspend | Saga::Revert => {}
    }
    w.check(B).unwrap();
    w.cut(false);
    let (before, bulk) = (durable(w, B).sequence(), w.shared.state().bulk_blocks);
    w.write(20);
    w.run(90).await;
    assert!(
        durable(w, B).sequence() > before,
        "no progress: {:?}",
        w.recorded(A)
    );
    assert_eq!(
        (state(w, A), state(w, B)),
        (State::Replicating, State::Replicating)
    );
    assert_eq!(w.shared.state().bulk_blocks, bulk, "copied again");
    assert!(w.recorded(A).unwrap().problem.is_none(), "{:?}", w.recorded(A));
    w.check(B).unwrap();
    let branches = w.shared.state().hosts[B].replicas[&VM].branches.len();
    assert_eq!(branches, 0, "a branch is left behind");
    let s = w.shared.state();
    let images = s.hosts[A].images.values();
    assert!(images.into_iter().all(|i| i.tracked.len() <= 2));
}

/// Where disks are compared their size is time, and nothing else.
fn bytes(saga: Saga) -> u64 {
    match saga {
        Saga::Reverse | Saga::ReverseCompared | Saga::Resync => 16 << 20,
        _ => lifeboat_sim::SYS_BYTES,
    }
}

fn every_step(saga: Saga) {
    let steps = Steps {
        bytes: bytes(saga),
        ..Steps::of(&saga)
    };
    steps.each_fails_once(
        async |w| {
            bring_about(saga, w).await;
            w.shared.state().bulk_blocks
        },
        async |w, _| run(saga, w).await,
        async |w, bulk| {
            let copies = matches!(saga, Saga::Enable | Saga::Copy);
            assert!(copies || w.shared.state().bulk_blocks == bulk, "copied again");
            whole(saga, w).await;
        },
    );
}

sagas! {
    every_step_of_enabling Enable,
    every_step_of_the_initial_copy Copy,
    every_step_of_a_cycle Cycle,
    every_step_of_suspend_and_resume Suspend,
    every_step_of_a_failover Failover,
    every_step_of_a_failover_to_a_cycle FailoverToCycle,
    every_step_of_a_revert Revert,
    every_step_of_a_commit Commit,
    every_step_of_a_planned_failover Planned,
    every_step_of_cancelling_a_planned_failover CancelPlanned,
    every_step_of_a_reversal Reverse,
    every_step_of_a_reversal_without_records ReverseCompared,
    every_step_of_a_resynchronization Resync,
    every_step_of_a_removal_on_the_primary RemovePrimary,
    every_step_of_a_removal_on_the_replica RemoveReplica,
}
