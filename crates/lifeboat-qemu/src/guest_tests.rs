//! With a guest system that boots: its agent, its power button, its file systems. The image is built by
//! `scripts/make-guest.sh`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use camino::Utf8PathBuf;
use lifeboat_block::agent::Agent;
use lifeboat_deltalog::Consistency;
use lifeboat_engine::ports::capture::{BlockView, Tracking};
use lifeboat_engine::ports::hypervisor::{
    DiskImage, GuestOs, Hypervisor, HypervisorError, Launch, LaunchDisk, Power,
};
use lifeboat_model::vm::DiskBus;
use lifeboat_model::{DiskFormat, DiskId};

use crate::config::Accel;
use crate::testing::{AtOnce, Host, at, hardware, tool};

const BOOT: Duration = Duration::from_secs(90);
/// Where the first partition lies on both disks.
const PARTITION: usize = 1 << 20;
const PARTITION_LEN: usize = 128 << 20;

/// Builds the image, or finds it built.
fn image() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    tool("bash", &[root.join("scripts/make-guest.sh").to_str().unwrap()]);
    root.join("target/guest-image")
}

fn vm(host: &mut Host, bus: DiskBus) -> Launch {
    let image = image();
    let disk = |name: &str, format: DiskFormat, extension: &str| {
        let to = host.path(&format!("{name}.{extension}"));
        std::fs::copy(image.join(format!("{name}.{extension}")), &to).unwrap();
        LaunchDisk {
            id: DiskId::new(name).unwrap(),
            bus,
            image: DiskImage::Plain {
                path: Utf8PathBuf::from_path_buf(to).unwrap(),
                format,
            },
        }
    };
    let disks = vec![
        disk("sys", DiskFormat::Qcow2, "qcow2"),
        disk("data", DiskFormat::Raw, "raw"),
    ];
    let mut launch = host.launch(disks);
    launch.spec.memory_mib = 128;
    launch.spec.guest_agent = true;
    launch
}

async fn agent(host: &Host, launch: &Launch) -> Agent {
    let mut agent = Agent::connect(host.qemu.paths(launch.spec.uuid).agent())
        .await
        .unwrap();
    agent.sync(BOOT).await.unwrap();
    agent
}

