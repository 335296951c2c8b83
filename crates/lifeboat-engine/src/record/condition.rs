//! What is remembered of how a relationship does: what was counted of it. What is wrong with it is a
//! [`Problem`](crate::problem::Problem).

use lifeboat_model::Timestamp;
use serde::{Deserialize, Serialize};

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
