//! Where the parts of the engine tell what has changed, and which VMs are to be looked at because of it. A record says at once that it
//! has changed; what is shown beside it (power, health, files) is seen by looking at the VM, and compared with what was shown last.
//! The looking is `engine::watch`'s. While there is no watch, nothing is compared, looked at or kept.

use crate::contract::{Feed, ReplicationView, Turn, VmView, Watch, What};
use crate::host::Ports;
use crate::port::catalog::{Catalog, CatalogError, CatalogImage, Recorded};
use crate::port::{Clock, Entropy};
use crate::record::{Event, Job, Relationship, Request, ServerSettings};
use async_trait::async_trait;
use lifeboat_model::{
    AuthorizationEntry, Finding, JobId, ProblemKind, RelationshipId, ReplicationHealth, RequestId, VmId,
};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// VMs that are to be looked at, because what is shown of them may have changed.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    due: Mutex<BTreeSet<VmId>>,
    pub(crate) wanted: Notify,
}

impl Looks {
    /// Those that are due, which are not due any more.
    pub(crate) fn take(&self) -> BTreeSet<VmId> {
        std::mem::take(&mut self.due.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The changes of a host.
pub(crate) struct Changes {
    feed: Feed,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    looks: Arc<Looks>,
    /// Held while events are written and told, so that they are told in the order of the catalog. Only while there is a watch.
    recording: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes")
            .field("feed", &self.feed)
            .finish_non_exhaustive()
    }
}

impl Changes {
    /// Those of the host with these ports; its catalog is one whose events are told from now on.
    pub(crate) fn before(ports: &mut Ports) -> Arc<Self> {
        let changes = Arc::new(Self {
            feed: Feed::default(),
            clock: ports.clock.clone(),
            entropy: ports.entropy.clone(),
            looks: Arc::default(),
            recording: tokio::sync::Mutex::default(),
        });
        ports.catalog = Arc::new(ToldCatalog {
            catalog: ports.catalog.clone(),
            changes: changes.clone(),
        });
        changes
    }

    /// What changes from now on. The feed is named when it is watched first.
    pub(crate) fn watch(&self) -> Watch {
        let watch = self.feed.watch(|| self.entropy.uuid());
        self.looks.wanted.notify_one();
        watch
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.feed.is_watched()
    }

    /// No more changes: the engine ends.
    pub(crate) fn end(&self) {
        self.feed.end();
    }

    pub(crate) fn looks(&self) -> Arc<Looks> {
        self.looks.clone()
    }

    /// Tells of a change that can be seen by now.
    pub(crate) fn tell(&self, what: impl FnOnce() -> What) {
        self.feed.tell(self.clock.now(), what);
    }

    pub(crate) fn vm(&self, vm: VmId, turn: Turn) {
        self.tell(|| What::Vm { vm, turn });
    }

    pub(crate) fn relationship(&self, vm: VmId, turn: Turn) {
        self.tell(|| What::Relationship { vm, turn });
    }

    /// Has a VM looked at soon, if there is a watch.
    pub(crate) fn look_at(&self, vm: VmId) {
        if self.is_watched() {
            self.looks
                .due
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(vm);
            self.looks.wanted.notify_one();
        }
    }

    /// The VM is shown like this from now on, and was shown like that before.
    pub(crate) fn shown(&self, before: &VmView, now: &VmView) {
        let vm = now.spec.uuid;
        if !self.is_watched() {
            return;
        }
        if steady(before) != steady(now) {
            self.vm(vm, Turn::Changed);
        }
        // That there is one, and what is recorded of it, the record tells.
        if let (Some(before), Some(now)) = (&before.replication, &now.replication)
            && Beside::of(before) != Beside::of(now)
        {
            self.relationship(vm, Turn::Changed);
        }
    }
}

/// What is shown of a VM without its replication, ages left out.
fn steady(view: &VmView) -> VmView {
    let mut view = VmView {
        replication: None,
        ..view.clone()
    };
    if let Some(process) = &mut view.process {
        process.age_ms = 0;
    }
    if let Some(note) = &mut view.power_note {
        // Of a VM that does not answer it is the time of the look.
        (note.since, note.before) = (Default::default(), None);
    }
    view
}

/// What is shown of a replication beside its record: it is seen, or follows from the time.
#[derive(PartialEq)]
struct Beside<'a> {
    health: Health<'a>,
    /// The same of its outgoing relationships.
    outgoing: Vec<(RelationshipId, Health<'a>)>,
    view: Seen<'a>,
}

/// Health, and what it is because of. The sentences have ages and amounts in them.
type Health<'a> = (ReplicationHealth, BTreeSet<(ProblemKind, Option<&'a str>)>);

