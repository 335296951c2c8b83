//! Test failovers beside a real one, which they are never in the way of, and of what was abandoned. What a test VM is, is in
//! `test_vm`.

use lifeboat_engine::action::PointSelector;
use lifeboat_engine::ports::hypervisor::PowerState;
use lifeboat_model::{JobState, VmId};
use lifeboat_sim::harness::{
    A, B, commit, eventually, failover, healthy, history, job, local_disks, points, reverse, revert,
    simulate, start_test, stop_test, taken_over, truth,
};
use lifeboat_sim::{Content, VM, World};

/// The test VM that runs on a host and what its disks hold.
fn test_vm(w: &World, host: usize) -> Option<(VmId, Vec<Content>)> {
    let s = w.shared.state();
    let h = &s.hosts[host];
    let (id, p) = h
        .processes
        .iter()
        .find(|(id, p)| **id != VM && p.power != PowerState::Off)?;
    let content = |k: &String| h.images[k].content.clone();
    Some((*id, p.images.iter().map(content).collect()))
}

fn branches(w: &World, host: usize) -> usize {
    w.shared.state().hosts[host].replicas[&VM].branches.len()
}

#[test]
fn a_failover_is_possible_beside_a_test() {
    for seed in 1..6 {
        simulate(seed, async |w| {
            history(w, 5, 10).await;
            let want = truth(w, &points(w).await[0]);
            assert_eq!(
                job(w, B, start_test(PointSelector::Latest)).await.unwrap(),
                JobState::Completed
            );
            w.write(10);
            assert_eq!(
                job(w, B, failover(PointSelector::Latest)).await.unwrap(),
                JobState::Completed
            );
            assert_eq!(w.disks_now(B), want);
            w.write(10);
            if seed % 2 == 0 {
                assert_eq!(job(w, B, revert()).await.unwrap(), JobState::Completed);
                w.check_all().unwrap();
                if test_vm(w, B).is_some() {
                    assert_eq!(job(w, B, stop_test()).await.unwrap(), JobState::Completed);
                }
                w.cut(false);
                return healthy(w, A, B).await;
            }
            if w.act(B, commit()).await.unwrap().is_err() {
                // The test stands on what the commit would take away.
                assert_eq!(job(w, B, stop_test()).await.unwrap(), JobState::Completed);
                assert_eq!(job(w, B, commit()).await.unwrap(), JobState::Completed);
            }
            w.run(30).await;
            w.guest_off(A);
            w.cut(false);
            w.insist(B, reverse()).await.unwrap();
            healthy(w, B, A).await;
            assert!(test_vm(w, B).is_none());
        });
    }
}

/// What the old side had beyond the chosen point can be looked at, in a test.
#[test]
fn an_abandoned_copy_can_be_tested() {
    simulate(6, async |w| {
        history(w, 4, 30).await;
        taken_over(w, PointSelector::Latest, 30).await;
        w.guest_off(A);
        let last = local_disks(w);
        w.cut(false);
        w.insist(B, reverse()).await.unwrap();
        healthy(w, B, A).await;
        let kept = PointSelector::Id("abandoned".into());
        assert_eq!(job(w, A, start_test(kept)).await.unwrap(), JobState::Completed);
        assert_eq!(test_vm(w, A).unwrap().1, last);
        w.write(10);
        w.run(30).await;
        assert_eq!(job(w, A, stop_test()).await.unwrap(), JobState::Completed);
        eventually(w, "no branch", |w| branches(w, A) == 0).await;
        healthy(w, B, A).await;
    });
}
