//! How old the data on the other side is, from what was recorded of it.

use lifeboat_model::{Reading, Recency, Timestamp};
use std::time::Duration;

/// Time since anything was sent or received. Records of old have only the wall clock's word on it.
pub(crate) fn idle(recency: &Recency, last: Option<Timestamp>, now: Reading) -> Option<Duration> {
    recency.idle(now).or_else(|| last.map(|t| now.wall.since(t)))
}

/// How far the newest data on the replica is behind, in milliseconds; likewise.
pub(crate) fn lag(recency: &Recency, newest: Option<Timestamp>, now: Reading) -> Option<u64> {
    let instant = newest?;
    let lag = recency.lag(now).unwrap_or_else(|| now.wall.since(instant));
    Some(u64::try_from(lag.as_millis()).unwrap_or(u64::MAX))
}
