//! The documents of the catalog, one of each kind and state: as text in `fixtures/records.txt`, which was written before the
//! records got types of their own. What was written must open, and what is written now must open in the version before.

#![allow(clippy::unwrap_used, reason = "test support")]

mod common;

use std::fmt::Debug;
use std::time::Duration;

use common::{event, job, position, relationship, request, vm};
use lifeboat_deltalog::Consistency;
use lifeboat_engine::by::{By, Surface};
use lifeboat_engine::person::Account;
use lifeboat_engine::records::{
    self, Addressing, Comparison, Counters, Event, Failover, FailoverPhase, History, Hold, Home, Import, Job,
    Keeping, KnownKey, OutgoingRelationship, Planned, PlannedPhase, PrimarySide, Problem, Reason, Record,
    RecordError, Relationship, ReplicaSide, Request, RequestState, Reverse, Sealing, Sent, ServerSettings,
    Side, Split, SyncKind, Synchronization, TakeOver, Test, TestPhase, Transfer,
};
use lifeboat_engine::sealing::{ExportKey, KEY};
use lifeboat_model::ProblemKind;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{
    Bandwidth, BandwidthWindow, BranchId, DayWindow, FailedOverReplicationType, Fingerprint, GenerationId,
    JobId, JobState, NicFailover, PointId, Reading, Recency, RelationshipId, ReplicationMode,
    ReplicationSettings, ReplicationState, Target, Timestamp,
};
use uuid::Uuid;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/records.txt");

fn job_id(n: u128) -> JobId {
    JobId(Uuid::from_u128(n))
}

fn problem() -> Problem {
    Problem {
        since: Timestamp(5),
        kind: ProblemKind::Unspecified,
        message: "b.example.org:8700 cannot be reached".into(),
        hint: None,
        attempts: 3,
    }
}

fn sealing() -> Sealing {
    Sealing {
        export: Uuid::from_u128(6),
        key: ExportKey::new([0xa5; KEY]),
    }
}

fn reading() -> Reading {
    Reading {
        boot: Uuid::from_u128(3),
        up_ms: 4,
        wall: Timestamp(5),
    }
}

fn counters() -> Counters {
    Counters {
        since: Some(Timestamp(1)),
        total_latency_ms: 2,
        network_failures: 3,
        application_failures: 4,
        cycles: 5,
        failures: 6,
        missed: 7,
        bytes: 8,
        largest: 9,
        last_latency_ms: 10,
        max_latency_ms: 11,
    }
}

fn settings(peer: &str) -> ReplicationSettings {
    ReplicationSettings {
        peer: peer.into(),
        application_h: 4,
        auto_resync: Some(DayWindow {
            from_min: 60,
            to_min: 120,
        }),
        bandwidth: Bandwidth {
            bytes_per_s: 1 << 20,
            windows: vec![BandwidthWindow {
                window: DayWindow {
                    from_min: 0,
                    to_min: 60,
                },
                bytes_per_s: 0,
            }],
        },
        ..relationship(1, 1).settings
    }
}

/// Whatever a relationship of either side can have.
fn full(n: u128, mode: ReplicationMode, side: Side) -> Relationship {
    let mut recency = Recency::default();
    recency.instant(reading(), Duration::from_millis(1000));
    Relationship {
        mode,
        side,
        problem: Some(problem()),
        newest_instant: Some(Timestamp(8)),
        recency,
        counters: counters(),
        home: Some(Home {
            dir: "/srv/replicas/1".into(),
            branch: BranchId(Uuid::from_u128(9)),
            fork: position(2),
            merged: true,
        }),
        callback: Some("c.example.org:8700".into()),
        formerly: vec!["d.example.org:8700".into()],
        preflight: vec!["there is no KVM".into()],
        network: vec![NicFailover {
            mac: "52:54:00:12:34:56".into(),
            addresses: vec!["10.1.2.3/24".into()],
            gateways: vec!["10.1.2.1".parse().unwrap()],
            ..NicFailover::default()
        }],
        addressing: Addressing::Failed {
            why: "the agent does not answer".into(),
        },
        keys: vec![KnownKey {
            names: vec!["b.example.org".into()],
            addresses: vec!["b.example.org:8700".into()],
            key: Fingerprint::new([1; 32]),
            since: Timestamp(3),
            next: Some(Fingerprint::new([2; 32])),
            told: Some(Fingerprint::new([3; 32])),
        }],
        ..relationship(n, 7)
    }
}

/// A primary with everything under way, in this phase of a planned failover and this kind of synchronization.
fn primary(n: u128, phase: PlannedPhase, kind: SyncKind, how: Transfer) -> Relationship {
    let side = PrimarySide {
        sent: Some(Sent {
            since: position(3),
            first: position(4),
        }),
        settled: true,
        sync: Some(Synchronization {
            start: position(4),
            kind,
            cursor: (1, 1 << 30),
            tracking: true,
            sent: 77,
            job: Some(job_id(21)),
        }),
        planned: Some(Planned {
            phase,
            force: true,
            hand_over: true,
            start: false,
            job: job_id(22),
        }),
        split: Some(Split {
            since: Timestamp(6),
            theirs: "committed, running".into(),
            committed: true,
        }),
        scheduled: Some(Timestamp(7)),
        how,
        application: Some(Timestamp(8)),
        application_at: Some(reading()),
        application_failed: true,
        start: true,
        export: Some("/media/disk".into()),
        sealing: Some(Box::new(sealing())),
        ..PrimarySide::new(position(6))
    };
    full(n, ReplicationMode::Primary, Side::Primary(side))
}

