//! The question whether the VM runs on the other side: only a side that says "off", or that nobody can connect to, lets a
//! second host bring the VM up without `--force`; and an old primary learns afterwards what was done without it.

use lifeboat_engine::action::{Action, PointSelector};
use lifeboat_model::api::ReturnCode;
use lifeboat_model::hint;
use lifeboat_model::{JobState, ReplicationSettings, ReplicationState as State};
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, THIRD, THREE_HOSTS, eventually, failover, job, refused, remove, replicating, said,
    simulate, simulate_with, start_copy, start_vm, state,
};
use lifeboat_sim::{VM, World};

fn forced() -> Action {
    Action::InitiateFailover {
        vm: World::vm(),
        point: PointSelector::Latest,
        start: true,
        force: true,
    }
}

/// What keeps the primary from saying whether its VM runs, although its daemon can be reached; the way it is brought
/// about, and a word of what is shown.
type Cause = (&'static str, fn(&World), &'static str);

fn causes() -> Vec<Cause> {
    vec![
        (
            "its QEMU is stopped, or hangs on its disk",
            |w| {
                w.shared.state().hosts[PRIMARY].stuck.insert(VM);
            },
            "did not answer within 2 s",
        ),
        (
            "its sockets are gone",
            |w| {
                drop(
                    w.shared.state().hosts[PRIMARY]
                        .blind
                        .insert(VM, "its sockets are gone".into()),
                )
            },
            "its sockets are gone",
        ),
        (
            "the daemon stands still",
            |w| w.shared.state().hosts[PRIMARY].mute = true,
            "no answer within",
        ),
    ]
}

fn split(w: &World) -> bool {
    let rel = w.recorded(PRIMARY).unwrap();
    rel.primary().is_some_and(|p| p.split.is_some())
}

#[test]
fn a_primary_that_does_not_answer_is_not_taken_for_off() {
    for (cause, prepare, shown) in causes() {
        simulate(1, async |w| {
            replicating(w).await;
            prepare(w);
            let asked = w.shared.now();
            let refusal = refused(w, REPLICA, failover(PointSelector::Latest)).await;
            assert_eq!(refusal.code, ReturnCode::Unknown, "{cause}: {refusal:?}");
            assert!(refusal.message.contains(shown), "{cause}: {refusal:?}");
            assert_eq!(
                refusal.hint,
                Some(hint::Planned::ForceWhenOff.into()),
                "{cause}: {refusal:?}"
            );
            assert!(
                w.shared.now().since(asked).as_secs() < 5,
                "{cause}: the answer came late"
            );
            assert!(
                !w.runs(REPLICA) && state(w, REPLICA) == State::Replicating,
                "{cause}"
            );
            // A person's word, and the old primary learns of it: here while the cause lasts, where it can call at all.
            assert_eq!(
                job(w, REPLICA, forced()).await.unwrap(),
                JobState::Completed,
                "{cause}"
            );
            assert!(w.runs(PRIMARY) && w.runs(REPLICA), "{cause}");
            eventually(w, "the old primary notices", split).await;
            assert!(said(w, PRIMARY, "two copies went separate ways"), "{cause}");
        });
    }
}

/// Replication to an address, with no entry for the replica on the primary.
async fn by_address(w: &mut World, certified: bool) {
    {
        let mut s = w.shared.state();
        s.hosts[PRIMARY].catalog.entries.clear();
        s.hosts[REPLICA].address = "10.0.0.2".into();
        s.hosts[REPLICA].address_certified = certified;
    }
    w.restart(PRIMARY).await;
    let settings = ReplicationSettings {
        peer: "10.0.0.2:7000".into(),
        ..World::settings()
    };
    let vm = World::vm();
    w.insist(PRIMARY, Action::EnableReplication { vm, settings })
        .await
        .unwrap();
    w.insist(PRIMARY, start_copy()).await.unwrap();
    eventually(w, "replication", |w| {
        (state(w, PRIMARY), state(w, REPLICA)) == (State::Replicating, State::Replicating)
    })
    .await;
    w.run(30).await;
}

