//! An initial copy that somebody carries: exported while the guest writes, imported on the replica host below the changes
//! that arrived meanwhile. Media get damaged; that is found before anything is taken from them. The verifier and qemu-img
//! decide.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::guest::{assert_equal, assert_replica_intact, failed_over_as_raw, loaded};
use crate::support::{VM, World, run, wait_until};

const WAITING: &str = "WaitingToCompleteInitialReplication";

/// A guest that writes on A, enabled for replication to B, not copied yet.
fn enabled(format: &'static str) -> World {
    let world = loaded(format);
    world.enable(&["--interval", "1s"]);
    world
}

fn export(world: &World) -> PathBuf {
    let dir = world.dir.path().join("medium");
    world
        .a
        .ok(&["replication", "start", VM, "--export", dir.to_str().unwrap()]);
    dir
}

/// The largest file of an export that holds a part of a disk.
fn largest_segment(dir: &Path) -> PathBuf {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "segment"))
        .max_by_key(|p| std::fs::metadata(p).unwrap().len())
        .unwrap()
}

/// Changes one bit of a byte in the middle; done twice, the file is as it was.
fn flip(path: &Path) {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let (at, mut byte) = (file.metadata().unwrap().len() / 2, [0]);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// Digest of everything on B that could have been made from an export.
fn disks_of_replica(world: &World) -> String {
    let dir = world.replica().join("disks");
    let script = format!(
        "cd {} && find . -type f | sort | xargs -r sha256sum",
        dir.display()
    );
    run("sh", &["-c", &script])
}

/// What B says of the copy while it waits for it.
fn still_waits(world: &World) {
    let now = world.b.replication();
    assert_eq!(now["state"], WAITING);
    for disk in now["bulk"].as_array().unwrap() {
        assert_eq!(disk["done"], 0, "{disk}");
    }
    assert!(world.b.points().is_empty(), "{:?}", world.b.points());
    world.b.refused(&["failover", "start", VM, "--force"]);
}

/// Everything the guest wrote before it was turned off is on B.
fn last_cycle(world: &World) {
    world.a.ok(&["vm", "stop", VM, "--force"]);
    wait_until("A has nothing left to send", Duration::from_secs(60), || {
        (world.a.replication()["lag_ms"] == 0).then_some(())
    });
    wait_until("B has it all", Duration::from_secs(60), || {
        (world.a.replication()["position"] == world.b.replication()["position"]).then_some(())
    });
}

fn carried_by_hand(format: &'static str) {
    let world = enabled(format);
    let before = world.proxy.bytes();
    let medium = export(&world);
    world.a.wait_state("Replicating");
    world.a.wait_cycles(3);
    still_waits(&world);
    let (sent, carried) = (world.proxy.bytes() - before, used(&medium));
    println!("{sent} bytes sent, {carried} carried");
    assert!(
        sent < carried / 4,
        "{sent} bytes travelled beside the {carried} on the medium"
    );

    // Somebody carries it, and it does not survive the journey.
    let carried = world.dir.path().join("carried");
    let (from, to) = (medium.to_str().unwrap(), carried.to_str().unwrap());
    run("cp", &["-r", from, to]);
    let segment = largest_segment(&carried);
    flip(&segment);
    let untouched = disks_of_replica(&world);
    let import = ["replication", "import", VM, to];
    let refused = world.b.refused(&import);
    let name = segment.file_name().unwrap().to_str().unwrap();
    assert!(refused.contains("damaged") && refused.contains(name), "{refused}");
    assert_eq!(disks_of_replica(&world), untouched, "nothing was taken from it");
    still_waits(&world);
    let elsewhere = world.dir.path().to_str().unwrap();
    let refused = world.b.refused(&["replication", "import", VM, elsewhere]);
    assert!(refused.contains("holds no export"), "{refused}");
    world.a.wait_cycles(1);

    // A good copy is taken in, and everything that arrived meanwhile is applied to it.
    flip(&segment);
    world.b.ok(&import);
    world.b.wait_state("Replicating");
    wait_until("the first recovery point", Duration::from_secs(60), || {
        (!world.b.sealed_points().is_empty()).then_some(())
    });
    world.a.wait_cycles(2);
    assert_replica_intact(&world, "the replica made from a medium");
    let again = world.b.refused(&import);
    assert!(again.contains("no exported copy is awaited"), "{again}");

    last_cycle(&world);
    for (disk, raw) in ["sys", "data"].iter().zip(failed_over_as_raw(&world, &world.b)) {
        let own = world.a.dir.join(format!("disks/{disk}.{format}"));
        assert_equal((&own, format), (&raw, "raw"));
    }
}

/// Bytes of all files in a directory.
fn used(dir: &Path) -> u64 {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().metadata().unwrap().len())
        .sum()
}

#[test]
fn guest_initial_copy_is_carried_by_hand_qcow2() {
    carried_by_hand("qcow2");
}

#[test]
fn guest_initial_copy_is_carried_by_hand_raw() {
    carried_by_hand("raw");
}

/// Both daemons are killed while the export is written and while it is imported; both go on where they stopped.
#[test]
fn guest_export_and_import_outlive_the_daemons() {
    let mut world = enabled("qcow2");
    let dir = world.dir.path().join("medium");
    let medium = dir.to_str().unwrap();
    world
        .a
        .ok(&["replication", "start", VM, "--export", medium, "--detach"]);
    wait_until("the export is begun", Duration::from_secs(60), || {
        std::fs::read_dir(&dir).is_ok_and(|d| d.count() > 1).then_some(())
    });
    world.a.kill9();
    world.a.start();
    wait_until("the export is complete", Duration::from_secs(60), || {
        dir.join("lifeboat-export.sealed").exists().then_some(())
    });
    world.a.wait_state("Replicating");
    world.a.wait_cycles(1);
    world.b.ok(&["replication", "import", VM, medium, "--detach"]);
    world.b.kill9();
    world.b.start();
    world.b.wait_state("Replicating");
    world.a.wait_cycles(2);
    assert_replica_intact(&world, "after both were killed");
}
