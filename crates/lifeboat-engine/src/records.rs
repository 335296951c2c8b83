//! What the engine remembers: relationships with their intents, jobs, events. These are documents in the catalog;
//! field names are part of its format, new fields get defaults.

use lifeboat_deltalog::Consistency;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{
    Bandwidth, BranchId, FailedOverReplicationType, Fingerprint, GenerationId, JobId, JobState, JobType,
    Machine, NicFailover, PointId, Position, Reading, Recency, ReplicationMode, ReplicationSettings,
    ReplicationState, Timestamp, VmId, VmSpec,
};
use lifeboat_model::{Finding, Hint, Note, ProblemKind, hint};
use serde::{Deserialize, Serialize};

use crate::action::InitialCopy;
use crate::by::By;
use crate::hold::Keeping;
use crate::ports::store::Target;
use crate::sealing::Sealing;

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
    /// The VM: on a replica as the primary described it, without anything of the primary's host.
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
    /// The same two by clocks that nobody sets: what ages are measured by.
    #[serde(default)]
    pub recency: Recency,
    /// Counters of the monitoring window.
    #[serde(default)]
    pub counters: Counters,
    /// Where the VM's disks are on this host, when they are not the images of its description.
    #[serde(default)]
    pub home: Option<Home>,
    /// Where the other side takes calls, `HOST:PORT`; `None` when it is not known.
    #[serde(rename = "way_back", default, with = "empty_is_none")]
    pub callback: Option<String>,
    /// Where hosts take calls that were given copies from here and follow others now, `HOST:PORT`. They may bring the VM up, so
    /// they are asked before it is started.
    #[serde(default)]
    pub formerly: Vec<String>,
    /// What would keep the VM from starting on the replica, as it said when it was asked last.
    #[serde(default)]
    pub preflight: Vec<String>,
    /// Addresses the guest gets after a failover or in a test, by network card.
    #[serde(default)]
    pub network: Vec<NicFailover>,
    /// What became of giving the guest these addresses.
    #[serde(default)]
    pub addressing: Addressing,
    /// By which keys the hosts of this relationship are known. Whoever holds the record has what was read or written last; what
    /// holds is `pins`'s.
    #[serde(default)]
    pub keys: Vec<KnownKey>,
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

/// The captures that were begun while changes were recorded since one position. They have all numbers from the first one up
/// to the last that the relationship used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Changes are recorded since this position.
    pub since: Position,
    /// Position of the first capture.
    pub first: Position,
}

impl Sent {
    /// These captures and one more, whose changes are recorded since `since`.
    #[must_use]
    pub fn and(before: Option<Self>, since: Position, next: Position) -> Self {
        before
            .filter(|s| s.since == since)
            .unwrap_or(Self { since, first: next })
    }

    /// Whether a replica may stand at `position` because one of these captures arrived there. `last` is the last number
    /// that was used.
    #[must_use]
    pub fn holds(&self, position: Position, last: Position) -> bool {
        position.at_or_after(self.first) == Some(true) && last.at_or_after(position) == Some(true)
    }
}

/// What only a primary has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrimarySide {
    /// Last position the replica has confirmed as durable.
    pub acknowledged: Position,
    /// Captures whose logs may reach the replica at any time, although nobody here waits for them any more.
    #[serde(default)]
    pub sent: Option<Sent>,
    /// The powered-off VM was captured after it stopped and has not been started since: nothing can have changed.
    #[serde(default)]
    pub settled: bool,
    /// A synchronization that is to be carried out or goes on.
    #[serde(default)]
    pub sync: Option<Synchronization>,
    /// A planned failover that was asked for and is neither over nor cancelled.
    #[serde(default)]
    pub planned: Option<Planned>,
    /// The replica went on without this side.
    #[serde(default)]
    pub split: Option<Split>,
    /// When a person wants the initial copy or the resynchronization to begin; `None` when nothing waits.
    #[serde(default)]
    pub scheduled: Option<Timestamp>,
    /// How a scheduled initial copy gets to the replica.
    #[serde(default)]
    pub how: InitialCopy,
    /// Last instant on the replica that was to be application-consistent, whether it came out so or not.
    #[serde(default)]
    pub application: Option<Timestamp>,
    /// The clocks of this host when that one was delivered: what the time until the next is measured by.
    #[serde(default)]
    pub application_at: Option<Reading>,
    /// That one came out crash-consistent.
    #[serde(default)]
    pub application_failed: bool,
    /// Start the VM as soon as it may be.
    #[serde(default)]
    pub start: bool,
    /// Directory that the initial copy is exported to; `None`: it goes over the network.
    #[serde(default)]
    pub export: Option<String>,
    /// What that is sealed with, until it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealing: Option<Box<Sealing>>,
}

