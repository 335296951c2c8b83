//! The file of users as the daemon holds it: read again when it has changed; when the new content is wrong, the last right one
//! stays in force. The file is not watched in the background: each login compares its metadata.

use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};

use super::{Users, UsersError};

/// Metadata by which a change of the file is found without reading it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

fn stamp(path: &Utf8Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some(Stamp {
        inode: meta.ino(),
        bytes: meta.len(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

struct Held {
    /// Metadata of the file when it was read last, whether its content was right or not.
    stamp: Option<Stamp>,
    users: Arc<Users>,
    edition: u64,
}

/// The file of users, read again when it has changed.
pub(crate) struct WatchedUsers {
    path: Utf8PathBuf,
    held: Mutex<Held>,
}

impl WatchedUsers {
    /// Reads the file.
    ///
    /// # Errors
    /// There is no file, or its content is wrong.
    pub(crate) fn open(path: &Utf8Path) -> Result<Self, UsersError> {
        // Before reading: a change in between is then found by the next look.
        let stamp = stamp(path);
        let users = Arc::new(Users::load(path)?);
        Ok(Self {
            path: path.into(),
            held: Mutex::new(Held {
                stamp,
                users,
                edition: 0,
            }),
        })
    }

    /// The users, and a number that changes with them.
    pub(crate) fn now(&self) -> (Arc<Users>, u64) {
        let stamp = stamp(&self.path);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if stamp != held.stamp {
            held.stamp = stamp;
            match Users::load(&self.path) {
                Ok(users) => {
                    tracing::info!(file = %self.path, "the file of users was read again");
                    held.users = Arc::new(users);
                    held.edition += 1;
                }
                Err(error) => tracing::error!(%error, "the users before the change stay in force"),
            }
        }
        (held.users.clone(), held.edition)
    }
}
