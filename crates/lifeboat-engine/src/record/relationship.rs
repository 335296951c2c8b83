//! One VM's replication to one peer, as one side of it remembers it. What a primary has beside that is `primary`'s, what a
//! replica has `replica`'s. Nothing is decided here.

use super::{
    Counters, Failover, FailoverPhase, Import, NOWHERE, OutgoingRelationship, Planned, PlannedPhase,
    PrimarySide, Problem, Record, ReplicaSide, Split, Test, empty_is_none, nothing_set,
};
use lifeboat_model::{
    BranchId, Fingerprint, Firmware, Hardware, JobId, Machine, NicFailover, OwnHardware, Position, Recency,
    RelationshipId, ReplicationMode, ReplicationSettings, ReplicationState, Timestamp, VmId, VmSpec,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One VM's replication to one peer, as one side sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
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
    /// The VM: on a replica as the primary described it, without anything of the primary's host.
    pub spec: VmSpec,
    /// Name of the other side: `HOST:PORT` of the replica, or the primary's certified name.
    pub peer: String,
    /// The current generation and the last sequence number this side has used or received.
    pub position: Position,
    /// The side's own part.
    pub side: Side,
    /// What is wrong now, for people. `None` when nothing is.
    pub problem: Option<Problem>,
    /// When the relationship was made.
    pub created: Timestamp,
    /// Last delta sent or received.
    pub last_replication: Option<Timestamp>,
    /// Instant of the newest data on the replica, as far as this side knows.
    pub newest_instant: Option<Timestamp>,
    /// The same two by clocks that cannot be set: what ages are measured by.
    pub recency: Recency,
    /// Counters of the monitoring window.
    pub counters: Counters,
    /// Where the VM's disks are on this host, when they are not the images of its description.
    pub home: Option<Home>,
    /// Where the other side takes calls, `HOST:PORT`; `None` when it is not known.
    #[serde(rename = "way_back", with = "empty_is_none")]
    pub callback: Option<String>,
    /// Where hosts take calls that were given copies from here and follow others now, `HOST:PORT`. They may bring the VM up, so
    /// they are asked before it is started.
    pub formerly: Vec<String>,
    /// What would keep the VM from starting on the replica, as it said when it was asked last.
    pub preflight: Vec<String>,
    /// Addresses the guest gets after a failover or in a test, by network card.
    pub network: Vec<NicFailover>,
    /// What became of giving the guest these addresses.
    pub addressing: Addressing,
    /// By which keys the hosts of this relationship are known. The record has what was read or written last; what
    /// holds is `pins`'s.
    pub keys: Vec<KnownKey>,
}

impl Record for Relationship {
    const VERSION: u32 = 2;

    /// A release that knew of one outgoing relationship at most would forget the others.
    fn version(&self) -> u32 {
        if self.outgoing().len() > 1 { 2 } else { 1 }
    }

    const REQUIRED: &'static [&'static str] = &[
        "vm", "index", "mode", "state", "settings", "spec", "peer", "position", "side", "created",
    ];
}

/// Nothing that is replicated: what a field has that a document, or the maker of a record, does not say.
impl Default for Relationship {
    fn default() -> Self {
        Self {
            vm: VmId(Uuid::nil()),
            index: 0,
            mode: ReplicationMode::None,
            state: ReplicationState::Disabled,
            settings: nothing_set(),
            spec: nothing_described(),
            peer: String::new(),
            position: NOWHERE,
            side: Side::Alone,
            problem: None,
            created: Timestamp::default(),
            last_replication: None,
            newest_instant: None,
            recency: Recency::default(),
            counters: Counters::default(),
            home: None,
            callback: None,
            formerly: Vec::new(),
            preflight: Vec::new(),
            network: Vec::new(),
            addressing: Addressing::None,
            keys: Vec::new(),
        }
    }
}

/// A machine without anything.
fn nothing_described() -> VmSpec {
    VmSpec {
        name: String::new(),
        uuid: VmId(Uuid::nil()),
        memory_mib: 0,
        cpus: 0,
        disks: Vec::new(),
        nics: Vec::new(),
        guest_agent: false,
        hardware: Hardware::Own(OwnHardware {
            machine: String::new(),
            cpu: String::new(),
            firmware: Firmware::Bios,
            iothreads: false,
        }),
    }
}

/// A host of a relationship, by the key that it has shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownKey {
    /// Names of its certificates, lower case.
    pub names: Vec<String>,
    /// How it was called, `HOST:PORT`.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// SHA-256 of its public key (SubjectPublicKeyInfo).
    pub key: Fingerprint,
    /// When it was first seen, by the wall clock.
    pub since: Timestamp,
    /// The key that follows, as the host has announced it, or as an administrator has said: it is accepted, and takes the place
    /// of the other one when it is used first.
    #[serde(default)]
    pub next: Option<Fingerprint>,
    /// The next key of this host as that one was told.
    #[serde(default)]
    pub told: Option<Fingerprint>,
}

/// Whether a guest that runs on failover or test disks still has to be given its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "addressing", rename_all = "lowercase")]
pub enum Addressing {
    /// Nothing to be done, or done.
    #[default]
    None,
    /// To be done as soon as the guest's agent answers.
    Due,
    /// Given up; the next start of the VM tries again.
    Failed {
        /// Why, in words.
        why: String,
    },
}

