//! Planned failover on the primary, as a saga: shut the VM down, send the rest, lock it off, hand over. Each phase is
//! recorded before its work and can be repeated; until the replica has taken over it can be cancelled. What the replica
//! does is in `reverse`; how both find out that they went separate ways is here too.

use crate::contract::refusal::not_now;
use crate::contract::{Answer, Refusal};
use crate::core::Core;
use crate::host::power::power_refusal;
use crate::host::question::{Asking, Word, replica_knows, replica_unsure};
use crate::port::hypervisor::{Hypervisor, HypervisorError, Power};
use crate::port::link::{
    LinkError, PeerIdentity, PeerPower, PeerRefusal, PeerReply, PeerRequest, PlannedStep, PrimaryReport,
    Standing,
};
use crate::record::{Planned, PlannedPhase, Relationship, Side, Split};
use crate::roles::Done;
use crate::roles::resumed::planned_step;
use crate::source::SourcePart;
use crate::target::TargetPart;
use crate::work::calls::link_refusal;
use crate::work::message::{Message, Over};
use crate::work::piece::{BackgroundTask, IDLE, Work, droppable};
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::lifecycle::Event as Step;
use lifeboat_model::lifecycle::{self};
use lifeboat_model::{BranchId, JobState, JobType, Note, VmId, hint};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How soon a merge that failed is tried again.
pub(crate) const MERGE_AGAIN: Duration = Duration::from_secs(10);

/// How often the replica is asked how far taking over is.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How often it is asked at most when the replica asked for the failover: an hour.
const FOLLOWED: u32 = 3600;

/// What the role of a primary asks for before data flows.
pub(crate) enum Gate {
    /// This work first.
    Run(Work<Done>),
    /// Nothing until the next time; no data flows.
    Blocked,
    /// Nothing; data may flow.
    Open,
}

impl Core {
    pub(crate) fn planned(&self) -> Option<&Planned> {
        self.rel.as_ref()?.primary()?.planned.as_ref()
    }

    /// The VM is off for good, and its last instant is wanted.
    pub(crate) fn closing(&self) -> bool {
        self.planned().is_some_and(|p| p.phase == PlannedPhase::Closing)
    }

    fn merge_home(&self, branch: BranchId) -> Work<Done> {
        let (images, hypervisor) = (self.images(), self.hypervisor());
        let (vm, limit) = (self.id, self.host.config.merge_bytes_per_s);
        droppable(async move {
            Done::Merged(crate::failover::initiate::merge(images, hypervisor, vm, branch, limit).await)
        })
    }

    pub(crate) fn hand_over(&self, planned: &Planned) -> Gate {
        let Some(rel) = self.rel.as_ref() else {
            return Gate::Blocked;
        };
        let Some(at) = rel.primary().map(|p| p.acknowledged) else {
            return Gate::Blocked;
        };
        let request = PeerRequest::TakeOver {
            vm: self.id,
            at,
            start: planned.start,
        };
        let (link, peer) = (self.host.ports.link.clone(), rel.peer.clone());
        Gate::Run(droppable(async move {
            Done::HandedOver(link.call(&peer, request).await.map(|_| ()))
        }))
    }

