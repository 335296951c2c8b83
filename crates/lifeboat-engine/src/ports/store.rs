//! Replica disks: a base, sealed recovery points above it, a head that logs are applied to, and branches. The store
//! owns the truth about its files and keeps it beside them; the engine decides what happens when.

use async_trait::async_trait;
use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::{Consistency, LogDisk};
use lifeboat_model::{Arrival, BranchId, Changed, DiskFormat, DiskId, PointId, Position, Timestamp, VmId};
use serde::{Deserialize, Serialize};

use super::ByteStream;
use super::capture::BlockView;
use super::hypervisor::DiskImage;
use super::scrub::{DamagedFile, RepairSource, Repaired, ScrubState, ScrubStep, ScrubWork};
use super::storage::StorageFault;

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
    /// What this copy held when it became a replica of what had been its own replica.
    Abandoned,
}

/// What a copy held beyond the point that the other side went on from. Kept whole until somebody drops it.
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// What a replica consists of now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaInfo {
    /// Directory that holds it.
    pub dir: Utf8PathBuf,
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
    /// What the logs changed that were applied since the newest point. It begins anew when the head is built again.
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
    #[error(
        "the authorization entry {owner} allows {most}; to allow more: lifeboat authorization add {owner}"
    )]
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
        /// What is wrong, and the way out.
        detail: String,
    },
    /// A write or a flush of a file failed. Nothing of that file is believed any more, nothing of it was acknowledged,
    /// and it is made anew by the next attempt.
    #[error("{path}: {what} failed; the file is made anew, check the disk")]
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

    /// Whether it concerns the administrator of this host, and not only whoever sent something.
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// Position that is durable now.
    pub durable: Position,
    /// The log's own instant.
    pub instant: Timestamp,
    /// Bytes of the log.
    pub bytes: u64,
    /// It is a piece of a synchronization: `instant` is no instant of the disks.
    #[serde(default)]
    pub partial: bool,
}

