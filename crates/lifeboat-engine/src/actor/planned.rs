//! Planned failover as far as it concerns several parts of an actor: where it begins, is cancelled, and which work comes
//! next. The phases are `roles::planned`'s.

use crate::actor::Actor;
use crate::contract::refusal::{no_relationship, not_now};
use crate::contract::{Answer, Refusal};
use crate::host::question::Asking;
use crate::port::hypervisor::Power;
use crate::port::link::{LinkError, PeerIdentity, PeerRefusal, PeerReply, PeerRequest};
use crate::record::{Planned, PlannedPhase};
use crate::roles;
use crate::roles::planned::{Gate, MERGE_AGAIN, stop};
use crate::work::calls::link_refusal;
use crate::work::piece::droppable;
use crate::work::saga::SagaError;
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::causes::chain;
use lifeboat_model::lifecycle::Event as Step;
use lifeboat_model::lifecycle::{self};
use lifeboat_model::{JobState, JobType, ProblemKind, hint};
use tokio::time::Instant;

impl Actor {
    pub(crate) async fn plan_role(&mut self) -> Gate {
        match self.core.planned().map(|p| (p.phase, p.clone())) {
            Some((PlannedPhase::Stopping, planned)) => {
                // An open image of a powered-off VM would be in the way of nothing but itself.
                let hypervisor = self.core.hypervisor();
                let (vm, timeout) = (self.core.id, self.core.host.config.shutdown_timeout);
                return Gate::Run(droppable(async move {
                    roles::Done::Stopped(stop(hypervisor, vm, planned.force, timeout).await)
                }));
            }
            Some((PlannedPhase::HandingOver, planned)) => return self.core.hand_over(&planned),
            Some((PlannedPhase::Closing | PlannedPhase::Prepared, _)) | None => {}
        }
        let Some(rel) = self.core.rel.as_ref() else {
            return Gate::Blocked;
        };
        if rel.primary().is_some_and(|p| p.start) {
            return self.start_as_told().await;
        }
        match rel.home.as_ref().filter(|h| !h.merged).map(|h| h.branch) {
            Some(branch) => self.source.merge_beside(&self.core, branch).await,
            None => Gate::Open,
        }
    }

    pub(crate) async fn merged_beside(&mut self, result: Result<(), SagaError>) {
        match result {
            Ok(()) => self.merged(Ok(())).await,
            // Most often the VM was stopped in the middle of it. Nothing is lost, so no event is recorded.
            Err(e) => {
                tracing::info!(vm = %self.core.id, why = chain(&e), "merging the committed disks is tried again");
                self.source.merge_after = Instant::now() + MERGE_AGAIN;
            }
        }
    }

    /// Starts the VM that took over. A VM that does not start is a problem of its own, not one of replication.
    async fn start_as_told(&mut self) -> Gate {
        let started = match self.core.look().await {
            Power::Off => self.start_vm(Asking::First).await.map(|_| ()),
            Power::Running | Power::Paused | Power::Stalled(_) => Ok(()),
            Power::NotKnown { why } => Err(crate::host::power::not_known(&why)),
        };
        if let Err(e) = started {
            let told = e.note();
            self.core
                .event(told.within(|e| format!("the VM took over but did not start: {e}")))
                .await;
            let fault = e.note().within(|e| format!("the VM did not start: {e}"));
            self.core.fault(ProblemKind::NotStarted, fault).await;
        }
        let Ok(mut change) = self.core.change() else {
            return Gate::Blocked;
        };
        if let Some(primary) = change.primary_mut() {
            primary.start = false;
        }
        match self.core.commit(change).await {
            Ok(()) => Gate::Open,
            Err(_) => {
                self.source.retry_later(&self.core);
                Gate::Blocked
            }
        }
    }

    /// A planned failover, asked for on this host, whichever side it is.
    pub(crate) async fn planned_failover(
        &mut self,
        force: bool,
        hand_over: bool,
        start: bool,
    ) -> Result<Answer, Refusal> {
        if hand_over && self.core.mode() == Mode::Primary {
            self.core.replica_takes_over(start).await?;
        }
        self.plan_failover_of_primary(force, hand_over, start).await
    }

