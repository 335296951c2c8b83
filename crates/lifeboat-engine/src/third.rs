//! What an administrator asks of an extended relationship, on the middle host: to make, start, change, compare, pause, give
//! up and remove it. Each is recorded before it is answered. The sending is `courier`'s, and what becomes of it `extended`'s.

use lifeboat_model::api::ReturnCode;
use lifeboat_model::lifecycle::{self, Event as Step};
use lifeboat_model::{
    JobId, JobState, JobType, ReplicationMode as Mode, ReplicationSettings, ReplicationState as State,
    Timestamp,
};

use crate::action::{Answer, InitialCopy, Refusal};
use crate::actor::{Actor, failed, no_relationship, not_now};
use crate::copy::unexpected;
use crate::courier::{self, Orders};
use crate::extended::{extended, host_of, not_extended};
use crate::machine;
use crate::operations::link_refusal;
use crate::ports::link::{PeerReply, PeerRequest};
use crate::records::{Extended, Job, Relationship};

/// Jobs of an extended relationship that may wait for their time.
const WAITING: [JobType; 2] = [JobType::StartReplication, JobType::ResyncExtended];

impl Actor {
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
        let there = extended(Some(rel));
        may_extend(
            rel,
            there.filter(|e| !start || e.state != State::ReadyForReplication),
        )?;
        sendable(rel, &settings)?;
        let made = lifecycle::step(Mode::None, State::Disabled, Step::Create).map_err(|e| not_now(&e))?;
        let state = match start {
            true => lifecycle::step(Mode::Primary, made, Step::StartCopy).map_err(|e| not_now(&e))?,
            false => made,
        };
        let created = there.map_or_else(|| self.host.ports.clock.now(), |e| e.created);
        let preflight = self.offer_third(rel, &settings).await?;
        let job = start.then(|| self.third_copy());
        let peer = settings.peer.clone();
        if let Some(replica) = change.replica_mut() {
            replica.extended = Some(Box::new(Extended {
                settings,
                state,
                preflight,
                created,
                job: job.as_ref().map(|j| j.id),
                ..Extended::default()
            }));
        }
        change.tell(format!("replication is extended to {peer}"));
        match job {
            Some(job) => self.begin(change, job).await,
            None => self.commit(change).await.map(|()| Answer::Done),
        }
    }

    fn third_copy(&self) -> Job {
        let jobs = &self.host.jobs;
        jobs.begin(self.id, JobType::StartReplication, "copying to the third host")
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
                "wait for the initial copy; a failed-over replica can be extended when it is reverted",
            ));
        };
        let orders = Orders {
            spec: rel.spec.clone(),
            settings: settings.clone(),
            paused: false,
            copying: None,
            compare: None,
        };
        let firmware = machine::firmware_of(&*self.host.ports.store, self.id).await;
        let firmware = firmware.map_err(|e| failed("the firmware variables cannot be read", &e))?;
        let offer = courier::offer(&orders, &info, point, self.host.config.listen.clone(), firmware);
        let answer = self.host.ports.link.call(&settings.peer, offer).await;
        match answer.map_err(|e| link_refusal(&e))? {
            PeerReply::Status(status) => Ok(status.problems),
            other => Err(link_refusal(&unexpected(&settings.peer, &other))),
        }
    }

    /// StartReplication on a replica: the copy to the third host.
    pub(crate) async fn start_third(
        &mut self,
        how: InitialCopy,
        at: Option<Timestamp>,
    ) -> Result<Answer, Refusal> {
        if how != InitialCopy::Network {
            return Err(Refusal::new(
                ReturnCode::NotSupported,
                "the third host gets its copy over the network alone",
                "start it without --export and --seed",
            ));
        }
        if let Some(at) = self.ahead(at)? {
            return self
                .schedule_third(Step::StartCopy, at, JobType::StartReplication)
                .await;
        }
        let mut change = self.change()?;
        let rel = self.rel.as_ref().ok_or_else(no_relationship)?;
        let ext = extended(Some(rel)).ok_or_else(not_extended)?;
        let state = lifecycle::step(Mode::Primary, ext.state, Step::StartCopy).map_err(|e| not_now(&e))?;
        let preflight = self.offer_third(rel, &ext.settings).await?;
        let job = self.third_copy();
        if let Some(ext) = change.extended_mut() {
            (ext.state, ext.preflight, ext.problem) = (state, preflight, None);
            (ext.job, ext.scheduled) = (Some(job.id), None);
        }
        change.tell("the copy to the third host is started");
        self.begin(change, job).await
    }

    /// Resynchronize on a replica: the third host is compared with a recovery point, whatever it says where it stands.
    pub(crate) async fn resync_third(&mut self, at: Option<Timestamp>) -> Result<Answer, Refusal> {
        if let Some(at) = self.ahead(at)? {
            return self
                .schedule_third(Step::ScheduleResync, at, JobType::ResyncExtended)
                .await;
        }
        let mut change = self.change().map_err(|_| not_extended())?;
        let jobs = self.host.jobs.clone();
        let ext = change.extended_mut().ok_or_else(not_extended)?;
        let state = lifecycle::step(Mode::Primary, ext.state, Step::StartResync).map_err(|e| not_now(&e))?;
        let running = ext.compare.and_then(|job| jobs.get(job));
        if let Some(job) = running.as_ref().filter(|_| ext.state == state) {
            return Ok(Answer::from(job.clone()));
        }
        let vm = self.id;
        let job = running
            .unwrap_or_else(|| jobs.begin(vm, JobType::ResyncExtended, "comparing with the third host"));
        (ext.state, ext.problem, ext.scheduled) = (state, None, None);
        (ext.compare, ext.comparison) = (Some(job.id), None);
        change.tell("the third host is to be compared anew");
        let answer = self.begin(change, job).await?;
        // What is here already may be sealed for it.
        self.replica.dirty = true;
        self.attend_extended().await;
        Ok(answer)
    }

    /// Notes durably when something begins, with a job that waits for it.
    async fn schedule_third(&mut self, step: Step, at: Timestamp, kind: JobType) -> Result<Answer, Refusal> {
        let mut change = self.change().map_err(|_| not_extended())?;
        let job = self.host.jobs.unfinished(self.id, kind);
        let ext = change.extended_mut().ok_or_else(not_extended)?;
        lifecycle::step(Mode::Primary, ext.state, step).map_err(|e| not_now(&e))?;
        ext.scheduled = Some(at);
        let job = job.filter(|j| j.state == JobState::New);
        let job = job.unwrap_or_else(|| self.host.jobs.waiting(self.id, kind, "waits for its time"));
        self.begin(change, job).await
    }

    /// What was scheduled begins.
    pub(crate) async fn begin_third(&mut self) -> Result<Answer, Refusal> {
        match extended(self.rel.as_ref()).map(|e| e.state) {
            Some(State::ReadyForReplication) => self.start_third(InitialCopy::Network, None).await,
            _ => self.resync_third(None).await,
        }
    }

    /// ModifyReplicationSettings on a replica.
    pub(crate) async fn modify_third(
        &mut self,
        mut settings: ReplicationSettings,
    ) -> Result<Answer, Refusal> {
        let mut change = self.change()?;
        let rel = self.rel.as_ref().ok_or_else(no_relationship)?;
        let ext = extended(Some(rel)).ok_or_else(not_extended)?;
        lifecycle::step(Mode::Primary, ext.state, Step::Modify).map_err(|e| not_now(&e))?;
        self.turning_to(&ext.settings.peer)?;
        if settings.disks.is_empty() {
            settings.disks.clone_from(&rel.settings.disks);
        }
        sendable(rel, &settings)?;
        let mut preflight = ext.preflight.clone();
        match ext.acknowledged {
            Some(at) => {
                if settings.peer != ext.settings.peer {
                    self.same_replica(at, &settings.peer).await?;
                }
                preflight = self.update_third(rel, &settings).await?;
            }
            None if settings.peer != ext.settings.peer => {
                return Err(Refusal::new(
                    ReturnCode::InvalidState,
                    "another address cannot be checked before the copy to the third host is complete",
                    "remove it (lifeboat replication remove --extended) and extend it anew",
                ));
            }
            // A courier that is sent tells it.
            None => {}
        }
        if let Some(ext) = change.extended_mut() {
            (ext.settings, ext.preflight) = (settings, preflight);
        }
        change.tell("settings of the extended replication changed");
        self.commit(change).await?;
        self.attend_extended().await;
        Ok(Answer::Done)
    }

    /// Tells the third host of its settings, which may refuse them.
    async fn update_third(
        &self,
        rel: &Relationship,
        settings: &ReplicationSettings,
    ) -> Result<Vec<String>, Refusal> {
        let firmware = machine::firmware_of(&*self.host.ports.store, self.id).await;
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

    /// Takes a step of the table.
    async fn step_extended(&mut self, step: Step, told: &str) -> Result<Answer, Refusal> {
        let mut change = self.change().map_err(|_| not_extended())?;
        let ext = change.extended_mut().ok_or_else(not_extended)?;
        ext.state = lifecycle::step(Mode::Primary, ext.state, step).map_err(|e| not_now(&e))?;
        ext.problem = None;
        change.tell(told);
        self.commit(change).await?;
        self.attend_extended().await;
        Ok(Answer::Done)
    }

    pub(crate) async fn suspend_extended(&mut self) -> Result<Answer, Refusal> {
        self.step_extended(Step::Suspend, "extended replication suspended")
            .await
    }

    pub(crate) async fn resume_extended(&mut self) -> Result<Answer, Refusal> {
        self.step_extended(Step::Resume, "extended replication resumed")
            .await
    }

    /// The jobs that belong to the extended relationship and have not ended; the one that works before one that waits.
    fn third_jobs(&self) -> Vec<JobId> {
        let Some(ext) = extended(self.rel.as_ref()) else {
            return Vec::new();
        };
        let jobs = &self.host.jobs;
        let waiting = WAITING.into_iter().filter(|_| ext.scheduled.is_some());
        let waiting = waiting.filter_map(|kind| jobs.unfinished(self.id, kind));
        let waiting = waiting.filter(|j| j.state == JobState::New).map(|j| j.id);
        ext.job.into_iter().chain(ext.compare).chain(waiting).collect()
    }

    /// RequestReplicationStateChangeEx to 1 and 9: gives up what is scheduled or under way, a copy or a comparison. What
    /// was copied is kept.
    /// What it was is named by its job, or it is what works.
    pub(crate) async fn give_up_third(&mut self, job: Option<JobId>) -> Result<Answer, Refusal> {
        let mut change = self.change().map_err(|_| not_extended())?;
        let ended = job.or_else(|| self.third_jobs().first().copied());
        let ended = ended.and_then(|job| {
            let jobs = &self.host.jobs;
            jobs.ended(job, JobState::Terminated, Some("cancelled".into()))
        });
        let ext = change.extended_mut().ok_or_else(not_extended)?;
        let told = if ended.as_ref().is_some_and(|j| j.started.is_none()) {
            ext.scheduled = None;
            "what was scheduled for the third host was cancelled"
        } else if ext.state == State::ReadyForReplication {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                "no copy to the third host is scheduled or under way",
                "start it: lifeboat replication start",
            ));
        } else {
            let copying = ext.state == State::WaitingToCompleteInitialReplication;
            let (step, told) = match copying {
                true => (Step::CancelCopy, "the copy to the third host was cancelled"),
                false => (
                    Step::CancelResync,
                    "the comparison with the third host was given up; nothing is sent until it is compared",
                ),
            };
            ext.state = lifecycle::step(Mode::Primary, ext.state, step).map_err(|e| not_now(&e))?;
            (ext.job, ext.compare, ext.comparison, ext.problem) = (None, None, None, None);
            told
        };
        change.with_job(ended);
        change.tell(told);
        self.commit(change).await?;
        self.attend_extended().await;
        Ok(Answer::Done)
    }

    /// A job was cancelled. `None`: it is not one of the extended relationship.
    pub(crate) async fn cancel_extended(&mut self, job: JobId) -> Option<Result<Answer, Refusal>> {
        if !self.third_jobs().contains(&job) {
            return None;
        }
        if let Err(e) = self.give_up_third(Some(job)).await {
            return Some(Err(e));
        }
        let job = self.host.jobs.get(job);
        Some(Ok(job.map_or(Answer::Done, Answer::from)))
    }

    /// RemoveReplicationRelationship for the extended one. The third host is not told and keeps what it has.
    pub(crate) async fn remove_extended(&mut self) -> Result<Answer, Refusal> {
        let ext = extended(self.rel.as_ref()).ok_or_else(not_extended)?;
        let peer = ext.settings.peer.clone();
        self.turning_to(&peer)?;
        let mut change = self.change()?;
        for job in self.third_jobs() {
            let why = "the extended replication was removed".to_owned();
            change.end_job(&self.host.jobs, Some(job), JobState::Terminated, Some(why));
        }
        if let Some(replica) = change.replica_mut() {
            replica.extended = None;
        }
        change.tell(format!(
            "extended replication to {peer} removed; it keeps what it has"
        ));
        self.commit(change).await?;
        self.attend_extended().await;
        self.host.ports.store.keep_logs(self.id, None).await;
        Ok(Answer::Done)
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
                "see: lifeboat job list",
            )),
        }
    }
}

/// Whether this side can be extended; `there` is what stands in the way.
fn may_extend(rel: &Relationship, there: Option<&Extended>) -> Result<(), Refusal> {
    if rel.mode != Mode::Replica {
        return Err(Refusal::new(
            ReturnCode::InvalidState,
            format!(
                "only a replica can be extended to a third host; here the VM's role is {}",
                rel.mode
            ),
            "do this on the host that has the replica",
        ));
    }
    match there {
        None => Ok(()),
        Some(ext) => Err(Refusal::new(
            ReturnCode::InvalidState,
            format!("this replica is extended to {} already", ext.settings.peer),
            "remove that first: lifeboat replication remove --extended",
        )),
    }
}

/// Whether a replica can send to a third host by these settings.
fn sendable(rel: &Relationship, settings: &ReplicationSettings) -> Result<(), Refusal> {
    let invalid = |what: String| Err(Refusal::new(ReturnCode::InvalidParameter, what, ""));
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
            "application-consistent points are made by the primary; the third host gets those".into(),
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
