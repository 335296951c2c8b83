//! Planned failover on the primary, as a saga: shut the VM down, send the rest, lock it off, hand over. Each phase is
//! recorded before its work and can be repeated; until the replica has taken over it can be cancelled. What the replica
//! does is in `reverse`; how both find out that they went separate ways is here too.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_model::api::ReturnCode;
use lifeboat_model::lifecycle::{self, Event as Step};
use lifeboat_model::{BranchId, JobState, JobType, ReplicationMode as Mode, ReplicationState as State, VmId};
use tokio::time::Instant;

use crate::action::{Answer, Refusal};
use crate::actor::{Actor, Done, Message, Work, chain, no_relationship, not_now};
use crate::operations::link_refusal;
use crate::ports::hypervisor::{Hypervisor, HypervisorError, Power};
use crate::ports::link::{
    LinkError, PeerIdentity, PeerPower, PeerRefusal, PeerReply, PeerRequest, PrimaryReport, Standing,
};
use crate::power::power_refusal;
use crate::primary::{Aside, IDLE, droppable};
use crate::question::{Asking, Word, replica_knows, replica_unsure};
use crate::records::{Planned, PlannedPhase, Relationship, Side, Split};
use crate::resumed::{Over, planned_step};
use crate::saga::SagaError;

/// How soon a merge that failed is tried again.
const MERGE_AGAIN: Duration = Duration::from_secs(10);

/// How often the replica is asked how far taking over is.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How often it is asked at most when the replica asked for the failover: an hour.
const FOLLOWED: u32 = 3600;

/// What the role of a primary asks for before data flows.
pub(crate) enum Role {
    /// This first.
    Works(Work),
    /// Nothing until the next time.
    Waits,
    /// Nothing; data may flow.
    Flows,
}

impl Actor {
    pub(crate) fn planned(&self) -> Option<&Planned> {
        self.rel.as_ref()?.primary()?.planned.as_ref()
    }

    /// The VM is off for good, and its last instant is wanted.
    pub(crate) fn closing(&self) -> bool {
        self.planned().is_some_and(|p| p.phase == PlannedPhase::Closing)
    }

    pub(crate) async fn plan_role(&mut self) -> Role {
        match self.planned().map(|p| (p.phase, p.clone())) {
            Some((PlannedPhase::Stopping, planned)) => {
                // An open image of a powered-off VM would be in the way of nothing but itself.
                let hypervisor = self.host.ports.hypervisor.clone();
                let (vm, timeout) = (self.id, self.host.config.shutdown_timeout);
                return Role::Works(droppable(async move {
                    Done::Stopped(stop(hypervisor, vm, planned.force, timeout).await)
                }));
            }
            Some((PlannedPhase::HandingOver, planned)) => return self.hand_over(&planned),
            Some((PlannedPhase::Closing | PlannedPhase::Prepared, _)) | None => {}
        }
        let Some(rel) = self.rel.as_ref() else {
            return Role::Waits;
        };
        if rel.primary().is_some_and(|p| p.start) {
            return self.start_as_told().await;
        }
        match rel.home.as_ref().filter(|h| !h.merged).map(|h| h.branch) {
            Some(branch) => self.merge_beside(branch).await,
            None => Role::Flows,
        }
    }

    /// Merges below a running VM while cycles flow; below one that is off alone, because capture would open the same files.
    async fn merge_beside(&mut self, branch: BranchId) -> Role {
        if self.primary.merging.as_ref().is_some_and(|m| !m.0.is_finished())
            || Instant::now() < self.primary.merge_after
        {
            return Role::Flows;
        }
        self.primary.merging = None;
        match self.look().await {
            Power::Off => {
                self.primary.forget();
                return Role::Works(self.merge_home(branch));
            }
            Power::Running | Power::Paused | Power::Stalled(_) => {}
            Power::NotKnown { why } => {
                tracing::info!(vm = %self.id, why, "merging the committed disks waits until it is known whether the VM runs");
                self.primary.merge_after = Instant::now() + MERGE_AGAIN;
                return Role::Flows;
            }
        }
        let (store, hypervisor) = (self.host.ports.store.clone(), self.host.ports.hypervisor.clone());
        let (vm, limit, own) = (self.id, self.host.config.merge_bytes_per_s, self.own.clone());
        let task = self.host.works.spawn(async move {
            let merged = crate::failover::merge(store, hypervisor, vm, branch, limit).await;
            if let Some(own) = own.upgrade() {
                // An actor that is gone merges again, or finds it done.
                let _ = own.send(Message::Merged(merged)).await;
            }
        });
        self.primary.merging = Some(Aside(task));
        Role::Flows
    }

