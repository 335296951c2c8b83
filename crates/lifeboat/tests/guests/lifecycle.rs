//! The rest of a VM's life, on real guests under write load: planned failover and return, failback by delta after a split,
//! resynchronization, test failover. What is right is said by the workload's verifier, by the guest's own boot and by
//! qemu-img, never by Lifeboat.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "stories are long, and their helpers may fail them"
)]

use std::time::Duration;

use crate::support::guest::{
    acknowledged, assert_equal, assert_intact, assert_replica_intact, assert_written, branch_as_raw, console,
    loaded_both_ways, shell, start_load, start_with_load, stop_load, verify_images, wait_ready,
};
use crate::support::{Host, Setup, VM, World, kill9, run, wait_until};

const OFTEN: &[&str] = &["--interval", "1s", "--history", "5", "--point-spacing", "4s"];

fn wait_mode(host: &Host, mode: &str) {
    wait_until(
        &format!("{} is {mode}; log:\n{}", host.name, host.log()),
        Duration::from_secs(180),
        || (host.mode() == mode).then_some(()),
    );
}

/// No synchronization is under way, and the replica has everything: cycles flow.
fn wait_equal(primary: &Host, replica: &Host) {
    primary.wait_in_step();
    replica.wait_state("Replicating");
}

fn qemu_is_off(world: &World, host: &Host) {
    assert_eq!(world.qemu_pid(host), None, "no VM may run on {}", host.name);
}

/// Moves the VM from one host to the other without loss; `commander` is where the command is typed.
fn moved(world: &World, (from, to): (&Host, &Host), commander: &Host) {
    let boots = |h: &Host| console(world, h).matches("LIFEBOAT ready").count();
    let before = boots(to);
    for stream in ["append", "scatter"] {
        wait_until("the guest writes", Duration::from_secs(60), || {
            acknowledged(&console(world, from), stream)
        });
    }
    commander.ok(&["failover", "start", VM, "--planned"]);
    wait_mode(to, "Primary");
    wait_mode(from, "Replica");
    qemu_is_off(world, from);
    wait_until(
        "the guest boots on the other host",
        Duration::from_secs(120),
        || (boots(to) > before).then_some(()),
    );
    wait_ready(world, to);
    // Zero loss: everything the guest was ever told to be durable.
    let (append, _) = acknowledged(&console(world, from), "append").unwrap();
    let (scatter, _) = acknowledged(&console(world, from), "scatter").unwrap();
    let found = assert_intact(world, to, "after the move");
    assert!(
        found[0] >= append,
        "record {append} was acknowledged, found up to {}",
        found[0]
    );
    assert!(
        found[1] >= scatter,
        "record {scatter} was acknowledged, found up to {}",
        found[1]
    );
    wait_equal(to, from);
}

fn there_and_back(format: &'static str) {
    let mut world = loaded_both_ways(format);
    world.replicate(OFTEN);
    world.a.wait_cycles(2);
    moved(&world, (&world.a, &world.b), &world.b);
    let refused = world.a.refused(&["vm", "start", VM]);
    assert!(refused.contains("replica"), "{refused}");

    // Life goes on on B, and is replicated to A's own disks.
    start_load(&world, &world.b);
    world.b.wait_cycles(3);
    moved(&world, (&world.b, &world.a), &world.b);
    start_load(&world, &world.a);
    world.a.wait_cycles(3);
    stop_load(&world, &world.a);
    world.a.wait_cycles(2);
    assert_replica_intact(&world, "the replica on B after the return");
}

#[test]
fn guest_moves_there_and_back_qcow2() {
    there_and_back("qcow2");
}

#[test]
fn guest_moves_there_and_back_raw() {
    there_and_back("raw");
}