impl PrimarySide {
    /// A primary at this position, with nothing under way.
    #[must_use]
    pub fn new(acknowledged: Position) -> Self {
        Self {
            acknowledged,
            sent: None,
            settled: false,
            sync: None,
            planned: None,
            split: None,
            scheduled: None,
            application: None,
            application_at: None,
            application_failed: false,
            how: InitialCopy::default(),
            start: false,
            export: None,
            sealing: None,
        }
    }
}

/// What is absent is an empty text in a record, as it always was.
mod empty_is_none {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(text: &Option<String>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(text.as_deref().unwrap_or_default())
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Option<String>, D::Error> {
        let text = String::deserialize(from)?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }
}

/// What only a replica has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicaSide {
    /// Directory of the replica in the store; `None` while it awaits its first offer.
    #[serde(with = "empty_is_none")]
    pub dir: Option<String>,
    /// A failover that was started and not reverted.
    pub failover: Option<Failover>,
    /// A test failover.
    #[serde(default)]
    pub test: Option<Test>,
    /// When the last test failover was started.
    #[serde(default)]
    pub last_test: Option<Timestamp>,
    /// It stands on what this host had of the VM before: its files are not only a copy.
    #[serde(default)]
    pub own: bool,
    /// That copy was being made equal when it gave way: its records of changes begin at no instant that the other side had.
    #[serde(default)]
    pub unequal: bool,
    /// The initial copy comes on media: logs are kept until it is imported.
    #[serde(default)]
    pub awaits_import: bool,
    /// What the awaited copy is sealed with, until it is imported or no longer awaited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealing: Option<Box<Sealing>>,
    /// The import that goes on.
    #[serde(default)]
    pub import: Option<Box<Import>>,
    /// The relationship to a third host, which gets what this one gets.
    #[serde(default)]
    pub extended: Option<Box<Extended>>,
    /// Key of the authorization entry whose primaries alone may feed it; `None`: whoever its trust group lets in.
    #[serde(default)]
    pub allowed: Option<String>,
    /// Its primary says when it has nothing to send: silence means something.
    #[serde(default)]
    pub reports: bool,
    /// The primary was asked for a planned failover, and what became of it is not known yet.
    #[serde(default)]
    pub asked: bool,
    /// How its history is kept.
    #[serde(default)]
    pub keeping: Box<Keeping>,
}

/// An import of an exported initial copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// Directory that was exported to.
    pub dir: String,
    /// The job of it.
    pub job: JobId,
}

/// The relationship of a replica to a third host (index 1), in which it is what a primary is to a replica.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Extended {
    /// Settings; the peer in them is the third host.
    pub settings: ReplicationSettings,
    /// State by the API's table of a primary.
    pub state: ReplicationState,
    /// Last position that the third host has confirmed as durable; `None` before the initial copy is there.
    #[serde(default)]
    pub acknowledged: Option<Position>,
    /// A comparison that goes on.
    #[serde(default)]
    pub comparison: Option<Comparison>,
    /// The job of a comparison that somebody asked for, until it is over.
    #[serde(default)]
    pub compare: Option<JobId>,
    /// When the copy or a comparison is to begin; `None` when nothing waits.
    #[serde(default)]
    pub scheduled: Option<Timestamp>,
    /// What would keep the VM from starting there.
    #[serde(default)]
    pub preflight: Vec<String>,
    /// What is wrong now.
    #[serde(default)]
    pub problem: Option<Problem>,
    /// When the relationship was made.
    pub created: Timestamp,
    /// Last log sent.
    #[serde(default)]
    pub last_replication: Option<Timestamp>,
    /// Instant of the newest data there.
    #[serde(default)]
    pub newest_instant: Option<Timestamp>,
    /// The same two by clocks that nobody sets: what ages are measured by.
    #[serde(default)]
    pub recency: Recency,
    /// Counters since it was made.
    #[serde(default)]
    pub counters: Counters,
    /// The job of the initial copy.
    #[serde(default)]
    pub job: Option<JobId>,
}