    pub(crate) async fn merged_beside(&mut self, result: Result<(), SagaError>) {
        match result {
            Ok(()) => self.merged(Ok(())).await,
            // The VM was stopped in the middle of it, most of all. Nothing is lost, and nobody has to know.
            Err(e) => {
                tracing::info!(vm = %self.id, why = chain(&e), "merging the committed disks is tried again");
                self.primary.merge_after = Instant::now() + MERGE_AGAIN;
            }
        }
    }

    /// Ends a merge beside the cycles; it is begun again where it is still wanted.
    pub(crate) async fn end_merge(&mut self) {
        if let Some(mut merge) = self.primary.merging.take() {
            merge.0.abort();
            // It ended, or was aborted; both are what was wanted.
            let _ = (&mut merge.0).await;
        }
    }

    fn merge_home(&self, branch: BranchId) -> Work {
        let (store, hypervisor) = (self.host.ports.store.clone(), self.host.ports.hypervisor.clone());
        let (vm, limit) = (self.id, self.host.config.merge_bytes_per_s);
        droppable(
            async move { Done::Merged(crate::failover::merge(store, hypervisor, vm, branch, limit).await) },
        )
    }

    /// What a VM that is not replicated still has to do: finish the merge of a commit.
    pub(crate) fn plan_home(&mut self) -> Option<Work> {
        let home = self.rel.as_ref()?.home.as_ref()?;
        if home.merged {
            self.primary.next_at = Instant::now() + IDLE;
            return None;
        }
        (Instant::now() >= self.primary.next_at).then(|| self.merge_home(home.branch))
    }

    /// Starts the VM that took over. A VM that does not start is a problem of its own, not one of replication.
    async fn start_as_told(&mut self) -> Role {
        let started = match self.look().await {
            Power::Off => self.start_vm(Asking::First).await.map(|_| ()),
            Power::Running | Power::Paused | Power::Stalled(_) => Ok(()),
            Power::NotKnown { why } => Err(crate::power::not_known(&why)),
        };
        if let Err(e) = started {
            self.event(&format!("the VM took over but did not start: {}", e.message))
                .await;
            self.fault(&format!("the VM did not start: {}", e.message)).await;
        }
        let Ok(mut change) = self.change() else {
            return Role::Waits;
        };
        if let Some(primary) = change.primary_mut() {
            primary.start = false;
        }
        match self.commit(change).await {
            Ok(()) => Role::Flows,
            Err(_) => {
                self.retry_later();
                Role::Waits
            }
        }
    }

    fn hand_over(&self, planned: &Planned) -> Role {
        let Some(rel) = self.rel.as_ref() else {
            return Role::Waits;
        };
        let Some(at) = rel.primary().map(|p| p.acknowledged) else {
            return Role::Waits;
        };
        let request = PeerRequest::TakeOver {
            vm: self.id,
            at,
            start: planned.start,
        };
        let (link, peer) = (self.host.ports.link.clone(), rel.peer.clone());
        Role::Works(droppable(async move {
            Done::HandedOver(link.call(&peer, request).await.map(|_| ()))
        }))
    }

