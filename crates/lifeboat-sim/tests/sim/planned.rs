//! Planned failover: nothing is lost, nothing is copied, the VM never runs twice, and until the replica has taken over it
//! can be cancelled at every stage.

use lifeboat_engine::action::{Action, Answer};
use lifeboat_engine::records::{Job, PlannedPhase};
use lifeboat_model::hint;
use lifeboat_model::{DayWindow, JobState, ReplicationMode as Mode, ReplicationState as State};
use lifeboat_sim::World;
use lifeboat_sim::harness::{
    A, B, cancel_planned, eventually, flows, healthy, job, local_disks, mode, moved, planned, prepare,
    refused_with_hint, replicating, resync, simulate, start_vm, state,
};

fn plan_phase(w: &World) -> Option<PlannedPhase> {
    Some(w.recorded(A)?.primary()?.planned.as_ref()?.phase)
}

/// From the shutdown on nothing may differ: what the VM starts with there is what it ended with here.
async fn nothing_is_lost(w: &mut World, asked_on: usize) {
    replicating(w).await;
    w.write(30);
    let before = moved(w);
    w.insist(asked_on, planned(true)).await.unwrap();
    eventually(w, "the VM starts there", |w| w.runs(B)).await;
    assert!(!w.runs(A));
    let twins = w.shared.state().twins.clone();
    assert!(twins.is_empty(), "{twins:?}");
    healthy(w, B, A).await;
    assert_eq!(moved(w), before, "something was copied");
    refused_with_hint(w, A, start_vm()).await;
    // And back.
    w.insist(B, planned(true)).await.unwrap();
    eventually(w, "the VM starts here", |w| w.runs(A)).await;
    healthy(w, A, B).await;
    assert_eq!(moved(w), before, "something was copied on the way back");
    assert!(!w.runs(B));
}

#[test]
fn a_vm_moves_and_comes_back_without_loss() {
    for seed in 1..6 {
        simulate(seed, async |w| nothing_is_lost(w, A).await);
    }
}

#[test]
fn the_replica_may_ask_for_a_planned_failover() {
    for seed in 1..4 {
        simulate(seed, async |w| nothing_is_lost(w, B).await);
    }
}

#[test]
fn a_planned_failover_starts_the_vm_with_its_last_data() {
    simulate(7, async |w| {
        replicating(w).await;
        w.write(40);
        assert_eq!(job(w, A, planned(false)).await.unwrap(), JobState::Completed);
        let last = local_disks(w);
        eventually(w, "the roles are swapped", |w| flows(w, B, A)).await;
        assert!(!w.runs(A) && !w.runs(B));
        w.insist(B, start_vm()).await.unwrap();
        assert_eq!(w.disks_now(B), last);
        w.check_all().unwrap();
    });
}

#[test]
fn a_prepared_vm_stays_off_until_cancelled_or_moved() {
    simulate(8, async |w| {
        replicating(w).await;
        let before = moved(w);
        assert_eq!(job(w, A, prepare()).await.unwrap(), JobState::Completed);
        assert_eq!(state(w, A), State::SyncedReplicationComplete);
        assert!(!w.runs(A));
        refused_with_hint(w, A, start_vm()).await;
        w.run(100).await;
        assert_eq!(
            (state(w, A), w.runs(A), w.runs(B)),
            (State::SyncedReplicationComplete, false, false)
        );
        w.insist(A, cancel_planned(false)).await.unwrap();
        assert_eq!(state(w, A), State::Replicating);
        w.insist(A, start_vm()).await.unwrap();
        healthy(w, A, B).await;
        assert_eq!(job(w, A, prepare()).await.unwrap(), JobState::Completed);
        assert_eq!(job(w, A, planned(true)).await.unwrap(), JobState::Completed);
        healthy(w, B, A).await;
        assert!(w.runs(B));
        assert_eq!(moved(w), before, "something was copied");
    });
}

/// Cancels as soon as the phase is recorded, while what it needs is in trouble.
async fn cancelled(w: &mut World, at: PlannedPhase) {
    replicating(w).await;
    match at {
        PlannedPhase::Stopping => w.shared.state().stubborn = true,
        PlannedPhase::Closing => w.cut(true),
        PlannedPhase::Prepared | PlannedPhase::HandingOver => {}
    }
    let wish = if at == PlannedPhase::Prepared {
        prepare()
    } else {
        planned(true)
    };
    w.insist(A, wish).await.unwrap();
    if at == PlannedPhase::HandingOver {
        // The link is cut between the preparation and the call to take over.
        for _ in 0..4000 {
            if plan_phase(w) == Some(at) {
                break;
            }
            w.pause(1).await;
        }
        w.cut(true);
    }
    eventually(w, "the phase", |w| plan_phase(w) == Some(at)).await;
    if at == PlannedPhase::HandingOver {
        w.run(10).await;
        refused_with_hint(w, A, cancel_planned(false)).await;
        w.cut(false);
        if w.act(A, cancel_planned(false)).await.unwrap().is_err() {
            // It had taken over before the cut.
            healthy(w, B, A).await;
            return;
        }
    } else {
        w.insist(A, cancel_planned(false)).await.unwrap();
    }
    w.shared.state().stubborn = false;
    w.cut(false);
    assert_eq!(plan_phase(w), None);
    if !w.runs(A) {
        w.insist(A, start_vm()).await.unwrap();
    }
    healthy(w, A, B).await;
    assert!(w.runs(A) && !w.runs(B));
}

