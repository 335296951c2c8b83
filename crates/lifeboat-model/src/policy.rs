//! Decisions from numbers: when to seal a point, which point to expire, how long to wait before the next attempt,
//! what the health is. Pure; the engine carries them out.

use std::time::Duration;

use crate::api::{ReplicationHealth as Health, ReplicationMode as Mode, ReplicationState as State};
use crate::settings::ReplicationSettings;
use crate::time::Timestamp;

/// Points above the base that may exist at once. Image chains are measured to stay quick below 50 layers.
pub const MAX_POINTS: usize = 40;

/// Whether a point is to be sealed at `instant`, the newest applied one.
#[must_use]
pub fn seal_due(settings: &ReplicationSettings, newest_point: Option<Timestamp>, instant: Timestamp) -> bool {
    newest_point.is_none_or(|p| instant.since(p) >= Duration::from_secs(settings.point_spacing_s.into()))
}

/// Whether the oldest of `points` (instants, oldest first) is to be merged into the base. Points beyond the history stay
/// while the any-point window needs them to start replaying from.
#[must_use]
pub fn expire_due(settings: &ReplicationSettings, points: &[Timestamp], now: Timestamp) -> bool {
    let keep = usize::from(settings.history) + 1;
    let window = Duration::from_secs(settings.any_point_window_s.into());
    match points {
        [_, second, ..] if points.len() > keep => points.len() > MAX_POINTS || now.since(*second) >= window,
        _ => false,
    }
}

/// Logs with an instant before this are not needed for any-point recovery.
#[must_use]
pub fn logs_expire_before(settings: &ReplicationSettings, now: Timestamp) -> Timestamp {
    Timestamp(
        now.0
            .saturating_sub(u64::from(settings.any_point_window_s) * 1000),
    )
}

/// Time to wait after `attempts` failures in a row: 1, 2, 4, 8, 16, then 30 seconds for ever. Never gives up: a network
/// fault must not need a person.
#[must_use]
pub fn backoff(attempts: u32) -> Duration {
    Duration::from_secs(
        1u64.checked_shl(attempts.saturating_sub(1))
            .unwrap_or(u64::MAX)
            .clamp(1, 30),
    )
}

/// Bytes that one bit of a change record stands for, and the cluster size of replica layers, so that applying a change
/// copies nothing from below. Small, because each dirtied bit costs that much traffic and space; bounded, because a
/// record takes 8 MiB of memory, and a layer's first-level table 1 MiB, at the largest size of each step.
#[must_use]
pub fn change_granularity(disk_size: u64) -> u64 {
    const GIB: u64 = 1 << 30;
    match disk_size {
        s if s <= 256 * GIB => 4 << 10,
        s if s <= 4096 * GIB => 16 << 10,
        _ => 64 << 10,
    }
}

/// Failures in a row after which a network fault counts as one that retries have not cured.
pub const FAULT_AFTER_ATTEMPTS: u32 = 3;

/// What the health is computed from.
#[derive(Clone, Debug)]
pub struct HealthInput<'a> {
    /// Role of this side.
    pub mode: Mode,
    /// State of this side.
    pub state: State,
    /// Something is wrong now: attempts so far and its text.
    pub problem: Option<(u32, &'a str)>,
    /// Time since the last delta was sent or received; `None` when none ever was.
    pub idle: Option<Duration>,
    /// Cycles completed and missed in the window.
    pub cycles: u64,
    /// Of those, how many started late by more than an interval.
    pub missed: u64,
    /// Nothing can have changed since the last delta (powered off and settled).
    pub settled: bool,
}