    /// A planned failover, asked for on this host, whichever side it is.
    pub(crate) async fn planned_failover(
        &mut self,
        force: bool,
        hand_over: bool,
        start: bool,
    ) -> Result<Answer, Refusal> {
        if hand_over && self.mode() == Mode::Primary {
            self.replica_takes_over(start).await?;
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
        let rel = self.rel.clone().ok_or_else(no_relationship)?;
        if rel.mode != Mode::Primary {
            return self.ask_primary(&rel, force, hand_over, start).await;
        }
        if let Some(planned) = self.planned() {
            return self.go_on(planned.clone(), hand_over, start).await;
        }
        lifecycle::step(rel.mode, rel.state, Step::Prepared).map_err(|e| not_now(&e))?;
        if self.synchronization().is_some() {
            return Err(Refusal::new(
                ReturnCode::InUse,
                "the replica is being made equal; only then can it take over",
                "wait for it: lifeboat replication status",
            ));
        }
        if !force {
            crate::power::can_shut_down(&self.look().await)?;
        }
        let job = self
            .host
            .jobs
            .draft(self.id, JobType::PlannedFailover, "shutting the VM down");
        let mut change = self.change()?;
        change.set_planned(Some(Planned {
            phase: PlannedPhase::Stopping,
            force,
            hand_over,
            start,
            job: job.id,
        }));
        change.tell("planned failover started");
        let answer = self.begin(change, job).await?;
        self.interrupt().await;
        self.primary.next_at = Instant::now();
        Ok(answer)
    }

    /// Asks the replica whether it takes over by this host's word, which spares the VM a shutdown for nothing. One that does
    /// not answer is asked again when the time has come, and what it says then counts.
    async fn replica_takes_over(&self, start: bool) -> Result<(), Refusal> {
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
                Some((why, way_out)) => Err(Refusal::new(ReturnCode::AccessDenied, why, way_out)),
            },
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Asked again: prepared before, to be handed over now; or the same wish once more.
    async fn go_on(&mut self, planned: Planned, hand_over: bool, start: bool) -> Result<Answer, Refusal> {
        let answer = |host: &crate::engine::Host, job| {
            host.jobs
                .get(job)
                .map_or(Ok(Answer::Done), |j| Ok(Answer::Job(j)))
        };
        if planned.phase != PlannedPhase::Prepared || !hand_over {
            if let Some(step) = planned_step(planned.phase) {
                self.host.jobs.step(planned.job, 10, step);
                self.event(&format!(
                    "a planned failover is under way already; it goes on with {step}"
                ))
                .await;
            }
            return answer(&self.host, planned.job);
        }
        self.still_prepared().await?;
        let mut change = self.change()?;
        let job = self
            .host
            .jobs
            .draft(self.id, JobType::PlannedFailover, "handing over to the replica");
        change.set_planned(Some(Planned {
            phase: PlannedPhase::HandingOver,
            hand_over,
            start,
            job: job.id,
            ..planned
        }));
        let answer = self.begin(change, job).await?;
        self.primary.next_at = Instant::now();
        Ok(answer)
    }

    async fn ask_primary(
        &mut self,
        rel: &Relationship,
        force: bool,
        hand_over: bool,
        start: bool,
    ) -> Result<Answer, Refusal> {
        if !hand_over {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                "preparing is done on the primary host",
                "without --prepare the whole planned failover can be asked for here",
            ));
        }
        // Its own checks are repeated there; this one spares the primary's VM a shutdown for nothing.
        lifecycle::step(rel.mode, rel.state, Step::InitiateFailover).map_err(|e| not_now(&e))?;
        let Some(primary) = rel.callback.clone() else {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                "it is not known where the primary takes calls",
                "start the planned failover on the primary host",
            ));
        };
        let vm = self.id;
        let request = PeerRequest::Prepare { vm, force, start };
        // Before it is asked: after a loss of power here somebody has to look what became of it.
        self.note_asked(true).await?;
        let asked = self.host.ports.link.call(&primary, request).await;
        if let Err(e) = asked {
            self.note_asked(false).await?;
            return Err(link_refusal(&e));
        }
        self.event("the primary was asked for a planned failover").await;
        if let Some(job) = self.host.jobs.unfinished(vm, JobType::PlannedFailover) {
            return Ok(Answer::Job(job));
        }
        let job = self
            .host
            .jobs
            .draft(vm, JobType::PlannedFailover, "the primary prepares");
        // It only tells how far the primary is; lost, it takes nothing along.
        self.host.jobs.adopt(job.clone());
        let (host, own) = (self.host.clone(), self.own.clone());
        let task = self.host.works.spawn(async move {
            follow(host, vm, primary, job.id).await;
            if let Some(own) = own.upgrade() {
                // An actor that is gone asks the primary after its next start.
                let _ = own.send(Message::AskedOver(Over::Carried)).await;
            }
        });
        self.replica.following = Some(Aside(task));
        Ok(Answer::Job(job))
    }

    pub(crate) async fn stopped_for_good(&mut self, result: Result<(), Refusal>) {
        match result {
            Ok(()) => {
                let Ok(mut change) = self.change() else { return };
                change.set_planned_phase(PlannedPhase::Closing);
                if let Some(primary) = change.primary_mut() {
                    primary.settled = false;
                }
                change.tell("the VM is off; its last changes are being sent");
                if self.commit(change).await.is_err() {
                    self.retry_later();
                    return;
                }
                self.tell_plan(None);
                self.primary.forget();
                self.primary.next_at = Instant::now();
            }
            Err(refusal) => self.plan_failed(&refusal).await,
        }
    }

    /// The last changes are not known any more, so that both copies have to be compared. Where that never begins by itself
    /// nobody may be left to wait for it.
    pub(crate) async fn plan_without_changes(&mut self, why: &str) {
        let by_itself = self
            .rel
            .as_ref()
            .is_some_and(|r| r.settings.auto_resync.is_some());
        if self.closing() && !by_itself {
            let refusal = Refusal::new(
                ReturnCode::InvalidState,
                format!(
                    "{why}; the VM is off, and resynchronization is required before it can move: lifeboat replication resync, \
                     then the planned failover again; or lifeboat vm start"
                ),
                "",
            );
            self.plan_failed(&refusal).await;
        }
    }

    /// Whoever waits for a planned failover is told what keeps the last changes from arriving; `None`: nothing any more.
    pub(crate) fn tell_plan(&self, problem: Option<&str>) {
        let closing = self.planned().filter(|_| self.closing());
        let Some((planned, doing)) = closing.and_then(|p| Some((p, planned_step(p.phase)?))) else {
            return;
        };
        let detail = problem.map_or_else(|| doing.to_owned(), |p| format!("{doing}: {p}"));
        self.host.jobs.step(planned.job, 30, &detail);
    }

    async fn plan_failed(&mut self, refusal: &Refusal) {
        let why = &refusal.message;
        let Some(planned) = self.planned().cloned() else {
            return;
        };
        let Ok(mut change) = self.change() else { return };
        change.set_planned(None);
        change.with_job(self.host.jobs.refused(planned.job, refusal.code, why));
        change.tell(format!("the planned failover was given up: {why}"));
        if self.commit(change).await.is_err() {
            return self.retry_later();
        }
        self.primary.next_at = Instant::now();
    }

    /// The last instant is on the replica.
    pub(crate) async fn prepared(&mut self) {
        let Some(planned) = self
            .planned()
            .filter(|p| p.phase == PlannedPhase::Closing)
            .cloned()
        else {
            return;
        };
        let Ok(mut change) = self.change() else { return };
        if change.step(Step::Prepared).is_err() {
            return;
        }
        if planned.hand_over {
            change.set_planned_phase(PlannedPhase::HandingOver);
        } else {
            change.set_planned_phase(PlannedPhase::Prepared);
            change.end_job(&self.host.jobs, Some(planned.job), JobState::Completed, None);
        }
        change.tell("prepared for the failover: everything is on the replica, and the VM is locked off");
        if let Err(e) = self.commit(change).await {
            tracing::warn!(vm = %self.id, error = %e.message, "the end of the preparation is not recorded; it is repeated");
            return self.retry_later();
        }
        // Without an effect on a job that has ended.
        self.host.jobs.step(planned.job, 60, "the replica takes over");
        self.primary.next_at = Instant::now();
    }

    pub(crate) async fn handed_over(&mut self, result: Result<(), LinkError>) {
        match result {
            // Under way there. The replica's offer of the reverse direction ends this role.
            Ok(()) => self.primary.next_at = Instant::now() + ASK_AGAIN,
            Err(LinkError::Refused(refusal)) => {
                let Some(planned) = self.planned().cloned() else {
                    return;
                };
                let Ok(mut change) = self.change() else { return };
                change.set_planned_phase(PlannedPhase::Prepared);
                let why = format!("the replica does not take over: {refusal}");
                let code = link_refusal(&LinkError::Refused(refusal)).code;
                change.with_job(self.host.jobs.refused(planned.job, code, &why));
                change.tell(why);
                if self.commit(change).await.is_err() {
                    self.retry_later();
                }
            }
            Err(e) => {
                self.fault(&format!("the replica cannot be told to take over: {}", chain(&e)))
                    .await;
                self.retry_later();
            }
        }
    }

    /// RequestReplicationStateChange from 4 to 3, and giving up at every stage before.
    pub(crate) async fn cancel_planned(&mut self, force: bool) -> Result<Answer, Refusal> {
        let rel = self.rel.clone().ok_or_else(no_relationship)?;
        let Some(planned) = self.planned().cloned() else {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                "no planned failover is under way on this host",
                "see: lifeboat replication status",
            ));
        };
        let locked = matches!(planned.phase, PlannedPhase::Prepared | PlannedPhase::HandingOver);
        if locked {
            // No call to take over may be on its way when the replica is asked to stand down.
            self.interrupt().await;
            let request = PeerRequest::StandDown { vm: self.id };
            match self.host.ports.link.call(&rel.peer, request).await {
                Ok(_) => {}
                Err(LinkError::Unreachable { peer, .. }) if !force => {
                    return Err(Refusal::new(
                        ReturnCode::Unavailable,
                        format!("{peer} cannot be reached and may have taken over"),
                        "when you know that the VM does not run there: lifeboat failover cancel --force",
                    ));
                }
                Err(e @ LinkError::Refused(_)) => return Err(link_refusal(&e)),
                Err(e) if force => {
                    self.event(&format!("cancelled without the replica's word: {}", chain(&e)))
                        .await
                }
                Err(e) => return Err(link_refusal(&e)),
            }
        }
        let mut change = self.change()?;
        if locked {
            change.step(Step::Resume)?;
        }
        change.set_planned(None);
        let why = Some("cancelled".to_owned());
        change.end_job(&self.host.jobs, Some(planned.job), JobState::Terminated, why);
        change.tell("planned failover cancelled");
        self.commit(change).await?;
        self.interrupt().await;
        self.primary.next_at = Instant::now();
        Ok(Answer::Done)
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
                "cancel it first: lifeboat failover cancel",
            ));
        }
        let (peer, took_over) = (rel.peer.clone(), rel.primary().is_some_and(|p| p.start));
        let gone = self.ask_further(asking).await?;
        self.forget_former(&gone).await;
        if !took_over && asking == Asking::First {
            match self.ask_standing(Some(&peer)).await {
                Word::Answered(theirs, seen) => {
                    self.weigh(&theirs).await;
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
                "revert the failover there, or give this copy back to it there (lifeboat replication reverse), or separate the two for good (lifeboat replication remove)",
            )),
        }
    }

    /// The replica refused because it went on without this side.
    pub(crate) async fn split(&mut self, committed: bool) {
        let Some(peer) = self.rel.as_ref().map(|r| r.peer.clone()) else {
            return;
        };
        if let Some(theirs) = self.ask_standing(Some(&peer)).await.standing() {
            return self.weigh(&theirs).await;
        }
        let theirs = match committed {
            true => "it is committed there",
            false => "it is failed over there",
        };
        self.set_split(Some((theirs.to_owned(), committed))).await;
    }

    pub(crate) async fn weigh(&mut self, theirs: &Standing) {
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

    pub(crate) async fn prepare_for(
        &mut self,
        peer: &PeerIdentity,
        force: bool,
        start: bool,
    ) -> Result<PeerReply, PeerRefusal> {
        self.is_peer(peer)?;
        let host = self.host.config.name.clone();
        if self.rel.as_ref().is_none_or(|r| r.mode != Mode::Primary) {
            let detail = "it is not the primary of this VM".to_owned();
            return Err(PeerRefusal::NotNow { host, detail });
        }
        match self.plan_failover_of_primary(force, true, start).await {
            Ok(_) => Ok(PeerReply::Accepted),
            Err(e) => Err(PeerRefusal::NotNow {
                host,
                detail: format!("{e}; {}", e.hint),
            }),
        }
    }
}