    /// Asks the replica whether it takes over by this host's word, which spares the VM a shutdown for nothing. One that does
    /// not answer is asked again when the time has come, and what it says then counts.
    pub(crate) async fn replica_takes_over(&self, start: bool) -> Result<(), Refusal> {
        let Some(rel) = self.rel.as_ref() else {
            return Ok(());
        };
        let request = PeerRequest::Status {
            vm: self.id,
            report: PrimaryReport::Unspecified,
        };
        match self.host.ports.link.call(&rel.peer, request).await {
            Ok(PeerReply::Status(status)) => match status.hand_over.refusal(start, &rel.peer) {
                None => Ok(()),
                Some((why, hint)) => Err(Refusal::new(ReturnCode::AccessDenied, why, hint)),
            },
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Tells the caller that waits for a planned failover what keeps the last changes from arriving; `None`: nothing any more.
    pub(crate) fn tell_plan(&self, problem: Option<&str>) {
        let closing = self.planned().filter(|_| self.closing());
        let Some((planned, doing)) = closing.and_then(|p| Some((p, planned_step(p.phase)?))) else {
            return;
        };
        let detail = problem.map_or_else(|| doing.to_owned(), |p| format!("{doing}: {p}"));
        self.host.jobs.step(planned.job, 30, &detail);
    }

    /// Why the VM of a primary must not be started now; asks the replica whether it went on alone.
    pub(crate) async fn may_start_primary(&mut self, asking: Asking) -> Result<(), Refusal> {
        let Some(rel) = self.rel.as_ref().filter(|r| r.mode == Mode::Primary) else {
            return Ok(());
        };
        if let Some(planned) = self.planned().filter(|p| p.phase != PlannedPhase::Prepared) {
            return Err(Refusal::new(
                ReturnCode::InUse,
                format!("a planned failover is under way ({:?})", planned.phase),
                hint::Planned::CancelPlanned,
            ));
        }
        let (peer, took_over) = (rel.peer.clone(), rel.primary().is_some_and(|p| p.start));
        let gone = self.ask_further(asking).await?;
        self.forget_former(&gone).await;
        if !took_over && asking == Asking::First {
            match self.ask_standing(Some(&peer)).await {
                Word::Answered(theirs, seen) => {
                    self.evaluate_split(&theirs).await;
                    replica_knows(&theirs, &seen)?;
                }
                Word::Unanswered(seen) => return Err(replica_unsure(&seen)),
                // A primary starts its VM without its replica, which is lost at least as often as it is failed over.
                Word::Unreachable(_) | Word::NoAddress => {}
            }
        }
        match self
            .rel
            .as_ref()
            .and_then(Relationship::primary)
            .and_then(|p| p.split.as_ref())
        {
            None => Ok(()),
            Some(split) => Err(Refusal::new(
                ReturnCode::InvalidState,
                format!("this VM was brought up on the replica: {}", split.theirs),
                hint::Planned::DecideSplit,
            )),
        }
    }

    /// The replica refused because it went on without this side.
    pub(crate) async fn split(&mut self, committed: bool) {
        let Some(peer) = self.rel.as_ref().map(|r| r.peer.clone()) else {
            return;
        };
        if let Some(theirs) = self.ask_standing(Some(&peer)).await.standing() {
            return self.evaluate_split(&theirs).await;
        }
        let theirs = if committed {
            "it is committed there"
        } else {
            "it is failed over there"
        };
        self.set_split(Some((theirs.to_owned(), committed))).await;
    }

    /// Notes a split when the VM went on at the other side, and that there is none when it did not.
    pub(crate) async fn evaluate_split(&mut self, theirs: &Standing) {
        let gone_on = theirs.mode == Mode::Primary
            || matches!(
                theirs.state,
                State::FailoverInProgress | State::Recovered | State::Committed
            );
        let text = gone_on.then(|| {
            let power = match theirs.does() {
                PeerPower::Runs => "its VM runs there",
                PeerPower::Off => "its VM is off there",
                PeerPower::NotKnown { .. } => "its VM may run there",
            };
            let committed = theirs.mode == Mode::Primary || theirs.state == State::Committed;
            let text = format!(
                "{} as {} at {}, {power}",
                theirs.state, theirs.mode, theirs.position
            );
            (text, committed)
        });
        self.set_split(text).await;
    }

    async fn set_split(&mut self, to: Option<(String, bool)>) {
        let now = self.host.ports.clock.now();
        let Some(primary) = self.rel.as_ref().and_then(Relationship::primary) else {
            return;
        };
        let since = primary.split.as_ref().map_or(now, |s| s.since);
        let next = to.map(|(theirs, committed)| Split {
            since,
            theirs,
            committed,
        });
        if primary.split == next {
            return;
        }
        let text = match &next {
            Some(split) => format!("two copies went separate ways: on the replica {}", split.theirs),
            None => "the replica is a replica again".to_owned(),
        };
        self.note(|rel| rel.set_split(next)).await;
        self.event(&text).await;
    }

    /// What this side takes from here is taken there: nothing is split.
    pub(crate) fn rejoined(&mut self) {
        self.tally(|rel| rel.set_split(None));
    }

    /// Whether the other side of this relationship is calling: the host that was named as the peer, the third host, and for a
    /// replica any that may send to it. An authorization entry alone says that a host may replicate here, not that a VM of
    /// this host concerns it; it counts only where there is no relationship.
    pub(crate) fn is_peer(&self, peer: &PeerIdentity) -> Result<(), PeerRefusal> {
        let Some(rel) = self.rel.as_ref() else {
            return self.host.authorize(peer).map(|_| ());
        };
        if peer.is_host_of(&rel.peer) || self.is_third(peer) {
            return Ok(());
        }
        match &rel.side {
            Side::Replica(_) => self.trusts(peer).map(|_| ()),
            Side::Alone => self.host.authorize(peer).map(|_| ()),
            Side::Primary(_) | Side::Test { .. } => Err(PeerRefusal::NotNow {
                host: self.host.config.name.clone(),
                detail: "it shares no replication of this VM with the host that asks".into(),
            }),
        }
    }
}

impl SourcePart {
    /// Merges below a running VM while cycles flow; below one that is off alone, because capture would open the same files.
    pub(crate) async fn merge_beside(&mut self, core: &Core, branch: BranchId) -> Gate {
        if self.merging.as_ref().is_some_and(|m| !m.0.is_finished()) || Instant::now() < self.merge_after {
            return Gate::Open;
        }
        self.merging = None;
        match core.look().await {
            Power::Off => {
                self.forget();
                return Gate::Run(core.merge_home(branch));
            }
            Power::Running | Power::Paused | Power::Stalled(_) => {}
            Power::NotKnown { why } => {
                tracing::info!(vm = %core.id, why, "merging the committed disks waits until it is known whether the VM runs");
                self.merge_after = Instant::now() + MERGE_AGAIN;
                return Gate::Open;
            }
        }
        let (images, hypervisor) = (core.images(), core.hypervisor());
        let (vm, limit, own) = (core.id, core.host.config.merge_bytes_per_s, core.own.clone());
        let task = core.host.works.spawn(async move {
            let merged = crate::failover::initiate::merge(images, hypervisor, vm, branch, limit).await;
            if let Some(own) = own.upgrade() {
                // An actor that is gone merges again, or finds it done.
                let _ = own.send(Message::Merged(merged)).await;
            }
        });
        self.merging = Some(BackgroundTask(task));
        Gate::Open
    }

    /// Ends a merge beside the cycles; it is begun again where it is still wanted.
    pub(crate) async fn end_merge(&mut self) {
        if let Some(mut merge) = self.merging.take() {
            merge.0.abort();
            // It ended, or was aborted; both are what was wanted.
            let _ = (&mut merge.0).await;
        }
    }

    /// What a VM that is not replicated still has to do: finish the merge of a commit.
    pub(crate) fn plan_home(&mut self, core: &Core) -> Option<Work<Done>> {
        let home = core.rel.as_ref()?.home.as_ref()?;
        if home.merged {
            self.next_at = Instant::now() + IDLE;
            return None;
        }
        (Instant::now() >= self.next_at).then(|| core.merge_home(home.branch))
    }

    /// Asked again: prepared before, to be handed over now; or asked for the same once more.
    pub(crate) async fn go_on(
        &mut self,
        core: &mut Core,
        planned: Planned,
        hand_over: bool,
        start: bool,
    ) -> Result<Answer, Refusal> {
        let answer = |host: &crate::host::Host, job| {
            host.jobs
                .get(job)
                .map_or(Ok(Answer::Done), |j| Ok(Answer::from(j)))
        };
        if planned.phase != PlannedPhase::Prepared || !hand_over {
            if let Some(step) = planned_step(planned.phase) {
                core.host.jobs.step(planned.job, 10, step);
                core.event(&format!(
                    "a planned failover is under way already; it goes on with {step}"
                ))
                .await;
            }
            return answer(&core.host, planned.job);
        }
        core.still_prepared().await?;
        let mut change = core.change()?;
        let job = core
            .host
            .jobs
            .draft(core.id, JobType::PlannedFailover, "handing over to the replica");
        change.set_planned(Some(Planned {
            phase: PlannedPhase::HandingOver,
            hand_over,
            start,
            job: job.id,
            ..planned
        }));
        let answer = core.begin(change, job).await?;
        self.next_at = Instant::now();
        Ok(answer)
    }

    pub(crate) async fn stopped_for_good(&mut self, core: &mut Core, result: Result<(), Refusal>) {
        match result {
            Ok(()) => {
                let Ok(mut change) = core.change() else { return };
                change.set_planned_phase(PlannedPhase::Closing);
                if let Some(primary) = change.primary_mut() {
                    primary.settled = false;
                }
                change.tell("the VM is off; its last changes are being sent");
                if core.commit(change).await.is_err() {
                    self.retry_later(core);
                    return;
                }
                core.tell_plan(None);
                self.forget();
                self.next_at = Instant::now();
            }
            Err(refusal) => self.plan_failed(core, &refusal).await,
        }
    }

    /// The last changes are not known any more, so that both copies have to be compared. Where that never begins by itself,
    /// no caller may be left to wait for it.
    pub(crate) async fn plan_without_changes(&mut self, core: &mut Core, why: &str) {
        let by_itself = core
            .rel
            .as_ref()
            .is_some_and(|r| r.settings.auto_resync.is_some());
        if core.closing() && !by_itself {
            let refusal = Refusal::new(
                ReturnCode::InvalidState,
                format!("{why}; the VM is off, and resynchronization is required before it can move"),
                hint::Planned::ResyncAndRepeatPlanned,
            );
            self.plan_failed(core, &refusal).await;
        }
    }

    async fn plan_failed(&mut self, core: &mut Core, refusal: &Refusal) {
        let why = refusal.note();
        let Some(planned) = core.planned().cloned() else {
            return;
        };
        let Ok(mut change) = core.change() else { return };
        change.set_planned(None);
        change.with_job(core.host.jobs.refused(planned.job, refusal.code, why.clone()));
        change.tell(why.within(|why| format!("the planned failover was given up: {why}")));
        if core.commit(change).await.is_err() {
            return self.retry_later(core);
        }
        self.next_at = Instant::now();
    }

    /// The last instant is on the replica.
    pub(crate) async fn prepared(&mut self, core: &mut Core) {
        let Some(planned) = core
            .planned()
            .filter(|p| p.phase == PlannedPhase::Closing)
            .cloned()
        else {
            return;
        };
        let Ok(mut change) = core.change() else { return };
        if change.step(Step::Prepared).is_err() {
            return;
        }
        if planned.hand_over {
            change.set_planned_phase(PlannedPhase::HandingOver);
        } else {
            change.set_planned_phase(PlannedPhase::Prepared);
            change.end_job(&core.host.jobs, Some(planned.job), JobState::Completed, None);
        }
        change.tell("prepared for the failover: everything is on the replica, and the VM is locked off");
        if let Err(e) = core.commit(change).await {
            tracing::warn!(vm = %core.id, error = %e.message, "the end of the preparation is not recorded; it is repeated");
            return self.retry_later(core);
        }
        // Without an effect on a job that has ended.
        core.host.jobs.step(planned.job, 60, "the replica takes over");
        self.next_at = Instant::now();
    }

    pub(crate) async fn handed_over(&mut self, core: &mut Core, result: Result<(), LinkError>) {
        match result {
            // Under way there. The replica's offer of the reverse direction ends this role.
            Ok(()) => self.next_at = Instant::now() + ASK_AGAIN,
            Err(LinkError::Refused(refusal)) => {
                let Some(planned) = core.planned().cloned() else {
                    return;
                };
                let Ok(mut change) = core.change() else { return };
                change.set_planned_phase(PlannedPhase::Prepared);
                let why = refusal.note();
                let why = why.within(|why| format!("the replica does not take over: {why}"));
                let code = link_refusal(&LinkError::Refused(refusal)).code;
                change.with_job(core.host.jobs.refused(planned.job, code, why.clone()));
                change.tell(why);
                if core.commit(change).await.is_err() {
                    self.retry_later(core);
                }
            }
            Err(e) => {
                let note = e.note();
                let note = note.within(|e| format!("the replica cannot be told to take over: {e}"));
                core.fault(e.problem(), note).await;
                self.retry_later(core);
            }
        }
    }
}

impl TargetPart {
    pub(crate) async fn ask_primary(
        &mut self,
        core: &mut Core,
        rel: &Relationship,
        force: bool,
        hand_over: bool,
        start: bool,
    ) -> Result<Answer, Refusal> {
        if !hand_over {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                "preparing is done on the primary host",
                hint::Planned::WholePlanned,
            ));
        }
        // Its own checks are repeated there; this one spares the primary's VM a shutdown for nothing.
        lifecycle::step(rel.mode, rel.state, Step::InitiateFailover).map_err(|e| not_now(&e))?;
        let Some(primary) = rel.callback.clone() else {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                "it is not known where the primary takes calls",
                hint::Planned::PlanOnPrimary,
            ));
        };
        let vm = core.id;
        let request = PeerRequest::Prepare { vm, force, start };
        // Before it is asked: after a loss of power here it has to be looked what became of it.
        core.note_asked(true).await?;
        let asked = core.host.ports.link.call(&primary, request).await;
        if let Err(e) = asked {
            core.note_asked(false).await?;
            return Err(link_refusal(&e));
        }
        core.event("the primary was asked for a planned failover").await;
        if let Some(job) = core.host.jobs.unfinished(vm, JobType::PlannedFailover) {
            return Ok(Answer::from(job));
        }
        let job = core
            .host
            .jobs
            .draft(vm, JobType::PlannedFailover, "the primary prepares");
        // It only tells how far the primary is; lost, it takes nothing along.
        core.host.jobs.adopt(job.clone());
        let (host, own) = (core.host.clone(), core.own.clone());
        let task = core.host.works.spawn(async move {
            follow(host, vm, primary, job.id).await;
            if let Some(own) = own.upgrade() {
                // An actor that is gone asks the primary after its next start.
                let _ = own.send(Message::AskedOver(Over::Carried)).await;
            }
        });
        self.following = Some(BackgroundTask(task));
        Ok(Answer::from(job))
    }
}

