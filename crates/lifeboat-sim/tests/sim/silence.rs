//! Silence: of a disk, a daemon, a connection. Either side says that it has heard nothing, since when, and what it waits for;
//! and it does not cry when there is nothing to be sent.

use lifeboat_engine::action::{Action, ReplicationView};
use lifeboat_model::{ReplicationHealth as Health, ReplicationState as State};
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, THIRD, THREE_HOSTS, eventually, replicating, resume, said, simulate, simulate_with,
    start_vm, suspend,
};
use lifeboat_sim::{VM, World};

async fn view(w: &World, host: usize) -> ReplicationView {
    let began = w.shared.now().0;
    let view = w.view(host).await.unwrap().replication.unwrap();
    let took = w.shared.now().0 - began;
    assert!(took <= 5000, "the view of host {host} took {took} ms");
    view
}

/// The health of a host and a note that contains a word.
async fn says(w: &World, host: usize, health: Health, word: &str) {
    let v = view(w, host).await;
    let noted = v.health_notes.iter().any(|n| n.text.contains(word));
    assert!(
        v.health == health && noted,
        "host {host}, wanted {health} \"{word}\": {v:?}"
    );
}

async fn both_are_well(w: &World) {
    for host in [PRIMARY, REPLICA] {
        let v = view(w, host).await;
        assert_eq!(
            (v.health, v.health_notes.len()),
            (Health::Ok, 0),
            "host {host}: {v:?}"
        );
        assert!(v.contact.unwrap().silent_ms < 60_000);
    }
}

/// Both sides are well again and data flows.
async fn recovered(w: &mut World) {
    for host in [PRIMARY, REPLICA] {
        let vm = World::vm();
        w.insist(
            host,
            Action::ResetStatistics {
                vm,
                relationship: Default::default(),
            },
        )
        .await
        .unwrap();
    }
    let durable = |w: &World| w.shared.state().hosts[REPLICA].replicas[&VM].durable;
    let before = durable(w);
    w.write(3);
    w.run(60).await;
    assert!(durable(w) != before, "nothing arrived: {:?}", w.recorded(PRIMARY));
    both_are_well(w).await;
    w.check_all().unwrap();
}

#[test]
fn a_replica_disk_that_hangs_is_reported_on_both_hosts() {
    simulate(1, async |w| {
        replicating(w).await;
        w.run(60).await;
        both_are_well(w).await;
        w.hang_store(REPLICA, true);
        w.write(3);
        w.run(50).await;
        says(
            w,
            PRIMARY,
            Health::Warning,
            "has not said that they are on its disk",
        )
        .await;
        says(w, REPLICA, Health::Warning, "the storage at /replicas").await;
        // What would have to wait for the disk is answered too.
        let asked = w.shared.now().0;
        let answer = w.act(REPLICA, suspend()).await;
        let took = w.shared.now().0 - asked;
        assert!(took <= 5000, "{took} ms: {answer:?}");
        let _ = w.act(REPLICA, resume()).await;
        w.run(150).await;
        says(
            w,
            PRIMARY,
            Health::Critical,
            "has not said that they are on its disk",
        )
        .await;
        says(w, REPLICA, Health::Critical, "has not answered for").await;
        assert!(said(w, REPLICA, "the storage at") && said(w, PRIMARY, "on its disk"));
        w.hang_store(REPLICA, false);
        let _ = w.act(REPLICA, resume()).await;
        w.run(30).await;
        recovered(w).await;
        assert!(said(w, PRIMARY, "data flows again"));
    });
}

#[test]
fn a_primary_that_stands_still_is_missed_by_its_replica() {
    simulate(2, async |w| {
        replicating(w).await;
        w.run(60).await;
        w.freeze(PRIMARY, true);
        w.run(15).await;
        is_ok(w, REPLICA).await;
        w.run(35).await;
        says(w, REPLICA, Health::Warning, "nothing was heard from a for").await;
        w.run(90).await;
        says(w, REPLICA, Health::Critical, "nothing was heard from a for").await;
        assert!(said(w, REPLICA, "nothing was heard from a"));
        w.freeze(PRIMARY, false);
        w.run(10).await;
        recovered(w).await;
    });
}

