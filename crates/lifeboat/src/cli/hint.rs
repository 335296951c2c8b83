//! Hints in the words of the command line: a sentence with the command to type, complete, with the VM that it is for. Which hint
//! there is, is decided where something was refused or found; nothing here judges it.

mod replication;
mod trust;

use lifeboat_model::hint::{Again, Failover, Guest, Hint, Look, Planned};
use lifeboat_model::shell::{argument, quoted};

/// The VM that a hint is about; `None`: it is about none, or about one that is not named.
#[derive(Clone, Copy)]
struct Vm<'a>(Option<&'a str>);

impl Vm<'_> {
    /// A command that ends with the VM.
    fn run(self, command: &str) -> String {
        format!("lifeboat {command} {}", argument(self.0.unwrap_or("VM")))
    }

    /// A command with something after the VM.
    fn with(self, command: &str, rest: &str) -> String {
        format!("lifeboat {command} {} {rest}", quoted(self.0.unwrap_or("VM")))
    }
}

/// The hint as a person reads it.
pub(crate) fn words(hint: &Hint, vm: Option<&str>) -> String {
    let vm = Vm(vm);
    match hint {
        Hint::Look(hint) => look(hint, vm),
        Hint::Again(hint) => again(hint),
        Hint::Guest(hint) => guest(hint, vm),
        Hint::Replicate(hint) => replication::replicate(hint, vm),
        Hint::Copies(hint) => replication::copies(hint, vm),
        Hint::Extend(hint) => replication::extend(hint, vm),
        Hint::Failover(hint) => failover(hint, vm),
        Hint::Planned(hint) => planned(hint, vm),
        Hint::Trust(hint) => trust::trust(hint),
    }
}

/// A sentence with what can be done behind it.
pub(crate) fn told(text: &str, hint: Option<&Hint>, vm: Option<&str>) -> String {
    match hint {
        Some(hint) => format!("{text}; {}", words(hint, vm)),
        None => text.to_owned(),
    }
}

fn look(hint: &Look, vm: Vm<'_>) -> String {
    match hint {
        Look::Vms => "list them with: lifeboat vm list".into(),
        Look::Vm => format!("see: {}", vm.run("vm show")),
        Look::Cards => format!("the cards and their MAC addresses are in: {}", vm.run("vm show")),
        Look::Console => format!("look at it with: {}", vm.run("vm console")),
        Look::Jobs => "see: lifeboat job list".into(),
        Look::JobsThere => "see on that host: lifeboat job list".into(),
        Look::Events => {
            "try again; when it does not end, storage or a process of this host hangs: see lifeboat events"
                .into()
        }
        Look::Status if vm.0.is_none() => "see: lifeboat replication status".into(),
        Look::Status => format!("see: {}", vm.run("replication status")),
        Look::Points => format!("list them with: {}", vm.run("points")),
        Look::Authorization => "see: lifeboat authorization list".into(),
        Look::Requests => "list them with: lifeboat request list".into(),
        Look::Log => "see the log of the daemon, and try again".into(),
        Look::StateDirectory => "look at the storage of state_dir, and try again".into(),
        Look::VmStorage => "see the storage of its disks, which does not answer".into(),
        Look::Disk => "see the disk of that path; what was asked can be repeated once it answers".into(),
        Look::Mounts => "is its file system mounted? see: lifeboat authorization list".into(),
        Look::Document => "see /api/v1/openapi.json".into(),
    }
}

fn again(hint: &Again) -> String {
    match hint {
        Again::Later => "try again".into(),
        Again::ByItself => "it is tried again by itself; see: lifeboat replication status".into(),
        Again::ByUuid => "name one of them by its UUID".into(),
        Again::FromBeginning => "list them again from the beginning".into(),
        Again::FromNamedPlace => {
            "give the one that a page of the same list has named, or none to begin".into()
        }
        Again::Earlier => "choose an earlier time".into(),
        Again::AbsolutePath => "write an absolute path without ..".into(),
        Again::Json => "send JSON".into(),
        Again::NoBody => "send it without one".into(),
        Again::AsAdministrator => {
            "run the command as root, or have admin_gid set in the daemon's configuration".into()
        }
        Again::AsKnownCaller => "ask over the management socket, or as a user of the management API".into(),
        Again::AsOtherPerson => {
            "two people are told apart by the user they logged in as, or by their name in the management API"
                .into()
        }
        Again::Anything => "ask for the same again".into(),
        Again::IfNotDone => "look whether it was done; if not, ask for it again".into(),
        Again::Confirm { request } => {
            format!("a second person confirms it within 24 hours with: lifeboat request confirm {request}")
        }
        Again::DecideRequests => "confirm or deny some of them: lifeboat request list".into(),
        Again::ReportBug => "report this as a bug".into(),
    }
}

