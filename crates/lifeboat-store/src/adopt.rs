//! How content that is here already becomes a replica: the administrator's images, the branch that had become the VM's
//! disks, or a replica from which another generation goes on. Nothing is copied. The content becomes the lower part of every
//! chain, an empty layer set on top of it has the position that logs continue, and the manifest that says so is
//! replaced once. Until then everything is what it was.

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::{Consistency, LogDisk};
use lifeboat_engine::ports::store::{Abandoned, Adoption, Origin, Point, StoreError};
use lifeboat_kernel::AtRest;
use lifeboat_model::{BranchId, DiskFormat, DiskId, PointId, Position, Timestamp, VmId};

use crate::apply::{fresh_layer, intermediate, make_base_in, make_on_in};
use crate::bulk::still_empty;
use crate::error::{Result, io_error};
use crate::files;
use crate::layer;
use crate::logs;
use crate::manifest::{Adopted, Base, Kept, Layer, MAX_CHAIN, Manifest, Sealed};
use crate::merge::drop_parts;
use crate::replica::{Replica, absolute_one};
use crate::steps::Steps;
use crate::twin;
use crate::{chain, divergence, open};

/// Images of this host become the base of a replica in `dir`.
pub(crate) fn images(
    (dir, at_rest): (&Utf8Path, &AtRest),
    vm: VmId,
    adoption: &Adoption,
    images: &[(DiskId, Utf8PathBuf, DiskFormat)],
    steps: &Steps,
) -> Result<()> {
    if let Some(there) = twin::load(dir)?.map(|f| f.manifest).filter(|m| !m.destroying) {
        if there.vm == vm && is_repeated(&there, adoption) {
            // An earlier call may have failed at exactly this step.
            return files::sync_dir(dir.parent().unwrap_or(dir));
        }
        let replaceable = nothing_arrived(dir, &there)? && !there.bases.is_empty();
        if there.vm != vm || !(replaceable || open::is_leftover(dir, &there)?) {
            return Err(StoreError::Conflict(format!(
                "the storage location holds a replica of VM {} already; remove it first",
                there.vm
            )));
        }
        open::remove(dir, steps)?;
    }
    open::make_home(dir, at_rest)?;
    open::make_dirs(dir)?;
    steps.pass("after the directories are made")?;
    let mut manifest = Manifest::new(vm, &adoption.disks, adoption.start);
    let mut held = Vec::new();
    for (disk, path, format) in images {
        let base = Base {
            disk: disk.clone(),
            path: camino::absolute_utf8(path).map_err(io_error("resolve", path))?,
            format: *format,
        };
        let image = chain::Image {
            file: base.path.clone(),
            format: base.format,
            ours: false,
        };
        layer::stands_alone(&image)?;
        held.push(LogDisk {
            id: disk.clone(),
            size: layer::size_of(&image)?,
        });
        manifest.bases.push(base);
    }
    manifest.adopted = Some(Adopted { branch: None });
    let content = Content {
        layer_sets: 0,
        disks: held,
    };
    set_up(dir, &mut manifest, adoption, content, steps)?;
    steps.pass("before the manifest is replaced")?;
    manifest.save(dir)?;
    files::sync_dir(dir.parent().unwrap_or(dir))
}

/// The replica that is here, or the branch promoted in it, becomes a replica of another generation.
pub(crate) fn here(replica: &Replica, adoption: &Adoption) -> Result<()> {
    let manifest = replica.manifest();
    if is_repeated(&manifest, adoption) {
        return Ok(());
    }
    if let (Some(_), Some(branch)) = (&adoption.keep, manifest.branch_on_kept()) {
        return Err(StoreError::Busy(format!(
            "branch {} on the abandoned content",
            branch.id
        )));
    }
    let mut next = manifest.clone();
    if nothing_arrived(&replica.dir, &manifest)?
        && manifest.branches.is_empty()
        && same_origin(&manifest, adoption)
    {
        // The layer set of the other start, and what was kept because of it.
        next.points.pop();
        if next
            .kept
            .as_ref()
            .is_some_and(|k| k.layer_sets == next.points.len())
        {
            next.kept = None;
        }
    } else {
        take_over(replica, &mut next, &adoption.origin)?;
    }
    if next.points.len() + 5 > MAX_CHAIN {
        return Err(StoreError::Conflict(format!(
            "the disks of VM {} have chains of {} images, more would make them too long; the oldest recovery points must expire first",
            replica.vm,
            next.points.len()
        )));
    }
    let content = Content {
        layer_sets: next.points.len(),
        disks: next.floor_disks(),
    };
    set_up(&replica.dir, &mut next, adoption, content, &replica.steps)?;
    let mut state = replica.state.blocking_lock();
    replica.commit(&mut state, |m| *m = next)?;
    state.logs.entries.clear();
    drop(state);
    drop_parts(replica)?;
    replica.sweep()
}

