//! The log directory: durable delta logs, each self-describing, found by their headers and linked by their positions.
//! A log is here if and only if its file is in the directory under its final name.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::{Decoder, Header, Item, LOG_TAIL, LogDisk, LogKind, footer_len};
use lifeboat_engine::ports::ByteStream;
use lifeboat_engine::ports::store::{StoreError, StoredLog};
use lifeboat_model::Position;
use rustix::fs::Advice;

use crate::damaged;
use crate::error::{Result, io_error};
use crate::files;

/// Directory of durable logs.
pub(crate) const DIR: &str = "logs";

/// Directory of transfers under way.
pub(crate) const INCOMING: &str = "incoming";

/// Bytes handed to the decoder at once.
pub(crate) const PIECE: usize = 256 << 10;

/// What the kernel says of a block that cannot be read.
const EIO: i32 = 5;

/// Most bytes a header can need: 96 fixed, 64 disks of 24, a checksum.
const HEADER_ROOM: u64 = 4096;

/// One durable log.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) log: StoredLog,
    pub(crate) disks: Vec<LogDisk>,
    /// File name within [`DIR`].
    pub(crate) file: String,
    /// Disk bytes it writes, or the size of the file when it was found and not received.
    pub(crate) volume: u64,
}

/// Durable logs that continue one another, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Logs {
    pub(crate) entries: Vec<Entry>,
    /// Logs after this position are not removed, because the third host still has to get them.
    pub(crate) keep_after: Vec<Position>,
}

/// File name of the log to a position.
pub(crate) fn file_name(position: Position) -> String {
    format!("{}-{:020}.lbd", position.generation(), position.sequence())
}

impl Entry {
    /// Describes a log of `size` bytes.
    pub(crate) fn new(header: Header, size: u64, volume: u64) -> Self {
        Self {
            log: StoredLog {
                position: header.position,
                parent: header.parent,
                instant: header.instant,
                consistency: header.consistency,
                size,
                partial: header.kind == LogKind::Sync,
            },
            disks: header.disks,
            file: file_name(header.position),
            volume,
        }
    }
}

/// Bytes that layers can grow by when these logs, which continue one another, are written into them.
pub(crate) fn room_of(entries: &[Entry]) -> u64 {
    let written = entries.iter().map(|e| e.volume).fold(0, u64::saturating_add);
    let disks = entries
        .iter()
        .map(|e| e.disks.iter().map(|d| d.size).fold(0, u64::saturating_add));
    written.min(disks.max().unwrap_or(0))
}

/// Whether a file's name is one that [`file_name`] makes.
fn is_log(name: &str) -> bool {
    let parts = name.strip_suffix(".lbd").and_then(|n| n.rsplit_once('-'));
    parts.is_some_and(|(generation, sequence)| {
        generation.parse::<uuid::Uuid>().is_ok() && sequence.parse::<u64>().is_ok()
    })
}

/// Splits logs into those that `applied` came from or that continue it, oldest first, and the rest. A log of the same
/// generation from before a gap is kept: an older recovery point may lead to it.
fn link(all: Vec<Entry>, applied: Position) -> (Vec<Entry>, Vec<Entry>) {
    let mut found: HashMap<Position, Entry> = all.into_iter().map(|e| (e.log.position, e)).collect();
    let mut linked = Vec::new();
    let mut back = applied;
    while let Some(entry) = found.remove(&back) {
        back = entry.log.parent;
        linked.push(entry);
    }
    linked.reverse();
    let earlier = |e: &Entry| e.log.position.compare(applied) == Some(Ordering::Less);
    let (mut before, after): (Vec<Entry>, Vec<Entry>) = found.into_values().partition(earlier);
    before.sort_by(|a, b| a.log.position.compare(b.log.position).unwrap_or(Ordering::Equal));
    before.append(&mut linked);
    let mut by_parent: HashMap<Position, Entry> = after.into_iter().map(|e| (e.log.parent, e)).collect();
    let mut forth = applied;
    while let Some(entry) = by_parent.remove(&forth) {
        forth = entry.log.position;
        before.push(entry);
    }
    (before, by_parent.into_values().collect())
}

