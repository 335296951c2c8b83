//! Guests that stand still and VMs of which nothing is known: every command in every state, and that not known is never
//! taken for off.

use lifeboat_engine::action::{Action, Answer};
use lifeboat_engine::ports::hypervisor::{PowerState, Stall, StallCause};
use lifeboat_model::DiskId;
use lifeboat_model::api::ReturnCode;
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, healthy, pause_vm, planned, refused, replicating, reset_vm, simulate, start_vm, stop_vm,
};
use lifeboat_sim::{VM, World};

const INVALID: Result<PowerState, ReturnCode> = Err(ReturnCode::InvalidState);
const UNKNOWN: Result<PowerState, ReturnCode> = Err(ReturnCode::Unknown);

fn full(w: &World, host: usize) {
    stalled(w, host, StallCause::NoSpace);
}

/// The guest on `host` is stopped by this, again and again.
fn stalled(w: &World, host: usize, cause: StallCause) {
    let disks = vec![DiskId::new("sys").unwrap()];
    w.stall_guest(host, Stall { cause, disks });
}

/// What stopped the guest is gone.
fn mended(w: &World, host: usize) {
    let mut s = w.shared.state();
    s.hosts[host].processes.get_mut(&VM).unwrap().stall = None;
}

/// The host loses sight of its VM, which goes on.
fn blind(w: &World, host: usize) {
    let mut s = w.shared.state();
    s.hosts[host].blind.insert(VM, "its sockets are gone".into());
}

/// What the process really does.
fn really(w: &World, host: usize) -> PowerState {
    w.shared.state().hosts[host].processes[&VM].power
}

/// A state of a guest: how it is brought about, and what the commands start, pause, reset, stop and stop by force make of
/// it.
type Row = (&'static str, fn(&World), [Result<PowerState, ReturnCode>; 5]);

fn rows() -> Vec<Row> {
    use PowerState::{Off, Paused, Running};
    fn paused(w: &World) {
        w.shared.state().hosts[PRIMARY]
            .processes
            .get_mut(&VM)
            .unwrap()
            .power = PowerState::Paused;
    }
    fn off(w: &World) {
        w.guest_off(PRIMARY);
    }
    fn space_again(w: &World) {
        full(w, PRIMARY);
        mended(w, PRIMARY);
    }
    vec![
        ("off", off, [Ok(Running), INVALID, INVALID, INVALID, INVALID]),
        (
            "running",
            |_| {},
            [INVALID, Ok(Paused), Ok(Running), Ok(Off), Ok(Off)],
        ),
        (
            "paused",
            paused,
            [Ok(Running), INVALID, Ok(Paused), INVALID, Ok(Off)],
        ),
        (
            "stalled, and there is space again",
            space_again,
            [Ok(Running), INVALID, Ok(Running), INVALID, Ok(Off)],
        ),
        (
            "stalled, and still full",
            |w| full(w, PRIMARY),
            [Err(ReturnCode::Failed), INVALID, Ok(Running), INVALID, Ok(Off)],
        ),
        (
            "crashed",
            |w| stalled(w, PRIMARY, StallCause::Internal),
            [INVALID, INVALID, Ok(Running), INVALID, Ok(Off)],
        ),
        (
            "not known",
            |w| blind(w, PRIMARY),
            [UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, Ok(Off)],
        ),
    ]
}

#[test]
fn every_command_in_every_state_of_a_guest() {
    for (name, prepare, expected) in rows() {
        let commands = [start_vm(), pause_vm(), reset_vm(), stop_vm(false), stop_vm(true)];
        for (command, expected) in commands.into_iter().zip(expected) {
            let what = format!("{command:?} of a VM that is {name}");
            simulate(1, async |w| {
                prepare(w);
                let before = really(w, PRIMARY);
                let done = w.act(PRIMARY, command.clone()).await.unwrap();
                let got = done.as_ref().map(|_| really(w, PRIMARY)).map_err(|e| e.code);
                assert_eq!(got, expected, "{what}: {done:?}");
                if let Err(refusal) = done {
                    assert_eq!(
                        really(w, PRIMARY),
                        before,
                        "{what} is refused and changes nothing"
                    );
                    let fine = name == "off" && command != start_vm() || name == "running";
                    let failed = refusal.code == ReturnCode::Failed;
                    assert!(fine || failed || refusal.hint.is_some(), "{what}: {refusal:?}");
                }
            });
        }
    }
}

#[test]
fn a_refusal_says_why_the_guest_stands_still() {
    simulate(2, async |w| {
        full(w, PRIMARY);
        for action in [pause_vm(), stop_vm(false), start_vm()] {
            let refusal = refused(w, PRIMARY, action).await;
            assert!(
                refusal.message.contains("no space left for disk sys"),
                "{refusal:?}"
            );
        }
    });
}

#[test]
fn a_vm_of_which_nothing_is_known_is_not_moved_started_or_given_up() {
    simulate(3, async |w| {
        replicating(w).await;
        blind(w, PRIMARY);
        let refusal = refused(w, PRIMARY, planned(true)).await;
        assert_eq!(refusal.code, ReturnCode::Unknown, "{refusal:?}");
        let become_replica = Action::BecomeReplica { vm: World::vm() };
        let refusal = refused(w, PRIMARY, become_replica).await;
        assert_eq!(refusal.code, ReturnCode::Unknown, "{refusal:?}");
        assert!(refusal.message.contains("its sockets are gone"), "{refusal:?}");
        assert_eq!(really(w, PRIMARY), PowerState::Running);
        w.run(60).await;
        assert_eq!(really(w, PRIMARY), PowerState::Running);
        // Seen again, everything goes on by itself.
        w.shared.state().hosts[PRIMARY].blind.clear();
        w.write(20);
        healthy(w, PRIMARY, REPLICA).await;
    });
}

#[test]
fn a_stalled_guest_is_moved_with_force_only() {
    simulate(4, async |w| {
        replicating(w).await;
        full(w, PRIMARY);
        let refusal = refused(w, PRIMARY, planned(true)).await;
        assert_eq!(refusal.code, ReturnCode::InvalidState);
        assert!(refusal.message.contains("no space left"), "{refusal:?}");
        mended(w, PRIMARY);
        assert_eq!(w.insist(PRIMARY, start_vm()).await.unwrap(), Answer::Done);
        healthy(w, PRIMARY, REPLICA).await;
    });
}
