//! A host that was away is back: what waited for it goes on at once, whoever notices first; an administrator too, who has mended what
//! no host notices.

use lifeboat_engine::action::{Action, Answer};
use lifeboat_engine::records::Side;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{AuthorizationEntry, hint};
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, THIRD, THREE_HOSTS, durable, events, eventually, extend, extended, refused,
    replicating, resume, simulate, simulate_with, suspend,
};
use lifeboat_sim::{VM, World};

/// Milliseconds until a newer log is durable on a host.
async fn goes_on(w: &World, host: usize) -> u64 {
    let (before, began) = (durable(w, host).sequence(), w.shared.now().0);
    for _ in 0..6000 {
        w.pause(10).await;
        if durable(w, host).sequence() > before {
            return w.shared.now().0 - began;
        }
    }
    panic!("nothing arrives within a minute: {:?}", w.recorded(PRIMARY));
}

#[test]
fn a_daemon_that_comes_back_says_so_and_the_other_side_goes_on() {
    for away in [200, 209, 217, 226] {
        simulate(away, async |w| {
            replicating(w).await;
            w.stop(REPLICA).await;
            w.write(3);
            w.run(away).await;
            w.boot(REPLICA).await;
            let took = goes_on(w, REPLICA).await;
            assert!(took < 2500, "{took} ms after {away} s away");
        });
    }
}

#[test]
fn a_network_that_comes_back_is_noticed_within_seconds() {
    for away in [200, 209, 217, 226] {
        simulate(away, async |w| {
            replicating(w).await;
            w.cut(true);
            w.write(3);
            w.run(away).await;
            w.cut(false);
            let took = goes_on(w, REPLICA).await;
            assert!(took < 7500, "{took} ms after {away} s without a network");
        });
    }
}

#[test]
fn a_third_host_that_comes_back_is_sent_to_at_once() {
    simulate_with(5, THREE_HOSTS, 32 << 20, async |w| {
        replicating(w).await;
        let mut settings = World::settings();
        settings.peer = "c:7000".into();
        settings.interval_s = 30;
        let extend = Action::ExtendReplication {
            vm: World::vm(),
            settings,
            start: true,
        };
        w.insist(REPLICA, extend).await.unwrap();
        let copied = |w: &World| match w.recorded(REPLICA).unwrap().side {
            Side::Replica(r) => r.outgoing.all().iter().any(|e| e.acknowledged.is_some()),
            Side::Primary(_) | Side::Test { .. } | Side::Alone => false,
        };
        for _ in 0..60 {
            if !copied(w) {
                w.run(2).await;
            }
        }
        assert!(copied(w), "{:?}", w.recorded(REPLICA));
        w.stop(THIRD).await;
        w.run(230).await;
        w.boot(THIRD).await;
        let took = goes_on(w, THIRD).await;
        assert!(took < 2500, "{took} ms");
    });
}

#[test]
fn a_call_of_the_other_side_ends_the_pause_of_a_change_of_roles() {
    simulate(7, async |w| {
        replicating(w).await;
        let vm = World::vm;
        w.insist(PRIMARY, suspend()).await.unwrap();
        w.insist(PRIMARY, resume()).await.unwrap();
        w.cut(true);
        w.run(200).await;
        // Both are in touch again, and the replica's administrator asks the primary for something first.
        w.cut(false);
        let asked = Action::PlannedFailover {
            vm: vm(),
            force: false,
            prepare_only: false,
            start: false,
        };
        let before = w.shared.now().0;
        let _ = w.act(REPLICA, asked).await;
        let took = goes_on(w, REPLICA).await;
        assert!(took < 5000, "{took} ms from {before}");
    });
}

fn retry() -> Action {
    Action::RetryNow { vm: World::vm() }
}

/// How often an administrator's asking was recorded.
fn asked(w: &World, host: usize) -> usize {
    events(w, host, "is tried again now").len()
}

/// A host no longer takes what another one sends; the entry that let it.
async fn forbid(w: &World, host: usize, primary: &str) -> AuthorizationEntry {
    let entries = w.shared.state().hosts[host].catalog.entries.clone();
    let entry = entries.into_iter().find(|e| e.covers(primary)).unwrap();
    let primary = entry.primary.clone();
    w.insist(host, Action::RemoveAuthorization { primary })
        .await
        .unwrap();
    entry
}

/// The replica's host refuses the primary for a while, of which no call tells when it is over. How long the primary takes then.
fn let_in_again(away: u64, ask: bool) -> u64 {
    simulate(away, async |w| {
        replicating(w).await;
        let entry = forbid(w, REPLICA, "a").await;
        w.write(3);
        w.run(away).await;
        w.insist(REPLICA, Action::AddAuthorization { entry })
            .await
            .unwrap();
        if ask {
            assert_eq!(w.insist(PRIMARY, retry()).await.unwrap(), Answer::Done);
        }
        let took = goes_on(w, REPLICA).await;
        assert_eq!(asked(w, PRIMARY), usize::from(ask));
        // Nothing waits any more: that is no fault, and no event.
        assert_eq!(w.insist(PRIMARY, retry()).await.unwrap(), Answer::Done);
        assert_eq!(asked(w, PRIMARY), usize::from(ask));
        took
    })
}

#[test]
fn what_waits_for_its_next_attempt_is_tried_when_an_administrator_asks() {
    let away = [200, 209, 217, 226];
    let by_itself = away.map(|away| let_in_again(away, false));
    let asked_for = away.map(|away| let_in_again(away, true));
    assert!(by_itself.iter().any(|took| *took > 10_000), "{by_itself:?}");
    assert!(asked_for.iter().all(|took| *took < 2500), "{asked_for:?}");
}

#[test]
fn what_goes_to_a_third_host_is_tried_when_an_administrator_asks() {
    simulate_with(5, THREE_HOSTS, 32 << 20, async |w| {
        replicating(w).await;
        w.insist(REPLICA, extend("c:7000")).await.unwrap();
        eventually(w, "the third host has a copy", |w| {
            extended(w, REPLICA).is_some_and(|e| e.acknowledged.is_some())
        })
        .await;
        let entry = forbid(w, THIRD, "b").await;
        w.write(3);
        w.run(230).await;
        w.insist(THIRD, Action::AddAuthorization { entry }).await.unwrap();
        w.insist(REPLICA, retry()).await.unwrap();
        let took = goes_on(w, THIRD).await;
        assert!(took < 2500, "{took} ms");
        assert_eq!(asked(w, REPLICA), 1);
    });
}

#[test]
fn a_replica_whose_storage_is_back_is_opened_when_an_administrator_asks() {
    simulate(11, async |w| {
        replicating(w).await;
        w.stop(REPLICA).await;
        let gone = w.shared.state().hosts[REPLICA].replicas.remove(&VM).unwrap();
        w.boot(REPLICA).await;
        w.run(200).await;
        let wrong = |w: &World| w.recorded(REPLICA).unwrap().problem.is_some();
        assert!(wrong(w), "the replica is opened without its files");
        w.shared.state().hosts[REPLICA].replicas.insert(VM, gone);
        w.insist(REPLICA, retry()).await.unwrap();
        let took = goes_on(w, REPLICA).await;
        assert!(took < 40_000, "{took} ms");
    });
}

#[test]
fn only_what_is_replicated_is_tried_again() {
    simulate(12, async |w| {
        let refusal = refused(w, PRIMARY, retry()).await;
        assert_eq!(
            (refusal.code, refusal.hint),
            (ReturnCode::InvalidState, Some(hint::Replicate::Enable.into()))
        );
    });
}
