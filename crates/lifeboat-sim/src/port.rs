//! Every call of every port passes here: it takes a little seeded time, is counted, and may meet a fault (`gate`).

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::gate::{Fault, Injected};
use crate::state::{Shared, State};

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
