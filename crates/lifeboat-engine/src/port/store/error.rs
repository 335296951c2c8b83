//! Why a store of logs or of images refused or failed. One enum for both: applying a log meets the errors of both, and what
//! each means for the sender and for this host's administrator is said here once.

use camino::Utf8PathBuf;
use lifeboat_model::{BranchId, Position, VmId};

/// Why the store refused or failed. After any of these the replica is as it was, or a repeated call finishes the work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such replica.
    #[error("no replica of VM {0} here")]
    NoReplica(VmId),
    /// A replica of this VM exists with other disks or another generation.
    #[error("{0}")]
    Conflict(String),
    /// No such point or cycle, or it has expired.
    #[error("no recovery point {0}")]
    NoPoint(String),
    /// No such branch.
    #[error("no branch {0}")]
    NoBranch(BranchId),
    /// The log does not continue what is here. Not an error of the data: the sender decides again from `have`.
    #[error("the log continues {parent}, the replica stands at {have}")]
    OutOfSequence {
        /// What the log continues.
        parent: Position,
        /// What is durable here.
        have: Position,
    },
    /// A newer transfer took the place of this one. Not an error of the data: its sender has given it up, or decides again
    /// from `have`.
    #[error("a newer transfer took the place of this one; the replica stands at {have}")]
    Superseded {
        /// What is durable here.
        have: Position,
    },
    /// The log is damaged or does not fit this replica. The sender's or the network's fault.
    #[error("log refused: {0}")]
    BadLog(String),
    /// The disk is full, or would be fuller than the reserve allows.
    #[error("no space left in {0}")]
    NoSpace(Utf8PathBuf),
    /// The replicas of one owner would take more than they may together.
    #[error("the authorization entry {owner} allows {most}")]
    OverQuota {
        /// Key of the entry.
        owner: String,
        /// What it allows, with the amount.
        most: String,
    },
    /// Files are used by a running branch; the work waits.
    #[error("{0} is in use by a running VM")]
    Busy(String),
    /// An image is damaged.
    #[error("{path}: {detail}")]
    Damaged {
        /// The image.
        path: Utf8PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The file system does not have the key of the encrypted directory that the files are in. Nothing is known of them, least
    /// of all that they are gone or damaged.
    #[error("{path}: {detail}")]
    Locked {
        /// The directory.
        path: Utf8PathBuf,
        /// What is wrong, and what to do about it.
        detail: String,
    },
    /// A write or a flush of a file failed. Nothing of that file is believed any more, nothing of it was acknowledged,
    /// and it is made again by the next attempt.
    #[error("{path}: {what} failed; the file is made again, check the disk")]
    Failing {
        /// The file or directory.
        path: Utf8PathBuf,
        /// What was being done, as a noun.
        what: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Anything else.
    #[error("{what}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl StoreError {
    /// Whether there was no room for what was to be written.
    #[must_use]
    pub fn lacks_room(&self) -> bool {
        matches!(self, Self::NoSpace(_) | Self::OverQuota { .. })
    }

    /// Whether it concerns the administrator of this host, and not only the sender.
    #[must_use]
    pub fn concerns_this_host(&self) -> bool {
        match self {
            Self::NoSpace(_)
            | Self::OverQuota { .. }
            | Self::Damaged { .. }
            | Self::Locked { .. }
            | Self::Failing { .. }
            | Self::BadLog(_) => true,
            Self::NoReplica(_)
            | Self::Conflict(_)
            | Self::NoPoint(_)
            | Self::NoBranch(_)
            | Self::OutOfSequence { .. }
            | Self::Superseded { .. }
            | Self::Busy(_)
            | Self::Io { .. } => false,
        }
    }
}
