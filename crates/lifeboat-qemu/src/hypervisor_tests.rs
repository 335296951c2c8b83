//! Starting, finding again and ending real QEMU processes; merging layers below a running one.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use camino::Utf8PathBuf;
use lifeboat_deltalog::Consistency;
use lifeboat_engine::ports::capture::Tracking;
use lifeboat_engine::ports::hypervisor::{
    DiskImage, Hypervisor, HypervisorError, ImageLayer, Launch, LaunchDisk, LiveMerge, Power,
};
use lifeboat_model::vm::DiskBus;
use lifeboat_model::{DiskFormat, DiskId, Firmware, NicBackend, NicSpec};
use serde_json::{Value, json};

use crate::config::{Accel, QemuConfig};
use crate::preflight;
use crate::process::{self, PidRecord};
use crate::qemu::Qemu;
use crate::start;
use crate::testing::{AtOnce, DISK, Host, MIB, Model, Replica, at, hardware, stop, tool};

#[tokio::test]
async fn a_vm_outlives_the_daemon_and_is_found_again() {
    let mut host = Host::new();
    let launch = host.vm(&[DiskFormat::Qcow2]);
    let vm = launch.spec.uuid;
    assert_eq!(host.qemu.power(vm).await, Power::Off);
    host.qemu.turn_off(vm).await.unwrap();
    assert!(matches!(
        host.qemu.screenshot(vm).await,
        Err(HypervisorError::NotRunning)
    ));
    host.qemu.start(&launch).await.unwrap();
    assert_eq!(host.qemu.power(vm).await, Power::Running);
    assert!(matches!(
        host.qemu.start(&launch).await,
        Err(HypervisorError::Running)
    ));
    let second = Qemu::new(host.qemu.config.clone());
    assert_eq!(second.power(vm).await, Power::Running);
    assert!(matches!(
        second.start(&launch).await,
        Err(HypervisorError::Running)
    ));
    assert!(second.screenshot(vm).await.unwrap().starts_with(b"\x89PNG"));
    let console = second.console(vm);
    assert!(console.socket.exists() && console.log.exists());
    second.turn_off(vm).await.unwrap();
    assert_eq!(host.qemu.power(vm).await, Power::Off);
    second.start(&launch).await.unwrap();
    host.kill(&launch).await;
    assert_eq!(host.qemu.power(vm).await, Power::Off);
    host.qemu.start(&launch).await.unwrap();
    host.qemu.turn_off(vm).await.unwrap();
}

#[tokio::test]
async fn the_guest_asks_nothing_of_the_terminal_that_started_it() {
    let mut host = Host::new();
    let launch = host.vm(&[DiskFormat::Raw]);
    host.qemu.start(&launch).await.unwrap();
    let record = PidRecord::load(host.qemu.paths(launch.spec.uuid).pid().as_std_path()).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", record.pid)).unwrap();
    let group: i32 = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .nth(2)
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(group, record.pid, "its own process group");
    host.qemu.turn_off(launch.spec.uuid).await.unwrap();
}

#[tokio::test]
async fn a_number_that_went_to_another_process_is_not_the_vm() {
    let mut host = Host::new();
    let launch = host.vm(&[DiskFormat::Qcow2]);
    let vm = launch.spec.uuid;
    host.qemu.start(&launch).await.unwrap();
    let path = host.qemu.paths(vm).pid();
    let real = PidRecord::load(path.as_std_path()).unwrap();
    // The process of this test took the number over.
    let own = PidRecord::of(i32::try_from(std::process::id()).unwrap()).unwrap();
    own.store(path.as_std_path()).unwrap();
    assert_eq!(
        host.qemu.power(vm).await,
        Power::Running,
        "found without its record"
    );
    assert_eq!(
        PidRecord::load(path.as_std_path()),
        Some(real),
        "and recorded again"
    );
    // The same number, another life.
    let earlier = PidRecord {
        start_time: real.start_time - 1,
        ..real
    };
    earlier.store(path.as_std_path()).unwrap();
    assert_eq!(host.qemu.power(vm).await, Power::Running);
    earlier.store(path.as_std_path()).unwrap();
    // A start must still not put a second process on the disks.
    assert!(matches!(
        host.qemu.start(&launch).await,
        Err(HypervisorError::Running)
    ));
    own.store(path.as_std_path()).unwrap();
    host.qemu.turn_off(vm).await.unwrap();
    assert_eq!(host.qemu.power(vm).await, Power::Off);
}

