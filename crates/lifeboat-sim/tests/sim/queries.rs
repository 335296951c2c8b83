//! Every question to a real engine: that its answer is of the type that the question promises.

use lifeboat_engine::action::CycleResult;
use lifeboat_engine::paging::{Page, Paging};
use lifeboat_engine::query::Query;
use lifeboat_sim::harness::{PRIMARY, REPLICA, points, replicating, simulate};
use lifeboat_sim::{VM, World};

/// Asks, which must be answered.
async fn ask<T>(w: &World, host: usize, query: Query<T>) -> T {
    let name = query.action().name();
    match w.query(host, query).await {
        Some(Ok(held)) => held,
        Some(Err(refusal)) => panic!("{name}: {refusal}"),
        None => panic!("{name}: the daemon died"),
    }
}

#[test]
fn every_question_gets_its_answer() {
    simulate(71, async |w| {
        replicating(w).await;
        w.write(10);
        let first = Paging::FIRST;
        assert!(matches!(
            ask(w, PRIMARY, Query::replicate_now(World::vm())).await,
            CycleResult::Sent { .. }
        ));
        assert_eq!(ask(w, PRIMARY, Query::show_vm(VM)).await.spec.name, "web");
        assert_eq!(ask(w, PRIMARY, Query::show_vm(World::vm())).await.spec.uuid, VM);
        // The simulated screen is a picture without bytes.
        assert_eq!(ask(w, PRIMARY, Query::screenshot(VM)).await, [0_u8; 0]);
        assert_eq!(ask(w, PRIMARY, Query::show_server()).await.host, "a");
        assert_eq!(ask(w, PRIMARY, Query::list_requests()).await, []);
        let Page { items: vms, next } = ask(w, PRIMARY, Query::list_vms(first.clone())).await;
        assert_eq!((vms.len(), vms[0].spec.uuid, next), (1, VM, None));
        let jobs = ask(w, PRIMARY, Query::list_jobs(first.clone())).await.items;
        assert_eq!(ask(w, PRIMARY, Query::show_job(jobs[0].id)).await, jobs[0]);
        let entries = ask(w, REPLICA, Query::list_authorization(first.clone()))
            .await
            .items;
        assert_eq!(
            entries.iter().map(|e| e.primary.as_str()).collect::<Vec<_>>(),
            ["a"]
        );
        let events = ask(w, PRIMARY, Query::list_events(Some(VM.into()), 1)).await;
        assert_eq!((events.items.len(), events.next.is_some()), (1, true));
        let listed = ask(w, REPLICA, Query::list_points(VM, first)).await.items;
        assert_eq!(listed, points(w).await);
    });
}
