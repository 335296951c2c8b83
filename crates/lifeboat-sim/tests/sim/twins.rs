//! Three hosts, of which the outer two do not know each other: whoever is about to bring the VM up learns from the one in the
//! middle, or from the one that was, that it runs or is about to run elsewhere.

use std::time::Duration;

use lifeboat_engine::action::{Action, PointSelector};
use lifeboat_model::{JobState, ReplicationMode as Mode, ReplicationState as State};
use lifeboat_sim::World;
use lifeboat_sim::harness::{
    A, B, C, chain, commit, eventually, failover, job, mode, planned, refused, revert, simulate_three,
    start_vm, state,
};

fn newest() -> Action {
    failover(PointSelector::Latest)
}

/// C brings the VM up while it cannot reach B.
async fn brought_up_on_c(w: &mut World) {
    w.cut_between(B, C, true);
    assert_eq!(job(w, C, newest()).await, Ok(JobState::Completed));
    assert!(w.runs(C));
    w.cut_between(B, C, false);
}

#[test]
fn the_third_host_waits_for_a_planned_failover_that_is_under_way() {
    simulate_three(1, async |w| {
        chain(w).await;
        w.act(A, planned(true)).await.unwrap().unwrap();
        // It is off for some hundredths of a second.
        for _ in 0..100_000 {
            if !w.runs(A) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(!w.runs(A) && !w.runs(B));
        let said = refused(w, C, newest()).await;
        assert!(said.message.contains("planned failover"), "{said:?}");
        eventually(w, "it moved", |w| mode(w, B) == Mode::Primary && w.runs(B)).await;
        // It asks the host that it follows, which is the primary now.
        let said = refused(w, C, newest()).await;
        assert!(said.message.contains("running"), "{said:?}");
        assert!(w.shared.state().twins.is_empty());
    });
}

#[test]
fn a_primary_that_comes_back_learns_of_the_third_host_from_its_replica() {
    simulate_three(2, async |w| {
        chain(w).await;
        w.kill_vm(A);
        w.cut_between(A, B, true);
        brought_up_on_c(w).await;
        w.cut_between(A, B, false);
        let said = refused(w, A, start_vm()).await;
        assert!(said.message.contains("runs there, or on a host"), "{said:?}");
        let force = Action::StartVm {
            vm: World::vm(),
            force: true,
        };
        w.act(A, force).await.unwrap().unwrap();
        assert!(w.runs(A), "a person's word counts");
    });
}

#[test]
fn the_middle_host_asks_the_third_before_it_fails_over() {
    simulate_three(3, async |w| {
        chain(w).await;
        w.kill_vm(A);
        w.cut_between(A, B, true);
        brought_up_on_c(w).await;
        let said = refused(w, B, newest()).await;
        assert!(said.message.contains("c:7000"), "{said:?}");
        assert!(said.message.contains("it runs there"), "{said:?}");
        assert_eq!(state(w, B), State::Replicating);
        // It is given up there, and the middle one goes on.
        assert_eq!(job(w, C, revert()).await, Ok(JobState::Completed));
        assert_eq!(job(w, B, newest()).await, Ok(JobState::Completed));
        assert!(w.runs(B));
        // Now it is the other way around.
        let said = refused(w, C, newest()).await;
        assert!(said.message.contains("running"), "{said:?}");
    });
}

#[test]
fn failover_disks_are_not_started_beside_the_third_host() {
    simulate_three(4, async |w| {
        chain(w).await;
        w.kill_vm(A);
        w.cut_between(A, B, true);
        let disks = Action::InitiateFailover {
            vm: World::vm(),
            point: PointSelector::Latest,
            start: false,
            force: false,
        };
        assert_eq!(job(w, B, disks).await, Ok(JobState::Completed));
        assert!(!w.runs(B));
        brought_up_on_c(w).await;
        let said = refused(w, B, start_vm()).await;
        assert!(said.message.contains("it runs there"), "{said:?}");
        assert!(w.shared.state().twins.is_empty());
    });
}

#[test]
fn a_former_middle_host_asks_the_third_before_it_starts_the_vm() {
    simulate_three(5, async |w| {
        chain(w).await;
        assert_eq!(job(w, A, planned(true)).await, Ok(JobState::Completed));
        eventually(w, "it moved", |w| mode(w, B) == Mode::Primary && w.runs(B)).await;
        // C still believes that it follows B, which has another replica now.
        w.kill_vm(B);
        brought_up_on_c(w).await;
        w.restart(B).await;
        let said = refused(w, B, start_vm()).await;
        assert!(said.message.contains("c:7000"), "{said:?}");
        // So does the replica, which asks its primary.
        let said = refused(w, A, newest()).await;
        assert!(said.message.contains("running"), "{said:?}");
        assert!(w.shared.state().twins.is_empty());
        // Lost, it is asked in vain and keeps nobody from anything.
        w.kill_vm(C);
        w.cut_between(B, C, true);
        w.act(B, start_vm()).await.unwrap().unwrap();
        assert!(w.runs(B));
    });
}

#[test]
fn a_host_that_followed_is_asked_until_it_has_nothing_or_a_person_answers_for_it() {
    let formerly = |w: &World| w.recorded(B).unwrap().formerly;
    for removed in [true, false] {
        simulate_three(6, async |w| {
            chain(w).await;
            assert_eq!(job(w, A, planned(true)).await, Ok(JobState::Completed));
            eventually(w, "it moved", |w| mode(w, B) == Mode::Primary && w.runs(B)).await;
            assert_eq!(formerly(w), ["c:7000"]);
            w.kill_vm(B);
            let vm = World::vm();
            if removed {
                w.insist(
                    C,
                    Action::RemoveReplication {
                        vm: vm.clone(),
                        relationship: Default::default(),
                    },
                )
                .await
                .unwrap();
            }
            w.act(B, Action::StartVm { vm, force: !removed })
                .await
                .unwrap()
                .unwrap();
            assert!(w.runs(B) && formerly(w).is_empty());
        });
    }
}

#[test]
fn at_most_one_of_two_simultaneous_failovers_brings_the_vm_up() {
    for seed in 0..40 {
        simulate_three(seed, async |w| {
            chain(w).await;
            w.kill_vm(A);
            w.cut_between(A, B, true);
            w.run(30).await;
            let (one, other) = tokio::join!(w.act(B, newest()), w.act(C, newest()));
            w.run(30).await;
            let runs = [B, C].into_iter().filter(|h| w.runs(*h)).count();
            assert!(runs <= 1, "seed {seed}: {one:?} {other:?}");
            if runs == 1 {
                let up = if w.runs(B) { B } else { C };
                assert_eq!(job(w, up, commit()).await, Ok(JobState::Completed));
            }
        });
    }
}