#[test]
fn a_planned_failover_is_cancelled_at_each_stage() {
    for at in [
        PlannedPhase::Stopping,
        PlannedPhase::Closing,
        PlannedPhase::Prepared,
        PlannedPhase::HandingOver,
    ] {
        for seed in 1..4 {
            simulate(seed, async |w| cancelled(w, at).await);
        }
    }
}

#[test]
fn a_guest_that_does_not_shut_down_is_left_alone_unless_forced() {
    simulate(3, async |w| {
        replicating(w).await;
        w.shared.state().stubborn = true;
        let ended = job(w, A, planned(true)).await;
        // The guest has its time; the job may still be waiting for it.
        assert!(ended.is_ok_and(|e| e == JobState::Exception));
        assert!(w.runs(A));
        healthy(w, A, B).await;
        let forced = Action::PlannedFailover {
            vm: World::vm(),
            force: true,
            prepare_only: false,
            start: true,
        };
        w.insist(A, forced).await.unwrap();
        healthy(w, B, A).await;
        assert!(w.runs(B) && !w.runs(A));
    });
}

/// Both daemons die at once, at any moment of it.
#[test]
fn a_planned_failover_survives_the_crash_of_both_daemons() {
    for seed in 0..80 {
        simulate(seed, async |w| {
            replicating(w).await;
            w.insist(A, planned(true)).await.unwrap();
            w.pause(seed * 7).await;
            w.restart_both().await;
            for _ in 0..10 {
                if mode(w, B) == Mode::Primary {
                    break;
                }
                // Asked again, as a person would; it may be under way.
                let _ = w.act(A, planned(true)).await;
                w.run(10).await;
            }
            eventually(w, "the VM starts there", |w| w.runs(B)).await;
            healthy(w, B, A).await;
            assert!(!w.runs(A));
            assert!(w.shared.state().twins.is_empty());
        });
    }
}

/// Comparisons one after the other, and a planned failover at the end of the second or in the middle of it.
#[test]
fn a_second_comparison_just_before_does_not_keep_the_vm_down() {
    for (gap, whole) in [(1, true), (10, true), (30, true), (1, false), (20, false)] {
        simulate(71, async |w| {
            replicating(w).await;
            w.run(30).await;
            assert_eq!(job(w, A, resync()).await.unwrap(), JobState::Completed);
            w.run(gap).await;
            if whole {
                assert_eq!(job(w, A, resync()).await.unwrap(), JobState::Completed);
            } else {
                w.insist(A, resync()).await.unwrap();
            }
            w.write(5);
            // While the disks are compared it is refused, and the VM goes on.
            for _ in 0..60 {
                if w.act(A, planned(true)).await.unwrap().is_ok() {
                    break;
                }
                assert!(w.runs(A));
                w.run(1).await;
            }
            eventually(w, "the VM is off", |w| !w.runs(A)).await;
            let down = w.shared.now();
            eventually(w, "the VM runs on the other host", |w| w.runs(B)).await;
            let took = w.shared.now().since(down);
            assert!(
                took.as_secs() <= 10,
                "down for {took:?}, {gap} s after a comparison"
            );
        });
    }
}

/// The VM is off for the move when it turns out that nobody knows what changed. `window`: when a comparison may begin by
/// itself; never in the middle of the day.
async fn without_changes(w: &mut World, window: Option<DayWindow>) -> Job {
    replicating(w).await;
    let vm = World::vm();
    let mut settings = w.recorded(A).unwrap().settings;
    settings.auto_resync = window;
    w.insist(
        A,
        Action::ModifyReplication {
            vm,
            settings,
            relationship: Default::default(),
        },
    )
    .await
    .unwrap();
    w.run(10).await;
    w.write(30);
    w.kill_vm(A);
    let Answer::Job(job) = w.insist(A, planned(true)).await.unwrap() else {
        panic!("a planned failover is a job")
    };
    eventually(w, "its end", |w| {
        w.jobs(A).iter().any(|j| j.id == job.id && j.state.is_final())
    })
    .await;
    w.jobs(A).into_iter().find(|j| j.id == job.id).unwrap()
}

#[test]
fn a_move_without_its_last_changes_compares_and_waits_for_no_window() {
    let night = DayWindow {
        from_min: 60,
        to_min: 120,
    };
    simulate(1, async |w| {
        let ended = without_changes(w, Some(night)).await;
        assert_eq!(ended.state, JobState::Completed, "{ended:?}");
        healthy(w, B, A).await;
        assert!(w.runs(B) && !w.runs(A));
    });
}

#[test]
fn a_move_without_its_last_changes_is_given_up_where_nothing_compares_by_itself() {
    simulate(1, async |w| {
        let ended = without_changes(w, None).await;
        assert_eq!(ended.state, JobState::Exception, "{ended:?}");
        assert_eq!(
            ended.hint,
            Some(hint::Planned::ResyncAndRepeatPlanned.into()),
            "{ended:?}"
        );
        assert_eq!((plan_phase(w), w.runs(A), w.runs(B)), (None, false, false));
        w.insist(A, resync()).await.unwrap();
        eventually(w, "the comparison", |w| flows(w, A, B)).await;
        w.insist(A, planned(true)).await.unwrap();
        healthy(w, B, A).await;
    });
}
