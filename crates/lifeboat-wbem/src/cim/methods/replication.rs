//! Methods of the replication service that make, change and end relationships, and that move data or roles between hosts.

use crate::cim::embedded::advised;
use camino::{Utf8Component, Utf8Path};
use lifeboat_engine::action::{Action, InitialCopy, Refusal, RelationshipRef, ReplicationView, VmView};
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{RelationshipId, ReplicationMode as Mode, ReplicationSettings, VmId};

use super::{Answered, Call, missing};
use crate::cim::embedded::{self, invalid, shown};

const SETTINGS: &str = "ReplicationSettingData";

fn wrong_state(message: impl Into<String>, hint: &str) -> Refusal {
    advised(ReturnCode::InvalidState, message, hint)
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

/// Whether this host has a copy that can be extended to further ones.
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
    let action = if is_replica(&vm) {
        Action::ExtendReplication {
            vm: vm.spec.uuid.into(),
            settings,
            start: false,
        }
    } else {
        Action::EnableReplication {
            vm: vm.spec.uuid.into(),
            settings,
        }
    };
    call.job(action).await
}

pub(super) async fn start(call: &Call<'_>) -> Answered {
    let vm = call.vm_id("ComputerSystem")?;
    let read = async {
        let how = initial_copy(call, vm).await?;
        Ok((how, call.arguments.instant("StartTime")?))
    };
    let (how, at) = call.read(vm, read.await).await?;
    let vm = vm.into();
    let relationship = RelationshipRef::Usual;
    let action = Action::StartReplication {
        vm,
        how,
        at,
        relationship,
    };
    call.job(action).await
}

/// How the initial copy gets to the replica, as the caller asks for it.
async fn initial_copy(call: &Call<'_>, vm: VmId) -> Result<InitialCopy, Refusal> {
    let kind = call.arguments.number("InitialReplicationType");
    match kind.ok_or_else(|| missing("InitialReplicationType"))? {
        1 => Ok(InitialCopy::Network),
        2 => {
            let location = call.arguments.text("InitialReplicationExportLocation");
            let location = location.ok_or_else(|| missing("InitialReplicationExportLocation"))?;
            let dir = exported(location, &call.show(vm).await?);
            medium(call, &dir)?;
            Ok(InitialCopy::Export { dir })
        }
        3 => Ok(InitialCopy::Seed),
        other => {
            let message =
                format!("InitialReplicationType {other}: use 1 (network), 2 (export) or 3 (seeded)");
            Err(invalid(message))
        }
    }
}

/// The location that an exported copy is imported from.
fn import_location<'a>(call: &'a Call<'_>) -> Result<&'a str, Refusal> {
    let location = call.arguments.text("InitialReplicationImportLocation");
    let location = location.ok_or_else(|| missing("InitialReplicationImportLocation"))?;
    medium(call, location)?;
    Ok(location)
}

