//! Other programs write to images of a VM: while it is off, while it runs, during a copy, and while nobody looks. Each time
//! it is noticed, and what QEMU itself does never is.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use lifeboat_deltalog::Consistency;
use lifeboat_engine::ports::capture::{CaptureError, CaptureSource, Tracking};
use lifeboat_engine::ports::hypervisor::{Hypervisor, ImagesSeen, Launch};
use lifeboat_model::DiskFormat::{Qcow2, Raw};
use lifeboat_model::DiskId;

use crate::qemu::Qemu;
use crate::testing::{AtOnce, Host, MIB, Model, at, given_up, tool};

const CRASH: Consistency = Consistency::Crash;

fn ids(launch: &Launch) -> Vec<DiskId> {
    launch.disks.iter().map(|d| d.id.clone()).collect()
}

async fn look(host: &Host, launch: &Launch) -> ImagesSeen {
    host.qemu.untouched(launch, &ids(launch)).await.unwrap()
}

fn why(seen: ImagesSeen) -> String {
    match seen {
        ImagesSeen::Changed { disk, reason } => format!("{disk}: {reason}"),
        ImagesSeen::AsClosed | ImagesSeen::NotRecorded => panic!("{seen:?}"),
    }
}

fn lost(tracking: Tracking) -> String {
    match tracking {
        Tracking::Lost { disk, reason } => format!("{disk}: {reason}"),
        Tracking::None | Tracking::Since(_) => panic!("{tracking:?}"),
    }
}

/// Another process writes 4 KiB, and nobody's time is set back.
fn dd(path: &Path, offset: u64) {
    let of = format!("of={}", path.display());
    let seek = format!("seek={}", offset / 4096);
    tool(
        "dd",
        &[
            "if=/dev/urandom",
            &of,
            "bs=4096",
            "count=1",
            "conv=notrunc",
            "status=none",
            &seek,
        ],
    );
}

/// Something that is done to an image of a format, and what to call it.
type Deed = (&'static str, fn(&Path, &str));

/// What others do to an image that nobody has open.
fn deeds() -> Vec<Deed> {
    vec![
        (
            "written by a tool that knows of change records",
            |path, format| {
                tool(
                    "qemu-io",
                    &["-f", format, "-c", "write -P 9 1M 4k", path.to_str().unwrap()],
                );
            },
        ),
        ("written by one that does not", |path, _| dd(path, 4 * MIB)),
        ("written, and its modification time set back", |path, _| {
            let before = fs::metadata(path).unwrap().modified().unwrap();
            dd(path, 4 * MIB);
            File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_modified(before)
                .unwrap();
        }),
        ("restored from a copy over it", |path, _| {
            let copy = path.with_extension("copy");
            fs::copy(path, &copy).unwrap();
            fs::copy(&copy, path).unwrap();
        }),
        ("replaced by another file", |path, _| {
            let copy = path.with_extension("copy");
            fs::copy(path, &copy).unwrap();
            fs::rename(&copy, path).unwrap();
        }),
    ]
}

/// A VM that is off and tracked, whose images were closed in order.
async fn at_rest(host: &mut Host, format: lifeboat_model::DiskFormat) -> (Launch, PathBuf) {
    let launch = host.vm(&[format]);
    host.qemu.start(&launch).await.unwrap();
    let source = host.source(&launch).await;
    source.start_tracking(at(1)).await.unwrap();
    source.close().await.unwrap();
    host.qemu.turn_off(launch.spec.uuid).await.unwrap();
    assert_eq!(look(host, &launch).await, ImagesSeen::AsClosed);
    let name = match format {
        Qcow2 => "a, disk.qcow2",
        Raw => "a, disk.raw",
    };
    let path = host.path(name);
    (launch, path)
}

#[tokio::test]
async fn an_edit_of_an_image_nobody_has_open_is_found_and_remembered() {
    for (format, name) in [(Qcow2, "qcow2"), (Raw, "raw")] {
        for (what, deed) in deeds() {
            let mut host = Host::new();
            let (launch, path) = at_rest(&mut host, format).await;
            deed(&path, name);
            assert!(
                why(look(&host, &launch).await).starts_with("a: "),
                "{name} {what}"
            );
            // A start, or an opening for a cycle, does not make it forgotten.
            host.qemu.start(&launch).await.unwrap();
            let source = host.source(&launch).await;
            lost(source.recover().await.unwrap());
            source.close().await.unwrap();
            host.qemu.turn_off(launch.spec.uuid).await.unwrap();
            why(look(&host, &launch).await);
            let source = host.source(&launch).await;
            lost(source.recover().await.unwrap());
            // Only when everything is looked at again is it over.
            source.stop_tracking().await.unwrap();
            source.start_tracking(at(2)).await.unwrap();
            assert_eq!(source.recover().await.unwrap(), Tracking::Since(vec![at(2)]));
            source.close().await.unwrap();
            assert_eq!(look(&host, &launch).await, ImagesSeen::AsClosed, "{name} {what}");
        }
    }
}

#[tokio::test]
async fn an_image_that_cannot_be_looked_at_is_not_said_to_be_unchanged() {
    let mut host = Host::new();
    let (launch, path) = at_rest(&mut host, Qcow2).await;
    fs::remove_file(&path).unwrap();
    let error = host.qemu.untouched(&launch, &ids(&launch)).await.unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

/// Whether this system tells who writes to a file; it takes the rights of root.
fn tells_writers() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root is told who writes to a file");
    }
    root
}

