//! Instants and spans of time as CIM writes them. What time it is, is not known here.

use std::time::Duration;

use lifeboat_cim::DateTime;
use lifeboat_model::Timestamp;

/// An instant.
pub(super) fn instant(at: Timestamp) -> DateTime {
    let micros = at.0.saturating_mul(1000);
    DateTime::Instant(i64::try_from(micros).unwrap_or(i64::MAX).min(LAST))
}

/// The last microsecond of the year 9999.
const LAST: i64 = 253_402_300_799_999_999;

/// A span of time in seconds.
pub(super) fn span(seconds: u64) -> DateTime {
    duration(Duration::from_secs(seconds))
}

/// A span of time, to the microsecond.
pub(super) fn duration(of: Duration) -> DateTime {
    let micros = u64::try_from(of.as_micros()).unwrap_or(u64::MAX);
    DateTime::Interval(micros.min(99_999_999 * 86_400_000_000))
}
