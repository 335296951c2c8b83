//! Settings: of a relationship, of who may replicate here, and of this host as a replica server.

use lifeboat_cim::{DateTime, Instance, Value};
use lifeboat_engine::action::{Refusal, ServerSettings};
use lifeboat_model::quota::Quota;
use lifeboat_model::{
    AuthorizationEntry, Bandwidth, DayWindow, DiskId, RelationshipId, ReplicationSettings, VmId, VmSpec,
};

use super::{Given, instance_id, invalid, part_id, relationship_id, shown, unsupported};

/// `AuthenticationType`: Kerberos.
const KERBEROS: u16 = 1;
/// `AuthenticationType`: certificates.
const CERTIFICATE: u16 = 2;
/// The provider that is built in, by the id that its path ends with.
const PROVIDER: &str = "22391CDC-272C-4DDF-BA88-9BEFB1A0975C";
/// A day in microseconds.
const DAY: u64 = 86_400_000_000;
/// A minute in microseconds.
const MINUTE: u64 = 60_000_000;
/// When a window for resynchronizations opens and closes if nothing is said.
const WINDOW: DayWindow = DayWindow {
    from_min: 18 * 60 + 30,
    to_min: 6 * 60,
};

/// Settings of a new relationship of which nothing was said: the API's defaults, and Lifeboat's where it has none.
pub(crate) fn defaults() -> ReplicationSettings {
    ReplicationSettings {
        peer: String::new(),
        interval_s: 300,
        history: 0,
        point_spacing_s: 3600,
        any_point_window_s: 3600,
        disks: Vec::new(),
        compression: true,
        application_h: 0,
        auto_resync: None,
        bandwidth: Bandwidth::default(),
    }
}

/// Which relationship of this VM an `Msvm_ReplicationSettingData` is about; `None` when it does not say.
pub(crate) fn which(given: &Instance, vm: VmId) -> Result<Option<RelationshipId>, Refusal> {
    let Some((of, which)) = given.text("InstanceID").and_then(relationship_id) else {
        return Ok(None);
    };
    if of == vm {
        Ok(Some(which))
    } else {
        Err(invalid(format!(
            "the InstanceID of the Msvm_ReplicationSettingData is that of another VM, {of}"
        )))
    }
}

/// Refuses an `AuthenticationType` other than certificates, by which alone hosts identify each other here.
pub(crate) fn authentication(kind: Option<u16>) -> Result<(), Refusal> {
    match kind {
        None | Some(CERTIFICATE) => Ok(()),
        Some(KERBEROS) => Err(unsupported(
            "AuthenticationType 1 (Kerberos) is not offered",
            "hosts know each other by certificates: use 2",
        )),
        Some(other) => Err(invalid(format!(
            "AuthenticationType {other}: use 2 (certificate)"
        ))),
    }
}

