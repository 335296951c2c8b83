//! Lists of what this host has: VMs, jobs, events, page by page. Each VM is looked at by itself, so that one that hangs
//! costs its own line and no more.

use crate::contract::paging::{MOST, Page, Paging};
use crate::contract::{Answer, EventView, Refusal, VmRef, VmView};
use crate::engine::Engine;
use crate::host::Handle;
use crate::host::lists::{LISTED, in_time};
use crate::host::observe::GLANCE;
use crate::record::Event;
use crate::work::message::Message;
use lifeboat_model::AuthorizationEntry;
use std::collections::BTreeMap;

impl Engine {
    /// The VMs of a page, each by itself, all at once: one that hangs costs its own line and no more. Only they are looked at.
    pub(crate) async fn list(&self, paging: &Paging) -> Result<Answer, Refusal> {
        let (keys, more, handles) = self.host.with_actors(|actors| {
            let keys = actors.iter().map(|(vm, handle)| (handle.name.clone(), *vm));
            let (keys, more) = paging.first(keys)?;
            let handles: Vec<Option<Handle>> = keys.iter().map(|(_, vm)| actors.get(vm).cloned()).collect();
            Ok((keys, more, handles))
        })?;
        let glances = handles.iter().map(|handle| async move {
            match handle {
                Some(handle) => self.glance(handle).await,
                None => None,
            }
        });
        let views = futures_util::future::join_all(glances).await;
        Ok(Answer::Vms(Page::of(keys.into_iter().zip(views).collect(), more)))
    }

    /// Authorization entries, by primary in whatever case.
    pub(crate) fn entries(&self, paging: &Paging) -> Result<Answer, Refusal> {
        self.host.access(|a| {
            let of = |e: &AuthorizationEntry| e.primary.to_lowercase();
            let all: BTreeMap<String, &AuthorizationEntry> = a.entries.iter().map(|e| (of(e), e)).collect();
            let (keys, more) = paging.first(all.keys().cloned())?;
            let part = |key: String| {
                let entry = all.get(&key).map(|e| (*e).clone());
                (key, entry)
            };
            let parts = keys.into_iter().map(part).collect();
            Ok(Answer::Entries(Page::of(parts, more)))
        })
    }

    /// The VM as it is, or as it was seen last. A VM that goes away meanwhile is nothing.
    async fn glance(&self, handle: &Handle) -> Option<VmView> {
        let asked = tokio::time::timeout(LISTED, self.ask(handle, Message::View));
        let hypervisor = self.host.ports.hypervisors.of_vm(handle.observer.vm());
        let seen = handle.observer.power(&hypervisor, GLANCE);
        match tokio::join!(asked, seen) {
            (Ok(Some(Ok(Answer::Vm(view)))), _) => Some(*view),
            (Ok(_), _) => None,
            (Err(_), power) => handle.observer.past(power.as_ref()),
        }
    }

    pub(crate) async fn events(
        &self,
        vm: Option<&VmRef>,
        limit: u32,
        after: Option<String>,
    ) -> Result<Answer, Refusal> {
        let vm = match vm {
            None => None,
            Some(vm) => Some(self.host.find(vm)?.0),
        };
        let before = Paging { limit: None, after }.key()?;
        let catalog = &self.host.ports.catalog;
        let recorded = catalog.events_before(vm, before, limit.clamp(1, MOST));
        let recorded = in_time(recorded, "events cannot be read").await?;
        let shown = |(number, event): (u64, Option<Event>)| (number, event.map(EventView::from));
        let events = recorded.events.into_iter().map(shown).collect();
        Ok(Answer::Events(Page::of(events, recorded.more)))
    }
}
