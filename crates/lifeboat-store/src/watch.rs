//! Which operations on a replica's files are under way, and since when they have made no progress: a disk that hangs fails
//! nothing and ends nothing, so that only the time shows it. It measures; what it means is the engine's.
//!
//! Each operation runs on a thread of its own. It says [`beat`] whenever it got a step further, and [`rest`] when it waits
//! for something that is not the disk: the network, or another program.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// Since when an operation waits for the disk; `None` while it waits for something else.
type Since = Arc<Mutex<Option<Instant>>>;

thread_local! {
    /// The operation that this thread carries out.
    static CURRENT: RefCell<Option<Since>> = const { RefCell::new(None) };
}

/// Operations under way on one replica.
#[derive(Default)]
pub(crate) struct Watch(Mutex<Vec<Since>>);

/// An operation under way, until it is dropped.
pub(crate) struct Watched<'a> {
    watch: &'a Watch,
    since: Since,
}

fn set(since: &Since, to: Option<Instant>) {
    *since.lock().unwrap_or_else(PoisonError::into_inner) = to;
}

fn current(f: impl FnOnce(&Since)) {
    CURRENT.with_borrow(|c| {
        if let Some(since) = c {
            f(since);
        }
    });
}

impl Watch {
    /// This thread begins an operation.
    pub(crate) fn begin(&self) -> Watched<'_> {
        let since: Since = Arc::new(Mutex::new(Some(Instant::now())));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Arc::clone(&since));
        CURRENT.with_borrow_mut(|c| *c = Some(Arc::clone(&since)));
        Watched { watch: self, since }
    }

    /// Since when the one that waits longest for the disk has waited.
    pub(crate) fn longest(&self) -> Option<Instant> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let each = all.iter();
        each.filter_map(|s| *s.lock().unwrap_or_else(PoisonError::into_inner))
            .min()
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        CURRENT.with_borrow_mut(|c| *c = None);
        let mut all = self.watch.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|s| !Arc::ptr_eq(s, &self.since));
    }
}

/// The operation of this thread got a step further.
pub(crate) fn beat() {
    current(|since| set(since, Some(Instant::now())));
}

/// The operation of this thread waits for something that is not the disk, until the next [`beat`].
pub(crate) fn rest() {
    current(|since| set(since, None));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_waits_for_the_disk_counts() {
        let watch = Watch::default();
        beat();
        assert_eq!(watch.longest(), None, "no operation is under way");
        let operation = watch.begin();
        let began = watch.longest();
        assert!(began.is_some());
        beat();
        assert!(watch.longest() >= began);
        rest();
        assert_eq!(watch.longest(), None, "it waits for the network");
        std::thread::scope(|s| {
            s.spawn(|| {
                let other = watch.begin();
                assert!(watch.longest().is_some(), "another one waits for the disk");
                drop(other);
            });
        });
        beat();
        assert!(watch.longest().is_some());
        drop(operation);
        assert_eq!(watch.longest(), None);
    }
}
