//! How a relationship does: what is wrong with it, and what was counted of it.

use lifeboat_model::Timestamp;
use serde::{Deserialize, Serialize};

/// Something that is wrong and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Since when.
    pub since: Timestamp,
    /// What is wrong and the way out, in words.
    pub message: String,
    /// Attempts that failed so far.
    pub attempts: u32,
}

impl Problem {
    /// A problem beside the one that was known: the same counts up, another one takes its place and keeps its beginning. True:
    /// it was not known.
    pub(crate) fn again(known: Option<Self>, message: &str, now: Timestamp) -> (Self, bool) {
        let new = known.as_ref().is_none_or(|p| p.message != message);
        let again = Self {
            since: known.as_ref().map_or(now, |p| p.since),
            message: message.to_owned(),
            attempts: known.map_or(1, |p| p.attempts.saturating_add(1)),
        };
        (again, new)
    }
}

/// Counters of one relationship in the current monitoring window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// When the window began; `None` in records of old.
    pub since: Option<Timestamp>,
    /// Sum of all latencies in milliseconds (`ReplicationLatency` is a total).
    pub total_latency_ms: u64,
    /// Failures that were the network's.
    pub network_failures: u64,
    /// Application-consistent instants that came out crash-consistent.
    pub application_failures: u64,
    /// Cycles completed.
    pub cycles: u64,
    /// Cycles that failed.
    pub failures: u64,
    /// Cycles that did not take place because the one before them ended too late.
    pub missed: u64,
    /// Bytes of delta logs sent or received.
    pub bytes: u64,
    /// Bytes of the largest delta.
    pub largest: u64,
    /// Milliseconds from instant to durable on the replica, of the last cycle.
    pub last_latency_ms: u64,
    /// The largest of those.
    pub max_latency_ms: u64,
}
