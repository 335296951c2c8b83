//! Decisions from numbers: when to seal a point, which point to expire, how long to wait before the next attempt,
//! what the health is. Pure; the engine carries them out.

mod silence;

use crate::api::ReplicationHealth as Health;
use crate::api::ReplicationMode as Mode;
use crate::api::ReplicationState as State;
use crate::hint::Note;
use crate::problem::Finding;
use crate::problem::ProblemKind as Kind;
use crate::settings::ReplicationSettings;
pub use silence::{
    BACKLOG_BYTES, BACKLOG_LOGS, Patience, STORAGE_PATIENCE, backlog_full, keep_alive, patience,
};
use std::time::Duration;

/// Points above the base that may exist at once. Image chains are measured to stay quick below 50 layers.
pub const MAX_POINTS: usize = 40;

/// Points among which the time is divided for which a host insists on keeping them: what is left of [`MAX_POINTS`] is for
/// points from before that was asked for, and for tests and failovers that keep the oldest.
pub const POINTS_OF_TIME: u32 = 32;

/// How long a replica keeps what it has: what its primary asks for, and what its own host insists on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Points kept beside the newest.
    history: usize,
    /// Time between kept points.
    spacing: Duration,
    /// Time for which every instant can be replayed.
    window: Duration,
    /// Time for which a point is kept whatever the primary asks for; zero: no such time.
    at_least: Duration,
    /// Nothing expires until an administrator has decided.
    held: Option<Held>,
}

/// A hold on what a replica has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Progress of the replica since the hold began.
    pub since: Duration,
    /// Time for which every instant could be replayed when it began; zero: logs are not held.
    pub window: Duration,
}

/// How long a hold keeps logs beside points. Logs take as much room as the guest changes, points take what differs between
/// them: held until an administrator decides, logs would fill the disk and end replication.
pub const LOGS_HELD: Duration = Duration::from_secs(24 * 3600);

impl Retention {
    /// What follows from the settings, on a host that insists on keeping points for this time.
    #[must_use]
    pub fn new(settings: &ReplicationSettings, at_least: Duration) -> Self {
        Self {
            history: settings.history.into(),
            spacing: Duration::from_secs(settings.point_spacing_s.into()),
            window: Duration::from_secs(settings.any_point_window_s.into()),
            at_least,
            held: None,
        }
    }

    /// The same while what there is is held.
    #[must_use]
    pub fn held(self, held: Option<Held>) -> Self {
        Self { held, ..self }
    }

    /// Whether a point is to be sealed at the newest applied instant, which came this long after the newest point (`None`:
    /// there is no point). An application-consistent instant always becomes one, because replaying logs beside it would
    /// only give crash-consistent neighbours; the spacing counts on from it. Where points are kept for a time, none comes
    /// so soon that a chain could not hold them all: a primary that makes many must not push the old ones out.
    #[must_use]
    pub fn seal_due(&self, since_newest: Option<Duration>, application: bool) -> bool {
        since_newest.is_none_or(|passed| passed >= self.closest() && (application || passed >= self.spacing))
    }

    /// The shortest time between two points: so that those of the insisted time fit into a chain, and, while nothing expires,
    /// so that each new one comes after twice the time of the one before. A dozen points last for weeks then.
    fn closest(&self) -> Duration {
        let of_hold = self.held.map_or(Duration::ZERO, |h| h.since / 2);
        (self.at_least / POINTS_OF_TIME).max(of_hold)
    }

    /// Whether the oldest point is to be merged into the base. `ages` are those of all points, oldest first, counted back
    /// from the newest data that is here. Points beyond the history stay while the any-point window needs them to start
    /// replaying from, and while the host insists on them: then the VM as it was that long ago can be had.
    #[must_use]
    pub fn expire_due(&self, ages: &[Duration]) -> bool {
        match ages {
            [_, second, ..] if self.held.is_none() && ages.len() > self.history + 1 => {
                *second >= self.at_least && (ages.len() > MAX_POINTS || *second >= self.window)
            }
            _ => false,
        }
    }

