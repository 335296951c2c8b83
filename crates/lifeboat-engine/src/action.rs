//! What can be asked of a host: one enum under every management surface, with its answers and its refusals.
//! Surfaces translate to and from it and have no logic of their own.

use std::collections::BTreeMap;

use camino::Utf8PathBuf;
use lifeboat_deltalog::Consistency;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::hint;
use lifeboat_model::{
    AuthorizationEntry, Changed, DiskId, Finding, Fingerprint, Hint, JobId, NicFailover, Note, Position,
    ReplicationHealth, ReplicationMode, ReplicationSettings, ReplicationState, RequestId, Timestamp, VmId,
    VmSpec,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::by::By;
use crate::hold::Reason;
use crate::paging::{Page, Paging};
use crate::ports::environment::{AtRest, Certificate};
use crate::ports::hypervisor::{Console, GuestProcess, PowerState};
use crate::ports::store::{Abandoned, BulkProgress, Target};
use crate::records::{
    Counters, Event, Failover, Job, KnownKey, Planned, Problem, ServerSettings, Split, Synchronization, Test,
};
use crate::requests::Request;

/// Which VM. Written, it is a text; what is read is [`VmRef::Text`].
#[derive(Clone, Debug, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum VmRef {
    /// The VM with this id, and no other.
    Id(VmId),
    /// A name or UUID, as a person writes it. A UUID comes first.
    Text(String),
}

/// Equal are two that are written alike: what was recorded by its id is found again after it was read.
impl PartialEq for VmRef {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Id(one), Self::Id(other)) => one == other,
            (Self::Text(one), Self::Text(other)) => one == other,
            (Self::Id(id), Self::Text(text)) | (Self::Text(text), Self::Id(id)) => id.to_string() == *text,
        }
    }
}

impl std::fmt::Display for VmRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl From<VmId> for VmRef {
    fn from(id: VmId) -> Self {
        Self::Id(id)
    }
}

