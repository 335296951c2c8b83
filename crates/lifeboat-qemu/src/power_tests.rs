//! What is said of VMs that cannot be asked, and of guests that were stopped: real QEMU processes without a system.

use std::time::Duration;

use lifeboat_block::qmp::Qmp;
use lifeboat_engine::ports::hypervisor::{DiskImage, Hypervisor, HypervisorError, Launch, Power, StallCause};
use lifeboat_model::{DiskFormat, DiskId};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::time::Instant;

use super::stall_of;
use crate::error::not_run;
use crate::process::PidRecord;
use crate::qemu::Qemu;
use crate::testing::{Host, stop, tool};

/// What `host` cannot know, in words.
async fn not_known(host: &Host, launch: &Launch) -> String {
    let asked = Instant::now();
    let power = host.qemu.power(launch.spec.uuid).await;
    assert!(
        asked.elapsed() < Duration::from_millis(4500),
        "{:?}",
        asked.elapsed()
    );
    match power {
        Power::NotKnown { why } => why,
        other => panic!("{other:?} of a VM that runs"),
    }
}

async fn started(host: &mut Host) -> (Launch, PidRecord) {
    let launch = host.vm(&[DiskFormat::Qcow2]);
    host.qemu.start(&launch).await.unwrap();
    let record = PidRecord::load(host.qemu.paths(launch.spec.uuid).pid().as_std_path()).unwrap();
    (launch, record)
}

#[tokio::test]
async fn a_lost_record_of_the_process_is_no_vm_that_is_off() {
    let mut host = Host::new();
    let (launch, record) = started(&mut host).await;
    let vm = launch.spec.uuid;
    let path = host.qemu.paths(vm).pid();
    // A daemon that starts after somebody cleaned up.
    for spoil in [None, Some("")] {
        match spoil {
            None => std::fs::remove_file(&path).unwrap(),
            Some(text) => std::fs::write(&path, text).unwrap(),
        }
        let daemon = Qemu::new(host.qemu.config.clone());
        assert_eq!(daemon.power(vm).await, Power::Running, "{spoil:?}");
        assert_eq!(PidRecord::load(path.as_std_path()), Some(record), "written again");
        std::fs::remove_file(&path).unwrap();
        let again = Qemu::new(host.qemu.config.clone()).start(&launch).await;
        assert!(matches!(again, Err(HypervisorError::Running)), "{again:?}");
    }
    std::fs::remove_file(&path).unwrap();
    host.qemu.turn_off(vm).await.unwrap();
    assert_eq!(host.qemu.power(vm).await, Power::Off);
}

#[tokio::test]
async fn a_vm_without_its_sockets_is_not_off_and_its_images_are_not_opened_beside_it() {
    let mut host = Host::new();
    let (launch, record) = started(&mut host).await;
    let vm = launch.spec.uuid;
    let dir = host.qemu.paths(vm).dir().to_owned();
    // Somebody cleaned the whole directory.
    std::fs::remove_dir_all(&dir).unwrap();
    let why = not_known(&host, &launch).await;
    assert!(why.contains(&format!("process {}", record.pid)), "{why}");
    assert!(why.contains("No such file"), "{why}");
    let disks: Vec<_> = launch.disks.iter().map(|d| d.id.clone()).collect();
    let source = host.qemu.source(&launch, &disks).await;
    assert!(source.is_err(), "a capture of a VM that is off, of one that runs");
    assert!(matches!(
        host.qemu.start(&launch).await,
        Err(HypervisorError::Running)
    ));
    // The way out.
    host.qemu.turn_off(vm).await.unwrap();
    assert_eq!(host.qemu.power(vm).await, Power::Off);
    host.qemu.start(&launch).await.unwrap();
    assert_eq!(host.qemu.power(vm).await, Power::Running);
}

#[tokio::test]
async fn a_stopped_process_is_told_at_once_and_runs_when_it_is_let_go_on() {
    let mut host = Host::new();
    let (launch, record) = started(&mut host).await;
    stop(record.pid);
    let asked = Instant::now();
    let why = not_known(&host, &launch).await;
    assert!(
        asked.elapsed() < Duration::from_millis(500),
        "{:?}",
        asked.elapsed()
    );
    assert!(why.contains("stopped by a signal"), "{why}");
    tool("kill", &["-CONT", &record.pid.to_string()]);
    assert_eq!(host.qemu.power(launch.spec.uuid).await, Power::Running);
}

