//! Lists of what this host has: VMs, jobs, events, entries, page by page. Each VM is looked at by itself, so that one that hangs
//! costs its own line and no more. What a single VM or job answers for itself is its actor's business.

use std::collections::BTreeMap;
use std::time::Duration;

use lifeboat_model::AuthorizationEntry;
use lifeboat_model::api::ReturnCode;

use crate::action::{Answer, EventView, Refusal, VmRef, VmView};
use crate::actor::{Message, failed};
use crate::engine::{Engine, Handle};
use crate::observe::GLANCE;
use crate::paging::{MOST, Page, Paging};
use crate::ports::catalog::CatalogError;
use crate::records::Event;

/// How long a list waits for one VM: a little longer than its actor waits for a look at it.
const LISTED: Duration = Duration::from_millis(450);

/// How long somebody who asks waits for the catalog. A change that hangs on its disk has it meanwhile.
const CATALOG: Duration = Duration::from_secs(2);

/// What is asked of the catalog while a caller waits.
///
/// # Errors
/// `Failed` when the catalog says that it cannot, `Timeout` when it says nothing.
pub(crate) async fn in_time<T>(
    asked: impl Future<Output = Result<T, CatalogError>>,
    cannot: &str,
) -> Result<T, Refusal> {
    match tokio::time::timeout(CATALOG, asked).await {
        Ok(answer) => answer.map_err(|e| failed(cannot, &e)),
        Err(_) => Err(Refusal::new(
            ReturnCode::Timeout,
            format!(
                "{cannot}: the catalog did not answer within {} s",
                CATALOG.as_secs()
            ),
            "look at the storage of state_dir, and try again",
        )),
    }
}

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
        let seen = handle.observer.power(&self.host.ports.hypervisor, GLANCE);
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
