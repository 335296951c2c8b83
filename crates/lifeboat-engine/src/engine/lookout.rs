//! Looks at VMs, so that what happens to a guest is known when it happens: at one at once when its hypervisor tells of it, and at
//! all from time to time, because what is told can be lost. Nothing is believed of what is told but that it is time to look.

use crate::host::observe::{INTERVAL, LOOK};
use crate::host::{Handle, Host};
use crate::port::hypervisor::{Hypervisor, MachineEvent, Power, PowerChange};
use crate::work::message::Message;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tracing::warn;

/// Looks at every VM from time to time.
pub(super) async fn from_time_to_time(host: Weak<Host>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let Some(host) = host.upgrade() else { return };
        look_at_all(&host).await;
    }
}

/// Looks at each VM that this hypervisor tells of. Ends with the hypervisor.
pub(super) async fn when_told(host: Weak<Host>, hypervisor: Arc<dyn Hypervisor>) {
    let mut events = hypervisor.watch().await;
    // It is kept by the host alone, so that this ends with both.
    drop(hypervisor);
    let mut looks = JoinSet::new();
    loop {
        let told = tokio::select! {
            biased;
            told = events.recv() => told,
            Some(_) = looks.join_next() => continue,
        };
        let Some(host) = host.upgrade() else { return };
        match told {
            Ok(MachineEvent::Power { vm, change }) => {
                let Some(handle) = host.with_actors(|a| a.get(&vm).cloned()) else {
                    continue;
                };
                looks.spawn(look(handle, host.ports.hypervisors.of_vm(vm), change));
            }
            Err(RecvError::Lagged(missed)) => {
                warn!(
                    missed,
                    "a hypervisor told more than was heard; every VM is looked at"
                );
                look_at_all(&host).await;
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// No look is waited for.
async fn look_at_all(host: &Host) {
    let observers: Vec<_> = host.with_actors(|a| a.values().map(|h| h.observer.clone()).collect());
    for observer in observers {
        // It goes on without being waited for.
        let hypervisor = host.ports.hypervisors.of_vm(observer.vm());
        let _ = observer.power(&hypervisor, Duration::ZERO).await;
    }
}

/// A guest that ended by itself is for its actor what one is that ended as it was asked to.
async fn look(handle: Handle, hypervisor: Arc<dyn Hypervisor>, change: PowerChange) {
    let power = handle.observer.power(&hypervisor, LOOK).await;
    match change {
        PowerChange::EndedByItself if power.as_ref().is_some_and(Power::is_off) => {
            // An actor that is gone learns it from the hypervisor at the next start.
            let _ = handle.mailbox.send(Message::Stopped).await;
        }
        PowerChange::EndedByItself | PowerChange::Ended | PowerChange::Halted | PowerChange::WentOn => {}
    }
}