#[test]
fn a_primary_that_named_the_replica_by_address_answers_the_question() {
    simulate(2, async |w| {
        by_address(w, true).await;
        let refusal = refused(w, REPLICA, failover(PointSelector::Latest)).await;
        assert_eq!(refusal.code, ReturnCode::InvalidState, "{refusal:?}");
        assert!(refusal.message.contains("running on its primary"), "{refusal:?}");
    });
}

#[test]
fn a_primary_that_refuses_to_answer_is_not_taken_for_unreachable() {
    simulate(3, async |w| {
        by_address(w, false).await;
        let refusal = refused(w, REPLICA, failover(PointSelector::Latest)).await;
        assert_eq!(refusal.code, ReturnCode::Unknown, "{refusal:?}");
        assert!(refusal.message.contains("no authorization entry"), "{refusal:?}");
        assert_eq!(job(w, REPLICA, forced()).await.unwrap(), JobState::Completed);
        eventually(w, "the old primary notices", split).await;
    });
}

#[test]
fn a_failover_of_a_lost_site_needs_no_force_and_shows_what_was_seen() {
    simulate(4, async |w| {
        replicating(w).await;
        w.run(30).await;
        w.cut(true);
        assert_eq!(
            job(w, REPLICA, failover(PointSelector::Latest)).await.unwrap(),
            JobState::Completed
        );
        assert!(said(w, REPLICA, "could not be reached"));
        let view = w.view(REPLICA).await.unwrap().replication.unwrap();
        let seen = view.failover.unwrap().unreached.unwrap();
        assert!(seen.contains("its VM may still run"), "{seen}");
        w.cut(false);
        eventually(w, "the old primary notices", split).await;
    });
}

#[test]
fn a_primary_is_not_started_while_its_replica_does_not_say_whether_it_is_failed_over() {
    simulate(5, async |w| {
        replicating(w).await;
        w.run(30).await;
        w.guest_off(PRIMARY);
        w.shared.state().hosts[REPLICA].mute = true;
        let refusal = refused(w, PRIMARY, start_vm()).await;
        assert_eq!(refusal.code, ReturnCode::Unknown, "{refusal:?}");
        assert_eq!(
            refusal.hint,
            Some(hint::Guest::StartWhenOff.into()),
            "{refusal:?}"
        );
        assert!(!w.runs(PRIMARY));
        let (vm, force) = (World::vm(), true);
        w.act(PRIMARY, Action::StartVm { vm, force })
            .await
            .unwrap()
            .unwrap();
        assert!(w.runs(PRIMARY));
        // Without a replica in reach it is started as ever.
        w.guest_off(PRIMARY);
        w.shared.state().hosts[REPLICA].mute = false;
        w.cut(true);
        w.act(PRIMARY, start_vm()).await.unwrap().unwrap();
    });
}

#[test]
fn a_primary_whose_relationship_is_removed_still_says_that_its_vm_runs() {
    simulate(6, async |w| {
        replicating(w).await;
        w.run(30).await;
        w.insist(PRIMARY, remove()).await.unwrap();
        let refusal = refused(w, REPLICA, failover(PointSelector::Latest)).await;
        assert_eq!(refusal.code, ReturnCode::InvalidState, "{refusal:?}");
    });
}

#[test]
fn a_failover_on_the_third_host_is_refused_when_the_middle_one_cannot_tell() {
    simulate_with(7, THREE_HOSTS, lifeboat_sim::SYS_BYTES, async |w| {
        replicating(w).await;
        let settings = ReplicationSettings {
            peer: "c:7000".into(),
            ..World::settings()
        };
        let extend = Action::ExtendReplication {
            vm: World::vm(),
            settings,
            start: true,
        };
        w.insist(REPLICA, extend).await.unwrap();
        eventually(w, "the third host has a copy", |w| {
            state(w, THIRD) == State::Replicating
        })
        .await;
        w.run(60).await;
        w.shared.state().hosts[PRIMARY].mute = true;
        let refusal = refused(w, THIRD, failover(PointSelector::Latest)).await;
        assert_eq!(refusal.code, ReturnCode::Unknown, "{refusal:?}");
        assert!(refusal.message.contains("no answer within"), "{refusal:?}");
    });
}
