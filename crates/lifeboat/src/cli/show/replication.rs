//! How replication is doing, as text: the table of all VMs, the sheet of one, its statistics.

use super::{Names, addresses, dash, name_of, names, power, random, reference, sheet, table};
use crate::cli::hint;
use crate::cli::units::{self};
use crate::cli::units::{instant, size, span};
use jiff::tz::TimeZone;
use lifeboat_engine::action::{
    AbandonedView, BacklogView, BulkView, ContactView, ExtendedView, FailoverStage, FailoverView,
    KnownKeyView, PlannedStage, PlannedView, ReplicationView, SplitStage, SplitView, SynchronizationReason,
    SynchronizationView, TestStage, TestView, VmView,
};
use lifeboat_engine::problem::Problem;
use lifeboat_model::{FailedOverReplicationType, Finding, ReplicationMode, ReplicationState};
use std::time::Duration;

type Row = (&'static str, String);

/// This side's part, in words.
pub(super) fn role(mode: ReplicationMode) -> &'static str {
    match mode {
        ReplicationMode::None => "-",
        ReplicationMode::Primary => "primary",
        ReplicationMode::Replica => "replica",
        ReplicationMode::TestReplica => "test replica",
        ReplicationMode::ExtendedReplica => "extended replica",
    }
}

/// Whether the disks are copies of another host's.
fn is_replica(r: &ReplicationView) -> bool {
    matches!(
        r.mode,
        ReplicationMode::Replica | ReplicationMode::ExtendedReplica
    )
}

/// Whether data is still to come, ever: after a commit it is not, and how old the last was says nothing.
fn is_over(r: &ReplicationView) -> bool {
    r.state == ReplicationState::Committed
}

fn lag(r: &ReplicationView) -> String {
    if is_over(r) {
        return "-".to_owned();
    }
    dash(r.lag_ms, |ms| span(Duration::from_millis(ms)))
}

/// State by its API name; with how far the initial copy is, while it lasts.
pub(super) fn state(r: &ReplicationView) -> String {
    match copied(r) {
        Some((done, total)) => format!("{} {}%", r.state, done.saturating_mul(100) / total.max(1)),
        None => r.state.to_string(),
    }
}

fn copied(r: &ReplicationView) -> Option<(u64, u64)> {
    if r.bulk.is_empty() {
        return None;
    }
    let sum = |f: fn(&BulkView) -> u64| r.bulk.iter().map(f).fold(0, u64::saturating_add);
    Some((sum(|b| b.done), sum(|b| b.size)))
}

/// The one thing to know first.
fn trouble(vm: &str, r: &ReplicationView) -> String {
    if let Some(s) = &r.split {
        return format!("split: {}", s.theirs);
    }
    match &r.problem {
        Some(p) => hint::told(&p.message, p.hint.as_ref(), Some(vm)),
        None if !r.health_notes.is_empty() => {
            let notes: Vec<String> = r.health_notes.iter().map(|n| told(n, vm)).collect();
            notes.join("; ")
        }
        None if !r.preflight.is_empty() => {
            format!("would not start on the replica: {}", r.preflight.join("; "))
        }
        None => {
            let there = r.outgoing().filter_map(|e| Some((e, e.problem.as_ref()?)));
            let told = there.map(|(e, p)| {
                let message = hint::told(&p.message, p.hint.as_ref(), Some(vm));
                format!("to {}: {message}", e.peer)
            });
            let told: Vec<String> = told.collect();
            if told.is_empty() {
                "-".into()
            } else {
                told.join("; ")
            }
        }
    }
}

/// `replication status`: the table for three in the morning.
pub(crate) fn status(vms: &[VmView], zone: &TimeZone) -> String {
    let names = names(vms);
    let rows = vms.iter().filter_map(|v| {
        let r = v.replication.as_ref()?;
        Some(vec![
            name_of(v.spec.uuid, &names),
            role(r.mode).into(),
            state(r),
            r.health.to_string(),
            lag(r),
            dash(r.newest_instant.filter(|_| !is_over(r)), |at| instant(at, zone)),
            r.peer.clone(),
            trouble(&v.spec.name, r),
        ])
    });
    table(
        &[
            "VM", "ROLE", "STATE", "HEALTH", "LAG", "NEWEST", "PEER", "PROBLEM",
        ],
        rows,
    )
}

