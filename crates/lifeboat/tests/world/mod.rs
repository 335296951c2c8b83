//! A host that is all surface: a real REST server over a scripted engine with a handful of VMs in telling states.

mod lifecycle;
mod requests;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use camino::Utf8PathBuf;
use lifeboat_deltalog::Consistency;
use lifeboat_engine::action::{
    Action, Answer, AtRestView, BacklogView, BulkView, CertificateView, ChangesView, ConsoleView,
    ContactView, CountersView, CycleResult, DirectoryContent, DirectoryView, EventView, FailoverStage,
    FailoverView, Feed, HoldReason, HoldView, JobView, KnownKeyView, Management, PointView, Refusal,
    ReplicationView, ServerKeys, ServerSettings, ServerView, VmTimes, VmView, Watch, What,
};
use lifeboat_engine::by::{By, Surface};
use lifeboat_engine::paging::Page;
use lifeboat_engine::ports::link::PeerRefusal;
use lifeboat_engine::problem::Problem;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::certificates::CertificateUse;
use lifeboat_model::lifecycle::Event as Happening;
use lifeboat_model::power::PowerState;
use lifeboat_model::{
    AuthorizationEntry, Bandwidth, Changed, DiskId, FailedOverReplicationType, Fingerprint, GenerationId,
    JobId, JobState, JobType, PointId, Position, ReplicationHealth, ReplicationMode, ReplicationSettings,
    ReplicationState, Target, Timestamp, VmId,
};
use lifeboat_model::{Finding, Note, ProblemKind, hint};
use lifeboat_rest::{Admission, Server};
use serde_json::json;
use tokio::process::Command;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// 2026-11-22 10:42:07.350 UTC.
const NOW: u64 = 1_795_344_127_350;
const GIB: u64 = 1 << 30;

struct Script {
    asked: Mutex<Vec<Action>>,
    job: Mutex<JobView>,
    feed: Feed,
    followed: Notify,
    dir: Utf8PathBuf,
}

/// A host and the way to run commands against it.
pub(crate) struct Host {
    script: Arc<Script>,
    stop: CancellationToken,
    task: Mutex<Option<tokio::task::JoinHandle<()>>>,
    _dir: tempfile::TempDir,
}

impl Host {
    pub(crate) fn start() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dir = Utf8PathBuf::from_path_buf(temp.path().to_owned()).unwrap();
        let script = Arc::new(Script {
            asked: Mutex::default(),
            job: Mutex::new(jobs().remove(0)),
            feed: Feed::default(),
            followed: Notify::new(),
            dir: dir.clone(),
        });
        let server = Server::bind(&dir.join("lifeboat.sock"), Admission::local(None)).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.serve(script.clone(), stop.clone()));
        Self {
            script,
            stop,
            task: Mutex::new(Some(task)),
            _dir: temp,
        }
    }

    pub(crate) fn dir(&self) -> &Utf8PathBuf {
        &self.script.dir
    }

    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        let task = self.task.lock().unwrap().take().unwrap();
        task.await.unwrap();
    }

    /// Everything that commands have asked for.
    pub(crate) fn asked(&self) -> Vec<Action> {
        self.script.asked.lock().unwrap().clone()
    }

    pub(crate) fn actions(&self) -> Vec<Action> {
        let reads = |a: &Action| {
            matches!(
                a,
                Action::ListVms(_) | Action::ShowVm { .. } | Action::ShowJob { .. }
            ) || goes_on(a)
        };
        self.asked().into_iter().filter(|a| !reads(a)).collect()
    }

    /// Waits until a command watches jobs.
    pub(crate) async fn followed(&self) {
        self.script.followed.notified().await;
    }

    pub(crate) fn change_job(&self, change: impl FnOnce(&mut JobView)) {
        let (mut job, feed) = (self.script.job.lock().unwrap(), &self.script.feed);
        change(&mut job);
        assert!(feed.tell(Timestamp(NOW), || What::Job(job.clone().into())));
    }

    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command
            .args(line.split(' '))
            .env_clear()
            .env("TZ", "UTC")
            .env("LIFEBOAT_SOCKET", self.dir().join("lifeboat.sock"));
        command.kill_on_drop(true);
        command
    }

    /// Standard output and error, and the exit code.
    pub(crate) async fn run(&self, line: &str) -> ((String, String), Option<i32>) {
        let output = self.command(line).output().await.unwrap();
        let text = |bytes| {
            String::from_utf8(bytes)
                .unwrap()
                .replace(self.dir().as_str(), "DIR")
        };
        ((text(output.stdout), text(output.stderr)), output.status.code())
    }

    pub(crate) async fn transcript(&self, lines: &[&str]) -> String {
        let mut text = String::new();
        for line in lines {
            let ((out, err), code) = self.run(line).await;
            let _ = writeln!(text, "$ lifeboat {line}");
            text.push_str(&out);
            for l in err.lines() {
                let _ = writeln!(text, "{}", format!("! {l}").trim_end());
            }
            let _ = writeln!(text, "[{}]\n", code.map_or("signal".into(), |c| c.to_string()));
        }
        text
    }
}

