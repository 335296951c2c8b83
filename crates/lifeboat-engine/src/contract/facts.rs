//! What there is to know of an action beside what it does: who may ask for it, and what it takes away. Which action has which facts
//! is said in `action`, beside the actions; what follows from them is decided by those who ask, such as `host::taking`.

use super::relationship::RelationshipRef;
use super::selectors::VmRef;
use lifeboat_model::{AuthorizationEntry, JobType, ReplicationSettings};
use serde::{Deserialize, Serialize};

/// What a user may do. Each role may do what the roles before it may.
///
/// `monitor` reads what the host knows; `tester` brings test VMs up and throws them away; `operator` does what loses no recovery
/// point and no data at rest, the changes of roles in an emergency included; `administrator` does what cannot be taken back, and
/// what is configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Read. Files of users from before there were four roles call it `viewer`.
    #[serde(alias = "viewer")]
    Monitor,
    /// Begin and end test failovers, and use their VMs, as well.
    Tester,
    /// Do with every VM and its replication whatever loses no recovery point and no data, as well.
    Operator,
    /// Do what cannot be taken back and change the configuration as well: every action.
    Administrator,
}

impl Role {
    /// All roles, the least first.
    pub const ALL: [Self; 4] = [Self::Monitor, Self::Tester, Self::Operator, Self::Administrator];

    /// The role's name in the file of users and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Monitor => "monitor",
            Self::Tester => "tester",
            Self::Operator => "operator",
            Self::Administrator => "administrator",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What an action may take away for good: data, recovery points, or the promise that points are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Taking<'a> {
    /// Nothing, whatever the state is.
    Nothing,
    /// Always something: this, in words that a VM's name follows.
    Always(&'static str),
    /// An outgoing relationship.
    Outgoing(&'a RelationshipRef),
    /// What the new settings of this relationship no longer ask for.
    Settings(&'a ReplicationSettings, &'a RelationshipRef),
    /// What the new entry no longer promises.
    Entry(&'a AuthorizationEntry),
    /// An entry, by its primary.
    EntryRemoved(&'a str),
    /// What the entry that a replica is bound to promised, and this one does not.
    Binding(&'a str),
}

/// What there is to know of one action.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facts<'a> {
    /// The VM it is about.
    pub vm: Option<&'a VmRef>,
    /// Whether something is another way afterwards. What only asks is not recorded.
    pub changes: bool,
    /// The least role whose users may have it carried out.
    pub role: Role,
    /// The same when it is about the VM of a test failover.
    pub role_on_test_vm: Role,
    /// What it may take away, as far as it can be told by itself. What takes something away may wait for a second person.
    pub taking: Taking<'a>,
    /// The kind of job that it is shown as while it waits.
    pub waits_as: JobType,
}

impl<'a> Facts<'a> {
    /// It changes something.
    pub(super) const fn change(role: Role) -> Self {
        Self {
            vm: None,
            changes: true,
            role,
            role_on_test_vm: role,
            taking: Taking::Nothing,
            waits_as: JobType::ServerSettings,
        }
    }

    /// It asks and changes nothing.
    pub(super) const fn question(role: Role) -> Self {
        Self {
            changes: false,
            ..Self::change(role)
        }
    }

    /// It takes something away, which an administrator alone may have done.
    pub(super) const fn taking(taking: Taking<'a>, waits_as: JobType) -> Self {
        Self {
            taking,
            waits_as,
            ..Self::change(Role::Administrator)
        }
    }

    /// It is about this VM.
    pub(super) fn of(self, vm: impl Into<Option<&'a VmRef>>) -> Self {
        Self {
            vm: vm.into(),
            ..self
        }
    }

    /// Testers may have it done to the VMs of tests.
    pub(super) const fn or_tester(self) -> Self {
        Self {
            role_on_test_vm: Role::Tester,
            ..self
        }
    }
}
