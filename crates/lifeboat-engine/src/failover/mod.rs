//! Bringing a replica up: failover, revert and commit, tests, and the network of the guest.

pub(crate) mod defined;
pub(crate) mod initiate;
pub(crate) mod network;
pub(crate) mod testing;

use crate::port::hypervisor::HypervisorError;
use crate::work::saga::Ready;
use crate::work::saga::SagaError;

/// How a piece of work of this kind ended.
pub(crate) enum Done {
    FailedOver(Result<Ready, SagaError>),
    Reverted(Result<(), SagaError>),
    Committed(Result<(), SagaError>),
    Merged(Result<(), SagaError>),
    /// The test VM is there, or why not.
    TestMade(Result<Ready, SagaError>),
    TestEnded(Result<(), SagaError>),
    /// The hypervisor knows of the VM, or why it does not.
    Defined(Result<crate::failover::defined::Told, HypervisorError>),
}