/// Lets go of what was kept.
pub(crate) fn drop_abandoned(replica: &Replica) -> Result<()> {
    let manifest = replica.manifest();
    if let (Some(_), Some(branch)) = (&manifest.kept, manifest.branch_on_kept()) {
        return Err(StoreError::Busy(format!(
            "branch {} on the abandoned content",
            branch.id
        )));
    }
    replica.change(|m| m.kept = None)
}

/// Makes the complete initial copy the first recovery point.
pub(crate) fn finish_bulk(
    replica: &Replica,
    id: PointId,
    instant: Timestamp,
    consistency: Consistency,
) -> Result<Point> {
    let mut manifest = replica.manifest();
    if let Some(there) = manifest.point_at(manifest.start) {
        return Ok(there.point.clone());
    }
    still_empty(&replica.state.blocking_lock())?;
    let missing = |d: &&LogDisk| !manifest.bulk.iter().any(|b| b.disk == d.id && b.done >= d.size);
    if let Some(disk) = manifest.disks.iter().find(missing) {
        return Err(StoreError::Conflict(format!(
            "the initial copy of disk \"{}\" is not complete",
            disk.id
        )));
    }
    let sealed = Some((id, instant, consistency));
    let (start, disks) = (manifest.start, manifest.disks.clone());
    let set = empty_set(
        &replica.dir,
        &mut manifest,
        start,
        (&disks, &disks),
        sealed,
        &replica.steps,
    )?;
    let mut state = replica.state.blocking_lock();
    still_empty(&state)?;
    replica.commit(&mut state, |m| {
        m.points.push(set.clone());
        m.next_layer = manifest.next_layer;
    })?;
    Ok(set.point)
}

/// What was here before.
struct Content {
    layer_sets: usize,
    disks: Vec<LogDisk>,
}

fn is_repeated(manifest: &Manifest, adoption: &Adoption) -> bool {
    manifest.adopted.is_some() && manifest.start == adoption.start
}

/// Whether a replica is as it was when it was adopted.
fn nothing_arrived(dir: &Utf8Path, m: &Manifest) -> Result<bool> {
    let untouched = m.adopted.is_some() && m.applied == m.start && m.head.is_none();
    let on_top = m.points.last().is_some_and(|p| p.point.position == m.start);
    Ok(untouched && on_top && files::names(&dir.join(logs::DIR))?.is_empty())
}

fn same_origin(manifest: &Manifest, adoption: &Adoption) -> bool {
    let branch = manifest.adopted.as_ref().and_then(|a| a.branch);
    match &adoption.origin {
        Origin::Images(_) => false,
        Origin::Promoted(wanted) => branch == Some(*wanted),
        Origin::Here => true,
    }
}

/// Turns what is here into layer sets that are no recovery points yet.
fn take_over(replica: &Replica, next: &mut Manifest, origin: &Origin) -> Result<()> {
    match origin {
        Origin::Images(_) => Ok(()),
        Origin::Promoted(branch) => take_branch(replica, next, *branch),
        Origin::Here => {
            next.not_promoted()?;
            if next.head.as_ref().is_some_and(|h| h.dirty) {
                return Err(StoreError::Conflict(
                    "the head is being built again; apply the logs first".to_owned(),
                ));
            }
            if let Some(head) = next.head.take() {
                next.points.push(intermediate(next.applied, head.layers));
            }
            next.adopted = Some(Adopted { branch: None });
            Ok(())
        }
    }
}

