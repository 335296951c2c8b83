//! Every step of a saga fails once, and the daemon dies before and after every step. A step is a call of a port; they are
//! counted when the saga is played without a fault, so that a new one is covered the day it is added.

use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};

use super::{SMALL_BYTES, TWO_HOSTS, play, simulate_with};
use crate::gate::Fault;
use crate::world::World;

/// The seed of these worlds; what differs between two plays of a saga is the fault alone.
const SEED: u64 = 3;
/// Failures that are printed.
const SHOWN: usize = 12;

/// A saga, and the worlds in which it is played.
pub struct Steps<'a> {
    /// Its name, for messages.
    pub saga: &'a dyn Debug,
    /// Names of the hosts of its worlds.
    pub hosts: &'a [&'a str],
    /// Bytes of the VM's first disk.
    pub bytes: u64,
    /// Numbers of the hosts whose steps fail, one step of one host in each play.
    pub failing: &'a [usize],
}

impl<'a> Steps<'a> {
    /// A saga in worlds of two hosts with a small first disk, in which the steps of both fail.
    #[must_use]
    pub fn of(saga: &'a dyn Debug) -> Self {
        Self {
            saga,
            hosts: TWO_HOSTS,
            bytes: SMALL_BYTES,
            failing: &[super::A, super::B],
        }
    }

    /// Plays the saga once for each fault of each of its steps.
    ///
    /// `prepare` brings the world to where the saga begins, and answers what the other two have to know of it. `run` asks for the
    /// saga as often as a person would have to, while the step fails. `whole` is called when the fault is over, and panics where
    /// something was lost or left behind.
    ///
    /// # Panics
    /// A play panicked.
    pub fn each_fails_once<P>(
        &self,
        prepare: impl AsyncFn(&mut World) -> P,
        run: impl AsyncFn(&mut World, &P),
        whole: impl AsyncFn(&mut World, P),
    ) {
        let mut failures = Vec::new();
        for &host in self.failing {
            let calls = simulate_with(SEED, self.hosts, self.bytes, async |w| {
                let prepared = prepare(w).await;
                let before = w.gate(host).calls();
                run(w, &prepared).await;
                w.run(4).await;
                w.gate(host).calls() - before
            });
            for n in 1..=calls {
                for fault in Fault::ALL {
                    let hit = Mutex::new(String::new());
                    let played = play(SEED, self.hosts, self.bytes, async |w| {
                        let prepared = prepare(w).await;
                        w.gate(host).arm(n, fault);
                        run(w, &prepared).await;
                        w.run(10).await;
                        let call = format!("{:?}", w.gate(host).disarm());
                        *hit.lock().unwrap_or_else(PoisonError::into_inner) = call;
                        whole(w, prepared).await;
                    });
                    if let Err(wrong) = played {
                        let hit = hit.into_inner().unwrap_or_else(PoisonError::into_inner);
                        let place = format!("{:?} host {host} step {n} {hit} {fault:?}", self.saga);
                        failures.push(format!("{place}: {}", wrong.why));
                    }
                }
            }
        }
        for failure in failures.iter().take(SHOWN) {
            println!("FAILED {failure}");
        }
        assert!(failures.is_empty(), "{} steps are not survived", failures.len());
    }
}
