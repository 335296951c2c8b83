//! By which keys hosts know each other: taken when a relationship is made, kept over restarts and changes of roles, changed
//! after an announcement or a person's word, and nothing is done for whoever has the name and another key.

use crate::common::{eventually, flows, healthy, mode, planned, replicating, simulate, state};
use lifeboat_deltalog::Consistency;
use lifeboat_engine::action::{Action, Answer, ReplicationView, ServerView};
use lifeboat_engine::ports::link::{
    Content, LogAddress, PeerHandler, PeerIdentity, PeerRefusal, PeerReply, PeerRequest, PrimaryReport,
};
use lifeboat_engine::query::Query;
use lifeboat_engine::records::KnownKey;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{
    DiskId, Fingerprint, Machine, ReplicationHealth as Health, ReplicationMode as Mode,
    ReplicationState as State, Timestamp, VmId, VmSpec,
};
use lifeboat_sim::{VM, World};

/// The key with this number of a host, as the world makes them.
fn key(host: u8, number: u8) -> Fingerprint {
    let mut digest = [number; 32];
    digest[0] = host;
    Fingerprint::new(digest)
}

fn keys(w: &World, host: usize) -> Vec<KnownKey> {
    w.recorded(host).unwrap().keys
}

/// The one key that a host knows.
fn known(w: &World, host: usize) -> KnownKey {
    let keys = keys(w, host);
    assert_eq!(keys.len(), 1, "{keys:?}");
    keys[0].clone()
}

async fn view(w: &World, host: usize) -> ReplicationView {
    w.view(host).await.unwrap().replication.unwrap()
}

async fn server(w: &World, host: usize) -> ServerView {
    w.query(host, Query::show_server()).await.unwrap().unwrap()
}

fn events(w: &World, host: usize, words: &str) -> usize {
    let s = w.shared.state();
    let messages = s.hosts[host].events.iter().map(|e| &e.message);
    messages.filter(|m| m.contains(words)).count()
}

async fn trust(w: &World, host: usize, name: &str, key: Fingerprint) {
    let action = Action::TrustKey {
        vm: None,
        host: name.into(),
        key,
    };
    assert_eq!(w.insist(host, action).await.unwrap(), Answer::Done);
}

#[test]
fn both_sides_know_each_other_by_their_keys_from_the_beginning() {
    simulate(1, async |w| {
        replicating(w).await;
        assert_eq!((known(w, 0).key, known(w, 1).key), (key(1, 0), key(0, 0)));
        assert_eq!(known(w, 0).addresses, ["b:7000"]);
        assert_eq!(view(w, 1).await.keys, keys(w, 1));
        w.restart_both().await;
        healthy(w, 0, 1).await;
        assert_eq!((known(w, 0).key, known(w, 1).key), (key(1, 0), key(0, 0)));
        // The roles change, and the hosts are the same.
        w.insist(0, planned(true)).await.unwrap();
        eventually(w, "the roles are swapped", |w| flows(w, 1, 0)).await;
        assert_eq!((known(w, 0).key, known(w, 1).key), (key(1, 0), key(0, 0)));
    });
}

#[test]
fn records_without_keys_get_them_when_the_hosts_speak() {
    simulate(2, async |w| {
        replicating(w).await;
        for host in 0..2 {
            w.stop(host).await;
            let mut s = w.shared.state();
            s.hosts[host]
                .catalog
                .relationships
                .iter_mut()
                .for_each(|r| r.keys.clear());
        }
        w.boot(0).await;
        w.boot(1).await;
        healthy(w, 0, 1).await;
        assert_eq!((known(w, 0).key, known(w, 1).key), (key(1, 0), key(0, 0)));
    });
}

/// No wildcard: a new request does not compile until it is in the list below.
fn listed(request: &PeerRequest) {
    match request {
        PeerRequest::Hello => panic!("it is about no VM"),
        PeerRequest::Offer { .. }
        | PeerRequest::Update { .. }
        | PeerRequest::Compare { .. }
        | PeerRequest::Differences { .. }
        | PeerRequest::Standing { .. }
        | PeerRequest::Prepare { .. }
        | PeerRequest::TakeOver { .. }
        | PeerRequest::StandDown { .. }
        | PeerRequest::Status { .. }
        | PeerRequest::RestartBulk { .. }
        | PeerRequest::FinishBulk { .. }
        | PeerRequest::ReadDisk { .. }
        | PeerRequest::CompareAgain { .. }
        | PeerRequest::AnnounceKey { .. }
        | PeerRequest::LogOffset { .. } => {}
    }
}

