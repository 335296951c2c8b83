//! Change of roles: the committed replica becomes the primary, and the old primary gives way and becomes its replica with
//! the data it has. Nothing is copied for it; what differs travels afterwards (`sync`).

use std::time::Duration;

use camino::Utf8Path;
use lifeboat_deltalog::{Consistency, LogDisk};
use lifeboat_model::api::ReturnCode;
use lifeboat_model::lifecycle::{self, Turn};
use lifeboat_model::settings::check_peer;
use lifeboat_model::{
    DiskId, FailedOverReplicationType as Kind, GenerationId, JobState, JobType, Machine, PointId, Position,
    ReplicationMode as Mode, ReplicationSettings, ReplicationState as State, VmSpec,
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::action::{Answer, PointView, Refusal};
use crate::actor::{Actor, Done, Work, chain, failed, no_relationship, not_now};
use crate::copy::unexpected;
use crate::failover::Consent;
use crate::operations::link_refusal;
use crate::ports::capture::{CaptureError, Tracking};
use crate::ports::hypervisor::{Power, PowerState};
use crate::ports::link::{
    Content, HandOver, LinkError, PeerIdentity, PeerPower, PeerRefusal, PeerReply, PeerRequest,
    ReplicaStatus, Standing,
};
use crate::ports::store::{Abandoned, Adoption, CompareRange, Divergence, Origin, ReplicaInfo, Target};
use crate::primary::droppable;
use crate::records::{
    Counters, Failover, FailoverPhase, Home, PlannedPhase, PrimarySide, Relationship, ReplicaSide, Reverse,
    Side, SyncKind, TakeOver,
};
use crate::replica::as_replica;
use crate::sync::ComparisonError;
use crate::way_back;

/// A host that answered this recently is waited for when it goes away in the middle of a reversal.
const VANISHED: Duration = Duration::from_secs(60);

/// How often an old primary that fails to give way in a planned failover is asked again.
const ATTEMPTS: u32 = 5;

/// Where a copy stands that belongs to no line yet.
pub(crate) const NOWHERE: Position = Position::start(GenerationId(Uuid::nil()));

/// An offer to be a replica.
pub(crate) struct GivenWay {
    pub(crate) spec: Machine,
    pub(crate) settings: ReplicationSettings,
    pub(crate) disks: Vec<LogDisk>,
    pub(crate) start: Position,
    pub(crate) from: Option<String>,
    pub(crate) content: Content,
}

impl GivenWay {
    /// Checks what the offering host says against itself, against its certificate and against what can be.
    pub(crate) fn validate(&self, peer: &PeerIdentity) -> Result<(), PeerRefusal> {
        let conflict = |detail: String| PeerRefusal::Conflict { detail };
        let Self { spec, settings, .. } = self;
        let machine = spec.validate();
        machine.map_err(|e| conflict(format!("the VM's description: {e}")))?;
        let agreed = settings.validate(spec.disks.iter().map(|d| &d.id));
        agreed.map_err(|e| conflict(format!("the settings: {e}")))?;
        if self.disks.iter().map(|d| &d.id).ne(&settings.disks) {
            return Err(conflict("the offered disks are not those of the settings".into()));
        }
        for disk in &self.disks {
            disk.validate().map_err(|e| conflict(e.to_string()))?;
        }
        if let Some(from) = &self.from {
            check_peer(from).map_err(|e| conflict(format!("the way back: {e}")))?;
            way_back::check(from, peer).map_err(|e| conflict(format!("the way back: {e}")))?;
        }
        Ok(())
    }
}

/// Hosts that have a copy from here and follow neither this host nor the one that is its replica from now on. Of many the last
/// few: each costs a question before a start.
fn formerly(rel: &Relationship, replica: &str) -> Vec<String> {
    const KEPT: usize = 4;
    let third = crate::extended::extended(Some(rel)).map(|e| e.settings.peer.clone());
    let mut all = rel.formerly.clone();
    all.extend(third);
    all.retain(|peer| peer != replica);
    all.dedup();
    let surplus = all.len().saturating_sub(KEPT);
    all.split_off(surplus)
}

impl Actor {
    /// ReverseReplicationRelationship.
    pub(crate) async fn reverse(&mut self, settings: Option<ReplicationSettings>) -> Result<Answer, Refusal> {
        let rel = self.rel.clone().ok_or_else(no_relationship)?;
        let planned = rel.failover().is_some_and(|f| f.kind == Kind::Planned);
        if rel.state == State::Recovered && planned && rel.mode == Mode::Replica {
            // The way of the original after a planned failover: one call from state 5.
            self.commit_failover().await?;
        } else {
            lifecycle::turn(rel.mode, rel.state, Turn::Reverse { whole: planned })
                .map_err(|e| not_now(&e))?;
        }
        if let Some(running) = self
            .rel
            .as_ref()
            .and_then(Relationship::failover)
            .and_then(|f| f.reverse.as_ref())
        {
            let job = self.host.jobs.get(running.job);
            return Ok(job.map_or(Answer::Done, Answer::Job));
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
        let mut change = self.change()?;
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
                "name it: lifeboat replication reverse --peer HOST:PORT",
            ));
        };
        settings
            .validate(rel.spec.disks.iter().map(|d| &d.id))
            .map_err(|e| Refusal::new(ReturnCode::InvalidParameter, e.to_string(), ""))?;
        let job = self
            .host
            .jobs
            .draft(self.id, kind, "the other host is asked to become the replica");
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
        let answer = self.begin(change, job).await?;
        self.interrupt().await;
        Ok(answer)
    }

    /// What a committed failover still has to do by itself, before anything else.
    pub(crate) async fn plan_after_commit(&mut self, failover: &Failover) -> Option<Work> {
        if let Some(reverse) = failover.reverse.clone() {
            return self.plan_reverse(failover, reverse).await;
        }
        let take_over = failover.take_over?;
        if let Err(e) = self
            .begin_reverse(JobType::Reverse, None, take_over.start, true)
            .await
        {
            self.fault(&format!("replication is not reversed: {}", e.message))
                .await;
            self.replica_retry();
            return None;
        }
        let failover = self.rel.as_ref()?.failover()?.clone();
        let reverse = failover.reverse.clone()?;
        self.plan_reverse(&failover, reverse).await
    }

    async fn plan_reverse(&mut self, failover: &Failover, reverse: Reverse) -> Option<Work> {
        let firmware = self.firmware().await;
        let rel = self.rel.as_ref()?;
        let (link, store, vm) = (
            self.host.ports.link.clone(),
            self.host.ports.store.clone(),
            self.id,
        );
        let offer = |disks| PeerRequest::Offer {
            vm: Box::new(rel.spec.clone().into()),
            settings: reverse.settings.clone(),
            disks,
            start: rel.position,
            from: self.host.config.listen.clone(),
            content: Content::Reverse {
                since: failover.at.unwrap_or(rel.position),
                planned: failover.kind == Kind::Planned,
            },
            firmware,
        };
        let info = match store.info(vm).await {
            Ok(info) => info,
            Err(e) => {
                self.fault(&format!("the committed disks cannot be read: {}", chain(&e)))
                    .await;
                self.replica_retry();
                return None;
            }
        };
        // What is no longer replicated may still be among the files.
        let disk = |id: &DiskId| info.disks.iter().find(|d| d.id == *id).cloned();
        let request = offer(reverse.settings.disks.iter().filter_map(disk).collect());
        let peer = reverse.settings.peer;
        Some(droppable(async move {
            Done::Reversed(match link.call(&peer, request).await {
                Ok(PeerReply::Status(status)) => Ok(status),
                Ok(other) => Err(unexpected(&peer, &other)),
                Err(e) => Err(e),
            })
        }))
    }

    pub(crate) async fn reversed(&mut self, result: Result<ReplicaStatus, LinkError>) {
        let Some(rel) = (*self.rel).clone() else { return };
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
        let sync = Self::new_sync(&mut next, SyncKind::Reverse, Some(reverse.job));
        next.side = Side::Primary(PrimarySide {
            sync: Some(sync),
            start: reverse.start,
            ..PrimarySide::new(rel.position)
        });
        let mut change = self.draft(next);
        change.tell("the other host has given way; this host is the primary now");
        self.extended_ends(&mut change, &rel, &reverse.settings.peer);
        if self.commit(change).await.is_err() {
            return self.replica_retry();
        }
        self.host.jobs.step(reverse.job, 10, "finding out what differs");
        self.primary.forget();
        self.primary.next_at = Instant::now();
    }

    async fn not_reversed(&mut self, failover: Failover, reverse: &Reverse, e: &LinkError) {
        let tried = self
            .rel
            .as_ref()
            .and_then(|r| r.problem.as_ref())
            .map_or(0, |p| p.attempts);
        let passing = match e {
            // A fault of that host, perhaps of the moment: the VM waits for it, but not for ever.
            LinkError::Refused(PeerRefusal::Failed { .. } | PeerRefusal::NoSpace { .. }) => tried < ATTEMPTS,
            LinkError::Refused(_) | LinkError::Untrusted { .. } => false,
            LinkError::Unreachable { .. } | LinkError::Protocol { .. } => true,
        };
        // A host that was there a moment ago and went away in the middle of it may be back soon.
        let vanished = self
            .host
            .presence
            .seen(&reverse.settings.peer)
            .is_some_and(|at| at.elapsed() < VANISHED);
        if passing && (reverse.patient || (vanished && tried < ATTEMPTS)) {
            self.fault(&format!("the old primary is not reached: {}", chain(e)))
                .await;
            return self.replica_retry();
        }
        let (start, why) = (reverse.start, chain(e));
        let Ok(mut change) = self.change() else { return };
        change.set_failover(Some(Failover {
            reverse: None,
            // It is the one and only copy that may run: the old primary was prepared, and is locked off.
            take_over: None,
            ..failover
        }));
        change.with_job(self.host.jobs.refused(reverse.job, link_refusal(e).code, &why));
        change.tell(format!("replication was not reversed: {why}"));
        if self.commit(change).await.is_err() {
            return self.replica_retry();
        }
        if !start {
            return;
        }
        // The VM is wanted here all the same, but never beside the other copy.
        let callback = self.rel.as_ref().and_then(|r| r.callback.clone());
        let locked = self
            .ask_standing(callback.as_deref())
            .await
            .standing()
            .is_some_and(|s| {
                s.does() == PeerPower::Off
                    && (s.state == State::SyncedReplicationComplete || s.mode == Mode::Replica)
            });
        let started = match locked {
            true => self
                .start_vm(crate::question::Asking::First)
                .await
                .map(|_| ())
                .map_err(|e| e.message),
            false => Err("it is not certain that the old primary is off".to_owned()),
        };
        if let Err(why) = started {
            self.event(&format!("the VM was not started: {why}")).await;
        }
    }

    /// What this host does when the primary hands over. What somebody asked for here is carried out whatever the entry says.
    pub(crate) fn takes_over(&self) -> HandOver {
        let Some(rel) = self.rel.as_ref() else {
            return HandOver::Off;
        };
        let allowed = self.host.entry_for(&rel.peer).is_some_and(|e| e.allow_start);
        match rel.replica() {
            Some(side) if side.asked => HandOver::Starts,
            _ if !self.kept_at_least().is_zero() => HandOver::ByHand,
            _ if allowed => HandOver::Starts,
            _ => HandOver::Off,
        }
    }

    /// From a prepared primary: fail over to its last instant and go on from there. Repeatable.
    pub(crate) async fn take_over(
        &mut self,
        peer: &PeerIdentity,
        at: Position,
        start: bool,
    ) -> Result<PeerReply, PeerRefusal> {
        let host = self.host.config.name.clone();
        let not_now = |detail: String| PeerRefusal::NotNow {
            host: host.clone(),
            detail,
        };
        let Some(rel) = self.rel.as_ref() else {
            return Err(PeerRefusal::NoReplica { host });
        };
        if rel.mode == Mode::Primary {
            self.is_peer(peer)?;
            return Ok(PeerReply::Accepted);
        }
        self.trusts(peer)?;
        match rel.failover() {
            Some(f) if f.take_over.is_some() || f.reverse.is_some() => return Ok(PeerReply::Accepted),
            Some(_) => {
                return Err(not_now(
                    "the replica is failed over already; commit or revert that there".into(),
                ));
            }
            None => {}
        }
        if let Some((why, way_out)) = self.takes_over().refusal(start, &host) {
            return Err(not_now(format!("{why}; {way_out}")));
        }
        let store = &self.host.ports.store;
        let info = store.info(self.id).await.map_err(|e| self.host.peer_refusal(e))?;
        if info.durable != at {
            return Err(PeerRefusal::OutOfSequence { have: info.durable });
        }
        let is_at = |info: &ReplicaInfo, p: &PointView| match p.target {
            Target::Cycle { position } => position == at,
            Target::Point { id } => info.points.iter().any(|p| p.id == id && p.position == at),
            Target::Abandoned => false,
        };
        let mut point = crate::failover::points(&info)
            .into_iter()
            .find(|p| is_at(&info, p));
        if point.is_none() {
            // It has just arrived, and no point leads to it yet: applying seals it.
            self.catch_up().await?;
            let info = self.host.ports.store.info(self.id).await;
            let info = info.map_err(|e| self.host.peer_refusal(e))?;
            point = crate::failover::points(&info)
                .into_iter()
                .find(|p| is_at(&info, p));
        }
        let point = point.ok_or_else(|| not_now("it has no recovery point".into()))?;
        if let Some(why) = &point.unusable {
            return Err(not_now(format!(
                "{why}; its newest data cannot be brought up: compare the copies first (lifeboat replication resync)"
            )));
        }
        let consent = Consent {
            take_over: Some(TakeOver { start }),
            ..Consent::default()
        };
        let begun = self.begin_failover(point, false, consent).await;
        begun.map(|_| PeerReply::Accepted).map_err(|e| not_now(e.message))
    }

    /// Commits what a prepared primary handed over, once it is sure that the primary did not change its mind before this
    /// failover was recorded: after it, standing down is refused.
    pub(crate) async fn commit_taking_over(&mut self) -> bool {
        let callback = self.rel.as_ref().and_then(|r| r.callback.clone());
        let done = match self.ask_standing(callback.as_deref()).await.standing() {
            Some(s) if s.state == State::SyncedReplicationComplete && s.does() == PeerPower::Off => {
                self.commit_failover().await
            }
            // It is prepared, and cannot tell whether its VM is off by now: that is no change of its mind.
            Some(Standing {
                state: State::SyncedReplicationComplete,
                power: Some(PeerPower::NotKnown { why }),
                ..
            }) => {
                self.fault(&format!(
                    "taking over waits: the primary cannot tell whether its VM is off: {why}"
                ))
                .await;
                return false;
            }
            Some(s) => {
                self.event(&format!(
                    "the primary is {} and no longer prepared: the failover is reverted",
                    s.state
                ))
                .await;
                self.revert_failover(true).await
            }
            None => {
                self.fault("the prepared primary does not answer; taking over waits for it")
                    .await;
                return false;
            }
        };
        match done {
            Ok(_) => true,
            Err(e) => {
                self.fault(&format!("taking over waits: {}", e.message)).await;
                false
            }
        }
    }

    /// From a primary that was prepared and wants to go on.
    pub(crate) fn stand_down(&self, peer: &PeerIdentity) -> Result<PeerReply, PeerRefusal> {
        self.is_peer(peer)?;
        let host = self.host.config.name.clone();
        let Some(rel) = self.rel.as_ref().filter(|r| r.mode != Mode::Primary) else {
            let detail = "it is the primary now".to_owned();
            return Err(PeerRefusal::NotNow { host, detail });
        };
        self.trusts(peer)?;
        match rel.failover() {
            None => Ok(PeerReply::Accepted),
            Some(_) => Err(PeerRefusal::FailedOver { host }),
        }
    }

    /// RequestReplicationStateChange to 2: this copy awaits what another host will send.
    pub(crate) async fn become_replica(&mut self) -> Result<Answer, Refusal> {
        let (mode, state) = match self.rel.as_ref() {
            Some(rel) => (rel.mode, rel.state),
            None => (Mode::None, State::Disabled),
        };
        lifecycle::turn(mode, state, Turn::BecomeReplica).map_err(|e| not_now(&e))?;
        if self.power().await? != PowerState::Off {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                "the VM is running",
                "shut it down first: lifeboat vm stop",
            ));
        }
        self.no_shared_disk().await?;
        let spec = self.spec()?.clone();
        self.interrupt().await;
        let mut change = self.draft(self.given_way(State::WaitingToCompleteInitialReplication, spec));
        change.tell("this copy is a replica now and awaits what its primary sends");
        self.commit(change).await?;
        Ok(Answer::Done)
    }

    /// The record of a copy that became a replica and has not been adopted by the store yet.
    fn given_way(&self, state: State, spec: VmSpec) -> Relationship {
        let old = self.rel.as_ref();
        let disks = spec.disks.iter().map(|d| d.id.clone()).collect();
        Relationship {
            vm: self.id,
            index: 0,
            mode: Mode::Replica,
            state,
            settings: old.map_or_else(|| awaiting(disks), |r| r.settings.clone()),
            peer: old.map(|r| r.peer.clone()).unwrap_or_default(),
            position: old.map_or(NOWHERE, |r| r.position),
            side: Side::Replica(ReplicaSide {
                own: true,
                unequal: old.is_some_and(unequal),
                allowed: self.bound_to().map(ToOwned::to_owned),
                keeping: old
                    .and_then(Relationship::replica)
                    .map(|r| r.keeping.clone())
                    .unwrap_or_default(),
                ..ReplicaSide::new(None)
            }),
            problem: None,
            created: self.host.ports.clock.now(),
            last_replication: None,
            recency: Default::default(),
            newest_instant: None,
            counters: Counters::default(),
            home: old.and_then(|r| r.home.clone()),
            callback: None,
            formerly: old.map(|r| r.formerly.clone()).unwrap_or_default(),
            preflight: Vec::new(),
            addressing: Default::default(),
            keys: Vec::new(),
            network: old.map(|r| r.network.clone()).unwrap_or_default(),
            spec,
        }
    }

    /// A copy of this host's own that was made a replica by hand, before its primary said what is to become of it.
    pub(crate) fn awaits_offer(&self) -> bool {
        let replica = self.rel.as_ref().and_then(Relationship::replica);
        replica.is_some_and(|r| r.dir.is_none())
    }

    /// Such a copy is offered an initial copy: it stays as it is until the primary begins, with it as the seed.
    pub(crate) async fn await_seed(
        &mut self,
        peer: &PeerIdentity,
        offer: GivenWay,
    ) -> Result<PeerReply, PeerRefusal> {
        self.check_given_way(&offer).await?;
        let spec = as_replica(&offer.spec, &offer.settings);
        let state = State::WaitingToCompleteInitialReplication;
        let mut change = match self.change() {
            Ok(change) => change,
            Err(_) => self.draft(self.given_way(state, spec.clone())),
        };
        change.spec = spec;
        change.settings = offer.settings;
        change.peer = peer.names.first().cloned().unwrap_or_default();
        change.callback = offer.from;
        let committed = self.commit(change).await;
        committed.map_err(|e| self.catalog_refusal(e))?;
        self.replica_status().await
    }

    /// Digests of the peer against the copy here.
    pub(crate) async fn compare_for(
        &mut self,
        peer: &PeerIdentity,
        disk: &DiskId,
        ranges: &[CompareRange],
    ) -> Result<PeerReply, PeerRefusal> {
        self.may_receive(peer)?;
        let conflict = |e: ComparisonError| PeerRefusal::Conflict { detail: chain(&e) };
        crate::sync::bounded(ranges).map_err(conflict)?;
        // What is compared is what was applied: a log that is not would change it afterwards.
        self.catch_up().await?;
        let store = &self.host.ports.store;
        let info = store.info(self.id).await.map_err(|e| self.host.peer_refusal(e))?;
        let Some(number) = info.disks.iter().position(|d| d.id == *disk) else {
            // It was added, and nothing of it has come yet.
            let blocks = crate::sync::not_zero(ranges).map_err(conflict)?;
            return Ok(PeerReply::Differ { blocks });
        };
        let here = |range: &CompareRange| CompareRange {
            disk: u16::try_from(number).unwrap_or(u16::MAX),
            ..range.clone()
        };
        let ranges: Vec<CompareRange> = ranges.iter().map(here).collect();
        let blocks = store.compare(self.id, &ranges).await;
        blocks
            .map(|blocks| PeerReply::Differ { blocks })
            .map_err(|e| self.host.peer_refusal(e))
    }

    /// What this copy changed after the last instant it shares with the peer's.
    pub(crate) async fn differences_for(
        &self,
        peer: &PeerIdentity,
        disk: &DiskId,
        from: u64,
    ) -> Result<PeerReply, PeerRefusal> {
        self.may_receive(peer)?;
        let store = &self.host.ports.store;
        let of = store
            .divergence(self.id)
            .await
            .map_err(|e| self.host.peer_refusal(e))?;
        Ok(crate::sync::page(&of, Some(disk), from))
    }

    pub(crate) async fn drop_abandoned(&mut self) -> Result<Answer, Refusal> {
        let info = self.replica_info().await?;
        if info.abandoned.is_none() {
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                "nothing abandoned is kept here",
                "",
            ));
        }
        self.interrupt().await;
        self.replica.stop_receiving().await;
        let dropped = self.host.ports.store.drop_abandoned(self.id).await;
        dropped.map_err(|e| failed("it is not dropped", &e))?;
        self.replica.begin_now();
        self.event("what was abandoned is dropped").await;
        Ok(Answer::Done)
    }

    /// An offer to go on with the copy that is here. Repeatable until a log has arrived.
    pub(crate) async fn give_way(
        &mut self,
        peer: &PeerIdentity,
        offer: GivenWay,
    ) -> Result<PeerReply, PeerRefusal> {
        let entry = self.lets_in(peer)?;
        match self.mode() {
            Mode::Primary => self.is_peer(peer)?,
            Mode::None => self.consents()?,
            Mode::Replica | Mode::ExtendedReplica | Mode::TestReplica => {}
        }
        let again = self
            .rel
            .as_ref()
            .is_some_and(|r| r.mode == Mode::Replica && r.position.same_generation(offer.start));
        if again
            && self
                .rel
                .as_ref()
                .and_then(Relationship::replica)
                .is_some_and(|r| r.dir.is_some())
        {
            return self.replica_status().await;
        }
        let whole = self.check_given_way(&offer).await?;
        if !again {
            self.lock_as_replica(peer, &offer, whole).await?;
        }
        self.adopt(&offer, whole, Utf8Path::new(&entry.storage_location))
            .await?;
        self.replica_status().await
    }

    /// A VM of this host that is not replicated becomes nobody's replica by the word of another host.
    fn consents(&self) -> Result<(), PeerRefusal> {
        let own = self.local.is_some() || self.rel.as_ref().is_some_and(|r| r.home.is_some());
        match own {
            false => Ok(()),
            true => Err(PeerRefusal::NotNow {
                host: self.host.config.name.clone(),
                detail: "it has a VM of its own with this UUID, which is not replicated; if that is to become the copy, make it a \
                         replica there first: lifeboat replication become-replica"
                    .into(),
            }),
        }
    }

    fn generation(&self) -> Option<GenerationId> {
        self.rel.as_ref().map(|r| r.position.generation())
    }

    /// Whether this copy is the offered instant itself.
    async fn check_given_way(&self, offer: &GivenWay) -> Result<bool, PeerRefusal> {
        let host = self.host.config.name.clone();
        match self.look().await {
            Power::Off => {}
            Power::Running | Power::Paused | Power::Stalled(_) => return Err(PeerRefusal::Running { host }),
            Power::NotKnown { why } => {
                let detail = crate::power::not_known(&why).message;
                return Err(PeerRefusal::Failed { host, detail });
            }
        }
        let (mode, state) = self
            .rel
            .as_ref()
            .map_or((Mode::None, State::Disabled), |r| (r.mode, r.state));
        if mode == Mode::Replica && self.generation() == Some(offer.start.generation()) {
            // Locked before an interruption; the state says as what.
            return Ok(state == State::Replicating);
        }
        let whole = match (&offer.content, self.rel.as_ref().and_then(Relationship::primary)) {
            (Content::Reverse { since, planned: true }, Some(primary)) => {
                let prepared = primary
                    .planned
                    .as_ref()
                    .is_some_and(|p| matches!(p.phase, PlannedPhase::Prepared | PlannedPhase::HandingOver));
                prepared && primary.acknowledged == *since
            }
            _ => false,
        };
        if let (Content::Reverse { since, .. }, Some(rel)) = (&offer.content, self.rel.as_ref())
            && rel.mode == Mode::Primary
            && !rel.position.same_generation(*since)
        {
            let detail = "its copy went on from another line of this VM; if it is to be given up, make it a replica there first: lifeboat replication become-replica";
            return Err(PeerRefusal::NotNow {
                host,
                detail: detail.into(),
            });
        }
        match lifecycle::turn(mode, state, Turn::GiveWay { whole }) {
            Ok(_) => Ok(whole),
            Err(e) => Err(PeerRefusal::NotNow {
                host,
                detail: format!("{e}; {}", e.way_out),
            }),
        }
    }

    /// From here on this host does not start the VM and does not send.
    async fn lock_as_replica(
        &mut self,
        peer: &PeerIdentity,
        offer: &GivenWay,
        whole: bool,
    ) -> Result<(), PeerRefusal> {
        self.interrupt().await;
        let state = match whole {
            true => State::Replicating,
            false => State::WaitingToCompleteInitialReplication,
        };
        let primary = self.rel.as_ref().and_then(Relationship::primary);
        let planned = primary.and_then(|p| p.planned.as_ref()).map(|p| p.job);
        let compared = primary.and_then(|p| p.sync.as_ref()?.job);
        let mut change = self.draft(self.given_way(state, as_replica(&offer.spec, &offer.settings)));
        change.settings = offer.settings.clone();
        change.peer = peer.names.first().cloned().unwrap_or_default();
        change.callback.clone_from(&offer.from);
        change.position = offer.start;
        // In one transaction: nothing would end those jobs later.
        let jobs = &self.host.jobs;
        change.end_job(jobs, planned, JobState::Completed, None);
        let why = "the roles were swapped".to_owned();
        change.end_job(jobs, compared, JobState::Terminated, Some(why));
        let names = peer.names.join(", ");
        change.tell(format!("this host gave way: {names} is the primary now"));
        let committed = self.commit(change).await;
        committed.map_err(|e| self.catalog_refusal(e))
    }

    /// Makes the store take the copy over. What this copy changed since the last common instant is noted with it.
    async fn adopt(&mut self, offer: &GivenWay, whole: bool, location: &Utf8Path) -> Result<(), PeerRefusal> {
        let host = self.host.config.name.clone();
        let refused = |detail: String| PeerRefusal::Failed {
            host: host.clone(),
            detail,
        };
        let store = self.host.ports.store.clone();
        let now = self.host.ports.clock.now();
        let (divergence, origin) = match &offer.content {
            Content::Reverse { since, .. } if !whole => {
                let divergence = self
                    .own_changes(offer, *since)
                    .await
                    .map_err(|e| refused(chain(&e)))?;
                (divergence, self.origin(offer))
            }
            Content::Reverse { since, .. } => (nothing_changed(offer, *since), self.origin(offer)),
            Content::Seed | Content::Empty | Content::Media { .. } | Content::Extended => {
                (unknown(offer, offer.start), self.origin(offer))
            }
        };
        let reverse = matches!(offer.content, Content::Reverse { .. });
        let keep = (reverse && !whole).then_some(Abandoned {
            since: divergence.since,
            at: now,
        });
        let sealed = whole.then(|| (PointId(self.host.ports.entropy.uuid()), now, Consistency::Planned));
        let adoption = Adoption {
            disks: offer.disks.clone(),
            start: offer.start,
            origin,
            sealed,
            keep,
            divergence,
        };
        if adoption.origin == Origin::Here && self.awaits_offer() {
            // What a removed replica left is known to nobody yet.
            let dir = location.join(self.id.to_string());
            store
                .open(&dir, self.id)
                .await
                .map_err(|e| self.host.peer_refusal(e))?;
            let sealed = self.seal_before_adoption().await;
            sealed.map_err(|e| self.host.peer_refusal(e))?;
        }
        let adopted = store.adopt(location, self.id, &adoption).await;
        adopted.map_err(|e| self.host.peer_refusal(e))?;
        let dir = store
            .info(self.id)
            .await
            .map_err(|e| self.host.peer_refusal(e))?
            .dir;
        let mut change = self.change().map_err(|e| self.catalog_refusal(e))?;
        change.home = None;
        if let Some(replica) = change.replica_mut() {
            replica.dir = Some(dir.into());
        }
        let committed = self.commit(change).await;
        committed.map_err(|e| self.catalog_refusal(e))?;
        self.replica.adopted();
        Ok(())
    }

    /// Where the data of this copy is.
    fn origin(&self, offer: &GivenWay) -> Origin {
        if let Some(home) = self.rel.as_ref().and_then(|r| r.home.as_ref()) {
            return Origin::Promoted(home.branch);
        }
        let Some(local) = &self.local else {
            return Origin::Here;
        };
        let wanted = offer.disks.iter().filter_map(|d| local.disk(&d.id));
        Origin::Images(
            wanted
                .map(|d| (d.id.clone(), d.path.clone().into(), d.format))
                .collect(),
        )
    }

    /// What tracking says of this copy since the last instant it shares with the other side.
    async fn own_changes(&self, offer: &GivenWay, since: Position) -> Result<Divergence, CaptureError> {
        let ids: Vec<DiskId> = offer.disks.iter().map(|d| d.id.clone()).collect();
        let Some(launch) = self.launch_before().await else {
            return Ok(unknown(offer, since));
        };
        let there = |d: &DiskId| launch.disks.iter().any(|l| l.id == *d);
        if !ids.iter().all(there) {
            return Ok(unknown(offer, since));
        }
        let source = match self.host.ports.hypervisor.source(&launch, &ids).await {
            Ok(source) => source,
            Err(e @ (CaptureError::InUse { .. } | CaptureError::Busy(_))) => return Err(e),
            // Missing or damaged images are the store's to refuse.
            Err(_) => return Ok(unknown(offer, since)),
        };
        let equal = self
            .rel
            .as_ref()
            .and_then(Relationship::replica)
            .is_none_or(|r| !r.unequal);
        let found = match source.recover().await {
            Ok(Tracking::Since(at)) if at.first().is_some_and(|p| equal && p.same_generation(since)) => {
                let ranges = source.known_changes().await?;
                let of = |r: Option<Vec<_>>| {
                    r.map(|r| {
                        r.into_iter()
                            .map(|e: crate::ports::capture::Extent| (e.offset, e.len))
                            .collect()
                    })
                };
                Divergence {
                    since: at.first().copied().unwrap_or(since),
                    disks: ids.into_iter().zip(ranges.into_iter().map(of)).collect(),
                }
            }
            Ok(_) => unknown(offer, since),
            Err(e) => return Err(e),
        };
        source.close().await?;
        Ok(found)
    }

    /// The VM on the images it had as a primary.
    async fn launch_before(&self) -> Option<crate::ports::hypervisor::Launch> {
        if let Some(home) = self.rel.as_ref().and_then(|r| r.home.as_ref()) {
            let spec = self.rel.as_ref()?.spec.clone();
            return self.launch_branch(spec, self.id, home.branch).await.ok();
        }
        let local = self.local.clone()?;
        Some(crate::ports::hypervisor::Launch {
            disks: local.disks.iter().map(crate::actor::plain).collect(),
            spec: local,
            firmware_vars: None,
            seed: Vec::new(),
        })
    }
}

