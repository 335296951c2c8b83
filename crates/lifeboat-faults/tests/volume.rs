//! The volume under the fault tests behaves as a machine's disk does: what was synced survives, what was not may be lost, an
//! error is reported once, and a hang ends when it is told to. The file system and the page cache are the kernel's.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lifeboat_faults::disk::{Fate, Honesty};
use lifeboat_faults::sandbox;
use lifeboat_faults::served::{Delays, Failing, Kind, Requests, Served};
use lifeboat_faults::volume::{Layout, Volume, attach, run};
use rustix::io::Errno;

fn volume(base: &Path, mount: &'static str) -> Volume {
    let layout = Layout { mkfs: &[], mount };
    Volume::create(&base.join("fs"), &base.join("below"), 64, layout).unwrap()
}

fn write_synced(path: &Path, bytes: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
    File::open(path.parent().unwrap()).unwrap().sync_all().unwrap();
}

#[test]
fn a_power_cut_takes_what_was_not_synced_and_nothing_else() {
    sandbox::run("a_power_cut_takes_what_was_not_synced_and_nothing_else", || {
        let base = tempfile::tempdir().unwrap();
        let mut volume = volume(base.path(), "");
        let dir = volume.dir().to_owned();
        write_synced(&dir.join("synced"), &[7; 100_000]);
        std::fs::write(dir.join("unsynced"), [8; 100_000]).unwrap();
        assert!(volume.disk.cut(Fate::Lost, 1).is_some());
        volume.restart().unwrap();
        assert_eq!(std::fs::read(dir.join("synced")).unwrap(), [7; 100_000]);
        assert!(!dir.join("unsynced").exists());

        // The control: a disk that drops flushes loses what was synced.
        volume.disk.set_honesty(Honesty::DropsFlushes);
        write_synced(&dir.join("believed"), &[9; 1000]);
        volume.disk.cut(Fate::Lost, 1);
        volume.restart().unwrap();
        assert!(dir.join("synced").exists());
        assert!(!dir.join("believed").exists());
    });
}

/// ext4 writes its superblock outside of the journal too. Torn between its two sectors it has a wrong checksum, and the kernel
/// mounts no such file system (one of 300 power cuts).
#[test]
fn a_superblock_that_was_torn_is_repaired_and_nothing_is_lost() {
    sandbox::run(
        "a_superblock_that_was_torn_is_repaired_and_nothing_is_lost",
        || {
            let base = tempfile::tempdir().unwrap();
            let mut volume = volume(base.path(), "");
            let path = volume.dir().join("kept");
            write_synced(&path, &[7; 100_000]);
            assert!(!volume.restart().unwrap(), "an ordinary cut takes no repair");
            volume.unmount().unwrap();
            let disk = File::options().write(true).open(volume.disk.file()).unwrap();
            // The end of the superblock, where its checksum is.
            disk.write_all_at(&[0x5a; 4], 1024 + 1020).unwrap();
            drop(disk);
            assert!(volume.restart().unwrap());
            assert_eq!(std::fs::read(&path).unwrap(), [7; 100_000]);
        },
    );
}

#[test]
fn the_kernel_reports_a_failed_write_once_and_then_calls_the_pages_clean() {
    sandbox::run(
        "the_kernel_reports_a_failed_write_once_and_then_calls_the_pages_clean",
        || {
            let base = tempfile::tempdir().unwrap();
            let mut volume = volume(base.path(), "errors=continue");
            let path = volume.dir().join("file");
            write_synced(&path, &[1; 8192]);
            let file = File::options().read(true).write(true).open(&path).unwrap();
            file.write_all_at(&[2; 4096], 0).unwrap();
            volume.disk.set_failing(Some(Failing {
                requests: Requests::Only(Kind::Write),
                after: 0,
                count: 1,
                error: Errno::IO,
            }));
            assert!(file.sync_data().is_err());
            assert_eq!(volume.disk.counts().1, 1);
            // The second sync succeeds, and the page cache shows what the disk does not have.
            file.sync_data().unwrap();
            let mut seen = [0; 1];
            file.read_exact_at(&mut seen, 0).unwrap();
            assert_eq!(seen, [2]);
            drop(file);
            volume.disk.cut(Fate::Lost, 1);
            volume.restart().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), [1; 8192]);
        },
    );
}

