//! A [`Disk`] as the one file of a FUSE mount, and everything that can go wrong with a disk while it is in use: errors,
//! hangs, slowness, and the power. A file system goes on top with [`volume`](crate::volume).
//!
//! A request is never carried out in part. While the power is off or requests of its kind hang it waits; when the machine is
//! declared dead ([`Served::fail_everything`]) it fails, so that processes that wait for it can end.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result};
use fuser::{
    BackgroundSession, FileAttr, FileType, Filesystem, KernelConfig, MountOption, ReplyAttr, ReplyData,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request,
};
use rustix::io::Errno;

use crate::disk::{Cut, Disk, Fate, Honesty};
use crate::random::Random;

const ROOT: u64 = 1;
const FILE: u64 = 2;
const NAME: &str = "disk";
/// How long the kernel may believe what it was told about the file, which never changes.
const ATTRIBUTES: Duration = Duration::from_secs(3600);

/// What is asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A read.
    Read,
    /// A write into the cache.
    Write,
    /// A flush of the cache.
    Flush,
}

/// Requests that an error or a hang is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requests {
    /// Reads, writes and flushes.
    All,
    /// Writes and flushes.
    Changes,
    /// Only this kind.
    Only(Kind),
}

impl Requests {
    fn covers(self, kind: Kind) -> bool {
        match self {
            Self::All => true,
            Self::Changes => kind != Kind::Read,
            Self::Only(only) => only == kind,
        }
    }
}

/// Errors to come.
#[derive(Clone, Copy, Debug)]
pub struct Failing {
    /// Which requests.
    pub requests: Requests,
    /// So many of them succeed first.
    pub after: u64,
    /// Then so many fail.
    pub count: u64,
    /// With this error.
    pub error: Errno,
}

/// Whether the disk has power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    On,
    /// Requests wait: the machine executes nothing any more.
    Off,
    /// Requests fail, so that the processes of the machine that is off can end.
    Dead,
}

struct Armed {
    requests: Requests,
    after: u64,
    fate: Fate,
    seed: u64,
}

enum Waiting {
    Read {
        offset: usize,
        len: usize,
        reply: ReplyData,
    },
    Write {
        offset: usize,
        data: Vec<u8>,
        reply: ReplyWrite,
    },
    Flush {
        reply: ReplyEmpty,
    },
}

impl Waiting {
    fn kind(&self) -> Kind {
        match self {
            Self::Read { .. } => Kind::Read,
            Self::Write { .. } => Kind::Write,
            Self::Flush { .. } => Kind::Flush,
        }
    }

    fn carry_out(self, disk: &mut Disk) {
        match self {
            Self::Read { offset, len, reply } => reply.data(disk.read(offset, len)),
            Self::Write { offset, data, reply } => {
                if disk.write(offset, &data) {
                    reply.written(u32::try_from(data.len()).unwrap_or(0));
                } else {
                    reply.error(Errno::NOSPC.raw_os_error());
                }
            }
            Self::Flush { reply } => {
                disk.flush();
                reply.ok();
            }
        }
    }

    fn fail(self, error: Errno) {
        let error = error.raw_os_error();
        match self {
            Self::Read { reply, .. } => reply.error(error),
            Self::Write { reply, .. } => reply.error(error),
            Self::Flush { reply } => reply.error(error),
        }
    }
}

struct State {
    disk: Disk,
    power: Power,
    armed: Option<Armed>,
    failing: Option<Failing>,
    hanging: Option<Requests>,
    delays: Delays,
    waiting: Vec<Waiting>,
    last_cut: Option<Cut>,
    requests: u64,
    failed: u64,
}

/// How long each request takes on top of nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delays {
    /// Each write.
    pub write: Duration,
    /// Each flush.
    pub flush: Duration,
}

enum Fork {
    Proceed,
    Fail(Errno),
    Wait,
}

