//! Hints in the terms of the management API: plain sentences that name its methods and values, and no commands. Callers get them
//! with errors and jobs, and the log of the daemon has them for methods that were refused. Which hint there is, is the engine's.

mod hosts;

use lifeboat_model::hint::{Again, Copies, Extend, Failover, Guest, Hint, Look, Planned, Replicate};

/// The hint as a caller of the API reads it.
pub(crate) fn words(hint: &Hint) -> String {
    match hint {
        Hint::Look(hint) => look(hint).into(),
        Hint::Again(hint) => again(hint),
        Hint::Guest(hint) => guest(hint).into(),
        Hint::Replicate(hint) => replicate(hint),
        Hint::Copies(hint) => copies(hint),
        Hint::Extend(hint) => extend(hint),
        Hint::Failover(hint) => failover(hint),
        Hint::Planned(hint) => planned(hint).into(),
        Hint::Trust(hint) => hosts::trust(hint),
    }
}

/// A sentence with what can be done behind it.
pub(crate) fn told(text: &str, hint: Option<&Hint>) -> String {
    match hint {
        Some(hint) => format!("{text}; {}", words(hint)),
        None => text.to_owned(),
    }
}

fn look(hint: &Look) -> &'static str {
    match hint {
        Look::Vms | Look::Vm => "enumerate Msvm_ComputerSystem",
        Look::Cards => "enumerate Msvm_SyntheticEthernetPortSettingData",
        Look::Console => "look at the console of the VM",
        Look::Jobs => "enumerate Msvm_ConcreteJob",
        Look::JobsThere => "enumerate Msvm_ConcreteJob on that host",
        Look::Events => {
            "try again; when it does not end, storage or a process of the host hangs: see its events"
        }
        Look::Status => "see Msvm_ReplicationRelationship",
        Look::Points => "enumerate the VM's Msvm_VirtualSystemSettingData of recovery points",
        Look::Authorization => "enumerate Msvm_ReplicationAuthorizationSettingData",
        Look::Requests => "see the requests of the host",
        Look::Log => "see the log of the daemon, and try again",
        Look::StateDirectory => "look at the storage of state_dir, and try again",
        Look::VmStorage => "see the storage of its disks, which does not answer",
        Look::Disk => "see the disk of that path; what was asked can be repeated once it answers",
        Look::Mounts => "its file system may not be mounted",
        Look::Document => "see the document of the interface",
    }
}

fn again(hint: &Again) -> String {
    match hint {
        Again::Later => "try again",
        Again::ByItself => "it is tried again by itself",
        Again::ByUuid => "name the VM by its GUID",
        Again::FromBeginning => "enumerate again from the beginning",
        Again::FromNamedPlace => "give the context of the same enumeration",
        Again::Earlier => "choose an earlier time",
        Again::AbsolutePath => "give an absolute path without ..",
        Again::Json | Again::NoBody => "send what the interface describes",
        Again::AsAdministrator => "call as an administrator of the host",
        Again::AsKnownCaller => "call as a user of the management API",
        Again::AsOtherPerson => "two people are told apart by their names in the management API",
        Again::Anything => "ask for the same again",
        Again::IfNotDone => "look whether it was done; if not, ask for it again",
        Again::Confirm { request } => {
            return format!("a second person confirms request {request} on the host within 24 hours");
        }
        Again::DecideRequests => "some of the requests have to be confirmed or denied first",
        Again::ReportBug => "report this as a bug",
    }
    .into()
}

fn guest(hint: &Guest) -> &'static str {
    match hint {
        Guest::Start => "start the VM: RequestStateChange to 2",
        Guest::Resume => "let it go on: RequestStateChange to 2",
        Guest::CureAndResume => "remove the cause, then let it go on: RequestStateChange to 2",
        Guest::ResumeOrTurnOff => "let it go on (RequestStateChange to 2), or turn it off (to 3)",
        Guest::CureAndResumeOrTurnOff => {
            "remove the cause and let it go on (RequestStateChange to 2), or turn it off (to 3)"
        }
        Guest::ResetOrTurnOff => "reset it (RequestStateChange to 11), or turn it off (to 3)",
        Guest::CureOrTurnOff => {
            "remove the cause; or, when its process may end, turn it off: RequestStateChange to 3"
        }
        Guest::ShutDown => "shut it down first: Msvm_ShutdownComponent.InitiateShutdown",
        Guest::TurnOff => "turn it off first: RequestStateChange to 3",
        Guest::ShutDownOrForce => "shut it down in the guest, or turn it off: RequestStateChange to 3",
        Guest::StartWhenOff => {
            "look at the other host; when the VM does not run there, an administrator of this host starts it by force"
        }
        Guest::SeparateDisks => "give each its own: correct one description and restart the daemon",
    }
}