/// Holds text against a golden file.
pub(crate) fn golden(name: &str, text: &str) {
    let path = format!("{}/tests/golden/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    if want == text {
        return;
    }
    let first = want.lines().zip(text.lines()).find(|(a, b)| a != b);
    panic!("{path} differs, first at {first:#?}\nrun with UPDATE_GOLDEN=1 and look at the diff");
}

#[async_trait::async_trait]
impl Management for Script {
    async fn perform(&self, _: Option<By>, action: Action) -> Result<Answer, Refusal> {
        self.asked.lock().unwrap().push(action.clone());
        self.answer(&action)
    }

    fn watch(&self) -> Watch {
        let watch = self.feed.watch(Uuid::nil);
        self.followed.notify_one();
        watch
    }
}

/// Lists come in pages of two, so that whoever shows a list has to follow them.
fn page<T>(mut items: Vec<T>, after: Option<&String>) -> Page<T> {
    const MOST: usize = 2;
    let from = after.map_or(0, |n| n.parse::<usize>().unwrap());
    items.drain(..from);
    let next = (items.len() > MOST).then(|| (from + MOST).to_string());
    items.truncate(MOST);
    Page { items, next }
}

/// Whether an action asks for another page than the first.
fn goes_on(action: &Action) -> bool {
    match action {
        Action::ListPoints { page, .. } | Action::ListJobs(page) | Action::ListAuthorization(page) => {
            page.after.is_some()
        }
        Action::ListEvents { after, .. } => after.is_some(),
        _ => false,
    }
}

fn entries() -> Vec<AuthorizationEntry> {
    vec![
        entry("a.example.org"),
        AuthorizationEntry {
            allow_start: true,
            keep_at_least_s: 604_800,
            locked_until: Some(Timestamp(NOW + 30 * 86_400_000)),
            ..entry("*.example.net")
        },
    ]
}

fn sent() -> CycleResult {
    CycleResult::Sent {
        bytes: 3 << 20,
        instant: Timestamp(NOW - 400),
        position: replication().position,
    }
}

