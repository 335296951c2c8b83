//! Captures of real QEMU processes against a model of the disks. No guest system runs: the test writes through the
//! device as a guest would.

use lifeboat_deltalog::Consistency;
use lifeboat_engine::ports::capture::{CaptureError, Tracking};
use lifeboat_engine::ports::hypervisor::{DiskImage, Hypervisor, HypervisorError, Launch};
use lifeboat_model::DiskFormat::{Qcow2, Raw};
use lifeboat_model::DiskId;

use crate::testing::{AtOnce, DISK, Host, MIB, Model, Random, Replica, at, hardware};

const CRASH: Consistency = Consistency::Crash;

#[tokio::test]
async fn an_instant_shows_the_past_of_all_disks_and_covers_the_changes() {
    let mut host = Host::new();
    let launch = host.vm(&[Qcow2, Raw]);
    host.qemu.start(&launch).await.unwrap();
    let guest = host.guest(&launch).await;
    let mut model = Model::new(&["a", "b"]);
    guest.write("a", &mut model, 0, 4 * MIB, 1).await;
    let source = host.source(&launch).await;
    assert!(source.live());
    assert_eq!(source.recover().await.unwrap(), Tracking::None);
    source.start_tracking(at(1)).await.unwrap();
    assert_eq!(source.recover().await.unwrap(), Tracking::Since(vec![at(1)]));
    let mut replica = Replica(model.clone());
    for round in 1..6_u8 {
        let offset = u64::from(round) * 40960;
        guest.write("a", &mut model, offset, 4096, round + 10).await;
        guest
            .write("b", &mut model, DISK - offset, 8192, round + 20)
            .await;
        let (base, next) = (at(round.into()), at(u64::from(round) + 1));
        let instant = source.instant(base, next, CRASH).await.unwrap();
        assert_eq!(instant.consistency, CRASH);
        let past = model.clone();
        guest
            .write("b", &mut model, DISK - offset, 4096, round + 30)
            .await;
        guest.write("a", &mut model, offset, 4096, round + 40).await;
        guest.write("a", &mut model, 6 * MIB, 65536, round + 50).await;
        assert_eq!(past.differing(&*instant.view).await, Vec::<String>::new());
        let changed = instant.view.changed(1).await.unwrap();
        let bytes: u64 = changed.iter().map(|e| e.len).sum();
        assert!((8192..=16384).contains(&bytes), "{changed:?}");
        let known = instant.view.allocation(0, 0, DISK).await.unwrap();
        assert_eq!(known.iter().map(|e| e.len).sum::<u64>(), DISK);
        replica.apply(&*instant.view).await;
        assert!(replica.0 == past, "round {round}");
        instant.view.close().await.unwrap();
        assert!(!host.qemu.paths(launch.spec.uuid).spool().exists());
        source.acknowledge(base).await.unwrap();
        source.acknowledge(base).await.unwrap();
    }
    let live = source.current().await.unwrap();
    assert_eq!(model.differing(&*live).await, Vec::<String>::new());
    live.close().await.unwrap();
    source.stop_tracking().await.unwrap();
    assert_eq!(source.recover().await.unwrap(), Tracking::None);
    source.close().await.unwrap();
    drop(guest);
    host.qemu.turn_off(launch.spec.uuid).await.unwrap();
    let DiskImage::Plain { path, .. } = &launch.disks[1].image else {
        unreachable!()
    };
    assert!(
        std::fs::read(path).unwrap() == model.0["b"],
        "the raw file is the disk"
    );
}

/// Cycles whose deltas arrive or not, restarts in between, and a replica that must equal the disk in the end.
async fn random_cycles(seed: u64, formats: [lifeboat_model::DiskFormat; 2]) {
    println!("seed {seed}");
    let mut host = Host::new();
    let launch = host.vm(&formats);
    random_cycles_of(seed, &host, &launch, Model::new(&["a", "b"])).await;
}

