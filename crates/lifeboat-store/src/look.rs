//! Looking whether the files of a replica are still there. A file that should be there is never made again: an empty one
//! in its place would be believed by everything above it. The look is cheap (no file is opened) and is taken with every
//! log that comes, so that nothing is acknowledged on top of what is gone. What is in the files is not its matter.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_engine::ports::storage::StorageFaultKind as Kind;
use lifeboat_engine::ports::store::{ReplicaInfo, StoreError};

use crate::damaged;
use crate::error::{Result, io_error};
use crate::files;
use crate::locked;
use crate::logs;
use crate::presence::is_gone;
use crate::replica::{Replica, State};

/// Who only wants to know what is here waits no longer than this for a look; a disk that hangs must not keep answers
/// waiting.
const PATIENCE: Duration = Duration::from_millis(200);

/// A file that is not as it should be.
struct Lost {
    path: Utf8PathBuf,
    detail: String,
    /// Recovery points stand on it.
    below_points: bool,
}

impl Replica {
    /// What the engine sees.
    pub(crate) async fn info(self: &Arc<Self>) -> ReplicaInfo {
        self.look_soon().await;
        let info = self.as_it_is().await;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(info.clone());
        info
    }

    /// Looks at every file and keeps what it sees as facts. From blocking threads only.
    pub(crate) fn look(&self) -> Option<StoreError> {
        if let Some(locked) = self.locked() {
            return Some(locked);
        }
        self.faults.end(|f| f.kind == Kind::Locked);
        if let Some(detail) = self.presence.dir_wrong(&self.dir) {
            if let Some(locked) = self.locked() {
                return Some(locked);
            }
            self.faults.note(Kind::Lost, &self.dir, detail.clone());
            return Some(StoreError::Damaged {
                path: self.dir.clone(),
                detail,
            });
        }
        let lost = self.lost_images();
        if !lost.is_empty()
            && let Some(locked) = self.locked()
        {
            return Some(locked);
        }
        self.faults.end(|f| {
            let still = lost.iter().any(|l| l.path == f.path) || f.path == self.dir.join(logs::DIR);
            f.kind == Kind::Lost && !still
        });
        for file in &lost {
            self.faults.note(Kind::Lost, &file.path, file.detail.clone());
        }
        let seen = self
            .look_at_head()
            .and_then(|()| self.look_at_logs())
            .and_then(|()| damaged::note(&self.dir, &self.faults));
        if let Err(error) = seen {
            tracing::warn!(vm = %self.vm, %error, "the replica's files cannot be looked at");
        }
        lost.into_iter()
            .find(|l| l.below_points)
            .map(|l| StoreError::Damaged {
                path: l.path,
                detail: l.detail,
            })
    }

    /// Whether the files' key is missing, in which case nothing is concluded from what is not there.
    fn locked(&self) -> Option<StoreError> {
        let error = locked::check(&self.dir).err()?;
        self.faults.note_error(&error);
        Some(error)
    }

    /// Refuses what stands on the recovery points when a file of theirs is gone.
    pub(crate) fn all_there(&self) -> Result<()> {
        match self.look() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Looks for a caller that wants to know what is here, but waits for no disk that hangs.
    pub(crate) async fn look_soon(self: &Arc<Self>) {
        if !self.presence.is_due() || self.presence.looking.swap(true, Ordering::SeqCst) {
            return;
        }
        let replica = Arc::clone(self);
        let look = tokio::task::spawn_blocking(move || {
            let _ = replica.look();
            replica.presence.looking.store(false, Ordering::SeqCst);
        });
        // Whatever it finds later is shown the next time.
        let _ = tokio::time::timeout(PATIENCE, look).await;
    }

    fn lost_images(&self) -> Vec<Lost> {
        let suspects: Vec<Utf8PathBuf> = self
            .manifest()
            .needed()
            .into_iter()
            .filter(|f| self.presence.wrong(&self.dir.join(f)).is_some())
            .collect();
        if suspects.is_empty() {
            return Vec::new();
        }
        // Looked at again under the lock: an operation may just have let go of them.
        let state = self.state.blocking_lock();
        let needed = state.manifest.needed();
        let lost = |file: Utf8PathBuf| {
            let path = self.dir.join(&file);
            let detail = self.presence.wrong(&path).filter(|_| needed.contains(&file))?;
            let own = state.manifest.promoted.is_none() && file.starts_with("branches");
            let in_points = state.manifest.points.iter().flat_map(|p| &p.layers);
            let below_points = !own || in_points.into_iter().any(|l| l.file == file);
            Some(Lost {
                path,
                detail,
                below_points,
            })
        };
        suspects.into_iter().filter_map(lost).collect()
    }

    /// The head may be made again, from the logs; that is said.
    fn look_at_head(&self) -> Result<()> {
        if let Some((path, detail)) = self.lost_head() {
            let detail = format!(
                "{detail}; it held what is in the logs since the newest recovery point, and is built again from them"
            );
            self.faults.note(Kind::Rebuilt, &path, detail);
        }
        Ok(())
    }

    /// A layer of the head that is not there, and what is wrong with it.
    pub(crate) fn lost_head(&self) -> Option<(Utf8PathBuf, String)> {
        let state = self.state.blocking_lock();
        let head = state.manifest.head.iter().filter(|h| !h.dirty);
        head.flat_map(|h| &h.layers).find_map(|layer| {
            let path = self.dir.join(&layer.file);
            let metadata = std::fs::metadata(&path);
            let gone = !metadata.is_ok_and(|m| m.is_file());
            let known = gone && locked::check(&self.dir).is_ok();
            known.then(|| (path, "it is gone".to_owned()))
        })
    }

    /// Lets go of logs whose files are gone, and says so.
    fn look_at_logs(&self) -> Result<()> {
        let dir = self.dir.join(logs::DIR);
        let known: Vec<String> = {
            let state = self.state.blocking_lock();
            state.logs.entries.iter().map(|e| e.file.clone()).collect()
        };
        let there = files::names(&dir)?;
        if known.iter().all(|name| there.binary_search(name).is_ok()) {
            return Ok(());
        }
        let mut state = self.state.blocking_lock();
        let before = state.durable();
        let gone = |file: &str| matches!(std::fs::metadata(dir.join(file)), Err(e) if is_gone(&e));
        let lost: Vec<_> = state.logs.entries.extract_if(.., |e| gone(&e.file)).collect();
        let Some((first, last)) = lost.first().zip(lost.last()) else {
            return Ok(());
        };
        let which = match lost.len() {
            1 => format!("the log to {} is gone", first.log.position),
            n => format!(
                "{n} logs, from {} to {}, are gone",
                first.log.position, last.log.position
            ),
        };
        self.unlink_unusable(&mut state)?;
        let detail = if state.durable() == before {
            format!("{which}; the instants between recovery points that need them cannot be brought up")
        } else {
            format!("{which} before they were applied; the copies are compared and made equal again")
        };
        drop(state);
        self.faults.note(Kind::Lost, &dir, detail);
        std::fs::create_dir_all(&dir).map_err(io_error("make", &dir))?;
        files::sync_dir(&self.dir)
    }

    /// Sets aside the logs that nothing leads to any more.
    pub(crate) fn unlink_unusable(&self, state: &mut State) -> Result<()> {
        let applied = state.manifest.applied;
        for entry in state.logs.relink(applied) {
            let file = Utf8Path::new(logs::DIR).join(&entry.file);
            if self.dir.join(&file).exists() {
                damaged::set_aside(&self.dir, &file)?;
            }
        }
        Ok(())
    }
}