/// How far a copy of a copy is compared with a sealed point. Lost, it begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// The point.
    pub point: PointId,
    /// Where the other copy stands.
    pub at: Position,
    /// What lies before it is equal: disk number and offset.
    pub cursor: (u16, u64),
}

impl ReplicaSide {
    /// A replica in this directory, or one that awaits its first offer, with nothing under way.
    #[must_use]
    pub fn new(dir: impl Into<Option<String>>) -> Self {
        Self {
            dir: dir.into(),
            failover: None,
            test: None,
            last_test: None,
            own: false,
            unequal: false,
            awaits_import: false,
            sealing: None,
            import: None,
            extended: None,
            allowed: None,
            reports: false,
            asked: false,
            keeping: Box::default(),
        }
    }
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

    /// The relationship of a replica to a third host, to change it.
    pub(crate) fn extended_mut(&mut self) -> Option<&mut Extended> {
        self.replica_mut()?.extended.as_deref_mut()
    }

    /// Forgets the synchronization of a primary; its job.
    pub(crate) fn drop_sync(&mut self) -> Option<JobId> {
        self.primary_mut()?.sync.take().and_then(|s| s.job)
    }
}

/// Making a replica equal by sending what differs, closed by an ordinary cycle. Recovery points are not touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Synchronization {
    /// Changes are recorded since this position; it names no instant, only the record.
    pub start: Position,
    /// Why the copies are made equal, and so what is known of their difference.
    pub kind: SyncKind,
    /// What lies before it is on the replica: disk number and offset.
    pub cursor: (u16, u64),
    /// Records of changes since `start` exist on all disks.
    pub tracking: bool,
    /// Bytes that were sent.
    pub sent: u64,
    /// The job of it.
    pub job: Option<JobId>,
}

/// Why two copies are made equal, which says what is known of their difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncKind {
    /// Change tracking was lost, or somebody wants certainty.
    Resync,
    /// The replica has some old copy.
    Seed,
    /// The replica is the old primary.
    Reverse,
}

/// A planned failover, on the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// How far it is.
    pub phase: PlannedPhase,
    /// Turn the VM off when it does not shut down.
    pub force: bool,
    /// Hand over to the replica when prepared; otherwise the primary stays prepared until somebody goes on.
    pub hand_over: bool,
    /// Start the VM on the replica.
    pub start: bool,
    /// The job of it.
    pub job: JobId,
}

/// Steps of a planned failover; each is recorded before its work begins and the work of each can be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlannedPhase {
    /// The guest is being shut down.
    Stopping,
    /// The last changes are being sent.
    Closing,
    /// Everything is on the replica; the VM is locked off (state 4).
    Prepared,
    /// The replica was told to take over.
    HandingOver,
}

/// Two copies that both may have gone on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Since when this side knows.
    pub since: Timestamp,
    /// What the other side said of itself.
    pub theirs: String,
    /// The other side has committed: this copy is the past.
    pub committed: bool,
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
    #[serde(default)]
    pub at: Option<Position>,
    /// It was wished for although the primary's VM may run.
    #[serde(default)]
    pub forced: bool,
    /// What was seen of a primary that could not be reached when the failover was started; `None`: it was reached, or not
    /// asked.
    #[serde(default)]
    pub unreached: Option<String>,
    /// Go on without being asked: commit, start the VM if so told, and reverse.
    #[serde(default)]
    pub take_over: Option<TakeOver>,
    /// Reverse replication when the commit is complete.
    #[serde(default)]
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
    /// Start the VM when the old primary has given way.
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
    /// What kind of thing is wrong, by which two problems are the same.
    #[serde(default)]
    pub kind: ProblemKind,
    /// What is wrong, in words.
    pub message: String,
    /// What can be done.
    #[serde(
        default,
        deserialize_with = "hint::told",
        skip_serializing_if = "Option::is_none"
    )]
    pub hint: Option<Hint>,
    /// Attempts that failed so far.
    pub attempts: u32,
}

