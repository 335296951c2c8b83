//! Comparing a freshly sealed layer with the logs it was made of, before digests of it are recorded. The head is written
//! for hours before it is sealed; what rots in it meanwhile must not get a digest that calls it right. So what the layer
//! shows is read from the disk, logs from the newest to the oldest, and where it differs the digest of what should be
//! there is recorded: from then on it is damage like any other, and `repair` has what it needs.
//!
//! Not compared: what fills a cluster of which a log wrote only a part (a synchronization writes pieces of 4 KiB), and the
//! counters of the image, which are not read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::time::{Duration, Instant};

use camino::Utf8PathBuf;
use lifeboat_engine::ports::storage::StorageFaultKind as Kind;
use lifeboat_engine::ports::store::StoreError;
use lifeboat_model::{Position, Timestamp};
use rangemap::RangeSet;
use rustix::fs::Advice;

use crate::apply;
use crate::chain::Image;
use crate::comparison::{Open, Proof, Subject};
use crate::damage::{Bad, Sealed, sealed};
use crate::digest::{PER_PAGE, Sidecar, digest};
use crate::divergence::extents;
use crate::error::{Result, io_error};
use crate::layer;
use crate::logs::{DIR, Entry};
use crate::manifest::{self, MadeOn, Manifest};
use crate::map::Map;
use crate::progress::AT_ONCE;
use crate::qemu_img::Cancel;
use crate::replica::Replica;
use crate::shown::describe;

/// How long one call goes on.
const LONG_ENOUGH: Duration = Duration::from_millis(200);

/// Logs are held for this many of the newest points. A host that reads slower than its replicas are written to must not
/// run out of room; what is older gets its digests unproved.
const HELD_POINTS: usize = 4;

/// What a step came to.
#[derive(Default)]
pub(crate) struct Stepped {
    pub(crate) read: u64,
    /// Blocks that were found to be damaged, and layers.
    pub(crate) found: u64,
    /// These layers are through.
    pub(crate) through: BTreeSet<Utf8PathBuf>,
}

/// The position after which logs are still needed: that of the oldest layer that was not compared yet.
pub(crate) fn needs(replica: &Replica, manifest: &Manifest) -> Option<Position> {
    let scrub = replica.scrub();
    let newest = manifest.points.len().saturating_sub(HELD_POINTS);
    let points = manifest.points.iter().skip(newest);
    points
        .filter_map(|p| Some((p.made.as_ref()?.position, p.layers.iter())))
        .find_map(|(since, mut layers)| {
            let bads = &scrub.damage.bads;
            // A repair takes what it needs from the logs.
            let pending = |l: &manifest::Layer| bads.iter().any(|b| b.file == l.file && !b.hopeless);
            let waits = layers.any(|l| !scrub.is_through(&l.file) || pending(l));
            waits.then_some(since)
        })
}

/// Goes on with the sealed layers that were not compared yet; none when there are no such layers.
pub(crate) fn step(
    replica: &Replica,
    manifest: &Manifest,
    now: Timestamp,
    cancel: &Cancel,
) -> Result<Option<Stepped>> {
    let under_way = {
        let mut scrub = replica.scrub();
        let of_point = scrub.proof.as_ref().is_some_and(|p| p.is_of(manifest));
        of_point.then(|| scrub.proof.take()).flatten()
    };
    let proof = match under_way {
        Some(proof) => proof,
        None => match begin(replica, manifest, now)? {
            Begun::Nothing => return Ok(None),
            Begun::Through(stepped) => return Ok(Some(stepped)),
            Begun::Proof(proof) => proof,
        },
    };
    go_on(proof, replica, now, cancel).map(Some)
}

/// Goes on with the head; none when there is nothing to compare, or it is gone. A head that is not what the logs wrote is
/// thrown away: it is built of them again.
pub(crate) fn head(
    replica: &Replica,
    manifest: &Manifest,
    now: Timestamp,
    cancel: &Cancel,
) -> Result<Option<Stepped>> {
    let under_way = replica.scrub().proof.take();
    let proof = match under_way {
        Some(mut proof) => {
            if proof.follow(replica, manifest)? {
                proof
            } else {
                // It was sealed, and is compared as a layer, or thrown away.
                return Ok(None);
            }
        }
        None => match begin_head(replica, manifest)? {
            Begun::Nothing => return Ok(None),
            Begun::Through(stepped) => return Ok(Some(stepped)),
            Begun::Proof(proof) => proof,
        },
    };
    go_on(proof, replica, now, cancel).map(Some)
}

