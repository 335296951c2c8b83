//! Applying logs to the head and sealing it. The head is a cache of the newest point and the logs since: it is marked
//! dirty before it is touched and clean when it is durable, and a dirty one is thrown away and built again. So no power
//! cut can leave a damaged image under a guest.

use std::collections::BTreeMap;

use camino::Utf8Path;
use lifeboat_deltalog::{Consistency, Frame, FrameBody, Header, Item, LogDisk};
use lifeboat_engine::ports::storage::StorageFaultKind as Kind;
use lifeboat_engine::ports::store::{Point, StoreError, StoredLog};
use lifeboat_model::{Arrival, Changed, DiskId, PointId, Position, Timestamp};
use uuid::Uuid;

use crate::chain::{Image, reference};
use crate::error::{Result, io_error};
use crate::files;
use crate::layer::{self, Writer};
use crate::logs::{self, Entry};
use crate::manifest::{Head, Layer, MAX_CHAIN, Manifest, Sealed, own_base};
use crate::replica::{Replica, absolute, absolute_one};
use crate::room::{Need, STEP};
use crate::steps::Steps;
use crate::{damaged, durable};

/// Applies the next durable log.
pub(crate) fn apply(replica: &Replica) -> Result<Option<StoredLog>> {
    let applied = replica.manifest().applied;
    let next = replica.state.blocking_lock().logs.after(applied).cloned();
    apply_through(replica, next.map_or(applied, |e| e.log.position))
}

/// Applies the durable logs up to the one to `last` as one, which marks the head dirty once and makes it durable once. Ends
/// before a log with other disks or sizes than the first one has.
pub(crate) fn apply_through(replica: &Replica, last: Position) -> Result<Option<StoredLog>> {
    let manifest = replica.manifest();
    manifest.not_promoted()?;
    replica.all_there()?;
    if manifest.head.is_some_and(|h| h.dirty) || replica.lost_head().is_some() {
        discard_head(replica)?;
    }
    let entries = next_through(replica, last);
    let Some(end) = entries.last().cloned() else {
        return Ok(None);
    };
    replica.take(logs::room_of(&entries), Need::Ordinary)?;
    let applied = start_head(replica, &end).and_then(|chains| {
        let changed = replay(replica, &entries, &chains, &manifest.disks, Need::Ordinary)?;
        replica.step("after the head is synced")?;
        replica.change(|m| {
            m.applied = end.log.position;
            m.disks = in_order(&m.disks, &end.disks);
            if let Some(head) = &mut m.head {
                head.dirty = false;
                head.changed = head.changed.and(changed);
                set_sizes(&mut head.layers, &end.disks);
            }
        })
    });
    match applied {
        Ok(()) => Ok(Some(end.log)),
        Err(e) if e.lacks_room() => {
            // A dirty head has to be built again in any case, and removing it may free the space that is missing.
            discard_head(replica)?;
            Err(e)
        }
        Err(e) => {
            give_up_damaged(replica, &e)?;
            Err(e)
        }
    }
}

/// Sets a log aside whose content is not what was received: nothing would ever lead past it. What it was to lead to is then
/// found to be without it, and the copies are compared. The head may hold a part of it and goes.
fn give_up_damaged(replica: &Replica, error: &StoreError) -> Result<()> {
    let StoreError::Damaged { path, .. } = error else {
        return Ok(());
    };
    let file = match path.strip_prefix(&replica.dir) {
        Ok(file) if file.starts_with(logs::DIR) => file,
        Ok(_) | Err(_) => return Ok(()),
    };
    // What memory has of it may be wrong while the medium is right.
    durable::drop_cache(path)?;
    let Err(StoreError::Damaged { .. }) = logs::read(path, |_| Ok(())) else {
        return Ok(());
    };
    discard_head(replica)?;
    replica.step("before a damaged log is set aside")?;
    damaged::set_aside(&replica.dir, file).map(drop)
}

/// The logs from the applied position up to `last`, as far as they have the same disks. After a head was thrown away those
/// between the newest point and what had been applied are among them.
fn next_through(replica: &Replica, last: Position) -> Vec<Entry> {
    let state = replica.state.blocking_lock();
    let mut found: Vec<Entry> = Vec::new();
    let mut at = state.manifest.applied;
    while let Some(next) = state.logs.after(at) {
        if found.first().is_some_and(|first| first.disks != next.disks) {
            break;
        }
        at = next.log.position;
        found.push(next.clone());
        if at == last {
            break;
        }
    }
    found
}

