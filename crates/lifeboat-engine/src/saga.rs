//! Why a step of a failover, of its commit, or of a test failed: whose fault it is, with its causes. What follows from it is
//! decided where the step is concluded.

use crate::action::Refusal;
use crate::actor::chain;
use crate::ports::catalog::CatalogError;
use crate::ports::hypervisor::HypervisorError;
use crate::ports::store::StoreError;

/// A step that failed. Each is repeated or undone by whoever planned it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SagaError {
    /// The replica store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The replica's storage has no room for the logs that are replayed into the failover disks.
    #[error(
        "{}; free some there, or bring up a sealed recovery point, which takes next to none (lifeboat points)",
        chain(.0)
    )]
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

/// Why a VM whose disks are ready did not start. The disks stay: it can be started again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The hypervisor.
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    /// The engine, like a start that somebody asks for.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// The daemon ends.
    #[error("the daemon is stopping")]
    Stopping,
}

/// What a failover or a test came to: the disks are ready, and the VM runs when it was to, unless there is a reason.
pub(crate) type Ready = Option<StartError>;
