//! What crosses the two ports of replicas: recovery points, logs, branches, and what a replica consists of. Paths in it are
//! shown to people or name images of this host; where a replica is kept is a [`StoreLocation`].

use crate::port::scrub::DamagedFile;
use crate::port::storage::StorageFault;
use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::{Consistency, LogDisk};
pub use lifeboat_model::Target;
use lifeboat_model::{Arrival, BranchId, Changed, DiskFormat, DiskId, PointId, Position, Timestamp};
use serde::{Deserialize, Serialize};

/// A place in a store: where replicas are kept (a storage location), or where one of them is. Only the store that made it or
/// was configured with it can take it apart; to all other code it is text, which is recorded and compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreLocation(String);

impl StoreLocation {
    /// The place that this text names, as it was configured or recorded.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for records and for people.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory that it is in a store of files.
    #[must_use]
    pub fn directory(&self) -> &Utf8Path {
        Utf8Path::new(&self.0)
    }
}

impl std::fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<StoreLocation> for String {
    fn from(location: StoreLocation) -> Self {
        location.0
    }
}

impl From<Utf8PathBuf> for StoreLocation {
    fn from(directory: Utf8PathBuf) -> Self {
        Self(directory.into_string())
    }
}

impl From<&Utf8Path> for StoreLocation {
    fn from(directory: &Utf8Path) -> Self {
        Self(directory.as_str().to_owned())
    }
}

/// A sealed recovery point: an image chain for each disk, bootable at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// A random UUID, chosen when the point is sealed.
    pub id: PointId,
    /// Position it stands for.
    pub position: Position,
    /// The instant on the primary.
    pub instant: Timestamp,
    /// What the instant guarantees.
    pub consistency: Consistency,
    /// Bytes its layer takes on disk.
    pub size: u64,
    /// When its instant arrived here, on the replica's own scale; `None` for a point that did not arrive as a log, and for
    /// one of a program that did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrived: Option<Arrival>,
    /// What changed since the point before it, as far as it arrived in logs of whole instants; `None` where that was not
    /// noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<Changed>,
}

/// A log that is durable here: any-point recovery can replay it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredLog {
    /// Position after it.
    pub position: Position,
    /// Position it continues.
    pub parent: Position,
    /// The instant on the primary.
    pub instant: Timestamp,
    /// What the instant guarantees.
    pub consistency: Consistency,
    /// Bytes of the log file.
    pub size: u64,
    /// A piece of a synchronization (`LogKind::Sync`): nothing can be brought up at this position.
    #[serde(default)]
    pub partial: bool,
}

/// The logs of a VM that a log store has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLogs {
    /// Last position whose log is durable: what is acknowledged to the primary.
    pub durable: Position,
    /// Durable logs, oldest first. Those after a gap are the ones that count.
    pub logs: Vec<StoredLog>,
}

/// What a copy held beyond the point that the other side went on from. Kept complete until it is dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abandoned {
    /// Last position this copy shared with the other side, as far as it knew.
    pub since: Position,
    /// When it was set aside.
    pub at: Timestamp,
}

/// Byte ranges of one disk: offset and length, ascending, not overlapping.
pub type Ranges = Vec<(u64, u64)>;

/// Where a copy may differ from an instant it once shared with another copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Divergence {
    /// The instant.
    pub since: Position,
    /// Per disk what may differ; `None` when nothing is known, and only a comparison helps.
    pub disks: Vec<(DiskId, Option<Ranges>)>,
}

/// What the base of an adopted replica is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Images of this host, taken over where they are; they are written to only by the expiry of points above them, and
    /// never deleted by the store. A disk without an image starts empty.
    Images(Vec<(DiskId, Utf8PathBuf, DiskFormat)>),
    /// The branch that was promoted in the replica that is here already, whatever it stands on.
    Promoted(BranchId),
    /// The replica that is here already, as far as it was applied; its points stay.
    Here,
}

