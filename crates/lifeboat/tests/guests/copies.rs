//! How an initial copy gets to the replica without the network carrying it all: from what the replica's host has of the VM,
//! in another format and at other paths. Real guests; qemu-img and the verifier decide.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "stories are long, and their helpers may fail them"
)]

use crate::support::guest::{assert_replica_intact, shell, start_load, wait_ready};
use crate::support::{Setup, VM, World, run};

fn running() -> World {
    let mut world = World::new(&Setup::default());
    world.start();
    world.allow_return();
    world.a.ok(&["vm", "start", VM]);
    wait_ready(&world, &world.a);
    world
}

fn in_step(world: &World) {
    world.a.wait_in_step();
    world.b.wait_state("Replicating");
    world.a.wait_cycles(2);
    assert_replica_intact(world, "the replica made from a seed");
}

/// Bytes of all disks of the VM on A that are in use.
fn in_use(world: &World) -> u64 {
    let size = |d: &str| {
        std::fs::metadata(world.a.dir.join(format!("disks/{d}.qcow2")))
            .unwrap()
            .len()
    };
    size("sys") + size("data")
}

/// The replica's host has a VM with the same identity, restored from some backup: other paths, another format.
#[test]
fn guest_is_seeded_from_an_old_copy_in_another_format() {
    let mut world = World::new(&Setup::default());
    // A backup of the powered-off VM, restored on B.
    std::fs::create_dir_all(world.b.dir.join("restored")).unwrap();
    let description = std::fs::read_to_string(world.a.dir.join("vms/story.toml")).unwrap();
    let mut restored = description.replace("format = \"qcow2\"", "format = \"raw\"");
    for disk in ["sys", "data"] {
        let from = world.a.dir.join(format!("disks/{disk}.qcow2"));
        let to = world.b.dir.join(format!("restored/{disk}.img"));
        let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
        run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", from, to]);
        restored = restored.replace(from, to);
    }
    std::fs::write(world.b.dir.join("vms/story.toml"), restored).unwrap();
    world.start();
    world.allow_return();
    world.a.ok(&["vm", "start", VM]);
    wait_ready(&world, &world.a);
    start_load(&world, &world.a);

    let peer = world.peer();
    let refused = world.a.refused(&["replication", "enable", VM, "--to", &peer]);
    assert!(refused.contains("become-replica"), "{refused}");
    world.b.ok(&["replication", "become-replica", VM]);
    let refused = world.b.refused(&["vm", "start", VM]);
    assert!(refused.contains("replica"), "{refused}");
    world.enable(&["--interval", "1s"]);
    let before = world.proxy.bytes();
    world.a.ok(&["replication", "start", VM, "--seed"]);
    in_step(&world);
    let sent = world.proxy.bytes() - before;
    println!("seeded: {sent} bytes sent, {} in use", in_use(&world));
    assert!(
        sent < in_use(&world) / 2,
        "{sent} bytes travelled although the replica had a copy"
    );
}

/// A removed replica is a seed too, and enabling again does not copy everything again.
#[test]
fn guest_is_enabled_again_on_what_a_removed_replica_left() {
    let mut world = running();
    start_load(&world, &world.a);
    world.replicate(&["--interval", "1s"]);
    world.a.wait_cycles(1);
    world.a.ok(&["replication", "remove", VM]);
    world.b.ok(&["replication", "remove", VM]);
    shell(&world, &world.a, "sync");
    world.enable(&["--interval", "1s"]);
    let before = world.proxy.bytes();
    world.a.ok(&["replication", "start", VM, "--seed"]);
    in_step(&world);
    let sent = world.proxy.bytes() - before;
    println!("enabled again: {sent} bytes sent, {} in use", in_use(&world));
    assert!(
        sent < in_use(&world) / 2,
        "{sent} bytes travelled although the replica had a copy"
    );
}
