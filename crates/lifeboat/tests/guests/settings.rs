//! What may change while a guest is replicated, and what it gets on the other host: points that its agent made consistent,
//! a grown disk, disks taken out and in, limits, addresses. Real guests; the guest, qemu-img and the verifier decide.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "stories are long, and their helpers may fail them"
)]

use std::time::Duration;

use crate::support::guest::{assert_replica_intact, loaded_both_ways, shell, wait_ready};
use crate::support::{Setup, VM, World, kill9, run, wait_until};
use serde_json::json;

/// Points that the guest's agent made consistent, and what is said when there is no agent to ask.
#[test]
fn guest_agent_makes_points_consistent() {
    let mut world = loaded_both_ways("qcow2");
    world.replicate(&[
        "--interval",
        "1s",
        "--history",
        "5",
        "--point-spacing",
        "1h",
        "--application-consistent",
        "1",
    ]);
    let point = wait_until("an application-consistent point", Duration::from_secs(60), || {
        world
            .b
            .sealed_points()
            .into_iter()
            .find(|p| p["consistency"] == "application")
    });
    // The guest was not left frozen: it writes on, and cycles follow.
    world.a.wait_cycles(2);
    shell(&world, &world.a, "echo alive > /data/alive && sync");
    let id = point["id"].as_str().unwrap();
    world.b.ok(&["failover", "start", VM, "--point", id, "--force"]);
    wait_ready(&world, &world.b);
    assert_eq!(world.b.replication()["failover"]["kind"], "ApplicationConsistent");
    world.b.ok(&["failover", "revert", VM, "--force"]);
    assert_replica_intact(&world, "after application-consistent points");
}

/// A disk that grows while the guest runs follows by itself, with what is written beyond its old end.
#[test]
fn guest_disk_grows_and_the_replica_follows() {
    let mut world = loaded_both_ways("qcow2");
    world.replicate(&["--interval", "1s"]);
    world.a.wait_cycles(2);
    let disk = world.a.dir.join("disks/data.qcow2");
    let grown = virtual_size(disk.to_str().unwrap()) + (64 << 20);
    world.monitor("block_resize", json!({"node-name": "top-data", "size": grown}));
    // A mark near the new end, which no earlier copy can have.
    let mark = grown - (1 << 20);
    shell(
        &world,
        &world.a,
        &format!(
            "disk=$(readlink -f /dev/lifeboat/data-area | sed 's/[0-9]*$//'); printf GROWN | dd of=$disk bs=1 seek={mark} conv=notrunc 2>/dev/null && sync"
        ),
    );
    world.a.wait_cycles(3);
    let image = world.brought_up(&["--force"]);
    let raw = world.dir.path().join("grown.raw");
    run(
        "qemu-img",
        &[
            "convert",
            "-f",
            "qcow2",
            "-O",
            "raw",
            image.to_str().unwrap(),
            raw.to_str().unwrap(),
        ],
    );
    assert_eq!(
        std::fs::metadata(&raw).unwrap().len(),
        grown,
        "the replica's disk has the new size"
    );
    let found = run(
        "dd",
        &[
            &format!("if={}", raw.display()),
            "bs=1",
            &format!("skip={mark}"),
            "count=5",
            "status=none",
        ],
    );
    assert_eq!(found, "GROWN");
    world.b.ok(&["failover", "revert", VM]);
    assert_replica_intact(&world, "after the growth");
}

/// Settings of a running relationship change without a copy: interval, points, a limit, a disk out and in again.
#[test]
fn guest_replication_is_changed_while_it_runs() {
    let mut world = loaded_both_ways("raw");
    world.replicate(&["--interval", "1s"]);
    world.a.wait_cycles(1);
    world.a.ok(&[
        "replication",
        "set",
        VM,
        "--history",
        "3",
        "--point-spacing",
        "2s",
        "--bandwidth",
        "20MiB/s",
    ]);
    world.b.wait_points(3);
    let settings = &world.b.replication()["settings"];
    assert_eq!(
        (&settings["history"], &settings["point_spacing_s"]),
        (&json!(3), &json!(2))
    );
    world.a.ok(&["replication", "set", VM, "--disk", "sys"]);
    world.a.wait_cycles(2);
    world
        .a
        .ok(&["replication", "set", VM, "--disk", "sys", "--disk", "data"]);
    wait_until(
        &format!("the disk is back; log:\n{}", world.a.log()),
        Duration::from_secs(120),
        || {
            let now = world.a.replication();
            (now["sync"].is_null() && now["state"] == "Replicating").then_some(())
        },
    );
    world.a.wait_cycles(2);
    assert_replica_intact(&world, "after a disk was out and in");
}

