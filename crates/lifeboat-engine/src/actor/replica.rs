//! What an actor does as a replica: which work comes next, calls of the primary, and what ends a relationship. Receiving
//! and applying are `target`'s.

use crate::actor::{Actor, Done};
use crate::contract::refusal::{no_relationship, not_now};
use crate::contract::{Answer, Refusal};
use crate::host::offer::Offer;
use crate::host::stores::close;
use crate::port::link::{Content, PeerIdentity, PeerRefusal, PeerReply, PeerRequest};
use crate::port::store::{Received, Store, StoreError, StoreLocation};
use crate::record::{FailoverPhase, Home, Relationship, ReplicaSide, Side};
use crate::source::sealing;
use crate::target;
use crate::target::TargetPart;
use crate::target::replica::{Maintained, expire, maintain, usable};
use crate::work::calls::failed;
use crate::work::message::Stamp;
use crate::work::piece::{IDLE, Work, droppable, undroppable};
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::causes::chain;
use lifeboat_model::lifecycle::Event as Step;
use lifeboat_model::lifecycle::{self};
use lifeboat_model::policy::Retention;
use lifeboat_model::{Note, PointId, hint};
use tokio::time::Instant;
use tracing::warn;

impl Actor {
    pub(crate) async fn plan_replica(&mut self) -> Option<Work<Done>> {
        if !self.core.opened {
            if Instant::now() < self.target.next_at {
                return None;
            }
            self.target.open_replica(&mut self.core).await;
            if !self.core.opened {
                return None;
            }
        }
        if let Some(work) = self.target.plan_test(&self.core) {
            return Some(work.into());
        }
        if let Some(phase) = self.core.branch() {
            return self.plan_failover(phase).await;
        }
        let rel = self.core.rel.as_ref()?;
        if !matches!(
            rel.state,
            State::WaitingToCompleteInitialReplication
                | State::Replicating
                | State::Critical
                | State::Suspended
                | State::Resynchronizing
        ) {
            self.target.next_at = Instant::now() + IDLE;
            return None;
        }
        if Instant::now() < self.target.next_at {
            return self.target.plan_scrub(&self.core).map(Work::into);
        }
        self.target.agree_before_expiry(&mut self.core).await;
        let retention = self.target.retention(&self.core, self.core.rel.as_ref()?);
        let (store, vm) = (self.target.store_or_rest(&self.core)?, self.core.id);
        if self.core.awaits_import() {
            if let Some(work) = self.core.plan_import() {
                return Some(work.into());
            }
            self.target.next_at = Instant::now() + IDLE;
            return None;
        }
        let overdue = self.target.expired_at.elapsed() >= self.core.host.config.expiry_interval;
        let collected = self.target.collected(&self.core);
        let applies = self.target.dirty && collected.is_none();
        // What waits to be applied does not keep points from expiring: each has its turn.
        let expires = overdue || (self.target.expire && !(applies && self.target.expiry_had_its_turn));
        if applies && !expires {
            // Before the work, not after it: a log that becomes durable meanwhile sets it again.
            self.target.dirty = false;
            let point = [(); 2].map(|()| PointId(self.core.host.ports.entropy.uuid()));
            let past = self.core.point_wanted().or_else(|| self.target.damaged_log());
            let sealing = (point, self.target.sealer(&self.core));
            // Its writes to the head would go on after a drop, under whatever came next.
            let work = undroppable(async move {
                target::Done::Maintained(Box::new(
                    maintain(store.images, vm, retention, sealing, past).await,
                ))
            });
            return Some(work.into());
        }
        if expires {
            return Some(self.expiring(store, retention).into());
        }
        // What could not be expired, because it was in use, may be free then.
        let look = self.target.expired_at + self.core.host.config.expiry_interval;
        self.target.next_at = collected.map_or(look, |at| at.min(look));
        self.target.plan_scrub(&self.core).map(Work::into)
    }

    /// Lets what is older than agreed expire.
    fn expiring(&mut self, store: Store, retention: Retention) -> Work<target::Done> {
        (self.target.expiry_had_its_turn, self.target.expired_at) = (true, Instant::now());
        let (vm, aging) = (self.core.id, self.target.aging.clone());
        droppable(async move { target::Done::Expired(expire(store, vm, retention, aging).await) })
    }