impl Logs {
    /// Finds the logs that lead to and from `applied` in the replica's directory. A damaged one, and what nothing leads
    /// to without it, is set aside; what is left over from an operation that ended it can never be used and is removed.
    pub(crate) fn scan(replica: &Utf8Path, applied: Position) -> Result<Self> {
        let dir = replica.join(DIR);
        let (mut found, mut damaged, mut useless) = (Vec::new(), Vec::new(), Vec::new());
        for name in files::names(&dir)? {
            match read_header(&dir.join(&name)) {
                Ok(Some(entry)) if entry.file == name => found.push(entry),
                Ok(Some(_) | None) if is_log(&name) => damaged.push(name),
                Ok(Some(_) | None) => useless.push(name),
                Err(StoreError::Io { source, .. }) if source.raw_os_error() == Some(EIO) => {
                    damaged.push(name)
                }
                Err(e) => return Err(e),
            }
        }
        let (entries, rest) = link(found, applied);
        for entry in rest {
            let same_line = entry.log.position.same_generation(applied);
            if same_line || !damaged.is_empty() {
                damaged.push(entry.file)
            } else {
                useless.push(entry.file)
            }
        }
        for name in damaged {
            damaged::set_aside(replica, &Utf8Path::new(DIR).join(name))?;
        }
        for name in useless {
            tracing::warn!(%dir, name, "removing a log that continues nothing here");
            files::remove(&dir.join(name))?;
        }
        Ok(Self {
            entries,
            keep_after: Vec::new(),
        })
    }

    /// Last position that can be reached from `applied` without a gap.
    pub(crate) fn reach(&self, applied: Position) -> Position {
        let next = self.entries.iter().skip_while(|e| e.log.parent != applied);
        let mut at = applied;
        for entry in next {
            if entry.log.parent != at {
                break;
            }
            at = entry.log.position;
        }
        at
    }

    /// Takes out what cannot be used any more once `applied` has moved or logs are gone, and returns it.
    pub(crate) fn relink(&mut self, applied: Position) -> Vec<Entry> {
        let (kept, rest) = link(std::mem::take(&mut self.entries), applied);
        self.entries = kept;
        rest
    }

    /// The log to a position.
    pub(crate) fn to(&self, position: Position) -> Option<&Entry> {
        self.entries.iter().find(|e| e.log.position == position)
    }

    /// The log that continues a position.
    pub(crate) fn after(&self, position: Position) -> Option<&Entry> {
        self.entries.iter().find(|e| e.log.parent == position)
    }

    /// The logs from one position to another, in order; `None` when one is missing.
    pub(crate) fn between(&self, from: Position, to: Position) -> Option<Vec<Entry>> {
        let mut path = Vec::new();
        let mut at = from;
        while at != to {
            let entry = self.after(at)?;
            at = entry.log.position;
            path.push(entry.clone());
        }
        Some(path)
    }

    /// How many of the oldest logs need not be kept.
    fn not_kept(&self) -> usize {
        let last = self.entries.last();
        let before = |after: &Position| match self.entries.iter().position(|e| e.log.parent == *after) {
            Some(first) => first,
            None if last.is_some_and(|e| e.log.position == *after) => self.entries.len(),
            // Where it was is not known any more: everything here comes after it.
            None => 0,
        };
        self.keep_after
            .iter()
            .map(before)
            .min()
            .unwrap_or(self.entries.len())
    }

    /// How many of the oldest logs go, up to and including the one to `upto`, but none after any of these positions.
    fn to_go(&self, needed: &[Position], upto: Position) -> usize {
        let continues = |at: &Position| self.entries.iter().position(|e| e.log.parent == *at);
        let first = needed.iter().filter_map(continues).min();
        let free = first.unwrap_or(self.entries.len()).min(self.not_kept());
        let upto = self.entries.iter().position(|e| e.log.position == upto);
        upto.map_or(0, |at| at + 1).min(free)
    }

    /// Where the last of those leads to.
    pub(crate) fn last_to_go(&self, needed: &[Position], upto: Position) -> Option<Position> {
        let last = self.to_go(needed, upto).checked_sub(1)?;
        self.entries.get(last).map(|e| e.log.position)
    }

