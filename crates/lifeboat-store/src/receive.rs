//! Taking in a log: every byte is checked before it is kept, a transfer that breaks off goes on where it stopped, and
//! a log gets its final name only when it is whole and durable.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::{DecodeError, Decoder, Header, Item, LogKind};
use lifeboat_engine::ports::store::{Received, StoreError};
use lifeboat_model::Position;

use crate::durable;
use crate::error::{Result, io_error};
use crate::files;
use crate::logs::{self, Entry, INCOMING, PIECE};
use crate::replica::{Chunks, Replica, State};
use crate::room::{Need, STEP};
use crate::watch;

/// File name of the transfer of the log to a position.
pub(crate) fn part_name(position: Position) -> String {
    format!("{}-{:020}.part", position.generation(), position.sequence())
}

/// A log that is arriving.
struct Part<'a> {
    replica: &'a Replica,
    position: Position,
    path: Utf8PathBuf,
    file: io::BufWriter<File>,
    decoder: Decoder,
    header: Option<Header>,
    /// Disk bytes the log writes; known at its end.
    volume: Option<u64>,
    len: u64,
    checked: u64,
}

/// Receives the log to `position`, `offset` bytes of which are here.
pub(crate) fn receive(
    replica: &Replica,
    position: Position,
    offset: u64,
    mut body: Chunks,
) -> Result<Received> {
    {
        let state = replica.state.blocking_lock();
        state.manifest.not_promoted()?;
        if let Some(received) = already(&state, position) {
            return Ok(received);
        }
    }
    // Nothing is acknowledged on top of what is gone.
    replica.all_there()?;
    let mut part = Part::open(replica, position, offset)?;
    let mut broken = None;
    while let Some(chunk) = next(&mut body) {
        match chunk {
            Ok(bytes) => part.take(&bytes).map_err(|e| part.forget(e))?,
            Err(e) => {
                broken = Some(e);
                break;
            }
        }
    }
    let flushed = durable::write(&part.path, || part.file.flush());
    flushed.map_err(|e| part.forget(e))?;
    if broken.is_some() || part.volume.is_none() {
        return Err(part.interrupted(broken));
    }
    part.complete()
}

/// The next bytes. Waiting for them is no waiting for the disk.
pub(crate) fn next(body: &mut Chunks) -> Option<io::Result<bytes::Bytes>> {
    watch::rest();
    let chunk = body.blocking_recv();
    watch::beat();
    chunk
}

/// How much of the log to `position` an interrupted transfer left.
pub(crate) fn offset(replica: &Replica, position: Position) -> u64 {
    let path = replica.dir.join(INCOMING).join(part_name(position));
    std::fs::metadata(path).map_or(0, |m| m.len())
}

/// The answer for a log that is durable already.
fn already(state: &State, position: Position) -> Option<Received> {
    let durable = state.durable();
    if let Some(entry) = state.logs.to(position) {
        return Some(Received {
            durable,
            instant: entry.log.instant,
            bytes: entry.log.size,
            partial: entry.log.partial,
        });
    }
    let older = durable.at_or_after(position) == Some(true);
    let point = state
        .manifest
        .point_at(position)
        .or(state.manifest.points.first());
    let instant = point.map(|p| p.point.instant);
    (older && !position.is_start()).then(|| Received {
        durable,
        instant: instant.unwrap_or_default(),
        bytes: 0,
        partial: false,
    })
}

impl<'a> Part<'a> {
    /// Opens the part and brings the decoder to `offset` by reading what is there again.
    fn open(replica: &'a Replica, position: Position, offset: u64) -> Result<Self> {
        let dir = replica.dir.join(INCOMING);
        files::make_dir(&dir)?;
        let name = part_name(position);
        // The sender has decided for this log; what another one left behind is of no use any more.
        for other in files::names(&dir)?.into_iter().filter(|n| *n != name) {
            files::remove(&dir.join(other))?;
        }
        let path = dir.join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(offset == 0)
            .open(&path)
            .map_err(io_error("open", &path))?;
        let have = file.metadata().map_err(io_error("look at", &path))?.len();
        let mut part = Self {
            replica,
            position,
            path,
            file: io::BufWriter::with_capacity(PIECE, file),
            decoder: Decoder::new(),
            header: None,
            volume: None,
            len: 0,
            checked: 0,
        };
        if offset > have {
            let why = format!("it goes on at byte {offset}, only {have} are here; send it from the start");
            return Err(part.forget(StoreError::BadLog(why)));
        }
        part.reread(offset).map_err(|e| part.forget(e))?;
        Ok(part)
    }

    fn reread(&mut self, offset: u64) -> Result<()> {
        self.file
            .get_ref()
            .set_len(offset)
            .map_err(io_error("cut", &self.path))?;
        let mut buffer = vec![0; PIECE];
        while self.len < offset {
            let n = self
                .file
                .get_mut()
                .read(&mut buffer)
                .map_err(io_error("read", &self.path))?;
            if n == 0 {
                return Err(io_error("read", &self.path)(io::ErrorKind::UnexpectedEof.into()));
            }
            self.len += n as u64;
            self.check(buffer.get(..n).unwrap_or_default())?;
        }
        Ok(())
    }

