//! VMs of the scripted host that are somewhere on the way between two hosts: one for each thing a sheet can tell.

use lifeboat_engine::action::{
    AbandonedView, DiskPlace, ExtendedView, PlannedStage, PlannedView, ReplicationView, SplitStage,
    SplitView, SynchronizationReason, SynchronizationView, TestStage, TestView,
};
use lifeboat_engine::problem::Problem;
use lifeboat_model::power::PowerState;
use lifeboat_model::{
    Bandwidth, BandwidthWindow, DayWindow, JobId, NicBackend, NicFailover, RelationshipId, ReplicationHealth,
    ReplicationMode, ReplicationSettings, ReplicationState, Target, Timestamp,
};
use lifeboat_model::{Finding, ProblemKind};
use uuid::Uuid;

use super::{NOW, position, replication, vm_id};

/// Names, power and what their sheets tell.
pub(super) fn vms() -> Vec<(&'static str, PowerState, ReplicationView)> {
    vec![
        ("shop", PowerState::Running, split(true)),
        ("forum", PowerState::Running, split(false)),
        ("wiki", PowerState::Off, prepared()),
        ("dev", PowerState::Off, tested()),
        ("big", PowerState::Running, compared()),
        ("next", PowerState::Off, scheduled()),
        ("mid", PowerState::Off, extended()),
    ]
}

/// An old primary that comes back.
fn split(committed: bool) -> ReplicationView {
    let (stage, theirs) = if committed {
        (SplitStage::Committed, "committed at 2026-11-22 10:12, running")
    } else {
        (SplitStage::FailedOver, "failed over to 2026-11-22 09:58, running")
    };
    ReplicationView {
        state: ReplicationState::Critical,
        health: ReplicationHealth::Critical,
        health_notes: vec![Finding::critical(ProblemKind::InError, "replication is in error")],
        problem: Some(Problem {
            since: Timestamp(NOW - 1_900_000),
            kind: ProblemKind::PeerNewerGeneration,
            message: "the replica went on without this host".into(),
            hint: None,
            attempts: 1,
        }),
        split: Some(SplitView {
            stage,
            since: Timestamp(NOW - 1_900_000),
            theirs: theirs.into(),
        }),
        ..replication()
    }
}

fn prepared() -> ReplicationView {
    ReplicationView {
        state: ReplicationState::SyncedReplicationComplete,
        planned: Some(PlannedView {
            stage: PlannedStage::Prepared,
            start: true,
            job: JobId(Uuid::from_u128(0xa2)),
        }),
        ..replication()
    }
}

/// A replica that was a primary once, with a test and addresses of its own.
fn tested() -> ReplicationView {
    let card = NicFailover {
        mac: "52:54:00:12:34:56".into(),
        addresses: vec!["10.1.2.3/24".into(), "fd00::3/64".into()],
        gateways: vec!["10.1.2.1".parse().unwrap()],
        dns: vec!["10.1.2.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        backend: Some(NicBackend::Tap {
            ifname: "dev0".into(),
        }),
        test_backend: Some(NicBackend::User),
        ..NicFailover::default()
    };
    let gone = NicFailover {
        mac: "52:54:00:99:99:99".into(),
        dhcp: true,
        ..NicFailover::default()
    };
    ReplicationView {
        mode: ReplicationMode::Replica,
        health: ReplicationHealth::Warning,
        health_notes: vec![Finding::warning(
            ProblemKind::AbandonedKept,
            "what only this host had is kept and takes space",
        )],
        peer: "a.example.org".into(),
        test: Some(TestView {
            stage: TestStage::Ready,
            vm: vm_id(0x7e57),
            point: Target::Cycle { position: position() },
            instant: Timestamp(NOW - 600_000),
            job: JobId(Uuid::from_u128(0xa2)),
        }),
        last_test: Some(Timestamp(NOW - 500_000)),
        abandoned: Some(AbandonedView {
            since: position(),
            at: Timestamp(NOW - 11_100_000),
        }),
        preflight: vec!["there is no network interface dev0".into()],
        network: vec![card, gone],
        ..replication()
    }
}

fn compared() -> ReplicationView {
    ReplicationView {
        state: ReplicationState::Resynchronizing,
        sync: Some(SynchronizationView {
            reason: SynchronizationReason::Resync,
            at: Some(DiskPlace {
                disk: replication().settings.disks[1].clone(),
                offset: 5 << 30,
            }),
            sent: 12 << 20,
            job: Some(JobId(Uuid::from_u128(0xa1))),
        }),
        settings: ReplicationSettings {
            application_h: 4,
            auto_resync: Some(DayWindow {
                from_min: 22 * 60,
                to_min: 6 * 60,
            }),
            bandwidth: Bandwidth {
                bytes_per_s: 10 << 20,
                windows: vec![BandwidthWindow {
                    window: DayWindow {
                        from_min: 22 * 60,
                        to_min: 6 * 60,
                    },
                    bytes_per_s: 0,
                }],
            },
            ..replication().settings
        },
        ..replication()
    }
}

fn scheduled() -> ReplicationView {
    ReplicationView {
        state: ReplicationState::ReadyForReplication,
        health: ReplicationHealth::Warning,
        health_notes: vec![Finding::warning(
            ProblemKind::CopyIncomplete,
            "the initial copy is not complete",
        )],
        scheduled: Some(Timestamp(NOW + 40_000_000)),
        newest_instant: None,
        last_replication: None,
        lag_ms: None,
        pending_bytes: None,
        ..replication()
    }
}

/// The middle one of three hosts.
fn extended() -> ReplicationView {
    let to = ExtendedView {
        relationship: RelationshipId::FIRST_OUTGOING,
        state: ReplicationState::Critical,
        health: ReplicationHealth::Critical,
        health_notes: vec![Finding::critical(ProblemKind::InError, "replication is in error")],
        peer: "c.example.org:8443".into(),
        settings: ReplicationSettings {
            peer: "c.example.org:8443".into(),
            interval_s: 300,
            ..replication().settings
        },
        position: Some(position()),
        newest_instant: Some(Timestamp(NOW - 1_300_000)),
        last_replication: Some(Timestamp(NOW - 1_200_000)),
        lag_ms: Some(1_300_000),
        pending_bytes: Some(3 << 30),
        problem: Some(Problem {
            since: Timestamp(NOW - 1_000_000),
            kind: ProblemKind::PeerUnreachable,
            message: "c.example.org:8443 cannot be reached: connection refused".into(),
            hint: None,
            attempts: 40,
        }),
        counters: replication().counters,
    };
    ReplicationView {
        mode: ReplicationMode::Replica,
        peer: "a.example.org".into(),
        extended: Some(Box::new(to)),
        ..replication()
    }
}
