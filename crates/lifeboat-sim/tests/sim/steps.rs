//! Every step of every saga fails once, and the daemon dies before and after every step. A step is a call of a port; the
//! test counts them, so a new one is covered the day it is added.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::common::{
    cancel_planned, commit, failover, flows, phase, planned, points, prepare, replicating, resync, reverse,
    revert, simulate_with, start_copy, start_vm, state,
};
use lifeboat_engine::action::{Action, PointSelector};
use lifeboat_engine::ports::store::Target;
use lifeboat_engine::records::FailoverPhase;
use lifeboat_model::ReplicationState as State;
use lifeboat_sim::{Fault, VM, World};

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

/// Asks until the wish has come true, as a person would.
async fn until(w: &World, host: usize, action: Action, granted: impl Fn(&World) -> bool) {
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
    panic!(
        "{action:?} never comes true: {:?}\n{:?}",
        w.recorded(0),
        w.recorded(1)
    );
}

async fn lost(w: &mut World) {
    replicating(w).await;
    for _ in 0..8 {
        w.write(10);
        w.run(10).await;
    }
    w.cut(true);
    w.run(5).await;
}

async fn failed_over(w: &mut World) {
    lost(w).await;
    until(w, 1, failover(PointSelector::Latest), |w| {
        state(w, 1) == State::Recovered
    })
    .await;
    w.write(50);
}