/// Health by the documented rules, with the reasons in words.
#[must_use]
pub fn health(input: &HealthInput<'_>) -> (Health, Vec<String>) {
    if input.mode == Mode::None || input.state == State::Disabled {
        return (Health::NotApplicable, Vec::new());
    }
    let mut worst = Health::Ok;
    let mut notes = Vec::new();
    let mut note = |h: Health, text: String| {
        worst = worst.max(h);
        notes.push(text);
    };
    if let Some((attempts, text)) = input.problem {
        let cured_by_retry = attempts < FAULT_AFTER_ATTEMPTS && input.state != State::Critical;
        note(
            if cured_by_retry {
                Health::Warning
            } else {
                Health::Critical
            },
            text.to_owned(),
        );
    }
    match input.state {
        State::Critical if input.problem.is_none() => {
            note(Health::Critical, "replication is in error".into())
        }
        State::WaitingToStartResynchronization => {
            note(Health::Critical, "resynchronization is required".into())
        }
        State::ReadyForReplication | State::WaitingToCompleteInitialReplication => {
            note(Health::Warning, "the initial copy is not complete".into());
        }
        State::Suspended if input.mode == Mode::Primary => {
            note(Health::Warning, "replication is suspended here".into())
        }
        State::Suspended => note(Health::Critical, "receiving is suspended here".into()),
        State::Recovered | State::Committed => note(
            Health::Warning,
            "failed over and not reversed: the VM is unprotected".into(),
        ),
        _ => {}
    }
    let flowing = matches!(input.state, State::Replicating | State::Critical);
    if flowing && !input.settled && input.idle.is_some_and(|d| d > Duration::from_secs(3600)) {
        note(
            Health::Warning,
            "nothing was sent or received for more than an hour".into(),
        );
    }
    if flowing && input.missed * 5 > input.cycles + input.missed {
        note(
            Health::Warning,
            format!(
                "{} of {} cycles were missed",
                input.missed,
                input.cycles + input.missed
            ),
        );
    }
    (worst, notes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::DiskId;

    fn settings(history: u16, spacing: u32, window: u32) -> ReplicationSettings {
        ReplicationSettings {
            peer: "b:1".into(),
            interval_s: 30,
            history,
            point_spacing_s: spacing,
            any_point_window_s: window,
            disks: vec![DiskId::new("a").unwrap()],
            compression: true,
            application_h: 0,
            auto_resync: None,
            bandwidth: crate::Bandwidth::default(),
        }
    }

    #[test]
    fn a_point_each_spacing_and_the_first_at_once() {
        let s = settings(3, 60, 0);
        assert!(seal_due(&s, None, Timestamp(5)));
        assert!(!seal_due(&s, Some(Timestamp(0)), Timestamp(59_999)));
        assert!(seal_due(&s, Some(Timestamp(0)), Timestamp(60_000)));
        assert!(
            !seal_due(&s, Some(Timestamp(60_000)), Timestamp(0)),
            "a clock that went back seals nothing"
        );
    }

    #[test]
    fn history_is_kept_and_the_window_stays_covered() {
        let at = |s: &[u64]| s.iter().map(|x| Timestamp(x * 1000)).collect::<Vec<_>>();
        let now = Timestamp(1_000_000);
        assert!(
            !expire_due(&settings(2, 60, 0), &at(&[1, 2, 3]), now),
            "history 2 keeps the latest and two more"
        );
        assert!(expire_due(&settings(2, 60, 0), &at(&[1, 2, 3, 4]), now));
        assert!(
            !expire_due(&settings(0, 60, 100), &at(&[850, 950, 999]), now),
            "950 does not reach back 100 s"
        );
        assert!(expire_due(&settings(0, 60, 100), &at(&[850, 900, 999]), now));
        assert!(
            !expire_due(&settings(0, 60, 0), &at(&[850]), now),
            "the last point is never merged away"
        );
        let many: Vec<u64> = (0..=MAX_POINTS as u64).map(|x| 990 + x / 10).collect();
        assert!(
            expire_due(&settings(0, 60, 3600), &at(&many), now),
            "the chain is bounded before the window is"
        );
    }

    #[test]
    fn granularity_follows_the_size() {
        let table = [
            (1, 4096),
            (256 << 30, 4096),
            ((256 << 30) + 512, 16384),
            (4 << 40, 16384),
            ((4 << 40) + 512, 65536),
        ];
        for (size, expected) in table {
            assert_eq!(change_granularity(size), expected, "{size}");
        }
    }

    #[test]
    fn waiting_grows_and_ends_at_half_a_minute() {
        let s: Vec<u64> = (0..9).map(|n| backoff(n).as_secs()).collect();
        assert_eq!(s, [1, 1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(backoff(u32::MAX).as_secs(), 30);
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn health_follows_the_rules() {
        let base = HealthInput {
            mode: Mode::Primary,
            state: State::Replicating,
            problem: None,
            idle: Some(Duration::from_secs(5)),
            cycles: 100,
            missed: 20,
            settled: false,
        };
        let of = |i: HealthInput<'_>| health(&i).0;
        assert_eq!(of(base.clone()), Health::Ok);
        assert_eq!(
            of(HealthInput {
                missed: 26,
                ..base.clone()
            }),
            Health::Warning
        );
        assert_eq!(
            of(HealthInput {
                idle: Some(Duration::from_secs(3601)),
                ..base.clone()
            }),
            Health::Warning
        );
        assert_eq!(
            of(HealthInput {
                idle: Some(Duration::from_secs(3601)),
                settled: true,
                ..base.clone()
            }),
            Health::Ok
        );
        assert_eq!(
            of(HealthInput {
                problem: Some((1, "x")),
                ..base.clone()
            }),
            Health::Warning
        );
        assert_eq!(
            of(HealthInput {
                problem: Some((3, "x")),
                ..base.clone()
            }),
            Health::Critical
        );
        assert_eq!(
            of(HealthInput {
                state: State::Suspended,
                ..base.clone()
            }),
            Health::Warning
        );
        assert_eq!(
            of(HealthInput {
                state: State::Suspended,
                mode: Mode::Replica,
                ..base.clone()
            }),
            Health::Critical
        );
        assert_eq!(
            of(HealthInput {
                state: State::WaitingToStartResynchronization,
                ..base.clone()
            }),
            Health::Critical
        );
        assert_eq!(
            of(HealthInput {
                mode: Mode::None,
                ..base
            }),
            Health::NotApplicable
        );
    }
}
