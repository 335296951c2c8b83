//! What each side of a relationship has seen of the other, and what its silence means. A state that was true once is shown
//! with when it was confirmed last; a replica whose primary says nothing, a primary whose replica does not acknowledge, and a
//! disk that does not answer are findings on the side that notices.
//!
//! All ages are of the monotonic clock and begin with the daemon: after a restart no host was heard yet.

use crate::contract::{ContactView, Refusal};
use crate::core::Core;
use crate::host::presence::{KeepAlive, Line};
use crate::port::link::{PeerIdentity, PeerRefusal, PeerReply, PrimaryReport};
use crate::port::store::{BulkProgress, ReplicaInfo, StorageDelay, StoreError};
use crate::record::{PrimarySide, Relationship, Side};
use crate::work::message::Message;
use crate::work::piece::IDLE;
use crate::work::span::span;
use lifeboat_model::ReplicationHealth as Health;
use lifeboat_model::ReplicationMode as Mode;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::policy::{Patience, STORAGE_PATIENCE, keep_alive, patience};
use lifeboat_model::{Finding, ProblemKind, hint};
use std::time::Duration;
use tokio::time::Instant;
use tracing::info;

/// How long a caller waits for the replica's files.
const FILES: Duration = Duration::from_secs(2);

/// After this long without progress of an operation of the disk, nothing else is begun there.
const HANGS: Duration = Duration::from_secs(5);

/// A transfer that moved this recently is under way.
const MOVES: Duration = Duration::from_secs(10);

/// What is remembered of the other side. All of it can be lost.
pub(crate) struct Contact {
    started: Instant,
    /// Its last call about this VM.
    pub(crate) heard: Option<Instant>,
    /// When something became durable on the replica, or began to be expected there.
    moved: Instant,
    /// Something is expected to become durable.
    expected: bool,
    /// What a primary said of itself last.
    report: PrimaryReport,
    /// What was told of it as an event last.
    told: Option<Health>,
}

impl Default for Contact {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            heard: None,
            moved: now,
            expected: false,
            report: PrimaryReport::Unspecified,
            told: None,
        }
    }
}

/// A disk that does not answer, in words.
fn unanswered(delay: &StorageDelay) -> String {
    format!(
        "the storage at {} has not answered for {}",
        delay.path,
        span(delay.since.elapsed())
    )
}

/// Whether the replica of such a relationship is to take in what comes.
fn receives(state: State) -> bool {
    matches!(
        state,
        State::Replicating
            | State::Critical
            | State::Resynchronizing
            | State::WaitingToCompleteInitialReplication
    )
}

/// What a primary says of itself while it sends nothing; `None` when it does not call at all.
fn report(state: State, side: &PrimarySide) -> Option<PrimaryReport> {
    match state {
        State::Replicating | State::Critical if side.settled => Some(PrimaryReport::UpToDate),
        State::SyncedReplicationComplete => Some(PrimaryReport::UpToDate),
        State::Replicating | State::Critical | State::Resynchronizing => Some(PrimaryReport::Working),
        State::WaitingToCompleteInitialReplication if side.export.is_none() => Some(PrimaryReport::Working),
        State::Suspended | State::WaitingToStartResynchronization | State::ResynchronizationSuspended => {
            Some(PrimaryReport::Held)
        }
        _ => None,
    }
}

impl Core {
    /// What this primary says of itself while nothing else passes between the two, to whom and how often.
    pub(crate) fn keeps_alive(&self) -> Option<KeepAlive> {
        let rel = self.rel.as_ref()?;
        Some(KeepAlive {
            peer: rel.peer.clone(),
            every: keep_alive(rel.settings.interval()),
            report: report(rel.state, rel.primary()?)?,
        })
    }

    /// What the link knows of the other side of this VM.
    pub(crate) fn line(&self, rel: &Relationship) -> Line {
        let peer = rel.other_end().map(String::as_str).unwrap_or_default();
        self.host.presence.line(self.id, peer)
    }

