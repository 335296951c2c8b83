//! What only a replica remembers: its directory, a failover, a test, an import, and how its history is kept. The relationships to
//! third hosts are `outgoing`'s.

use super::{Keeping, Outgoing, Sealing, empty_is_none};
use lifeboat_deltalog::Consistency;
use lifeboat_model::{
    BranchId, FailedOverReplicationType, GenerationId, JobId, Position, ReplicationSettings,
    ReplicationState, Target, Timestamp, VmId,
};
use serde::{Deserialize, Serialize};

/// What only a replica has.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own in the catalog, whose format stays"
)]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicaSide {
    /// Directory of the replica in the store; `None` while it awaits its first offer.
    #[serde(with = "empty_is_none")]
    pub dir: Option<String>,
    /// A failover that was started and not reverted.
    pub failover: Option<Failover>,
    /// A test failover.
    pub test: Option<Test>,
    /// When the last test failover was started.
    pub last_test: Option<Timestamp>,
    /// It stands on what this host had of the VM before: its files are not only a copy.
    pub own: bool,
    /// That copy was being made equal when it became the replica: its dirty bitmaps begin at no instant that the other side had.
    pub unequal: bool,
    /// The initial copy comes on media: logs are kept until it is imported.
    pub awaits_import: bool,
    /// What the awaited copy is sealed with, until it is imported or no longer awaited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealing: Option<Box<Sealing>>,
    /// The import that goes on.
    pub import: Option<Box<Import>>,
    /// The relationships to third hosts, which get what this one gets.
    #[serde(flatten)]
    pub outgoing: Outgoing,
    /// Key of the authorization entry whose primaries alone may feed it; `None`: every primary of its trust group.
    pub allowed: Option<String>,
    /// Its primary says when it has nothing to send: silence means something.
    pub reports: bool,
    /// The primary was asked for a planned failover, and what became of it is not known yet.
    pub asked: bool,
    /// How its history is kept.
    pub keeping: Box<Keeping>,
}

impl ReplicaSide {
    /// A replica in this directory, or one that awaits its first offer, with nothing under way.
    #[must_use]
    pub fn new(dir: impl Into<Option<String>>) -> Self {
        Self {
            dir: dir.into(),
            ..Self::default()
        }
    }
}

/// An import of an exported initial copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// Directory that was exported to.
    pub dir: String,
    /// The job of it.
    pub job: JobId,
}

/// A test failover on the replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Test {
    /// The test VM's own identity.
    pub vm: VmId,
    /// Its branch.
    pub branch: BranchId,
    /// What was chosen.
    pub target: Target,
    /// Instant of it.
    pub instant: Timestamp,
    /// How far it is.
    pub phase: TestPhase,
    /// The job of the current phase.
    pub job: JobId,
}

/// Steps of a test failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "lowercase")]
pub enum TestPhase {
    /// The branch is being made.
    Making {
        /// Start the VM when it is there.
        start: bool,
    },
    /// The test VM may run.
    Ready,
    /// The test VM is being turned off and its branch thrown away.
    Ending,
}

/// A failover on the replica. Written before anything is done, phase by phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    /// The branch the VM runs on.
    pub branch: BranchId,
    /// What was chosen.
    pub target: Target,
    /// Instant of the chosen point.
    pub instant: Timestamp,
    /// What the chosen point guarantees.
    pub consistency: Consistency,
    /// Type as the API shows it.
    pub kind: FailedOverReplicationType,
    /// How far it is.
    pub phase: FailoverPhase,
    /// The job of the current phase.
    pub job: JobId,
    /// State to go back to with a revert.
    pub before: ReplicationState,
    /// Position of the chosen point.
    pub at: Option<Position>,
    /// It was wished for although the primary's VM may run.
    #[serde(default)]
    pub forced: bool,
    /// What was seen of a primary that could not be reached when the failover was started; `None`: it was reached, or not
    /// asked.
    pub unreached: Option<String>,
    /// Go on without being asked: commit, start the VM if so told, and reverse.
    pub take_over: Option<TakeOver>,
    /// Reverse replication when the commit is complete.
    pub reverse: Option<Reverse>,
}

/// What follows a planned failover by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeOver {
    /// Start the VM.
    pub start: bool,
}

/// A reversal that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reverse {
    /// Settings of the new direction; the peer in them is the old primary.
    pub settings: ReplicationSettings,
    /// Start the VM when the old primary has become the replica.
    pub start: bool,
    /// Go on trying while the old primary cannot be reached.
    pub patient: bool,
    /// The job of it.
    pub job: JobId,
}

/// Steps of a failover; each is recorded before its work begins and the work of each can be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "lowercase")]
pub enum FailoverPhase {
    /// The branch is being made.
    Initiating {
        /// Start the VM when the branch is there.
        start: bool,
    },
    /// The VM may run on the branch.
    Ready,
    /// The branch is being thrown away.
    Reverting,
    /// The branch is being made the VM's disks.
    Committing {
        /// Generation that begins with this commit.
        generation: GenerationId,
    },
    /// Committed; layers below the branch are still being merged.
    Merging,
    /// Committed and merged.
    Done,
}
