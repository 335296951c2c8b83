//! What simulated hypervisors tell of their guests without being asked. It takes no time, and nothing random is drawn for it.

use lifeboat_engine::ports::hypervisor::{MachineEvent, PowerChange};
use lifeboat_model::VmId;
use tokio::sync::broadcast;

use crate::state::State;

/// Events that an engine may be behind before it misses some.
pub const BEHIND: usize = 16;

/// Who listens to a host's hypervisor.
#[derive(Debug)]
pub(crate) struct Listeners(broadcast::Sender<MachineEvent>);

impl Default for Listeners {
    fn default() -> Self {
        Self(broadcast::Sender::new(BEHIND))
    }
}

impl Listeners {
    pub(crate) fn listen(&self) -> broadcast::Receiver<MachineEvent> {
        self.0.subscribe()
    }
}

/// Something happened to a guest; whoever listens hears of it, where the hypervisor tells.
pub(crate) fn tell(s: &mut State, h: usize, vm: VmId, change: PowerChange) {
    let host = &s.hosts[h];
    if host.tells {
        // That nobody listens is no failure: the daemon is down.
        let _ = host.listeners.0.send(MachineEvent::Power { vm, change });
    }
}
