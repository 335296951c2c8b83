//! The replica's part of an actor: offers and logs from the primary, applying, sealing and expiring points.
//! Failover is in `failover`.

use crate::contract::Refusal;
use crate::core::Core;
use crate::core::aging::{Aging, Sealer, seal};
use crate::host::offer::Offer;
use crate::port::hypervisor::PowerState;
use crate::port::link::{PeerIdentity, PeerRefusal, PeerReply, ReplicaStatus};
use crate::port::store::{ImageStore, ReplicaInfo, Store, StoreError, StoreLocation, StoredLog};
use crate::record::{Relationship, ReplicaSide, Side};
use crate::target::{TargetPart, backlog};
use crate::work::calls::failed;
use crate::work::message::Waiting;
use lifeboat_deltalog::Consistency;
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::causes::chain;
use lifeboat_model::lifecycle::Event as Step;
use lifeboat_model::policy::{Retention, backoff};
use lifeboat_model::{
    AuthorizationEntry, Machine, NicBackend, Note, PointId, Position, ProblemKind, ReplicationSettings, VmId,
    VmSpec, hint,
};
use std::sync::Arc;
use tokio::time::Instant;
use tracing::warn;

/// Result of one step of maintenance.
pub(crate) struct Maintained {
    /// The log that was applied; `None` when there was none left.
    pub(crate) applied: Option<StoredLog>,
    /// What the replica consists of now.
    pub(crate) info: ReplicaInfo,
    /// A point was sealed.
    pub(crate) sealed: bool,
}

/// The VM as its replica's host knows it: excluded disks get nothing, and a card of the primary's network is not connected
/// here.
pub(crate) fn as_replica(machine: &Machine, settings: &ReplicationSettings) -> VmSpec {
    let mut spec = VmSpec::from(machine.clone());
    spec.disks.retain(|d| settings.disks.contains(&d.id));
    for nic in &mut spec.nics {
        match nic.backend {
            NicBackend::Tap { .. } | NicBackend::Bridge { .. } => nic.backend = NicBackend::None,
            NicBackend::User | NicBackend::None => {}
        }
    }
    spec
}

/// Applies the next log and seals a point when one is due, or when one past this position is wanted.
pub(crate) async fn maintain(
    images: Arc<dyn ImageStore>,
    vm: VmId,
    retention: Retention,
    ([point, before_sync], sealer): ([PointId; 2], Sealer),
    past: Option<Position>,
) -> Result<Maintained, StoreError> {
    let mut info = images.info(vm).await?;
    let next = crate::work::message::unapplied(&info).next();
    let whole = |info: &ReplicaInfo| {
        let unsealed = info.points.last().map(|p| p.position) != Some(info.applied);
        unsealed && info.logs.iter().any(|l| l.position == info.applied && !l.partial)
    };
    let whole_application = |info: &ReplicaInfo| {
        let guest = |l: &StoredLog| l.position == info.applied && l.consistency == Consistency::Application;
        info.logs.iter().any(guest)
    };
    let by_age = |info: &ReplicaInfo, at: &StoredLog| {
        sealer
            .aging
            .seal_due(&retention, info, at, whole_application(info))
    };
    let at = info.logs.iter().find(|l| l.position == info.applied);
    let missed = whole_application(&info) && at.is_some_and(|at| by_age(&info, at));
    if next.is_some_and(|n| n.partial || missed) && whole(&info) {
        // The last instant before the disks stop being one; or one that the daemon ended before it could be sealed.
        seal(&*images, vm, before_sync, &sealer).await?;
    }
    // One at a time where a point past a certain position is wanted.
    let seals = |l: &StoredLog| past.is_some() || sealer.aging.seal_due(&retention, &info, l, false);
    let applied = match backlog::run_end(&info, seals) {
        Some(last) => images.apply_through(vm, last).await?,
        None => images.apply(vm).await?,
    };
    info = images.info(vm).await?;
    let at = info.logs.iter().find(|l| l.position == info.applied);
    let closes = applied
        .as_ref()
        .is_some_and(|a| !a.partial && info.logs.iter().any(|l| l.partial && l.position == a.parent));
    let due = whole(&info)
        && (at.is_some_and(|at| closes || by_age(&info, at))
            || past.is_some_and(|theirs| !crate::core::order::past(&info, theirs)));
    let sealed = due && seal(&*images, vm, point, &sealer).await?;
    if sealed {
        info = images.info(vm).await?;
    }
    Ok(Maintained {
        applied,
        info,
        sealed,
    })
}

