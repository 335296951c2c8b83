//! Enumerations that a client has begun and pulls at its own pace, for both protocols. Their number is bounded, for each user and
//! in all, and so is their time: one that was not pulled from for a minute, or for the time that its client asked for, is
//! dropped. Only its cursor is held, and what did not fit into the last answer. How items are written is not known here.

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

/// How long an enumeration waits for its next pull when its client does not say.
pub(crate) const IDLE: Duration = Duration::from_secs(60);
/// Time between two looks for enumerations that have waited too long.
const SWEEP: Duration = Duration::from_secs(15);
/// Most enumerations that one user may have open.
pub(crate) const PER_USER: usize = 1500;
/// Most enumerations that may be open, of all users.
pub(crate) const IN_ALL: usize = 5000;

/// How long a batch waits for its turn; then it is made without one: batches that keep their turns, because an engine or an
/// actor does not answer, must not hold up the others.
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
    /// Only instances of this class itself, not of classes derived from it; `None`: all.
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
    /// The items as they are written, in their order.
    pub(crate) items: Vec<String>,
    /// Whether the enumeration ends with them.
    pub(crate) last: bool,
}

/// Why there is no batch.
#[derive(Debug)]
pub(crate) enum BatchError {
    /// An error of the object manager.
    Cim(CimError),
    /// The next item alone is larger than an answer may be. It is not taken from the enumeration.
    TooLarge,
    /// The batch was not ready in time. No item is lost.
    TimedOut,
}

/// How much to put into an answer.
#[derive(Clone, Copy)]
pub(crate) struct Measure {
    /// Most items.
    pub(crate) items: usize,
    /// Most octets, of all items together.
    pub(crate) octets: usize,
    /// When the batch must be ready.
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
    /// An enumeration that is not in the table.
    pub(crate) fn new(form: E, walk: Walk) -> Self {
        Self {
            form: Arc::new(form),
            idle: IDLE,
            walk: Arc::new(tokio::sync::Mutex::new(walk)),
        }
    }

    /// The same, which waits so long for its next pull.
    pub(crate) fn waiting(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// Takes the next items. The work goes on when its caller has stopped waiting, so that neither a time limit nor a client that
    /// hangs up can lose an item between the cursor and an answer.
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

/// All enumerations that are open.
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

    /// The caller's enumeration of this context, whose time to wait begins again. `None` for one of another user or protocol.
    pub(crate) fn find<E: Encode>(&self, caller: &Caller, context: &str) -> Option<Arc<Enumeration<E>>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let own = |o: &&mut Open| o.owner == caller.name && o.waits(now);
        let found = open.get_mut(context.trim()).filter(own)?;
        found.used = now;
        found.enumeration.clone().downcast().ok()
    }

    /// Ends the caller's enumeration of this context; false when there is none.
    pub(crate) fn remove(&self, caller: &Caller, context: &str) -> bool {
        let context = context.trim();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.get(context).is_some_and(|o| o.owner == caller.name);
        own && open.remove(context).is_some()
    }

    /// Drops enumerations that have waited too long. Never returns.
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