/// Every request that is about a VM.
fn requests(w: &World) -> Vec<PeerRequest> {
    let record = w.recorded(0).unwrap();
    let (vm, position) = (VM, record.position);
    let disk = DiskId::new("sys").unwrap();
    let offer = |content| PeerRequest::Offer {
        vm: Box::new(Machine::from(record.spec.clone())),
        settings: record.settings.clone(),
        disks: Vec::new(),
        start: position,
        from: "a:7000".into(),
        content,
        firmware: String::new(),
    };
    let all = vec![
        offer(Content::Empty),
        offer(Content::Seed),
        offer(Content::Media { sealing: None }),
        offer(Content::Extended),
        offer(Content::Reverse {
            since: position,
            planned: true,
        }),
        PeerRequest::Update {
            vm: Box::new(Machine::from(record.spec.clone())),
            settings: record.settings.clone(),
            firmware: String::new(),
        },
        PeerRequest::Compare {
            vm,
            disk: disk.clone(),
            ranges: Vec::new(),
        },
        PeerRequest::Differences { vm, disk, from: 0 },
        PeerRequest::Standing { vm },
        PeerRequest::Prepare {
            vm,
            force: true,
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
            report: PrimaryReport::Held,
        },
        PeerRequest::RestartBulk { vm, disk: 0 },
        PeerRequest::FinishBulk {
            vm,
            instant: Timestamp(1),
            consistency: Consistency::Crash,
        },
        PeerRequest::ReadDisk {
            vm,
            ranges: Vec::new(),
        },
        PeerRequest::CompareAgain { vm },
        PeerRequest::AnnounceKey {
            vm,
            next: Some(key(7, 7)),
        },
        PeerRequest::LogOffset { vm, position },
    ];
    all.iter().for_each(listed);
    all
}

#[test]
fn whoever_has_the_name_and_another_key_can_do_nothing_to_a_vm() {
    simulate(3, async |w| {
        replicating(w).await;
        // Nothing else changes anything meanwhile.
        w.insist(0, Action::SuspendReplication { vm: World::vm() })
            .await
            .unwrap();
        w.run(5).await;
        for (host, name) in [(0, "b"), (1, "a")] {
            let engine = w.shared.engines.lock().unwrap()[host].clone().unwrap();
            let stolen = PeerIdentity {
                names: vec!["eve".into(), name.into()],
                addresses: Vec::new(),
                key: Some(key(9, 9)),
            };
            let seen = |w: &World| {
                let s = w.shared.state();
                format!(
                    "{:?} {:?} {:?}",
                    s.hosts[host].replicas, s.hosts[host].images, s.hosts[host].processes
                )
            };
            let record = |w: &World| {
                let r = w.recorded(host).unwrap();
                (r.mode, r.state, r.side, r.settings, r.spec, r.keys)
            };
            let before = (seen(w), record(w));
            let mut asked = requests(w);
            asked.push(PeerRequest::Hello);
            for request in asked {
                let words = format!("{request:?}");
                let reply = engine.call(&stolen, request).await;
                let PeerReply::Refused(PeerRefusal::OtherKey { detail, .. }) = reply else {
                    panic!("{words} is answered with {reply:?}")
                };
                for part in ["trust-key", "lifeboat cert show", &key(9, 9).to_string()] {
                    assert!(detail.contains(part), "{words}: {detail}");
                }
            }
            let position = w.recorded(host).unwrap().position;
            for address in [
                LogAddress::Bulk { vm: VM },
                LogAddress::Delta {
                    vm: VM,
                    position,
                    offset: 0,
                },
            ] {
                let body = Box::pin(futures_util::stream::empty());
                let refused = engine.receive(&stolen, address, body).await.unwrap_err();
                assert!(matches!(refused, PeerRefusal::OtherKey { .. }), "{refused:?}");
            }
            w.run(1).await;
            assert_eq!((seen(w), record(w)), before, "host {host}");
            assert_eq!(events(w, host, "another key"), 1, "one event on host {host}");
            let shown = view(w, host).await;
            assert!(
                shown.health_notes.iter().any(|n| n.contains("another key")),
                "{:?}",
                shown.health_notes
            );
            drop(engine);
        }
        // The right host is not kept out by it, and it is forgotten after an hour.
        w.insist(0, Action::ResumeReplication { vm: World::vm() })
            .await
            .unwrap();
        healthy(w, 0, 1).await;
        w.run(3700).await;
        assert_eq!(view(w, 1).await.health, Health::Ok);
    });
}

#[test]
fn an_offer_of_another_vm_with_a_stolen_name_is_refused() {
    simulate(4, async |w| {
        replicating(w).await;
        let PeerRequest::Offer {
            vm,
            settings,
            disks,
            start,
            from,
            ..
        } = requests(w).remove(0)
        else {
            unreachable!()
        };
        let mut spec = VmSpec::from(*vm);
        spec.uuid = VmId(uuid::Uuid::from_u128(77));
        spec.name = "another".into();
        let engine = w.shared.engines.lock().unwrap()[1].clone().unwrap();
        let stolen = PeerIdentity {
            names: vec!["a".into()],
            addresses: Vec::new(),
            key: Some(key(9, 9)),
        };
        let offer = PeerRequest::Offer {
            vm: Box::new(Machine::from(spec)),
            settings,
            disks,
            start,
            from,
            content: Content::Empty,
            firmware: String::new(),
        };
        let reply = engine.call(&stolen, offer).await;
        assert!(
            matches!(reply, PeerReply::Refused(PeerRefusal::OtherKey { .. })),
            "{reply:?}"
        );
    });
}