/// The old primary was lost with everything it knew and is rebuilt from an old backup: other paths, another format, no
/// relationship. It gets the VM back without a full copy.
#[test]
fn guest_comes_home_to_a_rebuilt_host() {
    let mut world = loaded_both_ways("qcow2");
    world.replicate(OFTEN);
    world.a.wait_cycles(2);
    world.cut();
    world.lose_primary();
    world.b.ok(&["failover", "start", VM]);
    wait_ready(&world, &world.b);
    world.b.ok(&["failover", "commit", VM]);
    start_load(&world, &world.b);

    let restored = world.a.dir.join("restored");
    std::fs::create_dir(&restored).unwrap();
    let mut description = std::fs::read_to_string(world.a.dir.join("vms/story.toml")).unwrap();
    description = description.replace("format = \"qcow2\"", "format = \"raw\"");
    for disk in ["sys", "data"] {
        let (old, new) = (
            world.a.dir.join(format!("disks/{disk}.qcow2")),
            restored.join(format!("{disk}.img")),
        );
        let backup = crate::support::image_dir().join(format!("{disk}.raw"));
        run(
            "cp",
            &["--sparse=always", backup.to_str().unwrap(), new.to_str().unwrap()],
        );
        description = description.replace(old.to_str().unwrap(), new.to_str().unwrap());
    }
    for lost in ["state", "run", "disks", "spool"] {
        let _ = std::fs::remove_dir_all(world.a.dir.join(lost));
    }
    std::fs::write(world.a.dir.join("vms/story.toml"), description).unwrap();
    world.a.start();
    world.allow_return();
    world.heal();

    let refused = world.b.refused(&["replication", "reverse", VM]);
    assert!(refused.contains("become-replica"), "{refused}");
    world.a.ok(&["replication", "become-replica", VM]);
    let before = world.way_back.bytes();
    world.b.ok(&["replication", "reverse", VM]);
    wait_mode(&world.b, "Primary");
    wait_equal(&world.b, &world.a);
    let sent = world.way_back.bytes() - before;
    println!("a rebuilt host was brought up to date with {sent} bytes");
    assert!(
        sent < 24 << 20,
        "{sent} bytes travelled although the backup had most of it"
    );
    moved(&world, (&world.b, &world.a), &world.b);
}

