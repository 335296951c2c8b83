//! Change of roles: the committed replica becomes the primary, and the old primary is demoted to its replica with
//! the data it has. Nothing is copied for it; what differs travels afterwards (`sync`).

use crate::contract::refusal::not_now;
use crate::core::Core;
use crate::host::offer::Offer;
use crate::port::capture::{CaptureError, Tracking};
use crate::port::hypervisor::Power;
use crate::port::link::{
    Content, HandOver, PeerIdentity, PeerPower, PeerRefusal, PeerReply, PeerRequest, Standing,
};
use crate::port::store::{Abandoned, Adoption, Divergence, Origin, StoreLocation};
use crate::record::{Failover, NOWHERE, PlannedPhase, Relationship, ReplicaSide, Reverse, Side};
use crate::roles::Done;
use crate::target::TargetPart;
use crate::target::replica::as_replica;
use crate::work::calls::unexpected;
use crate::work::piece::{Work, droppable};
use lifeboat_deltalog::Consistency;
use lifeboat_model::FailedOverReplicationType as Kind;
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::causes::chain;
use lifeboat_model::lifecycle::Turn;
use lifeboat_model::lifecycle::{self};
use lifeboat_model::{
    DiskId, GenerationId, Note, PointId, Position, ProblemKind, ReplicationSettings, VmSpec, hint,
};
use std::time::Duration;

/// A host that answered this recently is waited for when it goes away in the middle of a reversal.
pub(crate) const VANISHED: Duration = Duration::from_secs(60);

/// How often an old primary that fails to become the replica in a planned failover is asked again.
pub(crate) const ATTEMPTS: u32 = 5;

/// Hosts that have a copy from here and follow neither this host nor the one that is its replica from now on. Of many the last
/// few: each costs a question before a start.
pub(crate) fn formerly(rel: &Relationship, replica: &str) -> Vec<String> {
    const KEPT: usize = 4;
    let mut all = rel.formerly.clone();
    all.extend(crate::record::access::third_hosts(Some(rel)).cloned());
    all.retain(|peer| peer != replica);
    all.dedup();
    let surplus = all.len().saturating_sub(KEPT);
    all.split_off(surplus)
}