fn guest(hint: &Guest, vm: Vm<'_>) -> String {
    let (start, stop) = (vm.run("vm start"), vm.with("vm stop", "--force"));
    match hint {
        Guest::Start => format!("start it with: {start}"),
        Guest::Resume => format!("let it go on: {start}"),
        Guest::CureAndResume => format!("remove the cause, then: {start}"),
        Guest::ResumeOrTurnOff => format!("let it go on ({start}), or turn it off: {stop}"),
        Guest::CureAndResumeOrTurnOff => {
            format!("remove the cause and let it go on ({start}), or turn it off: {stop}")
        }
        Guest::ResetOrTurnOff => format!("reset it ({}), or turn it off: {stop}", vm.run("vm reset")),
        Guest::CureOrTurnOff => {
            format!("remove the cause; or, when its process may end, turn it off: {stop}")
        }
        Guest::ShutDown => format!("shut it down first: {}", vm.run("vm stop")),
        Guest::TurnOff => format!("turn it off first: {stop}"),
        Guest::ShutDownOrForce => {
            "shut it down in the guest, or repeat with --force, which turns it off".into()
        }
        Guest::StartWhenOff => format!(
            "look there; when you know that the VM does not run: {}",
            vm.with("vm start", "--force")
        ),
        Guest::SeparateDisks => "give each its own: correct one description and restart the daemon".into(),
    }
}

fn failover(hint: &Failover, vm: Vm<'_>) -> String {
    let (start, revert, commit) = (
        vm.run("failover start"),
        vm.run("failover revert"),
        vm.run("failover commit"),
    );
    match hint {
        Failover::Start => format!("start a failover: {start}"),
        Failover::Commit => format!("commit the failover first: {commit}"),
        Failover::RevertOrCommit => format!("the VM is failed over; revert ({revert}) or commit ({commit})"),
        Failover::Committed => "the failover is committed, which cannot be undone".into(),
        Failover::AwaitEnd => "it ends by itself; a failover can be reverted afterwards".into(),
        Failover::UsePoint { point } => format!(
            "the next one that can is {point}: {}",
            vm.with("failover start", &format!("--point {}", quoted(point)))
        ),
        Failover::UseSealedPoint => {
            "take a sealed point (its id is a UUID), or wait for the end of the resynchronization".into()
        }
        Failover::FreeRoom => format!(
            "free some there, or bring up a sealed recovery point, which takes next to none: {}",
            vm.run("points")
        ),
        Failover::ChooseById => format!("choose older points by their id: {}", vm.run("points")),
        Failover::RestoreFile => {
            "no recovery point can be used; put the file back, or replicate this VM again".into()
        }
        Failover::RestoreFileOrRevert => {
            format!("put the file back, or choose another recovery point: {revert}")
        }
        Failover::StopOrForce => format!(
            "stop it ({}), or revert with --force, which turns it off",
            vm.run("vm stop")
        ),
        Failover::CommitOrForce => {
            "the failover disks may be the last good copy: commit them, or revert all the same with --force"
                .into()
        }
        Failover::KeepImages => format!(
            "make it the VM first ({}, {commit}); then the replication can be removed",
            vm.with("failover start", "--no-start")
        ),
        Failover::EndTest => format!("end the test first: {}", vm.run("failover stop-test")),
        Failover::EndTestOf { replica } => {
            format!("end the test: lifeboat failover stop-test {}", argument(replica))
        }
        Failover::EndTestByReplica => {
            let replica = Vm(vm.0.map(|name| name.strip_suffix(" - Test").unwrap_or(name)));
            format!(
                "a test is ended by the name of its replica: {}",
                replica.run("failover stop-test")
            )
        }
        Failover::StartTest => format!("start one: {}", vm.with("failover start", "--test")),
        Failover::RenameOtherVm => "rename that VM; the test needs the name".into(),
    }
}

