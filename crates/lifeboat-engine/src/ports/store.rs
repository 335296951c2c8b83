//! Replica disks: a base, sealed recovery points above it, a head that logs are applied to, and branches. The store
//! owns the truth about its files and keeps it beside them; the engine decides what happens when.

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::{Consistency, LogDisk};
use lifeboat_model::{BranchId, DiskId, PointId, Position, Timestamp, VmId};
use serde::{Deserialize, Serialize};

use super::ByteStream;
use super::hypervisor::DiskImage;

/// A sealed recovery point: an image chain for each disk, bootable at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Identity.
    pub id: PointId,
    /// Position it stands for.
    pub position: Position,
    /// The instant on the primary.
    pub instant: Timestamp,
    /// What the instant guarantees.
    pub consistency: Consistency,
    /// Bytes its layer takes on disk.
    pub size: u64,
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
}

/// Where an instant to be brought back is: a sealed point, or a cycle that needs replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Target {
    /// A sealed point.
    Point {
        /// Its id.
        id: PointId,
    },
    /// A cycle in the retained logs, not before the oldest sealed point.
    Cycle {
        /// Its position.
        position: Position,
    },
}

/// How far the initial copy of one disk has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkProgress {
    /// The disk.
    pub disk: DiskId,
    /// Everything below this offset is here and durable.
    pub done: u64,
}

/// What a replica consists of now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaInfo {
    /// Directory that holds it.
    pub dir: Utf8PathBuf,
    /// Disks and their sizes.
    pub disks: Vec<LogDisk>,
    /// Initial copy, per disk. Meaningless once `durable.sequence` > 0.
    pub bulk: Vec<BulkProgress>,
    /// Last position whose log is durable here: what is acknowledged to the primary.
    pub durable: Position,
    /// Position the head stands at; `durable` is ahead of it by the logs still to be applied.
    pub applied: Position,
    /// Sealed points, oldest first.
    pub points: Vec<Point>,
    /// Durable logs, oldest first: those since the newest sealed point always, older ones within the any-point window.
    pub logs: Vec<StoredLog>,
    /// Branches that exist, complete or not.
    pub branches: Vec<BranchId>,
}

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
    #[error("no recovery point {0}; list them with: lifeboat points")]
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
    /// The log is damaged or does not fit this replica. The sender's or the network's fault.
    #[error("log refused: {0}")]
    BadLog(String),
    /// The disk is full, or would be fuller than the reserve allows.
    #[error("no space left in {0}")]
    NoSpace(Utf8PathBuf),
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

/// A log that is being received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// Position that is durable now.
    pub durable: Position,
    /// The log's own instant.
    pub instant: Timestamp,
    /// Bytes of the log.
    pub bytes: u64,
}

/// Replicas of this host. Calls that change one VM's replica are made one at a time by its actor, except
/// `receive`, `receive_offset` and `bulk`, which may run beside `apply`, `seal` and `expire`. Of two transfers for one VM
/// the newer ends the older.
#[async_trait]
pub trait ReplicaStore: Send + Sync {
    /// Makes an empty replica below `location` (in a directory named after the VM). Repeated with the same arguments it
    /// changes nothing. A replica with other disks or another generation is a `Conflict`, unless nothing has arrived in
    /// it yet (no delta, no bulk progress): such a leftover of an interrupted offer is replaced.
    async fn create(
        &self,
        location: &Utf8Path,
        vm: VmId,
        disks: &[LogDisk],
        start: Position,
    ) -> Result<(), StoreError>;

    /// Opens the replica in `dir` after a start of the daemon and finishes or undoes whatever was interrupted. A head
    /// that cannot be trusted is thrown away and built again from the newest point and the logs since.
    async fn open(&self, dir: &Utf8Path, vm: VmId) -> Result<ReplicaInfo, StoreError>;

    /// What is here now.
    async fn info(&self, vm: VmId) -> Result<ReplicaInfo, StoreError>;

