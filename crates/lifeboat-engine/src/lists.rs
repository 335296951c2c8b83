//! Lists of what this host has: VMs, jobs, events. Each VM is looked at by itself, so that one that hangs costs its own line
//! and no more. What a single VM or job answers for itself is its actor's business.

use std::time::Duration;

use crate::action::{Answer, Refusal, VmRef, VmView};
use crate::actor::{Message, failed};
use crate::engine::{Engine, Handle};
use crate::observe::GLANCE;
use crate::records::Event;

/// How long a list waits for one VM: a little longer than its actor waits for a look at it.
const LISTED: Duration = Duration::from_millis(450);

impl Engine {
    /// Every VM by itself, all at once: one that hangs costs its own line and no more.
    pub(crate) async fn list(&self) -> Answer {
        let handles: Vec<Handle> = self.host.with_actors(|a| a.values().cloned().collect());
        let views = futures_util::future::join_all(handles.iter().map(|h| self.glance(h))).await;
        let mut views: Vec<VmView> = views.into_iter().flatten().collect();
        views.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        Answer::Vms(views)
    }

    /// The VM as it is, or as it was seen last. A VM that goes away meanwhile is nothing.
    async fn glance(&self, handle: &Handle) -> Option<VmView> {
        let asked = tokio::time::timeout(LISTED, self.ask(handle, Message::View));
        let seen = handle.observer.power(&self.host.ports.hypervisor, GLANCE);
        match tokio::join!(asked, seen) {
            (Ok(Some(Ok(Answer::Vm(view)))), _) => Some(*view),
            (Ok(_), _) => None,
            (Err(_), power) => handle.observer.past(power.as_ref()),
        }
    }

    pub(crate) async fn events(&self, vm: Option<&VmRef>, limit: u32) -> Result<Answer, Refusal> {
        let vm = match vm {
            None => None,
            Some(vm) => Some(self.host.find(vm)?.0),
        };
        let events: Result<Vec<Event>, _> = self.host.ports.catalog.events(vm, limit.clamp(1, 1000)).await;
        events
            .map(Answer::Events)
            .map_err(|e| failed("events cannot be read", &e))
    }
}
