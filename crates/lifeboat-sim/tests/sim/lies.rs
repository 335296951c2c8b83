//! A replica whose answers are not true. The VM on the primary goes on whatever it is told, nothing that is said makes the
//! daemon fail, and when the replica is honest again, a comparison makes its newest data right. Its older points may be wrong:
//! it said that it had what it did not have.

use lifeboat_engine::action::Action;
use lifeboat_model::{JobState, ReplicationState as State};
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, TWO_HOSTS, Wrong, asked, eventually, flows, job, play, replicating, resume, resync,
    state, suspend,
};
use lifeboat_sim::{Lies, Rng, SYS_BYTES, VM, World};

/// What an administrator of the primary does meanwhile.
async fn manage(w: &World, rng: &mut Rng) {
    let vm = World::vm;
    let action = match rng.below(12) {
        0 => Action::ReplicateNow { vm: vm() },
        1 => suspend(),
        2 | 3 => resume(),
        4 => resync(),
        5 => Action::TestConnection {
            peer: "b:7000".into(),
        },
        6 => Action::CancelResync {
            vm: vm(),
            relationship: Default::default(),
        },
        _ => return,
    };
    let _ = w.act(PRIMARY, action).await;
}

/// What the commands for each state are, as the state says them.
async fn set_right(w: &World) {
    let action = match state(w, PRIMARY) {
        State::Suspended | State::ResynchronizationSuspended => resume(),
        State::WaitingToStartResynchronization | State::Critical => resync(),
        _ => return,
    };
    let _ = w.act(PRIMARY, action).await;
}

fn history(seed: u64) -> Result<(), Wrong> {
    play(seed, TWO_HOSTS, SYS_BYTES, async |w| {
        let mut rng = Rng(seed);
        replicating(w).await;
        let one_in = 1 + rng.below(4);
        let lies = Lies {
            host: REPLICA,
            one_in,
            rng: rng.clone(),
        };
        w.shared.state().lies = Some(lies);
        for _ in 0..25 {
            w.write(4);
            manage(w, &mut rng).await;
            w.run(1 + rng.below(12)).await;
            if rng.one_in(10) {
                w.restart(PRIMARY).await;
            }
            assert!(w.runs(PRIMARY), "the guest was stopped by the word of a replica");
            assert!(!w.runs(REPLICA));
        }
        w.shared.state().lies = None;
        // What it said was not there it may lack. A comparison finds that.
        for _ in 0..30 {
            w.run(20).await;
            w.write(2);
            if flows(w, PRIMARY, REPLICA) && w.recorded(PRIMARY).unwrap().problem.is_none() {
                break;
            }
            set_right(w).await;
        }
        let compared = job(w, PRIMARY, resync()).await;
        assert_eq!(compared.unwrap(), JobState::Completed);
        eventually(w, "both are one again", |w| flows(w, PRIMARY, REPLICA)).await;
        w.write(20);
        w.run(40).await;
        assert!(w.runs(PRIMARY) && !w.runs(REPLICA));
        assert_eq!(w.recorded(PRIMARY).unwrap().problem, None);
        let s = w.shared.state();
        let replica = &s.hosts[REPLICA].replicas[&VM];
        let truth = s.truth_at(VM, replica.applied).unwrap();
        assert_eq!(truth.disks, replica.head, "the newest data");
    })
}

fn histories(seeds: impl IntoIterator<Item = u64>) {
    let seeds: Vec<u64> = asked().map_or_else(|| seeds.into_iter().collect(), |seed| vec![seed]);
    let mut failed = Vec::new();
    for seed in seeds {
        if let Err(wrong) = history(seed) {
            println!("LIFEBOAT_SEED={seed}: {}", wrong.why);
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "{} seeds failed: {failed:?}", failed.len());
}

#[test]
fn a_replica_that_lies_harms_only_itself() {
    histories(0..150);
}

#[test]
#[ignore = "long; make soak"]
fn soak_a_replica_that_lies() {
    histories(1000..6000);
}
