//! The monitoring window: what is counted in it, when it ends, and what is told when it does. What the numbers mean for
//! the health is policy's; showing them is the surfaces'.

use crate::contract::refusal::no_relationship;
use crate::contract::{Answer, Refusal, RelationshipRef};
use crate::core::Core;
use crate::record::{Counters, Relationship, ServerSettings};
use crate::source::outgoing::not_extended;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::Timestamp;
use std::time::Duration;
use tokio::time::Instant;

/// Wall clocks and time zones jump: a window's end is looked for at least this often.
const LOOK: Duration = Duration::from_secs(3600);

/// The monitoring window that `now` lies in, as the instants of its beginning and its end. Windows follow one another from
/// `monitoring_start_min` of the local day on; those that do not divide a day go on counting from the local 1970-01-01.
/// Where clocks are changed, one window is an hour shorter or longer.
fn window(settings: &ServerSettings, now: Timestamp, local_minute: u16) -> (Timestamp, Timestamp) {
    const MINUTE: i64 = 60_000;
    let now = i64::try_from(now.0).unwrap_or(i64::MAX / 2);
    let length = i64::from(settings.monitoring_interval_s.max(1)) * 1000;
    let utc_minute = (now / MINUTE).rem_euclid(1440);
    // -12 to +12 hours; zones beyond are a whole day off, which only windows of odd lengths would notice.
    let offset = (i64::from(local_minute) - utc_minute + 720).rem_euclid(1440) - 720;
    let local = now + offset * MINUTE;
    let into = (local - i64::from(settings.monitoring_start_min) * MINUTE).rem_euclid(length);
    let at = |t: i64| Timestamp(u64::try_from(t).unwrap_or(0));
    (at(now - into), at(now - into + length))
}

impl Counters {
    /// A window that begins now.
    fn beginning(now: Timestamp) -> Self {
        Self {
            since: Some(now),
            ..Self::default()
        }
    }

    /// Counts a log that is durable on the replica, on whichever side.
    pub(crate) fn arrived(&mut self, bytes: u64, latency: Duration) {
        let latency = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
        self.cycles += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.largest = self.largest.max(bytes);
        self.last_latency_ms = latency;
        self.total_latency_ms = self.total_latency_ms.saturating_add(latency);
        self.max_latency_ms = self.max_latency_ms.max(latency);
    }

    /// Counts the cycles that did not take place because the one that was due ended this much later.
    pub(crate) fn late(&mut self, by: Duration, interval: Duration) {
        let interval = interval.as_millis().max(1);
        let missed = u64::try_from(by.as_millis() / interval).unwrap_or(u64::MAX);
        self.missed = self.missed.saturating_add(missed);
    }

    /// Mean time from instant to durable.
    pub(crate) fn mean_latency(&self) -> Option<Duration> {
        let mean = self.total_latency_ms.checked_div(self.cycles)?;
        // Counted before sums were: no mean is known.
        (self.total_latency_ms > 0 || self.max_latency_ms == 0).then(|| Duration::from_millis(mean))
    }

    /// The numbers in words, for the event that closes a window.
    fn told(&self) -> String {
        let mean = self.mean_latency().unwrap_or_default();
        format!(
            "{} cycles, {} missed, {} failed ({} by the network), {} without the guest's help; {} bytes, largest {}; \
             latency {} ms on average, {} ms at most",
            self.cycles,
            self.missed,
            self.failures,
            self.network_failures,
            self.application_failures,
            self.bytes,
            self.largest,
            mean.as_millis(),
            self.max_latency_ms
        )
    }
}

impl Core {
    /// Begins a new window when the old one has ended. Called before anything is counted, and when a window ends.
    pub(crate) async fn roll_statistics(&mut self) {
        let Some(counted) = self.rel.as_ref().map(|r| r.counters) else {
            return;
        };
        let clock = &self.host.ports.clock;
        let now = clock.now();
        let Some(since) = counted.since else {
            self.tally(|rel| rel.counters = Counters::beginning(now));
            return;
        };
        let (begin, _) = window(&self.host.server(), now, clock.local_minute());
        if begin <= since && since <= now {
            return;
        }
        // Told before it is forgotten: an end between the two tells it twice, which is better than never.
        let hours = now.since(since).as_secs_f64() / 3600.0;
        let text = format!("monitoring window of {hours:.1} hours closed: {}", counted.told());
        self.event(&text).await;
        // A window that began in what is the future now is over: the clock was set back.
        self.note(|rel| rel.counters = Counters::beginning(begin)).await;
    }

    /// When the window ends; `None` without a relationship.
    pub(crate) fn statistics_due(&self) -> Option<Instant> {
        self.rel.as_ref()?.counters.since?;
        let clock = &self.host.ports.clock;
        let now = clock.now();
        let (_, end) = window(&self.host.server(), now, clock.local_minute());
        Some(Instant::now() + end.since(now).clamp(Duration::from_secs(1), LOOK))
    }

