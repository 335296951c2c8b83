//! Stories, steps and random histories of the engine over the simulated ports. One program for all: each would be linked
//! with the whole engine of its own.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

/// A test for each saga of a module, which has an enum `Saga` and a function `every_step` that plays one of them.
macro_rules! sagas {
    ($($name:ident $saga:ident),+ $(,)?) => { $(#[test] fn $name() { every_step(Saga::$saga); })+ };
}

mod addresses;
mod authorization;
mod backlog;
mod busy;
mod callers;
mod certificates;
mod consent;
mod extended;
mod foreign;
mod four_eyes;

mod guests;
mod hold;
mod keys;
mod lies;
mod lists;
mod machines;
mod media;
mod model;
mod order;
mod orphans;
mod pending;
mod planned;
mod power;
mod presence;
mod queries;
mod question;
mod random;
mod references;
mod refused;
mod resumed;
mod resync;
mod reverse;
mod schedule;
mod scrub;
mod settings;
mod several;
mod silence;
mod statistics;
mod steps;
mod storage;
mod stores;
mod story;
mod tell;
mod test_vm;
mod testing;
mod third;
mod twins;
mod watch;
mod whole_machine;