impl Script {
    fn answer(&self, action: &Action) -> Result<Answer, Refusal> {
        let finished = |kind, detail: &str| {
            Ok(Answer::Job(JobView {
                kind,
                detail: detail.into(),
                vm: vm_id(4),
                ..jobs().remove(1)
            }))
        };
        if let Some(refusal) = refusal(action) {
            return Err(refusal);
        }
        match action {
            Action::ListVms(p) => Ok(Answer::Vms(page(self.vms(), p.after.as_ref()))),
            Action::ShowVm { vm } => {
                let named = vm.to_string();
                let found = self
                    .vms()
                    .into_iter()
                    .find(|v| v.spec.name == named || v.spec.uuid.to_string() == named);
                let missing = || {
                    Refusal::new(
                        ReturnCode::FileNotFound,
                        format!("there is no VM \"{vm}\" on this host"),
                        hint::Look::Vms,
                    )
                };
                found.map(|v| Answer::Vm(Box::new(v))).ok_or_else(missing)
            }
            Action::Screenshot { .. } => Ok(Answer::Picture(b"\x89PNG pixels".to_vec())),
            Action::ListPoints { page: p, .. } => Ok(Answer::Points(page(points(), p.after.as_ref()))),
            Action::ReplicateNow { .. } => Ok(Answer::Cycle(sent())),
            Action::ListJobs(p) => Ok(Answer::Jobs(page(jobs(), p.after.as_ref()))),
            Action::ShowJob { job } => {
                let known = jobs().into_iter().find(|j| j.id == *job && j.state.is_final());
                Ok(Answer::Job(
                    known.unwrap_or_else(|| self.job.lock().unwrap().clone()),
                ))
            }
            Action::ListEvents { after, .. } => Ok(Answer::Events(page(events(), after.as_ref()))),
            Action::ListRequests => Ok(Answer::Requests(requests::requests())),
            Action::ConfirmRequest { .. } => finished(JobType::CommitFailover, ""),
            Action::ListAuthorization(p) => Ok(Answer::Entries(page(entries(), p.after.as_ref()))),
            Action::ShowServer => Ok(Answer::Server(server())),
            Action::StartReplication { at: Some(_), .. } | Action::Resynchronize { at: Some(_), .. } => {
                Ok(Answer::Done)
            }
            Action::StartReplication { .. } => finished(JobType::SendInitial, ""),
            Action::ImportCopy { .. } => finished(JobType::ImportCopy, ""),
            Action::Resynchronize { .. } => finished(JobType::Resynchronize, ""),
            Action::ReverseReplication { .. } => finished(JobType::Reverse, ""),
            // The replica only asks its primary.
            Action::PlannedFailover { vm, .. } if vm.to_string() == "dev" => Ok(Answer::Done),
            Action::PlannedFailover { .. } => finished(JobType::PlannedFailover, ""),
            Action::CancelPlanned { .. } => finished(JobType::CancelPlanned, ""),
            Action::StartTest { .. } => finished(JobType::TestFailover, ""),
            Action::StopTest { .. } => finished(JobType::RemoveTest, ""),
            Action::ContinueAsPrimary { .. } => finished(JobType::ModeToPrimary, ""),
            Action::InitiateFailover { start: true, .. } => finished(JobType::Failover, ""),
            Action::InitiateFailover { start: false, .. } => {
                Ok(Answer::Job(self.job.lock().unwrap().clone()))
            }
            Action::RevertFailover { .. } => finished(JobType::RevertFailover, ""),
            Action::CommitFailover { .. } => finished(JobType::CommitFailover, ""),
            _ => Ok(Answer::Done),
        }
    }

    fn vms(&self) -> Vec<VmView> {
        let view = |n: u128, name: &str, power, replication| {
            VmView {
            spec: serde_json::from_value(json!({
                "name": name, "uuid": vm_id(n), "memory_mib": 1024 * (n % 64), "cpus": 2,
                "disk": [{"id": "sys", "path": format!("/srv/vms/{name}/sys.qcow2"), "format": "qcow2"},
                         {"id": "data", "path": format!("/srv/vms/{name}/data.raw"), "format": "raw", "bus": "scsi"}],
                "nic": [{"mac": "52:54:00:12:34:56"}]
            }))
            .unwrap(),
            power,
            power_note: None,
            console: ConsoleView { socket: format!("{}/{name}.console", self.dir).into(), log: format!("/var/log/{name}.log").into() },
            process: None,
            times: VmTimes::default(),
            disk_files: BTreeMap::new(),
            replication,
            description_gone: None,
        }
        };
        let over = ReplicationView {
            mode: ReplicationMode::Replica,
            state: ReplicationState::Recovered,
            health: ReplicationHealth::Critical,
            health_notes: vec![Finding::critical(
                ProblemKind::PeerSilent,
                "nothing received for 3h05m",
            )],
            peer: "a.example.org".into(),
            lag_ms: Some(11_100_000),
            contact: Some(ContactView {
                heard: Some(Timestamp(NOW - 11_100_000)),
                silent_ms: 11_100_000,
            }),
            backlog: Some(BacklogView {
                logs: 2,
                bytes: 3 << 20,
                age_ms: Some(11_101_000),
            }),
            pending_bytes: None,
            problem: Some(Problem {
                since: Timestamp(NOW - 11_100_000),
                // A hostile peer's words must not reach the terminal as they are.
                message: "a.example.org cannot be reached: \u{1b}[2Jconnection refused".into(),
                kind: ProblemKind::PeerUnreachable,
                hint: Some(hint::Trust::CheckPeer.into()),
                attempts: 312,
            }),
            failover: Some(failover()),
            hold: Some(held()),
            changes: Some(changing()),
            ..replication()
        };
        let committed = committed(&over);
        let mut all = vec![
            view(1, "web", PowerState::Running, Some(replication())),
            view(2, "db", PowerState::Running, Some(copying())),
            view(3, "idle", PowerState::Off, None),
            view(4, "mail", PowerState::Running, Some(over)),
            view(5, "old", PowerState::Off, Some(committed)),
            view(0x7e57, "dev - Test", PowerState::Off, None),
        ];
        let more = (6..).zip(lifecycle::vms());
        all.extend(more.map(|(n, (name, power, replication))| view(n, name, power, Some(replication))));
        all
    }
}

