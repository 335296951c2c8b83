//! Taking instants of a VM's disks: tracking of changes, atomic views, reading what changed. One source serves one
//! VM and is used by one actor at a time.

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_deltalog::{Consistency, LogDisk};
use lifeboat_model::{DiskId, Position};

/// A range of a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Length, never 0.
    pub len: u64,
    /// Known to read as zeros.
    pub zero: bool,
}

/// What is known of the changes since earlier positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// Never started on these disks.
    None,
    /// Every disk has usable records of the changes since each of these positions (one, or two when a cycle was
    /// interrupted), ascending.
    Since(Vec<Position>),
    /// Unusable on at least one disk; only a comparison of the data helps.
    Lost {
        /// The disk.
        disk: DiskId,
        /// What happened to it.
        reason: String,
    },
}

/// Why capture failed. Nothing here harms the guest; after any of these, `recover` restores order.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Known to break on this host.
    #[error("{0}")]
    Preflight(String),
    /// The VM's process, or the process that had its images open, is gone.
    #[error("the process that holds the disks is gone")]
    Gone,
    /// Another process has an image open.
    #[error("disk {disk} is in use by another process: {detail}")]
    InUse {
        /// The disk.
        disk: String,
        /// What was found.
        detail: String,
    },
    /// Another program uses the disks and will let go of them, such as a backup that the VM's user takes; says which. The
    /// next interval is soon enough to ask again.
    #[error("the disks are in use for a while: {0}")]
    Busy(String),
    /// Temporary space ran out; the guest is not affected.
    #[error("no temporary space for the capture in {0}")]
    NoSpace(String),
    /// Change tracking cannot be used.
    #[error("change tracking of disk {disk} is lost: {reason}")]
    TrackingLost {
        /// The disk.
        disk: DiskId,
        /// What happened to it.
        reason: String,
    },
    /// Anything the block layer refused.
    #[error("{what}: {detail}")]
    Block {
        /// What was being done.
        what: String,
        /// What it answered.
        detail: String,
    },
}

/// The disks of one VM, to be captured.
#[async_trait]
pub trait CaptureSource: Send + Sync {
    /// Disks with sizes in bytes, in the order they were asked for.
    fn disks(&self) -> &[LogDisk];

    /// Whether the guest runs, so that data can change between two calls.
    fn live(&self) -> bool;

    /// Removes whatever an interrupted capture left behind (exports, filters, temporary files, never tracking) and
    /// says what is tracked. Called first, and after every error or cancelled call.
    async fn recover(&self) -> Result<Tracking, CaptureError>;

    /// Records changes of all disks from now on, as changes since `base`.
    async fn start_tracking(&self, base: Position) -> Result<(), CaptureError>;

    /// Forgets all tracking of Lifeboat on all disks, usable or not.
    async fn stop_tracking(&self) -> Result<(), CaptureError>;

    /// The disks as they change: for the bulk copy only.
    async fn current(&self) -> Result<Box<dyn BlockView>, CaptureError>;

    /// Makes everything ready for an instant of all disks that leads from `base` to `next`: whatever may take long, and
    /// nothing that counts. The guest is not frozen, what is tracked stays as it is, and no change is recorded that was not
    /// before. The last step is [`Prepared::take`]. One at a time, and not while a view is open.
    async fn prepare(
        &self,
        base: Position,
        next: Position,
        wanted: Consistency,
    ) -> Result<Box<dyn Prepared>, CaptureError>;

    /// The peer has everything up to the position after `base`: forgets the changes since `base`.
    async fn acknowledge(&self, base: Position) -> Result<(), CaptureError>;

    /// The instant `next` never arrived: changes since `base` and since `next` are again one record since `base`.
    async fn give_back(&self, base: Position, next: Position) -> Result<(), CaptureError>;

    /// What tracking knows to have changed, per disk, ascending; `None` for a disk whose records are lost or were never
    /// made. Tracking stays as it is. Asked for while the VM is off. Records are read whole: a superset of what changed,
    /// never less.
    async fn known_changes(&self) -> Result<Vec<Option<Vec<Extent>>>, CaptureError>;

    /// Ranges that each disk's own topmost image holds, as opposed to what shows through from images below it. For a VM
    /// on a promoted branch: everything written since the branch was made. A plain image holds all it has.
    async fn own_ranges(&self) -> Result<Vec<Vec<Extent>>, CaptureError>;

    /// Lets go of the disks; a powered-off VM can be started afterwards. Tracking is stored where it survives.
    async fn close(self: Box<Self>) -> Result<(), CaptureError>;
}

/// An instant of one VM that only has to be taken. Several VMs get instants close together when all are prepared first. Dropped, or
/// left behind by a daemon that died, it is as if it had never been: what it leaves in the way `recover` removes. It ends
/// before its source is closed.
#[async_trait]
pub trait Prepared: Send + Sync {
    /// The instant. From it on, changes are also recorded as changes since `next`; changes since `base` are frozen and stay
    /// until `acknowledge` or `give_back`. With `Consistency::Application` the guest is frozen by its agent around the instant;
    /// if that fails the instant is crash-consistent and says so. After an error `recover` says which of it happened.
    async fn take(self: Box<Self>) -> Result<Instant, CaptureError>;
}

/// A frozen instant.
pub struct Instant {
    /// What the instant guarantees.
    pub consistency: Consistency,
    /// Its data.
    pub view: Box<dyn BlockView>,
}

/// Readable data of all disks of a source.
#[async_trait]
pub trait BlockView: Send + Sync {
    /// Changed ranges of disk number `disk` since the base of the instant, ascending, not overlapping.
    async fn changed(&self, disk: usize) -> Result<Vec<Extent>, CaptureError>;

    /// Allocation of a range of disk number `disk`: adjacent extents that cover the range. Ask at most 64 MiB at once.
    async fn allocation(&self, disk: usize, offset: u64, len: u64) -> Result<Vec<Extent>, CaptureError>;

    /// Reads; several reads may be in flight. `len` is at most 2 MiB.
    async fn read(&self, disk: usize, offset: u64, len: u32) -> Result<Bytes, CaptureError>;

    /// Ends the view and gives back its temporary space.
    async fn close(self: Box<Self>) -> Result<(), CaptureError>;
}
