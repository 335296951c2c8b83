//! Disks that grow: under a running VM, while it is off, and in the middle of a capture.

use lifeboat_deltalog::Consistency;
use lifeboat_engine::ports::capture::{CaptureError, CaptureSource, Tracking};
use lifeboat_engine::ports::hypervisor::{DiskImage, Hypervisor, Launch};
use lifeboat_model::DiskFormat::{Qcow2, Raw};
use serde_json::json;

use crate::testing::{AtOnce, DISK, Host, MIB, Model, at, tool};

const CRASH: Consistency = Consistency::Crash;
const GROWN: u64 = DISK + 3 * MIB;

/// Grows a disk of a running VM as an administrator does.
async fn resize(host: &Host, launch: &Launch, disk: &str, size: u64) {
    let monitor = host.qemu.control(launch.spec.uuid).await.unwrap();
    let arguments = json!({"node-name": format!("top-{disk}"), "size": size});
    monitor.execute("block_resize", arguments).await.unwrap();
}

/// The next instant of a grown disk: it has the new size, and what was written beyond the old end.
async fn arrives(source: &dyn CaptureSource, base: u64, disk: usize, changed: &[(u64, u64)]) {
    assert_eq!(source.disks()[disk].size, GROWN);
    assert_eq!(source.recover().await.unwrap(), Tracking::Since(vec![at(base)]));
    let instant = source.instant(at(base), at(base + 1), CRASH).await.unwrap();
    let found = instant.view.changed(disk).await.unwrap();
    let found: Vec<_> = found.iter().map(|e| (e.offset, e.len)).collect();
    assert_eq!(found, changed);
    for (offset, len) in changed {
        let data = instant
            .view
            .read(disk, *offset, u32::try_from(*len).unwrap())
            .await
            .unwrap();
        assert!(data.iter().all(|b| *b == 7), "at {offset}");
    }
    let last = instant.view.read(disk, GROWN - 4096, 4096).await.unwrap();
    assert_eq!(last.len(), 4096);
    instant.view.close().await.unwrap();
    source.acknowledge(at(base)).await.unwrap();
}

#[tokio::test]
async fn a_running_vms_disk_grows_and_its_records_with_it() {
    let mut host = Host::new();
    let (launch, _) = host.branches(&["c"]);
    let mut disks = host.vm(&[Qcow2, Raw]).disks;
    disks.extend(launch.disks);
    let launch = host.launch(disks);
    host.qemu.start(&launch).await.unwrap();
    let source = host.source(&launch).await;
    source.start_tracking(at(1)).await.unwrap();
    source.close().await.unwrap();
    for (number, disk) in ["a", "b", "c"].into_iter().enumerate() {
        let base = u64::try_from(number).unwrap() + 1;
        let source = host.source(&launch).await;
        resize(&host, &launch, disk, GROWN).await;
        let guest = host.guest(&launch).await;
        guest.io(disk, &format!("write -P 7 {} 8k", GROWN - MIB)).await;
        guest.io(disk, "write -P 7 0 4k").await;
        drop(guest);
        // Whoever opened the disks before must not go on with the old size.
        for refused in [
            source.instant(at(base), at(base + 1), CRASH).await.map(drop),
            source.current().await.map(drop),
            source.known_changes().await.map(drop),
            source.own_ranges().await.map(drop),
            source.recover().await.map(drop),
        ] {
            let error = refused.unwrap_err();
            assert!(matches!(error, CaptureError::Block { .. }), "{error:?}");
            assert!(error.to_string().contains("resized"), "{error}");
        }
        drop(source);
        let source = host.source(&launch).await;
        arrives(&*source, base, number, &[(0, 4096), (GROWN - MIB, 8192)]).await;
        source.close().await.unwrap();
    }
    // And all of it survives a stop.
    host.qemu.turn_off(launch.spec.uuid).await.unwrap();
    host.qemu.start(&launch).await.unwrap();
    let source = host.source(&launch).await;
    assert!(source.disks().iter().all(|d| d.size == GROWN));
    assert_eq!(source.recover().await.unwrap(), Tracking::Since(vec![at(4)]));
    source.close().await.unwrap();
}

