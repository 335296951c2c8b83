//! Changes as they are told: of VMs, relationships, jobs and events, in one order and with numbers, and the watch by which a surface
//! hears of them. When something has changed is not known here, and nothing is kept for those who did not watch: a watch begins with
//! what changes from now on, and what is there by then is asked for.

use super::views::{EventView, JobView};
use lifeboat_model::{JobId, Timestamp, VmId};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{self, Receiver, Sender};
use uuid::Uuid;

/// How many changes a watch may be behind; one that is further behind has missed some.
pub const BEHIND: usize = 1024;

/// A change. A caller who hears of it and asks then sees what it tells of, or something newer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// One more than that of the change before it in this feed.
    pub sequence: u64,
    /// When it was told, by this host's wall clock.
    pub at: Timestamp,
    /// What has changed.
    pub what: What,
}

/// What has changed. Of a VM and of a relationship it is told which one it is and not how it looks: that is asked for, by those who
/// want it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A VM: what is shown of it, without its replication.
    Vm {
        /// Which one.
        vm: VmId,
        /// What became of it.
        turn: Turn,
    },
    /// The replication of a VM, as this side shows it. Counters, ages and amounts that grow by themselves are no change.
    Relationship {
        /// Of which VM.
        vm: VmId,
        /// What became of it.
        turn: Turn,
    },
    /// A job that was made or has changed, as it is now.
    Job(Box<JobView>),
    /// A job that ended long ago is not listed any more.
    JobRemoved {
        /// Which one.
        job: JobId,
        /// The VM it was about.
        vm: VmId,
    },
    /// An event that was recorded. They are told in the order in which they are listed.
    Event(Box<EventView>),
}

/// What became of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It was not there before.
    Made,
    /// It is shown in another way than before.
    Changed,
    /// It is not there any more.
    Removed,
}

/// Why a watch has no next change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTold {
    /// Something may have changed that this watch is not told of: it was too slow, or what came of a change is not known. What is
    /// there has to be asked for again; the watch goes on.
    #[error("changes were missed")]
    Missed,
    /// The engine has ended.
    #[error("the engine has ended")]
    Ended,
}

/// What is sent to those who watch.
#[derive(Clone, Debug)]
enum Told {
    Change(Change),
    /// In place of a change of which it is not known whether it took place; it has a number.
    Hole,
}

/// Where changes are told. A watch that is slow costs the others nothing: a watch that is too far behind misses changes.
#[derive(Debug)]
pub struct Feed(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Names the feed; made when it is watched first.
    id: Option<Uuid>,
    next: u64,
    /// `None` once it has ended.
    sender: Option<Sender<Told>>,
}

impl State {
    /// The way to those who watch; `None` while there are none.
    fn watchers(&self) -> Option<&Sender<Told>> {
        self.sender.as_ref().filter(|s| s.receiver_count() > 0)
    }

    fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }
}

impl Default for Feed {
    fn default() -> Self {
        Self(Mutex::new(State {
            id: None,
            next: 1,
            sender: Some(broadcast::channel(BEHIND).0),
        }))
    }
}

impl Feed {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches from now on. `name` makes the feed's id, if it has none.
    pub fn watch(&self, name: impl FnOnce() -> Uuid) -> Watch {
        let mut state = self.state();
        if state.id.is_some() && state.watchers().is_none() {
            // What changed while there was no watch has no number. The missing one says that there may have been something.
            state.next += 1;
        }
        Watch {
            feed: *state.id.get_or_insert_with(name),
            begins: state.next,
            // A receiver whose sender is gone hears that the feed has ended.
            receiver: match &state.sender {
                Some(sender) => sender.subscribe(),
                None => broadcast::channel(1).1,
            },
        }
    }

    /// Whether there is a watch.
    pub fn is_watched(&self) -> bool {
        self.state().watchers().is_some()
    }

    /// Tells of a change, which is made only when there is a watch; whether there is one.
    pub fn tell(&self, at: Timestamp, what: impl FnOnce() -> What) -> bool {
        let mut state = self.state();
        if state.watchers().is_none() {
            return false;
        }
        let sequence = state.number();
        let what = what();
        let told = Told::Change(Change { sequence, at, what });
        state.watchers().is_some_and(|w| w.send(told).is_ok())
    }

    /// Tells every watch that there may have been a change which is not told.
    pub fn lose(&self) {
        let mut state = self.state();
        if state.watchers().is_some() {
            state.number();
            // Who went away meanwhile has nothing to be told.
            let _ = state.watchers().map(|w| w.send(Told::Hole));
        }
    }