impl State {
    /// Decides about a request at the moment it comes.
    fn admit(&mut self, kind: Kind) -> Fork {
        if let Some(armed) = self.armed.as_mut().filter(|a| a.requests.covers(kind)) {
            if armed.after == 0 {
                let (fate, seed) = (armed.fate, armed.seed);
                self.cut(fate, seed);
            } else {
                armed.after -= 1;
            }
        }
        self.requests += 1;
        match self.power {
            Power::Dead => return Fork::Fail(Errno::IO),
            Power::Off => return Fork::Wait,
            Power::On if self.hanging.is_some_and(|h| h.covers(kind)) => return Fork::Wait,
            Power::On => {}
        }
        if let Some(failing) = self.failing.as_mut().filter(|f| f.requests.covers(kind)) {
            if failing.after > 0 {
                failing.after -= 1;
            } else if failing.count > 0 {
                failing.count -= 1;
                self.failed += 1;
                return Fork::Fail(failing.error);
            }
        }
        Fork::Proceed
    }

    fn cut(&mut self, fate: Fate, seed: u64) -> Cut {
        let cut = self.disk.cut(fate, &mut Random::new(seed));
        self.power = Power::Off;
        self.armed = None;
        self.last_cut = Some(cut);
        cut
    }

    fn take(&mut self, request: Waiting) {
        match self.admit(request.kind()) {
            Fork::Proceed => request.carry_out(&mut self.disk),
            Fork::Fail(error) => request.fail(error),
            Fork::Wait => self.waiting.push(request),
        }
    }

    /// Looks again at everything that waited.
    fn release(&mut self) {
        for request in std::mem::take(&mut self.waiting) {
            self.take(request);
        }
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<Option<State>>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> Option<T> {
        let done = self.lock().as_mut().map(f);
        self.changed.notify_all();
        done
    }
}

struct Service {
    shared: Arc<Shared>,
    len: u64,
}

impl Service {
    fn attributes(&self, inode: u64) -> FileAttr {
        let (kind, perm, size) = if inode == ROOT {
            (FileType::Directory, 0o755, 0)
        } else {
            (FileType::RegularFile, 0o600, self.len)
        };
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn request(&self, request: Waiting) {
        let kind = request.kind();
        let delays = self.shared.lock().as_ref().map(|s| s.delays).unwrap_or_default();
        let delay = match kind {
            Kind::Read => Duration::ZERO,
            Kind::Write => delays.write,
            Kind::Flush => delays.flush,
        };
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        self.shared.with(|state| state.take(request));
    }
}

fn offset(offset: i64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

impl Filesystem for Service {
    fn init(&mut self, _: &Request<'_>, config: &mut KernelConfig) -> Result<(), i32> {
        // One megabyte; what the kernel does not grant it says, and smaller requests do as well.
        let _ = config.set_max_write(1 << 20);
        Ok(())
    }

    fn lookup(&mut self, _: &Request<'_>, parent: u64, name: &OsStr, reply: ReplyEntry) {
        if parent == ROOT && name == NAME {
            reply.entry(&ATTRIBUTES, &self.attributes(FILE), 0);
        } else {
            reply.error(Errno::NOENT.raw_os_error());
        }
    }

    fn getattr(&mut self, _: &Request<'_>, inode: u64, _: Option<u64>, reply: ReplyAttr) {
        reply.attr(&ATTRIBUTES, &self.attributes(inode));
    }

    fn open(&mut self, _: &Request<'_>, _: u64, _: i32, reply: ReplyOpen) {
        // No page cache of the kernel between the block device and the cache that this is about.
        reply.opened(0, fuser::consts::FOPEN_DIRECT_IO);
    }

    fn read(
        &mut self,
        _: &Request<'_>,
        _: u64,
        _: u64,
        at: i64,
        size: u32,
        _: i32,
        _: Option<u64>,
        reply: ReplyData,
    ) {
        self.request(Waiting::Read {
            offset: offset(at),
            len: size as usize,
            reply,
        });
    }

    fn write(
        &mut self,
        _: &Request<'_>,
        _: u64,
        _: u64,
        at: i64,
        data: &[u8],
        _: u32,
        _: i32,
        _: Option<u64>,
        reply: ReplyWrite,
    ) {
        self.request(Waiting::Write {
            offset: offset(at),
            data: data.to_vec(),
            reply,
        });
    }

    fn fsync(&mut self, _: &Request<'_>, _: u64, _: u64, _: bool, reply: ReplyEmpty) {
        self.request(Waiting::Flush { reply });
    }

    fn flush(&mut self, _: &Request<'_>, _: u64, _: u64, _: u64, reply: ReplyEmpty) {
        // This is close(2), which makes nothing durable.
        reply.ok();
    }
}

/// The disk, mounted. Ends with the value.
pub struct Served {
    shared: Arc<Shared>,
    dir: PathBuf,
    session: Option<BackgroundSession>,
}

impl Served {
    /// Mounts a disk of zeros of so many bytes at an empty directory.
    ///
    /// # Errors
    /// Without `/dev/fuse` or the right to mount.
    pub fn mount(dir: &Path, len: usize) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        *shared.lock() = Some(State {
            disk: Disk::new(len),
            power: Power::On,
            armed: None,
            failing: None,
            hanging: None,
            delays: Delays::default(),
            waiting: Vec::new(),
            last_cut: None,
            requests: 0,
            failed: 0,
        });
        let service = Service {
            shared: shared.clone(),
            len: len as u64,
        };
        let options = [MountOption::FSName("faulty".into())];
        let session = fuser::spawn_mount2(service, dir, &options)
            .context("cannot mount a FUSE disk; this needs root and /dev/fuse")?;
        Ok(Self {
            shared,
            dir: dir.to_owned(),
            session: Some(session),
        })
    }

    /// The file that is the disk.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.dir.join(NAME)
    }

