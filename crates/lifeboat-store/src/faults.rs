//! What a replica's store has seen of its files and disks, kept until it is over. Where the facts come from is decided
//! by the code that looks (`presence`, `damaged`, the operations); what follows from them is the engine's matter.

use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use camino::Utf8Path;
use lifeboat_engine::ports::storage::{StorageFault, StorageFaultKind as Kind};
use lifeboat_engine::ports::store::StoreError;
use lifeboat_model::Timestamp;

/// Most facts that are kept; a disk that fails altogether needs no more to be seen.
const MAX: usize = 64;

/// The facts of one replica, the oldest first.
#[derive(Default)]
pub(crate) struct Faults(Mutex<Vec<StorageFault>>);

/// This host's clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Faults {
    fn with<T>(&self, work: impl FnOnce(&mut Vec<StorageFault>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps a fact. One about the same path and of the same kind stays as old as it is.
    pub(crate) fn note(&self, kind: Kind, path: &Utf8Path, detail: impl Into<String>) {
        self.note_since(kind, path, detail, now());
    }

    /// As [`Faults::note`], for a fact that is older than this look at it.
    pub(crate) fn note_since(
        &self,
        kind: Kind,
        path: &Utf8Path,
        detail: impl Into<String>,
        since: Timestamp,
    ) {
        let detail = detail.into();
        self.with(|all| {
            if let Some(known) = all.iter_mut().find(|f| f.kind == kind && f.path == path) {
                known.detail = detail;
            } else if all.len() < MAX {
                tracing::warn!(%path, ?kind, detail, "storage fault");
                all.push(StorageFault {
                    kind,
                    path: path.to_owned(),
                    detail,
                    since,
                });
            }
        });
    }

    /// Forgets the facts that are over.
    pub(crate) fn end(&self, over: impl Fn(&StorageFault) -> bool) {
        self.with(|all| {
            all.retain(|f| {
                let ends = over(f);
                if ends {
                    tracing::info!(path = %f.path, kind = ?f.kind, "storage fault is over");
                }
                !ends
            });
        });
    }

    /// All facts that are not over, in the order in which they were noted.
    pub(crate) fn list(&self) -> Vec<StorageFault> {
        self.with(|all| all.clone())
    }

    /// Keeps what an operation's error says of a disk.
    pub(crate) fn note_error(&self, error: &StoreError) {
        if let StoreError::Failing { path, what, source } = error {
            let detail = format!("{what} failed ({source}); the file is made again, check the disk");
            self.note(Kind::Failing, path, detail);
        }
        if let StoreError::Locked { path, detail } = error {
            self.note(Kind::Locked, path, detail);
        }
    }

    /// Whether a write or a flush failed and no file made since then has proved that the disk works.
    pub(crate) fn failing(&self) -> bool {
        self.with(|all| all.iter().any(|f| f.kind == Kind::Failing))
    }
}
