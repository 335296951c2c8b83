//! The data at risk, as Measure-VMReplication asks for it.

use lifeboat_cim::{Instance, Value};
use lifeboat_sim::World;
use lifeboat_sim::harness::{A, B, TWO_HOSTS, simulate_small};

use crate::cim_methods::stories::replicating;
use crate::cim_methods::world::*;

async fn statistics(w: &World, host: usize) -> Instance {
    let report = done(w, host, "GetReplicationStatistics", vec![vm()]).await;
    let Some(Value::Array(all)) = out(&report, "ReplicationStatistics") else {
        panic!("{report:?}");
    };
    match all.as_slice() {
        [Value::Instance(statistics)] => (**statistics).clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_pending_size_is_a_number_or_null() {
    simulate_small(11, TWO_HOSTS, async |w| {
        let waits = async |host| statistics(w, host).await.unsigned("PendingReplicationSize");
        done(w, A, "CreateReplicationRelationship", vec![vm(), to("b")]).await;
        assert_eq!(waits(A).await, None, "there is no copy yet");
        done(w, A, "RemoveReplicationRelationship", vec![vm()]).await;
        done(w, B, "RemoveReplicationRelationship", vec![vm()]).await;
        replicating(w).await;
        w.run(30).await;
        assert_eq!(waits(A).await, Some(0));
        assert_eq!(ask_state(w, A, "7").await.value, 0);
        w.write(20);
        let paused = waits(A).await.unwrap();
        assert!(paused > 0 && paused.is_multiple_of(4096), "{paused}");
        assert!(statistics(w, B).await.get("PendingReplicationSize").is_none());
        assert_eq!(ask_state(w, A, "3").await.value, 0);
        w.run(30).await;
        assert_eq!(waits(A).await, Some(0));
    });
}