fn refusal(action: &Action) -> Option<Refusal> {
    let invalid = |message: &str| Refusal::bare(ReturnCode::InvalidState, message);
    match action {
        Action::DropAbandoned { vm } if vm.to_string() == "old" => Some(requests::waits()),
        Action::ReplicateNow { vm } if vm.to_string() == "db" => Some(Refusal::new(
            ReturnCode::InvalidState,
            "db is in state WaitingToCompleteInitialReplication (2): its initial copy is not complete",
            hint::Copies::AwaitOrCancelCopy,
        )),
        Action::InitiateFailover { vm, .. } if vm.to_string() == "old" => Some(not_now(
            ReplicationMode::Replica,
            ReplicationState::Recovered,
            Happening::InitiateFailover,
        )),
        Action::SuspendReplication { vm, .. } if vm.to_string() == "old" => Some(not_now(
            ReplicationMode::Replica,
            ReplicationState::WaitingToCompleteInitialReplication,
            Happening::Suspend,
        )),
        Action::SuspendReplication { vm, .. } if vm.to_string() == "wiki" => Some(not_now(
            ReplicationMode::Primary,
            ReplicationState::SyncedReplicationComplete,
            Happening::Suspend,
        )),
        Action::StartReplication { vm, .. } if vm.to_string() == "big" => Some(not_now(
            ReplicationMode::Primary,
            ReplicationState::Resynchronizing,
            Happening::StartCopy,
        )),
        Action::StartVm { vm, .. } if vm.to_string() == "web" => Some(invalid("the VM is running")),
        Action::StopVm { vm, .. } if vm.to_string() == "idle" => Some(invalid("the VM is off")),
        Action::TestConnection { peer } if peer.starts_with('c') => Some(stranger()),
        Action::EnableReplication { vm, .. } if vm.to_string() == "mail" => Some(stranger()),
        _ => None,
    }
}

fn not_now(mode: ReplicationMode, state: ReplicationState, event: Happening) -> Refusal {
    let no = lifeboat_model::lifecycle::step(mode, state, event).unwrap_err();
    Refusal::new(ReturnCode::InvalidState, no.to_string(), no.hint)
}

fn stranger() -> Refusal {
    let refusal = PeerRefusal::NotAuthorized {
        host: "c.example.org".into(),
        names: vec!["alpha.example.org".into(), "10.0.0.1".into()],
    };
    Refusal {
        hint: refusal.hint(),
        ..Refusal::bare(ReturnCode::AccessDenied, refusal.to_string())
    }
}

fn vm_id(n: u128) -> VmId {
    VmId(Uuid::from_u128(n))
}

fn disk(id: &str) -> DiskId {
    DiskId::new(id).unwrap()
}

fn position() -> Position {
    Position::from_parts(GenerationId(Uuid::from_u128(0x9e)), 1207)
}

fn entry(primary: &str) -> AuthorizationEntry {
    AuthorizationEntry {
        primary: primary.into(),
        storage_location: "/srv/replicas".into(),
        trust_group: primary.into(),
        allow_start: false,
        keep_at_least_s: 0,
        locked_until: None,
        quota: Default::default(),
    }
}

fn copied(name: &str, done: u64, size: u64) -> BulkView {
    BulkView {
        disk: disk(name),
        done,
        size,
    }
}