/// Expires the logs that are due, which gives room back and takes none, and then the oldest point if it is due. True when
/// another point may be.
pub(crate) async fn expire(
    Store { images, logs }: Store,
    vm: VmId,
    retention: Retention,
    aging: Aging,
) -> Result<bool, StoreError> {
    let due = aging.expiry(&retention, &images.info(vm).await?);
    if let Some(upto) = due.logs {
        let needed = images.needed_logs(vm).await?;
        logs.expire_logs(vm, upto, &needed).await?;
    }
    if due.oldest_point {
        images.expire_oldest(vm).await?;
    }
    Ok(due.oldest_point)
}

impl Relationship {
    /// Not every log is worth a write to the catalog: the files know better where this side stands.
    fn follow_files(&mut self, info: &ReplicaInfo) {
        if !self.position.same_generation(info.durable) {
            return;
        }
        self.position = info.durable;
        let newest = info.logs.iter().rev().find(|l| !l.partial).map(|l| l.instant);
        let sealed = info.points.last().map(|p| p.instant);
        let newest = newest.or(sealed).or(self.newest_instant);
        if newest != self.newest_instant {
            // Newer than the record: when it arrived was not written down.
            (self.newest_instant, self.recency.newest) = (newest, None);
        }
    }
}

/// Whether the replica can be brought up at an instant of this primary's generation. Everything that an extended replica
/// ever had is of the generation of the replica it follows.
pub(crate) fn usable(mode: Mode, info: &ReplicaInfo) -> bool {
    let follows = mode == Mode::ExtendedReplica;
    info.points
        .iter()
        .any(|p| follows || p.position.same_generation(info.durable))
}

impl Core {
    /// How many bytes of a log are here already.
    pub(crate) async fn log_offset(
        &self,
        peer: &PeerIdentity,
        position: Position,
    ) -> Result<PeerReply, PeerRefusal> {
        self.may_receive(peer)?;
        let offset = async { self.store()?.logs.receive_offset(self.id, position).await }.await;
        offset
            .map(|bytes| PeerReply::Offset { bytes })
            .map_err(|e| self.host.peer_refusal(e))
    }

    /// The state follows what arrives: resync fragments, and the instant that closes the resynchronization.
    pub(crate) async fn mirror_sync(&mut self, info: &ReplicaInfo) {
        let partial = info.logs.last().is_some_and(|l| l.partial);
        // Only some states lead there.
        self.note_step(if partial {
            Step::PeerResyncs
        } else {
            Step::ResyncFinished
        })
        .await;
    }

    /// A point is here, and the replica can be used from now on; without an effect when it could be before.
    pub(crate) async fn copy_is_finished(&mut self) -> Result<(), Refusal> {
        let mut change = self.change()?;
        if change.step(Step::CopyFinished).is_err() {
            return Ok(());
        }
        change.tell("initial copy finished; the first recovery point is here");
        self.commit(change).await
    }

    pub(crate) fn mode(&self) -> Mode {
        self.rel.as_ref().map_or(Mode::None, |r| r.mode)
    }

    pub(crate) fn host_name(&self) -> String {
        self.host.config.name.clone()
    }

    /// Whether the relationship's primary, or one of its trust group, is calling.
    pub(crate) fn trusts(&self, peer: &PeerIdentity) -> Result<AuthorizationEntry, PeerRefusal> {
        let entry = self.lets_in(peer)?;
        let Some(rel) = self.rel.as_ref().filter(|_| self.bound_to().is_none()) else {
            return Ok(entry);
        };
        let same = peer.names.iter().any(|n| n.eq_ignore_ascii_case(&rel.peer));
        let group = || {
            self.host
                .entry_for(&rel.peer)
                .is_some_and(|e| e.trust_group == entry.trust_group)
        };
        if same || group() {
            Ok(entry)
        } else {
            Err(PeerRefusal::NotAuthorized {
                host: self.host_name(),
                names: peer.names.clone(),
            })
        }
    }

    pub(crate) fn may_receive(&self, peer: &PeerIdentity) -> Result<(), PeerRefusal> {
        let host = self.host_name();
        let receives = |r: &&Relationship| matches!(r.mode, Mode::Replica | Mode::ExtendedReplica);
        let Some(rel) = self.rel.as_ref().filter(receives) else {
            // Who may replicate to here and thinks that it does was overtaken: this host went on, with another replica.
            let overtaken = self.mode() == Mode::Primary && self.host.authorize(peer).is_ok();
            return Err(if overtaken {
                PeerRefusal::NewerGeneration { host }
            } else {
                PeerRefusal::NoReplica { host }
            });
        };
        self.trusts(peer)?;
        match rel.state {
            State::WaitingToCompleteInitialReplication
            | State::Replicating
            | State::Critical
            | State::Resynchronizing => Ok(()),
            State::Suspended => Err(PeerRefusal::Suspended { host }),
            State::FailoverInProgress | State::Recovered => Err(PeerRefusal::FailedOver { host }),
            State::Committed => Err(PeerRefusal::NewerGeneration { host }),
            State::Disabled
            | State::ReadyForReplication
            | State::SyncedReplicationComplete
            | State::WaitingToStartResynchronization
            | State::ResynchronizationSuspended
            | State::FailbackInProgress
            | State::FailbackComplete
            | State::DiskUpdateInProgress
            | State::DiskUpdateCritical
            | State::Unknown
            | State::RepurposeReplicationInProgress
            | State::PreparedForSyncReplication
            | State::PreparedForGroupReverseReplication
            | State::FiredrillInProgress => Err(PeerRefusal::NoReplica { host }),
        }
    }

