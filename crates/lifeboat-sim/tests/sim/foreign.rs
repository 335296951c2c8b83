//! Other programs write to images of a VM, and storage that does not answer: the replica is never said to be equal because
//! nobody looked, and whoever asks for a cycle hears how it ended.

use lifeboat_engine::action::{Action, Answer, CycleResult, Refusal};
use lifeboat_model::{JobState, ReplicationHealth, ReplicationState as State};
use lifeboat_sim::World;
use lifeboat_sim::harness::texts;
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, cancel_planned, enable, eventually, flows, healthy, job, planned, prepare, refused,
    replicating, resync, simulate, start_copy, start_vm, state, stop_vm,
};

const IMAGE: &str = "/vm/sys.qcow2";

fn stop() -> Action {
    stop_vm(false)
}

async fn now(w: &World) -> Result<CycleResult, Refusal> {
    match w
        .act(PRIMARY, Action::ReplicateNow { vm: World::vm() })
        .await
        .unwrap()?
    {
        Answer::Cycle(result) => Ok(result),
        other => panic!("{other:?}"),
    }
}

/// The VM is off, and everything is on the replica.
async fn settled(w: &mut World) {
    replicating(w).await;
    w.write(10);
    w.insist(PRIMARY, stop()).await.unwrap();
    eventually(w, "the last cycle", |w| {
        w.recorded(PRIMARY)
            .is_some_and(|r| r.primary().is_some_and(|p| p.settled))
    })
    .await;
}

fn edit(w: &World) {
    let mut s = w.shared.state();
    s.hosts[PRIMARY].images.get_mut(IMAGE).unwrap().edit(3, 1 << 40);
}

async fn ok(w: &World) -> (bool, Option<u64>, String) {
    let replication = w.view(PRIMARY).await.unwrap().replication.unwrap();
    let fine = replication.health == ReplicationHealth::Ok;
    (
        fine,
        replication.lag_ms,
        texts(&replication.health_notes).join("; "),
    )
}

#[test]
fn an_edit_of_a_powered_off_vm_is_never_called_ok() {
    simulate(1, async |w| {
        settled(w).await;
        assert!(matches!(now(w).await, Ok(CycleResult::Unchanged { .. })));
        assert_eq!(ok(w).await.1, Some(0));
        edit(w);
        // At the very next look, before any cycle.
        let (fine, lag, notes) = ok(w).await;
        assert!(
            !fine && lag > Some(0) && notes.contains("changed by others"),
            "{lag:?} {notes}"
        );
        let refusal = now(w).await.unwrap_err();
        assert!(refusal.message.contains("another program"), "{refusal}");
        eventually(w, "the loss", |w| {
            state(w, PRIMARY) == State::WaitingToStartResynchronization
        })
        .await;
        assert_eq!(job(w, PRIMARY, resync()).await.unwrap(), JobState::Completed);
        eventually(w, "replication", |w| flows(w, PRIMARY, REPLICA)).await;
        w.run(20).await;
        let edited = w.shared.state().hosts[PRIMARY].images[IMAGE]
            .content
            .get(&3)
            .copied();
        assert_eq!(edited, Some(1 << 40));
        assert!(matches!(now(w).await, Ok(CycleResult::Unchanged { .. })));
        w.insist(PRIMARY, start_vm()).await.unwrap();
        healthy(w, PRIMARY, REPLICA).await;
    });
}

#[test]
fn an_edit_of_a_prepared_vm_is_not_left_behind() {
    simulate(6, async |w| {
        replicating(w).await;
        assert_eq!(job(w, PRIMARY, prepare()).await.unwrap(), JobState::Completed);
        assert!(ok(w).await.0);
        edit(w);
        assert!(!ok(w).await.0);
        let refusal = refused(w, PRIMARY, planned(true)).await;
        assert!(refusal.message.contains("changed by others"), "{refusal}");
        w.insist(PRIMARY, cancel_planned(false)).await.unwrap();
        eventually(w, "the loss", |w| {
            state(w, PRIMARY) == State::WaitingToStartResynchronization
        })
        .await;
        assert_eq!(job(w, PRIMARY, resync()).await.unwrap(), JobState::Completed);
        w.insist(PRIMARY, start_vm()).await.unwrap();
        healthy(w, PRIMARY, REPLICA).await;
    });
}

#[test]
fn an_edit_below_a_running_vm_stops_the_next_cycle() {
    simulate(2, async |w| {
        replicating(w).await;
        assert!(matches!(now(w).await, Ok(CycleResult::Sent { .. })));
        edit(w);
        let refusal = now(w).await.unwrap_err();
        assert!(refusal.message.contains("another program"), "{refusal}");
        assert!(!ok(w).await.0);
        assert_eq!(job(w, PRIMARY, resync()).await.unwrap(), JobState::Completed);
        healthy(w, PRIMARY, REPLICA).await;
    });
}

#[test]
fn an_edit_during_the_first_copy_is_found_whenever_it_comes() {
    for milliseconds in (0..100).step_by(10) {
        simulate(3, async |w| {
            w.insist(PRIMARY, enable()).await.unwrap();
            w.write(30);
            w.insist(PRIMARY, start_copy()).await.unwrap();
            w.pause(milliseconds).await;
            edit(w);
            w.run(40).await;
            // Before the closing cycle the copy begins again by itself; after it the copies have to be compared.
            if state(w, PRIMARY) == State::WaitingToStartResynchronization {
                assert_eq!(job(w, PRIMARY, resync()).await.unwrap(), JobState::Completed);
            }
            healthy(w, PRIMARY, REPLICA).await;
        });
    }
}

#[test]
fn storage_that_does_not_answer_is_not_called_unchanged() {
    simulate(4, async |w| {
        settled(w).await;
        w.shared.state().hosts[PRIMARY].images_hang = true;
        w.run(60).await;
        let (fine, lag, notes) = ok(w).await;
        assert!(!fine && lag > Some(30_000), "{lag:?}");
        assert!(
            notes.contains("could not be verified") && notes.contains("does not answer"),
            "{notes}"
        );
        let refusal = now(w).await.unwrap_err();
        assert!(refusal.message.contains("could not be verified"), "{refusal}");
        w.shared.state().hosts[PRIMARY].images_hang = false;
        assert!(matches!(now(w).await, Ok(CycleResult::Unchanged { .. })));
        assert_eq!(ok(w).await.1, Some(0));
        w.insist(PRIMARY, start_vm()).await.unwrap();
        healthy(w, PRIMARY, REPLICA).await;
    });
}

#[test]
fn a_cycle_that_does_not_arrive_is_not_counted_as_a_success() {
    simulate(5, async |w| {
        replicating(w).await;
        w.write(5);
        w.cut(true);
        let refusal = now(w).await.unwrap_err();
        assert!(refusal.message.contains("the cycle failed"), "{refusal}");
        w.cut(false);
        eventually(w, "replication", |w| flows(w, PRIMARY, REPLICA)).await;
        healthy(w, PRIMARY, REPLICA).await;
    });
}