fn none(v: &VmView) -> String {
    sheet(&[("vm", v.spec.name.clone()), ("replication", "none".into())])
}

/// `replication status VM`.
pub(crate) fn replication(v: &VmView, names: &Names, zone: &TimeZone) -> String {
    let Some(r) = &v.replication else {
        return none(v);
    };
    let mut rows = condition(v, r, names, zone);
    rows.push(("peer", r.peer.clone()));
    rows.extend(r.allowed.iter().map(|entry| ("takes from", entry.clone())));
    if !is_over(r) {
        rows.push(("lag", lag(r)));
        rows.push(("newest data", dash(r.newest_instant, |at| instant(at, zone))));
        rows.push(("last cycle", dash(r.last_replication, |at| instant(at, zone))));
        rows.extend(r.contact.iter().map(|c| contact(r, c, zone)));
        rows.extend(r.backlog.iter().map(backlog));
    }
    rows.extend(r.dir.iter().map(|dir| {
        let encryption = r.at_rest.as_ref().map(|a| format!(", {}", super::at_rest(a)));
        ("files", format!("{dir}{}", encryption.unwrap_or_default()))
    }));
    rows.extend(under_way(v, r, names, zone));
    rows.extend(r.outgoing().flat_map(|e| extended(&v.spec.name, e, zone)));
    if !is_over(r) {
        rows.extend(wanted(r));
        rows.extend(figures(r));
    }
    sheet(&rows)
}

/// When what is shown was confirmed last, by hearing the other side.
fn contact(r: &ReplicationView, c: &ContactView, zone: &TimeZone) -> Row {
    let ago = span(Duration::from_millis(c.silent_ms));
    let text = match c.heard {
        Some(at) => format!("{} was last heard {ago} ago, at {}", r.peer, instant(at, zone)),
        None => format!("{} was not heard since this daemon started {ago} ago", r.peer),
    };
    ("verified", text)
}

/// What waits on the replica.
fn backlog(b: &BacklogView) -> Row {
    let oldest = b
        .age_ms
        .map(|ms| format!(", the oldest for {}", span(Duration::from_millis(ms))));
    let text = format!(
        "{} logs ({}) are safe on the replica and wait to be applied{}",
        b.logs,
        size(b.bytes),
        oldest.unwrap_or_default()
    );
    ("backlog", text)
}

/// A finding as a sentence, with the command to type.
fn told(found: &Finding, vm: &str) -> String {
    hint::told(&found.text, found.hint.as_ref(), Some(vm))
}

/// Whether a finding is the problem itself, which is shown with its time.
fn is_problem(found: &Finding, problem: Option<&Problem>) -> bool {
    problem.is_some_and(|p| p.kind == found.kind && found.subject.is_none())
}

/// What it is and what is wrong with it.
fn condition(v: &VmView, r: &ReplicationView, names: &Names, zone: &TimeZone) -> Vec<Row> {
    let mut rows = vec![
        ("vm", format!("{} ({})", v.spec.name, power(v.power))),
        ("role", role(r.mode).into()),
        ("state", format!("{} ({})", r.state, r.state.number())),
        ("health", r.health.to_string()),
    ];
    // The problem is shown below, with its time.
    let name = &v.spec.name;
    let shown = r
        .health_notes
        .iter()
        .filter(|n| !is_problem(n, r.problem.as_ref()));
    rows.extend(shown.map(|note| ("because", told(note, name))));
    if let Some(p) = &r.problem {
        rows.push(("problem", hint::told(&p.message, p.hint.as_ref(), Some(name))));
        rows.push((
            "since",
            format!("{}, {} attempts", instant(p.since, zone), p.attempts),
        ));
    }
    if let Some(s) = &r.split {
        rows.extend(split(v, r, s, names, zone));
    }
    let place = if is_replica(r) { "here" } else { "there" };
    let preflight = r.preflight.iter();
    rows.extend(preflight.map(|why| ("preflight", format!("would not start {place}: {why}"))));
    rows
}

