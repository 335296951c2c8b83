//! Merging the lowest layer of a chain into the base: how the oldest point expires and how the layers below a promoted
//! branch go away. Each step leaves every view as it was: while data is copied into the base the layer still hides it,
//! afterwards base and layer agree, and only then does the next layer skip it. So any step can be repeated.

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_engine::ports::hypervisor::LiveMerge;
use lifeboat_engine::ports::store::StoreError;
use lifeboat_model::{BranchId, DiskId, Timestamp};

use crate::chain::{commit_name, format_of, reference};
use crate::files::{self, Result};
use crate::layer;
use crate::logs;
use crate::manifest::{Branch, Layer, Manifest, Promoted, base};
use crate::qemu_img::{self, Cancel};
use crate::replica::Replica;

/// Merging stays below this rate in bytes per second, so that guests on the same disks are not starved.
const RATE: &str = "268435456";

/// Merges the oldest point into the base.
pub(crate) fn expire_oldest(replica: &Replica, cancel: &Cancel) -> Result<()> {
    let manifest = replica.manifest();
    manifest.not_promoted()?;
    let [oldest, next, ..] = manifest.points.as_slice() else {
        let why = format!("VM {}: the only recovery point cannot expire", replica.vm);
        return Err(StoreError::Conflict(why));
    };
    let id = oldest.point.id;
    if manifest.branches.iter().any(|b| b.on == id) {
        return Err(StoreError::Busy(format!("recovery point {id}")));
    }
    if manifest.merged != Some(id) {
        for layer in &oldest.layers {
            copy_down(replica, &layer.disk, &layer.file, cancel)?;
        }
        replica.change(|m| m.merged = Some(id))?;
    }
    for layer in &next.layers {
        skip_to_base(replica, &layer.disk, &layer.file, cancel)?;
    }
    replica.change(|m| {
        m.points.retain(|p| p.point.id != id);
        m.merged = None;
    })?;
    forget_useless_logs(replica)?;
    replica.sweep()
}

/// Removes logs that lead to or before the oldest point.
fn forget_useless_logs(replica: &Replica) -> Result<()> {
    let mut state = replica.state.blocking_lock();
    match state.manifest.points.first().map(|p| p.point.position) {
        Some(oldest) => state.logs.trim_to(&replica.dir.join(logs::DIR), oldest),
        None => Ok(()),
    }
}

/// Removes logs older than `before` that the head does not need.
pub(crate) fn expire_logs(replica: &Replica, before: Timestamp) -> Result<()> {
    let mut state = replica.state.blocking_lock();
    let floor = state.manifest.floor();
    state
        .logs
        .trim_before(&replica.dir.join(logs::DIR), floor, before)
}

/// Copies what a layer directly above the base holds into the base.
fn copy_down(replica: &Replica, disk: &DiskId, file: &Utf8Path, cancel: &Cancel) -> Result<()> {
    replica.step("before a layer is copied into the base")?;
    let (base, layer) = (replica.dir.join(base(disk)), replica.dir.join(file));
    files::room(&replica.dir, files::usage(&layer), replica.reserve)?;
    let name = commit_name(&base, &layer);
    qemu_img::run(&["commit", "-q", "-d", "-r", RATE, &name], &base, cancel)?;
    files::sync_file(&base)?;
    replica.step("after a layer was copied into the base")
}

/// Makes an image refer to the base instead of the layer that was merged.
fn skip_to_base(replica: &Replica, disk: &DiskId, file: &Utf8Path, cancel: &Cancel) -> Result<()> {
    replica.step("before an image refers to the base")?;
    let base = base(disk);
    let image = replica.dir.join(file);
    let name = reference(file, &base);
    let args = [
        "rebase",
        "-q",
        "-u",
        "-f",
        "qcow2",
        "-F",
        format_of(&base),
        "-b",
        name.as_str(),
    ];
    let args: Vec<&str> = args.into_iter().chain([image.as_str()]).collect();
    qemu_img::run(&args, &image, cancel)?;
    files::sync_file(&image)
}

/// Makes a branch the VM's disks.
pub(crate) fn promote(replica: &Replica, id: BranchId) -> Result<()> {
    let manifest = replica.manifest();
    if manifest.promoted.as_ref().is_none_or(|p| p.branch != id) {
        manifest.not_promoted()?;
        let branch = complete(&manifest, id)?;
        let below = branch.layers.iter().map(|layer| {
            let chain = manifest.branch_chain(branch, layer);
            let upto = chain.len().saturating_sub(1);
            crate::manifest::Below {
                disk: layer.disk.clone(),
                files: chain.into_iter().take(upto).skip(1).collect(),
                merged: false,
            }
        });
        let promoted = Promoted {
            branch: id,
            below: below.collect(),
        };
        let (position, layers) = (branch.position, branch.layers.clone());
        let mut state = replica.state.blocking_lock();
        replica.commit(&mut state, |m| {
            m.applied = position;
            m.disks.clear();
            m.disks.extend(layers.iter().map(|l| lifeboat_deltalog::LogDisk {
                id: l.disk.clone(),
                size: l.size,
            }));
            m.points.clear();
            m.head = None;
            m.merged = None;
            m.branches.retain(|b| b.id == id);
            for branch in &mut m.branches {
                // Its layer is listed in `below` now.
                branch.replay.clear();
            }
            m.promoted = Some(promoted);
        })?;
        state.logs.entries.clear();
    }
    for name in files::names(&replica.dir.join(crate::receive::DIR))? {
        files::remove(&replica.dir.join(crate::receive::DIR).join(name))?;
    }
    replica.sweep()
}

