//! What a hypervisor tells without being asked: a guest that ends or stalls is known at once, and what is told and lost costs no
//! more than the time until the next look.

use lifeboat_engine::action::Action;
use lifeboat_engine::ports::hypervisor::{PowerChange, PowerState, Stall, StallCause};
use lifeboat_model::{DiskId, Timestamp, VmId};
use lifeboat_sim::harness::{
    A, B, PRIMARY, REPLICA, durable, events, eventually, flows, healthy, planned, replicating, said,
    simulate, start_vm, stop_vm,
};
use lifeboat_sim::{BEHIND, World};
use uuid::Uuid;

/// Longer than it takes to look at a VM and to send what it wrote, and shorter than the time between two looks.
const A_MOMENT_MS: u64 = 3000;

/// Replication whose next cycle is far away, with a hypervisor that tells or does not.
async fn seldom(w: &mut World, tells: bool) {
    replicating(w).await;
    let mut settings = w.recorded(PRIMARY).unwrap().settings;
    settings.interval_s = 900;
    let vm = World::vm();
    let modify = Action::ModifyReplication {
        vm,
        settings,
        relationship: Default::default(),
    };
    w.insist(PRIMARY, modify).await.unwrap();
    w.run(30).await;
    // Somebody looked: a change of power shows from now on.
    w.view(PRIMARY).await.unwrap();
    // What happens next does not happen in the moment of that look.
    w.pause(500).await;
    w.shared.state().hosts[PRIMARY].tells = tells;
    w.write(20);
}

fn full() -> Stall {
    Stall {
        cause: StallCause::NoSpace,
        disks: vec![DiskId::new("sys").unwrap()],
    }
}

/// When the VM's power became what it is, as the primary shows it.
async fn since(w: &World) -> (PowerState, Timestamp) {
    let view = w.view(PRIMARY).await.unwrap();
    (view.power, view.times.power.unwrap())
}

#[test]
fn a_guest_that_ends_by_itself_is_off_at_once_and_its_last_changes_are_sent() {
    type End = fn(&World);
    let ends: [(&str, End); 2] = [
        ("it shuts down", |w| w.guest_off(PRIMARY)),
        ("its process is killed", |w| w.kill_vm(PRIMARY)),
    ];
    for (what, end) in ends {
        simulate(1, async |w| {
            seldom(w, true).await;
            let (before, ended) = (durable(w, REPLICA), w.shared.now());
            end(w);
            w.pause(A_MOMENT_MS).await;
            assert_eq!(events(w, PRIMARY, "VM stopped").len(), 1, "{what}");
            w.run(6).await;
            let (power, at) = since(w).await;
            assert_eq!(power, PowerState::Off, "{what}");
            assert!(at.since(ended).as_secs() < 2, "{what}: {at:?} after {ended:?}");
            if what == "it shuts down" {
                assert_ne!(durable(w, REPLICA), before, "nobody waits for the next cycle");
            }
        });
    }
}

#[test]
fn a_guest_that_stalls_is_reported_at_once() {
    simulate(2, async |w| {
        seldom(w, true).await;
        w.stall_guest(PRIMARY, full());
        w.pause(A_MOMENT_MS).await;
        assert!(said(
            w,
            PRIMARY,
            "the guest is stalled: no space left for disk sys"
        ));
        assert!(!said(w, PRIMARY, "VM stopped"));
    });
}

#[test]
fn what_is_told_and_lost_costs_the_time_until_the_next_look() {
    simulate(3, async |w| {
        seldom(w, false).await;
        w.stall_guest(PRIMARY, full());
        w.run(15).await;
        assert!(said(w, PRIMARY, "the guest is stalled"));
        let before = durable(w, REPLICA);
        w.guest_off(PRIMARY);
        w.run(15).await;
        let (power, _) = since(w).await;
        assert_eq!(power, PowerState::Off);
        assert!(said(w, PRIMARY, "the guest is no longer stalled: the VM is off"));
        assert_eq!(durable(w, REPLICA), before, "the next cycle comes when it is due");
        w.insist(PRIMARY, start_vm()).await.unwrap();
        w.write(20);
        w.run(900).await;
        assert_ne!(durable(w, REPLICA), before);
    });
}

#[test]
fn an_engine_that_was_told_too_much_looks_at_every_vm() {
    simulate(4, async |w| {
        seldom(w, true).await;
        w.stall_guest(PRIMARY, full());
        for n in 0..=BEHIND {
            let other = VmId(Uuid::from_u128(1000 + n as u128));
            w.tell_of(PRIMARY, other, PowerChange::WentOn);
        }
        w.pause(A_MOMENT_MS).await;
        assert!(said(w, PRIMARY, "the guest is stalled"));
    });
}

#[test]
fn what_is_told_of_a_vm_that_is_not_known_does_nothing() {
    simulate(5, async |w| {
        // Nothing is replicated, so that nothing else happens in this moment.
        w.run(11).await;
        w.shared.state().hosts[PRIMARY].tells = true;
        let calls = w.gate(PRIMARY).calls();
        for change in [PowerChange::EndedByItself, PowerChange::Halted] {
            w.tell_of(PRIMARY, VmId(Uuid::from_u128(7)), change);
        }
        w.pause(A_MOMENT_MS).await;
        assert_eq!(w.gate(PRIMARY).calls(), calls, "no port was called");
        assert!(!said(w, PRIMARY, "VM stopped"));
        w.stall_guest(PRIMARY, full());
        w.pause(A_MOMENT_MS).await;
        assert!(
            said(w, PRIMARY, "the guest is stalled"),
            "and it goes on listening"
        );
    });
}

#[test]
fn what_is_told_is_not_believed() {
    simulate(6, async |w| {
        seldom(w, true).await;
        let before = durable(w, REPLICA);
        w.tell_of(PRIMARY, lifeboat_sim::VM, PowerChange::EndedByItself);
        w.pause(A_MOMENT_MS).await;
        assert_eq!(w.view(PRIMARY).await.unwrap().power, PowerState::Running);
        assert!(!said(w, PRIMARY, "VM stopped"));
        assert_eq!(durable(w, REPLICA), before);
    });
}

#[test]
fn a_stop_that_was_asked_for_is_one_stop() {
    simulate(7, async |w| {
        replicating(w).await;
        w.shared.state().hosts[PRIMARY].tells = true;
        for (force, stops) in [(false, 1), (true, 2)] {
            w.insist(PRIMARY, stop_vm(force)).await.unwrap();
            w.run(15).await;
            assert_eq!(events(w, PRIMARY, "VM stopped").len(), stops, "force: {force}");
            w.insist(PRIMARY, start_vm()).await.unwrap();
        }
        healthy(w, PRIMARY, REPLICA).await;
    });
}

#[test]
fn roles_change_under_hypervisors_that_tell() {
    simulate(8, async |w| {
        replicating(w).await;
        for host in [A, B] {
            w.shared.state().hosts[host].tells = true;
        }
        w.insist(A, planned(true)).await.unwrap();
        eventually(w, "the roles are swapped", |w| flows(w, B, A)).await;
        assert!(!said(w, A, "VM stopped"), "it ended for the failover");
        w.restart(B).await;
        w.run(1).await;
        w.guest_off(B);
        w.pause(A_MOMENT_MS).await;
        assert!(said(w, B, "VM stopped"), "also after a restart of the daemon");
        w.insist(B, start_vm()).await.unwrap();
        healthy(w, B, A).await;
    });
}