impl From<String> for VmRef {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<VmRef> for String {
    fn from(vm: VmRef) -> Self {
        vm.to_string()
    }
}

/// Which recovery point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", content = "value", rename_all = "lowercase")]
pub enum PointSelector {
    /// The newest data there is.
    #[default]
    Latest,
    /// A listed point, by its id (a point's UUID, or a cycle's `generation:sequence`, which stays good when it is sealed), an
    /// unambiguous beginning of it, or its GUID.
    Id(String),
    /// The newest instant not after this one.
    At(Timestamp),
}

/// A wish.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Action {
    /// VMs of this host, replicas included, by name and UUID.
    ListVms(Paging),
    /// One VM.
    ShowVm {
        /// Any VM of this host, replicas and the VMs of tests included.
        vm: VmRef,
    },
    /// Starts a VM, or lets one go on that stands still.
    StartVm {
        /// A VM that is off, is paused or stands still; a replica only after a failover, a primary not in state 4.
        vm: VmRef,
        /// Do it although the other host may run it: it was reached and did not say.
        #[serde(default)]
        force: bool,
    },
    /// Shuts a VM down, or turns it off.
    StopVm {
        /// A VM that runs; with `force` also one that is paused, stands still, crashed, or whose state is not known.
        vm: VmRef,
        /// Turn it off at once.
        force: bool,
    },
    /// Stops the guest's CPUs; its memory stays. `StartVm` lets it go on.
    PauseVm {
        /// A VM that runs, without a planned failover under way.
        vm: VmRef,
    },
    /// Presses the reset button: the guest starts anew without having shut down.
    ResetVm {
        /// A VM that runs, is paused, stands still or crashed, without a planned failover under way.
        vm: VmRef,
    },
    /// A picture of the screen.
    Screenshot {
        /// A VM that has a process here.
        vm: VmRef,
    },
    /// CreateReplicationRelationship.
    EnableReplication {
        /// A VM of this host without replication. This host becomes its primary.
        vm: VmRef,
        /// Settings; an empty disk list means all disks.
        settings: ReplicationSettings,
    },
    /// ModifyReplicationSettings: the whole new settings. On a replica those of the extended relationship.
    ModifyReplication {
        /// A VM that this host is the primary of, or a replica that is extended to a third host.
        vm: VmRef,
        /// All settings, changed or not; an empty disk list means the disks of now.
        settings: ReplicationSettings,
    },
    /// StartReplication. A job. On a replica the copy to the third host, over the network.
    StartReplication {
        /// A VM that this host is the primary of, in state 1, or a replica that is extended to a third host.
        vm: VmRef,
        /// How the data gets there.
        how: InitialCopy,
        /// When to begin, at most 7 days ahead; `None`: now.
        at: Option<Timestamp>,
    },
    /// RequestReplicationStateChange to 1, on the primary: gives up an initial copy that is scheduled or under way.
    CancelInitialCopy {
        /// A VM that this host is the primary of, in state 1 or 2.
        vm: VmRef,
    },
    /// ImportInitialReplica, on the replica. A job.
    ImportCopy {
        /// A replica in state 2 that awaits an exported copy.
        vm: VmRef,
        /// Directory that was exported to.
        dir: String,
    },
    /// Resynchronize, on the primary. A job. On a replica the third host is compared anew.
    Resynchronize {
        /// A VM that this host is the primary of, or a replica that is extended to a third host.
        vm: VmRef,
        /// When to begin, at most 7 days ahead; `None`: now.
        at: Option<Timestamp>,
    },
    /// RequestReplicationStateChange to 9: gives a resynchronization up.
    CancelResync {
        /// A VM that this host is the primary of, in state 10 or 11, or with a resynchronization that waits for its time.
        vm: VmRef,
    },
    /// ReverseReplicationRelationship, on the failed-over and committed side. A job.
    ReverseReplication {
        /// A replica whose failover is committed (state 6), or whose planned failover is done (state 5).
        vm: VmRef,
        /// Settings of the new direction; `None`: those of the old one, with the old primary as the peer.
        settings: Option<ReplicationSettings>,
    },
    /// RequestReplicationStateChange to 2: makes an old primary, or a VM that is off, a replica that awaits its copy.
    BecomeReplica {
        /// A VM that is off: without replication, or one that this host is the primary of in state 1, 3, 7, 8 or 9.
        vm: VmRef,
    },
    /// Lets go of what an old primary had beyond the point that the other side went on from.
    DropAbandoned {
        /// A replica that still has what was set aside when it became one.
        vm: VmRef,
    },
    /// Verifies the replica's files by their recorded digests, and repairs what can be. A job.
    Scrub {
        /// A replica in state 3, 7, 8 or 10, without a failover.
        vm: VmRef,
    },
    /// Keeps every recovery point of a replica from expiring, until `ReleasePoints`.
    HoldPoints {
        /// A replica that has recovery points: its first copy is complete.
        vm: VmRef,
    },
    /// Ends a hold, whatever began it, and agrees to the history that the primary asks for.
    ReleasePoints {
        /// A replica whose points are held.
        vm: VmRef,
    },
    /// SetFailoverNetworkAdapterSettings.
    SetFailoverNetwork {
        /// A VM with replication; the settings count for the copy of this host alone.
        vm: VmRef,
        /// One entry for each card that has settings; others have none afterwards.
        cards: Vec<NicFailover>,
    },
    /// ResetReplicationStatistics.
    ResetStatistics {
        /// A VM with replication, on either side.
        vm: VmRef,
        /// Those of the extended relationship, instead of the first one's.
        #[serde(default)]
        extended: bool,
    },
    /// RequestReplicationStateChange to 7.
    SuspendReplication {
        /// A VM with replication in state 3, 7 or 8, on the primary also in 10 or 11; no planned failover may be under way.
        vm: VmRef,
    },
    /// RequestReplicationStateChange to 3.
    ResumeReplication {
        /// A VM with replication in state 3, 7 or 8, on the primary also in 10 or 11; a planned failover there is cancelled.
        vm: VmRef,
    },
    /// RemoveReplicationRelationship: this side only.
    RemoveReplication {
        /// A VM with replication, on either side, without a test and without a third host.
        vm: VmRef,
    },
    /// RemoveReplicationRelationship by this side's record alone, in whatever state: for relationships whose other side or
    /// whose files are gone, and for tests whose replica is. Files are kept.
    ForgetReplication {
        /// A VM with replication in any state and role. It must not run on files that the record is about.
        vm: VmRef,
    },
    /// A cycle now, without waiting for the interval. Answered with its result when it is over.
    ReplicateNow {
        /// A VM that this host is the primary of, in state 3 or 8.
        vm: VmRef,
    },
    /// Recovery points of a replica: sealed ones and cycles, newest first.
    ListPoints {
        /// A replica, in any state.
        vm: VmRef,
        /// Which part of the list.
        #[serde(flatten)]
        page: Paging,
    },
    /// InitiateFailover. A job.
    InitiateFailover {
        /// A replica in state 3, 7, 8 or 10.
        vm: VmRef,
        /// The point.
        point: PointSelector,
        /// Start the VM as well.
        start: bool,
        /// Do it although the primary answers that its VM is running.
        force: bool,
    },
    /// A whole planned failover, from either host: shut down, send the rest, fail over, reverse. A job.
    PlannedFailover {
        /// A VM with replication: on its primary in state 3, or on its replica, which asks the primary.
        vm: VmRef,
        /// Turn the VM off when it does not shut down in time.
        force: bool,
        /// Only prepare (RequestReplicationStateChange to 4); on the primary.
        prepare_only: bool,
        /// Start the VM on the replica.
        start: bool,
    },
    /// RequestReplicationStateChange from 4 to 3, or at any stage before the replica took over; on the primary.
    CancelPlanned {
        /// A VM that this host is the primary of, with a planned failover under way.
        vm: VmRef,
        /// Go on although the replica does not answer and may have taken over.
        force: bool,
    },
    /// TestReplicaSystem. A job.
    StartTest {
        /// A replica in state 3, 5, 7, 8 or 10 that has no test.
        vm: VmRef,
        /// The point.
        point: PointSelector,
        /// Start the test VM as well.
        start: bool,
    },
    /// DestroySystem of the test VM, named by its replica. A job.
    StopTest {
        /// The replica that is tested, not the VM of the test.
        vm: VmRef,
    },
    /// RevertFailover. A job.
    RevertFailover {
        /// A replica whose failover is not decided (state 5).
        vm: VmRef,
        /// Turn the VM off first if it runs.
        force: bool,
    },
    /// CommitFailover. A job.
    CommitFailover {
        /// A replica whose failover is not decided (state 5).
        vm: VmRef,
    },
    /// CreateReplicationRelationship on a replica, and StartReplication: what arrives there also goes to a third host. A job
    /// when the copy is started.
    ExtendReplication {
        /// A replica of a primary, not extended yet, or extended and not started; that of a third host cannot be extended.
        vm: VmRef,
        /// Settings; the peer in them is the third host. An empty disk list means those of the replica.
        settings: ReplicationSettings,
        /// Start the copy as well; without it only the relationship is made, and `StartReplication` follows.
        #[serde(default = "yes")]
        start: bool,
    },
    /// RequestReplicationStateChangeEx to 1 or 9 for the extended relationship: gives up its initial copy, or its comparison.
    CancelExtended {
        /// A replica whose copy to, or comparison with, the third host is scheduled or under way.
        vm: VmRef,
    },
    /// RequestReplicationStateChangeEx to 7 for the extended relationship.
    SuspendExtended {
        /// A replica that is extended to a third host.
        vm: VmRef,
    },
    /// RequestReplicationStateChangeEx to 3 for the extended relationship.
    ResumeExtended {
        /// A replica that is extended to a third host.
        vm: VmRef,
    },
    /// RemoveReplicationRelationship for the extended relationship; the third host keeps what it has.
    RemoveExtended {
        /// A replica that is extended to a third host.
        vm: VmRef,
    },
    /// ChangeReplicationModeToPrimary: a committed replica goes on as the primary of the third host. A job.
    ContinueAsPrimary {
        /// A replica whose failover is committed (state 6) and that is extended to a third host.
        vm: VmRef,
    },
    /// Jobs, newest first.
    ListJobs(Paging),
    /// One job.
    ShowJob {
        /// A job that has not been removed: one that ended is kept for the configured time.
        job: JobId,
    },
    /// Msvm_ConcreteJob.RequestStateChange to 4 (terminate).
    CancelJob {
        /// A job of a copy, a comparison, an import or a planned failover that has not ended; others cannot be cancelled.
        job: JobId,
    },
    /// Newest events.
    ListEvents {
        /// Of one VM, or of all.
        vm: Option<VmRef>,
        /// At most this many, 1 to 1000.
        limit: u32,
        /// Those before this place, as in [`Paging`]; `None`: the newest.
        #[serde(default)]
        after: Option<String>,
    },
    /// Authorization entries, by primary.
    ListAuthorization(Paging),
    /// AddAuthorizationEntry; replaces an entry with the same primary.
    AddAuthorization {
        /// The entry.
        entry: AuthorizationEntry,
    },
    /// RemoveAuthorizationEntry.
    RemoveAuthorization {
        /// Its primary.
        primary: String,
    },
    /// SetAuthorizationEntry, on a replica: only primaries that this entry covers may feed it from now on.
    SetAuthorization {
        /// A replica of this host.
        vm: VmRef,
        /// The entry's primary.
        primary: String,
    },
    /// Settings of this host as a replica server.
    ShowServer,
    /// ModifyServiceSettings.
    SetServer {
        /// The new settings.
        settings: ServerSettings,
    },
    /// Another host has this key: it is accepted for the relationships that name the host, and the one known so far until then.
    TrustKey {
        /// Of this VM alone; `None`: of all.
        #[serde(default)]
        vm: Option<VmRef>,
        /// The host: a name of its certificate, or how it is called.
        host: String,
        /// SHA-256 of its public key.
        key: Fingerprint,
    },
    /// TestReplicationConnection: reach, authenticate, be authorized.
    TestConnection {
        /// `HOST:PORT`.
        peer: String,
    },
    /// What waits for a second person, oldest first; there are never more than [`crate::requests::IN_ALL`].
    ListRequests,
    /// Confirms a request as the second person: what was asked for is carried out as it was recorded.
    ConfirmRequest {
        /// A request that waits, for less than 24 hours, and that another person has made.
        request: RequestId,
    },
    /// Ends a request without carrying it out.
    DenyRequest {
        /// A request that waits, or of which it is not known whether it was carried out.
        request: RequestId,
    },
}

