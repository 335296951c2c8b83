//! Pausing, resetting and starting a VM: what goes on meanwhile, what cannot, and that no role is got round by a pause.

use lifeboat_engine::action::{Action, Answer, PointSelector};
use lifeboat_engine::ports::hypervisor::PowerState;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{JobState, ReplicationState as State};
use lifeboat_sim::harness::{
    A, B, enable, eventually, failover, flows, healthy, job, pause_vm, planned, prepare, refused,
    replicating, reset_vm, simulate, start_copy, start_vm, state, stop_vm, taken_over,
};
use lifeboat_sim::{VM, World};

fn cancel_copy() -> Action {
    Action::CancelInitialCopy {
        vm: World::vm(),
        relationship: Default::default(),
    }
}

async fn power(w: &World, host: usize) -> PowerState {
    w.view(host).await.unwrap().power
}

#[test]
fn a_paused_vm_stays_where_it_is_and_its_replication_goes_on() {
    simulate(1, async |w| {
        replicating(w).await;
        assert_eq!(w.insist(A, pause_vm()).await.unwrap(), Answer::Done);
        assert_eq!(power(w, A).await, PowerState::Paused);
        assert_eq!(refused(w, A, pause_vm()).await.code, ReturnCode::InvalidState);
        let durable = |w: &World| w.shared.state().hosts[B].replicas[&VM].durable;
        let before = durable(w);
        w.run(60).await;
        assert_ne!(durable(w), before, "cycles go on");
        w.restart(A).await;
        assert_eq!(power(w, A).await, PowerState::Paused);
        w.insist(A, reset_vm()).await.unwrap();
        assert_eq!(w.shared.state().resets, 1);
        assert_eq!(power(w, A).await, PowerState::Paused);
        w.insist(A, start_vm()).await.unwrap();
        assert_eq!(power(w, A).await, PowerState::Running);
        assert_eq!(refused(w, A, start_vm()).await.code, ReturnCode::InvalidState);
        healthy(w, A, B).await;
    });
}

#[test]
fn a_vm_that_is_off_is_neither_paused_nor_reset() {
    simulate(2, async |w| {
        replicating(w).await;
        for action in [pause_vm(), reset_vm()] {
            assert_eq!(refused(w, B, action).await.code, ReturnCode::InvalidState);
        }
        w.insist(A, stop_vm(false)).await.unwrap();
        for action in [pause_vm(), reset_vm()] {
            assert_eq!(refused(w, A, action).await.code, ReturnCode::InvalidState);
        }
    });
}

#[test]
fn a_paused_guest_follows_no_request_and_is_told_so_at_once() {
    simulate(3, async |w| {
        replicating(w).await;
        w.insist(A, pause_vm()).await.unwrap();
        let before = w.shared.now();
        for action in [stop_vm(false), planned(true), prepare()] {
            assert_eq!(refused(w, A, action).await.code, ReturnCode::InvalidState);
        }
        assert_eq!(refused(w, B, planned(true)).await.code, ReturnCode::InvalidState);
        assert!(w.shared.now().since(before).as_secs() < 5, "nobody waited");
        assert_eq!(state(w, A), State::Replicating);
        let forced = Action::PlannedFailover {
            vm: World::vm(),
            force: true,
            prepare_only: false,
            start: true,
        };
        assert_eq!(job(w, A, forced).await.unwrap(), JobState::Completed);
        eventually(w, "the roles are swapped", |w| flows(w, B, A)).await;
        assert!(!w.runs(A) && w.runs(B));
        let twins = w.shared.state().twins.clone();
        assert!(twins.is_empty(), "{twins:?}");
    });
}

#[test]
fn a_guest_that_does_not_shut_down_is_a_timeout() {
    simulate(4, async |w| {
        w.shared.state().stubborn = true;
        assert_eq!(refused(w, A, stop_vm(false)).await.code, ReturnCode::Timeout);
        w.insist(A, stop_vm(true)).await.unwrap();
        assert_eq!(power(w, A).await, PowerState::Off);
    });
}

#[test]
fn a_vm_that_shuts_down_for_a_planned_failover_is_not_stopped_in_it() {
    simulate(5, async |w| {
        replicating(w).await;
        w.shared.state().stubborn = true;
        w.insist(A, prepare()).await.unwrap();
        for action in [pause_vm(), reset_vm()] {
            assert_eq!(refused(w, A, action).await.code, ReturnCode::InUse);
        }
    });
}

#[test]
fn an_old_primary_that_was_paused_does_not_go_on_beside_the_new_one() {
    simulate(6, async |w| {
        replicating(w).await;
        w.run(30).await;
        w.insist(A, pause_vm()).await.unwrap();
        w.cut(true);
        taken_over(w, PointSelector::Latest, 20).await;
        w.cut(false);
        assert_eq!(refused(w, A, start_vm()).await.code, ReturnCode::InvalidState);
        assert_eq!(power(w, A).await, PowerState::Paused);
        let twins = w.shared.state().twins.clone();
        assert!(twins.is_empty(), "{twins:?}");
    });
}

#[test]
fn a_failed_over_vm_is_paused_and_goes_on_and_a_replica_is_never_started() {
    simulate(7, async |w| {
        replicating(w).await;
        assert_eq!(refused(w, B, start_vm()).await.code, ReturnCode::InvalidState);
        w.cut(true);
        assert_eq!(
            job(w, B, failover(PointSelector::Latest)).await.unwrap(),
            JobState::Completed
        );
        w.insist(B, pause_vm()).await.unwrap();
        assert_eq!(power(w, B).await, PowerState::Paused);
        w.insist(B, start_vm()).await.unwrap();
        assert_eq!(power(w, B).await, PowerState::Running);
    });
}

#[test]
fn an_initial_copy_is_cancelled_without_its_job() {
    simulate(8, async |w| {
        w.insist(A, enable()).await.unwrap();
        assert_eq!(refused(w, A, cancel_copy()).await.code, ReturnCode::InvalidState);
        // Scheduled.
        let later = Action::StartReplication {
            vm: World::vm(),
            how: Default::default(),
            at: Some(lifeboat_model::Timestamp(w.shared.now().0 + 3_600_000)),
            relationship: Default::default(),
        };
        w.insist(A, later).await.unwrap();
        assert_eq!(w.insist(A, cancel_copy()).await.unwrap(), Answer::Done);
        let ended = |w: &World| w.jobs(A).iter().all(|j| j.state == JobState::Terminated);
        assert!(ended(w) && w.recorded(A).unwrap().primary().unwrap().scheduled.is_none());
        // Under way.
        w.cut(true);
        w.insist(A, start_copy()).await.unwrap();
        assert_eq!(state(w, A), State::WaitingToCompleteInitialReplication);
        w.insist(A, cancel_copy()).await.unwrap();
        assert_eq!(state(w, A), State::ReadyForReplication);
        assert!(ended(w));
        w.cut(false);
        w.insist(A, start_copy()).await.unwrap();
        healthy(w, A, B).await;
        assert_eq!(refused(w, A, cancel_copy()).await.code, ReturnCode::InvalidState);
        assert_eq!(refused(w, B, cancel_copy()).await.code, ReturnCode::InvalidState);
    });
}
