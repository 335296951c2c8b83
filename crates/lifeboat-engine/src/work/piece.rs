//! A piece of work of an actor, and tasks beside it.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio::task::JoinHandle;

pub(crate) struct Work<D> {
    pub(crate) future: Pin<Box<dyn Future<Output = D> + Send>>,
    /// Whether it may be dropped in the middle.
    pub(crate) droppable: bool,
}

/// How long an actor sleeps when nothing is due.
pub(crate) const IDLE: Duration = Duration::from_secs(3600);

impl<D: 'static> Work<D> {
    /// The same work, whose end is one of several kinds.
    pub(crate) fn into<E: From<D>>(self) -> Work<E> {
        let Self { future, droppable } = self;
        Work {
            future: Box::pin(async move { future.await.into() }),
            droppable,
        }
    }
}

/// A task beside the work of an actor. It ends with the actor.
pub(crate) struct BackgroundTask(pub(crate) JoinHandle<()>);

impl Drop for BackgroundTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) fn droppable<D>(future: impl Future<Output = D> + Send + 'static) -> Work<D> {
    Work {
        future: Box::pin(future),
        droppable: true,
    }
}

pub(crate) fn undroppable<D>(future: impl Future<Output = D> + Send + 'static) -> Work<D> {
    Work {
        future: Box::pin(future),
        droppable: false,
    }
}