#[tokio::test]
async fn a_vm_s_process_is_confined() {
    let mut host = Host::new();
    let launch = host.vm(&[DiskFormat::Qcow2]);
    let vm = launch.spec.uuid;
    host.qemu.start(&launch).await.unwrap();
    let process = host.qemu.process(vm).await.unwrap().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let value = |key: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(key));
        line.map(|v| v.trim().to_owned())
    };
    assert_eq!(value("Seccomp:").as_deref(), Some("2"), "{status}");
    assert_eq!(value("NoNewPrivs:").as_deref(), Some("1"), "{status}");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(value(set).as_deref(), Some("0000000000000000"), "{set} {status}");
    }
    let ids = |key: &str| -> Vec<u32> {
        let value = value(key).unwrap_or_default();
        value
            .split_ascii_whitespace()
            .map(|id| id.parse().unwrap())
            .collect()
    };
    let user = ids("Uid:")[0];
    assert!((1_900_000_001..=1_900_065_535).contains(&user), "{status}");
    assert_eq!(ids("Uid:"), [user; 4]);
    assert_eq!(ids("Gid:"), [user; 4]);
    assert_eq!(ids("Groups:"), [1_900_000_000], "of guests, and no other");
    host.qemu.turn_off(vm).await.unwrap();
}

#[tokio::test]
async fn a_start_that_was_cut_off_is_done_again() {
    for recorded in [true, false] {
        let mut host = Host::new();
        let launch = host.vm(&[DiskFormat::Qcow2, DiskFormat::Raw]);
        let vm = launch.spec.uuid;
        let paths = host.qemu.paths(vm);
        crate::files::private_dir(paths.dir()).unwrap();
        let run = crate::ledger::Run::new(crate::ledger::Holder::Vm);
        let graphs = start::graphs(&host.qemu, &launch, run).await.unwrap();
        let ready = preflight::check(&host.qemu, &launch).await.unwrap();
        let prepared = start::prepare(&host.qemu, &launch, graphs, ready).await.unwrap();
        let (command, handed) = (prepared.command, prepared.given.handed);
        let mut child = process::spawn(&command, paths.log().as_std_path(), handed.mappings).unwrap();
        drop(
            start::connect(&mut child, &paths, Duration::from_secs(20))
                .await
                .unwrap(),
        );
        if recorded {
            let record = process::record_of(&child).unwrap();
            record.store(paths.pid().as_std_path()).unwrap();
            assert_eq!(host.qemu.power(vm).await, Power::Paused);
        }
        host.qemu.start(&launch).await.unwrap();
        assert!(child.wait().await.unwrap().success(), "ended in order");
        assert_eq!(host.qemu.power(vm).await, Power::Running);
        host.qemu.turn_off(vm).await.unwrap();
    }
}

#[tokio::test]
async fn a_process_that_does_not_answer_is_not_known_and_can_be_ended() {
    let mut host = Host::new();
    let launch = host.vm(&[DiskFormat::Qcow2]);
    let vm = launch.spec.uuid;
    host.qemu.start(&launch).await.unwrap();
    let record = PidRecord::load(host.qemu.paths(vm).pid().as_std_path()).unwrap();
    stop(record.pid);
    let power = host.qemu.power(vm).await;
    let Power::NotKnown { why } = &power else {
        panic!("{power:?}")
    };
    assert!(why.contains(&format!("kill -CONT {}", record.pid)), "{why}");
    host.qemu.turn_off(vm).await.unwrap();
    assert_eq!(host.qemu.power(vm).await, Power::Off);
}

