//! What an earlier version left behind, opened by this one. `fixtures/NAME.tar.gz` has the state directories, the replica and the
//! disks of two hosts, and which pattern each recovery point holds; [`make`] made it with the binary of that version. Whoever
//! changes a record, a manifest or a log meets it here. Upgrades while guests run are not played.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lifeboat_faults::monitor::Monitor;
use lifeboat_faults::volume::run;
use serde_json::Value;

use crate::host::{Ground, Host, binary, wait_for};
use crate::judge::read_layers;
use crate::world::{DISKS, VM, now_ms};

/// Records have absolute paths and addresses: both are the same whenever and wherever the fixture is opened, because a sandbox
/// has its own mounts and its own network.
const BASE: &str = "/srv/lifeboat";
const PORTS: [u16; 2] = [7401, 7402];
const UUID: &str = "0f9d1c52-5c7e-4b7a-9d0e-6a3f5b8c2e41";
const DISK: &str = "4M";

/// What is written for each point: so many bytes at the beginning of every disk.
const WRITTEN: usize = 64 << 10;

/// Which pattern each point holds, by its id.
type Expected = BTreeMap<String, u8>;

fn fixture(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/faults/fixtures/{version}.tar.gz"))
}

/// An empty file system at the place of the fixture.
fn ground() -> Result<()> {
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/srv"]))?;
    Ok(std::fs::create_dir(BASE)?)
}

/// Both hosts with new certificates: those of the fixture would have ended.
fn hosts() -> Result<(Host, Host)> {
    let base = Path::new(BASE);
    let mut authority = Command::new(binary());
    run(authority
        .args(["cert", "init", "--name", "Upgrade"])
        .arg(base.join("ca")))?;
    let host = |name, port| {
        let mut host = Host::new(base, name, Ground::default())?;
        host.port = port;
        host.configure(port)?;
        anyhow::Ok(host)
    };
    Ok((host("alpha.test", PORTS[0])?, host("beta.test", PORTS[1])?))
}

/// Writes a pattern to the beginning of every disk as the guest would, and to stable storage.
fn write(a: &Host, pattern: u8) -> Result<()> {
    let (socket, output) = a.monitor(UUID);
    let mut monitor = wait_for("QEMU's monitor", Duration::from_secs(20), || {
        Monitor::connect(&socket, Duration::from_secs(60)).ok()
    })?;
    for (disk, _) in DISKS {
        let device = format!("/machine/peripheral/vd-{disk}/virtio-backend");
        monitor.write(&device, &format!("write -f -P {pattern} 0 {WRITTEN}"), &output)?;
    }
    Ok(())
}

/// The points that a host lists, without single cycles, which expire by the time: their ids and instants in milliseconds.
fn points(b: &Host) -> Result<BTreeMap<String, u64>> {
    let listed = b.get(&format!("/api/v1/vms/{VM}/points"), Duration::from_secs(10))?;
    let all = listed.as_array().into_iter().flatten();
    let all = all.filter_map(|p| Some((p["id"].as_str()?.to_owned(), p["instant"].as_u64()?)));
    Ok(all.filter(|(id, _)| !id.contains(':')).collect())
}

/// A point of an instant from now on, from the cycles that are asked for until there is one.
fn next_point(a: &Host, b: &Host) -> Result<String> {
    let from = now_ms();
    wait_for("a new recovery point", Duration::from_secs(120), || {
        // Refused while a copy or a comparison goes on.
        let _ = a.cli(&["replication", "now", VM]);
        points(b)
            .ok()?
            .into_iter()
            .find_map(|(id, instant)| (instant >= from).then_some(id))
    })
}

