//! What an administrator asks of an extended relationship, on the middle host: to make, start, change, compare, suspend,
//! cancel and remove it. Each is recorded before it is answered. `forwarder` sends, and `extended` records what becomes of it.

use crate::contract::refusal::{no_relationship, not_now};
use crate::contract::{Answer, InitialCopy, Refusal};
use crate::core::{Core, Wake};
use crate::port::link::{PeerReply, PeerRequest};
use crate::port::store::StoreError;
use crate::record::access::{extended, host_of};
use crate::record::{Extended, Job, Relationship};
use crate::source::extended::{Forwarding, not_extended};
use crate::source::forwarder::ForwarderConfig;
use crate::source::{forwarder, machine};
use crate::work::calls::{failed, link_refusal, unexpected};
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::lifecycle::Event as Step;
use lifeboat_model::lifecycle::{self};
use lifeboat_model::{JobId, JobState, JobType, ReplicationSettings, Timestamp, hint};

/// Jobs of an extended relationship that may wait for their time.
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
        let there = extended(Some(rel));
        may_extend(
            rel,
            there.filter(|e| !start || e.state != State::ReadyForReplication),
        )?;
        sendable(rel, &settings)?;
        let made = lifecycle::step(Mode::None, State::Disabled, Step::Create).map_err(|e| not_now(&e))?;
        let state = if start {
            lifecycle::step(Mode::Primary, made, Step::StartCopy).map_err(|e| not_now(&e))?
        } else {
            made
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
                hint::Extend::UseNetwork,
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

    /// The firmware variables that this replica got last, as they travel.
    async fn stored_firmware(&self) -> Result<String, StoreError> {
        machine::firmware_of(&*self.images()?, self.id).await
    }

    /// Tells the third host of its settings, which may refuse them.
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
    /// Resynchronize on a replica: the third host is compared with a recovery point, whatever it says where it stands.
    pub(crate) async fn resync_third(
        &mut self,
        core: &mut Core,
        at: Option<Timestamp>,
    ) -> Result<Answer, Refusal> {
        if let Some(at) = core.ahead(at)? {
            return core
                .schedule_third(Step::ScheduleResync, at, JobType::ResyncExtended)
                .await;
        }
        let mut change = core.change().map_err(|_| not_extended())?;
        let jobs = core.host.jobs.clone();
        let ext = change.extended_mut().ok_or_else(not_extended)?;
        let state = lifecycle::step(Mode::Primary, ext.state, Step::StartResync).map_err(|e| not_now(&e))?;
        let running = ext.compare.and_then(|job| jobs.get(job));
        if let Some(job) = running.as_ref().filter(|_| ext.state == state) {
            return Ok(Answer::from(job.clone()));
        }
        let vm = core.id;
        let job = running
            .unwrap_or_else(|| jobs.begin(vm, JobType::ResyncExtended, "comparing with the third host"));
        (ext.state, ext.problem, ext.scheduled) = (state, None, None);
        (ext.compare, ext.comparison) = (Some(job.id), None);
        change.tell("the third host is to be compared again");
        let answer = core.begin(change, job).await?;
        // What is here already may be sealed for it.
        core.wake = Some(Wake::Seal);
        self.attend_extended(core).await;
        Ok(answer)
    }

    /// What was scheduled begins.
    pub(crate) async fn begin_third(&mut self, core: &mut Core) -> Result<Answer, Refusal> {
        match extended(core.rel.as_ref()).map(|e| e.state) {
            Some(State::ReadyForReplication) => core.start_third(InitialCopy::Network, None).await,
            _ => self.resync_third(core, None).await,
        }
    }

    /// ModifyReplicationSettings on a replica.
    pub(crate) async fn modify_third(
        &mut self,
        core: &mut Core,
        mut settings: ReplicationSettings,
    ) -> Result<Answer, Refusal> {
        let mut change = core.change()?;
        let rel = core.rel.as_ref().ok_or_else(no_relationship)?;
        let ext = extended(Some(rel)).ok_or_else(not_extended)?;
        lifecycle::step(Mode::Primary, ext.state, Step::Modify).map_err(|e| not_now(&e))?;
        core.turning_to(&ext.settings.peer)?;
        if settings.disks.is_empty() {
            settings.disks.clone_from(&rel.settings.disks);
        }
        sendable(rel, &settings)?;
        let mut preflight = ext.preflight.clone();
        match ext.acknowledged {
            Some(at) => {
                if settings.peer != ext.settings.peer {
                    core.same_replica(at, &settings.peer).await?;
                }
                preflight = core.update_third(rel, &settings).await?;
            }
            None if settings.peer != ext.settings.peer => {
                return Err(Refusal::new(
                    ReturnCode::InvalidState,
                    "another address cannot be checked before the copy to the third host is complete",
                    hint::Extend::RemoveAndExtend,
                ));
            }
            // The next forwarder tells the third host.
            None => {}
        }
        if let Some(ext) = change.extended_mut() {
            (ext.settings, ext.preflight) = (settings, preflight);
        }
        change.tell("settings of the extended replication changed");
        core.commit(change).await?;
        self.attend_extended(core).await;
        Ok(Answer::Done)
    }

    /// Takes a step of the table.
    async fn step_extended(&mut self, core: &mut Core, step: Step, told: &str) -> Result<Answer, Refusal> {
        let mut change = core.change().map_err(|_| not_extended())?;
        let ext = change.extended_mut().ok_or_else(not_extended)?;
        ext.state = lifecycle::step(Mode::Primary, ext.state, step).map_err(|e| not_now(&e))?;
        ext.problem = None;
        change.tell(told);
        core.commit(change).await?;
        self.attend_extended(core).await;
        Ok(Answer::Done)
    }

    pub(crate) async fn suspend_extended(&mut self, core: &mut Core) -> Result<Answer, Refusal> {
        self.step_extended(core, Step::Suspend, "extended replication suspended")
            .await
    }

    pub(crate) async fn resume_extended(&mut self, core: &mut Core) -> Result<Answer, Refusal> {
        self.step_extended(core, Step::Resume, "extended replication resumed")
            .await
    }

    /// RequestReplicationStateChangeEx to 1 and 9: cancels what is scheduled or under way, a copy or a comparison. What
    /// was copied is kept.
    /// What it was is named by its job, or it is what works.
    pub(crate) async fn give_up_third(
        &mut self,
        core: &mut Core,
        job: Option<JobId>,
    ) -> Result<Answer, Refusal> {
        let mut change = core.change().map_err(|_| not_extended())?;
        let ended = job.or_else(|| core.third_jobs().first().copied());
        let ended = ended.and_then(|job| {
            let jobs = &core.host.jobs;
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
                hint::Copies::StartCopy,
            ));
        } else {
            let copying = ext.state == State::WaitingToCompleteInitialReplication;
            let (step, told) = if copying {
                (Step::CancelCopy, "the copy to the third host was cancelled")
            } else {
                (
                    Step::CancelResync,
                    "the comparison with the third host was given up; nothing is sent until it is compared",
                )
            };
            ext.state = lifecycle::step(Mode::Primary, ext.state, step).map_err(|e| not_now(&e))?;
            (ext.job, ext.compare, ext.comparison, ext.problem) = (None, None, None, None);
            told
        };
        change.with_job(ended);
        change.tell(told);
        core.commit(change).await?;
        self.attend_extended(core).await;
        Ok(Answer::Done)
    }

    /// A job was cancelled. `None`: it is not one of the extended relationship.
    pub(crate) async fn cancel_extended(
        &mut self,
        core: &mut Core,
        job: JobId,
    ) -> Option<Result<Answer, Refusal>> {
        if !core.third_jobs().contains(&job) {
            return None;
        }
        if let Err(e) = self.give_up_third(core, Some(job)).await {
            return Some(Err(e));
        }
        let job = core.host.jobs.get(job);
        Some(Ok(job.map_or(Answer::Done, Answer::from)))
    }

    /// RemoveReplicationRelationship for the extended one. The third host is not told and keeps what it has.
    pub(crate) async fn remove_extended(&mut self, core: &mut Core) -> Result<Answer, Refusal> {
        let ext = extended(core.rel.as_ref()).ok_or_else(not_extended)?;
        let peer = ext.settings.peer.clone();
        core.turning_to(&peer)?;
        let mut change = core.change()?;
        for job in core.third_jobs() {
            let why = "the extended replication was removed".into();
            change.end_job(&core.host.jobs, Some(job), JobState::Terminated, Some(why));
        }
        if let Some(replica) = change.replica_mut() {
            replica.extended = None;
        }
        change.tell(format!(
            "extended replication to {peer} removed; it keeps what it has"
        ));
        core.commit(change).await?;
        self.attend_extended(core).await;
        if let Ok(store) = core.store() {
            store.logs.keep_logs(core.id, None).await;
        }
        Ok(Answer::Done)
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
            hint::Replicate::OnReplicaHost,
        ));
    }
    match there {
        None => Ok(()),
        Some(ext) => Err(Refusal::new(
            ReturnCode::InvalidState,
            format!("this replica is extended to {} already", ext.settings.peer),
            hint::Extend::Remove,
        )),
    }
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