#[tokio::test]
async fn a_guest_that_does_not_listen_runs_into_the_time_limit() {
    let mut host = Host::new();
    let launch = host.vm(&[DiskFormat::Qcow2]);
    let vm = launch.spec.uuid;
    host.qemu.start(&launch).await.unwrap();
    let limit = Duration::from_millis(300);
    let refused = host.qemu.shut_down(vm, limit).await;
    assert!(
        matches!(refused, Err(HypervisorError::ShutdownTimeout(_))),
        "{refused:?}"
    );
    assert_eq!(host.qemu.power(vm).await, Power::Running);
    host.qemu.turn_off(vm).await.unwrap();
    assert!(matches!(
        host.qemu.shut_down(vm, limit).await,
        Err(HypervisorError::NotRunning)
    ));
}

#[tokio::test]
async fn a_disk_that_another_vm_runs_on_is_locked() {
    let mut host = Host::new();
    let launch = host.vm(&[DiskFormat::Qcow2, DiskFormat::Raw]);
    host.qemu.start(&launch).await.unwrap();
    for disk in &launch.disks {
        let other = host.launch(vec![disk.clone()]);
        let error = host.qemu.start(&other).await.unwrap_err();
        let HypervisorError::Locked(why) = &error else {
            panic!("{error}")
        };
        let DiskImage::Plain { path, .. } = &disk.image else {
            unreachable!()
        };
        assert!(why.contains(path.as_str()), "{why}");
        assert_eq!(host.qemu.power(other.spec.uuid).await, Power::Off);
    }
}

#[tokio::test]
async fn what_qemu_says_about_a_failed_start_is_passed_on() {
    let mut host = Host::new();
    // More devices than the machine has slots for.
    let mut launch = host.vm(&[DiskFormat::Qcow2; 24]);
    launch.spec.nics = vec![
        NicSpec {
            mac: "52:54:00:00:00:01".into(),
            backend: NicBackend::None,
        };
        8
    ];
    let error = host.qemu.start(&launch).await.unwrap_err();
    let HypervisorError::DidNotStart(why) = &error else {
        panic!("{error}")
    };
    assert!(why.contains("slot"), "{why}");
    assert_eq!(host.qemu.power(launch.spec.uuid).await, Power::Off);
    launch.spec.nics.clear();
    // What is no tap device cannot even be handed over.
    launch.spec.nics.push(NicSpec {
        mac: "52:54:00:00:00:01".into(),
        backend: NicBackend::Tap { ifname: "lo".into() },
    });
    let error = host.qemu.start(&launch).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("tap device lo"), "{error}: {source}");
    launch.spec.nics.clear();
    launch.spec.disks.truncate(1);
    launch.disks.truncate(1);
    host.qemu.start(&launch).await.unwrap();
    host.qemu.turn_off(launch.spec.uuid).await.unwrap();
}

type Spoil = fn(&mut Launch, &Host);

/// Ways to spoil the images.
fn bad_images() -> Vec<(Spoil, &'static str)> {
    vec![
        (
            |l, h| *path(l, 0) = utf8(h, "gone.qcow2"),
            "gone.qcow2 cannot be opened",
        ),
        (
            |l, h| {
                std::fs::write(utf8(h, "odd"), [1; 700]).unwrap();
                *path(l, 1) = utf8(h, "odd");
            },
            "multiple of 512",
        ),
    ]
}

/// Ways to spoil the machine.
fn bad_machines() -> Vec<(Spoil, &'static str)> {
    vec![
        (
            |l, _| *path(l, 1) = "/dev/null".into(),
            "neither a regular file nor a block device",
        ),
        (|l, _| hardware(&mut l.spec).cpu = "host".into(), "needs KVM"),
        (
            |l, _| hardware(&mut l.spec).cpu = "zx81".into(),
            "does not know cpu",
        ),
        (
            |l, _| hardware(&mut l.spec).machine = "pc-q35-99.0".into(),
            "does not know machine",
        ),
        (|l, _| l.disks[0].bus = DiskBus::Ide, "has no IDE bus"),
        (
            |l, _| {
                l.spec.nics.push(NicSpec {
                    mac: "52:54:00:00:00:01".into(),
                    backend: NicBackend::Tap {
                        ifname: "no-such-tap".into(),
                    },
                });
            },
            "network device no-such-tap does not exist",
        ),
        (|l, _| l.spec.name = "../x".into(), "name"),
        (|l, _| l.disks.truncate(1), "images for"),
        (
            |l, _| {
                hardware(&mut l.spec).firmware = Firmware::Uefi {
                    code: "/no/code.fd".into(),
                    vars: Some("/no/vars.fd".into()),
                };
            },
            "/no/code.fd",
        ),
    ]
}