#[tokio::test]
async fn a_write_by_another_program_below_a_running_vm_is_found() {
    if !tells_writers() {
        return;
    }
    for (format, name) in [(Raw, "a, disk.raw"), (Qcow2, "a, disk.qcow2")] {
        let mut host = Host::new();
        let launch = host.vm(&[format]);
        host.qemu.start(&launch).await.unwrap();
        let guest = host.guest(&launch).await;
        let mut model = Model::new(&["a"]);
        let source = host.source(&launch).await;
        source.start_tracking(at(1)).await.unwrap();
        // QEMU's own writes are nobody else's.
        for round in 0..20_u64 {
            guest.write("a", &mut model, round * 65536, 65536, 7).await;
        }
        let instant = source.instant(at(1), at(2), CRASH).await.unwrap();
        instant.view.close().await.unwrap();
        source.acknowledge(at(1)).await.unwrap();
        dd(&host.path(name), 5 * MIB);
        let Err(CaptureError::TrackingLost { reason, .. }) = source.instant(at(2), at(3), CRASH).await else {
            panic!("{name}: not noticed")
        };
        assert!(reason.contains("another program"), "{reason}");
        // It is durable: another daemon knows of it too.
        let again = Qemu::new(host.qemu.config.clone());
        source.close().await.unwrap();
        let source = again.source(&launch, &ids(&launch)).await.unwrap();
        lost(source.recover().await.unwrap());
        source.stop_tracking().await.unwrap();
        source.start_tracking(at(4)).await.unwrap();
        guest.write("a", &mut model, 0, 4096, 8).await;
        let instant = source.instant(at(4), at(5), CRASH).await.unwrap();
        instant.view.close().await.unwrap();
        source.close().await.unwrap();
        drop(guest);
        host.qemu.turn_off(launch.spec.uuid).await.unwrap();
    }
}

#[tokio::test]
async fn a_write_into_what_was_copied_already_is_found_by_the_closing_cycle() {
    if !tells_writers() {
        return;
    }
    // Off: a storage daemon has the images open for as long as the copy takes. Raw and qcow2 are told apart by nothing.
    for (format, name) in [(Raw, "a, disk.raw"), (Qcow2, "a, disk.qcow2")] {
        let mut host = Host::new();
        let launch = host.vm(&[format]);
        let source = host.source(&launch).await;
        source.recover().await.unwrap();
        source.start_tracking(at(0)).await.unwrap();
        let view = source.current().await.unwrap();
        view.read(0, 0, 1 << 20).await.unwrap();
        dd(&host.path(name), 0);
        view.read(0, MIB, 1 << 20).await.unwrap();
        view.close().await.unwrap();
        let closing = source.instant(at(0), at(1), CRASH).await;
        assert!(
            matches!(closing, Err(CaptureError::TrackingLost { .. })),
            "{name}"
        );
        source.close().await.unwrap();
    }
}

