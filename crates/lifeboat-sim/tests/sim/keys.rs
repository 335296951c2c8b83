//! By which keys hosts know each other: taken when a relationship is made, kept over restarts and changes of roles, changed
//! after an announcement or a person's word, and nothing is done for whoever has the name and another key.

use lifeboat_deltalog::Consistency;
use lifeboat_engine::action::{Action, Answer};
use lifeboat_engine::ports::link::{
    Content, LogAddress, PeerHandler, PeerIdentity, PeerRefusal, PeerReply, PeerRequest, PrimaryReport,
};
use lifeboat_engine::records::KnownKey;
use lifeboat_model::Finding;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::hint::{Hint, Trust};
use lifeboat_model::{
    DiskId, Fingerprint, Machine, ReplicationHealth as Health, ReplicationMode as Mode,
    ReplicationState as State, Timestamp, VmId, VmSpec,
};
use lifeboat_sim::harness::{
    A, B, events, eventually, flows, healthy, mode, planned, replicating, replication, resume, said, server,
    simulate, state, suspend,
};
use lifeboat_sim::{VM, World};

/// The key with this number of a host, as the world makes them.
fn key(host: usize, number: u8) -> Fingerprint {
    let mut digest = [number; 32];
    digest[0] = u8::try_from(host).unwrap();
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

async fn trust(w: &World, host: usize, name: &str, key: Fingerprint) {
    let action = Action::TrustKey {
        vm: None,
        host: name.into(),
        key,
    };
    assert_eq!(w.insist(host, action).await.unwrap(), Answer::Done);
}

/// Whether the key of this host is to be compared, and trusted or not.
fn to_be_compared(found: &Finding, host: &str) -> bool {
    matches!(&found.hint, Some(Hint::Trust(Trust::CompareKey { name, .. })) if name == host)
}

#[test]
fn both_sides_know_each_other_by_their_keys_from_the_beginning() {
    simulate(1, async |w| {
        replicating(w).await;
        assert_eq!((known(w, A).key, known(w, B).key), (key(B, 0), key(A, 0)));
        assert_eq!(known(w, A).addresses, ["b:7000"]);
        let shown = replication(w, B).await.keys;
        let shown = shown.into_iter().map(|k| KnownKey {
            names: k.names,
            addresses: k.addresses,
            key: k.key,
            since: k.since,
            next: k.next,
            told: None,
        });
        assert_eq!(shown.collect::<Vec<_>>(), keys(w, B));
        w.restart_both().await;
        healthy(w, A, B).await;
        assert_eq!((known(w, A).key, known(w, B).key), (key(B, 0), key(A, 0)));
        // The roles change, and the hosts are the same.
        w.insist(A, planned(true)).await.unwrap();
        eventually(w, "the roles are swapped", |w| flows(w, B, A)).await;
        assert_eq!((known(w, A).key, known(w, B).key), (key(B, 0), key(A, 0)));
    });
}

#[test]
fn records_without_keys_get_them_when_the_hosts_speak() {
    simulate(2, async |w| {
        replicating(w).await;
        for host in [A, B] {
            w.stop(host).await;
            let mut s = w.shared.state();
            s.hosts[host]
                .catalog
                .relationships
                .iter_mut()
                .for_each(|r| r.keys.clear());
        }
        w.boot(A).await;
        w.boot(B).await;
        healthy(w, A, B).await;
        assert_eq!((known(w, A).key, known(w, B).key), (key(B, 0), key(A, 0)));
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
    let record = w.recorded(A).unwrap();
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
fn a_peer_with_the_right_name_and_another_key_changes_nothing() {
    simulate(3, async |w| {
        replicating(w).await;
        // Nothing else changes anything meanwhile.
        w.insist(A, suspend()).await.unwrap();
        w.run(5).await;
        for (host, name) in [(A, "b"), (B, "a")] {
            let engine = w.engine(host).unwrap();
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
                assert!(detail.text.contains(&key(9, 9).to_string()), "{words}: {detail}");
                let Some(Hint::Trust(Trust::CompareKey { key: shown, .. })) = detail.hint else {
                    panic!("{words}: {detail:?}");
                };
                assert_eq!(shown, Some(key(9, 9)));
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
            assert_eq!(events(w, host, "another key").len(), 1, "one event on {host}");
            let shown = replication(w, host).await;
            assert!(
                shown.health_notes.iter().any(|n| n.text.contains("another key")),
                "{:?}",
                shown.health_notes
            );
            drop(engine);
        }
        // The right host is not kept out by it, and it is forgotten after an hour.
        w.insist(A, resume()).await.unwrap();
        healthy(w, A, B).await;
        w.run(3700).await;
        assert_eq!(replication(w, B).await.health, Health::Ok);
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
        let engine = w.engine(B).unwrap();
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
fn nothing_is_sent_to_a_peer_with_another_key() {
    simulate(5, async |w| {
        replicating(w).await;
        let durable = |w: &World| w.shared.state().hosts[B].replicas[&VM].durable;
        w.shared.state().hosts[B].impostor = true;
        w.run(5).await;
        let before = durable(w);
        w.write(20);
        w.run(60).await;
        assert_eq!(durable(w), before, "something was sent");
        assert_eq!(state(w, A), State::Critical);
        let shown = replication(w, A).await;
        assert_eq!(shown.health, Health::Critical);
        assert!(
            shown.health_notes.iter().any(|n| to_be_compared(n, "b")),
            "{:?}",
            shown.health_notes
        );
        // One of what was seen, and one of what follows for the replication.
        assert_eq!(events(w, A, "a certificate of b was shown").len(), 2);
        w.shared.state().hosts[B].impostor = false;
        healthy(w, A, B).await;
        assert_eq!(known(w, A).key, key(B, 0));
    });
}

#[test]
fn an_announced_key_takes_the_place_of_the_old_one_without_a_pause() {
    for (turning, other, name) in [(A, B, "a"), (B, A, "b")] {
        simulate(6, async |w| {
            replicating(w).await;
            w.shared.state().hosts[turning].next_key = Some(1);
            w.cut(true);
            w.run(90).await;
            let notes = server(w, turning).await.notes;
            assert!(
                notes.iter().any(|n| n.text.contains("is not known yet")),
                "{notes:?}"
            );
            w.cut(false);
            w.run(180).await;
            let notes = server(w, turning).await.notes;
            assert!(
                notes.iter().any(|n| n.text.contains("is known to every host")),
                "{notes:?}"
            );
            assert_eq!(known(w, other).next, Some(key(turning, 1)));
            // It survives what comes in between.
            w.restart_both().await;
            healthy(w, A, B).await;
            {
                let mut s = w.shared.state();
                (s.hosts[turning].key, s.hosts[turning].next_key) = (1, None);
            }
            healthy(w, A, B).await;
            let after = known(w, other);
            assert_eq!((after.key, after.next), (key(turning, 1), None));
            assert_eq!(events(w, other, "uses its next key").len(), 1);
            // The old key is over, also after a restart.
            w.restart(other).await;
            let engine = w.engine(other).unwrap();
            let old = PeerIdentity {
                names: vec![name.into()],
                addresses: Vec::new(),
                key: Some(key(turning, 0)),
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
fn a_withdrawn_announcement_of_a_key_is_forgotten() {
    simulate(7, async |w| {
        replicating(w).await;
        w.shared.state().hosts[A].next_key = Some(1);
        w.run(130).await;
        assert_eq!(known(w, B).next, Some(key(A, 1)));
        w.shared.state().hosts[A].next_key = None;
        w.restart(A).await;
        w.run(130).await;
        assert_eq!(known(w, B).next, None);
        assert!(said(w, B, "stays with its key"));
    });
}

#[test]
fn an_unannounced_key_is_used_only_after_a_person_trusted_it() {
    simulate(8, async |w| {
        replicating(w).await;
        w.shared.state().hosts[A].key = 5;
        w.write(5);
        w.run(60).await;
        assert_eq!(state(w, A), State::Critical);
        let shown = replication(w, A).await;
        assert!(
            shown.health_notes.iter().any(|n| to_be_compared(n, "a")),
            "{:?}",
            shown.health_notes
        );
        let unknown = Action::TrustKey {
            vm: None,
            host: "z".into(),
            key: key(A, 5),
        };
        let refused = w.insist(B, unknown).await.unwrap_err();
        assert_eq!(refused.code, ReturnCode::FileNotFound);
        trust(w, B, "a", key(A, 5)).await;
        assert_eq!(events(w, B, "because an administrator said so").len(), 1);
        healthy(w, A, B).await;
        assert_eq!(known(w, B).key, key(A, 5));
        w.restart(B).await;
        healthy(w, A, B).await;
        assert_eq!(mode(w, B), Mode::Replica);
    });
}
