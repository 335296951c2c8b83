//! Methods of a VM: its power, and the state of its replication.

use crate::cim::embedded::advised;
use std::time::Duration;

use lifeboat_engine::action::{Action, Refusal, RelationshipRef, ReplicationView, VmRef, VmView};
use lifeboat_model::api::ReturnCode;
use lifeboat_model::power::PowerState;
use lifeboat_model::{RelationshipId, ReplicationMode as Mode, ReplicationState as State, VmId};

use super::{Answered, Call, Outcome, missing};
use crate::cim::embedded::{invalid, shown, unsupported};

/// How long an answer waits for a guest to shut down. Guests may take minutes, and clients do not wait that long.
const PATIENCE: Duration = Duration::from_secs(15);

const STATE: &str = "RequestedState";

fn wrong_state(message: impl Into<String>, hint: &str) -> Refusal {
    advised(ReturnCode::InvalidState, message, hint)
}

/// The VM whose method is called; `key` is the property that holds its GUID.
fn own(call: &Call<'_>, key: &str) -> Result<VmId, Refusal> {
    let name = call.target.name.text(key).unwrap_or_default();
    name.parse().map_err(|_| {
        let message = format!("{} is this host, and no virtual machine", shown(name));
        advised(ReturnCode::IncorrectType, message, "name the VM by its GUID")
    })
}

pub(super) async fn state(call: &Call<'_>) -> Answered {
    let reference = own(call, "Name")?.into();
    let wanted = call.arguments.number(STATE).ok_or_else(|| missing(STATE))?;
    call.done(match wanted {
        2 => Action::StartVm {
            vm: reference,
            force: false,
        },
        3 => Action::StopVm {
            vm: reference,
            force: true,
        },
        6 => {
            return Err(unsupported(
                "RequestedState 6 (save): the memory of a guest is not saved to disk",
                "pause it (9), or shut it down with Msvm_ShutdownComponent.InitiateShutdown",
            ));
        }
        9 => Action::PauseVm { vm: reference },
        10 | 11 => Action::ResetVm { vm: reference },
        other => {
            let message = format!("RequestedState {other}: use 2 (on), 3 (off), 9 (pause), 10 or 11 (reset)");
            return Err(invalid(message));
        }
    })
    .await
}

/// Asks the guest to shut down. `Force` has no effect: it is about programs in the guest with unsaved work, which this host does
/// not know. After [`PATIENCE`] the answer no longer waits, and the guest goes on shutting down.
pub(super) async fn shutdown(call: &Call<'_>) -> Answered {
    let vm = own(call, "SystemName")?;
    if let Some(reason) = call.arguments.text("Reason") {
        let view = call.view(vm).await?;
        tracing::info!(
            vm = view.spec.name,
            caller = call.caller.name,
            reason = shown(reason),
            "shutdown"
        );
    }
    if call.arguments.boolean("Force").is_none() {
        return Err(missing("Force"));
    }
    let ask = call.done(Action::StopVm {
        vm: vm.into(),
        force: false,
    });
    match tokio::time::timeout(PATIENCE, ask).await {
        Ok(answered) => answered,
        Err(_) => Ok(Outcome {
            value: ReturnCode::JobStarted.number(),
            out: Vec::new(),
        }),
    }
}

pub(super) async fn replication_state(call: &Call<'_>) -> Answered {
    change(call, own(call, "Name")?, RelationshipId::OWN).await
}

pub(super) async fn replication_state_ex(call: &Call<'_>) -> Answered {
    let vm = own(call, "Name")?;
    let which = call.relationship(vm).await?.unwrap_or(RelationshipId::OWN);
    change(call, vm, which).await
}

async fn change(call: &Call<'_>, vm: VmId, which: RelationshipId) -> Answered {
    let wanted = call.arguments.number(STATE).ok_or_else(|| missing(STATE))?;
    match which {
        RelationshipId::OWN => change_first(call, vm, wanted).await,
        id => {
            let vm = call.view(vm).await?;
            change_extended(call, &vm, id, wanted).await
        }
    }
}

fn no_such(wanted: u64) -> Refusal {
    invalid(format!("RequestedState {wanted}: use 1, 2, 3, 4, 7 or 9"))
}

async fn change_first(call: &Call<'_>, vm: VmId, wanted: u64) -> Answered {
    let reference: VmRef = vm.into();
    match wanted {
        1 | 3 | 7 | 9 => {
            call.done(requested(wanted, reference, RelationshipRef::Usual))
                .await
        }
        2 => call.job(Action::BecomeReplica { vm: reference }).await,
        4 => {
            let view = call.view(vm).await?;
            may_prepare(&view)?;
            let action = Action::PlannedFailover {
                vm: reference,
                force: false,
                prepare_only: true,
                start: false,
            };
            call.job(action).await
        }
        other => Err(no_such(other)),
    }
}

/// Refuses to prepare a planned failover on another host than the primary, or of a VM that is not off: the engine would ask the
/// other host, and shut the guest down, and callers of this method expect neither.
fn may_prepare(vm: &VmView) -> Result<(), Refusal> {
    if vm.replication.as_ref().map(|r| r.mode) != Some(Mode::Primary) {
        return Err(wrong_state(
            "prepare a planned failover on the primary; this VM is not one",
            "call it on the other host",
        ));
    }
    match vm.power {
        PowerState::Off => Ok(()),
        PowerState::Unknown => Err(Refusal::new(
            ReturnCode::Unknown,
            "whether the VM runs is not known; a planned failover is prepared when it is off",
            lifeboat_model::hint::Look::Vm,
        )),
        PowerState::Running | PowerState::Paused | PowerState::Stalled => Err(wrong_state(
            "the VM runs; a planned failover is prepared when it is off",
            "shut it down first: Msvm_ShutdownComponent.InitiateShutdown",
        )),
    }
}

async fn change_extended(call: &Call<'_>, vm: &VmView, id: RelationshipId, wanted: u64) -> Answered {
    let extended = |r: &ReplicationView| r.outgoing().find(|e| e.relationship == id).map(|e| e.state);
    let state = vm.replication.as_ref().and_then(extended);
    let state = state.ok_or_else(|| wrong_state("there is no extended relationship on this host", ""))?;
    let not_now = || {
        wrong_state(
            format!("not possible while the extended relationship is {state}"),
            "",
        )
    };
    // The engine has one action that cancels a copy or a comparison; the API has a state for each, which must match.
    let copying = matches!(
        state,
        State::ReadyForReplication | State::WaitingToCompleteInitialReplication
    );
    let comparing = matches!(state, State::Resynchronizing | State::ResynchronizationSuspended);
    let fits = match wanted {
        1 => copying,
        9 => comparing,
        3 | 7 => true,
        2 | 4 => false,
        other => return Err(no_such(other)),
    };
    if !fits {
        return Err(not_now());
    }
    let vm = vm.spec.uuid.into();
    call.done(requested(wanted, vm, RelationshipRef::Id(id))).await
}

/// The action that a requested state of a relationship stands for; of 1, 3, 7 and 9.
fn requested(wanted: u64, vm: VmRef, relationship: RelationshipRef) -> Action {
    match wanted {
        1 => Action::CancelInitialCopy { vm, relationship },
        3 => Action::ResumeReplication { vm, relationship },
        7 => Action::SuspendReplication { vm, relationship },
        _ => Action::CancelResync { vm, relationship },
    }
}