/// Whether records of changes on the disks of this side may begin in the middle of a synchronization. What differed before
/// is in none of them, even when the synchronization was given up.
fn unequal(rel: &Relationship) -> bool {
    match &rel.side {
        Side::Primary(p) => {
            let flowed = matches!(
                rel.state,
                State::Replicating | State::Critical | State::Suspended | State::SyncedReplicationComplete
            );
            p.sync.is_some() || !flowed
        }
        Side::Replica(r) => r.unequal,
        Side::Test { .. } | Side::Alone => false,
    }
}

fn unknown(offer: &GivenWay, since: Position) -> Divergence {
    let disks = offer.disks.iter().map(|d| (d.id.clone(), None));
    Divergence {
        since,
        disks: disks.collect(),
    }
}

fn nothing_changed(offer: &GivenWay, since: Position) -> Divergence {
    let disks = offer.disks.iter().map(|d| (d.id.clone(), Some(Vec::new())));
    Divergence {
        since,
        disks: disks.collect(),
    }
}

/// Settings of a replica that does not know its primary yet.
fn awaiting(disks: Vec<DiskId>) -> ReplicationSettings {
    ReplicationSettings {
        peer: String::new(),
        interval_s: 300,
        history: 0,
        point_spacing_s: 3600,
        any_point_window_s: 0,
        disks,
        compression: true,
        application_h: 0,
        auto_resync: None,
        bandwidth: lifeboat_model::Bandwidth::default(),
    }
}