    /// The newest of these points, given by their ages as for [`Self::expire_due`], from which every instant of the
    /// any-point window can be replayed. No log up to it is needed any more, each later one is: a log within the window is
    /// worth nothing without those between it and the point before it.
    #[must_use]
    pub fn replays_from(&self, ages: &[Duration]) -> Option<usize> {
        let held = self.held.filter(|h| !h.window.is_zero());
        let held = held.map_or(Duration::ZERO, |h| h.window + h.since.min(LOGS_HELD));
        ages.iter().rposition(|age| *age >= self.window.max(held))
    }
}

/// Whether the next instant of a running VM is to be application-consistent, given the time since the last one that was
/// tried (`None`: none was).
#[must_use]
pub fn application_due(settings: &ReplicationSettings, since_last: Option<Duration>) -> bool {
    let every = Duration::from_secs(u64::from(settings.application_h) * 3600);
    !every.is_zero() && since_last.is_none_or(|passed| passed >= every)
}

/// Time after which an application-consistent instant that came out crash-consistent is tried again, when it is not due
/// before by its hours: soon, and not so often that a guest which cannot be frozen is disturbed each cycle.
pub const APPLICATION_RETRY: Duration = Duration::from_secs(300);

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

/// Granularity of dirty bitmaps in bytes, and the cluster size of replica layers, so that applying a change
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

/// How long others may use a VM's disks before cycles that wait for them are a problem.
pub const BUSY_PATIENCE: Duration = Duration::from_secs(600);

/// What the health is computed from.
#[derive(Clone, Debug)]
pub struct HealthInput<'a> {
    /// Role of this side.
    pub mode: Mode,
    /// State of this side.
    pub state: State,
    /// Something is wrong now: attempts so far, and what it is. How bad it is, is decided here.
    pub problem: Option<(u32, Finding)>,
    /// Time since the last delta was sent or received; `None` when none ever was.
    pub idle: Option<Duration>,
    /// Cycles completed and missed in the window.
    pub cycles: u64,
    /// Cycles that were due in the window and did not take place.
    pub missed: u64,
    /// Mean time from instant to durable in the window, and the interval it should not exceed; `None` without a cycle.
    pub latency: Option<(Duration, Duration)>,
    /// Nothing can have changed since the last delta (powered off and settled).
    pub settled: bool,
    /// The last instant that was to be application-consistent came out crash-consistent.
    pub application_failed: bool,
    /// What of the machine around the disks needs a look, in words.
    pub machine: &'a [String],
    /// Data that only this copy has is kept beside it until an administrator drops it.
    pub abandoned: bool,
    /// Why this host takes nothing from the primary any more; `None` while it does, and on a primary.
    pub unauthorized: Option<Note>,
    /// What else was found on this host.
    pub findings: &'a [Finding],
}

/// Health by the documented rules, with the reasons. Where the documents are silent: a resynchronization under way
/// is a warning, a suspended one critical; a prepared VM is healthy and says why it cannot be started.
#[must_use]
pub fn health(input: &HealthInput<'_>) -> (Health, Vec<Finding>) {
    if input.mode == Mode::None || input.state == State::Disabled {
        return (Health::NotApplicable, Vec::new());
    }
    let mut found = Vec::new();
    if let Some((attempts, problem)) = &input.problem {
        let cured_by_retry = *attempts < FAULT_AFTER_ATTEMPTS && input.state != State::Critical;
        found.push(problem.clone().only(if cured_by_retry {
            Health::Warning
        } else {
            Health::Critical
        }));
    }
    found.extend(by_state(input.mode, input.state, input.problem.is_some()));
    flow(input, &mut found);
    if let Some(why) = &input.unauthorized {
        found.push(Finding::critical(Kind::NotReceiving, why.clone()));
    }
    if input.application_failed {
        let text = "the last application-consistent point could only be made crash-consistent";
        found.push(Finding::warning(Kind::ApplicationFailed, text));
    }
    found.extend(input.findings.iter().cloned());
    let machine = input.machine.iter();
    found.extend(machine.map(|text| Finding::warning(Kind::Preflight, text).about(text)));
    if input.abandoned {
        let text = "what this copy alone had before the roles changed is kept beside it; drop it when it is not needed";
        found.push(Finding::warning(Kind::AbandonedKept, text));
    }
    let worst = found.iter().map(|f| f.health).max().unwrap_or(Health::Ok);
    let mut notes: Vec<Finding> = Vec::new();
    for finding in found {
        // A fault and a finding may be the same thing, seen twice.
        if !notes.iter().any(|known| known.same(&finding)) {
            notes.push(finding);
        }
    }
    (worst.max(Health::Ok), notes)
}