fn replication() -> ReplicationView {
    ReplicationView {
        mode: ReplicationMode::Primary,
        state: ReplicationState::Replicating,
        health: ReplicationHealth::Ok,
        health_notes: Vec::new(),
        peer: "b.example.org:8443".into(),
        settings: ReplicationSettings {
            peer: "b.example.org:8443".into(),
            interval_s: 30,
            history: 4,
            point_spacing_s: 3600,
            any_point_window_s: 3600,
            disks: vec![disk("sys"), disk("data")],
            compression: true,
            application_h: 0,
            auto_resync: None,
            bandwidth: Bandwidth::default(),
        },
        position: position(),
        newest_instant: Some(Timestamp(NOW - 12_400)),
        last_replication: Some(Timestamp(NOW - 11_900)),
        last_application: None,
        lag_ms: Some(12_400),
        pending_bytes: Some(44 << 20),
        problem: None,
        bulk: Vec::new(),
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
        counters: CountersView {
            since: Some(Timestamp(NOW - 6_127_350)),
            total_latency_ms: 1207 * 500,
            network_failures: 1,
            application_failures: 0,
            cycles: 1207,
            failures: 2,
            missed: 1,
            bytes: 7 * GIB + GIB / 2,
            largest: 900 << 20,
            last_latency_ms: 480,
            max_latency_ms: 61_000,
        },
        extended: None,
        further: Vec::new(),
        allowed: None,
        contact: None,
        backlog: None,
        hold: None,
        changes: None,
        dir: None,
        at_rest: None,
        keys: vec![KnownKeyView {
            names: vec!["beta.example.org".into()],
            addresses: vec!["beta.example.org:8443".into()],
            key: Fingerprint::new([0x5a; 32]),
            since: Timestamp(1_700_000_000_000),
            next: None,
        }],
    }
}

fn held() -> HoldView {
    HoldView {
        since: Timestamp(NOW - 11_200_000),
        reasons: vec![HoldReason::Burst {
            random: 9 * GIB,
            usual: GIB / 4,
        }],
    }
}

fn changing() -> ChangesView {
    ChangesView {
        hour: Changed {
            data: 10 * GIB,
            random: 9 * GIB,
            zeroed: 0,
        },
        usual: GIB / 4,
    }
}

/// What becomes of a failed-over replica that nobody looks after once it is committed.
fn committed(over: &ReplicationView) -> ReplicationView {
    let unreached = "a.example.org cannot be reached: connection refused";
    ReplicationView {
        state: ReplicationState::Committed,
        health_notes: vec![
            Finding::critical(ProblemKind::PeerUnreachable, unreached),
            Finding::warning(
                ProblemKind::Unprotected,
                "failed over and not reversed: the VM is unprotected",
            ),
        ],
        problem: Some(Problem {
            since: Timestamp(NOW - 11_100_000),
            message: unreached.into(),
            kind: ProblemKind::PeerUnreachable,
            hint: None,
            attempts: 3,
        }),
        failover: Some(FailoverView {
            stage: FailoverStage::Committed,
            consistency: Consistency::Application,
            kind: FailedOverReplicationType::ApplicationConsistent,
            ..failover()
        }),
        ..over.clone()
    }
}

fn failover() -> FailoverView {
    FailoverView {
        stage: FailoverStage::Undecided,
        point: Target::Cycle { position: position() },
        position: Some(position()),
        instant: Timestamp(NOW - 11_100_000),
        consistency: Consistency::Crash,
        kind: FailedOverReplicationType::Regular,
        unreached: None,
        reverses_to: None,
        job: JobId(Uuid::from_u128(0xa2)),
    }
}

fn points() -> Vec<PointView> {
    let point = PointView {
        id: "00000000-0000-0000-0000-00000000004f".into(),
        guid: Some(Uuid::from_u128(0x5f)),
        target: Target::Point {
            id: PointId(Uuid::from_u128(0x4f)),
        },
        instant: Timestamp(NOW - 3_600_000),
        consistency: Consistency::Application,
        size: 123_456_789,
        unusable: None,
        changed: Some(Changed {
            data: 200 << 20,
            random: 150 << 20,
            zeroed: 5 << 20,
        }),
    };
    let cycle = PointView {
        id: position().to_string(),
        guid: Some(lifeboat_engine::point_guid(position())),
        target: Target::Cycle { position: position() },
        instant: Timestamp(NOW),
        consistency: Consistency::Crash,
        size: 40_960,
        unusable: None,
        changed: None,
    };
    let abandoned = PointView {
        id: "abandoned".into(),
        guid: None,
        target: Target::Abandoned,
        instant: Timestamp(NOW - 11_100_000),
        consistency: Consistency::Crash,
        size: 77 << 20,
        unusable: None,
        changed: None,
    };
    vec![cycle, point, abandoned]
}

