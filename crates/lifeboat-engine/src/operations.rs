//! What an administrator asks of the primary: enable, start, cancel, suspend, resume, remove. Each is recorded before it
//! is answered; carrying it out is `primary`'s.

use lifeboat_deltalog::LogDisk;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::lifecycle::{self, Event as Step};
use lifeboat_model::{
    DiskId, GenerationId, JobId, JobState, JobType, Position, ReplicationMode as Mode, ReplicationSettings,
    ReplicationState as State, VmSpec,
};
use tokio::time::Instant;
use tracing::info;

use crate::action::{Answer, Refusal};
use crate::actor::{Actor, chain, failed, no_relationship, not_now};
use crate::copy;
use crate::images::NoCycle;
use crate::ports::capture::CaptureError;
use crate::ports::link::{Content, LinkError, PeerRefusal, PeerReply, PeerRequest};
use crate::records::{Counters, PrimarySide, Relationship, Side, SyncKind};

/// Jobs of initial copies.
const COPIES: [JobType; 3] = [
    JobType::StartReplication,
    JobType::StartSeeded,
    JobType::StartExport,
];

impl Actor {
    pub(crate) async fn enable(&mut self, mut settings: ReplicationSettings) -> Result<Answer, Refusal> {
        let alone = self.rel.clone().filter(|r| matches!(r.side, Side::Alone));
        if let Some(rel) = self.rel.as_ref().filter(|_| alone.is_none()) {
            let message = format!(
                "this VM is replicated already, in mode {} with {}",
                rel.mode, rel.peer
            );
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                message,
                "remove it first: lifeboat replication remove",
            ));
        }
        let spec = self.spec()?.clone();
        if settings.disks.is_empty() {
            settings.disks = spec.disks.iter().map(|d| d.id.clone()).collect();
        }
        let invalid =
            |e: lifeboat_model::SettingsError| Refusal::new(ReturnCode::InvalidParameter, e.to_string(), "");
        settings
            .validate(spec.disks.iter().map(|d| &d.id))
            .map_err(invalid)?;
        self.no_shared_disk().await?;
        if let Some(why) = spec.too_many_devices(false) {
            return Err(Refusal::new(ReturnCode::InvalidParameter, why, ""));
        }
        let start = Position::start(GenerationId(self.host.ports.entropy.uuid()));
        let preflight = self.offer(&spec, &settings, start).await?;
        let peer = settings.peer.clone();
        let rel = Relationship {
            vm: self.id,
            index: 0,
            mode: Mode::Primary,
            state: State::ReadyForReplication,
            settings,
            spec,
            peer,
            position: start,
            side: Side::Primary(PrimarySide::new(start)),
            home: alone.as_ref().and_then(|r| r.home.clone()),
            callback: None,
            formerly: Vec::new(),
            preflight,
            network: Vec::new(),
            addressing: Default::default(),
            keys: Vec::new(),
            problem: None,
            created: self.host.ports.clock.now(),
            last_replication: None,
            recency: Default::default(),
            newest_instant: None,
            counters: Counters::default(),
        };
        let mut change = self.draft(rel);
        change.tell("replication enabled");
        // The offer on the peer is harmless when this is refused, and can be repeated.
        self.commit(change).await?;
        Ok(Answer::Done)
    }

    /// Offers the VM to its replica's host; what would keep it from starting there.
    async fn offer(
        &mut self,
        spec: &VmSpec,
        settings: &ReplicationSettings,
        start: Position,
    ) -> Result<Vec<String>, Refusal> {
        self.not_myself(&settings.peer).await?;
        let offer = PeerRequest::Offer {
            vm: Box::new(spec.clone().into()),
            settings: settings.clone(),
            disks: self.capturable(&settings.disks).await?,
            start,
            from: self.host.config.listen.clone(),
            content: Content::Empty,
            firmware: self.firmware().await,
        };
        let answer = self.host.ports.link.call(&settings.peer, offer).await;
        match answer.map_err(|e| link_refusal(&e))? {
            PeerReply::Status(status) => Ok(status.problems),
            other => Err(link_refusal(&copy::unexpected(&settings.peer, &other))),
        }
    }

    /// Opens the disks for capture once, which shows that it is possible and how large they are. What is under way holds them.
    pub(crate) async fn capturable(&mut self, disks: &[DiskId]) -> Result<Vec<LogDisk>, Refusal> {
        self.interrupt().await;
        let launch = self.launch().await?;
        let source = self.host.ports.hypervisor.source(&launch, disks).await;
        let source = source.map_err(|e| capture_refusal(&e))?;
        let disks = source.disks().to_vec();
        let closed = source.close().await;
        closed.map_err(|e| failed("the disks cannot be closed", &e))?;
        Ok(disks)
    }

    /// StartReplication from a copy that the replica's host has already.
    pub(crate) async fn start_seeded(&mut self) -> Result<Answer, Refusal> {
        let rel = self.rel.as_ref().ok_or_else(no_relationship)?;
        lifecycle::step(rel.mode, rel.state, Step::StartCopy).map_err(|e| not_now(&e))?;
        let (settings, peer, spec) = (rel.settings.clone(), rel.peer.clone(), self.spec()?.clone());
        let start = rel.position.first();
        let offer = PeerRequest::Offer {
            vm: Box::new(spec.into()),
            disks: self.capturable(&settings.disks).await?,
            settings,
            start,
            from: self.host.config.listen.clone(),
            content: Content::Seed,
            firmware: self.firmware().await,
        };
        let answer = self.host.ports.link.call(&peer, offer).await;
        answer.map_err(|e| link_refusal(&e))?;
        let mut change = self.change()?;
        change.step(Step::StartCopy)?;
        let job = self
            .host
            .jobs
            .begin(self.id, JobType::StartSeeded, "comparing with the seed");
        let sync = Self::new_sync(&mut change, SyncKind::Seed, Some(job.id));
        if let Some(primary) = change.primary_mut() {
            (primary.sync, primary.scheduled) = (Some(sync), None);
        }
        change.tell("initial copy started, from what the replica's host has");
        let answer = self.begin(change, job).await?;
        self.primary.next_at = Instant::now();
        Ok(answer)
    }

    pub(crate) async fn start_replication(&mut self) -> Result<Answer, Refusal> {
        let mut change = self.change()?;
        change.step(Step::StartCopy)?;
        let job = self
            .host
            .jobs
            .begin(self.id, JobType::StartReplication, "initial copy");
        if let Some(primary) = change.primary_mut() {
            primary.scheduled = None;
        }
        change.tell("initial copy started");
        let answer = self.begin(change, job).await?;
        self.primary.next_at = Instant::now();
        Ok(answer)
    }

    pub(crate) async fn cancel(&mut self, job: JobId) -> Result<Answer, Refusal> {
        let found = self.host.jobs.get(job).filter(|j| !j.state.is_final());
        let found = found.ok_or_else(|| Refusal::new(ReturnCode::InvalidState, "the job has ended", ""))?;
        if let Some(answer) = self.cancel_extended(job).await {
            return answer;
        }
        if let Some(answer) = self.cancel_import(&found).await {
            return answer;
        }
        match found.kind {
            JobType::Resynchronize => {
                self.give_up_resync().await?;
                return Ok(Answer::Job(self.host.jobs.get(job).unwrap_or(found)));
            }
            JobType::PlannedFailover => {
                self.cancel_planned(false).await?;
                return Ok(Answer::Job(self.host.jobs.get(job).unwrap_or(found)));
            }
            _ => {}
        }
        if !COPIES.contains(&found.kind) {
            let message = format!("a {} job cannot be cancelled", found.kind);
            return Err(Refusal::new(
                ReturnCode::NotSupported,
                message,
                "it ends by itself; a failover can be reverted afterwards",
            ));
        }
        if found.state == JobState::New {
            return self.unschedule(job, None).await;
        }
        let mut change = self.change()?;
        change.step(Step::CancelCopy)?;
        change.drop_sync();
        if let Some(primary) = change.primary_mut() {
            (primary.export, primary.sealing) = (None, None);
        }
        let ended = self
            .host
            .jobs
            .ended(job, JobState::Terminated, Some("cancelled".into()));
        let ended = ended.ok_or_else(|| Refusal::new(ReturnCode::InvalidState, "the job has ended", ""))?;
        change.with_job(ended.clone());
        change.tell("initial copy cancelled; what was copied is kept");
        self.commit(change).await?;
        self.interrupt().await;
        Ok(Answer::Job(ended))
    }

    /// RequestReplicationStateChange to 1: gives up an initial copy that waits for its time, or goes on.
    pub(crate) async fn cancel_initial_copy(&mut self) -> Result<Answer, Refusal> {
        let rel = self.rel.as_ref().ok_or_else(no_relationship)?;
        lifecycle::step(rel.mode, rel.state, Step::CancelCopy).map_err(|e| not_now(&e))?;
        let copy = COPIES
            .into_iter()
            .find_map(|kind| self.host.jobs.unfinished(self.id, kind));
        match copy {
            Some(job) => self.cancel(job.id).await.map(|_| Answer::Done),
            None => Err(Refusal::new(
                ReturnCode::InvalidState,
                "no initial copy is scheduled or under way",
                "see: lifeboat replication status",
            )),
        }
    }

    pub(crate) async fn suspend(&mut self) -> Result<Answer, Refusal> {
        self.no_planned()?;
        let mut change = self.change()?;
        change.step(Step::Suspend)?;
        change.tell("replication suspended");
        self.commit(change).await?;
        self.interrupt().await;
        self.primary.next_at = Instant::now();
        Ok(Answer::Done)
    }

    pub(crate) async fn resume(&mut self) -> Result<Answer, Refusal> {
        if self.planned().is_some() {
            // The API's way to cancel it.
            return self.cancel_planned(false).await;
        }
        let mut change = self.change()?;
        change.step(Step::Resume)?;
        change.problem = None;
        change.tell("replication resumed");
        self.commit(change).await?;
        self.primary.next_at = Instant::now();
        self.replica.dirty = true;
        self.replica.begin_now();
        Ok(Answer::Done)
    }

    /// The primary's side of RemoveReplicationRelationship: tracking ends, the replica is not touched.
    pub(crate) async fn remove_primary(&mut self) -> Result<(), Refusal> {
        self.interrupt().await;
        self.answer_cycle(Err(NoCycle::Removed));
        let rel = self.rel.as_ref().ok_or_else(no_relationship)?;
        lifecycle::step(rel.mode, rel.state, Step::Remove).map_err(|e| not_now(&e))?;
        let launch = self.recorded_launch().await?;
        let rel = self.rel.as_ref().ok_or_else(no_relationship)?;
        match self
            .host
            .ports
            .hypervisor
            .source(&launch, &rel.settings.disks)
            .await
        {
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
            Err(e) => info!(vm = %self.id, error = %e, "change tracking not removed from the disks"),
        }
        match self.rel.as_ref().and_then(|r| r.home.clone()) {
            Some(home) => self.live_alone(home).await?,
            None => self.erase().await?,
        }
        for job in self.host.jobs.list() {
            if job.vm == self.id && !job.state.is_final() {
                self.end_job(job.id, JobState::Terminated, "replication was removed")
                    .await;
            }
        }
        Ok(())
    }
}