/// What a state says by itself.
fn by_state(mode: Mode, state: State, explained: bool) -> Option<Finding> {
    let primary = mode == Mode::Primary;
    let (health, kind, text) = match state {
        State::Critical if !explained => (Health::Critical, Kind::InError, "replication is in error"),
        State::WaitingToStartResynchronization => (
            Health::Critical,
            Kind::ResyncRequired,
            "resynchronization is required",
        ),
        State::Resynchronizing => (
            Health::Warning,
            Kind::Resynchronizing,
            "resynchronizing: no new recovery point until it is complete, earlier ones stay valid",
        ),
        State::ResynchronizationSuspended => (
            Health::Critical,
            Kind::ResyncSuspended,
            "the resynchronization is suspended",
        ),
        State::ReadyForReplication | State::WaitingToCompleteInitialReplication => (
            Health::Warning,
            Kind::CopyIncomplete,
            "the initial copy is not complete",
        ),
        State::Suspended if primary => (Health::Warning, Kind::Suspended, "replication is suspended here"),
        State::Suspended => (Health::Critical, Kind::Suspended, "receiving is suspended here"),
        State::SyncedReplicationComplete => (
            Health::Ok,
            Kind::Prepared,
            "prepared for a planned failover: the VM cannot be started here until it is carried out or cancelled",
        ),
        State::FailoverInProgress | State::Recovered | State::Committed => (
            Health::Warning,
            Kind::Unprotected,
            "failed over and not reversed: the VM is unprotected",
        ),
        State::Disabled
        | State::Replicating
        | State::Critical
        | State::FailbackInProgress
        | State::FailbackComplete
        | State::DiskUpdateInProgress
        | State::DiskUpdateCritical
        | State::Unknown
        | State::RepurposeReplicationInProgress
        | State::PreparedForSyncReplication
        | State::PreparedForGroupReverseReplication
        | State::FiredrillInProgress => return None,
    };
    Some(Finding::new(health, kind, text))
}

