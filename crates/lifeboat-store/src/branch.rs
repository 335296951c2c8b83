//! Branches: writable layers on a recovery point, and their end. The cost of both does not depend on the size of a disk,
//! on the number of points or on what was written since. A branch is made only on sealed layers, which nothing changes,
//! so no point can notice it.
//!
//! The writable layer has sub-clusters: QEMU writes it, knows them, and a guest's 4 KiB writes then copy nothing.

use std::collections::BTreeMap;

use camino::Utf8PathBuf;
use lifeboat_deltalog::LogDisk;
use lifeboat_engine::ports::hypervisor::{DiskImage, ImageLayer};
use lifeboat_engine::ports::store::{StoreError, Target};
use lifeboat_model::{BranchId, DiskId, PointId, Position};

use crate::apply::{in_order, make_base, make_on, replay};
use crate::chain::{Image, reference};
use crate::durable;
use crate::error::{Result, io_error};
use crate::files;
use crate::firmware;
use crate::logs::{self, Entry};
use crate::manifest::{Branch, Layer, MAX_CHAIN, Sealed};
use crate::merge::complete;
use crate::qemu_img::{self, Cancel};
use crate::replica::Replica;
use crate::room::Need;

/// Options of a branch's writable layer.
const OPTIONS: &str = "extended_l2=on,cluster_size=128k";

/// Images of each disk of a VM.
pub(crate) type Images = Vec<(DiskId, DiskImage)>;

/// What a branch is built from.
pub(crate) struct Plan {
    /// Number of the layer set below; none: the base alone.
    pub(crate) on: Option<usize>,
    /// That layer set, if it is a recovery point.
    point: Option<PointId>,
    position: Position,
    /// Disks of that layer set.
    pub(crate) disks: Vec<LogDisk>,
    /// Logs to replay onto it.
    pub(crate) logs: Vec<Entry>,
}