/// Follows a planned failover that this replica asked its primary for, until it is over or given up there. Ends with the
/// daemon, like its job, which is in memory alone.
async fn follow(host: Arc<crate::host::Host>, vm: VmId, primary: String, job: lifeboat_model::JobId) {
    let end = |state, why: Option<Note>| {
        if let Some(job) = host.jobs.ended(job, state, why) {
            host.jobs.adopt(job);
        }
    };
    for _ in 0..FOLLOWED {
        tokio::time::sleep(ASK_AGAIN).await;
        let asked = host.ports.link.call(&primary, PeerRequest::Standing { vm }).await;
        let Ok(PeerReply::Standing(theirs)) = asked else {
            continue;
        };
        match theirs.mode {
            Mode::Primary => {}
            Mode::None | Mode::TestReplica => {
                let why = "the primary has removed the relationship";
                return end(JobState::Exception, Some(why.into()));
            }
            Mode::Replica | Mode::ExtendedReplica => return end(JobState::Completed, None),
        }
        let doing = match theirs.planned {
            None => Err("the primary gave it up and says why"),
            Some(PlannedStep::Prepared) => Err("the primary is prepared, but could not hand over"),
            Some(PlannedStep::Stopping) => Ok("the primary shuts the VM down"),
            Some(PlannedStep::Closing) => Ok("the primary sends the last changes"),
            Some(PlannedStep::HandingOver) => Ok("the primary hands over"),
        };
        let why = match doing {
            Ok(doing) => {
                host.jobs.step(job, 10, doing);
                continue;
            }
            Err(why) => why,
        };
        return end(JobState::Exception, Some(Note::new(why, hint::Look::JobsThere)));
    }
    end(
        JobState::Exception,
        Some("the primary is not through after an hour".into()),
    );
}

