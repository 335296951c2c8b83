//! What every test over the simulated world needs, in one place: a runtime in virtual time for each seed, hosts and actions by
//! name, the usual beginnings, what can be read off a host, and the play in which every step fails once. The tests of the
//! engine, of REST and of the management API use it.
//!
//! It judges nothing of its own: what is right is for the test to say, and for the world's own record ([`World::check`]). Where a
//! test would fail, these functions panic.

mod actions;
mod beginnings;
mod look;
mod play;
mod steps;

pub use actions::{
    cancel_planned, commit, enable, entry, extend, failover, pause_vm, planned, prepare, remove,
    reset_statistics, reset_vm, resume, resync, reverse, revert, start_copy, start_test, start_vm, stop_test,
    stop_vm, suspend,
};
pub use beginnings::{
    agreed, chain, completed, eventually, four_eyes, healthy, history, insist_until, job, replicating,
    taken_over,
};
pub use look::{
    difference, durable, events, extended, flows, follows, gets_all, hints_at, local_disks, mode, moved,
    phase, points, refused, refused_with_hint, replication, said, sealed, server, state, texts, truth,
};
pub use play::{Wrong, play};
pub use steps::Steps;

pub use crate::hosts::{A, B, C, D, FOUR_HOSTS, PRIMARY, REPLICA, THIRD, THREE_HOSTS, TWO_HOSTS};
use crate::rng::Rng;
use crate::world::{SYS_BYTES, World};

/// Bytes of the VM's first disk where its size does not matter: it is copied in no time.
pub const SMALL_BYTES: u64 = 24 << 20;

/// Runs a scenario in a world of its own, of two hosts, with a first disk that takes two segments of the initial copy.
pub fn simulate<T>(seed: u64, scenario: impl AsyncFnOnce(&mut World) -> T) -> T {
    simulate_with(seed, TWO_HOSTS, SYS_BYTES, scenario)
}

/// Runs a scenario in a world of its own, of these hosts, with a small first disk.
pub fn simulate_small<T>(seed: u64, hosts: &[&str], scenario: impl AsyncFnOnce(&mut World) -> T) -> T {
    simulate_with(seed, hosts, SMALL_BYTES, scenario)
}

/// Runs a scenario in a world of its own, of three hosts, with a small first disk.
pub fn simulate_three<T>(seed: u64, scenario: impl AsyncFnOnce(&mut World) -> T) -> T {
    simulate_small(seed, THREE_HOSTS, scenario)
}

/// Runs a scenario in a world of its own, of these hosts (at most four), with a first disk of so many bytes.
pub fn simulate_with<T>(
    seed: u64,
    hosts: &[&str],
    bytes: u64,
    scenario: impl AsyncFnOnce(&mut World) -> T,
) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime with nothing but time can be made");
    runtime.block_on(async {
        let mut world = World::with(seed, hosts, bytes).await;
        scenario(&mut world).await
    })
}

/// The seed to replay (`LIFEBOAT_SEED`), if one was asked for.
#[must_use]
pub fn asked() -> Option<u64> {
    std::env::var("LIFEBOAT_SEED").ok()?.parse().ok()
}

/// How far a clock is off, in milliseconds, as it was seen in the field; often not at all.
pub fn clock_step(rng: &mut Rng) -> i64 {
    const HOUR: i64 = 3_600_000;
    match rng.below(8) {
        0 => -HOUR,
        1 => HOUR,
        2 => 24 * HOUR,
        3 => 960 * HOUR,
        4 => -960 * HOUR,
        _ => 0,
    }
}

/// Kilobytes of memory that this process has, and has had at most.
#[must_use]
pub fn memory_kb() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux shows a process its own status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let number = number.and_then(|number| number.parse().ok());
        number.unwrap_or_else(|| panic!("{name} is not in kB:\n{status}"))
    };
    (field("VmRSS:"), field("VmHWM:"))
}
