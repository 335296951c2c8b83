//! Turning a VM on, off, and everything between: starting, pausing, resetting, shutting down. Whether its role allows it
//! is decided here; how it is done is the hypervisor's.

use std::time::Duration;

use lifeboat_model::api::ReturnCode;
use lifeboat_model::power::{self, Effect, Verb};
use lifeboat_model::{ReplicationMode, VmId, lifecycle};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::action::{Answer, Refusal};
use crate::actor::{Actor, Message, failed};
use crate::ports::hypervisor::{Hypervisor, HypervisorError, Power};
use crate::question::Asking;
use crate::records::{FailoverPhase, PlannedPhase};

impl Actor {
    fn role_allows_start(&self) -> Result<(), Refusal> {
        if let Some(rel) = self.rel.as_ref()
            && !lifecycle::may_start(rel.mode, rel.state)
        {
            let hint = "bring it up with: lifeboat failover start";
            let message = format!(
                "this VM is a replica in state {} ({}) and cannot be started",
                rel.state,
                rel.state.number()
            );
            return Err(Refusal::new(ReturnCode::InvalidState, message, hint));
        }
        if self.rel.as_ref().is_some_and(|r| {
            matches!(
                r.mode,
                ReplicationMode::Replica | ReplicationMode::ExtendedReplica
            ) && self.branch().is_none()
        }) {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                "this VM has no disks of its own here",
                "start a failover first",
            ));
        }
        match self.branch() {
            None | Some(FailoverPhase::Ready | FailoverPhase::Merging | FailoverPhase::Done) => {}
            Some(
                FailoverPhase::Initiating { .. }
                | FailoverPhase::Reverting
                | FailoverPhase::Committing { .. },
            ) => {
                return Err(Refusal::new(
                    ReturnCode::InUse,
                    "the failover disks are being made, thrown away or committed at this moment",
                    "see: lifeboat job list",
                ));
            }
        }
        Ok(())
    }

    /// What this command does to the guest as it is now, or why it does nothing.
    async fn effect(&self, verb: Verb) -> Result<Effect, Refusal> {
        decide(verb, &self.look().await)
    }

    /// Starts the VM, or lets one go on that stands still.
    pub(crate) async fn start_vm(&mut self, asking: Asking) -> Result<Answer, Refusal> {
        self.role_allows_start()?;
        match self.effect(Verb::Start).await? {
            Effect::Boot => self.boot(asking).await,
            Effect::GoOn => self.go_on_running(asking).await,
            other @ (Effect::Pause
            | Effect::Reset
            | Effect::ResetAndRun
            | Effect::AskGuest
            | Effect::EndProcess) => Err(unexpected(other)),
        }
    }

    async fn boot(&mut self, asking: Asking) -> Result<Answer, Refusal> {
        self.no_shared_disk().await?;
        if let Some(why) = self.spec()?.too_many_devices(false) {
            return Err(Refusal::new(
                ReturnCode::Failed,
                format!("the VM cannot be started here: {why}"),
                "",
            ));
        }
        self.may_start_primary(asking).await?;
        self.may_start_branch(asking).await?;
        // A powered-off VM's disks may be open for a cycle; its next cycle starts from the running VM.
        self.interrupt().await;
        self.guest.end();
        if let Ok(mut change) = self.change() {
            change.expect_addresses(self.runs_on().is_some());
            if let Some(primary) = change.primary_mut() {
                primary.settled = false;
            }
            self.commit(change).await?;
        }
        self.define_now().await?;
        let launch = self.launch().await?;
        let hv = &self.host.ports.hypervisor;
        // Nothing has begun yet, so a disk that does not answer is the answer.
        let looked = tokio::time::timeout(LOOK, hv.preflight(&launch)).await;
        looked
            .map_err(|_| disks_hang())?
            .map_err(|e| power_refusal("the VM cannot be started here", &e))?;
        hv.start(&launch)
            .await
            .map_err(|e| power_refusal("the VM did not start", &e))?;
        self.event("VM started").await;
        Ok(Answer::Done)
    }

    /// A VM that stands still is as good as off: what keeps one from starting keeps the other from going on.
    async fn go_on_running(&mut self, asking: Asking) -> Result<Answer, Refusal> {
        self.may_start_primary(asking).await?;
        self.may_start_branch(asking).await?;
        let resumed = bounded(self.host.ports.hypervisor.resume(self.id)).await;
        resumed.map_err(|e| power_refusal("the VM does not go on", &e))?;
        self.event("VM goes on").await;
        Ok(Answer::Done)
    }

    /// A picture of the VM's screen.
    pub(crate) async fn screenshot(&self) -> Result<Answer, Refusal> {
        let picture = bounded(self.host.ports.hypervisor.screenshot(self.id)).await;
        picture
            .map(|p| Answer::Picture(p.to_vec()))
            .map_err(|e| failed("no screenshot", &e))
    }

    /// Stops the guest's CPUs.
    pub(crate) async fn pause_vm(&mut self) -> Result<Answer, Refusal> {
        self.no_planned()?;
        self.effect(Verb::Pause).await?;
        // A guest that is frozen for an instant is thawed by its agent, which needs its CPUs.
        self.interrupt().await;
        let paused = bounded(self.host.ports.hypervisor.pause(self.id)).await;
        paused.map_err(|e| power_refusal("the VM is not paused", &e))?;
        self.event("VM paused").await;
        Ok(Answer::Done)
    }

    /// Presses the reset button. Nothing is started by it: a paused guest stays paused, at the beginning. One that was
    /// stopped by its storage runs again, because that is what it was doing.
    pub(crate) async fn reset_vm(&mut self) -> Result<Answer, Refusal> {
        self.no_planned()?;
        let effect = self.effect(Verb::Reset).await?;
        if effect == Effect::ResetAndRun {
            self.role_allows_start()?;
            self.may_start_primary(Asking::First).await?;
            self.may_start_branch(Asking::First).await?;
        }
        let hypervisor = &self.host.ports.hypervisor;
        let reset = bounded(hypervisor.reset(self.id)).await;
        reset.map_err(|e| power_refusal("the VM was not reset", &e))?;
        self.event("VM reset").await;
        if effect == Effect::ResetAndRun {
            let resumed = bounded(hypervisor.resume(self.id)).await;
            resumed.map_err(|e| power_refusal("the VM was reset and does not go on", &e))?;
        }
        Ok(Answer::Done)
    }

    /// A guest that is shutting down for a planned failover must be able to, and must not come up again.
    pub(crate) fn no_planned(&self) -> Result<(), Refusal> {
        match self.planned().map(|p| p.phase) {
            None => Ok(()),
            Some(phase) => Err(Refusal::new(
                match phase {
                    // Nothing is being done any more: that is a state.
                    PlannedPhase::Prepared => ReturnCode::InvalidState,
                    PlannedPhase::Stopping | PlannedPhase::Closing | PlannedPhase::HandingOver => {
                        ReturnCode::InUse
                    }
                },
                "a planned failover is under way",
                "cancel it first: lifeboat failover cancel",
            )),
        }
    }

    pub(crate) async fn turn_off(&mut self) -> Result<Answer, Refusal> {
        self.effect(Verb::TurnOff).await?;
        self.interrupt().await;
        let turned_off = self.host.ports.hypervisor.turn_off(self.id).await;
        turned_off.map_err(|e| power_refusal("the VM was not turned off", &e))?;
        self.stopped().await;
        Ok(Answer::Done)
    }

    /// A guest may take minutes to shut down, and replication goes on meanwhile: the wait is not the actor's.
    pub(crate) async fn shut_down(&mut self, reply: oneshot::Sender<Result<Answer, Refusal>>) {
        if let Err(e) = self.effect(Verb::ShutDown).await {
            return drop(reply.send(Err(e)));
        }
        let (host, vm, own) = (self.host.clone(), self.id, self.own.clone());
        tokio::spawn(async move {
            let timeout = host.config.shutdown_timeout;
            let done = host.ports.hypervisor.shut_down(vm, timeout).await;
            if done.is_ok()
                && let Some(own) = own.upgrade()
            {
                // An actor that is gone learns it from the hypervisor at the next start.
                let _ = own.send(Message::Stopped).await;
            }
            let answer = done.map(|()| Answer::Done);
            drop(reply.send(answer.map_err(|e| power_refusal("the VM did not shut down", &e))));
        });
    }

    pub(crate) async fn stopped(&mut self) {
        self.event("VM stopped").await;
        // The last changes are worth sending at once.
        self.primary.next_at = Instant::now();
    }
}

