//! What an administrator asks of the primary: enable, start, cancel, suspend, resume, remove. Each is recorded before it is
//! answered; carrying it out is `source`'s.

use crate::actor::Actor;
use crate::contract::refusal::{no_relationship, not_now};
use crate::contract::{Answer, Refusal};
use crate::core::Core;
use crate::port::link::{Content, PeerReply, PeerRequest};
use crate::record::{PrimarySide, Relationship, Side, SyncKind};
use crate::source::images::NoCycle;
use crate::source::operations::{COPIES, capture_refusal};
use crate::work::calls::failed;
use crate::work::calls::link_refusal;
use lifeboat_deltalog::LogDisk;
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::lifecycle::Event as Step;
use lifeboat_model::lifecycle::{self};
use lifeboat_model::{
    DiskId, GenerationId, JobId, JobState, JobType, Position, ReplicationSettings, VmSpec, hint,
};
use tokio::time::Instant;
use tracing::info;

impl Actor {
    pub(crate) async fn enable(&mut self, mut settings: ReplicationSettings) -> Result<Answer, Refusal> {
        let alone = self.core.rel.clone().filter(|r| matches!(r.side, Side::Alone));
        if let Some(rel) = self.core.rel.as_ref().filter(|_| alone.is_none()) {
            let message = format!(
                "this VM is replicated already, in mode {} with {}",
                rel.mode, rel.peer
            );
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                message,
                hint::Replicate::Remove,
            ));
        }
        let spec = self.core.spec()?.clone();
        if settings.disks.is_empty() {
            settings.disks = spec.disks.iter().map(|d| d.id.clone()).collect();
        }
        let invalid =
            |e: lifeboat_model::SettingsError| Refusal::bare(ReturnCode::InvalidParameter, e.to_string());
        settings
            .validate(spec.disks.iter().map(|d| &d.id))
            .map_err(invalid)?;
        self.core.no_shared_disk().await?;
        if let Some(why) = spec.too_many_devices(false) {
            return Err(Refusal::bare(ReturnCode::InvalidParameter, why));
        }
        let start = Position::start(GenerationId(self.core.host.ports.entropy.uuid()));
        let preflight = self.offer(&spec, &settings, start).await?;
        let peer = settings.peer.clone();
        let rel = Relationship {
            vm: self.core.id,
            mode: Mode::Primary,
            state: State::ReadyForReplication,
            settings,
            spec,
            peer,
            position: start,
            side: Side::Primary(PrimarySide::new(start)),
            home: alone.as_ref().and_then(|r| r.home.clone()),
            preflight,
            created: self.core.host.ports.clock.now(),
            ..Relationship::default()
        };
        let mut change = self.core.draft(rel);
        change.tell("replication enabled");
        // The offer on the peer is harmless when this is refused, and can be repeated.
        self.core.commit(change).await?;
        Ok(Answer::Done)
    }

    /// Offers the VM to its replica's host; what would keep it from starting there.
    async fn offer(
        &mut self,
        spec: &VmSpec,
        settings: &ReplicationSettings,
        start: Position,
    ) -> Result<Vec<String>, Refusal> {
        self.core.not_myself(&settings.peer).await?;
        let offer = PeerRequest::Offer {
            vm: Box::new(spec.clone().into()),
            settings: settings.clone(),
            disks: self.capturable(&settings.disks).await?,
            start,
            from: self.core.host.config.listen.clone(),
            content: Content::Empty,
            firmware: self.core.firmware().await,
        };
        let answer = self.core.host.ports.link.call(&settings.peer, offer).await;
        match answer.map_err(|e| link_refusal(&e))? {
            PeerReply::Status(status) => Ok(status.problems),
            other => Err(link_refusal(&crate::work::calls::unexpected(
                &settings.peer,
                &other,
            ))),
        }
    }

    /// Opens the disks for capture once, which shows that it is possible and how large they are. What is under way holds them.
    pub(crate) async fn capturable(&mut self, disks: &[DiskId]) -> Result<Vec<LogDisk>, Refusal> {
        self.interrupt().await;
        let launch = self.core.launch().await?;
        let source = self.core.hypervisor().source(&launch, disks).await;
        let source = source.map_err(|e| capture_refusal(&e))?;
        let disks = source.disks().to_vec();
        let closed = source.close().await;
        closed.map_err(|e| failed("the disks cannot be closed", &e))?;
        Ok(disks)
    }

    /// StartReplication from a copy that the replica's host has already.
    pub(crate) async fn start_seeded(&mut self) -> Result<Answer, Refusal> {
        let rel = self.core.rel.as_ref().ok_or_else(no_relationship)?;
        lifecycle::step(rel.mode, rel.state, Step::StartCopy).map_err(|e| not_now(&e))?;
        let (settings, peer, spec) = (rel.settings.clone(), rel.peer.clone(), self.core.spec()?.clone());
        let start = rel.position.first();
        let offer = PeerRequest::Offer {
            vm: Box::new(spec.into()),
            disks: self.capturable(&settings.disks).await?,
            settings,
            start,
            from: self.core.host.config.listen.clone(),
            content: Content::Seed,
            firmware: self.core.firmware().await,
        };
        let answer = self.core.host.ports.link.call(&peer, offer).await;
        answer.map_err(|e| link_refusal(&e))?;
        let mut change = self.core.change()?;
        change.step(Step::StartCopy)?;
        let job = self
            .core
            .host
            .jobs
            .begin(self.core.id, JobType::StartSeeded, "comparing with the seed");
        let sync = Core::new_sync(&mut change, SyncKind::Seed, Some(job.id));
        if let Some(primary) = change.primary_mut() {
            (primary.sync, primary.scheduled) = (Some(sync), None);
        }
        change.tell("initial copy started, from what the replica's host has");
        let answer = self.core.begin(change, job).await?;
        self.source.next_at = Instant::now();
        Ok(answer)
    }

    pub(crate) async fn cancel(&mut self, job: JobId) -> Result<Answer, Refusal> {
        let found = self.core.host.jobs.get(job).filter(|j| !j.state.is_final());
        let found = found.ok_or_else(|| Refusal::bare(ReturnCode::InvalidState, "the job has ended"))?;
        if let Some(answer) = self.forward.cancel(&mut self.core, job).await {
            return answer;
        }
        if let Some(answer) = self.cancel_import(&found).await {
            return answer;
        }
        match found.kind {
            JobType::Resynchronize => {
                self.give_up_resync().await?;
                return Ok(Answer::from(self.core.host.jobs.get(job).unwrap_or(found)));
            }
            JobType::PlannedFailover => {
                self.cancel_planned(false).await?;
                return Ok(Answer::from(self.core.host.jobs.get(job).unwrap_or(found)));
            }
            _ => {}
        }
        if !COPIES.contains(&found.kind) {
            let message = format!("a {} job cannot be cancelled", found.kind);
            return Err(Refusal::new(
                ReturnCode::NotSupported,
                message,
                hint::Failover::AwaitEnd,
            ));
        }
        if found.state == JobState::New {
            return self.core.unschedule(job, None).await;
        }
        let mut change = self.core.change()?;
        change.step(Step::CancelCopy)?;
        change.drop_sync();
        if let Some(primary) = change.primary_mut() {
            (primary.export, primary.sealing) = (None, None);
        }
        let ended = self
            .core
            .host
            .jobs
            .ended(job, JobState::Terminated, Some("cancelled".into()));
        let ended = ended.ok_or_else(|| Refusal::bare(ReturnCode::InvalidState, "the job has ended"))?;
        change.with_job(ended.clone());
        change.tell("initial copy cancelled; what was copied is kept");
        self.core.commit(change).await?;
        self.interrupt().await;
        Ok(Answer::from(ended))
    }

    /// RequestReplicationStateChange to 1: cancels an initial copy that waits for its time, or goes on.
    pub(crate) async fn cancel_initial_copy(&mut self) -> Result<Answer, Refusal> {
        let rel = self.core.rel.as_ref().ok_or_else(no_relationship)?;
        lifecycle::step(rel.mode, rel.state, Step::CancelCopy).map_err(|e| not_now(&e))?;
        let copy = COPIES
            .into_iter()
            .find_map(|kind| self.core.host.jobs.unfinished(self.core.id, kind));
        match copy {
            Some(job) => self.cancel(job.id).await.map(|_| Answer::Done),
            None => Err(Refusal::new(
                ReturnCode::InvalidState,
                "no initial copy is scheduled or under way",
                hint::Look::Status,
            )),
        }
    }

    pub(crate) async fn suspend(&mut self) -> Result<Answer, Refusal> {
        self.core.no_planned()?;
        let mut change = self.core.change()?;
        change.step(Step::Suspend)?;
        change.tell("replication suspended");
        self.core.commit(change).await?;
        self.interrupt().await;
        self.source.next_at = Instant::now();
        Ok(Answer::Done)
    }

    pub(crate) async fn resume(&mut self) -> Result<Answer, Refusal> {
        if self.core.planned().is_some() {
            // The API's way to cancel it.
            return self.cancel_planned(false).await;
        }
        let mut change = self.core.change()?;
        change.step(Step::Resume)?;
        change.problem = None;
        change.tell("replication resumed");
        self.core.commit(change).await?;
        self.source.next_at = Instant::now();
        self.target.dirty = true;
        self.target.begin_now();
        Ok(Answer::Done)
    }

    /// The primary's side of RemoveReplicationRelationship: tracking ends, the replica is not touched.
    pub(crate) async fn remove_primary(&mut self) -> Result<(), Refusal> {
        self.interrupt().await;
        self.source.answer_cycle(Err(NoCycle::Removed));
        let rel = self.core.rel.as_ref().ok_or_else(no_relationship)?;
        lifecycle::step(rel.mode, rel.state, Step::Remove).map_err(|e| not_now(&e))?;
        let launch = self.core.recorded_launch().await?;
        let rel = self.core.rel.as_ref().ok_or_else(no_relationship)?;
        match self.core.hypervisor().source(&launch, &rel.settings.disks).await {
            Ok(source) => {
                let stopped = match source.recover().await {
                    Ok(_) => source.stop_tracking().await,
                    Err(e) => Err(e),
                };
                let closed = source.close().await;
                stopped
                    .and(closed)
                    .map_err(|e| failed("change tracking cannot be ended", &e))?;
            }
            Err(e) => info!(vm = %self.core.id, error = %e, "change tracking not removed from the disks"),
        }
        match self.core.rel.as_ref().and_then(|r| r.home.clone()) {
            Some(home) => self.live_alone(home).await?,
            None => self.core.erase().await?,
        }
        for job in self.core.host.jobs.list() {
            if job.vm == self.core.id && !job.state.is_final() {
                self.core
                    .end_job(job.id, JobState::Terminated, "replication was removed")
                    .await;
            }
        }
        Ok(())
    }
}