/// The site of A is cut off while its guest writes on; B goes on alone; A returns and gives way. Only what differs travels,
/// and what A wrote alone is kept until it is dropped.
#[test]
fn guest_failback_after_a_split_sends_only_what_differs() {
    let mut world = loaded_both_ways("qcow2");
    world.replicate(OFTEN);
    world.a.wait_cycles(2);
    world.cut();
    // Writes that never arrive.
    let at_cut = acknowledged(&console(&world, &world.a), "append").unwrap().0;
    wait_until("the guest on A writes on", Duration::from_secs(60), || {
        (acknowledged(&console(&world, &world.a), "append").unwrap().0 > at_cut + 120).then_some(())
    });
    world.b.ok(&["failover", "start", VM]);
    wait_ready(&world, &world.b);
    assert_intact(&world, &world.b, "B after the failover");
    world.b.ok(&["failover", "commit", VM]);
    start_load(&world, &world.b);

    // A returns with its guest still running: nothing is killed, nothing is sent, the split is shown.
    world.heal();
    wait_until("A sees the split", Duration::from_secs(120), || {
        let split = world.a.replication()["split"].clone();
        split["theirs"]
            .as_str()
            .is_some_and(|t| t.contains("runs there"))
            .then_some(())
    });
    assert!(world.qemu_pid(&world.a).is_some(), "A's guest is not touched");
    let refused = world.b.refused(&["replication", "reverse", VM]);
    assert!(refused.contains("running on alpha.test"), "{refused}");
    stop_load(&world, &world.a);
    let alone = assert_intact(&world, &world.a, "A's own line");
    world.a.ok(&["vm", "stop", VM, "--force"]);
    let refused = world.a.refused(&["vm", "start", VM]);
    assert!(refused.contains("brought up on the replica"), "{refused}");

    let before = world.way_back.bytes();
    world.b.ok(&["replication", "reverse", VM]);
    wait_mode(&world.b, "Primary");
    wait_equal(&world.b, &world.a);
    let sent = world.way_back.bytes() - before;
    let disks: u64 = ["sys", "data"]
        .map(|d| world.a.dir.join(format!("disks/{d}.qcow2")))
        .iter()
        .map(|p| std::fs::metadata(p).unwrap().len())
        .sum();
    println!("failback sent {sent} bytes; the disks hold {disks}");
    assert!(
        sent < disks / 2,
        "{sent} bytes travelled for a failback of disks of {disks}"
    );

    // Both copies are equal, byte for byte.
    stop_load(&world, &world.b);
    world.b.ok(&["vm", "stop", VM, "--force"]);
    world.b.wait_cycles(1);
    wait_until("B has nothing left to send", Duration::from_secs(60), || {
        (world.b.replication()["lag_ms"] == 0).then_some(())
    });
    wait_until("A has it all", Duration::from_secs(60), || {
        (world.a.replication()["position"] == world.b.replication()["position"]).then_some(())
    });
    world.a.ok(&["failover", "start", VM, "--no-start"]);
    let failover = world.a.branch_of(VM);
    let on_a = branch_as_raw(&world, &world.a, &failover);
    let on_b: Vec<_> = std::fs::read_dir(world.replica().join("branches"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(on_b.len(), 1, "B lives on one branch: {on_b:?}");
    let on_b = branch_as_raw(&world, &world.b, &on_b[0]);
    for (a, b) in on_a.iter().zip(&on_b) {
        assert_equal((a, "raw"), (b, "raw"));
    }
    world.a.ok(&["failover", "revert", VM]);

    // What A wrote alone is still there, and can be looked at.
    let test = world
        .a
        .json(&["failover", "start", VM, "--test", "--point", "abandoned"]);
    drop(test);
    let branch = world.a.branch_of(&format!("{VM} - Test"));
    let [sys, data] = branch_as_raw(&world, &world.a, &branch);
    let kept = verify_images(&sys, &data);
    for (v, high) in kept.iter().zip(&alone[1..]) {
        assert!(
            v.ok && v.high == *high,
            "what A wrote alone, up to {high}: {}",
            v.text
        );
    }
    world.a.ok(&["failover", "stop-test", VM]);
    world.a.ok(&["replication", "drop-abandoned", VM]);
    assert!(world.a.replication()["abandoned"].is_null());
}

/// QEMU is killed, tracking is lost; what differs is found by comparison, and recovery points stay as they are.
#[test]
fn guest_resynchronizes_by_digest_and_keeps_its_points() {
    let mut world = loaded_both_ways("qcow2");
    let options = [
        "--interval",
        "1s",
        "--history",
        "24",
        "--point-spacing",
        "1h",
        "--auto-resync",
        "off",
    ];
    world.replicate(&options);
    world.a.wait_cycles(2);
    let points = world.b.sealed_points();
    kill9(world.qemu_pid(&world.a).unwrap());
    world.a.wait_state("WaitingToStartResynchronization");
    // The guest goes on before anything is resynchronized; a failover now would use the last whole instant.
    start_with_load(&world, &world.a);
    let before = world.proxy.bytes();
    world.a.ok(&["replication", "resync", VM]);
    wait_equal(&world.a, &world.b);
    let sent = world.proxy.bytes() - before;
    println!("resynchronization sent {sent} bytes");
    for p in &points {
        assert!(
            world.b.sealed_points().iter().any(|n| n["id"] == p["id"]),
            "point {p} did not survive"
        );
    }
    world.a.wait_cycles(2);
    assert_replica_intact(&world, "after the resynchronization");
}

/// A test failover runs beside the replication and ends without a trace.
#[test]
fn guest_test_failover_beside_replication() {
    let mut world = loaded_both_ways("qcow2");
    world.replicate(OFTEN);
    world.a.wait_cycles(2);
    world.b.ok(&["failover", "start", VM, "--test", "--start"]);
    let test = world.b.replication()["test"]["vm"].as_str().unwrap().to_owned();
    let dir = world.b.dir.join("run").join(&test);
    wait_until("the test VM boots", Duration::from_secs(120), || {
        let text = std::fs::read(dir.join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&text)
            .contains("LIFEBOAT ready")
            .then_some(())
    });
    let text = String::from_utf8_lossy(&std::fs::read(dir.join("console.log")).unwrap()).into_owned();
    let own = text
        .lines()
        .find(|l| l.contains("LIFEBOAT verify-append"))
        .unwrap();
    assert!(own.contains("RESULT OK"), "{own}");
    let vms = world.b.json(&["vm", "list"]);
    let names: Vec<_> = vms
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["spec"]["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"story - Test"), "{names:?}");
    let refused = world.b.refused(&["failover", "start", VM, "--test"]);
    assert!(refused.contains("test"), "{refused}");
    // Replication goes on meanwhile, and so does a real failover.
    world.a.wait_cycles(2);
    world.b.ok(&["failover", "start", VM, "--no-start", "--force"]);
    world.b.ok(&["failover", "revert", VM]);
    world.b.ok(&["failover", "stop-test", VM]);
    wait_until("the test VM is gone", Duration::from_secs(30), || {
        (crate::support::qemu_with(&dir).is_none() && world.b.replication()["test"].is_null()).then_some(())
    });
    world.a.wait_cycles(2);
    assert!(shell(&world, &world.a, "true").is_empty());
    assert_replica_intact(&world, "after the test");
}

/// What a failback costs: one percent of the disks changed on the other side is one percent that travels, in scattered
/// blocks of 4 KiB, and not more than a thousandth of the disks on top of it.
#[test]
fn failback_of_one_percent_sends_one_percent() {
    const MIB: u64 = 1 << 20;
    let mut world = World::new(&Setup {
        format: "raw",
        empty_mib: Some(512),
        ..Setup::default()
    });
    for disk in ["sys", "data"] {
        let path = world.a.dir.join(format!("disks/{disk}.raw"));
        let of = format!("of={}", path.display());
        run(
            "dd",
            &[
                "if=/dev/urandom",
                &of,
                "bs=1M",
                "count=512",
                "conv=notrunc",
                "status=none",
            ],
        );
    }
    world.start();
    world.allow_return();
    world.replicate(&["--interval", "1s"]);
    world.cut();
    world.b.ok(&["failover", "start", VM, "--no-start"]);
    world.b.ok(&["failover", "commit", VM]);
    wait_until("the committed disks are merged", Duration::from_secs(120), || {
        (world.b.replication()["failover"]["stage"] == "committed").then_some(())
    });
    let branch = world.b.branch_of(VM);
    let pattern = world.dir.path().join("pattern");
    let of = format!("of={}", pattern.display());
    run(
        "dd",
        &["if=/dev/urandom", &of, "bs=4096", "count=1", "status=none"],
    );
    let blocks = 512 * MIB / 4096 / 100;
    for disk in ["sys", "data"] {
        let image = world
            .replica()
            .join("branches")
            .join(&branch)
            .join(format!("{disk}.qcow2"));
        let mut args = vec!["-f".to_owned(), "qcow2".to_owned()];
        for n in 0..blocks {
            args.push("-c".to_owned());
            args.push(format!("write -q -s {} {} 4k", pattern.display(), n * 100 * 4096));
        }
        args.push(image.to_str().unwrap().to_owned());
        run("qemu-io", &args.iter().map(String::as_str).collect::<Vec<_>>());
    }
    world.heal();
    let before = world.way_back.bytes();
    world.b.ok(&["replication", "reverse", VM]);
    wait_mode(&world.b, "Primary");
    wait_equal(&world.b, &world.a);
    let sent = world.way_back.bytes() - before;
    let changed = 2 * blocks * 4096;
    println!(
        "{changed} bytes of {} changed, {sent} bytes were sent",
        1024 * MIB
    );
    assert!(
        sent <= changed + 1024 * MIB / 1000,
        "{sent} bytes were sent for {changed} that changed"
    );
    world.a.ok(&["failover", "start", VM, "--no-start"]);
    let failover = world.a.branch_of(VM);
    let on_a = branch_as_raw(&world, &world.a, &failover);
    let on_b = branch_as_raw(&world, &world.b, &branch);
    for (a, b) in on_a.iter().zip(&on_b) {
        run("cmp", &[a.to_str().unwrap(), b.to_str().unwrap()]);
    }
}

/// A test that somebody forgot keeps points from expiring, and an image chain has an end: replication goes on all the same,
/// the newest data can be brought up, and points expire when the test is ended.
#[test]
fn guest_forgotten_test_does_not_stop_replication() {
    let mut world = loaded_both_ways("qcow2");
    world.replicate(&[
        "--interval",
        "1s",
        "--history",
        "2",
        "--point-spacing",
        "1s",
        "--any-point",
        "0s",
    ]);
    world.b.ok(&["failover", "start", VM, "--test", "--no-start"]);
    // As many as there can be.
    world.b.wait_points(44);
    world.a.wait_cycles(6);
    assert_eq!(world.a.state(), "Replicating");
    assert_eq!(world.b.state(), "Replicating");
    let what = "the newest data beside a forgotten test";
    assert_written(&assert_replica_intact(&world, what), what);
    world.b.ok(&["failover", "stop-test", VM]);
    wait_until("points expire again", Duration::from_secs(120), || {
        (world.b.sealed_points().len() <= 4).then_some(())
    });
}
