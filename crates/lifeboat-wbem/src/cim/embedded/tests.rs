//! What callers write and what it means, at the edges.

use lifeboat_cim::{DateTime, Instance, Value};
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{DayWindow, RelationshipId, VmSpec};

use super::*;

const GUID: &str = "6F3B2F2E-3A63-4A0E-9A53-0D9F5F6F0001";

fn spec() -> VmSpec {
    let vm = serde_json::json!({
        "name": "web", "uuid": GUID.to_lowercase(), "memory_mib": 256, "cpus": 1,
        "disk": [{"id": "sys", "path": "/d/sys", "format": "raw"}, {"id": "data", "path": "/d/data", "format": "raw"}],
        "nic": [{"mac": "52:54:00:12:34:56"}]
    });
    serde_json::from_value(vm).unwrap()
}

fn settings() -> Instance {
    Instance::new("Msvm_ReplicationSettingData")
        .with("RecoveryConnectionPoint", "b.example.org")
        .with("RecoveryServerPortNumber", 8443_u16)
}

fn at(hours: u64, minutes: u64, seconds: u64) -> DateTime {
    DateTime::Interval(((hours * 60 + minutes) * 60 + seconds) * 1_000_000)
}

#[test]
fn relationships_are_named_by_vm_and_index() {
    let vm: VmId = GUID.parse().unwrap();
    for (id, want) in [
        (
            format!("Microsoft:{GUID}\\HVR\\0"),
            Some((vm, RelationshipId::OWN)),
        ),
        (
            format!("microsoft:{}\\hvr\\1", GUID.to_lowercase()),
            Some((vm, RelationshipId::FIRST_OUTGOING)),
        ),
        (
            format!("Microsoft:{GUID}\\HVR\\12"),
            Some((vm, RelationshipId::new(12))),
        ),
        (format!("Microsoft:{GUID}\\HVR\\01"), None),
        (format!("Microsoft:{GUID}\\HVR\\+1"), None),
        (format!("Microsoft:{GUID}\\HVR\\-1"), None),
        (format!("Microsoft:{GUID}\\HVR\\4294967296"), None),
        (format!("Microsoft:{GUID}\\HVR"), None),
        (format!("Microsoft:{GUID}"), None),
        ("Microsoft:x\\HVR\\0".to_owned(), None),
        ("Microsoft:".to_owned(), None),
        ("Mäcrosoft:\\HVR\\0".to_owned(), None),
        (String::new(), None),
    ] {
        assert_eq!(relationship_id(&id), want, "{id}");
    }
    assert_eq!(vm_id(&format!("Microsoft:{GUID}")), Some(vm));
    assert_eq!(vm_id(&format!("Microsoft:{GUID}\\sys")), None);
}

#[test]
fn new_settings_are_the_defaults_of_the_api() {
    let new = replication(&settings(), defaults(), &spec()).unwrap();
    assert_eq!(new.peer, "b.example.org:8443");
    assert_eq!((new.interval_s, new.history, new.application_h), (300, 0, 0));
    assert!(new.compression && new.auto_resync.is_none());
    assert!(new.disks.is_empty(), "all of them, whichever they are");
    let six = settings().with("RecoveryConnectionPoint", "fd00::1");
    assert_eq!(
        replication(&six, defaults(), &spec()).unwrap().peer,
        "[fd00::1]:8443"
    );
}

#[test]
fn a_window_for_comparisons_is_local_and_may_be_the_whole_day() {
    let window = |given: Instance, before| {
        let before = lifeboat_model::ReplicationSettings {
            auto_resync: before,
            ..defaults()
        };
        replication(&given, before, &spec()).map(|s| s.auto_resync.map(|w| (w.from_min, w.to_min)))
    };
    let on = || settings().with("AutoResynchronizeEnabled", true);
    let known = DayWindow {
        from_min: 1,
        to_min: 2,
    };
    let (start, end) = ("AutoResynchronizeIntervalStart", "AutoResynchronizeIntervalEnd");
    assert_eq!(window(settings(), None), Ok(None));
    assert_eq!(window(on(), None), Ok(Some((18 * 60 + 30, 6 * 60))));
    assert_eq!(window(on(), Some(known)), Ok(Some((1, 2))));
    assert_eq!(
        window(settings().with(end, at(3, 0, 0)), Some(known)),
        Ok(Some((1, 180)))
    );
    assert_eq!(
        window(settings().with("AutoResynchronizeEnabled", false), Some(known)),
        Ok(None)
    );
    let whole = on().with(start, at(0, 0, 0)).with(end, at(23, 59, 59));
    let whole = window(whole, None).unwrap().unwrap();
    let whole = DayWindow {
        from_min: whole.0,
        to_min: whole.1,
    };
    assert!((0..1440).all(|m| whole.holds(m)));
    for wrong in [at(24, 0, 0), DateTime::Instant(0)] {
        let refused = window(on().with(start, wrong), None).unwrap_err();
        assert_eq!(refused.code, ReturnCode::InvalidParameter, "{wrong:?}");
    }
}

#[test]
fn what_does_not_exist_here_is_said_and_not_ignored() {
    for (given, code) in [
        (
            settings().with("AuthenticationType", 1_u16),
            ReturnCode::NotSupported,
        ),
        (
            settings().with("AuthenticationType", 3_u16),
            ReturnCode::InvalidParameter,
        ),
        (
            settings().with("ReplicationProvider", "another"),
            ReturnCode::NotSupported,
        ),
        (
            settings().with("EnableWriteOrderPreservationAcrossDisks", false),
            ReturnCode::NotSupported,
        ),
        (
            settings().with("RecoveryServerPortNumber", 0_u16),
            ReturnCode::InvalidParameter,
        ),
        (
            settings().with("RecoveryConnectionPoint", " "),
            ReturnCode::InvalidParameter,
        ),
        (
            settings().with(
                "IncludedDisks",
                Value::Array(vec![format!("Microsoft:{GUID}\\other").into()]),
            ),
            ReturnCode::InvalidParameter,
        ),
    ] {
        let refused = replication(&given, defaults(), &spec()).unwrap_err();
        assert_eq!(refused.code, code, "{given:?}");
    }
}

#[test]
fn a_utc_time_of_day_is_moved_to_the_local_day() {
    let server = |at: DateTime, ahead| {
        let given = Instance::new("Msvm_ReplicationServiceSettingData").with("MonitoringStartTime", at);
        let shown = Instance::new("Msvm_ReplicationServiceSettingData");
        super::server(&given, &shown, Default::default(), ahead)
            .unwrap()
            .monitoring_start_min
    };
    assert_eq!(server(at(7, 30, 0), 0), 450);
    assert_eq!(server(at(23, 0, 0), 120), 60);
    // West of Greenwich, and with a date.
    assert_eq!(
        server(DateTime::Instant(86_400_000_000 + 3_600_000_000), 1440 - 300),
        20 * 60
    );
    assert_eq!(server(DateTime::Instant(-60_000_000), 0), 1439);
}
