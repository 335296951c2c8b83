//! What an administrator asks of an outgoing relationship, on the host in the middle: to make, start, change, compare, suspend,
//! cancel and remove it. Each is recorded before it is answered. `forwarder` sends, and `outgoing` records what becomes of it.

use crate::common::address::host_of;
use crate::contract::refusal::{no_relationship, not_now};
use crate::contract::{Answer, InitialCopy, Refusal};
use crate::core::{Core, Wake};
use crate::port::link::{PeerReply, PeerRequest};
use crate::port::store::StoreError;
use crate::record::{Job, OutgoingRelationship, Relationship};
use crate::source::forwarder::ForwarderConfig;
use crate::source::outgoing::{Forwarding, not_extended};
use crate::source::{forwarder, machine};
use crate::work::calls::{failed, link_refusal, unexpected};
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::lifecycle::Event as Step;
use lifeboat_model::lifecycle::{self};
use lifeboat_model::{JobId, JobState, JobType, RelationshipId, ReplicationSettings, Timestamp, hint};

/// Jobs of an outgoing relationship that may wait for their time.
const WAITING: [JobType; 2] = [JobType::StartReplication, JobType::ResyncExtended];

impl Core {
    /// CreateReplicationRelationship on a replica, and StartReplication when it is to be started as well.
    pub(crate) async fn extend(
        &mut self,
        mut settings: ReplicationSettings,
        start: bool,
    ) -> Result<Answer, Refusal> {
        let mut change = self.change()?;
        let rel = self.rel.as_ref().ok_or_else(no_relationship)?;
        if settings.disks.is_empty() {
            settings.disks.clone_from(&rel.settings.disks);
        }
        may_extend(rel)?;
        let there = already(rel, &settings.peer);
        if let Some(there) = there.filter(|e| !start || e.state != State::ReadyForReplication) {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                format!("this replica is extended to {} already", there.settings.peer),
                hint::Extend::Remove,
            ));
        }
        sendable(rel, &settings)?;
        let made = lifecycle::step(Mode::None, State::Disabled, Step::Create).map_err(|e| not_now(&e))?;
        let state = if start {
            lifecycle::step(Mode::Primary, made, Step::StartCopy).map_err(|e| not_now(&e))?
        } else {
            made
        };
        let created = there.map_or_else(|| self.host.ports.clock.now(), |e| e.created);
        let id = there.map(|e| e.id);
        let preflight = self.offer_third(rel, &settings).await?;
        let job = start.then(|| self.copy_job(there, &settings.peer));
        let peer = settings.peer.clone();
        if let Some(replica) = change.replica_mut() {
            replica.outgoing.put(OutgoingRelationship {
                id: id.unwrap_or_else(|| replica.outgoing.free()),
                settings,
                state,
                preflight,
                created,
                job: job.as_ref().map(|j| j.id),
                ..OutgoingRelationship::default()
            });
        }
        change.tell(format!("replication is extended to {peer}"));
        match job {
            Some(job) => self.begin(change, job).await,
            None => self.commit(change).await.map(|()| Answer::Done),
        }
    }

    /// The job of a copy, in place of the one that waited for it.
    fn copy_job(&self, there: Option<&OutgoingRelationship>, peer: &str) -> Job {
        let waiting = there.and_then(|one| self.waiting_job(one));
        let detail = format!("copying to {peer}");
        let jobs = &self.host.jobs;
        jobs.begin_or(waiting, self.id, JobType::StartReplication, &detail)
    }

    /// Offers the newest point; what would keep the VM from starting there.
    async fn offer_third(
        &self,
        rel: &Relationship,
        settings: &ReplicationSettings,
    ) -> Result<Vec<String>, Refusal> {
        let info = self.replica_info().await?;
        let Some(point) = info.points.last().filter(|_| rel.failover().is_none()) else {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                "this replica has no recovery point that could be sent, or is failed over",
                hint::Extend::AwaitOrRevert,
            ));
        };
        let config = ForwarderConfig {
            spec: rel.spec.clone(),
            settings: settings.clone(),
            paused: false,
            copying: None,
            compare: None,
        };
        let firmware = self.stored_firmware().await;
        let firmware = firmware.map_err(|e| failed("the firmware variables cannot be read", &e))?;
        let offer = forwarder::offer(&config, &info, point, self.host.config.listen.clone(), firmware);
        let answer = self.host.ports.link.call(&settings.peer, offer).await;
        match answer.map_err(|e| link_refusal(&e))? {
            PeerReply::Status(status) => Ok(status.problems),
            other => Err(link_refusal(&unexpected(&settings.peer, &other))),
        }
    }

    /// StartReplication on a replica: the copy to a third host.
    pub(crate) async fn start_outgoing(
        &mut self,
        id: RelationshipId,
        how: InitialCopy,
        at: Option<Timestamp>,
    ) -> Result<Answer, Refusal> {
        if how != InitialCopy::Network {
            return Err(Refusal::new(
                ReturnCode::NotSupported,
                "a third host gets its copy over the network alone",
                hint::Extend::UseNetwork,
            ));
        }
        if let Some(at) = self.ahead(at)? {
            return self
                .schedule_outgoing(id, Step::StartCopy, at, JobType::StartReplication)
                .await;
        }
        let mut change = self.change()?;
        let rel = self.rel.as_ref().ok_or_else(no_relationship)?;
        let one = self.outgoing(id).ok_or_else(not_extended)?;
        let state = lifecycle::step(Mode::Primary, one.state, Step::StartCopy).map_err(|e| not_now(&e))?;
        let preflight = self.offer_third(rel, &one.settings).await?;
        let job = self.copy_job(Some(one), &one.settings.peer);
        let told = format!("the copy to {} is started", one.settings.peer);
        if let Some(one) = change.outgoing_mut(id) {
            (one.state, one.preflight, one.problem) = (state, preflight, None);
            (one.job, one.scheduled, one.waiting) = (Some(job.id), None, None);
        }
        change.tell(told);
        self.begin(change, job).await
    }

    /// Notes durably when something begins, with a job that waits for it.
    async fn schedule_outgoing(
        &mut self,
        id: RelationshipId,
        step: Step,
        at: Timestamp,
        kind: JobType,
    ) -> Result<Answer, Refusal> {
        let mut change = self.change().map_err(|_| not_extended())?;
        let one = self.outgoing(id).ok_or_else(not_extended)?;
        lifecycle::step(Mode::Primary, one.state, step).map_err(|e| not_now(&e))?;
        let jobs = &self.host.jobs;
        let waiting = self.waiting_job(one).and_then(|job| jobs.get(job));
        let job = waiting.unwrap_or_else(|| jobs.waiting(self.id, kind, "waits for its time"));
        if let Some(one) = change.outgoing_mut(id) {
            (one.scheduled, one.waiting) = (Some(at), Some(job.id));
        }
        self.begin(change, job).await
    }

    /// The firmware variables that this replica got last, as they travel.
    async fn stored_firmware(&self) -> Result<String, StoreError> {
        machine::firmware_of(&*self.images()?, self.id).await
    }

    /// Tells a third host of its settings, which may refuse them.
    async fn update_third(
        &self,
        rel: &Relationship,
        settings: &ReplicationSettings,
    ) -> Result<Vec<String>, Refusal> {
        let firmware = self.stored_firmware().await;
        let request = PeerRequest::Update {
            vm: Box::new(rel.spec.clone().into()),
            settings: settings.clone(),
            firmware: firmware.map_err(|e| failed("the firmware variables cannot be read", &e))?,
        };
        let answer = self.host.ports.link.call(&settings.peer, request).await;
        match answer.map_err(|e| link_refusal(&e))? {
            PeerReply::Checked { problems } => Ok(problems),
            other => Err(link_refusal(&unexpected(&settings.peer, &other))),
        }
    }

    /// The job of an outgoing relationship that waits for its time.
    pub(crate) fn waiting_job(&self, one: &OutgoingRelationship) -> Option<JobId> {
        one.scheduled?;
        let jobs = &self.host.jobs;
        // The record of a release that knew no more than one does not say which job it is.
        let by_kind = || {
            WAITING
                .into_iter()
                .filter_map(|kind| jobs.unfinished(self.id, kind))
        };
        let job = match one.waiting {
            Some(job) => jobs.get(job),
            None => by_kind().find(|j| j.state == JobState::New),
        };
        job.filter(|j| j.state == JobState::New).map(|j| j.id)
    }

    /// The jobs that belong to an outgoing relationship and have not ended; the one that works before one that waits.
    fn jobs_of(&self, id: RelationshipId) -> Vec<JobId> {
        let Some(one) = self.outgoing(id) else {
            return Vec::new();
        };
        let works = one.job.into_iter().chain(one.compare);
        works.chain(self.waiting_job(one)).collect()
    }

    /// Refuses while this replica is becoming the primary of that host.
    fn turning_to(&self, peer: &str) -> Result<(), Refusal> {
        let reverse = self
            .rel
            .as_ref()
            .and_then(Relationship::failover)
            .and_then(|f| f.reverse.as_ref());
        match reverse.filter(|r| r.settings.peer == peer) {
            None => Ok(()),
            Some(_) => Err(Refusal::new(
                ReturnCode::InUse,
                format!("this host is becoming the primary of {peer}"),
                hint::Look::Jobs,
            )),
        }
    }
}

