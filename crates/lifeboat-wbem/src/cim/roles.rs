//! Roles, and what each may do: one function over all actions, which every remote surface calls before it has an action
//! carried out. Callers on the management socket have no role: a process that may connect to it may do everything.
//!
//! The rule: `monitor` reads what the host knows; `tester` brings test VMs up and throws them away; `operator` does what loses
//! no recovery point and no data at rest, the changes of roles in an emergency included; `administrator` does what cannot be
//! taken back, and what is configuration. docs/security.md has the table, and a test holds the two together.

use lifeboat_engine::action::{Action, InitialCopy};
use serde::{Deserialize, Serialize};

/// What a user may do. Each role may do what the roles before it may.
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
    /// The least role that may have this host connect to a listener of indications or events.
    pub const LISTENERS: Self = Self::Operator;
    /// The least role that may end another user's subscription.
    pub const OTHERS: Self = Self::Administrator;

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

/// Whether an action is about a test VM, for actions that a tester may have done to test VMs alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// The VM of a test failover.
    TestVm,
    /// Any other VM, or none.
    Other,
}

/// The least role whose users may have an action carried out.
#[must_use]
pub fn needed(action: &Action, about: About) -> Role {
    match action {
        Action::ListVms(_)
        | Action::ShowVm { .. }
        | Action::ListPoints { .. }
        | Action::ListJobs(_)
        | Action::ShowJob { .. }
        | Action::ListEvents { .. }
        | Action::ListAuthorization(_)
        | Action::ShowServer
        | Action::ListRequests => Role::Monitor,

        Action::StartTest { .. } | Action::StopTest { .. } => Role::Tester,
        // A screen may show data of the guest, which a monitor may not read.
        Action::StartVm { .. }
        | Action::StopVm { .. }
        | Action::PauseVm { .. }
        | Action::ResetVm { .. }
        | Action::Screenshot { .. } => match about {
            About::TestVm => Role::Tester,
            About::Other => Role::Operator,
        },

        // A medium holds all data of the VM, and leaves the host.
        Action::StartReplication {
            how: InitialCopy::Export { .. },
            ..
        } => Role::Administrator,
        // Settings that come with it are configuration.
        Action::ReverseReplication { settings: Some(_), .. } => Role::Administrator,
        Action::StartReplication {
            how: InitialCopy::Network | InitialCopy::Seed,
            ..
        }
        | Action::ReverseReplication { settings: None, .. }
        | Action::InitiateFailover { .. }
        | Action::RevertFailover { .. }
        | Action::PlannedFailover { .. }
        | Action::CancelPlanned { .. }
        | Action::ContinueAsPrimary { .. }
        | Action::SuspendReplication { .. }
        | Action::ResumeReplication { .. }
        | Action::CancelInitialCopy { .. }
        | Action::Resynchronize { .. }
        | Action::CancelResync { .. }
        | Action::ReplicateNow { .. }
        | Action::Scrub { .. }
        | Action::HoldPoints { .. }
        // Where and how a guest is reached after a failover is part of bringing it up.
        | Action::SetFailoverNetwork { .. }
        | Action::ResetStatistics { .. }
        | Action::CancelJob { .. }
        | Action::TestConnection { .. } => Role::Operator,

        Action::CommitFailover { .. }
        | Action::RemoveReplication { .. }
        | Action::ForgetReplication { .. }
        | Action::DropAbandoned { .. }
        | Action::ReleasePoints { .. }
        | Action::BecomeReplica { .. }
        // The content of a medium becomes the replica's data unverified.
        | Action::ImportCopy { .. }
        | Action::EnableReplication { .. }
        | Action::ExtendReplication { .. }
        | Action::ModifyReplication { .. }
        | Action::AddAuthorization { .. }
        | Action::RemoveAuthorization { .. }
        | Action::SetAuthorization { .. }
        | Action::SetServer { .. }
        | Action::TrustKey { .. }
        | Action::ConfirmRequest { .. }
        | Action::DenyRequest { .. } => Role::Administrator,
    }
}