    pub(crate) async fn maintained(&mut self, result: Result<Maintained, StoreError>) {
        self.target.expiry_had_its_turn = false;
        match result {
            Ok(done) => {
                self.target.attempts = 0;
                self.target.queue.look(&done.info);
                self.target.dirty |= done.applied.is_some();
                self.target.expire |= done.sealed;
                if done.sealed {
                    self.target.scrub.wake();
                }
                self.target.changes_applied(&mut self.core, &done.info).await;
                if done.sealed && self.core.point_wanted().is_some() {
                    self.forward.restart(&self.core).await;
                }
                self.target.next_at = Instant::now();
                self.target.storage_seen(&self.core, &done.info).await;
                // Not only when it was sealed just now: the daemon may have ended between the seal and this record.
                self.core.mirror_sync(&done.info).await;
                if usable(self.core.mode(), &done.info) && self.core.copy_is_finished().await.is_err() {
                    self.target.dirty = true;
                    self.target.replica_retry();
                    return;
                }
                if !self.target.dirty && done.info.durable == done.info.applied && self.core.cured() {
                    self.core.write_noted().await;
                }
            }
            Err(e) => {
                warn!(vm = %self.core.id, error = %chain(&e), "log not applied");
                self.target.dirty = true;
                // What expires may be the room that is missing.
                if e.lacks_room() {
                    self.core.hold_lacks_room().await;
                    self.target.expire = true;
                }
                let note = e.note().within(|e| format!("a log cannot be applied: {e}"));
                self.target.replica_fault(&mut self.core, e.problem(), note).await;
            }
        }
    }

    /// Applies everything that is durable, for who has to see it.
    pub(crate) async fn catch_up(&mut self) -> Result<(), PeerRefusal> {
        if self
            .core
            .rel
            .as_ref()
            .and_then(Relationship::replica)
            .is_some_and(|r| r.awaits_import)
        {
            return Err(PeerRefusal::NotNow {
                host: self.core.host_name(),
                detail: "the initial copy is on its way on media and has to be imported first".into(),
            });
        }
        loop {
            let images = self.core.peer_images()?;
            let info = images
                .info(self.core.id)
                .await
                .map_err(|e| self.core.host.peer_refusal(e))?;
            let Some(rel) = self.core.rel.as_ref().filter(|_| info.applied != info.durable) else {
                return Ok(());
            };
            let retention = self.target.retention(&self.core, rel);
            // Points may be expiring at this moment.
            self.interrupt().await;
            let point = [(); 2].map(|()| PointId(self.core.host.ports.entropy.uuid()));
            let sealing = (point, self.target.sealer(&self.core));
            let done = maintain(images, self.core.id, retention, sealing, None).await;
            let stuck = done.as_ref().is_ok_and(|d| d.applied.is_none());
            let failed = done.as_ref().err().map(|e| chain(e));
            self.maintained(done).await;
            if failed.is_some() || stuck {
                return Err(PeerRefusal::Failed {
                    host: self.core.host_name(),
                    detail: failed.unwrap_or_else(|| "a log that is here cannot be applied".into()),
                });
            }
        }
    }

    pub(crate) async fn log_durable(&mut self, received: Received, stamp: Stamp) {
        let now = stamp.reading;
        self.target.aging.arrived(stamp, received.instant);
        self.core.roll_statistics().await;
        self.core.tally(|rel| {
            rel.position = received.durable;
            rel.last_replication = Some(now.wall);
            if received.partial {
                rel.counters.bytes += received.bytes;
                rel.recency.any = Some(now);
            } else {
                rel.instant_durable(&received, stamp);
            }
        });
        if !received.partial {
            self.target
                .instant_arrived(&self.core, received.instant, now)
                .await;
        }
        self.contact.moved();
        self.target.queue.arrived(received.durable, received.bytes);
        // What arrives is proof that receiving works again, not that what failed to be applied can be.
        let unapplied = self.target.dirty && self.target.attempts > 0;
        if !self.target.dirty {
            (self.target.dirty, self.target.attempts, self.target.next_at) = (true, 0, Instant::now());
        }
        if !unapplied && self.core.rel.as_ref().is_some_and(|r| r.state == State::Critical) {
            self.core.cured();
            self.core.write_noted().await;
        }
    }