async fn bring_about(saga: Saga, w: &mut World) {
    let (vm, settings) = (World::vm(), World::settings());
    match saga {
        Saga::Enable => {}
        Saga::Copy => {
            w.insist(0, Action::EnableReplication { vm, settings })
                .await
                .unwrap();
        }
        Saga::Cycle | Saga::Suspend | Saga::RemovePrimary | Saga::RemoveReplica => replicating(w).await,
        Saga::Failover | Saga::FailoverToCycle => lost(w).await,
        Saga::Planned => replicating(w).await,
        Saga::CancelPlanned => {
            replicating(w).await;
            until(w, 0, prepare(), |w| {
                state(w, 0) == State::SyncedReplicationComplete
            })
            .await;
        }
        Saga::Reverse | Saga::ReverseCompared => {
            failed_over(w).await;
            until(w, 1, commit(), |w| phase(w) == Some(FailoverPhase::Done)).await;
            if saga == Saga::Reverse {
                w.guest_off(0);
            } else {
                w.kill_vm(0);
            }
            w.cut(false);
            w.run(40).await;
        }
        Saga::Resync => {
            replicating(w).await;
            w.kill_vm(0);
            w.run(12).await;
            w.insist(0, start_vm()).await.unwrap();
            w.write(20);
            w.run(20).await;
            assert_eq!(state(w, 0), State::WaitingToStartResynchronization);
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
    let recovered = |w: &World| state(w, 1) == State::Recovered;
    match saga {
        Saga::Enable => {
            let enable = Action::EnableReplication {
                vm: vm(),
                settings: World::settings(),
            };
            until(w, 0, enable, |w| state(w, 0) == State::ReadyForReplication).await;
        }
        Saga::Copy => {
            until(w, 0, start_copy(), |w| {
                w.write(1);
                state(w, 0) == State::Replicating && state(w, 1) == State::Replicating
            })
            .await;
        }
        Saga::Cycle => {
            w.write(30);
            let before = durable(w);
            until(w, 0, Action::ReplicateNow { vm: vm() }, |w| durable(w) > before).await;
        }
        Saga::Suspend => {
            until(w, 0, Action::SuspendReplication { vm: vm() }, |w| {
                state(w, 0) == State::Suspended
            })
            .await;
            w.write(10);
            until(w, 0, Action::ResumeReplication { vm: vm() }, |w| {
                state(w, 0) == State::Replicating
            })
            .await;
        }
        Saga::Failover => until(w, 1, failover(PointSelector::Latest), recovered).await,
        Saga::FailoverToCycle => {
            let point = older_cycle(w).await;
            until(w, 1, failover(point), recovered).await;
        }
        Saga::Revert => until(w, 1, revert(), |w| phase(w).is_none()).await,
        Saga::Commit => {
            until(w, 1, commit(), |w| phase(w) == Some(FailoverPhase::Done)).await;
        }
        Saga::RemovePrimary => {
            until(w, 0, Action::RemoveReplication { vm: vm() }, |w| {
                w.recorded(0).is_none()
            })
            .await;
        }
        Saga::RemoveReplica => {
            until(w, 1, Action::RemoveReplication { vm: vm() }, |w| {
                w.recorded(1).is_none()
            })
            .await;
        }
        Saga::Planned => moved(w).await,
        Saga::CancelPlanned => {
            until(w, 0, cancel_planned(false), |w| state(w, 0) == State::Replicating).await;
            until(w, 0, start_vm(), |w| w.runs(0)).await;
        }
        Saga::Reverse | Saga::ReverseCompared => until(w, 1, reverse(), |w| flows(w, 1, 0)).await,
        Saga::Resync => until(w, 0, resync(), |w| flows(w, 0, 1)).await,
    }
}

/// Asks for a planned failover until the roles are swapped.
async fn moved(w: &World) {
    until(w, 0, planned(true), |w| flows(w, 1, 0)).await;
}

fn durable(w: &World) -> u64 {
    w.shared.state().hosts[1].replicas[&VM].durable.sequence()
}

/// Afterwards everything must be whole, and go on.
async fn whole(saga: Saga, w: &mut World) {
    w.run(60).await;
    w.check(1).unwrap();
    for host in 0..2 {
        let open = w.jobs(host).into_iter().find(|j| !j.state.is_final());
        assert!(open.is_none(), "left behind on {host}: {open:?}");
    }
    match saga {
        Saga::Enable => {
            until(w, 0, start_copy(), |w| {
                state(w, 0) == State::Replicating && state(w, 1) == State::Replicating
            })
            .await;
        }
        Saga::Failover | Saga::FailoverToCycle => {
            w.write(20);
            until(w, 1, revert(), |w| phase(w).is_none()).await;
        }
        Saga::Commit | Saga::RemovePrimary | Saga::RemoveReplica => return,
        Saga::Planned | Saga::Reverse | Saga::ReverseCompared => {
            let twins = w.shared.state().twins.clone();
            assert!(twins.is_empty(), "{twins:?}");
            if !w.runs(1) {
                // The one call that was to start it may have failed; that is told, and not tried for ever.
                w.insist(1, start_vm()).await.unwrap();
            }
            return crate::common::healthy(w, 1, 0).await;
        }
        Saga::CancelPlanned | Saga::Resync => return crate::common::healthy(w, 0, 1).await,
        Saga::Copy | Saga::Cycle | Saga::Suspend | Saga::Revert => {}
    }
    w.check(1).unwrap();
    w.cut(false);
    let (before, bulk) = (durable(w), w.shared.state().bulk_blocks);
    w.write(20);
    w.run(90).await;
    assert!(durable(w) > before, "no progress: {:?}", w.recorded(0));
    assert_eq!(
        (state(w, 0), state(w, 1)),
        (State::Replicating, State::Replicating)
    );
    assert_eq!(w.shared.state().bulk_blocks, bulk, "copied again");
    assert!(w.recorded(0).unwrap().problem.is_none(), "{:?}", w.recorded(0));
    w.check(1).unwrap();
    let branches = w.shared.state().hosts[1].replicas[&VM].branches.len();
    assert_eq!(branches, 0, "a branch is left behind");
    let s = w.shared.state();
    let images = s.hosts[0].images.values();
    assert!(images.into_iter().all(|i| i.tracked.len() <= 2));
}

/// Where disks are compared their size is time, and nothing else.
fn bytes(saga: Saga) -> u64 {
    match saga {
        Saga::Reverse | Saga::ReverseCompared | Saga::Resync => 16 << 20,
        _ => lifeboat_sim::SYS_BYTES,
    }
}

/// Steps of a saga on a host.
fn count(saga: Saga, host: usize) -> u64 {
    simulate_with(3, &["a", "b"], bytes(saga), async |w| {
        bring_about(saga, w).await;
        let before = w.gate(host).calls();
        run(saga, w).await;
        w.run(4).await;
        w.gate(host).calls() - before
    })
}

fn attempt(saga: Saga, host: usize, n: u64, fault: Fault) -> Result<(), String> {
    let told = std::sync::Mutex::new(String::new());
    let result = catch_unwind(AssertUnwindSafe(|| {
        simulate_with(3, &["a", "b"], bytes(saga), async |w| {
            bring_about(saga, w).await;
            let bulk = w.shared.state().bulk_blocks;
            w.gate(host).arm(n, fault);
            run(saga, w).await;
            w.run(10).await;
            let hit = w.gate(host).disarm();
            *told.lock().unwrap() = format!("{hit:?}");
            if !matches!(saga, Saga::Enable | Saga::Copy) {
                assert_eq!(w.shared.state().bulk_blocks, bulk, "copied again");
            }
            whole(saga, w).await;
        });
    }));
    result.map_err(|e| {
        let text = e.downcast_ref::<String>().cloned();
        let text = text.or_else(|| e.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        let hit = told.lock().map_or_else(|e| e.into_inner().clone(), |h| h.clone());
        format!(
            "{saga:?} host {host} step {n} {hit} {fault:?}: {}",
            text.unwrap_or_default()
        )
    })
}

fn every_step(saga: Saga) {
    let mut failures = Vec::new();
    for host in 0..2 {
        for n in 1..=count(saga, host) {
            for fault in Fault::ALL {
                failures.extend(attempt(saga, host, n, fault).err());
            }
        }
    }
    for f in failures.iter().take(12) {
        println!("FAILED {f}");
    }
    assert!(failures.is_empty(), "{} steps are not survived", failures.len());
}

macro_rules! sagas {
    ($($name:ident $saga:ident),+ $(,)?) => { $(#[test] fn $name() { every_step(Saga::$saga); })+ };
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
    every_step_of_cancelling_it CancelPlanned,
    every_step_of_a_reversal Reverse,
    every_step_of_a_reversal_without_records ReverseCompared,
    every_step_of_a_resynchronization Resync,
    every_step_of_a_removal_on_the_primary RemovePrimary,
    every_step_of_a_removal_on_the_replica RemoveReplica,
}
