//! One of everything that crosses the surface. The exhaustive matches make a new variant a compile error here.

use lifeboat_engine::action::{
    Action, Answer, BulkView, PointSelector, PointView, ReplicationView, ServerView, VmRef, VmView,
};
use lifeboat_engine::ports::hypervisor::{Console, PowerState};
use lifeboat_engine::ports::store::{BulkProgress, Target};
use lifeboat_engine::records::{Counters, Event, Failover, FailoverPhase, Job, Problem, ServerSettings};
use lifeboat_model::{
    AuthorizationEntry, BranchId, DiskId, FailedOverReplicationType, GenerationId, JobId, JobState, JobType,
    PointId, Position, ReplicationHealth, ReplicationMode, ReplicationSettings, ReplicationState, Timestamp,
    VmId,
};
use serde_json::json;
use uuid::Uuid;

pub(crate) const VARIANTS: usize = 25;

/// The number of an action's variant, and whether a job may come of it.
pub(crate) fn variant(action: &Action) -> (usize, bool) {
    match action {
        Action::ListVms => (0, false),
        Action::ShowVm { .. } => (1, false),
        Action::StartVm { .. } => (2, true),
        Action::StopVm { .. } => (3, true),
        Action::Screenshot { .. } => (4, false),
        Action::EnableReplication { .. } => (5, true),
        Action::StartReplication { .. } => (6, true),
        Action::SuspendReplication { .. } => (7, true),
        Action::ResumeReplication { .. } => (8, true),
        Action::RemoveReplication { .. } => (9, true),
        Action::ReplicateNow { .. } => (10, true),
        Action::ListPoints { .. } => (11, false),
        Action::InitiateFailover { .. } => (12, true),
        Action::RevertFailover { .. } => (13, true),
        Action::CommitFailover { .. } => (14, true),
        Action::ListJobs => (15, false),
        Action::ShowJob { .. } => (16, false),
        Action::CancelJob { .. } => (17, true),
        Action::ListEvents { .. } => (18, false),
        Action::ListAuthorization => (19, false),
        Action::AddAuthorization { .. } => (20, true),
        Action::RemoveAuthorization { .. } => (21, true),
        Action::ShowServer => (22, false),
        Action::SetServer { .. } => (23, true),
        Action::TestConnection { .. } => (24, true),
    }
}

pub(crate) fn selectors() -> Vec<PointSelector> {
    vec![
        PointSelector::Latest,
        PointSelector::Id("4f".into()),
        PointSelector::At(Timestamp(1_700_000_000_123)),
    ]
}

pub(crate) fn actions() -> Vec<Action> {
    let vm = || VmRef("web".into());
    let job = job().id;
    let settings = settings();
    let mut all = vec![
        Action::ListVms,
        Action::ShowVm { vm: vm() },
        Action::StartVm { vm: vm() },
        Action::StopVm {
            vm: vm(),
            force: true,
        },
        Action::Screenshot { vm: vm() },
        Action::EnableReplication { vm: vm(), settings },
        Action::StartReplication { vm: vm() },
        Action::SuspendReplication { vm: vm() },
        Action::ResumeReplication { vm: vm() },
        Action::RemoveReplication { vm: vm() },
        Action::ReplicateNow { vm: vm() },
        Action::ListPoints { vm: vm() },
        Action::RevertFailover {
            vm: vm(),
            force: false,
        },
        Action::CommitFailover { vm: vm() },
        Action::ListJobs,
        Action::ShowJob { job },
        Action::CancelJob { job },
        Action::ListEvents { vm: None, limit: 5 },
        Action::ListEvents {
            vm: Some(vm()),
            limit: 1000,
        },
        Action::ListAuthorization,
        Action::AddAuthorization { entry: entry() },
        Action::RemoveAuthorization {
            primary: "*.example.org".into(),
        },
        Action::RemoveAuthorization { primary: "*".into() },
        Action::ShowServer,
        Action::SetServer {
            settings: ServerSettings { enabled: true },
        },
        Action::TestConnection {
            peer: "[::1]:8443".into(),
        },
    ];
    all.extend(selectors().into_iter().map(|point| Action::InitiateFailover {
        vm: vm(),
        point,
        start: false,
    }));
    all
}

/// Answers that the action may get, every one of them.
pub(crate) fn answers(action: &Action) -> Vec<Answer> {
    match action {
        Action::ListVms => vec![Answer::Vms(vms())],
        Action::ShowVm { .. } => vms().into_iter().map(|v| Answer::Vm(Box::new(v))).collect(),
        Action::Screenshot { .. } => vec![Answer::Picture(vec![0x89, b'P', b'N', b'G'])],
        Action::ListPoints { .. } => vec![Answer::Points(points())],
        Action::ListJobs => vec![Answer::Jobs(jobs())],
        Action::ShowJob { .. } => vec![Answer::Job(job())],
        Action::ListEvents { .. } => vec![Answer::Events(events())],
        Action::ListAuthorization => vec![Answer::Entries(vec![entry()])],
        Action::ShowServer => vec![Answer::Server(ServerView {
            host: "a".into(),
            version: "0.1.0".into(),
            listen: "0.0.0.0:8443".into(),
            settings: ServerSettings { enabled: true },
        })],
        other => {
            assert!(variant(other).1, "no answer for {other:?}");
            vec![Answer::Done, Answer::Job(job()), Answer::Job(jobs().remove(1))]
        }
    }
}