/// What each side has, and what can be done.
fn split(v: &VmView, r: &ReplicationView, s: &SplitView, names: &Names, zone: &TimeZone) -> Vec<Row> {
    let (vm, it) = (&v.spec.name, reference(v, names));
    let shared = dash(r.newest_instant, |at| instant(at, zone));
    let mut rows = vec![
        (
            "split",
            format!(
                "{} went on without this host; known since {}",
                r.peer,
                instant(s.since, zone)
            ),
        ),
        ("there", s.theirs.clone()),
        (
            "here",
            format!(
                "{} is {}; what it wrote after {shared} is on this host only",
                vm,
                power(v.power)
            ),
        ),
    ];
    if s.stage == SplitStage::Committed {
        rows.push((
            "to keep theirs",
            format!(
                "shut {vm} down here, then there: lifeboat replication reverse {it}; what only this host has is set aside"
            ),
        ));
        rows.push((
            "to keep ours",
            format!(
                "there: lifeboat vm stop {it}, and lifeboat replication remove {it}; then here: lifeboat replication remove \
                 {it}, enable it again, and lifeboat replication start {it} --seed"
            ),
        ));
    } else {
        rows.push(("to keep theirs", format!("there: lifeboat failover commit {it}")));
        rows.push(("to keep ours", format!("there: lifeboat failover revert {it}")));
    }
    rows
}

/// What goes on now, or waits to.
fn under_way(v: &VmView, r: &ReplicationView, names: &Names, zone: &TimeZone) -> Vec<Row> {
    let it = reference(v, names);
    let mut rows = Vec::new();
    for b in &r.bulk {
        rows.push((
            "initial copy",
            format!("{}: copied {} of {} of disk", b.disk, size(b.done), size(b.size)),
        ));
    }
    if let Some(at) = r.scheduled {
        let what = if r.state == ReplicationState::ReadyForReplication {
            "the initial copy"
        } else {
            "the resynchronization"
        };
        rows.push(("scheduled", format!("{what} begins at {}", instant(at, zone))));
    }
    rows.extend(r.sync.as_ref().map(|s| ("comparing", synchronization(r, s))));
    rows.extend(r.planned.as_ref().map(|p| ("planned", planned(&it, p))));
    rows.extend(r.failover.as_ref().map(|f| ("failover", failover(f, zone))));
    let unreached = r.failover.as_ref().and_then(|f| f.unreached.clone());
    rows.extend(unreached.map(|seen| ("primary", seen)));
    rows.extend(r.test.as_ref().map(|t| ("test", test(&it, t, names, zone))));
    if r.test.is_none() {
        rows.extend(r.last_test.map(|at| ("last test", instant(at, zone))));
    }
    if let Some(hold) = &r.hold {
        rows.push((
            "points held",
            format!(
                "since {}; to let them expire: lifeboat replication release-points {it}",
                instant(hold.since, zone)
            ),
        ));
    }
    if let Some(a) = &r.abandoned {
        rows.push(("abandoned", abandoned(a, zone)));
        rows.push((
            "to look at it",
            format!("lifeboat failover start {it} --test --point abandoned"),
        ));
        rows.push(("to drop it", format!("lifeboat replication drop-abandoned {it}")));
    }
    rows
}