fn planned(hint: &Planned, vm: Vm<'_>) -> String {
    let cancel = vm.run("failover cancel");
    match hint {
        Planned::PlanOrForce => {
            "move it without loss with --planned; or bring up a second copy, with --force".into()
        }
        Planned::ForceWhenOff => {
            "look there; when you know that the VM does not run: repeat with --force".into()
        }
        Planned::RevertThereOrForce => {
            "revert or stop it there; when you know that it does not run there: repeat with --force".into()
        }
        Planned::GoOnOrCancelPlanned => format!(
            "the VM is prepared for a planned failover; go on on the replica ({}), or cancel it: {cancel}",
            vm.run("failover start")
        ),
        Planned::CancelPlanned => format!("cancel it first: {cancel}"),
        Planned::ForceCancelPlanned => format!(
            "when you know that the VM does not run there: {}",
            vm.with("failover cancel", "--force")
        ),
        Planned::RepeatPlanned => format!(
            "give the planned failover up ({cancel}), let the change be replicated, and begin again"
        ),
        Planned::ResyncAndRepeatPlanned => format!(
            "compare the copies ({}), then the planned failover again; or {}",
            vm.run("replication resync"),
            vm.run("vm start")
        ),
        Planned::WholePlanned => "without --prepare the whole planned failover can be asked for here".into(),
        Planned::PlanOnPrimary => "start the planned failover on the primary host".into(),
        Planned::PlanOnReplicaHost => "start the planned failover on that host".into(),
        Planned::PlanThereOrAllow => {
            "start the planned failover on that host; or let this one start VMs there (lifeboat authorization add HOST \
             --allow-start, there); or move the VM without starting it: --no-start"
                .into()
        }
        Planned::NamePeer => format!(
            "name it: {}",
            vm.with("replication reverse", "--peer HOST:PORT")
        ),
        Planned::DecideSplit => format!(
            "revert the failover there, or give this copy back to it there ({}), or separate the two for good ({})",
            vm.run("replication reverse"),
            vm.run("replication remove")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_hints_have_the_vm() {
        let end_of = |replica: &str| Failover::EndTestOf {
            replica: replica.into(),
        };
        let cases: [(Hint, &str, &str); 10] = [
            (Look::Status.into(), "web", "see: lifeboat replication status web"),
            (Look::Jobs.into(), "web", "see: lifeboat job list"),
            (
                Look::Points.into(),
                "my vm",
                "list them with: lifeboat points 'my vm'",
            ),
            (
                Look::Points.into(),
                "it's",
                r"list them with: lifeboat points 'it'\''s'",
            ),
            (Look::Points.into(), "-x", "list them with: lifeboat points -- -x"),
            (
                Look::Points.into(),
                "$(x)",
                "list them with: lifeboat points '$(x)'",
            ),
            (
                Failover::RevertOrCommit.into(),
                "web",
                "the VM is failed over; revert (lifeboat failover revert web) or commit (lifeboat failover commit web)",
            ),
            (
                Failover::StartTest.into(),
                "my vm",
                "start one: lifeboat failover start 'my vm' --test",
            ),
            (
                Failover::EndTestByReplica.into(),
                "web - Test",
                "a test is ended by the name of its replica: lifeboat failover stop-test web",
            ),
            (
                end_of("a;b").into(),
                "web",
                "end the test: lifeboat failover stop-test 'a;b'",
            ),
        ];
        for (hint, vm, want) in cases {
            assert_eq!(words(&hint, Some(vm)), want);
        }
        assert_eq!(
            words(&Look::Status.into(), None),
            "see: lifeboat replication status"
        );
        assert_eq!(
            words(&Guest::Start.into(), None),
            "start it with: lifeboat vm start VM"
        );
    }

    #[test]
    fn what_another_host_put_into_a_hint_is_one_word_of_the_command() {
        let point = "4f; reboot".to_owned();
        let hint = Failover::UsePoint { point }.into();
        assert!(words(&hint, Some("web")).ends_with("lifeboat failover start web --point '4f; reboot'"));
    }

    #[test]
    fn a_sentence_has_its_hint_behind_it() {
        let resume = Guest::Resume.into();
        assert_eq!(
            told("it is paused", Some(&resume), Some("web")),
            "it is paused; let it go on: lifeboat vm start web"
        );
        assert_eq!(told("it is over", None, Some("web")), "it is over");
    }
}