/// Makes a branch, or finishes making it.
pub(crate) fn branch(
    replica: &Replica,
    (id, target): (BranchId, Target),
    max_images: Option<usize>,
    cancel: &Cancel,
) -> Result<Images> {
    let manifest = replica.manifest();
    match manifest.branch(id) {
        Some(b) if b.target != target => {
            let why = format!("branch {id} exists on another recovery point");
            return Err(StoreError::Conflict(why));
        }
        Some(b) if b.complete => return images(replica, id),
        // What an interrupted call left may be incomplete, so it is made again.
        Some(_) => drop_branch(replica, id)?,
        None => manifest.not_promoted()?,
    }
    let plan = plan(replica, target)?;
    short_enough(&plan, max_images)?;
    // Its files are new: what was seen of earlier files of these names no longer counts.
    replica
        .presence
        .forget(&replica.dir.join("branches").join(id.to_string()));
    replica.take(logs::room_of(&plan.logs), Need::Urgent)?;
    let record = record(id, target, &plan)?;
    replica.change(|m| m.branches.push(record.clone()))?;
    if let Err(error) = make(replica, &record, &plan, cancel) {
        if error.lacks_room() {
            give_up(replica, id);
        }
        return Err(error);
    }
    replica.change(|m| {
        for branch in m.branches.iter_mut().filter(|b| b.id == id) {
            branch.complete = true;
        }
    })?;
    for layer in &record.layers {
        replica.proved(&replica.dir.join(&layer.file));
    }
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
        let layers = chain.into_iter().map(|image| ImageLayer {
            file: image.file,
            format: image.format,
        });
        let layers = layers.collect();
        (layer.disk.clone(), DiskImage::Chain { layers })
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
            replica.proved(&gone);
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

/// What a branch to `target` would be built from.
pub(crate) fn plan(replica: &Replica, target: Target) -> Result<Plan> {
    let state = replica.state.blocking_lock();
    let manifest = &state.manifest;
    let plan = |(on, sealed): (usize, &Sealed), position, logs| Plan {
        on: Some(on),
        point: Some(sealed.point.id),
        position,
        disks: sealed.disks(),
        logs,
    };
    let mut sets = manifest.points.iter().enumerate();
    match target {
        Target::Point { id } => {
            let set = sets.find(|(_, p)| !p.intermediate && p.point.id == id);
            let set = set.ok_or_else(|| StoreError::NoPoint(id.to_string()))?;
            Ok(plan(set, set.1.point.position, Vec::new()))
        }
        Target::Cycle { position } => {
            let no_instant = state.logs.to(position).is_some_and(|e| e.log.partial);
            // The newest point from which the logs lead there.
            let reach = |set: (usize, &Sealed)| {
                let logs = state.logs.between(set.1.point.position, position)?;
                Some(plan(set, position, logs))
            };
            let found = sets.rev().filter(|(_, p)| !p.intermediate).find_map(reach);
            let found = found.filter(|_| !no_instant);
            found.ok_or_else(|| StoreError::NoPoint(position.to_string()))
        }
        Target::Abandoned => match &manifest.kept {
            Some(kept) => Ok(Plan {
                on: kept.layer_sets.checked_sub(1),
                point: None,
                position: kept.what.since,
                disks: kept.disks.clone(),
                logs: Vec::new(),
            }),
            None => Err(StoreError::NoPoint("of abandoned content is kept".to_owned())),
        },
    }
}

/// Refuses a chain that this store does not make, or that no VM could be started on.
fn short_enough(plan: &Plan, max_images: Option<usize>) -> Result<()> {
    // Base, points, replay, branch.
    let sets = plan.on.map_or(0, |on| on + 1);
    let images = 1 + sets + usize::from(!plan.logs.is_empty()) + 1;
    if images > MAX_CHAIN {
        return Err(StoreError::Conflict(format!(
            "the chain of the branch would have {images} images, {MAX_CHAIN} is the limit; the oldest recovery points must expire first"
        )));
    }
    match max_images.filter(|most| images > *most) {
        None => Ok(()),
        Some(most) => Err(StoreError::Conflict(format!(
            "the chain of the branch would have {images} images, and this host's hypervisor opens at most {most}: bring up an \
             older recovery point, or keep fewer"
        ))),
    }
}

fn record(id: BranchId, target: Target, plan: &Plan) -> Result<Branch> {
    let disks = match plan.logs.last() {
        Some(last) => in_order(&plan.disks, &last.disks),
        None => plan.disks.clone(),
    };
    let named = |suffix: &str| {
        let layer = |d: &LogDisk| Layer {
            disk: d.id.clone(),
            file: format!("branches/{id}/{}{suffix}", d.id).into(),
            size: d.size,
        };
        disks.iter().map(layer).collect::<Vec<_>>()
    };
    let replay = if plan.logs.is_empty() {
        Vec::new()
    } else {
        named(".replay.qcow2")
    };
    Ok(Branch {
        id,
        target,
        on: plan.point,
        position: plan.position,
        complete: false,
        replay,
        layers: named(".qcow2"),
    })
}

fn make(replica: &Replica, branch: &Branch, plan: &Plan, cancel: &Cancel) -> Result<()> {
    let dir = replica.dir.join("branches").join(branch.id.to_string());
    replica.step("before a branch's directory is made")?;
    std::fs::create_dir_all(&dir).map_err(io_error("make", &dir))?;
    let manifest = replica.manifest();
    let mut chains = BTreeMap::new();
    for layer in &branch.replay {
        let mut chain = manifest.chain(&layer.disk, plan.on);
        make_base(replica, &chain, layer)?;
        let new = plan.disks.iter().all(|d| d.id != layer.disk);
        make_on(replica, layer, &chain, new)?;
        chain.push(Image::layer(&layer.file));
        chains.insert(layer.disk.clone(), replica.absolute(&chain));
    }
    if !branch.replay.is_empty() {
        replay(replica, &plan.logs, &chains, &plan.disks, Need::Urgent)?;
    }
    for layer in &branch.layers {
        let chain = manifest.branch_chain(branch, layer);
        if let Some(below) = chain.iter().rev().nth(1) {
            make_writable(replica, layer, below, cancel)?;
        }
    }
    firmware::copy_for(replica, branch.id)?;
    files::sync_dir(&dir)?;
    files::sync_dir(&replica.dir.join("branches"))?;
    replica.step("after a branch's files are synced")
}

fn make_writable(replica: &Replica, layer: &Layer, below: &Image, cancel: &Cancel) -> Result<()> {
    replica.step("before a writable layer is made")?;
    let path: Utf8PathBuf = replica.dir.join(&layer.file);
    let (backing, size) = (reference(&layer.file, &below.file), layer.size.to_string());
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
        below.format(),
        "-b",
        backing.as_str(),
        path.as_str(),
        size.as_str(),
    ];
    durable::write(&path, || Ok(()))?;
    qemu_img::run(&args, &path, cancel)?;
    files::sync_file(&path)
}
