//! What simulated hypervisors tell of their guests without being asked. It takes no time, and nothing random is drawn for it.

use lifeboat_engine::ports::hypervisor::{MachineEvent, PowerChange};
use lifeboat_model::VmId;
use tokio::sync::broadcast;

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

    pub(crate) fn tell(&self, vm: VmId, change: PowerChange) {
        // Without a listener it is no failure: the daemon is down.
        let _ = self.0.send(MachineEvent::Power { vm, change });
    }
}