#[tokio::test]
async fn a_monitor_that_does_not_greet_is_not_known() {
    let mut host = Host::new();
    let (launch, _) = started(&mut host).await;
    let held = host.qemu.control(launch.spec.uuid).await.unwrap();
    let why = not_known(&host, &launch).await;
    assert!(why.contains("does not answer"), "{why}");
    drop(held);
    assert_eq!(host.qemu.power(launch.spec.uuid).await, Power::Running);
}

/// Puts the limit of descriptors back.
struct Descriptors(Rlimit);

impl Descriptors {
    /// Leaves this process no descriptor; those it takes are returned too.
    fn none() -> (Self, Vec<std::fs::File>) {
        let before = getrlimit(Resource::Nofile);
        let few = Rlimit {
            current: Some(256),
            ..before
        };
        setrlimit(Resource::Nofile, few).unwrap();
        let files = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        (Self(before), files)
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        let _ = setrlimit(Resource::Nofile, self.0);
    }
}

#[tokio::test]
async fn a_daemon_without_descriptors_says_so_and_takes_no_vm_for_off() {
    let mut host = Host::new();
    let (launch, _) = started(&mut host).await;
    {
        let (_limit, _files) = Descriptors::none();
        let why = not_known(&host, &launch).await;
        assert!(
            why.contains("Too many open files") && why.contains("LimitNOFILE"),
            "{why}"
        );
        let again = host.qemu.start(&launch).await.unwrap_err().to_string();
        assert!(again.contains("Too many open files"), "{again}");
        assert!(!again.contains("installed"), "{again}");
        assert!(host.qemu.turn_off(launch.spec.uuid).await.is_err());
    }
    assert_eq!(host.qemu.power(launch.spec.uuid).await, Power::Running);
}

#[test]
fn only_a_program_that_is_not_there_may_be_not_installed() {
    for (number, installed) in [(2, true), (24, false), (23, false), (12, false)] {
        let error = not_run("qemu-img")(std::io::Error::from_raw_os_error(number));
        assert_eq!(
            error.to_string().contains("is QEMU installed?"),
            installed,
            "{error}"
        );
    }
}

#[test]
fn a_stall_names_its_disks_and_a_full_file_system_first() {
    let answer = json!([
        {"device": "", "qdev": "/machine/peripheral/vd-data/virtio-backend", "io-status": "nospace"},
        {"device": "", "qdev": "vd-logs", "io-status": "failed"},
        {"device": "", "qdev": "/machine/peripheral/vd-sys/virtio-backend", "io-status": "ok"},
        {"device": "cd0"},
    ]);
    let stall = stall_of(Some(&answer));
    assert_eq!(stall.cause, StallCause::NoSpace);
    assert_eq!(stall.disks, [DiskId::new("data").unwrap()]);
    assert_eq!(stall.to_string(), "no space left for disk data");
    let stall = stall_of(None);
    assert_eq!(stall.cause, StallCause::StorageError);
    assert!(stall.disks.is_empty() && stall.to_string().contains("one of its disks"));
}

/// A small file system in memory; `None` without the right to mount one.
struct Small(tempfile::TempDir);

impl Small {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("lbt").tempdir_in("/tmp").unwrap();
        let path = dir.path().to_str().unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", path]);
        let mounted = mount.status().is_ok_and(|s| s.success());
        mounted.then(|| Self(dir))
    }

    fn resize(&self, size: &str) {
        let path = self.0.path().to_str().unwrap();
        tool("mount", &["-o", &format!("remount,size={size}"), path]);
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.0.path())
            .status();
    }
}

