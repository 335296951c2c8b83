//! Comparing a freshly sealed layer with the logs it was made of, before digests of it are recorded. The head is written
//! for hours before it is sealed; what rots in it meanwhile must not get a digest that calls it right. So what the layer
//! shows is read from the disk, logs from the newest to the oldest, and where it differs the digest of what should be
//! there is recorded: from then on it is damage like any other, and `repair` has what it needs.
//!
//! Not compared: what fills a cluster of which a log wrote only a part (a synchronization writes pieces of 4 KiB), and the
//! counters of the image, which are not read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::{Frame, FrameBody, Item};
use lifeboat_engine::ports::storage::StorageFaultKind as Kind;
use lifeboat_engine::ports::store::StoreError;
use lifeboat_model::{DiskId, PointId, Position, Timestamp};
use rangemap::RangeSet;
use rustix::fs::Advice;

use crate::apply;
use crate::chain::Image;
use crate::damage::{Bad, Sealed, sealed};
use crate::digest::{LAYER_BLOCK, PER_PAGE, Sidecar, digest};
use crate::divergence::extents;
use crate::files::{Result, io_error};
use crate::layer;
use crate::logs::{DIR, Entry, Reader};
use crate::manifest::{self, MadeOn, Manifest};
use crate::map::{Map, Piece};
use crate::qemu_img::Cancel;
use crate::replica::Replica;
use crate::scrub::{AT_ONCE, describe};

/// How long one call goes on.
const LONG_ENOUGH: Duration = Duration::from_millis(200);

/// Logs are held for this many of the newest points. A host that reads slower than its replicas are written to must not
/// run out of room; what is older gets its digests unproved.
const HELD_POINTS: usize = 4;

/// Most blocks of a layer that are put right one by one: 16 MiB. With more, it is not the layer that was written.
const MAX_BLOCKS: usize = 4096;

/// What zeros that have a place in a layer are compared with.
const ZEROS: &[u8] = &[0; 64 << 10];

/// The layers of one point, or of the head, on their way.
pub(crate) struct Proof {
    of: Subject,
    layers: Vec<Open>,
    /// Logs that were not read yet, oldest first.
    left: Vec<Entry>,
    reading: Option<(Reader, Vec<DiskId>)>,
}

/// Whose layers they are.
enum Subject {
    Point(PointId),
    /// What logs after this position write to it is not compared: it comes while the comparison goes on.
    Head {
        upto: Position,
    },
}

