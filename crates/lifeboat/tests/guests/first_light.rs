//! The main job, end to end, on a real guest under write load: copy, cycles, points, loss of the primary, failover,
//! revert, another failover, commit. What is right is said by the workload's verifier, by the guest's own boot and by
//! qemu-img, never by Lifeboat.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "stories are long, and their helpers may fail them"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::guest::{
    acknowledged, assert_equal, assert_intact, assert_replica_intact, assert_written, console, loaded, shell,
    start_load, stop_load, wait_ready,
};
use crate::support::{VM, World, run, wait_until};
use serde_json::Value;

/// Digest of what a sealed point shows, per disk, by qemu-img alone.
fn digest_of_points(world: &World) -> Vec<(String, String)> {
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(world.replica().join("manifest.json")).unwrap()).unwrap();
    let mut all = Vec::new();
    for file in layers(&world.replica(), &manifest) {
        let out = world.dir.path().join("digest.raw");
        run(
            "qemu-img",
            &[
                "convert",
                "-U",
                "-f",
                "qcow2",
                "-O",
                "raw",
                file.to_str().unwrap(),
                out.to_str().unwrap(),
            ],
        );
        let sum = run("sha256sum", &[out.to_str().unwrap()]);
        all.push((
            file.display().to_string(),
            sum.split_whitespace().next().unwrap().to_owned(),
        ));
    }
    assert!(!all.is_empty());
    all
}

/// Every sealed layer's file, from the manifest as the recovery document describes it.
fn layers(replica: &Path, manifest: &Value) -> Vec<PathBuf> {
    fn walk(v: &Value, replica: &Path, out: &mut Vec<PathBuf>) {
        match v {
            Value::String(s) if s.ends_with(".qcow2") => {
                let path = replica.join(s);
                if path.exists() {
                    out.push(path);
                }
            }
            Value::Array(a) => a.iter().for_each(|v| walk(v, replica, out)),
            Value::Object(m) => m.values().for_each(|v| walk(v, replica, out)),
            _ => {}
        }
    }
    let mut out = Vec::new();
    walk(&manifest["points"], replica, &mut out);
    out.sort();
    out.dedup();
    out
}

