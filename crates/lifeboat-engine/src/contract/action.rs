//! What can be asked of a host: one enum under every management surface. Surfaces translate to it and have no logic of their
//! own. What it is answered with is `answer`'s.

use super::relationship::RelationshipRef;
use super::views::ServerSettings;
use crate::contract::paging::Paging;
use lifeboat_model::{
    AuthorizationEntry, Fingerprint, JobId, NicFailover, ReplicationSettings, RequestId, Timestamp, VmId,
};
use serde::{Deserialize, Serialize};

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

/// What a surface can ask of the engine.
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
    /// Starts a VM, or lets one go on that is stalled.
    StartVm {
        /// A VM that is off, paused or stalled; a replica only after a failover, a primary not in state 4.
        vm: VmRef,
        /// Do it although the other host may run it: it was reached and did not say.
        #[serde(default)]
        force: bool,
    },
    /// Shuts a VM down, or turns it off.
    StopVm {
        /// A VM that runs; with `force` also one that is paused, is stalled, crashed, or whose state is not known.
        vm: VmRef,
        /// Turn it off at once.
        force: bool,
    },
    /// Stops the guest's CPUs; its memory stays. `StartVm` lets it go on.
    PauseVm {
        /// A VM that runs, without a planned failover under way.
        vm: VmRef,
    },
    /// Presses the reset button: the guest boots again without having shut down.
    ResetVm {
        /// A VM that runs, is paused, is stalled or crashed, without a planned failover under way.
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
    /// ModifyReplicationSettings: the whole new settings. On a replica those of an outgoing relationship.
    ModifyReplication {
        /// A VM that this host is the primary of, or a replica with an outgoing relationship.
        vm: VmRef,
        /// All settings, changed or not; an empty disk list means the disks of now.
        settings: ReplicationSettings,
        /// Which relationship: on a replica an outgoing one.
        #[serde(default, skip_serializing_if = "RelationshipRef::is_usual")]
        relationship: RelationshipRef,
    },
    /// StartReplication. A job. On a replica the copy to a third host, over the network.
    StartReplication {
        /// A VM that this host is the primary of, in state 1, or a replica with an outgoing relationship.
        vm: VmRef,
        /// How the data gets there.
        how: InitialCopy,
        /// When to begin, at most 7 days ahead; `None`: now.
        at: Option<Timestamp>,
        /// Which relationship: on a replica an outgoing one.
        #[serde(default, skip_serializing_if = "RelationshipRef::is_usual")]
        relationship: RelationshipRef,
    },
    /// RequestReplicationStateChange to 1, on the primary: cancels an initial copy that is scheduled or under way. Of an outgoing
    /// relationship (RequestReplicationStateChangeEx) also a comparison.
    CancelInitialCopy {
        /// A VM that this host is the primary of, in state 1 or 2, or a replica with an outgoing relationship.
        vm: VmRef,
        /// Which relationship: on a replica an outgoing one.
        #[serde(default, skip_serializing_if = "RelationshipRef::is_usual")]
        relationship: RelationshipRef,
    },
    /// ImportInitialReplica, on the replica. A job.
    ImportCopy {
        /// A replica in state 2 that awaits an exported copy.
        vm: VmRef,
        /// Directory that was exported to.
        dir: String,
    },
    /// Resynchronize, on the primary. A job. On a replica a third host is compared again.
    Resynchronize {
        /// A VM that this host is the primary of, or a replica with an outgoing relationship.
        vm: VmRef,
        /// When to begin, at most 7 days ahead; `None`: now.
        at: Option<Timestamp>,
        /// Which relationship: on a replica an outgoing one.
        #[serde(default, skip_serializing_if = "RelationshipRef::is_usual")]
        relationship: RelationshipRef,
    },
    /// RequestReplicationStateChange to 9: cancels a resynchronization, of an outgoing relationship whatever is under way.
    CancelResync {
        /// A VM that this host is the primary of, in state 10 or 11, or with a resynchronization that waits for its time; or a
        /// replica with an outgoing relationship.
        vm: VmRef,
        /// Which relationship: on a replica an outgoing one.
        #[serde(default, skip_serializing_if = "RelationshipRef::is_usual")]
        relationship: RelationshipRef,
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
        /// Whose.
        #[serde(
            default,
            skip_serializing_if = "RelationshipRef::is_usual",
            alias = "extended"
        )]
        relationship: RelationshipRef,
    },
    /// RequestReplicationStateChange to 7; of an outgoing relationship RequestReplicationStateChangeEx.
    SuspendReplication {
        /// A VM with replication in state 3, 7 or 8, on the primary also in 10 or 11; no planned failover may be under way.
        vm: VmRef,
        /// Which relationship.
        #[serde(default, skip_serializing_if = "RelationshipRef::is_usual")]
        relationship: RelationshipRef,
    },
    /// RequestReplicationStateChange to 3; of an outgoing relationship RequestReplicationStateChangeEx.
    ResumeReplication {
        /// A VM with replication in state 3, 7 or 8, on the primary also in 10 or 11; a planned failover there is cancelled.
        vm: VmRef,
        /// Which relationship.
        #[serde(default, skip_serializing_if = "RelationshipRef::is_usual")]
        relationship: RelationshipRef,
    },
    /// RemoveReplicationRelationship: this side only. The host of an outgoing relationship keeps what it has.
    RemoveReplication {
        /// A VM with replication, on either side, without a test; its own relationship only without outgoing ones.
        vm: VmRef,
        /// Which relationship.
        #[serde(default, skip_serializing_if = "RelationshipRef::is_usual")]
        relationship: RelationshipRef,
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
        /// A replica of a primary; an extended replica cannot be extended.
        vm: VmRef,
        /// Settings; the peer in them is the third host, which the VM is not forwarded to yet, or not started. An empty disk
        /// list means those of the replica.
        settings: ReplicationSettings,
        /// Start the copy as well; without it only the relationship is made, and `StartReplication` follows.
        #[serde(default = "yes")]
        start: bool,
    },
    /// ChangeReplicationModeToPrimary: a committed replica goes on as the primary of a host it forwarded to. A job.
    ContinueAsPrimary {
        /// A replica whose failover is committed (state 6) and with an outgoing relationship.
        vm: VmRef,
        /// The outgoing relationship that is to go on; the only one, unless said.
        #[serde(default, skip_serializing_if = "RelationshipRef::is_usual")]
        relationship: RelationshipRef,
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
    /// What waits for a second person, oldest first; there are never more than [`crate::host::requests::IN_ALL`].
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
    /// To a directory, whose content a person carries to the replica's host and imports there.
    Export {
        /// Absolute path of an empty or missing directory.
        dir: String,
    },
    /// From a copy that is on the replica's host already; only what differs travels.
    Seed,
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
            | Self::CancelInitialCopy { vm, .. }
            | Self::ImportCopy { vm, .. }
            | Self::Resynchronize { vm, .. }
            | Self::CancelResync { vm, .. }
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
            | Self::SetAuthorization { vm, .. }
            | Self::ContinueAsPrimary { vm, .. }
            | Self::SuspendReplication { vm, .. }
            | Self::ResumeReplication { vm, .. }
            | Self::RemoveReplication { vm, .. }
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
