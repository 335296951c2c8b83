//! The extended relationship, A → B → C: what a replica gets also goes to a third host. Here is what B makes of what its
//! forwarder reports, and what C answers. `extended_commands` has what an administrator asks of B, `forwarder` the sending.
//!
//! On B the relationship is a part of the replica's record and has the states of a primary. C is a replica like any other,
//! in mode 4: it can be failed over, tested, reverted and committed, and takes nothing but what B has.

use crate::contract::{ExtendedView, Refusal};
use crate::core::Core;
use crate::core::aging::Aging;
use crate::core::change::Change;
use crate::host::offer::Offer;
use crate::port::link::{Content, LinkError, PeerIdentity, PeerRefusal, PeerReply};
use crate::port::store::{Divergence, ReplicaInfo};
use crate::record::access::extended;
use crate::record::{Comparison, Extended, Problem, Relationship};
use crate::source::forwarder::{Copying, Forwarder, ForwarderConfig};
use crate::target::replica::as_replica;
use crate::work::failure::CopyError;
use crate::work::message::Progress;
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::causes::chain;
use lifeboat_model::lifecycle::Event as Step;
use lifeboat_model::lifecycle::{self};
use lifeboat_model::policy::{FAULT_AFTER_ATTEMPTS, HealthInput, health};
use lifeboat_model::{
    Finding, JobState, Note, Position, ProblemKind, Reading, ReplicationSettings, Timestamp, hint,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// The forwarder of an actor. All of it can be lost.
#[derive(Default)]
pub(crate) struct Forwarding {
    pub(crate) under_way: Option<(JoinHandle<()>, ForwarderConfig)>,
    /// Counts forwarders, so that reports of an ended one are ignored.
    pub(crate) number: u64,
    /// Ends the pause of a forwarder whose last round failed.
    pub(crate) wake: Arc<Notify>,
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        if let Some((task, _)) = &self.under_way {
            task.abort();
        }
    }
}

impl Forwarding {
    /// A forwarder that waits because its last round failed begins the next one.
    pub(crate) fn wake(&self) {
        self.wake.notify_waiters();
    }

    /// Ends the forwarder and waits until it has let go of everything.
    async fn stop(&mut self) {
        self.number += 1;
        if let Some((task, _)) = self.under_way.take() {
            task.abort();
            // It ended, or was aborted; both are what was wanted.
            let _ = task.await;
        }
    }
}

