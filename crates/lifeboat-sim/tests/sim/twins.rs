//! Three hosts, of which the outer two do not know each other: whoever is about to bring the VM up learns from the one in the
//! middle, or from the one that was, that it runs or is about to run elsewhere.

use std::time::Duration;

use lifeboat_engine::action::{Action, PointSelector};
use lifeboat_model::{JobState, ReplicationMode as Mode, ReplicationState as State};
use lifeboat_sim::World;
use lifeboat_sim::harness::{
    chain, commit, eventually, failover, job, mode, planned, refused, revert, simulate_three, start_vm, state,
};

fn newest() -> Action {
    failover(PointSelector::Latest)
}

/// C brings the VM up while it cannot reach B.
async fn brought_up_on_c(w: &mut World) {
    w.cut_between(1, 2, true);
    assert_eq!(job(w, 2, newest()).await, Ok(JobState::Completed));
    assert!(w.runs(2));
    w.cut_between(1, 2, false);
}

#[test]
fn the_third_host_waits_for_a_planned_failover_that_is_under_way() {
    simulate_three(1, async |w| {
        chain(w).await;
        w.act(0, planned(true)).await.unwrap().unwrap();
        // It is off for some hundredths of a second.
        for _ in 0..100_000 {
            if !w.runs(0) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(!w.runs(0) && !w.runs(1));
        let said = refused(w, 2, newest()).await;
        assert!(said.message.contains("planned failover"), "{said:?}");
        eventually(w, "it moved", |w| mode(w, 1) == Mode::Primary && w.runs(1)).await;
        // It asks the host that it follows, which is the primary now.
        let said = refused(w, 2, newest()).await;
        assert!(said.message.contains("running"), "{said:?}");
        assert!(w.shared.state().twins.is_empty());
    });
}

#[test]
fn a_primary_that_comes_back_learns_of_the_third_host_from_its_replica() {
    simulate_three(2, async |w| {
        chain(w).await;
        w.kill_vm(0);
        w.cut_between(0, 1, true);
        brought_up_on_c(w).await;
        w.cut_between(0, 1, false);
        let said = refused(w, 0, start_vm()).await;
        assert!(said.message.contains("runs there, or on a host"), "{said:?}");
        let force = Action::StartVm {
            vm: World::vm(),
            force: true,
        };
        w.act(0, force).await.unwrap().unwrap();
        assert!(w.runs(0), "a person's word counts");
    });
}

#[test]
fn the_middle_host_asks_the_third_before_it_fails_over() {
    simulate_three(3, async |w| {
        chain(w).await;
        w.kill_vm(0);
        w.cut_between(0, 1, true);
        brought_up_on_c(w).await;
        let said = refused(w, 1, newest()).await;
        assert!(said.message.contains("c:7000"), "{said:?}");
        assert!(said.message.contains("it runs there"), "{said:?}");
        assert_eq!(state(w, 1), State::Replicating);
        // It is given up there, and the middle one goes on.
        assert_eq!(job(w, 2, revert()).await, Ok(JobState::Completed));
        assert_eq!(job(w, 1, newest()).await, Ok(JobState::Completed));
        assert!(w.runs(1));
        // Now it is the other way around.
        let said = refused(w, 2, newest()).await;
        assert!(said.message.contains("running"), "{said:?}");
    });
}

#[test]
fn failover_disks_are_not_started_beside_the_third_host() {
    simulate_three(4, async |w| {
        chain(w).await;
        w.kill_vm(0);
        w.cut_between(0, 1, true);
        let disks = Action::InitiateFailover {
            vm: World::vm(),
            point: PointSelector::Latest,
            start: false,
            force: false,
        };
        assert_eq!(job(w, 1, disks).await, Ok(JobState::Completed));
        assert!(!w.runs(1));
        brought_up_on_c(w).await;
        let said = refused(w, 1, start_vm()).await;
        assert!(said.message.contains("it runs there"), "{said:?}");
        assert!(w.shared.state().twins.is_empty());
    });
}

#[test]
fn a_host_that_was_the_middle_asks_whom_it_gave_a_copy() {
    simulate_three(5, async |w| {
        chain(w).await;
        assert_eq!(job(w, 0, planned(true)).await, Ok(JobState::Completed));
        eventually(w, "it moved", |w| mode(w, 1) == Mode::Primary && w.runs(1)).await;
        // C still believes that it follows B, which has another replica now.
        w.kill_vm(1);
        brought_up_on_c(w).await;
        w.restart(1).await;
        let said = refused(w, 1, start_vm()).await;
        assert!(said.message.contains("c:7000"), "{said:?}");
        // So does the replica, which asks its primary.
        let said = refused(w, 0, newest()).await;
        assert!(said.message.contains("running"), "{said:?}");
        assert!(w.shared.state().twins.is_empty());
        // Lost, it is asked in vain and keeps nobody from anything.
        w.kill_vm(2);
        w.cut_between(1, 2, true);
        w.act(1, start_vm()).await.unwrap().unwrap();
        assert!(w.runs(1));
    });
}

#[test]
fn a_host_that_followed_is_asked_until_it_has_nothing_or_a_person_answers_for_it() {
    let formerly = |w: &World| w.recorded(1).unwrap().formerly;
    for removed in [true, false] {
        simulate_three(6, async |w| {
            chain(w).await;
            assert_eq!(job(w, 0, planned(true)).await, Ok(JobState::Completed));
            eventually(w, "it moved", |w| mode(w, 1) == Mode::Primary && w.runs(1)).await;
            assert_eq!(formerly(w), ["c:7000"]);
            w.kill_vm(1);
            let vm = World::vm();
            if removed {
                w.insist(2, Action::RemoveReplication { vm: vm.clone() })
                    .await
                    .unwrap();
            }
            w.act(1, Action::StartVm { vm, force: !removed })
                .await
                .unwrap()
                .unwrap();
            assert!(w.runs(1) && formerly(w).is_empty());
        });
    }
}

#[test]
fn of_two_hosts_that_fail_over_at_once_one_does() {
    for seed in 0..40 {
        simulate_three(seed, async |w| {
            chain(w).await;
            w.kill_vm(0);
            w.cut_between(0, 1, true);
            w.run(30).await;
            let (one, other) = tokio::join!(w.act(1, newest()), w.act(2, newest()));
            w.run(30).await;
            let runs = [1, 2].into_iter().filter(|h| w.runs(*h)).count();
            assert!(runs <= 1, "seed {seed}: {one:?} {other:?}");
            if runs == 1 {
                let up = if w.runs(1) { 1 } else { 2 };
                assert_eq!(job(w, up, commit()).await, Ok(JobState::Completed));
            }
        });
    }
}
