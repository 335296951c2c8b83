//! The replica's part of an actor: offers and logs from the primary, applying, sealing and expiring points.
//! Failover is in `failover`.

use std::sync::Arc;

use lifeboat_deltalog::Consistency;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::lifecycle::{self, Event as Step};
use lifeboat_model::policy::{Retention, backoff};
use lifeboat_model::{
    AuthorizationEntry, DiskId, Machine, NicBackend, PointId, Position, ReplicationMode as Mode,
    ReplicationSettings, ReplicationState as State, VmId, VmSpec,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::warn;

use crate::action::{Answer, Refusal};
use crate::actor::{Actor, Done, Work, chain, failed, no_relationship, not_now};
use crate::aging::{Aging, Sealer, Stamp, seal};
use crate::backlog::{self, Bound, Queue, Waiting};
use crate::clock::PeerClock;
use crate::ports::hypervisor::{DiskImage, LaunchDisk, PowerState};
use crate::ports::link::{Content, PeerIdentity, PeerRefusal, PeerReply, PeerRequest, ReplicaStatus};
use crate::ports::store::{BulkProgress, Received, ReplicaInfo, ReplicaStore, StoreError, StoredLog};
use crate::primary::{IDLE, droppable};
use crate::records::{Counters, FailoverPhase, Home, Relationship, ReplicaSide, Side};
use crate::reverse::GivenWay;
use crate::sealing;

/// What the replica keeps in memory. All of it can be lost.
pub(crate) struct ReplicaState {
    /// There may be logs to apply or points to seal.
    pub(crate) dirty: bool,
    /// Points or logs may be due to expire. They may at the start: a daemon that never lives long must not fill the disk.
    pub(crate) expire: bool,
    /// Expiry had its turn after what was applied last.
    expiry_had_its_turn: bool,
    /// When to look again.
    pub(crate) next_at: Instant,
    /// Follows a planned failover that the primary was asked for.
    pub(crate) following: Option<crate::primary::Aside>,
    /// Failures of the current work in a row.
    attempts: u32,
    /// What is durable and not applied.
    pub(crate) queue: Queue,
    /// When points and logs were last looked through for expiry.
    pub(crate) expired_at: Instant,
    /// Since when an attempt that failed waits for the next one.
    pub(crate) backing_off: Option<Instant>,
    /// The store has the replica open.
    opened: bool,
    /// Verifying the files.
    pub(crate) scrub: crate::scrub::Scrubbing,
    /// Logs on their way in. They pass by the actor, so that it must be able to end them and to wait for that.
    receiving: (CancellationToken, TaskTracker),
    /// Who was let in last to send one.
    pub(crate) sender: Option<PeerIdentity>,
    /// What the store said of the files when it was asked last, so that only what is new becomes an event.
    pub(crate) storage_faults: Vec<crate::ports::storage::StorageFault>,
    /// When what is here arrived.
    pub(crate) aging: Aging,
    /// What the logs say of the primary's clock.
    pub(crate) peer_clock: PeerClock,
    /// How much of what changed was counted.
    pub(crate) counted: Option<crate::hold::Counted>,
}

/// Held while a log is received; cancelled when the replica's files are needed for something that must be alone.
pub(crate) struct Permit {
    pub(crate) ended: CancellationToken,
    pub(crate) bound: Bound,
    _counted: TaskTrackerToken,
}

impl ReplicaState {
    /// Whether the store has the replica open.
    pub(crate) fn is_open(&self) -> bool {
        self.opened
    }

    /// The store has taken a copy over.
    pub(crate) fn adopted(&mut self) {
        (self.opened, self.dirty) = (true, true);
        self.begin_now();
    }

    /// The next piece of work need not wait for whatever the last one waited for.
    pub(crate) fn begin_now(&mut self) {
        (self.attempts, self.next_at) = (0, Instant::now());
        self.backing_off = None;
    }

    /// Ends what is being received and waits until nothing is. What arrived is kept, and resumed if it may be.
    pub(crate) async fn stop_receiving(&mut self) {
        let (ended, counted) = std::mem::take(&mut self.receiving);
        ended.cancel();
        counted.close();
        counted.wait().await;
    }

    pub(crate) fn permit(&self, bound: Bound) -> Permit {
        Permit {
            bound,
            ended: self.receiving.0.clone(),
            _counted: self.receiving.1.token(),
        }
    }
}

impl Default for ReplicaState {
    fn default() -> Self {
        Self {
            dirty: false,
            expire: true,
            expiry_had_its_turn: true,
            next_at: Instant::now(),
            following: None,
            attempts: 0,
            queue: Queue::default(),
            expired_at: Instant::now(),
            backing_off: None,
            opened: false,
            scrub: Default::default(),
            receiving: Default::default(),
            sender: None,
            storage_faults: Vec::new(),
            aging: Aging::default(),
            peer_clock: PeerClock::default(),
            counted: None,
        }
    }
}

/// Result of one step of maintenance.
pub(crate) struct Maintained {
    /// The log that was applied; `None` when there was none left.
    pub(crate) applied: Option<StoredLog>,
    /// What the replica consists of now.
    pub(crate) info: ReplicaInfo,
    /// A point was sealed.
    pub(crate) sealed: bool,
}

/// Disks of a failed-over VM: the branch's images on the buses of the description.
pub(crate) fn launch_disks(spec: &VmSpec, images: Vec<(DiskId, DiskImage)>) -> Vec<LaunchDisk> {
    // A disk that is no longer replicated is in the images as it was then, and must not meet the others.
    let disk = |(id, image)| {
        let bus = spec.disk(&id)?.bus;
        Some(LaunchDisk { bus, id, image })
    };
    let mut disks: Vec<LaunchDisk> = images.into_iter().filter_map(disk).collect();
    disks.sort_by_key(|d| spec.disks.iter().position(|s| s.id == d.id));
    disks
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
async fn maintain(
    store: Arc<dyn ReplicaStore>,
    vm: VmId,
    retention: Retention,
    ([point, before_sync], sealer): ([PointId; 2], Sealer),
    past: Option<Position>,
) -> Result<Maintained, StoreError> {
    let mut info = store.info(vm).await?;
    let next = backlog::unapplied(&info).next();
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
        seal(&*store, vm, before_sync, &sealer).await?;
    }
    // One at a time where a point past a certain position is wanted.
    let seals = |l: &StoredLog| past.is_some() || sealer.aging.seal_due(&retention, &info, l, false);
    let applied = match backlog::run_end(&info, seals) {
        Some(last) => store.apply_through(vm, last).await?,
        None => store.apply(vm).await?,
    };
    info = store.info(vm).await?;
    let at = info.logs.iter().find(|l| l.position == info.applied);
    let closes = applied
        .as_ref()
        .is_some_and(|a| !a.partial && info.logs.iter().any(|l| l.partial && l.position == a.parent));
    let due = whole(&info)
        && (at.is_some_and(|at| closes || by_age(&info, at))
            || past.is_some_and(|theirs| !crate::courier::past(&info, theirs)));
    let sealed = due && seal(&*store, vm, point, &sealer).await?;
    if sealed {
        info = store.info(vm).await?;
    }
    Ok(Maintained {
        applied,
        info,
        sealed,
    })
}

/// Expires the logs that are due, which gives room back and takes none, and then the oldest point if it is due. True when
/// another point may be.
async fn expire(
    store: Arc<dyn ReplicaStore>,
    vm: VmId,
    retention: Retention,
    aging: Aging,
) -> Result<bool, StoreError> {
    let due = aging.expiry(&retention, &store.info(vm).await?);
    if let Some(upto) = due.logs {
        store.expire_logs(vm, upto).await?;
    }
    if due.oldest_point {
        store.expire_oldest(vm).await?;
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

/// Whether the replica can be brought up at an instant of this primary's line. Everything that an extended replica ever
/// had is of the line of the one it follows.
fn usable(mode: Mode, info: &ReplicaInfo) -> bool {
    let follows = mode == Mode::ExtendedReplica;
    info.points
        .iter()
        .any(|p| follows || p.position.same_generation(info.durable))
}

impl Actor {
    /// Opens the replica's files; when that fails it is tried again later.
    pub(crate) async fn open_replica(&mut self) {
        let rel = self.rel.as_ref();
        let home = rel.and_then(|r| r.home.as_ref()).map(|h| h.dir.clone());
        let own = rel.and_then(Relationship::replica).and_then(|r| r.dir.clone());
        // A copy that gave way and was not adopted yet is where it was.
        let Some(dir) = own.or(home) else {
            // It awaits its first offer: there is nothing to open.
            self.replica.opened = rel.is_some_and(|r| r.replica().is_some());
            return;
        };
        let dir = camino::Utf8PathBuf::from(dir);
        match self.host.ports.store.open(&dir, self.id).await {
            Ok(info) => {
                // Not every log is worth a write to the catalog: the files know better where this side stands.
                self.tally(|rel| rel.follow_files(&info));
                self.replica.aging.resume(&info);
                (self.replica.opened, self.replica.dirty) = (true, true);
                self.replica.begin_now();
                self.storage_seen(&info).await;
                self.damage_found(info.damage);
            }
            Err(e) => {
                warn!(vm = %self.id, error = %chain(&e), "replica cannot be opened");
                let why = match &e {
                    StoreError::NoReplica(_) => format!("{dir}: there is none; is its storage mounted?"),
                    e => chain(e),
                };
                self.fault(&format!("the replica cannot be opened: {why}")).await;
                self.replica_retry();
            }
        }
    }

    pub(crate) async fn plan_replica(&mut self) -> Option<Work> {
        if !self.replica.opened {
            if Instant::now() < self.replica.next_at {
                return None;
            }
            self.open_replica().await;
            if !self.replica.opened {
                return None;
            }
        }
        if let Some(work) = self.plan_test() {
            return Some(work);
        }
        if let Some(phase) = self.branch() {
            return self.plan_failover(phase).await;
        }
        let rel = self.rel.as_ref()?;
        if !matches!(
            rel.state,
            State::WaitingToCompleteInitialReplication
                | State::Replicating
                | State::Critical
                | State::Suspended
                | State::Resynchronizing
        ) {
            self.replica.next_at = Instant::now() + IDLE;
            return None;
        }
        if Instant::now() < self.replica.next_at {
            return self.plan_scrub();
        }
        self.agree_before_expiry().await;
        let retention = self.retention(self.rel.as_ref()?);
        let (store, vm) = (self.host.ports.store.clone(), self.id);
        if self.awaits_import() {
            if let Some(work) = self.plan_import() {
                return Some(work);
            }
            self.replica.next_at = Instant::now() + IDLE;
            return None;
        }
        let overdue = self.replica.expired_at.elapsed() >= self.host.config.expiry_interval;
        let collected = self.collected();
        let applies = self.replica.dirty && collected.is_none();
        // What waits to be applied does not keep points from expiring: each has its turn.
        let expires = overdue || (self.replica.expire && !(applies && self.replica.expiry_had_its_turn));
        if applies && !expires {
            // Before the work, not after it: a log that becomes durable meanwhile sets it again.
            self.replica.dirty = false;
            let point = [(); 2].map(|()| PointId(self.host.ports.entropy.uuid()));
            let past = self.point_wanted().or_else(|| self.damaged_log());
            let sealing = (point, self.sealer());
            let future =
                Box::pin(
                    async move { Done::Maintained(maintain(store, vm, retention, sealing, past).await) },
                );
            // Its writes to the head would go on after a drop, under whatever came next.
            return Some(Work {
                future,
                droppable: false,
            });
        }
        if expires {
            (self.replica.expiry_had_its_turn, self.replica.expired_at) = (true, Instant::now());
            let aging = self.replica.aging.clone();
            return Some(droppable(async move {
                Done::Expired(expire(store, vm, retention, aging).await)
            }));
        }
        // What could not be expired, because it was in use, may be free then.
        let look = self.replica.expired_at + self.host.config.expiry_interval;
        self.replica.next_at = collected.map_or(look, |at| at.min(look));
        self.plan_scrub()
    }

    /// When the logs that arrive in short intervals have been collected; `None`: there is nothing to wait for.
    fn collected(&self) -> Option<Instant> {
        let rel = self.rel.as_ref().filter(|_| self.replica.dirty)?;
        if rel.state == State::WaitingToCompleteInitialReplication {
            return None;
        }
        let at = self.replica.queue.since()? + backlog::collects(rel.settings.interval());
        (at > Instant::now()).then_some(at)
    }

    pub(crate) async fn maintained(&mut self, result: Result<Maintained, StoreError>) {
        self.replica.expiry_had_its_turn = false;
        match result {
            Ok(done) => {
                self.replica.attempts = 0;
                self.replica.queue.look(&done.info);
                self.replica.dirty |= done.applied.is_some();
                self.replica.expire |= done.sealed;
                if done.sealed {
                    self.replica.scrub.wake();
                }
                self.changes_applied(&done.info).await;
                if done.sealed && self.point_wanted().is_some() {
                    self.hurry_extended().await;
                }
                self.replica.next_at = Instant::now();
                self.storage_seen(&done.info).await;
                // Not only when it was sealed just now: the daemon may have ended between the seal and this record.
                self.mirror_sync(&done.info).await;
                if usable(self.mode(), &done.info) && self.copy_is_finished().await.is_err() {
                    self.replica.dirty = true;
                    self.replica_retry();
                    return;
                }
                if !self.replica.dirty && done.info.durable == done.info.applied && self.cured() {
                    self.write_noted().await;
                }
            }
            Err(e) => {
                warn!(vm = %self.id, error = %chain(&e), "log not applied");
                self.replica.dirty = true;
                // What expires may be the room that is missing.
                if e.lacks_room() {
                    self.hold_lacks_room().await;
                    self.replica.expire = true;
                }
                self.replica_fault(&format!("a log cannot be applied: {}", chain(&e)))
                    .await;
            }
        }
    }

    /// The state follows what arrives: pieces of a synchronization, and the instant that closes it.
    async fn mirror_sync(&mut self, info: &ReplicaInfo) {
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
    async fn copy_is_finished(&mut self) -> Result<(), Refusal> {
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

    /// Applies everything that is durable, for who has to see it.
    pub(crate) async fn catch_up(&mut self) -> Result<(), PeerRefusal> {
        let store = self.host.ports.store.clone();
        if self
            .rel
            .as_ref()
            .and_then(Relationship::replica)
            .is_some_and(|r| r.awaits_import)
        {
            return Err(PeerRefusal::NotNow {
                host: self.host_name(),
                detail: "the initial copy is on its way on media and has to be imported first".into(),
            });
        }
        loop {
            let info = store.info(self.id).await.map_err(|e| self.host.peer_refusal(e))?;
            let Some(rel) = self.rel.as_ref().filter(|_| info.applied != info.durable) else {
                return Ok(());
            };
            let retention = self.retention(rel);
            // Points may be expiring at this moment.
            self.interrupt().await;
            let point = [(); 2].map(|()| PointId(self.host.ports.entropy.uuid()));
            let sealing = (point, self.sealer());
            let done = maintain(store.clone(), self.id, retention, sealing, None).await;
            let stuck = done.as_ref().is_ok_and(|d| d.applied.is_none());
            let failed = done.as_ref().err().map(|e| chain(e));
            self.maintained(done).await;
            if failed.is_some() || stuck {
                return Err(PeerRefusal::Failed {
                    host: self.host_name(),
                    detail: failed.unwrap_or_else(|| "a log that is here cannot be applied".into()),
                });
            }
        }
    }

    async fn replica_fault(&mut self, message: &str) {
        self.fault(message).await;
        self.note_step(Step::Fault).await;
        self.replica_retry();
    }

    pub(crate) fn replica_retry(&mut self) {
        self.replica.attempts += 1;
        self.replica.backing_off = Some(Instant::now());
        self.replica.next_at = Instant::now() + backoff(self.replica.attempts);
    }

    /// What could not expire is tried again with the next seal, and at the latest after the interval: nothing that arrives
    /// waits for it.
    pub(crate) fn expired(&mut self, result: Result<bool, StoreError>) {
        self.replica.expire = match result {
            Ok(more) => more,
            Err(StoreError::Busy(_)) => false,
            Err(e) => {
                warn!(vm = %self.id, error = %chain(&e), "expiry waits");
                false
            }
        };
        self.replica.next_at = match self.replica.expire || self.replica.dirty {
            true => Instant::now(),
            false => Instant::now() + self.host.config.expiry_interval,
        };
    }

    pub(crate) async fn log_durable(&mut self, received: Received, stamp: Stamp) {
        let now = stamp.reading;
        self.replica.aging.arrived(stamp, received.instant);
        self.roll_statistics().await;
        self.tally(|rel| {
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
            self.instant_arrived(received.instant, now).await;
        }
        self.moved();
        self.replica.queue.arrived(received.durable, received.bytes);
        // What arrives is proof that receiving works again, not that what failed to be applied can be.
        let unapplied = self.replica.dirty && self.replica.attempts > 0;
        if !self.replica.dirty {
            (self.replica.dirty, self.replica.attempts, self.replica.next_at) = (true, 0, Instant::now());
        }
        if !unapplied && self.rel.as_ref().is_some_and(|r| r.state == State::Critical) {
            self.cured();
            self.write_noted().await;
        }
    }

    pub(crate) async fn bulk_done(&mut self, _progress: &BulkProgress) {
        self.no_import().await;
        self.moved();
        let now = self.host.ports.clock.reading();
        self.tally(|rel| {
            (rel.last_replication, rel.recency.any) = (Some(now.wall), Some(now));
            rel.problem = None;
        });
    }

    fn host_name(&self) -> String {
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
            return Err(match overtaken {
                true => PeerRefusal::NewerGeneration { host },
                false => PeerRefusal::NoReplica { host },
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
                let offer = GivenWay {
                    spec: *vm,
                    settings,
                    disks,
                    start,
                    from: Some(from).filter(|from| !from.is_empty()),
                    content,
                };
                let extended = self.rel.as_ref().is_some_and(|r| r.mode == Mode::ExtendedReplica);
                let taken = match offer.content {
                    _ if let Err(e) = offer.validate(peer) => Err(e),
                    _ if let Err(e) = self.within_quota(peer, &offer) => Err(e),
                    Content::Empty | Content::Media { .. } => self.offered(peer, offer).await,
                    Content::Extended => match self.go_on_extended(peer, &offer).await {
                        Some(answer) => answer,
                        None => self.offered(peer, offer).await,
                    },
                    Content::Reverse { .. } if extended => self.follow(peer, offer).await,
                    Content::Seed | Content::Reverse { .. } => self.give_way(peer, offer).await,
                };
                self.with_firmware(taken, &firmware).await
            }
            PeerRequest::FinishBulk {
                instant, consistency, ..
            } => self.finish_bulk(peer, instant, consistency).await,
            PeerRequest::Compare { disk, ranges, .. } => self.compare_for(peer, &disk, &ranges).await,
            PeerRequest::Differences { disk, from, .. } => self.differences_for(peer, &disk, from).await,
            PeerRequest::Standing { .. } => Err(self.answered_elsewhere()),
            PeerRequest::CompareAgain { .. } => self.compare_again(peer).await,
            PeerRequest::ReadDisk { .. } => Err(self.lent_elsewhere()),
            PeerRequest::Prepare { force, start, .. } => self.prepare_for(peer, force, start).await,
            PeerRequest::TakeOver { at, start, .. } => self.take_over(peer, at, start).await,
            PeerRequest::StandDown { .. } => self.stand_down(peer),
            PeerRequest::Status { report, .. } => self.status_for(peer, report).await,
            PeerRequest::RestartBulk { disk, .. } => match self.may_receive(peer) {
                Ok(()) => self.restart_bulk(disk).await,
                Err(r) => Err(r),
            },
            PeerRequest::Update {
                vm,
                settings,
                firmware,
            } => self.updated(peer, &vm, settings, &firmware).await,
            PeerRequest::LogOffset { position, .. } => match self.may_receive(peer) {
                Ok(()) => {
                    let offset = self.host.ports.store.receive_offset(self.id, position).await;
                    offset
                        .map(|bytes| PeerReply::Offset { bytes })
                        .map_err(|e| self.host.peer_refusal(e))
                }
                Err(r) => Err(r),
            },
        };
        answer.unwrap_or_else(PeerReply::Refused)
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
            problems: [self.problems().await, crate::storage::problems(&info)].concat(),
            bulk: info.bulk,
            waiting_logs: waiting.logs,
            waiting_bytes: waiting.bytes,
            hand_over: self.takes_over(),
            export: self.awaited_seal().ok().map(|s| s.sealing.export),
        }))
    }

    async fn restart_bulk(&self, disk: u16) -> Result<PeerReply, PeerRefusal> {
        if self.awaits_offer() {
            return Err(PeerRefusal::NotNow {
                host: self.host_name(),
                detail: "it has a copy of this VM already; cancel this copy and use that one (lifeboat replication start --seed), or remove it there".into(),
            });
        }
        let store = &self.host.ports.store;
        let info = store.info(self.id).await.map_err(|e| self.host.peer_refusal(e))?;
        let Some(disk) = info.disks.get(usize::from(disk)) else {
            return Err(PeerRefusal::Conflict {
                detail: format!("the replica has {} disks", info.disks.len()),
            });
        };
        store
            .restart_bulk(self.id, &disk.id)
            .await
            .map_err(|e| self.host.peer_refusal(e))?;
        self.replica_status().await
    }

    /// Whether this offer can be accepted; true when an unfinished copy has to make room for it.
    fn check_offer(&self, offer: &GivenWay, mode: Mode) -> Result<bool, PeerRefusal> {
        let GivenWay { spec, start, .. } = offer;
        let conflict = |detail: String| Err(PeerRefusal::Conflict { detail });
        let host = self.host_name();
        if self.local.is_some() {
            return conflict(format!(
                "{host} has a VM of its own with this UUID ({}); if it is a copy of this one, make it a replica there first: lifeboat replication become-replica",
                spec.uuid
            ));
        }
        match self.rel.as_ref() {
            None => Ok(false),
            // Of the line that an extended replica follows every point is another start.
            Some(rel)
                if rel.mode == mode
                    && rel.position.same_generation(*start)
                    && (mode == Mode::Replica || rel.position == *start) =>
            {
                Ok(false)
            }
            // An unfinished copy is worth nothing to anybody: enabling again, after an answer that got lost or a
            // removal on the primary alone, begins anew.
            Some(rel) if rel.mode == mode && rel.state == State::WaitingToCompleteInitialReplication => {
                Ok(true)
            }
            Some(rel) => Err(PeerRefusal::NotNow {
                host,
                detail: format!(
                    "it has a replica of this VM already, in state {}; remove it there first: lifeboat replication remove",
                    rel.state
                ),
            }),
        }
    }

    async fn offered(&mut self, peer: &PeerIdentity, offer: GivenWay) -> Result<PeerReply, PeerRefusal> {
        let entry = match self.awaits_offer() {
            // Nobody is its primary yet.
            true => self.lets_in(peer)?,
            false => self.trusts(peer)?,
        };
        let mode = match offer.content {
            Content::Extended => Mode::ExtendedReplica,
            Content::Media { .. } | Content::Empty | Content::Seed | Content::Reverse { .. } => Mode::Replica,
        };
        let (awaits_import, sealing) = sealing::awaited(&offer.content, &self.host_name())?;
        if self.awaits_offer() {
            if mode == Mode::Replica && !awaits_import {
                return self.await_seed(peer, offer).await;
            }
            let detail = "this host has a copy of its own; start from it: lifeboat replication start --seed";
            return Err(PeerRefusal::Conflict {
                detail: detail.into(),
            });
        }
        let again = self.check_offer(&offer, mode)?;
        let store = self.host.ports.store.clone();
        if again {
            self.interrupt().await;
            self.replica.stop_receiving().await;
            let destroyed = store.destroy(self.id).await;
            destroyed.map_err(|e| self.host.peer_refusal(e))?;
        }
        let location = camino::Utf8Path::new(&entry.storage_location);
        match store.create(location, self.id, &offer.disks, offer.start).await {
            Ok(()) => {}
            // Left by a replica that was removed: nothing is written over it, and it may be the seed.
            Err(StoreError::Conflict(_)) if self.rel.is_none() && offer.content == Content::Empty => {
                let content = Content::Seed;
                return self.await_seed(peer, GivenWay { content, ..offer }).await;
            }
            Err(e) => return Err(self.host.peer_refusal(e)),
        }
        let info = store.info(self.id).await;
        let bound = self.rel.as_ref().and_then(Relationship::replica);
        let side = ReplicaSide {
            awaits_import,
            sealing: sealing.map(Box::new),
            allowed: bound.and_then(|r| r.allowed.clone()),
            ..ReplicaSide::new(String::from(info.map_err(|e| self.host.peer_refusal(e))?.dir))
        };
        self.taken(peer, offer, (mode, side), again).await
    }

    /// Records an offer that the store has taken.
    async fn taken(
        &mut self,
        peer: &PeerIdentity,
        offer: GivenWay,
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
                    index: 0,
                    mode,
                    state: State::WaitingToCompleteInitialReplication,
                    peer: peer.names.first().cloned().unwrap_or_default(),
                    position: offer.start,
                    side: Side::Replica(side),
                    home: None,
                    callback: offer.from,
                    formerly: Vec::new(),
                    preflight: Vec::new(),
                    network: Vec::new(),
                    addressing: Default::default(),
                    keys: Vec::new(),
                    problem: None,
                    created: self.host.ports.clock.now(),
                    last_replication: None,
                    recency: Default::default(),
                    newest_instant: None,
                    counters: Counters::default(),
                    settings: offer.settings,
                    spec,
                });
                change.tell(format!("replica offered by {}", peer.names.join(", ")));
                change
            }
        };
        self.replica.opened = true;
        let committed = self.commit(change).await;
        committed.map_err(|e| self.catalog_refusal(e))?;
        self.replica_status().await
    }

    /// RemoveReplicationRelationship, on whichever side this is.
    pub(crate) async fn remove(&mut self) -> Result<Answer, Refusal> {
        let rel = self.rel.as_ref().ok_or_else(no_relationship)?;
        self.no_test()?;
        self.no_extended()?;
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
                if own && self.local.is_some() && dir.is_some() {
                    // Its own images are below every point here: started on them, the VM would spoil them all.
                    return Err(Refusal::new(
                        ReturnCode::InvalidState,
                        "this replica stands on the VM's own images on this host",
                        crate::orphans::to_own_images(state),
                    ));
                }
                self.interrupt().await;
                self.replica.stop_receiving().await;
                let unfinished = state == State::WaitingToCompleteInitialReplication && !own;
                let store = self.host.ports.store.clone();
                if unfinished {
                    // Before the record goes: without it nobody would know of the files.
                    let gone = store.destroy(self.id).await;
                    gone.map_err(|e| failed("the unfinished copy was not deleted", &e))?;
                }
                if dir.is_none()
                    && let Some(home) = self.rel.as_ref().and_then(|r| r.home.clone())
                {
                    // It gave way and nothing came of it: the VM is where it was.
                    self.live_alone(home).await?;
                    self.event("replication removed").await;
                    return Ok(Answer::Done);
                }
                self.undefine().await?;
                self.erase().await?;
                self.replica = ReplicaState::default();
                if !unfinished {
                    store.close(self.id).await;
                    if let Some(dir) = dir {
                        self.event(&format!("the replica's files are kept in {dir}"))
                            .await;
                    }
                }
            }
        }
        self.event("replication removed").await;
        Ok(Answer::Done)
    }

    /// The relationship ends and the VM lives on, on the disks it has in the replica store.
    pub(crate) async fn live_alone(&mut self, home: Home) -> Result<(), Refusal> {
        self.interrupt().await;
        let mut change = self.change()?;
        (change.mode, change.state) = (Mode::None, State::Disabled);
        (change.side, change.home, change.problem) = (Side::Alone, Some(home), None);
        self.primary.next_at = Instant::now();
        self.commit(change).await
    }

    /// Whether the replica's VM runs, for operations that need it off.
    pub(crate) async fn runs(&self) -> Result<bool, Refusal> {
        Ok(self.power().await? != PowerState::Off)
    }

    pub(crate) async fn replica_info(&self) -> Result<ReplicaInfo, Refusal> {
        let replica = self.rel.as_ref().is_some_and(|r| r.replica().is_some());
        if !replica {
            let hint = "recovery points are on the replica host";
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