#[test]
fn a_hang_holds_a_sync_until_it_ends_and_a_delay_slows_it() {
    sandbox::run("a_hang_holds_a_sync_until_it_ends_and_a_delay_slows_it", || {
        let base = tempfile::tempdir().unwrap();
        let volume = volume(base.path(), "");
        let file = File::create(volume.dir().join("file")).unwrap();
        file.write_all_at(&[1; 4096], 0).unwrap();
        volume.disk.set_hanging(Some(Requests::Only(Kind::Flush)));
        let began = Instant::now();
        std::thread::scope(|scope| {
            let sync = scope.spawn(|| {
                file.sync_all().unwrap();
                began.elapsed()
            });
            std::thread::park_timeout(Duration::from_millis(300));
            assert!(!sync.is_finished());
            volume.disk.set_hanging(None);
            assert!(sync.join().unwrap() >= Duration::from_millis(300));
        });
        let flush = Duration::from_millis(200);
        volume.disk.set_delays(Delays {
            write: Duration::ZERO,
            flush,
        });
        file.write_all_at(&[2; 4096], 0).unwrap();
        let began = Instant::now();
        file.sync_all().unwrap();
        assert!(began.elapsed() >= flush);
    });
}

#[test]
fn a_cut_comes_at_the_request_it_was_armed_for() {
    sandbox::run("a_cut_comes_at_the_request_it_was_armed_for", || {
        let base = tempfile::tempdir().unwrap();
        let mut volume = volume(base.path(), "");
        let dir = volume.dir().to_owned();
        volume
            .disk
            .arm(Requests::Only(Kind::Flush), 2, Fate::Sectors { percent: 50 }, 3);
        assert!(volume.disk.wait_cut(Duration::from_millis(10)).is_none());
        std::thread::scope(|scope| {
            // It hangs when the power is gone and fails when the machine is declared dead, as the daemon's would.
            let work = scope.spawn(|| {
                (0..50)
                    .take_while(|n| {
                        let written = File::create(dir.join(n.to_string())).and_then(|mut file| {
                            file.write_all(&[1; 4096])?;
                            file.sync_all()
                        });
                        written.is_ok()
                    })
                    .count()
            });
            assert!(volume.disk.wait_cut(Duration::from_secs(20)).is_some());
            volume.disk.fail_everything();
            assert!(work.join().unwrap() <= 2);
        });
        volume.restart().unwrap();
        assert!(dir.is_dir());
    });
}

/// A disk that swallows an error would make every campaign find losses that nobody could have kept from happening.
#[test]
fn an_error_in_the_middle_of_a_large_write_is_reported() {
    sandbox::run("an_error_in_the_middle_of_a_large_write_is_reported", || {
        let base = tempfile::tempdir().unwrap();
        let disk = Served::mount(base.path(), 16 << 20).unwrap();
        let device = attach(&disk).unwrap();
        for after in 0..40 {
            disk.set_failing(Some(Failing {
                requests: Requests::Only(Kind::Write),
                after,
                count: 1,
                error: Errno::IO,
            }));
            let before = disk.counts().1;
            let mut dd = Command::new("dd");
            dd.args([
                "if=/dev/zero",
                &format!("of={device}"),
                "bs=2M",
                "count=1",
                "oflag=direct",
                "conv=notrunc",
            ]);
            let told = run(&mut dd).is_err();
            disk.set_failing(None);
            let failed = disk.counts().1 > before;
            assert_eq!(told, failed, "an error after {after} requests");
        }
        run(Command::new("losetup").args(["-d", &device])).unwrap();
    });
}