/// An outgoing relationship, in a few lines of its own.
fn extended(vm: &str, e: &ExtendedView, zone: &TimeZone) -> Vec<Row> {
    let lag = dash(e.lag_ms, |ms| span(Duration::from_millis(ms)));
    let mut rows = vec![
        ("extended to", e.peer.clone()),
        (
            "there",
            format!(
                "{} ({}), {}, lag {lag}, newest data {}",
                e.state,
                e.state.number(),
                e.health,
                dash(e.newest_instant, |at| instant(at, zone))
            ),
        ),
    ];
    let shown = e
        .health_notes
        .iter()
        .filter(|n| !is_problem(n, e.problem.as_ref()));
    rows.extend(shown.map(|note| ("because", told(note, vm))));
    if let Some(p) = &e.problem {
        let since = format!(
            "{}; since {}, {} attempts",
            hint::told(&p.message, p.hint.as_ref(), Some(vm)),
            instant(p.since, zone),
            p.attempts
        );
        rows.push(("problem there", since));
    }
    rows.push((
        "sent there",
        format!(
            "{} in {} cycles, one each {}, {} failed",
            size(e.counters.bytes),
            e.counters.cycles,
            span(Duration::from_secs(e.settings.interval_s.into())),
            e.counters.failures
        ),
    ));
    rows
}

fn synchronization(r: &ReplicationView, s: &SynchronizationView) -> String {
    let with = match s.reason {
        SynchronizationReason::Resync => "with the replica",
        SynchronizationReason::Seed => "with the copy that the replica had",
        SynchronizationReason::Reverse => "with what the old primary has",
    };
    let at = match &s.at {
        Some(at) => format!("disk {} at {}", at.disk, size(at.offset)),
        None => "all disks compared".into(),
    };
    let paused = if r.state == ReplicationState::ResynchronizationSuspended {
        ", paused"
    } else {
        ""
    };
    format!("{with}: {at}, sent {}{paused}", size(s.sent))
}

fn planned(it: &str, p: &PlannedView) -> String {
    match p.stage {
        PlannedStage::ShuttingDown => "the guest is being shut down".into(),
        PlannedStage::SendingChanges => "the last changes are being sent".into(),
        PlannedStage::AskingReplica => {
            "everything is on the replica, the VM is locked off; the replica is asked to take over".into()
        }
        PlannedStage::Prepared => format!(
            "everything is on the replica, the VM is locked off; go on with: lifeboat failover start {it} --planned, or back \
             with: lifeboat failover cancel {it}"
        ),
        PlannedStage::HandingOver => "the replica takes over".into(),
    }
}

fn test(it: &str, t: &TestView, names: &Names, zone: &TimeZone) -> String {
    let phase = match t.stage {
        TestStage::Making => "is being made".into(),
        TestStage::Ready => format!("is there; end it with: lifeboat failover stop-test {it}"),
        TestStage::Ending => "is being thrown away".into(),
    };
    format!(
        "\"{}\", as of {}, {phase}",
        name_of(t.vm, names),
        instant(t.instant, zone)
    )
}

fn abandoned(a: &AbandonedView, zone: &TimeZone) -> String {
    format!(
        "what this host had and the other one never got, set aside {}",
        instant(a.at, zone)
    )
}

/// How it is meant to run.
fn wanted(r: &ReplicationView) -> Vec<Row> {
    let s = &r.settings;
    let seconds = |s: u32| span(Duration::from_secs(s.into()));
    let quiet = match s.application_h {
        0 => String::new(),
        h => format!(", application-consistent each {h}h"),
    };
    let mut rows = vec![
        ("position", r.position.to_string()),
        ("interval", seconds(s.interval_s.into())),
        (
            "points",
            format!(
                "{} more, {} apart, any cycle of the last {}{quiet}",
                s.history,
                seconds(s.point_spacing_s),
                seconds(s.any_point_window_s)
            ),
        ),
        (
            "disks",
            s.disks
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", "),
        ),
        ("compression", if s.compression { "on" } else { "off" }.into()),
        ("bandwidth", units::bandwidth(&s.bandwidth)),
        (
            "auto resync",
            s.auto_resync.map_or_else(|| "off".into(), units::window),
        ),
    ];
    rows.extend(r.keys.iter().map(known_key));
    for c in &r.network {
        let on = c
            .backend
            .as_ref()
            .map(|b| format!(", on {}", units::backend(b)))
            .unwrap_or_default();
        rows.push((
            "network",
            format!("{} after a failover: addresses {}{on}", c.mac, addresses(c)),
        ));
    }
    rows
}

