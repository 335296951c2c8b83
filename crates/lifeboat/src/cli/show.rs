//! Answers as text for people: tables with one line per thing, and sheets with one line per property. Nothing here
//! asks or decides.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use jiff::tz::TimeZone;
use lifeboat_engine::action::{PointView, ReplicationView, ServerView, VmView};
use lifeboat_engine::ports::hypervisor::PowerState;
use lifeboat_engine::ports::store::Target;
use lifeboat_engine::records::{Event, Failover, FailoverPhase, Job};
use lifeboat_link::certs::CertInfo;
use lifeboat_model::vm::DiskBus;
use lifeboat_model::{
    AuthorizationEntry, DiskFormat, FailedOverReplicationType, JobState, JobType, ReplicationMode,
    ReplicationState, Timestamp, VmId,
};

use super::units::{instant, size, span};

/// Names of VMs by identity.
pub(crate) type Names = BTreeMap<VmId, String>;

/// Text that may come from another host, without anything a terminal would obey.
pub(crate) fn safe(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// A VM's name, or its identity when this host does not know it.
pub(crate) fn name_of(vm: VmId, names: &Names) -> String {
    names.get(&vm).cloned().unwrap_or_else(|| vm.to_string())
}

/// What a job does, in words.
pub(crate) fn title(kind: JobType) -> &'static str {
    match kind {
        JobType::ServerSettings => "server settings",
        JobType::CreateRelationship => "enable replication",
        JobType::ModifySettings => "change settings",
        JobType::RemoveRelationship => "remove replication",
        JobType::StartReplication => "start replication",
        JobType::StateChange => "change state",
        JobType::Failover => "failover",
        JobType::RevertFailover => "revert failover",
        JobType::CommitFailover => "commit failover",
        JobType::SendDelta => "send changes",
        JobType::ReceiveDelta => "receive changes",
        JobType::Resynchronize => "resynchronize",
        JobType::StopInitialReplication => "stop initial copy",
        JobType::TestConnection => "test connection",
        JobType::SendInitial => "initial copy",
    }
}

/// How a job stands, in words.
pub(crate) fn ending(state: JobState) -> &'static str {
    match state {
        JobState::New => "waiting",
        JobState::Starting => "starting",
        JobState::Running => "running",
        JobState::Suspended => "paused",
        JobState::ShuttingDown => "being cancelled",
        JobState::Completed => "completed",
        JobState::Terminated => "cancelled",
        JobState::Killed => "killed",
        JobState::Exception => "failed",
    }
}

/// How much of how much, when that makes sense. What an initial copy counts is disk, holes included, not what went over
/// the network.
pub(crate) fn amount(j: &Job) -> Option<String> {
    let of = || format!("{} of {}", size(j.done_bytes), size(j.total_bytes));
    match j.kind {
        _ if j.total_bytes == 0 => None,
        JobType::SendInitial => Some(format!("copied {} of disk", of())),
        _ => Some(of()),
    }
}

/// A job that has failed is not on its way to anything.
fn percent(j: &Job) -> Option<String> {
    let lost = j.state.is_final() && j.state != JobState::Completed;
    (!lost).then(|| format!("{}%", j.percent))
}

fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head);
    for row in rows {
        table.add_row(row.iter().map(|cell| safe(cell)).collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

fn sheet(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(k, _)| k.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (key, value) in rows {
        let _ = writeln!(
            text,
            "{:<width$}  {}",
            format!("{key}:"),
            safe(value),
            width = width + 1
        );
    }
    text
}

fn dash<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

fn power(p: PowerState) -> &'static str {
    match p {
        PowerState::Off => "off",
        PowerState::Running => "running",
        PowerState::Paused => "paused",
        PowerState::Stalled => "stalled",
    }
}

fn role(mode: ReplicationMode) -> &'static str {
    match mode {
        ReplicationMode::None => "-",
        ReplicationMode::Primary => "primary",
        ReplicationMode::Replica => "replica",
        ReplicationMode::TestReplica => "test replica",
        ReplicationMode::ExtendedReplica => "extended replica",
    }
}

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
fn state(r: &ReplicationView) -> String {
    match copied(r) {
        Some((done, total)) => format!("{} {}%", r.state, done.saturating_mul(100) / total.max(1)),
        None => r.state.to_string(),
    }
}