impl Forwarding {
    /// Resynchronize on a replica: a third host is compared with a recovery point, whatever it says where it stands.
    pub(crate) async fn resync(
        &mut self,
        core: &mut Core,
        id: RelationshipId,
        at: Option<Timestamp>,
    ) -> Result<Answer, Refusal> {
        if let Some(at) = core.ahead(at)? {
            return core
                .schedule_outgoing(id, Step::ScheduleResync, at, JobType::ResyncExtended)
                .await;
        }
        let mut change = core.change().map_err(|_| not_extended())?;
        let jobs = core.host.jobs.clone();
        let one = core.outgoing(id).ok_or_else(not_extended)?;
        let state = lifecycle::step(Mode::Primary, one.state, Step::StartResync).map_err(|e| not_now(&e))?;
        let running = one.compare.and_then(|job| jobs.get(job));
        if let Some(job) = running.as_ref().filter(|_| one.state == state) {
            return Ok(Answer::from(job.clone()));
        }
        let (vm, waiting) = (core.id, core.waiting_job(one));
        let detail = format!("comparing with {}", one.settings.peer);
        let job = running.unwrap_or_else(|| jobs.begin_or(waiting, vm, JobType::ResyncExtended, &detail));
        change.tell(format!("{} is to be compared again", one.settings.peer));
        if let Some(one) = change.outgoing_mut(id) {
            (one.state, one.problem, one.scheduled, one.waiting) = (state, None, None, None);
            (one.compare, one.comparison) = (Some(job.id), None);
        }
        let answer = core.begin(change, job).await?;
        // What is here already may be sealed for it.
        core.wake = Some(Wake::Seal);
        self.attend(core).await;
        Ok(answer)
    }