fn failover(phase: FailoverPhase, target: Target) -> Failover {
    Failover {
        branch: BranchId(Uuid::from_u128(9)),
        target,
        instant: Timestamp(8),
        consistency: Consistency::Planned,
        kind: FailedOverReplicationType::Planned,
        phase,
        job: job_id(23),
        before: ReplicationState::Replicating,
        at: Some(position(5)),
        forced: true,
        unreached: Some("a.example.org could not be reached".into()),
        take_over: Some(TakeOver { start: true }),
        reverse: Some(Reverse {
            settings: settings("a.example.org:8700"),
            start: true,
            patient: true,
            job: job_id(24),
        }),
    }
}

fn keeping() -> Keeping {
    let history = |points| History {
        points,
        spacing_s: 3600,
        window_s: 600,
    };
    let (before, now) = (history(12), history(0));
    Keeping {
        agreed: Some(before),
        hold: Some(Hold {
            since: Timestamp(4),
            arrived: None,
            window_s: 600,
            reasons: vec![
                Reason::Asked,
                Reason::LessHistory { before, now },
                Reason::Burst { random: 2, usual: 1 },
            ],
        }),
        ..Keeping::default()
    }
}

fn extended() -> OutgoingRelationship {
    OutgoingRelationship {
        id: RelationshipId::new(1),
        waiting: None,
        settings: settings("c.example.org:8700"),
        state: ReplicationState::Replicating,
        acknowledged: Some(position(4)),
        comparison: Some(Comparison {
            point: PointId(Uuid::from_u128(4)),
            at: position(3),
            cursor: (0, 4096),
        }),
        compare: Some(job_id(25)),
        scheduled: Some(Timestamp(9)),
        preflight: vec!["there is no bridge".into()],
        problem: Some(problem()),
        created: Timestamp(1),
        last_replication: Some(Timestamp(2)),
        newest_instant: Some(Timestamp(3)),
        recency: Recency::default(),
        counters: counters(),
        job: Some(job_id(26)),
    }
}

fn replica(n: u128, failover: Failover, test: TestPhase) -> Relationship {
    let side = ReplicaSide {
        failover: Some(failover),
        test: Some(Test {
            vm: vm(99),
            branch: BranchId(Uuid::from_u128(10)),
            target: Target::Abandoned,
            instant: Timestamp(7),
            phase: test,
            job: job_id(27),
        }),
        last_test: Some(Timestamp(6)),
        own: true,
        unequal: true,
        awaits_import: true,
        sealing: Some(Box::new(sealing())),
        import: Some(Box::new(Import {
            dir: "/media/disk".into(),
            job: job_id(28),
        })),
        outgoing: [extended()].into_iter().collect(),
        allowed: Some("*.example.org".into()),
        reports: true,
        asked: true,
        keeping: Box::new(keeping()),
        ..ReplicaSide::new("/srv/replicas/1".to_owned())
    };
    full(n, ReplicationMode::Replica, Side::Replica(side))
}

fn relationships() -> Vec<Relationship> {
    let export = Transfer::Export {
        dir: "/media/disk".into(),
    };
    let generation = GenerationId(Uuid::from_u128(8));
    let point = Target::Point {
        id: PointId(Uuid::from_u128(4)),
    };
    let cycle = Target::Cycle {
        position: position(5),
    };
    let test_vm = Side::Test {
        of: vm(1),
        branch: BranchId(Uuid::from_u128(10)),
    };
    let waits = Side::Replica(ReplicaSide::new(None));
    let initiating = FailoverPhase::Initiating { start: true };
    let committing = FailoverPhase::Committing { generation };
    vec![
        relationship(1, 5),
        primary(2, PlannedPhase::Stopping, SyncKind::Resync, Transfer::Network),
        primary(3, PlannedPhase::Closing, SyncKind::Seed, Transfer::Seed),
        primary(4, PlannedPhase::Prepared, SyncKind::Reverse, export),
        primary(5, PlannedPhase::HandingOver, SyncKind::Resync, Transfer::Network),
        replica(6, failover(initiating, point), TestPhase::Making { start: true }),
        replica(7, failover(FailoverPhase::Ready, cycle), TestPhase::Ready),
        replica(
            8,
            failover(FailoverPhase::Reverting, Target::Abandoned),
            TestPhase::Ending,
        ),
        replica(9, failover(committing, point), TestPhase::Ready),
        replica(10, failover(FailoverPhase::Merging, cycle), TestPhase::Ready),
        replica(11, failover(FailoverPhase::Done, cycle), TestPhase::Ready),
        Relationship {
            addressing: Addressing::Due,
            ..full(12, ReplicationMode::TestReplica, test_vm)
        },
        full(13, ReplicationMode::None, Side::Alone),
        Relationship {
            side: waits,
            mode: ReplicationMode::Replica,
            state: ReplicationState::WaitingToCompleteInitialReplication,
            ..relationship(14, 0)
        },
    ]
}

