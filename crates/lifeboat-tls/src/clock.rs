//! The wall clock, which is what certificates are judged by.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lifeboat_model::Timestamp;

/// How often the wall clock is looked at while something is to end by it.
pub const CLOCK_LOOK: Duration = Duration::from_secs(30);

/// What the wall clock of this host shows; 1970 where it is set to before that.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Waits until `end`; the clock may be set meanwhile, which a timer alone would not notice.
pub async fn until(end: Timestamp) {
    while now() <= end {
        let left = end.since(now()).max(Duration::from_millis(20));
        tokio::time::sleep(left.min(CLOCK_LOOK)).await;
    }
}