fn known_key(k: &KnownKeyView) -> Row {
    let name = k
        .names
        .first()
        .or(k.addresses.first())
        .map_or("-", String::as_str);
    let next = k.next.map(|n| format!(", next {n}")).unwrap_or_default();
    ("key of peer", format!("{name}: {}{next}", k.key))
}

/// How it has run.
fn figures(r: &ReplicationView) -> Vec<Row> {
    let c = &r.counters;
    let latency = |ms| span(Duration::from_millis(ms));
    let mut rows = vec![
        (
            "cycles",
            format!("{}, {} failed, {} late", c.cycles, c.failures, c.missed),
        ),
        (
            "transferred",
            format!("{}, largest {}", size(c.bytes), size(c.largest)),
        ),
        (
            "latency",
            format!(
                "{}, at most {}",
                latency(c.last_latency_ms),
                latency(c.max_latency_ms)
            ),
        ),
    ];
    rows.extend(r.changes.map(|c| {
        let hour = format!(
            "{} in this hour, {} cannot be compressed; at most {} of that in an hour before",
            size(c.hour.touched()),
            random(c.hour),
            size(c.usual)
        );
        ("changes", hour)
    }));
    rows
}

/// `replication statistics VM`.
pub(crate) fn statistics(v: &VmView, names: &Names, zone: &TimeZone) -> String {
    let Some(r) = &v.replication else {
        return none(v);
    };
    let c = &r.counters;
    let latency = |ms| span(Duration::from_millis(ms));
    let mut rows = condition(v, r, names, zone);
    rows.push((
        "window since",
        c.since
            .map_or_else(|| "the beginning".into(), |at| instant(at, zone)),
    ));
    rows.push(("lag", lag(r)));
    rows.push(("to be sent", dash(r.pending_bytes, size)));
    rows.push(("last cycle", dash(r.last_replication, |at| instant(at, zone))));
    rows.push(("cycles", c.cycles.to_string()));
    rows.push(("late", c.missed.to_string()));
    rows.push((
        "failed",
        format!("{}, of these {} by the network", c.failures, c.network_failures),
    ));
    rows.push((
        "degraded",
        format!(
            "{} that should have been application-consistent",
            c.application_failures
        ),
    ));
    rows.push(("transferred", size(c.bytes)));
    rows.push((
        "cycle size",
        format!(
            "{} on average, at most {}",
            size(c.bytes / c.cycles.max(1)),
            size(c.largest)
        ),
    ));
    rows.push((
        "latency",
        format!(
            "{} on average, at most {}, last {}",
            latency(c.total_latency_ms / c.cycles.max(1)),
            latency(c.max_latency_ms),
            latency(c.last_latency_ms)
        ),
    ));
    sheet(&rows)
}

fn failover(f: &FailoverView, zone: &TimeZone) -> String {
    let phase = match f.stage {
        FailoverStage::Starting => "being started",
        FailoverStage::TakingOver => "taking over",
        FailoverStage::Undecided => "to be reverted or committed",
        FailoverStage::Reverting => "being reverted",
        FailoverStage::Committing => "being committed",
        FailoverStage::Merging => "committed, disks are being merged",
        FailoverStage::Committed => "committed",
    };
    let consistency = match f.kind {
        FailedOverReplicationType::None => "of unknown consistency",
        FailedOverReplicationType::Regular => "crash-consistent",
        FailedOverReplicationType::ApplicationConsistent => "application-consistent",
        FailedOverReplicationType::Planned => "planned, nothing missing",
    };
    let then = match &f.reverses_to {
        Some(peer) => format!(", then replicated to {peer}"),
        None => String::new(),
    };
    format!("to {} ({consistency}), {phase}{then}", instant(f.instant, zone))
}