async fn random_cycles_of(seed: u64, host: &Host, launch: &Launch, mut model: Model) {
    let mut random = Random(seed);
    host.qemu.start(launch).await.unwrap();
    let mut guest = host.guest(launch).await;
    let mut source = host.source(launch).await;
    source.start_tracking(at(1)).await.unwrap();
    let (mut base, mut replica) = (1, Replica(model.clone()));
    for step in 0..60 {
        for _ in 0..random.below(4) {
            let disk = ["a", "b"][usize::try_from(random.below(2)).unwrap()];
            let (offset, byte) = (
                random.below(DISK / 512 - 64) * 512,
                u8::try_from(random.below(255)).unwrap(),
            );
            let len = 512 * (1 + random.below(63));
            guest.write(disk, &mut model, offset, len, byte).await;
        }
        match random.below(6) {
            0 => {
                drop(guest);
                source.close().await.unwrap();
                host.qemu.turn_off(launch.spec.uuid).await.unwrap();
                host.qemu.start(launch).await.unwrap();
                source = host.source(launch).await;
                guest = host.guest(launch).await;
                assert_eq!(source.recover().await.unwrap(), Tracking::Since(vec![at(base)]));
            }
            arrives => {
                let next = base + 1 + random.below(3);
                let instant = source.instant(at(base), at(next), CRASH).await.unwrap();
                let past = model.clone();
                guest
                    .write("a", &mut model, random.below(1000) * 4096, 4096, 255)
                    .await;
                if arrives == 1 {
                    // Cut off in the middle; the view is left to recover.
                    drop(instant);
                    let since = Tracking::Since(vec![at(base), at(next)]);
                    assert_eq!(source.recover().await.unwrap(), since);
                    source.give_back(at(base), at(next)).await.unwrap();
                } else if arrives == 2 {
                    instant.view.close().await.unwrap();
                    source.give_back(at(base), at(next)).await.unwrap();
                } else {
                    replica.apply(&*instant.view).await;
                    instant.view.close().await.unwrap();
                    source.acknowledge(at(base)).await.unwrap();
                    assert!(replica.0 == past, "seed {seed} step {step}");
                    base = next;
                }
                assert_eq!(source.recover().await.unwrap(), Tracking::Since(vec![at(base)]));
            }
        }
    }
    source.close().await.unwrap();
}

#[tokio::test]
async fn nothing_is_lost_in_random_cycles_on_a_branch() {
    let mut host = Host::new();
    let (launch, model) = host.branches(&["a", "b"]);
    random_cycles_of(3, &host, &launch, model).await;
}

#[tokio::test]
async fn nothing_is_lost_in_random_cycles_on_qcow2() {
    random_cycles(1, [Qcow2, Qcow2]).await;
}

#[tokio::test]
async fn nothing_is_lost_in_random_cycles_on_raw() {
    random_cycles(2, [Raw, Raw]).await;
}

#[tokio::test]
async fn a_kill_loses_tracking_and_stopping_it_heals() {
    for format in [Qcow2, Raw] {
        let mut host = Host::new();
        let launch = host.vm(&[format, Qcow2]);
        host.qemu.start(&launch).await.unwrap();
        let source = host.source(&launch).await;
        source.start_tracking(at(3)).await.unwrap();
        source.close().await.unwrap();
        // Records are in the files only after a clean stop.
        host.qemu.turn_off(launch.spec.uuid).await.unwrap();
        host.qemu.start(&launch).await.unwrap();
        let source = host.source(&launch).await;
        assert_eq!(source.recover().await.unwrap(), Tracking::Since(vec![at(3)]));
        let guest = host.guest(&launch).await;
        guest.write("a", &mut Model::new(&["a"]), 0, 4096, 9).await;
        drop(guest);
        host.kill(&launch).await;
        assert!(matches!(source.recover().await, Err(CaptureError::Gone)));
        drop(source);
        host.qemu.start(&launch).await.unwrap();
        let source = host.source(&launch).await;
        let known = source.recover().await.unwrap();
        assert!(matches!(known, Tracking::Lost { .. }), "{format:?}: {known:?}");
        let refused = source.instant(at(3), at(4), CRASH).await;
        assert!(matches!(refused, Err(CaptureError::TrackingLost { .. })));
        source.stop_tracking().await.unwrap();
        assert_eq!(source.recover().await.unwrap(), Tracking::None);
        source.start_tracking(at(5)).await.unwrap();
        assert_eq!(source.recover().await.unwrap(), Tracking::Since(vec![at(5)]));
        source.close().await.unwrap();
    }
}