fn yes() -> bool {
    true
}

/// How an initial copy gets to the replica (`InitialReplicationType`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "lowercase")]
pub enum InitialCopy {
    /// Over the network.
    #[default]
    Network,
    /// To a directory, whose content somebody carries to the replica and imports there.
    Export {
        /// Absolute path of an empty or missing directory.
        dir: String,
    },
    /// From a copy that is on the replica's host already; only what differs travels.
    Seed,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "value", rename_all = "kebab-case")]
pub enum Answer {
    /// It was carried out, and there is nothing to tell of it.
    Done,
    /// VMs, by name and UUID.
    Vms(Page<VmView>),
    /// A VM.
    Vm(Box<VmView>),
    /// A PNG.
    Picture(Vec<u8>),
    /// Recovery points, newest first.
    Points(Page<PointView>),
    /// A job that carries on, or that ended.
    Job(Job),
    /// Jobs, newest first.
    Jobs(Page<Job>),
    /// Events, newest first.
    Events(Page<Event>),
    /// Authorization entries.
    Entries(Page<AuthorizationEntry>),
    /// This host.
    Server(ServerView),
    /// How a cycle ended.
    Cycle(CycleResult),
    /// What waits for a second person.
    Requests(Vec<Request>),
}

/// What came of a cycle that somebody asked for. One that failed is a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum CycleResult {
    /// A log of what changed is durable on the replica.
    Sent {
        /// Bytes of the log; a log without any change has some hundred.
        bytes: u64,
        /// The instant that the replica holds now.
        instant: Timestamp,
        /// The replica stands here.
        position: Position,
    },
    /// The VM is off, and its images are what they were when they were last sent.
    Unchanged {
        /// When they were looked at.
        verified: Timestamp,
    },
}