fn replicate(hint: &Replicate) -> String {
    match hint {
        Replicate::Enable => "make a relationship first: CreateReplicationRelationship",
        Replicate::EnableAgain => "make a relationship again on the primary: CreateReplicationRelationship",
        Replicate::Remove => "remove it first: RemoveReplicationRelationship",
        Replicate::RemoveThere => "remove it there first: RemoveReplicationRelationship",
        Replicate::OnPrimary => "call it on the primary",
        Replicate::OnReplicaHost => "call it on the replica's host",
        Replicate::Resume => "resume it first: RequestReplicationStateChange to 3",
        Replicate::AwaitOrResume => "wait until it replicates, or resume it: RequestReplicationStateChange to 3",
        Replicate::EndError => {
            "end the error of the replication first; with the primary lost, fail over on the replica's host instead"
        }
        Replicate::BecomeReplicaThere => "make it a replica there first: RequestReplicationStateChange to 2",
        Replicate::NameReplicaHost => "name the host that has, or is to have, the replica",
        Replicate::NameSameHost => "name the same replica's host by its new address",
        Replicate::DescribeOrRemove { file } => {
            return format!("put it back, for example as {file}, or end the replication: RemoveReplicationRelationship");
        }
        Replicate::DescribeOrExclude { disks } if disks.is_empty() => {
            "put it back, or end the replication: RemoveReplicationRelationship"
        }
        Replicate::DescribeOrExclude { disks } => {
            let disks = disks.join(", ");
            return format!("put it back, or replicate {disks} alone: ModifyReplicationSettings");
        }
        Replicate::ReleasePoints => "an administrator of the host looks at them and releases them",
    }
    .into()
}

fn copies(hint: &Copies) -> String {
    match hint {
        Copies::StartCopy => "start the initial copy: StartReplication",
        Copies::AwaitCopy => "wait for the initial copy; before it is complete there is no recovery point",
        Copies::AwaitOrCancelCopy => "wait for the initial copy, or cancel its job: RequestStateChange to 4",
        Copies::AwaitOrCancelCopyThere => "wait for the initial copy, or cancel its job on the primary",
        Copies::UseSeedOrRemove => {
            "cancel this copy and start from that one (StartReplication, InitialReplicationType 3), or remove it there"
        }
        Copies::UseSeed => "start from it: StartReplication, InitialReplicationType 3",
        Copies::Export => "export one on the primary: StartReplication, InitialReplicationType 2",
        Copies::Import => "import it: ImportInitialReplica",
        Copies::UpdateOrUseNetwork => "update Lifeboat there, or copy over the network",
        Copies::Resync => "compare the copies first: Resynchronize",
        Copies::CompareOnPrimary => "compare the copies on the primary: Resynchronize",
        Copies::AwaitResync => "wait for the resynchronization",
        Copies::AwaitOrCancelResync => {
            "wait for the resynchronization, or give it up: RequestReplicationStateChange to 9"
        }
        Copies::AwaitOrForget => {
            "wait for the comparison with its primary; if that is gone for good, an administrator of this host gives up what was \
             received"
        }
        Copies::SeedOrDelete { dir } => {
            return format!("replicate that VM here again and {dir} is the seed, or delete it");
        }
    }
    .into()
}

fn extend(hint: &Extend) -> String {
    match hint {
        Extend::ExtendThere { on, third } => return format!("extend it to {third} again on {on}"),
        Extend::Extend => "extend it: CreateReplicationRelationship on the replica",
        Extend::RemoveOrContinue => {
            "remove the extended relationship first; after a commit this host can also go on as its primary: \
             ChangeReplicationModeToPrimary"
        }
        Extend::Remove => "remove the extended relationship first",
        Extend::NameOne => "name one of them: the Ex methods take a ReplicationRelationship",
        Extend::RemoveAndExtend => "remove the extended relationship and make it again",
        Extend::UseNetwork => "start it with InitialReplicationType 1",
        Extend::AwaitOrRevert => {
            "wait for the initial copy; a failed-over replica can be extended when it is reverted"
        }
    }
    .into()
}

