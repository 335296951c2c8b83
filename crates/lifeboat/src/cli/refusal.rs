//! Refusals in the words of the command line: which command was refused, for which VM, and a hint that can be typed as
//! it is. The reasons are the engine's; nothing here judges them.

use lifeboat_engine::action::{Action, Refusal};
use lifeboat_model::api::ReturnCode;
use lifeboat_model::shell::{argument, quoted};

/// Commands of hints that take the VM as their next word, and what they need besides.
const COMMANDS: [(&str, &str); 24] = [
    ("lifeboat replication enable", " --to HOST:PORT"),
    ("lifeboat replication start", ""),
    ("lifeboat replication status", ""),
    ("lifeboat replication resume", ""),
    ("lifeboat replication remove", ""),
    ("lifeboat replication set", ""),
    ("lifeboat replication allow", " PRIMARY"),
    ("lifeboat replication resync", ""),
    ("lifeboat replication reverse", ""),
    ("lifeboat replication become-replica", ""),
    ("lifeboat replication drop-abandoned", ""),
    ("lifeboat replication scrub", ""),
    ("lifeboat replication hold-points", ""),
    ("lifeboat replication release-points", ""),
    ("lifeboat replication import", " DIR"),
    ("lifeboat failover cancel", ""),
    ("lifeboat failover stop-test", ""),
    ("lifeboat vm stop", ""),
    ("lifeboat failover start", ""),
    ("lifeboat failover revert", ""),
    ("lifeboat failover commit", ""),
    ("lifeboat points", ""),
    ("lifeboat vm start", ""),
    ("lifeboat vm console", ""),
];

/// The refusal of `action` as a person reads it.
pub(crate) fn refused(action: &Action, refusal: Refusal) -> Refusal {
    let Refusal {
        code,
        mut message,
        mut hint,
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
    if let Some(vm) = action.vm() {
        if hint.is_empty() && code == ReturnCode::InvalidState {
            hint = other_way(action).to_owned();
        }
        hint = complete(hint, &vm.to_string());
    }
    Refusal {
        code,
        message,
        hint,
        request,
    }
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
        Action::CancelExtended { .. } => of("replication cancel-copy --extended"),
        Action::SetAuthorization { .. } => of("replication allow"),
        Action::SuspendExtended { .. } => of("replication suspend --extended"),
        Action::ResumeExtended { .. } => of("replication resume --extended"),
        Action::RemoveExtended { .. } => of("replication remove --extended"),
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
fn other_way(action: &Action) -> &'static str {
    if matches!(action, Action::StartVm { .. }) {
        "look at it with: lifeboat vm console"
    } else if matches!(action, Action::StopVm { .. } | Action::Screenshot { .. }) {
        "start it with: lifeboat vm start"
    } else {
        ""
    }
}

/// Puts the VM behind every command that wants one and has none.
fn complete(hint: String, vm: &str) -> String {
    let (last, inner) = (argument(vm), quoted(vm));
    COMMANDS.iter().fold(hint, |hint, (command, more)| {
        let mut text = String::new();
        let mut rest = hint.as_str();
        while let Some((before, after)) = rest.split_once(command) {
            text.push_str(before);
            text.push_str(command);
            if after.is_empty() || after.starts_with([')', ',', ';']) {
                let word = if more.is_empty() { &last } else { &inner };
                text.push_str(&format!(" {word}{more}"));
            } else if after.starts_with(" --") {
                text.push_str(&format!(" {inner}"));
            }
            rest = after;
        }
        text + rest
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_hints_get_the_vm_once() {
        for (hint, want) in [
            ("", ""),
            (
                "see: lifeboat replication status",
                "see: lifeboat replication status web",
            ),
            (
                "revert (lifeboat failover revert) or commit (lifeboat failover commit)",
                "revert (lifeboat failover revert web) or commit (lifeboat failover commit web)",
            ),
            ("lifeboat vm start web", "lifeboat vm start web"),
            (
                "give it up: lifeboat replication resync --cancel",
                "give it up: lifeboat replication resync web --cancel",
            ),
            ("see: lifeboat job list", "see: lifeboat job list"),
            (
                "enable it first: lifeboat replication enable",
                "enable it first: lifeboat replication enable web --to HOST:PORT",
            ),
        ] {
            assert_eq!(complete(hint.to_owned(), "web"), want);
        }
        for (vm, want) in [
            ("my vm", "lifeboat points 'my vm'"),
            ("it's", r"lifeboat points 'it'\''s'"),
            ("-x", "lifeboat points -- -x"),
            ("$(x)", "lifeboat points '$(x)'"),
        ] {
            assert_eq!(complete("lifeboat points".to_owned(), vm), want);
        }
        assert_eq!(
            complete("lifeboat failover start --test".to_owned(), "my vm"),
            "lifeboat failover start 'my vm' --test"
        );
    }
}