#[test]
fn nothing_is_sent_to_whoever_answers_with_another_key() {
    simulate(5, async |w| {
        replicating(w).await;
        let durable = |w: &World| w.shared.state().hosts[1].replicas[&VM].durable;
        w.shared.state().hosts[1].impostor = true;
        w.run(5).await;
        let before = durable(w);
        w.write(20);
        w.run(60).await;
        assert_eq!(durable(w), before, "something was sent");
        assert_eq!(state(w, 0), State::Critical);
        let shown = view(w, 0).await;
        assert_eq!(shown.health, Health::Critical);
        assert!(
            shown.health_notes.iter().any(|n| n.contains("trust-key")),
            "{:?}",
            shown.health_notes
        );
        // One of what was seen, and one of what follows for the replication.
        assert_eq!(events(w, 0, "a certificate of b was shown"), 2);
        w.shared.state().hosts[1].impostor = false;
        healthy(w, 0, 1).await;
        assert_eq!(known(w, 0).key, key(1, 0));
    });
}

#[test]
fn an_announced_key_takes_the_place_of_the_old_one_without_a_pause() {
    for (turning, other, name) in [(0, 1, "a"), (1, 0, "b")] {
        simulate(6, async |w| {
            replicating(w).await;
            let number = u8::try_from(turning).unwrap();
            w.shared.state().hosts[turning].next_key = Some(1);
            w.cut(true);
            w.run(90).await;
            let notes = server(w, turning).await.notes;
            assert!(notes.iter().any(|n| n.contains("is not known yet")), "{notes:?}");
            w.cut(false);
            w.run(180).await;
            let notes = server(w, turning).await.notes;
            assert!(
                notes.iter().any(|n| n.contains("is known to every host")),
                "{notes:?}"
            );
            assert_eq!(known(w, other).next, Some(key(number, 1)));
            // It survives what comes in between.
            w.restart_both().await;
            healthy(w, 0, 1).await;
            {
                let mut s = w.shared.state();
                (s.hosts[turning].key, s.hosts[turning].next_key) = (1, None);
            }
            healthy(w, 0, 1).await;
            let after = known(w, other);
            assert_eq!((after.key, after.next), (key(number, 1), None));
            assert_eq!(events(w, other, "uses its next key"), 1);
            // The old key is over, also after a restart.
            w.restart(other).await;
            let engine = w.shared.engines.lock().unwrap()[other].clone().unwrap();
            let old = PeerIdentity {
                names: vec![name.into()],
                addresses: Vec::new(),
                key: Some(key(number, 0)),
            };
            let reply = engine.call(&old, PeerRequest::Standing { vm: VM }).await;
            assert!(
                matches!(reply, PeerReply::Refused(PeerRefusal::OtherKey { .. })),
                "{reply:?}"
            );
        });
    }
}

#[test]
fn an_announcement_that_is_taken_back_is_forgotten() {
    simulate(7, async |w| {
        replicating(w).await;
        w.shared.state().hosts[0].next_key = Some(1);
        w.run(130).await;
        assert_eq!(known(w, 1).next, Some(key(0, 1)));
        w.shared.state().hosts[0].next_key = None;
        w.restart(0).await;
        w.run(130).await;
        assert_eq!(known(w, 1).next, None);
        assert!(events(w, 1, "stays with its key") >= 1);
    });
}

#[test]
fn a_key_that_was_not_announced_needs_the_word_of_a_person() {
    simulate(8, async |w| {
        replicating(w).await;
        w.shared.state().hosts[0].key = 5;
        w.write(5);
        w.run(60).await;
        assert_eq!(state(w, 0), State::Critical);
        let shown = view(w, 0).await;
        assert!(
            shown.health_notes.iter().any(|n| n.contains("trust-key a")),
            "{:?}",
            shown.health_notes
        );
        let unknown = Action::TrustKey {
            vm: None,
            host: "z".into(),
            key: key(0, 5),
        };
        let refused = w.insist(1, unknown).await.unwrap_err();
        assert_eq!(refused.code, ReturnCode::FileNotFound);
        trust(w, 1, "a", key(0, 5)).await;
        assert!(events(w, 1, "because somebody said so") == 1);
        healthy(w, 0, 1).await;
        assert_eq!(known(w, 1).key, key(0, 5));
        w.restart(1).await;
        healthy(w, 0, 1).await;
        assert_eq!(mode(w, 1), Mode::Replica);
    });
}