    /// An operation of the replica's disk that has begun and does not end.
    pub(crate) fn storage_finding(&self) -> Option<Finding> {
        let delay = self.images().ok()?.storage_delay(self.id)?;
        let found = STORAGE_PATIENCE.finding(delay.since.elapsed(), ProblemKind::StorageSilent, || {
            unanswered(&delay)
        });
        found.map(|f| f.about(delay.path.as_str()))
    }

    /// Why nothing can be begun on the replica's files now.
    pub(crate) fn hangs(&self) -> Option<String> {
        let delay = self.images().ok()?.storage_delay(self.id)?;
        (delay.since.elapsed() >= HANGS).then(|| unanswered(&delay))
    }

    /// What the store says of the replica, unless its disk does not answer.
    pub(crate) async fn stored_info(&self) -> Result<ReplicaInfo, StoreError> {
        let late = |what: String| StoreError::Io {
            what,
            source: std::io::ErrorKind::TimedOut.into(),
        };
        if let Some(why) = self.hangs() {
            return Err(late(why));
        }
        let info = tokio::time::timeout(FILES, self.store_info()).await;
        info.unwrap_or_else(|_| Err(late("the replica's storage does not answer".to_owned())))
    }

    /// What must wait for work on a disk that does not answer is refused instead. What does not wait comes back.
    pub(crate) fn refuse_hanging(&self, message: Message) -> Option<Message> {
        let Some(why) = self.hangs() else {
            return Some(message);
        };
        match message {
            Message::Act(_, _, reply) => {
                let hint = hint::Look::Disk;
                let refusal = Refusal::new(ReturnCode::Unavailable, why, hint);
                // Who asked may have gone.
                let _ = reply.send(Err(refusal));
                None
            }
            Message::Peer(_, _, reply) => {
                let host = self.host.config.name.clone();
                let _ = reply.send(PeerReply::Refused(PeerRefusal::Failed { host, detail: why }));
                None
            }
            other => Some(other),
        }
    }
}

impl Contact {
    /// A piece of the initial copy arrived.
    pub(crate) async fn bulk_done(&mut self, core: &mut Core, _progress: &BulkProgress) {
        core.no_import().await;
        self.moved();
        let now = core.host.ports.clock.reading();
        core.tally(|rel| {
            (rel.last_replication, rel.recency.any) = (Some(now.wall), Some(now));
            rel.problem = None;
        });
    }

    /// Something became durable on the replica.
    pub(crate) fn moved(&mut self) {
        self.moved = Instant::now();
        self.report = PrimaryReport::Working;
    }

    /// A primary says how it is. One that does so is missed when it stops.
    pub(crate) async fn reported(&mut self, core: &mut Core, report: PrimaryReport) {
        if report == PrimaryReport::Unspecified {
            return;
        }
        self.report = report;
        core.note(|rel| rel.replica_mut().map(|side| side.reports = true))
            .await;
    }

    /// Where this replica stands, for a primary that says how it is.
    pub(crate) async fn status_for(
        &mut self,
        core: &mut Core,
        peer: &PeerIdentity,
        report: PrimaryReport,
    ) -> Result<PeerReply, PeerRefusal> {
        core.may_receive(peer)?;
        self.reported(core, report).await;
        core.replica_status().await
    }

    /// When the other side was last heard in any way since this daemon began.
    fn heard(&self, core: &Core, rel: &Relationship) -> Option<Instant> {
        self.heard.max(core.line(rel).answered)
    }

    /// Notes when something begins to be expected; its time counts from then on.
    pub(crate) fn expect(&mut self, core: &Core) {
        let expected = core.rel.as_ref().is_some_and(|rel| match &rel.side {
            Side::Primary(side) => matches!(rel.state, State::Replicating | State::Critical) && !side.settled,
            Side::Replica(_) => {
                let sends = matches!(self.report, PrimaryReport::Working | PrimaryReport::Unspecified);
                receives(rel.state) && sends
            }
            Side::Test { .. } | Side::Alone => false,
        });
        if expected && !self.expected {
            self.moved = Instant::now();
        }
        self.expected = expected;
    }

