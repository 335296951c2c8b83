//! Lines of the log that a flood would repeat: the first from an address is logged at once, the others are counted and logged
//! once a minute. Nothing is written here.

use std::collections::HashMap;
use std::time::Duration;

use crate::Origin;

/// Between two lines about the same from one address.
const INTERVAL: Duration = Duration::from_secs(60);
/// Addresses and subjects that are counted apart; what comes from further ones is counted together.
const APART: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Count {
    since: Duration,
    repeats: u64,
}

/// How often something was repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary<W> {
    /// From where; `None` for all addresses that are not counted apart.
    pub origin: Option<Origin>,
    /// Subject of the lines that were counted, as the caller of `Notices` names it.
    pub what: W,
    /// Times that it was counted and not logged.
    pub repeats: u64,
}

/// What was logged lately, and how often it was not. Bounded, however many callers and addresses a flood has. Times are since any
/// fixed instant.
#[derive(Debug)]
pub struct Notices<W> {
    apart: HashMap<(Origin, W), Count>,
    together: HashMap<W, Count>,
}

impl<W> Default for Notices<W> {
    fn default() -> Self {
        Self {
            apart: HashMap::new(),
            together: HashMap::new(),
        }
    }
}

impl<W: Copy + Eq + std::hash::Hash> Notices<W> {
    /// Something happened. Whether that is to be logged now; otherwise it is counted.
    pub fn note(&mut self, now: Duration, origin: Origin, what: W) -> bool {
        let first = Count {
            since: now,
            repeats: 0,
        };
        if let Some(count) = self.apart.get_mut(&(origin, what)) {
            count.repeats += 1;
            return false;
        }
        if self.apart.len() < APART {
            self.apart.insert((origin, what), first);
            return true;
        }
        self.together.entry(what).or_insert(first).repeats += 1;
        false
    }

    /// Summaries to be logged: of what was counted for a minute or longer.
    pub fn due(&mut self, now: Duration) -> Vec<Summary<W>> {
        let mut due = Vec::new();
        let mut look = |origin, what, count: &mut Count| {
            if now.saturating_sub(count.since) < INTERVAL {
                return true;
            }
            let repeats = std::mem::take(&mut count.repeats);
            count.since = now;
            if repeats > 0 {
                due.push(Summary {
                    origin,
                    what,
                    repeats,
                });
            }
            repeats > 0
        };
        self.apart
            .retain(|(origin, what), count| look(Some(*origin), *what, count));
        self.together.retain(|what, count| look(None, *what, count));
        due
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn origin(n: u32) -> Origin {
        IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n)).into()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_is_told_at_once_and_the_others_once_a_minute() {
        let mut notices = Notices::default();
        assert!(notices.note(at(5), origin(1), "wrong password"));
        for _ in 0..812 {
            assert!(!notices.note(at(6), origin(1), "wrong password"));
        }
        assert!(notices.note(at(6), origin(1), "no handshake"), "another subject");
        assert!(
            notices.note(at(6), origin(2), "wrong password"),
            "another address"
        );
        assert_eq!(notices.due(at(64)), []);
        let summary = |repeats| Summary {
            origin: Some(origin(1)),
            what: "wrong password",
            repeats,
        };
        assert_eq!(notices.due(at(66)), [summary(812)]);
        // It goes on being counted: the next minute begins.
        assert!(!notices.note(at(67), origin(1), "wrong password"));
        assert_eq!(notices.due(at(125)), []);
        assert_eq!(notices.due(at(126)), [summary(1)]);
        // After a minute of quiet the next one is a first one again.
        assert_eq!(notices.due(at(186)), []);
        assert!(notices.note(at(187), origin(1), "wrong password"));
    }

    #[test]
    fn a_flood_from_everywhere_is_bounded_in_memory_and_in_lines() {
        let mut notices = Notices::default();
        let logged = (0..100_000)
            .filter(|n| notices.note(at(1), origin(*n), "x"))
            .count();
        assert_eq!(logged, APART);
        assert_eq!((notices.apart.len(), notices.together.len()), (APART, 1));
        let rest = Summary {
            origin: None,
            what: "x",
            repeats: 100_000 - APART as u64,
        };
        assert_eq!(notices.due(at(61)), [rest]);
        assert!(notices.note(at(62), origin(7), "x"), "there is room again");
    }
}
