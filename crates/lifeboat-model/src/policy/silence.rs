//! How long the other side of a relationship, or this host's own storage, may say nothing before that is worth a warning,
//! and how much may wait on a replica to be applied. Numbers from numbers; who measures the time is the engine.

use std::time::Duration;

use crate::problem::{Finding, ProblemKind};

/// The shortest interval at which a primary that has nothing to send says that it is there: a small call.
const KEEP_ALIVE_MIN: Duration = Duration::from_secs(5);

/// The longest such interval, so that with a long replication interval a dead host is still noticed within minutes.
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(60);

/// The shortest patience: connection attempts, a busy disk and a short pause of a host take seconds, and are normal.
const PATIENCE_MIN: Duration = Duration::from_secs(15);

/// Intervals that may pass without what each of them should have brought.
const MISSED: u32 = 3;

/// How much later than the warning silence counts as critical.
const CRITICAL: u32 = 4;

/// How long something that is waited for may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// From here on it needs attention.
    pub warning: Duration,
    /// From here on it must be assumed that it does not come.
    pub critical: Duration,
}

/// Patience with an operation of the file system that has begun and not ended. A flush of much data on a slow disk takes
/// seconds; twenty are a sign, and after two minutes the disk must be taken for dead.
pub const STORAGE_PATIENCE: Patience = Patience {
    warning: Duration::from_secs(20),
    critical: Duration::from_secs(120),
};

/// Most logs that wait on a replica to be applied before its primary has to wait. Together they take one apply, which a
/// failover to the newest instant has to carry out first.
pub const BACKLOG_LOGS: usize = 8;

/// Most bytes of such logs, for the same reason: seconds of writing on a common disk. A single larger log is taken.
pub const BACKLOG_BYTES: u64 = 256 << 20;

/// Patience with what should come once in an interval: a log on a replica, its acknowledgement on a primary. Three
/// intervals, at least 15 seconds; critical after four times that.
#[must_use]
pub fn patience(interval: Duration) -> Patience {
    let warning = (interval * MISSED).max(PATIENCE_MIN);
    Patience {
        warning,
        critical: warning * CRITICAL,
    }
}

/// How often a primary says that it is there when it has nothing to send: once in an interval, but at least once a minute
/// and not more often than each 5 seconds.
#[must_use]
pub fn keep_alive(interval: Duration) -> Duration {
    interval.clamp(KEEP_ALIVE_MIN, KEEP_ALIVE_MAX)
}

/// Whether a further log has to wait while these are not applied yet. One is always taken, however large.
#[must_use]
pub fn backlog_full(logs: usize, bytes: u64) -> bool {
    logs >= BACKLOG_LOGS || logs > 0 && bytes >= BACKLOG_BYTES
}

impl Patience {
    /// What having waited this long means; `None` while it means nothing.
    #[must_use]
    pub fn finding(
        self,
        waited: Duration,
        kind: ProblemKind,
        text: impl FnOnce() -> String,
    ) -> Option<Finding> {
        if waited >= self.critical {
            Some(Finding::critical(kind, text()))
        } else if waited >= self.warning {
            Some(Finding::warning(kind, text()))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ReplicationHealth as Health;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn patience_is_a_few_intervals() {
        for (interval, warning, critical) in [(1, 15, 60), (5, 15, 60), (30, 90, 360), (300, 900, 3600)] {
            let p = patience(s(interval));
            assert_eq!((p.warning, p.critical), (s(warning), s(critical)), "{interval}");
        }
    }

    #[test]
    fn a_primary_speaks_often_enough_to_be_missed_and_seldom_enough_to_be_cheap() {
        for (interval, every) in [(1, 5), (5, 5), (30, 30), (300, 60), (900, 60)] {
            assert_eq!(keep_alive(s(interval)), s(every), "{interval}");
            // Two keep-alives may get lost before the third is missed.
            assert!(patience(keep_alive(s(interval))).warning >= 3 * s(every));
        }
    }

    #[test]
    fn waiting_becomes_a_warning_and_then_critical() {
        let p = patience(s(10));
        let health = |waited| {
            p.finding(s(waited), ProblemKind::PeerSilent, || "x".into())
                .map(|f| f.health)
        };
        assert_eq!(
            [29, 30, 119, 120].map(health),
            [
                None,
                Some(Health::Warning),
                Some(Health::Warning),
                Some(Health::Critical)
            ]
        );
    }

    #[test]
    fn a_backlog_is_full_by_count_or_by_bytes_and_never_when_nothing_waits() {
        let table = [
            (0, u64::MAX, false),
            (1, BACKLOG_BYTES - 1, false),
            (1, BACKLOG_BYTES, true),
            (BACKLOG_LOGS - 1, 0, false),
            (BACKLOG_LOGS, 0, true),
        ];
        for (logs, bytes, full) in table {
            assert_eq!(backlog_full(logs, bytes), full, "{logs} {bytes}");
        }
    }
}