    /// What the silence of the other side, or of this host's storage, means now.
    /// `waits`: the next cycle waits for others who use the disks, so that nothing is expected to arrive.
    pub(crate) fn silence_findings(&self, core: &Core, rel: &Relationship, waits: bool) -> Vec<Finding> {
        let mut found = Vec::new();
        match &rel.side {
            Side::Primary(side) => self.primary_silence(core, rel, (side, waits), &mut found),
            Side::Replica(side) if receives(rel.state) && !side.awaits_import => {
                self.replica_silence(core, rel, side.reports, &mut found);
            }
            Side::Replica(_) | Side::Test { .. } | Side::Alone => {}
        }
        found.extend(core.storage_finding());
        found
    }

    fn unheard(&self, core: &Core, rel: &Relationship, patience: Patience) -> Option<Finding> {
        let heard = self.heard(core, rel);
        let silent = heard.unwrap_or(self.started).elapsed();
        patience.finding(silent, ProblemKind::PeerSilent, || match heard {
            Some(_) => format!(
                "nothing was heard from {} for {}: what is shown here was true then",
                rel.peer,
                span(silent)
            ),
            None => format!(
                "nothing was heard from {} since this daemon started {} ago: what is shown here is from before",
                rel.peer,
                span(silent)
            ),
        })
    }

    fn primary_silence(
        &self,
        core: &Core,
        rel: &Relationship,
        (side, waits): (&PrimarySide, bool),
        found: &mut Vec<Finding>,
    ) {
        let Some(said) = report(rel.state, side) else {
            return;
        };
        found.extend(self.unheard(core, rel, patience(keep_alive(rel.settings.interval()))));
        let line = core.line(rel);
        if matches!(rel.state, State::Replicating | State::Critical) && said == PrimaryReport::Working {
            found.extend(self.unacknowledged(rel, &line, waits));
        }
        // A cycle that is refused says so by itself; a VM that is off has none.
        if let Some(refusal) = line
            .refusal
            .filter(|_| said != PrimaryReport::Working && rel.problem.is_none())
        {
            let gone = matches!(
                refusal,
                PeerRefusal::NoReplica { .. } | PeerRefusal::NewerGeneration { .. }
            );
            let health = if gone { Health::Critical } else { Health::Warning };
            found.push(Finding::new(health, refusal.problem(), refusal.note()));
        }
    }

    /// A cycle that is due and is not on the replica's disk, with what it waits for.
    fn unacknowledged(&self, rel: &Relationship, line: &Line, waits: bool) -> Option<Finding> {
        if !self.expected || waits {
            return None;
        }
        let waited = self.moved.elapsed();
        let limits = patience(rel.settings.interval());
        let peer = &rel.peer;
        let since = span(waited);
        match line.transfer {
            Some(t) if t.ended.is_some() => {
                let sent = span(t.ended.map(|at| at.elapsed()).unwrap_or_default());
                limits.finding(waited, ProblemKind::NothingAcknowledged, || {
                    format!("the last changes were sent to {peer} {sent} ago, and it has not said that they are on its disk")
                })
            }
            Some(t) if t.moved.elapsed() < MOVES => {
                let text = || {
                    format!(
                        "nothing newer than {since} is acknowledged: the cycle under way has sent {} bytes and is not complete",
                        t.bytes
                    )
                };
                // Data moves: late, but not in doubt.
                let found = limits.finding(waited, ProblemKind::NothingAcknowledged, text);
                found.map(|f| f.only(Health::Warning))
            }
            Some(t) => limits.finding(waited, ProblemKind::NothingAcknowledged, || {
                format!(
                    "{peer} has taken nothing of the cycle under way for {}",
                    span(t.moved.elapsed())
                )
            }),
            None => limits.finding(waited, ProblemKind::NothingAcknowledged, || {
                format!("{peer} has acknowledged nothing for {since}")
            }),
        }
    }

