//! What can be asked of a host: one enum under every management surface, and what there is to know of each of its actions. Surfaces
//! translate to it and have no logic of their own. What it is answered with is `answer`'s.

use super::facts::{Facts, Role, Taking};
use super::relationship::RelationshipRef;
use super::selectors::{InitialCopy, PointSelector, VmRef};
use super::views::ServerSettings;
use crate::contract::paging::Paging;
use lifeboat_model::{
    AuthorizationEntry, Fingerprint, JobId, JobType, NicFailover, RelationshipId, ReplicationSettings,
    RequestId, Timestamp,
};
use serde::{Deserialize, Serialize};

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
        /// Which relationship they are of.
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
    /// The next attempt now, of whatever waits for one because the last one failed: a copy, a cycle, applying, a change of roles,
    /// sending to a third host. Done as well when nothing waits.
    RetryNow {
        /// A VM with replication, on either side.
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

const COMMIT: Taking<'_> =
    Taking::Always("commit of the failover, which ends every recovery point but the chosen one, of");
const REMOVAL: Taking<'_> = Taking::Always("removal of the replication of");
const FORGETTING: Taking<'_> = Taking::Always("removal of the record of the replication of");
const RELEASE: Taking<'_> = Taking::Always("release of the recovery points that are held of");
const DROPPING: Taking<'_> = Taking::Always("dropping of the abandoned data of");

impl Action {
    /// What there is to know of it.
    ///
    /// Deliberately taking nothing away: failovers of every kind, reverts and reversals, which an emergency cannot wait with,
    /// though a revert gives up what the VM wrote since the failover and a planned failover commits by itself; the end of a test,
    /// which is there to be thrown away; and `BecomeReplica`, which keeps all it had until `DropAbandoned`.
    #[must_use]
    pub fn facts(&self) -> Facts<'_> {
        use Role::{Administrator, Monitor, Operator, Tester};
        match self {
            Self::ListVms(_)
            | Self::ListJobs(_)
            | Self::ShowJob { .. }
            | Self::ListAuthorization(_)
            | Self::ShowServer
            | Self::ListRequests => Facts::question(Monitor),
            Self::ListEvents { vm, .. } => Facts::question(Monitor).of(vm.as_ref()),
            Self::ShowVm { vm } | Self::ListPoints { vm, .. } => Facts::question(Monitor).of(vm),
            // A screen may show data of the guest, which a monitor may not read.
            Self::Screenshot { vm } => Facts::question(Operator).or_tester().of(vm),
            Self::StartVm { vm, .. }
            | Self::StopVm { vm, .. }
            | Self::PauseVm { vm }
            | Self::ResetVm { vm } => Facts::change(Operator).or_tester().of(vm),
            Self::StartTest { vm, .. } | Self::StopTest { vm } => Facts::change(Tester).of(vm),
            Self::StartReplication { vm, how, .. } => Facts::change(how.role()).of(vm),
            // Settings that come with it are configuration.
            Self::ReverseReplication {
                vm,
                settings: Some(_),
            } => Facts::change(Administrator).of(vm),
            // Of the network: where and how a guest is reached after a failover is part of bringing it up.
            Self::ReverseReplication { vm, settings: None }
            | Self::InitiateFailover { vm, .. }
            | Self::RevertFailover { vm, .. }
            | Self::PlannedFailover { vm, .. }
            | Self::CancelPlanned { vm, .. }
            | Self::ContinueAsPrimary { vm, .. }
            | Self::SuspendReplication { vm, .. }
            | Self::ResumeReplication { vm, .. }
            | Self::CancelInitialCopy { vm, .. }
            | Self::Resynchronize { vm, .. }
            | Self::CancelResync { vm, .. }
            | Self::ReplicateNow { vm }
            | Self::RetryNow { vm }
            | Self::Scrub { vm }
            | Self::HoldPoints { vm }
            | Self::SetFailoverNetwork { vm, .. }
            | Self::ResetStatistics { vm, .. } => Facts::change(Operator).of(vm),
            Self::CancelJob { .. } | Self::TestConnection { .. } => Facts::change(Operator),
            // Of the import: the content of a medium becomes the replica's data unverified.
            Self::BecomeReplica { vm }
            | Self::ImportCopy { vm, .. }
            | Self::EnableReplication { vm, .. }
            | Self::ExtendReplication { vm, .. } => Facts::change(Administrator).of(vm),
            Self::TrustKey { vm, .. } => Facts::change(Administrator).of(vm.as_ref()),
            // Whether this host takes replicas, and when its windows begin: nothing of what is here goes.
            Self::SetServer { .. } | Self::ConfirmRequest { .. } | Self::DenyRequest { .. } => {
                Facts::change(Administrator)
            }
            Self::CommitFailover { vm } => Facts::taking(COMMIT, JobType::CommitFailover).of(vm),
            Self::RemoveReplication { vm, relationship } => {
                Facts::taking(relationship.taking(), JobType::RemoveRelationship).of(vm)
            }
            Self::ForgetReplication { vm } => Facts::taking(FORGETTING, JobType::RemoveRelationship).of(vm),
            Self::DropAbandoned { vm } => Facts::taking(DROPPING, JobType::RemoveRelationship).of(vm),
            Self::ReleasePoints { vm } => Facts::taking(RELEASE, JobType::ServerSettings).of(vm),
            Self::ModifyReplication {
                vm,
                settings,
                relationship,
            } => Facts::taking(Taking::Settings(settings, relationship), JobType::ModifySettings).of(vm),
            Self::AddAuthorization { entry } => Facts::taking(Taking::Entry(entry), JobType::ServerSettings),
            Self::RemoveAuthorization { primary } => {
                Facts::taking(Taking::EntryRemoved(primary), JobType::ServerSettings)
            }
            Self::SetAuthorization { vm, primary } => {
                Facts::taking(Taking::Binding(primary), JobType::ServerSettings).of(vm)
            }
        }
    }

    /// The VM this action is about.
    #[must_use]
    pub fn vm(&self) -> Option<&VmRef> {
        self.facts().vm
    }

    /// Its name, for the log.
    #[must_use]
    pub fn name(&self) -> String {
        let all = format!("{self:?}");
        let end = all.find(|c: char| !c.is_alphanumeric()).unwrap_or(all.len());
        all.chars().take(end).collect()
    }
}

impl RelationshipRef {
    /// What its removal takes away.
    fn taking(&self) -> Taking<'_> {
        match self {
            Self::Usual | Self::Id(RelationshipId::OWN) => REMOVAL,
            Self::Outgoing | Self::Id(_) | Self::Peer(_) => Taking::Outgoing(self),
        }
    }
}

impl InitialCopy {
    fn role(&self) -> Role {
        match self {
            Self::Network | Self::Seed => Role::Operator,
            // A medium holds all data of the VM, and leaves the host.
            Self::Export { .. } => Role::Administrator,
        }
    }
}