fn copied(r: &ReplicationView) -> Option<(u64, u64)> {
    if r.bulk.is_empty() {
        return None;
    }
    let sum =
        |f: fn(&lifeboat_engine::action::BulkView) -> u64| r.bulk.iter().map(f).fold(0, u64::saturating_add);
    Some((sum(|b| b.progress.done), sum(|b| b.size)))
}

fn trouble(r: &ReplicationView) -> String {
    match &r.problem {
        Some(p) => p.message.clone(),
        None if !r.health_notes.is_empty() => r.health_notes.join("; "),
        None => "-".into(),
    }
}

/// `vm list`.
pub(crate) fn vms(vms: &[VmView]) -> String {
    let rows = vms.iter().map(|v| {
        let r = v.replication.as_ref();
        vec![
            v.spec.name.clone(),
            power(v.power).into(),
            v.spec.cpus.to_string(),
            size(u64::from(v.spec.memory_mib) << 20),
            v.spec
                .disks
                .iter()
                .map(|d| d.id.to_string())
                .collect::<Vec<_>>()
                .join(","),
            dash(r, |r| role(r.mode).into()),
            dash(r, state),
            dash(r, |r| r.health.to_string()),
        ]
    });
    table(
        &[
            "NAME",
            "POWER",
            "CPUS",
            "MEMORY",
            "DISKS",
            "ROLE",
            "REPLICATION",
            "HEALTH",
        ],
        rows,
    )
}

/// `replication status`: the table for three in the morning.
pub(crate) fn status(vms: &[VmView], zone: &TimeZone) -> String {
    let rows = vms.iter().filter_map(|v| {
        let r = v.replication.as_ref()?;
        Some(vec![
            v.spec.name.clone(),
            role(r.mode).into(),
            state(r),
            r.health.to_string(),
            lag(r),
            dash(r.newest_instant.filter(|_| !is_over(r)), |at| instant(at, zone)),
            r.peer.clone(),
            trouble(r),
        ])
    });
    table(
        &[
            "VM", "ROLE", "STATE", "HEALTH", "LAG", "NEWEST", "PEER", "PROBLEM",
        ],
        rows,
    )
}

/// `vm show`.
pub(crate) fn vm(v: &VmView, zone: &TimeZone) -> String {
    let s = &v.spec;
    let mut rows = vec![
        ("name", s.name.clone()),
        ("uuid", s.uuid.to_string()),
        ("power", power(v.power).into()),
        ("cpus", s.cpus.to_string()),
        ("memory", size(u64::from(s.memory_mib) << 20)),
        ("machine", format!("{}, cpu {}", s.machine, s.cpu)),
    ];
    let elsewhere = if v.replication.as_ref().is_some_and(is_replica) {
        ", path on the primary"
    } else {
        ""
    };
    for d in &s.disks {
        let format = match d.format {
            DiskFormat::Qcow2 => "qcow2",
            DiskFormat::Raw => "raw",
        };
        let bus = match d.bus {
            DiskBus::Virtio => "virtio",
            DiskBus::Scsi => "scsi",
            DiskBus::Ide => "ide",
        };
        rows.push((
            "disk",
            format!("{} {} ({format}, {bus}{elsewhere})", d.id, d.path),
        ));
    }
    rows.extend(s.nics.iter().map(|n| ("nic", n.mac.clone())));
    rows.push(("console", v.console.socket.to_string()));
    rows.push(("console log", v.console.log.to_string()));
    let mut text = sheet(&rows);
    if v.replication.is_some() {
        text.push('\n');
        text.push_str(&replication(v, zone));
    }
    text
}

