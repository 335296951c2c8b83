//! The first and the last moment of a replica, and what a start of the daemon does with one: after a crash anywhere the
//! manifest is one that was valid, so recovery is to drop what it calls unfinished and to remove what it does not name.

use std::fs;

use camino::Utf8Path;
use lifeboat_deltalog::LogDisk;
use lifeboat_engine::ports::storage::StorageFaultKind as Kind;
use lifeboat_engine::ports::store::StoreError;
use lifeboat_kernel::AtRest;
use lifeboat_model::{Position, VmId};

use crate::apply::discard_head;
use crate::damaged;
use crate::digest;
use crate::error::{Result, io_error};
use crate::export;
use crate::files;
use crate::layer;
use crate::locked;
use crate::logs::{self, Logs};
use crate::manifest::{self, Manifest};
use crate::replica::Replica;
use crate::room::Room;
use crate::steps::Steps;
use crate::twin::{self, Found};

/// Makes an empty replica in `dir`, or finds the same one there. A directory that is made is encrypted where there is a key for it.
pub(crate) fn create(
    (dir, at_rest): (&Utf8Path, &AtRest),
    vm: VmId,
    disks: &[LogDisk],
    start: Position,
    steps: &Steps,
) -> Result<()> {
    make((dir, at_rest), Manifest::new(vm, disks, start), steps)
}

/// Makes what an empty manifest says, or finds the same there.
fn make((dir, at_rest): (&Utf8Path, &AtRest), new: Manifest, steps: &Steps) -> Result<()> {
    if let Some(there) = twin::load(dir)?.map(|f| f.manifest).filter(|m| !m.destroying) {
        let same = there.created == new.created && there.logs_alone == new.logs_alone;
        if there.vm == new.vm && same && there.start == new.start {
            // An earlier call may have failed at exactly this step.
            return files::sync_dir(dir.parent().unwrap_or(dir));
        }
        if there.vm == new.vm && is_leftover(dir, &there)? {
            // The directory is left over from an offer that was never answered.
            remove(dir, steps)?;
            return make((dir, at_rest), new, steps);
        }
        return Err(StoreError::Conflict(format!(
            "the storage location holds a replica of VM {} with other disks or of another generation; remove it first",
            there.vm
        )));
    }
    make_home(dir, at_rest)?;
    make_dirs(dir)?;
    steps.pass("after the directories are made")?;
    for disk in &new.created {
        let path = dir.join(manifest::own_base(&disk.id));
        let parent = path.parent().unwrap_or(dir);
        fs::create_dir_all(parent).map_err(io_error("make", parent))?;
        files::replace_with(&path, |file| file.set_len(disk.size))?;
        steps.pass("after a base is made")?;
    }
    files::sync_dir(&dir.join("disks"))?;
    new.save(dir)?;
    files::sync_dir(dir.parent().unwrap_or(dir))
}

/// Makes a place for logs alone in `dir`, which continue `start`. Logs that continue another start go.
pub(crate) fn begin_logs(
    (dir, at_rest): (&Utf8Path, &AtRest),
    vm: VmId,
    start: Position,
    steps: &Steps,
) -> Result<()> {
    if let Some(there) = twin::load(dir)?.map(|f| f.manifest)
        && there.logs_alone
        && there.vm == vm
        && (there.start != start || there.destroying)
    {
        remove(dir, steps)?;
    }
    make((dir, at_rest), Manifest::of_logs(vm, start), steps)
}

/// Whether nothing has ever arrived in a replica.
pub(crate) fn is_leftover(dir: &Utf8Path, m: &Manifest) -> Result<bool> {
    let empty = m.points.is_empty() && m.applied == m.start && m.head.is_none() && m.promoted.is_none();
    let nothing = m.bulk.iter().all(|b| b.done == 0) && files::names(&dir.join(logs::DIR))?.is_empty();
    Ok(empty && nothing)
}

/// Makes the replica's directory where it has to be encrypted, before anything is in it.
pub(crate) fn make_home(dir: &Utf8Path, at_rest: &AtRest) -> Result<()> {
    let made = at_rest.make(dir.as_std_path());
    made.map_err(|e| locked::refusal(dir, &e))
}

pub(crate) fn make_dirs(dir: &Utf8Path) -> Result<()> {
    for name in ["disks", "branches", logs::DIR, logs::INCOMING] {
        let path = dir.join(name);
        fs::create_dir_all(&path).map_err(io_error("make", &path))?;
    }
    Ok(())
}