/// File times move in ticks of milliseconds: nobody's hand is quicker than that, but a test's is.
fn a_tick_later(host: &Host) {
    let tick = || {
        use std::os::unix::fs::MetadataExt;
        let probe = host.path("probe");
        std::fs::write(&probe, "x").unwrap();
        let meta = std::fs::metadata(&probe).unwrap();
        (meta.ctime(), meta.ctime_nsec())
    };
    let before = tick();
    while tick() <= before {
        std::thread::yield_now();
    }
}

/// An overlay has a map, in which clusters of zeros are marked. What of it was not written back when the process died must not
/// hide what the raw file holds: the guest would see zeros now, and the data again when the overlay is gone. A file system
/// that comes up after a power cut may well say that the overlay was changed last.
#[tokio::test]
async fn a_raw_disk_is_what_its_file_holds_after_the_process_was_killed() {
    for tracked in [true, false] {
        let mut host = Host::new();
        let launch = host.vm(&[Raw]);
        host.qemu.start(&launch).await.unwrap();
        if tracked {
            let source = host.source(&launch).await;
            source.start_tracking(at(1)).await.unwrap();
            source.close().await.unwrap();
        }
        let mut model = Model::new(&["a"]);
        let guest = host.guest(&launch).await;
        guest.write("a", &mut model, MIB, MIB, 3).await;
        guest.io("a", "write -z 1M 1M").await;
        guest.io("a", "flush").await;
        model.fill("a", MIB, MIB, 0);
        guest.write("a", &mut model, MIB + 4096, 4096, 7).await;
        drop(guest);
        host.kill(&launch).await;
        let DiskImage::Plain { path, .. } = &launch.disks[0].image else {
            unreachable!()
        };
        assert!(
            std::fs::read(path).unwrap() == model.0["a"],
            "the raw file is the disk"
        );
        a_tick_later(&host);
        let overlay = host
            .qemu
            .config
            .tracking_overlay(launch.spec.uuid, &launch.disks[0].id);
        let touched = std::fs::File::options().write(true).open(&overlay).unwrap();
        touched.set_modified(std::time::SystemTime::now()).unwrap();
        host.qemu.start(&launch).await.unwrap();
        let source = host.source(&launch).await;
        let known = source.recover().await.unwrap();
        assert!(!matches!(known, Tracking::Since(_)), "{known:?}");
        let live = source.current().await.unwrap();
        assert_eq!(
            model.differing(&*live).await,
            Vec::<String>::new(),
            "tracked: {tracked}"
        );
        live.close().await.unwrap();
        source.close().await.unwrap();
        host.qemu.turn_off(launch.spec.uuid).await.unwrap();
        assert!(
            std::fs::read(path).unwrap() == model.0["a"],
            "the raw file is the disk"
        );
    }
}

