//! What the engine asks of the host around it: which file a path leads to, whether a directory may hold replicas, and
//! until when the host's certificates are valid. The binary implements it with the adapters it has wired.

use async_trait::async_trait;
use lifeboat_model::certificates::CertificateUse;
use lifeboat_model::{Finding, Fingerprint, Timestamp};
use serde::{Deserialize, Serialize};

/// Identity of a file or block device, whatever path leads to it: two paths with one identity are one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileId {
    /// A file, by the device of its file system and its inode number.
    File {
        /// Device number of the file system.
        device: u64,
        /// Inode number.
        inode: u64,
    },
    /// A block device, by its own device number: several nodes may lead to it.
    Device {
        /// The device number.
        number: u64,
    },
}

/// Why a directory cannot hold replicas.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// Nothing is there.
    #[error("{0} is not there; make it with: mkdir -p {0}, or mount its file system")]
    Missing(String),
    /// Something else is there.
    #[error("{0} is no directory")]
    NoDirectory(String),
    /// The root directory.
    #[error("replicas are not stored in the root directory; name a directory of their own")]
    Root,
    /// It belongs to the daemon.
    #[error(
        "{location} is inside {own}, which Lifeboat uses itself; name a directory of their own for replicas"
    )]
    Own {
        /// What was named.
        location: String,
        /// The daemon's directory.
        own: String,
    },
    /// It cannot be looked at, or not written to.
    #[error("{location} cannot be used: {detail}")]
    Unusable {
        /// What was named.
        location: String,
        /// What is wrong with it, to be read after "cannot be used: ".
        detail: String,
    },
}

/// A certificate as this host has it or has seen it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// What it is for.
    pub usage: CertificateUse,
    /// The file it is in, or the peer that has shown it.
    pub place: String,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
    /// Why what the files hold now is not used; `None` while what is used is what they hold.
    #[serde(default)]
    pub problem: Option<String>,
}

/// The keys of this host, by their SHA-256, and what there is to say of files that concern trust.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnKeys {
    /// The one in use.
    pub own: Option<Fingerprint>,
    /// The one that is to follow; `None`: none is to.
    pub next: Option<Fingerprint>,
    /// What needs attention: a file that cannot be used, a certificate of this host that is revoked.
    pub findings: Vec<Finding>,
}

/// Whether what is in a directory is encrypted by its file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum AtRest {
    /// It is not.
    NotEncrypted,
    /// It is, and the file system has the key.
    Encrypted {
        /// The kernel's name for the key: 32 hexadecimal digits that open nothing. `None` for a policy of an old version.
        key: Option<String>,
    },
    /// It is, and the file system does not have the key: nothing in it can be read.
    Locked {
        /// The kernel's name for the key.
        key: String,
    },
    /// It cannot be told.
    NotKnown {
        /// Why the question failed, in words; also that its storage did not answer in time.
        why: String,
    },
}

/// The host around the engine.
#[async_trait]
pub trait Environment: Send + Sync {
    /// Which file each path leads to, in the order of `paths`, links followed; `None` where there is none, or it cannot
    /// be looked at.
    async fn file_ids(&self, paths: &[String]) -> Vec<Option<FileId>>;

    /// Makes sure that replicas can be stored below `location`: a directory that is not there is made if the one above it
    /// is. A longer path that is not there is a word written wrong, or a file system that is not mounted.
    async fn prepare_location(&self, location: &str) -> Result<(), LocationError>;

    /// Whether replicas may be stored below `location`. Looks only; makes nothing.
    async fn replica_location(&self, location: &str) -> Result<(), LocationError>;

    /// Whether what is in these directories is encrypted, in their order. The kernel is asked each time. A directory that is not
    /// there stands as the nearest one above it.
    async fn at_rest(&self, dirs: &[String]) -> Vec<AtRest>;

    /// Directories of the daemon that hold guests' data: what waits to be sent, and what a guest wrote over while it was read.
    fn working_dirs(&self) -> Vec<String>;

    /// Whether the directories of new replicas are made encrypted.
    fn encrypts_new(&self) -> bool;

    /// Every certificate that connections of this host depend on: its own, those of the authorities it trusts, and those
    /// that peers have shown since the daemon started. Files that changed are read again.
    async fn certificates(&self) -> Vec<Certificate>;

    /// The keys of this host, as the files are now.
    async fn keys(&self) -> OwnKeys;
}
