//! Calls of a host are counted here, and the n-th may fail or end the daemon, before or after its effect. How a call is made
//! is `port`'s.

use std::sync::{Mutex, PoisonError};

use lifeboat_engine::ports::capture::CaptureError;
use lifeboat_engine::ports::catalog::CatalogError;
use lifeboat_engine::ports::hypervisor::HypervisorError;
use lifeboat_engine::ports::link::LinkError;
use lifeboat_engine::ports::media::MediaError;
use lifeboat_engine::ports::spool::SpoolError;
use lifeboat_engine::ports::store::StoreError;

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails and has no effect.
    Fail,
    /// It has its effect and says that it failed.
    FailAfter,
    /// The daemon dies before it.
    CrashBefore,
    /// The daemon dies after it.
    CrashAfter,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Fail, Self::FailAfter, Self::CrashBefore, Self::CrashAfter];
}

/// Counts the calls of one host.
#[derive(Debug, Default)]
pub struct Gate(Mutex<Plan>);

#[derive(Debug, Default)]
struct Plan {
    calls: u64,
    armed: Option<(u64, Fault)>,
    hit: Option<&'static str>,
}

impl Gate {
    fn plan<R>(&self, f: impl FnOnce(&mut Plan) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.plan(|p| p.calls)
    }

    /// The `n`-th call from now on (1: the next one) meets the fault.
    pub fn arm(&self, n: u64, fault: Fault) {
        self.plan(|p| (p.armed, p.hit) = (Some((p.calls + n, fault)), None));
    }

    /// No fault is waiting any more; the name of the call that met one.
    pub fn disarm(&self) -> Option<&'static str> {
        self.plan(|p| {
            p.armed = None;
            p.hit.take()
        })
    }

    /// One more call; what it meets.
    pub(crate) fn pass(&self, name: &'static str) -> Option<Fault> {
        self.plan(|p| {
            p.calls += 1;
            let (at, fault) = p.armed?;
            if at != p.calls {
                return None;
            }
            (p.armed, p.hit) = (None, Some(name));
            Some(fault)
        })
    }
}

/// An error that a port reports when a test makes it fail.
pub(crate) trait Injected {
    fn injected(name: &'static str) -> Self;
}

fn io(name: &str) -> (String, std::io::Error) {
    (
        format!("injected fault in {name}"),
        std::io::ErrorKind::Other.into(),
    )
}

impl Injected for CatalogError {
    fn injected(name: &'static str) -> Self {
        Self::Database(io(name).0)
    }
}
impl Injected for HypervisorError {
    fn injected(name: &'static str) -> Self {
        Self::Monitor(io(name).0)
    }
}
impl Injected for CaptureError {
    fn injected(name: &'static str) -> Self {
        Self::Block {
            what: io(name).0,
            detail: "injected".into(),
        }
    }
}
impl Injected for StoreError {
    fn injected(name: &'static str) -> Self {
        let (what, source) = io(name);
        Self::Io { what, source }
    }
}
impl Injected for MediaError {
    fn injected(name: &'static str) -> Self {
        Self::Io(io(name).0)
    }
}
impl Injected for SpoolError {
    fn injected(name: &'static str) -> Self {
        let (what, source) = io(name);
        Self::Io { what, source }
    }
}
impl Injected for LinkError {
    fn injected(name: &'static str) -> Self {
        Self::Unreachable {
            peer: "peer".into(),
            detail: io(name).0,
            late: false,
        }
    }
}
