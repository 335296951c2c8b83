//! Records to write, numbered so that a mixture of two writes shows.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "test support: each file uses its part"
)]

use camino::Utf8PathBuf;
use lifeboat_engine::action::{Action, VmRef};
use lifeboat_engine::by::By;
use lifeboat_engine::records::{
    Counters, Event, Job, PrimarySide, Relationship, Request, RequestState, Side,
};
use lifeboat_engine::requests::LASTS;
use lifeboat_model::api::{JobState, JobType, ReplicationMode, ReplicationState};
use lifeboat_model::{
    Bandwidth, DiskFormat, DiskId, DiskSpec, Firmware, GenerationId, Hardware, JobId, OwnHardware, Position,
    Reading, ReplicationSettings, RequestId, Timestamp, VmId, VmSpec,
};
use uuid::Uuid;

pub(crate) fn path(dir: &tempfile::TempDir) -> Utf8PathBuf {
    Utf8PathBuf::from_path_buf(dir.path().join("catalog.db")).unwrap()
}

pub(crate) fn vm(n: u128) -> VmId {
    VmId(Uuid::from_u128(n))
}

pub(crate) fn position(sequence: u64) -> Position {
    Position::from_parts(GenerationId(Uuid::from_u128(7)), sequence)
}

/// Revision `revision` of the relationship of VM `n`.
pub(crate) fn relationship(n: u128, revision: u64) -> Relationship {
    let disk = DiskId::new("sys").unwrap();
    Relationship {
        vm: vm(n),
        mode: ReplicationMode::Primary,
        state: ReplicationState::Replicating,
        settings: ReplicationSettings {
            peer: "b.example.org:8700".into(),
            interval_s: 30,
            history: 4,
            point_spacing_s: 3600,
            any_point_window_s: 600,
            disks: vec![disk.clone()],
            compression: true,
            application_h: 0,
            auto_resync: None,
            bandwidth: Bandwidth::default(),
        },
        spec: VmSpec {
            name: format!("vm-{n}"),
            uuid: vm(n),
            memory_mib: 512,
            cpus: 2,
            disks: vec![DiskSpec {
                id: disk,
                path: "/srv/vm/sys.qcow2".into(),
                format: DiskFormat::Qcow2,
                bus: Default::default(),
                allow: Default::default(),
            }],
            nics: vec![],
            guest_agent: true,
            hardware: Hardware::Own(OwnHardware {
                machine: "q35".into(),
                cpu: "host".into(),
                firmware: Firmware::Bios,
                iothreads: false,
            }),
        },
        peer: "b.example.org:8700".into(),
        position: position(revision),
        side: Side::Primary(PrimarySide::new(position(revision))),
        created: Timestamp(1_700_000_000_000),
        last_replication: Some(Timestamp(1_700_000_000_000 + revision)),
        counters: Counters {
            cycles: revision,
            ..Counters::default()
        },
        ..Relationship::default()
    }
}

/// Revision `revision` of job `n`.
pub(crate) fn job(n: u128, revision: u64) -> Job {
    Job {
        id: JobId(Uuid::from_u128(n)),
        vm: vm(n),
        kind: JobType::StartReplication,
        state: JobState::Running,
        percent: 50,
        detail: format!("copying, step {revision} {}", "x".repeat(2000)),
        done_bytes: revision,
        total_bytes: 1 << 40,
        error: None,
        hint: None,
        code: None,
        created: Timestamp(1_700_000_000_000),
        started: Some(Timestamp(1_700_000_000_001)),
        ended: None,
        by: Some(by()),
    }
}

pub(crate) fn event(n: u64, about: Option<u128>) -> Event {
    Event {
        at: Timestamp(n),
        vm: about.map(vm),
        message: format!("event {n}"),
        hint: None,
        by: n.is_multiple_of(2).then(by),
    }
}

fn by() -> By {
    By::process(1000, Some(7))
}

/// Request `n` in this state.
pub(crate) fn request(n: u128, state: RequestState) -> Request {
    let asked = Timestamp(1_700_000_000_000);
    Request {
        id: RequestId(Uuid::from_u128(n)),
        by: by(),
        action: Action::DropAbandoned {
            vm: VmRef::Text(vm(n).to_string()),
        },
        vm: Some(vm(n)),
        what: "dropping of the abandoned data".into(),
        asked,
        until: asked.plus(LASTS),
        read: Reading {
            boot: Uuid::from_u128(3),
            up_ms: 5,
            wall: asked,
        },
        state,
    }
}
