//! Images of replicas: a base, sealed recovery points above it, a head that logs are applied to, and branches. The store owns the
//! truth about its images and keeps it beside them; the engine decides what happens when.
//!
//! # Images and logs
//!
//! An image store is given the logs that it applies. It is made either together with a log store, as one object that may keep one
//! manifest for both (files), or with a [`LogKeeper`](super::LogKeeper) whose files it never sees (images in a cluster, logs in
//! files). The port assumes neither a directory nor a manifest that both share. The engine holds the pair as one
//! [`Store`](super::Store) and calls each half for its part; what concerns both is a call of the image store, because that alone
//! knows both:
//!
//! | call | logs | images |
//! |---|---|---|
//! | `create`, `adopt` | begun at the new start, last | durable at the new start, first |
//! | `open` | opened first | finish or undo what was interrupted, and build the head again from logs |
//! | `info` | `durable` and `logs`, looked at last | everything else |
//! | `apply` | read; durable since they were received | marked dirty, written, made durable, marked clean |
//! | `branch`, `verify_target` of a cycle | read for the replay | the branch |
//! | `expire_oldest` | those that no point can use go last | the oldest point is merged, first |
//! | `promote` | what they changed is noted, then they go | the branch is the VM's disks, first |
//! | `repair` from logs | read | written |
//! | `bound` | count with the images | |
//! | `close`, `release` | let go of last | let go of first |
//! | `destroy` | deleted second | marked as going first, deleted third, so that the next `open` finds what is left |
//!
//! `found` looks for images: logs without images are no replica. `seal`, `compare`, the initial copy and scrubbing of images need
//! no logs; what a point says of its instant was read when its log was applied.
//!
//! After a crash between two of these steps the images say what is to be done: logs that do not start where they do are begun
//! again, logs of a promoted replica are ended.

use super::{
    Adoption, BulkProgress, CompareRange, Divergence, Point, Quota, ReplicaInfo, StorageDelay, StoreError,
    StoreLocation, StoredLog, Target,
};
use crate::port::ByteStream;
use crate::port::capture::BlockView;
use crate::port::hypervisor::{DiskImage, LiveMerge};
use crate::port::scrub::{RepairSource, Repaired, ScrubState, ScrubStep, ScrubWork};
use async_trait::async_trait;
use bytes::Bytes;
use camino::Utf8PathBuf;
use lifeboat_deltalog::{Consistency, LogDisk};
use lifeboat_model::{Arrival, BranchId, DiskId, PointId, Position, Timestamp, VmId};

/// Images of the replicas of this host. Calls that change one VM's replica are made one at a time by its actor, except `bulk`,
/// which may run beside `apply`, `seal`, expiry, and the branches of tests being made and thrown away, as logs may arrive beside
/// them. A second segment for one VM ends the first.
#[async_trait]
pub trait ImageStore: Send + Sync {
    // A replica as a whole, its images and its logs.

    /// Where a replica of the VM is, or would be made, at a storage location. Looks at nothing.
    fn place(&self, location: &StoreLocation, vm: VmId) -> StoreLocation;

    /// Makes an empty replica at `location`, in the place that `place` says. Repeated with the same arguments it
    /// changes nothing. A replica with other disks or another generation is a `Conflict`, unless nothing has arrived in
    /// it yet (no delta, no bulk progress): such a leftover of an interrupted offer is replaced.
    async fn create(
        &self,
        location: &StoreLocation,
        vm: VmId,
        disks: &[LogDisk],
        start: Position,
    ) -> Result<(), StoreError>;

    /// Opens the replica at `place` after a start of the daemon and finishes or undoes whatever was interrupted. A head
    /// that cannot be trusted is thrown away and built again from the newest point and the logs since, so its logs are opened
    /// first.
    async fn open(&self, place: &StoreLocation, vm: VmId) -> Result<ReplicaInfo, StoreError>;

    /// What is here now, with the logs. Logs are looked at after images, so that `durable` is never behind `applied`.
    async fn info(&self, vm: VmId) -> Result<ReplicaInfo, StoreError>;

    /// What `info` said last. Waits for nothing, so that it can be shown while the disk does not answer.
    fn last_info(&self, vm: VmId) -> Option<ReplicaInfo>;

    /// The operation on the replica's files that has waited for the disk for longest; `None` when none does. Waits for
    /// nothing.
    fn storage_delay(&self, vm: VmId) -> Option<StorageDelay>;

    /// Replicas at `location`, whether they are open or not: the VM and the place of each. Looks at names only.
    async fn found(&self, location: &StoreLocation) -> Result<Vec<(VmId, StoreLocation)>, StoreError>;

    /// From now on the replica is one of this owner and takes no more than is left to it; `None`: no bound. Its logs and images
    /// count together, with those of the owner's other replicas in this store. Known until the replica is destroyed, also before
    /// it is opened. Waits for nothing.
    fn bound(&self, vm: VmId, quota: Option<Quota>);

    /// Lets go of a replica and its logs without touching its files; `open` takes it up again.
    async fn close(&self, vm: VmId);

    /// The daemon stops, and every call has ended or was dropped: waits until no thread and no program of the store has a
    /// replica's files open. What does not end within 20 seconds, because its disk does not answer, is left to the next start.
    async fn release(&self);

    /// Deletes a replica with all its points and logs. Repeatable. An interrupted one is finished by the next `open`.
    async fn destroy(&self, vm: VmId) -> Result<(), StoreError>;

    // The initial copy.