/// A capture's error as the answer to an action.
fn capture_refusal(e: &CaptureError) -> Refusal {
    Refusal {
        code: match e {
            CaptureError::InUse { .. } | CaptureError::Busy(_) => ReturnCode::InUse,
            CaptureError::Preflight(_)
            | CaptureError::Gone
            | CaptureError::NoSpace(_)
            | CaptureError::TrackingLost { .. }
            | CaptureError::Block { .. } => ReturnCode::Failed,
        },
        ..failed("the disks cannot be captured", e)
    }
}

/// A link's error as the answer to an action.
pub(crate) fn link_refusal(e: &LinkError) -> Refusal {
    let code = match e {
        LinkError::Unreachable { late: true, .. } => ReturnCode::Timeout,
        LinkError::Unreachable { late: false, .. } => ReturnCode::Unavailable,
        LinkError::Untrusted { .. } => ReturnCode::AccessDenied,
        LinkError::Protocol { .. } => ReturnCode::Failed,
        LinkError::Refused(refusal) => match refusal {
            PeerRefusal::NotEnabled { .. }
            | PeerRefusal::NotAuthorized { .. }
            | PeerRefusal::OtherKey { .. } => ReturnCode::AccessDenied,
            PeerRefusal::Conflict { .. } => ReturnCode::InvalidParameter,
            PeerRefusal::NoReplica { .. } => ReturnCode::FileNotFound,
            PeerRefusal::FailedOver { .. }
            | PeerRefusal::NewerGeneration { .. }
            | PeerRefusal::Suspended { .. }
            | PeerRefusal::Running { .. }
            | PeerRefusal::NotNow { .. }
            | PeerRefusal::OutOfSequence { .. } => ReturnCode::InvalidState,
            PeerRefusal::Backlog { .. } => ReturnCode::InUse,
            PeerRefusal::NoSpace { .. } | PeerRefusal::Failed { .. } => ReturnCode::Failed,
        },
    };
    let hint = match e {
        LinkError::Unreachable { .. } => {
            "is lifeboat serve running there, and does a firewall let the port through?"
        }
        LinkError::Untrusted { .. } => {
            "both hosts need certificates of one CA, with their names (lifeboat cert issue), and keys that the other one knows"
        }
        LinkError::Protocol { .. } | LinkError::Refused(_) => "",
    };
    Refusal::new(code, chain(e), hint)
}
