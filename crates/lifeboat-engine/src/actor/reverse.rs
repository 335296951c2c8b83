//! Change of roles as far as it stops work: reversing, giving way and taking over end what is under way first. The steps
//! are `roles::reverse`'s.

use crate::actor::{Actor, Done};
use crate::contract::refusal::{no_relationship, not_now};
use crate::contract::{Answer, PointView, Refusal};
use crate::core::Core;
use crate::failover::initiate::Consent;
use crate::host::offer::Offer;
use crate::port::hypervisor::PowerState;
use crate::port::link::{
    DigestRange, LinkError, PeerIdentity, PeerPower, PeerRefusal, PeerReply, ReplicaStatus,
};
use crate::port::store::{CompareRange, ReplicaInfo, StoreLocation, Target};
use crate::record::{
    Counters, Failover, FailoverPhase, Home, PrimarySide, Relationship, Reverse, Side, SyncKind, TakeOver,
};
use crate::roles::reverse::{ATTEMPTS, VANISHED, formerly};
use crate::source::sync::ComparisonError;
use crate::target::replica::as_replica;
use crate::work::calls::{failed, link_refusal};
use crate::work::piece::Work;
use lifeboat_model::FailedOverReplicationType as Kind;
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::causes::chain;
use lifeboat_model::lifecycle::Turn;
use lifeboat_model::lifecycle::{self};
use lifeboat_model::{DiskId, JobState, JobType, Note, Position, ProblemKind, ReplicationSettings, hint};
use tokio::time::Instant;

impl Actor {
    /// ReverseReplicationRelationship.
    pub(crate) async fn reverse(&mut self, settings: Option<ReplicationSettings>) -> Result<Answer, Refusal> {
        let rel = self.core.rel.clone().ok_or_else(no_relationship)?;
        let planned = rel.failover().is_some_and(|f| f.kind == Kind::Planned);
        if rel.state == State::Recovered && planned && rel.mode == Mode::Replica {
            // The way of the original after a planned failover: one call from state 5.
            self.core.commit_failover().await?;
        } else {
            lifecycle::turn(rel.mode, rel.state, Turn::Reverse { whole: planned })
                .map_err(|e| not_now(&e))?;
        }
        if let Some(running) = self
            .core
            .rel
            .as_ref()
            .and_then(Relationship::failover)
            .and_then(|f| f.reverse.as_ref())
        {
            let job = self.core.host.jobs.get(running.job);
            return Ok(job.map_or(Answer::Done, Answer::from));
        }
        self.begin_reverse(JobType::Reverse, settings, false, false).await
    }

    /// Records the reversal; it is carried out when the commit is through.
    pub(crate) async fn begin_reverse(
        &mut self,
        kind: JobType,
        settings: Option<ReplicationSettings>,
        start: bool,
        patient: bool,
    ) -> Result<Answer, Refusal> {
        let mut change = self.core.change()?;
        let rel = &*change;
        let failover = rel.failover().ok_or_else(no_relationship)?.clone();
        let back = || {
            let peer = rel.callback.clone()?;
            let settings = rel.settings.clone();
            Some(ReplicationSettings { peer, ..settings })
        };
        let Some(settings) = settings.or_else(back).filter(|s| !s.peer.is_empty()) else {
            return Err(Refusal::new(
                ReturnCode::InvalidParameter,
                "it is not known where the old primary takes calls",
                hint::Planned::NamePeer,
            ));
        };
        settings
            .validate(rel.spec.disks.iter().map(|d| &d.id))
            .map_err(|e| Refusal::bare(ReturnCode::InvalidParameter, e.to_string()))?;
        let job = self.core.host.jobs.draft(
            self.core.id,
            kind,
            "the other host is asked to become the replica",
        );
        change.set_failover(Some(Failover {
            reverse: Some(Reverse {
                settings,
                start,
                patient,
                job: job.id,
            }),
            ..failover
        }));
        change.tell("replication is being reversed");
        let answer = self.core.begin(change, job).await?;
        self.interrupt().await;
        Ok(answer)
    }

