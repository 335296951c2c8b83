//! How much waits to be sent, against what the disks say themselves: never nothing from ignorance, and no view waits for it.

use crate::common::{
    difference, eventually, job, local_disks, replicating, simulate, simulate_with, start_vm, state,
};
use lifeboat_engine::action::{Action, ReplicationView};
use lifeboat_engine::paging::Paging;
use lifeboat_engine::ports::hypervisor::PowerState;
use lifeboat_engine::query::Query;
use lifeboat_model::{JobState, ReplicationState as State};
use lifeboat_sim::{BLOCK, Content, VM, World};

async fn view(w: &World, host: usize) -> ReplicationView {
    w.view(host).await.unwrap().replication.unwrap()
}

async fn pending(w: &World, host: usize) -> Option<u64> {
    view(w, host).await.pending_bytes
}

/// Bytes in which the primary's disks differ from the newest instant that arrived.
fn missing(w: &World) -> u64 {
    let arrived: Vec<Content> = {
        let s = w.shared.state();
        s.truth_at(VM, s.hosts[1].replicas[&VM].durable)
            .unwrap()
            .disks
            .clone()
    };
    difference(&local_disks(w), &arrived).0 * BLOCK
}

fn stop() -> Action {
    Action::StopVm {
        vm: World::vm(),
        force: true,
    }
}

#[test]
fn what_changed_since_the_newest_instant_waits_to_be_sent() {
    simulate(1, async |w| {
        replicating(w).await;
        w.run(40).await;
        assert_eq!(pending(w, 0).await, Some(0), "nobody writes, and all was sent");
        assert_eq!(
            pending(w, 1).await,
            None,
            "a replica does not know what its primary has"
        );
        w.cut(true);
        let mut before = 0;
        for _ in 0..5 {
            w.write(20);
            w.run(15).await;
            let waits = pending(w, 0).await.unwrap();
            assert!(waits >= missing(w), "{waits} of {}", missing(w));
            assert!(waits > before, "{waits} after {before}");
            before = waits;
        }
        w.cut(false);
        eventually(w, "the end of the outage", |w| {
            w.recorded(0).is_some_and(|r| r.problem.is_none())
        })
        .await;
        w.run(40).await;
        assert_eq!(pending(w, 0).await, Some(0));
        assert_eq!(missing(w), 0);
    });
}

#[test]
fn suspended_the_records_go_on() {
    simulate(2, async |w| {
        replicating(w).await;
        w.run(40).await;
        let vm = World::vm();
        w.insist(0, Action::SuspendReplication { vm }).await.unwrap();
        w.write(30);
        let waits = pending(w, 0).await.unwrap();
        // Zeros that were written where zeros were count as well.
        assert!(
            (missing(w)..=30 * BLOCK).contains(&waits),
            "{waits} of {}",
            missing(w)
        );
        assert!(waits > 0);
        w.restart(0).await;
        assert_eq!(
            pending(w, 0).await,
            Some(waits),
            "the VM's process knows, not the daemon"
        );
    });
}

#[test]
fn off_it_is_nothing_when_all_was_sent_and_else_not_known() {
    simulate(3, async |w| {
        replicating(w).await;
        w.insist(0, stop()).await.unwrap();
        w.run(60).await;
        assert_eq!(pending(w, 0).await, Some(0));
        w.insist(0, start_vm()).await.unwrap();
        w.run(20).await;
        w.cut(true);
        w.write(30);
        w.insist(0, stop()).await.unwrap();
        w.run(20).await;
        assert_eq!(pending(w, 0).await, None);
    });
    simulate(4, async |w| {
        replicating(w).await;
        w.run(20).await;
        w.cut(true);
        w.write(30);
        w.kill_vm(0);
        w.insist(0, start_vm()).await.unwrap();
        assert_eq!(
            pending(w, 0).await,
            None,
            "its records were lost with its process"
        );
    });
}

#[test]
fn before_the_first_copy_is_there_it_is_not_known() {
    simulate(5, async |w| {
        let (vm, settings) = (World::vm(), World::settings());
        w.insist(0, Action::EnableReplication { vm, settings })
            .await
            .unwrap();
        assert_eq!(pending(w, 0).await, None);
        w.cut(true);
        w.insist(0, crate::common::start_copy()).await.unwrap();
        w.write(10);
        w.run(5).await;
        assert_eq!(state(w, 0), State::WaitingToCompleteInitialReplication);
        assert_eq!(pending(w, 0).await, None);
    });
}

#[test]
fn a_monitor_that_does_not_say_it_holds_up_no_view() {
    simulate(6, async |w| {
        replicating(w).await;
        w.run(20).await;
        w.shared.state().hangs.insert((0, "hv.pending"));
        for listed in [false, true] {
            let asked = w.shared.now();
            let seen = if listed {
                let views = w.query(0, Query::list_vms(Paging::FIRST)).await;
                let mut views = views.unwrap().unwrap().into_iter();
                views.find(|v| v.spec.uuid == VM).unwrap()
            } else {
                w.query(0, Query::show_vm(World::vm())).await.unwrap().unwrap()
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
fn what_the_third_host_lacks_is_counted_in_logs() {
    simulate_with(7, &["a", "b", "c"], 24 << 20, async |w| {
        replicating(w).await;
        let mut settings = World::settings();
        settings.peer = "c:7000".into();
        let (vm, start) = (World::vm(), true);
        let extend = Action::ExtendReplication { vm, settings, start };
        assert_eq!(job(w, 1, extend).await.unwrap(), JobState::Completed);
        let third = async |w: &World| view(w, 1).await.extended.unwrap().pending_bytes;
        w.run(60).await;
        w.cut_between(1, 2, true);
        let mut before = 0;
        for _ in 0..3 {
            w.write(20);
            w.run(30).await;
            let waits = third(w).await.unwrap();
            assert!(waits > before, "{waits} after {before}");
            before = waits;
        }
        w.cut_between(1, 2, false);
        w.cut(true);
        w.run(120).await;
        assert_eq!(third(w).await, Some(0));
    });
}
