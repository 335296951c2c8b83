//! One of everything that crosses the surface: each action as its route makes it from the examples of the document, and by hand
//! those that have several shapes; and what they are answered with.

mod examples;

use lifeboat_engine::action::{
    AbandonedView, Action, Answer, AtRestView, BacklogView, BulkView, CertificateView, ChangesView,
    ConsoleView, ContactView, CountersView, CycleResult, DirectoryContent, DirectoryView, DiskPlace,
    EventView, ExtendedView, FailoverStage, FailoverView, HistoryView, HoldReason, HoldView, InitialCopy,
    JobView, KnownKeyView, PlannedStage, PlannedView, PointSelector, PointView, PowerNote, ProcessView,
    RelationshipRef, ReplicationView, RequestStage, RequestView, ServerKeys, ServerSettings, ServerView,
    SplitStage, SplitView, SynchronizationReason, SynchronizationView, TestStage, TestView, VmRef, VmTimes,
    VmView,
};
use lifeboat_engine::by::{By, Surface};
use lifeboat_engine::paging::{Page, Paging};
use lifeboat_engine::person::Account;
use lifeboat_engine::problem::Problem;
use lifeboat_model::certificates::CertificateUse;
use lifeboat_model::power::PowerState;
use lifeboat_model::vm::NicBackend;
use lifeboat_model::{
    AuthorizationEntry, Bandwidth, BandwidthWindow, Changed, DayWindow, DiskId, FailedOverReplicationType,
    Finding, Fingerprint, GenerationId, JobId, JobState, JobType, NicFailover, Note, PointId, Position,
    ProblemKind, RelationshipId, ReplicationHealth, ReplicationMode, ReplicationSettings, ReplicationState,
    RequestId, Target, Timestamp, VmId, hint,
};
use lifeboat_rest::routes::{ROUTES, Reply, Route};
use serde_json::json;
use uuid::Uuid;

pub(crate) use examples::example;

pub(crate) fn selectors() -> Vec<PointSelector> {
    vec![
        PointSelector::Latest,
        PointSelector::Id("4f".into()),
        PointSelector::At(Timestamp(1_700_000_000_123)),
    ]
}

fn trusted() -> [Action; 2] {
    [
        Action::TrustKey {
            vm: None,
            host: "b.example.org".into(),
            key: Fingerprint::new([0xab; 32]),
        },
        Action::TrustKey {
            vm: Some(VmRef::Text("web".into())),
            host: "10.0.0.2:8443".into(),
            key: Fingerprint::new([0xcd; 32]),
        },
    ]
}

/// A part in the middle of a list.
fn part() -> Paging {
    Paging {
        limit: Some(7),
        after: Some("WyJhLV9iIl0".into()),
    }
}

/// A page, which is followed by another one where a part in the middle was asked for.
fn page<T>(items: Vec<T>, after: Option<&String>) -> Page<T> {
    let next = after.map(|_| "WyJhLV9jIl0".into());
    Page { items, next }
}

fn lists() -> Vec<Action> {
    vec![
        Action::ListVms(Paging::FIRST),
        Action::ListVms(part()),
        Action::ListPoints {
            vm: VmRef::Text("web".into()),
            page: Paging::FIRST,
        },
        Action::ListPoints {
            vm: VmRef::Text("web".into()),
            page: part(),
        },
        Action::ListJobs(Paging::FIRST),
        Action::ListJobs(part()),
        Action::ListAuthorization(Paging::FIRST),
        Action::ListAuthorization(part()),
        Action::ListEvents {
            vm: None,
            limit: 5,
            after: None,
        },
        Action::ListEvents {
            vm: Some(VmRef::Text("web".into())),
            limit: 1000,
            after: Some("NQ".into()),
        },
    ]
}

