//! The control documents of version 1 of the protocol, one of each: as text in `golden/control.txt`, which hosts of other
//! versions read and write, and over a real connection. `UPDATE_GOLDEN=1` writes the file anew; a line that changes is
//! a peer that is no longer understood.

#![allow(clippy::unwrap_used, reason = "test support")]

mod common;

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};

use common::{Handler, Site, hello, position, start};
use lifeboat_deltalog::{Consistency, LogDisk};
use lifeboat_engine::ports::link::{
    Content, CopiedDisk, DigestRange, DurableLog, HandOver, LinkError, LogAddress, LogReceipt, PeerLink,
    PeerPower, PeerRefusal, PeerReply, PeerRequest, PlannedStep, PrimaryReport, ReadRange, ReplicaStatus,
    Standing,
};
use lifeboat_engine::sealing::{ExportKey, KEY, Sealing};
use lifeboat_link::{Link, exercise};
use lifeboat_model::hint::{Again, Hint, Note};
use lifeboat_model::{
    Bandwidth, DiskId, Fingerprint, Machine, ReplicationMode, ReplicationSettings, ReplicationState,
    Timestamp, VmId,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use uuid::Uuid;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/control.txt");

fn vm() -> VmId {
    VmId(Uuid::from_u128(3))
}

fn disk() -> DiskId {
    DiskId::new("sys").unwrap()
}

fn spec() -> Box<Machine> {
    let text = r#"{"name": "web", "uuid": "00000000-0000-0000-0000-000000000003", "memory_mib": 64, "cpus": 1,
        "disk": [{"id": "sys", "path": "/d/sys.raw", "format": "raw"}]}"#;
    serde_json::from_str(text).unwrap()
}

fn settings() -> ReplicationSettings {
    ReplicationSettings {
        peer: "b.example.org:8443".into(),
        interval_s: 30,
        history: 4,
        point_spacing_s: 3600,
        any_point_window_s: 3600,
        disks: vec![disk()],
        compression: true,
        application_h: 0,
        auto_resync: None,
        bandwidth: Bandwidth::default(),
    }
}

fn offer(content: Content, firmware: &str) -> PeerRequest {
    PeerRequest::Offer {
        vm: spec(),
        settings: settings(),
        disks: vec![LogDisk {
            id: disk(),
            size: 1 << 30,
        }],
        start: position(),
        from: "a.example.org:8443".into(),
        content,
        firmware: firmware.into(),
    }
}

fn sealing() -> Sealing {
    Sealing {
        export: Uuid::from_u128(6),
        key: ExportKey::new([0xa5; KEY]),
    }
}

fn status() -> ReplicaStatus {
    ReplicaStatus {
        durable: position(),
        bulk: vec![CopiedDisk {
            disk: disk(),
            done: 5,
        }],
        partial: true,
        usable: true,
        problems: vec!["there is no KVM".into()],
        waiting_logs: 3,
        waiting_bytes: 4096,
        hand_over: HandOver::default(),
        export: None,
    }
}

fn standing() -> Standing {
    Standing {
        mode: ReplicationMode::Primary,
        state: ReplicationState::Replicating,
        position: position(),
        running: true,
        power: None,
        newest_instant: Some(Timestamp(9)),
        planned: None,
    }
}

fn compare() -> PeerRequest {
    PeerRequest::Compare {
        vm: vm(),
        disk: lifeboat_model::DiskId::new("sys").unwrap(),
        ranges: vec![DigestRange {
            disk: 0,
            offset: 1 << 20,
            len: 65_536,
            block: 65_536,
            digests: "AAAAAAAAAAAAAAAAAAAAAA==".into(),
        }],
    }
}

