//! A host that was away is back: what waited for it goes on at once, whoever notices first.

use lifeboat_engine::action::Action;
use lifeboat_engine::records::Side;
use lifeboat_sim::World;
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, THIRD, THREE_HOSTS, durable, replicating, simulate, simulate_with,
};

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
        w.insist(
            PRIMARY,
            Action::SuspendReplication {
                vm: vm(),
                relationship: Default::default(),
            },
        )
        .await
        .unwrap();
        w.insist(
            PRIMARY,
            Action::ResumeReplication {
                vm: vm(),
                relationship: Default::default(),
            },
        )
        .await
        .unwrap();
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