    pub(crate) async fn peer_call(&mut self, peer: &PeerIdentity, request: PeerRequest) -> PeerReply {
        let answer = match request {
            PeerRequest::Hello | PeerRequest::AnnounceKey { .. } => Err(PeerRefusal::Conflict {
                detail: "this is about hosts, and is answered by the host".into(),
            }),
            PeerRequest::Offer {
                vm,
                settings,
                disks,
                start,
                from,
                content,
                firmware,
            } => {
                let offer = Offer {
                    spec: *vm,
                    settings,
                    disks,
                    start,
                    from: Some(from).filter(|from| !from.is_empty()),
                    content,
                };
                let taken = self.offered_as(peer, offer).await;
                self.with_firmware(taken, &firmware).await
            }
            PeerRequest::FinishBulk {
                instant, consistency, ..
            } => self.finish_bulk(peer, instant, consistency).await,
            PeerRequest::Compare { disk, ranges, .. } => self.compare_for(peer, &disk, &ranges).await,
            PeerRequest::Differences { disk, from, .. } => self.core.differences_for(peer, &disk, from).await,
            PeerRequest::Standing { .. } => Err(self.core.answered_elsewhere()),
            PeerRequest::CompareAgain { .. } => self.compare_again(peer).await,
            PeerRequest::ReadDisk { .. } => Err(self.core.lent_elsewhere()),
            PeerRequest::Prepare { force, start, .. } => self.prepare_for(peer, force, start).await,
            PeerRequest::TakeOver { at, start, .. } => self.take_over(peer, at, start).await,
            PeerRequest::StandDown { .. } => self.core.stand_down(peer),
            PeerRequest::Status { report, .. } => self.contact.status_for(&mut self.core, peer, report).await,
            PeerRequest::RestartBulk { disk, .. } => match self.core.may_receive(peer) {
                Ok(()) => self.core.restart_bulk(disk).await,
                Err(r) => Err(r),
            },
            PeerRequest::Update {
                vm,
                settings,
                firmware,
            } => self.updated(peer, &vm, settings, &firmware).await,
            PeerRequest::LogOffset { position, .. } => self.core.log_offset(peer, position).await,
        };
        answer.unwrap_or_else(PeerReply::Refused)
    }

    /// Takes an offer up as what it offers.
    async fn offered_as(&mut self, peer: &PeerIdentity, offer: Offer) -> Result<PeerReply, PeerRefusal> {
        let extended = self
            .core
            .rel
            .as_ref()
            .is_some_and(|r| r.mode == Mode::ExtendedReplica);
        match offer.content {
            _ if let Err(e) = offer.validate(peer) => Err(e),
            _ if let Err(e) = self.core.within_quota(peer, &offer) => Err(e),
            Content::Empty | Content::Media { .. } => self.offered(peer, offer).await,
            Content::Extended => match self.core.go_on_extended(peer, &offer).await {
                Some(answer) => answer,
                None => self.offered(peer, offer).await,
            },
            Content::Reverse { .. } if extended => self.follow(peer, offer).await,
            Content::Seed | Content::Reverse { .. } => self.demote(peer, offer).await,
        }
    }

    async fn offered(&mut self, peer: &PeerIdentity, offer: Offer) -> Result<PeerReply, PeerRefusal> {
        let entry = if self.core.awaits_offer() {
            // It has no primary yet.
            self.core.lets_in(peer)?
        } else {
            self.core.trusts(peer)?
        };
        let mode = match offer.content {
            Content::Extended => Mode::ExtendedReplica,
            Content::Media { .. } | Content::Empty | Content::Seed | Content::Reverse { .. } => Mode::Replica,
        };
        let (awaits_import, sealing) = sealing::awaited(&offer.content, &self.core.host_name())?;
        if self.core.awaits_offer() {
            if mode == Mode::Replica && !awaits_import {
                return self.core.await_seed(peer, offer).await;
            }
            let text = format!("{} has a copy of its own", self.core.host_name());
            let detail = Note::new(text, hint::Copies::UseSeed).into();
            return Err(PeerRefusal::Conflict { detail });
        }
        let again = self.core.check_offer(&offer, mode)?;
        if again {
            self.interrupt().await;
            self.target.stop_receiving().await;
            let destroyed = self.core.destroy_replica().await;
            destroyed.map_err(|e| self.core.host.peer_refusal(e))?;
        }
        let recorded = self.core.host.replicas.of(self.core.id).filter(|_| !again);
        let location = StoreLocation::new(&entry.storage_location);
        let info = match self.core.make_replica(recorded, &location, &offer).await {
            Ok(info) => info,
            // Left by a replica that was removed: nothing is written over it, and it may be the seed.
            Err(StoreError::Conflict(_)) if self.core.rel.is_none() && offer.content == Content::Empty => {
                let content = Content::Seed;
                return self.core.await_seed(peer, Offer { content, ..offer }).await;
            }
            Err(e) => return Err(self.core.host.peer_refusal(e)),
        };
        let bound = self.core.rel.as_ref().and_then(Relationship::replica);
        let side = ReplicaSide {
            awaits_import,
            sealing: sealing.map(|s| Box::new(s.into())),
            allowed: bound.and_then(|r| r.allowed.clone()),
            ..ReplicaSide::new(String::from(info.place))
        };
        self.core.taken(peer, offer, (mode, side), again).await
    }

