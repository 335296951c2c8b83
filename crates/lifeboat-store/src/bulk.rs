//! The initial copy: segments go straight into the base, on which there is no recovery point yet. What came before
//! an interruption counts, because every frame has a checksum of its own; whatever lies behind it is cleared before the
//! copy goes on.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::thread::JoinHandle;

use camino::Utf8PathBuf;
use lifeboat_deltalog::{Decoder, FrameBody, Header, Item, LogKind};
use lifeboat_engine::ports::store::{BulkProgress, StoreError};
use lifeboat_model::DiskId;
use rustix::fs::{FallocateFlags, fallocate};

use crate::durable;
use crate::error::{Result, io_error};
use crate::logs::PIECE;
use crate::manifest::own_base;
use crate::receive::bad;
use crate::replica::{Chunks, Replica, State};
use crate::room::{Need, STEP};

/// Where a segment comes from.
#[derive(Clone, Copy, PartialEq)]
enum From {
    /// The primary asked how far the copy is and goes on there.
    Network,
    /// A file, which may begin before that.
    Media,
}

/// A segment under way.
struct Segment {
    from: From,
    disk: DiskId,
    path: Utf8PathBuf,
    file: File,
    /// Everything below is written.
    next: u64,
    checked: u64,
    /// Everything below is on its way to the disk.
    flushed: u64,
    /// On a disk that failed before: what was written where, to be read back.
    written: Option<(blake3::Hasher, Vec<(u64, usize)>)>,
    flush: Option<JoinHandle<io::Result<()>>>,
}

/// The base is synced behind the copy in pieces of this many bytes, so that the end of a segment waits for the last.
const FLUSH: u64 = 32 << 20;

/// Takes in one segment.
pub(crate) fn bulk(replica: &Replica, body: Chunks) -> Result<BulkProgress> {
    take(replica, body, From::Network)
}

/// Takes in one segment that came on media. Deltas may be here, but none may be applied.
pub(crate) fn import(replica: &Replica, body: Chunks) -> Result<BulkProgress> {
    take(replica, body, From::Media)
}