/// Every action: one of each route, and all shapes of those that have several.
pub(crate) fn actions() -> Vec<Action> {
    let mut all = examples::of_routes();
    all.extend(lists());
    all.extend(shapes());
    all.extend(trusted());
    all.extend(selected());
    all.extend(copies());
    all
}

fn selected() -> Vec<Action> {
    let vm = || VmRef::Text("web".into());
    let mut all = Vec::new();
    for point in selectors() {
        all.push(Action::InitiateFailover {
            vm: vm(),
            point: point.clone(),
            start: false,
            force: true,
        });
        all.push(Action::StartTest {
            vm: vm(),
            point,
            start: true,
        });
    }
    all
}

/// Actions whose fields make a difference, or have values that are hard to send.
fn shapes() -> Vec<Action> {
    let vm = || VmRef::Text("web".into());
    vec![
        Action::StartVm {
            vm: vm(),
            force: false,
        },
        Action::RevertFailover {
            vm: vm(),
            force: false,
        },
        Action::EnableReplication {
            vm: vm(),
            settings: settings(),
        },
        Action::ModifyReplication {
            vm: vm(),
            settings: settings(),
            relationship: RelationshipRef::Id(RelationshipId::new(2)),
        },
        Action::ReverseReplication {
            vm: vm(),
            settings: None,
        },
        Action::ReverseReplication {
            vm: vm(),
            settings: Some(settings()),
        },
        Action::SetFailoverNetwork {
            vm: vm(),
            cards: cards(),
        },
        Action::ResetStatistics {
            vm: vm(),
            relationship: RelationshipRef::Usual,
        },
        Action::PlannedFailover {
            vm: vm(),
            force: true,
            prepare_only: true,
            start: false,
        },
        Action::ExtendReplication {
            vm: vm(),
            settings: settings(),
            start: false,
        },
        Action::SetAuthorization {
            vm: vm(),
            primary: "*.example.org".into(),
        },
        Action::AddAuthorization { entry: entry() },
        Action::RemoveAuthorization {
            primary: "*.example.org".into(),
        },
        Action::RemoveAuthorization { primary: "*".into() },
        Action::SetServer { settings: server() },
        Action::TestConnection {
            peer: "[::1]:8443".into(),
        },
    ]
}

pub(crate) fn initial_copies() -> Vec<InitialCopy> {
    vec![
        InitialCopy::Network,
        InitialCopy::Export {
            dir: "/media/disk".into(),
        },
        InitialCopy::Seed,
    ]
}

fn copies() -> impl Iterator<Item = Action> {
    let vm = || VmRef::Text("web".into());
    let starts = initial_copies()
        .into_iter()
        .map(move |how| Action::StartReplication {
            vm: vm(),
            how,
            at: Some(Timestamp(9)),
            relationship: Default::default(),
        });
    let import = Action::ImportCopy {
        vm: vm(),
        dir: "/media/disk".into(),
    };
    let resyncs = [None, Some(Timestamp(9))].map(|at| Action::Resynchronize {
        vm: vm(),
        at,
        relationship: Default::default(),
    });
    starts.chain([import]).chain(resyncs)
}

pub(crate) fn cards() -> Vec<NicFailover> {
    let plain = NicFailover {
        mac: "52:54:00:00:00:01".into(),
        ..NicFailover::default()
    };
    vec![
        plain.clone(),
        NicFailover {
            dhcp: true,
            backend: Some(NicBackend::User),
            test_backend: Some(NicBackend::Bridge {
                name: "br-test".into(),
            }),
            ..plain.clone()
        },
        NicFailover {
            addresses: vec!["10.1.2.3/24".into(), "fd00::3/64".into()],
            gateways: vec!["10.1.2.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            dns: vec!["10.1.2.1".parse().unwrap()],
            backend: Some(NicBackend::Tap { ifname: "t0".into() }),
            ..plain
        },
    ]
}

fn night() -> DayWindow {
    DayWindow {
        from_min: 1320,
        to_min: 360,
    }
}

fn bandwidth() -> Bandwidth {
    Bandwidth {
        bytes_per_s: 10 << 20,
        windows: vec![BandwidthWindow {
            window: night(),
            bytes_per_s: 0,
        }],
    }
}

fn server() -> ServerSettings {
    ServerSettings {
        enabled: true,
        bandwidth: bandwidth(),
        ..ServerSettings::default()
    }
}

/// The action's own route.
pub(crate) fn route(action: &Action) -> &'static Route {
    let tag = serde_json::to_value(action).unwrap()["action"].clone();
    let own = ROUTES.iter().find(|r| tag == r.action && !r.is_old());
    own.unwrap_or_else(|| panic!("no route for {tag}"))
}