    /// RemoveReplicationRelationship, on whichever side this is.
    pub(crate) async fn remove(&mut self) -> Result<Answer, Refusal> {
        let rel = self.core.rel.as_ref().ok_or_else(no_relationship)?;
        self.core.no_test()?;
        self.core.no_extended()?;
        match &rel.side {
            Side::Primary(_) => self.remove_primary().await?,
            Side::Test { .. } => return self.forget().await,
            Side::Alone => return Err(no_relationship()),
            Side::Replica(ReplicaSide {
                failover: Some(f),
                dir: Some(dir),
                ..
            }) if matches!(f.phase, FailoverPhase::Merging | FailoverPhase::Done) => {
                // The VM lives on here, on the disks it was committed to; only the relationship ends.
                let home = Home {
                    dir: dir.clone(),
                    branch: f.branch,
                    fork: f.at.unwrap_or(rel.position),
                    merged: f.phase == FailoverPhase::Done,
                };
                lifecycle::step(rel.mode, rel.state, Step::Remove).map_err(|e| not_now(&e))?;
                self.live_alone(home).await?;
            }
            Side::Replica(ReplicaSide { dir, own, .. }) => {
                let (dir, own, state) = (dir.clone(), *own, rel.state);
                lifecycle::step(rel.mode, state, Step::Remove).map_err(|e| not_now(&e))?;
                if own && self.core.local.is_some() && dir.is_some() {
                    // Its own images are below every point here: started on them, the VM would spoil them all.
                    return Err(Refusal::new(
                        ReturnCode::InvalidState,
                        "this replica stands on the VM's own images on this host",
                        crate::host::orphans::to_own_images(state),
                    ));
                }
                self.interrupt().await;
                self.target.stop_receiving().await;
                let unfinished = state == State::WaitingToCompleteInitialReplication && !own;
                // Before the record goes, which says where it is: without it the files would be known to no one.
                let images = self.core.images().ok();
                if unfinished {
                    let gone = self.core.destroy_replica().await;
                    gone.map_err(|e| failed("the unfinished copy was not deleted", &e))?;
                }
                if dir.is_none()
                    && let Some(home) = self.core.rel.as_ref().and_then(|r| r.home.clone())
                {
                    // It was demoted and no replication followed: the VM is where it was.
                    self.live_alone(home).await?;
                    self.core.event("replication removed").await;
                    return Ok(Answer::Done);
                }
                self.definition.undefine(&self.core).await?;
                self.core.erase().await?;
                self.target = TargetPart::default();
                if !unfinished {
                    close(images, self.core.id).await;
                    if let Some(dir) = dir {
                        self.core
                            .event(&format!("the replica's files are kept in {dir}"))
                            .await;
                    }
                }
            }
        }
        self.core.event("replication removed").await;
        Ok(Answer::Done)
    }

    /// The relationship ends and the VM lives on, on the disks it has in the replica store.
    pub(crate) async fn live_alone(&mut self, home: Home) -> Result<(), Refusal> {
        self.interrupt().await;
        let mut change = self.core.change()?;
        (change.mode, change.state) = (Mode::None, State::Disabled);
        (change.side, change.home, change.problem) = (Side::Alone, Some(home), None);
        self.source.next_at = Instant::now();
        self.core.commit(change).await
    }
}