/// Makes the fixture with the binary that `LIFEBOAT_BINARY` names, at `LIFEBOAT_FIXTURE`.
pub(crate) fn make() -> Result<()> {
    ground()?;
    let (mut a, mut b) = hosts()?;
    let disks = a.durable.join("disks");
    std::fs::create_dir_all(&disks)?;
    let mut description = format!(
        "name = \"{VM}\"\nuuid = \"{UUID}\"\nmemory_mib = 32\ncpus = 1\nmachine = \"pc\"\ncpu = \"qemu64\"\nguest_agent = false\n"
    );
    for (id, format) in DISKS {
        let path = disks.join(format!("{id}.{format}"));
        run(Command::new("qemu-img")
            .args(["create", "-q", "-f", format])
            .arg(&path)
            .arg(DISK))?;
        let path = path.display();
        description.push_str(&format!(
            "[[disk]]\nid = \"{id}\"\npath = \"{path}\"\nformat = \"{format}\"\n"
        ));
    }
    std::fs::write(a.root.join("vms/probe.toml"), description)?;
    a.start()?;
    b.start()?;
    b.ok(&["server", "set", "--replica", "on"])?;
    let location = b.durable.join("replicas").display().to_string();
    b.ok(&["authorization", "add", "alpha.test", "--location", &location])?;
    a.ok(&["vm", "start", VM])?;
    write(&a, 1)?;
    let peer = format!("127.0.0.1:{}", PORTS[1]);
    let mut enable = vec!["replication", "enable", VM, "--to", &peer, "--interval", "15m"];
    enable.extend(["--history", "8", "--point-spacing", "1s"]);
    a.ok(&enable)?;
    a.ok(&["replication", "start", VM])?;
    let mut expected = Expected::new();
    expected.insert(next_point(&a, &b)?, 1);
    for pattern in 2..=4 {
        write(&a, pattern)?;
        expected.insert(next_point(&a, &b)?, pattern);
    }
    a.ok(&["vm", "stop", VM, "--force"])?;
    a.stop()?;
    b.stop()?;
    let base = Path::new(BASE);
    std::fs::write(base.join("expected.json"), serde_json::to_vec_pretty(&expected)?)?;
    let out = std::env::var("LIFEBOAT_FIXTURE").context("LIFEBOAT_FIXTURE has to say where to")?;
    let mut tar = Command::new("tar");
    tar.args(["-C", BASE, "--sparse", "-czf", &out]);
    run(tar.args(["expected.json", "a/durable", "a/vms", "b/durable"])).map(drop)
}

/// Opens the fixture: every point holds what it held, replication goes on, and a failover has what was written since.
pub(crate) fn open(version: &str) -> Result<()> {
    ground()?;
    let base = Path::new(BASE);
    run(Command::new("tar")
        .args(["-C", BASE, "-xzf"])
        .arg(fixture(version)))?;
    let expected: Expected = serde_json::from_slice(&std::fs::read(base.join("expected.json"))?)?;
    ensure!(expected.len() == 4, "four points were made");
    let (mut a, mut b) = hosts()?;
    b.start()?;
    let listed = points(&b)?;
    for (point, pattern) in &expected {
        ensure!(listed.contains_key(point), "{point} is gone: {listed:?}");
        failover(&b, &["--point", point], *pattern)?;
        b.ok(&["failover", "revert", VM])?;
    }
    a.start()?;
    a.ok(&["vm", "start", VM])?;
    write(&a, 9)?;
    next_point(&a, &b)?;
    let listed = points(&b)?;
    let gone: Vec<_> = expected
        .keys()
        .filter(|point| !listed.contains_key(*point))
        .collect();
    ensure!(gone.is_empty(), "{gone:?} are gone: {listed:?}");
    a.ok(&["vm", "stop", VM, "--force"])?;
    failover(&b, &[], 9)?;
    b.ok(&["failover", "commit", VM])?;
    Ok(())
}

/// A failover whose disks have this pattern.
fn failover(b: &Host, point: &[&str], pattern: u8) -> Result<()> {
    let mut start = vec!["failover", "start", VM, "--no-start", "--force"];
    start.extend(point);
    b.ok(&start)?;
    let replica = b.durable.join("replicas").join(UUID);
    let manifest: Value = serde_json::from_slice(&std::fs::read(replica.join("manifest.json"))?)?;
    let branch = manifest["branches"].as_array().and_then(|b| b.last());
    let layers = &branch.context("no branch")?["layers"];
    for image in read_layers(&replica, &Path::new(BASE).join("image.raw"), layers)? {
        let right = image
            .get(..WRITTEN)
            .is_some_and(|b| b.iter().all(|byte| *byte == pattern));
        ensure!(right, "a disk of {point:?} does not have the pattern {pattern}");
    }
    Ok(())
}