/// A host and a port as the engine writes them.
pub(crate) fn peer(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The peer that settings name; what they leave out is as it was.
fn new_peer(given: &Given<'_>, before: &str) -> Result<String, Refusal> {
    let (old_host, old_port) = before.rsplit_once(':').unwrap_or((before, ""));
    let host = given.text("RecoveryConnectionPoint").unwrap_or(old_host);
    let port = given
        .number::<u16>("RecoveryServerPortNumber")?
        .filter(|p| *p != 0);
    if host.is_empty() {
        return Err(invalid(
            "RecoveryConnectionPoint is missing: it names the host that takes the replica",
        ));
    }
    match port.or_else(|| old_port.parse().ok()) {
        Some(port) => Ok(peer(host, port)),
        None => Err(invalid(
            "RecoveryServerPortNumber is missing: it is the port on which the other host listens",
        )),
    }
}

/// The settings that an `Msvm_ReplicationSettingData` asks for. What it leaves out stays as in `before`; disks are those that
/// `IncludedDisks` names, and all of them when it names none.
pub(crate) fn replication(
    given: &Instance,
    before: ReplicationSettings,
    spec: &VmSpec,
) -> Result<ReplicationSettings, Refusal> {
    let given = Given(given);
    authentication(given.number("AuthenticationType")?)?;
    let external = given
        .text("ReplicationProvider")
        .filter(|p| !p.to_uppercase().contains(PROVIDER));
    if let Some(provider) = external {
        return Err(unsupported(
            format!("replication provider \"{}\" does not exist here", shown(provider)),
            "leave ReplicationProvider out",
        ));
    }
    if given.boolean("EnableWriteOrderPreservationAcrossDisks") == Some(false) {
        return Err(unsupported(
            "the order of writes across disks is always kept",
            "leave EnableWriteOrderPreservationAcrossDisks out, or set it to true",
        ));
    }
    Ok(ReplicationSettings {
        peer: new_peer(&given, &before.peer)?,
        interval_s: given.number("ReplicationInterval")?.unwrap_or(before.interval_s),
        history: given.number("RecoveryHistory")?.unwrap_or(before.history),
        disks: match disks(&given, spec)? {
            None => before.disks,
            // None named and none known: the engine completes an empty list.
            Some(named) if named.is_empty() && before.disks.is_empty() => named,
            Some(named) if named.is_empty() => spec.disks.iter().map(|d| d.id.clone()).collect(),
            Some(named) => named,
        },
        compression: given.boolean("CompressionEnabled").unwrap_or(before.compression),
        application_h: given
            .number("ApplicationConsistentSnapshotInterval")?
            .unwrap_or(before.application_h),
        auto_resync: auto_resync(&given, before.auto_resync)?,
        point_spacing_s: before.point_spacing_s,
        any_point_window_s: before.any_point_window_s,
        bandwidth: before.bandwidth,
    })
}

/// The disks that are named; `None` when nothing is said.
fn disks(given: &Given<'_>, spec: &VmSpec) -> Result<Option<Vec<DiskId>>, Refusal> {
    let Some(items) = given.items("IncludedDisks") else {
        return Ok(None);
    };
    items
        .iter()
        .map(|item| disk(item, spec))
        .collect::<Result<_, _>>()
        .map(Some)
}

fn disk(item: &Value, spec: &VmSpec) -> Result<DiskId, Refusal> {
    let wrong = |what: &str| {
        invalid(format!(
            "IncludedDisks: \"{}\" is not a disk of this VM; write the InstanceID or the path of its \
             Msvm_StorageAllocationSettingData",
            shown(what)
        ))
    };
    let id = instance_id(item).ok_or_else(|| {
        wrong(if let Value::Text(text) = item {
            text
        } else {
            "(no InstanceID)"
        })
    })?;
    let (vm, name) = part_id(&id).ok_or_else(|| wrong(&id))?;
    let found = spec
        .disks
        .iter()
        .find(|d| d.id.as_str().eq_ignore_ascii_case(name));
    match found.filter(|_| vm == spec.uuid) {
        Some(disk) => Ok(disk.id.clone()),
        None => Err(wrong(&id)),
    }
}

fn auto_resync(given: &Given<'_>, before: Option<DayWindow>) -> Result<Option<DayWindow>, Refusal> {
    let minute = |name: &str, up: bool| -> Result<Option<u16>, Refusal> {
        let Some(at) = given.datetime(name) else {
            return Ok(None);
        };
        let DateTime::Interval(micros) = at else {
            return Err(invalid(format!(
                "{name}: write a time of day as an interval, ddddddddhhmmss.mmmmmm:000"
            )));
        };
        let minutes = if up {
            micros.div_ceil(MINUTE)
        } else {
            micros / MINUTE
        };
        // An end of 23:59:59 is the end of the day.
        if micros < DAY {
            Ok(Some(u16::try_from(minutes % 1440).unwrap_or(0)))
        } else {
            Err(invalid(format!("{name}: a day has 24 hours")))
        }
    };
    let from = minute("AutoResynchronizeIntervalStart", false)?;
    let to = minute("AutoResynchronizeIntervalEnd", true)?;
    if !given
        .boolean("AutoResynchronizeEnabled")
        .unwrap_or(before.is_some())
    {
        return Ok(None);
    }
    let known = before.unwrap_or(WINDOW);
    Ok(Some(DayWindow {
        from_min: from.unwrap_or(known.from_min),
        to_min: to.unwrap_or(known.to_min),
    }))
}

/// The entry that an `Msvm_ReplicationAuthorizationSettingData` describes. What it leaves out stays as in `before`; without
/// `before` nothing may be left out.
pub(crate) fn authorization(
    given: &Instance,
    before: Option<&AuthorizationEntry>,
) -> Result<AuthorizationEntry, Refusal> {
    let given = Given(given);
    let text = |name: &str, before: Option<&String>| {
        let said = given.text(name).map(str::to_owned).or_else(|| before.cloned());
        said.ok_or_else(|| invalid(format!("{name} is missing")))
    };
    Ok(AuthorizationEntry {
        // The key, in the spelling of the entry that exists.
        primary: match before {
            Some(entry) => entry.primary.clone(),
            None => text("AllowedPrimaryHostSystem", None)?,
        },
        storage_location: text("ReplicaStorageLocation", before.map(|e| &e.storage_location))?,
        trust_group: text("TrustGroup", before.map(|e| &e.trust_group))?,
        // The class has no properties for the rest.
        allow_start: before.is_some_and(|e| e.allow_start),
        keep_at_least_s: before.map_or(0, |e| e.keep_at_least_s),
        locked_until: before.and_then(|e| e.locked_until),
        quota: before.map_or_else(Quota::default, |e| e.quota),
    })
}

/// The settings of this host that an `Msvm_ReplicationServiceSettingData` asks for. `shown_now` is the instance as callers
/// read it: properties that the API cannot change must be sent back as they are there. `ahead_min`: minutes by which this
/// host's time of day is ahead of UTC.
pub(crate) fn server(
    given: &Instance,
    shown_now: &Instance,
    before: ServerSettings,
    ahead_min: u16,
) -> Result<ServerSettings, Refusal> {
    const OURS: [&str; 3] = [
        "RecoveryServerEnabled",
        "MonitoringInterval",
        "MonitoringStartTime",
    ];
    for (name, value) in &given.properties {
        let ours = OURS.iter().any(|o| o.eq_ignore_ascii_case(name));
        // An empty text is how some clients write null.
        let nothing = matches!(value, Value::Text(text) if text.is_empty());
        if !ours && !nothing && shown_now.get(name) != Some(value) {
            return Err(unsupported(
                format!("{name} cannot be changed through the management API"),
                "ports and certificates are in this host's configuration file; send back what was read",
            ));
        }
    }
    let given = Given(given);
    let start = given
        .datetime("MonitoringStartTime")
        .map(|at| time_of_day(at, ahead_min));
    Ok(ServerSettings {
        enabled: given.boolean("RecoveryServerEnabled").unwrap_or(before.enabled),
        monitoring_interval_s: given
            .number("MonitoringInterval")?
            .unwrap_or(before.monitoring_interval_s),
        monitoring_start_min: start.unwrap_or(before.monitoring_start_min),
        bandwidth: before.bandwidth,
    })
}

/// The minute of the local day, 0 to 1,439, for a UTC time of day; the date of an instant is ignored.
fn time_of_day(at: DateTime, ahead_min: u16) -> u16 {
    let micros = match at {
        DateTime::Instant(micros) => micros.rem_euclid(86_400_000_000).unsigned_abs(),
        DateTime::Interval(micros) => micros % DAY,
    };
    let minute = micros / MINUTE + u64::from(ahead_min);
    u16::try_from(minute % 1440).unwrap_or(0)
}

/// The minute of the day in UTC, 0 to 1,439, for a minute of the local day; `ahead_min` as in [`server`].
pub(crate) fn utc_minute(local: u16, ahead_min: u16) -> u16 {
    (local + 1440 - ahead_min) % 1440
}
