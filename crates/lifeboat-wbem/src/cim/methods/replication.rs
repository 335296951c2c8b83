//! Methods of the replication service that make, change and end relationships, and that move data or roles between hosts.

use camino::{Utf8Component, Utf8Path};
use lifeboat_engine::action::{Action, InitialCopy, Refusal, ReplicationView, VmView};
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{ReplicationMode as Mode, ReplicationSettings};

use super::{Answered, Call, missing, vm_ref};
use crate::cim::embedded::{self, Which, invalid, shown};

const SETTINGS: &str = "ReplicationSettingData";

fn wrong_state(message: impl Into<String>, hint: &str) -> Refusal {
    Refusal::new(ReturnCode::InvalidState, message, hint)
}

fn replication(vm: &VmView) -> Result<&ReplicationView, Refusal> {
    vm.replication.as_ref().ok_or_else(|| {
        let message = format!("the VM {} is not replicated", vm.spec.name);
        wrong_state(
            message,
            "make a relationship first: CreateReplicationRelationship",
        )
    })
}

/// Whether this host has a copy that can be extended to a third one.
fn is_replica(vm: &VmView) -> bool {
    vm.replication.as_ref().is_some_and(|r| r.mode == Mode::Replica)
}

/// On a primary, or a VM that is not replicated, makes the relationship; on a replica the one to a third host.
pub(super) async fn create(call: &Call<'_>) -> Answered {
    let vm = call.vm("ComputerSystem").await?;
    let given = call.arguments.instance(SETTINGS)?;
    // Settings may be made from those of any relationship of this VM, but not from another VM's.
    embedded::which(given, vm.spec.uuid)?;
    let settings = embedded::replication(given, embedded::defaults(), &vm.spec)?;
    let action = match is_replica(&vm) {
        true => Action::ExtendReplication {
            vm: vm_ref(&vm),
            settings,
            start: false,
        },
        false => Action::EnableReplication {
            vm: vm_ref(&vm),
            settings,
        },
    };
    call.job(action).await
}

pub(super) async fn start(call: &Call<'_>) -> Answered {
    let vm = call.vm("ComputerSystem").await?;
    let kind = call.arguments.number("InitialReplicationType");
    let how = match kind.ok_or_else(|| missing("InitialReplicationType"))? {
        1 => InitialCopy::Network,
        2 => {
            let location = call.arguments.text("InitialReplicationExportLocation");
            let location = location.ok_or_else(|| missing("InitialReplicationExportLocation"))?;
            let dir = exported(location, &vm);
            medium(call, &dir)?;
            InitialCopy::Export { dir }
        }
        3 => InitialCopy::Seed,
        other => {
            let message =
                format!("InitialReplicationType {other}: use 1 (network), 2 (export) or 3 (seeded)");
            return Err(invalid(message));
        }
    };
    let at = call.arguments.instant("StartTime")?;
    call.job(Action::StartReplication {
        vm: vm_ref(&vm),
        how,
        at,
    })
    .await
}

/// Takes the directory of the VM, or the location that it was exported to.
pub(super) async fn import(call: &Call<'_>) -> Answered {
    let vm = call.vm("ComputerSystem").await?;
    let location = call.arguments.text("InitialReplicationImportLocation");
    let location = location.ok_or_else(|| missing("InitialReplicationImportLocation"))?;
    let from = |dir: String| Action::ImportCopy { vm: vm_ref(&vm), dir };
    medium(call, location)?;
    match call.job(from(location.to_owned())).await {
        Err(none) if none.code == ReturnCode::FileNotFound => {
            let within = call.job(from(exported(location, &vm))).await;
            // What was named is what an administrator wants to read about.
            within.map_err(|e| if e.code == none.code { none } else { e })
        }
        answered => answered,
    }
}

/// The directory of a VM below the location it is exported to, so that several VMs can be there.
fn exported(location: &str, vm: &VmView) -> String {
    let id = vm.spec.uuid.to_string().to_uppercase();
    format!("{}/{}_{id}", location.trim_end_matches('/'), vm.spec.name)
}

