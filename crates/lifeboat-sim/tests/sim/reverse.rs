//! The way back after an unplanned failover: the old primary becomes the replica with the data it has. Only what differs
//! travels, what it had written is kept until somebody drops it, and with tracking lost digests find the difference.

use lifeboat_engine::action::{Action, PointSelector};
use lifeboat_engine::ports::store::Target;
use lifeboat_model::{JobState, ReplicationMode as Mode, ReplicationState as State};
use lifeboat_sim::harness::{
    A, B, commit, difference, eventually, failover, flows, healthy, history, job, local_disks, moved, phase,
    planned, points, refused, replicating, reverse, revert, simulate, start_vm, state, stop_vm, taken_over,
};
use lifeboat_sim::{VM, World};

/// What became of the old primary before it came back.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Old {
    /// Its VM ran on, and was shut down in order at last.
    RanOn,
    /// Its VM was shut down before the failover, with everything sent.
    OffAndSent,
    /// Its process was killed: its records of changes are of no use.
    Killed,
}

fn abandoned(w: &World, host: usize) -> Option<Vec<lifeboat_sim::Content>> {
    let s = w.shared.state();
    s.hosts[host]
        .replicas
        .get(&VM)?
        .kept
        .as_ref()
        .map(|(_, c)| c.clone())
}

/// Blocks that any known record says were written on either side since the fork.
async fn gives_way(w: &mut World, old: Old, point: PointSelector) {
    history(w, 6, 25).await;
    if old == Old::OffAndSent {
        w.cut(false);
        w.insist(A, stop_vm(true)).await.unwrap();
        w.run(30).await;
        w.cut(true);
    }
    taken_over(w, point, 30).await;
    match old {
        Old::RanOn => {
            w.write(10);
            w.guest_off(A);
        }
        Old::OffAndSent => {}
        Old::Killed => {
            w.write(10);
            w.kill_vm(A);
        }
    }
    let (last, new) = (local_disks(w), w.disks_now(B));
    w.cut(false);
    w.run(30).await;
    assert!(!w.runs(A), "an old primary starts nothing by itself");
    let before = moved(w);
    w.insist(B, reverse()).await.unwrap();
    // No writes while it is counted what travels.
    for _ in 0..300 {
        if flows(w, B, A) {
            break;
        }
        w.run(1).await;
    }
    assert!(flows(w, B, A), "{:?}\n{:?}", w.recorded(A), w.recorded(B));
    let after = moved(w);
    assert_eq!(after.0, before.0, "copied blindly");
    let (all, data) = difference(&last, &new);
    let sent = after.1 - before.1;
    assert!(sent >= data, "{sent} of {data}");
    // Digests find exactly what differs. Records say where, not whether: the same content again may be among them.
    let most = if old == Old::Killed { all } else { all + 150 };
    assert!(sent <= most, "{sent} for {all}: {old:?}");
    assert_eq!(
        abandoned(w, A),
        Some(last.clone()),
        "what the old side had is kept"
    );
    healthy(w, B, A).await;
    assert!(w.runs(B) && !w.runs(A));
    assert_eq!(abandoned(w, A), Some(last));
    w.insist(A, Action::DropAbandoned { vm: World::vm() })
        .await
        .unwrap();
    assert_eq!(abandoned(w, A), None);
    healthy(w, B, A).await;
    home_again(w).await;
}

async fn home_again(w: &mut World) {
    let before = moved(w);
    w.insist(B, planned(true)).await.unwrap();
    healthy(w, A, B).await;
    assert!(w.runs(A) && !w.runs(B));
    assert_eq!(moved(w), before, "the way home copies nothing");
}

#[test]
fn an_old_primary_whose_vm_ran_on_becomes_the_replica() {
    for seed in 1..8 {
        simulate(seed, async |w| {
            gives_way(w, Old::RanOn, PointSelector::Latest).await
        });
    }
}

#[test]
fn an_old_primary_that_had_sent_everything_becomes_the_replica() {
    for seed in 1..8 {
        simulate(seed, async |w| {
            gives_way(w, Old::OffAndSent, PointSelector::Latest).await
        });
    }
}

#[test]
fn an_old_primary_without_change_tracking_is_compared() {
    for seed in 1..8 {
        simulate(seed, async |w| {
            gives_way(w, Old::Killed, PointSelector::Latest).await
        });
    }
}

