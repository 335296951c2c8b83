//! Write latencies of the last second, as one line for the terminal that shows them. Not a benchmark: no warm-up, no outlier
//! handling.

use std::time::{Duration, Instant};

use crate::Mode;

/// Collects latencies and turns them into a line once a second.
pub(crate) struct Latencies {
    mode: Mode,
    micros: Vec<u64>,
    since: Instant,
}

impl Latencies {
    pub(crate) fn new(mode: Mode, now: Instant) -> Self {
        Self {
            mode,
            micros: Vec::new(),
            since: now,
        }
    }

    pub(crate) fn add(&mut self, took: Duration) {
        self.micros
            .push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// The line for the time since the last one, if that was at least a second ago (or `last` is set) and
    /// something was written.
    pub(crate) fn line(&mut self, now: Instant, last: bool) -> Option<String> {
        if !last && now.duration_since(self.since) < Duration::from_secs(1) {
            return None;
        }
        self.since = now;
        self.micros.sort_unstable();
        let max = *self.micros.last()?;
        let count = self.micros.len();
        let mean = self.micros.iter().sum::<u64>() / count as u64;
        let percentile = |percent: usize| self.micros[(count - 1) * percent / 100];
        let (p50, p95, p99) = (percentile(50), percentile(95), percentile(99));
        let mode = self.mode;
        self.micros.clear();
        Some(format!(
            "LAT {mode} n={count} mean={mean} p50={p50} p95={p95} p99={p99} max={max} us"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_and_only_when_something_was_written() {
        let start = Instant::now();
        let mut latencies = Latencies::new(Mode::Append, start);
        assert_eq!(latencies.line(start + Duration::from_secs(2), false), None);
        for micros in 1..=100 {
            latencies.add(Duration::from_micros(micros));
        }
        assert_eq!(latencies.line(start + Duration::from_millis(2_900), false), None);
        assert_eq!(
            latencies.line(start + Duration::from_secs(3), false).as_deref(),
            Some("LAT append n=100 mean=50 p50=50 p95=95 p99=99 max=100 us")
        );
        assert_eq!(latencies.line(start + Duration::from_secs(4), true), None);
    }
}
