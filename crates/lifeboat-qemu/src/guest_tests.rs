//! With a guest system that boots: its agent, its power button, its file systems. The image is built by
//! `scripts/make-guest.sh`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use camino::Utf8PathBuf;
use lifeboat_deltalog::Consistency;
use lifeboat_engine::ports::capture::{BlockView, Tracking};
use lifeboat_engine::ports::hypervisor::{DiskImage, Hypervisor, Launch, LaunchDisk, PowerState};
use lifeboat_model::vm::DiskBus;
use lifeboat_model::{DiskFormat, DiskId};

use crate::config::Accel;
use crate::qmp::Agent;
use crate::testing::{Host, at, tool};

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
    assert_eq!(host.qemu.power(launch.spec.uuid).await.unwrap(), PowerState::Off);
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
    launch.spec.machine = "pc".into();
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
    assert_eq!(host.qemu.power(launch.spec.uuid).await.unwrap(), PowerState::Off);
}
