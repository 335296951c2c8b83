//! Actions by name, for the VM of the world, as tests ask for them most often. What is rare is written out where it is used.

use lifeboat_engine::action::{Action, InitialCopy, PointSelector, RelationshipRef};
use lifeboat_model::{AuthorizationEntry, ReplicationSettings};

use crate::world::World;

/// Replication to `b`, with the settings of the tests.
#[must_use]
pub fn enable() -> Action {
    Action::EnableReplication {
        vm: World::vm(),
        settings: World::settings(),
    }
}

/// The initial copy, over the network and at once.
#[must_use]
pub fn start_copy() -> Action {
    Action::StartReplication {
        vm: World::vm(),
        how: InitialCopy::Network,
        at: None,
        relationship: Default::default(),
    }
}

/// Replication of what the replica has to one more host, every 15 seconds and with its copy begun at once.
///
/// `peer` is `HOST:PORT`.
#[must_use]
pub fn extend(peer: &str) -> Action {
    Action::ExtendReplication {
        vm: World::vm(),
        settings: ReplicationSettings {
            peer: peer.into(),
            interval_s: 15,
            ..World::settings()
        },
        start: true,
    }
}

/// A comparison of the copies, at once.
#[must_use]
pub fn resync() -> Action {
    Action::Resynchronize {
        vm: World::vm(),
        at: None,
        relationship: Default::default(),
    }
}

/// A failover that starts the VM, without `--force`.
#[must_use]
pub fn failover(point: PointSelector) -> Action {
    Action::InitiateFailover {
        vm: World::vm(),
        point,
        start: true,
        force: false,
    }
}

/// The end of a failover that is not kept, with `--force`.
#[must_use]
pub fn revert() -> Action {
    Action::RevertFailover {
        vm: World::vm(),
        force: true,
    }
}

/// The end of a failover that is kept.
#[must_use]
pub fn commit() -> Action {
    Action::CommitFailover { vm: World::vm() }
}

/// Replication back to the old primary, after a commit.
#[must_use]
pub fn reverse() -> Action {
    Action::ReverseReplication {
        vm: World::vm(),
        settings: None,
    }
}

/// A planned failover to its end; `start` says whether the VM is started on the other host.
#[must_use]
pub fn planned(start: bool) -> Action {
    Action::PlannedFailover {
        vm: World::vm(),
        force: false,
        prepare_only: false,
        start,
    }
}

/// A planned failover that waits before it hands over.
#[must_use]
pub fn prepare() -> Action {
    Action::PlannedFailover {
        vm: World::vm(),
        force: false,
        prepare_only: true,
        start: false,
    }
}

/// The end of a planned failover before it has handed over.
#[must_use]
pub fn cancel_planned(force: bool) -> Action {
    Action::CancelPlanned {
        vm: World::vm(),
        force,
    }
}

/// A test failover whose VM is started.
#[must_use]
pub fn start_test(point: PointSelector) -> Action {
    Action::StartTest {
        vm: World::vm(),
        point,
        start: true,
    }
}

/// The end of a test failover.
#[must_use]
pub fn stop_test() -> Action {
    Action::StopTest { vm: World::vm() }
}

/// A start of the VM, without `--force`.
#[must_use]
pub fn start_vm() -> Action {
    Action::StartVm {
        vm: World::vm(),
        force: false,
    }
}

/// A stop of the VM; with `force` it is turned off.
#[must_use]
pub fn stop_vm(force: bool) -> Action {
    Action::StopVm {
        vm: World::vm(),
        force,
    }
}

/// A pause of the VM.
#[must_use]
pub fn pause_vm() -> Action {
    Action::PauseVm { vm: World::vm() }
}

/// A reset of the VM.
#[must_use]
pub fn reset_vm() -> Action {
    Action::ResetVm { vm: World::vm() }
}

/// A reset of the statistics of the VM's replication.
#[must_use]
pub fn reset_statistics() -> Action {
    Action::ResetStatistics {
        vm: World::vm(),
        relationship: RelationshipRef::Usual,
    }
}

/// An entry that lets a host send to this directory and start nothing.
#[must_use]
pub fn entry(primary: &str, location: &str) -> AuthorizationEntry {
    AuthorizationEntry {
        primary: primary.into(),
        storage_location: location.into(),
        trust_group: "t".into(),
        allow_start: false,
        keep_at_least_s: 0,
        locked_until: None,
        quota: Default::default(),
    }
}

/// Pauses the replication of the VM on this host.
#[must_use]
pub fn suspend() -> Action {
    let relationship = RelationshipRef::Usual;
    Action::SuspendReplication {
        vm: World::vm(),
        relationship,
    }
}

/// Resumes it.
#[must_use]
pub fn resume() -> Action {
    let relationship = RelationshipRef::Usual;
    Action::ResumeReplication {
        vm: World::vm(),
        relationship,
    }
}

/// Ends the replication of the VM on this host.
#[must_use]
pub fn remove() -> Action {
    let relationship = RelationshipRef::Usual;
    Action::RemoveReplication {
        vm: World::vm(),
        relationship,
    }
}
