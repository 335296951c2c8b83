//! What users of other hosts may have done: every remote call asks before it has an action carried out. Which role an action needs,
//! its facts say; callers on the management socket have none: a process that may connect to it may do everything.
//!
//! docs/security.md and docs/wmi.md have the tables, and tests hold them to what is decided.

use lifeboat_engine::action::{Action, Role};

/// The least role that may have this host connect to a listener of indications or events.
pub(crate) const LISTENERS: Role = Role::Operator;
/// The least role that may end another user's subscription.
pub(crate) const OTHERS: Role = Role::Administrator;

/// Whether an action is about a test VM, for actions that a tester may have done to test VMs alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// The VM of a test failover.
    TestVm,
    /// Any other VM, or none.
    Other,
}

/// The least role whose users may have an action carried out.
pub(crate) fn needed(action: &Action, about: About) -> Role {
    let facts = action.facts();
    match about {
        About::TestVm => facts.role_on_test_vm,
        About::Other => facts.role,
    }
}
