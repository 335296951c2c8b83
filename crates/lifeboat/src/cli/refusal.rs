//! Refusals in the words of the command line: which command was refused, for which VM, and a hint that can be typed as
//! it is. The reasons are the engine's; nothing here judges them.

use lifeboat_engine::action::{Action, Refusal};
use lifeboat_model::api::ReturnCode;
use lifeboat_model::hint::{Guest, Hint, Look};

use super::exit::{self, Failure};
use super::hint;

/// The refusal of `action` as a person reads it.
pub(crate) fn refused(action: &Action, refusal: Refusal) -> Failure {
    let Refusal {
        code,
        mut message,
        hint,
        request,
    } = refusal;
    // What is not there says so by itself.
    if code != ReturnCode::FileNotFound
        && let Some(command) = command_name(action)
    {
        let verb = if request.is_some() {
            "is not done yet"
        } else {
            verb(code)
        };
        message = format!("{command} {verb}: {message}");
    }
    let hint = hint.or_else(|| other_way(action).filter(|_| code == ReturnCode::InvalidState));
    let vm = action.vm().map(ToString::to_string);
    let hint = hint.map(|hint| hint::words(&hint, vm.as_deref()));
    Failure::new(exit::of(code), message, hint.unwrap_or_default())
}

/// A refusal is a decision; something that was tried has failed.
fn verb(code: ReturnCode) -> &'static str {
    match code {
        ReturnCode::AccessDenied
        | ReturnCode::NotSupported
        | ReturnCode::InvalidParameter
        | ReturnCode::InUse
        | ReturnCode::InvalidState
        | ReturnCode::IncorrectType => "was refused",
        ReturnCode::Completed
        | ReturnCode::JobStarted
        | ReturnCode::Failed
        | ReturnCode::Unknown
        | ReturnCode::Timeout
        | ReturnCode::Unavailable
        | ReturnCode::OutOfMemory
        | ReturnCode::FileNotFound => "failed",
    }
}

/// The command as it was typed, with the VM; `None` for actions that only show something.
fn command_name(action: &Action) -> Option<String> {
    let of = |command: &str| action.vm().map(|vm| format!("{command} of \"{vm}\""));
    match action {
        Action::StartVm { .. } => of("vm start"),
        Action::StopVm { .. } => of("vm stop"),
        Action::PauseVm { .. } => of("vm pause"),
        Action::ResetVm { .. } => of("vm reset"),
        Action::Screenshot { .. } => of("vm screenshot"),
        Action::EnableReplication { .. } => of("replication enable"),
        Action::ModifyReplication { .. } => of("replication set"),
        Action::StartReplication { .. } => of("replication start"),
        Action::CancelInitialCopy { .. } => of("replication cancel-copy"),
        Action::ImportCopy { .. } => of("replication import"),
        Action::Resynchronize { .. } => of("replication resync"),
        Action::CancelResync { .. } => of("replication resync --cancel"),
        Action::ReverseReplication { .. } => of("replication reverse"),
        Action::BecomeReplica { .. } => of("replication become-replica"),
        Action::DropAbandoned { .. } => of("replication drop-abandoned"),
        Action::Scrub { .. } => of("replication scrub"),
        Action::HoldPoints { .. } => of("replication hold-points"),
        Action::ReleasePoints { .. } => of("replication release-points"),
        Action::ResetStatistics { .. } => of("replication reset-statistics"),
        Action::ExtendReplication { .. } => of("replication extend"),
        Action::SetAuthorization { .. } => of("replication allow"),
        Action::ContinueAsPrimary { .. } => of("replication continue"),
        Action::SuspendReplication { .. } => of("replication suspend"),
        Action::ResumeReplication { .. } => of("replication resume"),
        Action::RemoveReplication { .. } => of("replication remove"),
        Action::ForgetReplication { .. } => of("replication remove --force"),
        Action::ReplicateNow { .. } => of("replication now"),
        Action::ListPoints { .. } => of("points"),
        Action::InitiateFailover { .. } => of("failover start"),
        Action::PlannedFailover { .. } => of("failover start --planned"),
        Action::CancelPlanned { .. } => of("failover cancel"),
        Action::StartTest { .. } => of("failover start --test"),
        Action::StopTest { .. } => of("failover stop-test"),
        Action::SetFailoverNetwork { .. } => of("failover network"),
        Action::RevertFailover { .. } => of("failover revert"),
        Action::CommitFailover { .. } => of("failover commit"),
        Action::CancelJob { job } => Some(format!("job cancel of {job}")),
        Action::AddAuthorization { entry } => Some(format!("authorization add of \"{}\"", entry.primary)),
        Action::RemoveAuthorization { primary } => Some(format!("authorization remove of \"{primary}\"")),
        Action::SetServer { .. } => Some("server set".to_owned()),
        Action::ConfirmRequest { request } => Some(format!("request confirm of {request}")),
        Action::DenyRequest { request } => Some(format!("request deny of {request}")),
        Action::TrustKey { host, .. } => Some(format!("replication trust-key of \"{host}\"")),
        Action::TestConnection { peer } => Some(format!("test-connection to {peer}")),
        Action::ListVms(_)
        | Action::ShowVm { .. }
        | Action::ListJobs(_)
        | Action::ShowJob { .. }
        | Action::ListEvents { .. }
        | Action::ListAuthorization(_)
        | Action::ShowServer
        | Action::ListRequests => None,
    }
}

/// A hint for refusals of the engine that have none.
fn other_way(action: &Action) -> Option<Hint> {
    if matches!(action, Action::StartVm { .. }) {
        Some(Look::Console.into())
    } else if matches!(action, Action::StopVm { .. } | Action::Screenshot { .. }) {
        Some(Guest::Start.into())
    } else {
        None
    }
}