/// A VM as this host sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmView {
    /// The machine.
    pub spec: VmSpec,
    /// What it does.
    pub power: PowerState,
    /// Why it stands still, or why that is not known; `None` in every ordinary state.
    #[serde(default)]
    pub power_note: Option<PowerNote>,
    /// Its process; `None` when it has none, or when that is not known.
    #[serde(default)]
    pub process: Option<GuestProcess>,
    /// Since when.
    #[serde(default)]
    pub times: VmTimes,
    /// Where to look at it.
    pub console: Console,
    /// The file of each disk on this host, absolute; a disk whose file is not known now is missing.
    #[serde(default)]
    pub disk_files: BTreeMap<DiskId, Utf8PathBuf>,
    /// Its replication; `None` when there is none.
    pub replication: Option<ReplicationView>,
    /// Where the VM's description should be, and what to do, when it is gone; then `spec` is what was recorded of it.
    #[serde(default)]
    pub description_gone: Option<Finding>,
}

/// When something of a VM began. What is not known is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmTimes {
    /// The VM became known to this host: its description was written, or its replica was made.
    pub known: Option<Timestamp>,
    /// Its description, or the settings of its replica, were changed last.
    pub configured: Option<Timestamp>,
    /// Its power became what it is.
    pub power: Option<Timestamp>,
}

