//! What the engine remembers: relationships with their intents, jobs, events. These are documents in the catalog;
//! field names are part of its format, new fields get defaults.

use lifeboat_deltalog::Consistency;
use lifeboat_model::{
    BranchId, FailedOverReplicationType, GenerationId, JobId, JobState, JobType, Position, ReplicationMode,
    ReplicationSettings, ReplicationState, Timestamp, VmId, VmSpec,
};
use serde::{Deserialize, Serialize};

use crate::ports::store::Target;

/// One VM's replication to one peer, as one side sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Relationship {
    /// The VM.
    pub vm: VmId,
    /// 0 the relationship to the replica, 1 the extended one.
    pub index: u8,
    /// This side's role.
    pub mode: ReplicationMode,
    /// State by the API's table.
    pub state: ReplicationState,
    /// Settings. On the replica a copy of the primary's.
    pub settings: ReplicationSettings,
    /// The VM: on a replica as the primary described it.
    pub spec: VmSpec,
    /// Name of the other side: `HOST:PORT` of the replica, or the primary's certified name.
    pub peer: String,
    /// The current lineage and the last sequence this side has used or received.
    pub position: Position,
    /// The side's own part.
    pub side: Side,
    /// What is wrong now, for people. `None` when nothing is.
    #[serde(default)]
    pub problem: Option<Problem>,
    /// When the relationship was made.
    pub created: Timestamp,
    /// Last delta sent or received.
    #[serde(default)]
    pub last_replication: Option<Timestamp>,
    /// Instant of the newest data on the replica, as far as this side knows.
    #[serde(default)]
    pub newest_instant: Option<Timestamp>,
    /// Counters since the last reset.
    #[serde(default)]
    pub counters: Counters,
}

/// What only one side has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "side", rename_all = "lowercase")]
pub enum Side {
    /// The primary.
    Primary {
        /// Last position the replica has confirmed as durable.
        acknowledged: Position,
        /// The powered-off VM was captured after it stopped and has not been started since: nothing can have changed.
        #[serde(default)]
        settled: bool,
    },
    /// The replica.
    Replica {
        /// Directory of the replica in the store.
        dir: String,
        /// A failover that was started and not reverted.
        failover: Option<Failover>,
    },
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
        /// Lineage that begins with this commit.
        generation: GenerationId,
    },
    /// Committed; layers below the branch are still being merged.
    Merging,
    /// Committed and merged.
    Done,
}

/// Something that is wrong and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Since when.
    pub since: Timestamp,
    /// What is wrong and the way out, in words.
    pub message: String,
    /// Attempts that failed so far.
    pub attempts: u32,
}

/// Counters of one relationship.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Cycles completed.
    pub cycles: u64,
    /// Cycles that failed.
    pub failures: u64,
    /// Cycles that started later than one interval after they were due.
    pub missed: u64,
    /// Bytes of delta logs sent or received.
    pub bytes: u64,
    /// Bytes of the largest delta.
    pub largest: u64,
    /// Milliseconds from instant to durable on the replica, of the last cycle.
    pub last_latency_ms: u64,
    /// The largest of those.
    pub max_latency_ms: u64,
}

/// A long operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Identity.
    pub id: JobId,
    /// The VM it works on.
    pub vm: VmId,
    /// What it does.
    pub kind: JobType,
    /// State by the API's numbers.
    pub state: JobState,
    /// 0 to 100.
    pub percent: u8,
    /// What is being done, in words, with amounts.
    pub detail: String,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all; 0 when it makes no sense.
    pub total_bytes: u64,
    /// Why it ended badly.
    pub error: Option<String>,
    /// Recorded.
    pub created: Timestamp,
    /// First started.
    pub started: Option<Timestamp>,
    /// Ended.
    pub ended: Option<Timestamp>,
}

/// This host as a replica server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSettings {
    /// Whether replicas are taken (`RecoveryServerEnabled`).
    pub enabled: bool,
}

/// Something that happened, for the log an administrator reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// About which VM.
    pub vm: Option<VmId>,
    /// What, in words.
    pub message: String,
}