/// What the flow of data says; only where it should flow.
fn flow(input: &HealthInput<'_>, found: &mut Vec<Finding>) {
    if !matches!(input.state, State::Replicating | State::Critical) {
        return;
    }
    if !input.settled && input.idle.is_some_and(|d| d > Duration::from_secs(3600)) {
        let text = if input.mode == Mode::Primary {
            "nothing was sent for more than an hour"
        } else {
            "nothing was received for more than an hour"
        };
        found.push(Finding::warning(Kind::Idle, text));
    }
    let due = input.cycles + input.missed;
    if input.missed * 5 > due {
        let text = format!("{} of {due} cycles were missed", input.missed);
        found.push(Finding::warning(Kind::CyclesMissed, text));
    }
    if let Some((mean, interval)) = input.latency.filter(|(mean, interval)| mean > interval) {
        let text = format!(
            "a cycle takes {:.1} s on average, the interval is {} s",
            mean.as_secs_f64(),
            interval.as_secs()
        );
        found.push(Finding::warning(Kind::CyclesSlow, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::DiskId;

    fn retention(history: u16, spacing: u32, window: u32) -> Retention {
        Retention::new(&settings(history, spacing, window), Duration::ZERO)
    }

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
        let s = retention(3, 60, 0);
        let passed = |ms| Some(Duration::from_millis(ms));
        assert!(s.seal_due(None, false));
        assert!(!s.seal_due(passed(59_999), false));
        assert!(s.seal_due(passed(10), true));
        assert!(s.seal_due(passed(60_000), false));
    }

    #[test]
    fn history_is_kept_and_the_window_stays_covered() {
        let ages = |s: &[u64]| s.iter().map(|x| Duration::from_secs(*x)).collect::<Vec<_>>();
        assert!(
            !retention(2, 60, 0).expire_due(&ages(&[9, 8, 7])),
            "history 2 keeps the latest and two more"
        );
        assert!(retention(2, 60, 0).expire_due(&ages(&[9, 8, 7, 6])));
        assert!(
            !retention(0, 60, 100).expire_due(&ages(&[150, 50, 1])),
            "the second does not reach back 100 s"
        );
        assert!(retention(0, 60, 100).expire_due(&ages(&[150, 100, 1])));
        assert!(
            !retention(0, 60, 0).expire_due(&ages(&[150])),
            "the last point is never merged away"
        );
        let many: Vec<u64> = (0..=MAX_POINTS as u64).map(|x| 10 - x / 10).collect();
        assert!(
            retention(0, 60, 3600).expire_due(&ages(&many)),
            "the chain is bounded before the window is"
        );
    }

    #[test]
    fn what_the_host_insists_on_is_kept_whatever_the_primary_asks_for() {
        let week = Duration::from_secs(7 * 86_400);
        let s = Retention::new(&settings(0, 1, 0), week);
        let days = |d: &[u64]| {
            d.iter()
                .map(|d| Duration::from_secs(d * 86_400))
                .collect::<Vec<_>>()
        };
        assert!(
            !s.expire_due(&days(&[8, 6, 0])),
            "the VM of 7 days ago is in the oldest"
        );
        assert!(s.expire_due(&days(&[8, 7, 0])));
        let many: Vec<Duration> = (0..MAX_POINTS as u64 + 10)
            .rev()
            .map(Duration::from_secs)
            .collect();
        assert!(!s.expire_due(&many), "not for being too many either");
        // A primary that makes points each second, application-consistent ones among them.
        let (mut points, mut now) = (vec![Duration::ZERO], Duration::ZERO);
        let mut most = 0;
        for _ in 0..3 * 7 * 24 * 60 {
            now += Duration::from_secs(60);
            if s.seal_due(points.last().map(|p| now - *p), true) {
                points.push(now);
            }
            let ages: Vec<Duration> = points.iter().map(|p| now - *p).collect();
            if s.expire_due(&ages) {
                points.remove(0);
            }
            most = most.max(points.len());
            let reaches = now < week || now - points[0] >= week;
            assert!(reaches, "{now:?}: the oldest is {:?} old", now - points[0]);
        }
        assert!(most <= MAX_POINTS, "{most}");
    }

    #[test]
    fn a_hold_keeps_every_point_and_makes_few_new_ones() {
        let hour = Duration::from_secs(3600);
        let kept = retention(3, 300, 600);
        let held = |since: Duration, window| {
            kept.clone().held(Some(Held {
                since,
                window: Duration::from_secs(window),
            }))
        };
        let ages: Vec<_> = (0..30).rev().map(|n| hour * n).collect();
        assert!(kept.expire_due(&ages));
        assert!(!held(hour, 600).expire_due(&ages));
        // From 30 points on: a new one each time it is due, for six weeks.
        let (mut last, mut made) = (Duration::ZERO, 0);
        for minute in 1..42 * 24 * 60 {
            let now = Duration::from_secs(60 * minute);
            if held(now, 600).seal_due(Some(now - last), true) {
                (last, made) = (now, made + 1);
            }
        }
        assert!((5..=MAX_POINTS - 24).contains(&made), "{made}");
        // Logs: what could be replayed when it began, for a day; then the window moves on.
        let ages = |s: &[u64]| {
            s.iter()
                .map(|h| hour * u32::try_from(*h).unwrap())
                .collect::<Vec<_>>()
        };
        let (day, of) = (hour * 24, ages(&[60, 25, 24, 3, 0]));
        assert_eq!(kept.replays_from(&of), Some(3));
        assert_eq!(held(hour * 20, 3600).replays_from(&of), Some(2));
        assert_eq!(held(day, 3600).replays_from(&of), Some(1));
        assert_eq!(
            held(day * 2, 3600).replays_from(&of),
            Some(1),
            "a day and the window"
        );
        assert_eq!(held(day, 0).replays_from(&of), Some(3), "logs are not held");
    }

    #[test]
    fn logs_are_kept_from_the_point_before_the_window() {
        let table: [(u32, &[u64], Option<usize>); 5] = [
            (600, &[900, 601, 300], Some(1)),
            (600, &[900, 600, 300], Some(1)),
            (600, &[900, 599, 300], Some(0)),
            (600, &[599, 300], None),
            (0, &[10, 0], Some(1)),
        ];
        for (window, ages, from) in table {
            let of: Vec<Duration> = ages.iter().map(|s| Duration::from_secs(*s)).collect();
            assert_eq!(
                retention(1, 60, window).replays_from(&of),
                from,
                "{window} {ages:?}"
            );
        }
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
    fn application_consistent_instants_come_every_so_many_hours() {
        let never = settings(3, 60, 0);
        assert!(!application_due(&never, None));
        let hours = ReplicationSettings {
            application_h: 2,
            ..never
        };
        assert!(application_due(&hours, None), "the first at once");
        let passed = |ms| Some(Duration::from_millis(ms));
        assert!(!application_due(&hours, passed(7_199_999)));
        assert!(application_due(&hours, passed(7_200_000)));
    }

    type Change = fn(&mut HealthInput<'static>);

    /// What is changed on a healthy relationship, the health it leads to, and a word of the reason.
    const RULES: &[(Mode, Change, Health, &str)] = {
        use {Health as H, Mode as M, State as S};
        &[
            (M::Primary, |_| {}, H::Ok, ""),
            (M::Replica, |_| {}, H::Ok, ""),
            (M::None, |_| {}, H::NotApplicable, ""),
            (M::Primary, |i| i.state = S::Disabled, H::NotApplicable, ""),
            (M::Primary, |i| i.missed = 25, H::Ok, ""),
            (M::Primary, |i| i.missed = 26, H::Warning, "26 of 126 cycles"),
            (
                M::Primary,
                |i| i.idle = Some(Duration::from_secs(3600)),
                H::Ok,
                "",
            ),
            (
                M::Primary,
                |i| i.idle = Some(Duration::from_secs(3601)),
                H::Warning,
                "sent",
            ),
            (
                M::Replica,
                |i| i.idle = Some(Duration::from_secs(3601)),
                H::Warning,
                "received",
            ),
            (
                M::Primary,
                |i| (i.idle, i.settled) = (Some(Duration::from_secs(9999)), true),
                H::Ok,
                "",
            ),
            (
                M::Primary,
                |i| i.latency = Some((Duration::from_secs(30), Duration::from_secs(30))),
                H::Ok,
                "",
            ),
            (
                M::Primary,
                |i| i.latency = Some((Duration::from_millis(30_100), Duration::from_secs(30))),
                H::Warning,
                "30.1 s on average",
            ),
            (M::Primary, |i| i.problem = Some((1, problem())), H::Warning, "x"),
            (M::Primary, |i| i.problem = Some((3, problem())), H::Critical, "x"),
            (M::Primary, |i| i.state = S::Critical, H::Critical, "in error"),
            (
                M::Primary,
                |i| i.state = S::ReadyForReplication,
                H::Warning,
                "initial copy",
            ),
            (
                M::Replica,
                |i| i.state = S::WaitingToCompleteInitialReplication,
                H::Warning,
                "initial copy",
            ),
            (M::Primary, |i| i.state = S::Suspended, H::Warning, "suspended"),
            (M::Replica, |i| i.state = S::Suspended, H::Critical, "suspended"),
            (
                M::ExtendedReplica,
                |i| i.state = S::Suspended,
                H::Critical,
                "suspended",
            ),
            (
                M::Primary,
                |i| i.state = S::WaitingToStartResynchronization,
                H::Critical,
                "required",
            ),
            (
                M::Primary,
                |i| i.state = S::Resynchronizing,
                H::Warning,
                "resynchronizing",
            ),
            (
                M::Replica,
                |i| i.state = S::Resynchronizing,
                H::Warning,
                "resynchronizing",
            ),
            (
                M::Primary,
                |i| i.state = S::ResynchronizationSuspended,
                H::Critical,
                "suspended",
            ),
            (
                M::Primary,
                |i| i.state = S::SyncedReplicationComplete,
                H::Ok,
                "prepared",
            ),
            (
                M::Replica,
                |i| i.state = S::FailoverInProgress,
                H::Warning,
                "unprotected",
            ),
            (M::Replica, |i| i.state = S::Recovered, H::Warning, "unprotected"),
            (M::Replica, |i| i.state = S::Committed, H::Warning, "unprotected"),
            (
                M::Primary,
                |i| i.application_failed = true,
                H::Warning,
                "crash-consistent",
            ),
            (M::Replica, |i| i.abandoned = true, H::Warning, "drop it"),
            (
                M::Replica,
                |i| i.unauthorized = Some("no entry".into()),
                H::Critical,
                "no entry",
            ),
        ]
    };

    fn problem() -> Finding {
        Finding::warning(Kind::PeerUnreachable, "x")
    }

    #[test]
    fn health_follows_the_rules() {
        for (n, (mode, change, want, word)) in RULES.iter().enumerate() {
            let mut input = HealthInput {
                mode: *mode,
                state: State::Replicating,
                problem: None,
                idle: Some(Duration::from_secs(5)),
                cycles: 100,
                missed: 20,
                latency: None,
                settled: false,
                application_failed: false,
                machine: &[],
                abandoned: false,
                unauthorized: None,
                findings: &[],
            };
            change(&mut input);
            let (got, notes) = health(&input);
            assert_eq!(got, *want, "rule {n}: {notes:?}");
            assert_eq!(notes.is_empty(), word.is_empty(), "rule {n}: {notes:?}");
            assert!(notes.iter().all(|n| n.text.contains(word)), "rule {n}: {notes:?}");
        }
    }

    #[test]
    fn the_worst_of_several_reasons_counts_and_all_are_told() {
        let machine = ["no /dev/kvm".to_owned(), "no firmware".to_owned()];
        let input = HealthInput {
            mode: Mode::Primary,
            state: State::WaitingToStartResynchronization,
            problem: Some((1, Finding::warning(Kind::TrackingLost, "tracking was lost"))),
            idle: None,
            cycles: 0,
            missed: 0,
            latency: None,
            settled: false,
            application_failed: false,
            machine: &machine,
            abandoned: false,
            unauthorized: None,
            findings: &[Finding::warning(Kind::ClockJumped, "the clock jumped")],
        };
        let (got, notes) = health(&input);
        assert_eq!((got, notes.len()), (Health::Critical, 5), "{notes:?}");
        // What was seen twice is told once, however it is said the second time.
        let again = [Finding::warning(Kind::TrackingLost, "its record is gone")];
        let (_, twice) = health(&HealthInput {
            findings: &again,
            ..input
        });
        assert_eq!(twice.len(), 4, "{twice:?}");
    }
}