    /// Applies one segment of the initial copy (`LogKind::Bulk`, one disk, starting where `BulkProgress::done` ends)
    /// to the base and returns the progress when it is durable. What came of an interrupted segment is kept. Refused once
    /// a delta is here.
    async fn bulk(&self, vm: VmId, body: ByteStream) -> Result<BulkProgress, StoreError>;

    /// A segment of an initial copy that came on media. Like `bulk`, but beside `receive`, as long as no delta is applied,
    /// and what is here of the segment already is passed over.
    async fn import(&self, vm: VmId, body: ByteStream) -> Result<BulkProgress, StoreError>;

    /// Records that the initial copy of `disk` starts again from offset 0.
    async fn restart_bulk(&self, vm: VmId, disk: &DiskId) -> Result<(), StoreError>;

    /// The initial copy is complete as it stands: its content is the start position at this instant, and becomes the
    /// first point. For copies of a sealed point, which need no closing delta.
    async fn finish_bulk(
        &self,
        vm: VmId,
        id: PointId,
        instant: Timestamp,
        consistency: Consistency,
    ) -> Result<Point, StoreError>;

    // The head and the recovery points.

    /// Applies the next durable log to the head. `None` when there is none. Idempotent.
    async fn apply(&self, vm: VmId) -> Result<Option<StoredLog>, StoreError>;

    /// Applies the durable logs up to and including the one to `last` as one: the head is marked dirty once and made durable
    /// once, which is what costs time. Ends before a log that adds or resizes a disk. The last one that was applied; `None`
    /// when there is none. Idempotent.
    async fn apply_through(&self, vm: VmId, last: Position) -> Result<Option<StoredLog>, StoreError>;

    /// Seals the head as a recovery point at the applied position, whose log arrived then. Repeated at one position it
    /// returns the same point. A `Conflict` when the applied log is partial.
    async fn seal(&self, vm: VmId, id: PointId, arrived: Option<Arrival>) -> Result<Point, StoreError>;

    /// Positions after which logs must stay: where the head is built again from, and what layers are still to be compared with.
    /// A position from which no log leads on holds nothing back.
    async fn needed_logs(&self, vm: VmId) -> Result<Vec<Position>, StoreError>;

    /// Merges the oldest point into the base so that the next one is the oldest, and forgets logs that no remaining point
    /// can use. The logs go after the point, when that is
    /// durable. Restartable; may be dropped at any moment. `Busy` while a branch runs on it.
    async fn expire_oldest(&self, vm: VmId) -> Result<(), StoreError>;

    /// The data of a sealed point, to be read. It pins the point until it is closed or dropped. `BlockView::changed` is
    /// what its disks hold at all.
    async fn read_point(&self, vm: VmId, point: PointId) -> Result<Box<dyn BlockView>, StoreError>;

    /// Numbers of the blocks of each range whose content, at the applied position, differs from the digests.
    async fn compare(&self, vm: VmId, ranges: &[CompareRange]) -> Result<Vec<Vec<u32>>, StoreError>;

    // Branches.

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

    /// Keeps the machine's firmware variables beside the disks: what the next branch starts with.
    async fn put_firmware(&self, vm: VmId, vars: Bytes) -> Result<(), StoreError>;

    /// The firmware variables that were put last; `None` when none were.
    async fn firmware(&self, vm: VmId) -> Result<Option<Bytes>, StoreError>;

    /// The file for the firmware variables of a branch, writable and its own, made from what was put last. It is not there
    /// when nothing was.
    async fn branch_firmware(&self, vm: VmId, branch: BranchId) -> Result<Utf8PathBuf, StoreError>;

    /// Makes a branch the VM's disks for good: everything the branch does not stand on (newer points, head, logs, other
    /// branches) is deleted. Repeatable. The chain below the branch stays until merged. What the deleted logs had changed is
    /// kept for `divergence`, durably before they go.
    async fn promote(&self, vm: VmId, branch: BranchId) -> Result<(), StoreError>;

    /// Layers of a promoted branch still to be merged into the base, per disk; empty when none is left.
    async fn promoted_layers(&self, vm: VmId, branch: BranchId) -> Result<Vec<LiveMerge>, StoreError>;

    /// Merges those layers while the VM is off. Restartable; may be dropped at any moment.
    async fn merge_promoted(&self, vm: VmId, branch: BranchId) -> Result<(), StoreError>;

    /// After the layers were merged by the running VM's own process: checks that, and deletes their files.
    async fn merged_live(&self, vm: VmId, branch: BranchId) -> Result<(), StoreError>;

    // Changing roles.

    /// Makes a copy with data of its own a replica: at `location`, or where the replica is that `origin` names. Nothing
    /// is copied and nothing of the origin is written. Repeated with the same start it changes nothing; with another one
    /// it replaces an adoption into which nothing has arrived yet. An interrupted one leaves the origin as it was.
    /// The images are durable before the logs of the generation before go.
    async fn adopt(&self, location: &StoreLocation, vm: VmId, adoption: &Adoption) -> Result<(), StoreError>;

    /// Where this copy may differ: of an adopted replica what `adopt` was told; of a promoted one everything that arrived
    /// after the target of the promoted branch and went with the promotion.
    async fn divergence(&self, vm: VmId) -> Result<Divergence, StoreError>;

    /// Lets go of what was kept by an adoption; it may be merged away from now on. `Ok` when nothing is kept.
    async fn drop_abandoned(&self, vm: VmId) -> Result<(), StoreError>;

    // Bit rot.

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
}
