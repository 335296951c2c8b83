//! What each side of a relationship has seen of the other, and what its silence means. A state that was true once is shown
//! with when it was confirmed last; a replica whose primary says nothing, a primary whose replica does not acknowledge, and a
//! disk that does not answer are findings on the side that notices.
//!
//! All ages are of the monotonic clock and begin with the daemon: after a restart nobody was heard yet.

use std::time::Duration;

use lifeboat_model::api::ReturnCode;
use lifeboat_model::policy::{Finding, Patience, STORAGE_PATIENCE, keep_alive, patience};
use lifeboat_model::{ReplicationHealth as Health, ReplicationMode as Mode, ReplicationState as State};
use tokio::time::Instant;
use tracing::info;

use crate::action::{BacklogView, ContactView, Refusal};
use crate::actor::{Actor, Message};
use crate::ports::link::{PeerIdentity, PeerRefusal, PeerReply, PrimaryReport};
use crate::ports::store::{ReplicaInfo, StorageDelay, StoreError};
use crate::presence::{KeepAlive, Line};
use crate::primary::IDLE;
use crate::records::{PrimarySide, Relationship, Side};

/// How long somebody who asks waits for the replica's files.
const FILES: Duration = Duration::from_secs(2);

/// After this long without progress of an operation of the disk, nothing else is begun there.
const HANGS: Duration = Duration::from_secs(5);

/// A transfer that moved this recently is under way.
const MOVES: Duration = Duration::from_secs(10);