/// Addresses are given to the guest on the other host, by its agent and as a seed for cloud-init.
#[test]
fn guest_gets_its_addresses_on_the_other_host() {
    let mut world = loaded_both_ways("qcow2");
    world.replicate(&["--interval", "1s"]);
    world.a.wait_cycles(1);
    let card = [
        "failover",
        "network",
        VM,
        "set",
        "--address",
        "10.99.7.5/24",
        "--address",
        "fd00:99::5/64",
    ];
    let mut args = card.to_vec();
    args.extend_from_slice(&[
        "--gateway",
        "10.99.7.1",
        "--dns",
        "10.99.7.2",
        "--connect",
        "user",
    ]);
    world.b.ok(&args);
    kill9(world.qemu_pid(&world.a).unwrap());
    world.a.kill9();
    world.b.ok(&["failover", "start", VM]);
    wait_ready(&world, &world.b);
    let said = wait_until("the addresses are set", Duration::from_secs(60), || {
        let text = shell(&world, &world.b, "ip addr show; ip route show; true");
        (text.contains("10.99.7.5/24") && text.contains("fd00:99::5/64")).then_some(text)
    });
    assert!(said.contains("default via 10.99.7.1"), "{said}");
    let seed = shell(
        &world,
        &world.b,
        "mkdir -p /run/seed && mount -t vfat -o ro $(findfs LABEL=cidata) /run/seed && cat /run/seed/network-config",
    );
    assert!(seed.contains("10.99.7.5/24"), "a seed for cloud-init: {seed}");
    world.b.ok(&["failover", "revert", VM, "--force"]);
}

/// A disk of a powered-off VM is cut by its owner: it is compared and cut on the replica as well, and the points from before
/// stay as they are.
#[test]
fn a_disk_that_is_cut_is_compared_and_its_points_stay() {
    let mut world = World::new(&Setup::default());
    world.start();
    let disk = world.a.dir.join("disks/data.qcow2");
    let disk = disk.to_str().unwrap().to_owned();
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 7 0 1M", &disk]);
    world.replicate(&["--interval", "1s", "--history", "3", "--point-spacing", "1s"]);
    world.a.ok(&["replication", "now", VM]);
    let before = world.b.sealed_points();
    let oldest = before.last().expect("a point of the first copy")["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let had = virtual_size(&disk);
    let smaller = had - (64 << 20);
    run(
        "qemu-img",
        &[
            "resize",
            "-q",
            "--shrink",
            "-f",
            "qcow2",
            &disk,
            &smaller.to_string(),
        ],
    );
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 9 1M 1M", &disk]);
    // The change is found, and compared by itself.
    world.arrived();
    let newest = world.brought_up(&["--force"]);
    assert_eq!(virtual_size(newest.to_str().unwrap()), smaller);
    run("qemu-img", &["compare", "-U", &disk, newest.to_str().unwrap()]);
    world.b.ok(&["failover", "revert", VM]);
    let old = world.brought_up(&["--force", "--point", &oldest]);
    assert_eq!(virtual_size(old.to_str().unwrap()), had, "the point is as it was");
    world.b.ok(&["failover", "revert", VM]);
    world.b.ok(&["replication", "scrub", VM]);
}

fn virtual_size(image: &str) -> u64 {
    let info = run("qemu-img", &["info", "-U", "--output", "json", image]);
    serde_json::from_str::<serde_json::Value>(&info).unwrap()["virtual-size"]
        .as_u64()
        .unwrap()
}