/// The complete branch with this id.
pub(crate) fn complete(manifest: &Manifest, id: BranchId) -> Result<&Branch> {
    let branch = manifest.branch(id).filter(|b| b.complete);
    branch.ok_or(StoreError::NoBranch(id))
}

fn promoted(manifest: &Manifest, id: BranchId) -> Result<&Promoted> {
    let promoted = manifest.promoted.as_ref().filter(|p| p.branch == id);
    promoted
        .ok_or_else(|| StoreError::Conflict(format!("branch {id} is not the disks of VM {}", manifest.vm)))
}

fn own_layer(manifest: &Manifest, id: BranchId, disk: &DiskId) -> Result<Layer> {
    let layers = &complete(manifest, id)?.layers;
    let layer = layers.iter().find(|l| l.disk == *disk).cloned();
    layer.ok_or(StoreError::NoBranch(id))
}

/// What is still to be merged below a promoted branch.
pub(crate) fn promoted_layers(replica: &Replica, id: BranchId) -> Result<Vec<LiveMerge>> {
    let manifest = replica.manifest();
    let below = &promoted(&manifest, id)?.below;
    let merge = |disk: &DiskId, top: &Utf8PathBuf| LiveMerge {
        id: disk.clone(),
        top: replica.dir.join(top),
        base: replica.dir.join(base(disk)),
    };
    Ok(below
        .iter()
        .filter_map(|b| b.files.last().map(|top| merge(&b.disk, top)))
        .collect())
}

/// Merges those layers, lowest first, while nobody uses them.
pub(crate) fn merge_promoted(replica: &Replica, id: BranchId, cancel: &Cancel) -> Result<()> {
    loop {
        let manifest = replica.manifest();
        let below = &promoted(&manifest, id)?.below;
        let Some(next) = below.iter().find(|b| !b.files.is_empty()) else {
            return replica.sweep();
        };
        let disk = next.disk.clone();
        let Some(lowest) = next.files.first() else {
            continue;
        };
        if !next.merged {
            copy_down(replica, &disk, lowest, cancel)?;
            change_below(replica, &disk, |b| b.merged = true)?;
        }
        let above = match next.files.get(1) {
            Some(above) => above.clone(),
            None => own_layer(&manifest, id, &disk)?.file,
        };
        skip_to_base(replica, &disk, &above, cancel)?;
        change_below(replica, &disk, |b| {
            b.files.remove(0);
            b.merged = false;
        })?;
        replica.sweep()?;
    }
}

fn change_below(
    replica: &Replica,
    disk: &DiskId,
    change: impl Fn(&mut crate::manifest::Below),
) -> Result<()> {
    replica.change(|m| {
        let below = m.promoted.iter_mut().flat_map(|p| &mut p.below);
        below.filter(|b| b.disk == *disk).for_each(change);
    })
}

/// After the running VM merged the layers itself: believes the images, not the caller.
pub(crate) fn merged_live(replica: &Replica, id: BranchId) -> Result<()> {
    let manifest = replica.manifest();
    let mut left = Vec::new();
    for below in promoted(&manifest, id)?
        .below
        .iter()
        .filter(|b| !b.files.is_empty())
    {
        let layer = own_layer(&manifest, id, &below.disk)?;
        if stands_on_base(replica, &layer)? {
            change_below(replica, &below.disk, |b| {
                b.files.clear();
                b.merged = false;
            })?;
        } else {
            left.push(below.disk.to_string());
        }
    }
    replica.sweep()?;
    if left.is_empty() {
        return Ok(());
    }
    let disks = left.join(", ");
    Err(StoreError::Conflict(format!(
        "the layers of disk {disks} are not merged yet"
    )))
}

/// Whether the image refers to the base directly, by whatever path its writer chose.
fn stands_on_base(replica: &Replica, layer: &Layer) -> Result<bool> {
    let image = replica.dir.join(&layer.file);
    let Some(name) = layer::backing(&image)? else {
        return Ok(false);
    };
    let dir = image.parent().unwrap_or(&replica.dir);
    let said = dir.join(name).canonicalize_utf8().ok();
    let base = replica.dir.join(base(&layer.disk)).canonicalize_utf8().ok();
    Ok(said.is_some() && said == base)
}
