//! What only a primary remembers: what is sent, what is made equal, a planned failover, and a replica that went on without it.

use super::{NOWHERE, Sealing};
use lifeboat_model::{JobId, Position, Reading, Timestamp};
use serde::{Deserialize, Serialize};

/// The captures that were begun while changes were recorded since one position. They have all numbers from the first one up
/// to the last that the relationship used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Changes are recorded since this position.
    pub since: Position,
    /// Position of the first capture.
    pub first: Position,
}

impl Sent {
    /// These captures and one more, whose changes are recorded since `since`.
    #[must_use]
    pub fn and(before: Option<Self>, since: Position, next: Position) -> Self {
        before
            .filter(|s| s.since == since)
            .unwrap_or(Self { since, first: next })
    }

    /// Whether a replica may stand at `position` because one of these captures arrived there. `last` is the last number
    /// that was used.
    #[must_use]
    pub fn holds(&self, position: Position, last: Position) -> bool {
        position.at_or_after(self.first) == Some(true) && last.at_or_after(position) == Some(true)
    }
}

/// What only a primary has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PrimarySide {
    /// Last position the replica has confirmed as durable.
    pub acknowledged: Position,
    /// Captures whose logs may reach the replica at any time, although no work here waits for them any more.
    pub sent: Option<Sent>,
    /// The powered-off VM was captured after it stopped and has not been started since: nothing can have changed.
    pub settled: bool,
    /// A synchronization that is to be carried out or goes on.
    pub sync: Option<Synchronization>,
    /// A planned failover that was asked for and is neither over nor cancelled.
    pub planned: Option<Planned>,
    /// The replica went on without this side.
    pub split: Option<Split>,
    /// When a person wants the initial copy or the resynchronization to begin; `None` when nothing waits.
    pub scheduled: Option<Timestamp>,
    /// How a scheduled initial copy gets to the replica.
    pub how: Transfer,
    /// Last instant on the replica that was to be application-consistent, whether it came out so or not.
    pub application: Option<Timestamp>,
    /// The clocks of this host when that one was delivered: what the time until the next is measured by.
    pub application_at: Option<Reading>,
    /// That one came out crash-consistent.
    pub application_failed: bool,
    /// Start the VM as soon as it may be.
    pub start: bool,
    /// Directory that the initial copy is exported to; `None`: it goes over the network.
    pub export: Option<String>,
    /// What that is sealed with, until it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealing: Option<Box<Sealing>>,
}

/// At no position, with nothing under way.
impl Default for PrimarySide {
    fn default() -> Self {
        Self {
            acknowledged: NOWHERE,
            sent: None,
            settled: false,
            sync: None,
            planned: None,
            split: None,
            scheduled: None,
            how: Transfer::Network,
            application: None,
            application_at: None,
            application_failed: false,
            start: false,
            export: None,
            sealing: None,
        }
    }
}

impl PrimarySide {
    /// A primary at this position, with nothing under way.
    #[must_use]
    pub fn new(acknowledged: Position) -> Self {
        Self {
            acknowledged,
            ..Self::default()
        }
    }
}

/// How a scheduled initial copy gets to the replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "lowercase")]
pub enum Transfer {
    /// Over the network.
    #[default]
    Network,
    /// To a directory, whose content an administrator carries to the replica and imports there.
    Export {
        /// Absolute path.
        dir: String,
    },
    /// From a copy that is on the replica's host already.
    Seed,
}

/// Making a replica equal by sending what differs, closed by an ordinary cycle. Recovery points are not touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Synchronization {
    /// Changes are recorded since this position; it names no instant, only the record.
    pub start: Position,
    /// Why the copies are made equal, and so what is known of their difference.
    pub kind: SyncKind,
    /// What lies before it is on the replica: disk number and offset.
    pub cursor: (u16, u64),
    /// Dirty bitmaps since `start` exist on all disks.
    pub tracking: bool,
    /// Bytes that were sent.
    pub sent: u64,
    /// The job of it.
    pub job: Option<JobId>,
}

/// Why two copies are made equal, which says what is known of their difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncKind {
    /// Change tracking was lost, or an administrator wants certainty.
    Resync,
    /// The replica has some old copy.
    Seed,
    /// The replica is the old primary.
    Reverse,
}

/// A planned failover, on the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// How far it is.
    pub phase: PlannedPhase,
    /// Turn the VM off when it does not shut down.
    pub force: bool,
    /// Hand over to the replica when prepared; otherwise the primary stays prepared until an administrator goes on.
    pub hand_over: bool,
    /// Start the VM on the replica.
    pub start: bool,
    /// The job of it.
    pub job: JobId,
}

/// Steps of a planned failover; each is recorded before its work begins and the work of each can be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlannedPhase {
    /// The guest is being shut down.
    Stopping,
    /// The last changes are being sent.
    Closing,
    /// Everything is on the replica; the VM is locked off (state 4).
    Prepared,
    /// The replica was told to take over.
    HandingOver,
}

/// Two copies that both may have gone on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Since when this side knows.
    pub since: Timestamp,
    /// What the other side said of itself.
    pub theirs: String,
    /// The other side has committed: this copy is the past.
    pub committed: bool,
}