/// What is under way ends before what was kept is dropped, and arrives afterwards. Found by history 1085961 of three hosts.
#[test]
fn an_abandoned_copy_is_dropped_while_changes_arrive() {
    for seed in 1..8 {
        simulate(seed, async |w| {
            history(w, 8, 20).await;
            taken_over(w, PointSelector::Latest, 30).await;
            w.guest_off(A);
            w.cut(false);
            w.run(20).await;
            w.insist(B, reverse()).await.unwrap();
            healthy(w, B, A).await;
            w.shared.state().delay_ms = 50;
            w.write(10);
            let receiving = || {
                let s = w.shared.state();
                let busy = s.hosts[A].busy.get(&VM);
                busy.is_some_and(|calls| calls.contains(&"store.receive"))
            };
            while !receiving() {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            w.insist(A, Action::DropAbandoned { vm: World::vm() })
                .await
                .unwrap();
            assert_eq!(abandoned(w, A), None);
            w.shared.state().delay_ms = 2;
            healthy(w, B, A).await;
        });
    }
}

/// The chosen point is older than what had arrived: that, too, differs afterwards.
async fn to_an_older_point(w: &mut World, target: fn(&Target) -> bool) {
    history(w, 8, 20).await;
    let listed = points(w).await;
    let point = listed.iter().rev().find(|p| target(&p.target)).unwrap().clone();
    taken_over(w, PointSelector::Id(point.id), 30).await;
    w.guest_off(A);
    let last = local_disks(w);
    w.cut(false);
    w.run(20).await;
    w.insist(B, reverse()).await.unwrap();
    healthy(w, B, A).await;
    assert_eq!(abandoned(w, A), Some(last));
    w.insist(A, Action::DropAbandoned { vm: World::vm() })
        .await
        .unwrap();
    healthy(w, B, A).await;
    home_again(w).await;
}

#[test]
fn logs_after_the_chosen_point_are_undone_on_the_old_primary() {
    for seed in 1..8 {
        simulate(seed, async |w| {
            to_an_older_point(w, |t| matches!(t, Target::Point { .. })).await;
        });
        simulate(seed, async |w| {
            to_an_older_point(w, |t| matches!(t, Target::Cycle { .. })).await;
        });
    }
}

#[test]
fn an_old_primary_becomes_the_replica_only_when_its_vm_is_off() {
    simulate(5, async |w| {
        history(w, 4, 20).await;
        taken_over(w, PointSelector::Latest, 20).await;
        w.cut(false);
        w.run(30).await;
        assert!(w.runs(A), "no guest is killed for it");
        assert_eq!(job(w, B, reverse()).await.unwrap(), JobState::Exception);
        assert_eq!((w.runs(A), w.runs(B)), (true, true));
        assert_eq!(state(w, B), State::Committed);
        w.insist(A, stop_vm(true)).await.unwrap();
        assert_eq!(job(w, B, reverse()).await.unwrap(), JobState::Completed);
        healthy(w, B, A).await;
        let refusal = w.act(A, start_vm()).await.unwrap();
        assert!(refusal.is_err(), "the VM of a replica starts on a branch only");
    });
}

/// Everything at once, again and again: after any number of turns both sides still agree.
#[test]
fn roles_can_be_swapped_any_number_of_times() {
    simulate(9, async |w| {
        replicating(w).await;
        for turn in 0..6_usize {
            let (from, to) = (turn % 2, (turn + 1) % 2);
            w.write(20);
            w.run(12).await;
            w.cut(true);
            w.write(15);
            w.run(3).await;
            let wish = Action::InitiateFailover {
                vm: World::vm(),
                point: PointSelector::Latest,
                start: true,
                force: false,
            };
            assert_eq!(job(w, to, wish).await.unwrap(), JobState::Completed);
            w.write(10);
            assert_eq!(job(w, to, commit()).await.unwrap(), JobState::Completed);
            if turn % 3 == 2 {
                w.kill_vm(from);
            } else {
                w.guest_off(from);
            }
            w.cut(false);
            w.run(10).await;
            let bulk = w.shared.state().bulk_blocks;
            assert_eq!(job(w, to, reverse()).await.unwrap(), JobState::Completed);
            healthy(w, to, from).await;
            assert_eq!(w.shared.state().bulk_blocks, bulk);
            w.insist(from, Action::DropAbandoned { vm: World::vm() })
                .await
                .unwrap();
        }
    });
}

#[test]
fn a_split_is_shown_and_nothing_is_sent() {
    simulate(10, async |w| {
        history(w, 4, 20).await;
        assert_eq!(
            job(w, B, failover(PointSelector::Latest)).await.unwrap(),
            JobState::Completed
        );
        w.write(20);
        w.cut(false);
        w.run(60).await;
        let split = |w: &World| w.recorded(A).unwrap().primary().unwrap().split.clone();
        let seen = split(w).expect("the split is known");
        assert!(!seen.committed && seen.theirs.contains("runs"), "{seen:?}");
        // Reverted there, it is over, and replication goes on by itself.
        assert_eq!(job(w, B, revert()).await.unwrap(), JobState::Completed);
        eventually(w, "peace", |w| split(w).is_none()).await;
        healthy(w, A, B).await;
        // Committed, this side is the past; and it starts nothing.
        w.cut(true);
        w.run(10).await;
        taken_over(w, PointSelector::Latest, 5).await;
        w.guest_off(A);
        w.cut(false);
        w.run(60).await;
        assert!(split(w).is_some_and(|s| s.committed));
        let refusal = refused(w, A, start_vm()).await;
        assert!(refusal.hint.is_some(), "{refusal:?}");
        assert_eq!((w.runs(A), phase(w).is_some()), (false, true));
        assert_eq!(w.recorded(A).unwrap().mode, Mode::Primary);
        w.check_all().unwrap();
    });
}