fn requests() -> Vec<PeerRequest> {
    let (vm, position) = (vm(), position());
    let reverse = Content::Reverse {
        since: position,
        planned: true,
    };
    vec![
        PeerRequest::Hello,
        offer(Content::Empty, ""),
        offer(Content::Seed, "AAAA"),
        offer(reverse, "AAAA"),
        PeerRequest::Update {
            vm: spec(),
            settings: settings(),
            firmware: "AAAA".into(),
        },
        compare(),
        PeerRequest::Differences {
            vm,
            disk: lifeboat_model::DiskId::new("data").unwrap(),
            from: 1 << 30,
        },
        PeerRequest::Standing { vm },
        PeerRequest::Prepare {
            vm,
            force: false,
            start: true,
        },
        PeerRequest::TakeOver {
            vm,
            at: position,
            start: true,
        },
        PeerRequest::StandDown { vm },
        PeerRequest::Status {
            vm,
            report: PrimaryReport::UpToDate,
        },
        PeerRequest::RestartBulk { vm, disk: 1 },
        PeerRequest::LogOffset { vm, position },
        offer(Content::Media { sealing: None }, ""),
        offer(Content::Extended, ""),
        PeerRequest::FinishBulk {
            vm,
            instant: Timestamp(9),
            consistency: Consistency::Application,
        },
        PeerRequest::ReadDisk {
            vm,
            ranges: vec![ReadRange {
                disk: lifeboat_model::DiskId::new("data").unwrap(),
                offset: 1 << 30,
                len: 65_536,
            }],
        },
        PeerRequest::CompareAgain { vm },
        offer(
            Content::Media {
                sealing: Some(sealing()),
            },
            "",
        ),
        PeerRequest::AnnounceKey {
            vm,
            next: Some(Fingerprint::new([0xab; 32])),
        },
    ]
}

/// What the listed documents have not: each phase of a planned failover, each power, each way to hand over, each report; and the
/// receipts of logs, with the addresses that the path of a log is made of.
fn further() -> Vec<String> {
    let standing = |power, planned| {
        PeerReply::Standing(Standing {
            power,
            planned,
            ..standing()
        })
    };
    let phases = [
        PlannedStep::Stopping,
        PlannedStep::Closing,
        PlannedStep::Prepared,
        PlannedStep::HandingOver,
    ];
    let powers = [
        PeerPower::Off,
        PeerPower::Runs,
        PeerPower::NotKnown {
            why: "the monitor is silent".into(),
        },
    ];
    let hand_over = [HandOver::Starts, HandOver::Off, HandOver::ByHand];
    let handing = |hand_over| {
        PeerReply::Status(ReplicaStatus {
            hand_over,
            ..status()
        })
    };
    let replies = phases.map(|phase| standing(None, Some(phase))).into_iter();
    let replies = replies.chain(powers.map(|power| standing(Some(power), None)));
    let mut all: Vec<String> = replies.chain(hand_over.map(handing)).map(|r| same(&r)).collect();
    let reports = [
        PrimaryReport::Unspecified,
        PrimaryReport::Working,
        PrimaryReport::Held,
    ];
    all.extend(reports.map(|report| same(&PeerRequest::Status { vm: vm(), report })));
    let addresses = [
        LogAddress::Bulk { vm: vm() },
        LogAddress::Delta {
            vm: vm(),
            position: position(),
            offset: 7,
        },
    ];
    all.extend(addresses.map(|address| same(&address)));
    let receipts = [
        LogReceipt::Delta(DurableLog {
            durable: position(),
            instant: Timestamp(9),
            bytes: 8,
            partial: true,
        }),
        LogReceipt::Bulk(CopiedDisk {
            disk: disk(),
            done: 5,
        }),
    ];
    all.extend(receipts.map(|receipt| same(&receipt)));
    all
}

/// A document as it is written, which is read as what was written.
fn same<T: Serialize + DeserializeOwned + PartialEq + Debug>(document: &T) -> String {
    let text = serde_json::to_string(document).unwrap();
    assert_eq!(serde_json::from_str::<T>(&text).unwrap(), *document);
    text
}

const FURTHER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/further.txt");

#[test]
fn what_documents_are_made_of_is_written_and_read_as_ever() {
    let text: String = further().iter().map(|line| format!("{line}\n")).collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(FURTHER, &text).unwrap();
    }
    let golden = std::fs::read_to_string(FURTHER).unwrap_or_default();
    assert!(golden == text, "{FURTHER} differs; should be\n{text}");
}

/// The number of a request's line. No wildcard: a new request does not compile until it is in the list above.
fn listed(request: &PeerRequest) -> usize {
    match request {
        PeerRequest::Hello => 0,
        PeerRequest::Offer { content, .. } => match content {
            Content::Empty => 1,
            Content::Seed => 2,
            Content::Reverse { .. } => 3,
            Content::Media { sealing: None } => 14,
            Content::Media { sealing: Some(_) } => 19,
            Content::Extended => 15,
        },
        PeerRequest::Update { .. } => 4,
        PeerRequest::Compare { .. } => 5,
        PeerRequest::Differences { .. } => 6,
        PeerRequest::Standing { .. } => 7,
        PeerRequest::Prepare { .. } => 8,
        PeerRequest::TakeOver { .. } => 9,
        PeerRequest::StandDown { .. } => 10,
        PeerRequest::Status { .. } => 11,
        PeerRequest::RestartBulk { .. } => 12,
        PeerRequest::LogOffset { .. } => 13,
        PeerRequest::FinishBulk { .. } => 16,
        PeerRequest::ReadDisk { .. } => 17,
        PeerRequest::CompareAgain { .. } => 18,
        PeerRequest::AnnounceKey { .. } => 20,
    }
}

