//! How a relationship does: what was counted of it, what waits, when the other side was heard, and why its points are kept.

use lifeboat_model::{Changed, Timestamp};
use serde::{Deserialize, Serialize};

/// Counters of one relationship in the current monitoring window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountersView {
    /// When the window began; `None` when that was not recorded.
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

/// What a view of the other side rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactView {
    /// When the other side was last heard: a call of it, or an answer. `None`: not since this daemon started.
    pub heard: Option<Timestamp>,
    /// Milliseconds since then, or since this daemon started, by the monotonic clock.
    pub silent_ms: u64,
}

/// Logs that wait on a replica to be applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BacklogView {
    /// How many.
    pub logs: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Milliseconds that the oldest has waited; `None` on the primary, which does not know.
    pub age_ms: Option<u64>,
}

/// Why no recovery point expires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldView {
    /// Since when.
    pub since: Timestamp,
    /// The reasons, each kind once.
    pub reasons: Vec<HoldReason>,
}

/// Why nothing expires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum HoldReason {
    /// An administrator asked for it.
    Asked,
    /// The primary asks for less history than before.
    LessHistory {
        /// What was agreed.
        before: HistoryView,
        /// What it asks for.
        now: HistoryView,
    },
    /// Changes that cannot be compressed, and far more than usual.
    Burst {
        /// Bytes of them within an hour.
        random: u64,
        /// Bytes of them in the worst hour before.
        usual: u64,
    },
}

/// How much history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryView {
    /// Points beside the newest.
    pub points: u16,
    /// Seconds between two points.
    pub spacing_s: u32,
    /// Seconds for which every instant is kept.
    pub window_s: u32,
}

/// How much changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesView {
    /// Within the hour that goes on.
    pub hour: Changed,
    /// Bytes that could not be compressed in the worst hour before, which is forgotten within days.
    pub usual: u64,
}