fn settings() -> ReplicationSettings {
    ReplicationSettings {
        peer: "b.example.org:8443".into(),
        interval_s: 30,
        history: 4,
        point_spacing_s: 3600,
        any_point_window_s: 3600,
        disks: vec![DiskId::new("sys").unwrap()],
        compression: true,
    }
}

fn entry() -> AuthorizationEntry {
    AuthorizationEntry {
        primary: "a".into(),
        storage_location: "/srv".into(),
        trust_group: "default".into(),
    }
}

pub(crate) fn job() -> Job {
    Job {
        id: JobId(Uuid::from_u128(7)),
        vm: VmId(Uuid::from_u128(1)),
        kind: JobType::SendInitial,
        state: JobState::Running,
        percent: 10,
        detail: "disk sys".into(),
        done_bytes: 1,
        total_bytes: 10,
        error: None,
        created: Timestamp(1),
        started: Some(Timestamp(2)),
        ended: None,
    }
}

fn jobs() -> Vec<Job> {
    vec![
        job(),
        Job {
            state: JobState::Exception,
            error: Some("no".into()),
            ended: Some(Timestamp(3)),
            ..job()
        },
    ]
}

fn events() -> Vec<Event> {
    let event = Event {
        at: Timestamp(1),
        vm: None,
        message: "started".into(),
    };
    vec![
        event.clone(),
        Event {
            vm: Some(VmId(Uuid::from_u128(1))),
            ..event
        },
    ]
}

fn position() -> Position {
    Position {
        generation: GenerationId(Uuid::from_u128(5)),
        sequence: 9,
    }
}

fn points() -> Vec<PointView> {
    let point = PointView {
        id: "4f".into(),
        target: Target::Point {
            id: PointId(Uuid::from_u128(4)),
        },
        instant: Timestamp(1),
        consistency: lifeboat_deltalog::Consistency::Crash,
        size: 1,
    };
    let cycle = Target::Cycle { position: position() };
    vec![
        point.clone(),
        PointView {
            target: cycle,
            consistency: lifeboat_deltalog::Consistency::Application,
            ..point
        },
    ]
}

fn view() -> ReplicationView {
    ReplicationView {
        mode: ReplicationMode::Primary,
        state: ReplicationState::Replicating,
        health: ReplicationHealth::Warning,
        health_notes: vec!["one cycle missed".into()],
        peer: "b".into(),
        settings: settings(),
        position: position(),
        newest_instant: Some(Timestamp(1)),
        last_replication: None,
        lag_ms: Some(1500),
        problem: Some(Problem {
            since: Timestamp(1),
            message: "b cannot be reached".into(),
            attempts: 3,
        }),
        bulk: vec![BulkView {
            progress: BulkProgress {
                disk: DiskId::new("sys").unwrap(),
                done: 1,
            },
            size: 10,
        }],
        failover: None,
        counters: Counters::default(),
    }
}

fn failover(phase: FailoverPhase) -> Failover {
    Failover {
        branch: BranchId(Uuid::from_u128(3)),
        target: Target::Cycle { position: position() },
        instant: Timestamp(1),
        consistency: lifeboat_deltalog::Consistency::Planned,
        kind: FailedOverReplicationType::Regular,
        phase,
        job: job().id,
        before: ReplicationState::Replicating,
    }
}

fn vms() -> Vec<VmView> {
    let spec = |extra: serde_json::Value| {
        let mut spec = json!({
            "name": "web", "uuid": Uuid::from_u128(1), "memory_mib": 64, "cpus": 1,
            "disk": [{"id": "sys", "path": "/d/sys.raw", "format": "raw", "bus": "scsi"}]
        });
        spec.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    };
    let plain = VmView {
        spec: spec(json!({})),
        power: PowerState::Off,
        console: Console {
            socket: "/run/c".into(),
            log: "/run/l".into(),
        },
        replication: None,
    };
    let tap = json!({"mac": "52:54:00:00:00:01", "backend": {"type": "tap", "ifname": "t0"}});
    let uefi = json!({"firmware": {"type": "uefi", "code": "/c", "vars": "/v"}, "nic": [tap]});
    let mut all = vec![
        plain.clone(),
        VmView {
            spec: spec(uefi),
            power: PowerState::Stalled,
            ..plain.clone()
        },
    ];
    let generation = GenerationId(Uuid::from_u128(6));
    for phase in [
        FailoverPhase::Initiating { start: true },
        FailoverPhase::Ready,
        FailoverPhase::Reverting,
        FailoverPhase::Committing { generation },
        FailoverPhase::Merging,
        FailoverPhase::Done,
    ] {
        let replication = Some(ReplicationView {
            failover: Some(failover(phase)),
            ..view()
        });
        all.push(VmView {
            replication,
            power: PowerState::Running,
            ..plain.clone()
        });
    }
    all
}