    /// Everything begins that was scheduled and whose time has come. An error is the first one: the others begin all the same.
    pub(crate) async fn begin_due(&mut self, core: &mut Core, now: Timestamp) -> Result<Answer, Refusal> {
        let rel = core.rel.as_ref().ok_or_else(no_relationship)?;
        let due = |one: &&OutgoingRelationship| one.scheduled.is_some_and(|at| at <= now);
        let due: Vec<(RelationshipId, State)> = rel
            .outgoing()
            .iter()
            .filter(due)
            .map(|one| (one.id, one.state))
            .collect();
        let mut ended = Ok(Answer::Done);
        for (id, state) in due {
            let begun = match state {
                State::ReadyForReplication => core.start_outgoing(id, InitialCopy::Network, None).await,
                _ => self.resync(core, id, None).await,
            };
            ended = ended.and(begun);
        }
        ended
    }

    /// ModifyReplicationSettings on a replica.
    pub(crate) async fn modify(
        &mut self,
        core: &mut Core,
        id: RelationshipId,
        mut settings: ReplicationSettings,
    ) -> Result<Answer, Refusal> {
        let mut change = core.change()?;
        let rel = core.rel.as_ref().ok_or_else(no_relationship)?;
        let one = core.outgoing(id).ok_or_else(not_extended)?;
        lifecycle::step(Mode::Primary, one.state, Step::Modify).map_err(|e| not_now(&e))?;
        core.turning_to(&one.settings.peer)?;
        if settings.disks.is_empty() {
            settings.disks.clone_from(&rel.settings.disks);
        }
        sendable(rel, &settings)?;
        let moves = settings.peer != one.settings.peer;
        if let Some(there) = already(rel, &settings.peer).filter(|there| there.id != id) {
            return Err(Refusal::new(
                ReturnCode::InvalidParameter,
                format!("this replica is extended to {} already", there.settings.peer),
                hint::Extend::Remove,
            ));
        }
        let mut preflight = one.preflight.clone();
        match one.acknowledged {
            Some(at) => {
                if moves {
                    core.same_replica(at, &settings.peer).await?;
                }
                preflight = core.update_third(rel, &settings).await?;
            }
            None if moves => {
                return Err(Refusal::new(
                    ReturnCode::InvalidState,
                    "another address cannot be checked before the copy to the host is complete",
                    hint::Extend::RemoveAndExtend,
                ));
            }
            // The next forwarder tells the third host.
            None => {}
        }
        change.tell(format!(
            "settings of the extended replication to {} changed",
            settings.peer
        ));
        if let Some(one) = change.outgoing_mut(id) {
            (one.settings, one.preflight) = (settings, preflight);
        }
        core.commit(change).await?;
        self.attend(core).await;
        Ok(Answer::Done)
    }

