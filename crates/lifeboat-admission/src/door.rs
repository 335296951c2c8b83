//! A listener's door: asks the table about each connection that was accepted, and drops those that the table took the places of. It
//! waits for no connection, and each connection's task ends as soon as its place is gone. How connections are accepted, and how
//! that ends, `accept` knows.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::accept::{AcceptLoop, Ending, Slot};
use crate::notices::{Notices, Summary};
use crate::table::{NoPlace, Places, Stage, Table};

/// Connections that have lost their place and are not closed yet. They end as soon as their task runs; further ones are accepted
/// then.
const ENDING: usize = 256;
/// Between looks at what was counted.
const LOOK: Duration = Duration::from_secs(5);

/// Level of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// What a normal client may cause as well.
    Debug,
    /// What concerns the administrator of that client.
    Info,
    /// What concerns the administrator of this host.
    Warn,
}

/// What may happen often, and is then counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Notice {
    /// Level of its lines.
    pub level: Level,
    /// What it is.
    pub what: &'static str,
}

const DISPLACED: Notice = Notice {
    level: Level::Info,
    what: "dropped to make room for others: the caller had not said who it is",
};
const OUTNUMBERED: Notice = Notice {
    level: Level::Warn,
    what: "dropped to make room for others: the caller had more connections than anybody else",
};
const FULL: Notice = Notice {
    level: Level::Warn,
    what: "refused: there is no place for it",
};

struct State {
    table: Table,
    tokens: HashMap<u64, (SocketAddr, CancellationToken)>,
    notices: Notices<Notice>,
}

/// The door of a listener.
pub struct Door {
    /// What is behind it, for the log.
    name: &'static str,
    state: Mutex<State>,
    /// Connections at once, those that are ending included: each costs a descriptor.
    descriptors: usize,
    began: Instant,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Door {
    /// A door with these places, or fewer where the process may have only so many descriptors.
    #[must_use]
    pub fn new(name: &'static str, places: Places) -> Arc<Self> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let places = places.within(limit.current.unwrap_or(u64::MAX));
        Arc::new(Self {
            name,
            state: Mutex::new(State {
                table: Table::new(places),
                tokens: HashMap::new(),
                notices: Notices::default(),
            }),
            descriptors: places.sum() + ENDING,
            began: Instant::now(),
        })
    }

    /// Accepts until it has to end, or is dropped. Each connection that gets a place, at `stage`, is handled by a task of its own.
    pub async fn serve<F>(
        self: &Arc<Self>,
        listener: TcpListener,
        stage: Stage,
        ending: Ending,
        handle: impl Fn(TcpStream, Arc<Place>) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let admit = move |stream, from, slot| {
            let place = self.admit(from, stage, slot)?;
            let handled = handle(stream, place.clone());
            Some(async move {
                tokio::select! {
                    biased;
                    () = place.gone.cancelled() => {}
                    () = handled => {}
                }
            })
        };
        let accepting = AcceptLoop::new(self.name, self.descriptors, ending);
        tokio::select! {
            () = accepting.run(listener, admit) => {}
            never = self.look() => match never {},
        }
    }

    fn admit(self: &Arc<Self>, from: SocketAddr, stage: Stage, slot: Slot) -> Option<Arc<Place>> {
        let mut state = self.state();
        let Ok((id, lost)) = state.table.admit(from.ip().into(), stage) else {
            drop(state);
            self.note(FULL, from, "");
            return None;
        };
        let gone = CancellationToken::new();
        state.tokens.insert(id, (from, gone.clone()));
        self.end(state, lost, DISPLACED);
        Some(Arc::new(Place {
            door: self.clone(),
            id,
            from,
            gone,
            _slot: slot,
        }))
    }

    /// Ends the connection that has lost its place.
    fn end(&self, mut state: MutexGuard<'_, State>, lost: Option<u64>, why: Notice) {
        let lost = lost.and_then(|id| state.tokens.remove(&id));
        drop(state);
        if let Some((from, gone)) = lost {
            gone.cancel();
            self.note(why, from, "");
        }
    }

    /// Logs what happened, unless the same has been logged of this address lately: then it is counted, and logged later.
    pub fn note(&self, notice: Notice, from: SocketAddr, detail: &str) {
        let now = self.began.elapsed();
        let Notice { level, what } = notice;
        if level == Level::Debug {
            tracing::debug!(%from, "{}: {what}{}{detail}", self.name, colon(detail));
            return;
        }
        if !self.state().notices.note(now, from.ip().into(), notice) {
            return;
        }
        match level {
            Level::Warn => tracing::warn!(%from, "{}: {what}{}{detail}", self.name, colon(detail)),
            Level::Info | Level::Debug => {
                tracing::info!(%from, "{}: {what}{}{detail}", self.name, colon(detail))
            }
        }
    }

    /// Tells from time to time what was counted.
    async fn look(&self) -> Infallible {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            self.tell_counted();
        }
    }