/// Shuts a VM down, and turns it off if that was asked for and it does not.
pub(crate) async fn stop(
    hypervisor: Arc<dyn Hypervisor>,
    vm: VmId,
    force: bool,
    timeout: Duration,
) -> Result<(), Refusal> {
    let not_off = |e: &HypervisorError| power_refusal("the VM was not turned off", e);
    // A paused or stalled guest cannot react to the power button.
    if force && matches!(hypervisor.power(vm).await, Power::Paused | Power::Stalled(_)) {
        return hypervisor.turn_off(vm).await.map_err(|e| not_off(&e));
    }
    let stopped = match hypervisor.hand_over(vm, timeout).await {
        Ok(()) | Err(HypervisorError::NotRunning) => return Ok(()),
        Err(e) => e,
    };
    if hypervisor.power(vm).await.is_off() {
        return Ok(());
    }
    if force {
        return hypervisor.turn_off(vm).await.map_err(|e| not_off(&e));
    }
    Err(match stopped {
        HypervisorError::ShutdownTimeout(t) => Refusal::new(
            ReturnCode::Timeout,
            format!("the guest did not shut down within {} seconds", t.as_secs()),
            hint::Guest::ShutDownOrForce,
        ),
        e => power_refusal("the VM did not shut down", &e),
    })
}