#[tokio::test]
async fn a_disk_that_grows_while_an_instant_is_read_goes_on_showing_the_past() {
    let mut host = Host::new();
    let (launch, mut model) = host.branches(&["a"]);
    host.qemu.start(&launch).await.unwrap();
    let source = host.source(&launch).await;
    source.start_tracking(at(1)).await.unwrap();
    let guest = host.guest(&launch).await;
    guest.write("a", &mut model, 0, 4096, 7).await;
    let instant = source.instant(at(1), at(2), CRASH).await.unwrap();
    drop(guest);
    resize(&host, &launch, "a", GROWN).await;
    let guest = host.guest(&launch).await;
    guest.io("a", "write -P 9 1M 64k").await;
    guest.io("a", &format!("write -P 7 {} 8k", GROWN - MIB)).await;
    drop(guest);
    for offset in (0..DISK).step_by(1 << 20) {
        let data = instant.view.read(0, offset, 1 << 20).await.unwrap();
        let from = usize::try_from(offset).unwrap();
        assert!(data[..] == model.0["a"][from..from + data.len()], "at {offset}");
    }
    drop(instant);
    drop(source);
    let source = host.source(&launch).await;
    assert_eq!(
        source.recover().await.unwrap(),
        Tracking::Since(vec![at(1), at(2)])
    );
    source.give_back(at(1), at(2)).await.unwrap();
    let guest = host.guest(&launch).await;
    guest.io("a", "write -P 7 1M 64k").await;
    arrives(&*source, 1, 0, &[(0, 4096), (MIB, 65536), (GROWN - MIB, 8192)]).await;
    source.close().await.unwrap();
}

#[tokio::test]
async fn images_of_a_vm_that_is_off_grow() {
    let mut host = Host::new();
    let (launch, _) = host.branches(&["c"]);
    let mut disks = host.vm(&[Qcow2, Raw]).disks;
    disks.extend(launch.disks);
    let launch = host.launch(disks);
    let mut model = Model::new(&["a", "b", "c"]);
    host.qemu.start(&launch).await.unwrap();
    let source = host.source(&launch).await;
    source.start_tracking(at(1)).await.unwrap();
    source.close().await.unwrap();
    let guest = host.guest(&launch).await;
    for disk in ["a", "b", "c"] {
        guest.write(disk, &mut model, 0, 4096, 7).await;
    }
    drop(guest);
    host.qemu.turn_off(launch.spec.uuid).await.unwrap();
    let size = GROWN.to_string();
    for disk in &launch.disks {
        let (file, format) = match &disk.image {
            DiskImage::Plain { path, format: Raw } => (path.to_string(), "raw"),
            DiskImage::Plain { path, format: Qcow2 } => (path.to_string(), "qcow2"),
            DiskImage::Chain { layers } => (layers.last().unwrap().file.to_string(), "qcow2"),
        };
        tool("qemu-img", &["resize", "-q", "-f", format, &file, &size]);
    }
    host.qemu.start(&launch).await.unwrap();
    let guest = host.guest(&launch).await;
    for disk in ["a", "b", "c"] {
        guest.io(disk, &format!("write -P 7 {} 8k", GROWN - MIB)).await;
    }
    drop(guest);
    let source = host.source(&launch).await;
    assert!(source.disks().iter().all(|d| d.size == GROWN));
    // That an image was resized cannot be told from other changes behind our back.
    match source.recover().await.unwrap() {
        Tracking::Lost { reason, .. } => {
            assert!(
                reason.contains("resized") || reason.contains("changed"),
                "{reason}"
            )
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(source.known_changes().await.unwrap(), [None, None, None]);
    source.close().await.unwrap();
}