fn health(health: ReplicationHealth, notes: &[Finding]) -> Health<'_> {
    let because = notes.iter().map(|note| (note.kind, note.subject.as_deref()));
    (health, because.collect())
}

/// The rest of it.
#[derive(PartialEq)]
struct Seen<'a> {
    abandoned: &'a Option<crate::contract::AbandonedView>,
    at_rest: &'a Option<crate::contract::AtRestView>,
    keys: &'a [crate::contract::KnownKeyView],
    application: Option<lifeboat_model::Timestamp>,
}

impl<'a> Beside<'a> {
    fn of(view: &'a ReplicationView) -> Self {
        let outgoing = view
            .outgoing()
            .map(|one| (one.relationship, health(one.health, &one.health_notes)));
        Self {
            health: health(view.health, &view.health_notes),
            outgoing: outgoing.collect(),
            view: Seen {
                abandoned: &view.abandoned,
                at_rest: &view.at_rest,
                keys: &view.keys,
                application: view.last_application,
            },
        }
    }
}

/// A catalog whose events are told when they are durable. Relationships and jobs are told where memory has them.
struct ToldCatalog {
    catalog: Arc<dyn Catalog>,
    changes: Arc<Changes>,
}

/// A write of which it is not known how it ends.
struct Uncertain<'a>(Option<&'a Changes>);

impl Drop for Uncertain<'_> {
    fn drop(&mut self) {
        // Who waited for the write is gone. It is carried out all the same, or it is not; a question to the catalog comes after it.
        if let Some(changes) = self.0 {
            changes.feed.lose();
        }
    }
}

impl ToldCatalog {
    /// Writes, and then tells of these events. A write that failed tells of nothing.
    async fn telling(
        &self,
        events: &[Event],
        write: impl Future<Output = Result<(), CatalogError>> + Send,
    ) -> Result<(), CatalogError> {
        if events.is_empty() {
            return write.await;
        }
        let turn = if self.changes.is_watched() {
            Some(self.changes.recording.lock().await)
        } else {
            None
        };
        let mut uncertain = Uncertain(Some(&self.changes));
        let written = write.await;
        uncertain.0 = None;
        if written.is_ok() {
            for event in events {
                self.changes.tell(|| What::Event(Box::new(event.clone().into())));
            }
        }
        drop(turn);
        written
    }
}

#[async_trait]
impl Catalog for ToldCatalog {
    async fn load(&self) -> Result<CatalogImage, CatalogError> {
        self.catalog.load().await
    }

    async fn put(
        &self,
        relationship: &Relationship,
        jobs: &[Job],
        events: &[Event],
    ) -> Result<(), CatalogError> {
        self.telling(events, self.catalog.put(relationship, jobs, events))
            .await
    }

    async fn remove_relationship(&self, vm: VmId, index: u8) -> Result<(), CatalogError> {
        self.catalog.remove_relationship(vm, index).await
    }

    async fn put_job(&self, job: &Job) -> Result<(), CatalogError> {
        self.catalog.put_job(job).await
    }

    async fn remove_job(&self, job: JobId) -> Result<(), CatalogError> {
        self.catalog.remove_job(job).await
    }

    async fn put_entry(&self, entry: &AuthorizationEntry) -> Result<(), CatalogError> {
        self.catalog.put_entry(entry).await
    }

    async fn remove_entry(&self, primary: &str) -> Result<bool, CatalogError> {
        self.catalog.remove_entry(primary).await
    }

    async fn put_server(&self, settings: &ServerSettings) -> Result<(), CatalogError> {
        self.catalog.put_server(settings).await
    }

    async fn put_request(&self, request: &Request, event: &Event) -> Result<(), CatalogError> {
        let write = self.catalog.put_request(request, event);
        self.telling(std::slice::from_ref(event), write).await
    }

    async fn remove_request(&self, request: RequestId, event: &Event) -> Result<(), CatalogError> {
        let write = self.catalog.remove_request(request, event);
        self.telling(std::slice::from_ref(event), write).await
    }

    async fn add_event(&self, event: &Event) -> Result<(), CatalogError> {
        let write = self.catalog.add_event(event);
        self.telling(std::slice::from_ref(event), write).await
    }

    async fn events_before(
        &self,
        vm: Option<VmId>,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Recorded, CatalogError> {
        self.catalog.events_before(vm, before, limit).await
    }
}
