//! What a store has seen of the files and disks it keeps replicas on: facts for the health and for people. What follows
//! from a fact is the engine's decision; how it is found is the store's.

use camino::Utf8PathBuf;
use lifeboat_model::Timestamp;
use serde::{Deserialize, Serialize};

/// How a file or a disk is wrong, and so how long the fact stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageFaultKind {
    /// A write or a flush failed. Nothing of the file is believed. The fact ends when a file made again in its place is
    /// durable.
    Failing,
    /// A file that recovery points, branches or acknowledged data need is gone or is another file. It is never made
    /// again. The fact ends when the file is back.
    Lost,
    /// The directory is encrypted and its file system does not have the key: nothing is known of the files. The fact ends when
    /// the key is there.
    Locked,
    /// A damaged file was set aside, and what does not need it goes on. The fact ends when a person removes that file.
    SetAside,
    /// A file that can be made from others was gone or damaged and is made again. The fact ends with the next recovery
    /// point.
    Rebuilt,
}

/// One such fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageFault {
    /// How it is wrong.
    pub kind: StorageFaultKind,
    /// The file or directory, absolute.
    pub path: Utf8PathBuf,
    /// What was seen and what to do; a sentence that goes on after the path.
    pub detail: String,
    /// When it was first seen, by the clock of the host that keeps the file.
    pub since: Timestamp,
}

impl std::fmt::Display for StorageFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.detail)
    }
}