fn ada() -> By {
    let account = Account {
        uid: 0,
        login: Some(1000),
        user: Some("ada".into()),
    };
    By::of(account, Some(7)).confirmed_by(By {
        surface: Surface::CimXml,
        name: "bob".into(),
        from: Some("10.0.0.1:5".into()),
        account: None,
        confirmed: None,
    })
}

fn jobs() -> Vec<Job> {
    let short = Job {
        detail: "copying".into(),
        ..job(1, 2)
    };
    vec![
        short.clone(),
        Job {
            state: JobState::Exception,
            percent: 10,
            error: Some("the disk is full".into()),
            code: Some(ReturnCode::Timeout),
            ended: Some(Timestamp(3)),
            by: Some(ada()),
            ..short.clone()
        },
        Job {
            state: JobState::New,
            started: None,
            by: None,
            ..short
        },
    ]
}

fn events() -> Vec<Event> {
    vec![
        event(1, None),
        event(2, Some(1)),
        Event {
            by: Some(ada()),
            ..event(3, Some(1))
        },
    ]
}

fn servers() -> Vec<ServerSettings> {
    vec![
        ServerSettings::default(),
        ServerSettings {
            enabled: true,
            monitoring_interval_s: 3600,
            monitoring_start_min: 1,
            bandwidth: settings("x").bandwidth,
        },
    ]
}

/// One kind of record, as it is written and as it is read.
fn lines<T: Record>(kind: &str, records: &[T]) -> String {
    let line = |r: &T| format!("{kind} {}\n", records::write(r).unwrap());
    records.iter().map(line).collect()
}

fn requests() -> Vec<Request> {
    let second = || Box::new(ada());
    vec![
        request(1, RequestState::Waits),
        request(2, RequestState::Confirmed { second: second() }),
        request(3, RequestState::NotKnown { second: second() }),
    ]
}

fn written() -> String {
    [
        lines("relationship", &relationships()),
        lines("job", &jobs()),
        lines("event", &events()),
        lines("server", &servers()),
        lines("request", &requests()),
    ]
    .concat()
}

/// The documents of one kind, in the order in which they were written.
fn fixture(kind: &str) -> Vec<String> {
    let text = std::fs::read_to_string(FIXTURE).unwrap();
    let of = |line: &str| Some(line.split_once(' ').filter(|(k, _)| *k == kind)?.1.to_owned());
    text.lines().filter_map(of).collect()
}

fn read<T: Record + PartialEq + Debug>(kind: &str, expected: &[T]) {
    let documents = fixture(kind);
    assert_eq!(documents.len(), expected.len(), "{kind}");
    for (document, record) in documents.iter().zip(expected) {
        assert_eq!(records::read::<T>(document).unwrap(), *record, "{document}");
        // What a version after this one wrote is refused, whatever it says.
        let known = T::VERSION;
        let newer = document.replacen('{', &format!("{{\"version\":{},", known + 1), 1);
        let found = u64::from(known + 1);
        assert_eq!(
            records::read::<T>(&newer).unwrap_err(),
            RecordError::TooNew { found, known }
        );
    }
}

#[test]
fn every_record_written_before_is_read() {
    read("relationship", &relationships());
    read("job", &jobs());
    read("event", &events());
    read("server", &servers());
    read("request", &requests());
}

#[test]
fn every_record_is_written_as_before() {
    let text = std::fs::read_to_string(FIXTURE).unwrap();
    assert!(text == written(), "{FIXTURE} differs; now\n{}", written());
}

/// Run by hand when a kind or a state of a record is new, never because one differs: old files must open as they are.
#[test]
#[ignore = "writes the fixture anew"]
fn write_the_fixture() {
    std::fs::write(FIXTURE, written()).unwrap();
}

/// A release that knew of one outgoing relationship would lose the others.
#[test]
fn a_replica_with_several_outgoing_relationships_is_refused_by_a_release_before() {
    let with = |outgoing: Vec<OutgoingRelationship>| {
        let side = ReplicaSide {
            outgoing: outgoing.into_iter().collect(),
            ..ReplicaSide::default()
        };
        full(1, ReplicationMode::Replica, Side::Replica(side))
    };
    let second = OutgoingRelationship {
        id: RelationshipId::new(2),
        ..extended()
    };
    for (outgoing, version) in [
        (vec![], None),
        (vec![extended()], None),
        (vec![second.clone()], None),
        (vec![second, extended()], Some(2)),
    ] {
        let record = with(outgoing);
        let written = records::write(&record).unwrap();
        let document: serde_json::Value = serde_json::from_str(&written).unwrap();
        assert_eq!(document["version"].as_u64(), version, "{written}");
        assert_eq!(records::read::<Relationship>(&written).unwrap(), record);
    }
}
