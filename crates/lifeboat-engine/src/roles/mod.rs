//! Changing which host is the primary, and what the hosts of a relationship know of one another while they do.

pub(crate) mod planned;
pub(crate) mod resumed;
pub(crate) mod reverse;
pub(crate) mod silence;

use crate::contract::Refusal;
use crate::port::link::{LinkError, ReplicaStatus};

/// How a piece of work of this kind ended.
pub(crate) enum Done {
    /// The layers of a committed failover are merged.
    Merged(Result<(), crate::work::saga::SagaError>),
    /// The VM is off, or why it is not.
    Stopped(Result<(), Refusal>),
    /// What the replica said to taking over.
    HandedOver(Result<(), LinkError>),
    /// What the old primary said to giving way.
    Reversed(Result<ReplicaStatus, LinkError>),
}
