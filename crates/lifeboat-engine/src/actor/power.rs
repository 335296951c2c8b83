//! Starting, pausing and turning off a VM, which ends work that has its disks open. Whether its role allows it is
//! `core::power`'s.

use crate::actor::Actor;
use crate::contract::{Answer, Refusal};
use crate::host::power::{LOOK, bounded, disks_hang, power_refusal, unexpected};
use crate::host::question::Asking;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::power::{Effect, Verb};

impl Actor {
    /// Starts the VM, or lets one go on that is stalled.
    pub(crate) async fn start_vm(&mut self, asking: Asking) -> Result<Answer, Refusal> {
        self.core.role_allows_start()?;
        match self.core.effect(Verb::Start).await? {
            Effect::Boot => self.boot(asking).await,
            Effect::GoOn => self.core.go_on_running(asking).await,
            other @ (Effect::Pause
            | Effect::Reset
            | Effect::ResetAndRun
            | Effect::AskGuest
            | Effect::EndProcess) => Err(unexpected(other)),
        }
    }

    async fn boot(&mut self, asking: Asking) -> Result<Answer, Refusal> {
        self.core.no_shared_disk().await?;
        if let Some(why) = self.core.spec()?.too_many_devices(false) {
            return Err(Refusal::bare(
                ReturnCode::Failed,
                format!("the VM cannot be started here: {why}"),
            ));
        }
        self.core.may_start_primary(asking).await?;
        self.core.may_start_branch(asking).await?;
        // A powered-off VM's disks may be open for a cycle; its next cycle starts from the running VM.
        self.interrupt().await;
        self.guest.end();
        if let Ok(mut change) = self.core.change() {
            change.expect_addresses(self.core.runs_on().is_some());
            if let Some(primary) = change.primary_mut() {
                primary.settled = false;
            }
            self.core.commit(change).await?;
        }
        self.definition.define_now(&self.core).await?;
        let launch = self.core.launch().await?;
        let hv = self.core.hypervisor();
        // Nothing has begun yet, so a disk that does not answer is the answer.
        let looked = tokio::time::timeout(LOOK, hv.preflight(&launch)).await;
        looked
            .map_err(|_| disks_hang())?
            .map_err(|e| power_refusal("the VM cannot be started here", &e))?;
        hv.start(&launch)
            .await
            .map_err(|e| power_refusal("the VM did not start", &e))?;
        self.core.event("VM started").await;
        Ok(Answer::Done)
    }

    /// Stops the guest's CPUs.
    pub(crate) async fn pause_vm(&mut self) -> Result<Answer, Refusal> {
        self.core.no_planned()?;
        self.core.effect(Verb::Pause).await?;
        // A guest that is frozen for an instant is thawed by its agent, which needs its CPUs.
        self.interrupt().await;
        let paused = bounded(self.core.hypervisor().pause(self.core.id)).await;
        paused.map_err(|e| power_refusal("the VM is not paused", &e))?;
        self.core.event("VM paused").await;
        Ok(Answer::Done)
    }

    pub(crate) async fn turn_off(&mut self) -> Result<Answer, Refusal> {
        self.core.effect(Verb::TurnOff).await?;
        self.interrupt().await;
        let turned_off = self.core.hypervisor().turn_off(self.core.id).await;
        turned_off.map_err(|e| power_refusal("the VM was not turned off", &e))?;
        self.source.stopped(&self.core).await;
        Ok(Answer::Done)
    }
}
