//! The revocation list of a host: a text file that is read again while the host runs. A list that cannot be read changes
//! nothing: what was read before goes on being used, and the reason is kept for who looks after the host.

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_model::Fingerprint;
use lifeboat_model::fingerprint::{BadLine, Revoked};
use lifeboat_model::reread::{Look, Reread};
use tokio::sync::watch;

/// How often the file is looked at while there are connections to end by it.
const LOOK: Duration = Duration::from_secs(1);

/// Largest list in bytes: some 10,000 fingerprints.
const LARGEST: u64 = 1 << 20;

/// Why a list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    /// It cannot be read.
    #[error("{path}: {cause}; a list of nothing is an empty file")]
    Read {
        /// The file.
        path: Utf8PathBuf,
        /// What the system answered when it was read.
        cause: std::io::Error,
    },
    /// It is too long.
    #[error("{path}: a revocation list is at most {LARGEST} bytes long")]
    TooLong {
        /// The file.
        path: Utf8PathBuf,
    },
    /// A line is no fingerprint.
    #[error("{path}, {cause}")]
    Line {
        /// The file.
        path: Utf8PathBuf,
        /// The line, and what is wrong with it.
        cause: BadLine,
    },
}

/// Adds a fingerprint to a list, whole and durable or not at all; `why` becomes a comment. Whether it was not there already.
///
/// # Errors
/// The list cannot be read, or not be replaced. A list that is not there is not made: no daemon would look at it.
pub fn revoke(path: &Utf8Path, fingerprint: Fingerprint, why: &str) -> Result<bool, RevocationError> {
    let failed = |cause| RevocationError::Read {
        path: path.into(),
        cause,
    };
    // The file behind a link is replaced, not the link.
    let real = path.canonicalize_utf8().map_err(failed)?;
    let bytes = read(&real)?;
    if parse(path, &bytes)?.holds(&fingerprint) {
        return Ok(false);
    }
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let comment: String = why.chars().filter(|c| !c.is_control()).collect();
    text.push_str(&format!("{fingerprint} # {comment}\n"));
    if text.len() as u64 > LARGEST {
        return Err(RevocationError::TooLong { path: path.into() });
    }
    replace(&real, &text).map_err(failed)?;
    Ok(true)
}

/// Puts a file with this text in the place of another one, with its owner and permissions.
fn replace(path: &Utf8Path, text: &str) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Utf8Path::new("/"));
    let before = std::fs::metadata(path)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(before.permissions())?;
    // A user who may not give a file away becomes the owner of the new one.
    let _ = std::os::unix::fs::fchown(file.as_file(), Some(before.uid()), Some(before.gid()));
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    std::fs::File::open(dir)?.sync_all()
}

/// A host's list. One for the whole daemon.
pub struct RevocationList {
    /// `None`: nothing is ever revoked.
    path: Option<Utf8PathBuf>,
    state: Mutex<Reread<Vec<u8>, Revoked>>,
    /// Counts the lists that were taken over.
    changes: watch::Sender<u64>,
    watched: AtomicBool,
}

impl std::fmt::Debug for RevocationList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RevocationList")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

fn read(path: &Utf8Path) -> Result<Vec<u8>, RevocationError> {
    let failed = |cause| RevocationError::Read {
        path: path.into(),
        cause,
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        Err(RevocationError::TooLong { path: path.into() })
    } else {
        Ok(bytes)
    }
}

fn parse(path: &Utf8Path, bytes: &[u8]) -> Result<Revoked, RevocationError> {
    // Bytes that are no text are no fingerprint either, and their line is named.
    Revoked::parse(&String::from_utf8_lossy(bytes)).map_err(|cause| RevocationError::Line {
        path: path.into(),
        cause,
    })
}

impl RevocationList {
    fn with(path: Option<Utf8PathBuf>, read: Vec<u8>, revoked: Revoked) -> Arc<Self> {
        Arc::new(Self {
            path,
            state: Mutex::new(Reread::new(read, revoked)),
            changes: watch::Sender::new(0),
            watched: AtomicBool::new(false),
        })
    }

    /// A host without a list.
    #[must_use]
    pub fn none() -> Arc<Self> {
        Self::with(None, Vec::new(), Revoked::default())
    }

    /// Reads a list.
    ///
    /// # Errors
    /// It cannot be read, or a line of it is no fingerprint.
    pub fn load(path: &Utf8Path) -> Result<Arc<Self>, RevocationError> {
        let bytes = read(path)?;
        let revoked = parse(path, &bytes)?;
        Ok(Self::with(Some(path.into()), bytes, revoked))
    }