    fn tell_counted(&self) {
        let now = self.began.elapsed();
        let due = self.state().notices.due(now);
        for Summary {
            origin,
            what,
            repeats,
        } in due
        {
            let from = origin.map_or_else(|| "other addresses".to_owned(), |o| o.to_string());
            let (name, Notice { level, what }) = (self.name, what);
            match level {
                Level::Warn => tracing::warn!(from, "{name}: {what}; {repeats} more in the last minute"),
                Level::Info | Level::Debug => {
                    tracing::info!(from, "{name}: {what}; {repeats} more in the last minute");
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn colon(detail: &str) -> &'static str {
    if detail.is_empty() { "" } else { ": " }
}

/// A connection's place. Dropping it gives the place back.
#[derive(Debug)]
pub struct Place {
    door: Arc<Door>,
    id: u64,
    from: SocketAddr,
    gone: CancellationToken,
    _slot: Slot,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.door.state();
        state.tokens.remove(&self.id);
        state.table.leave(self.id);
    }
}

impl Place {
    /// Where the connection comes from.
    #[must_use]
    pub fn from(&self) -> SocketAddr {
        self.from
    }

    /// The connection has come as far as this. Without a place there it has to end.
    pub fn advance(&self, stage: Stage) -> Result<(), NoPlace> {
        let mut state = self.door.state();
        let moved = state.table.advance(self.id, stage);
        self.settle(state, moved, DISPLACED)
    }

    /// It is known whose the connection is: from now on no unidentified caller takes its place. Without a place it has to end.
    pub fn known(&self, name: &str) -> Result<(), NoPlace> {
        let mut state = self.door.state();
        let moved = state.table.known(self.id, name);
        self.settle(state, moved, OUTNUMBERED)
    }

    fn settle(
        &self,
        state: MutexGuard<'_, State>,
        moved: Result<Option<u64>, NoPlace>,
        why: Notice,
    ) -> Result<(), NoPlace> {
        match moved {
            Ok(lost) => {
                self.door.end(state, lost, why);
                Ok(())
            }
            Err(none) => {
                drop(state);
                self.note(FULL, "");
                Err(none)
            }
        }
    }

    /// Whether the caller is known.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.door.state().table.is_known(self.id)
    }

    /// Whether the connection is held.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.door.state().table.is_held(self.id)
    }

    /// Keeps the place until the answer is dropped. The caller of this function bounds how many unidentified callers hold one at
    /// once, below what a room has for one address.
    pub fn hold(self: &Arc<Self>) -> Held {
        self.door.state().table.hold(self.id);
        Held(self.clone())
    }

    /// Returns when the caller is not known after this time; otherwise never.
    pub async fn overdue(&self, patience: Duration) {
        tokio::time::sleep(patience).await;
        if self.is_known() {
            std::future::pending::<()>().await;
        }
    }

    /// [`Door::note`] for the address of this connection.
    pub fn note(&self, notice: Notice, detail: &str) {
        self.door.note(notice, self.from, detail);
    }
}

/// A place that is not lost while this is kept.
#[derive(Debug)]
#[must_use]
pub struct Held(Arc<Place>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.door.state().table.loosen(self.0.id);
    }
}
