//! kill -9 of daemons and cut links at random moments while roles change: planned moves and failback on a real guest under
//! load. Nothing is lost, never do two copies run, and nobody is needed. The seed is printed; `LIFEBOAT_SEED` replays it.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "stories are long, and their helpers may fail them"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::guest::{
    acknowledged, console, loaded_both_ways, start_load, stop_load, verify_in_guest, wait_ready,
};
use crate::support::random::{Random, rounds};
use crate::support::{VM, World, kill9, qemu_with, wait_until};

/// Watches from outside that the VM never runs on both hosts.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<u32>>,
}

impl Watch {
    fn over(world: &World) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let dirs = [world.vm_dir(&world.a), world.vm_dir(&world.b)];
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut both = 0;
            while !stopped.load(Ordering::SeqCst) {
                let pids = dirs.each_ref().map(|d| qemu_with(d));
                // One is on its way out when the second look no longer finds it.
                if let [Some(a), Some(_)] = pids
                    && qemu_with(&dirs[0]) == Some(a)
                    && qemu_with(&dirs[1]).is_some()
                {
                    both += 1;
                }
                std::thread::park_timeout(Duration::from_millis(20));
            }
            both
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let both = self.thread.take().unwrap().join().unwrap();
        assert_eq!(both, 0, "the VM ran on both hosts at once");
    }
}

fn moves(count: u64) {
    let mut world = loaded_both_ways("qcow2");
    world.replicate(&["--interval", "1s", "--history", "3", "--point-spacing", "5s"]);
    let mut random = Random::new("moves");
    let watch = Watch::over(&world);
    for round in 0..count {
        let to_b = world.a.mode() == "Primary";
        let (from, to) = if to_b {
            (&world.a, &world.b)
        } else {
            (&world.b, &world.a)
        };
        from.ok(&["failover", "start", VM, "--planned", "--detach"]);
        let _ = to;
        for _ in 0..=random.below(3) {
            random.pause(2500);
            world.blow(&mut random, 1500);
        }
        let (from, to) = if to_b {
            (&world.a, &world.b)
        } else {
            (&world.b, &world.a)
        };
        wait_until(
            &format!(
                "round {round}: the VM moved; logs:\n{}\n---\n{}",
                from.log(),
                to.log()
            ),
            Duration::from_secs(180),
            || (to.mode() == "Primary" && from.mode() == "Replica").then_some(()),
        );
        wait_until("it runs there", Duration::from_secs(60), || world.qemu_pid(to));
        wait_ready(&world, to);
        let found = verify_in_guest(&world, to);
        let written = console(&world, from);
        for (verdict, stream) in found.iter().zip(["append", "scatter", "pair"]) {
            let told = acknowledged(&written, stream).map_or(-1, |(record, _)| record);
            assert!(
                verdict.ok && verdict.high >= told,
                "round {round}: {told} was acknowledged: {}",
                verdict.text
            );
        }
        start_load(&world, to);
        to.wait_in_step();
        from.wait_state("Replicating");
        to.wait_cycles(1);
    }
    watch.end();
}

#[test]
fn guest_moves_survive_kills_at_random_moments() {
    moves(rounds(3));
}

#[test]
#[ignore = "takes long; run by make soak"]
fn soak_guest_moves_survive_kills_at_random_moments() {
    moves(rounds(40));
}

/// Failback after a split, with blows while roles change and while the copies are made equal.
#[test]
fn guest_failback_survives_kills() {
    let mut world = loaded_both_ways("qcow2");
    world.replicate(&["--interval", "1s", "--history", "3", "--point-spacing", "5s"]);
    let mut random = Random::new("failback");
    // A loses its QEMU, and with it the record of its changes: what differs is found by comparison.
    world.cut();
    kill9(world.qemu_pid(&world.a).unwrap());
    world.a.kill9();
    world.b.ok(&["failover", "start", VM]);
    wait_ready(&world, &world.b);
    world.b.ok(&["failover", "commit", VM]);
    start_load(&world, &world.b);
    world.heal();
    world.a.start();
    world.b.ok(&["replication", "reverse", VM, "--detach"]);
    for _ in 0..5 {
        random.pause(900);
        world.blow(&mut random, 1500);
        if world.b.mode() == "Replica" {
            // A reversal that found nobody was given up; it is asked for again.
            world.b.cli(&["replication", "reverse", VM, "--detach"]);
        }
    }
    wait_until(
        &format!("B is the primary; log:\n{}", world.b.log()),
        Duration::from_secs(180),
        || {
            let now = world.b.replication();
            if now["mode"] == "Replica" {
                world.b.cli(&["replication", "reverse", VM, "--detach"]);
            }
            (now["mode"] == "Primary" && now["sync"].is_null() && now["state"] == "Replicating").then_some(())
        },
    );
    world.a.wait_state("Replicating");
    world.b.wait_cycles(2);
    stop_load(&world, &world.b);
    let on_b: Vec<i64> = verify_in_guest(&world, &world.b).iter().map(|v| v.high).collect();
    world.b.wait_cycles(2);
    world.b.ok(&["vm", "stop", VM, "--force"]);
    world.a.ok(&["failover", "start", VM]);
    wait_ready(&world, &world.a);
    for (v, high) in verify_in_guest(&world, &world.a).iter().zip(on_b) {
        assert!(v.ok && v.high >= high, "{high} on B: {}", v.text);
    }
}
