//! Clocks that were set: this host's own, seen against the counter that is never set, and the primary's, seen by the
//! instants of its logs. Nothing is decided by such a clock; people have to know, because times they read and name are
//! not what they seem.

use crate::host::Host;
use lifeboat_model::arrival::{is_jump, jump_text};
use lifeboat_model::{Finding, Note, ProblemKind, Reading, Timestamp};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tracing::warn;

/// How long a clock that was set stays a warning.
pub(crate) const WARNED: Duration = Duration::from_secs(3600);

/// The clock of this host as it was last looked at.
#[derive(Default)]
pub(crate) struct ClockWatch(Mutex<Seen>);

#[derive(Clone, Copy, Default)]
struct Seen {
    last: Option<Reading>,
    /// The last jump and when it was seen.
    jumped: Option<(Reading, i64)>,
}

impl ClockWatch {
    /// Watches from a reading on that was recorded before this start of the daemon.
    pub(crate) fn from(last: Option<Reading>) -> Self {
        Self(Mutex::new(Seen { last, jumped: None }))
    }

    /// Looks at the clock; by how much it was set since the last look, if people have to know.
    pub(crate) fn look(&self, now: Reading) -> Option<i64> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.last.replace(now)?;
        let by = now.jump_since(before);
        if !is_jump(by) {
            return None;
        }
        seen.jumped = Some((now, by));
        Some(by)
    }

    /// The last jump, as long as it is a warning.
    pub(crate) fn finding(&self, now: Reading) -> Option<Finding> {
        let seen = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, by) = seen.jumped?;
        (now.about_since(at) < WARNED).then(|| Finding::warning(ProblemKind::ClockJumped, own_text(by)))
    }
}

fn own_text(by: i64) -> String {
    format!(
        "the clock of this host jumped by {}; ages and the order of recovery points do not depend on it, but times that \
         are shown do: check its time synchronization",
        jump_text(by)
    )
}

impl Host {
    /// Looks at this host's clock and records an event when it was set.
    pub(crate) async fn look_at_clock(&self) {
        let Some(by) = self.clock.look(self.ports.clock.reading()) else {
            return;
        };
        let message = own_text(by);
        warn!(by_ms = by, "the clock of this host jumped");
        self.event(&message).await;
    }
}

/// What the instants of the primary's logs say of its clock. In memory: a start of the daemon forgets it.
#[derive(Default)]
pub(crate) struct PeerClock {
    /// The newest whole instant, when it arrived, and how long after the one before.
    last: Option<(Timestamp, Reading, Option<Duration>)>,
    /// What was seen, and when.
    pub(crate) jumped: Option<(Instant, Note)>,
}

impl PeerClock {
    /// Takes in an instant that arrived at this moment; by how much the clock that gave it was set since the last one, if
    /// people have to know. `interval`: cycles that keep to it say nothing.
    pub(crate) fn arrived(&mut self, instant: Timestamp, now: Reading, interval: Duration) -> Option<i64> {
        let before = self.last;
        let passed = before.and_then(|(_, at, _)| now.since(at));
        self.last = Some((instant, now, passed));
        let (last, _, gap) = before?;
        let passed = passed?;
        let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        let signed = |t: Timestamp| i64::try_from(t.0).unwrap_or(i64::MAX);
        let by_clock = signed(instant).saturating_sub(signed(last));
        // An instant is taken after the log before it has arrived: it is not older than that, and not from the future.
        let most = ms(passed).saturating_add(ms(gap?)).saturating_add(ms(interval));
        let by = match by_clock {
            back if back < 0 => back.saturating_sub(ms(passed)),
            forward => forward.saturating_sub(most).max(0),
        };
        is_jump(by).then_some(if by < 0 {
            by
        } else {
            by_clock.saturating_sub(ms(passed))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const HOUR: i64 = 3_600_000;
    const NOON: u64 = 1_800_000_000_000;

    fn reading(up_s: u64, off_ms: i64) -> Reading {
        Reading {
            boot: Uuid::from_u128(1),
            up_ms: up_s * 1000,
            wall: Timestamp((NOON + up_s * 1000).saturating_add_signed(off_ms)),
        }
    }

    #[test]
    fn a_step_of_the_own_clock_is_seen_once_and_warned_of_for_an_hour() {
        for by in [-HOUR, 24 * HOUR, 960 * HOUR] {
            let watch = ClockWatch::default();
            assert_eq!(watch.look(reading(0, 0)), None);
            assert_eq!(watch.look(reading(10, 400)), None, "a small correction");
            assert_eq!(watch.look(reading(20, by)), Some(by - 400));
            assert_eq!(watch.look(reading(30, by)), None);
            assert!(watch.finding(reading(3_619, by)).is_some());
            assert!(watch.finding(reading(3_620, by)).is_none());
        }
    }

    #[test]
    fn a_step_while_the_daemon_was_not_running_is_seen_at_its_start() {
        let watch = ClockWatch::from(Some(reading(0, 0)));
        assert_eq!(watch.look(reading(900, 24 * HOUR)), Some(24 * HOUR));
        assert_eq!(ClockWatch::from(None).look(reading(900, 24 * HOUR)), None);
    }

    #[test]
    fn a_step_of_the_primarys_clock_is_told_from_a_link_that_was_down() {
        let interval = Duration::from_secs(30);
        // Seconds at which logs arrive, their instants (seconds), and what is told of the last, in seconds.
        type Row = (&'static [(u64, i64)], Option<i64>);
        let table: [Row; 6] = [
            (&[(0, 0), (30, 30), (60, 60), (90, 89)], None),
            // Down for ten minutes: the log that waited, and the one after it.
            (&[(0, 0), (30, 30), (631, 60)], None),
            (&[(0, 0), (30, 30), (631, 60), (634, 632)], None),
            (&[(0, 0), (30, 30), (60, 3_456_060)], Some(3_456_000)),
            (&[(0, 0), (30, 30), (60, -3_540)], Some(-3_600)),
            (&[(0, 3_456_000), (30, 3_456_030), (60, 60)], Some(-3_456_000)),
        ];
        for (logs, told) in table {
            let mut clock = PeerClock::default();
            let mut last = None;
            for (at, instant) in logs {
                let instant = Timestamp(NOON.saturating_add_signed(instant * 1000));
                last = clock.arrived(instant, reading(*at, 0), interval);
            }
            assert_eq!(last, told.map(|s| s * 1000), "{logs:?}");
        }
    }
}