    /// The power goes now. From here on every request waits.
    pub fn cut(&self, fate: Fate, seed: u64) -> Option<Cut> {
        self.shared.with(|s| match s.power {
            Power::On => Some(s.cut(fate, seed)),
            Power::Off | Power::Dead => s.last_cut,
        })?
    }

    /// The power goes when so many more of these requests were carried out, before the next.
    pub fn arm(&self, requests: Requests, after: u64, fate: Fate, seed: u64) {
        let armed = Armed {
            requests,
            after,
            fate,
            seed,
        };
        self.shared.with(|s| s.armed = Some(armed));
    }

    /// Waits until the power is gone; `None` when it is not by then.
    #[must_use]
    pub fn wait_cut(&self, limit: Duration) -> Option<Cut> {
        let end = Instant::now() + limit;
        let mut state = self.shared.lock();
        loop {
            let now = state.as_ref()?;
            if now.power != Power::On {
                return now.last_cut;
            }
            let left = end.checked_duration_since(Instant::now())?;
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// The machine is off: what waits, and what still comes, fails.
    pub fn fail_everything(&self) {
        self.shared.with(|s| {
            s.power = Power::Dead;
            s.hanging = None;
            s.release();
        });
    }

    /// Power is back. The disk holds what survived, and does what it should, except for its honesty.
    pub fn revive(&self) {
        self.shared.with(|s| {
            s.power = Power::On;
            s.hanging = None;
            s.failing = None;
            s.armed = None;
            s.release();
        });
    }

    /// Requests that will fail; `None`: no more.
    pub fn set_failing(&self, failing: Option<Failing>) {
        self.shared.with(|s| s.failing = failing);
    }

    /// Requests that are not answered; `None`: they go on, and those that waited are carried out.
    pub fn set_hanging(&self, hanging: Option<Requests>) {
        self.shared.with(|s| {
            s.hanging = hanging;
            s.release();
        });
    }

    /// How long requests take.
    pub fn set_delays(&self, delays: Delays) {
        self.shared.with(|s| s.delays = delays);
    }

    /// Whether flushes do what they say.
    pub fn set_honesty(&self, honesty: Honesty) {
        self.shared.with(|s| s.disk.set_honesty(honesty));
    }

    /// Requests so far, and those that failed because a test wanted them to.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        self.shared.with(|s| (s.requests, s.failed)).unwrap_or_default()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.fail_everything();
        drop(self.session.take());
    }
}
