//! kill -9 of daemons and of QEMU, and cut links, at random moments, on a real guest under load: nothing lost, no full copy, nobody
//! needed. The seed is printed and `LIFEBOAT_SEED` replays it; `LIFEBOAT_ROUNDS` makes it longer.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "stories are long, and their helpers may fail them"
)]

use std::time::Duration;

use crate::support::guest::{
    assert_intact, assert_newest_survives, assert_replica_intact, assert_written, loaded, start_load,
    start_with_load, wait_ready,
};
use crate::support::random::{Random, rounds};
use crate::support::{Setup, VM, World, kill9, wait_until};

fn replicating(interval: &str) -> World {
    let mut world = World::new(&Setup::default());
    world.start();
    begin(&mut world, interval);
    world
}

/// The VM runs under load and is replicated.
fn begin(world: &mut World, interval: &str) {
    world.a.ok(&["vm", "start", VM]);
    wait_ready(world, &world.a);
    world.replicate(&[
        "--interval",
        interval,
        "--history",
        "3",
        "--point-spacing",
        "5s",
        "--any-point",
        "1h",
    ]);
    start_load(world, &world.a);
    // From here on the replica has records of each writer.
    world.a.wait_cycles(2);
}

/// QEMU dies: its tracking is lost, and the two copies are made equal by comparison, without a person and without a full
/// copy; the replica is as good as it was all the time.
fn qemu_dies(world: &mut World) {
    world.a.wait_state("Replicating");
    let sent = world.proxy.bytes();
    kill9(world.qemu_pid(&world.a).unwrap());
    wait_until("the loss is noticed", Duration::from_secs(60), || {
        let now = world.a.replication();
        (!now["sync"].is_null() || now["state"] != "Replicating").then_some(())
    });
    let what = "after QEMU died";
    assert_written(&assert_replica_intact(world, what), what);
    start_with_load(world, &world.a);
    world.a.wait_in_step();
    assert!(world.proxy.bytes() - sent < 16 << 20, "no full copy");
}

fn daemon_and_link_rounds(count: u64) {
    let mut world = replicating("1s");
    let mut random = Random::new("rounds");
    let mut sent_before = world.proxy.bytes();
    let cycles = |world: &World| world.a.replication()["counters"]["cycles"].as_u64().unwrap();
    let mut cycles_before = cycles(&world);
    for round in 0..count {
        if round % 50 == 25 {
            qemu_dies(&mut world);
            (sent_before, cycles_before) = (world.proxy.bytes(), cycles(&world));
        }
        random.pause(600);
        world.blow(&mut random, 400);
        if round % 20 == 19 {
            let state = world.a.state();
            assert!(
                ["Replicating", "Critical"].contains(&state.as_str()),
                "round {round}: {state}: {}",
                world.a.replication()
            );
            world.a.wait_cycles(2);
        }
    }
    world.a.wait_state("Replicating");
    world.a.wait_cycles(2);
    // Every byte that went over is delta: a full copy alone would be more than all of it.
    let cycles = cycles(&world) - cycles_before;
    let sent = world.proxy.bytes() - sent_before;
    eprintln!("{count} rounds, {cycles} cycles, {} KiB sent", sent >> 10);
    assert!(
        sent < (cycles + count) * (4 << 20),
        "{sent} bytes in {cycles} cycles look like a full copy"
    );

    assert_newest_survives(&mut world);
}

#[test]
fn guest_daemons_and_links_die_at_random_moments() {
    daemon_and_link_rounds(rounds(100));
}

#[test]
#[ignore = "takes a quarter of an hour; run by make soak"]
fn soak_guest_daemons_and_links_die_at_random_moments() {
    daemon_and_link_rounds(rounds(1000));
}

/// The copy goes on where it stopped, whoever was killed.
#[test]
fn guest_initial_copy_survives_kills() {
    let mut world = loaded("qcow2");
    world.enable(&["--interval", "1s"]);
    world.a.ok(&["replication", "start", VM, "--detach"]);
    let mut random = Random::new("initial copy");
    for round in 0..12 {
        random.pause(250);
        match round % 3 {
            0 => world.a.restart(),
            1 => world.b.restart(),
            _ => {
                world.proxy.cut();
                random.pause(100);
                world.proxy.heal();
            }
        }
    }
    world.b.wait_state("Replicating");
    world.a.wait_state("Replicating");
    world.a.wait_cycles(2);
    world.lose_primary();
    world.b.ok(&["failover", "start", VM]);
    wait_ready(&world, &world.b);
    assert_intact(&world, &world.b, "after an initial copy with kills");
}