/// What is remembered of the other side. All of it can be lost.
pub(crate) struct Contact {
    started: Instant,
    /// Its last call about this VM.
    heard: Option<Instant>,
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

/// A time span for people, coarse enough not to change with every look.
pub(crate) fn span(d: Duration) -> String {
    match d.as_secs() {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min", s / 60),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
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

impl Actor {
    /// A call came about this VM. One of the other side, whatever it asks, is a sign of life.
    pub(crate) fn heard_from(&mut self, peer: &PeerIdentity) {
        if self.is_peer(peer).is_ok() {
            self.contact.heard = Some(Instant::now());
            self.hurry();
        }
    }

    /// Something became durable on the replica.
    pub(crate) fn moved(&mut self) {
        self.contact.moved = Instant::now();
        self.contact.report = PrimaryReport::Working;
    }

    /// A primary says how it is. One that does so is missed when it stops.
    pub(crate) async fn reported(&mut self, report: PrimaryReport) {
        if report == PrimaryReport::Unspecified {
            return;
        }
        self.contact.report = report;
        self.note(|rel| rel.replica_mut().map(|side| side.reports = true))
            .await;
    }

    /// Where this replica stands, for a primary that says how it is.
    pub(crate) async fn status_for(
        &mut self,
        peer: &PeerIdentity,
        report: PrimaryReport,
    ) -> Result<PeerReply, PeerRefusal> {
        self.may_receive(peer)?;
        self.reported(report).await;
        self.replica_status().await
    }

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
    fn line(&self, rel: &Relationship) -> Line {
        let peer = rel.other_end().map(String::as_str).unwrap_or_default();
        self.host.presence.line(self.id, peer)
    }

    /// When the other side was last heard in any way since this daemon began.
    fn heard(&self, rel: &Relationship) -> Option<Instant> {
        self.contact.heard.max(self.line(rel).answered)
    }

    /// Notes when something begins to be expected; its time counts from then on.
    pub(crate) fn expect(&mut self) {
        let expected = self.rel.as_ref().is_some_and(|rel| match &rel.side {
            Side::Primary(side) => matches!(rel.state, State::Replicating | State::Critical) && !side.settled,
            Side::Replica(_) => {
                let sends = matches!(
                    self.contact.report,
                    PrimaryReport::Working | PrimaryReport::Unspecified
                );
                receives(rel.state) && sends
            }
            Side::Test { .. } | Side::Alone => false,
        });
        if expected && !self.contact.expected {
            self.contact.moved = Instant::now();
        }
        self.contact.expected = expected;
    }

    /// What the silence of the other side, or of this host's storage, means now.
    pub(crate) fn silence_findings(&self, rel: &Relationship) -> Vec<Finding> {
        let mut found = Vec::new();
        match &rel.side {
            Side::Primary(side) => self.primary_silence(rel, side, &mut found),
            Side::Replica(side) if receives(rel.state) && !side.awaits_import => {
                self.replica_silence(rel, side.reports, &mut found);
            }
            Side::Replica(_) | Side::Test { .. } | Side::Alone => {}
        }
        found.extend(self.storage_finding());
        found
    }

    fn unheard(&self, rel: &Relationship, patience: Patience) -> Option<Finding> {
        let heard = self.heard(rel);
        let silent = heard.unwrap_or(self.contact.started).elapsed();
        patience.finding(silent, || match heard {
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

    fn primary_silence(&self, rel: &Relationship, side: &PrimarySide, found: &mut Vec<Finding>) {
        let Some(said) = report(rel.state, side) else {
            return;
        };
        found.extend(self.unheard(rel, patience(keep_alive(rel.settings.interval()))));
        let line = self.line(rel);
        if matches!(rel.state, State::Replicating | State::Critical) && said == PrimaryReport::Working {
            found.extend(self.unacknowledged(rel, &line));
        }
        // A cycle that is refused says so by itself; a VM that is off has none.
        if let Some(refusal) = line
            .refusal
            .filter(|_| said != PrimaryReport::Working && rel.problem.is_none())
        {
            found.push(match refusal {
                PeerRefusal::NoReplica { .. } | PeerRefusal::NewerGeneration { .. } => {
                    Finding::critical(refusal.to_string())
                }
                other => Finding::warning(other.to_string()),
            });
        }
    }

    /// A cycle that is due and is not on the replica's disk, with what it waits for.
    fn unacknowledged(&self, rel: &Relationship, line: &Line) -> Option<Finding> {
        if !self.contact.expected || self.waits_for_others() {
            return None;
        }
        let waited = self.contact.moved.elapsed();
        let limits = patience(rel.settings.interval());
        let peer = &rel.peer;
        let since = span(waited);
        match line.transfer {
            Some(t) if t.ended.is_some() => {
                let sent = span(t.ended.map(|at| at.elapsed()).unwrap_or_default());
                limits.finding(waited, || {
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
                limits.finding(waited, text).map(|f| Finding::warning(f.text))
            }
            Some(t) => limits.finding(waited, || {
                format!(
                    "{peer} has taken nothing of the cycle under way for {}",
                    span(t.moved.elapsed())
                )
            }),
            None => limits.finding(waited, || format!("{peer} has acknowledged nothing for {since}")),
        }
    }

    fn replica_silence(&self, rel: &Relationship, reports: bool, found: &mut Vec<Finding>) {
        let interval = rel.settings.interval();
        if !reports {
            // A primary of an older version says nothing while its VM is off; that it was never heard is all that is known.
            let unverified = self.unheard(rel, patience(interval));
            found.extend(
                unverified
                    .filter(|_| self.heard(rel).is_none())
                    .map(|f| Finding::warning(f.text)),
            );
            return;
        }
        if let Some(silent) = self.unheard(rel, patience(keep_alive(interval))) {
            found.push(silent);
            return;
        }
        if rel.mode == Mode::ExtendedReplica {
            // The host between knows whether there is anything to send, and shows it.
            return;
        }
        let waited = self.contact.moved.elapsed();
        let peer = &rel.peer;
        match self.contact.report {
            PrimaryReport::UpToDate => {}
            PrimaryReport::Held => found.push(Finding::warning(format!(
                "replication is held on the primary ({peer}): nothing arrives here until it is resumed there"
            ))),
            PrimaryReport::Working | PrimaryReport::Unspecified => {
                found.extend(patience(interval).finding(waited, || {
                    format!("{peer} answers, but no change has arrived for {}", span(waited))
                }));
            }
        }
    }

    /// An operation of the replica's disk that has begun and does not end.
    pub(crate) fn storage_finding(&self) -> Option<Finding> {
        let delay = self.host.ports.store.storage_delay(self.id)?;
        STORAGE_PATIENCE.finding(delay.since.elapsed(), || unanswered(&delay))
    }

    /// Why nothing can be begun on the replica's files now.
    pub(crate) fn hangs(&self) -> Option<String> {
        let delay = self.host.ports.store.storage_delay(self.id)?;
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
        let store = &self.host.ports.store;
        let info = tokio::time::timeout(FILES, store.info(self.id)).await;
        info.unwrap_or_else(|_| Err(late("the replica's storage does not answer".to_owned())))
    }

    /// What must wait for work on a disk that does not answer is refused instead. What does not wait comes back.
    pub(crate) fn refuse_hanging(&self, message: Message) -> Option<Message> {
        let Some(why) = self.hangs() else {
            return Some(message);
        };
        match message {
            Message::Act(_, _, reply) => {
                let hint = "see the disk of that path; what was asked can be repeated once it answers";
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

    /// When the next change of what silence means can be.
    pub(crate) fn silence_due(&self) -> Instant {
        let Some(rel) = self.rel.as_ref() else {
            return Instant::now() + IDLE;
        };
        let interval = rel.settings.interval();
        let heard = self.heard(rel).unwrap_or(self.contact.started);
        let each = [
            (heard, patience(keep_alive(interval))),
            (self.contact.moved, patience(interval)),
        ];
        let due = each
            .into_iter()
            .flat_map(|(from, p)| [from + p.warning, from + p.critical]);
        let now = Instant::now();
        // A disk that hangs says nothing by itself.
        let disk = self.host.ports.store.storage_delay(self.id);
        let disk = disk.map(|_| now + HANGS);
        let next = due.filter(|at| *at > now).chain(disk).min();
        next.unwrap_or(now + IDLE).max(now + Duration::from_secs(1))
    }

    /// Tells by events when the other side falls silent and when it is heard again.
    pub(crate) async fn watch_silence(&mut self) {
        self.expect();
        let Some(rel) = self.rel.as_ref() else { return };
        let found = self.silence_findings(rel);
        let worst = found.iter().max_by_key(|f| f.health);
        let level = worst.map(|f| f.health);
        if level == self.contact.told {
            return;
        }
        let worse = level > self.contact.told;
        let text = match worst {
            Some(f) if worse => f.text.clone(),
            Some(_) => {
                self.contact.told = level;
                return;
            }
            None => format!("{} is heard, and data flows again", rel.peer),
        };
        self.contact.told = level;
        info!(vm = %self.id, text, "silence");
        self.event(&text).await;
    }

    /// What people see of it.
    pub(crate) fn contact_view(&self, rel: &Relationship) -> Option<ContactView> {
        if matches!(rel.side, Side::Test { .. } | Side::Alone) {
            return None;
        }
        let now = self.host.ports.clock.now();
        let heard = self.heard(rel);
        let silent = heard.unwrap_or(self.contact.started).elapsed();
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Some(ContactView {
            heard: heard.map(|at| lifeboat_model::Timestamp(now.0.saturating_sub(millis(at.elapsed())))),
            silent_ms: millis(silent),
        })
    }

    /// What waits on the replica, as far as this side knows.
    pub(crate) fn backlog_view(&self, rel: &Relationship) -> Option<BacklogView> {
        let (waiting, age) = if rel.primary().is_some() {
            let held = self.primary.held_back.as_ref().map(|h| h.waiting);
            (held.or(self.line(rel).waiting)?, None)
        } else {
            let since = self.replica.queue.since().map(|at| at.elapsed());
            (self.replica.queue.waiting(), since)
        };
        (waiting.logs > 0).then(|| BacklogView {
            logs: waiting.logs,
            bytes: waiting.bytes,
            age_ms: age.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        })
    }
}
