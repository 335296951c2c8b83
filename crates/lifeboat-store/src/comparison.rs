//! A comparison of layers with the logs they were made of, as it goes on: what the layers show is read from the disk, logs from the
//! newest to the oldest. Which layers are compared, and what follows from a difference, `proof` decides.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::{Frame, FrameBody, Item};
use lifeboat_engine::ports::store::StoreError;
use lifeboat_model::{DiskId, PointId, Position};
use rangemap::RangeSet;

use crate::damage::Sealed;
use crate::digest::LAYER_BLOCK;
use crate::error::Result;
use crate::logs::{DIR, Entry, Reader};
use crate::manifest::{self, Manifest};
use crate::map::{Map, Piece};

/// Most blocks of a layer that are put right one by one: 16 MiB. With more, it is not the layer that was written.
const MAX_BLOCKS: usize = 4096;

/// What zeros that have a place in a layer are compared with.
const ZEROS: &[u8] = &[0; 64 << 10];

/// The layers of one point, or of the head, on their way.
pub(crate) struct Proof {
    pub(crate) of: Subject,
    pub(crate) layers: Vec<Open>,
    /// Logs that were not read yet, oldest first.
    pub(crate) left: Vec<Entry>,
    pub(crate) reading: Option<(Reader, Vec<DiskId>)>,
}

/// Whose layers they are.
pub(crate) enum Subject {
    Point(PointId),
    /// What logs after this position write to it is not compared: it comes while the comparison goes on.
    Head {
        upto: Position,
    },
}

/// A layer that is compared.
pub(crate) struct Open {
    pub(crate) item: Sealed,
    pub(crate) map: Map,
    pub(crate) file: File,
    pub(crate) path: Utf8PathBuf,
    pub(crate) cluster: u64,
    /// Bytes that the logs read so far wrote.
    pub(crate) covered: RangeSet<u64>,
    /// Zeros that no log wrote may be here: what a disk that grew, or became smaller and grew again, must not show of larger
    /// images below.
    pub(crate) hides: std::ops::Range<u64>,
    /// Clusters in the middle of which such zeros begin.
    pub(crate) edges: BTreeSet<u64>,
    /// Blocks of the file as they should be.
    pub(crate) right: BTreeMap<u64, Vec<u8>>,
    /// Why its tables are wrong.
    pub(crate) wrong: Option<String>,
}

impl Proof {
    /// One of these layers, which these logs were made into.
    pub(crate) fn new(of: Subject, layers: Vec<Open>, left: Vec<Entry>) -> Box<Self> {
        Box::new(Self {
            of,
            layers,
            left,
            reading: None,
        })
    }

    /// Files of the layers.
    pub(crate) fn files(&self) -> BTreeSet<Utf8PathBuf> {
        self.layers.iter().map(|l| l.item.image.file.clone()).collect()
    }

    /// Whether all layers are among these.
    pub(crate) fn is_among(&self, layers: &[manifest::Layer]) -> bool {
        let has = |l: &Open| layers.iter().any(|m| m.file == l.item.image.file);
        self.layers.iter().all(has)
    }

    /// Whether these are layers of a point that is here.
    pub(crate) fn is_of(&self, manifest: &Manifest) -> bool {
        let Subject::Point(id) = &self.of else {
            return false;
        };
        let point = manifest.points.iter().find(|p| p.point.id == *id);
        point.is_some_and(|p| self.is_among(&p.layers))
    }

    /// Reads a piece of the newest log that was not read yet; bytes read of logs and layers, 0 at the end.
    pub(crate) fn read_on(&mut self, dir: &Utf8Path) -> Result<u64> {
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
    pub(crate) fn nothing_else(&mut self) -> Result<()> {
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

    /// What was found, in words; `None`: nothing.
    pub(crate) fn what_is_wrong(&self) -> Option<String> {
        let blocks = self.right.len();
        let data = (blocks > 0).then(|| format!("{blocks} blocks of its data differ"));
        self.wrong.clone().or(data)
    }
}
