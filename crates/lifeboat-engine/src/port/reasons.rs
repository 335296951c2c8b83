//! What errors of ports mean for a relationship: which kind of problem each of them is, and what can be done about it. The errors
//! themselves are the ports', and what follows from one is decided where it occurs.

use super::link::{LinkError, PeerRefusal};
use super::store::StoreError;
use lifeboat_model::causes::chain;
use lifeboat_model::{Hint, Note, ProblemKind, hint};

impl StoreError {
    /// What is wrong with a relationship because of it.
    #[must_use]
    pub fn problem(&self) -> ProblemKind {
        match self {
            Self::NoReplica(_) => ProblemKind::ReplicaMissing,
            Self::NoSpace(_) => ProblemKind::NoSpace,
            Self::OverQuota { .. } => ProblemKind::OverQuota,
            Self::BadLog(_) => ProblemKind::BadLog,
            Self::Damaged { .. } => ProblemKind::Damaged,
            Self::Locked { .. } => ProblemKind::Locked,
            Self::Failing { .. } => ProblemKind::WriteFailed,
            Self::Conflict(_)
            | Self::NoPoint(_)
            | Self::NoBranch(_)
            | Self::OutOfSequence { .. }
            | Self::Superseded { .. }
            | Self::Busy(_)
            | Self::Io { .. } => ProblemKind::Store,
        }
    }

    /// What can be done about it, beside what the message says of the disk.
    #[must_use]
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::NoPoint(_) => Some(hint::Look::Points.into()),
            Self::OverQuota { owner, .. } => {
                let primary = owner.clone();
                Some(hint::Trust::RaiseQuota { primary }.into())
            }
            Self::NoReplica(_)
            | Self::Conflict(_)
            | Self::NoBranch(_)
            | Self::OutOfSequence { .. }
            | Self::Superseded { .. }
            | Self::BadLog(_)
            | Self::NoSpace(_)
            | Self::Busy(_)
            | Self::Damaged { .. }
            | Self::Locked { .. }
            | Self::Failing { .. }
            | Self::Io { .. } => None,
        }
    }

    /// What is told of it, with its causes.
    #[must_use]
    pub fn note(&self) -> Note {
        Note {
            text: chain(self),
            hint: self.hint(),
        }
    }
}

impl PeerRefusal {
    /// What is wrong with a relationship because of it.
    #[must_use]
    pub fn problem(&self) -> ProblemKind {
        match self {
            Self::NotEnabled { .. } => ProblemKind::PeerNotEnabled,
            Self::NotAuthorized { .. } => ProblemKind::PeerNotAuthorized,
            Self::NoReplica { .. } => ProblemKind::PeerNoReplica,
            Self::FailedOver { .. } => ProblemKind::PeerFailedOver,
            Self::NewerGeneration { .. } => ProblemKind::PeerNewerGeneration,
            Self::Suspended { .. } => ProblemKind::PeerSuspended,
            Self::Running { .. } => ProblemKind::PeerRunning,
            Self::NotNow { .. } => ProblemKind::PeerNotNow,
            Self::OutOfSequence { .. } => ProblemKind::PeerOutOfSequence,
            Self::Backlog { .. } => ProblemKind::PeerBacklog,
            Self::NoSpace { .. } => ProblemKind::PeerNoSpace,
            Self::Conflict { .. } => ProblemKind::PeerConflict,
            Self::OtherKey { .. } => ProblemKind::PeerOtherKey,
            Self::Failed { .. } => ProblemKind::PeerFailed,
        }
    }

    /// What can be done about it, seen from the host that was refused, beside what the message says of the other one.
    #[must_use]
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::NotEnabled { .. } => Some(hint::Trust::EnableServerThere.into()),
            Self::NotAuthorized { names, .. } => {
                let primary = names.first().map_or("NAME", String::as_str).to_owned();
                Some(hint::Trust::AuthorizeThere { primary }.into())
            }
            Self::NotNow { detail, .. } | Self::Conflict { detail } | Self::OtherKey { detail, .. } => {
                detail.hint.clone()
            }
            Self::NoReplica { .. }
            | Self::FailedOver { .. }
            | Self::NewerGeneration { .. }
            | Self::Suspended { .. }
            | Self::Running { .. }
            | Self::OutOfSequence { .. }
            | Self::Backlog { .. }
            | Self::NoSpace { .. }
            | Self::Failed { .. } => None,
        }
    }

    /// What is told of it.
    #[must_use]
    pub fn note(&self) -> Note {
        Note {
            text: self.to_string(),
            hint: self.hint(),
        }
    }
}

impl LinkError {
    /// What is wrong with a relationship because of it.
    #[must_use]
    pub fn problem(&self) -> ProblemKind {
        match self {
            Self::Unreachable { .. } => ProblemKind::PeerUnreachable,
            Self::Untrusted { .. } => ProblemKind::PeerUntrusted,
            Self::Protocol { .. } => ProblemKind::PeerProtocol,
            Self::Refused(refusal) => refusal.problem(),
        }
    }

    /// What can be done about it.
    #[must_use]
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::Unreachable { .. } => Some(hint::Trust::CheckPeer.into()),
            Self::Untrusted { hint, .. } => {
                Some(hint.clone().unwrap_or_else(|| hint::Trust::IssueForBoth.into()))
            }
            Self::Protocol { .. } => None,
            Self::Refused(refusal) => refusal.hint(),
        }
    }

    /// What is told of it, with its causes.
    #[must_use]
    pub fn note(&self) -> Note {
        Note {
            text: chain(self),
            hint: self.hint(),
        }
    }
}