/// Answers that the action may get, every one of them.
pub(crate) fn answers(action: &Action) -> Vec<Answer> {
    match action {
        Action::ListVms(p) => vec![Answer::Vms(page(vms(), p.after.as_ref()))],
        Action::ShowVm { .. } => vms().into_iter().map(|v| Answer::Vm(Box::new(v))).collect(),
        Action::Screenshot { .. } => vec![Answer::Picture(vec![0x89, b'P', b'N', b'G'])],
        Action::ListPoints { page: p, .. } => vec![Answer::Points(page(points(), p.after.as_ref()))],
        Action::ReplicateNow { .. } => vec![
            Answer::Cycle(CycleResult::Sent {
                bytes: 4096,
                instant: Timestamp(3),
                position: position(),
            }),
            Answer::Cycle(CycleResult::Unchanged {
                verified: Timestamp(6),
            }),
        ],
        Action::ListJobs(p) => vec![Answer::Jobs(page(jobs(), p.after.as_ref()))],
        Action::ShowJob { .. } => vec![Answer::Job(job())],
        Action::ListEvents { after, .. } => vec![Answer::Events(page(events(), after.as_ref()))],
        Action::ListAuthorization(p) => vec![Answer::Entries(page(vec![entry()], p.after.as_ref()))],
        Action::ShowServer => vec![Answer::Server(ServerView {
            host: "a".into(),
            version: "0.1.0".into(),
            listen: "0.0.0.0:8443".into(),
            settings: server(),
            certificates: vec![CertificateView {
                usage: CertificateUse::Peer,
                place: "b.example.org:8443".into(),
                not_before: Timestamp(1),
                not_after: Timestamp(2),
                problem: Some("it is over".into()),
            }],
            keys: ServerKeys {
                own: Some(Fingerprint::new([1; 32])),
                next: None,
            },
            encrypts_new: true,
            directories: vec![
                directory(DirectoryContent::Spool, AtRestView::NotEncrypted),
                directory(DirectoryContent::Location, AtRestView::Encrypted { key: None }),
                directory(DirectoryContent::Replica, encrypted()),
                directory(DirectoryContent::Replica, AtRestView::Locked { key: "0a".into() }),
                directory(
                    DirectoryContent::Replica,
                    AtRestView::NotKnown {
                        why: "it hangs".into(),
                    },
                ),
            ],
            notes: vec![gone()],
        })],
        Action::ListRequests => vec![Answer::Requests(requests())],
        other => {
            assert_eq!(route(other).reply, Reply::Carried, "no answer for {other:?}");
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
        application_h: 4,
        auto_resync: Some(night()),
        bandwidth: bandwidth(),
    }
}

fn entry() -> AuthorizationEntry {
    AuthorizationEntry {
        primary: "a".into(),
        storage_location: "/srv".into(),
        trust_group: "*.example.org".into(),
        allow_start: true,
        keep_at_least_s: 604_800,
        locked_until: Some(Timestamp(1_790_000_000_000)),
        quota: Default::default(),
    }
}

/// A finding of one that there is.
fn missed() -> Finding {
    Finding::warning(ProblemKind::CyclesMissed, "one cycle missed")
}

/// A finding with everything that one can have.
fn gone() -> Finding {
    let file = "/etc/lifeboat/vms/web.toml".to_owned();
    let note = Note::new(
        "its description is gone",
        hint::Replicate::DescribeOrRemove { file },
    );
    Finding::critical(ProblemKind::DescriptionGone, note).about("web")
}

pub(crate) fn job() -> JobView {
    JobView {
        id: JobId(Uuid::from_u128(7)),
        vm: VmId(Uuid::from_u128(1)),
        kind: JobType::SendInitial,
        state: JobState::Running,
        percent: 10,
        detail: "disk sys".into(),
        done_bytes: 1,
        total_bytes: 10,
        error: None,
        hint: None,
        code: None,
        created: Timestamp(1),
        started: Some(Timestamp(2)),
        ended: None,
        by: None,
    }
}

fn jobs() -> Vec<JobView> {
    vec![
        job(),
        JobView {
            state: JobState::Exception,
            error: Some("no".into()),
            hint: Some(hint::Failover::FreeRoom.into()),
            code: Some(lifeboat_model::api::ReturnCode::Timeout),
            ended: Some(Timestamp(3)),
            by: Some(By::process(0, Some(7))),
            ..job()
        },
    ]
}

fn events() -> Vec<EventView> {
    let event = EventView {
        at: Timestamp(1),
        vm: None,
        message: "started".into(),
        hint: None,
        by: None,
    };
    vec![
        event.clone(),
        EventView {
            vm: Some(VmId(Uuid::from_u128(1))),
            hint: Some(hint::Look::Status.into()),
            by: Some(By {
                surface: Surface::Peer,
                name: "a.example.org".into(),
                from: None,
                account: None,
                confirmed: Some(Box::new(By::process(0, None))),
            }),
            ..event
        },
    ]
}

pub(crate) fn request() -> RequestView {
    RequestView {
        id: RequestId(Uuid::from_u128(8)),
        by: By::of(
            Account {
                uid: 0,
                login: Some(1000),
                user: Some("ada".into()),
            },
            Some(7),
        ),
        action: Action::CommitFailover {
            vm: VmRef::Text("web".into()),
        },
        vm: Some(VmId(Uuid::from_u128(1))),
        what: "commit of the failover of \"web\"".into(),
        asked: Timestamp(1),
        until: Timestamp(2),
        state: RequestStage::Waits,
    }
}

fn requests() -> Vec<RequestView> {
    let second = || Box::new(By::process(1001, None));
    let states = [
        RequestStage::Waits,
        RequestStage::Confirmed { second: second() },
        RequestStage::NotKnown { second: second() },
    ];
    let of = |state| RequestView { state, ..request() };
    let host = RequestView {
        vm: None,
        ..request()
    };
    states.map(of).into_iter().chain([host]).collect()
}

fn position() -> Position {
    Position::from_parts(GenerationId(Uuid::from_u128(5)), 9)
}

fn points() -> Vec<PointView> {
    let point = PointView {
        id: "4f".into(),
        guid: Some(Uuid::from_u128(5)),
        target: Target::Point {
            id: PointId(Uuid::from_u128(4)),
        },
        instant: Timestamp(1),
        consistency: lifeboat_deltalog::Consistency::Crash,
        size: 1,
        unusable: None,
        changed: Some(Changed {
            data: 3,
            random: 2,
            zeroed: 1,
        }),
    };
    let cycle = Target::Cycle { position: position() };
    vec![
        point.clone(),
        PointView {
            target: cycle,
            consistency: lifeboat_deltalog::Consistency::Application,
            ..point.clone()
        },
        PointView {
            id: "abandoned".into(),
            guid: None,
            target: Target::Abandoned,
            unusable: Some("a file is damaged".into()),
            ..point
        },
    ]
}

fn encrypted() -> AtRestView {
    AtRestView::Encrypted {
        key: Some("0b".into()),
    }
}

fn directory(content: DirectoryContent, at_rest: AtRestView) -> DirectoryView {
    DirectoryView {
        content,
        path: "/d".into(),
        at_rest,
    }
}

fn view() -> ReplicationView {
    ReplicationView {
        mode: ReplicationMode::Primary,
        state: ReplicationState::Replicating,
        health: ReplicationHealth::Warning,
        health_notes: vec![missed()],
        peer: "b".into(),
        settings: settings(),
        position: position(),
        newest_instant: Some(Timestamp(1)),
        last_replication: None,
        last_application: Some(Timestamp(1)),
        lag_ms: Some(1500),
        pending_bytes: Some(65_536),
        problem: Some(Problem {
            since: Timestamp(1),
            kind: ProblemKind::PeerUnreachable,
            message: "b cannot be reached".into(),
            hint: Some(hint::Trust::CheckPeer.into()),
            attempts: 3,
        }),
        bulk: vec![BulkView {
            disk: DiskId::new("sys").unwrap(),
            done: 1,
            size: 10,
        }],
        failover: None,
        test: None,
        last_test: None,
        sync: None,
        planned: None,
        split: None,
        scheduled: None,
        abandoned: None,
        preflight: Vec::new(),
        network: Vec::new(),
        counters: CountersView::default(),
        extended: None,
        further: Vec::new(),
        allowed: None,
        contact: None,
        backlog: None,
        hold: None,
        changes: None,
        dir: None,
        at_rest: Some(encrypted()),
        keys: Vec::new(),
    }
}

fn extended() -> ExtendedView {
    ExtendedView {
        relationship: RelationshipId::new(1),
        state: ReplicationState::Replicating,
        health: ReplicationHealth::Ok,
        health_notes: Vec::new(),
        peer: "c.example.org:8443".into(),
        settings: settings(),
        position: Some(position()),
        newest_instant: Some(Timestamp(1)),
        last_replication: Some(Timestamp(1)),
        lag_ms: Some(1),
        pending_bytes: Some(1),
        problem: view().problem,
        counters: CountersView::default(),
    }
}

fn changing() -> ChangesView {
    ChangesView {
        hour: points()[0].changed.unwrap(),
        usual: 4,
    }
}

fn held() -> HoldView {
    HoldView {
        since: Timestamp(1),
        reasons: reasons(),
    }
}

fn reasons() -> Vec<HoldReason> {
    let history = |points| HistoryView {
        points,
        spacing_s: 3600,
        window_s: 600,
    };
    let (before, now) = (history(12), history(0));
    vec![
        HoldReason::Asked,
        HoldReason::LessHistory { before, now },
        HoldReason::Burst {
            random: 9 << 30,
            usual: 1 << 20,
        },
    ]
}

fn known_keys() -> Vec<KnownKeyView> {
    vec![KnownKeyView {
        names: vec!["b.example.org".into()],
        addresses: vec!["b.example.org:8443".into()],
        key: Fingerprint::new([2; 32]),
        since: Timestamp(5),
        next: Some(Fingerprint::new([3; 32])),
    }]
}

/// The stages of what goes on, each of them at least once.
fn stages() -> [(SynchronizationReason, PlannedStage, TestStage, SplitStage); 5] {
    use SynchronizationReason::{Resync, Reverse, Seed};
    use {PlannedStage as P, SplitStage as S, TestStage as T};
    [
        (Resync, P::ShuttingDown, T::Making, S::FailedOver),
        (Seed, P::SendingChanges, T::Ready, S::Committed),
        (Reverse, P::Prepared, T::Ending, S::Committed),
        (Resync, P::AskingReplica, T::Ready, S::Committed),
        (Resync, P::HandingOver, T::Ready, S::Committed),
    ]
}

/// Everything at once, which never happens; each of it in every form.
fn busy() -> Vec<ReplicationView> {
    let mut all = Vec::new();
    for (reason, planned, test, split) in stages() {
        all.push(ReplicationView {
            hold: Some(held()),
            changes: Some(changing()),
            test: Some(TestView {
                stage: test,
                vm: VmId(Uuid::from_u128(8)),
                point: Target::Abandoned,
                instant: Timestamp(1),
                job: job().id,
            }),
            last_test: Some(Timestamp(1)),
            sync: Some(SynchronizationView {
                reason,
                at: (planned != PlannedStage::Prepared).then(|| DiskPlace {
                    disk: DiskId::new("sys").unwrap(),
                    offset: 1 << 30,
                }),
                sent: 77,
                job: Some(job().id),
            }),
            planned: Some(PlannedView {
                stage: planned,
                start: true,
                job: job().id,
            }),
            split: Some(SplitView {
                stage: split,
                since: Timestamp(1),
                theirs: "committed, running".into(),
            }),
            scheduled: Some(Timestamp(1)),
            abandoned: Some(AbandonedView {
                since: position(),
                at: Timestamp(1),
            }),
            preflight: vec!["no KVM".into()],
            network: cards(),
            counters: CountersView {
                since: Some(Timestamp(1)),
                ..CountersView::default()
            },
            extended: Some(Box::new(extended())),
            further: vec![extended()],
            allowed: Some("*.example.org".into()),
            contact: Some(contact()),
            backlog: Some(backlog()),
            dir: Some("/srv/replicas/x".into()),
            keys: known_keys(),
            ..view()
        });
    }
    all
}

fn contact() -> ContactView {
    ContactView {
        heard: Some(Timestamp(1_699_999_999_000)),
        silent_ms: 1000,
    }
}

fn backlog() -> BacklogView {
    BacklogView {
        logs: 3,
        bytes: 4096,
        age_ms: Some(1500),
    }
}

fn failover(stage: FailoverStage) -> FailoverView {
    FailoverView {
        stage,
        point: Target::Cycle { position: position() },
        position: Some(position()),
        instant: Timestamp(1),
        consistency: lifeboat_deltalog::Consistency::Planned,
        kind: FailedOverReplicationType::Regular,
        unreached: Some("alpha:8700 could not be reached".into()),
        reverses_to: Some("alpha:8700".into()),
        job: job().id,
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
        power_note: None,
        console: ConsoleView {
            socket: "/run/c".into(),
            log: "/run/l".into(),
        },
        process: Some(ProcessView { pid: 7, age_ms: 8 }),
        times: VmTimes {
            known: Some(Timestamp(1)),
            configured: Some(Timestamp(2)),
            power: None,
        },
        disk_files: [(DiskId::new("sys").unwrap(), "/d/sys.raw".into())].into(),
        replication: None,
        description_gone: None,
    };
    let tap = json!({"mac": "52:54:00:00:00:01", "backend": {"type": "tap", "ifname": "t0"}});
    let uefi = json!({"firmware": {"type": "uefi", "code": "/c", "vars": "/v"}, "nic": [tap]});
    let mut all = vec![
        plain.clone(),
        VmView {
            spec: spec(uefi),
            power: PowerState::Stalled,
            power_note: Some(PowerNote {
                reason: "no space left for disk sys".into(),
                since: Timestamp(5),
                before: None,
            }),
            description_gone: Some(gone()),
            ..plain.clone()
        },
    ];
    for stage in [
        FailoverStage::Starting,
        FailoverStage::Undecided,
        FailoverStage::TakingOver,
        FailoverStage::Reverting,
        FailoverStage::Committing,
        FailoverStage::Merging,
        FailoverStage::Committed,
    ] {
        let replication = Some(ReplicationView {
            failover: Some(failover(stage)),
            ..view()
        });
        all.push(VmView {
            replication,
            power: PowerState::Running,
            ..plain.clone()
        });
    }
    all.extend(busy().into_iter().map(|replication| VmView {
        replication: Some(replication),
        ..plain.clone()
    }));
    all
}