/// Replicas of this host. Calls that change one VM's replica are made one at a time by its actor, except
/// `receive`, `receive_offset` and `bulk`, which may run beside `apply`, `seal`, expiry, and the branches of tests being made
/// and thrown away. Of two transfers for one VM the newer ends the older.
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

    /// A segment of an initial copy that came on media. Like `bulk`, but beside `receive`, as long as no delta is applied,
    /// and what is here of the segment already is passed over.
    async fn import(&self, vm: VmId, body: ByteStream) -> Result<BulkProgress, StoreError>;

    /// Records that the initial copy of `disk` starts again from offset 0.
    async fn restart_bulk(&self, vm: VmId, disk: &DiskId) -> Result<(), StoreError>;

    /// How many bytes of the log to `position` are here from an interrupted transfer (0: none).
    async fn receive_offset(&self, vm: VmId, position: Position) -> Result<u64, StoreError>;

    /// Receives the log (a delta, or a piece of a synchronization) to `position` from `offset` on. When it returns `Ok` the whole log is verified and durable and
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

    /// Applies the durable logs up to and including the one to `last` as one: the head is marked dirty once and made durable
    /// once, which is what costs time. Ends before a log that adds or resizes a disk. The last one that was applied; `None`
    /// when there is none. Idempotent.
    async fn apply_through(&self, vm: VmId, last: Position) -> Result<Option<StoredLog>, StoreError>;

    /// The operation on the replica's files that has waited for the disk for longest; `None` when none does. Waits for
    /// nothing.
    fn storage_delay(&self, vm: VmId) -> Option<StorageDelay>;

    /// What `info` said last. Waits for nothing, so that it can be shown while the disk does not answer.
    fn last_info(&self, vm: VmId) -> Option<ReplicaInfo>;

    /// Seals the head as a recovery point at the applied position, whose log arrived then. Repeated at one position it
    /// returns the same point. A `Conflict` when the applied log is partial.
    async fn seal(&self, vm: VmId, id: PointId, arrived: Option<Arrival>) -> Result<Point, StoreError>;

    /// Merges the oldest point into the base so that the next one is the oldest, and forgets logs that no remaining point
    /// can use. Restartable; may be dropped at any moment. `Busy` while a branch runs on it.
    async fn expire_oldest(&self, vm: VmId) -> Result<(), StoreError>;

    /// Deletes the oldest logs up to the one that leads to `upto`, as far as they are not needed to build the head again.
    async fn expire_logs(&self, vm: VmId, upto: Position) -> Result<(), StoreError>;

    /// Makes writable disks on top of `target`, replaying logs when it is a cycle. Repeated with the same arguments it
    /// finishes an interrupted call and returns the same images. Touches no point. A `Conflict` when a chain would have more
    /// than `max_images` images, with its base, or more than the store makes.
    async fn branch(
        &self,
        vm: VmId,
        branch: BranchId,
        target: Target,
        max_images: Option<usize>,
    ) -> Result<Vec<(DiskId, DiskImage)>, StoreError>;

    /// Looks at every file that `target` would stand on, without reading what guests wrote: there, complete, with valid
    /// headers, tables and references, and logs that a replay can begin. `Damaged` names the first file that is not.
    async fn verify_target(&self, vm: VmId, target: Target) -> Result<(), StoreError>;

    /// The same for a complete branch and everything below it, also while a VM runs on it.
    async fn verify_branch(&self, vm: VmId, branch: BranchId) -> Result<(), StoreError>;

    /// The images of a complete branch.
    async fn branch_images(&self, vm: VmId, branch: BranchId)
    -> Result<Vec<(DiskId, DiskImage)>, StoreError>;

    /// Throws a branch away. `Ok` when it does not exist. Touches no point.
    async fn drop_branch(&self, vm: VmId, branch: BranchId) -> Result<(), StoreError>;

    /// Makes a branch the VM's disks for good: everything the branch does not stand on (newer points, head, logs, other
    /// branches) is deleted. Repeatable. The chain below the branch stays until merged. What the deleted logs had changed is
    /// kept for `divergence`.
    async fn promote(&self, vm: VmId, branch: BranchId) -> Result<(), StoreError>;

    /// Layers of a promoted branch still to be merged into the base, per disk; empty when none is left.
    async fn promoted_layers(
        &self,
        vm: VmId,
        branch: BranchId,
    ) -> Result<Vec<super::hypervisor::LiveMerge>, StoreError>;

    /// Makes a copy with data of its own a replica: below `location`, or where the replica is that `origin` names. Nothing
    /// is copied and nothing of the origin is written. Repeated with the same start it changes nothing; with another one
    /// it replaces an adoption into which nothing has arrived yet. An interrupted one leaves the origin as it was.
    async fn adopt(&self, location: &Utf8Path, vm: VmId, adoption: &Adoption) -> Result<(), StoreError>;

    /// Where this copy may differ: of an adopted replica what `adopt` was told; of a promoted one everything that arrived
    /// after the target of the promoted branch and went with the promotion.
    async fn divergence(&self, vm: VmId) -> Result<Divergence, StoreError>;

    /// Lets go of what was kept by an adoption; it may be merged away from now on. `Ok` when nothing is kept.
    async fn drop_abandoned(&self, vm: VmId) -> Result<(), StoreError>;

    /// Numbers of the blocks of each range whose content, at the applied position, differs from the digests.
    async fn compare(&self, vm: VmId, ranges: &[CompareRange]) -> Result<Vec<Vec<u32>>, StoreError>;

    /// The data of a sealed point, to be read. It pins the point until it is closed or dropped. `BlockView::changed` is
    /// what its disks hold at all.
    async fn read_point(&self, vm: VmId, point: PointId) -> Result<Box<dyn BlockView>, StoreError>;

    /// A durable log from `offset` on, to be forwarded as it is.
    async fn read_log(&self, vm: VmId, position: Position, offset: u64) -> Result<ByteStream, StoreError>;

    /// Keeps every log after `since` from expiry, until told otherwise (`None`: none is kept). Lost at a restart.
    async fn keep_logs(&self, vm: VmId, since: Option<Position>);

    /// The initial copy is complete as it stands: its content is the start position at this instant, and becomes the
    /// first point. For copies of a sealed point, which need no closing delta.
    async fn finish_bulk(
        &self,
        vm: VmId,
        id: PointId,
        instant: Timestamp,
        consistency: Consistency,
    ) -> Result<Point, StoreError>;

    /// Keeps the machine's firmware variables beside the disks: what the next branch starts with.
    async fn put_firmware(&self, vm: VmId, vars: Bytes) -> Result<(), StoreError>;

    /// The firmware variables that were put last; `None` when none were.
    async fn firmware(&self, vm: VmId) -> Result<Option<Bytes>, StoreError>;

    /// The file for the firmware variables of a branch, writable and its own, made from what was put last. It is not there
    /// when nothing was.
    async fn branch_firmware(&self, vm: VmId, branch: BranchId) -> Result<Utf8PathBuf, StoreError>;

    /// Merges those layers while the VM is off. Restartable; may be dropped at any moment.
    async fn merge_promoted(&self, vm: VmId, branch: BranchId) -> Result<(), StoreError>;

    /// After the layers were merged by the running VM's own process: checks that, and deletes their files.
    async fn merged_live(&self, vm: VmId, branch: BranchId) -> Result<(), StoreError>;

    /// Replicas below `location`, whether they are open or not: the VM and the directory of each. Looks at names only.
    async fn found(&self, location: &Utf8Path) -> Result<Vec<(VmId, Utf8PathBuf)>, StoreError>;

    /// Does the next piece of scrubbing: reads at most about 16 MiB of one file, alone of what changes images. Digests of
    /// sealed content are recorded once and compared from then on; damage that is found shows in `ReplicaInfo::damage`
    /// until it is repaired or its file is gone. How far a pass is survives a restart. `now` is for the record only. May be
    /// called, and dropped, beside any other call: the store lets one wait for the other.
    async fn scrub(&self, vm: VmId, work: ScrubWork, now: Timestamp) -> Result<ScrubStep, StoreError>;

    /// How far scrubbing is.
    async fn scrub_state(&self, vm: VmId) -> Result<ScrubState, StoreError>;

    /// Tries to repair what is damaged, beside any other call like `scrub`. Bytes are written only if the block then has its recorded digest, made durable,
    /// and read back.
    async fn repair(&self, vm: VmId, source: RepairSource) -> Result<Repaired, StoreError>;

    /// From now on the replica is one of this owner and takes no more than is left to it; `None`: no bound. Known until the
    /// replica is destroyed, also before it is opened. Waits for nothing.
    fn bound(&self, vm: VmId, quota: Option<Quota>);

    /// Lets go of a replica without touching its files; `open` takes it up again.
    async fn close(&self, vm: VmId);

    /// The daemon stops, and every call has ended or was dropped: waits until no thread and no program of the store has a
    /// replica's files open. What does not end within 20 seconds, because its disk does not answer, is left to the next start.
    async fn release(&self);

    /// Deletes a replica with all its points. Repeatable.
    async fn destroy(&self, vm: VmId) -> Result<(), StoreError>;
}