/// Disks in the replica store that a VM runs on for good, because a failover to them was committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// Directory in the store.
    pub dir: String,
    /// The promoted branch.
    pub branch: BranchId,
    /// The instant the branch was made from.
    pub fork: Position,
    /// The layers between the branch and its base are merged.
    pub merged: bool,
}

/// What only one side has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "side", rename_all = "lowercase")]
pub enum Side {
    /// The primary.
    Primary(PrimarySide),
    /// The replica.
    Replica(ReplicaSide),
    /// The VM of a test failover, which belongs to a replica. It has an actor of its own, mode 3 and state 0.
    Test {
        /// The replica's VM.
        of: VmId,
        /// The branch it runs on.
        branch: BranchId,
    },
    /// Not replicated; the record is kept because it says where the VM's disks are.
    Alone,
}

impl Relationship {
    /// A record of an older release may hold what a peer said of the files of its host.
    pub(crate) fn forget_foreign_paths(&mut self) {
        let own = match &self.side {
            Side::Primary(_) => true,
            Side::Replica(replica) => replica.own && replica.dir.is_none(),
            Side::Test { .. } | Side::Alone => false,
        };
        if !own || self.home.is_some() {
            self.spec = Machine::from(self.spec.clone()).into();
        }
    }

    /// The primary's part, on a primary.
    #[must_use]
    pub fn primary(&self) -> Option<&PrimarySide> {
        match &self.side {
            Side::Primary(p) => Some(p),
            Side::Replica(_) | Side::Test { .. } | Side::Alone => None,
        }
    }

    /// The same, to change it.
    pub fn primary_mut(&mut self) -> Option<&mut PrimarySide> {
        match &mut self.side {
            Side::Primary(p) => Some(p),
            Side::Replica(_) | Side::Test { .. } | Side::Alone => None,
        }
    }

    /// The replica's part, on a replica.
    #[must_use]
    pub fn replica(&self) -> Option<&ReplicaSide> {
        match &self.side {
            Side::Replica(r) => Some(r),
            Side::Primary(_) | Side::Test { .. } | Side::Alone => None,
        }
    }

    /// The same, to change it.
    pub fn replica_mut(&mut self) -> Option<&mut ReplicaSide> {
        match &mut self.side {
            Side::Replica(r) => Some(r),
            Side::Primary(_) | Side::Test { .. } | Side::Alone => None,
        }
    }

    /// Where the other side of this relationship takes calls, `HOST:PORT`; `None` when it is not known.
    pub(crate) fn other_end(&self) -> Option<&String> {
        match &self.side {
            Side::Primary(_) => Some(&self.peer),
            Side::Replica(_) | Side::Test { .. } | Side::Alone => self.callback.as_ref(),
        }
    }

    /// The failover on a replica, if one was started.
    #[must_use]
    pub fn failover(&self) -> Option<&Failover> {
        self.replica()?.failover.as_ref()
    }

    /// Begins, changes or ends the failover of a replica; without an effect on anything else.
    pub(crate) fn set_failover(&mut self, to: Option<Failover>) {
        if let Some(replica) = self.replica_mut() {
            replica.failover = to;
        }
    }

    /// The failover goes on in this phase; without an effect where there is none.
    pub(crate) fn set_failover_phase(&mut self, phase: FailoverPhase) {
        if let Some(failover) = self.replica_mut().and_then(|r| r.failover.as_mut()) {
            failover.phase = phase;
        }
    }

    /// Begins, changes or ends the planned failover of a primary; without an effect on anything else.
    pub(crate) fn set_planned(&mut self, to: Option<Planned>) {
        if let Some(primary) = self.primary_mut() {
            primary.planned = to;
        }
    }

    /// The planned failover goes on in this phase; without an effect where there is none.
    pub(crate) fn set_planned_phase(&mut self, phase: PlannedPhase) {
        if let Some(planned) = self.primary_mut().and_then(|p| p.planned.as_mut()) {
            planned.phase = phase;
        }
    }

    /// A primary's replica went on without it, or did not; without an effect on anything else.
    pub(crate) fn set_split(&mut self, to: Option<Split>) {
        if let Some(primary) = self.primary_mut() {
            primary.split = to;
        }
    }

    /// Begins, changes or ends the test failover of a replica; without an effect on anything else.
    pub(crate) fn set_test(&mut self, to: Option<Test>) {
        if let Some(replica) = self.replica_mut() {
            replica.test = to;
        }
    }

    /// Begins or ends the import of an initial copy; without an effect on anything but a replica.
    pub(crate) fn set_import(&mut self, to: Option<Import>) {
        if let Some(replica) = self.replica_mut() {
            replica.import = to.map(Box::new);
        }
    }

    /// The outgoing relationships: none but a replica has any.
    #[must_use]
    pub fn outgoing(&self) -> &[OutgoingRelationship] {
        self.replica().map_or(&[], |replica| replica.outgoing.all())
    }

    /// One outgoing relationship, to change it.
    pub(crate) fn outgoing_mut(&mut self, id: RelationshipId) -> Option<&mut OutgoingRelationship> {
        self.replica_mut()?.outgoing.get_mut(id)
    }

    /// Forgets the synchronization of a primary; its job.
    pub(crate) fn drop_sync(&mut self) -> Option<JobId> {
        self.primary_mut()?.sync.take().and_then(|s| s.job)
    }
}
