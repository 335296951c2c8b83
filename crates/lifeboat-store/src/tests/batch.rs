//! Several logs applied as one: the content is the same as one by one, a failure at any step leaves what can be opened and
//! finished, and the disk is asked for a flush once for all of them. And a disk that does not answer is seen as that.

use std::time::Duration;

use lifeboat_engine::ports::store::{ImageStore, LogStore, Target};

use super::world::World;

/// A replica with a point and `logs` logs that wait.
async fn waiting(seed: u64, logs: u32) -> World {
    let mut w = World::new(seed).await;
    w.bulk().await;
    w.rounds(1).await;
    for _ in 0..logs {
        w.receive().await;
    }
    w
}

/// Manifests written while the waiting logs are applied, as one or one by one: each costs two flushes.
async fn manifests(w: &World, together: bool) -> u64 {
    let counted = w.store.steps.counted();
    if together {
        w.store.apply_through(w.vm, w.durable).await.unwrap();
    } else {
        w.apply_all().await;
    }
    w.store.steps.counted() - counted
}

#[tokio::test]
async fn several_logs_are_applied_at_the_price_of_one() {
    let w = waiting(1, 6).await;
    let together = manifests(&w, true).await;
    assert_eq!(w.store.info(w.vm).await.unwrap().applied, w.durable);
    w.check().await;
    let w = waiting(1, 6).await;
    let apart = manifests(&w, false).await;
    assert_eq!((together, apart), (2, 12), "dirty once and clean once");
}

#[tokio::test]
async fn a_run_ends_where_it_is_told_to() {
    let mut w = waiting(2, 3).await;
    let end = w.durable;
    for _ in 0..3 {
        w.receive().await;
    }
    let applied = w.store.apply_through(w.vm, end).await.unwrap().unwrap();
    assert_eq!(applied.position, end);
    assert_eq!(w.store.info(w.vm).await.unwrap().applied, end);
    w.seal().await;
    w.check().await;
    let newest = w.durable;
    w.branch(Target::Cycle { position: newest }).await.unwrap();
    assert!(
        w.store.apply_through(w.vm, newest).await.unwrap().is_none(),
        "none waits"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_fails_anywhere_and_is_finished_by_the_next_call() {
    for n in 1.. {
        let mut w = waiting(3000 + n, 4).await;
        w.store.steps.fail_at(n);
        let outcome = w.store.apply_through(w.vm, w.durable).await;
        let through = w.store.steps.pending();
        w.store.steps.fail_at(0);
        if through {
            outcome.unwrap();
            assert!(n > 4, "a run has only {n} steps");
            return;
        }
        assert!(outcome.is_err(), "step {n}");
        // Once without and once with a restart in between.
        if n % 2 == 0 {
            w.reopen().await;
        }
        w.check().await;
        w.store.apply_through(w.vm, w.durable).await.unwrap();
        w.check().await;
        w.receive().await;
        w.seal().await;
        w.check().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_does_not_answer_is_told_from_a_network_that_does_not() {
    let mut w = waiting(4, 1).await;
    let info = w.store.info(w.vm).await.unwrap();
    let header = w.header();
    let (bytes, model) = w.log(&header);
    let (to, from) = tokio::sync::mpsc::channel::<std::io::Result<bytes::Bytes>>(1);
    let body: lifeboat_engine::ports::ByteStream =
        Box::pin(futures_util::stream::unfold(from, |mut from| async {
            from.recv().await.map(|chunk| (chunk, from))
        }));
    // As a file system that hangs holds up whoever changes the replica.
    let replica = w.store.find(w.vm).unwrap();
    let (store, vm, position) = (std::sync::Arc::new(w.store), w.vm, header.position);
    let receiving = store.clone();
    let task = tokio::spawn(async move { receiving.receive(vm, position, 0, body).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        store.storage_delay(vm),
        None,
        "the sender is waited for, not the disk"
    );
    let held = replica.state.lock().await;
    to.send(Ok(bytes.into())).await.unwrap();
    drop(to);
    let mut longest = Duration::ZERO;
    while longest < Duration::from_millis(400) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let delay = store.storage_delay(vm);
        longest = delay.map(|d| d.since.elapsed()).unwrap_or_default();
    }
    let look = tokio::time::timeout(Duration::from_millis(100), store.info(vm));
    assert!(look.await.is_err(), "what is exact has to wait");
    assert_eq!(store.last_info(vm), Some(info), "what was seen last has not");
    drop(held);
    assert_eq!(task.await.unwrap().unwrap().durable, position);
    assert_eq!(store.storage_delay(vm), None);
    w.store = std::sync::Arc::into_inner(store).unwrap();
    w.landed(position, model);
    w.check().await;
}

/// Run below `strace -f -c -e trace=fsync,fdatasync`: what `LIFEBOAT_LOGS` logs cost, applied `LIFEBOAT_TOGETHER` at a time.
/// The difference of two runs is the cost of the logs alone.
#[tokio::test]
#[ignore = "a measurement"]
async fn flushes_of_cycles() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|n| n.parse::<u32>().ok())
            .unwrap_or(1)
    };
    let mut w = waiting(5, 0).await;
    for n in 1..=number("LIFEBOAT_LOGS") {
        w.receive().await;
        if n.is_multiple_of(number("LIFEBOAT_TOGETHER")) {
            w.store.apply_through(w.vm, w.durable).await.unwrap();
        }
    }
}
