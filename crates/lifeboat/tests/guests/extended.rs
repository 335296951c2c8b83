//! A third host that follows the replica: A → B → C with a real guest that writes. The copies are compared byte for byte,
//! C is brought up like any replica, and when A is lost B goes on as the primary of C. The verifier, qemu-img and the
//! guest's own boot decide.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "stories are long, and their helpers may fail them"
)]

use std::time::Duration;

use crate::support::guest::{
    acknowledged, assert_equal, assert_intact, console, failed_over_as_raw, start_load, start_with_load,
    stop_load, verify_images, verify_in_guest, verify_replica_on, wait_ready,
};
use crate::support::{Host, Setup, VM, World, kill9, wait_until};

/// A guest that writes on A, replicated to B and from there to C.
fn chain() -> World {
    let mut world = World::new(&Setup::default());
    world.start();
    world.allow_return();
    world.add_third();
    start_with_load(&world, &world.a);
    world.replicate(&["--interval", "1s", "--history", "3", "--point-spacing", "4s"]);
    world.a.wait_cycles(1);
    let peer = format!("localhost:{}", world.third().proxy.port);
    let third = ["replication", "extend", VM, "--to", &peer];
    let too_often = [&third[..], &["--interval", "0s"]].concat();
    world.b.refused(&too_often);
    let often = ["--interval", "1s", "--history", "3", "--point-spacing", "4s"];
    world.b.ok(&[&third[..], &often].concat());
    world
}

/// Waits until so many more logs were sent on to C.
fn forwarded(world: &World, n: u64) {
    let count = || {
        let counters = &world.b.replication()["extended"]["counters"];
        counters["cycles"].as_u64().unwrap_or(0)
    };
    let from = count();
    wait_until(
        &format!("{n} logs sent on; log of B:\n{}", world.b.log()),
        Duration::from_secs(120),
        || (count() >= from + n).then_some(()),
    );
}

/// Waits until both hosts stand at the same position.
fn same_position(one: &Host, other: &Host) {
    wait_until(
        &format!(
            "{} and {} stand at the same position; logs:\n{}\n{}",
            one.name,
            other.name,
            one.log(),
            other.log()
        ),
        Duration::from_secs(120),
        || (one.replication()["position"] == other.replication()["position"]).then_some(()),
    );
}

fn good_in_guest(world: &World, host: &Host, acknowledged: i64) {
    let found = assert_intact(world, host, host.name);
    assert!(
        found[0] >= acknowledged,
        "{} has records up to {}, the replica had {acknowledged}",
        host.name,
        found[0]
    );
}

#[test]
fn guest_is_extended_to_a_third_host_which_follows_the_second_when_the_first_is_lost() {
    let mut world = chain();
    let c = &world.third().host;
    assert_eq!(c.replication()["mode"], "ExtendedReplica");
    assert_eq!(c.state(), "Replicating");
    let first_copy = world.third().proxy.bytes();
    forwarded(&world, 3);
    assert!(!c.sealed_points().is_empty());

    // While the guest on A writes, nobody further down brings it up by mistake.
    let refused = c.refused(&["failover", "start", VM]);
    assert!(refused.contains("running"), "{refused}");

    // At the same position, both copies hold the same bytes.
    let on_a = acknowledged(&console(&world, &world.a), "append").unwrap().0;
    world.a.wait_cycles(2);
    world.a.ok(&["replication", "suspend", VM]);
    same_position(&world.b, c);
    let (on_b, on_c) = (
        failed_over_as_raw(&world, &world.b),
        failed_over_as_raw(&world, c),
    );
    assert_eq!(world.b.replication()["position"], c.replication()["position"]);
    for (b, c) in on_b.iter().zip(&on_c) {
        assert_equal((b, "raw"), (c, "raw"));
    }
    for v in verify_images(&on_c[0], &on_c[1]) {
        assert!(v.ok, "the copy on C: {}", v.text);
    }
    world.b.ok(&["failover", "revert", VM]);
    c.ok(&["failover", "revert", VM]);
    world.a.ok(&["replication", "resume", VM]);
    forwarded(&world, 2);

    // The site of A is lost. The third host can be brought up and put back.
    kill9(world.qemu_pid(&world.a).unwrap());
    world.a.kill9();
    let c = &world.third().host;
    same_position(&world.b, c);
    c.ok(&["failover", "start", VM]);
    wait_ready(&world, c);
    good_in_guest(&world, c, on_a);
    c.ok(&["failover", "revert", VM, "--force"]);
    assert_eq!(world.qemu_pid(c), None);

    // The second host goes on, and the third one follows it with what it has.
    world.b.ok(&["failover", "start", VM]);
    wait_ready(&world, &world.b);
    good_in_guest(&world, &world.b, on_a);
    start_load(&world, &world.b);
    let early = world.b.refused(&["replication", "continue", VM]);
    assert!(early.contains("commit"), "{early}");
    world.b.ok(&["failover", "commit", VM]);
    let before = world.third().proxy.bytes();
    world.b.ok(&["replication", "continue", VM]);
    assert_eq!(world.b.replication()["mode"], "Primary");
    c.wait_state("Replicating");
    assert_eq!(c.replication()["mode"], "Replica");
    world.b.wait_state("Replicating");
    world.b.wait_cycles(3);
    let sent = world.third().proxy.bytes() - before;
    println!("B went on as the primary of C with {sent} bytes; the first copy took {first_copy}");
    assert!(
        sent < first_copy / 4,
        "{sent} bytes, the first copy took {first_copy}"
    );

    // What is written on B arrives on C.
    let on_b = acknowledged(&console(&world, &world.b), "append").unwrap().0;
    assert!(on_b > on_a);
    stop_load(&world, &world.b);
    let high = verify_in_guest(&world, &world.b);
    world.b.ok(&["vm", "stop", VM, "--force"]);
    wait_until("B has nothing left to send", Duration::from_secs(60), || {
        (world.b.replication()["lag_ms"] == 0).then_some(())
    });
    same_position(&world.b, c);
    for (v, wrote) in verify_replica_on(&world, c).iter().zip(&high[1..]) {
        assert!(
            v.ok && v.high == wrote.high,
            "B wrote {}; C: {}",
            wrote.text,
            v.text
        );
    }

    // The lost host returns: it finds out that it was overtaken, and starts nothing.
    world.a.start();
    wait_until("A sees the split", Duration::from_secs(60), || {
        (!world.a.replication()["split"].is_null()).then_some(())
    });
    let refused = world.a.refused(&["vm", "start", VM]);
    assert!(refused.contains("brought up on the replica"), "{refused}");
}
