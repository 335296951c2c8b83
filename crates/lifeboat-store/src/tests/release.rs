//! The end of the daemon: work that was dropped goes on in a thread of its own, and no file may be in use when the daemon is gone.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use lifeboat_engine::ports::store::ImageStore;

use super::world::World;
use crate::replica::exclusive;

#[tokio::test]
async fn the_end_waits_for_work_that_was_dropped() {
    let mut w = World::new(130).await;
    w.bulk().await;
    w.rounds(2).await;
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let replica = w.store.find(w.vm).unwrap();
    let work = tokio::spawn(exclusive(replica, move |_, cancel| {
        begun.send(()).unwrap();
        may_go_on.recv().unwrap();
        cancel.check()
    }));
    has_begun.await.unwrap();
    work.abort();
    assert!(work.await.unwrap_err().is_cancelled());
    {
        let mut release = pin!(w.store.release());
        let waits = poll_fn(|cx| Poll::Ready(release.as_mut().poll(cx).is_pending())).await;
        assert!(waits, "the thread still has the files");
        go_on.send(()).unwrap();
        release.await;
    }
    // And nothing is left behind: the next start takes the replica up.
    w.reopen().await;
    w.check().await;
}