/// Refuses a directory where callers from elsewhere have no business: this program reads and writes it as a mighty user. That
/// no part of its path is a link, which would lead away again, is looked at by whoever opens it.
fn medium(call: &Call<'_>, dir: &str) -> Result<(), Refusal> {
    let allowed = &call.manager.host.media_directories;
    let path = Utf8Path::new(dir);
    let climbs = path.components().any(|c| c == Utf8Component::ParentDir);
    if !climbs && allowed.iter().any(|a| path.starts_with(a)) {
        return Ok(());
    }
    let listed: Vec<&str> = allowed.iter().map(|a| a.as_str()).collect();
    let hint = match listed.is_empty() {
        true => {
            "no directory is open to remote callers; an administrator lists some in directories of [media]"
                .to_owned()
        }
        false => format!("name one below {}", listed.join(", ")),
    };
    let message = format!("directory \"{}\" is not open to remote callers", shown(dir));
    Err(Refusal::new(ReturnCode::AccessDenied, message, hint))
}

/// The settings that can be changed here, which are those of the side that sends.
fn own_settings(vm: &VmView, wanted: Option<Which>) -> Result<&ReplicationSettings, Refusal> {
    let known = replication(vm)?;
    match (known.mode, wanted) {
        (Mode::Primary, None | Some(Which::First)) => Ok(&known.settings),
        (Mode::Replica, None | Some(Which::Extended)) => {
            let extended = known.extended.as_ref().map(|e| &e.settings);
            extended.ok_or_else(|| {
                wrong_state(
                    "this replica has no extended relationship, and the settings of the first one are its primary's",
                    "change them on the primary",
                )
            })
        }
        (_, Some(Which::Extended)) => Err(wrong_state("there is no extended relationship on this host", "")),
        (mode, _) => {
            let message = format!("in mode {mode} the settings are those of the other side");
            Err(wrong_state(message, "change them on the primary"))
        }
    }
}

pub(super) async fn modify(call: &Call<'_>) -> Answered {
    let vm = call.vm("ComputerSystem").await?;
    let given = call.arguments.instance(SETTINGS)?;
    let before = own_settings(&vm, embedded::which(given, vm.spec.uuid)?)?;
    let settings = embedded::replication(given, before.clone(), &vm.spec)?;
    let action = Action::ModifyReplication {
        vm: vm_ref(&vm),
        settings,
    };
    call.job(action).await
}

pub(super) async fn remove(call: &Call<'_>) -> Answered {
    let vm = call.vm("ComputerSystem").await?;
    call.done(Action::RemoveReplication { vm: vm_ref(&vm) }).await
}

pub(super) async fn remove_ex(call: &Call<'_>) -> Answered {
    let vm = call.vm("ComputerSystem").await?;
    let reference = vm_ref(&vm);
    call.done(match call.relationship_needed(&vm)? {
        Which::First => Action::RemoveReplication { vm: reference },
        Which::Extended => Action::RemoveExtended { vm: reference },
    })
    .await
}

pub(super) async fn resynchronize(call: &Call<'_>) -> Answered {
    let vm = call.vm("ComputerSystem").await?;
    let at = call.arguments.instant("StartTime")?;
    call.job(Action::Resynchronize { vm: vm_ref(&vm), at }).await
}

/// Without settings the new direction has those of the old one. With settings they must say who the old primary is: what
/// clients read here names this host.
pub(super) async fn reverse(call: &Call<'_>) -> Answered {
    let vm = call.vm("ComputerSystem").await?;
    let settings = match call.arguments.get(SETTINGS) {
        None => None,
        Some(_) => {
            let given = call.arguments.instance(SETTINGS)?;
            embedded::which(given, vm.spec.uuid)?;
            let before = ReplicationSettings {
                peer: String::new(),
                ..replication(&vm)?.settings.clone()
            };
            Some(embedded::replication(given, before, &vm.spec)?)
        }
    };
    let action = Action::ReverseReplication {
        vm: vm_ref(&vm),
        settings,
    };
    call.job(action).await
}

pub(super) async fn mode_to_primary(call: &Call<'_>) -> Answered {
    let vm = call.vm("ComputerSystem").await?;
    match call.relationship_needed(&vm)? {
        Which::First => Err(invalid(
            "ReplicationRelationship must be the extended one, which is to go on",
        )),
        Which::Extended => call.job(Action::ContinueAsPrimary { vm: vm_ref(&vm) }).await,
    }
}