#[tokio::test]
async fn preflight_names_what_will_not_work() {
    let mut host = Host::new();
    let launch = host.vm(&[DiskFormat::Qcow2, DiskFormat::Raw]);
    host.qemu.preflight(&launch).await.unwrap();
    for (spoil, word) in bad_images().into_iter().chain(bad_machines()) {
        let mut bad = launch.clone();
        spoil(&mut bad, &host);
        let error = host.qemu.preflight(&bad).await.unwrap_err();
        assert!(matches!(error, HypervisorError::Preflight(_)), "{error:?}");
        assert!(error.to_string().contains(word), "{error} should contain {word}");
    }
}

fn path(launch: &mut Launch, disk: usize) -> &mut Utf8PathBuf {
    match &mut launch.disks[disk].image {
        DiskImage::Plain { path, .. } => path,
        DiskImage::Chain { .. } => panic!("a chain"),
    }
}

fn utf8(host: &Host, name: &str) -> Utf8PathBuf {
    Utf8PathBuf::from_path_buf(host.path(name)).unwrap()
}

#[tokio::test]
async fn rules_of_old_versions_and_long_paths() {
    let mut host = Host::new();
    let mut launch = host.vm(&[DiskFormat::Qcow2]);
    hardware(&mut launch.spec).iothreads = true;
    let refused = preflight::check_version((8, 2), &launch.spec)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("iothreads = false"), "{refused}");
    preflight::check_version((9, 0), &launch.spec).unwrap();
    hardware(&mut launch.spec).iothreads = false;
    preflight::check_version((7, 2), &launch.spec).unwrap();
    let refused = preflight::check_version((6, 2), &launch.spec)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("too old"), "{refused}");
    let deep = Host::with(|c: &mut QemuConfig| c.run_dir = c.run_dir.join("d".repeat(60)));
    let refused = deep.qemu.preflight(&launch).await.unwrap_err().to_string();
    assert!(refused.contains("too long"), "{refused}");
}

#[tokio::test]
async fn kvm_is_used_only_where_it_works() {
    let mut host = Host::with(|c| c.accel = Accel::Auto);
    let launch = host.vm(&[DiskFormat::Qcow2]);
    host.qemu.start(&launch).await.unwrap();
    let monitor = host.qemu.control(launch.spec.uuid).await.unwrap();
    let used = monitor.execute("query-kvm", Value::Null).await.unwrap()["enabled"] == json!(true);
    // The firmware of a diskless machine gets to its end in both cases; a broken KVM would have stopped the guest.
    drop(monitor);
    assert_eq!(host.qemu.power(launch.spec.uuid).await, Power::Running);
    println!("KVM used: {used}");
    host.qemu.turn_off(launch.spec.uuid).await.unwrap();
}

/// A chain of four layers with a pattern in each, and what it shows.
fn chain(host: &Host) -> (LaunchDisk, Vec<Utf8PathBuf>, Model) {
    let mut model = Model::new(&["a"]);
    let mut files: Vec<Utf8PathBuf> = Vec::new();
    for layer in 0..4_u8 {
        let file = utf8(host, &format!("layer {layer}, x"));
        let size = DISK.to_string();
        match files.last() {
            None => tool("qemu-img", &["create", "-q", "-f", "qcow2", file.as_str(), &size]),
            Some(below) => tool(
                "qemu-img",
                &[
                    "create",
                    "-q",
                    "-f",
                    "qcow2",
                    "-F",
                    "qcow2",
                    "-b",
                    below.as_str(),
                    file.as_str(),
                ],
            ),
        };
        let (offset, len) = (u64::from(layer) * MIB, 4 * MIB);
        let write = format!("write -P {} {offset} {len}", layer + 1);
        tool("qemu-io", &["-f", "qcow2", "-c", &write, file.as_str()]);
        model.fill("a", offset, len, layer + 1);
        files.push(file);
    }
    let disk = LaunchDisk {
        id: DiskId::new("a").unwrap(),
        bus: DiskBus::Virtio,
        image: DiskImage::Chain {
            layers: files
                .iter()
                .map(|file| ImageLayer {
                    file: file.clone(),
                    format: DiskFormat::Qcow2,
                })
                .collect(),
        },
    };
    (disk, files, model)
}

