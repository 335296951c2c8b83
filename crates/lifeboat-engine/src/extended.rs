//! The extended relationship, A → B → C: what a replica gets also goes to a third host. Here is what B makes of what its
//! courier tells, and what C answers. What an administrator asks of B is in `third`; the sending is `courier`'s.
//!
//! On B the relationship is a part of the replica's record and has the states of a primary. C is a replica like any other,
//! in mode 4: it can be failed over, tested, reverted and committed, and takes nothing but what B has.

use std::sync::Arc;
use std::time::Duration;

use camino::Utf8Path;
use lifeboat_deltalog::Consistency;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::lifecycle::{self, Event as Step, Turn};
use lifeboat_model::policy::{FAULT_AFTER_ATTEMPTS, HealthInput, health};
use lifeboat_model::{
    JobState, JobType, PointId, Position, Reading, ReplicationMode as Mode, ReplicationSettings,
    ReplicationState as State, Timestamp,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::action::{Answer, ExtendedView, Refusal};
use crate::actor::{Actor, chain, no_relationship, not_now};
use crate::change::Change;
use crate::copy::CopyError;
use crate::courier::{Courier, News, Orders};
use crate::ports::link::{Content, LinkError, PeerIdentity, PeerRefusal, PeerReply};
use crate::ports::store::{Adoption, Divergence, Origin, ReplicaInfo};
use crate::records::{Comparison, Extended, Problem, Relationship};
use crate::replica::as_replica;
use crate::reverse::GivenWay;

/// The courier of an actor. All of it can be lost.
#[derive(Default)]
pub(crate) struct Dispatch {
    under_way: Option<(JoinHandle<()>, Orders)>,
    /// Counts couriers, so that what one told that was ended is not heard.
    number: u64,
    /// Ends the pause of a courier whose last round failed.
    wake: Arc<Notify>,
}

impl Drop for Dispatch {
    fn drop(&mut self) {
        if let Some((task, _)) = &self.under_way {
            task.abort();
        }
    }
}

impl Dispatch {
    /// A courier that waits because its last round failed begins the next one.
    pub(crate) fn wake(&self) {
        self.wake.notify_waiters();
    }

    /// Ends the courier and waits until it has let go of everything.
    async fn stop(&mut self) {
        self.number += 1;
        if let Some((task, _)) = self.under_way.take() {
            task.abort();
            // It ended, or was aborted; both are what was wanted.
            let _ = task.await;
        }
    }
}

pub(crate) fn extended(rel: Option<&Relationship>) -> Option<&Extended> {
    rel?.replica()?.extended.as_deref()
}

pub(crate) fn not_extended() -> Refusal {
    Refusal::new(
        ReturnCode::InvalidState,
        "this replica is not extended to a third host",
        "extend it with: lifeboat replication extend --to HOST:PORT",
    )
}

/// How an administrator sees it.
pub(crate) fn view(
    rel: &Relationship,
    info: Option<&ReplicaInfo>,
    now: Reading,
) -> Option<Box<ExtendedView>> {
    let ext = extended(Some(rel))?;
    let (found, mut notes) = health(&HealthInput {
        mode: Mode::Primary,
        state: ext.state,
        problem: ext.problem.as_ref().map(|p| (p.attempts, p.message.as_str())),
        idle: crate::views::idle(&ext.recency, ext.last_replication, now),
        cycles: ext.counters.cycles,
        missed: ext.counters.missed,
        latency: None,
        settled: true,
        application_failed: false,
        machine: &ext.preflight,
        abandoned: false,
        unauthorized: None,
        findings: &[],
    });
    if rel.failover().is_some() {
        notes.push("it stands still while this replica is failed over".to_owned());
    }
    Some(Box::new(ExtendedView {
        state: ext.state,
        health: found,
        health_notes: notes,
        peer: ext.settings.peer.clone(),
        settings: ext.settings.clone(),
        position: ext.acknowledged,
        newest_instant: ext.newest_instant,
        last_replication: ext.last_replication,
        lag_ms: crate::views::lag(&ext.recency, ext.newest_instant, now),
        pending_bytes: info.and_then(|info| crate::pending::of_third(ext, info)),
        problem: ext.problem.clone(),
        counters: ext.counters.into(),
    }))
}

impl Extended {
    /// What was sent up to a position arrived; `age` is how old its instant is by now.
    fn arrived(
        &mut self,
        at: Position,
        instant: Option<Timestamp>,
        bytes: u64,
        (now, age): (Reading, Duration),
    ) {
        self.acknowledged = Some(at);
        self.last_replication = Some(now.wall);
        self.newest_instant = instant.or(self.newest_instant);
        match instant {
            Some(_) => self.recency.instant(now, age),
            None => self.recency.any = Some(now),
        }
        if instant.is_some() && bytes > 0 {
            self.counters.arrived(bytes, age);
            self.comparison = None;
        }
    }

    /// A round failed; whether that is a new problem, and how many attempts it has cost.
    fn failed(&mut self, e: &CopyError, message: &str, now: Timestamp) -> (bool, u32) {
        self.counters.failures += 1;
        self.counters.network_failures +=
            u64::from(matches!(e, CopyError::Link(LinkError::Unreachable { .. })));
        let (problem, new) = Problem::again(self.problem.take(), message, now);
        let attempts = problem.attempts;
        self.problem = Some(problem);
        let refused = matches!(e, CopyError::Link(LinkError::Refused(_)));
        if refused || attempts >= FAULT_AFTER_ATTEMPTS {
            self.state = lifecycle::step(Mode::Primary, self.state, Step::Fault).unwrap_or(self.state);
        }
        (new, attempts)
    }
}

impl Actor {
    /// Whether what is asked of this replica as of a primary is meant for its extended relationship.
    pub(crate) fn is_extended(&self) -> bool {
        extended(self.rel.as_ref()).is_some()
    }

    /// Where the third host stands while a comparison waits for a point past that.
    pub(crate) fn point_wanted(&self) -> Option<Position> {
        let ext = extended(self.rel.as_ref())?;
        ext.compare.and(ext.acknowledged)
    }

    /// Lets the courier look again at once.
    pub(crate) async fn hurry_extended(&mut self) {
        if extended(self.rel.as_ref()).is_some_and(|e| e.comparison.is_none()) {
            self.dispatch.stop().await;
        }
    }

    /// What a courier would have to do now; `None`: none is needed.
    fn orders(&self) -> Option<Orders> {
        let rel = self.rel.as_ref()?;
        let ext = extended(Some(rel))?;
        let flows = rel.mode == Mode::Replica && rel.failover().is_none() && self.replica.is_open();
        if !flows || ext.state == State::ReadyForReplication {
            return None;
        }
        let copying = ext.state == State::WaitingToCompleteInitialReplication;
        Some(Orders {
            spec: rel.spec.clone(),
            settings: ReplicationSettings {
                // A third host has the disks that this one has.
                disks: rel.settings.disks.clone(),
                ..ext.settings.clone()
            },
            paused: matches!(
                ext.state,
                State::Suspended
                    | State::ResynchronizationSuspended
                    // A comparison was given up: whoever did wants nothing sent before the next one.
                    | State::WaitingToStartResynchronization
            ),
            compare: ext.compare,
            copying: copying.then_some(ext.job),
        })
    }

    /// Sends a courier, or ends one, as the record says. Called before any work is planned.
    pub(crate) async fn attend_extended(&mut self) {
        let wanted = self.orders();
        let same = match (&self.dispatch.under_way, &wanted) {
            (None, None) => true,
            (Some((task, orders)), Some(wanted)) => {
                // The end of the initial copy, or of a comparison, is nothing a courier has to be told.
                let copied = Orders {
                    copying: wanted.copying,
                    compare: orders.compare.filter(|_| wanted.compare.is_some()),
                    ..orders.clone()
                };
                !task.is_finished() && copied == *wanted
            }
            (Some(_), None) | (None, Some(_)) => false,
        };
        if same {
            return;
        }
        self.dispatch.stop().await;
        let (Some(orders), Some(ext)) = (wanted, extended(self.rel.as_ref())) else {
            return;
        };
        let ports = &self.host.ports;
        // Before anything can expire: the list of what is kept does not survive a restart.
        if ext.acknowledged.is_some() {
            ports.store.keep_logs(self.id, ext.acknowledged).await;
        }
        self.host.throttle.set(self.id, &ext.settings.bandwidth);
        let courier = Courier {
            vm: self.id,
            orders: orders.clone(),
            store: ports.store.clone(),
            tools: self.host.tools(),
            entropy: ports.entropy.clone(),
            jobs: self.host.jobs.clone(),
            listen: self.host.config.listen.clone(),
            acknowledged: ext.acknowledged,
            comparison: ext.comparison,
            number: self.dispatch.number,
            news: self.own.clone(),
            told: None,
            wake: self.dispatch.wake.clone(),
        };
        self.dispatch.under_way = Some((self.host.works.spawn(courier.run()), orders));
    }

    /// Refuses what would leave a third host without the one it follows.
    pub(crate) fn no_extended(&self) -> Result<(), Refusal> {
        match extended(self.rel.as_ref()) {
            None => Ok(()),
            Some(ext) => Err(Refusal::new(
                ReturnCode::InvalidState,
                format!(
                    "this replica is extended to {}, which gets its data from here",
                    ext.settings.peer
                ),
                "remove that first (lifeboat replication remove --extended); after a commit this host can also go on \
                 as its primary (lifeboat replication continue)",
            )),
        }
    }

    /// Whether this is the host that this replica is extended to.
    pub(crate) fn is_third(&self, asks: &PeerIdentity) -> bool {
        extended(self.rel.as_ref()).is_some_and(|e| asks.is_host_of(&e.settings.peer))
    }

    /// ChangeReplicationModeToPrimary.
    pub(crate) async fn continue_as_primary(&mut self) -> Result<Answer, Refusal> {
        let rel = self.rel.as_ref().ok_or_else(no_relationship)?;
        lifecycle::turn(rel.mode, rel.state, Turn::ContinueAlone).map_err(|e| not_now(&e))?;
        let settings = extended(Some(rel)).ok_or_else(not_extended)?.settings.clone();
        if let Some(running) = rel.failover().and_then(|f| f.reverse.as_ref()) {
            let job = self.host.jobs.get(running.job);
            return Ok(job.map_or(Answer::Done, Answer::from));
        }
        self.begin_reverse(JobType::ModeToPrimary, Some(settings), false, false)
            .await
    }

    /// What becomes of the extended relationship when this replica turns into the primary of another host, as a part of
    /// that change.
    pub(crate) fn extended_ends(&self, change: &mut Change, before: &Relationship, peer: &str) {
        let Some(ext) = extended(Some(before)) else { return };
        for job in ext.job.into_iter().chain(ext.compare) {
            let why = "the role of this host changed".to_owned();
            change.end_job(&self.host.jobs, Some(job), JobState::Terminated, Some(why));
        }
        let third = &ext.settings.peer;
        change.tell(match third == peer {
            true => format!("{third} follows this host as its replica now"),
            false => format!(
                "the extended replication to {third} ended with the change of roles; {third} keeps its recovery points. \
                 Extend it again on {peer}: lifeboat replication extend --to {third}; only what differs is sent"
            ),
        });
    }

    /// What a courier has to tell.
    pub(crate) async fn extended_news(&mut self, number: u64, news: News) {
        if number != self.dispatch.number || !self.is_extended() {
            return;
        }
        match news {
            News::Arrived { at, instant, bytes } => {
                let now = self.host.ports.clock.reading();
                let age = self.age_here(at, now);
                self.note_extended(|ext| ext.arrived(at, instant, bytes, (now, age)))
                    .await;
            }
            News::Compared(comparison, bytes) => self.extended_compared(comparison, bytes).await,
            News::Checked(problems) => {
                self.note_extended(|ext| ext.preflight = problems).await;
            }
            News::Ended(Ok(None)) => {}
            News::Ended(Ok(Some(at))) => self.extended_flows(at).await,
            News::Ended(Err(e)) => self.extended_failed(&e).await,
        }
    }

    /// How old the instant at a position is: the time since it arrived here, and how old it was then, as far as both are
    /// known.
    fn age_here(&self, at: Position, now: Reading) -> Duration {
        let here = self
            .replica
            .aging
            .of(at)
            .map(|arrived| now.about_since(arrived.at));
        let then = self.rel.as_ref().map_or(0, |r| r.recency.old_ms);
        here.unwrap_or_default() + Duration::from_millis(then)
    }

    async fn extended_compared(&mut self, comparison: Comparison, bytes: u64) {
        let begins = self.note_extended(|ext| {
            ext.comparison = Some(comparison);
            ext.counters.bytes += bytes;
            // During an initial copy the state stays what it is.
            let next = lifecycle::step(Mode::Primary, ext.state, Step::StartResync);
            let begins = next.is_ok_and(|next| next != ext.state);
            ext.state = next.unwrap_or(ext.state);
            begins
        });
        if begins.await == Some(true) {
            self.event("the third host is compared with a recovery point; its own recovery points stay")
                .await;
        }
    }

    /// A round came to its end: the third host has everything there was.
    async fn extended_flows(&mut self, at: Position) {
        let Ok(mut change) = self.change() else { return };
        let Some(ext) = change.extended_mut() else { return };
        (ext.acknowledged, ext.problem, ext.comparison) = (Some(at), None, None);
        let was = ext.state;
        for step in [Step::CopyFinished, Step::ResyncFinished, Step::Cured] {
            ext.state = lifecycle::step(Mode::Primary, ext.state, step).unwrap_or(ext.state);
        }
        let copied = was == State::WaitingToCompleteInitialReplication;
        let compared = ext.compare.take();
        let job = ext.job.take_if(|_| copied).or(compared);
        if let Some(ended) = job.and_then(|j| self.host.jobs.ended(j, JobState::Completed, None)) {
            change.with_job(ended);
            change.tell(if copied {
                "the third host has its first recovery point"
            } else {
                "the third host was compared and is equal"
            });
        }
        if let Err(e) = self.commit(change).await {
            // The next round records it.
            tracing::warn!(vm = %self.id, error = %e.message, "what the third host has is not recorded");
        }
    }

    async fn extended_failed(&mut self, e: &CopyError) {
        if let CopyError::Link(LinkError::Refused(
            PeerRefusal::OutOfSequence { .. } | PeerRefusal::Backlog { .. },
        )) = e
        {
            // Not a fault: the next round asks the third host where it stands, or it has applied what it had.
            return;
        }
        let now = self.host.ports.clock.now();
        let Some(ext) = extended(self.rel.as_ref()) else {
            return;
        };
        let gone = matches!(
            e,
            CopyError::Link(LinkError::Refused(PeerRefusal::NoReplica { .. }))
        );
        let mut message = format!("extended replication to {}: {}", ext.settings.peer, chain(e));
        if gone {
            message.push_str("; remove it (lifeboat replication remove --extended) and extend it again");
        }
        let failed = self.tally(|rel| Some(rel.extended_mut()?.failed(e, &message, now)));
        let Some((new, attempts)) = failed.flatten() else {
            return;
        };
        if new {
            self.event(&message).await;
        }
        if new || attempts == FAULT_AFTER_ATTEMPTS {
            self.write_noted().await;
        }
    }

    /// Notes something of the relationship to the third host; `None`: there is none.
    async fn note_extended<R>(&mut self, noted: impl FnOnce(&mut Extended) -> R) -> Option<R> {
        let noted = self.note(|rel| rel.extended_mut().map(noted)).await;
        noted.flatten()
    }

    /// An offer to an extended replica that is there already; `None`: it is to be made, or made anew.
    pub(crate) async fn go_on_extended(
        &mut self,
        peer: &PeerIdentity,
        offer: &GivenWay,
    ) -> Option<Result<PeerReply, PeerRefusal>> {
        let host = self.host.config.name.clone();
        let rel = self.rel.as_ref().filter(|r| r.mode == Mode::ExtendedReplica)?;
        match rel.state {
            State::WaitingToCompleteInitialReplication => return None,
            State::FailoverInProgress | State::Recovered => {
                return Some(Err(PeerRefusal::FailedOver { host }));
            }
            State::Committed => return Some(Err(PeerRefusal::NewerGeneration { host })),
            _ => {}
        }
        if rel.settings.disks != offer.settings.disks {
            let detail = "the extended replica there has other disks; remove it there first".to_owned();
            return Some(Err(PeerRefusal::Conflict { detail }));
        }
        let mut change = self.change().ok()?;
        change.spec = as_replica(&offer.spec, &offer.settings);
        change.settings = offer.settings.clone();
        change.peer = peer.names.first().cloned().unwrap_or_default();
        change.callback.clone_from(&offer.from);
        if self.commit(change).await.is_err() {
            let detail = "the catalog cannot be written".to_owned();
            return Some(Err(PeerRefusal::Failed { host, detail }));
        }
        Some(self.replica_status().await)
    }

    /// The initial copy of a sealed point is complete.
    pub(crate) async fn finish_bulk(
        &mut self,
        peer: &PeerIdentity,
        instant: lifeboat_model::Timestamp,
        consistency: Consistency,
    ) -> Result<PeerReply, PeerRefusal> {
        self.may_receive(peer)?;
        self.interrupt().await;
        let id = PointId(self.host.ports.entropy.uuid());
        let finished = self
            .host
            .ports
            .store
            .finish_bulk(self.id, id, instant, consistency)
            .await;
        finished.map_err(|e| self.host.peer_refusal(e))?;
        self.tally(|rel| rel.newest_instant = Some(instant));
        self.replica.dirty = true;
        self.replica.begin_now();
        self.replica_status().await
    }

    /// The host that this extended replica follows has become the primary itself: this one becomes its replica, with all it
    /// has. Repeatable.
    pub(crate) async fn follow(
        &mut self,
        peer: &PeerIdentity,
        offer: GivenWay,
    ) -> Result<PeerReply, PeerRefusal> {
        let entry = self.trusts(peer)?;
        self.may_receive(peer)?;
        let host = self.host.config.name.clone();
        if offer.disks.iter().map(|d| &d.id).ne(&offer.settings.disks) {
            let detail = "the offered disks are not those of the settings".to_owned();
            return Err(PeerRefusal::Conflict { detail });
        }
        self.no_test().map_err(|e| PeerRefusal::NotNow {
            host: host.clone(),
            detail: format!("{e}; {}", e.hint),
        })?;
        self.interrupt().await;
        self.replica.stop_receiving().await;
        let store = self.host.ports.store.clone();
        let repeated = {
            let info = store.info(self.id).await.map_err(|e| self.host.peer_refusal(e))?;
            info.durable.same_generation(offer.start)
        };
        if !repeated {
            self.catch_up().await?;
        }
        let info = store.info(self.id).await.map_err(|e| self.host.peer_refusal(e))?;
        if !repeated {
            let sealed = self.seal_before_adoption().await;
            sealed.map_err(|e| self.host.peer_refusal(e))?;
        }
        let adoption = Adoption {
            divergence: stood(&info, &offer),
            disks: offer.disks.clone(),
            start: offer.start,
            origin: Origin::Here,
            sealed: None,
            keep: None,
        };
        let adopted = store
            .adopt(Utf8Path::new(&entry.storage_location), self.id, &adoption)
            .await;
        adopted.map_err(|e| self.host.peer_refusal(e))?;
        let mut change = self.change().map_err(|e| self.catalog_refusal(e))?;
        (change.mode, change.state, change.position) = (Mode::Replica, State::Replicating, offer.start);
        change.spec = as_replica(&offer.spec, &offer.settings);
        change.settings = offer.settings;
        change.peer = peer.names.first().cloned().unwrap_or_default();
        change.callback = offer.from;
        change.problem = None;
        change.tell("the host this replica followed is the primary now; this one is its replica");
        let committed = self.commit(change).await;
        committed.map_err(|e| self.catalog_refusal(e))?;
        self.replica.adopted();
        self.replica_status().await
    }
}

/// Where an extended replica may differ from the instant its new primary went on from: nowhere when it had that instant,
/// because what came after it is known there; otherwise only a comparison helps.
fn stood(info: &ReplicaInfo, offer: &GivenWay) -> Divergence {
    let since = match &offer.content {
        Content::Reverse { since, .. } => *since,
        Content::Empty | Content::Seed | Content::Media { .. } | Content::Extended => offer.start,
    };
    let at = info.applied;
    // A copy that is not complete, or is being made equal, stands at a position without holding it.
    let whole = !info.points.is_empty() && info.logs.iter().all(|l| l.position != at || !l.partial);
    let had = whole && at.at_or_after(since) == Some(true);
    let known = |d: &lifeboat_deltalog::LogDisk| (d.id.clone(), had.then(Vec::new));
    Divergence {
        since,
        disks: offer.disks.iter().map(known).collect(),
    }
}

/// The name in `HOST:PORT`.
pub(crate) fn host_of(peer: &str) -> &str {
    peer.rsplit_once(':').map_or(peer, |(host, _)| host)
}