    /// Takes a step of the table.
    async fn step(
        &mut self,
        core: &mut Core,
        id: RelationshipId,
        step: Step,
        told: &str,
    ) -> Result<Answer, Refusal> {
        let mut change = core.change().map_err(|_| not_extended())?;
        let one = change.outgoing_mut(id).ok_or_else(not_extended)?;
        one.state = lifecycle::step(Mode::Primary, one.state, step).map_err(|e| not_now(&e))?;
        one.problem = None;
        let told = format!("extended replication to {} {told}", one.settings.peer);
        change.tell(told);
        core.commit(change).await?;
        self.attend(core).await;
        Ok(Answer::Done)
    }

    pub(crate) async fn suspend(&mut self, core: &mut Core, id: RelationshipId) -> Result<Answer, Refusal> {
        self.step(core, id, Step::Suspend, "suspended").await
    }

    pub(crate) async fn resume(&mut self, core: &mut Core, id: RelationshipId) -> Result<Answer, Refusal> {
        self.step(core, id, Step::Resume, "resumed").await
    }

    /// RequestReplicationStateChangeEx to 1 and 9: cancels what is scheduled or under way, a copy or a comparison. What
    /// was copied is kept.
    /// What it was is named by its job, or it is what works.
    pub(crate) async fn give_up(
        &mut self,
        core: &mut Core,
        id: RelationshipId,
        job: Option<JobId>,
    ) -> Result<Answer, Refusal> {
        let mut change = core.change().map_err(|_| not_extended())?;
        let ended = job.or_else(|| core.jobs_of(id).first().copied());
        let ended = ended.and_then(|job| {
            let jobs = &core.host.jobs;
            jobs.ended(job, JobState::Terminated, Some("cancelled".into()))
        });
        let one = change.outgoing_mut(id).ok_or_else(not_extended)?;
        let peer = one.settings.peer.clone();
        let told = if ended.as_ref().is_some_and(|j| j.started.is_none()) {
            (one.scheduled, one.waiting) = (None, None);
            format!("what was scheduled for {peer} was cancelled")
        } else if one.state == State::ReadyForReplication {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                format!("no copy to {peer} is scheduled or under way"),
                hint::Copies::StartCopy,
            ));
        } else {
            let copying = one.state == State::WaitingToCompleteInitialReplication;
            let (step, told) = if copying {
                (Step::CancelCopy, format!("the copy to {peer} was cancelled"))
            } else {
                (
                    Step::CancelResync,
                    format!("the comparison with {peer} was given up; nothing is sent until it is compared"),
                )
            };
            one.state = lifecycle::step(Mode::Primary, one.state, step).map_err(|e| not_now(&e))?;
            (one.job, one.compare, one.comparison, one.problem) = (None, None, None, None);
            told
        };
        change.with_job(ended);
        change.tell(told);
        core.commit(change).await?;
        self.attend(core).await;
        Ok(Answer::Done)
    }

    /// A job was cancelled. `None`: it is not one of an outgoing relationship.
    pub(crate) async fn cancel(&mut self, core: &mut Core, job: JobId) -> Option<Result<Answer, Refusal>> {
        let all = core.rel.as_ref()?.outgoing().iter();
        let id = all
            .map(|one| one.id)
            .find(|id| core.jobs_of(*id).contains(&job))?;
        if let Err(e) = self.give_up(core, id, Some(job)).await {
            return Some(Err(e));
        }
        let job = core.host.jobs.get(job);
        Some(Ok(job.map_or(Answer::Done, Answer::from)))
    }

    /// RemoveReplicationRelationship for an outgoing one. The third host is not told and keeps what it has.
    pub(crate) async fn remove(&mut self, core: &mut Core, id: RelationshipId) -> Result<Answer, Refusal> {
        let one = core.outgoing(id).ok_or_else(not_extended)?;
        let peer = one.settings.peer.clone();
        core.turning_to(&peer)?;
        let mut change = core.change()?;
        for job in core.jobs_of(id) {
            let why = "the extended replication was removed".into();
            change.end_job(&core.host.jobs, Some(job), JobState::Terminated, Some(why));
        }
        if let Some(replica) = change.replica_mut() {
            replica.outgoing.remove(id);
        }
        change.tell(format!(
            "extended replication to {peer} removed; it keeps what it has"
        ));
        core.commit(change).await?;
        self.ended(core, id).await;
        Ok(Answer::Done)
    }
}