#[tokio::test]
async fn layers_are_merged_below_a_writing_guest_and_running_cycles() {
    let mut host = Host::new();
    let (disk, files, mut model) = chain(&host);
    let launch = host.launch(vec![disk]);
    let vm = launch.spec.uuid;
    host.qemu.start(&launch).await.unwrap();
    let guest = host.guest(&launch).await;
    let source = host.source(&launch).await;
    source.start_tracking(at(0)).await.unwrap();
    let mut replica = Replica(model.clone());
    let merges = [LiveMerge {
        id: DiskId::new("a").unwrap(),
        top: files[2].clone(),
        base: files[0].clone(),
    }];
    // Slow, cut off, and asked for again while cycles go on.
    let cut = tokio::time::timeout(
        Duration::from_millis(300),
        host.qemu.merge_live(vm, &merges, 64 << 10),
    );
    assert!(
        cut.await.is_err(),
        "4 MiB cannot be merged at 64 KiB/s in a moment"
    );
    for round in 0..10_u64 {
        guest.write("a", &mut model, round * 700 * 1024, 40960, 77).await;
        let instant = source
            .instant(at(round), at(round + 1), Consistency::Crash)
            .await
            .unwrap();
        let past = model.clone();
        guest.write("a", &mut model, round * 300 * 1024, 8192, 78).await;
        assert!(past.differing(&*instant.view).await.is_empty());
        replica.apply(&*instant.view).await;
        assert!(replica.0 == past);
        instant.view.close().await.unwrap();
        source.acknowledge(at(round)).await.unwrap();
    }
    host.qemu.merge_live(vm, &merges, 0).await.unwrap();
    host.qemu.merge_live(vm, &merges, 0).await.unwrap();
    guest.write("a", &mut model, 7 * MIB, MIB, 99).await;
    assert_eq!(source.recover().await.unwrap(), Tracking::Since(vec![at(10)]));
    let live = source.current().await.unwrap();
    assert!(model.differing(&*live).await.is_empty());
    live.close().await.unwrap();
    source.close().await.unwrap();
    drop(guest);
    host.qemu.turn_off(vm).await.unwrap();
    check_merged(&host, &files, &model);
}

/// The images as other tools see them.
fn check_merged(host: &Host, files: &[Utf8PathBuf], model: &Model) {
    let raw = host.path("model.raw");
    std::fs::write(&raw, &model.0["a"]).unwrap();
    tool(
        "qemu-img",
        &[
            "compare",
            "-q",
            "-f",
            "raw",
            "-F",
            "qcow2",
            raw.to_str().unwrap(),
            files[3].as_str(),
        ],
    );
    let info = tool(
        "qemu-img",
        &["info", "--backing-chain", "--output=json", files[3].as_str()],
    );
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info.as_array().unwrap().len(), 2, "{info}");
    assert_eq!(info[0]["full-backing-filename"], json!(files[0]));
    assert!(
        std::fs::metadata(&files[1]).unwrap().size() > 0,
        "files are the store's to remove"
    );
}

#[tokio::test]
async fn a_merge_of_unknown_layers_is_refused() {
    let mut host = Host::new();
    let (disk, files, _) = chain(&host);
    let launch = host.launch(vec![disk]);
    host.qemu.start(&launch).await.unwrap();
    let merges = [LiveMerge {
        id: DiskId::new("a").unwrap(),
        top: "/elsewhere".into(),
        base: files[0].clone(),
    }];
    let refused = host
        .qemu
        .merge_live(launch.spec.uuid, &merges, 0)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("/elsewhere"), "{refused}");
    host.qemu.turn_off(launch.spec.uuid).await.unwrap();
}
