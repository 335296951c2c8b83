//! Outgoing relationships, A → B → C and B → D: what a replica gets also goes to third hosts. Here is what B makes of what its
//! forwarders report, and what C answers. `outgoing_commands` has what an administrator asks of B, `forwarder` the sending.
//!
//! On B each of them is a part of the replica's record, has the states of a primary, and a forwarder of its own: one that
//! fails, waits or is compared does not hold up another. C is a replica like any other, in mode 4: it can be failed over,
//! tested, reverted and committed, and takes nothing but what B has.

use crate::contract::{ExtendedView, Refusal, RelationshipRef};
use crate::core::Core;
use crate::core::aging::Aging;
use crate::core::change::Change;
use crate::host::offer::Offer;
use crate::port::link::{Content, LinkError, PeerIdentity, PeerRefusal, PeerReply};
use crate::port::store::{Divergence, ReplicaInfo};
use crate::record::access::{outgoing, third_hosts};
use crate::record::{Comparison, OutgoingRelationship, Problem, Relationship};
use crate::source::forwarder::{Copying, Forwarder, ForwarderConfig, KeptLogs};
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
    Finding, JobState, Note, Position, ProblemKind, Reading, RelationshipId, ReplicationSettings, Timestamp,
    hint,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// The forwarders of an actor, one for each outgoing relationship. All of it can be lost.
#[derive(Default)]
pub(crate) struct Forwarding {
    under_way: BTreeMap<RelationshipId, UnderWay>,
    /// Counts forwarders, so that reports of an ended one are ignored.
    number: u64,
    /// Ends the pause of forwarders whose last round failed.
    wake: Arc<Notify>,
    kept: Arc<KeptLogs>,
}

