//! A relationship as one side sees it. What it goes through is `lifecycle`'s, how it does `condition`'s.

use super::{
    AbandonedView, AtRestView, BacklogView, ChangesView, ContactView, CountersView, FailoverView, HoldView,
    PlannedView, SplitView, SynchronizationView, TestView,
};
use crate::common::problem::Problem;
use lifeboat_model::{
    DiskId, Finding, Fingerprint, NicFailover, Position, RelationshipId, ReplicationHealth, ReplicationMode,
    ReplicationSettings, ReplicationState, Timestamp,
};
use serde::{Deserialize, Serialize};

/// A relationship as one side sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicationView {
    /// Role of this side.
    pub mode: ReplicationMode,
    /// State of this side, which may differ from that of the other one.
    pub state: ReplicationState,
    /// Health, computed now.
    pub health: ReplicationHealth,
    /// Why the health is what it is, in words.
    pub health_notes: Vec<Finding>,
    /// The other side.
    pub peer: String,
    /// Settings of the relationship; a replica has those that its primary sent last.
    pub settings: ReplicationSettings,
    /// Where this side stands.
    pub position: Position,
    /// Instant of the newest data that is safe on the replica.
    pub newest_instant: Option<Timestamp>,
    /// Last delta sent or received.
    pub last_replication: Option<Timestamp>,
    /// The newest application-consistent instant that is safe on the replica, as far as this side knows one: a primary
    /// forgets it when a later one came out crash-consistent, a replica with the logs and points that hold it.
    #[serde(default)]
    pub last_application: Option<Timestamp>,
    /// Milliseconds of data that would be lost if the primary were lost now; `None` when not known.
    pub lag_ms: Option<u64>,
    /// Bytes of a primary's disks that changed and are not known to be on the replica, a block that changed counting whole.
    /// `None` on a replica, and when it is not known: the VM is off with changes, does not answer, or copies are compared.
    #[serde(default)]
    pub pending_bytes: Option<u64>,
    /// What is wrong.
    pub problem: Option<Problem>,
    /// Initial copy, while it lasts.
    pub bulk: Vec<BulkView>,
    /// The failover, on a replica.
    pub failover: Option<FailoverView>,
    /// The test failover, on a replica.
    pub test: Option<TestView>,
    /// When the last test failover was started, on a replica.
    pub last_test: Option<Timestamp>,
    /// A synchronization that goes on, on a primary.
    pub sync: Option<SynchronizationView>,
    /// A planned failover under way, on a primary.
    pub planned: Option<PlannedView>,
    /// Both sides may have gone on, on a primary.
    pub split: Option<SplitView>,
    /// When an initial copy or a resynchronization is to begin, on a primary.
    pub scheduled: Option<Timestamp>,
    /// What was set aside when this copy became a replica, on a replica.
    pub abandoned: Option<AbandonedView>,
    /// What would keep the VM from starting on the replica.
    pub preflight: Vec<String>,
    /// Addresses after a failover.
    pub network: Vec<NicFailover>,
    /// What was counted in the monitoring window that goes on.
    pub counters: CountersView,
    /// The outgoing relationship with the lowest number, by which a replica forwards what arrives: the extended replication of
    /// the API.
    pub extended: Option<Box<ExtendedView>>,
    /// The other outgoing relationships, by their numbers.
    #[serde(default)]
    pub further: Vec<ExtendedView>,
    /// The authorization entry whose primaries alone may feed this replica; `None`: every primary that this host authorizes.
    #[serde(default)]
    pub allowed: Option<String>,
    /// When this side last heard the other one; `None` where there is no other side.
    #[serde(default)]
    pub contact: Option<ContactView>,
    /// Logs that are safe on the replica and wait to be applied, as far as this side knows; `None`: none wait.
    #[serde(default)]
    pub backlog: Option<BacklogView>,
    /// Why no recovery point of the replica expires; `None`: they expire as they are due.
    #[serde(default)]
    pub hold: Option<HoldView>,
    /// How much changes, as the replica counts it; `None` on a primary.
    #[serde(default)]
    pub changes: Option<ChangesView>,
    /// Directory in which this host keeps the VM's data; `None` when its disks are the images of its description.
    #[serde(default)]
    pub dir: Option<String>,
    /// Whether that directory is encrypted; asked of the kernel for this view. `None` without one, and when its storage did not
    /// answer in time.
    #[serde(default)]
    pub at_rest: Option<AtRestView>,
    /// By which keys the hosts of this replication are known here.
    #[serde(default)]
    pub keys: Vec<KnownKeyView>,
}

fn first() -> RelationshipId {
    RelationshipId::FIRST_OUTGOING
}

impl ReplicationView {
    /// All outgoing relationships, by their numbers.
    pub fn outgoing(&self) -> impl Iterator<Item = &ExtendedView> {
        self.extended.as_deref().into_iter().chain(&self.further)
    }
}

/// An outgoing relationship: a third host gets what arrives here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExtendedView {
    /// Its number, by which actions name it.
    #[serde(default = "first")]
    pub relationship: RelationshipId,
    /// State of this relationship, by the rules of a primary.
    pub state: ReplicationState,
    /// Health, computed now.
    pub health: ReplicationHealth,
    /// Why the health is what it is, in words.
    pub health_notes: Vec<Finding>,
    /// The third host.
    pub peer: String,
    /// Its settings; the peer in them is the third host.
    pub settings: ReplicationSettings,
    /// Last position that is durable there.
    pub position: Option<Position>,
    /// Instant of the newest data there.
    pub newest_instant: Option<Timestamp>,
    /// Last log sent.
    pub last_replication: Option<Timestamp>,
    /// Milliseconds of data that would be lost if this host and the primary were lost now; `None` when not known.
    pub lag_ms: Option<u64>,
    /// Bytes of logs here that the third host does not have yet; `None` when not known, as while copies are compared.
    #[serde(default)]
    pub pending_bytes: Option<u64>,
    /// What is wrong.
    pub problem: Option<Problem>,
    /// The same of what was sent there.
    pub counters: CountersView,
}

/// Progress of the initial copy of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkView {
    /// The disk.
    pub disk: DiskId,
    /// Bytes from its beginning that are on the replica.
    pub done: u64,
    /// Size of the disk in bytes.
    pub size: u64,
}

/// A host of a relationship, by the key that it has shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownKeyView {
    /// Names of its certificates, lower case.
    pub names: Vec<String>,
    /// How it was called, `HOST:PORT`.
    pub addresses: Vec<String>,
    /// SHA-256 of its public key (SubjectPublicKeyInfo).
    pub key: Fingerprint,
    /// When it was first seen, by the wall clock.
    pub since: Timestamp,
    /// The key that follows and is accepted as well; `None`: none was announced.
    pub next: Option<Fingerprint>,
}
