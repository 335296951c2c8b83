//! How much waits to be sent, against what the disks say themselves: never nothing from ignorance, and no view waits for it.

use lifeboat_engine::action::Action;
use lifeboat_engine::paging::Paging;
use lifeboat_engine::ports::hypervisor::PowerState;
use lifeboat_engine::query::Query;
use lifeboat_model::{JobState, ReplicationState as State};
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, THIRD, THREE_HOSTS, difference, enable, eventually, job, local_disks, replicating,
    replication, simulate, simulate_with, start_copy, start_vm, state, stop_vm,
};
use lifeboat_sim::{BLOCK, Content, VM, World};

async fn pending(w: &World, host: usize) -> Option<u64> {
    replication(w, host).await.pending_bytes
}

/// Bytes in which the primary's disks differ from the newest instant that arrived.
fn missing(w: &World) -> u64 {
    let arrived: Vec<Content> = {
        let s = w.shared.state();
        s.truth_at(VM, s.hosts[REPLICA].replicas[&VM].durable)
            .unwrap()
            .disks
            .clone()
    };
    difference(&local_disks(w), &arrived).0 * BLOCK
}

fn stop() -> Action {
    stop_vm(true)
}

#[test]
fn pending_bytes_are_what_changed_since_the_newest_instant() {
    simulate(1, async |w| {
        replicating(w).await;
        w.run(40).await;
        assert_eq!(
            pending(w, PRIMARY).await,
            Some(0),
            "nobody writes, and all was sent"
        );
        assert_eq!(
            pending(w, REPLICA).await,
            None,
            "a replica does not know what its primary has"
        );
        w.cut(true);
        let mut before = 0;
        for _ in 0..5 {
            w.write(20);
            w.run(15).await;
            let waits = pending(w, PRIMARY).await.unwrap();
            assert!(waits >= missing(w), "{waits} of {}", missing(w));
            assert!(waits > before, "{waits} after {before}");
            before = waits;
        }
        w.cut(false);
        eventually(w, "the end of the outage", |w| {
            w.recorded(PRIMARY).is_some_and(|r| r.problem.is_none())
        })
        .await;
        w.run(40).await;
        assert_eq!(pending(w, PRIMARY).await, Some(0));
        assert_eq!(missing(w), 0);
    });
}

#[test]
fn pending_bytes_grow_while_suspended_and_survive_a_restart() {
    simulate(2, async |w| {
        replicating(w).await;
        w.run(40).await;
        let vm = World::vm();
        w.insist(
            PRIMARY,
            Action::SuspendReplication {
                vm,
                relationship: Default::default(),
            },
        )
        .await
        .unwrap();
        w.write(30);
        let waits = pending(w, PRIMARY).await.unwrap();
        // Zeros that were written where zeros were count as well.
        assert!(
            (missing(w)..=30 * BLOCK).contains(&waits),
            "{waits} of {}",
            missing(w)
        );
        assert!(waits > 0);
        w.restart(PRIMARY).await;
        assert_eq!(
            pending(w, PRIMARY).await,
            Some(waits),
            "the VM's process knows, not the daemon"
        );
    });
}

#[test]
fn pending_bytes_of_a_powered_off_vm_are_zero_when_all_was_sent_and_else_unknown() {
    simulate(3, async |w| {
        replicating(w).await;
        w.insist(PRIMARY, stop()).await.unwrap();
        w.run(60).await;
        assert_eq!(pending(w, PRIMARY).await, Some(0));
        w.insist(PRIMARY, start_vm()).await.unwrap();
        w.run(20).await;
        w.cut(true);
        w.write(30);
        w.insist(PRIMARY, stop()).await.unwrap();
        w.run(20).await;
        assert_eq!(pending(w, PRIMARY).await, None);
    });
    simulate(4, async |w| {
        replicating(w).await;
        w.run(20).await;
        w.cut(true);
        w.write(30);
        w.kill_vm(PRIMARY);
        w.insist(PRIMARY, start_vm()).await.unwrap();
        assert_eq!(
            pending(w, PRIMARY).await,
            None,
            "its records were lost with its process"
        );
    });
}

#[test]
fn pending_bytes_are_unknown_before_the_initial_copy() {
    simulate(5, async |w| {
        w.insist(PRIMARY, enable()).await.unwrap();
        assert_eq!(pending(w, PRIMARY).await, None);
        w.cut(true);
        w.insist(PRIMARY, start_copy()).await.unwrap();
        w.write(10);
        w.run(5).await;
        assert_eq!(state(w, PRIMARY), State::WaitingToCompleteInitialReplication);
        assert_eq!(pending(w, PRIMARY).await, None);
    });
}

#[test]
fn a_monitor_that_does_not_answer_delays_no_view() {
    simulate(6, async |w| {
        replicating(w).await;
        w.run(20).await;
        w.shared.state().hangs.insert((PRIMARY, "hv.pending"));
        for listed in [false, true] {
            let asked = w.shared.now();
            let seen = if listed {
                let views = w.query(PRIMARY, Query::list_vms(Paging::FIRST)).await;
                let mut views = views.unwrap().unwrap().into_iter();
                views.find(|v| v.spec.uuid == VM).unwrap()
            } else {
                let view = w.query(PRIMARY, Query::show_vm(World::vm())).await;
                view.unwrap().unwrap()
            };
            let took = w.shared.now().since(asked).as_millis();
            assert!(took <= 500, "{took} ms");
            assert_eq!(seen.power, PowerState::Running);
            let replication = seen.replication.unwrap();
            assert_eq!(replication.state, State::Replicating);
            assert_eq!(replication.pending_bytes, None, "not known, and not nothing");
        }
    });
}

#[test]
fn pending_bytes_of_an_extended_replica_are_counted_in_logs() {
    simulate_with(7, THREE_HOSTS, 24 << 20, async |w| {
        replicating(w).await;
        let mut settings = World::settings();
        settings.peer = "c:7000".into();
        let (vm, start) = (World::vm(), true);
        let extend = Action::ExtendReplication { vm, settings, start };
        assert_eq!(job(w, REPLICA, extend).await.unwrap(), JobState::Completed);
        let third = async |w: &World| replication(w, REPLICA).await.extended.unwrap().pending_bytes;
        w.run(60).await;
        w.cut_between(REPLICA, THIRD, true);
        let mut before = 0;
        for _ in 0..3 {
            w.write(20);
            w.run(30).await;
            let waits = third(w).await.unwrap();
            assert!(waits > before, "{waits} after {before}");
            before = waits;
        }
        w.cut_between(REPLICA, THIRD, false);
        w.cut(true);
        w.run(120).await;
        assert_eq!(third(w).await, Some(0));
    });
}
