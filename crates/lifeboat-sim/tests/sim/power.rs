//! Pausing, resetting and starting a VM: what goes on meanwhile, what cannot, and that no role is got round by a pause.

use lifeboat_engine::action::{Action, Answer, PointSelector};
use lifeboat_engine::ports::hypervisor::PowerState;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{JobState, ReplicationState as State};
use lifeboat_sim::harness::{
    enable, eventually, failover, flows, healthy, job, pause_vm, planned, prepare, refused, replicating,
    reset_vm, simulate, start_copy, start_vm, state, stop_vm, taken_over,
};
use lifeboat_sim::{VM, World};

fn cancel_copy() -> Action {
    Action::CancelInitialCopy { vm: World::vm() }
}

async fn power(w: &World, host: usize) -> PowerState {
    w.view(host).await.unwrap().power
}

#[test]
fn a_paused_vm_stays_where_it_is_and_its_replication_goes_on() {
    simulate(1, async |w| {
        replicating(w).await;
        assert_eq!(w.insist(0, pause_vm()).await.unwrap(), Answer::Done);
        assert_eq!(power(w, 0).await, PowerState::Paused);
        assert_eq!(refused(w, 0, pause_vm()).await.code, ReturnCode::InvalidState);
        let durable = |w: &World| w.shared.state().hosts[1].replicas[&VM].durable;
        let before = durable(w);
        w.run(60).await;
        assert_ne!(durable(w), before, "cycles go on");
        w.restart(0).await;
        assert_eq!(power(w, 0).await, PowerState::Paused);
        w.insist(0, reset_vm()).await.unwrap();
        assert_eq!(w.shared.state().resets, 1);
        assert_eq!(power(w, 0).await, PowerState::Paused);
        w.insist(0, start_vm()).await.unwrap();
        assert_eq!(power(w, 0).await, PowerState::Running);
        assert_eq!(refused(w, 0, start_vm()).await.code, ReturnCode::InvalidState);
        healthy(w, 0, 1).await;
    });
}

#[test]
fn a_vm_that_is_off_is_neither_paused_nor_reset() {
    simulate(2, async |w| {
        replicating(w).await;
        for action in [pause_vm(), reset_vm()] {
            assert_eq!(refused(w, 1, action).await.code, ReturnCode::InvalidState);
        }
        w.insist(0, stop_vm(false)).await.unwrap();
        for action in [pause_vm(), reset_vm()] {
            assert_eq!(refused(w, 0, action).await.code, ReturnCode::InvalidState);
        }
    });
}

#[test]
fn a_paused_guest_follows_no_request_and_is_told_so_at_once() {
    simulate(3, async |w| {
        replicating(w).await;
        w.insist(0, pause_vm()).await.unwrap();
        let before = w.shared.now();
        for action in [stop_vm(false), planned(true), prepare()] {
            assert_eq!(refused(w, 0, action).await.code, ReturnCode::InvalidState);
        }
        assert_eq!(refused(w, 1, planned(true)).await.code, ReturnCode::InvalidState);
        assert!(w.shared.now().since(before).as_secs() < 5, "nobody waited");
        assert_eq!(state(w, 0), State::Replicating);
        let forced = Action::PlannedFailover {
            vm: World::vm(),
            force: true,
            prepare_only: false,
            start: true,
        };
        assert_eq!(job(w, 0, forced).await.unwrap(), JobState::Completed);
        eventually(w, "the roles are swapped", |w| flows(w, 1, 0)).await;
        assert!(!w.runs(0) && w.runs(1));
        let twins = w.shared.state().twins.clone();
        assert!(twins.is_empty(), "{twins:?}");
    });
}

#[test]
fn a_guest_that_does_not_shut_down_is_a_timeout() {
    simulate(4, async |w| {
        w.shared.state().stubborn = true;
        assert_eq!(refused(w, 0, stop_vm(false)).await.code, ReturnCode::Timeout);
        w.insist(0, stop_vm(true)).await.unwrap();
        assert_eq!(power(w, 0).await, PowerState::Off);
    });
}

#[test]
fn a_vm_that_shuts_down_for_a_planned_failover_is_not_stopped_in_it() {
    simulate(5, async |w| {
        replicating(w).await;
        w.shared.state().stubborn = true;
        w.insist(0, prepare()).await.unwrap();
        for action in [pause_vm(), reset_vm()] {
            assert_eq!(refused(w, 0, action).await.code, ReturnCode::InUse);
        }
    });
}

#[test]
fn an_old_primary_that_was_paused_does_not_go_on_beside_the_new_one() {
    simulate(6, async |w| {
        replicating(w).await;
        w.run(30).await;
        w.insist(0, pause_vm()).await.unwrap();
        w.cut(true);
        taken_over(w, PointSelector::Latest, 20).await;
        w.cut(false);
        assert_eq!(refused(w, 0, start_vm()).await.code, ReturnCode::InvalidState);
        assert_eq!(power(w, 0).await, PowerState::Paused);
        let twins = w.shared.state().twins.clone();
        assert!(twins.is_empty(), "{twins:?}");
    });
}

#[test]
fn a_failed_over_vm_is_paused_and_goes_on_and_a_replica_is_never_started() {
    simulate(7, async |w| {
        replicating(w).await;
        assert_eq!(refused(w, 1, start_vm()).await.code, ReturnCode::InvalidState);
        w.cut(true);
        assert_eq!(
            job(w, 1, failover(PointSelector::Latest)).await.unwrap(),
            JobState::Completed
        );
        w.insist(1, pause_vm()).await.unwrap();
        assert_eq!(power(w, 1).await, PowerState::Paused);
        w.insist(1, start_vm()).await.unwrap();
        assert_eq!(power(w, 1).await, PowerState::Running);
    });
}

#[test]
fn an_initial_copy_is_cancelled_without_its_job() {
    simulate(8, async |w| {
        w.insist(0, enable()).await.unwrap();
        assert_eq!(refused(w, 0, cancel_copy()).await.code, ReturnCode::InvalidState);
        // Scheduled.
        let later = Action::StartReplication {
            vm: World::vm(),
            how: Default::default(),
            at: Some(lifeboat_model::Timestamp(w.shared.now().0 + 3_600_000)),
        };
        w.insist(0, later).await.unwrap();
        assert_eq!(w.insist(0, cancel_copy()).await.unwrap(), Answer::Done);
        let ended = |w: &World| w.jobs(0).iter().all(|j| j.state == JobState::Terminated);
        assert!(ended(w) && w.recorded(0).unwrap().primary().unwrap().scheduled.is_none());
        // Under way.
        w.cut(true);
        w.insist(0, start_copy()).await.unwrap();
        assert_eq!(state(w, 0), State::WaitingToCompleteInitialReplication);
        w.insist(0, cancel_copy()).await.unwrap();
        assert_eq!(state(w, 0), State::ReadyForReplication);
        assert!(ended(w));
        w.cut(false);
        w.insist(0, start_copy()).await.unwrap();
        healthy(w, 0, 1).await;
        assert_eq!(refused(w, 0, cancel_copy()).await.code, ReturnCode::InvalidState);
        assert_eq!(refused(w, 1, cancel_copy()).await.code, ReturnCode::InvalidState);
    });
}
