//! Full disks, strangers and bad input, on real hosts: a clear error, nothing lost, the guest never stops, and recovery
//! by itself when the cause is gone.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "stories are long, and their helpers may fail them"
)]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::support::guest::{
    acknowledged, assert_equal, assert_newest_survives, console, start_load, wait_ready,
};
use crate::support::{Setup, VM, World, run, wait_until};

/// A small file system of its own, unmounted at the end.
pub(crate) struct Small {
    dir: tempfile::TempDir,
}

impl Small {
    pub(crate) fn new(mib: u64) -> Self {
        let dir = tempfile::Builder::new().prefix("lbfs").tempdir().unwrap();
        run(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                &format!("size={mib}m,mode=0700"),
                "lifeboat-test",
                dir.path().to_str().unwrap(),
            ],
        );
        Self { dir }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// Leaves `free_mib` MiB free.
    pub(crate) fn fill(&self, free_mib: u64) {
        // In KiB, because what is left is rounded up.
        let out = run("df", &["--output=avail", "-k", self.dir.path().to_str().unwrap()]);
        let avail: u64 = out.lines().last().unwrap().trim().parse().unwrap();
        let take = avail.saturating_sub(free_mib << 10);
        run(
            "fallocate",
            &["-l", &format!("{take}K"), self.filler().to_str().unwrap()],
        );
    }

    pub(crate) fn release(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.dir.path().join("filler")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .args(["-l", self.dir.path().to_str().unwrap()])
            .status();
    }
}

pub(crate) fn writes_on(world: &World) {
    let seq = || acknowledged(&console(world, &world.a), "append").map_or(-1, |a| a.0);
    let from = seq();
    wait_until("the guest goes on writing", Duration::from_secs(30), || {
        (seq() > from + 20).then_some(())
    });
    assert_eq!(world.a.json(&["vm", "show", VM])["power"], "running");
}

#[test]
fn guest_replica_disk_full() {
    let small = Small::new(400);
    let mut world = World::new(&Setup {
        replica_dir: Some(small.path()),
        reserve_mib: 8,
        ..Setup::default()
    });
    world.start();
    world.a.ok(&["vm", "start", VM]);
    wait_ready(&world, &world.a);
    world.replicate(&["--interval", "1s", "--history", "2", "--point-spacing", "5s"]);
    start_load(&world, &world.a);
    world.a.wait_cycles(2);
    small.fill(4);
    let view = world.a.wait_state("Critical");
    assert_eq!(view["health"], "Critical");
    let problem = view["problem"]["message"].as_str().unwrap();
    assert!(problem.contains("no space left"), "{problem}");
    writes_on(&world);
    small.release();
    world.a.wait_state("Replicating");
    world.a.wait_cycles(2);
    wait_until("B is well again", Duration::from_secs(60), || {
        (world.b.replication()["health"] == "Ok").then_some(())
    });
    assert_newest_survives(&mut world);
}

#[test]
fn guest_spool_disk_full() {
    let small = Small::new(200);
    let mut world = World::new(&Setup {
        spool_dir: Some(small.path()),
        reserve_mib: 8,
        ..Setup::default()
    });
    world.start();
    world.a.ok(&["vm", "start", VM]);
    wait_ready(&world, &world.a);
    world.replicate(&["--interval", "1s"]);
    start_load(&world, &world.a);
    world.a.wait_cycles(2);
    small.fill(4);
    let view = world.a.wait_state("Critical");
    let problem = view["problem"]["message"].as_str().unwrap();
    assert!(
        problem.contains("spool") || problem.contains("space"),
        "{problem}"
    );
    writes_on(&world);
    small.release();
    world.a.wait_state("Replicating");
    world.a.wait_cycles(2);
    assert_newest_survives(&mut world);
}