    /// Ends it: who watches hears what was told before, and then the end.
    pub fn end(&self) {
        self.state().sender = None;
    }
}

/// Changes from some moment on, in order.
#[derive(Debug)]
pub struct Watch {
    feed: Uuid,
    begins: u64,
    receiver: Receiver<Told>,
}

impl Watch {
    /// Which feed it is of. Every start of the daemon has another one, whose numbers say nothing of those before.
    #[must_use]
    pub fn feed(&self) -> Uuid {
        self.feed
    }

    /// The number of the first change that it is told, unless it misses it. Who has watched this feed before up to the number
    /// before, has missed nothing in between.
    #[must_use]
    pub fn begins(&self) -> u64 {
        self.begins
    }

    /// The next change; waits for it. May be dropped at any moment.
    ///
    /// # Errors
    /// [`NotTold`]: changes were missed and it goes on, or there are no more.
    pub async fn next(&mut self) -> Result<Change, NotTold> {
        match self.receiver.recv().await {
            Ok(Told::Change(change)) => Ok(change),
            Ok(Told::Hole) | Err(RecvError::Lagged(_)) => Err(NotTold::Missed),
            Err(RecvError::Closed) => Err(NotTold::Ended),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(number: u128) -> What {
        What::Vm {
            vm: VmId(Uuid::from_u128(number)),
            turn: Turn::Changed,
        }
    }

    fn watch(feed: &Feed) -> Watch {
        feed.watch(|| Uuid::from_u128(7))
    }

    #[tokio::test]
    async fn nothing_is_made_while_there_is_no_watch() {
        let feed = Feed::default();
        assert!(!feed.tell(Timestamp(1), || panic!("there is no watch")));
        let mut one = watch(&feed);
        assert!(feed.tell(Timestamp(2), || vm(2)));
        let told = one.next().await.unwrap();
        assert_eq!((told.sequence, told.at, told.what), (1, Timestamp(2), vm(2)));
        drop(one);
        assert!(!feed.is_watched());
        assert!(!feed.tell(Timestamp(3), || panic!("there is no watch")));
    }

    #[tokio::test]
    async fn a_watch_that_begins_where_another_ended_knows_whether_it_missed_something() {
        let feed = Feed::default();
        let first = watch(&feed);
        let mut second = watch(&feed);
        assert_eq!((first.begins(), second.begins()), (1, 1));
        drop(first);
        feed.tell(Timestamp(1), || vm(1));
        let last = second.next().await.unwrap().sequence;
        let third = watch(&feed);
        assert_eq!(third.begins(), last + 1, "there was a watch all the time");
        assert_eq!(third.feed(), second.feed());
        drop((second, third));
        feed.tell(Timestamp(2), || vm(2));
        assert!(watch(&feed).begins() > last + 1, "there was none for a while");
    }

    #[tokio::test]
    async fn who_is_too_slow_hears_that_it_missed_something_and_goes_on() {
        let feed = Feed::default();
        let (mut slow, mut quick) = (watch(&feed), watch(&feed));
        for n in 1..=BEHIND as u64 + 5 {
            feed.tell(Timestamp(n), || vm(u128::from(n)));
            assert_eq!(quick.next().await.unwrap().sequence, n);
        }
        assert_eq!(slow.next().await, Err(NotTold::Missed));
        for n in 6..=BEHIND as u64 + 5 {
            assert_eq!(slow.next().await.unwrap().sequence, n);
        }
    }

    #[tokio::test]
    async fn a_change_of_unknown_end_is_missed_by_all() {
        let feed = Feed::default();
        let mut one = watch(&feed);
        feed.tell(Timestamp(1), || vm(1));
        feed.lose();
        feed.tell(Timestamp(2), || vm(2));
        assert_eq!(one.next().await.unwrap().sequence, 1);
        assert_eq!(one.next().await, Err(NotTold::Missed));
        assert_eq!(one.next().await.unwrap().sequence, 3);
    }

    #[tokio::test]
    async fn the_end_comes_after_everything_that_was_told() {
        let feed = Feed::default();
        let mut one = watch(&feed);
        feed.tell(Timestamp(1), || vm(1));
        feed.end();
        assert!(!feed.tell(Timestamp(2), || vm(2)));
        assert_eq!(one.next().await.unwrap().sequence, 1);
        assert_eq!(one.next().await, Err(NotTold::Ended));
        assert_eq!(watch(&feed).next().await, Err(NotTold::Ended));
    }
}
