//! Ages that no clock can falsify. Wall clocks are set: by people, by time synchronization, by a host that was off too
//! long. What is kept or expires, and what counts as late, is measured by a counter that only moves forward, and on a
//! replica by the replica's own counter. Instants are for people. Nothing here reads a clock: readings come in as
//! arguments.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::Position;
use crate::time::Timestamp;

/// One look at the clocks of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Which start of the host `up_ms` counts from.
    pub boot: Uuid,
    /// Milliseconds since that start, time asleep included. It cannot be set and never goes back.
    pub up_ms: u64,
    /// The wall clock at the same moment.
    pub wall: Timestamp,
}

impl Reading {
    /// Time from `earlier` to this reading; `None` when the host was started in between.
    #[must_use]
    pub fn since(self, earlier: Self) -> Option<Duration> {
        (self.boot == earlier.boot).then(|| Duration::from_millis(self.up_ms.saturating_sub(earlier.up_ms)))
    }

    /// The same, with the wall clock's word where the host was started in between: zero when that went back.
    #[must_use]
    pub fn about_since(self, earlier: Self) -> Duration {
        self.since(earlier)
            .unwrap_or_else(|| self.wall.since(earlier.wall))
    }

    /// By how many milliseconds the wall clock was set forward (or back, below zero) between `earlier` and this reading.
    /// Where the host was started in between, only a clock that went back shows, and by how much at least.
    #[must_use]
    pub fn jump_since(self, earlier: Self) -> i64 {
        let wall = signed(self.wall.0).saturating_sub(signed(earlier.wall.0));
        match self.since(earlier) {
            Some(passed) => wall.saturating_sub(signed(millis(passed))),
            None => wall.min(0),
        }
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// When something arrived in a replica, on a scale of the replica's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// Milliseconds of progress: the scale moves only when something arrives, then by the time since the last arrival.
    pub progress_ms: u64,
    /// The host's clocks at that moment, from which a later start of the daemon goes on.
    pub at: Reading,
}

impl Arrival {
    /// Progress from `earlier` to this arrival.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.progress_ms.saturating_sub(earlier.progress_ms))
    }
}

/// When what a replica consists of arrived. In memory; what a start of the daemon needs is kept with the sealed points.
#[derive(Clone, Debug, Default)]
pub struct Arrivals {
    /// The last arrival, and the instant of what arrived.
    last: Option<(Arrival, Timestamp)>,
    logs: HashMap<Position, Arrival>,
}

impl Arrivals {
    /// Goes on from a sealed point after a start of the daemon, unless something is known already.
    pub fn resume(&mut self, point: Arrival, instant: Timestamp) {
        if self.last.is_none() {
            self.last = Some((point, instant));
        }
    }

    /// The arrival of something of this instant at this moment. Where the host was started since the last arrival, the
    /// progress is what both wall clocks at least agree on, so that one that jumped makes nothing old.
    #[must_use]
    pub fn at(&self, instant: Timestamp, reading: Reading) -> Arrival {
        let Some((last, last_instant)) = self.last else {
            return Arrival {
                progress_ms: 0,
                at: reading,
            };
        };
        let agreed = || reading.wall.since(last.at.wall).min(instant.since(last_instant));
        let passed = reading.since(last.at).unwrap_or_else(agreed);
        Arrival {
            progress_ms: last.progress_ms.saturating_add(millis(passed)),
            at: reading,
        }
    }

    /// Notes that the log to a position is durable.
    pub fn arrived(&mut self, position: Position, instant: Timestamp, reading: Reading) {
        let arrival = self.at(instant, reading);
        self.last = Some((arrival, instant));
        self.logs.insert(position, arrival);
    }

    /// When the log to a position arrived; `None` for one that was found at the start of the daemon.
    #[must_use]
    pub fn of(&self, position: Position) -> Option<Arrival> {
        self.logs.get(&position).copied()
    }

    /// The last arrival.
    #[must_use]
    pub fn last(&self) -> Option<Arrival> {
        self.last.map(|(arrival, _)| arrival)
    }

    /// Forgets all logs but these.
    pub fn keep(&mut self, logs: &HashSet<Position>) {
        self.logs.retain(|position, _| logs.contains(position));
    }

    /// How long before the last arrival each of these came, oldest first; `None` stands for one that is not known. Such a
    /// one counts as if it had come with the next one that is known: it is kept longer, never shorter.
    #[must_use]
    pub fn ages(&self, known: &[Option<Arrival>]) -> Vec<Duration> {
        let newest = self.last().or_else(|| known.iter().rev().find_map(|k| *k));
        let mut next = newest;
        let mut ages = Vec::with_capacity(known.len());
        for arrival in known.iter().rev() {
            next = arrival.or(next);
            let age = newest.zip(next).map(|(newest, it)| newest.since(it));
            ages.push(age.unwrap_or_default());
        }
        ages.reverse();
        ages
    }
}