fn jobs() -> Vec<JobView> {
    let running = JobView {
        id: JobId(Uuid::from_u128(0xa1)),
        vm: vm_id(2),
        kind: JobType::SendInitial,
        state: JobState::Running,
        percent: 30,
        detail: "disk sys".into(),
        done_bytes: 3 * GIB,
        total_bytes: 10 * GIB,
        error: None,
        hint: None,
        code: None,
        created: Timestamp(NOW - 60_000),
        started: Some(Timestamp(NOW - 59_000)),
        ended: None,
        by: Some(By {
            surface: Surface::Wsman,
            name: "anna".into(),
            from: Some("192.0.2.7:40112".into()),
            account: None,
            confirmed: None,
        }),
    };
    let done = JobView {
        id: JobId(Uuid::from_u128(0xa2)),
        vm: vm_id(4),
        kind: JobType::Failover,
        state: JobState::Completed,
        percent: 100,
        detail: "runs on the point".into(),
        done_bytes: 0,
        total_bytes: 0,
        ended: Some(Timestamp(NOW - 57_200)),
        ..running.clone()
    };
    let failed = JobView {
        id: JobId(Uuid::from_u128(0xa3)),
        vm: vm_id(77),
        state: JobState::Exception,
        error: Some("b.example.org: the disk is full".into()),
        code: Some(ReturnCode::Failed),
        percent: 12,
        ..done.clone()
    };
    vec![running, done, failed]
}

fn events() -> Vec<EventView> {
    let event = |ago, vm, message: &str| EventView {
        at: Timestamp(NOW - ago),
        vm,
        message: message.into(),
        hint: None,
        by: vm.map(|_| By::process(0, Some(4711))),
    };
    vec![
        event(1_000, Some(vm_id(1)), "replication resumed"),
        event(
            90_000,
            Some(vm_id(1)),
            "b.example.org:8443 cannot be reached; trying again",
        ),
        event(100_000, None, "the daemon has started"),
    ]
}

fn certificates() -> Vec<CertificateView> {
    let one = |usage, place: &str, until| CertificateView {
        usage,
        place: place.into(),
        not_before: Timestamp(1_700_000_000_000),
        not_after: Timestamp(until),
        problem: None,
    };
    vec![
        one(
            CertificateUse::Host,
            "/etc/lifeboat/tls/host.crt",
            1_796_371_200_000,
        ),
        one(
            CertificateUse::Authority,
            "/etc/lifeboat/tls/ca.crt",
            2_000_000_000_000,
        ),
        one(CertificateUse::Peer, "b.example.org:8443", 1_900_000_000_000),
    ]
}

fn server() -> ServerView {
    ServerView {
        host: "alpha".into(),
        version: "0.1.0".into(),
        listen: "alpha.example.org:8443".into(),
        settings: ServerSettings {
            enabled: true,
            ..ServerSettings::default()
        },
        certificates: certificates(),
        keys: ServerKeys {
            own: Some(Fingerprint::new([0xa5; 32])),
            next: None,
        },
        encrypts_new: true,
        directories: vec![
            DirectoryView {
                content: DirectoryContent::Spool,
                path: "/var/spool/lifeboat/encrypted".into(),
                at_rest: AtRestView::Encrypted {
                    key: Some("69f5b26ab53f4d1ea2c7a1f1c0c2b5d3".into()),
                },
            },
            DirectoryView {
                content: DirectoryContent::Location,
                path: "/srv/replicas".into(),
                at_rest: AtRestView::NotEncrypted,
            },
            DirectoryView {
                content: DirectoryContent::Replica,
                path: "/srv/replicas/7c8ff46f-5bd0-4d4b-a4ce-36c9bb1bdd9e".into(),
                at_rest: AtRestView::Locked {
                    key: "69f5b26ab53f4d1ea2c7a1f1c0c2b5d3".into(),
                },
            },
        ],
        notes: vec![Finding::warning(
            ProblemKind::CertificateEnds,
            Note::new(
                "this host's certificate (/etc/lifeboat/tls/host.crt) ends on 2026-12-04 08:00 UTC",
                hint::Trust::Renew {
                    place: "/etc/lifeboat/tls/host.crt".into(),
                },
            ),
        )],
    }
}

fn copying() -> ReplicationView {
    ReplicationView {
        state: ReplicationState::WaitingToCompleteInitialReplication,
        lag_ms: None,
        pending_bytes: None,
        newest_instant: None,
        last_replication: None,
        bulk: vec![copied("sys", 3 * GIB, 8 * GIB), copied("data", 0, 2 * GIB)],
        health: ReplicationHealth::Warning,
        health_notes: vec![Finding::warning(
            ProblemKind::CopyIncomplete,
            "the initial copy is not complete",
        )],
        ..replication()
    }
}
