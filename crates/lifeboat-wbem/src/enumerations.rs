//! Enumerations that a client has begun and pulls at its own pace, for both protocols. Bounded in number for each user and in
//! all, and in time: what nobody has pulled from for a minute (or what the client
//! has asked for) is gone. Nothing of an enumeration is held but its cursor and
//! what did not fit into the last answer.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::num::NonZero;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use lifeboat_cim::{CimError, Status};
use tokio::sync::{OwnedMutexGuard, Semaphore};
use tokio::time::Instant;

use crate::cim::{Caller, Cursor, Found};

/// How long an enumeration waits for its next pull.
pub(crate) const IDLE: Duration = Duration::from_secs(60);
/// How often those that have waited too long are looked for.
const SWEEP: Duration = Duration::from_secs(15);
/// Most that one user may have open.
pub(crate) const PER_USER: usize = 1500;
/// Most that there may be.
pub(crate) const IN_ALL: usize = 5000;

/// How long a batch waits for its turn. A turn is a courtesy: one that waits for an engine that does not answer must not hold
/// up those that have nothing to do with it.
const TURN: Duration = Duration::from_secs(2);
/// Turns to make a batch, one for each processor. More at once would end no sooner, would all be held in memory half made,
/// and every short request would wait behind each of them.
static TURNS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(1, NonZero::get)));

/// How the items of an enumeration look; each protocol has its own.
pub(crate) trait Encode: Send + Sync + 'static {
    /// An item as it is written.
    fn encode(&self, found: &Found) -> Result<String, CimError>;
}

/// The rest of an enumeration.
pub(crate) struct Walk {
    cursor: Cursor,
    /// Taken from the cursor and not yet handed out.
    ready: VecDeque<Found>,
    ended: bool,
    /// Only instances of this very class, not of those derived from it.
    exactly: Option<String>,
}

impl Walk {
    pub(crate) fn new(cursor: Cursor, exactly: Option<String>) -> Self {
        Self {
            cursor,
            ready: VecDeque::new(),
            ended: false,
            exactly,
        }
    }

    fn wants(&self, found: &Found) -> bool {
        let class = self.exactly.as_ref();
        class.is_none_or(|c| c.eq_ignore_ascii_case(&found.instance.class))
    }

    /// The instance at this place from the front, which stays.
    async fn peek(&mut self, place: usize) -> Result<Option<&Found>, CimError> {
        while self.ready.len() <= place && !self.ended {
            match self.cursor.next().await? {
                Some(found) if self.wants(&found) => self.ready.push_back(found),
                Some(_) => {}
                None => self.ended = true,
            }
        }
        Ok(self.ready.get(place))
    }

    /// The next instance.
    pub(crate) async fn take(&mut self) -> Result<Option<Found>, CimError> {
        self.peek(0).await?;
        Ok(self.ready.pop_front())
    }
}

/// Items for one answer.
pub(crate) struct Batch {
    /// Encoded.
    pub(crate) items: Vec<String>,
    /// Nothing comes after them.
    pub(crate) last: bool,
}

/// Why there is no batch.
#[derive(Debug)]
pub(crate) enum BatchError {
    /// The object manager's.
    Cim(CimError),
    /// The next item alone is larger than an answer may be. It stays where it is.
    TooLarge,
    /// The time was over first. Nothing is lost.
    TimedOut,
}

/// How much to put into an answer.
#[derive(Clone, Copy)]
pub(crate) struct Measure {
    /// Items.
    pub(crate) items: usize,
    /// Octets of all items.
    pub(crate) octets: usize,
    /// Time until which it must be there.
    pub(crate) until: Instant,
}

/// An enumeration.
pub(crate) struct Enumeration<E> {
    /// How its items look.
    pub(crate) form: Arc<E>,
    /// How long it waits for its next pull.
    idle: Duration,
    walk: Arc<tokio::sync::Mutex<Walk>>,
}

impl<E: Encode> Enumeration<E> {
    /// One that is not in the table (yet).
    pub(crate) fn new(form: E, walk: Walk) -> Self {
        Self {
            form: Arc::new(form),
            idle: IDLE,
            walk: Arc::new(tokio::sync::Mutex::new(walk)),
        }
    }