/// What is out of the ordinary about a VM's power.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerNote {
    /// What was seen, in words.
    pub reason: String,
    /// Since when it is so, as far as this daemon has looked.
    pub since: Timestamp,
    /// What the VM did when that was last known; `None` where it is known now, or never was.
    #[serde(default)]
    pub before: Option<SeenPower>,
}

/// What a VM did at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenPower {
    /// What it did.
    pub power: PowerState,
    /// When that was seen.
    pub at: Timestamp,
}

/// Why no recovery point expires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldView {
    /// Since when.
    pub since: Timestamp,
    /// The reasons, each kind once.
    pub reasons: Vec<Reason>,
}

/// How much changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesView {
    /// Within the hour that goes on.
    pub hour: Changed,
    /// Bytes that could not be compressed in the worst hour before, which is forgotten within days.
    pub usual: u64,
}

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
    pub failover: Option<Failover>,
    /// The test failover, on a replica.
    pub test: Option<Test>,
    /// When the last test failover was started, on a replica.
    pub last_test: Option<Timestamp>,
    /// A synchronization that goes on, on a primary.
    pub sync: Option<Synchronization>,
    /// A planned failover under way, on a primary.
    pub planned: Option<Planned>,
    /// Both sides may have gone on, on a primary.
    pub split: Option<Split>,
    /// When an initial copy or a resynchronization is to begin, on a primary.
    pub scheduled: Option<Timestamp>,
    /// What was set aside when this copy became a replica, on a replica.
    pub abandoned: Option<Abandoned>,
    /// What would keep the VM from starting on the replica.
    pub preflight: Vec<String>,
    /// Addresses after a failover.
    pub network: Vec<NicFailover>,
    /// What was counted in the monitoring window that goes on.
    pub counters: Counters,
    /// The relationship to a third host, on a replica.
    pub extended: Option<Box<ExtendedView>>,
    /// The authorization entry whose primaries alone may feed this replica; `None`: whoever this host lets in.
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
    pub at_rest: Option<AtRest>,
    /// By which keys the hosts of this replication are known here.
    #[serde(default)]
    pub keys: Vec<KnownKey>,
}

/// What a view of the other side rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactView {
    /// When the other side was last heard: a call of it, or an answer. `None`: not since this daemon started.
    pub heard: Option<Timestamp>,
    /// Milliseconds since then, or since this daemon started, by the monotonic clock.
    pub silent_ms: u64,
}

/// Logs that wait on a replica to be applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BacklogView {
    /// How many.
    pub logs: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Milliseconds that the oldest has waited; `None` on the primary, which does not know.
    pub age_ms: Option<u64>,
}

/// The relationship to a third host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExtendedView {
    /// State of the extended relationship, by the rules of a primary.
    pub state: ReplicationState,
    /// Health, computed now.
    pub health: ReplicationHealth,
    /// Why the health is what it is, in words.
    pub health_notes: Vec<Finding>,
    /// The third host.
    pub peer: String,
    /// Settings of the extended relationship; the peer in them is the third host.
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
    /// The same of what was sent to the third host.
    pub counters: Counters,
}

