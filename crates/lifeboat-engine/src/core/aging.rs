//! How old what a replica has is, by the replica's own progress. An age counts back from the newest data that is here,
//! not from a clock: when the primary is lost, what can be brought back must not expire while an administrator decides, and a
//! clock that is set, on either host, must neither cost a point nor keep one for ever. What follows from an age is
//! policy's.

use crate::core::order::{Place, places};
use crate::port::Clock;
use crate::port::store::{ImageStore, Point, Received, ReplicaInfo, StoreError, StoredLog};
use crate::record::Relationship;
use crate::work::message::Stamp;
use lifeboat_model::arrival::age_on_arrival;
use lifeboat_model::policy::Retention;
use lifeboat_model::{Arrival, Arrivals, PointId, Position, Timestamp, VmId};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The arrivals of one replica, shared between its actor and the work that seals and expires.
#[derive(Clone, Default)]
pub(crate) struct Aging(Arc<Mutex<Arrivals>>);

/// What a seal needs to note when the log arrived.
#[derive(Clone)]
pub(crate) struct Sealer {
    pub(crate) aging: Aging,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Sealer {
    /// Seals the head of a replica.
    pub(crate) async fn seal(
        &self,
        images: &dyn ImageStore,
        vm: VmId,
        id: PointId,
    ) -> Result<Point, StoreError> {
        let info = images.info(vm).await?;
        let log = info.logs.iter().find(|l| l.position == info.applied);
        images.seal(vm, id, log.map(|l| self.arrival(l))).await
    }

    /// When a log arrived. One that was found at the start of the daemon counts as arriving now.
    fn arrival(&self, log: &StoredLog) -> Arrival {
        let arrivals = self.aging.arrivals();
        let now = || arrivals.at(log.instant, self.clock.reading());
        arrivals.of(log.position).unwrap_or_else(now)
    }
}

/// Seals the head. When there are as many points as a chain can have, because a test or a failover keeps the oldest from
/// expiring, it stays unsealed: replication goes on, the instant can be replayed, and the next attempt comes with the next log.
pub(crate) async fn seal(
    images: &dyn ImageStore,
    vm: VmId,
    id: PointId,
    sealer: &Sealer,
) -> Result<bool, StoreError> {
    match sealer.seal(images, vm, id).await {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict(why)) => {
            tracing::info!(%vm, why, "no recovery point now");
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

impl Relationship {
    /// A log that leads to a whole instant is durable here.
    pub(crate) fn instant_durable(&mut self, received: &Received, stamp: Stamp) {
        let now = stamp.reading;
        let by_clocks = (now.wall >= received.instant).then(|| now.wall.since(received.instant));
        let since_previous = self.recency.newest.and_then(|at| now.since(at));
        let age = age_on_arrival(stamp.receiving, by_clocks, since_previous);
        self.newest_instant = Some(received.instant);
        self.recency.instant(now, age);
        self.counters.arrived(received.bytes, age);
    }
}

/// What is due to expire.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Expiry {
    /// All logs up to this position.
    pub(crate) logs: Option<Position>,
    /// The oldest point.
    pub(crate) oldest_point: bool,
}

impl Aging {
    fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on from what the files say after a start of the daemon.
    pub(crate) fn resume(&self, info: &ReplicaInfo) {
        let newest = info
            .points
            .iter()
            .rev()
            .find_map(|p| Some((p.arrived?, p.instant)));
        if let Some((arrived, instant)) = newest {
            self.arrivals().resume(arrived, instant);
        }
    }

    /// The last arrival; `None` before the first.
    pub(crate) fn last(&self) -> Option<Arrival> {
        self.arrivals().last()
    }

    /// A log is durable.
    pub(crate) fn arrived(&self, stamp: Stamp, instant: Timestamp) {
        self.arrivals().arrived(stamp.position, instant, stamp.reading);
    }

    /// When the log to a position arrived; `None` for one that was found at the start of the daemon.
    pub(crate) fn of(&self, position: Position) -> Option<Arrival> {
        self.arrivals().of(position)
    }

    fn ages(&self, places: &[Place<'_>]) -> Vec<Duration> {
        let arrivals = self.arrivals();
        let known = |p: &Place<'_>| {
            let sealed = p.point.and_then(|p| p.arrived);
            sealed.or_else(|| arrivals.of(p.position))
        };
        arrivals.ages(&places.iter().map(known).collect::<Vec<_>>())
    }

    /// Whether a point is due at a log that is applied. Always where no point leads to it: it could not be brought up.
    pub(crate) fn seal_due(
        &self,
        retention: &Retention,
        info: &ReplicaInfo,
        log: &StoredLog,
        application: bool,
    ) -> bool {
        let places = places(info);
        if !places.iter().any(|p| p.position == log.position && p.reachable) {
            return true;
        }
        let ages = self.ages(&places);
        let age = |position: Position| {
            let found = places.iter().zip(&ages).find(|(p, _)| p.position == position);
            found.map_or(Duration::ZERO, |(_, age)| *age)
        };
        let since = info.points.last().map(|newest| {
            let passed = age(newest.position).saturating_sub(age(log.position));
            // A point of a program that noted no arrival: its instant is the only word on its age that outlives a start.
            let noted = newest.arrived.is_some() || !newest.position.same_generation(log.position);
            if noted {
                passed
            } else {
                passed.max(log.instant.since(newest.instant))
            }
        });
        retention.seal_due(since, application)
    }

    /// What is due to expire.
    pub(crate) fn expiry(&self, retention: &Retention, info: &ReplicaInfo) -> Expiry {
        let logs: HashSet<Position> = info.logs.iter().map(|l| l.position).collect();
        self.arrivals().keep(&logs);
        let places = places(info);
        let (points, ages): (Vec<usize>, Vec<Duration>) = places
            .iter()
            .enumerate()
            .zip(self.ages(&places))
            .filter(|((_, place), _)| place.point.is_some())
            .map(|((n, _), age)| (n, age))
            .unzip();
        let from = retention.replays_from(&ages).and_then(|n| points.get(n).copied());
        let useless = places.iter().take(from.map_or(0, |n| n + 1));
        Expiry {
            logs: useless.rev().find_map(|p| p.log).map(|l| l.position),
            oldest_point: retention.expire_due(&ages),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_deltalog::Consistency;
    use lifeboat_model::Reading;
    use lifeboat_model::{Bandwidth, GenerationId, ReplicationSettings};
    use uuid::Uuid;

    const DAY: u64 = 86_400_000;
    const NOON: u64 = 20_000 * DAY;

    fn at(sequence: u64) -> Position {
        Position::from_parts(GenerationId(Uuid::from_u128(1)), sequence)
    }

    fn reading(up_ms: u64, wall: u64) -> Reading {
        Reading {
            boot: Uuid::from_u128(1),
            up_ms,
            wall: Timestamp(wall),
        }
    }

    fn retention() -> Retention {
        let settings = ReplicationSettings {
            peer: "b:1".into(),
            interval_s: 30,
            history: 1,
            point_spacing_s: 300,
            any_point_window_s: 600,
            disks: Vec::new(),
            compression: true,
            application_h: 0,
            auto_resync: None,
            bandwidth: Bandwidth::default(),
        };
        Retention::new(&settings, Duration::ZERO)
    }

    /// A replica that is kept by the rules while a log arrives each 30 seconds.
    struct Kept {
        aging: Aging,
        info: ReplicaInfo,
    }

    impl Kept {
        fn new() -> Self {
            let info = ReplicaInfo {
                place: crate::port::store::StoreLocation::new("/r"),
                files: Vec::new(),
                faults: Vec::new(),
                damage: Vec::new(),
                unsealed: Default::default(),
                disks: Vec::new(),
                bulk: Vec::new(),
                durable: at(0),
                applied: at(0),
                points: Vec::new(),
                logs: Vec::new(),
                branches: Vec::new(),
                abandoned: None,
            };
            let aging = Aging::default();
            Self { aging, info }
        }

        /// Log `n` arrives, with both hosts' wall clocks off by this much, and is applied; what is due is done.
        fn cycle(&mut self, n: u64, theirs: i64, own: i64) {
            let up = n * 30_000;
            let off = |by: i64| (NOON + up).saturating_add_signed(by);
            let log = StoredLog {
                position: at(n),
                parent: at(n - 1),
                instant: Timestamp(off(theirs)),
                consistency: Consistency::Crash,
                size: 1,
                partial: false,
            };
            let stamp = Stamp {
                position: at(n),
                reading: reading(up, off(own)),
                receiving: Duration::ZERO,
            };
            self.aging.arrived(stamp, log.instant);
            self.info.logs.push(log.clone());
            (self.info.durable, self.info.applied) = (at(n), at(n));
            if self.aging.seal_due(&retention(), &self.info, &log, false) {
                self.info.points.push(Point {
                    id: PointId(Uuid::from_u128(n.into())),
                    position: at(n),
                    instant: log.instant,
                    consistency: log.consistency,
                    size: 1,
                    arrived: self.aging.of(at(n)),
                    changed: None,
                });
            }
            loop {
                let due = self.aging.expiry(&retention(), &self.info);
                if let Some(upto) = due.logs {
                    let gone = self.info.logs.iter().position(|l| l.position == upto).unwrap();
                    self.info.logs.drain(..=gone);
                }
                if !due.oldest_point {
                    break;
                }
                self.info.points.remove(0);
            }
        }

        /// Every instant of the last 10 minutes can be had.
        fn check_window(&self) {
            let newest = self.info.durable.sequence();
            let reachable: HashSet<u64> = places(&self.info)
                .iter()
                .filter(|p| p.reachable)
                .map(|p| p.position.sequence())
                .collect();
            let first = newest.saturating_sub(20).max(1);
            for n in first..=newest {
                assert!(reachable.contains(&n), "{n} of {first}..={newest}");
            }
        }

        /// Positions of the points, and the oldest log.
        fn left(&self) -> (Vec<u64>, u64) {
            let points = self.info.points.iter().map(|p| p.position.sequence());
            let oldest = self.info.logs.first().map_or(0, |l| l.position.sequence());
            (points.collect(), oldest)
        }
    }

    /// A history in which the clocks of the two hosts are off by this much from one cycle to another.
    fn history(theirs: i64, own: i64) -> Vec<(Vec<u64>, u64)> {
        let mut kept = Kept::new();
        let mut seen = Vec::new();
        for n in 1..=120 {
            let off = |by| if (31..=70).contains(&n) { by } else { 0 };
            kept.cycle(n, off(theirs), off(own));
            kept.check_window();
            seen.push(kept.left());
        }
        seen
    }

    #[test]
    fn points_and_logs_are_the_same_whatever_the_clocks_of_the_hosts_do() {
        let plain = history(0, 0);
        assert_eq!(
            plain[119],
            (vec![91, 101, 111], 92),
            "each 5 minutes, and what 10 minutes are replayed from"
        );
        let (hour, day) = (3_600_000, 86_400_000);
        for by in [-hour, hour, day, 40 * day, -40 * day] {
            assert_eq!(history(by, 0), plain, "the primary's clock by {by}");
            assert_eq!(history(0, by), plain, "the replica's clock by {by}");
            assert_eq!(history(by, -by), plain, "both by {by}");
        }
    }

    #[test]
    fn a_point_that_noted_no_arrival_is_kept_and_does_not_stop_sealing() {
        let mut kept = Kept::new();
        for n in 1..=21 {
            kept.cycle(n, 0, 0);
        }
        for point in &mut kept.info.points {
            point.arrived = None;
        }
        // A start of the daemon: nothing of what is in memory is left.
        kept.aging = Aging::default();
        kept.aging.resume(&kept.info);
        let before = kept.left();
        assert_eq!(
            kept.aging.expiry(&retention(), &kept.info),
            Expiry::default(),
            "{before:?}"
        );
        for n in 22..=80 {
            kept.cycle(n, 0, 0);
        }
        let (points, oldest) = kept.left();
        assert_eq!(points.len(), 3, "{points:?}");
        assert!(
            points[0] > 40 && oldest > 40,
            "{points:?} {oldest}: expired in the end"
        );
    }

    #[test]
    fn a_start_of_the_daemon_in_between_changes_nothing_that_is_sealed() {
        let mut kept = Kept::new();
        for n in 1..=55 {
            kept.cycle(n, 0, 0);
        }
        kept.aging = Aging::default();
        kept.aging.resume(&kept.info);
        let before = kept.left();
        assert_eq!(kept.aging.expiry(&retention(), &kept.info), Expiry::default());
        for n in 56..=120 {
            kept.cycle(n, 40 * 86_400_000, 0);
        }
        assert_eq!(before.0, [31, 41, 51]);
        assert_eq!(kept.left().0, [91, 101, 111]);
    }
}
