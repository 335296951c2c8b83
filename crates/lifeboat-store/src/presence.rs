//! Whether a file is still the one that was there, and as long. Which files should be there, and what it means when one is not,
//! is `look`'s.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};

/// Shortest time between looks that are not for a decision.
const SPACING: Duration = Duration::from_secs(1);

/// Which file it is, and how long it was at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    dev: u64,
    ino: u64,
    len: u64,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            dev: metadata.dev(),
            ino: metadata.ino(),
            len: metadata.len(),
        }
    }

    fn same_file(self, other: Self) -> bool {
        (self.dev, self.ino) == (other.dev, other.ino)
    }
}

/// What was seen at earlier looks.
#[derive(Default)]
pub(crate) struct Presence {
    known: Mutex<HashMap<Utf8PathBuf, Identity>>,
    dir: Mutex<Option<Identity>>,
    last: Mutex<Option<Instant>>,
    pub(crate) looking: AtomicBool,
}

impl Presence {
    /// What is wrong with a file that should be there.
    pub(crate) fn wrong(&self, path: &Utf8Path) -> Option<String> {
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return Some("it is no file any more".to_owned()),
            Err(e) if is_gone(&e) => {
                return Some("it is gone; put it back, or replicate this VM again".to_owned());
            }
            Err(e) => return Some(format!("it cannot be looked at: {e}")),
        };
        let now = Identity::of(&metadata);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.entry(path.to_owned()).or_insert(now);
        if !before.same_file(now) {
            return Some(
                "another file has taken its place; put the right one back, or restart Lifeboat if this is it"
                    .to_owned(),
            );
        }
        if now.len < before.len {
            return Some(format!(
                "it was cut from {} to {} bytes; put it back, or replicate this VM again",
                before.len, now.len
            ));
        }
        before.len = now.len;
        None
    }

    /// Forgets the files below a directory that is made again.
    pub(crate) fn forget(&self, dir: &Utf8Path) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|path, _| !path.starts_with(dir));
    }

    /// What is wrong with the replica's directory.
    pub(crate) fn dir_wrong(&self, dir: &Utf8Path) -> Option<String> {
        let now = match std::fs::metadata(dir) {
            Ok(metadata) => Identity::of(&metadata),
            Err(e) if is_gone(&e) => return Some("it is not there; is its storage mounted?".to_owned()),
            Err(e) => return Some(format!("it cannot be looked at: {e}; is its storage mounted?")),
        };
        let mut known = self.dir.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.get_or_insert(now);
        (!before.same_file(now)).then(|| {
            "another directory has taken its place; is its storage mounted? Restart Lifeboat if this is it".to_owned()
        })
    }

    /// Whether it is time for a look that no decision waits for.
    pub(crate) fn is_due(&self) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|l| l.elapsed() >= SPACING);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

/// Whether an error says that nothing of this name is there.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
