//! Every call of every port passes here: it takes a little seeded time, is counted, and the n-th of a host may fail or
//! end the daemon, before or after its effect.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lifeboat_engine::ports::capture::CaptureError;
use lifeboat_engine::ports::catalog::CatalogError;
use lifeboat_engine::ports::hypervisor::HypervisorError;
use lifeboat_engine::ports::link::LinkError;
use lifeboat_engine::ports::media::MediaError;
use lifeboat_engine::ports::spool::SpoolError;
use lifeboat_engine::ports::store::StoreError;

use crate::state::{Shared, State};

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

    fn pass(&self, name: &'static str) -> Option<Fault> {
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

/// All ports of one host.
#[derive(Clone)]
pub struct Port {
    /// The world.
    pub shared: Arc<Shared>,
    /// Which host.
    pub host: usize,
}

impl Port {
    /// Lets a call begin: time passes, and its fate is decided.
    pub(crate) async fn enter(&self, name: &'static str) -> Option<Fault> {
        let fault = self.shared.gates.get(self.host).and_then(|g| g.pass(name));
        let now = self.shared.now().0 % 1_000_000_000;
        let wait = {
            let mut s = self.shared.state();
            if fault.is_some() {
                s.trouble_at = self.shared.now().0;
            }
            s.note(match fault {
                None => format!("{now} {} {name}", self.host),
                Some(f) => format!("{now} {} {name} {f:?}", self.host),
            });
            let delay = s.delay_ms + 1;
            s.rng.below(delay)
        };
        if wait == 0 {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        self.while_still(name).await;
        if fault == Some(Fault::CrashBefore) {
            self.die().await;
        }
        if self.shared.state().hangs.contains(&(self.host, name)) {
            std::future::pending::<()>().await;
        }
        fault
    }

    /// Waits while this host's daemon is frozen, or while the disk of its replicas does not answer.
    async fn while_still(&self, name: &'static str) {
        loop {
            {
                let mut s = self.shared.state();
                let host = &mut s.hosts[self.host];
                let hangs = host.store_hangs && name.starts_with("store.");
                if !hangs && !host.frozen {
                    return;
                }
                // A look waits for a lock only, and not for the disk itself.
                if hangs && name != "store.info" {
                    host.stuck_since.get_or_insert_with(tokio::time::Instant::now);
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The daemon ends here: the caller never goes on.
    pub(crate) async fn die(&self) {
        self.shared
            .crashing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(self.host);
        self.shared.crash.notify_one();
        std::future::pending::<()>().await;
    }

    /// A call whose effect is one step on the state.
    pub(crate) async fn run<R: Send, E: Injected + Send>(
        &self,
        name: &'static str,
        effect: impl FnOnce(&mut State, usize) -> Result<R, E> + Send,
    ) -> Result<R, E> {
        let fault = self.enter(name).await;
        if fault == Some(Fault::Fail) {
            return Err(E::injected(name));
        }
        let result = effect(&mut self.shared.state(), self.host);
        match fault {
            Some(Fault::FailAfter) => Err(E::injected(name)),
            Some(Fault::CrashAfter) => {
                self.die().await;
                result
            }
            Some(Fault::Fail | Fault::CrashBefore) | None => result,
        }
    }
}
