//! The guest of a test: commands through its agent, what it printed on its console, and the verdict of the workload's
//! verifier, which knows nothing of Lifeboat.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_block::agent::{Agent, AgentError};

use super::{Host, Setup, World, image_dir, wait_until};

/// The verifier's verdict.
#[derive(Debug)]
pub struct Verdict {
    pub ok: bool,
    pub high: i64,
    pub text: String,
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Waits until the guest has booted and its agent answers.
pub fn wait_ready(world: &World, host: &Host) {
    wait_until("the guest's agent answers", Duration::from_secs(120), || {
        try_shell(&world.vm_dir(host), "true")
            .ok()
            .filter(|(code, _)| *code == 0)
    });
}

/// Connects to the agent's port. Clients wait in QEMU's queue, which is short: one that finds it full comes again for a while.
async fn connect(dir: &Path) -> Result<Agent, AgentError> {
    let mut attempts = 0;
    loop {
        match Agent::connect(dir.join("agent.sock")).await {
            Err(AgentError::Connect { source, .. })
                if source.kind() == std::io::ErrorKind::WouldBlock && attempts < 100 =>
            {
                attempts += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            connected => return connected,
        }
    }
}

fn try_shell(dir: &Path, script: &str) -> Result<(i64, String), String> {
    runtime().block_on(async {
        let mut agent = connect(dir).await.map_err(|e| format!("{e:?}"))?;
        agent
            .sync(Duration::from_secs(10))
            .await
            .map_err(|e| e.to_string())?;
        let done = agent
            .exec_sh(script, Duration::from_secs(60))
            .await
            .map_err(|e| e.to_string())?;
        let text = [done.stdout, done.stderr].concat();
        Ok((
            done.exit.unwrap_or(-1),
            String::from_utf8_lossy(&text).into_owned(),
        ))
    })
}

/// Runs a shell line in the guest.
pub fn shell(world: &World, host: &Host, script: &str) -> String {
    let (code, text) = try_shell(&world.vm_dir(host), script).unwrap();
    assert_eq!(code, 0, "{script}: {text}");
    text
}

/// Starts the three writers in the guest and waits until each has acknowledged a record; their lines go to the console.
pub fn start_load(world: &World, host: &Host) {
    let writers = [
        "append /data/records.log --rate 60 --ack-ms 100",
        "scatter /dev/lifeboat/data-area --slots 4096 --rate 60 --ack-ms 100 --direct",
        "pair /dev/lifeboat/sys-area /dev/lifeboat/data-area --offset 0,67108864 --slots 1024 --rate 40 --ack-ms 100 --direct",
    ];
    for w in writers {
        shell(
            world,
            host,
            &format!("(lifeboat-workload {w} >/dev/ttyS0 2>&1 </dev/null &)"),
        );
    }
    for mode in writers.iter().filter_map(|w| w.split(' ').next()) {
        wait_until(
            &format!("{mode} acknowledges a record"),
            Duration::from_secs(60),
            || {
                let text = console(world, host);
                acknowledged(&text, mode).filter(|(seq, _)| *seq > 0)
            },
        );
    }
}

/// Starts the VM on a host and the writers in it.
pub fn start_with_load(world: &World, host: &Host) {
    host.ok(&["vm", "start", super::VM]);
    wait_ready(world, host);
    start_load(world, host);
}

/// A world with disks of this format, whose guest writes on A. B takes replicas of A.
pub fn loaded(format: &'static str) -> World {
    let mut world = World::new(&Setup {
        format,
        ..Setup::default()
    });
    world.start();
    start_with_load(&world, &world.a);
    world
}

/// The same, and A takes replicas of B as well, so that roles can change.
pub fn loaded_both_ways(format: &'static str) -> World {
    let world = loaded(format);
    world.allow_return();
    world
}

pub fn stop_load(world: &World, host: &Host) {
    shell(world, host, "killall lifeboat-workload; sleep 0.2; sync; true");
}

/// What the guest wrote to its serial console on this host, all boots.
pub fn console(world: &World, host: &Host) -> String {
    let bytes = std::fs::read(world.vm_dir(host).join("console.log")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The highest acknowledged record of a writer that was printed before now, with the guest's time in milliseconds.
pub fn acknowledged(console: &str, mode: &str) -> Option<(i64, u64)> {
    let mut last = None;
    for line in console.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("ACK") && words.next() == Some(mode) {
            let parsed = (
                words.next().and_then(|w| w.parse().ok()),
                words.next().and_then(|w| w.parse().ok()),
            );
            if let (Some(seq), Some(ms)) = parsed {
                last = Some((seq, ms));
            }
        }
    }
    last
}

fn verdict(text: &str) -> Verdict {
    let line = text
        .lines()
        .rev()
        .find(|l| l.contains("RESULT "))
        .unwrap_or_else(|| panic!("no verdict in: {text}"));
    let field = |name: &str| {
        line.split_whitespace()
            .find_map(|w| w.strip_prefix(name)?.strip_prefix('='))
            .map(str::to_owned)
    };
    Verdict {
        ok: line.contains("RESULT OK"),
        high: field("high").and_then(|h| h.parse().ok()).unwrap_or(-1),
        text: line.to_owned(),
    }
}

/// Verifies the three streams inside a running guest, by the verifier in the guest.
pub fn verify_in_guest(world: &World, host: &Host) -> Vec<Verdict> {
    let checks = [
        "verify-append /data/records.log",
        "verify-scatter /dev/lifeboat/data-area --slots 4096",
        "verify-pair /dev/lifeboat/sys-area /dev/lifeboat/data-area --offset 0,67108864 --slots 1024",
    ];
    checks
        .iter()
        .map(|c| {
            verdict(&shell(
                world,
                host,
                &format!("lifeboat-workload {c} 2>&1 || true"),
            ))
        })
        .collect()
}

/// The running guest's streams are without damage; the highest record of each, by the verifier in the guest.
pub fn assert_intact(world: &World, host: &Host, what: &str) -> Vec<i64> {
    highest(verify_in_guest(world, host), what)
}

/// The replica's streams on B are without damage; the highest record of each that is on a raw disk.
pub fn assert_replica_intact(world: &World, what: &str) -> Vec<i64> {
    highest(verify_replica(world), what)
}

fn highest(verdicts: Vec<Verdict>, what: &str) -> Vec<i64> {
    for v in &verdicts {
        assert!(v.ok, "{what}: {}", v.text);
    }
    verdicts.iter().map(|v| v.high).collect()
}

/// These are the highest records of streams, each of which has at least one.
pub fn assert_written(high: &[i64], what: &str) {
    assert!(high.iter().all(|high| *high > 0), "{what}: {high:?}");
}

/// A is lost with its guest, and B brings the newest data up: it is intact, and each stream has records.
pub fn assert_newest_survives(world: &mut World) {
    world.lose_primary();
    let before = world.b.newest();
    world.b.ok(&["failover", "start", super::VM]);
    wait_ready(world, &world.b);
    let what = format!("the newest instant was {before}");
    assert_written(&assert_intact(world, &world.b, &what), &what);
}

/// Verifies the two raw streams on images on this host.
pub fn verify_images(sys_raw: &Path, data_raw: &Path) -> Vec<Verdict> {
    let layout: serde_json::Value =
        serde_json::from_slice(&std::fs::read(image_dir().join("guest.json")).unwrap()).unwrap();
    let offset = |area: &str| {
        layout[area]["offset"]
            .as_u64()
            .unwrap_or_else(|| panic!("guest.json names no {area}"))
    };
    let (sys, data) = (offset("sys_area"), offset("data_area"));
    let program = image_dir().join("lifeboat-workload");
    let run = |args: Vec<String>| {
        let out = std::process::Command::new(&program).args(&args).output().unwrap();
        verdict(&String::from_utf8_lossy(&out.stdout))
    };
    let (sys_path, data_path) = (sys_raw.display().to_string(), data_raw.display().to_string());
    vec![
        run(vec![
            "verify-scatter".into(),
            data_path.clone(),
            "--slots".into(),
            "4096".into(),
            "--offset".into(),
            data.to_string(),
        ]),
        run(vec![
            "verify-pair".into(),
            sys_path,
            data_path,
            "--slots".into(),
            "1024".into(),
            "--offset".into(),
            format!("{sys},{}", data + 67_108_864),
        ]),
    ]
}

/// The disks of a failover branch of a replica, as raw files.
pub fn branch_as_raw(world: &World, host: &Host, branch: &str) -> [PathBuf; 2] {
    let dir = world.replica_on(host).join("branches").join(branch);
    ["sys", "data"].map(|disk| {
        let out = world.dir.path().join(format!("{}-{disk}.raw", host.name));
        let (from, to) = (dir.join(format!("{disk}.qcow2")), out.to_str().unwrap());
        let from = from.to_str().unwrap();
        super::run(
            "qemu-img",
            &["convert", "-U", "-f", "qcow2", "-O", "raw", from, to],
        );
        out
    })
}

/// Fails over without starting the VM: the disks as raw files. The failover stays.
pub fn failed_over_as_raw(world: &World, host: &Host) -> [PathBuf; 2] {
    host.ok(&["failover", "start", super::VM, "--no-start", "--force"]);
    branch_as_raw(world, host, &host.branch_of(super::VM))
}

/// Fails over without starting the VM, verifies the two raw streams on the failover disks, and reverts.
pub fn verify_replica(world: &World) -> Vec<Verdict> {
    verify_replica_on(world, &world.b)
}

pub fn verify_replica_on(world: &World, host: &Host) -> Vec<Verdict> {
    let [sys, data] = failed_over_as_raw(world, host);
    let verdicts = verify_images(&sys, &data);
    host.ok(&["failover", "revert", super::VM]);
    verdicts
}

/// Both files hold the same bytes as disks.
pub fn assert_equal(a: (&Path, &str), b: (&Path, &str)) {
    let (left, right) = (a.0.to_str().unwrap(), b.0.to_str().unwrap());
    let args = ["compare", "-U", "-f", a.1, "-F", b.1, left, right];
    let said = super::run("qemu-img", &args);
    assert!(said.contains("identical"), "{left} and {right}: {said}");
}