    pub(crate) async fn replica_status(&self) -> Result<PeerReply, PeerRefusal> {
        if let Some(rel) = self
            .rel
            .as_ref()
            .filter(|r| r.replica().is_some_and(|r| r.dir.is_none()))
        {
            // It awaits the offer that says what becomes of the copy here.
            return Ok(PeerReply::Status(ReplicaStatus {
                durable: rel.position,
                bulk: Vec::new(),
                partial: false,
                usable: false,
                problems: Vec::new(),
                waiting_logs: 0,
                waiting_bytes: 0,
                hand_over: self.takes_over(),
                export: None,
            }));
        }
        let info = self.stored_info().await.map_err(|e| self.host.peer_refusal(e))?;
        let waiting = Waiting::of(&info);
        Ok(PeerReply::Status(ReplicaStatus {
            durable: info.durable,
            partial: info.logs.last().is_some_and(|l| l.partial),
            usable: usable(self.mode(), &info),
            problems: [self.problems().await, crate::target::storage::problems(&info)].concat(),
            bulk: info.bulk.into_iter().map(Into::into).collect(),
            waiting_logs: waiting.logs,
            waiting_bytes: waiting.bytes,
            hand_over: self.takes_over(),
            export: self.awaited_seal().ok().map(|s| s.sealing.export),
        }))
    }

    pub(crate) async fn restart_bulk(&self, disk: u16) -> Result<PeerReply, PeerRefusal> {
        if self.awaits_offer() {
            return Err(PeerRefusal::NotNow {
                host: self.host_name(),
                detail: Note::new("it has a copy of this VM already", hint::Copies::UseSeedOrRemove).into(),
            });
        }
        let images = self.peer_images()?;
        let info = images
            .info(self.id)
            .await
            .map_err(|e| self.host.peer_refusal(e))?;
        let Some(disk) = info.disks.get(usize::from(disk)) else {
            return Err(PeerRefusal::Conflict {
                detail: format!("the replica has {} disks", info.disks.len()).into(),
            });
        };
        images
            .restart_bulk(self.id, &disk.id)
            .await
            .map_err(|e| self.host.peer_refusal(e))?;
        self.replica_status().await
    }

    /// Whether this offer can be accepted; true when an unfinished copy has to make room for it.
    pub(crate) fn check_offer(&self, offer: &Offer, mode: Mode) -> Result<bool, PeerRefusal> {
        let Offer { spec, start, .. } = offer;
        let host = self.host_name();
        if self.local.is_some() {
            let text = format!("{host} has a VM of its own with this UUID ({})", spec.uuid);
            let detail = Note::new(text, hint::Replicate::BecomeReplicaThere).into();
            return Err(PeerRefusal::Conflict { detail });
        }
        match self.rel.as_ref() {
            None => Ok(false),
            // An extended replica may be offered any point of the current generation as a new start.
            Some(rel)
                if rel.mode == mode
                    && rel.position.same_generation(*start)
                    && (mode == Mode::Replica || rel.position == *start) =>
            {
                Ok(false)
            }
            // An unfinished copy is worth nothing to anybody: enabling again, after an answer that got lost or a
            // removal on the primary alone, begins a new one.
            Some(rel) if rel.mode == mode && rel.state == State::WaitingToCompleteInitialReplication => {
                Ok(true)
            }
            Some(rel) => Err(PeerRefusal::NotNow {
                host,
                detail: Note::new(
                    format!("it has a replica of this VM already, in state {}", rel.state),
                    hint::Replicate::RemoveThere,
                )
                .into(),
            }),
        }
    }