/// A layer that is compared.
struct Open {
    item: Sealed,
    map: Map,
    file: File,
    path: Utf8PathBuf,
    cluster: u64,
    /// Bytes that the logs read so far wrote.
    covered: RangeSet<u64>,
    /// Zeros that no log wrote may be here: what a disk that grew, or became smaller and grew again, must not show of larger
    /// images below.
    hides: std::ops::Range<u64>,
    /// Clusters in the middle of which such zeros begin.
    edges: BTreeSet<u64>,
    /// Blocks of the file as they should be.
    right: BTreeMap<u64, Vec<u8>>,
    /// Why its tables are wrong.
    wrong: Option<String>,
}

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
    fn new(of: Subject, layers: Vec<Open>, left: Vec<Entry>) -> Box<Self> {
        Box::new(Self {
            of,
            layers,
            left,
            reading: None,
        })
    }

    fn files(&self) -> BTreeSet<Utf8PathBuf> {
        self.layers.iter().map(|l| l.item.image.file.clone()).collect()
    }

    fn is_among(&self, layers: &[manifest::Layer]) -> bool {
        let has = |l: &Open| layers.iter().any(|m| m.file == l.item.image.file);
        self.layers.iter().all(has)
    }

    /// Whether these are layers of a point that is here.
    fn is_of(&self, manifest: &Manifest) -> bool {
        let Subject::Point(id) = &self.of else {
            return false;
        };
        let point = manifest.points.iter().find(|p| p.point.id == *id);
        point.is_some_and(|p| self.is_among(&p.layers))
    }

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

    /// Reads a piece of the newest log that was not read yet; bytes read of logs and layers, 0 at the end.
    fn read_on(&mut self, dir: &Utf8Path) -> Result<u64> {
        loop {
            let (reader, disks) = match &mut self.reading {
                Some(reading) => reading,
                None => {
                    let Some(entry) = self.left.pop() else {
                        return Ok(0);
                    };
                    let reader = Reader::open(dir.join(DIR).join(&entry.file))?;
                    self.reading.insert((reader, Vec::new()))
                }
            };
            let layers = &mut self.layers;
            let mut compared = 0;
            let read = reader.read(|item| {
                match item {
                    Item::Header(header) => *disks = header.disks.into_iter().map(|d| d.id).collect(),
                    Item::Frame(frame) => {
                        let disk = disks.get(usize::from(frame.disk));
                        let mut of = layers.iter_mut();
                        if let Some(layer) = of.find(|l| Some(&l.item.disk) == disk) {
                            compared += layer.compare(&frame)?;
                        }
                    }
                    Item::End(_) => {}
                }
                Ok(())
            })?;
            if read > 0 {
                return Ok(read + compared);
            }
            self.reading = None;
        }
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
    /// Compares what a log wrote, as far as no newer log wrote there; bytes of the layer that were read.
    fn compare(&mut self, frame: &Frame) -> Result<u64> {
        let len = match &frame.body {
            FrameBody::Data(data) => data.len() as u64,
            FrameBody::Zero(len) => *len,
        };
        let whole = frame.offset..frame.offset.saturating_add(len).min(self.item.size);
        if whole.is_empty() {
            return Ok(0);
        }
        let newest: Vec<_> = self.covered.gaps(&whole).collect();
        let mut read = 0;
        for range in newest {
            let mut at = range.start;
            let Some(pieces) = self.pieces(range.start, range.end)? else {
                break;
            };
            for piece in pieces {
                self.none_between(at, piece.offset);
                at = piece.offset + piece.len;
                read += self.piece(&piece, frame);
            }
            self.none_between(at, range.end);
        }
        self.covered.insert(whole);
        Ok(read)
    }

    /// What the layer holds of a range; none when its tables make no sense. A table that cannot be read is the disk's matter.
    fn pieces(&mut self, from: u64, to: u64) -> Result<Option<Vec<Piece>>> {
        match self.map.pieces(from, to) {
            Ok(pieces) => Ok(Some(pieces)),
            Err(StoreError::Io { what, source }) if source.raw_os_error().is_some() => {
                Err(StoreError::Io { what, source })
            }
            Err(e) => {
                self.is_wrong(e.to_string());
                Ok(None)
            }
        }
    }

    fn none_between(&mut self, from: u64, to: u64) {
        if from < to {
            self.is_wrong(format!(
                "it does not hold bytes {from} to {to} of the disk, which a log wrote"
            ));
        }
    }

    fn is_wrong(&mut self, why: String) {
        self.wrong.get_or_insert(why);
    }

    /// Compares a range that the layer holds; bytes that were read of it.
    fn piece(&mut self, piece: &Piece, frame: &Frame) -> u64 {
        match (&frame.body, piece.host) {
            (FrameBody::Data(data), host) => {
                let index = |n: u64| usize::try_from(n - frame.offset).unwrap_or(usize::MAX);
                let data = data.get(index(piece.offset)..index(piece.offset + piece.len));
                let data = data.unwrap_or_default();
                match host {
                    Some(host) => self.bytes(host, data),
                    None if data.iter().all(|b| *b == 0) => {}
                    None => self.is_wrong(format!(
                        "it shows zeros at byte {} of the disk, a log wrote data",
                        piece.offset
                    )),
                }
            }
            (FrameBody::Zero(_), Some(host)) => {
                for from in (0..piece.len).step_by(ZEROS.len()) {
                    let n = usize::try_from(piece.len - from).unwrap_or(usize::MAX);
                    self.bytes(host + from, ZEROS.get(..n).unwrap_or(ZEROS));
                }
            }
            (FrameBody::Zero(_), None) => {}
        }
        piece.host.map_or(0, |_| piece.len)
    }

    /// Compares a place in the file with what should be there.
    fn bytes(&mut self, host: u64, expected: &[u8]) {
        let mut there = vec![0; expected.len()];
        if self.file.read_exact_at(&mut there, host).is_ok() && there == expected {
            return;
        }
        let end = host + expected.len() as u64;
        for block in host / LAYER_BLOCK..end.div_ceil(LAYER_BLOCK) {
            let (from, to) = (block * LAYER_BLOCK, (block + 1) * LAYER_BLOCK);
            let index = |n: u64, start: u64| usize::try_from(n - start).unwrap_or(usize::MAX);
            let (a, b) = (from.max(host), to.min(end));
            let Some(should) = expected.get(index(a, host)..index(b, host)) else {
                continue;
            };
            let known = self.right.get(&block);
            let now = known.cloned().unwrap_or_else(|| self.block(block));
            if now.get(index(a, from)..index(b, from)) == Some(should) && known.is_none() {
                continue;
            }
            let mut right = now;
            match right.get_mut(index(a, from)..index(b, from)) {
                Some(place) => place.copy_from_slice(should),
                None => return self.is_wrong(format!("it ends before byte {b}, where a log wrote data")),
            }
            if self.right.len() >= MAX_BLOCKS {
                return self.is_wrong(format!(
                    "more than {MAX_BLOCKS} blocks are not what the logs wrote"
                ));
            }
            self.right.insert(block, right);
        }
    }

    /// A block as it is; zeros where it cannot be read.
    fn block(&self, block: u64) -> Vec<u8> {
        let from = block * LAYER_BLOCK;
        let len = self.file.metadata().map_or(0, |m| m.len()).saturating_sub(from);
        let mut bytes = vec![0; usize::try_from(len.min(LAYER_BLOCK)).unwrap_or_default()];
        if self.file.read_exact_at(&mut bytes, from).is_err() {
            bytes.fill(0);
        }
        bytes
    }

    /// Whether the layer holds nothing but what logs wrote, and what fills their clusters.
    fn nothing_else(&mut self) -> Result<()> {
        for (from, to) in self.map.windows(1 << 30) {
            crate::watch::beat();
            let Some(pieces) = self.pieces(from, to)? else {
                break;
            };
            let stray = pieces.iter().find_map(|piece| self.stray(piece));
            if let Some((start, end)) = stray {
                self.is_wrong(format!(
                    "it holds bytes {start} to {end} of the disk, which no log wrote"
                ));
            }
        }
        Ok(())
    }

    /// Whole clusters of a piece that no log wrote to, and that hide nothing: first byte of the disk, and end.
    fn stray(&self, piece: &Piece) -> Option<(u64, u64)> {
        let step = usize::try_from(self.cluster).unwrap_or(usize::MAX);
        let range = piece.offset..piece.offset + piece.len;
        let whole = self.covered.gaps(&range).map(|gap| {
            let end = if gap.end == self.item.size {
                gap.end
            } else {
                gap.end - gap.end % self.cluster
            };
            (gap.start.next_multiple_of(self.cluster), end)
        });
        let hides = |start: u64, end: u64| match piece.host {
            None => self.hides.start - self.hides.start % self.cluster <= start,
            Some(_) => (start..end).step_by(step).all(|at| self.edges.contains(&at)),
        };
        let mut whole = whole.filter(|(start, end)| start < end);
        whole.find(|(start, end)| !hides(*start, *end))
    }

    fn what_is_wrong(&self) -> Option<String> {
        let blocks = self.right.len();
        let data = (blocks > 0).then(|| format!("{blocks} blocks of its data differ"));
        self.wrong.clone().or(data)
    }

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