async fn sh(host: &Host, launch: &Launch, script: &str) -> String {
    let mut agent = agent(host, launch).await;
    let out = agent.exec_sh(script, Duration::from_secs(30)).await.unwrap();
    assert_eq!(
        out.exit,
        Some(0),
        "{script}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

fn host() -> Host {
    Host::with(|c| c.accel = Accel::Auto)
}

/// The file system of a disk as the view shows it, in a file of its own.
async fn partition(view: &dyn BlockView, disk: usize, to: &Path) {
    let mut all = Vec::new();
    for offset in (PARTITION..PARTITION + PARTITION_LEN).step_by(1 << 20) {
        all.extend_from_slice(&view.read(disk, offset as u64, 1 << 20).await.unwrap());
    }
    std::fs::write(to, all).unwrap();
}

#[tokio::test]
async fn guest_file_systems_are_frozen_around_the_instant_and_thawed_after() {
    let mut host = host();
    let launch = vm(&mut host, DiskBus::Virtio);
    host.qemu.start(&launch).await.unwrap();
    sh(&host, &launch, "true").await;
    let source = host.source(&launch).await;
    source.start_tracking(at(0)).await.unwrap();
    for (round, name) in (0..3_u64).zip(["one", "two", "three"]) {
        // Not synced: only a freeze brings it to the disk at once.
        sh(&host, &launch, &format!("echo {name} > /data/note")).await;
        let started = Instant::now();
        let instant = source
            .instant(at(round), at(round + 1), Consistency::Application)
            .await
            .unwrap();
        println!("application-consistent instant: {:?}", started.elapsed());
        assert_eq!(instant.consistency, Consistency::Application);
        assert!(!host.qemu.paths(launch.spec.uuid).frozen().exists());
        sh(&host, &launch, "echo later > /data/note; sync").await;
        let copy = host.path("partition");
        partition(&*instant.view, 1, &copy).await;
        instant.view.close().await.unwrap();
        source.acknowledge(at(round)).await.unwrap();
        let image = copy.to_str().unwrap();
        assert_eq!(tool("debugfs", &["-R", "cat /note", image]).trim(), name);
    }
    source.close().await.unwrap();
}

#[tokio::test]
async fn guest_left_frozen_by_a_crash_is_thawed_by_recovery() {
    let mut host = host();
    let launch = vm(&mut host, DiskBus::Virtio);
    host.qemu.start(&launch).await.unwrap();
    let mut agent = agent(&host, &launch).await;
    // What a daemon leaves that dies between freezing and thawing.
    std::fs::write(host.qemu.paths(launch.spec.uuid).frozen(), b"").unwrap();
    assert!(agent.fsfreeze(Duration::from_secs(20)).await.unwrap() > 0);
    drop(agent);
    let source = host.source(&launch).await;
    assert_eq!(source.recover().await.unwrap(), Tracking::None);
    assert!(!host.qemu.paths(launch.spec.uuid).frozen().exists());
    sh(&host, &launch, "echo thawed > /data/note; sync").await;
    source.close().await.unwrap();
}

#[tokio::test]
async fn guest_without_an_agent_gets_a_crash_consistent_instant() {
    // No system at all: the channel is there and nobody answers.
    let mut host = Host::new();
    let mut launch = host.vm(&[DiskFormat::Qcow2]);
    launch.spec.guest_agent = true;
    host.qemu.start(&launch).await.unwrap();
    let source = host.source(&launch).await;
    source.start_tracking(at(0)).await.unwrap();
    let instant = source
        .instant(at(0), at(1), Consistency::Application)
        .await
        .unwrap();
    assert_eq!(instant.consistency, Consistency::Crash);
    instant.view.close().await.unwrap();
    source.close().await.unwrap();
}

#[tokio::test]
async fn guest_shuts_down_through_its_agent_and_keeps_its_records() {
    let mut host = host();
    let launch = vm(&mut host, DiskBus::Scsi);
    host.qemu.start(&launch).await.unwrap();
    sh(&host, &launch, "true").await;
    let source = host.source(&launch).await;
    source.start_tracking(at(1)).await.unwrap();
    // Even with an instant still open: both records survive.
    let instant = source.instant(at(1), at(2), Consistency::Crash).await.unwrap();
    host.qemu
        .shut_down(launch.spec.uuid, Duration::from_secs(60))
        .await
        .unwrap();
    assert_eq!(host.qemu.power(launch.spec.uuid).await, Power::Off);
    drop(instant);
    drop(source);
    let source = host.source(&launch).await;
    assert_eq!(
        source.recover().await.unwrap(),
        Tracking::Since(vec![at(1), at(2)])
    );
    source.close().await.unwrap();
}

#[tokio::test]
async fn guest_shuts_down_by_its_power_button() {
    let mut host = host();
    let mut launch = vm(&mut host, DiskBus::Ide);
    hardware(&mut launch.spec).machine = "pc".into();
    launch.spec.guest_agent = false;
    host.qemu.start(&launch).await.unwrap();
    let log = host.qemu.console(launch.spec.uuid).log;
    let deadline = Instant::now() + BOOT;
    while !std::fs::read_to_string(&log)
        .unwrap_or_default()
        .contains("LIFEBOAT ready")
    {
        assert!(Instant::now() < deadline, "the guest does not boot");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    host.qemu
        .shut_down(launch.spec.uuid, Duration::from_secs(60))
        .await
        .unwrap();
    assert_eq!(host.qemu.power(launch.spec.uuid).await, Power::Off);
}

#[tokio::test]
async fn guest_answers_questions_and_runs_programs() {
    let mut host = host();
    let mut launch = vm(&mut host, DiskBus::Virtio);
    launch.seed = vec![
        ("meta-data".into(), "instance-id: one\n".into()),
        ("network-config".into(), "version: 2\n".into()),
    ];
    let vm = launch.spec.uuid;
    assert!(matches!(
        host.qemu.guest_os(vm).await,
        Err(HypervisorError::NotRunning)
    ));
    host.qemu.start(&launch).await.unwrap();
    // It still boots.
    let early = host
        .qemu
        .guest_run(vm, "/bin/true", &[], Duration::from_millis(10))
        .await;
    assert!(matches!(early, Err(HypervisorError::Agent(_))), "{early:?}");
    sh(&host, &launch, "true").await;
    assert_eq!(host.qemu.guest_os(vm).await.unwrap(), GuestOs::Linux);
    let run = async |script: &str, seconds| {
        let arguments = ["-c".to_owned(), script.to_owned()];
        let limit = Duration::from_secs(seconds);
        host.qemu.guest_run(vm, "/bin/sh", &arguments, limit).await
    };
    let done = run("echo out; echo err >&2; exit 3", 20).await.unwrap();
    assert_eq!((done.code, done.output.as_str()), (Some(3), "out\nerr\n"));
    assert_eq!(run("kill -9 $$", 20).await.unwrap().code, None);
    let long = run("seq 1 100000; echo why >&2", 20).await.unwrap();
    assert!(long.output.len() <= 4096 && long.output.ends_with("why\n"));
    let slow = run("sleep 600", 2).await.unwrap_err().to_string();
    assert!(slow.contains("guest-exec"), "{slow}");
    let none = host
        .qemu
        .guest_run(vm, "/no/program", &[], Duration::from_secs(20))
        .await;
    assert!(matches!(none, Err(HypervisorError::Agent(_))), "{none:?}");
    // The seed: behind the other disks, found by its label, read-only, with names as they were given.
    let script = "mkdir -p /run/seed && mount -t vfat -o ro $(findfs LABEL=cidata) /run/seed && cd /run/seed && \
                  ls && cat meta-data && cat /sys/block/vdc/ro";
    let seed = run(script, 20).await.unwrap();
    assert_eq!(seed.output, "meta-data\nnetwork-config\ninstance-id: one\n1\n");
}

/// Waits for a line on the serial console.
async fn console(host: &Host, launch: &Launch, line: &str) {
    let log = host.qemu.console(launch.spec.uuid).log;
    let deadline = Instant::now() + BOOT;
    while !std::fs::read_to_string(&log).unwrap_or_default().contains(line) {
        assert!(Instant::now() < deadline, "no \"{line}\" on the console");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn guest_that_will_not_freeze_gets_crash_consistent_instants_in_time_and_stays_thawed() {
    let mut host = host();
    let launch = vm(&mut host, DiskBus::Virtio);
    host.qemu.start(&launch).await.unwrap();
    let hook = |body: &str| {
        format!(
            "printf '#!/bin/sh\\necho LIFEBOAT fsfreeze $1 >/dev/console\\n{body}\\n' >/etc/fsfreeze-hook; sync"
        )
    };
    let source = host.source(&launch).await;
    source.start_tracking(at(0)).await.unwrap();
    let mark = host.qemu.paths(launch.spec.uuid).frozen();
    let take = async |base: u64| {
        let begun = Instant::now();
        let instant = source
            .instant(at(base), at(base + 1), Consistency::Application)
            .await
            .unwrap();
        let took = begun.elapsed();
        println!("instant {base}: {:?} after {took:?}", instant.consistency);
        instant.view.close().await.unwrap();
        source.acknowledge(at(base)).await.unwrap();
        (instant.consistency, took)
    };
    // Refused: the answer comes at once.
    sh(&host, &launch, &hook("[ $1 = thaw ]")).await;
    let (consistency, took) = take(0).await;
    assert_eq!(consistency, Consistency::Crash);
    assert!(took < Duration::from_secs(8) && !mark.exists(), "{took:?}");
    sh(&host, &launch, "echo one >/data/note; sync").await;
    // Hanging in the middle: nobody waits for it, and when the guest freezes after all it is thawed.
    sh(
        &host,
        &launch,
        &hook("[ $1 = thaw ] || { sleep 16; echo LIFEBOAT late >/dev/console; }"),
    )
    .await;
    let (consistency, took) = take(1).await;
    assert_eq!(consistency, Consistency::Crash);
    assert!(took < Duration::from_secs(15) && mark.exists(), "{took:?}");
    let (consistency, took) = take(2).await;
    assert_eq!(consistency, Consistency::Crash, "the agent is busy");
    assert!(took < Duration::from_secs(8), "{took:?}");
    console(&host, &launch, "LIFEBOAT late").await;
    let deadline = Instant::now() + BOOT;
    while mark.exists() {
        assert!(Instant::now() < deadline, "the guest is not thawed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sh(&host, &launch, &hook("")).await;
    sh(&host, &launch, "echo two >/data/note; sync").await;
    assert_eq!(take(3).await.0, Consistency::Application);
    // Silent: stopped, and going on later.
    let script = "(sleep 1; p=$(pidof qemu-ga); kill -STOP $p; echo LIFEBOAT stopped >/dev/console; sleep 8; \
                  kill -CONT $p) </dev/null >/dev/null 2>&1 &";
    sh(&host, &launch, script).await;
    console(&host, &launch, "LIFEBOAT stopped").await;
    let (consistency, took) = take(4).await;
    assert_eq!(consistency, Consistency::Crash);
    assert!(took < Duration::from_secs(8) && !mark.exists(), "{took:?}");
    sh(&host, &launch, "echo three >/data/note; sync").await;
    assert_eq!(take(5).await.0, Consistency::Application);
    source.close().await.unwrap();
}
