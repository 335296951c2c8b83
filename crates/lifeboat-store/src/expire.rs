//! How recovery points and logs go. The oldest point's layers are merged into the image below, which is not needed by
//! itself: the base, or, as long as content below must be kept, the lowest layer above that. Each step leaves every view as it
//! was, so any step can be repeated.

use lifeboat_engine::ports::store::StoreError;
use lifeboat_model::{PointId, Position};

use crate::digest_merge;
use crate::error::Result;
use crate::logs;
use crate::manifest::Manifest;
use crate::merge::stand_on;
use crate::proof;
use crate::qemu_img::Cancel;
use crate::replica::{Replica, State};

/// Makes the next point the oldest.
pub(crate) fn expire_oldest(replica: &Replica, cancel: &Cancel) -> Result<()> {
    let manifest = replica.manifest();
    manifest.not_promoted()?;
    let mut points = manifest.recovery_points();
    let (Some(oldest), Some(_)) = (points.next(), points.next()) else {
        let why = format!("VM {}: the only recovery point cannot expire", replica.vm);
        return Err(StoreError::Conflict(why));
    };
    let id = oldest.point.id;
    if manifest.branches.iter().any(|b| b.on == Some(id)) || replica.is_pinned(id) {
        return Err(StoreError::Busy(format!("recovery point {id}")));
    }
    while intermediate_at_the_bottom(&replica.manifest(), id) {
        merge_layer_set(replica, 0, cancel)?;
    }
    let manifest = replica.manifest();
    let Some(index) = manifest.index_of(id) else {
        return Err(StoreError::NoPoint(id.to_string()));
    };
    if must_stay(&manifest, index) {
        replica.change(|m| {
            for point in m.points.iter_mut().filter(|p| p.point.id == id) {
                point.intermediate = true;
            }
        })?;
    } else {
        merge_layer_set(replica, index, cancel)?;
    }
    forget_useless_logs(replica)?;
    replica.sweep()
}

/// Whether the lowest layer set is only in the way and may be merged into the base.
fn intermediate_at_the_bottom(manifest: &Manifest, oldest: PointId) -> bool {
    let lowest = manifest.points.first();
    lowest.is_some_and(|p| p.intermediate && p.point.id != oldest) && !must_stay(manifest, 0)
}

/// Whether the layers of a layer set must not be merged into what is below them: that is kept as it is, or a branch is on
/// this very layer set's files.
fn must_stay(manifest: &Manifest, index: usize) -> bool {
    manifest.kept.as_ref().is_some_and(|kept| {
        index == kept.layer_sets || (index + 1 == kept.layer_sets && manifest.branch_on_kept().is_some())
    })
}

/// Merges the layers of a layer set into the images below them and takes the layer set out.
fn merge_layer_set(replica: &Replica, index: usize, cancel: &Cancel) -> Result<()> {
    let manifest = replica.manifest();
    let Some(sealed) = manifest.points.get(index) else {
        return Ok(());
    };
    let id = sealed.point.id;
    if manifest.merged != Some(id) {
        for layer in &sealed.layers {
            let chain = manifest.chain(&layer.disk, Some(index));
            digest_merge::copy_down(replica, &manifest, &chain, cancel)?;
        }
        replica.change(|m| m.merged = Some(id))?;
    }
    for layer in &sealed.layers {
        let below = match index.checked_sub(1) {
            Some(below) => manifest.chain(&layer.disk, Some(below)),
            None => manifest.chain(&layer.disk, None),
        };
        let mut above = manifest.points.iter().skip(index + 1).flat_map(|p| &p.layers);
        let next = above.find(|l| l.disk == layer.disk);
        if let (Some(next), Some(below)) = (next, below.last()) {
            digest_merge::around_header(replica, &manifest, &next.file, || {
                stand_on(replica, &next.file, below, cancel)
            })?;
        }
    }
    replica.change(|m| {
        m.points.retain(|p| p.point.id != id);
        m.merged = None;
        if let Some(kept) = &mut m.kept
            && index < kept.layer_sets
        {
            kept.layer_sets -= 1;
        }
    })?;
    replica.sweep()
}

/// Removes logs that lead to or before the oldest point: nothing can be replayed onto an older one.
fn forget_useless_logs(replica: &Replica) -> Result<()> {
    let mut state = replica.state.blocking_lock();
    let oldest = state.manifest.recovery_points().next().map(|p| p.point.position);
    match oldest {
        Some(oldest) => trim_logs(replica, &mut state, oldest, oldest),
        None => Ok(()),
    }
}

/// Removes logs up to the one to a position, as far as neither the head nor the caller needs them.
pub(crate) fn expire_logs(replica: &Replica, upto: Position, needed: &[Position]) -> Result<()> {
    let mut state = replica.state.blocking_lock();
    let dir = replica.dir.join(logs::DIR);
    if !state.manifest.logs_alone {
        // What was needed when the caller asked may be less than now.
        let needed = [needed, &self::needed(replica, &state.manifest)].concat();
        return state.logs.trim(&dir, &needed, upto);
    }
    // The manifest first: the next start finds the logs that are left from there.
    if let Some(last) = state.logs.last_to_go(needed, upto) {
        replica.commit(&mut state, |m| m.applied = last)?;
        state.logs.trim(&dir, needed, upto)?;
    }
    Ok(())
}

/// Positions after which logs are needed: where the head is built from, and what layers are still to be compared with.
pub(crate) fn needed(replica: &Replica, manifest: &Manifest) -> Vec<Position> {
    let compared = proof::needs(replica, manifest);
    compared.into_iter().chain([manifest.floor()]).collect()
}

/// None after `floor` goes, and none that a layer is still to be compared with.
fn trim_logs(replica: &Replica, state: &mut State, floor: Position, upto: Position) -> Result<()> {
    let compared = proof::needs(replica, &state.manifest);
    let needed: Vec<Position> = compared.into_iter().chain([floor]).collect();
    state.logs.trim(&replica.dir.join(logs::DIR), &needed, upto)
}
