//! How much the change records of a running VM mark: what its peer is not known to have. Asked through the monitor for
//! short questions, so that a cycle that is under way need not be waited for.

use std::path::PathBuf;
use std::sync::Arc;

use lifeboat_engine::ports::capture::Tracking;
use lifeboat_model::{DiskId, VmId};

use super::block::Monitor;
use super::tracking::{Bitmap, Tracked, judge};
use crate::graph;
use crate::hypervisor::Qemu;
use crate::shell;

/// Bytes that the records of these disks mark together; `None` when there is no process, it does not answer, or what is
/// recorded is not all that changed.
pub(crate) async fn of(qemu: &Qemu, vm: VmId, disks: &[DiskId]) -> Option<u64> {
    qemu.process(vm).await.ok()??;
    let nodes = Monitor::new(qemu.control(vm).await.ok()?).nodes().await.ok()?;
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
        .map(|id| (id.clone(), qemu.config.shell(vm, id)))
        .collect();
    let look = move || {
        let lost = |(id, path): &(DiskId, PathBuf)| shell::lost(path).or_else(|| ledger.seems_lost(vm, id));
        wanted.iter().map(lost).collect()
    };
    tokio::task::spawn_blocking(look).await.ok()
}

/// What records mark that can be relied on.
fn marked(disks: &[Tracked<'_>]) -> Option<u64> {
    match judge(disks) {
        Tracking::Since(_) => Some(disks.iter().map(of_disk).sum()),
        Tracking::None | Tracking::Lost { .. } => None,
    }
}

/// A frozen record is a log on its way, and what changes again meanwhile travels again. Of records that both go on the
/// older one has all the younger one has: the younger never became an instant.
fn of_disk(disk: &Tracked<'_>) -> u64 {
    let bytes = |b: &Bitmap| b.count.min(disk.size);
    let ours = || disk.bitmaps.iter().filter(|b| b.ours());
    let frozen: u64 = ours().filter(|b| !b.recording).map(bytes).sum();
    let recording = ours().filter(|b| b.recording).map(bytes).max();
    frozen + recording.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::tracking::record;
    use crate::testing::at;

    fn bit(sequence: u64, recording: bool, count: u64) -> Bitmap {
        Bitmap {
            name: record(at(sequence)),
            granularity: 4096,
            count,
            recording,
            inconsistent: false,
        }
    }

    fn sum(disks: &[Vec<Bitmap>]) -> Option<u64> {
        let ids = ["a", "b"].map(|id| DiskId::new(id).unwrap());
        let tracked = ids.iter().zip(disks).map(|(id, bitmaps)| Tracked {
            id,
            size: 1 << 20,
            bitmaps,
            lost: None,
        });
        marked(&tracked.collect::<Vec<_>>())
    }

    #[test]
    fn a_log_on_its_way_and_what_changed_since_both_count() {
        let table = [
            // Between cycles.
            ([vec![bit(9, true, 8192)], vec![bit(9, true, 0)]], Some(8192)),
            // Nothing changed, which was seen.
            ([vec![bit(9, true, 0)], vec![bit(9, true, 0)]], Some(0)),
            // In a cycle.
            (
                [
                    vec![bit(9, false, 8192), bit(10, true, 4096)],
                    vec![bit(9, false, 0), bit(10, true, 4096)],
                ],
                Some(16384),
            ),
            // Before its instant both record the same.
            (
                [
                    vec![bit(9, true, 8192), bit(10, true, 4096)],
                    vec![bit(9, true, 0), bit(10, true, 0)],
                ],
                Some(8192),
            ),
            // The last block reaches beyond the end of the disk.
            (
                [vec![bit(9, true, 1 << 21)], vec![bit(9, true, 0)]],
                Some(1 << 20),
            ),
        ];
        for (disks, wanted) in table {
            assert_eq!(sum(&disks), wanted, "{disks:?}");
        }
    }

    #[test]
    fn what_was_not_recorded_is_not_known_and_never_nothing() {
        let whole = || vec![bit(9, true, 0)];
        let mut spoiled = whole();
        spoiled[0].inconsistent = true;
        for disks in [
            [vec![], vec![]],
            [whole(), vec![]],
            [whole(), vec![bit(9, false, 0)]],
            [whole(), spoiled],
        ] {
            assert_eq!(sum(&disks), None, "{disks:?}");
        }
    }
}