/// How a copy that has data becomes a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adoption {
    /// Included disks with their sizes.
    pub disks: Vec<LogDisk>,
    /// Position that the content stands for from now on: the parent of the first log.
    pub start: Position,
    /// What is there.
    pub origin: Origin,
    /// The content is a whole instant: it becomes the first point, with this id, instant and consistency.
    pub sealed: Option<(PointId, Timestamp, Consistency)>,
    /// The content must be kept as it is until `drop_abandoned`.
    pub keep: Option<Abandoned>,
    /// Where it differs from what the new primary has, for `divergence`.
    pub divergence: Divergence,
}

/// A range to compare with another copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompareRange {
    /// Disk number in the order of the replica's disks.
    pub disk: u16,
    /// First byte, a multiple of `block`.
    pub offset: u64,
    /// Bytes, at most 64 MiB; a last block may be shorter than `block`.
    pub len: u64,
    /// Bytes that one digest stands for, 4,096 to 1 MiB.
    pub block: u32,
    /// The other copy's digests, one for each block: BLAKE3, the first 16 bytes, concatenated, as base64.
    pub digests: String,
}

/// How far the initial copy of one disk has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkProgress {
    /// The disk.
    pub disk: DiskId,
    /// Everything below this offset is here and durable.
    pub done: u64,
}

/// What a replica consists of now: its images, and the logs that its image store was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaInfo {
    /// Where it is.
    #[serde(rename = "dir")]
    pub place: StoreLocation,
    /// Disks and their sizes.
    pub disks: Vec<LogDisk>,
    /// Initial copy, per disk. Meaningless once `durable` is past the start.
    pub bulk: Vec<BulkProgress>,
    /// Last position whose log is durable here: what is acknowledged to the primary.
    pub durable: Position,
    /// Position the head stands at; `durable` is ahead of it by the logs still to be applied.
    pub applied: Position,
    /// Sealed points in the order of the image chain, oldest first. Those of an older generation come before those of the
    /// current one, whatever their sequences and instants are.
    pub points: Vec<Point>,
    /// Durable logs, each the parent of the next, oldest first: those since the newest sealed point always, older ones within the any-point window.
    pub logs: Vec<StoredLog>,
    /// Branches that exist, complete or not.
    pub branches: Vec<BranchId>,
    /// What this copy held before it became a replica, if that is kept.
    pub abandoned: Option<Abandoned>,
    /// The file that holds the newest content of each disk, of the replica itself and of each complete branch.
    #[serde(default)]
    pub files: Vec<DiskFile>,
    /// What is wrong with its files and disks, as of this look at them; the oldest first.
    #[serde(default)]
    pub faults: Vec<StorageFault>,
    /// Files that are known to be damaged, and what they spoil.
    #[serde(default)]
    pub damage: Vec<DamagedFile>,
    /// What the logs changed that were applied since the newest point. It begins again when the head is built again.
    #[serde(default)]
    pub unsealed: Changed,
}

/// The topmost file of a disk's image chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFile {
    /// The disk.
    pub disk: DiskId,
    /// The branch it belongs to; `None`: what arrives from the primary is written to it.
    pub branch: Option<BranchId>,
    /// Absolute path.
    pub path: Utf8PathBuf,
}

/// An operation on a replica's files that waits for the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageDelay {
    /// The replica's directory, absolute.
    pub path: Utf8PathBuf,
    /// When it last got a step further, by the monotonic clock.
    pub since: tokio::time::Instant,
}

/// What all replicas of one owner may take of the disks together, and what each may have. Branches and merges, which a
/// failover and expiry need, may take more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Who they belong to: key of an authorization entry.
    pub owner: String,
    /// Bytes on disk of all; `None`: what the disk has.
    pub bytes: Option<u64>,
    /// Bytes of a disk as the guest sees it; `None`: as large as it comes. A disk that is larger already does not grow.
    pub disk_bytes: Option<u64>,
}

/// A log that is being received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Position that is durable now.
    pub durable: Position,
    /// The log's own instant.
    pub instant: Timestamp,
    /// Bytes of the log.
    pub bytes: u64,
    /// It is a piece of a synchronization: `instant` is no instant of the disks.
    pub partial: bool,
}
