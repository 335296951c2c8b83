//! The spool: logs on their way from the local read to the network, as files that are read while they grow. Nothing in
//! it survives the daemon; a log that was not acknowledged is captured again.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use futures_util::stream;
use lifeboat_engine::ports::ByteStream;
use lifeboat_engine::ports::spool::{Spool, SpoolError, SpoolFile};
use lifeboat_model::{Position, VmId};
use tokio::sync::watch;

use crate::error::is_full;
use crate::files::MIB;

/// Extension of spool files; only these are removed at a start.
const EXTENSION: &str = "spool";

/// Free space is looked at again after this many bytes.
const ROOM_STEP: u64 = 16 * MIB;

/// Bytes a reader takes at once.
const PIECE: u64 = 256 << 10;

/// A directory for spool files.
pub struct FileSpool {
    dir: Utf8PathBuf,
    reserve_mib: u64,
    next: AtomicU64,
    current: Mutex<HashMap<VmId, Utf8PathBuf>>,
}

/// How far a file has come.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Tail {
    len: u64,
    /// Whether it ended, and whether whole.
    finished: Option<bool>,
}

struct Entry {
    path: Utf8PathBuf,
    dir: Utf8PathBuf,
    reserve_mib: u64,
    file: Arc<File>,
    tail: watch::Sender<Tail>,
    /// Length at which free space is looked at again. Held while appending, so that pieces keep their order.
    checked: Arc<tokio::sync::Mutex<u64>>,
}

fn failed(what: String) -> impl FnOnce(io::Error) -> SpoolError {
    move |source| SpoolError::Io { what, source }
}

impl FileSpool {
    /// Uses `dir`, which is made if needed; files left by an earlier run are removed. At least `reserve_mib` MiB of the
    /// file system stay free.
    ///
    /// # Errors
    /// The directory cannot be made or cleared.
    pub fn new(dir: &Utf8Path, reserve_mib: u64) -> Result<Self, SpoolError> {
        let fault = |e| failed(format!("prepare {dir}"))(e);
        fs::create_dir_all(dir).map_err(fault)?;
        for entry in fs::read_dir(dir).map_err(fault)? {
            let path = entry.map_err(fault)?.path();
            if path.extension().is_some_and(|e| e == EXTENSION) {
                fs::remove_file(&path).map_err(fault)?;
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            reserve_mib,
            next: AtomicU64::new(0),
            current: Mutex::default(),
        })
    }
}

#[async_trait]
impl Spool for FileSpool {
    async fn create(&self, vm: VmId, position: Position) -> Result<Arc<dyn SpoolFile>, SpoolError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!(
            "{vm}-{}-{}-{number}.{EXTENSION}",
            position.generation(),
            position.sequence()
        );
        let path = self.dir.join(name);
        let older = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            current.insert(vm, path.clone())
        };
        let made = path.clone();
        let make = move || {
            if let Some(older) = older {
                // Who still reads it keeps its content until done.
                let _ = fs::remove_file(older);
            }
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(made)
        };
        let file = run(make).await.map_err(failed(format!("create {path}")))?;
        Ok(Arc::new(Entry {
            path,
            dir: self.dir.clone(),
            reserve_mib: self.reserve_mib,
            file: Arc::new(file),
            tail: watch::Sender::new(Tail {
                len: 0,
                finished: None,
            }),
            checked: Arc::default(),
        }))
    }
}

async fn run<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(io::Error::other(e)))
}

impl Entry {
    fn no_space(&self) -> SpoolError {
        SpoolError::NoSpace {
            dir: self.dir.to_string(),
            reserve_mib: self.reserve_mib,
        }
    }
}

#[async_trait]
impl SpoolFile for Entry {
    async fn append(&self, bytes: Bytes) -> Result<(), SpoolError> {
        // Owned and moved into the thread: a dropped call is finished before the next one writes.
        let mut checked = Arc::clone(&self.checked).lock_owned().await;
        let tail = *self.tail.borrow();
        if tail.finished.is_some() {
            let what = format!("append to {}: it is finished", self.path);
            return Err(failed(what)(io::ErrorKind::InvalidInput.into()));
        }
        let (file, dir, sender) = (Arc::clone(&self.file), self.dir.clone(), self.tail.clone());
        let reserve = self.reserve_mib.saturating_mul(MIB);
        let write = move || {
            let end = tail.len + bytes.len() as u64;
            if end > *checked {
                let stat = rustix::fs::statvfs(dir.as_std_path())?;
                let free = stat.f_bavail.saturating_mul(stat.f_frsize);
                if free < reserve.saturating_add(bytes.len() as u64) {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                *checked = end + ROOM_STEP;
            }
            file.write_all_at(&bytes, tail.len)?;
            sender.send_modify(|t| t.len = end);
            Ok(())
        };
        run(write).await.map_err(|e| {
            // Nothing of the file is believed any more; the log is captured again into another one.
            self.finish(false);
            if is_full(&e) {
                self.no_space()
            } else {
                failed(format!("append to {}", self.path))(e)
            }
        })
    }

    fn finish(&self, complete: bool) {
        self.tail.send_modify(|t| t.finished = Some(complete));
    }

    fn len(&self) -> u64 {
        self.tail.borrow().len
    }

    fn reader(&self, offset: u64) -> ByteStream {
        let state = (Arc::clone(&self.file), self.tail.subscribe(), offset);
        Box::pin(stream::try_unfold(state, |(file, mut tail, at)| async move {
            // The sender gone without an end is an end that is not complete.
            let seen = tail.wait_for(|t| t.len > at || t.finished.is_some()).await;
            let seen = seen.map(|t| *t).map_err(|_| broken())?;
            if seen.len <= at {
                return match seen.finished {
                    Some(true) => Ok(None),
                    Some(false) | None => Err(broken()),
                };
            }
            let len = usize::try_from((seen.len - at).min(PIECE)).unwrap_or_default();
            let source = Arc::clone(&file);
            let piece = run(move || {
                let mut buffer = vec![0; len];
                source.read_exact_at(&mut buffer, at)?;
                Ok(Bytes::from(buffer))
            })
            .await?;
            let next = at + piece.len() as u64;
            Ok(Some((piece, (file, tail, next))))
        }))
    }
}

fn broken() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the log was given up before its end",
    )
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.path, "a spool file remains until the next start");
        }
    }
}