impl Problem {
    /// A problem beside the one that was known: the same kind counts up, with what is told of it now; another one takes its
    /// place and keeps its beginning. True: it was not known.
    pub(crate) fn again(known: Option<Self>, kind: ProblemKind, note: Note, now: Timestamp) -> (Self, bool) {
        let new = known.as_ref().is_none_or(|p| p.kind != kind);
        let again = Self {
            since: known.as_ref().map_or(now, |p| p.since),
            kind,
            message: note.text,
            hint: note.hint,
            attempts: known.map_or(1, |p| p.attempts.saturating_add(1)),
        };
        (again, new)
    }

    /// What it means for the health: the attempts so far, and what was found.
    pub(crate) fn found(&self) -> (u32, Finding) {
        let note = Note {
            text: self.message.clone(),
            hint: self.hint.clone(),
        };
        (self.attempts, Finding::warning(self.kind, note))
    }
}

/// Counters of one relationship in the current monitoring window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// When the window began; `None` in records of old.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// Sum of all latencies in milliseconds (`ReplicationLatency` is a total).
    #[serde(default)]
    pub total_latency_ms: u64,
    /// Failures that were the network's.
    #[serde(default)]
    pub network_failures: u64,
    /// Application-consistent instants that came out crash-consistent.
    #[serde(default)]
    pub application_failures: u64,
    /// Cycles completed.
    pub cycles: u64,
    /// Cycles that failed.
    pub failures: u64,
    /// Cycles that did not take place because the one before them ended too late.
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
    /// Random, and the job's name in the management API (`InstanceID`).
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
    /// What can be done about that.
    #[serde(
        default,
        deserialize_with = "hint::told",
        skip_serializing_if = "Option::is_none"
    )]
    pub hint: Option<Hint>,
    /// The API's return code for that; `None` unless it ended in an exception.
    #[serde(default)]
    pub code: Option<ReturnCode>,
    /// When it was asked for, by this host's wall clock.
    pub created: Timestamp,
    /// When its work first began; `None` while it waits for its time.
    pub started: Option<Timestamp>,
    /// When it ended, well or not; `None` while it goes on or waits.
    pub ended: Option<Timestamp>,
    /// Who asked for it; `None`: nobody did, or it was recorded before callers were.
    #[serde(default)]
    pub by: Option<By>,
}

/// This host as a replica server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Whether replicas are taken (`RecoveryServerEnabled`).
    pub enabled: bool,
    /// Length of a monitoring window in seconds, 3,600 to 604,800 (`MonitoringInterval`).
    pub monitoring_interval_s: u32,
    /// When windows begin, in minutes of the local day, 0 to 1,439 (`MonitoringStartTime`).
    pub monitoring_start_min: u16,
    /// Limit for everything this host sends, in bytes per second; 0 is unlimited.
    pub bandwidth: Bandwidth,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            monitoring_interval_s: 43_200,
            monitoring_start_min: 9 * 60,
            bandwidth: Bandwidth::default(),
        }
    }
}

/// Something that happened, for the log an administrator reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When it was recorded, by this host's wall clock.
    pub at: Timestamp,
    /// About which VM.
    pub vm: Option<VmId>,
    /// What, in words.
    pub message: String,
    /// What can be done about it.
    #[serde(
        default,
        deserialize_with = "hint::told",
        skip_serializing_if = "Option::is_none"
    )]
    pub hint: Option<Hint>,
    /// Who asked for it; `None`: it happened by itself, or was recorded before callers were.
    #[serde(default)]
    pub by: Option<By>,
}
