//! The accept loop of every listener: it waits for a slot, accepts, hands the connection to the listener that decides on it, and ends when
//! it is told to. Who gets in, and what is spoken then, its caller knows.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// After an accept that failed. Most likely the process or the host is out of file descriptors (`EMFILE`, `ENFILE`), and others
/// must end before it gets better; the connection stays in the kernel's queue meanwhile, so that the next try would fail at once.
const PAUSE: Duration = Duration::from_millis(100);

/// A socket that connections come from. What a connection is, and who is behind it, is not looked at here.
pub trait Listener: Send + Sync {
    /// A connection.
    type Stream: Send;
    /// Where it comes from.
    type Address: Send;

    /// Waits for the next connection.
    ///
    /// # Errors
    /// Those of accept(2).
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Address)>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;
    type Address = std::net::SocketAddr;

    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Address)>> + Send {
        Self::accept(self)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;
    type Address = tokio::net::unix::SocketAddr;

    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Address)>> + Send {
        Self::accept(self)
    }
}

/// One of the connections that a listener may have at once. Dropping it gives it back.
#[derive(Debug)]
pub struct Slot {
    _permit: OwnedSemaphorePermit,
}

/// When a loop ends, and what it waits for then.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Ends it: nothing is accepted any more, and the listener is closed.
    pub stop: CancellationToken,
    /// From then on, for what is under way. A connection that takes longer is dropped.
    pub grace: Duration,
    /// Connections are tasks of this. What they spawn on it themselves is waited for as well, but never dropped.
    pub tasks: TaskTracker,
}

impl Ending {
    /// The end of a loop whose connections are all that is waited for.
    #[must_use]
    pub fn new(stop: CancellationToken, grace: Duration) -> Self {
        Self {
            stop,
            grace,
            tasks: TaskTracker::new(),
        }
    }
}

/// The loop of one listener.
#[derive(Debug)]
pub struct AcceptLoop {
    name: &'static str,
    slots: Arc<Semaphore>,
    ending: Ending,
}

impl AcceptLoop {
    /// A loop with this many connections at once; more wait in the kernel's queue. `name` says in the log what is behind the
    /// listener.
    #[must_use]
    pub fn new(name: &'static str, connections: usize, ending: Ending) -> Self {
        Self {
            name,
            slots: Arc::new(Semaphore::new(connections)),
            ending,
        }
    }

    /// Accepts until it has to end, or is dropped. `admit` decides at once, without waiting: it answers with what becomes of the
    /// connection, which is a task of its own, or drops it. The slot is taken as long as `admit` or its answer keeps it.
    ///
    /// Dropping the loop closes the listener and leaves the connections to themselves.
    pub async fn run<L, F>(self, listener: L, mut admit: impl FnMut(L::Stream, L::Address, Slot) -> Option<F>)
    where
        L: Listener,
        F: Future<Output = ()> + Send + 'static,
    {
        let Self {
            name,
            slots,
            ending: Ending { stop, grace, tasks },
        } = self;
        let cut = CancellationToken::new();
        let accepting = async {
            // No other task has the semaphore, so that it is never closed.
            while let Ok(permit) = slots.clone().acquire_owned().await {
                match listener.accept().await {
                    Ok((stream, address)) => {
                        let slot = Slot { _permit: permit };
                        if let Some(connection) = admit(stream, address, slot) {
                            let cut = cut.clone();
                            tasks.spawn(async move {
                                tokio::select! {
                                    () = connection => {}
                                    () = cut.cancelled() => {}
                                }
                            });
                        }
                    }
                    Err(error) => {
                        tracing::warn!("{name}: a connection cannot be accepted: {error}");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = accepting => {}
        }
        drop(listener);
        tasks.close();
        if tokio::time::timeout(grace, tasks.wait()).await.is_err() {
            tracing::warn!("{name}: requests did not end in time and are cut");
        }
        cut.cancel();
    }
}