/// When data was last sent or received, on either side of a relationship.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recency {
    /// When anything was.
    #[serde(default)]
    pub any: Option<Reading>,
    /// When the newest instant became durable on the replica, as far as this side knows.
    #[serde(default)]
    pub newest: Option<Reading>,
    /// How old that instant was then, in milliseconds.
    #[serde(default)]
    pub old_ms: u64,
}

impl Recency {
    /// Notes that a whole instant of this age is durable on the replica.
    pub fn instant(&mut self, now: Reading, age: Duration) {
        *self = Self {
            any: Some(now),
            newest: Some(now),
            old_ms: millis(age),
        };
    }

    /// Time since anything was sent or received; `None` when it is not known.
    #[must_use]
    pub fn idle(&self, now: Reading) -> Option<Duration> {
        self.any.map(|at| now.about_since(at))
    }

    /// How old the newest instant on the replica is; `None` when it is not known.
    #[must_use]
    pub fn lag(&self, now: Reading) -> Option<Duration> {
        let since = now.about_since(self.newest?);
        Some(since.saturating_add(Duration::from_millis(self.old_ms)))
    }
}

/// How old an instant of another host was when its log became durable here. The difference of the two hosts' wall clocks
/// says it when it is possible: the log was on its way at least as long as it took to receive, and its instant was taken
/// after the log before it had arrived. Otherwise the clocks do not agree, and only the time on the way is known.
#[must_use]
pub fn age_on_arrival(
    receiving: Duration,
    by_clocks: Option<Duration>,
    since_previous: Option<Duration>,
) -> Duration {
    let possible = |age: &Duration| *age >= receiving && since_previous.is_some_and(|most| *age <= most);
    by_clocks.filter(possible).unwrap_or(receiving)
}

/// Smallest step of a wall clock that is reported, in milliseconds. Time synchronization corrects less than that without a
/// step, or by steps too small to matter.
pub const JUMP_MS: u64 = 30_000;

/// Whether a wall clock was set so far that people have to know.
#[must_use]
pub fn is_jump(by_ms: i64) -> bool {
    by_ms.unsigned_abs() >= JUMP_MS
}

