//! Turning a VM on, off, and everything between: starting, pausing, resetting, shutting down. Whether its role allows it
//! is decided here; how it is done is the hypervisor's.

use lifeboat_model::ReplicationMode;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::lifecycle;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::action::{Answer, Refusal};
use crate::actor::{Actor, Message, failed};
use crate::ports::hypervisor::{HypervisorError, PowerState};
use crate::records::{Addressing, FailoverPhase, PlannedPhase, Relationship};

impl Actor {
    fn role_allows_start(&self) -> Result<(), Refusal> {
        if let Some(rel) = &self.rel
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

    /// Starts the VM, or lets a paused one go on.
    pub(crate) async fn start_vm(&mut self) -> Result<Answer, Refusal> {
        self.role_allows_start()?;
        match self.power().await? {
            PowerState::Off => {}
            PowerState::Paused => return self.go_on_running().await,
            PowerState::Running | PowerState::Stalled => {
                return Err(Refusal::new(ReturnCode::InvalidState, "the VM is running", ""));
            }
        }
        self.may_start_primary().await?;
        self.may_start_branch().await?;
        // A powered-off VM's disks may be open for a cycle; its next cycle starts from the running VM.
        self.interrupt().await;
        if let Some(primary) = self.rel.as_mut().and_then(Relationship::primary_mut) {
            primary.settled = false;
            self.save().await?;
        }
        self.expect_addresses();
        if self.rel.as_ref().is_some_and(|r| r.addressing == Addressing::Due) {
            self.save().await?;
        }
        let launch = self.launch().await?;
        let hv = &self.host.ports.hypervisor;
        hv.preflight(&launch)
            .await
            .map_err(|e| power_refusal("the VM cannot be started here", &e))?;
        hv.start(&launch)
            .await
            .map_err(|e| power_refusal("the VM did not start", &e))?;
        self.event("VM started").await;
        Ok(Answer::Done)
    }

    /// A VM that is paused is as good as off: what keeps one from starting keeps the other from going on.
    async fn go_on_running(&mut self) -> Result<Answer, Refusal> {
        self.may_start_primary().await?;
        self.may_start_branch().await?;
        let resumed = self.host.ports.hypervisor.resume(self.id).await;
        resumed.map_err(|e| power_refusal("the VM does not go on", &e))?;
        self.event("VM goes on").await;
        Ok(Answer::Done)
    }

    /// Stops the guest's CPUs.
    pub(crate) async fn pause_vm(&mut self) -> Result<Answer, Refusal> {
        self.no_planned()?;
        let wrong = |what: &str, hint: &str| Err(Refusal::new(ReturnCode::InvalidState, what, hint));
        match self.power().await? {
            PowerState::Running => {}
            PowerState::Off => return Err(off()),
            PowerState::Paused => return wrong("the VM is paused", "let it go on: lifeboat vm start"),
            PowerState::Stalled => return wrong("the VM makes no progress", ""),
        }
        // A guest that is frozen for an instant is thawed by its agent, which needs its CPUs.
        self.interrupt().await;
        let paused = self.host.ports.hypervisor.pause(self.id).await;
        paused.map_err(|e| power_refusal("the VM is not paused", &e))?;
        self.event("VM paused").await;
        Ok(Answer::Done)
    }

    /// Presses the reset button. Nothing is started by it: a paused guest stays paused, at the beginning.
    pub(crate) async fn reset_vm(&mut self) -> Result<Answer, Refusal> {
        self.no_planned()?;
        if self.power().await? == PowerState::Off {
            return Err(off());
        }
        let reset = self.host.ports.hypervisor.reset(self.id).await;
        reset.map_err(|e| power_refusal("the VM was not reset", &e))?;
        self.event("VM reset").await;
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
        if self.power().await? == PowerState::Off {
            return Err(off());
        }
        self.interrupt().await;
        let turned_off = self.host.ports.hypervisor.turn_off(self.id).await;
        turned_off.map_err(|e| failed("the VM was not turned off", &e))?;
        self.stopped().await;
        Ok(Answer::Done)
    }

    /// A guest may take minutes to shut down, and replication goes on meanwhile: the wait is not the actor's.
    pub(crate) async fn shut_down(&mut self, reply: oneshot::Sender<Result<Answer, Refusal>>) {
        match self.power().await {
            Ok(PowerState::Off) => return drop(reply.send(Err(off()))),
            Err(e) => return drop(reply.send(Err(e))),
            Ok(PowerState::Paused) => return drop(reply.send(Err(paused()))),
            Ok(PowerState::Running | PowerState::Stalled) => {}
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

fn off() -> Refusal {
    Refusal::new(ReturnCode::InvalidState, "the VM is off", "")
}

/// A guest that is paused cannot follow a request.
pub(crate) fn paused() -> Refusal {
    Refusal::new(
        ReturnCode::InvalidState,
        "the VM is paused and cannot shut down",
        "let it go on (lifeboat vm start), or turn it off with --force",
    )
}

/// A hypervisor's error as the answer to an action.
pub(crate) fn power_refusal(what: &str, e: &HypervisorError) -> Refusal {
    let code = match e {
        HypervisorError::ShutdownTimeout(_) => ReturnCode::Timeout,
        HypervisorError::Running | HypervisorError::NotRunning => ReturnCode::InvalidState,
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
