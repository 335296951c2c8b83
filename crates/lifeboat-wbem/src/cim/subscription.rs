//! One subscription: what its query selects, and the indications that wait for its subscriber in a queue of bounded length.
//! What has changed, and which other subscriptions there are, is not known here.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lifeboat_cim::Instance;
use lifeboat_cim::wql::Select;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::warn;

use super::Caller;
use super::watched::{EventQuery, Family, Kind};

/// Most indications that wait for a subscriber; a further one replaces the oldest, which is lost.
pub const QUEUE: usize = 256;
/// Most subscriptions that one user may have at once.
pub const PER_USER: usize = 16;
/// Most subscriptions at once, of all users.
pub const IN_ALL: usize = 64;

/// A query for events and what its subscriber has not confirmed yet.
pub struct Subscription {
    /// By which clients and the log name it.
    pub id: String,
    /// Name of the user who made it.
    pub owner: String,
    pub(super) select: Select,
    pub(super) family: Family,
    pub(super) kinds: &'static [Kind],
    pub(super) classes: Vec<&'static str>,
    queue: Mutex<Waiting>,
    arrived: Notify,
    ends: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Waiting {
    indications: VecDeque<Indication>,
    sequence: u64,
    lost: u64,
    closed: bool,
}

/// A change, as its subscriber's query wants to see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Indication {
    /// The event with the instance embedded; the same for all subscribers of one family.
    pub instance: Arc<Instance>,
    /// Counts up from 0 within a subscription; a gap says how many were lost.
    pub sequence: u64,
}

impl Subscription {
    /// A subscription without indications. It ends `expires` from now, or, for `None`, when it is closed.
    pub(super) fn new(caller: &Caller, query: EventQuery, expires: Option<Duration>) -> Self {
        Self {
            id: uuid::Uuid::new_v4().to_string(),
            owner: caller.name.clone(),
            select: query.select,
            family: query.family,
            kinds: query.kinds,
            classes: query.classes,
            queue: Mutex::default(),
            arrived: Notify::new(),
            ends: Mutex::new(expires.and_then(|e| Instant::now().checked_add(e))),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest indications, at most this many. They stay until they are confirmed. Waits for the first until `until`;
    /// an empty answer means that there was none, `None` that the subscription has ended.
    pub async fn next(&self, most: usize, until: Instant) -> Option<Vec<Indication>> {
        loop {
            let arrived = self.arrived.notified();
            if self.is_over() {
                return None;
            }
            {
                let waiting = self.waiting();
                if !waiting.indications.is_empty() {
                    return Some(waiting.indications.iter().take(most).cloned().collect());
                }
            }
            let end = self.ends().unwrap_or(until).min(until);
            let late = tokio::time::timeout_at(end, arrived).await.is_err();
            if late && Instant::now() >= until {
                return (!self.is_over()).then(Vec::new);
            }
        }
    }

    /// What its query selects and shows.
    #[must_use]
    pub fn select(&self) -> &Select {
        &self.select
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.waiting().closed || self.ends().is_some_and(|e| e <= Instant::now())
    }

    /// How long it has yet to go; `None`: until it is ended.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        Some(self.ends()?.saturating_duration_since(Instant::now()))
    }

    /// From now on it ends then.
    pub fn set_end(&self, at: Instant) {
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    fn ends(&self) -> Option<Instant> {
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything up to this one is given up: it could not be delivered.
    pub fn give_up(&self, sequence: u64) {
        let before = self.waiting().indications.len();
        self.confirm(sequence);
        let mut waiting = self.waiting();
        let lost = before.saturating_sub(waiting.indications.len());
        waiting.lost += u64::try_from(lost).unwrap_or(u64::MAX);
    }

    /// Everything up to this one has reached the subscriber.
    pub fn confirm(&self, sequence: u64) {
        let mut waiting = self.waiting();
        while waiting
            .indications
            .front()
            .is_some_and(|i| i.sequence <= sequence)
        {
            waiting.indications.pop_front();
        }
    }

    /// How many were thrown away because the subscriber was too slow or could not be reached.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.waiting().lost
    }

    /// Adds an indication to the queue.
    pub(super) fn put(&self, instance: Arc<Instance>) {
        let mut waiting = self.waiting();
        let sequence = waiting.sequence;
        waiting.sequence += 1;
        if waiting.indications.len() == QUEUE {
            waiting.indications.pop_front();
            waiting.lost += 1;
            if waiting.lost == 1 {
                warn!(
                    subscription = self.id,
                    owner = self.owner,
                    "a subscriber is too slow; it loses indications"
                );
            }
        }
        waiting.indications.push_back(Indication { instance, sequence });
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Ends the subscription, and every [`Subscription::next`] that waits.
    pub(super) fn close(&self) {
        self.waiting().closed = true;
        self.arrived.notify_waiters();
        self.arrived.notify_one();
    }
}
