//! Branches: writable layers on a recovery point, and their end. The cost of both does not depend on the size of a disk,
//! on the number of points or on what was written since. A branch stands only on sealed layers, which nothing changes,
//! so no point can notice it.
//!
//! The writable layer has sub-clusters: QEMU writes it, knows them, and a guest's 4 KiB writes then copy nothing.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_engine::ports::hypervisor::DiskImage;
use lifeboat_engine::ports::store::{StoreError, Target};
use lifeboat_model::{BranchId, DiskId, Position};

use crate::apply::{make_on, replay, set_sizes};
use crate::chain::{blockdev, format_of, reference};
use crate::files::{self, Result, at};
use crate::logs::Entry;
use crate::manifest::{Branch, Layer, MAX_CHAIN, Manifest};
use crate::merge::complete;
use crate::qemu_img::{self, Cancel};
use crate::replica::Replica;

/// Options of a branch's writable layer.
const OPTIONS: &str = "extended_l2=on,cluster_size=128k";

/// Images of each disk of a VM.
pub(crate) type Images = Vec<(DiskId, DiskImage)>;

/// What a branch is built from.
struct Plan {
    /// Number of the point below.
    on: usize,
    position: Position,
    /// Logs to replay onto it.
    logs: Vec<Entry>,
}

/// Makes a branch, or finishes making it.
pub(crate) fn branch(replica: &Replica, id: BranchId, target: Target, cancel: &Cancel) -> Result<Images> {
    let manifest = replica.manifest();
    match manifest.branch(id) {
        Some(b) if b.target != target => {
            let why = format!("branch {id} exists on another recovery point");
            return Err(StoreError::Conflict(why));
        }
        Some(b) if b.complete => return images(replica, id),
        // What an interrupted call left cannot be told apart from nothing, so it is made again.
        Some(_) => drop_branch(replica, id)?,
        None => manifest.not_promoted()?,
    }
    let plan = plan(replica, target)?;
    files::room(
        &replica.dir,
        plan.logs.iter().map(|e| e.volume).sum(),
        replica.reserve,
    )?;
    let record = record(&replica.manifest(), id, target, &plan)?;
    replica.change(|m| m.branches.push(record.clone()))?;
    if let Err(error) = make(replica, &record, &plan, cancel) {
        if matches!(error, StoreError::NoSpace(_)) {
            give_up(replica, id);
        }
        return Err(error);
    }
    replica.change(|m| {
        for branch in m.branches.iter_mut().filter(|b| b.id == id) {
            branch.complete = true;
        }
    })?;
    images(replica, id)
}

/// Gives back the room of a branch that did not fit: files first, because the manifest needs room as well. Whatever does
/// not succeed is done by the next call or the next start.
fn give_up(replica: &Replica, id: BranchId) {
    let _ = files::remove_tree(&replica.dir.join("branches").join(id.to_string()));
    let _ = replica.change(|m| m.branches.retain(|b| b.id != id));
}

/// The images of a complete branch.
pub(crate) fn images(replica: &Replica, id: BranchId) -> Result<Images> {
    let manifest = replica.manifest();
    let branch = complete(&manifest, id)?;
    let image = |layer: &Layer| {
        let chain = replica.absolute(&manifest.branch_chain(branch, layer));
        let blockdev = blockdev(&chain);
        (layer.disk.clone(), DiskImage::Chain { blockdev })
    };
    Ok(branch.layers.iter().map(image).collect())
}