#[tokio::test]
async fn the_end_of_a_vm_is_seen_whoever_ends_it() {
    let mut host = Host::new();
    let launch = host.vm(&[Qcow2, Raw]);
    let vm = launch.spec.uuid;
    let quit = async |host: &Host| {
        let monitor = host.qemu.control(vm).await.unwrap();
        let _ = monitor.execute("quit", serde_json::Value::Null).await;
    };
    // A guest that shuts down by itself, under the daemon that started it.
    host.qemu.start(&launch).await.unwrap();
    let source = host.source(&launch).await;
    source.start_tracking(at(1)).await.unwrap();
    source.close().await.unwrap();
    let process = host.qemu.process(vm).await.unwrap().unwrap();
    quit(&host).await;
    assert!(process.gone(std::time::Duration::from_secs(20)).await);
    assert_eq!(look(&host, &launch).await, ImagesSeen::AsClosed);
    // Under a daemon that was started later, and looked once.
    host.qemu.start(&launch).await.unwrap();
    host.qemu = Qemu::new(host.qemu.config.clone());
    host.qemu.power(vm).await;
    let process = host.qemu.process(vm).await.unwrap().unwrap();
    quit(&host).await;
    assert!(process.gone(std::time::Duration::from_secs(20)).await);
    assert_eq!(look(&host, &launch).await, ImagesSeen::AsClosed);
    // While no daemon ran: the process itself left word.
    for touched in [false, true] {
        host.qemu.start(&launch).await.unwrap();
        let process = host.qemu.process(vm).await.unwrap().unwrap();
        let next = Qemu::new(host.qemu.config.clone());
        let running = std::mem::replace(&mut host.qemu, next);
        running.ledger.forget_ends();
        quit(&host).await;
        assert!(process.gone(std::time::Duration::from_secs(20)).await);
        if touched {
            std::thread::sleep(std::time::Duration::from_millis(20));
            dd(&host.path("a, disk.qcow2"), 4 * MIB);
        }
        assert_eq!(look(&host, &launch).await, ImagesSeen::NotRecorded);
        let source = host.source(&launch).await;
        let tracking = source.recover().await.unwrap();
        if touched {
            assert!(lost(tracking).contains("after the VM's process had ended"))
        } else {
            assert_eq!(tracking, Tracking::Since(vec![at(1)]))
        }
        source.close().await.unwrap();
    }
}

/// What a VM that is off has recorded, found by opening its images; they stay open.
async fn recorded(host: &Host, launch: &Launch) -> Box<dyn CaptureSource> {
    let source = host.source(launch).await;
    assert_eq!(source.recover().await.unwrap(), Tracking::Since(vec![at(1)]));
    source
}

#[tokio::test]
async fn opening_and_closing_may_be_given_up_at_any_moment() {
    let mut host = Host::new();
    let launch = host.vm(&[Qcow2, Raw]);
    let source = host.source(&launch).await;
    source.start_tracking(at(1)).await.unwrap();
    source.close().await.unwrap();
    let disks = ids(&launch);
    for steps in 0.. {
        let opened = given_up(steps, host.qemu.source(&launch, &disks)).await;
        if let Some(opened) = opened {
            opened.unwrap().close().await.unwrap();
            break;
        }
        recorded(&host, &launch).await.close().await.unwrap();
    }
    for steps in 0.. {
        let closing = recorded(&host, &launch).await.close();
        if given_up(steps, closing).await.is_some() {
            break;
        }
    }
    // A storage daemon that an earlier daemon left behind is ended by whoever opens the images next.
    for steps in 0.. {
        drop(recorded(&host, &launch).await);
        host.qemu.ledger.forget_ends();
        host.qemu = Qemu::new(host.qemu.config.clone());
        let opened = given_up(steps, host.qemu.source(&launch, &disks)).await;
        if let Some(opened) = opened {
            opened.unwrap().close().await.unwrap();
            break;
        }
        recorded(&host, &launch).await.close().await.unwrap();
    }
    assert_eq!(look(&host, &launch).await, ImagesSeen::AsClosed);
}

#[tokio::test]
async fn a_daemon_that_stops_lets_go_of_images() {
    let mut host = Host::new();
    let launch = host.vm(&[Qcow2, Raw]);
    let running = host.vm(&[Raw]);
    let source = host.source(&launch).await;
    source.start_tracking(at(1)).await.unwrap();
    host.qemu.start(&running).await.unwrap();
    // Its work was dropped in the middle.
    drop(source);
    host.qemu.release().await;
    // Whoever looks at the image is not refused for a lock.
    tool(
        "qemu-img",
        &["check", "-q", host.path("a, disk.qcow2").to_str().unwrap()],
    );
    assert_eq!(look(&host, &launch).await, ImagesSeen::AsClosed);
    assert!(host.qemu.process(running.spec.uuid).await.unwrap().is_some());
    host.qemu.turn_off(running.spec.uuid).await.unwrap();
    recorded(&host, &launch).await.close().await.unwrap();
}