/// Suspended in the middle of a capture, nothing goes on being saved for it, and nothing is lost.
#[test]
fn guest_suspend_leaves_no_capture_behind() {
    let mut world = replicating("1s");
    let mut random = Random::new("suspend");
    let saved = world.a.dir.join("spool").join(&world.uuid);
    for _ in 0..8 {
        random.pause(1500);
        world.a.ok(&["replication", "suspend", VM]);
        wait_until("the capture is put away", Duration::from_secs(30), || {
            let left = std::fs::read_dir(&saved).map_or(0, std::iter::Iterator::count);
            (left == 0).then_some(())
        });
        assert_eq!(world.a.state(), "Suspended");
        world.a.ok(&["replication", "resume", VM]);
    }
    world.a.wait_cycles(2);
    assert_newest_survives(&mut world);
}

/// A killed QEMU loses its tracking: that is said, and nothing is copied in full by itself.
#[test]
fn guest_killed_qemu_requires_resynchronization() {
    let world = replicating("1s");
    world.a.wait_cycles(2);
    world.a.ok(&["replication", "set", VM, "--auto-resync", "off"]);
    kill9(world.qemu_pid(&world.a).unwrap());
    let sent = world.proxy.bytes();
    let view = world.a.wait_state("WaitingToStartResynchronization");
    assert_eq!(view["health"], "Critical");
    let problem = view["problem"]["message"].as_str().unwrap();
    assert!(problem.contains("resynchronization is required"), "{problem}");
    assert!(world.proxy.bytes() - sent < 8 << 20, "no full copy");
    // The replica is as good as it was.
    world.b.ok(&["failover", "start", VM]);
    wait_ready(&world, &world.b);
    assert_intact(&world, &world.b, "without the primary's tracking");
}

/// kill -9 of the replica's daemon at any moment of failover start, revert and commit: the call is finished by the next
/// start, or by repeating it.
#[test]
fn guest_failover_survives_kills() {
    let mut world = replicating("1s");
    world.b.wait_points(2);
    world.lose_primary();
    let points = world.b.sealed_points();
    let settle = |world: &World, wanted: &str, again: &[&str]| {
        wait_until(wanted, Duration::from_secs(60), || {
            let state = world.b.state();
            if state == wanted {
                return Some(());
            }
            let busy = state == "FailoverInProgress"
                || world
                    .b
                    .json(&["job", "list"])
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|j| j["ended"].is_null());
            if !busy {
                world.b.cli(again);
            }
            None
        });
    };
    for delay in (0..150).step_by(10) {
        let start = ["failover", "start", VM, "--no-start", "--detach"];
        world.b.cli(&start);
        std::thread::park_timeout(Duration::from_millis(delay));
        world.b.restart();
        settle(&world, "Recovered", &start);
        let revert = ["failover", "revert", VM, "--force", "--detach"];
        world.b.cli(&revert);
        std::thread::park_timeout(Duration::from_millis(delay));
        world.b.restart();
        settle(&world, "Replicating", &revert);
    }
    let ids = |points: &[serde_json::Value]| points.iter().map(|p| p["id"].clone()).collect::<Vec<_>>();
    let now = world.b.sealed_points();
    assert!(
        ids(&points).iter().all(|p| ids(&now).contains(p)),
        "points are never lost: {points:?} {now:?}"
    );
    world.b.ok(&["failover", "start", VM]);
    wait_ready(&world, &world.b);
    let commit = ["failover", "commit", VM, "--detach"];
    world.b.cli(&commit);
    world.b.restart();
    settle(&world, "Committed", &commit);
    for _ in 0..3 {
        world.b.restart();
    }
    wait_until("merging is done", Duration::from_secs(120), || {
        (world.b.replication()["failover"]["stage"] == "committed").then_some(())
    });
    let what = "after a commit with kills";
    assert_written(&assert_intact(&world, &world.b, what), what);
}