/// Hosts without guests: refusals name the thing and the way out, and leave nothing behind.
#[test]
fn strangers_and_mistakes_are_refused() {
    let mut world = World::new(&Setup {
        empty_mib: Some(16),
        ..Setup::default()
    });
    world.a.start();
    world.b.start();
    let peer = world.peer();
    let enable = [
        "replication",
        "enable",
        VM,
        "--to",
        peer.as_str(),
        "--interval",
        "1s",
    ];
    let text = world.a.refused(&enable);
    assert!(
        text.contains("not enabled as a replica server") && text.contains("server set"),
        "{text}"
    );
    world.b.ok(&["server", "set", "--replica", "on"]);
    let text = world.a.refused(&enable);
    assert!(
        text.contains("authorization") && text.contains("alpha.test"),
        "{text}"
    );
    for bad in ["replicas", "/srv/../etc"] {
        let text = world
            .b
            .refused(&["authorization", "add", "alpha.test", "--location", bad]);
        assert!(text.contains("absolute"), "{text}");
    }
    assert_eq!(
        world.b.json(&["vm", "list"]).as_array().unwrap().len(),
        0,
        "a refused offer leaves nothing"
    );
    let location = world.b.dir.join("replicas");
    world.b.ok(&[
        "authorization",
        "add",
        "*.test",
        "--location",
        location.to_str().unwrap(),
    ]);
    for (bad, word) in [("0s", "interval"), ("1h", "interval")] {
        let text = world
            .a
            .refused(&["replication", "enable", VM, "--to", &peer, "--interval", bad]);
        assert!(text.contains(word), "{bad}: {text}");
    }
    let text = world
        .a
        .refused(&["replication", "enable", VM, "--to", &peer, "--disk", "nope"]);
    assert!(text.contains("nope"), "{text}");
    let text = world.a.refused(&["replication", "start", VM]);
    assert!(text.contains("not replicated"), "{text}");
    world.a.ok(&enable);
    let text = world.a.refused(&enable);
    assert!(text.contains("already"), "{text}");
    let text = world.b.refused(&["failover", "start", VM]);
    assert!(text.contains("initial copy"), "{text}");
    let text = world.b.refused(&["vm", "start", VM]);
    assert!(text.contains("replica"), "{text}");
    let text = world.a.refused(&["failover", "start", VM]);
    assert!(text.contains("replica host"), "{text}");

    // A certificate of another authority is a stranger, whatever name it has.
    let other = world.dir.path().join("other-ca");
    let tls = world.a.dir.join("tls");
    world.a.kill9();
    std::fs::remove_dir_all(&tls).unwrap();
    run(
        &crate::support::binary(),
        &["cert", "init", other.to_str().unwrap(), "--name", "Other CA"],
    );
    let issue = [
        "cert",
        "issue",
        "--ca",
        other.to_str().unwrap(),
        "--host",
        "alpha.test",
        "--host",
        "127.0.0.1",
    ];
    run(
        &crate::support::binary(),
        &[&issue[..], &["--out", tls.to_str().unwrap()]].concat(),
    );
    world.a.start();
    let text = world.a.refused(&["test-connection", &peer]);
    assert!(text.contains("certificate"), "{text}");
}

/// Powered-off VM, one disk of two, both formats: no guest needed.
#[test]
fn a_powered_off_vm_is_replicated_from_its_images() {
    for format in ["qcow2", "raw"] {
        let mut world = World::new(&Setup {
            empty_mib: Some(64),
            format,
            ..Setup::default()
        });
        world.start();
        let disk = world.a.dir.join(format!("disks/data.{format}"));
        let write = |pattern: u32, offset: &str| {
            run(
                "qemu-io",
                &[
                    "-f",
                    format,
                    "-c",
                    &format!("write -P {pattern} {offset} 1M"),
                    disk.to_str().unwrap(),
                ],
            );
        };
        write(7, "3M");
        world.replicate(&["--interval", "1s", "--disk", "data"]);
        world.b.ok(&["failover", "start", VM, "--no-start"]);
        let branch = world.replica().join("branches").join(world.b.branch_of(VM));
        assert!(
            !branch.join("sys.qcow2").exists(),
            "an excluded disk gets nothing"
        );
        assert_equal((&disk, format), (&branch.join("data.qcow2"), "qcow2"));
    }
}