/// Progress of the initial copy of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkView {
    /// How far.
    pub progress: BulkProgress,
    /// Size of the disk in bytes.
    pub size: u64,
}

/// A recovery point in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointView {
    /// What to give to `failover start --point`.
    pub id: String,
    /// The instant's name in the management API, which is taken here as well. It stays the same when a cycle is sealed, and
    /// on each host; `None` for what was set aside.
    #[serde(default)]
    pub guid: Option<Uuid>,
    /// What it is.
    pub target: Target,
    /// The instant on the primary.
    pub instant: Timestamp,
    /// What it guarantees.
    pub consistency: Consistency,
    /// Bytes it takes.
    pub size: u64,
    /// Why it is not offered: its data is, or may be, wrong. `None`: nothing is known against it.
    #[serde(default)]
    pub unusable: Option<String>,
    /// What changed since the point before it; `None` for a cycle that is no point, and where it was not noted.
    #[serde(default)]
    pub changed: Option<Changed>,
}

/// This host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerView {
    /// Its name.
    pub host: String,
    /// Version of Lifeboat.
    pub version: String,
    /// Where peers reach it.
    pub listen: String,
    /// What this host takes as a replica server, and its limit for sending.
    pub settings: ServerSettings,
    /// Certificates that its connections depend on, as they were looked at last.
    #[serde(default)]
    pub certificates: Vec<Certificate>,
    /// Keys of this host.
    #[serde(default)]
    pub keys: ServerKeys,
    /// Whether the directories of new replicas are made encrypted.
    #[serde(default)]
    pub encrypts_new: bool,
    /// The directories that hold guests' data, and whether they are encrypted; asked of the kernel for this view.
    #[serde(default)]
    pub directories: Vec<DirectoryView>,
    /// What of this host needs attention, with the way out, in words.
    #[serde(default)]
    pub notes: Vec<Finding>,
}

/// A directory that holds guests' data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryView {
    /// What is in it.
    pub content: DirectoryContent,
    /// Its path.
    pub path: String,
    /// Whether it is encrypted.
    pub at_rest: AtRest,
}

/// What a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DirectoryContent {
    /// Changes on their way, and what a guest wrote over while it was read.
    Spool,
    /// A directory for each replica: the storage location of an authorization entry. Encrypted itself or not, new
    /// replicas below it are as [`ServerView::encrypts_new`] says.
    Location,
    /// The files of one VM.
    Replica,
}

/// Keys of a host, by their SHA-256: what other hosts know it by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerKeys {
    /// The one in use; `None`: not looked at yet.
    pub own: Option<Fingerprint>,
    /// The one that is to follow; `None`: none is to.
    pub next: Option<Fingerprint>,
}

/// Why a wish was not granted. `code` is the API's return code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The API's return code.
    pub code: ReturnCode,
    /// What and why, naming state and thing.
    pub message: String,
    /// What to do instead; `None`: there is nothing.
    #[serde(default, deserialize_with = "hint::told")]
    pub hint: Option<Hint>,
    /// The request that was recorded instead: it waits for a second person.
    #[serde(default)]
    pub request: Option<RequestId>,
}

impl Refusal {
    /// A refusal with what to do instead.
    pub fn new(code: ReturnCode, message: impl Into<String>, hint: impl Into<Hint>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..Self::bare(code, message)
        }
    }

    /// A refusal after which there is nothing to do.
    pub fn bare(code: ReturnCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
            request: None,
        }
    }

    /// What is told of it, without its code.
    #[must_use]
    pub fn note(&self) -> Note {
        Note {
            text: self.message.clone(),
            hint: self.hint.clone(),
        }
    }
}