fn failover(hint: &Failover) -> String {
    match hint {
        Failover::Start => "start a failover: InitiateFailover",
        Failover::Commit => "commit the failover first: CommitFailover",
        Failover::RevertOrCommit => "revert (RevertFailover) or commit (CommitFailover) the failover",
        Failover::Committed => "the failover is committed, which cannot be undone",
        Failover::AwaitEnd => "it ends by itself; a failover can be reverted afterwards",
        Failover::UsePoint { point } => return format!("the next recovery point that can is {point}"),
        Failover::UseSealedPoint => "take a sealed point, or wait for the end of the resynchronization",
        Failover::FreeRoom => {
            "free some there, or bring up a sealed recovery point, which takes next to none"
        }
        Failover::ChooseById => "choose older points by their ids",
        Failover::RestoreFile => {
            "no recovery point can be used; put the file back, or replicate this VM again"
        }
        Failover::RestoreFileOrRevert => {
            "put the file back, or choose another recovery point: RevertFailover"
        }
        Failover::StopOrForce => "stop the VM first: RequestStateChange to 3",
        Failover::CommitOrForce => {
            "the failover disks may be the last good copy: commit them (CommitFailover)"
        }
        Failover::KeepImages => "fail over and commit first; then the relationship can be removed",
        Failover::EndTest => "end the test first: DestroySystem of its VM",
        Failover::EndTestOf { replica } => {
            return format!("end the test of {replica} first: DestroySystem of its VM");
        }
        Failover::EndTestByReplica => "this VM is a test; end it: DestroySystem",
        Failover::StartTest => "start one: TestReplicaSystem",
        Failover::RenameOtherVm => "rename that VM; the test needs the name",
    }
    .into()
}

fn planned(hint: &Planned) -> &'static str {
    match hint {
        Planned::PlanOrForce => "move it without loss by a planned failover",
        Planned::ForceWhenOff | Planned::RevertThereOrForce => {
            "look at the other host; when the VM does not run there, an administrator of this host does it by force"
        }
        Planned::GoOnOrCancelPlanned => {
            "go on on the replica's host (InitiateFailover), or cancel the planned failover: RequestReplicationStateChange to 3"
        }
        Planned::CancelPlanned => "cancel the planned failover first: RequestReplicationStateChange to 3",
        Planned::ForceCancelPlanned => {
            "when the VM does not run there, an administrator of this host cancels it by force"
        }
        Planned::RepeatPlanned => {
            "cancel the planned failover (RequestReplicationStateChange to 3), let the change be replicated, and begin again"
        }
        Planned::ResyncAndRepeatPlanned => {
            "compare the copies (Resynchronize), then the planned failover again; or start the VM"
        }
        Planned::WholePlanned => "the whole planned failover can be asked for here",
        Planned::PlanOnPrimary => "start the planned failover on the primary",
        Planned::PlanOnReplicaHost => "start the planned failover on the replica's host",
        Planned::PlanThereOrAllow => {
            "start the planned failover on the replica's host; or let this one start VMs there; or move the VM without starting it"
        }
        Planned::NamePeer => "name the old primary in RecoveryConnectionPoint of the settings",
        Planned::DecideSplit => {
            "revert the failover on the replica's host, or give this copy back to it there (ReverseReplicationRelationship), or \
             separate the two for good (RemoveReplicationRelationship)"
        }
    }
}

#[cfg(test)]
mod tests {
    use lifeboat_model::hint::Trust;

    use super::*;

    #[test]
    fn hints_name_methods_and_no_commands() {
        for (hint, want) in [
            (Hint::from(Failover::Start), "start a failover: InitiateFailover"),
            (Trust::EnableServer.into(), "enable this host as a replica server"),
        ] {
            assert!(words(&hint).starts_with(want), "{}", words(&hint));
        }
        let vms: Hint = Look::Vms.into();
        assert_eq!(told("no VM", Some(&vms)), "no VM; enumerate Msvm_ComputerSystem");
        assert_eq!(told("no VM", None), "no VM");
    }
}
