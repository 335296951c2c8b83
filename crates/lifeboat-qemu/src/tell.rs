//! Tells who listens that a VM's process has ended, and that a guest was stopped or goes on. Ends are seen by the tasks that
//! wait for processes anyway; the rest is heard on monitors that a capture holds anyway, because a monitor has one client at
//! a time and none is taken for this. So a guest without replication tells only its end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lifeboat_block::qmp::{Qmp, QmpError};
use lifeboat_engine::ports::hypervisor::{MachineEvent, PowerChange};
use lifeboat_model::VmId;
use tokio::sync::broadcast;

/// Events that a listener may be behind before it misses some.
const BEHIND: usize = 256;

/// Who listens, and which ends were asked for.
#[derive(Clone, Debug)]
pub(crate) struct Teller {
    events: broadcast::Sender<MachineEvent>,
    /// Processes that were asked to end, by their numbers.
    asked: Arc<Mutex<HashMap<VmId, i32>>>,
}

impl Default for Teller {
    fn default() -> Self {
        Self {
            events: broadcast::Sender::new(BEHIND),
            asked: Arc::default(),
        }
    }
}

impl Teller {
    /// What is told from now on.
    pub(crate) fn listen(&self) -> broadcast::Receiver<MachineEvent> {
        self.events.subscribe()
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<VmId, i32>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, vm: VmId, change: PowerChange) {
        // Without a listener it is no failure.
        let _ = self.events.send(MachineEvent::Power { vm, change });
    }

    /// A VM's process is asked to end. The caller keeps this until that succeeded or is given up.
    pub(crate) fn asks(&self, vm: VmId, pid: i32) -> Asking {
        self.asked().insert(vm, pid);
        Asking {
            teller: self.clone(),
            vm,
            pid,
            granted: false,
        }
    }

    /// A VM's process has ended.
    pub(crate) fn ended(&self, vm: VmId, pid: i32) {
        let mut asked = self.asked();
        let change = if asked.get(&vm) == Some(&pid) {
            asked.remove(&vm);
            PowerChange::Ended
        } else {
            PowerChange::EndedByItself
        };
        drop(asked);
        self.tell(vm, change);
    }

    /// Tells what a monitor says of its guest for as long as its owner holds it.
    pub(crate) fn follow(&self, vm: VmId, monitor: &Qmp) {
        let (teller, mut events) = (self.clone(), monitor.events());
        tokio::spawn(async move {
            loop {
                let change = match events.next().await {
                    Ok(event) if event.name == "STOP" => PowerChange::Halted,
                    Ok(event) if event.name == "RESUME" => PowerChange::WentOn,
                    Ok(_) => continue,
                    // What was lost may have been either; both mean a look.
                    Err(QmpError::Lagged { .. }) => PowerChange::Halted,
                    Err(_) => return,
                };
                teller.tell(vm, change);
            }
        });
    }
}

/// A request to a process to end. Dropped before it was granted, it is as if it had never been made: when the process ends
/// later, it does so by itself.
#[must_use]
pub(crate) struct Asking {
    teller: Teller,
    vm: VmId,
    pid: i32,
    granted: bool,
}

impl Asking {
    /// The process is gone. Who waits for it may hear of it only now.
    pub(crate) fn granted(mut self) {
        self.granted = true;
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut asked = self.teller.asked();
        if !self.granted && asked.get(&self.vm) == Some(&self.pid) {
            asked.remove(&self.vm);
        }
    }
}

#[cfg(test)]
#[path = "tell_tests.rs"]
mod tests;
