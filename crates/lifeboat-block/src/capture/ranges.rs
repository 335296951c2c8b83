//! Ranges known without an instant: what the dirty bitmaps mark together, and what a disk's topmost image holds
//! itself. Asked around a change of sides, when two copies of a disk are compared by what is known of them.
//!
//! All records of a disk are first merged into one more bitmap on a node of its own, `union-ID`. So reading does not
//! touch tracking: the records themselves go on recording.
//! An interrupted reading leaves at most that node, which [`Shared::clear`] removes.

use std::sync::Arc;

use lifeboat_engine::ports::capture::{CaptureError, Extent};
use lifeboat_model::DiskId;
use serde_json::{Value, json};

use super::block::unread;
use super::shared::{Shared, UNION, bitmap_copy};
use super::tracking;
use super::view;
use crate::graph;
use crate::nbd::{STATE_DIRTY, StatusExtent};

/// Name of the bitmap of everything that a disk's records hold.
const CHANGED: &str = "changed";

/// Depth at which `qemu:allocation-depth` shows what an image holds itself.
const OWN: u32 = 1;

/// Changed ranges of each disk, as far as they are known.
pub(crate) async fn known(shared: &Arc<Shared>) -> Result<Vec<Option<Vec<Extent>>>, CaptureError> {
    let nodes = shared.fitting().await?;
    let mut actions = Vec::new();
    let what = "looking at the recorded changes";
    let complete = tracking::complete(&shared.tracked(&nodes));
    for (disk, records) in shared.disks.iter().zip(&complete) {
        let Some(records) = records else { continue };
        let name = union(&disk.id);
        let node = json!({"driver": "null-co", "node-name": name, "size": disk.size, "read-zeroes": true});
        shared.monitor.run(what, "blockdev-add", node).await?;
        actions.extend(bitmap_copy(disk, &name, CHANGED, records));
    }
    shared.monitor.transaction(what, actions).await?;
    let wanted: Vec<_> = complete.iter().map(Option::is_some).collect();
    let export = |id: &DiskId| {
        let node = union(id);
        json!({"node-name": node, "bitmaps": [{"node": node, "name": CHANGED}]})
    };
    let changed = |e: &StatusExtent| e.flags & STATE_DIRTY != 0;
    read(shared, &wanted, export, &view::changes(CHANGED), changed).await
}

fn union(id: &DiskId) -> String {
    format!("{UNION}{id}")
}

/// Ranges that each disk's topmost image holds. Zeros that were written, and what was discarded, count: they hide what is
/// below.
pub(crate) async fn own(shared: &Arc<Shared>) -> Result<Vec<Vec<Extent>>, CaptureError> {
    shared.fitting().await?;
    let wanted = vec![true; shared.disks.len()];
    let export = |id: &DiskId| json!({"node-name": graph::disk_node(id), "allocation-depth": true});
    let own = |e: &StatusExtent| e.flags == OWN;
    let ranges = read(shared, &wanted, export, "qemu:allocation-depth", own).await?;
    Ok(ranges.into_iter().map(Option::unwrap_or_default).collect())
}

/// Ranges of the `wanted` disks that `counts` says yes to, ascending, adjacent ones as one.
async fn read(
    shared: &Arc<Shared>,
    wanted: &[bool],
    export: impl Fn(&DiskId) -> Value,
    context: &str,
    counts: impl Fn(&StatusExtent) -> bool,
) -> Result<Vec<Option<Vec<Extent>>>, CaptureError> {
    let what = "opening the disks for reading";
    shared.serve(what).await?;
    let mut ranges = Vec::new();
    for (number, (disk, wanted)) in shared.disks.iter().zip(wanted).enumerate() {
        if !wanted {
            ranges.push(None);
            continue;
        }
        let mut export = export(&disk.id);
        export["type"] = "nbd".into();
        export["id"] = format!("export-{}", disk.id).into();
        export["name"] = disk.id.as_str().into();
        export["writable"] = false.into();
        shared.monitor.run(what, "block-export-add", export).await?;
        let client = view::connect(shared, number, &[context]).await?;
        let extents = view::extents(&client, context, &counts).await;
        ranges.push(Some(
            extents.map_err(|e| unread("reading what is known of a disk", &e))?,
        ));
    }
    shared.clear().await?;
    Ok(ranges)
}