/// Whether a disk has become smaller than the head's layer of it.
fn smaller(manifest: &Manifest, entry: &Entry) -> bool {
    let mut layers = manifest.head.iter().flat_map(|h| &h.layers);
    layers.any(|l| entry.disks.iter().any(|d| d.id == l.disk && d.size < l.size))
}

/// Makes the head a layer set below, which is no recovery point: an image is never cut, because what is above it would show
/// what was cut off once it grows again.
fn set_head_apart(manifest: &mut Manifest) {
    let made = manifest.made_on();
    if let Some(head) = manifest.head.take() {
        let mut set = intermediate(manifest.applied, head.layers);
        set.made = Some(made);
        manifest.points.push(set);
    }
}

/// An intermediate layer set.
pub(crate) fn intermediate(position: Position, layers: Vec<Layer>) -> Sealed {
    Sealed {
        point: Point {
            id: PointId(Uuid::new_v4()),
            position,
            instant: Timestamp(0),
            consistency: Consistency::Crash,
            size: 0,
            arrived: None,
            changed: None,
        },
        layers,
        made: None,
        intermediate: true,
    }
}

/// Seals the head.
pub(crate) fn seal(replica: &Replica, id: PointId, arrived: Option<Arrival>) -> Result<Point> {
    replica.all_there()?;
    if let Some((path, detail)) = replica.lost_head() {
        return Err(StoreError::Damaged { path, detail });
    }
    let point = seal_whole(replica, id, arrived)?;
    // What was lost before it matters to older instants only.
    replica
        .faults
        .end(|f| f.kind == Kind::Rebuilt || (f.kind == Kind::Lost && f.path == replica.dir.join(logs::DIR)));
    Ok(point)
}

fn seal_whole(replica: &Replica, id: PointId, arrived: Option<Arrival>) -> Result<Point> {
    let mut state = replica.state.blocking_lock();
    let manifest = &state.manifest;
    manifest.not_promoted()?;
    let conflict = |why: String| Err(StoreError::Conflict(why));
    let Some(head) = manifest.head.clone() else {
        return match manifest.point_at(manifest.applied) {
            Some(sealed) => Ok(sealed.point.clone()),
            None => conflict(format!(
                "nothing was applied to the replica of VM {} yet",
                manifest.vm
            )),
        };
    };
    if head.dirty {
        return conflict("the head is being built again; apply the logs first".to_owned());
    }
    if manifest.points.iter().any(|p| p.point.id == id) {
        return conflict(format!("recovery point {id} exists at another position"));
    }
    // Base, points, and room for a replay layer and a branch on top.
    if manifest.points.len() + 4 > MAX_CHAIN {
        return conflict(format!(
            "VM {} has {} recovery points, more would make the image chain too long; the oldest must expire first",
            manifest.vm,
            manifest.points.len()
        ));
    }
    let Some(entry) = state.logs.to(manifest.applied) else {
        return conflict(format!("the log to {} is gone", manifest.applied));
    };
    if entry.log.partial {
        return conflict(format!(
            "the disks of VM {} are being resynchronized and are not consistent; the delta that closes it must come first",
            manifest.vm
        ));
    }
    let size = head
        .layers
        .iter()
        .map(|l| files::usage(&replica.dir.join(&l.file)));
    let point = Point {
        id,
        position: entry.log.position,
        instant: entry.log.instant,
        consistency: entry.log.consistency,
        size: size.sum(),
        arrived,
        changed: Some(head.changed),
    };
    let sealed = Sealed {
        point: point.clone(),
        layers: head.layers,
        made: Some(manifest.made_on()),
        intermediate: false,
    };
    replica.commit(&mut state, |m| {
        m.points.push(sealed);
        m.head = None;
    })?;
    Ok(point)
}

/// Throws the head away; the logs since the newest point are applied again.
pub(crate) fn discard_head(replica: &Replica) -> Result<()> {
    let manifest = replica.manifest();
    for layer in manifest.head.iter().flat_map(|h| &h.layers) {
        files::remove(&replica.dir.join(&layer.file))?;
    }
    replica.change(Manifest::discard_head)?;
    replica.unlink_unusable(&mut replica.state.blocking_lock())
}

