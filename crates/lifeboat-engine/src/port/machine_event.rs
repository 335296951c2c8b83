//! What a hypervisor tells of its VMs without being asked. It says when to look and never what is seen: the engine, when it
//! hears of a VM, asks what it does now.

use lifeboat_model::VmId;

/// Something happened to a VM. That one appeared, was changed or is gone, and that the hypervisor itself went away and came
/// back, will be told by hypervisors that others use too; no adapter has them yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// What the VM does has changed.
    Power {
        /// Which VM; one that the engine does not know is possible.
        vm: VmId,
        /// What happened.
        change: PowerChange,
    },
}

/// What happened to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerChange {
    /// The VM's process ended as it was asked to by a call of the port.
    Ended,
    /// The VM's process ended and no call had asked for it: the guest shut down, or the process was killed.
    EndedByItself,
    /// The guest's CPUs were stopped: it is paused, or stalled.
    Halted,
    /// The guest's CPUs run again.
    WentOn,
}