/// The beginning of a disk whose guest is nothing but a loop: it writes 8 MiB by the firmware's services (INT 13h, 32 KiB
/// each) and then sends `D` to the serial port, or `F` when a write failed.
fn writer() -> Vec<u8> {
    let mut sector = vec![0; 512];
    let code = [
        0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, // segments and stack
        0x88, 0x16, 0xe0, 0x7d, // the drive it was started from
        0xbe, 0xe8, 0x7d, 0xb8, 0x00, 0x43, 0x8a, 0x16, 0xe0, 0x7d, 0xcd, 0x13, // again: write
        0xb0, 0x46, 0x72, 0x13, // 'F' when that failed
        0x66, 0x83, 0x06, 0xf0, 0x7d, 0x40, // 64 sectors further
        0x66, 0x81, 0x3e, 0xf0, 0x7d, 0xc0, 0x3f, 0x00, 0x00, 0x72, 0xdf, // until sector 16320
        0xb0, 0x44, 0xba, 0xf8, 0x03, 0xee, 0xfa, 0xf4, 0xeb, 0xfc, // 'D', and stop
    ];
    sector[..code.len()].copy_from_slice(&code);
    // What INT 13h is given: 64 sectors from 1000:0000, at first to sector 64.
    sector[0x1e8..0x1f8].copy_from_slice(&[0x10, 0, 64, 0, 0, 0, 0, 0x10, 64, 0, 0, 0, 0, 0, 0, 0]);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// A VM whose guest writes 8 MiB to a file system of 4.
fn full_disk(host: &mut Host, space: &Small) -> Launch {
    let mut launch = host.vm(&[DiskFormat::Qcow2]);
    let path = space.0.path().join("a.qcow2");
    let image = path.to_str().unwrap();
    tool("qemu-img", &["create", "-q", "-f", "qcow2", image, "8M"]);
    let boot = host.path("boot");
    std::fs::write(&boot, writer()).unwrap();
    let write = format!("write -s {} 0 512", boot.display());
    tool("qemu-io", &["-f", "qcow2", "-c", &write, image]);
    launch.disks[0].image = DiskImage::Plain {
        path: image.into(),
        format: DiskFormat::Qcow2,
    };
    launch
}

/// Waits until the guest is in a state that `fits`.
async fn until(host: &Host, launch: &Launch, fits: impl Fn(&Power) -> bool) -> Power {
    let paths = host.qemu.paths(launch.spec.uuid);
    let monitor = Qmp::connect(paths.merge(), Duration::from_secs(10))
        .await
        .unwrap();
    let mut events = monitor.events();
    loop {
        let power = host.qemu.power(launch.spec.uuid).await;
        if fits(&power) {
            return power;
        }
        // Whatever happens next in this process.
        tokio::time::timeout(Duration::from_secs(60), events.next())
            .await
            .unwrap_or_else(|_| panic!("nothing happens any more: {power:?}"))
            .unwrap();
    }
}

#[tokio::test]
async fn a_guest_whose_disk_is_full_says_why_and_goes_on_when_there_is_space() {
    let Some(space) = Small::new("4m") else {
        eprintln!("skipped: no right to mount a small file system");
        return;
    };
    let mut host = Host::new();
    let launch = full_disk(&mut host, &space);
    let vm = launch.spec.uuid;
    host.qemu.start(&launch).await.unwrap();
    let stalled = |power: &Power| matches!(power, Power::Stalled(_));
    let power = until(&host, &launch, stalled).await;
    assert_eq!(power.reason().unwrap(), "no space left for disk a");
    // Nothing has changed: it is stopped again, and that is said.
    let again = host.qemu.resume(vm).await.unwrap_err().to_string();
    assert!(again.contains("no space left for disk a"), "{again}");
    assert!(stalled(&host.qemu.power(vm).await));
    // The reset button leaves it off its feet, at the beginning, and nothing is lost of the way out.
    host.qemu.reset(vm).await.unwrap();
    let paused = until(&host, &launch, |p| *p == Power::Paused).await;
    assert_eq!(paused, Power::Paused);
    host.qemu.resume(vm).await.unwrap();
    assert!(stalled(&until(&host, &launch, stalled).await));
    space.resize("64m");
    host.qemu.resume(vm).await.unwrap();
    assert_eq!(host.qemu.power(vm).await, Power::Running);
    let log = host.qemu.console(vm).log;
    let told = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            if let Some(end) = said.chars().rev().find(|c| matches!(c, 'D' | 'F')) {
                return end;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert_eq!(
        told.await.unwrap(),
        'D',
        "the write that was interrupted succeeded"
    );
    host.qemu.turn_off(vm).await.unwrap();
}

#[tokio::test]
async fn a_stalled_guest_is_turned_off_by_force() {
    let Some(space) = Small::new("4m") else {
        eprintln!("skipped: no right to mount a small file system");
        return;
    };
    let mut host = Host::new();
    let launch = full_disk(&mut host, &space);
    host.qemu.start(&launch).await.unwrap();
    until(&host, &launch, |p| matches!(p, Power::Stalled(_))).await;
    host.qemu.turn_off(launch.spec.uuid).await.unwrap();
    assert_eq!(host.qemu.power(launch.spec.uuid).await, Power::Off);
}
