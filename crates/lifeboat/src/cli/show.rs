//! Answers as text for people: tables with one line per thing, and sheets with one line per property. Nothing here
//! asks or decides.

mod replication;
mod request;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use jiff::tz::TimeZone;
use lifeboat_engine::action::{
    AtRestView, DirectoryContent, EventView, JobView, PointView, ServerView, VmView,
};
use lifeboat_model::certificates::CertificateUse;
use lifeboat_model::power::PowerState;
use lifeboat_model::quota::Quota;
use lifeboat_model::shell::argument;
use lifeboat_model::vm::DiskBus;
use lifeboat_model::{
    AuthorizationEntry, Changed, DiskFormat, Hardware, JobState, JobType, NicFailover, NicSpec,
    ReplicationHealth, Target, Timestamp, VmId,
};
use lifeboat_tls::CertInfo;
use lifeboat_wbem::users::Users;

use super::hint;
use super::units::{self, instant, size, span};
use replication::{role, state};

pub(crate) use lifeboat_model::words::shown as safe;
pub(crate) use replication::{replication, statistics, status};
pub(crate) use request::requests;

/// Names of VMs by identity.
pub(crate) type Names = BTreeMap<VmId, String>;

/// Names of these VMs; where several have one name, each with its UUID.
pub(crate) fn names(vms: &[VmView]) -> Names {
    let name = |v: &VmView| match vms.iter().filter(|o| o.spec.name == v.spec.name).count() {
        1 => v.spec.name.clone(),
        _ => format!("{} ({})", v.spec.name, v.spec.uuid),
    };
    vms.iter().map(|v| (v.spec.uuid, name(v))).collect()
}

/// A VM as a word of a command: its name, or its UUID where the name means several.
pub(crate) fn reference(v: &VmView, names: &Names) -> String {
    match names.get(&v.spec.uuid) {
        Some(name) if *name != v.spec.name => v.spec.uuid.to_string(),
        Some(_) | None => argument(&v.spec.name),
    }
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
        JobType::ImportCopy => "import initial copy",
        JobType::StateChange => "change state",
        JobType::Failover => "failover",
        JobType::RevertFailover => "revert failover",
        JobType::CommitFailover => "commit failover",
        JobType::PlannedFailover => "planned failover",
        JobType::CancelPlanned => "cancel planned failover",
        JobType::TestFailover => "test failover",
        JobType::RemoveTest => "stop test",
        JobType::Reverse => "reverse replication",
        JobType::SendDelta => "send changes",
        JobType::ReceiveDelta => "receive changes",
        JobType::Resynchronize => "resynchronize",
        JobType::StopInitialReplication => "stop initial copy",
        JobType::StopResync => "cancel resynchronization",
        JobType::Scrub => "scrub",
        JobType::TestConnection => "test connection",
        JobType::SendInitial => "initial copy",
        JobType::StartSeeded => "initial copy from a seed",
        JobType::StartExport => "export initial copy",
        JobType::ResyncExtended => "compare with the third host",
        JobType::ModeToPrimary => "continue as primary",
    }
}

/// The state of a job, in words.
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
pub(crate) fn amount(j: &JobView) -> Option<String> {
    let of = || format!("{} of {}", size(j.done_bytes), size(j.total_bytes));
    if j.total_bytes == 0 {
        None
    } else if j.kind == JobType::SendInitial {
        Some(format!("copied {} of disk", of()))
    } else {
        Some(of())
    }
}

/// A job that has failed is not on its way to anything.
fn percent(j: &JobView) -> Option<String> {
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
        PowerState::Unknown => "not known",
    }
}

/// What is not known shows what it was when it was known, as the past.
fn power_in_list(v: &VmView) -> String {
    let now = power(v.power);
    match v.power_note.as_ref().and_then(|n| n.before) {
        Some(before) => format!("{now} (was {})", power(before.power)),
        None => now.to_owned(),
    }
}

/// A guest that is stopped needs attention, whether it is replicated or not.
fn health_in_list(v: &VmView) -> String {
    match (&v.replication, v.power) {
        (Some(r), _) => r.health.to_string(),
        (None, PowerState::Stalled) => ReplicationHealth::Critical.to_string(),
        (None, PowerState::Off | PowerState::Running | PowerState::Paused | PowerState::Unknown) => {
            "-".to_owned()
        }
    }
}

