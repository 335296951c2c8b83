//! How far scrubbing a replica is, and what it keeps in memory of that. What is done next, `scrub` decides.

use std::collections::BTreeSet;

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_engine::ports::scrub::ScrubPass;
use lifeboat_model::{Position, Timestamp};
use serde::{Deserialize, Serialize};

use crate::comparison::Proof;
use crate::damage::Known;
use crate::digest::DIR;
use crate::logs::Reader;

/// File of the progress, below [`DIR`].
pub(crate) const NAME: &str = "state.json";

/// File that names the replica all this is about, below [`DIR`].
pub(crate) const OF: &str = "of.json";

/// Bytes that one call reads, about.
pub(crate) const AT_ONCE: u64 = 16 << 20;

/// How far scrubbing is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Files of which every block was looked at since they were sealed.
    pub(crate) recorded: BTreeSet<Utf8PathBuf>,
    /// Layers that were compared with their logs, and have no digests yet.
    #[serde(default)]
    pub(crate) proved: BTreeSet<Utf8PathBuf>,
    /// The file that is being recorded, and the next page of it.
    pub(crate) recording: Option<(Utf8PathBuf, u64)>,
    pub(crate) pass: Option<Pass>,
    /// When the last complete pass began.
    pub(crate) last: Option<Timestamp>,
}

/// A pass under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pass {
    pub(crate) shown: ScrubPass,
    /// Files that are through.
    pub(crate) done: BTreeSet<Utf8PathBuf>,
    /// The file it is in, and the next page of it.
    pub(crate) current: Option<(Utf8PathBuf, u64)>,
    /// The last log that is through.
    pub(crate) log: Option<Utf8PathBuf>,
    /// The head is through.
    #[serde(default)]
    pub(crate) head: bool,
}

/// What a replica keeps in memory of all this.
#[derive(Default)]
pub(crate) struct Scrub {
    /// Start of the replica that this is about. After an adoption the same files hold something else.
    pub(crate) of: Option<Position>,
    pub(crate) progress: Progress,
    pub(crate) log: Option<Reader>,
    /// The comparison with logs that is under way.
    pub(crate) proof: Option<Box<Proof>>,
    pub(crate) damage: Known,
}

impl Scrub {
    /// What is recorded for the replica in `dir`; nothing when it is about one that was here before.
    pub(crate) fn load(dir: &Utf8Path, start: Position) -> Self {
        let path = dir.join(DIR).join(NAME);
        let read = std::fs::read(&path).ok();
        let progress: Option<Progress> = read.and_then(|bytes| match serde_json::from_slice(&bytes) {
            Ok(progress) => Some(progress),
            Err(e) => {
                tracing::warn!(%path, error = %e, "how far the scrub was cannot be read; it begins again");
                None
            }
        });
        let of = std::fs::read(dir.join(DIR).join(OF)).ok();
        let of: Option<Position> = of.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if of != Some(start) {
            return Self::default();
        }
        Self {
            of,
            progress: progress.unwrap_or_default(),
            log: None,
            proof: None,
            damage: Known::load(dir),
        }
    }

    /// Whether a layer needs not be compared with logs any more.
    pub(crate) fn is_through(&self, file: &Utf8Path) -> bool {
        self.progress.recorded.contains(file) || self.progress.proved.contains(file)
    }

    /// Whether what is recorded is about a replica with this start.
    pub(crate) fn is_about(&self, start: Position) -> bool {
        self.of == Some(start)
    }
}