fn go_on(mut proof: Box<Proof>, replica: &Replica, now: Timestamp, cancel: &Cancel) -> Result<Stepped> {
    let began = Instant::now();
    let mut stepped = Stepped::default();
    while stepped.read < AT_ONCE && began.elapsed() < LONG_ENOUGH {
        cancel.check()?;
        match proof.read_on(&replica.dir) {
            Ok(0) => {
                stepped.through = proof.files();
                stepped.found = proof.finish(replica, now)?;
                return Ok(stepped);
            }
            Ok(n) => stepped.read += n,
            // The scrub finds that the log is damaged; there is nothing to compare with.
            Err(StoreError::Damaged { path, detail }) => {
                tracing::warn!(%path, detail, "a log cannot be compared with the layer made of it");
                stepped.through = proof.files();
                return Ok(stepped);
            }
            Err(e) => return Err(e),
        }
    }
    replica.scrub().proof = Some(proof);
    Ok(stepped)
}

/// How a comparison begins.
enum Begun {
    /// Every layer is through.
    Nothing,
    /// These layers can be compared with nothing, or not be opened.
    Through(Stepped),
    Proof(Box<Proof>),
}

fn begin(replica: &Replica, manifest: &Manifest, now: Timestamp) -> Result<Begun> {
    let waiting = {
        let scrub = replica.scrub();
        let waits = |l: &manifest::Layer| !scrub.is_through(&l.file);
        let mut sets = manifest.points.iter().enumerate();
        sets.find_map(|(n, p)| {
            let made = p.made.as_ref()?;
            p.layers.iter().any(waits).then_some((n, p, made))
        })
    };
    let Some((index, point, made)) = waiting else {
        return Ok(Begun::Nothing);
    };
    let mut stepped = Stepped {
        through: point.layers.iter().map(|l| l.file.clone()).collect(),
        ..Stepped::default()
    };
    let Some(left) = logs(replica, made.position, point.point.position) else {
        return Ok(Begun::Through(stepped));
    };
    let items = sealed(manifest).into_iter();
    let items = items.filter(|s| s.index == Some(index) && s.image.ours);
    let (layers, closed) = open_all(replica, items, made, &left);
    for (item, e) in closed {
        tracing::warn!(file = %item.image.file, error = %e, "a sealed layer cannot be opened");
        stepped.found += table(replica, &item, &e.to_string(), now)?;
    }
    if layers.is_empty() {
        return Ok(Begun::Through(stepped));
    }
    // What could not be opened is found again, and counted once, if this is broken off.
    Ok(Begun::Proof(Proof::new(
        Subject::Point(point.point.id),
        layers,
        left,
    )))
}

fn begin_head(replica: &Replica, manifest: &Manifest) -> Result<Begun> {
    let made = manifest.made_on();
    let (Some(head), Some(left)) = (
        manifest.head.as_ref().filter(|h| !h.dirty),
        logs(replica, made.position, manifest.applied),
    ) else {
        return Ok(Begun::Nothing);
    };
    let items = head.layers.iter().map(|layer| Sealed {
        image: Image::layer(&layer.file),
        disk: layer.disk.clone(),
        index: Some(manifest.points.len()),
        size: layer.size,
    });
    let (layers, closed) = open_all(replica, items, &made, &left);
    if let Some((item, e)) = closed.first() {
        throw_away(replica, item, &e.to_string())?;
        return Ok(Begun::Through(Stepped {
            read: 0,
            found: 1,
            through: BTreeSet::from([item.image.file.clone()]),
        }));
    }
    let upto = manifest.applied;
    Ok(Begun::Proof(Proof::new(Subject::Head { upto }, layers, left)))
}

/// The logs that lead from one position to another, if all are here.
fn logs(replica: &Replica, from: Position, to: Position) -> Option<Vec<Entry>> {
    replica.state.blocking_lock().logs.between(from, to)
}

/// Opens layers; those that cannot be are apart.
fn open_all(
    replica: &Replica,
    items: impl Iterator<Item = Sealed>,
    made: &MadeOn,
    logs: &[Entry],
) -> (Vec<Open>, Vec<(Sealed, StoreError)>) {
    let (mut layers, mut closed) = (Vec::new(), Vec::new());
    for item in items {
        match open(replica, &item, made, logs) {
            Ok(open) => layers.push(open),
            Err(e) => closed.push((item, e)),
        }
    }
    (layers, closed)
}

