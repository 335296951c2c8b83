//! The log directory: durable delta logs, each self-describing, found by their headers and linked by their positions.
//! A log is here if and only if its file is in the directory under its final name.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use camino::Utf8Path;
use lifeboat_deltalog::{Decoder, Header, Item, LogDisk, LogKind};
use lifeboat_engine::ports::ByteStream;
use lifeboat_engine::ports::store::{StoreError, StoredLog};
use lifeboat_model::{Position, Timestamp};

use crate::files::{self, Result, at};
use crate::receive::PIECE;
use crate::replica::Replica;

/// Directory of durable logs.
pub(crate) const DIR: &str = "logs";

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
    /// Logs after this position are not removed, for somebody who still has to get them.
    pub(crate) keep_after: Option<Position>,
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

impl Logs {
    /// Finds the logs that lead to and from `applied`; all others can never be used and are removed.
    pub(crate) fn scan(dir: &Utf8Path, applied: Position) -> Result<Self> {
        let mut found = HashMap::new();
        let mut useless = Vec::new();
        for name in files::names(dir)? {
            match read_header(&dir.join(&name))? {
                Some(entry) if entry.file == name => drop(found.insert(entry.log.position, entry)),
                Some(_) | None => useless.push(name),
            }
        }
        let mut entries = Vec::new();
        let mut back = applied;
        while let Some(entry) = found.remove(&back) {
            back = entry.log.parent;
            entries.push(entry);
        }
        entries.reverse();
        let mut by_parent: HashMap<Position, Entry> =
            found.into_values().map(|e| (e.log.parent, e)).collect();
        let mut forth = applied;
        while let Some(entry) = by_parent.remove(&forth) {
            forth = entry.log.position;
            entries.push(entry);
        }
        useless.extend(by_parent.into_values().map(|e| e.file));
        for name in useless {
            tracing::warn!(%dir, name, "removing a log that continues nothing here");
            files::remove(&dir.join(name))?;
        }
        Ok(Self {
            entries,
            keep_after: None,
        })
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

    /// How many of the oldest logs nobody asked to keep.
    fn not_kept(&self) -> usize {
        let Some(after) = self.keep_after else {
            return self.entries.len();
        };
        let first = self.entries.iter().position(|e| e.log.parent == after);
        let last = self.entries.last();
        match first {
            Some(first) => first,
            None if last.is_some_and(|e| e.log.position == after) => self.entries.len(),
            // Where it was is not known any more: everything here comes after it.
            None => 0,
        }
    }

    /// Removes the oldest logs as long as `useless` says so of each, but none after `keep_from`, which the head needs.
    pub(crate) fn trim(
        &mut self,
        dir: &Utf8Path,
        keep_from: Position,
        useless: impl Fn(&Entry) -> bool,
    ) -> Result<()> {
        let needed = self.entries.iter().position(|e| e.log.parent == keep_from);
        let free = needed.unwrap_or(self.entries.len()).min(self.not_kept());
        let count = self.entries.iter().take(free).take_while(|e| useless(e)).count();
        if count == 0 {
            return Ok(());
        }
        for entry in self.entries.iter().take(count) {
            files::remove(&dir.join(&entry.file))?;
        }
        files::sync_dir(dir)?;
        self.entries.drain(..count);
        Ok(())
    }

    /// Removes logs up to and including the one to `position`; nothing can be replayed onto an older point.
    pub(crate) fn trim_to(&mut self, dir: &Utf8Path, position: Position) -> Result<()> {
        let upto = self.entries.iter().position(|e| e.log.position == position);
        let Some(upto) = upto else { return Ok(()) };
        let gone: Vec<Position> = self
            .entries
            .iter()
            .take(upto + 1)
            .map(|e| e.log.position)
            .collect();
        self.trim(dir, position, |e| gone.contains(&e.log.position))
    }

    /// Removes logs with an instant before `before` that the head does not need.
    pub(crate) fn trim_before(&mut self, dir: &Utf8Path, floor: Position, before: Timestamp) -> Result<()> {
        self.trim(dir, floor, |e| e.log.instant < before)
    }
}

/// Reads what a file in the log directory says of itself; `None` when it is no log.
fn read_header(path: &Utf8Path) -> Result<Option<Entry>> {
    let file = File::open(path).map_err(at("open", path))?;
    let size = file.metadata().map_err(at("look at", path))?.len();
    let mut start = Vec::new();
    file.take(HEADER_ROOM)
        .read_to_end(&mut start)
        .map_err(at("read", path))?;
    let mut decoder = Decoder::new();
    decoder.push(&start);
    match decoder.next() {
        Ok(Some(Item::Header(header))) => Ok(Some(Entry::new(header, size, size))),
        Ok(_) | Err(_) => Ok(None),
    }
}

/// A stored log from `offset` on, as it is. Once opened it can be read to its end, whatever expires meanwhile.
pub(crate) fn stream(replica: &Replica, position: Position, offset: u64) -> Result<ByteStream> {
    let found = replica.state.blocking_lock().logs.to(position).cloned();
    let entry = found.ok_or_else(|| StoreError::NoPoint(position.to_string()))?;
    let path = replica.dir.join(DIR).join(&entry.file);
    if offset > entry.log.size {
        return Err(StoreError::Conflict(format!(
            "the log to {position} has {} bytes, it cannot be read from byte {offset} on",
            entry.log.size
        )));
    }
    let mut file = File::open(&path).map_err(at("open", &path))?;
    file.seek(SeekFrom::Start(offset)).map_err(at("read", &path))?;
    let file = tokio::fs::File::from_std(file);
    Ok(Box::pin(tokio_util::io::ReaderStream::with_capacity(file, PIECE)))
}

/// Reads a stored log again from the first byte to the last and hands out its items.
pub(crate) fn read(path: &Utf8Path, mut each: impl FnMut(Item) -> Result<()>) -> Result<()> {
    let damaged = |e: lifeboat_deltalog::DecodeError| StoreError::Damaged {
        path: path.to_owned(),
        detail: e.to_string(),
    };
    let mut file = File::open(path).map_err(at("open", path))?;
    let mut decoder = Decoder::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let n = file.read(&mut buffer).map_err(at("read", path))?;
        if n == 0 {
            return decoder.finish().map_err(damaged);
        }
        decoder.push(buffer.get(..n).unwrap_or_default());
        while let Some(item) = decoder.next().map_err(damaged)? {
            each(item)?;
        }
    }
}