/// Opens the replica in `dir` and finishes or undoes what was interrupted.
pub(crate) fn open(dir: &Utf8Path, vm: VmId, room: Room, steps: Steps) -> Result<Replica> {
    let Some(Found { manifest, recovered }) = twin::load(dir)? else {
        // The last trace of a deletion that was cut short is an empty directory; this removes nothing else.
        let _ = fs::remove_dir(dir);
        return Err(StoreError::NoReplica(vm));
    };
    if manifest.vm != vm {
        let why = format!("{dir} holds a replica of VM {}, not of {vm}", manifest.vm);
        return Err(StoreError::Conflict(why));
    }
    if manifest.destroying {
        remove(dir, &steps)?;
        return Err(StoreError::NoReplica(vm));
    }
    make_dirs(dir)?;
    all_there(dir, &manifest)?;
    if recovered.is_some() {
        twin::restore(dir, &manifest)?;
    }
    // A process that ended in the middle may have renamed a file and not made that durable; from here on it counts.
    files::sync_dir(dir)?;
    files::sync_dir(&dir.join(logs::DIR))?;
    files::remove_tree(&dir.join(export::DIR))?;
    let promoted = manifest.promoted.is_some();
    let logs = if promoted {
        Logs::default()
    } else {
        Logs::scan(dir, manifest.applied)?
    };
    for name in [manifest::NAME, twin::COPY] {
        files::remove(&dir.join(name).with_extension("tmp"))?;
    }
    let replica = Replica::new(manifest, logs, room, steps);
    if let Some(why) = recovered {
        let detail = format!("{why}; the copy beside it was used, and the head is built again");
        replica
            .faults
            .note(Kind::Rebuilt, &dir.join(manifest::NAME), detail);
    }
    replica.change(|m| m.branches.retain(|b| b.complete))?;
    let head = replica.manifest().head;
    let bad = |l: &manifest::Layer| !layer::opens(&dir.join(&l.file));
    if head.is_some_and(|h| h.dirty || h.layers.iter().any(bad)) {
        tracing::info!(%vm, "the replica's head was not closed; it is built again from its logs");
        discard_head(&replica)?;
    }
    let durable = replica.state.blocking_lock().durable();
    drop_useless_parts(dir, durable, promoted)?;
    replica.sweep()?;
    let mut state = replica.state.blocking_lock();
    state.copy = twin::read(dir, twin::COPY).unwrap_or_default();
    replica.keep_copy(&mut state);
    drop(state);
    replica.look();
    Ok(replica)
}

/// Whether every image that cannot be made again is there.
fn all_there(dir: &Utf8Path, manifest: &Manifest) -> Result<()> {
    for file in manifest.needed() {
        if !dir.join(&file).is_file() {
            return Err(StoreError::Damaged {
                path: dir.join(file),
                detail: "it is missing; restore it or replicate this VM again".to_owned(),
            });
        }
    }
    Ok(())
}

/// Removes transfers that cannot go on: foreign names, and logs that are durable already.
fn drop_useless_parts(dir: &Utf8Path, durable: Position, promoted: bool) -> Result<()> {
    let parts = dir.join(logs::INCOMING);
    for name in files::names(&parts)? {
        let number = name.strip_suffix(".part").and_then(|n| n.rsplit_once('-'));
        let useful = number.is_some_and(|(generation, sequence)| {
            let position = generation.parse().ok().zip(sequence.parse().ok());
            let position = position.map(|(g, n)| Position::from_parts(g, n));
            position.is_some_and(|p| durable.at_or_after(p) != Some(true))
        });
        if promoted || !useful {
            files::remove(&parts.join(name))?;
        }
    }
    Ok(())
}

/// Deletes a replica that is marked for it; the mark goes last.
pub(crate) fn remove(dir: &Utf8Path, steps: &Steps) -> Result<()> {
    for name in [
        "branches",
        "disks",
        logs::DIR,
        logs::INCOMING,
        export::DIR,
        damaged::DIR,
        digest::DIR,
    ] {
        steps.pass("before a directory is removed")?;
        files::remove_tree(&dir.join(name))?;
    }
    for name in files::names(dir)? {
        if manifest::is_divergence(&name) || name == crate::firmware::NAME {
            files::remove(&dir.join(name))?;
        }
    }
    files::remove(&dir.join(twin::COPY))?;
    files::sync_dir(dir)?;
    files::remove(&dir.join(manifest::NAME))?;
    steps.pass("after the manifest is removed")?;
    match fs::remove_dir(dir) {
        Ok(()) => files::sync_dir(dir.parent().unwrap_or(dir)),
        // There are other files; they are not Lifeboat's to delete.
        Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
        Err(e) => Err(io_error("remove", dir)(e)),
    }
}