/// `replication status VM`.
pub(crate) fn replication(v: &VmView, zone: &TimeZone) -> String {
    let Some(r) = &v.replication else {
        return sheet(&[("vm", v.spec.name.clone()), ("replication", "none".into())]);
    };
    let mut rows = vec![
        ("vm", format!("{} ({})", v.spec.name, power(v.power))),
        ("role", role(r.mode).into()),
        ("state", format!("{} ({})", r.state, r.state.number())),
        ("health", r.health.to_string()),
    ];
    // The problem is told below, with its time.
    let told = |note: &&String| r.problem.as_ref().is_none_or(|p| p.message != **note);
    rows.extend(
        r.health_notes
            .iter()
            .filter(told)
            .map(|note| ("because", note.clone())),
    );
    if let Some(p) = &r.problem {
        rows.push(("problem", p.message.clone()));
        rows.push((
            "since",
            format!("{}, {} attempts", instant(p.since, zone), p.attempts),
        ));
    }
    rows.push(("peer", r.peer.clone()));
    if !is_over(r) {
        rows.push(("lag", lag(r)));
        rows.push(("newest data", dash(r.newest_instant, |at| instant(at, zone))));
        rows.push(("last cycle", dash(r.last_replication, |at| instant(at, zone))));
    }
    for b in &r.bulk {
        rows.push((
            "initial copy",
            format!(
                "{}: copied {} of {} of disk",
                b.progress.disk,
                size(b.progress.done),
                size(b.size)
            ),
        ));
    }
    if let Some(f) = &r.failover {
        rows.push(("failover", failover(f, zone)));
    }
    if !is_over(r) {
        rows.extend(figures(r));
    }
    sheet(&rows)
}

/// How it is meant to run, and how it has run.
fn figures(r: &ReplicationView) -> Vec<(&'static str, String)> {
    let (s, c) = (&r.settings, &r.counters);
    let seconds = |s: u32| span(Duration::from_secs(s.into()));
    let mut rows = Vec::new();
    rows.push(("position", r.position.to_string()));
    rows.push(("interval", seconds(s.interval_s.into())));
    rows.push((
        "points",
        format!(
            "{} more, {} apart, any cycle of the last {}",
            s.history,
            seconds(s.point_spacing_s),
            seconds(s.any_point_window_s)
        ),
    ));
    rows.push((
        "disks",
        s.disks
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    ));
    rows.push(("compression", if s.compression { "on" } else { "off" }.into()));
    rows.push((
        "cycles",
        format!("{}, {} failed, {} late", c.cycles, c.failures, c.missed),
    ));
    rows.push((
        "transferred",
        format!("{}, largest {}", size(c.bytes), size(c.largest)),
    ));
    let latency = |ms| span(Duration::from_millis(ms));
    rows.push((
        "latency",
        format!(
            "{}, at most {}",
            latency(c.last_latency_ms),
            latency(c.max_latency_ms)
        ),
    ));
    rows
}

fn failover(f: &Failover, zone: &TimeZone) -> String {
    let phase = match f.phase {
        FailoverPhase::Initiating { .. } => "being started",
        FailoverPhase::Ready => "to be reverted or committed",
        FailoverPhase::Reverting => "being reverted",
        FailoverPhase::Committing { .. } => "being committed",
        FailoverPhase::Merging => "committed, disks are being merged",
        FailoverPhase::Done => "committed",
    };
    let consistency = match f.kind {
        FailedOverReplicationType::None => "of unknown consistency",
        FailedOverReplicationType::Regular => "crash-consistent",
        FailedOverReplicationType::ApplicationConsistent => "application-consistent",
        FailedOverReplicationType::Planned => "planned, nothing missing",
    };
    format!("to {} ({consistency}), {phase}", instant(f.instant, zone))
}

