//! What is known of a VM's power within a bounded time, and the refusals of what cannot be done to it.

use crate::contract::Refusal;
use crate::port::hypervisor::{Hypervisor, HypervisorError, Power};
use crate::work::calls::failed;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::power::{self};
use lifeboat_model::power::{Effect, Verb};
use lifeboat_model::{VmId, hint};
use std::time::Duration;

/// What a command does to a VM that does this, or why it does nothing.
pub(crate) fn decide(verb: Verb, power: &Power) -> Result<Effect, Refusal> {
    power::effect(verb, power.guest()).map_err(|no| {
        let reason = power.reason().map(|r| format!(": {r}")).unwrap_or_default();
        let code = match power {
            Power::NotKnown { .. } => ReturnCode::Unknown,
            Power::Off | Power::Running | Power::Paused | Power::Stalled(_) => ReturnCode::InvalidState,
        };
        Refusal {
            hint: no.hint,
            ..Refusal::bare(code, format!("the VM {}{reason}", no.why))
        }
    })
}

/// The table of commands answered with something that its command cannot mean.
pub(crate) fn unexpected(effect: Effect) -> Refusal {
    Refusal::bare(
        ReturnCode::Failed,
        format!("starting a VM cannot mean {effect:?}"),
    )
}

/// Whether a guest that does this can follow a request to shut down.
pub(crate) fn can_shut_down(power: &Power) -> Result<(), Refusal> {
    match power {
        Power::Off => Ok(()),
        Power::Running | Power::Paused | Power::Stalled(_) | Power::NotKnown { .. } => {
            decide(Verb::ShutDown, power).map(|_| ())
        }
    }
}

/// The refusal of whatever needs to know what the VM does.
pub(crate) fn not_known(why: &str) -> Refusal {
    Refusal::new(
        ReturnCode::Unknown,
        format!("whether the VM runs is not known: {why}"),
        hint::Guest::CureOrTurnOff,
    )
}

/// How long an answer is waited for that a hypervisor owes within 4 seconds.
pub(crate) const LOOK: Duration = Duration::from_millis(4500);

/// What the VM does. A hypervisor that hangs says nothing about it.
pub(crate) async fn look(hypervisor: &dyn Hypervisor, vm: VmId) -> Power {
    match tokio::time::timeout(LOOK, hypervisor.power(vm)).await {
        Ok(power) => power,
        Err(_) => Power::NotKnown {
            why: format!("this host did not answer within {:.1} s", LOOK.as_secs_f32()),
        },
    }
}

/// A command to a VM's process that is carried out in a moment, or by a process that hangs.
pub(crate) async fn bounded<T>(
    command: impl Future<Output = Result<T, HypervisorError>>,
) -> Result<T, HypervisorError> {
    let late = |_| {
        let limit = LOOK.as_secs_f32();
        HypervisorError::Monitor(format!(
            "no answer within {limit:.1} s; it may still be carried out"
        ))
    };
    tokio::time::timeout(LOOK, command).await.map_err(late)?
}

pub(crate) fn disks_hang() -> Refusal {
    Refusal::new(
        ReturnCode::Unavailable,
        format!(
            "the VM was not started: its images could not be looked at within {:.1} s",
            LOOK.as_secs_f32()
        ),
        hint::Look::VmStorage,
    )
}

/// A hypervisor's error as the answer to an action.
pub(crate) fn power_refusal(what: &str, e: &HypervisorError) -> Refusal {
    let code = match e {
        HypervisorError::ShutdownTimeout(_) => ReturnCode::Timeout,
        HypervisorError::Running | HypervisorError::NotRunning => ReturnCode::InvalidState,
        HypervisorError::Locked(_) => ReturnCode::InUse,
        HypervisorError::NotKnown(_) => ReturnCode::Unknown,
        HypervisorError::Preflight(_)
        | HypervisorError::DidNotStart(_)
        | HypervisorError::Monitor(_)
        | HypervisorError::Agent(_)
        | HypervisorError::Io { .. } => ReturnCode::Failed,
    };
    Refusal {
        code,
        ..failed(what, e)
    }
}