/// What a command does to a VM that does this, or why it does nothing.
fn decide(verb: Verb, power: &Power) -> Result<Effect, Refusal> {
    power::effect(verb, power.guest()).map_err(|no| {
        let reason = power.reason().map(|r| format!(": {r}")).unwrap_or_default();
        let code = match power {
            Power::NotKnown { .. } => ReturnCode::Unknown,
            Power::Off | Power::Running | Power::Paused | Power::Stalled(_) => ReturnCode::InvalidState,
        };
        Refusal::new(code, format!("the VM {}{reason}", no.why), no.way_out)
    })
}

/// The table of commands answered with something that its command cannot mean.
fn unexpected(effect: Effect) -> Refusal {
    Refusal::new(
        ReturnCode::Failed,
        format!("starting a VM cannot mean {effect:?}"),
        "",
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
        "remove the cause; or, when its process may end, turn it off: lifeboat vm stop --force",
    )
}

/// How long an answer is waited for that a hypervisor owes within 4 seconds.
const LOOK: Duration = Duration::from_millis(4500);

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

fn disks_hang() -> Refusal {
    Refusal::new(
        ReturnCode::Unavailable,
        format!(
            "the VM was not started: its images could not be looked at within {:.1} s",
            LOOK.as_secs_f32()
        ),
        "see the storage of its disks, which does not answer",
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