/// `points`.
pub(crate) fn points(points: &[PointView], zone: &TimeZone) -> String {
    let rows = points.iter().map(|p| {
        let kind = match p.target {
            Target::Point { .. } => "point",
            Target::Cycle { .. } => "cycle",
        };
        let consistency = format!("{:?}", p.consistency).to_lowercase();
        vec![
            instant(p.instant, zone),
            kind.into(),
            consistency,
            size(p.size),
            p.id.clone(),
        ]
    });
    table(&["INSTANT", "KIND", "CONSISTENCY", "SIZE", "ID"], rows)
}

fn when(at: Option<Timestamp>, zone: &TimeZone) -> String {
    dash(at, |at| instant(at, zone))
}

/// `job list`.
pub(crate) fn jobs(jobs: &[Job], names: &Names, zone: &TimeZone) -> String {
    let rows = jobs.iter().map(|j| {
        vec![
            j.id.to_string(),
            name_of(j.vm, names),
            title(j.kind).into(),
            ending(j.state).into(),
            dash(percent(j), |p| p),
            instant(j.created, zone),
            j.error.clone().unwrap_or_else(|| j.detail.clone()),
        ]
    });
    table(&["ID", "VM", "JOB", "STATE", "DONE", "CREATED", "DETAIL"], rows)
}

/// `job show`.
pub(crate) fn job(j: &Job, names: &Names, zone: &TimeZone) -> String {
    let mut rows = vec![
        ("id", j.id.to_string()),
        ("vm", name_of(j.vm, names)),
        (
            "job",
            format!("{} ({:?}, {})", title(j.kind), j.kind, j.kind.number()),
        ),
        (
            "state",
            format!("{} ({}, {})", ending(j.state), j.state, j.state.number()),
        ),
    ];
    rows.extend(percent(j).map(|p| ("done", p)));
    rows.extend(amount(j).map(|a| ("amount", a)));
    rows.push(("detail", j.detail.clone()));
    if let Some(error) = &j.error {
        rows.push(("error", error.clone()));
    }
    rows.push(("created", instant(j.created, zone)));
    rows.push(("started", when(j.started, zone)));
    rows.push(("ended", when(j.ended, zone)));
    sheet(&rows)
}

/// `events`.
pub(crate) fn events(events: &[Event], names: &Names, zone: &TimeZone) -> String {
    let rows = events.iter().map(|e| {
        vec![
            instant(e.at, zone),
            dash(e.vm, |vm| name_of(vm, names)),
            e.message.clone(),
        ]
    });
    table(&["TIME", "VM", "EVENT"], rows)
}

/// `authorization list`.
pub(crate) fn entries(entries: &[AuthorizationEntry]) -> String {
    let rows = entries.iter().map(|e| {
        vec![
            e.primary.clone(),
            e.storage_location.clone(),
            e.trust_group.clone(),
        ]
    });
    table(&["PRIMARY", "LOCATION", "TRUST GROUP"], rows)
}

/// `server show`.
pub(crate) fn server(s: &ServerView) -> String {
    sheet(&[
        ("host", s.host.clone()),
        ("version", s.version.clone()),
        ("listens on", s.listen.clone()),
        (
            "takes replicas",
            if s.settings.enabled { "yes" } else { "no" }.into(),
        ),
    ])
}

/// `cert show`.
pub(crate) fn certificate(c: &CertInfo, zone: &TimeZone) -> String {
    let mut rows = vec![("subject", c.subject.clone()), ("issuer", c.issuer.clone())];
    rows.extend(c.names.iter().map(|n| ("name", n.clone())));
    rows.extend(c.addresses.iter().map(|a| ("address", a.to_string())));
    rows.push(("valid from", instant(c.not_before, zone)));
    rows.push(("valid until", instant(c.not_after, zone)));
    rows.push(("authority", if c.is_ca { "yes" } else { "no" }.into()));
    rows.push(("fingerprint", c.fingerprint.clone()));
    sheet(&rows)
}