/// Marks the head dirty, making what is missing of it first, and returns the chain of each disk, absolute.
fn start_head(replica: &Replica, entry: &Entry) -> Result<BTreeMap<DiskId, Vec<Image>>> {
    let manifest = replica.manifest();
    let apart = smaller(&manifest, entry);
    let mut number = manifest.next_layer;
    let mut head = manifest.head.clone().filter(|_| !apart).unwrap_or(Head {
        dirty: true,
        layers: Vec::new(),
        changed: manifest.head.as_ref().map(|h| h.changed).unwrap_or_default(),
    });
    head.dirty = true;
    let mut fresh = Vec::new();
    for disk in in_order(&manifest.disks, &entry.disks) {
        if !head.layers.iter().any(|l| l.disk == disk.id) {
            fresh.push(fresh_layer(&disk, entry.log.position, &mut number));
        }
    }
    head.layers.extend(fresh.iter().cloned());
    replica.change(|m| {
        if apart {
            set_head_apart(m);
        }
        m.head = Some(head.clone());
        m.next_layer = number;
    })?;
    let manifest = replica.manifest();
    let newest = manifest.points.len().checked_sub(1);
    let mut chains = BTreeMap::new();
    for layer in &head.layers {
        let mut chain = manifest.chain(&layer.disk, newest);
        if fresh.contains(layer) {
            make_base(replica, &chain, layer)?;
            let new = manifest.disks.iter().all(|d| d.id != layer.disk);
            make_on(replica, layer, &chain, new)?;
        }
        chain.push(Image::layer(&layer.file));
        chains.insert(layer.disk.clone(), replica.absolute(&chain));
    }
    replica.sync_dirs(&fresh)?;
    Ok(chains)
}

/// Names the next layer of a disk.
pub(crate) fn fresh_layer(disk: &LogDisk, position: Position, number: &mut u64) -> Layer {
    let sequence = position.sequence();
    let file = format!("disks/{}/{sequence:012}-{number:04x}.qcow2", disk.id).into();
    *number += 1;
    Layer {
        disk: disk.id.clone(),
        file,
        size: disk.size,
    }
}

/// Makes the empty base of a disk that the replica did not have before. That of any other disk must be there: what is
/// above it would believe an empty one.
pub(crate) fn make_base(replica: &Replica, chain: &[Image], layer: &Layer) -> Result<()> {
    if chain
        .first()
        .is_none_or(|base| base.file != own_base(&layer.disk))
    {
        return Ok(());
    }
    let held = replica.manifest().disks_with_base().any(|d| *d == layer.disk);
    make_base_in(&replica.dir, &layer.disk, layer.size, held)?;
    replica.step("after a base is made")
}

/// As [`make_base`], in a replica that is not open; `held`: the disk has content, so that its base is one that was made before. A
/// base that is there is left as it is.
pub(crate) fn make_base_in(dir: &Utf8Path, disk: &DiskId, size: u64, held: bool) -> Result<()> {
    let path = dir.join(own_base(disk));
    if path.exists() {
        return Ok(());
    }
    if held {
        return Err(StoreError::Damaged {
            path,
            detail: "it is gone; put it back, or replicate this VM again".to_owned(),
        });
    }
    let parent = path.parent().unwrap_or(dir);
    std::fs::create_dir_all(parent).map_err(io_error("make", parent))?;
    files::replace_with(&path, |file| file.set_len(size))?;
    files::sync_dir(parent.parent().unwrap_or(dir))
}

/// Makes an empty layer on top of a chain (relative paths). Of a disk that is `new` here nothing may show that a disk of
/// the same name left below.
pub(crate) fn make_on(replica: &Replica, layer: &Layer, chain: &[Image], new: bool) -> Result<()> {
    make_on_in(&replica.dir, layer, chain, new, &replica.steps)
}

/// As [`make_on`], in a replica that is not open.
pub(crate) fn make_on_in(
    dir: &Utf8Path,
    layer: &Layer,
    chain: &[Image],
    new: bool,
    steps: &Steps,
) -> Result<()> {
    let Some(below) = chain.last() else { return Ok(()) };
    steps.pass("before a layer is made")?;
    let path = dir.join(&layer.file);
    let parent = path.parent().unwrap_or(dir);
    std::fs::create_dir_all(parent).map_err(io_error("make", parent))?;
    layer::create(
        &path,
        layer.size,
        &reference(&layer.file, &below.file),
        below.format,
    )?;
    let mut chain = absolute(dir, chain);
    let left_over = chain.len() > 1 || chain.iter().any(|i| files::usage(&i.file) > 0);
    let from = if new && left_over {
        0
    } else {
        chain.last().map_or(Ok(0), layer::size_of)?
    };
    if layer::shows_beyond(&chain, from, layer.size)? {
        chain.push(absolute_one(dir, &Image::layer(&layer.file)));
        layer::cover(dir, &chain, from, layer.size)?;
    }
    files::sync_file(&path)
}