fn replies() -> Vec<PeerReply> {
    vec![
        hello(),
        PeerReply::Status(status()),
        PeerReply::Offset { bytes: 7 },
        PeerReply::Checked {
            problems: vec!["there is no KVM".into()],
        },
        PeerReply::Differ {
            blocks: vec![vec![0, 7], vec![]],
        },
        PeerReply::Differences {
            since: position(),
            known: true,
            ranges: vec![(0, 65_536)],
            next: Some(1 << 30),
        },
        PeerReply::Standing(standing()),
        PeerReply::Accepted,
        PeerReply::DiskData {
            data: vec!["AAAA".into(), String::new()],
        },
        PeerReply::Status(ReplicaStatus {
            export: Some(Uuid::from_u128(6)),
            ..status()
        }),
    ]
}

fn listed_reply(reply: &PeerReply) -> Option<usize> {
    match reply {
        PeerReply::Hello { .. } => Some(0),
        PeerReply::Status(ReplicaStatus { export: None, .. }) => Some(1),
        PeerReply::Status(ReplicaStatus { export: Some(_), .. }) => Some(9),
        PeerReply::Offset { .. } => Some(2),
        PeerReply::Checked { .. } => Some(3),
        PeerReply::Differ { .. } => Some(4),
        PeerReply::Differences { .. } => Some(5),
        PeerReply::Standing(_) => Some(6),
        PeerReply::Accepted => Some(7),
        PeerReply::DiskData { .. } => Some(8),
        // They come back as errors; `refusals` has them.
        PeerReply::Refused(_) => None,
    }
}

fn refusals() -> Vec<PeerRefusal> {
    let host = || "b".to_owned();
    vec![
        PeerRefusal::NotEnabled { host: host() },
        PeerRefusal::NotAuthorized {
            host: host(),
            names: vec!["a".into()],
        },
        PeerRefusal::NoReplica { host: host() },
        PeerRefusal::FailedOver { host: host() },
        PeerRefusal::NewerGeneration { host: host() },
        PeerRefusal::Suspended { host: host() },
        PeerRefusal::Running { host: host() },
        PeerRefusal::NotNow {
            host: host(),
            detail: "a test is being made".into(),
        },
        PeerRefusal::OutOfSequence { have: position() },
        PeerRefusal::NoSpace {
            host: host(),
            location: "/srv".into(),
        },
        PeerRefusal::Conflict {
            detail: "other disks".into(),
        },
        common::failed("no"),
        PeerRefusal::Backlog {
            host: host(),
            logs: 8,
            bytes: 1 << 20,
        },
        PeerRefusal::OtherKey {
            host: host(),
            detail: "another key".into(),
        },
    ]
}

fn listed_refusal(refusal: &PeerRefusal) -> usize {
    match refusal {
        PeerRefusal::NotEnabled { .. } => 0,
        PeerRefusal::NotAuthorized { .. } => 1,
        PeerRefusal::NoReplica { .. } => 2,
        PeerRefusal::FailedOver { .. } => 3,
        PeerRefusal::NewerGeneration { .. } => 4,
        PeerRefusal::Suspended { .. } => 5,
        PeerRefusal::Running { .. } => 6,
        PeerRefusal::NotNow { .. } => 7,
        PeerRefusal::OutOfSequence { .. } => 8,
        PeerRefusal::NoSpace { .. } => 9,
        PeerRefusal::Conflict { .. } => 10,
        PeerRefusal::Failed { .. } => 11,
        PeerRefusal::Backlog { .. } => 12,
        PeerRefusal::OtherKey { .. } => 13,
    }
}