    fn state(&self) -> MutexGuard<'_, Reread<Vec<u8>, Revoked>> {
        // Everything in it is replaced as a whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the file and takes over what it holds if that has changed and can be used.
    pub fn refresh(&self) {
        let Some(path) = &self.path else { return };
        let read = read(path);
        let look = self.state().look(read, |bytes| parse(path, bytes));
        match look {
            Look::Same => {}
            Look::Changed => {
                self.changes.send_modify(|n| *n += 1);
                tracing::info!(%path, "a changed revocation list is in use");
            }
            Look::Unusable(why) => tracing::warn!(
                "the revocation list changed and cannot be used, what was read before goes on being used: {why}"
            ),
        }
    }

    /// Where the list is; `None`: there is none.
    #[must_use]
    pub fn path(&self) -> Option<&Utf8Path> {
        self.path.as_deref()
    }

    /// Why what the file holds now is not used; `None` while it is.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.state().problem()
    }

    /// The first of these that is on the list, as of the last look.
    #[must_use]
    pub fn first_of(&self, fingerprints: &[Fingerprint]) -> Option<Fingerprint> {
        let revoked = self.state().in_use();
        fingerprints.iter().find(|f| revoked.holds(f)).copied()
    }

    /// Waits until one of these is on the list, which is looked at every second meanwhile.
    pub async fn revoked(self: &Arc<Self>, fingerprints: &[Fingerprint]) -> Fingerprint {
        if self.path.is_none() {
            return std::future::pending().await;
        }
        self.watch();
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(found) = self.first_of(fingerprints) {
                return found;
            }
            if changes.changed().await.is_err() {
                // The sender is this list's own and lives as long as it.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Begins to look at the file, once, for as long as the list is in use.
    fn watch(self: &Arc<Self>) {
        if !self.watched.swap(true, Ordering::Relaxed) {
            tokio::spawn(look(Arc::downgrade(self)));
        }
    }
}

async fn look(list: Weak<RevocationList>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(list) = list.upgrade() else { return };
        // A panic there would be a fault of this program; what was read before is still there.
        let _ = tokio::task::spawn_blocking(move || list.refresh()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(n: u8) -> Fingerprint {
        Fingerprint::new([n; 32])
    }

    #[test]
    fn a_fingerprint_is_added_once_and_the_file_stays_what_it_was_otherwise() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("revoked");
        assert!(revoke(&path, fingerprint(1), "x").is_err(), "nothing is made");
        std::fs::write(&path, "# ours").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(revoke(&path, fingerprint(1), "key of a\nlpha").unwrap());
        assert!(!revoke(&path, fingerprint(1), "again").unwrap());
        assert!(revoke(&path, fingerprint(2), "other").unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        let want = format!(
            "# ours\n{} # key of alpha\n{} # other\n",
            fingerprint(1),
            fingerprint(2)
        );
        assert_eq!(text, want);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o640
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        std::fs::write(&path, "oops").unwrap();
        assert!(revoke(&path, fingerprint(3), "x").is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "oops");
    }

    #[tokio::test]
    async fn a_list_is_taken_over_while_it_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("revoked");
        std::fs::write(&path, "# empty\n").unwrap();
        let list = RevocationList::load(&path).unwrap();
        assert_eq!(list.first_of(&[fingerprint(1)]), None);
        let waiting = {
            let list = list.clone();
            tokio::spawn(async move { list.revoked(&[fingerprint(1), fingerprint(2)]).await })
        };
        std::fs::write(&path, format!("{}\n{}\n", fingerprint(3), fingerprint(2))).unwrap();
        assert_eq!(waiting.await.unwrap(), fingerprint(2));
    }

    #[test]
    fn a_list_that_cannot_be_used_is_refused_at_first_and_changes_nothing_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("revoked");
        let refused = |path: &Utf8Path| RevocationList::load(path).unwrap_err().to_string();
        assert!(refused(&path).contains("empty file"), "{}", refused(&path));
        std::fs::write(&path, format!("{}\noops\n", fingerprint(1))).unwrap();
        assert!(refused(&path).contains("revoked, line 2: "), "{}", refused(&path));
        std::fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
        assert!(refused(&path).contains("at most"), "{}", refused(&path));

        std::fs::write(&path, fingerprint(1).to_string()).unwrap();
        let list = RevocationList::load(&path).unwrap();
        for bad in [Some("oops"), None] {
            match bad {
                Some(text) => std::fs::write(&path, text).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            list.refresh();
            assert!(list.problem().is_some_and(|p| p.contains(path.as_str())));
            assert_eq!(list.first_of(&[fingerprint(1)]), Some(fingerprint(1)));
        }
        std::fs::write(&path, "").unwrap();
        list.refresh();
        assert_eq!((list.problem(), list.first_of(&[fingerprint(1)])), (None, None));
    }
}
