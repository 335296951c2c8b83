//! Ranges known without an instant: what the records of changes hold as a whole, and what a disk's topmost image holds
//! itself. Asked around a change of sides, when two copies of a disk are compared by what is known of them.
//!
//! All records of a disk are first merged into one more bitmap, [`UNION`], which records nothing and is never stored.
//! So reading does not touch tracking: the records themselves may go on recording, or go away in the same transaction
//! that begins new ones. An interrupted reading leaves at most that bitmap, which [`Shared::clear`] removes.

use std::sync::Arc;

use lifeboat_engine::ports::capture::{CaptureError, Extent};
use lifeboat_model::Position;
use lifeboat_model::policy::change_granularity;
use serde_json::{Value, json};

use super::block::Node;
use super::source::{Shared, bitmap_action};
use super::tracking::{self, Tracked};
use super::view;
use crate::graph;
use crate::nbd::StatusExtent;

/// Everything that one disk's records hold, while it is being read. Not one of our records: nobody counts on it.
pub(crate) const UNION: &str = "lifeboat_union";

/// Depth at which `qemu:allocation-depth` shows what an image holds itself.
const OWN: u32 = 1;

/// Changed ranges of each disk, as far as they are known.
pub(crate) async fn known(
    shared: &Arc<Shared>,
    restart: Option<Position>,
) -> Result<Vec<Option<Vec<Extent>>>, CaptureError> {
    let nodes = shared.fitting().await?;
    if let Some(position) = restart
        && begun(shared, &nodes, position)
    {
        anew(shared, &nodes, position).await?;
        return Ok(vec![None; shared.disks.len()]);
    }
    let complete = tracking::complete(&tracked(shared, &nodes));
    let mut actions = Vec::new();
    if let Some(position) = restart {
        make_room(shared, &nodes, position).await?;
        // First of all actions: what is written while the others take effect is in the new records in any case.
        actions.extend(shared.additions(position));
    }
    for (disk, records) in shared.disks.iter().zip(&complete) {
        let Some(records) = records else { continue };
        let node = graph::disk_node(&disk.id);
        actions.push(json!({"type": "block-dirty-bitmap-add", "data": {
            "node": node, "name": UNION, "persistent": false, "disabled": true,
            "granularity": change_granularity(disk.size),
        }}));
        actions.push(json!({"type": "block-dirty-bitmap-merge", "data": {
            "node": node, "target": UNION, "bitmaps": records,
        }}));
    }
    if let Some(position) = restart {
        let old = shared.records(&nodes, |name| name != tracking::record(position));
        actions.extend(old);
    }
    let what = "looking at the recorded changes";
    shared.monitor.transaction(what, actions).await?;
    if restart.is_some() {
        shared.forget_losses()?;
    }
    let wanted: Vec<_> = complete.iter().map(Option::is_some).collect();
    let bitmap = |node: String| json!({"bitmaps": [{"node": node, "name": UNION}]});
    let changed = |e: &StatusExtent| e.flags & crate::nbd::STATE_DIRTY != 0;
    read(shared, &wanted, bitmap, &view::changes(UNION), changed).await
}

/// Ranges that each disk's topmost image holds. Zeros that were written, and what was discarded, count: they hide what is
/// below.
pub(crate) async fn own(shared: &Arc<Shared>) -> Result<Vec<Vec<Extent>>, CaptureError> {
    shared.fitting().await?;
    let wanted = vec![true; shared.disks.len()];
    let depth = |_| json!({"allocation-depth": true});
    let own = |e: &StatusExtent| e.flags == OWN;
    let ranges = read(shared, &wanted, depth, "qemu:allocation-depth", own).await?;
    Ok(ranges.into_iter().map(Option::unwrap_or_default).collect())
}

/// Whether records of changes since `position` are there already and whole: a repeat.
fn begun(shared: &Shared, nodes: &[Node], position: Position) -> bool {
    let name = tracking::record(position);
    let losses = tracked(shared, nodes);
    losses.iter().all(|disk| {
        let found = disk.bitmaps.iter().find(|b| b.name == name);
        disk.lost.is_none() && found.is_some_and(|b| !b.inconsistent)
    })
}

/// The repeat of a restart: the records of `position` go on, whatever else there is goes into them.
async fn anew(shared: &Shared, nodes: &[Node], position: Position) -> Result<(), CaptureError> {
    let name = tracking::record(position);
    let mut actions = Vec::new();
    for disk in &shared.disks {
        let bitmaps = shared.bitmaps(nodes, disk);
        // Recording goes on before the merge: a write in between is then in both, never in none.
        actions.push(bitmap_action("enable", disk, &name));
        // A frozen record of ours: what came after it is in its successor.
        let frozen = bitmaps.iter().any(|b| b.name == name && !b.recording);
        let successors = bitmaps
            .iter()
            .filter(|b| frozen && b.ours() && b.name != name && b.recording && !b.inconsistent);
        let successors: Vec<_> = successors.map(|b| b.name.as_str()).collect();
        if !successors.is_empty() {
            actions.push(json!({"type": "block-dirty-bitmap-merge", "data": {
                "node": graph::disk_node(&disk.id), "target": name, "bitmaps": successors,
            }}));
        }
    }
    actions.extend(shared.records(nodes, |other| other != name));
    let what = "going on with records of changes";
    shared.monitor.transaction(what, actions).await
}

/// Removes unusable records of `position`: one transaction cannot remove and add the same name.
async fn make_room(shared: &Shared, nodes: &[Node], position: Position) -> Result<(), CaptureError> {
    let name = tracking::record(position);
    let same = shared.records(nodes, |other| other == name);
    let what = "removing unusable records of changes";
    shared.monitor.transaction(what, same).await
}

fn tracked<'a>(shared: &'a Shared, nodes: &'a [Node]) -> Vec<Tracked<'a>> {
    shared.tracked(nodes)
}

/// Ranges of the `wanted` disks that `counts` says yes to, ascending, adjacent ones as one.
async fn read(
    shared: &Arc<Shared>,
    wanted: &[bool],
    options: impl Fn(String) -> Value,
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
        let mut export = options(graph::disk_node(&disk.id));
        if let Some(map) = export.as_object_mut() {
            map.insert("type".into(), "nbd".into());
            map.insert("id".into(), format!("export-{}", disk.id).into());
            map.insert("node-name".into(), graph::disk_node(&disk.id).into());
            map.insert("name".into(), disk.id.as_str().into());
            map.insert("writable".into(), false.into());
        }
        shared.monitor.run(what, "block-export-add", export).await?;
        let client = view::connect(shared, number, &[context]).await?;
        let extents = view::extents(&client, context, &counts).await;
        ranges.push(Some(extents.map_err(|e| {
            super::block::unread("reading what is known of a disk", &e)
        })?));
    }
    shared.clear().await?;
    Ok(ranges)
}
