//! What methods report: statistics, and errors in words.

use lifeboat_cim::Instance;
use lifeboat_engine::action::CountersView;
use lifeboat_model::{ReplicationHealth, Timestamp};

use crate::cim::times::instant;

/// A count in the API's 32 bits.
fn count(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Milliseconds as whole seconds, rounded.
fn seconds(ms: u64) -> u32 {
    count(ms.saturating_add(500) / 1000)
}

/// `Msvm_ReplicationStatistics` of the window that is open: it ends `now`. `pending`: bytes
/// that wait to be sent, null when not known.
pub(crate) fn statistics(
    counters: &CountersView,
    pending: Option<u64>,
    health: ReplicationHealth,
    now: Timestamp,
    last_test: Option<Timestamp>,
) -> Instance {
    Instance::new("Msvm_ReplicationStatistics")
        .with_some("StartStatisticTime", counters.since.map(instant))
        .with("EndStatisticTime", instant(now))
        .with("ReplicationSuccessCount", count(counters.cycles))
        .with("ReplicationSize", counters.bytes)
        .with("MaxReplicationSize", counters.largest)
        .with_some("PendingReplicationSize", pending)
        .with("ReplicationLatency", seconds(counters.total_latency_ms))
        .with("MaxReplicationLatency", seconds(counters.max_latency_ms))
        .with("ReplicationMissCount", count(counters.missed))
        .with("ReplicationFailureCount", count(counters.failures))
        .with("NetworkFailureCount", count(counters.network_failures))
        .with(
            "ApplicationConsistentSnapshotFailureCount",
            count(counters.application_failures),
        )
        .with("ReplicationHealth", u32::from(health.number()))
        .with_some("LastTestFailoverTime", last_test.map(instant))
}

/// `Msvm_Error` with these words. `status` is a code of CIM (DSP0200), `severity` 2 low to 5 fatal.
pub(crate) fn error(message: &str, status: u32, severity: u16) -> Instance {
    // 4: a software error; of its cause nothing is said that the words do not say.
    Instance::new("Msvm_Error")
        .with("ErrorType", 4u16)
        .with("OwningEntity", "Lifeboat")
        .with("Message", message)
        .with("PerceivedSeverity", severity)
        .with("ProbableCause", 0u16)
        .with("ErrorSourceFormat", 0u16)
        .with("CIMStatusCode", status)
}