/// Writes logs in order into the topmost image of each chain, which begins with disks of these sizes, and makes them durable.
/// What those of whole instants changed.
pub(crate) fn replay(
    replica: &Replica,
    entries: &[Entry],
    chains: &BTreeMap<DiskId, Vec<Image>>,
    before: &[LogDisk],
    need: Need,
) -> Result<Changed> {
    let mut changed = Changed::default();
    let Some(last) = entries.last() else {
        return Ok(changed);
    };
    let mut writers = BTreeMap::new();
    for (disk, chain) in chains {
        let size = last.disks.iter().find(|d| d.id == *disk).map_or(0, |d| d.size);
        writers.insert(disk.clone(), (Writer::open(&replica.dir, chain, size)?, size));
    }
    let mut disks = before;
    let mut room = 0;
    for entry in entries {
        for disk in &entry.disks {
            let had = disks.iter().find(|d| d.id == disk.id).map_or(0, |d| d.size);
            if let Some((writer, size)) = writers.get_mut(&disk.id)
                && disk.size < had.min(*size)
            {
                writer.zero(disk.size, had.min(*size) - disk.size)?;
            }
        }
        disks = &entry.disks;
        let path = replica.dir.join(logs::DIR).join(&entry.file);
        let mut header: Option<Header> = None;
        logs::read(&path, |item| {
            let frame = match item {
                Item::Header(h) => {
                    header = Some(h);
                    return Ok(());
                }
                Item::Frame(frame) => frame,
                Item::End(_) => return Ok(()),
            };
            let disk = header.as_ref().and_then(|h| h.disks.get(usize::from(frame.disk)));
            let Some((writer, size)) = disk.and_then(|d| writers.get_mut(&d.id)) else {
                return Err(StoreError::Damaged {
                    path: path.clone(),
                    detail: "it writes to a disk that this replica does not have".to_owned(),
                });
            };
            let Some(frame) = within(frame, *size) else {
                return Ok(());
            };
            let cost = writer.cost(&frame);
            if cost > room {
                room = cost.max(STEP);
                replica.take(room, need)?;
            }
            room -= cost;
            if !entry.log.partial {
                note(&mut changed, &frame.body);
            }
            writer.write(frame)
        })?;
        replica.step("after a log is written into layers")?;
    }
    for (writer, _) in writers.into_values() {
        let path = writer.finish()?;
        replica.proved(&path);
        replica.step("after a layer is synced")?;
    }
    Ok(changed)
}

/// Adds what a frame changes.
fn note(changed: &mut Changed, body: &FrameBody) {
    match body {
        FrameBody::Data(data) => changed.wrote(data),
        FrameBody::Zero(len) => changed.zeroed(*len),
    }
}

/// What a frame writes to a disk that has become this small since.
fn within(mut frame: Frame, size: u64) -> Option<Frame> {
    let left = size.checked_sub(frame.offset).filter(|left| *left > 0)?;
    match &mut frame.body {
        FrameBody::Data(data) => data.truncate(usize::try_from(left).unwrap_or(usize::MAX)),
        FrameBody::Zero(len) => *len = left.min(*len),
    }
    Some(frame)
}

/// The log's sizes in the replica's order of disks; disks that are new to it come last.
pub(crate) fn in_order(have: &[LogDisk], said: &[LogDisk]) -> Vec<LogDisk> {
    let size = |d: &LogDisk| said.iter().find(|s| s.id == d.id).map_or(d.size, |s| s.size);
    let known = have.iter().map(|d| LogDisk {
        id: d.id.clone(),
        size: size(d),
    });
    let new = said.iter().filter(|s| have.iter().all(|d| d.id != s.id));
    known.chain(new.cloned()).collect()
}

/// Records the sizes layers were grown to.
pub(crate) fn set_sizes(layers: &mut [Layer], disks: &[LogDisk]) {
    for layer in layers {
        if let Some(disk) = disks.iter().find(|d| d.id == layer.disk) {
            layer.size = disk.size;
        }
    }
}