#[tokio::test]
async fn a_raw_file_changed_behind_our_back_is_noticed() {
    let mut host = Host::new();
    let launch = host.vm(&[Raw]);
    host.qemu.start(&launch).await.unwrap();
    let source = host.source(&launch).await;
    source.start_tracking(at(1)).await.unwrap();
    source.close().await.unwrap();
    let mut model = Model::new(&["a"]);
    let guest = host.guest(&launch).await;
    guest.write("a", &mut model, MIB, MIB, 7).await;
    guest.io("a", "discard 1M 1M").await;
    drop(guest);
    host.qemu.turn_off(launch.spec.uuid).await.unwrap();
    let path = host.path("a, disk.raw");
    a_tick_later(&host);
    let before = std::fs::metadata(&path).unwrap().modified().unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[5; 4096], MIB).unwrap();
    file.set_modified(before).unwrap();
    model = Model::new(&["a"]);
    model.fill("a", MIB, 4096, 5);
    let source = host.source(&launch).await;
    assert!(!source.live());
    let known = source.recover().await.unwrap();
    assert!(
        matches!(&known, Tracking::Lost { reason, .. } if reason.contains("changed")),
        "{known:?}"
    );
    let live = source.current().await.unwrap();
    assert_eq!(model.differing(&*live).await, Vec::<String>::new());
    live.close().await.unwrap();
    source.close().await.unwrap();
    // The loss is remembered until somebody reacts.
    let source = host.source(&launch).await;
    assert!(matches!(source.recover().await.unwrap(), Tracking::Lost { .. }));
    source.start_tracking(at(2)).await.unwrap();
    source.close().await.unwrap();
    let source = host.source(&launch).await;
    assert_eq!(source.recover().await.unwrap(), Tracking::Since(vec![at(2)]));
    source.close().await.unwrap();
}