    /// Applies one segment of the initial copy (`LogKind::Bulk`, one disk, starting where `BulkProgress::done` ends)
    /// to the base and returns the progress when it is durable. What came of an interrupted segment is kept. Refused once
    /// a delta is here.
    async fn bulk(&self, vm: VmId, body: ByteStream) -> Result<BulkProgress, StoreError>;

    /// Records that the initial copy of `disk` starts again from offset 0.
    async fn restart_bulk(&self, vm: VmId, disk: &DiskId) -> Result<(), StoreError>;

    /// How many bytes of the log to `position` are here from an interrupted transfer (0: none).
    async fn receive_offset(&self, vm: VmId, position: Position) -> Result<u64, StoreError>;

    /// Receives the log to `position` from `offset` on. When it returns `Ok` the whole log is verified and durable and
    /// `durable` has moved. Interrupted, the bytes so far are kept for `receive_offset`. A log that is already durable
    /// is answered `Ok` without reading the body.
    async fn receive(
        &self,
        vm: VmId,
        position: Position,
        offset: u64,
        body: ByteStream,
    ) -> Result<Received, StoreError>;

    /// Applies the next durable log to the head. `None` when there is none. Idempotent.
    async fn apply(&self, vm: VmId) -> Result<Option<StoredLog>, StoreError>;

    /// Seals the head as a recovery point at the applied position. Repeated at one position it returns the same point.
    async fn seal(&self, vm: VmId, id: PointId) -> Result<Point, StoreError>;

    /// Merges the oldest point into the base so that the next one is the oldest, and forgets logs that no remaining point
    /// can use. Restartable; may be dropped at any moment. `Busy` while a branch runs on it.
    async fn expire_oldest(&self, vm: VmId) -> Result<(), StoreError>;

    /// Deletes logs with an instant before `before` that are not needed to build the head again.
    async fn expire_logs(&self, vm: VmId, before: Timestamp) -> Result<(), StoreError>;

    /// Makes writable disks on top of `target`, replaying logs when it is a cycle. Repeated with the same arguments it
    /// finishes an interrupted call and returns the same images. Touches no point.
    async fn branch(
        &self,
        vm: VmId,
        branch: BranchId,
        target: Target,
    ) -> Result<Vec<(DiskId, DiskImage)>, StoreError>;

    /// The images of a complete branch.
    async fn branch_images(&self, vm: VmId, branch: BranchId)
    -> Result<Vec<(DiskId, DiskImage)>, StoreError>;

    /// Throws a branch away. `Ok` when it does not exist. Touches no point.
    async fn drop_branch(&self, vm: VmId, branch: BranchId) -> Result<(), StoreError>;

    /// Makes a branch the VM's disks for good: everything the branch does not stand on (newer points, head, logs, other
    /// branches) is deleted. Repeatable. The chain below the branch stays until merged.
    async fn promote(&self, vm: VmId, branch: BranchId) -> Result<(), StoreError>;

    /// Layers of a promoted branch still to be merged into the base, per disk; empty when none is left.
    async fn promoted_layers(
        &self,
        vm: VmId,
        branch: BranchId,
    ) -> Result<Vec<super::hypervisor::LiveMerge>, StoreError>;

    /// Merges those layers while the VM is off. Restartable; may be dropped at any moment.
    async fn merge_promoted(&self, vm: VmId, branch: BranchId) -> Result<(), StoreError>;

    /// After the layers were merged by the running VM's own process: checks that, and deletes their files.
    async fn merged_live(&self, vm: VmId, branch: BranchId) -> Result<(), StoreError>;

    /// Lets go of a replica without touching its files; `open` takes it up again.
    async fn close(&self, vm: VmId);

    /// Deletes a replica with all its points. Repeatable.
    async fn destroy(&self, vm: VmId) -> Result<(), StoreError>;
}
