//! How much the dirty bitmaps of a running VM mark: what its peer is not known to have. Asked through the monitor for
//! short questions, so that a cycle that is under way need not be waited for.

use std::path::PathBuf;
use std::sync::Arc;

use lifeboat_block::capture::tracking::Tracked;
use lifeboat_block::capture::{Commands, marked};
use lifeboat_model::{DiskId, VmId};

use crate::graph;
use crate::qemu::Qemu;
use crate::tracking_overlay;

/// Bytes that the records of these disks mark together; `None` when there is no process, it does not answer, or what is
/// recorded is not all that changed.
pub(crate) async fn of(qemu: &Qemu, vm: VmId, disks: &[DiskId]) -> Option<u64> {
    qemu.process(vm).await.ok()??;
    let nodes = Commands::new(Arc::new(qemu.control(vm).await.ok()?))
        .nodes()
        .await
        .ok()?;
    let losses = losses(qemu, vm, disks).await?;
    let tracked = disks.iter().zip(losses).map(|(id, lost)| {
        let name = graph::disk_node(id);
        let node = nodes.iter().find(|n| n.name == name)?;
        Some(Tracked {
            id,
            size: node.image.size,
            bitmaps: &node.bitmaps,
            lost,
        })
    });
    marked(&tracked.collect::<Option<Vec<_>>>()?)
}

/// Why changes of each disk are not all recorded, if they are not. Nothing is written down: that is for who captures. Apart
/// from the runtime, because the storage of an image may hang.
async fn losses(qemu: &Qemu, vm: VmId, disks: &[DiskId]) -> Option<Vec<Option<String>>> {
    let ledger = Arc::clone(&qemu.ledger);
    let wanted: Vec<_> = disks
        .iter()
        .map(|id| (id.clone(), qemu.config.tracking_overlay(vm, id)))
        .collect();
    let look = move || {
        let lost = |(id, path): &(DiskId, PathBuf)| {
            tracking_overlay::lost(path).or_else(|| ledger.seems_lost(vm, id))
        };
        wanted.iter().map(lost).collect()
    };
    tokio::task::spawn_blocking(look).await.ok()
}
