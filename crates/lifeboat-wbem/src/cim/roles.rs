//! Roles, and what each may do: one function over everything that can be asked of a host, which every remote surface asks
//! before it has anything done. The management socket is not asked about: who may connect to it may do everything.
//!
//! The rule: `monitor` reads what the host knows; `tester` brings test VMs up and throws them away; `operator` does what loses
//! no recovery point and no data at rest, the changes of roles in an emergency included; `administrator` does what cannot be
//! taken back, and what is configuration. docs/security.md has the table, and a test holds the two together.

use lifeboat_engine::action::{Action, InitialCopy};
use serde::{Deserialize, Serialize};

/// What somebody may do. Each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Read. Files of users from before there were four roles call it `viewer`.
    #[serde(alias = "viewer")]
    Monitor,
    /// Test failovers and their VMs as well.
    Tester,
    /// Whatever loses no recovery point and no data, with every VM and its replication, as well.
    Operator,
    /// Everything.
    Administrator,
}

impl Role {
    /// Who may have this host connect to a listener of indications or events.
    pub const LISTENERS: Self = Self::Operator;
    /// Who may end what somebody else has subscribed to.
    pub const OTHERS: Self = Self::Administrator;

    /// All of them, from the least.
    pub const ALL: [Self; 4] = [Self::Monitor, Self::Tester, Self::Operator, Self::Administrator];

    /// Its name, as the file of users and the command line write it.
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

/// Whose VM an action is about, where that makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// The VM of a test failover.
    TestVm,
    /// Any other VM, or none.
    Other,
}

/// The least role that may have this done.
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
        // A screen may show what a guest works on, which is more than the state of its replication.
        Action::StartVm { .. }
        | Action::StopVm { .. }
        | Action::PauseVm { .. }
        | Action::ResetVm { .. }
        | Action::Screenshot { .. } => match about {
            About::TestVm => Role::Tester,
            About::Other => Role::Operator,
        },

        // A medium that is carried away holds everything the VM has.
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
        | Action::SuspendExtended { .. }
        | Action::ResumeExtended { .. }
        | Action::CancelInitialCopy { .. }
        | Action::CancelExtended { .. }
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
        | Action::RemoveExtended { .. }
        | Action::DropAbandoned { .. }
        | Action::ReleasePoints { .. }
        | Action::BecomeReplica { .. }
        // What a medium brings is believed.
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
