//! Hints about relationships and copies, as commands. Those about failovers and guests are the parent's.

use lifeboat_model::hint::{Copies, Extend, Replicate};
use lifeboat_model::shell::quoted;

use super::Vm;

pub(super) fn replicate(hint: &Replicate, vm: Vm<'_>) -> String {
    let enable = vm.with("replication enable", "--to HOST:PORT");
    let remove = vm.run("replication remove");
    match hint {
        Replicate::Enable => format!("enable replication first: {enable}"),
        Replicate::EnableAgain => {
            format!("replication was removed; enable it again on the primary: {enable}")
        }
        Replicate::Remove => format!("it is enabled already; remove it first: {remove}"),
        Replicate::RemoveThere => format!("remove it there first: {remove}"),
        Replicate::OnPrimary => "this host is the replica; do this on the primary host".into(),
        Replicate::OnReplicaHost => "do this on the replica host".into(),
        Replicate::Resume => format!(
            "replication is suspended; resume it first: {}",
            vm.run("replication resume")
        ),
        Replicate::AwaitOrResume => "wait until it replicates, or resume it".into(),
        Replicate::EndError => format!(
            "the last changes cannot be sent while replication is in error: end that first, its cause is in: {}; with the \
             primary lost, fail over on the replica host instead",
            vm.run("replication status")
        ),
        Replicate::BecomeReplicaThere => format!(
            "if it is to be given up for this copy, make it a replica there first: {}",
            vm.run("replication become-replica")
        ),
        Replicate::NameReplicaHost => "name the host that has, or is to have, the replica".into(),
        Replicate::NameSameHost => {
            "name the same replica host under its new address; for another host remove the replication and enable it there"
                .into()
        }
        Replicate::DescribeOrRemove { file } => format!(
            "put it back, for example as {file}, and restart the daemon, or end the replication: {remove}"
        ),
        Replicate::DescribeOrExclude { disks } => {
            let options: Vec<String> = disks.iter().map(|d| format!("--disk {}", quoted(d))).collect();
            let without = if disks.is_empty() {
                remove
            } else {
                vm.with("replication set", &options.join(" "))
            };
            format!("put it back and restart the daemon, or replicate without it: {without}")
        }
        Replicate::ReleasePoints => format!(
            "look at them ({}, {}); when all is well: {}",
            vm.run("points"),
            vm.with("failover start", "--test"),
            vm.run("replication release-points")
        ),
    }
}

pub(super) fn copies(hint: &Copies, vm: Vm<'_>) -> String {
    let (start, resync) = (vm.run("replication start"), vm.run("replication resync"));
    let seed = vm.with("replication start", "--seed");
    match hint {
        Copies::StartCopy => format!("start the initial copy: {start}"),
        Copies::AwaitCopy => {
            "wait for the initial copy; before it is complete there is no recovery point".into()
        }
        Copies::AwaitOrCancelCopy => {
            "the initial copy is under way; wait for it, or cancel its job: lifeboat job cancel".into()
        }
        Copies::AwaitOrCancelCopyThere => {
            "the initial copy is under way; wait for it, or cancel its job on the primary host: lifeboat job cancel".into()
        }
        Copies::UseSeedOrRemove => {
            format!("cancel this copy and use that one ({seed}), or remove it there")
        }
        Copies::UseSeed => format!("start from it: {seed}"),
        Copies::Export => format!(
            "export one on the primary host: {}",
            vm.with("replication start", "--export DIR")
        ),
        Copies::Import => format!("import it: {}", vm.with("replication import", "DIR")),
        Copies::UpdateOrUseNetwork => {
            format!("update Lifeboat there, or copy over the network: {start}")
        }
        Copies::Resync => format!("compare the copies first: {resync}"),
        Copies::CompareOnPrimary => format!("on the primary, compare the copies with: {resync}"),
        Copies::AwaitResync => format!("wait for it: {}", vm.run("replication status")),
        Copies::AwaitOrCancelResync => format!(
            "a resynchronization is under way; wait for it, or give it up: {}",
            vm.with("replication resync", "--cancel")
        ),
        Copies::AwaitOrForget => format!(
            "wait for the comparison with its primary; if that is gone for good, give up what was received, and the VM has its \
             own images again: {}",
            vm.with("replication remove", "--force")
        ),
        Copies::SeedOrDelete { dir } => format!(
            "replicate that VM here again and it is the seed (lifeboat replication start VM --seed, on the primary), or delete \
             it with: rm -r {}",
            quoted(dir)
        ),
    }
}

pub(super) fn extend(hint: &Extend, vm: Vm<'_>) -> String {
    let remove = vm.with("replication remove", "--extended");
    match hint {
        Extend::Extend => format!(
            "extend it with: {}",
            vm.with("replication extend", "--to HOST:PORT")
        ),
        Extend::RemoveOrContinue => format!(
            "remove that first ({remove}); after a commit this host can also go on as its primary ({})",
            vm.run("replication continue")
        ),
        Extend::Remove => format!("remove that first: {remove}"),
        Extend::NameOne => "name one of them: --extended=HOST:PORT".into(),
        Extend::RemoveAndExtend => format!("remove it ({remove}) and extend it again"),
        Extend::ExtendThere { on, third } => format!(
            "extend it again on {on}: {}; only what differs is sent",
            vm.with("replication extend", &format!("--to {}", quoted(third)))
        ),
        Extend::UseNetwork => "start it without --export and --seed".into(),
        Extend::AwaitOrRevert => {
            "wait for the initial copy; a failed-over replica can be extended when it is reverted".into()
        }
    }
}