    /// What a committed failover still has to do by itself, before anything else.
    pub(crate) async fn plan_after_commit(&mut self, failover: &Failover) -> Option<Work<Done>> {
        if let Some(reverse) = failover.reverse.clone() {
            let work = self.target.plan_reverse(&mut self.core, failover, reverse).await;
            return work.map(Work::into);
        }
        let take_over = failover.take_over?;
        if let Err(e) = self
            .begin_reverse(JobType::Reverse, None, take_over.start, true)
            .await
        {
            let note = e.note().within(|e| format!("replication is not reversed: {e}"));
            self.core.fault(ProblemKind::NotReversed, note).await;
            self.target.replica_retry();
            return None;
        }
        let failover = self.core.rel.as_ref()?.failover()?.clone();
        let reverse = failover.reverse.clone()?;
        let work = self.target.plan_reverse(&mut self.core, &failover, reverse).await;
        work.map(Work::into)
    }

    pub(crate) async fn reversed(&mut self, result: Result<ReplicaStatus, LinkError>) {
        let Some(rel) = (*self.core.rel).clone() else {
            return;
        };
        let Some((failover, reverse)) = rel.failover().and_then(|f| Some((f.clone(), f.reverse.clone()?)))
        else {
            return;
        };
        let status = match result {
            Ok(status) => status,
            Err(e) => return self.not_reversed(failover, &reverse, &e).await,
        };
        let whole = failover.kind == Kind::Planned && status.usable;
        let Ok((mode, state)) = lifecycle::turn(rel.mode, rel.state, Turn::Reverse { whole }) else {
            return;
        };
        let Some(dir) = rel.replica().and_then(|r| r.dir.clone()) else {
            return;
        };
        let mut next = Relationship {
            mode,
            state,
            peer: reverse.settings.peer.clone(),
            settings: reverse.settings.clone(),
            home: Some(Home {
                dir,
                branch: failover.branch,
                fork: failover.at.unwrap_or(rel.position),
                merged: failover.phase == FailoverPhase::Done,
            }),
            callback: None,
            formerly: formerly(&rel, &reverse.settings.peer),
            problem: None,
            preflight: status.problems,
            newest_instant: None,
            counters: Counters::default(),
            ..rel.clone()
        };
        let sync = Core::new_sync(&mut next, SyncKind::Reverse, Some(reverse.job));
        next.side = Side::Primary(PrimarySide {
            sync: Some(sync),
            start: reverse.start,
            ..PrimarySide::new(rel.position)
        });
        let mut change = self.core.draft(next);
        change.tell("the other host became the replica; this host is the primary now");
        self.core.outgoing_end(&mut change, &rel, &reverse.settings.peer);
        if self.core.commit(change).await.is_err() {
            return self.target.replica_retry();
        }
        self.core
            .host
            .jobs
            .step(reverse.job, 10, "finding out what differs");
        self.source.forget();
        self.source.next_at = Instant::now();
    }

    async fn not_reversed(&mut self, failover: Failover, reverse: &Reverse, e: &LinkError) {
        let problem = self.core.rel.as_ref().and_then(|r| r.problem.as_ref());
        let tried = problem.map_or(0, |p| p.attempts);
        let passing = match e {
            // A fault of that host, perhaps of the moment: the VM waits for it, but not for ever.
            LinkError::Refused(PeerRefusal::Failed { .. } | PeerRefusal::NoSpace { .. }) => tried < ATTEMPTS,
            LinkError::Refused(_) | LinkError::Untrusted { .. } => false,
            LinkError::Unreachable { .. } | LinkError::Protocol { .. } => true,
        };
        // A host that was there a moment ago and went away in the middle of it may be back soon.
        let vanished = self
            .core
            .host
            .presence
            .seen(&reverse.settings.peer)
            .is_some_and(|at| at.elapsed() < VANISHED);
        if passing && (reverse.patient || (vanished && tried < ATTEMPTS)) {
            let note = e
                .note()
                .within(|e| format!("the old primary is not reached: {e}"));
            self.core.fault(e.problem(), note).await;
            return self.target.replica_retry();
        }
        let (start, why) = (reverse.start, e.note());
        let Ok(mut change) = self.core.change() else {
            return;
        };
        change.set_failover(Some(Failover {
            reverse: None,
            // It is the one and only copy that may run: the old primary was prepared, and is locked off.
            take_over: None,
            ..failover
        }));
        change.with_job(
            self.core
                .host
                .jobs
                .refused(reverse.job, link_refusal(e).code, why.clone()),
        );
        change.tell(why.within(|why| format!("replication was not reversed: {why}")));
        if self.core.commit(change).await.is_err() {
            return self.target.replica_retry();
        }
        if !start {
            return;
        }
        // The VM is wanted here all the same, but never beside the other copy.
        let callback = self.core.rel.as_ref().and_then(|r| r.callback.clone());
        let locked = self
            .core
            .ask_standing(callback.as_deref())
            .await
            .standing()
            .is_some_and(|s| {
                s.does() == PeerPower::Off
                    && (s.state == State::SyncedReplicationComplete || s.mode == Mode::Replica)
            });
        let started = if locked {
            self.start_vm(crate::host::question::Asking::First)
                .await
                .map(|_| ())
                .map_err(|e| e.note())
        } else {
            Err("it is not certain that the old primary is off".into())
        };
        if let Err(why) = started {
            self.core
                .event(why.within(|why| format!("the VM was not started: {why}")))
                .await;
        }
    }