/// Follows a planned failover that this replica asked its primary for, until it is over or given up there. Ends with the
/// daemon, like its job, which is in memory alone.
async fn follow(host: Arc<crate::engine::Host>, vm: VmId, primary: String, job: lifeboat_model::JobId) {
    let end = |state, why: Option<String>| {
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
                return end(JobState::Exception, Some(why.to_owned()));
            }
            Mode::Replica | Mode::ExtendedReplica => return end(JobState::Completed, None),
        }
        let doing = match theirs.planned {
            None => Err("the primary gave it up and says why: lifeboat job list, there"),
            Some(PlannedPhase::Prepared) => {
                Err("the primary is prepared, but could not hand over; see there: lifeboat job list")
            }
            Some(PlannedPhase::Stopping) => Ok("the primary shuts the VM down"),
            Some(PlannedPhase::Closing) => Ok("the primary sends the last changes"),
            Some(PlannedPhase::HandingOver) => Ok("the primary hands over"),
        };
        let why = match doing {
            Ok(doing) => {
                host.jobs.step(job, 10, doing);
                continue;
            }
            Err(why) => why,
        };
        return end(JobState::Exception, Some(why.to_owned()));
    }
    end(
        JobState::Exception,
        Some("the primary is not through after an hour".to_owned()),
    );
}

/// Shuts a VM down, and turns it off if that was asked for and it does not.
async fn stop(
    hypervisor: Arc<dyn Hypervisor>,
    vm: VmId,
    force: bool,
    timeout: Duration,
) -> Result<(), Refusal> {
    let not_off = |e: &HypervisorError| power_refusal("the VM was not turned off", e);
    // A guest that stands still cannot react to the power button.
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
            format!(
                "the guest did not shut down within {} seconds; shut it down in the guest, or repeat with --force, which turns it off",
                t.as_secs()
            ),
            "",
        ),
        e => power_refusal("the VM did not shut down", &e),
    })
}