#[test]
fn guest_first_light() {
    let mut world = loaded("qcow2");
    world.replicate(&[
        "--interval",
        "1s",
        "--history",
        "5",
        "--point-spacing",
        "4s",
        "--any-point",
        "1h",
    ]);
    // Two more points, under load.
    world.b.wait_points(3);
    world.a.wait_cycles(2);

    let before = console(&world, &world.a);
    let promised = world.a.replication();
    world.lose_primary();
    world.proxy.cut();
    let seen = console(&world, &world.a);
    let last_append = acknowledged(&seen, "append").expect("the guest wrote records");

    // The newest point, at a random moment under load: no hole, no damage, and not older than what was reported.
    world.b.ok(&["failover", "start", VM]);
    assert_eq!(world.b.state(), "Recovered");
    wait_ready(&world, &world.b);
    let highs = assert_intact(&world, &world.b, "newest point");
    let at_report = acknowledged(&before, "append").unwrap();
    let lag = promised["lag_ms"].as_u64().unwrap();
    // Every record the guest had before the reported safe instant is there.
    let safe_ms = at_report.1.saturating_sub(lag + 1000);
    let safe = before.lines().filter_map(|l| {
        let w: Vec<_> = l.split_whitespace().collect();
        (w.len() >= 4 && w[0] == "ACK" && w[1] == "append")
            .then(|| (w[2].parse::<i64>().ok(), w[3].parse::<u64>().ok()))
    });
    let safe = safe
        .filter_map(|(s, t)| (t? <= safe_ms).then_some(s?))
        .max()
        .unwrap_or(-1);
    assert!(
        highs[0] >= safe,
        "record {safe} was reported safe, found up to {}",
        highs[0]
    );
    assert!(
        highs[0] <= last_append.0 + 200,
        "records from nowhere: {} after {}",
        highs[0],
        last_append.0
    );

    // Look, write a lot, do not like it, revert: every point is what it was.
    let points = world.b.sealed_points();
    let digests = digest_of_points(&world);
    start_load(&world, &world.b);
    let refusal = world.b.refused(&["failover", "revert", VM]);
    assert!(
        refusal.contains("running") && refusal.contains("--force"),
        "{refusal}"
    );
    let again = world.b.refused(&["failover", "start", VM]);
    assert!(again.contains("Recovered") && again.contains("revert"), "{again}");
    world.b.ok(&["failover", "revert", VM, "--force"]);
    assert_eq!(world.qemu_pid(&world.b), None, "reverting turned the VM off");
    assert_eq!(world.b.state(), "Replicating");
    assert_eq!(world.b.sealed_points(), points);
    assert_eq!(
        digest_of_points(&world),
        digests,
        "a revert must not touch a point"
    );
    assert!(world.b.refused(&["vm", "start", VM]).contains("replica"));

    // An older sealed point, then a cycle between two points.
    let oldest = points.last().unwrap();
    world
        .b
        .ok(&["failover", "start", VM, "--point", oldest["id"].as_str().unwrap()]);
    wait_ready(&world, &world.b);
    let old_highs = assert_intact(&world, &world.b, "oldest point");
    assert!(
        old_highs[0] < highs[0],
        "an older point has fewer records: {old_highs:?} {highs:?}"
    );
    world.b.ok(&["failover", "revert", VM, "--force"]);
    let cycle = world
        .b
        .points()
        .into_iter()
        .find(|p| p["target"]["kind"] == "cycle")
        .expect("any-point offers cycles");
    world
        .b
        .ok(&["failover", "start", VM, "--point", cycle["id"].as_str().unwrap()]);
    wait_ready(&world, &world.b);
    let cycle_highs = assert_intact(&world, &world.b, "a cycle");
    assert!(
        cycle_highs[0] >= old_highs[0] && cycle_highs[0] <= highs[0],
        "{old_highs:?} {cycle_highs:?} {highs:?}"
    );
    assert_eq!(
        digest_of_points(&world),
        digests,
        "replaying logs must not touch a point"
    );

    // Commit while it runs; the VM keeps running and its data survives merging and a restart.
    start_load(&world, &world.b);
    world.b.ok(&["failover", "commit", VM]);
    assert_eq!(world.b.state(), "Committed");
    let refusal = world.b.refused(&["failover", "revert", VM]);
    assert!(refusal.contains("cannot be undone"), "{refusal}");
    wait_until("merging is done", Duration::from_secs(120), || {
        (world.b.replication()["failover"]["stage"] == "committed").then_some(())
    });
    stop_load(&world, &world.b);
    let grown = assert_intact(&world, &world.b, "after commit and merge");
    assert!(grown[0] > cycle_highs[0], "the VM went on writing: {grown:?}");
    world.b.ok(&["vm", "stop", VM]);
    world.b.ok(&["vm", "start", VM]);
    wait_ready(&world, &world.b);
    assert_eq!(assert_intact(&world, &world.b, "after a restart"), grown);

    // The old primary comes back: it does not send, and says why.
    let before = world.proxy.bytes();
    world.proxy.heal();
    world.a.start();
    world.a.wait_state("Critical");
    let problem = world.a.replication()["problem"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(problem.contains("committed"), "{problem}");
    assert!(
        world.proxy.bytes() - before < 1 << 20,
        "an old primary sends no data"
    );
    assert_eq!(
        world.qemu_pid(&world.a),
        None,
        "an old primary does not start its VM by itself"
    );
}

/// The instant on the primary equals the replica's point, byte by byte, by qemu-img compare.
fn point_equals_the_primary(format: &'static str) {
    let mut world = loaded(format);
    // On a busy machine two cycles can be over before the last of the writers has begun.
    wait_until("every writer writes", Duration::from_secs(60), || {
        let console = console(&world, &world.a);
        let writes = |mode| acknowledged(&console, mode).is_some_and(|(high, _)| high > 0);
        ["append", "scatter", "pair"]
            .into_iter()
            .all(writes)
            .then_some(())
    });
    world.replicate(&["--interval", "1s", "--point-spacing", "1s", "--history", "3"]);
    world.a.wait_cycles(2);
    stop_load(&world, &world.a);
    // With the VM off, its last changes travel from the image itself.
    world.a.ok(&["vm", "stop", VM]);
    wait_until("the powered-off VM is settled", Duration::from_secs(60), || {
        (world.a.replication()["lag_ms"] == 0).then_some(())
    });
    let position = world.a.replication()["position"].clone();
    wait_until("the replica sealed it", Duration::from_secs(60), || {
        (world.b.replication()["position"] == position).then_some(())
    });
    world.a.kill9();
    world.b.ok(&["failover", "start", VM, "--no-start"]);
    let branch = world.replica().join("branches").join(world.b.branch_of(VM));
    for disk in ["sys", "data"] {
        let primary = world.a.dir.join(format!("disks/{disk}.{format}"));
        let replica = branch.join(format!("{disk}.qcow2"));
        assert_equal((&primary, format), (&replica, "qcow2"));
    }
    world.b.ok(&["failover", "revert", VM]);
    let what = "the point that was compared";
    assert_written(&assert_replica_intact(&world, what), what);
}

#[test]
fn guest_point_equals_the_primary_qcow2() {
    point_equals_the_primary("qcow2");
}

/// Of a raw disk only the primary's side is another one.
#[test]
fn guest_point_equals_the_primary_raw() {
    point_equals_the_primary("raw");
}

/// A guest is not touched by the end of its daemon, and is found again.
#[test]
fn guest_outlives_the_daemon() {
    let mut world = loaded("qcow2");
    let pid = world.qemu_pid(&world.a).unwrap();
    world.a.kill9();
    world.a.start();
    assert_eq!(world.qemu_pid(&world.a), Some(pid));
    assert_eq!(world.a.json(&["vm", "show", VM])["power"], "running");
    let seq = |w: &World| acknowledged(&console(w, &w.a), "append").unwrap().0;
    let from = seq(&world);
    wait_until("the guest goes on writing", Duration::from_secs(30), || {
        (seq(&world) > from).then_some(())
    });
    // Its CPUs stand still, cycles go on, and it goes on where it was.
    world.a.ok(&["vm", "pause", VM]);
    assert_eq!(world.a.json(&["vm", "show", VM])["power"], "paused");
    let said = world.a.refused(&["vm", "stop", VM]);
    assert!(said.contains("paused"), "{said}");
    let stands = seq(&world);
    world.replicate(&["--interval", "1s"]);
    world.a.wait_cycles(2);
    assert_eq!(seq(&world), stands);
    world.a.ok(&["vm", "start", VM]);
    wait_until("the guest goes on writing", Duration::from_secs(30), || {
        (seq(&world) > stands).then_some(())
    });
    assert_eq!(world.qemu_pid(&world.a), Some(pid));
    let boot = || shell(&world, &world.a, "cat /proc/sys/kernel/random/boot_id");
    let before = boot();
    world.a.ok(&["vm", "reset", VM]);
    wait_ready(&world, &world.a);
    assert_ne!(boot(), before, "it started anew");
    assert_eq!(world.qemu_pid(&world.a), Some(pid));
    world.a.ok(&["vm", "stop", VM]);
    assert_eq!(world.a.json(&["vm", "show", VM])["power"], "off");
    assert_eq!(world.qemu_pid(&world.a), None);
}