    /// Checks bytes from the network and keeps them.
    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        for piece in bytes.chunks(PIECE) {
            self.check(piece)?;
            if self.len >= self.checked {
                self.replica.take(STEP, Need::Ordinary)?;
                self.checked = self.len + STEP;
            }
            durable::write(&self.path, || self.file.write_all(piece))?;
            self.len += piece.len() as u64;
        }
        Ok(())
    }

    fn check(&mut self, bytes: &[u8]) -> Result<()> {
        self.decoder.push(bytes);
        while let Some(item) = self.decoder.next().map_err(bad)? {
            match item {
                Item::Header(header) => {
                    self.fits(&header)?;
                    self.header = Some(header);
                }
                Item::Frame(_) => {}
                Item::End(summary) => self.volume = Some(summary.data_bytes),
            }
        }
        Ok(())
    }

    /// Whether this log can follow what is here.
    fn fits(&self, header: &Header) -> Result<()> {
        let refuse = |why: String| Err(StoreError::BadLog(why));
        if header.vm != self.replica.vm {
            return refuse(format!("it is of VM {}, not of {}", header.vm, self.replica.vm));
        }
        match header.kind {
            LogKind::Delta | LogKind::Sync => {}
            LogKind::Bulk => return refuse("it is a segment of an initial copy".to_owned()),
        }
        if header.position != self.position {
            return refuse(format!(
                "it leads to {}, announced was {}",
                header.position, self.position
            ));
        }
        let state = self.replica.state.blocking_lock();
        self.replica.room.fits(&header.disks, &state.manifest.disks)?;
        let have = state.durable();
        if header.parent != have {
            let parent = header.parent;
            return Err(StoreError::OutOfSequence { parent, have });
        }
        if header.position.is_out_of_reach_of(have) {
            return refuse(format!(
                "it goes from {have} to {}, which is not possible",
                header.position
            ));
        }
        Ok(())
    }

    /// After an error: what is wrong with the log itself, lacks room, or may not have reached the disk is not kept.
    fn forget(&self, error: StoreError) -> StoreError {
        forget(&self.path)(error)
    }

    fn interrupted(&self, cause: Option<io::Error>) -> StoreError {
        let cause = cause.unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
        StoreError::Io {
            what: format!(
                "log to {}: the transfer broke off after {} bytes",
                self.position, self.len
            ),
            source: cause,
        }
    }

    /// Makes the whole log durable under its final name.
    fn complete(self) -> Result<Received> {
        let replica = self.replica;
        let (Some(header), Some(volume)) = (self.header, self.volume) else {
            return Err(StoreError::BadLog("it has no header".to_owned()));
        };
        self.decoder.finish().map_err(bad)?;
        replica.step("before a received log is synced")?;
        let part = forget(&self.path);
        durable::sync_by(&self.path, || self.file.get_ref().sync_all()).map_err(part)?;
        if replica.faults.failing() {
            read_back(&self.path).map_err(forget(&self.path))?;
        }
        let entry = Entry::new(header, self.len, volume);
        let dir = replica.dir.join(logs::DIR);
        let mut state = replica.state.blocking_lock();
        state.manifest.not_promoted()?;
        if entry.log.parent != state.durable() {
            let (parent, have) = (entry.log.parent, state.durable());
            return Err(StoreError::OutOfSequence { parent, have });
        }
        replica.step("before a received log is renamed")?;
        files::make_dir(&dir)?;
        let path = dir.join(&entry.file);
        std::fs::rename(&self.path, &path).map_err(io_error("rename", &path))?;
        replica.step("after a received log was renamed")?;
        // Without its name durable it was not acknowledged, and must not be found by the next start.
        files::sync_dir(&dir).map_err(forget(&path))?;
        replica.proved(&self.path);
        replica.proved(&path);
        let received = Received {
            durable: self.position,
            instant: entry.log.instant,
            bytes: self.len,
            partial: entry.log.partial,
        };
        state.logs.entries.push(entry);
        Ok(received)
    }
}

fn forget(path: &Utf8Path) -> impl FnOnce(StoreError) -> StoreError {
    let path = path.to_owned();
    move |error| {
        if !matches!(error, StoreError::Io { .. }) {
            let _ = files::remove(&path);
        }
        error
    }
}

/// Reads a log again from the medium, on a disk that failed before.
fn read_back(path: &Utf8Path) -> Result<()> {
    durable::drop_cache(path)?;
    logs::read(path, |_| Ok(())).map_err(|e| StoreError::Failing {
        path: path.to_owned(),
        what: "reading back what was flushed",
        source: io::Error::other(e),
    })
}

pub(crate) fn bad(error: DecodeError) -> StoreError {
    StoreError::BadLog(error.to_string())
}
