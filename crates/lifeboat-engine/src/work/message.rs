//! What reaches an actor, and what it carries.

use crate::common::by::By;
use crate::contract::{Action, Answer, Refusal};
use crate::port::link::{PeerIdentity, PeerRefusal, PeerReply, PeerRequest};
use crate::port::store::{BulkProgress, Received, ReplicaInfo, StoredLog};
use crate::record::Comparison;
use crate::work::failure::CopyError;
use crate::work::saga::SagaError;
use lifeboat_model::policy::backlog_full;
use lifeboat_model::{JobId, Note, Position, ProblemKind, Reading, Timestamp};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// What reaches an actor.
pub(crate) enum Message {
    /// A management action for this VM.
    Act(Action, Option<By>, oneshot::Sender<Result<Answer, Refusal>>),
    /// Its state for a list; answered even while work is under way.
    View(oneshot::Sender<Result<Answer, Refusal>>),
    /// A control call from the primary.
    Peer(PeerIdentity, PeerRequest, oneshot::Sender<PeerReply>),
    /// May this peer stream a log now?
    MayReceive(PeerIdentity, oneshot::Sender<Result<Permit, PeerRefusal>>),
    /// A delta became durable.
    LogDurable(Received, crate::work::message::Stamp),
    /// A segment of the initial copy became durable.
    BulkDone(BulkProgress),
    /// A log could not be stored.
    ReceiveFailed {
        /// What is wrong because of it.
        kind: ProblemKind,
        /// What happened, in words.
        why: Note,
        /// There was no room for it.
        no_room: bool,
    },
    /// The guest has shut down, as it was asked to or by itself; or its process was ended.
    Stopped,
    /// The merge beside the cycles ended.
    Merged(Result<(), SagaError>),
    /// What the forwarder with this number reports.
    Forwarded(u64, Progress),
    /// The guest was given its addresses, or will not be.
    Addressed(crate::work::message::Given),
    /// Who may replicate here, or how this host counts, was changed.
    AccessChanged,
    /// A planned failover that was asked of the primary is over.
    AskedOver(crate::work::message::Over),
    /// A host is back that may be the other side.
    Returned(crate::work::message::Returned),
    /// The keys of this VM's hosts are to be written.
    SaveKeys(Option<oneshot::Sender<Result<(), Refusal>>>),
    /// A job of this VM is to be cancelled.
    CancelJob(JobId, Option<By>, oneshot::Sender<Result<Answer, Refusal>>),
}

impl Message {
    /// Who asks; `None`: no caller does.
    pub(crate) fn by(&self) -> Option<By> {
        match self {
            Self::Act(_, by, _) | Self::CancelJob(_, by, _) => by.clone(),
            Self::Peer(peer, ..) | Self::MayReceive(peer, _) => Some(By::host(&peer.names)),
            Self::View(_)
            | Self::LogDurable(..)
            | Self::BulkDone(_)
            | Self::ReceiveFailed { .. }
            | Self::Stopped
            | Self::Merged(_)
            | Self::Forwarded(..)
            | Self::Addressed(_)
            | Self::AccessChanged
            | Self::AskedOver(_)
            | Self::SaveKeys(_)
            | Self::Returned(_) => None,
        }
    }
}

/// When a log became durable here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    /// The position it leads to.
    pub(crate) position: Position,
    /// The clocks of this host at that moment.
    pub(crate) reading: Reading,
    /// How long it took to receive, the last time.
    pub(crate) receiving: Duration,
}

/// What a replica has still to apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) logs: u32,
    pub(crate) bytes: u64,
}

/// The logs that are to be applied next, in their order.
pub(crate) fn unapplied(info: &ReplicaInfo) -> impl Iterator<Item = &StoredLog> {
    let mut at = info.applied;
    info.logs.iter().filter(move |log| {
        let next = log.parent == at && log.position != at;
        if next {
            at = log.position;
        }
        next
    })
}

impl Waiting {
    /// Of a replica as it is now.
    pub(crate) fn of(info: &ReplicaInfo) -> Self {
        unapplied(info).fold(Self::default(), |found, log| Self {
            logs: found.logs + 1,
            bytes: found.bytes.saturating_add(log.size),
        })
    }

    pub(crate) fn full(self) -> bool {
        backlog_full(usize::try_from(self.logs).unwrap_or(usize::MAX), self.bytes)
    }
}

/// Whether a replica's logs are bounded. Before the import of a copy that is carried there nothing can be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// As the policy says.
    Policy,
    /// By the room on the disk alone.
    Room,
}

/// A primary whose newest log has to wait until the replica has applied older ones.
#[derive(Clone, Debug)]
pub(crate) struct HeldBack {
    pub(crate) since: Instant,
    pub(crate) waiting: Waiting,
}

/// What a forwarder reports of a round.
pub(crate) enum Progress {
    /// A log is durable there.
    Arrived {
        at: Position,
        /// The instant that the third host has now; `None` for a resync fragment.
        instant: Option<Timestamp>,
        bytes: u64,
    },
    /// A comparison goes on.
    Compared(Comparison, u64),
    /// What would keep the VM from starting there.
    Checked(Vec<String>),
    /// The round is over: where the third host stands, unless it was not asked.
    Ended(Result<Option<Position>, CopyError>),
}

/// What became of a guest's addresses.
#[derive(Debug)]
pub(crate) enum Given {
    /// It has them.
    Done,
    /// The VM was turned off meanwhile; its next start tries again.
    Off,
    /// It does not.
    Failed(String),
}

/// Who is back.
#[derive(Clone, Debug)]
pub(crate) enum Returned {
    /// The host at this address answers again.
    Address(String),
    /// A host with these certified names has said hello.
    Names(Vec<String>),
}

/// Held while a log is received; cancelled when the replica's files are needed for something that must be alone.
pub(crate) struct Permit {
    pub(crate) ended: CancellationToken,
    pub(crate) bound: Bound,
    pub(crate) _counted: TaskTrackerToken,
}

/// How a planned failover that was asked of the primary ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// It was carried out, or its end was told already.
    Carried,
    /// The primary is prepared and keeps the VM locked off.
    Prepared,
    /// The primary knows of none.
    Missing,
}
