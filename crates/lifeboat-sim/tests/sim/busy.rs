//! Another program uses the disks for a while: cycles wait and go on, and only a long wait is a problem.

use lifeboat_model::policy::BUSY_PATIENCE;
use lifeboat_model::{ReplicationHealth as Health, ReplicationState as State};
use lifeboat_sim::harness::{
    PRIMARY, REPLICA, durable, eventually, healthy, replicating, replication, simulate, state,
};
use lifeboat_sim::{VM, World};

const BACKUP: &str = "a backup of the VM is under way";

fn backup(w: &World, runs: bool) {
    let occupied = &mut w.shared.state().hosts[PRIMARY].occupied;
    if runs {
        occupied.insert(VM, BACKUP.into());
    } else {
        occupied.remove(&VM);
    }
}

/// The health of the primary, and whether its notes say what is waited for.
async fn shown(w: &World) -> (Health, bool) {
    let view = replication(w, PRIMARY).await;
    let said = view.health_notes.iter().any(|n| n.text.contains(BACKUP));
    (view.health, said)
}

#[test]
fn a_backup_of_nine_minutes_delays_cycles_and_is_no_problem() {
    simulate(1, async |w| {
        replicating(w).await;
        let failures = replication(w, PRIMARY).await.counters.failures;
        let events = w.shared.state().hosts[PRIMARY].events.len();
        backup(w, true);
        w.run(15).await;
        let before = durable(w, REPLICA);
        for _ in 0..35 {
            w.write(5);
            w.run(15).await;
            assert_eq!(shown(w).await, (Health::Ok, true));
            assert_eq!(state(w, PRIMARY), State::Replicating);
        }
        assert_eq!(durable(w, REPLICA), before, "nothing was captured");
        backup(w, false);
        eventually(w, "cycles go on", |w| durable(w, REPLICA) != before).await;
        w.run(2).await;
        assert_eq!(shown(w).await, (Health::Ok, false));
        let view = replication(w, PRIMARY).await;
        assert_eq!(view.counters.failures, failures, "to wait is no failure");
        assert_eq!(w.shared.state().hosts[PRIMARY].events.len(), events);
        healthy(w, PRIMARY, REPLICA).await;
    });
}

#[test]
fn a_backup_that_does_not_end_is_a_problem_after_ten_minutes() {
    simulate(2, async |w| {
        replicating(w).await;
        backup(w, true);
        w.run(15).await;
        let before = durable(w, REPLICA);
        w.write(5);
        w.run(BUSY_PATIENCE.as_secs() - 45).await;
        assert_eq!(shown(w).await, (Health::Ok, true));
        w.run(90).await;
        assert_eq!(shown(w).await, (Health::Critical, true));
        assert_eq!(state(w, PRIMARY), State::Critical);
        assert!(replication(w, PRIMARY).await.counters.failures > 0);
        backup(w, false);
        eventually(w, "cycles go on", |w| durable(w, REPLICA) != before).await;
        w.run(2).await;
        assert_eq!(state(w, PRIMARY), State::Replicating);
        healthy(w, PRIMARY, REPLICA).await;
        // The next one has its own ten minutes.
        backup(w, true);
        w.run(120).await;
        assert_eq!(shown(w).await, (Health::Ok, true));
    });
}