    /// Removes logs up to and including the one to `upto`, but none after any of these positions, which are needed. A
    /// position from which no log leads on holds nothing back.
    pub(crate) fn trim(&mut self, dir: &Utf8Path, needed: &[Position], upto: Position) -> Result<()> {
        let count = self.to_go(needed, upto);
        if count == 0 {
            return Ok(());
        }
        // Out of the list first: whatever fails below, a file that may be gone is not counted on.
        let gone: Vec<Entry> = self.entries.drain(..count).collect();
        for entry in gone {
            files::remove(&dir.join(&entry.file))?;
        }
        files::sync_dir(dir)
    }
}

/// Reads what a file in the log directory says of itself; `None` when it is no log, or one that was cut.
pub(crate) fn read_header(path: &Utf8Path) -> Result<Option<Entry>> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let size = file.metadata().map_err(io_error("look at", path))?.len();
    if !ends_well(&file, size).map_err(io_error("read", path))? {
        return Ok(None);
    }
    let mut start = Vec::new();
    file.take(HEADER_ROOM)
        .read_to_end(&mut start)
        .map_err(io_error("read", path))?;
    let mut decoder = Decoder::new();
    decoder.push(&start);
    match decoder.next() {
        Ok(Some(Item::Header(header))) => Ok(Some(Entry::new(header, size, size))),
        Ok(_) | Err(_) => Ok(None),
    }
}

/// Whether a file ends as a log does.
fn ends_well(file: &File, size: u64) -> std::io::Result<bool> {
    let mut tail = [0; LOG_TAIL];
    let Some(end) = size.checked_sub(LOG_TAIL as u64) else {
        return Ok(false);
    };
    file.read_exact_at(&mut tail, end)?;
    Ok(footer_len(&tail).is_some_and(|len| len <= size))
}

/// A stored log from `offset` on, as it is. Once opened it can be read to its end, whatever expires meanwhile.
pub(crate) fn stream(replica: &Utf8Path, entry: &Entry, offset: u64) -> Result<ByteStream> {
    let path = replica.join(DIR).join(&entry.file);
    if offset > entry.log.size {
        return Err(StoreError::Conflict(format!(
            "the log to {} has {} bytes, it cannot be read from byte {offset} on",
            entry.log.position, entry.log.size
        )));
    }
    let mut file = File::open(&path).map_err(io_error("open", &path))?;
    file.seek(SeekFrom::Start(offset))
        .map_err(io_error("read", &path))?;
    let file = tokio::fs::File::from_std(file);
    Ok(Box::pin(tokio_util::io::ReaderStream::with_capacity(file, PIECE)))
}

/// A stored log that is read in pieces, from the disk and not from memory.
pub(crate) struct Reader {
    pub(crate) path: Utf8PathBuf,
    file: File,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl Reader {
    pub(crate) fn open(path: Utf8PathBuf) -> Result<Self> {
        let file = File::open(&path).map_err(io_error("open", &path))?;
        let len = NonZeroU64::new(file.metadata().map_err(io_error("look at", &path))?.len());
        // Advice: where it is not taken, a copy in memory is read.
        let _ = rustix::fs::fadvise(&file, 0, len, Advice::DontNeed);
        Ok(Self::of(path, file))
    }

    fn of(path: Utf8PathBuf, file: File) -> Self {
        Self {
            path,
            file,
            decoder: Decoder::new(),
            buffer: vec![0; PIECE],
        }
    }

    /// Reads on and hands out items; bytes read, 0 at the end. The log is whole only when its end was reached without an
    /// error.
    pub(crate) fn read(&mut self, mut each: impl FnMut(Item) -> Result<()>) -> Result<u64> {
        let damaged = |e: lifeboat_deltalog::DecodeError| StoreError::Damaged {
            path: self.path.clone(),
            detail: e.to_string(),
        };
        crate::watch::beat();
        let n = self
            .file
            .read(&mut self.buffer)
            .map_err(io_error("read", &self.path))?;
        if n == 0 {
            std::mem::take(&mut self.decoder).finish().map_err(damaged)?;
            return Ok(0);
        }
        self.decoder.push(self.buffer.get(..n).unwrap_or_default());
        while let Some(item) = self.decoder.next().map_err(damaged)? {
            each(item)?;
        }
        Ok(n as u64)
    }
}

/// Reads a stored log again from the first byte to the last and hands out its items.
pub(crate) fn read(path: &Utf8Path, mut each: impl FnMut(Item) -> Result<()>) -> Result<()> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let mut reader = Reader::of(path.to_owned(), file);
    while reader.read(&mut each)? > 0 {}
    Ok(())
}