fn throw_away(replica: &Replica, item: &Sealed, why: &str) -> Result<()> {
    let path = replica.dir.join(&item.image.file);
    tracing::warn!(%path, why, "the newest layer is not what the logs wrote");
    let detail = format!("it was not what the logs wrote ({why}); it is built from the logs again");
    apply::discard_head(replica)?;
    replica.faults.note(Kind::Rebuilt, &path, detail);
    Ok(())
}

fn open(replica: &Replica, item: &Sealed, made: &MadeOn, logs: &[Entry]) -> Result<Open> {
    let path = replica.dir.join(&item.image.file);
    let map = Map::open(&path, item.size)?;
    let file = File::open(&path).map_err(io_error("open", &path))?;
    let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
    // A disk that was not there before hides everything below.
    let before = made
        .disks
        .iter()
        .find(|d| d.id == item.disk)
        .map_or(0, |d| d.size);
    let later = logs.iter().flat_map(|e| &e.disks).filter(|d| d.id == item.disk);
    let sizes: Vec<u64> = later.map(|d| d.size).chain([before, item.size]).collect();
    let cluster = layer::cluster_size(&path)?.max(1);
    Ok(Open {
        item: item.clone(),
        edges: sizes.iter().map(|size| size - size % cluster).collect(),
        cluster,
        map,
        file,
        path,
        covered: RangeSet::new(),
        hides: sizes.iter().copied().min().unwrap_or(0)..item.size,
        right: BTreeMap::new(),
        wrong: None,
    })
}

impl Proof {
    /// Takes in what was written to the head since the last step; false when this is not the head.
    fn follow(&mut self, replica: &Replica, manifest: &Manifest) -> Result<bool> {
        let Subject::Head { upto } = &mut self.of else {
            return Ok(false);
        };
        let newer = logs(replica, *upto, manifest.applied);
        *upto = manifest.applied;
        let head = manifest.head.as_ref().filter(|h| !h.dirty);
        let (Some(newer), Some(head)) = (newer, head) else {
            return Ok(false);
        };
        for entry in newer {
            let path = replica.dir.join(DIR).join(&entry.file);
            for (disk, ranges) in entry.disks.iter().zip(extents(&path, &entry)?) {
                for layer in self.layers.iter_mut().filter(|l| l.item.disk == disk.id) {
                    let written = ranges.iter().map(|(from, len)| *from..from + len);
                    layer.covered.extend(written);
                }
            }
        }
        Ok(self.is_among(&head.layers))
    }

    /// Records what is wrong.
    fn finish(self, replica: &Replica, now: Timestamp) -> Result<u64> {
        let mut found = 0;
        for mut layer in self.layers {
            layer.nothing_else()?;
            match &self.of {
                Subject::Point(_) => found += layer.record(replica, now)?,
                Subject::Head { .. } => {
                    if let Some(why) = layer.what_is_wrong() {
                        throw_away(replica, &layer.item, &why)?;
                        return Ok(1);
                    }
                }
            }
        }
        Ok(found)
    }
}

impl Open {
    /// Records the digests of what should be there, and the damage; how much of it is new.
    fn record(self, replica: &Replica, now: Timestamp) -> Result<u64> {
        if let Some(why) = &self.wrong {
            tracing::warn!(path = %self.path, why, "a sealed layer is not what the logs wrote");
            return table(replica, &self.item, why, now);
        }
        if self.right.is_empty() {
            return Ok(0);
        }
        let mut sidecar = Sidecar::of(&replica.dir, &self.item.image)?;
        let pages: BTreeSet<u64> = self.right.keys().map(|block| block / PER_PAGE).collect();
        for number in pages {
            let mut page = sidecar.page(number)?;
            for (block, right) in self.right.range(number * PER_PAGE..(number + 1) * PER_PAGE) {
                page.set(*block, digest(right));
            }
            sidecar.put(number, &page)?;
        }
        sidecar.sync()?;
        let seen = "its data differs from what the logs wrote".to_owned();
        let found = self.right.keys().map(|block| (*block, seen.clone()));
        let bads = describe(&replica.dir, &self.item, found.collect(), now);
        replica.note_bads(bads, self.item.size)
    }
}

/// A layer whose tables are wrong shows anything.
fn table(replica: &Replica, item: &Sealed, why: &str, now: Timestamp) -> Result<u64> {
    let bad = Bad::whole(item, format!("it is not what the logs wrote: {why}"), now);
    replica.note_bads(vec![bad], item.size)
}