impl Action {
    /// The VM this action is about.
    #[must_use]
    pub fn vm(&self) -> Option<&VmRef> {
        match self {
            Self::ShowVm { vm }
            | Self::StartVm { vm, .. }
            | Self::StopVm { vm, .. }
            | Self::PauseVm { vm }
            | Self::ResetVm { vm }
            | Self::Screenshot { vm }
            | Self::EnableReplication { vm, .. }
            | Self::ModifyReplication { vm, .. }
            | Self::StartReplication { vm, .. }
            | Self::CancelInitialCopy { vm }
            | Self::ImportCopy { vm, .. }
            | Self::Resynchronize { vm, .. }
            | Self::CancelResync { vm }
            | Self::ReverseReplication { vm, .. }
            | Self::BecomeReplica { vm }
            | Self::DropAbandoned { vm }
            | Self::Scrub { vm }
            | Self::HoldPoints { vm }
            | Self::ReleasePoints { vm }
            | Self::SetFailoverNetwork { vm, .. }
            | Self::ResetStatistics { vm, .. }
            | Self::PlannedFailover { vm, .. }
            | Self::CancelPlanned { vm, .. }
            | Self::StartTest { vm, .. }
            | Self::StopTest { vm }
            | Self::ExtendReplication { vm, .. }
            | Self::CancelExtended { vm }
            | Self::SetAuthorization { vm, .. }
            | Self::SuspendExtended { vm }
            | Self::ResumeExtended { vm }
            | Self::RemoveExtended { vm }
            | Self::ContinueAsPrimary { vm }
            | Self::SuspendReplication { vm }
            | Self::ResumeReplication { vm }
            | Self::RemoveReplication { vm }
            | Self::ForgetReplication { vm }
            | Self::ReplicateNow { vm }
            | Self::ListPoints { vm, .. }
            | Self::InitiateFailover { vm, .. }
            | Self::RevertFailover { vm, .. }
            | Self::CommitFailover { vm } => Some(vm),
            Self::ListEvents { vm, .. } | Self::TrustKey { vm, .. } => vm.as_ref(),
            Self::ListVms(_)
            | Self::ListJobs(_)
            | Self::ShowJob { .. }
            | Self::CancelJob { .. }
            | Self::ListAuthorization(_)
            | Self::AddAuthorization { .. }
            | Self::RemoveAuthorization { .. }
            | Self::ShowServer
            | Self::SetServer { .. }
            | Self::TestConnection { .. }
            | Self::ListRequests
            | Self::ConfirmRequest { .. }
            | Self::DenyRequest { .. } => None,
        }
    }
}

impl Action {
    /// Whether something is another way afterwards. What only asks is not recorded.
    #[must_use]
    pub fn changes(&self) -> bool {
        !matches!(
            self,
            Self::ListVms(_)
                | Self::ShowVm { .. }
                | Self::Screenshot { .. }
                | Self::ListPoints { .. }
                | Self::ListJobs(_)
                | Self::ShowJob { .. }
                | Self::ListEvents { .. }
                | Self::ListAuthorization(_)
                | Self::ShowServer
                | Self::ListRequests
        )
    }

    /// Its name, for the log.
    #[must_use]
    pub fn name(&self) -> String {
        let all = format!("{self:?}");
        let end = all.find(|c: char| !c.is_alphanumeric()).unwrap_or(all.len());
        all.chars().take(end).collect()
    }
}

impl Answer {
    /// The job that an action has started, or is about; `None` when it was done at once.
    #[must_use]
    pub fn job(self) -> Option<Job> {
        match self {
            Self::Job(job) => Some(job),
            Self::Done
            | Self::Vms(_)
            | Self::Vm(_)
            | Self::Picture(_)
            | Self::Points(_)
            | Self::Jobs(_)
            | Self::Events(_)
            | Self::Entries(_)
            | Self::Server(_)
            | Self::Cycle(_)
            | Self::Requests(_) => None,
        }
    }
}

/// The engine as surfaces see it. What has an answer of its own type is asked as a [`Query`](crate::query::Query).
#[async_trait::async_trait]
pub trait Management: Send + Sync {
    /// Carries out an action, or starts the job that does. `by` is who asks; `None` for the questions of a surface itself.
    async fn perform(&self, by: Option<By>, action: Action) -> Result<Answer, Refusal>;
    /// Jobs as they change, from now on; a slow reader skips to the newest.
    fn watch_jobs(&self) -> tokio::sync::broadcast::Receiver<Job>;
}