#[tokio::test]
async fn a_vm_that_is_off_is_captured_too() {
    for format in [Qcow2, Raw] {
        let mut host = Host::new();
        let launch = host.vm(&[format, format]);
        host.qemu.start(&launch).await.unwrap();
        let source = host.source(&launch).await;
        source.start_tracking(at(1)).await.unwrap();
        source.close().await.unwrap();
        let mut model = Model::new(&["a", "b"]);
        let mut replica = Replica(model.clone());
        let guest = host.guest(&launch).await;
        guest.write("a", &mut model, 123 * 4096, 4096, 1).await;
        guest.write("b", &mut model, 321 * 4096, 4096, 2).await;
        drop(guest);
        host.qemu.turn_off(launch.spec.uuid).await.unwrap();
        let source = host.source(&launch).await;
        assert!(!source.live());
        assert_eq!(source.recover().await.unwrap(), Tracking::Since(vec![at(1)]));
        let second = host.qemu.source(&launch, &[DiskId::new("a").unwrap()]).await;
        assert!(matches!(second, Err(CaptureError::InUse { .. })));
        assert!(matches!(
            host.qemu.start(&launch).await,
            Err(HypervisorError::Preflight(_))
        ));
        let instant = source.instant(at(1), at(2), Consistency::Planned).await.unwrap();
        assert_eq!(instant.consistency, Consistency::Planned);
        replica.apply(&*instant.view).await;
        assert!(replica.0 == model);
        instant.view.close().await.unwrap();
        source.acknowledge(at(1)).await.unwrap();
        source.close().await.unwrap();
        host.qemu.start(&launch).await.unwrap();
        let source = host.source(&launch).await;
        assert_eq!(source.recover().await.unwrap(), Tracking::Since(vec![at(2)]));
        source.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_storage_daemon_left_behind_is_ended_and_its_records_kept() {
    let mut host = Host::new();
    let launch = host.vm(&[Qcow2, Raw]);
    let source = host.source(&launch).await;
    source.start_tracking(at(1)).await.unwrap();
    let instant = source.instant(at(1), at(2), CRASH).await.unwrap();
    // The daemon dies: nothing is closed.
    drop(instant);
    drop(source);
    let source = host.source(&launch).await;
    assert_eq!(
        source.recover().await.unwrap(),
        Tracking::Since(vec![at(1), at(2)])
    );
    source.give_back(at(1), at(2)).await.unwrap();
    drop(source);
    host.qemu.start(&launch).await.unwrap();
    let source = host.source(&launch).await;
    assert_eq!(source.recover().await.unwrap(), Tracking::Since(vec![at(1)]));
    source.close().await.unwrap();
}

#[tokio::test]
async fn an_image_in_use_is_named_with_its_holder() {
    let mut host = Host::new();
    let launch = host.vm(&[Qcow2]);
    host.qemu.start(&launch).await.unwrap();
    let other = host.launch(launch.disks.clone());
    let Err(error) = host.qemu.source(&other, &[DiskId::new("a").unwrap()]).await else {
        panic!("opened twice")
    };
    let CaptureError::InUse { disk, detail } = &error else {
        panic!("{error}")
    };
    assert_eq!(disk, "a");
    assert!(
        detail.contains("a, disk.qcow2") && detail.contains("qemu-system"),
        "{detail}"
    );
    let refused = host.qemu.start(&other).await.unwrap_err().to_string();
    assert!(refused.contains("qemu-system"), "{refused}");
}

#[tokio::test]
async fn full_temporary_space_ends_the_cycle_and_not_the_guest() {
    let space = tempfile::Builder::new().prefix("lbs").tempdir_in("/tmp").unwrap();
    let target = space.path().to_str().unwrap().to_owned();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=3m", "tmpfs", &target])
        .status();
    if !mounted.is_ok_and(|s| s.success()) {
        eprintln!("skipped: no right to mount a small file system");
        return;
    }
    let unmount = Unmount(target.clone());
    let mut host = Host::with(|c| c.spool_dir = target.clone().into());
    let launch = host.vm(&[Qcow2, Raw]);
    host.qemu.start(&launch).await.unwrap();
    let guest = host.guest(&launch).await;
    let mut model = Model::new(&["a", "b"]);
    guest.write("a", &mut model, 0, DISK, 1).await;
    let source = host.source(&launch).await;
    source.start_tracking(at(1)).await.unwrap();
    let mut replica = Replica(model.clone());
    guest.write("a", &mut model, 0, 4096, 2).await;
    let instant = source.instant(at(1), at(2), CRASH).await.unwrap();
    guest.write("a", &mut model, 0, DISK, 3).await;
    let read = instant.view.read(0, 0, 65536).await;
    assert!(matches!(read, Err(CaptureError::NoSpace(_))), "{read:?}");
    let power = host.qemu.power(launch.spec.uuid);
    drop(guest);
    assert_eq!(power.await, lifeboat_engine::ports::hypervisor::Power::Running);
    drop(instant);
    assert_eq!(
        source.recover().await.unwrap(),
        Tracking::Since(vec![at(1), at(2)])
    );
    source.give_back(at(1), at(2)).await.unwrap();
    let instant = source.instant(at(1), at(2), CRASH).await.unwrap();
    replica.apply(&*instant.view).await;
    assert!(replica.0 == model);
    instant.view.close().await.unwrap();
    source.close().await.unwrap();
    host.qemu.turn_off(launch.spec.uuid).await.unwrap();
    drop(unmount);
}

struct Unmount(String);

impl Drop for Unmount {
    fn drop(&mut self) {
        let done = std::process::Command::new("umount")
            .args(["-l", &self.0])
            .status();
        assert!(done.is_ok_and(|s| s.success()));
    }
}

#[tokio::test]
async fn iothreads_change_nothing() {
    let mut host = Host::new();
    let mut launch = host.vm(&[Qcow2, Raw]);
    hardware(&mut launch.spec).iothreads = true;
    match host.qemu.start(&launch).await {
        Err(HypervisorError::Preflight(why)) => {
            eprintln!("skipped: {why}");
            return;
        }
        other => other.unwrap(),
    }
    let guest = host.guest(&launch).await;
    let mut model = Model::new(&["a", "b"]);
    let source = host.source(&launch).await;
    source.start_tracking(at(0)).await.unwrap();
    let mut replica = Replica(model.clone());
    for round in 0..20_u64 {
        guest.write("a", &mut model, round * 8192, 4096, 7).await;
        guest.write("b", &mut model, round * 8192, 4096, 8).await;
        let instant = source.instant(at(round), at(round + 1), CRASH).await.unwrap();
        let past = model.clone();
        guest.write("b", &mut model, round * 8192, 4096, 9).await;
        replica.apply(&*instant.view).await;
        assert!(replica.0 == past);
        instant.view.close().await.unwrap();
        source.acknowledge(at(round)).await.unwrap();
    }
    source.close().await.unwrap();
}