    /// A planned failover, asked for on either host.
    async fn plan_failover_of_primary(
        &mut self,
        force: bool,
        hand_over: bool,
        start: bool,
    ) -> Result<Answer, Refusal> {
        let rel = self.core.rel.clone().ok_or_else(no_relationship)?;
        if rel.mode != Mode::Primary {
            return self
                .target
                .ask_primary(&mut self.core, &rel, force, hand_over, start)
                .await;
        }
        if let Some(planned) = self.core.planned().cloned() {
            return self.source.go_on(&mut self.core, planned, hand_over, start).await;
        }
        lifecycle::step(rel.mode, rel.state, Step::Prepared).map_err(|e| not_now(&e))?;
        if self.core.synchronization().is_some() {
            return Err(Refusal::new(
                ReturnCode::InUse,
                "the replica is being made equal; only then can it take over",
                hint::Copies::AwaitResync,
            ));
        }
        if !force {
            crate::host::power::can_shut_down(&self.core.look().await)?;
        }
        let job = self
            .core
            .host
            .jobs
            .draft(self.core.id, JobType::PlannedFailover, "shutting the VM down");
        let mut change = self.core.change()?;
        change.set_planned(Some(Planned {
            phase: PlannedPhase::Stopping,
            force,
            hand_over,
            start,
            job: job.id,
        }));
        change.tell("planned failover started");
        let answer = self.core.begin(change, job).await?;
        self.interrupt().await;
        self.source.next_at = Instant::now();
        Ok(answer)
    }

    /// RequestReplicationStateChange from 4 to 3, and giving up at every stage before.
    pub(crate) async fn cancel_planned(&mut self, force: bool) -> Result<Answer, Refusal> {
        let rel = self.core.rel.clone().ok_or_else(no_relationship)?;
        let Some(planned) = self.core.planned().cloned() else {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                "no planned failover is under way on this host",
                hint::Look::Status,
            ));
        };
        let locked = matches!(planned.phase, PlannedPhase::Prepared | PlannedPhase::HandingOver);
        if locked {
            // No call to take over may be on its way when the replica is asked to stand down.
            self.interrupt().await;
            let request = PeerRequest::StandDown { vm: self.core.id };
            match self.core.host.ports.link.call(&rel.peer, request).await {
                Ok(_) => {}
                Err(LinkError::Unreachable { peer, .. }) if !force => {
                    return Err(Refusal::new(
                        ReturnCode::Unavailable,
                        format!("{peer} cannot be reached and may have taken over"),
                        hint::Planned::ForceCancelPlanned,
                    ));
                }
                Err(e @ LinkError::Refused(_)) => return Err(link_refusal(&e)),
                Err(e) if force => {
                    self.core
                        .event(&format!("cancelled without the replica's word: {}", chain(&e)))
                        .await
                }
                Err(e) => return Err(link_refusal(&e)),
            }
        }
        let mut change = self.core.change()?;
        if locked {
            change.step(Step::Resume)?;
        }
        change.set_planned(None);
        let why = Some("cancelled".into());
        change.end_job(&self.core.host.jobs, Some(planned.job), JobState::Terminated, why);
        change.tell("planned failover cancelled");
        self.core.commit(change).await?;
        self.interrupt().await;
        self.source.next_at = Instant::now();
        Ok(Answer::Done)
    }

    pub(crate) async fn prepare_for(
        &mut self,
        peer: &PeerIdentity,
        force: bool,
        start: bool,
    ) -> Result<PeerReply, PeerRefusal> {
        self.core.is_peer(peer)?;
        let host = self.core.host.config.name.clone();
        if self.core.rel.as_ref().is_none_or(|r| r.mode != Mode::Primary) {
            let detail = "it is not the primary of this VM".into();
            return Err(PeerRefusal::NotNow { host, detail });
        }
        match self.plan_failover_of_primary(force, true, start).await {
            Ok(_) => Ok(PeerReply::Accepted),
            Err(e) => Err(PeerRefusal::NotNow {
                host,
                detail: e.note().into(),
            }),
        }
    }
}