async fn is_ok(w: &World, host: usize) {
    let v = view(w, host).await;
    assert_eq!(v.health, Health::Ok, "host {host}: {v:?}");
}

#[test]
fn a_mute_connection_is_noticed_on_both_sides() {
    simulate(3, async |w| {
        replicating(w).await;
        w.run(60).await;
        w.mute(true);
        w.write(3);
        w.run(45).await;
        says(w, REPLICA, Health::Warning, "nothing was heard from a for").await;
        assert_ne!(view(w, PRIMARY).await.health, Health::Ok);
        w.run(120).await;
        says(w, PRIMARY, Health::Critical, "nothing was heard from b").await;
        says(w, REPLICA, Health::Critical, "nothing was heard from a").await;
        w.mute(false);
        w.run(40).await;
        recovered(w).await;
    });
}

#[test]
fn a_powered_off_vm_is_not_taken_for_silence_and_a_dead_host_is() {
    simulate(4, async |w| {
        replicating(w).await;
        w.guest_off(PRIMARY);
        w.run(900).await;
        both_are_well(w).await;
        // The replica's disk and its records are as they were, so that only a word of the primary can have told it.
        w.restart(REPLICA).await;
        w.run(60).await;
        both_are_well(w).await;
        w.stop(PRIMARY).await;
        w.run(45).await;
        says(w, REPLICA, Health::Warning, "nothing was heard from a for").await;
        // A replica that starts while its primary is away has heard nothing, and says so.
        w.restart(REPLICA).await;
        w.run(45).await;
        says(w, REPLICA, Health::Warning, "since this daemon started").await;
        assert_eq!(view(w, REPLICA).await.contact.unwrap().heard, None);
        w.boot(PRIMARY).await;
        w.run(20).await;
        both_are_well(w).await;
        w.insist(PRIMARY, start_vm()).await.unwrap();
        recovered(w).await;
    });
}

#[test]
fn a_replica_that_is_gone_is_noticed_while_the_vm_is_off() {
    simulate(5, async |w| {
        replicating(w).await;
        w.guest_off(PRIMARY);
        w.run(60).await;
        both_are_well(w).await;
        let vm = World::vm();
        w.insist(
            REPLICA,
            Action::RemoveReplication {
                vm,
                relationship: Default::default(),
            },
        )
        .await
        .unwrap();
        w.run(60).await;
        says(w, PRIMARY, Health::Critical, "no replica of this VM").await;
    });
}

#[test]
fn a_replica_knows_that_its_primary_holds_replication() {
    simulate(6, async |w| {
        replicating(w).await;
        w.run(30).await;
        w.insist(PRIMARY, suspend()).await.unwrap();
        w.run(600).await;
        says(w, REPLICA, Health::Warning, "held on the primary").await;
        w.insist(PRIMARY, resume()).await.unwrap();
        w.run(20).await;
        recovered(w).await;
    });
}

#[test]
fn a_replica_reports_a_primary_that_answers_and_sends_nothing() {
    simulate(7, async |w| {
        replicating(w).await;
        w.run(30).await;
        w.shared.state().hosts[PRIMARY].spool_full = true;
        w.run(60).await;
        says(w, REPLICA, Health::Warning, "answers, but no change has arrived").await;
        w.shared.state().hosts[PRIMARY].spool_full = false;
        w.run(60).await;
        recovered(w).await;
    });
}

#[test]
fn a_third_host_misses_the_one_between() {
    simulate_with(8, THREE_HOSTS, 32 << 20, async |w| {
        replicating(w).await;
        let mut settings = World::settings();
        settings.peer = "c:7000".into();
        settings.interval_s = 30;
        let vm = World::vm();
        w.insist(
            REPLICA,
            Action::ExtendReplication {
                vm,
                settings,
                start: true,
            },
        )
        .await
        .unwrap();
        eventually(w, "the copy on c", |w| {
            w.recorded(THIRD).is_some_and(|r| r.state == State::Replicating)
        })
        .await;
        w.run(120).await;
        is_ok(w, THIRD).await;
        w.cut_between(REPLICA, THIRD, true);
        w.run(120).await;
        says(w, THIRD, Health::Warning, "nothing was heard from b for").await;
    });
}