fn power_in_full(v: &VmView, zone: &TimeZone) -> String {
    let now = power(v.power);
    let Some(note) = &v.power_note else {
        return now.to_owned();
    };
    let before = note
        .before
        .map(|b| format!("; it was {} at {}", power(b.power), instant(b.at, zone)));
    format!(
        "{now} since {}: {}{}",
        instant(note.since, zone),
        note.reason,
        before.unwrap_or_default()
    )
}

/// `vm list`.
pub(crate) fn vms(vms: &[VmView]) -> String {
    let names = names(vms);
    let rows = vms.iter().map(|v| {
        let r = v.replication.as_ref();
        vec![
            name_of(v.spec.uuid, &names),
            power_in_list(v),
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
            health_in_list(v),
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

/// `vm show`.
pub(crate) fn vm(v: &VmView, names: &Names, zone: &TimeZone) -> String {
    let s = &v.spec;
    let Hardware::Own(hardware) = &s.hardware;
    let mut rows = vec![
        ("name", s.name.clone()),
        ("uuid", s.uuid.to_string()),
        ("power", power_in_full(v, zone)),
        ("cpus", s.cpus.to_string()),
        ("memory", size(u64::from(s.memory_mib) << 20)),
        ("machine", format!("{}, cpu {}", hardware.machine, hardware.cpu)),
    ];
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
        let (id, path) = (&d.id, &d.path);
        rows.push((
            "disk",
            match v.disk_files.get(id) {
                // In the replica store, which has its own formats.
                Some(file) if file != path => format!("{id} {file} ({bus})"),
                None if path.is_empty() => format!("{id} ({bus})"),
                Some(_) | None => format!("{id} {path} ({format}, {bus})"),
            },
        ));
    }
    rows.extend(s.nics.iter().map(|n| ("nic", n.mac.clone())));
    rows.extend(v.description_gone.iter().map(|gone| {
        (
            "description",
            hint::told(&gone.text, gone.hint.as_ref(), Some(&s.name)),
        )
    }));
    rows.push(("console", v.console.socket.to_string()));
    rows.push(("console log", v.console.log.to_string()));
    let mut text = sheet(&rows);
    if v.replication.is_some() {
        text.push('\n');
        text.push_str(&replication(v, names, zone));
    }
    text
}

/// `points`.
pub(crate) fn points(points: &[PointView], zone: &TimeZone) -> String {
    let damaged: Vec<String> = points
        .iter()
        .filter_map(|p| Some(format!("{} cannot be used: {}\n", p.id, p.unusable.as_ref()?)))
        .collect();
    let rows = points.iter().map(|p| {
        let kind = match (&p.unusable, p.target) {
            (Some(_), _) => "damaged",
            (None, Target::Point { .. }) => "point",
            (None, Target::Cycle { .. }) => "cycle",
            (None, Target::Abandoned) => "abandoned",
        };
        let consistency = format!("{:?}", p.consistency).to_lowercase();
        vec![
            instant(p.instant, zone),
            kind.into(),
            consistency,
            size(p.size),
            dash(p.changed, |c| size(c.touched())),
            dash(p.changed, random),
            p.id.clone(),
        ]
    });
    let mut text = table(
        &[
            "INSTANT",
            "KIND",
            "CONSISTENCY",
            "SIZE",
            "CHANGED",
            "RANDOM",
            "ID",
        ],
        rows,
    );
    damaged.iter().for_each(|line| text.push_str(line));
    text
}

/// Which part of what was written cannot be compressed.
pub(crate) fn random(changed: Changed) -> String {
    match changed.data {
        0 => "0 %".to_owned(),
        data => format!("{} %", u128::from(changed.random) * 100 / u128::from(data)),
    }
}

/// What to know of a list of points, newest first, whose instants are not in order.
pub(crate) fn out_of_order(points: &[PointView]) -> Option<String> {
    let mut lowest = Timestamp(u64::MAX);
    let mut odd = 0;
    for point in points {
        odd += usize::from(point.instant > lowest);
        lowest = lowest.min(point.instant);
    }
    (odd > 0).then(|| {
        format!(
            "the instants of {odd} of these points are not in order, because the clock that gave them was set back; the \
             list is in the order of the data, the newest first: choose by --point ID rather than by --at"
        )
    })
}

fn when(at: Option<Timestamp>, zone: &TimeZone) -> String {
    dash(at, |at| instant(at, zone))
}

/// `job list`.
pub(crate) fn jobs(jobs: &[JobView], names: &Names, zone: &TimeZone) -> String {
    let rows = jobs.iter().map(|j| {
        vec![
            j.id.to_string(),
            name_of(j.vm, names),
            title(j.kind).into(),
            ending(j.state).into(),
            dash(percent(j), |p| p),
            instant(j.created, zone),
            error(j, names).unwrap_or_else(|| j.detail.clone()),
        ]
    });
    table(&["ID", "VM", "JOB", "STATE", "DONE", "CREATED", "DETAIL"], rows)
}

/// Why a job ended badly, with what can be done.
pub(crate) fn error(j: &JobView, names: &Names) -> Option<String> {
    let error = j.error.as_deref()?;
    Some(hint::told(error, j.hint.as_ref(), known(Some(j.vm), names)))
}

/// The name of a VM, if it has one.
fn known(vm: Option<VmId>, names: &Names) -> Option<&str> {
    names.get(&vm?).map(String::as_str)
}

/// `job show`.
pub(crate) fn job(j: &JobView, names: &Names, zone: &TimeZone) -> String {
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
    rows.extend(error(j, names).map(|error| ("error", error)));
    if let Some(by) = &j.by {
        rows.push(("asked for by", by.to_string()));
    }
    rows.push(("created", instant(j.created, zone)));
    rows.push(("started", when(j.started, zone)));
    rows.push(("ended", when(j.ended, zone)));
    sheet(&rows)
}

/// `events`.
pub(crate) fn events(events: &[EventView], names: &Names, zone: &TimeZone) -> String {
    let rows = events.iter().map(|e| {
        vec![
            instant(e.at, zone),
            dash(e.vm, |vm| name_of(vm, names)),
            dash(e.by.as_ref(), ToString::to_string),
            hint::told(&e.message, e.hint.as_ref(), known(e.vm, names)),
        ]
    });
    table(&["TIME", "VM", "BY", "EVENT"], rows)
}

/// What an entry's primaries may take, as it is asked for.
fn quota(q: &Quota) -> String {
    let mut all = vec![format!("{} VMs", q.vms)];
    all.extend(q.bytes.map(units::size));
    all.extend(q.disk_bytes.map(|n| format!("{} a disk", units::size(n))));
    all.extend(q.points.map(|n| format!("{n} points")));
    all.join(", ")
}

/// `authorization list`.
pub(crate) fn entries(entries: &[AuthorizationEntry], zone: &TimeZone) -> String {
    let rows = entries.iter().map(|e| {
        let kept = Duration::from_secs(e.keep_at_least_s.into());
        vec![
            e.primary.clone(),
            e.storage_location.clone(),
            e.trust_group.clone(),
            if e.allow_start { "yes" } else { "no" }.into(),
            dash((!kept.is_zero()).then_some(kept), units::span),
            dash(e.locked_until, |at| instant(at, zone)),
            quota(&e.quota),
        ]
    });
    table(
        &[
            "PRIMARY",
            "LOCATION",
            "TRUST GROUP",
            "STARTS VMS",
            "KEEPS AT LEAST",
            "LOCKED UNTIL",
            "AT MOST",
        ],
        rows,
    )
}

/// `server show`.
pub(crate) fn server(s: &ServerView, zone: &TimeZone) -> String {
    let mut rows = vec![
        ("host", s.host.clone()),
        ("version", s.version.clone()),
        ("peers reach it at", s.listen.clone()),
        (
            "takes replicas",
            if s.settings.enabled { "yes" } else { "no" }.into(),
        ),
        ("sends", units::bandwidth(&s.settings.bandwidth)),
        (
            "statistics",
            format!(
                "windows of {} from {}",
                span(Duration::from_secs(s.settings.monitoring_interval_s.into())),
                units::clock_time(s.settings.monitoring_start_min)
            ),
        ),
    ];
    rows.extend(s.certificates.iter().map(|c| {
        let what = match c.usage {
            CertificateUse::Host => "certificate",
            CertificateUse::Authority => "authority",
            CertificateUse::Management => "management",
            CertificateUse::Peer => "certificate of peer",
        };
        (
            what,
            format!("{}, valid until {}", c.place, instant(c.not_after, zone)),
        )
    }));
    rows.extend(s.keys.own.map(|key| ("key", key.to_string())));
    rows.extend(s.keys.next.map(|key| ("next key", key.to_string())));
    let new = if s.encrypts_new {
        "encrypted"
    } else {
        "not encrypted"
    };
    rows.push(("new replicas", new.to_owned()));
    rows.extend(s.directories.iter().map(|d| {
        let what = match d.content {
            DirectoryContent::Spool => "spool",
            DirectoryContent::Location => "storage location",
            DirectoryContent::Replica => "replica",
        };
        let own = match (d.content, &d.at_rest) {
            (DirectoryContent::Location, AtRestView::NotEncrypted) => String::new(),
            (_, seen) => format!(", {}", at_rest(seen)),
        };
        (what, format!("{}{own}", d.path))
    }));
    let notes = s.notes.iter();
    rows.extend(notes.map(|n| ("attention", hint::told(&n.text, n.hint.as_ref(), None))));
    sheet(&rows)
}

/// Whether a directory is encrypted.
pub(crate) fn at_rest(seen: &AtRestView) -> String {
    match seen {
        AtRestView::NotEncrypted => "not encrypted".to_owned(),
        AtRestView::Encrypted { key: Some(key) } => format!("encrypted, key {key}"),
        AtRestView::Encrypted { key: None } => "encrypted".to_owned(),
        AtRestView::Locked { key } => format!("LOCKED: its file system does not have key {key}"),
        AtRestView::NotKnown { why } => format!("not known whether it is encrypted: {why}"),
    }
}

/// `failover network VM`: every card of the VM, and entries for cards it has no longer.
pub(crate) fn cards(nics: &[NicSpec], cards: &[NicFailover]) -> String {
    let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    let described = nics.iter().map(|n| {
        let entry = cards.iter().find(|c| same(&c.mac, &n.mac)).cloned();
        entry.unwrap_or_else(|| NicFailover {
            mac: n.mac.clone(),
            ..NicFailover::default()
        })
    });
    let gone = cards
        .iter()
        .filter(|c| !nics.iter().any(|n| same(&c.mac, &n.mac)));
    let list = |all: &[std::net::IpAddr]| match all {
        [] => "-".to_owned(),
        some => some
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    };
    let rows = described.chain(gone.cloned()).map(|c| {
        let connected = c.backend.as_ref();
        vec![
            c.mac.clone(),
            addresses(&c),
            list(&c.gateways),
            list(&c.dns),
            connected.map_or_else(|| "as described".into(), units::backend),
            c.test_backend
                .as_ref()
                .map_or_else(|| "nothing".into(), units::backend),
        ]
    });
    table(
        &[
            "CARD",
            "ADDRESSES",
            "GATEWAYS",
            "DNS",
            "CONNECTED TO",
            "IN A TEST",
        ],
        rows,
    )
}

fn addresses(c: &NicFailover) -> String {
    match c.addresses.as_slice() {
        _ if c.dhcp => "by DHCP".into(),
        [] => "kept".into(),
        some => some.join(", "),
    }
}

/// `cert show`.
pub(crate) fn certificate(c: &CertInfo, zone: &TimeZone) -> String {
    let mut rows = vec![("subject", c.subject.clone()), ("issuer", c.issuer.clone())];
    rows.extend(c.names.iter().map(|n| ("name", n.clone())));
    rows.extend(c.addresses.iter().map(|a| ("address", a.to_string())));
    rows.push(("valid from", instant(c.not_before, zone)));
    rows.push(("valid until", instant(c.not_after, zone)));
    rows.push(("authority", if c.is_ca { "yes" } else { "no" }.into()));
    rows.push(("fingerprint", c.fingerprint.to_string()));
    rows.push(("of its key", c.key_fingerprint.to_string()));
    sheet(&rows)
}

/// Who may manage this host over the network, and how they prove who they are.
pub(crate) fn users(users: &Users) -> String {
    let named = users
        .users
        .iter()
        .map(|u| vec![u.name.clone(), "password".into(), u.role.name().into()]);
    let shown = users
        .certificates
        .iter()
        .map(|c| vec![c.label().to_owned(), "certificate".into(), c.role.name().into()]);
    table(&["NAME", "LOGS IN BY", "ROLE"], named.chain(shown))
}