fn take(replica: &Replica, mut body: Chunks, from: From) -> Result<BulkProgress> {
    replica.all_there()?;
    let mut decoder = Decoder::new();
    let mut segment = None;
    let mut whole = false;
    while let Some(chunk) = crate::receive::next(&mut body) {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(e) => return interrupted(replica, segment, e),
        };
        for piece in chunk.chunks(PIECE) {
            decoder.push(piece);
            while let Some(item) = decoder.next().map_err(bad)? {
                match (item, &mut segment) {
                    (Item::Header(header), _) => segment = Some(Segment::open(replica, &header, from)?),
                    (Item::Frame(frame), Some(segment)) => {
                        segment.write(replica, frame.offset, &frame.body)?;
                    }
                    (Item::End(_), Some(_)) => whole = true,
                    (Item::Frame(_) | Item::End(_), None) => {}
                }
            }
        }
    }
    match segment {
        Some(segment) if whole => {
            decoder.finish().map_err(bad)?;
            segment.complete(replica)
        }
        segment => interrupted(replica, segment, io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Keeps what came; the sender asks how far it is before it goes on.
fn interrupted(replica: &Replica, segment: Option<Segment>, cause: io::Error) -> Result<BulkProgress> {
    if let Some(segment) = segment {
        segment.complete(replica)?;
    }
    Err(broke_off(cause))
}

/// Starts the copy of a disk again. Its old content is cleared when the first segment comes.
pub(crate) fn restart(replica: &Replica, disk: &DiskId) -> Result<()> {
    let mut state = replica.state.blocking_lock();
    still_empty(&state)?;
    replica.commit(&mut state, |m| {
        for progress in m.bulk.iter_mut().filter(|p| p.disk == *disk) {
            progress.done = 0;
        }
    })
}

fn broke_off(source: io::Error) -> StoreError {
    StoreError::Io {
        what: "the transfer of a segment of the initial copy broke off".to_owned(),
        source,
    }
}

pub(crate) fn still_empty(state: &State) -> Result<()> {
    state.manifest.not_promoted()?;
    if state.durable() != state.manifest.start || !state.manifest.points.is_empty() {
        return Err(StoreError::Conflict(format!(
            "the initial copy of VM {} is finished; a delta is here",
            state.manifest.vm
        )));
    }
    Ok(())
}

/// Refuses a copy from media once a delta was applied to what is here, or once what is here is an instant.
fn nothing_applied(state: &State) -> Result<()> {
    let manifest = &state.manifest;
    manifest.not_promoted()?;
    if manifest.applied != manifest.start || manifest.head.is_some() || !manifest.points.is_empty() {
        return Err(StoreError::Conflict(format!(
            "the initial copy of VM {} is finished; a delta is applied",
            manifest.vm
        )));
    }
    Ok(())
}

impl From {
    fn allows(self, state: &State) -> Result<()> {
        match self {
            Self::Network => still_empty(state),
            Self::Media => nothing_applied(state),
        }
    }
}

impl Segment {
    fn open(replica: &Replica, header: &Header, from: From) -> Result<Self> {
        let refuse = |why: String| Err(StoreError::BadLog(why));
        let state = replica.state.blocking_lock();
        from.allows(&state)?;
        if header.vm != replica.vm {
            return refuse(format!("it is of VM {}, not of {}", header.vm, replica.vm));
        }
        if header.kind != LogKind::Bulk {
            return refuse("it is no segment of an initial copy".to_owned());
        }
        if !header.position.same_generation(state.manifest.start) {
            return refuse(format!("it is of generation {}", header.position.generation()));
        }
        let [disk] = header.disks.as_slice() else {
            return refuse("a segment of an initial copy has one disk".to_owned());
        };
        let Some(have) = state.manifest.disks.iter().find(|d| d.id == disk.id) else {
            return refuse(format!("the replica has no disk \"{}\"", disk.id));
        };
        if have.size != disk.size {
            let why = format!(
                "disk \"{}\" has {} bytes here and {} there; remove the replication and enable it again",
                disk.id, have.size, disk.size
            );
            return refuse(why);
        }
        let done = state.manifest.bulk.iter().find(|p| p.disk == disk.id);
        let next = done.map_or(0, |p| p.done);
        let path = replica.dir.join(own_base(&disk.id));
        let file = OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(io_error("open", &path))?;
        if next < disk.size {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            durable::write(&path, || {
                fallocate(&file, flags, next, disk.size - next).map_err(io::Error::from)
            })?;
        }
        Ok(Self {
            from,
            disk: disk.id.clone(),
            path,
            file,
            next,
            checked: next,
            flushed: next,
            written: replica.faults.failing().then(Default::default),
            flush: None,
        })
    }

    fn write(&mut self, replica: &Replica, offset: u64, body: &FrameBody) -> Result<()> {
        let len = match body {
            FrameBody::Data(data) => data.len() as u64,
            FrameBody::Zero(len) => *len,
        };
        if self.from == From::Media && offset.saturating_add(len) <= self.next {
            return Ok(());
        }
        if offset != self.next {
            return Err(StoreError::BadLog(format!(
                "the copy of disk \"{}\" continues at byte {}, the segment at {offset}",
                self.disk, self.next
            )));
        }
        match body {
            FrameBody::Data(data) => {
                if self.next >= self.checked {
                    replica.take(STEP.max(data.len() as u64), Need::Ordinary)?;
                    self.checked = self.next + STEP;
                }
                durable::write(&self.path, || self.file.write_all_at(data, offset))?;
                if let Some((hash, ranges)) = &mut self.written {
                    hash.update(data);
                    ranges.push((offset, data.len()));
                }
                self.next += data.len() as u64;
                self.flush_behind()?;
            }
            // Everything from the segment's start on is a hole already.
            FrameBody::Zero(len) => self.next += len,
        }
        Ok(())
    }

    fn flush_behind(&mut self) -> Result<()> {
        if self.next - self.flushed < FLUSH {
            return Ok(());
        }
        self.flushed_before()?;
        let file = self.file.try_clone().map_err(io_error("open", &self.path))?;
        let path = self.path.clone();
        self.flush = Some(std::thread::spawn(move || {
            durable::sync_raw(&path, || file.sync_data())
        }));
        self.flushed = self.next;
        Ok(())
    }

    /// Waits for the piece under way. An error of the disk is reported to one caller only, so it is taken seriously here.
    fn flushed_before(&mut self) -> Result<()> {
        match self.flush.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(e))) => Err(durable::failing("a flush", &self.path)(e)),
            Some(Err(_)) => Err(durable::failing("a flush", &self.path)(
                io::ErrorKind::Other.into(),
            )),
        }
    }

    /// Makes what was written durable. What came since the last time it succeeded is cleared and sent again when it does
    /// not, and the kernel must not go on believing that it is there.
    fn sync(&mut self) -> Result<()> {
        let synced = self
            .flushed_before()
            .and_then(|()| durable::sync_by(&self.path, || self.file.sync_data()));
        if synced.is_err() {
            durable::drop_cache(&self.path)?;
        }
        synced?;
        self.read_back()
    }

    fn read_back(&self) -> Result<()> {
        let Some((hash, ranges)) = &self.written else {
            return Ok(());
        };
        durable::drop_cache(&self.path)?;
        let (file, mut again) = (File::open(&self.path), blake3::Hasher::new());
        let file = file.map_err(io_error("open", &self.path))?;
        for (offset, len) in ranges {
            let mut data = vec![0; *len];
            file.read_exact_at(&mut data, *offset)
                .map_err(io_error("read", &self.path))?;
            again.update(&data);
        }
        if again.finalize() == hash.finalize() {
            Ok(())
        } else {
            let other = io::Error::other("the medium has something else");
            Err(durable::failing("reading back what was flushed", &self.path)(
                other,
            ))
        }
    }

    fn complete(mut self, replica: &Replica) -> Result<BulkProgress> {
        replica.step("before a segment is synced")?;
        self.sync()?;
        replica.proved(&self.path);
        let (disk, done) = (self.disk, self.next);
        let mut state = replica.state.blocking_lock();
        self.from.allows(&state)?;
        replica.commit(&mut state, |m| {
            for progress in m.bulk.iter_mut().filter(|p| p.disk == disk) {
                progress.done = done;
            }
        })?;
        Ok(BulkProgress { disk, done })
    }
}