    /// The same waiting so long for its next pull.
    pub(crate) fn waiting(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// Takes the next items. The work goes on when nobody waits for it any more, so that neither a time limit nor a client
    /// that hangs up can lose an item between the cursor and an answer.
    pub(crate) async fn batch(&self, measure: Measure) -> Result<Batch, BatchError> {
        let (walk, form) = (self.walk.clone(), self.form.clone());
        let work = tokio::spawn(async move {
            let mut walk = walk.lock_owned().await;
            let _turn = tokio::time::timeout(TURN, TURNS.acquire()).await;
            let gathered = gather(&mut walk, measure, &*form).await;
            (walk, gathered)
        });
        let Ok(done) = tokio::time::timeout_at(measure.until, work).await else {
            return Err(BatchError::TimedOut);
        };
        let failed = |e| {
            BatchError::Cim(CimError::new(
                Status::Failed,
                format!("the enumeration broke off: {e}"),
            ))
        };
        let (mut walk, gathered): (OwnedMutexGuard<Walk>, _) = done.map_err(failed)?;
        let batch = gathered?;
        walk.ready.drain(..batch.items.len());
        Ok(batch)
    }
}

async fn gather(walk: &mut Walk, measure: Measure, form: &impl Encode) -> Result<Batch, BatchError> {
    let (mut items, mut octets) = (Vec::new(), 0);
    while items.len() < measure.items {
        let Some(found) = walk.peek(items.len()).await.map_err(BatchError::Cim)? else {
            break;
        };
        let item = form.encode(found).map_err(BatchError::Cim)?;
        if octets + item.len() > measure.octets {
            if items.is_empty() {
                return Err(BatchError::TooLarge);
            }
            return Ok(Batch { items, last: false });
        }
        octets += item.len();
        items.push(item);
    }
    let after = walk.peek(items.len()).await.map_err(BatchError::Cim)?;
    let last = after.is_none();
    Ok(Batch { items, last })
}

struct Open {
    owner: String,
    used: Instant,
    /// How long it waits for its next pull.
    idle: Duration,
    /// An [`Enumeration`] in the form of the protocol that it was begun by.
    enumeration: Arc<dyn Any + Send + Sync>,
}

impl Open {
    fn waits(&self, now: Instant) -> bool {
        now < self.used + self.idle
    }
}

/// All that are open.
pub(crate) struct Enumerations {
    open: Mutex<HashMap<String, Open>>,
}

impl Enumerations {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            open: Mutex::default(),
        })
    }

    /// Keeps one; returns the context by which it is known from now on.
    pub(crate) fn insert<E: Encode>(
        &self,
        caller: &Caller,
        enumeration: Enumeration<E>,
    ) -> Result<String, CimError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        open.retain(|_, o| o.waits(now));
        let limit = |what: String| CimError::new(Status::ServerLimitsExceeded, what);
        if open.len() >= IN_ALL {
            return Err(limit(format!(
                "{IN_ALL} enumerations are open; try again in a minute"
            )));
        }
        if open.values().filter(|o| o.owner == caller.name).count() >= PER_USER {
            return Err(limit(format!(
                "{PER_USER} enumerations of this user are open; pull them to their end, or release them"
            )));
        }
        let context = uuid::Uuid::new_v4().to_string();
        let entry = Open {
            owner: caller.name.clone(),
            used: now,
            idle: enumeration.idle,
            enumeration: Arc::new(enumeration),
        };
        open.insert(context.clone(), entry);
        Ok(context)
    }

    /// The caller's enumeration of this name, whose wait begins anew. One of another protocol is none.
    pub(crate) fn find<E: Encode>(&self, caller: &Caller, context: &str) -> Option<Arc<Enumeration<E>>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let own = |o: &&mut Open| o.owner == caller.name && o.waits(now);
        let found = open.get_mut(context.trim()).filter(own)?;
        found.used = now;
        found.enumeration.clone().downcast().ok()
    }

    /// Ends it; whether there was one.
    pub(crate) fn remove(&self, caller: &Caller, context: &str) -> bool {
        let context = context.trim();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.get(context).is_some_and(|o| o.owner == caller.name);
        own && open.remove(context).is_some()
    }

    /// Drops what has waited too long, for ever.
    pub(crate) async fn expire(&self) -> Infallible {
        loop {
            tokio::time::sleep(SWEEP).await;
            let now = Instant::now();
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.retain(|_, o| o.waits(now));
        }
    }
}

#[cfg(test)]
mod tests;
