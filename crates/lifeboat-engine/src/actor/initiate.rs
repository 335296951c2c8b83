//! Failover where it ends other work, and which step of a failover comes next. The steps are `failover::initiate`'s.

use crate::actor::Actor;
use crate::contract::refusal::{no_relationship, not_now};
use crate::contract::{Answer, PointSelector, PointView, Refusal};
use crate::failover::Done;
use crate::failover::initiate::{Consent, choose, disorder_note, initiate, kind, merge, position_of};
use crate::host::question;
use crate::host::question::Asking;
use crate::record::{Failover, FailoverPhase};
use crate::work::launch::connected;
use crate::work::piece::{IDLE, Work, droppable, undroppable};
use crate::work::saga::SagaError;
use lifeboat_model::lifecycle::Event as Step;
use lifeboat_model::lifecycle::{self};
use lifeboat_model::{BranchId, JobState, JobType, ProblemKind};
use tokio::time::Instant;

impl Actor {
    pub(crate) async fn initiate_failover(
        &mut self,
        point: &PointSelector,
        start: bool,
        force: bool,
    ) -> Result<Answer, Refusal> {
        let rel = self.core.rel.clone().ok_or_else(no_relationship)?;
        // The state decides before the points are looked at, so that the administrator reads its hint.
        lifecycle::step(rel.mode, rel.state, Step::InitiateFailover).map_err(|e| not_now(&e))?;
        choose(&self.core.replica_info().await?, point)?;
        let unreached = if force {
            None
        } else {
            let primary = self.core.ask_standing(rel.callback.as_deref());
            let (word, further) = tokio::join!(primary, self.core.ask_further(Asking::First));
            let unreached = question::may_bring_up(&word)?;
            further?;
            unreached
        };
        self.interrupt().await;
        self.target.stop_receiving().await;
        // Again, because a log may have become durable until now.
        let info = self.core.replica_info().await?;
        let chosen = choose(&info, point)?;
        let note = disorder_note(&info, point);
        let told = unreached.clone();
        let answer = self
            .begin_failover(
                chosen,
                start,
                Consent {
                    take_over: None,
                    // Disks alone are no second copy: the person who starts the VM on them later answers for that.
                    forced: force && start,
                    unreached,
                },
            )
            .await?;
        if let Some(seen) = told {
            self.core
                .event(&format!(
                    "the failover goes on without the primary's word: {seen}"
                ))
                .await;
        }
        self.core.tell_disorder(note, answer).await
    }

    /// Records a failover to a point and begins it.
    pub(crate) async fn begin_failover(
        &mut self,
        chosen: PointView,
        start: bool,
        consent: Consent,
    ) -> Result<Answer, Refusal> {
        self.interrupt().await;
        self.target.stop_receiving().await;
        let at = position_of(&self.core.replica_info().await?, chosen.target);
        self.core.check_point(&chosen).await?;
        let mut change = self.core.change()?;
        let before = change.state;
        change.step(Step::InitiateFailover)?;
        let job = self
            .core
            .host
            .jobs
            .draft(self.core.id, JobType::Failover, "making the failover disks");
        change.set_failover(Some(Failover {
            branch: BranchId(self.core.host.ports.entropy.uuid()),
            target: chosen.target,
            instant: chosen.instant,
            consistency: chosen.consistency,
            kind: kind(chosen.consistency),
            phase: FailoverPhase::Initiating { start },
            job: job.id,
            before,
            at,
            forced: consent.forced,
            unreached: consent.unreached,
            take_over: consent.take_over,
            reverse: None,
        }));
        if start {
            self.guest.end();
            change.expect_addresses(true);
        }
        change.tell(format!("failover to point {} started", chosen.id));
        self.core.begin(change, job).await
    }

    pub(crate) async fn plan_failover(&mut self, phase: FailoverPhase) -> Option<Work<super::Done>> {
        let mut failover = self.core.failover()?.clone();
        if Instant::now() < self.target.next_at {
            return None;
        }
        if phase == FailoverPhase::Ready && failover.take_over.is_some() {
            if !self.core.commit_taking_over().await {
                self.target.replica_retry();
                return None;
            }
            failover = self.core.failover()?.clone();
        }
        let phase = failover.phase;
        let committed = matches!(phase, FailoverPhase::Merging | FailoverPhase::Done);
        if committed && (failover.reverse.is_some() || failover.take_over.is_some()) {
            return self.plan_after_commit(&failover).await;
        }
        let (images, hypervisor, vm) = (self.core.images(), self.core.hypervisor(), self.core.id);
        let rel = self.core.rel.as_ref()?;
        let machine = (
            connected(&rel.spec, &rel.network, self.core.local.as_ref()),
            rel.network.clone(),
        );
        let sealer = self.target.sealer(&self.core);
        let work = match phase {
            FailoverPhase::Initiating { start } => {
                self.definition.forget_definition();
                Some(undroppable(async move {
                    Done::FailedOver(
                        initiate(images, hypervisor, vm, machine, failover, (start, sealer)).await,
                    )
                }))
            }
            FailoverPhase::Reverting => Some(undroppable(async move {
                let reverted = async {
                    hypervisor.turn_off(vm).await?;
                    Ok(images?.drop_branch(vm, failover.branch).await?)
                };
                Done::Reverted(reverted.await)
            })),
            // The points go with it, and what stands on them first.
            FailoverPhase::Committing { .. } if self.core.test().is_some() => self.core.plan_test_end(),
            FailoverPhase::Committing { .. } => Some(undroppable(async move {
                let committed = async { images?.promote(vm, failover.branch).await };
                Done::Committed(committed.await.map_err(SagaError::Store))
            })),
            FailoverPhase::Merging => {
                let limit = self.core.host.config.merge_bytes_per_s;
                Some(droppable(async move {
                    Done::Merged(merge(images, hypervisor, vm, failover.branch, limit).await)
                }))
            }
            FailoverPhase::Ready | FailoverPhase::Done => {
                self.target.next_at = Instant::now() + IDLE;
                None
            }
        };
        work.map(Work::into)
    }

    pub(crate) async fn merged(&mut self, result: Result<(), SagaError>) {
        let Ok(mut change) = self.core.change() else {
            return;
        };
        match result {
            Ok(()) => {
                change.set_failover_phase(FailoverPhase::Done);
                if let Some(home) = change.home.as_mut() {
                    home.merged = true;
                }
                change.problem = None;
                change.tell("the committed disks are merged");
                self.core.end_phase(&mut change, JobState::Completed, None);
                self.core.conclude_work(change).await;
            }
            Err(e) => {
                let note = e
                    .note()
                    .within(|e| format!("merging the committed disks waits: {e}"));
                self.core.fault(e.problem(ProblemKind::NotMerged), note).await;
                self.target.replica_retry();
                self.source.retry_later(&self.core);
            }
        }
    }
}
