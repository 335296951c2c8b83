//! Whether the role of a VM allows what is asked of its power, and what the hypervisor then does.

use crate::contract::{Answer, Refusal};
use crate::core::Core;
use crate::host::power::{bounded, decide, power_refusal};
use crate::host::question::Asking;
use crate::record::{FailoverPhase, PlannedPhase};
use crate::work::calls::failed;
use crate::work::message::Message;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::power::{Effect, Verb};
use lifeboat_model::{ReplicationMode, hint, lifecycle};
use tokio::sync::oneshot;

impl Core {
    pub(crate) fn role_allows_start(&self) -> Result<(), Refusal> {
        if let Some(rel) = self.rel.as_ref()
            && !lifecycle::may_start(rel.mode, rel.state)
        {
            let hint = hint::Failover::Start;
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
                hint::Failover::Start,
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
                    hint::Look::Jobs,
                ));
            }
        }
        Ok(())
    }

    /// What this command does to the guest as it is now, or why it does nothing.
    pub(crate) async fn effect(&self, verb: Verb) -> Result<Effect, Refusal> {
        decide(verb, &self.look().await)
    }

    /// A stalled VM is treated like one that is off: what forbids a start forbids going on, too.
    pub(crate) async fn go_on_running(&mut self, asking: Asking) -> Result<Answer, Refusal> {
        self.may_start_primary(asking).await?;
        self.may_start_branch(asking).await?;
        let resumed = bounded(self.hypervisor().resume(self.id)).await;
        resumed.map_err(|e| power_refusal("the VM does not go on", &e))?;
        self.event("VM goes on").await;
        Ok(Answer::Done)
    }

    /// A picture of the VM's screen.
    pub(crate) async fn screenshot(&self) -> Result<Answer, Refusal> {
        let picture = bounded(self.hypervisor().screenshot(self.id)).await;
        picture
            .map(|p| Answer::Picture(p.to_vec()))
            .map_err(|e| failed("no screenshot", &e))
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
        let hypervisor = self.hypervisor();
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
                hint::Planned::CancelPlanned,
            )),
        }
    }

    /// A guest may take minutes to shut down, and replication goes on meanwhile: the wait is not the actor's.
    pub(crate) async fn shut_down(&mut self, reply: oneshot::Sender<Result<Answer, Refusal>>) {
        if let Err(e) = self.effect(Verb::ShutDown).await {
            return drop(reply.send(Err(e)));
        }
        let (hypervisor, vm, own) = (self.hypervisor(), self.id, self.own.clone());
        let timeout = self.host.config.shutdown_timeout;
        tokio::spawn(async move {
            let done = hypervisor.shut_down(vm, timeout).await;
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
}