/// A forwarder that was started.
struct UnderWay {
    task: JoinHandle<()>,
    config: ForwarderConfig,
    number: u64,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Forwarding {
    /// Forwarders that wait because their last round failed begin the next one.
    pub(crate) fn wake(&self) {
        self.wake.notify_waiters();
    }

    /// Ends a forwarder and waits until it has let go of everything.
    async fn stop(&mut self, id: RelationshipId) {
        if let Some(mut forwarder) = self.under_way.remove(&id) {
            forwarder.task.abort();
            // It ended, or was aborted; both are what was wanted.
            let _ = (&mut forwarder.task).await;
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

/// How an administrator sees the outgoing relationships, by their numbers.
pub(crate) fn views(rel: &Relationship, info: Option<&ReplicaInfo>, now: Reading) -> Vec<ExtendedView> {
    let all = rel.outgoing().iter();
    all.map(|one| view(rel, one, info, now)).collect()
}

fn view(
    rel: &Relationship,
    one: &OutgoingRelationship,
    info: Option<&ReplicaInfo>,
    now: Reading,
) -> ExtendedView {
    let (found, mut notes) = health(&HealthInput {
        mode: Mode::Primary,
        state: one.state,
        problem: one.problem.as_ref().map(Problem::found),
        idle: crate::core::age::idle(&one.recency, one.last_replication, now),
        cycles: one.counters.cycles,
        missed: one.counters.missed,
        latency: None,
        settled: true,
        application_failed: false,
        machine: &one.preflight,
        abandoned: false,
        unauthorized: None,
        findings: &[],
    });
    if rel.failover().is_some() {
        let text = "nothing is sent there while this replica is failed over";
        notes.push(Finding::warning(ProblemKind::ExtendedWaits, text));
    }
    ExtendedView {
        relationship: one.id,
        state: one.state,
        health: found,
        health_notes: notes,
        peer: one.settings.peer.clone(),
        settings: one.settings.clone(),
        position: one.acknowledged,
        newest_instant: one.newest_instant,
        last_replication: one.last_replication,
        lag_ms: crate::core::age::lag(&one.recency, one.newest_instant, now),
        pending_bytes: info.and_then(|info| crate::source::pending::of_outgoing(one, info)),
        problem: one.problem.clone(),
        counters: one.counters.into(),
    }
}

impl OutgoingRelationship {
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
    /// Whether this replica forwards what it gets.
    pub(crate) fn is_extended(&self) -> bool {
        !outgoing(self.rel.as_ref()).is_empty()
    }

    /// Which outgoing relationship a caller means; `None`: the one that gives the VM its role here.
    pub(crate) fn outgoing_meant(&self, of: &RelationshipRef) -> Result<Option<RelationshipId>, Refusal> {
        let all = outgoing(self.rel.as_ref());
        match of {
            RelationshipRef::Usual | RelationshipRef::Id(RelationshipId::OWN) => Ok(None),
            RelationshipRef::Outgoing => match all {
                [] => Err(not_extended()),
                [one] => Ok(Some(one.id)),
                several => Err(one_of(several)),
            },
            RelationshipRef::Id(id) => {
                let found = all.iter().find(|one| one.id == *id);
                found.map(|one| Some(one.id)).ok_or_else(|| no_such(all, of))
            }
            RelationshipRef::Peer(peer) => {
                let found = all.iter().find(|one| one.is_to(peer));
                found.map(|one| Some(one.id)).ok_or_else(|| no_such(all, of))
            }
        }
    }

    /// The same for what only the sending side of a relationship does: on a replica that is an outgoing one.
    pub(crate) fn sender_meant(&self, of: &RelationshipRef) -> Result<Option<RelationshipId>, Refusal> {
        if *of == RelationshipRef::Usual && self.is_extended() {
            return self.outgoing_meant(&RelationshipRef::Outgoing);
        }
        self.outgoing_meant(of)
    }

    /// The outgoing relationship with this number.
    pub(crate) fn outgoing(&self, id: RelationshipId) -> Option<&OutgoingRelationship> {
        outgoing(self.rel.as_ref()).iter().find(|one| one.id == id)
    }

    /// Where a third host stands while a comparison waits for a point past that; of several hosts the furthest.
    pub(crate) fn point_wanted(&self) -> Option<Position> {
        let compared = outgoing(self.rel.as_ref()).iter();
        let wanted = compared.filter_map(|one| one.compare.and(one.acknowledged));
        wanted.reduce(|one, other| {
            if other.at_or_after(one) == Some(true) {
                other
            } else {
                one
            }
        })
    }

    /// What a forwarder would have to do now; `None`: none is needed.
    fn forwarder_config(&self, id: RelationshipId) -> Option<ForwarderConfig> {
        let rel = self.rel.as_ref()?;
        let one = self.outgoing(id)?;
        let flows = rel.mode == Mode::Replica && rel.failover().is_none() && self.opened;
        if !flows || one.state == State::ReadyForReplication {
            return None;
        }
        let copying = one.state == State::WaitingToCompleteInitialReplication;
        Some(ForwarderConfig {
            spec: rel.spec.clone(),
            settings: ReplicationSettings {
                // A third host has the disks that this one has.
                disks: rel.settings.disks.clone(),
                ..one.settings.clone()
            },
            paused: matches!(
                one.state,
                State::Suspended
                    | State::ResynchronizationSuspended
                    // A comparison was cancelled: nothing is to be sent before the next one.
                    | State::WaitingToStartResynchronization
            ),
            compare: one.compare,
            copying: copying.then_some(Copying { job: one.job }),
        })
    }

    /// Refuses what would leave third hosts without the one they follow.
    pub(crate) fn no_extended(&self) -> Result<(), Refusal> {
        match outgoing(self.rel.as_ref()) {
            [] => Ok(()),
            all => Err(Refusal::new(
                ReturnCode::InvalidState,
                format!(
                    "this replica is extended to {}, which gets its data from here",
                    peers(all)
                ),
                hint::Extend::RemoveOrContinue,
            )),
        }
    }

    /// Whether this is a host that this replica is extended to.
    pub(crate) fn is_third(&self, asks: &PeerIdentity) -> bool {
        third_hosts(self.rel.as_ref()).any(|peer| asks.is_host_of(peer))
    }

    /// What becomes of the outgoing relationships when this replica turns into the primary of another host, as a part of
    /// that change.
    pub(crate) fn outgoing_end(&self, change: &mut Change, before: &Relationship, peer: &str) {
        for one in before.outgoing() {
            for job in one
                .job
                .into_iter()
                .chain(one.compare)
                .chain(self.waiting_job(one))
            {
                let why = "the role of this host changed".into();
                change.end_job(&self.host.jobs, Some(job), JobState::Terminated, Some(why));
            }
            let third = &one.settings.peer;
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
    }

    /// How old the instant at a position is: the time since it arrived here, and how old it was then, as far as both are
    /// known.
    fn age_here(&self, aging: &Aging, at: Position, now: Reading) -> Duration {
        let here = aging.of(at).map(|arrived| now.about_since(arrived.at));
        let then = self.rel.as_ref().map_or(0, |r| r.recency.old_ms);
        here.unwrap_or_default() + Duration::from_millis(then)
    }

    async fn outgoing_compared(&mut self, id: RelationshipId, comparison: Comparison, bytes: u64) {
        let begins = self.note_outgoing(id, |one| {
            one.comparison = Some(comparison);
            one.counters.bytes += bytes;
            // During an initial copy the state stays what it is.
            let next = lifecycle::step(Mode::Primary, one.state, Step::StartResync);
            let begins = next.as_ref().is_ok_and(|next| *next != one.state);
            one.state = next.unwrap_or(one.state);
            begins.then(|| one.settings.peer.clone())
        });
        if let Some(peer) = begins.await.flatten() {
            self.event(format!(
                "{peer} is compared with a recovery point; its own recovery points stay"
            ))
            .await;
        }
    }

    /// A round came to its end: the third host has everything there was.
    async fn outgoing_flows(&mut self, id: RelationshipId, at: Position) {
        let Ok(mut change) = self.change() else { return };
        let Some(one) = change.outgoing_mut(id) else {
            return;
        };
        (one.acknowledged, one.problem, one.comparison) = (Some(at), None, None);
        let was = one.state;
        for step in [Step::CopyFinished, Step::ResyncFinished, Step::Cured] {
            one.state = lifecycle::step(Mode::Primary, one.state, step).unwrap_or(one.state);
        }
        let copied = was == State::WaitingToCompleteInitialReplication;
        let compared = one.compare.take();
        let job = one.job.take_if(|_| copied).or(compared);
        let peer = one.settings.peer.clone();
        if let Some(ended) = job.and_then(|j| self.host.jobs.ended(j, JobState::Completed, None)) {
            change.with_job(ended);
            change.tell(if copied {
                format!("{peer} has its first recovery point")
            } else {
                format!("{peer} was compared and is equal")
            });
        }
        if let Err(e) = self.commit(change).await {
            // The next round records it.
            tracing::warn!(vm = %self.id, error = %e.message, "what a third host has is not recorded");
        }
    }

    async fn outgoing_failed(&mut self, id: RelationshipId, e: &CopyError) {
        if let CopyError::Link(LinkError::Refused(
            PeerRefusal::OutOfSequence { .. } | PeerRefusal::Backlog { .. },
        )) = e
        {
            // Not a fault: the next round asks the third host where it stands, or it has applied what it had.
            return;
        }
        let now = self.host.ports.clock.now();
        let Some(one) = self.outgoing(id) else { return };
        let gone = matches!(
            e,
            CopyError::Link(LinkError::Refused(PeerRefusal::NoReplica { .. }))
        );
        let note = Note {
            text: format!("extended replication to {}: {}", one.settings.peer, chain(e)),
            hint: if gone {
                Some(hint::Extend::RemoveAndExtend.into())
            } else {
                e.hint()
            },
        };
        let failed = self.tally(|rel| Some(rel.outgoing_mut(id)?.failed(e, note.clone(), now)));
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

    /// Notes something of an outgoing relationship; `None`: it is not there.
    async fn note_outgoing<R>(
        &mut self,
        id: RelationshipId,
        noted: impl FnOnce(&mut OutgoingRelationship) -> R,
    ) -> Option<R> {
        let noted = self.note(|rel| rel.outgoing_mut(id).map(noted)).await;
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
    /// Lets forwarders that wait for a point to compare look again at once.
    pub(crate) async fn restart(&mut self, core: &Core) {
        let waits = |one: &&OutgoingRelationship| one.compare.is_some() && one.comparison.is_none();
        let waiting = outgoing(core.rel.as_ref()).iter().filter(waits);
        for id in waiting.map(|one| one.id).collect::<Vec<_>>() {
            self.stop(id).await;
        }
    }

    /// Starts forwarders, or ends them, as the record says. Called before any work is planned.
    pub(crate) async fn attend(&mut self, core: &Core) {
        let recorded = outgoing(core.rel.as_ref()).iter().map(|one| one.id);
        let all: BTreeSet<RelationshipId> = recorded.chain(self.under_way.keys().copied()).collect();
        for id in all {
            self.attend_one(core, id).await;
        }
        // Also those that ended with a change of roles: what they needed would keep logs from expiring for ever.
        for id in self.kept.gone(|id| core.outgoing(id).is_some()) {
            self.ended(core, id).await;
        }
    }

    async fn attend_one(&mut self, core: &Core, id: RelationshipId) {
        let wanted = core.forwarder_config(id);
        let same = match (self.under_way.get(&id), &wanted) {
            (None, None) => true,
            (Some(UnderWay { task, config, .. }), Some(wanted)) => {
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
        self.stop(id).await;
        let (Some(config), Some(one), Ok(store)) = (wanted, core.outgoing(id), core.store()) else {
            return;
        };
        let ports = &core.host.ports;
        // Before anything can expire: the list of what is kept does not survive a restart.
        if one.acknowledged.is_some() {
            self.kept
                .keep(Some(&*store.logs), core.id, id, one.acknowledged)
                .await;
        }
        core.host
            .throttle
            .set(core.id, &one.settings.peer, &one.settings.bandwidth);
        self.number += 1;
        let forwarder = Forwarder {
            vm: core.id,
            id,
            config: config.clone(),
            kept: self.kept.clone(),
            store,
            tools: core.host.tools(),
            entropy: ports.entropy.clone(),
            jobs: core.host.jobs.clone(),
            listen: core.host.config.listen.clone(),
            acknowledged: one.acknowledged,
            comparison: one.comparison,
            number: self.number,
            progress: core.own.clone(),
            told: None,
            wake: self.wake.clone(),
        };
        let under_way = UnderWay {
            task: core.host.works.spawn(forwarder.run()),
            config,
            number: self.number,
        };
        self.under_way.insert(id, under_way);
    }

    /// An outgoing relationship is gone: nothing is kept for it.
    pub(crate) async fn ended(&mut self, core: &Core, id: RelationshipId) {
        self.stop(id).await;
        let store = core.store().ok();
        let logs = store.as_ref().map(|store| &*store.logs);
        self.kept.keep(logs, core.id, id, None).await;
    }

    /// What a forwarder reports.
    pub(crate) async fn progressed(
        &mut self,
        core: &mut Core,
        number: u64,
        progress: Progress,
        aging: &Aging,
    ) {
        let mut reports = self.under_way.iter().filter(|(_, one)| one.number == number);
        let Some(id) = reports.next().map(|(id, _)| *id) else {
            return;
        };
        match progress {
            Progress::Arrived { at, instant, bytes } => {
                let now = core.host.ports.clock.reading();
                let age = core.age_here(aging, at, now);
                core.note_outgoing(id, |one| one.arrived(at, instant, bytes, (now, age)))
                    .await;
            }
            Progress::Compared(comparison, bytes) => core.outgoing_compared(id, comparison, bytes).await,
            Progress::Checked(problems) => {
                core.note_outgoing(id, |one| one.preflight = problems).await;
            }
            Progress::Ended(Ok(None)) => {}
            Progress::Ended(Ok(Some(at))) => core.outgoing_flows(id, at).await,
            Progress::Ended(Err(e)) => core.outgoing_failed(id, &e).await,
        }
    }
}

/// Their hosts, as text.
pub(crate) fn peers(all: &[OutgoingRelationship]) -> String {
    let peers: Vec<&str> = all.iter().map(|one| one.settings.peer.as_str()).collect();
    peers.join(", ")
}

/// Of several outgoing relationships one has to be named.
fn one_of(several: &[OutgoingRelationship]) -> Refusal {
    Refusal::new(
        ReturnCode::InvalidParameter,
        format!("this replica is extended to {}", peers(several)),
        hint::Extend::NameOne,
    )
}

fn no_such(all: &[OutgoingRelationship], of: &RelationshipRef) -> Refusal {
    if all.is_empty() {
        return not_extended();
    }
    let of = String::from(of.clone());
    Refusal::new(
        ReturnCode::InvalidParameter,
        format!(
            "there is no relationship {of}; this replica is extended to {}",
            peers(all)
        ),
        hint::Extend::NameOne,
    )
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