pub(crate) fn not_extended() -> Refusal {
    Refusal::new(
        ReturnCode::InvalidState,
        "this replica is not extended to a third host",
        hint::Extend::Extend,
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
        problem: ext.problem.as_ref().map(Problem::found),
        idle: crate::core::age::idle(&ext.recency, ext.last_replication, now),
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
        let text = "nothing is sent there while this replica is failed over";
        notes.push(Finding::warning(ProblemKind::ExtendedWaits, text));
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
        lag_ms: crate::core::age::lag(&ext.recency, ext.newest_instant, now),
        pending_bytes: info.and_then(|info| crate::source::pending::of_third(ext, info)),
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
    fn failed(&mut self, e: &CopyError, note: Note, now: Timestamp) -> (bool, u32) {
        self.counters.failures += 1;
        self.counters.network_failures +=
            u64::from(matches!(e, CopyError::Link(LinkError::Unreachable { .. })));
        let (problem, new) = Problem::again(self.problem.take(), e.problem(), note, now);
        let attempts = problem.attempts;
        self.problem = Some(problem);
        let refused = matches!(e, CopyError::Link(LinkError::Refused(_)));
        if refused || attempts >= FAULT_AFTER_ATTEMPTS {
            self.state = lifecycle::step(Mode::Primary, self.state, Step::Fault).unwrap_or(self.state);
        }
        (new, attempts)
    }
}

impl Core {
    /// Whether what is asked of this replica as of a primary is meant for its extended relationship.
    pub(crate) fn is_extended(&self) -> bool {
        extended(self.rel.as_ref()).is_some()
    }

    /// Where the third host stands while a comparison waits for a point past that.
    pub(crate) fn point_wanted(&self) -> Option<Position> {
        let ext = extended(self.rel.as_ref())?;
        ext.compare.and(ext.acknowledged)
    }

    /// What a forwarder would have to do now; `None`: none is needed.
    fn forwarder_config(&self) -> Option<ForwarderConfig> {
        let rel = self.rel.as_ref()?;
        let ext = extended(Some(rel))?;
        let flows = rel.mode == Mode::Replica && rel.failover().is_none() && self.opened;
        if !flows || ext.state == State::ReadyForReplication {
            return None;
        }
        let copying = ext.state == State::WaitingToCompleteInitialReplication;
        Some(ForwarderConfig {
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
                    // A comparison was cancelled: nothing is to be sent before the next one.
                    | State::WaitingToStartResynchronization
            ),
            compare: ext.compare,
            copying: copying.then_some(Copying { job: ext.job }),
        })
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
                hint::Extend::RemoveOrContinue,
            )),
        }
    }

    /// Whether this is the host that this replica is extended to.
    pub(crate) fn is_third(&self, asks: &PeerIdentity) -> bool {
        extended(self.rel.as_ref()).is_some_and(|e| asks.is_host_of(&e.settings.peer))
    }

    /// What becomes of the extended relationship when this replica turns into the primary of another host, as a part of
    /// that change.
    pub(crate) fn extended_ends(&self, change: &mut Change, before: &Relationship, peer: &str) {
        let Some(ext) = extended(Some(before)) else { return };
        for job in ext.job.into_iter().chain(ext.compare) {
            let why = "the role of this host changed".into();
            change.end_job(&self.host.jobs, Some(job), JobState::Terminated, Some(why));
        }
        let third = &ext.settings.peer;
        change.tell(if third == peer {
            Note::from(format!("{third} follows this host as its replica now"))
        } else {
            Note::new(
                format!(
                    "the extended replication to {third} ended with the change of roles; {third} keeps its recovery points"
                ),
                hint::Extend::ExtendThere {
                    on: peer.to_owned(),
                    third: third.clone(),
                },
            )
        });
    }

    /// How old the instant at a position is: the time since it arrived here, and how old it was then, as far as both are
    /// known.
    fn age_here(&self, aging: &Aging, at: Position, now: Reading) -> Duration {
        let here = aging.of(at).map(|arrived| now.about_since(arrived.at));
        let then = self.rel.as_ref().map_or(0, |r| r.recency.old_ms);
        here.unwrap_or_default() + Duration::from_millis(then)
    }

    async fn extended_compared(&mut self, comparison: Comparison, bytes: u64) {
        let begins = self.note_extended(|ext| {
            ext.comparison = Some(comparison);
            ext.counters.bytes += bytes;
            // During an initial copy the state stays what it is.
            let next = lifecycle::step(Mode::Primary, ext.state, Step::StartResync);
            let begins = next.as_ref().is_ok_and(|next| *next != ext.state);
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
        let note = Note {
            text: format!("extended replication to {}: {}", ext.settings.peer, chain(e)),
            hint: if gone {
                Some(hint::Extend::RemoveAndExtend.into())
            } else {
                e.hint()
            },
        };
        let failed = self.tally(|rel| Some(rel.extended_mut()?.failed(e, note.clone(), now)));
        let Some((new, attempts)) = failed.flatten() else {
            return;
        };
        if new {
            self.event(note).await;
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

    /// An offer to an extended replica that is there already; `None`: it is to be made, or made again.
    pub(crate) async fn go_on_extended(
        &mut self,
        peer: &PeerIdentity,
        offer: &Offer,
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
            let detail = "the extended replica there has other disks; remove it there first".into();
            return Some(Err(PeerRefusal::Conflict { detail }));
        }
        let mut change = self.change().ok()?;
        change.spec = as_replica(&offer.spec, &offer.settings);
        change.settings = offer.settings.clone();
        change.peer = peer.names.first().cloned().unwrap_or_default();
        change.callback.clone_from(&offer.from);
        if self.commit(change).await.is_err() {
            let detail = "the catalog cannot be written".into();
            return Some(Err(PeerRefusal::Failed { host, detail }));
        }
        Some(self.replica_status().await)
    }
}

impl Forwarding {
    /// Lets the forwarder look again at once.
    pub(crate) async fn restart(&mut self, core: &Core) {
        if extended(core.rel.as_ref()).is_some_and(|e| e.comparison.is_none()) {
            self.stop().await;
        }
    }

    /// Starts a forwarder, or ends one, as the record says. Called before any work is planned.
    pub(crate) async fn attend_extended(&mut self, core: &Core) {
        let wanted = core.forwarder_config();
        let same = match (&self.under_way, &wanted) {
            (None, None) => true,
            (Some((task, config)), Some(wanted)) => {
                // The end of the initial copy, or of a comparison, needs no other forwarder.
                let copied = ForwarderConfig {
                    copying: wanted.copying,
                    compare: config.compare.filter(|_| wanted.compare.is_some()),
                    ..config.clone()
                };
                !task.is_finished() && copied == *wanted
            }
            (Some(_), None) | (None, Some(_)) => false,
        };
        if same {
            return;
        }
        self.stop().await;
        let (Some(config), Some(ext), Ok(store)) = (wanted, extended(core.rel.as_ref()), core.store()) else {
            return;
        };
        let ports = &core.host.ports;
        // Before anything can expire: the list of what is kept does not survive a restart.
        if ext.acknowledged.is_some() {
            store.logs.keep_logs(core.id, ext.acknowledged).await;
        }
        core.host.throttle.set(core.id, &ext.settings.bandwidth);
        let forwarder = Forwarder {
            vm: core.id,
            config: config.clone(),
            store,
            tools: core.host.tools(),
            entropy: ports.entropy.clone(),
            jobs: core.host.jobs.clone(),
            listen: core.host.config.listen.clone(),
            acknowledged: ext.acknowledged,
            comparison: ext.comparison,
            number: self.number,
            progress: core.own.clone(),
            told: None,
            wake: self.wake.clone(),
        };
        self.under_way = Some((core.host.works.spawn(forwarder.run()), config));
    }

    /// What a forwarder reports.
    pub(crate) async fn extended_progress(
        &mut self,
        core: &mut Core,
        number: u64,
        progress: Progress,
        aging: &Aging,
    ) {
        if number != self.number || !core.is_extended() {
            return;
        }
        match progress {
            Progress::Arrived { at, instant, bytes } => {
                let now = core.host.ports.clock.reading();
                let age = core.age_here(aging, at, now);
                core.note_extended(|ext| ext.arrived(at, instant, bytes, (now, age)))
                    .await;
            }
            Progress::Compared(comparison, bytes) => core.extended_compared(comparison, bytes).await,
            Progress::Checked(problems) => {
                core.note_extended(|ext| ext.preflight = problems).await;
            }
            Progress::Ended(Ok(None)) => {}
            Progress::Ended(Ok(Some(at))) => core.extended_flows(at).await,
            Progress::Ended(Err(e)) => core.extended_failed(&e).await,
        }
    }
}

/// Where an extended replica may differ from the instant its new primary went on from: nowhere when it had that instant,
/// because what came after it is known there; otherwise only a comparison helps.
pub(crate) fn stood(info: &ReplicaInfo, offer: &Offer) -> Divergence {
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