fn take_branch(replica: &Replica, next: &mut Manifest, id: BranchId) -> Result<()> {
    let promoted = next.promoted.take().filter(|p| p.branch == id);
    let branch = next.branches.iter().find(|b| b.id == id && b.complete).cloned();
    let (Some(promoted), Some(branch)) = (promoted, branch) else {
        return Err(StoreError::NoBranch(id));
    };
    let depth = promoted.below.iter().map(|b| b.files.len()).max().unwrap_or(0);
    for n in 0..depth {
        let layer = |b: &crate::manifest::Below| {
            let file = b.files.get(n)?.clone();
            Some(sized(replica, b.disk.clone(), file))
        };
        let layers = promoted.below.iter().filter_map(layer);
        let layers = layers.collect::<Result<Vec<_>>>()?;
        next.points.push(intermediate(branch.position, layers));
    }
    // A guest may have had its disk grown.
    let own = branch.layers.iter();
    let own = own.map(|l| sized(replica, l.disk.clone(), l.file.clone()));
    let own = intermediate(branch.position, own.collect::<Result<Vec<_>>>()?);
    next.disks = own.disks();
    next.points.push(own);
    next.branches.retain(|b| b.id != id);
    next.adopted = Some(Adopted { branch: Some(id) });
    Ok(())
}

fn sized(replica: &Replica, disk: DiskId, file: Utf8PathBuf) -> Result<Layer> {
    let image = absolute_one(&replica.dir, &chain::Image::layer(&file));
    let size = layer::size_of(&image)?;
    Ok(Layer { disk, file, size })
}

/// Everything but the content: what the replica is from now on.
fn set_up(
    dir: &Utf8Path,
    next: &mut Manifest,
    adoption: &Adoption,
    content: Content,
    steps: &Steps,
) -> Result<()> {
    next.start = adoption.start;
    next.applied = adoption.start;
    next.created.clone_from(&adoption.disks);
    next.bulk.clear();
    for disk in &adoption.disks {
        next.bulk.push(lifeboat_engine::ports::store::BulkProgress {
            disk: disk.id.clone(),
            done: disk.size,
        });
        if next.bases.iter().all(|b| b.disk != disk.id) {
            let held = content.disks.iter().any(|d| d.id == disk.id);
            make_base_in(dir, &disk.id, disk.size, held)?;
            steps.pass("after a base is made")?;
        }
    }
    let disks = (adoption.disks.as_slice(), content.disks.as_slice());
    let set = empty_set(dir, next, adoption.start, disks, adoption.sealed, steps)?;
    next.points.push(set);
    next.disks.clone_from(&adoption.disks);
    if let Some(what) = &adoption.keep {
        next.kept = Some(Kept {
            what: Abandoned { ..what.clone() },
            layer_sets: content.layer_sets,
            disks: content.disks,
        });
    }
    steps.pass("before the ranges are written")?;
    next.divergence = Some(divergence::save(dir, next.next_layer, &adoption.divergence)?);
    next.next_layer += 1;
    Ok(())
}

/// Makes an empty layer set on top of all others, for the first disks; the second are those that the content has.
fn empty_set(
    dir: &Utf8Path,
    manifest: &mut Manifest,
    position: Position,
    (disks, known): (&[LogDisk], &[LogDisk]),
    sealed: Option<(PointId, Timestamp, Consistency)>,
    steps: &Steps,
) -> Result<Sealed> {
    let mut layers = Vec::new();
    for disk in disks {
        let layer = fresh_layer(disk, position, &mut manifest.next_layer);
        let chain = manifest.chain(&disk.id, manifest.points.len().checked_sub(1));
        let new = known.iter().all(|d| d.id != disk.id);
        make_on_in(dir, &layer, &chain, new, steps)?;
        let path = dir.join(&layer.file);
        files::sync_dir(path.parent().unwrap_or(dir))?;
        layers.push(layer);
    }
    let mut set = intermediate(position, layers);
    if let Some((id, instant, consistency)) = sealed {
        set.intermediate = false;
        set.point.id = id;
        set.point.instant = instant;
        set.point.consistency = consistency;
        let paths = set.layers.iter().map(|l| dir.join(&l.file));
        set.point.size = paths.map(|p| files::usage(&p)).sum();
    }
    Ok(set)
}