/// A step of a clock in words: `+40 days`, `-1 h`.
#[must_use]
pub fn jump_text(by_ms: i64) -> String {
    let sign = if by_ms < 0 { '-' } else { '+' };
    let seconds = by_ms.unsigned_abs().div_ceil(1000);
    let units = [(86_400, "days"), (3_600, "h"), (60, "min")];
    let rounded = |unit: u64| (seconds + unit / 2) / unit;
    // The largest unit in which it is nearly a whole number, or one of two digits.
    let fitting = units.iter().find(|(unit, _)| {
        let whole = rounded(*unit);
        whole >= 10 || (whole >= 1 && seconds.abs_diff(whole * unit) * 50 <= seconds)
    });
    match fitting {
        Some((86_400, _)) if rounded(86_400) == 1 => format!("{sign}1 day"),
        Some((unit, name)) => format!("{sign}{} {name}", rounded(*unit)),
        None => format!("{sign}{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::GenerationId;

    const DAY: u64 = 86_400_000;
    const NOON: u64 = 20_000 * DAY;

    fn reading(boot: u128, up_ms: u64, wall: u64) -> Reading {
        Reading {
            boot: Uuid::from_u128(boot),
            up_ms,
            wall: Timestamp(wall),
        }
    }

    fn at(sequence: u64) -> Position {
        Position::from_parts(GenerationId(Uuid::from_u128(1)), sequence)
    }

    #[test]
    fn time_passes_by_the_counter_and_by_the_wall_only_across_a_start_of_the_host() {
        let earlier = reading(1, 1_000, NOON);
        let table = [
            (reading(1, 6_000, NOON + 5_000), 5_000, 0),
            (reading(1, 6_000, NOON + 5_000 + 40 * DAY), 5_000, 40 * 86_400_000),
            (reading(1, 6_000, NOON - 3_595_000), 5_000, -3_600_000),
            (reading(2, 500, NOON + 60_000), 60_000, 0),
            (reading(2, 500, NOON - 60_000), 0, -60_000),
        ];
        for (now, passed, jump) in table {
            assert_eq!(now.about_since(earlier), Duration::from_millis(passed), "{now:?}");
            assert_eq!(now.jump_since(earlier), jump, "{now:?}");
        }
        assert_eq!(
            reading(2, 9_000, NOON).since(earlier),
            None,
            "another start of the host"
        );
    }

    #[test]
    fn progress_is_the_replicas_own_time_between_arrivals_whatever_the_clocks_say() {
        let mut arrivals = Arrivals::default();
        // The instants are of a clock that is 40 days ahead for two logs and an hour behind for the last.
        let instants = [NOON, NOON + 40 * DAY, NOON + 40 * DAY + 30_000, NOON - 3_600_000];
        // The replica's own clock jumps as well.
        let walls = [NOON, NOON + 30_000, NOON + DAY, NOON + DAY + 30_000];
        for (n, (instant, wall)) in (1..).zip(instants.into_iter().zip(walls)) {
            arrivals.arrived(at(n), Timestamp(instant), reading(1, n * 30_000, wall));
        }
        let progress = |n| arrivals.of(at(n)).unwrap().progress_ms;
        assert_eq!([1, 2, 3, 4].map(progress), [0, 30_000, 60_000, 90_000]);
    }

    #[test]
    fn a_start_of_the_daemon_goes_on_and_one_of_the_host_believes_no_single_clock() {
        let point = Arrival {
            progress_ms: 5_000,
            at: reading(1, 100_000, NOON),
        };
        let next = |wall: u64, boot, up_ms, instant: u64| {
            let mut arrivals = Arrivals::default();
            arrivals.resume(point, Timestamp(NOON));
            arrivals
                .at(Timestamp(instant), reading(boot, up_ms, wall))
                .progress_ms
        };
        assert_eq!(
            next(NOON + 40 * DAY, 1, 160_000, NOON + 40 * DAY),
            65_000,
            "same start of the host"
        );
        assert_eq!(
            next(NOON + 60_000, 2, 9_000, NOON + 59_000),
            64_000,
            "both clocks right"
        );
        assert_eq!(
            next(NOON + 40 * DAY, 2, 9_000, NOON + 59_000),
            64_000,
            "own clock ahead"
        );
        assert_eq!(
            next(NOON + 60_000, 2, 9_000, NOON + 40 * DAY),
            65_000,
            "the primary's ahead"
        );
        assert_eq!(
            next(NOON - DAY, 2, 9_000, NOON + 59_000),
            5_000,
            "own clock back: nothing grows old"
        );
    }

    #[test]
    fn what_is_not_known_counts_as_come_with_the_next_that_is() {
        let mut arrivals = Arrivals::default();
        let seconds = |s: u64| Duration::from_secs(s);
        assert_eq!(
            arrivals.ages(&[None, None]),
            [seconds(0); 2],
            "nothing is known: nothing is old"
        );
        let first = Arrival {
            progress_ms: 10_000,
            at: reading(1, 10_000, NOON),
        };
        assert_eq!(arrivals.ages(&[None, Some(first), None]), [seconds(0); 3]);
        arrivals.resume(first, Timestamp(NOON));
        assert_eq!(
            arrivals.ages(&[None, Some(first), None]),
            [seconds(0); 3],
            "nothing has come since"
        );
        arrivals.arrived(at(9), Timestamp(NOON), reading(1, 70_000, NOON));
        let known = [None, Some(first), None, arrivals.of(at(9))];
        assert_eq!(arrivals.ages(&known), [60, 60, 0, 0].map(seconds));
        arrivals.keep(&HashSet::new());
        assert_eq!(arrivals.of(at(9)), None);
        assert_eq!(
            arrivals.ages(&[Some(first)]),
            [seconds(60)],
            "the scale stays where it is"
        );
    }

    #[test]
    fn the_age_of_an_instant_is_what_the_clocks_say_only_when_that_is_possible() {
        let s = Duration::from_secs;
        let table = [
            (s(2), Some(s(5)), Some(s(30)), s(5)),
            (s(2), Some(s(600)), Some(s(630)), s(600)),
            (s(2), Some(s(0)), Some(s(30)), s(2)),
            (s(2), Some(s(86_400 * 40)), Some(s(30)), s(2)),
            (s(2), Some(s(5)), None, s(2)),
            (s(2), None, Some(s(30)), s(2)),
        ];
        for (receiving, clocks, previous, age) in table {
            assert_eq!(
                age_on_arrival(receiving, clocks, previous),
                age,
                "{clocks:?} {previous:?}"
            );
        }
    }

    #[test]
    fn recency_follows_the_counter() {
        let mut r = Recency::default();
        let now = reading(1, 100_000, NOON);
        assert_eq!((r.idle(now), r.lag(now)), (None, None));
        r.instant(now, Duration::from_secs(2));
        for wall in [NOON - 3_600_000, NOON + 40 * DAY] {
            let later = reading(1, 110_000, wall);
            assert_eq!(r.idle(later), Some(Duration::from_secs(10)));
            assert_eq!(r.lag(later), Some(Duration::from_secs(12)));
        }
    }

    #[test]
    fn steps_are_told_in_the_unit_people_use() {
        let table = [
            (40 * 86_400_000, "+40 days"),
            (86_400_000, "+1 day"),
            (-3_600_000, "-1 h"),
            (-3_599_000, "-1 h"),
            (5_400_000, "+90 min"),
            (31_000, "+31 s"),
            (90_000, "+90 s"),
            (-60_000, "-1 min"),
        ];
        for (ms, text) in table {
            assert_eq!(jump_text(ms), text);
        }
        assert!(is_jump(-30_000) && !is_jump(29_999));
    }
}