impl Core {
    /// What this host does when the primary hands over. What a caller asked for here is carried out whatever the entry says.
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
                let text = format!("taking over waits: the primary cannot tell whether its VM is off: {why}");
                self.fault(ProblemKind::TakingOverWaits, text).await;
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
                let text = "the prepared primary does not answer; taking over waits for it";
                self.fault(ProblemKind::TakingOverWaits, text).await;
                return false;
            }
        };
        match done {
            Ok(_) => true,
            Err(e) => {
                let note = e.note().within(|e| format!("taking over waits: {e}"));
                self.fault(ProblemKind::TakingOverWaits, note).await;
                false
            }
        }
    }

    /// From a primary that was prepared and wants to go on.
    pub(crate) fn stand_down(&self, peer: &PeerIdentity) -> Result<PeerReply, PeerRefusal> {
        self.is_peer(peer)?;
        let host = self.host.config.name.clone();
        let Some(rel) = self.rel.as_ref().filter(|r| r.mode != Mode::Primary) else {
            let detail = "it is the primary now".into();
            return Err(PeerRefusal::NotNow { host, detail });
        };
        self.trusts(peer)?;
        match rel.failover() {
            None => Ok(PeerReply::Accepted),
            Some(_) => Err(PeerRefusal::FailedOver { host }),
        }
    }

    /// The record of a copy that became a replica and has not been adopted by the store yet.
    pub(crate) fn given_way(&self, state: State, spec: VmSpec) -> Relationship {
        let old = self.rel.as_ref();
        let disks = spec.disks.iter().map(|d| d.id.clone()).collect();
        Relationship {
            vm: self.id,
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
            created: self.host.ports.clock.now(),
            home: old.and_then(|r| r.home.clone()),
            formerly: old.map(|r| r.formerly.clone()).unwrap_or_default(),
            network: old.map(|r| r.network.clone()).unwrap_or_default(),
            spec,
            ..Relationship::default()
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
        offer: Offer,
    ) -> Result<PeerReply, PeerRefusal> {
        self.check_demotion(&offer).await?;
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

    /// What this copy changed after the last instant it shares with the peer's.
    pub(crate) async fn differences_for(
        &self,
        peer: &PeerIdentity,
        disk: &DiskId,
        from: u64,
    ) -> Result<PeerReply, PeerRefusal> {
        self.may_receive(peer)?;
        let of = async { self.images()?.divergence(self.id).await };
        let of = of.await.map_err(|e| self.host.peer_refusal(e))?;
        Ok(crate::source::sync::page(&of, Some(disk), from))
    }

    /// A VM of this host that is not replicated does not become a replica by the word of another host.
    pub(crate) fn consents(&self) -> Result<(), PeerRefusal> {
        let own = self.local.is_some() || self.rel.as_ref().is_some_and(|r| r.home.is_some());
        if own {
            Err(PeerRefusal::NotNow {
                host: self.host.config.name.clone(),
                detail: Note::new(
                    "it has a VM of its own with this UUID, which is not replicated",
                    hint::Replicate::BecomeReplicaThere,
                )
                .into(),
            })
        } else {
            Ok(())
        }
    }

    fn generation(&self) -> Option<GenerationId> {
        self.rel.as_ref().map(|r| r.position.generation())
    }

    /// Whether this copy is the offered instant itself.
    pub(crate) async fn check_demotion(&self, offer: &Offer) -> Result<bool, PeerRefusal> {
        let host = self.host.config.name.clone();
        match self.look().await {
            Power::Off => {}
            Power::Running | Power::Paused | Power::Stalled(_) => return Err(PeerRefusal::Running { host }),
            Power::NotKnown { why } => {
                let detail = crate::host::power::not_known(&why).message;
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
            let text = "its copy went on from another line of this VM";
            let detail = Note::new(text, hint::Replicate::BecomeReplicaThere).into();
            return Err(PeerRefusal::NotNow { host, detail });
        }
        match lifecycle::turn(mode, state, Turn::GiveWay { whole }) {
            Ok(_) => Ok(whole),
            Err(e) => Err(PeerRefusal::NotNow {
                host,
                detail: not_now(&e).note().into(),
            }),
        }
    }

    /// Where the data of this copy is.
    fn origin(&self, offer: &Offer) -> Origin {
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
    async fn own_changes(&self, offer: &Offer, since: Position) -> Result<Divergence, CaptureError> {
        let ids: Vec<DiskId> = offer.disks.iter().map(|d| d.id.clone()).collect();
        let Some(launch) = self.launch_before().await else {
            return Ok(unknown(offer, since));
        };
        let there = |d: &DiskId| launch.disks.iter().any(|l| l.id == *d);
        if !ids.iter().all(there) {
            return Ok(unknown(offer, since));
        }
        let source = match self.hypervisor().source(&launch, &ids).await {
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
                            .map(|e: crate::port::capture::Extent| (e.offset, e.len))
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
    async fn launch_before(&self) -> Option<crate::port::hypervisor::Launch> {
        if let Some(home) = self.rel.as_ref().and_then(|r| r.home.as_ref()) {
            let spec = self.rel.as_ref()?.spec.clone();
            return self.launch_branch(spec, self.id, home.branch).await.ok();
        }
        let local = self.local.clone()?;
        Some(crate::port::hypervisor::Launch {
            disks: local.disks.iter().map(crate::work::launch::plain).collect(),
            spec: local,
            firmware_vars: None,
            seed: Vec::new(),
        })
    }
}

impl TargetPart {
    pub(crate) async fn plan_reverse(
        &mut self,
        core: &mut Core,
        failover: &Failover,
        reverse: Reverse,
    ) -> Option<Work<Done>> {
        let firmware = core.firmware().await;
        let rel = core.rel.as_ref()?;
        let link = core.host.ports.link.clone();
        let offer = |disks| PeerRequest::Offer {
            vm: Box::new(rel.spec.clone().into()),
            settings: reverse.settings.clone(),
            disks,
            start: rel.position,
            from: core.host.config.listen.clone(),
            content: Content::Reverse {
                since: failover.at.unwrap_or(rel.position),
                planned: failover.kind == Kind::Planned,
            },
            firmware,
        };
        let info = match core.store_info().await {
            Ok(info) => info,
            Err(e) => {
                let note = e
                    .note()
                    .within(|e| format!("the committed disks cannot be read: {e}"));
                core.fault(e.problem(), note).await;
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

    /// Makes the store take the copy over. What this copy changed since the last common instant is noted with it.
    pub(crate) async fn adopt(
        &mut self,
        core: &mut Core,
        offer: &Offer,
        whole: bool,
        location: &StoreLocation,
    ) -> Result<(), PeerRefusal> {
        let host = core.host.config.name.clone();
        let refused = |detail: String| PeerRefusal::Failed {
            host: host.clone(),
            detail,
        };
        // A copy that is in a store already stays in that one.
        let images = core.images();
        let images = images.unwrap_or_else(|_| core.host.ports.stores.at(location).images);
        let now = core.host.ports.clock.now();
        let (divergence, origin) = match &offer.content {
            Content::Reverse { since, .. } if !whole => {
                let divergence = core
                    .own_changes(offer, *since)
                    .await
                    .map_err(|e| refused(chain(&e)))?;
                (divergence, core.origin(offer))
            }
            Content::Reverse { since, .. } => (nothing_changed(offer, *since), core.origin(offer)),
            Content::Seed | Content::Empty | Content::Media { .. } | Content::Extended => {
                (unknown(offer, offer.start), core.origin(offer))
            }
        };
        let reverse = matches!(offer.content, Content::Reverse { .. });
        let keep = (reverse && !whole).then_some(Abandoned {
            since: divergence.since,
            at: now,
        });
        let sealed = whole.then(|| (PointId(core.host.ports.entropy.uuid()), now, Consistency::Planned));
        let adoption = Adoption {
            disks: offer.disks.clone(),
            start: offer.start,
            origin,
            sealed,
            keep,
            divergence,
        };
        if adoption.origin == Origin::Here && core.awaits_offer() {
            // What a removed replica left is not known yet.
            images
                .open(&images.place(location, core.id), core.id)
                .await
                .map_err(|e| core.host.peer_refusal(e))?;
            let sealed = self.seal_before_adoption(core, &*images).await;
            sealed.map_err(|e| core.host.peer_refusal(e))?;
        }
        let adopted = images.adopt(location, core.id, &adoption).await;
        adopted.map_err(|e| core.host.peer_refusal(e))?;
        let info = images
            .info(core.id)
            .await
            .map_err(|e| core.host.peer_refusal(e))?;
        let mut change = core.change().map_err(|e| core.catalog_refusal(e))?;
        change.home = None;
        if let Some(replica) = change.replica_mut() {
            replica.dir = Some(info.place.into());
        }
        let committed = core.commit(change).await;
        committed.map_err(|e| core.catalog_refusal(e))?;
        core.opened = true;
        self.adopted();
        Ok(())
    }
}

/// Whether dirty bitmaps on the disks of this side may begin in the middle of a synchronization. What differed before
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

fn unknown(offer: &Offer, since: Position) -> Divergence {
    let disks = offer.disks.iter().map(|d| (d.id.clone(), None));
    Divergence {
        since,
        disks: disks.collect(),
    }
}

fn nothing_changed(offer: &Offer, since: Position) -> Divergence {
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