/// The outgoing relationship to this host, by whichever port.
fn already<'r>(rel: &'r Relationship, peer: &str) -> Option<&'r OutgoingRelationship> {
    rel.outgoing().iter().find(|one| one.is_to(host_of(peer)))
}

/// Whether this side can be extended.
fn may_extend(rel: &Relationship) -> Result<(), Refusal> {
    if rel.mode == Mode::Replica {
        return Ok(());
    }
    Err(Refusal::new(
        ReturnCode::InvalidState,
        format!(
            "only a replica can be extended to a third host; here the VM's role is {}",
            rel.mode
        ),
        hint::Replicate::OnReplicaHost,
    ))
}

/// Whether a replica can send to a third host by these settings.
fn sendable(rel: &Relationship, settings: &ReplicationSettings) -> Result<(), Refusal> {
    let invalid = |what: String| Err(Refusal::bare(ReturnCode::InvalidParameter, what));
    if let Err(e) = settings.validate(&rel.settings.disks) {
        return invalid(e.to_string());
    }
    if settings.disks != rel.settings.disks {
        return invalid("a third host gets all disks of the replica; leave the disks out".into());
    }
    if settings.interval_s < rel.settings.interval_s {
        return invalid(format!(
            "an interval of {} s is shorter than the {} s after which there is something new here",
            settings.interval_s, rel.settings.interval_s
        ));
    }
    if settings.application_h != 0 {
        return invalid(
            "application-consistent points are made by the primary; a third host gets those".into(),
        );
    }
    let third = host_of(&settings.peer);
    let callback = rel.callback.as_deref().map(host_of);
    if callback
        .into_iter()
        .chain([rel.peer.as_str()])
        .any(|h| third.eq_ignore_ascii_case(h))
    {
        return invalid(format!("{} is the primary of this replica", settings.peer));
    }
    Ok(())
}
