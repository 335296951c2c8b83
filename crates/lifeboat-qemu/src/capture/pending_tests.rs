//! What a real QEMU process says waits to be sent, before, in and after a cycle. No guest system runs.

use lifeboat_deltalog::Consistency;
use lifeboat_engine::ports::hypervisor::{Hypervisor, Launch};
use lifeboat_model::DiskFormat::{Qcow2, Raw};
use lifeboat_model::DiskId;

use crate::testing::{AtOnce, Host, MIB, Model, at};

const WRITE: u64 = 65536;

/// The guest writes. It lets go of the monitor that is asked afterwards.
async fn write(host: &Host, launch: &Launch, model: &mut Model, disk: &str, offset: u64) {
    let guest = host.guest(launch).await;
    guest.write(disk, model, offset, WRITE, 7).await;
}

#[tokio::test]
async fn a_running_vm_says_what_waits_while_its_source_is_held_and_in_a_cycle() {
    let mut host = Host::new();
    let launch = host.vm(&[Qcow2, Raw]);
    let vm = launch.spec.uuid;
    let ids: Vec<DiskId> = launch.disks.iter().map(|d| d.id.clone()).collect();
    assert_eq!(host.qemu.pending(vm, &ids).await, None, "it is off");
    host.qemu.start(&launch).await.unwrap();
    let mut model = Model::new(&["a", "b"]);
    let source = host.source(&launch).await;
    source.recover().await.unwrap();
    assert_eq!(host.qemu.pending(vm, &ids).await, None, "nothing is recorded");
    source.start_tracking(at(1)).await.unwrap();
    assert_eq!(host.qemu.pending(vm, &ids).await, Some(0));
    write(&host, &launch, &mut model, "a", 0).await;
    write(&host, &launch, &mut model, "b", MIB).await;
    write(&host, &launch, &mut model, "b", MIB).await;
    assert_eq!(host.qemu.pending(vm, &ids).await, Some(2 * WRITE));
    assert_eq!(host.qemu.pending(vm, &ids[..1]).await, Some(WRITE));

    let instant = source.instant(at(1), at(2), Consistency::Crash).await.unwrap();
    write(&host, &launch, &mut model, "a", 0).await;
    assert_eq!(host.qemu.pending(vm, &ids).await, Some(3 * WRITE));
    instant.view.close().await.unwrap();
    assert_eq!(
        host.qemu.pending(vm, &ids).await,
        Some(3 * WRITE),
        "not yet there"
    );
    source.acknowledge(at(1)).await.unwrap();
    assert_eq!(host.qemu.pending(vm, &ids).await, Some(WRITE));

    source.stop_tracking().await.unwrap();
    assert_eq!(host.qemu.pending(vm, &ids).await, None);
    source.close().await.unwrap();
    host.qemu.turn_off(vm).await.unwrap();
    assert_eq!(host.qemu.pending(vm, &ids).await, None);
}
