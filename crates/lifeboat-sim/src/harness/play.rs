//! Plays of a history that may go wrong: the panic is caught, and what happened last is kept, so that the cause can be found.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use super::simulate_with;
use crate::state::Shared;
use crate::world::World;

/// How a play went wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What the panic said.
    pub why: String,
    /// The last things that happened in the world, oldest first.
    pub recent: Vec<String>,
}

/// Runs a history as [`simulate_with`] does, and catches its panic.
///
/// # Errors
/// The history panicked.
pub fn play<T>(
    seed: u64,
    hosts: &[&str],
    bytes: u64,
    history: impl AsyncFnOnce(&mut World) -> T,
) -> Result<T, Wrong> {
    let recent = Mutex::new(Vec::new());
    let played = catch_unwind(AssertUnwindSafe(|| {
        simulate_with(seed, hosts, bytes, async |w| {
            let keep = Keep(&recent, w.shared.clone());
            let done = history(w).await;
            drop(keep);
            done
        })
    }));
    played.map_err(|panic| Wrong {
        why: text_of(panic.as_ref()),
        recent: recent.into_inner().unwrap_or_else(PoisonError::into_inner),
    })
}

/// Keeps the end of the history when it goes wrong; the world is gone by the time the panic is caught.
struct Keep<'a>(&'a Mutex<Vec<String>>, Arc<Shared>);

impl Drop for Keep<'_> {
    fn drop(&mut self) {
        let lines = self.1.state().recent.clone();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = lines;
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
    text.unwrap_or_default()
}
