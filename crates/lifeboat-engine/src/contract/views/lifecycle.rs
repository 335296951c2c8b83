//! What a relationship goes through beyond the flow of data, in the stages that people know: failovers, tests, planned failovers,
//! splits, synchronizations.

use lifeboat_deltalog::Consistency;
use lifeboat_model::{DiskId, FailedOverReplicationType, JobId, Position, Target, Timestamp, VmId};
use serde::{Deserialize, Serialize};

/// A failover, on the replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverView {
    /// How far it is.
    pub stage: FailoverStage,
    /// The point that was chosen.
    pub point: Target,
    /// Position of that point; `None` when that was not recorded.
    pub position: Option<Position>,
    /// Instant of it.
    pub instant: Timestamp,
    /// What it guarantees.
    pub consistency: Consistency,
    /// Type as the API shows it.
    pub kind: FailedOverReplicationType,
    /// What was seen of a primary that could not be reached when the failover was started; `None`: it was reached, or not
    /// asked.
    pub unreached: Option<String>,
    /// The host that the VM is to be replicated to once the failover is committed, `HOST:PORT`; `None`: that was not asked for.
    pub reverses_to: Option<String>,
    /// The job of what is being done.
    pub job: JobId,
}

/// How far a failover is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailoverStage {
    /// The VM's disks are being made.
    Starting,
    /// The VM may run; it has to be committed or reverted.
    Undecided,
    /// The VM may run; the failover is committed by itself, because it was planned.
    TakingOver,
    /// What the VM wrote since is being thrown away.
    Reverting,
    /// What the VM wrote since is being kept for good.
    Committing,
    /// It is committed; disks are being merged, and nothing waits for that.
    Merging,
    /// It is committed.
    Committed,
}

/// A test failover, on the replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestView {
    /// How far it is.
    pub stage: TestStage,
    /// The test VM's own identity.
    pub vm: VmId,
    /// The point that was chosen.
    pub point: Target,
    /// Instant of it.
    pub instant: Timestamp,
    /// The job of what is being done.
    pub job: JobId,
}

/// How far a test failover is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TestStage {
    /// The test VM is being made.
    Making,
    /// The test VM is there.
    Ready,
    /// The test VM is being turned off and its disks thrown away.
    Ending,
}

/// A planned failover, on the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedView {
    /// How far it is.
    pub stage: PlannedStage,
    /// The VM is started on the replica.
    pub start: bool,
    /// Its job.
    pub job: JobId,
}

/// How far a planned failover is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlannedStage {
    /// The guest is being shut down.
    ShuttingDown,
    /// The last changes are being sent.
    SendingChanges,
    /// Everything is on the replica, the VM is locked off (state 4); an administrator has to go on, or to cancel.
    Prepared,
    /// The same, and the replica is asked to take over.
    AskingReplica,
    /// The replica takes over.
    HandingOver,
}

/// Two copies that both may have gone on, on the old primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitView {
    /// How far the other side has gone.
    pub stage: SplitStage,
    /// Since when this side knows.
    pub since: Timestamp,
    /// What the other side said of itself.
    pub theirs: String,
}

/// How far the other side of a split has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SplitStage {
    /// It is failed over, and can be reverted or committed.
    FailedOver,
    /// It has committed: the copy here is the past.
    Committed,
}

/// Two copies that are being made equal, on a primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SynchronizationView {
    /// Why the copies differ, or may differ.
    pub reason: SynchronizationReason,
    /// What lies before this place is equal; `None`: all disks are, and one ordinary cycle closes it.
    pub at: Option<DiskPlace>,
    /// Bytes that were sent.
    pub sent: u64,
    /// Its job; `None`: no user asked for it.
    pub job: Option<JobId>,
}

/// Why two copies are made equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SynchronizationReason {
    /// Change tracking was lost, or an administrator wants certainty.
    Resync,
    /// The replica has some old copy.
    Seed,
    /// The replica is the old primary.
    Reverse,
}

/// A place on the disks of a VM, which are gone through in the order of the settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskPlace {
    /// The disk.
    pub disk: DiskId,
    /// Bytes from its beginning.
    pub offset: u64,
}

/// What a copy held beyond the point that the other side went on from. Kept whole until an administrator drops it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbandonedView {
    /// Last position this copy shared with the other side, as far as it knew.
    pub since: Position,
    /// When it was set aside.
    pub at: Timestamp,
}