    /// From a prepared primary: fail over to its last instant and go on from there. Repeatable.
    pub(crate) async fn take_over(
        &mut self,
        peer: &PeerIdentity,
        at: Position,
        start: bool,
    ) -> Result<PeerReply, PeerRefusal> {
        let host = self.core.host.config.name.clone();
        let not_now = |note: Note| PeerRefusal::NotNow {
            host: host.clone(),
            detail: note.into(),
        };
        let Some(rel) = self.core.rel.as_ref() else {
            return Err(PeerRefusal::NoReplica { host });
        };
        if rel.mode == Mode::Primary {
            self.core.is_peer(peer)?;
            return Ok(PeerReply::Accepted);
        }
        self.core.trusts(peer)?;
        match rel.failover() {
            Some(f) if f.take_over.is_some() || f.reverse.is_some() => return Ok(PeerReply::Accepted),
            Some(_) => {
                return Err(not_now(
                    "the replica is failed over already; commit or revert that there".into(),
                ));
            }
            None => {}
        }
        if let Some((why, hint)) = self.core.takes_over().refusal(start, &host) {
            return Err(not_now(Note::new(why, hint)));
        }
        let info = self
            .core
            .store_info()
            .await
            .map_err(|e| self.core.host.peer_refusal(e))?;
        if info.durable != at {
            return Err(PeerRefusal::OutOfSequence { have: info.durable });
        }
        let is_at = |info: &ReplicaInfo, p: &PointView| match p.target {
            Target::Cycle { position } => position == at,
            Target::Point { id } => info.points.iter().any(|p| p.id == id && p.position == at),
            Target::Abandoned => false,
        };
        let mut point = crate::target::points::points(&info)
            .into_iter()
            .find(|p| is_at(&info, p));
        if point.is_none() {
            // It has just arrived, and no point leads to it yet: applying seals it.
            self.catch_up().await?;
            let info = self.core.store_info().await;
            let info = info.map_err(|e| self.core.host.peer_refusal(e))?;
            point = crate::target::points::points(&info)
                .into_iter()
                .find(|p| is_at(&info, p));
        }
        let point = point.ok_or_else(|| not_now("it has no recovery point".into()))?;
        if let Some(why) = &point.unusable {
            let text = format!("{why}; its newest data cannot be brought up");
            return Err(not_now(Note::new(text, hint::Copies::Resync)));
        }
        let consent = Consent {
            take_over: Some(TakeOver { start }),
            ..Consent::default()
        };
        let begun = self.begin_failover(point, false, consent).await;
        begun.map(|_| PeerReply::Accepted).map_err(|e| not_now(e.note()))
    }