/// Throws a branch away. What was written to it is released behind: freeing many extents takes long.
pub(crate) fn drop_branch(replica: &Replica, id: BranchId) -> Result<()> {
    let manifest = replica.manifest();
    if manifest.promoted.is_some_and(|p| p.branch == id) {
        let why = format!(
            "branch {id} is the disks of VM {} and cannot be thrown away",
            replica.vm
        );
        return Err(StoreError::Conflict(why));
    }
    replica.change(|m| m.branches.retain(|b| b.id != id))?;
    replica.step("before a branch's files go")?;
    let branches = replica.dir.join("branches");
    let (from, gone) = (branches.join(id.to_string()), branches.join(format!("{id}.gone")));
    match std::fs::rename(&from, &gone) {
        Ok(()) => {
            files::sync_dir(&branches)?;
            // Whatever is left when the program ends now is swept at its next start.
            std::thread::spawn(move || {
                if let Err(error) = files::remove_tree(&gone) {
                    tracing::warn!(%error, "a dropped branch's files remain until the next start");
                }
            });
            Ok(())
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        // The leftovers of an earlier branch of this id are still going.
        Err(_) => files::remove_tree(&from),
    }
}

fn plan(replica: &Replica, target: Target) -> Result<Plan> {
    let state = replica.state.blocking_lock();
    let points = &state.manifest.points;
    match target {
        Target::Point { id } => {
            let on = points.iter().position(|p| p.point.id == id);
            let on = on.ok_or_else(|| StoreError::NoPoint(id.to_string()))?;
            let position = points.get(on).map_or(state.manifest.start, |p| p.point.position);
            Ok(Plan {
                on,
                position,
                logs: Vec::new(),
            })
        }
        Target::Cycle { position } => {
            // The newest point from which the logs lead there.
            let reach = |(on, sealed): (usize, &crate::manifest::Sealed)| {
                let logs = state.logs.between(sealed.point.position, position)?;
                Some(Plan { on, position, logs })
            };
            let plan = points.iter().enumerate().rev().find_map(reach);
            plan.ok_or_else(|| StoreError::NoPoint(position.to_string()))
        }
    }
}

fn record(manifest: &Manifest, id: BranchId, target: Target, plan: &Plan) -> Result<Branch> {
    let Some(on) = manifest.points.get(plan.on) else {
        return Err(StoreError::NoPoint(plan.position.to_string()));
    };
    // Base, points, replay, branch.
    let images = 1 + (plan.on + 1) + usize::from(!plan.logs.is_empty()) + 1;
    if images > MAX_CHAIN {
        return Err(StoreError::Conflict(format!(
            "the branch would stand on {images} images, {MAX_CHAIN} is the limit; the oldest recovery points must expire first"
        )));
    }
    let mut layers = on.layers.clone();
    if let Some(last) = plan.logs.last() {
        set_sizes(&mut layers, &last.disks);
    }
    let named = |suffix: &str| {
        let rename = |l: &Layer| Layer {
            file: format!("branches/{id}/{}{suffix}", l.disk).into(),
            ..l.clone()
        };
        layers.iter().map(rename).collect::<Vec<_>>()
    };
    let replay = if plan.logs.is_empty() {
        Vec::new()
    } else {
        named(".replay.qcow2")
    };
    Ok(Branch {
        id,
        target,
        on: on.point.id,
        position: plan.position,
        complete: false,
        replay,
        layers: named(".qcow2"),
    })
}

fn make(replica: &Replica, branch: &Branch, plan: &Plan, cancel: &Cancel) -> Result<()> {
    let dir = replica.dir.join("branches").join(branch.id.to_string());
    replica.step("before a branch's directory is made")?;
    std::fs::create_dir_all(&dir).map_err(at("make", &dir))?;
    let manifest = replica.manifest();
    let mut chains = BTreeMap::new();
    for layer in &branch.replay {
        let mut chain = manifest.chain(&layer.disk, Some(plan.on));
        make_on(replica, layer, &chain)?;
        chain.push(layer.file.clone());
        chains.insert(layer.disk.clone(), replica.absolute(&chain));
    }
    if !branch.replay.is_empty() {
        replay(replica, &plan.logs, &chains)?;
    }
    for layer in &branch.layers {
        let chain = manifest.branch_chain(branch, layer);
        let below = chain.iter().rev().nth(1);
        let below = below
            .cloned()
            .unwrap_or_else(|| crate::manifest::base(&layer.disk));
        make_writable(replica, layer, &below, cancel)?;
    }
    files::sync_dir(&dir)?;
    files::sync_dir(&replica.dir.join("branches"))?;
    replica.step("after a branch's files are synced")
}

fn make_writable(replica: &Replica, layer: &Layer, below: &Utf8Path, cancel: &Cancel) -> Result<()> {
    replica.step("before a writable layer is made")?;
    let path: Utf8PathBuf = replica.dir.join(&layer.file);
    let (backing, size) = (reference(&layer.file, below), layer.size.to_string());
    let args = [
        "create",
        "-q",
        // The backing image is not opened: its format and the size are given.
        "-u",
        "-f",
        "qcow2",
        "-o",
        OPTIONS,
        "-F",
        format_of(below),
        "-b",
        backing.as_str(),
        path.as_str(),
        size.as_str(),
    ];
    qemu_img::run(&args, &path, cancel)?;
    files::sync_file(&path)
}