    fn replica_silence(&self, core: &Core, rel: &Relationship, reports: bool, found: &mut Vec<Finding>) {
        let interval = rel.settings.interval();
        if !reports {
            // A primary of an older version says nothing while its VM is off; that it was never heard is all that is known.
            let unverified = self.unheard(core, rel, patience(interval));
            found.extend(
                unverified
                    .filter(|_| self.heard(core, rel).is_none())
                    .map(|f| f.only(Health::Warning)),
            );
            return;
        }
        if let Some(silent) = self.unheard(core, rel, patience(keep_alive(interval))) {
            found.push(silent);
            return;
        }
        if rel.mode == Mode::ExtendedReplica {
            // The host between knows whether there is anything to send, and shows it.
            return;
        }
        let waited = self.moved.elapsed();
        let peer = &rel.peer;
        match self.report {
            PrimaryReport::UpToDate => {}
            PrimaryReport::Held => {
                let text = format!(
                    "replication is held on the primary ({peer}): nothing arrives here until it is resumed there"
                );
                found.push(Finding::warning(ProblemKind::HeldOnPrimary, text));
            }
            PrimaryReport::Working | PrimaryReport::Unspecified => {
                found.extend(
                    patience(interval).finding(waited, ProblemKind::NothingArrives, || {
                        format!("{peer} answers, but no change has arrived for {}", span(waited))
                    }),
                );
            }
        }
    }

    /// When the next change of what silence means can be.
    pub(crate) fn silence_due(&self, core: &Core) -> Instant {
        let Some(rel) = core.rel.as_ref() else {
            return Instant::now() + IDLE;
        };
        let interval = rel.settings.interval();
        let heard = self.heard(core, rel).unwrap_or(self.started);
        let each = [
            (heard, patience(keep_alive(interval))),
            (self.moved, patience(interval)),
        ];
        let due = each
            .into_iter()
            .flat_map(|(from, p)| [from + p.warning, from + p.critical]);
        let now = Instant::now();
        // A disk that hangs says nothing by itself.
        let disk = core.images().ok().and_then(|i| i.storage_delay(core.id));
        let disk = disk.map(|_| now + HANGS);
        let next = due.filter(|at| *at > now).chain(disk).min();
        next.unwrap_or(now + IDLE).max(now + Duration::from_secs(1))
    }

    /// Tells by events when the other side falls silent and when it is heard again.
    pub(crate) async fn watch_silence(&mut self, core: &Core, waits: bool) {
        self.expect(core);
        let Some(rel) = core.rel.as_ref() else { return };
        let found = self.silence_findings(core, rel, waits);
        let worst = found.iter().max_by_key(|f| f.health);
        let level = worst.map(|f| f.health);
        if level == self.told {
            return;
        }
        let worse = level > self.told;
        let text = match worst {
            Some(f) if worse => f.text.clone(),
            Some(_) => {
                self.told = level;
                return;
            }
            None => format!("{} is heard, and data flows again", rel.peer),
        };
        self.told = level;
        info!(vm = %core.id, text, "silence");
        core.event(&text).await;
    }

    /// What people see of it.
    pub(crate) fn contact_view(&self, core: &Core, rel: &Relationship) -> Option<ContactView> {
        if matches!(rel.side, Side::Test { .. } | Side::Alone) {
            return None;
        }
        let now = core.host.ports.clock.now();
        let heard = self.heard(core, rel);
        let silent = heard.unwrap_or(self.started).elapsed();
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Some(ContactView {
            heard: heard.map(|at| lifeboat_model::Timestamp(now.0.saturating_sub(millis(at.elapsed())))),
            silent_ms: millis(silent),
        })
    }
}