#[test]
fn every_document_is_written_and_read_as_ever() {
    let mut text = String::new();
    for (at, request) in requests().iter().enumerate() {
        assert_eq!(listed(request), at);
        writeln!(text, "{}", serde_json::to_string(request).unwrap()).unwrap();
    }
    for (at, reply) in replies().iter().enumerate() {
        assert_eq!(listed_reply(reply), Some(at));
        writeln!(text, "{}", serde_json::to_string(reply).unwrap()).unwrap();
    }
    for (at, refusal) in refusals().into_iter().enumerate() {
        assert_eq!(listed_refusal(&refusal), at);
        let reply = PeerReply::Refused(refusal);
        writeln!(text, "{}", serde_json::to_string(&reply).unwrap()).unwrap();
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(GOLDEN, &text).unwrap();
    }
    let golden = std::fs::read_to_string(GOLDEN).unwrap_or_default();
    assert!(golden == text, "{GOLDEN} differs; should be\n{text}");
    let mut lines = golden.lines();
    for request in requests() {
        let read: PeerRequest = serde_json::from_str(lines.next().unwrap()).unwrap();
        assert_eq!(read, request);
    }
    let refused = refusals().into_iter().map(PeerReply::Refused);
    for reply in replies().into_iter().chain(refused) {
        let read: PeerReply = serde_json::from_str(lines.next().unwrap()).unwrap();
        assert_eq!(read, reply);
    }
}

/// As the first release wrote them, without the fields that came later.
#[test]
fn documents_of_the_first_release_are_understood() {
    let offer = r#"{"request":"offer","vm":{"name":"web","uuid":"00000000-0000-0000-0000-000000000003","memory_mib":64,
        "cpus":1,"disk":[{"id":"sys","path":"/d/sys.raw","format":"raw"}]},
        "settings":{"peer":"b.example.org:8443","interval_s":30,"history":4,"point_spacing_s":3600,
        "any_point_window_s":3600,"disks":["sys"],"compression":true},"disks":[{"id":"sys","size":1073741824}],
        "start":{"generation":"00000000-0000-0000-0000-000000000001","sequence":2}}"#;
    let want = match self::offer(Content::Empty, "") {
        PeerRequest::Offer {
            vm,
            settings,
            disks,
            start,
            content,
            firmware,
            ..
        } => PeerRequest::Offer {
            vm,
            settings,
            disks,
            start,
            from: String::new(),
            content,
            firmware,
        },
        other => other,
    };
    assert_eq!(serde_json::from_str::<PeerRequest>(offer).unwrap(), want);
    let status = r#"{"reply":"status","durable":{"generation":"00000000-0000-0000-0000-000000000001","sequence":2},
        "bulk":[]}"#;
    let want = PeerReply::Status(ReplicaStatus {
        durable: position(),
        bulk: vec![],
        partial: false,
        usable: false,
        problems: vec![],
        waiting_logs: 0,
        waiting_bytes: 0,
        hand_over: HandOver::default(),
        export: None,
    });
    assert_eq!(serde_json::from_str::<PeerReply>(status).unwrap(), want);
    let asked = r#"{"request":"status","vm":"00000000-0000-0000-0000-000000000005"}"#;
    let Ok(PeerRequest::Status { report, .. }) = serde_json::from_str(asked) else {
        panic!("the question of an older primary is understood");
    };
    assert_eq!(report, PrimaryReport::Unspecified);
}

/// A key is 32 bytes or the offer is none, and whoever reads why, in an answer or in a log, reads nothing of a key.
#[test]
fn a_key_of_any_other_form_is_refused_and_not_repeated() {
    let offer = offer(
        Content::Media {
            sealing: Some(sealing()),
        },
        "",
    );
    let good = serde_json::to_value(&offer).unwrap();
    assert!(!format!("{offer:?}").contains("165, 165"), "it is not shown");
    let key = good["content"]["sealing"]["key"].as_str().unwrap().to_owned();
    assert_eq!(key.len(), 44);
    let with = |sealing: serde_json::Value| {
        let mut document = good.clone();
        document["content"]["sealing"] = sealing;
        exercise::request(&serde_json::to_vec(&document).unwrap())
    };
    let export = good["content"]["sealing"]["export"].clone();
    assert_eq!(with(good["content"]["sealing"].clone()), Ok(offer));
    for bad in [
        json!({"export": export, "key": key[4..]}),
        json!({"export": export, "key": format!("{key}{key}")}),
        json!({"export": export, "key": format!("{}=", &key[..42])}),
        json!({"export": export, "key": key.repeat(100_000)}),
        json!({"export": export, "key": [key, key]}),
        json!({"export": export, "key": {"key": key}}),
        json!({"export": export, "key": null}),
        json!({"export": export}),
        json!({"key": key}),
        json!({"export": "6", "key": key}),
        json!(key),
        json!([]),
    ] {
        let said = with(bad.clone()).unwrap_err();
        assert!(!said.contains(&key[4..12]) && said.len() < 2048, "{said}");
    }
    // None at all is what earlier versions say. That it is refused is the engine's word.
    assert!(with(json!(null)).is_ok());
}