    /// Records an offer that the store has taken.
    pub(crate) async fn taken(
        &mut self,
        peer: &PeerIdentity,
        offer: Offer,
        (mode, side): (Mode, ReplicaSide),
        again: bool,
    ) -> Result<PeerReply, PeerRefusal> {
        let spec = as_replica(&offer.spec, &offer.settings);
        let change = match self.change() {
            Ok(mut change) if !again => {
                (change.settings, change.spec, change.callback) = (offer.settings, spec, offer.from);
                if let Some(replica) = change.replica_mut() {
                    (replica.awaits_import, replica.sealing) = (side.awaits_import, side.sealing);
                }
                change
            }
            Ok(_) | Err(_) => {
                let mut change = self.draft(Relationship {
                    vm: self.id,
                    mode,
                    state: State::WaitingToCompleteInitialReplication,
                    peer: peer.names.first().cloned().unwrap_or_default(),
                    position: offer.start,
                    side: Side::Replica(side),
                    callback: offer.from,
                    created: self.host.ports.clock.now(),
                    settings: offer.settings,
                    spec,
                    ..Relationship::default()
                });
                change.tell(format!("replica offered by {}", peer.names.join(", ")));
                change
            }
        };
        self.opened = true;
        let committed = self.commit(change).await;
        committed.map_err(|e| self.catalog_refusal(e))?;
        self.replica_status().await
    }

    /// Whether the replica's VM runs, for operations that need it off.
    pub(crate) async fn runs(&self) -> Result<bool, Refusal> {
        Ok(self.power().await? != PowerState::Off)
    }

    pub(crate) async fn replica_info(&self) -> Result<ReplicaInfo, Refusal> {
        let replica = self.rel.as_ref().is_some_and(|r| r.replica().is_some());
        if !replica {
            let hint = hint::Replicate::OnReplicaHost;
            return Err(Refusal::new(
                ReturnCode::InvalidState,
                "this host has no replica of this VM",
                hint,
            ));
        }
        self.stored_info()
            .await
            .map_err(|e| failed("the replica cannot be read", &e))
    }
}

impl TargetPart {
    /// Opens the replica's files; when that fails it is tried again later.
    pub(crate) async fn open_replica(&mut self, core: &mut Core) {
        let rel = core.rel.as_ref();
        let home = rel.and_then(|r| r.home.as_ref()).map(|h| h.dir.clone());
        let own = rel.and_then(Relationship::replica).and_then(|r| r.dir.clone());
        // A copy that was demoted and is not adopted yet is where it was.
        let Some(dir) = own.or(home) else {
            // It awaits its first offer: there is nothing to open.
            core.opened = rel.is_some_and(|r| r.replica().is_some());
            return;
        };
        let dir = StoreLocation::new(dir);
        match core.host.ports.stores.at(&dir).images.open(&dir, core.id).await {
            Ok(info) => {
                // Not every log is worth a write to the catalog: the files know better where this side stands.
                core.tally(|rel| rel.follow_files(&info));
                self.aging.resume(&info);
                (core.opened, self.dirty) = (true, true);
                self.begin_now();
                self.storage_seen(core, &info).await;
                self.damage_found(info.damage);
            }
            Err(e) => {
                warn!(vm = %core.id, error = %chain(&e), "replica cannot be opened");
                let why = match &e {
                    StoreError::NoReplica(_) => format!("{dir}: there is none; is its storage mounted?"),
                    e => chain(e),
                };
                let text = format!("the replica cannot be opened: {why}");
                core.fault(e.problem(), text).await;
                self.replica_retry();
            }
        }
    }

    /// When the logs that arrive in short intervals have been collected; `None`: there is nothing to wait for.
    pub(crate) fn collected(&self, core: &Core) -> Option<Instant> {
        let rel = core.rel.as_ref().filter(|_| self.dirty)?;
        if rel.state == State::WaitingToCompleteInitialReplication {
            return None;
        }
        let at = self.queue.since()? + backlog::collects(rel.settings.interval());
        (at > Instant::now()).then_some(at)
    }

    pub(crate) async fn replica_fault(&mut self, core: &mut Core, kind: ProblemKind, note: Note) {
        core.fault(kind, note).await;
        core.note_step(Step::Fault).await;
        self.replica_retry();
    }

    pub(crate) fn replica_retry(&mut self) {
        self.attempts += 1;
        self.backing_off = Some(Instant::now());
        self.next_at = Instant::now() + backoff(self.attempts);
    }

    /// What could not expire is tried again with the next seal, and at the latest after the interval: nothing that arrives
    /// waits for it.
    pub(crate) fn expired(&mut self, core: &Core, result: Result<bool, StoreError>) {
        self.expire = match result {
            Ok(more) => more,
            Err(StoreError::Busy(_)) => false,
            Err(e) => {
                warn!(vm = %core.id, error = %chain(&e), "expiry waits");
                false
            }
        };
        self.next_at = if self.expire || self.dirty {
            Instant::now()
        } else {
            Instant::now() + core.host.config.expiry_interval
        };
    }
}
