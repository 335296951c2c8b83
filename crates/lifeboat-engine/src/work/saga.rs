//! Why a step of a failover, of its commit, or of a test failed: whose fault it is, with its causes.

use crate::contract::Refusal;
use crate::port::catalog::CatalogError;
use crate::port::hypervisor::HypervisorError;
use crate::port::store::StoreError;
use lifeboat_model::causes::chain;
use lifeboat_model::{Note, ProblemKind, hint};

/// A step that failed. Each is repeated or undone by the code that planned it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SagaError {
    /// The replica store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The replica's storage has no room for the logs that are replayed into the failover disks.
    #[error("{}", chain(.0))]
    NoRoom(StoreError),
    /// The hypervisor.
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Disks may be merged only when it is known who has them open.
    #[error("whether the VM runs is not known: {why}")]
    PowerNotKnown {
        /// What keeps it from being known.
        why: String,
    },
    /// The name that a test VM needs was given to another VM meanwhile.
    #[error("this host has another VM named \"{name}\" by now")]
    NameTaken {
        /// The name.
        name: String,
    },
}

impl SagaError {
    /// What is told of it, with its causes.
    pub(crate) fn note(&self) -> Note {
        let hint = match self {
            Self::Store(e) => e.hint(),
            Self::NoRoom(_) => Some(hint::Failover::FreeRoom.into()),
            Self::Hypervisor(_) | Self::Catalog(_) | Self::PowerNotKnown { .. } | Self::NameTaken { .. } => {
                None
            }
        };
        let text = chain(self);
        Note { text, hint }
    }

    /// What is wrong with a relationship because of it, where that is more than `otherwise`.
    pub(crate) fn problem(&self, otherwise: ProblemKind) -> ProblemKind {
        match self {
            Self::Store(e) | Self::NoRoom(e) => match e.problem() {
                ProblemKind::Store => otherwise,
                kind => kind,
            },
            Self::Catalog(_) => ProblemKind::Catalog,
            Self::Hypervisor(_) | Self::PowerNotKnown { .. } | Self::NameTaken { .. } => otherwise,
        }
    }
}

/// Why a VM whose disks are ready did not start. The disks stay: it can be started again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The hypervisor.
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    /// The engine, like a start that a caller asks for.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// The daemon ends.
    #[error("the daemon is stopping")]
    Stopping,
}

impl StartError {
    /// What is told of it, with its causes.
    pub(crate) fn note(&self) -> Note {
        let hint = match self {
            Self::Refused(refusal) => refusal.hint.clone(),
            Self::Hypervisor(_) | Self::Stopping => None,
        };
        let text = chain(self);
        Note { text, hint }
    }
}

/// What a failover or a test came to: the disks are ready, and the VM runs when it was to, unless there is a reason.
pub(crate) type Ready = Option<StartError>;