/// A reply of those above that answers a request.
fn answer_to(request: &PeerRequest) -> PeerReply {
    let fits = |reply: &PeerReply| request.is_answered_by(reply) && !matches!(reply, PeerReply::Refused(_));
    replies().into_iter().find(fits).unwrap()
}

#[tokio::test]
async fn every_document_goes_over_a_connection() {
    let site = Site::new();
    let next = Arc::new(Mutex::new(hello()));
    let answer = next.clone();
    let handler = Arc::new(Handler {
        reply: Box::new(move || answer.lock().unwrap().clone()),
        ..Handler::default()
    });
    let server = start(&site.host(&["localhost"]), handler.clone()).await;
    let link = Link::new(&site.host(&["a"])).unwrap();
    for request in requests() {
        *next.lock().unwrap() = answer_to(&request);
        link.call(&server.peer(), request.clone()).await.unwrap();
        assert_eq!(handler.calls.lock().unwrap().pop().unwrap().1, request);
    }
    for reply in replies() {
        *next.lock().unwrap() = reply.clone();
        for request in requests() {
            let got = link.call(&server.peer(), request.clone()).await;
            match (request.is_answered_by(&reply), got) {
                (true, Ok(got)) => assert_eq!(got, reply),
                (true, Err(LinkError::Refused(_))) => assert!(matches!(reply, PeerReply::Refused(_))),
                (false, Err(LinkError::Protocol { detail, .. })) => {
                    assert!(detail.contains("does not fit the request"))
                }
                (_, got) => panic!("{got:?} to {request:?}"),
            }
        }
    }
    for refusal in refusals() {
        *next.lock().unwrap() = PeerReply::Refused(refusal.clone());
        let e = link.call(&server.peer(), PeerRequest::Hello).await.unwrap_err();
        match &refusal {
            // Every release understands a refusal of the transport.
            PeerRefusal::OtherKey { detail, .. } => {
                assert!(
                    matches!(&e, LinkError::Untrusted { detail: d, .. } if *d == detail.text),
                    "{e}"
                );
            }
            _ => assert!(matches!(&e, LinkError::Refused(r) if *r == refusal), "{e}"),
        }
    }
}

#[test]
fn a_hint_is_beside_the_words_of_a_refusal_and_may_be_absent() {
    let busy = |hint: Option<Hint>| PeerRefusal::NotNow {
        host: "b".into(),
        detail: Note {
            text: "busy".into(),
            hint,
        }
        .into(),
    };
    let hinted = busy(Some(Again::Later.into()));
    let written = serde_json::json!({
        "reason": "not-now", "host": "b", "detail": "busy", "hint": { "code": "try-again" }
    });
    assert_eq!(serde_json::to_value(&hinted).unwrap(), written);
    assert_eq!(serde_json::from_value::<PeerRefusal>(written).unwrap(), hinted);
    // Earlier versions have none, and later ones may have others.
    for text in [
        r#"{"reason": "not-now", "host": "b", "detail": "busy"}"#,
        r#"{"reason": "not-now", "host": "b", "detail": "busy", "hint": {"code": "made-up-later"}}"#,
    ] {
        assert_eq!(
            serde_json::from_str::<PeerRefusal>(text).unwrap(),
            busy(None),
            "{text}"
        );
    }
    let plain = serde_json::to_value(busy(None)).unwrap();
    assert_eq!(plain.get("hint"), None);
}

#[tokio::test]
async fn firmware_variables_of_four_mebibytes_travel_and_nonsense_does_not() {
    let site = Site::new();
    let largest = offer(Content::Empty, &"A".repeat((4 << 20) / 3 * 4 + 4));
    let status = answer_to(&largest);
    let handler = Arc::new(Handler {
        reply: Box::new(move || status.clone()),
        ..Handler::default()
    });
    let server = start(&site.host(&["localhost"]), handler.clone()).await;
    let link = Link::new(&site.host(&["a"])).unwrap();
    link.call(&server.peer(), largest.clone()).await.unwrap();
    assert_eq!(handler.calls.lock().unwrap().pop().unwrap().1, largest);
    let more = offer(Content::Empty, &"A".repeat(8 << 20));
    let e = link.call(&server.peer(), more).await.unwrap_err();
    assert!(e.to_string().contains("larger than 8388608 bytes"), "{e}");
    assert!(handler.untouched());
}