    /// ResetReplicationStatistics, of one relationship.
    pub(crate) async fn reset_statistics(&mut self, of: &RelationshipRef) -> Result<Answer, Refusal> {
        let outgoing = self.outgoing_meant(of)?;
        let mut change = self.change()?;
        if change.state == State::Disabled {
            return Err(no_relationship());
        }
        let counters = Counters::beginning(self.host.ports.clock.now());
        match outgoing {
            Some(id) => {
                let one = change.outgoing_mut(id).ok_or_else(not_extended)?;
                one.counters = counters;
            }
            None => change.counters = counters,
        }
        change.tell("statistics reset");
        self.commit(change).await?;
        Ok(Answer::Done)
    }

    /// Counts a failed attempt to send; `network`: the link was at fault.
    pub(crate) async fn count_failure(&mut self, network: bool) {
        self.roll_statistics().await;
        self.tally(|rel| {
            rel.counters.failures += 1;
            rel.counters.network_failures += u64::from(network);
        });
    }
}

impl Relationship {
    /// The mean latency in the window beside the interval it is to stay within.
    pub(crate) fn latency(&self) -> Option<(Duration, Duration)> {
        let mean = self.counters.mean_latency()?;
        Some((mean, self.settings.interval()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const DAY: u64 = 24 * HOUR;
    /// 2027-01-15T00:00:00Z.
    const MIDNIGHT: u64 = 1_799_971_200_000;

    fn settings(start_min: u16, interval_s: u32) -> ServerSettings {
        ServerSettings {
            monitoring_start_min: start_min,
            monitoring_interval_s: interval_s,
            ..ServerSettings::default()
        }
    }

    fn local(minutes: i64) -> u16 {
        u16::try_from(minutes.rem_euclid(1440)).unwrap()
    }

    #[test]
    fn windows_begin_at_the_local_start_time_whatever_the_zone() {
        let s = settings(6 * 60, 12 * 3600);
        for zone_min in [-720, -300, 0, 60, 330, 345, 720] {
            // 14:00 where the host is.
            let zone_ms = zone_min * 60_000;
            let now = u64::try_from(i64::try_from(MIDNIGHT + 14 * HOUR).unwrap() - zone_ms).unwrap();
            let (from, to) = window(&s, Timestamp(now + 12_345), local(14 * 60));
            assert_eq!(from.0, now - 8 * HOUR, "{zone_min}");
            assert_eq!(
                to.0,
                now + 4 * HOUR,
                "enabled at 14:00, the first window ends at 18:00"
            );
        }
    }

    #[test]
    fn windows_follow_one_another_without_a_gap() {
        for (start, length) in [(0, 3600), (540, 43_200), (1439, 5 * 3600), (10, 604_800)] {
            let s = settings(start, length);
            let mut at = Timestamp(MIDNIGHT + 17);
            for _ in 0..20 {
                let minute = local(i64::try_from(at.0 / 60_000).unwrap());
                let (from, to) = window(&s, at, minute);
                assert!(from <= at && at < to);
                assert_eq!(to.0 - from.0, u64::from(length) * 1000);
                if length < 86_400 && 86_400 % length == 0 {
                    let minute_of_day = from.0 % DAY / 60_000;
                    assert_eq!(
                        (minute_of_day * 60 + 86_400 - u64::from(start) * 60) % u64::from(length),
                        0
                    );
                }
                let next = window(&s, to, local(i64::try_from(to.0 / 60_000).unwrap()));
                assert_eq!(next.0, to, "start {start} length {length}");
                at = to;
            }
        }
    }

    #[test]
    fn latency_is_a_sum_with_a_mean_and_a_maximum() {
        let mut c = Counters::beginning(Timestamp(5));
        assert_eq!(c.mean_latency(), None);
        for (bytes, ms) in [(10, 100), (30, 500), (20, 300)] {
            c.arrived(bytes, Duration::from_millis(ms));
        }
        assert_eq!(c.mean_latency(), Some(Duration::from_millis(300)));
        assert_eq!((c.cycles, c.bytes, c.largest), (3, 60, 30));
        assert_eq!(
            (c.total_latency_ms, c.max_latency_ms, c.last_latency_ms),
            (900, 500, 300)
        );
        c.late(Duration::from_secs(59), Duration::from_secs(20));
        assert_eq!(c.missed, 2, "two more would have fitted into the 59 seconds");
        c.late(Duration::from_secs(19), Duration::from_secs(20));
        assert_eq!(c.missed, 2);
        let told = c.told();
        for word in ["3 cycles", "2 missed", "60 bytes", "300 ms", "500 ms"] {
            assert!(told.contains(word), "{told}");
        }
    }
}