/// Takes the directory of the VM, or the location that it was exported to.
pub(super) async fn import(call: &Call<'_>) -> Answered {
    let vm = call.vm_id("ComputerSystem")?;
    let location = call.read(vm, import_location(call)).await?;
    let from = |dir: String| Action::ImportCopy { vm: vm.into(), dir };
    match call.job(from(location.to_owned())).await {
        Err(none) if none.code == ReturnCode::FileNotFound => {
            // Refuses here if it is the VM that does not exist.
            let view = call.show(vm).await?;
            let within = call.job(from(exported(location, &view))).await;
            // The refusal names the directory that the caller named.
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

/// Refuses a directory that is not listed for remote callers, because this program reads and writes it with its own rights. Links
/// in the path are refused by the code that opens it.
fn medium(call: &Call<'_>, dir: &str) -> Result<(), Refusal> {
    let allowed = &call.manager.host.media_directories;
    let path = Utf8Path::new(dir);
    let climbs = path.components().any(|c| c == Utf8Component::ParentDir);
    if !climbs && allowed.iter().any(|a| path.starts_with(a)) {
        return Ok(());
    }
    let listed: Vec<&str> = allowed.iter().map(|a| a.as_str()).collect();
    let hint = if listed.is_empty() {
        "no directory is open to remote callers; an administrator lists some in directories of [media]"
            .to_owned()
    } else {
        format!("name one below {}", listed.join(", "))
    };
    let message = format!("directory \"{}\" is not open to remote callers", shown(dir));
    Err(advised(ReturnCode::AccessDenied, message, hint))
}

/// The settings that can be changed here, which are those of the side that sends.
fn own_settings(
    vm: &VmView,
    wanted: Option<RelationshipId>,
) -> Result<(RelationshipId, &ReplicationSettings), Refusal> {
    let known = replication(vm)?;
    let outgoing = |id: RelationshipId| known.outgoing().find(|e| e.relationship == id);
    match (known.mode, wanted) {
        (Mode::Primary, None | Some(RelationshipId::OWN)) => Ok((RelationshipId::OWN, &known.settings)),
        (Mode::Replica, None) => {
            let extended = known.extended.as_ref().map(|e| (e.relationship, &e.settings));
            extended.ok_or_else(|| {
                wrong_state(
                    "this replica has no extended relationship, and the settings of the first one are its primary's",
                    "change them on the primary",
                )
            })
        }
        (mode, Some(id)) if id != RelationshipId::OWN => match outgoing(id) {
            Some(e) if mode == Mode::Replica => Ok((id, &e.settings)),
            Some(_) | None => Err(wrong_state("there is no extended relationship on this host", "")),
        },
        (mode, _) => {
            let message = format!("in mode {mode} the settings are those of the other side");
            Err(wrong_state(message, "change them on the primary"))
        }
    }
}

pub(super) async fn modify(call: &Call<'_>) -> Answered {
    let vm = call.vm("ComputerSystem").await?;
    let given = call.arguments.instance(SETTINGS)?;
    let (id, before) = own_settings(&vm, embedded::which(given, vm.spec.uuid)?)?;
    let settings = embedded::replication(given, before.clone(), &vm.spec)?;
    let action = Action::ModifyReplication {
        vm: vm.spec.uuid.into(),
        settings,
        relationship: RelationshipRef::Id(id),
    };
    call.job(action).await
}

pub(super) async fn remove(call: &Call<'_>) -> Answered {
    let vm = call.vm_id("ComputerSystem")?.into();
    let relationship = RelationshipRef::Usual;
    call.done(Action::RemoveReplication { vm, relationship }).await
}

pub(super) async fn remove_ex(call: &Call<'_>) -> Answered {
    let vm = call.vm_id("ComputerSystem")?;
    let relationship = RelationshipRef::Id(call.relationship_needed(vm).await?);
    let vm = vm.into();
    call.done(Action::RemoveReplication { vm, relationship }).await
}

pub(super) async fn resynchronize(call: &Call<'_>) -> Answered {
    let vm = call.vm_id("ComputerSystem")?;
    let at = call.read(vm, call.arguments.instant("StartTime")).await?;
    let vm = vm.into();
    let relationship = RelationshipRef::Usual;
    call.job(Action::Resynchronize { vm, at, relationship }).await
}

/// Reverses a relationship. Without settings the new direction keeps those of the old one. Settings that are given must name
/// the old primary as the peer: those that clients read here name this host.
pub(super) async fn reverse(call: &Call<'_>) -> Answered {
    let id = call.vm_id("ComputerSystem")?;
    let settings = match call.arguments.get(SETTINGS) {
        None => None,
        Some(_) => {
            let vm = call.show(id).await?;
            let given = call.arguments.instance(SETTINGS)?;
            embedded::which(given, id)?;
            let before = ReplicationSettings {
                peer: String::new(),
                ..replication(&vm)?.settings.clone()
            };
            Some(embedded::replication(given, before, &vm.spec)?)
        }
    };
    let vm = id.into();
    call.job(Action::ReverseReplication { vm, settings }).await
}

pub(super) async fn mode_to_primary(call: &Call<'_>) -> Answered {
    let vm = call.vm_id("ComputerSystem")?;
    match call.relationship_needed(vm).await? {
        RelationshipId::OWN => {
            let message = "ReplicationRelationship must be the extended one, which is to go on";
            call.read(vm, Err(invalid(message))).await
        }
        id => {
            let (vm, relationship) = (vm.into(), RelationshipRef::Id(id));
            call.job(Action::ContinueAsPrimary { vm, relationship }).await
        }
    }
}