    /// RequestReplicationStateChange to 2: this copy awaits what another host will send.
    pub(crate) async fn become_replica(&mut self) -> Result<Answer, Refusal> {
        let (mode, state) = match self.core.rel.as_ref() {
            Some(rel) => (rel.mode, rel.state),
            None => (Mode::None, State::Disabled),
        };
        lifecycle::turn(mode, state, Turn::BecomeReplica).map_err(|e| not_now(&e))?;
        if self.core.power().await? != PowerState::Off {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                "the VM is running",
                hint::Guest::ShutDown,
            ));
        }
        self.core.no_shared_disk().await?;
        let spec = self.core.spec()?.clone();
        self.interrupt().await;
        let mut change = self.core.draft(
            self.core
                .given_way(State::WaitingToCompleteInitialReplication, spec),
        );
        change.tell("this copy is a replica now and awaits what its primary sends");
        self.core.commit(change).await?;
        Ok(Answer::Done)
    }

    /// Digests of the peer against the copy here.
    pub(crate) async fn compare_for(
        &mut self,
        peer: &PeerIdentity,
        disk: &DiskId,
        ranges: &[DigestRange],
    ) -> Result<PeerReply, PeerRefusal> {
        self.core.may_receive(peer)?;
        let conflict = |e: ComparisonError| PeerRefusal::Conflict {
            detail: chain(&e).into(),
        };
        crate::source::sync::bounded(ranges).map_err(conflict)?;
        // What is compared is what was applied: a log that is not would change it afterwards.
        self.catch_up().await?;
        let images = self.core.peer_images()?;
        let info = images
            .info(self.core.id)
            .await
            .map_err(|e| self.core.host.peer_refusal(e))?;
        let Some(number) = info.disks.iter().position(|d| d.id == *disk) else {
            // It was added, and nothing of it has come yet.
            let blocks = crate::source::sync::not_zero(ranges).map_err(conflict)?;
            return Ok(PeerReply::Differ { blocks });
        };
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        let ranges: Vec<CompareRange> = ranges.iter().map(|r| r.here(number)).collect();
        let blocks = images.compare(self.core.id, &ranges).await;
        blocks
            .map(|blocks| PeerReply::Differ { blocks })
            .map_err(|e| self.core.host.peer_refusal(e))
    }

    pub(crate) async fn drop_abandoned(&mut self) -> Result<Answer, Refusal> {
        let info = self.core.replica_info().await?;
        if info.abandoned.is_none() {
            return Err(Refusal::bare(
                ReturnCode::InvalidState,
                "nothing abandoned is kept here",
            ));
        }
        self.interrupt().await;
        self.target.stop_receiving().await;
        let dropped = async { self.core.images()?.drop_abandoned(self.core.id).await };
        dropped.await.map_err(|e| failed("it is not dropped", &e))?;
        self.target.begin_now();
        self.core.event("what was abandoned is dropped").await;
        Ok(Answer::Done)
    }

    /// An offer to go on with the copy that is here. Repeatable until a log has arrived.
    pub(crate) async fn demote(
        &mut self,
        peer: &PeerIdentity,
        offer: Offer,
    ) -> Result<PeerReply, PeerRefusal> {
        let entry = self.core.lets_in(peer)?;
        match self.core.mode() {
            Mode::Primary => self.core.is_peer(peer)?,
            Mode::None => self.core.consents()?,
            Mode::Replica | Mode::ExtendedReplica | Mode::TestReplica => {}
        }
        let again = self
            .core
            .rel
            .as_ref()
            .is_some_and(|r| r.mode == Mode::Replica && r.position.same_generation(offer.start));
        if again
            && self
                .core
                .rel
                .as_ref()
                .and_then(Relationship::replica)
                .is_some_and(|r| r.dir.is_some())
        {
            return self.core.replica_status().await;
        }
        let whole = self.core.check_demotion(&offer).await?;
        if !again {
            self.lock_as_replica(peer, &offer, whole).await?;
        }
        self.target
            .adopt(
                &mut self.core,
                &offer,
                whole,
                &StoreLocation::new(&entry.storage_location),
            )
            .await?;
        self.core.replica_status().await
    }

    /// From here on this host does not start the VM and does not send.
    async fn lock_as_replica(
        &mut self,
        peer: &PeerIdentity,
        offer: &Offer,
        whole: bool,
    ) -> Result<(), PeerRefusal> {
        self.interrupt().await;
        let state = if whole {
            State::Replicating
        } else {
            State::WaitingToCompleteInitialReplication
        };
        let primary = self.core.rel.as_ref().and_then(Relationship::primary);
        let planned = primary.and_then(|p| p.planned.as_ref()).map(|p| p.job);
        let compared = primary.and_then(|p| p.sync.as_ref()?.job);
        let mut change = self.core.draft(
            self.core
                .given_way(state, as_replica(&offer.spec, &offer.settings)),
        );
        change.settings = offer.settings.clone();
        change.peer = peer.names.first().cloned().unwrap_or_default();
        change.callback.clone_from(&offer.from);
        change.position = offer.start;
        // In one transaction: nothing would end those jobs later.
        let jobs = &self.core.host.jobs;
        change.end_job(jobs, planned, JobState::Completed, None);
        let why = "the roles were swapped".into();
        change.end_job(jobs, compared, JobState::Terminated, Some(why));
        let names = peer.names.join(", ");
        change.tell(format!(
            "this host became the replica: {names} is the primary now"
        ));
        let committed = self.core.commit(change).await;
        committed.map_err(|e| self.core.catalog_refusal(e))
    }
}
