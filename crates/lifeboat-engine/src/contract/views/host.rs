//! This host: its settings as a replica server, what its connections depend on, and the directories that hold guests' data.

use lifeboat_model::Finding;
use lifeboat_model::certificates::CertificateUse;
use lifeboat_model::settings::{MONITORING_INTERVAL_S, MONITORING_START_MIN};
use lifeboat_model::{Bandwidth, Fingerprint, Timestamp};
use serde::{Deserialize, Serialize};

/// This host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerView {
    /// Its name.
    pub host: String,
    /// Version of Lifeboat.
    pub version: String,
    /// Where peers reach it.
    pub listen: String,
    /// What this host takes as a replica server, and its limit for sending.
    pub settings: ServerSettings,
    /// Certificates that its connections depend on, as they were looked at last.
    #[serde(default)]
    pub certificates: Vec<CertificateView>,
    /// Keys of this host.
    #[serde(default)]
    pub keys: ServerKeys,
    /// Whether the directories of new replicas are made encrypted.
    #[serde(default)]
    pub encrypts_new: bool,
    /// The directories that hold guests' data, and whether they are encrypted; asked of the kernel for this view.
    #[serde(default)]
    pub directories: Vec<DirectoryView>,
    /// What of this host needs attention, with what to do about it.
    #[serde(default)]
    pub notes: Vec<Finding>,
}

/// This host as a replica server. What a caller does not say is the default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Whether replicas are taken (`RecoveryServerEnabled`).
    pub enabled: bool,
    /// Length of a monitoring window in seconds, 3,600 to 604,800 (`MonitoringInterval`).
    pub monitoring_interval_s: u32,
    /// When windows begin, in minutes of the local day, 0 to 1,439 (`MonitoringStartTime`).
    pub monitoring_start_min: u16,
    /// Limit for everything this host sends, in bytes per second; 0 is unlimited.
    pub bandwidth: Bandwidth,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            monitoring_interval_s: MONITORING_INTERVAL_S,
            monitoring_start_min: MONITORING_START_MIN,
            bandwidth: Bandwidth::default(),
        }
    }
}

/// A certificate as this host has it or has seen it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateView {
    /// What it is for.
    pub usage: CertificateUse,
    /// The file it is in, or the peer that has shown it.
    pub place: String,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
    /// Why what the files hold now is not used; `None` while what is used is what they hold.
    pub problem: Option<String>,
}

/// A directory that holds guests' data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryView {
    /// What is in it.
    pub content: DirectoryContent,
    /// Its path.
    pub path: String,
    /// Whether it is encrypted.
    pub at_rest: AtRestView,
}

/// What a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DirectoryContent {
    /// Changes on their way, and what a guest wrote over while it was read.
    Spool,
    /// A directory for each replica: the storage location of an authorization entry. Encrypted itself or not, new
    /// replicas below it are as [`ServerView::encrypts_new`] says.
    Location,
    /// The files of one VM.
    Replica,
}

/// Whether what is in a directory is encrypted by its file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum AtRestView {
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

/// Keys of a host, by their SHA-256: what other hosts know it by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerKeys {
    /// The one in use; `None`: not looked at yet.
    pub own: Option<Fingerprint>,
    /// The one that is to follow; `None`: none is to.
    pub next: Option<Fingerprint>,
}
