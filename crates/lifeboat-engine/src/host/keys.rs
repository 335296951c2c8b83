//! What follows from the keys that `pins` knows: keys are written with their relationship, and other hosts are told this
//! one's next.

use crate::contract::ServerKeys;
use crate::host::pins::{Judge, Pins};
use crate::host::{Host, Ports};
use crate::port::catalog::{Catalog, CatalogError, CatalogImage, Recorded};
use crate::port::environment::OwnKeys;
use crate::port::link::{LinkError, OtherKey, PeerIdentity, PeerRefusal, PeerRequest};
use crate::record::{Event, Job, Relationship, Request, ServerSettings};
use crate::work::message::Message;
use async_trait::async_trait;
use lifeboat_model::ReplicationHealth as Health;
use lifeboat_model::{
    AuthorizationEntry, Finding, Fingerprint, JobId, Note, ProblemKind, RequestId, VmId, hint,
};
use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;
use tracing::warn;

/// Time between two looks at this host's own keys, and between two attempts to tell another host of them.
const LOOK: Duration = Duration::from_secs(60);

/// How soon keys that could not be written are tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// A catalog that writes the keys with each relationship, so that none of those who write one has to think of them.
struct KeyedCatalog {
    catalog: Arc<dyn Catalog>,
    pins: Arc<Pins>,
}

impl KeyedCatalog {
    fn keyed(&self, relationship: &Relationship) -> Relationship {
        let mut keyed = relationship.clone();
        if keyed.index == 0 {
            keyed.keys = self.pins.recorded(relationship);
        }
        keyed
    }
}

#[async_trait]
impl Catalog for KeyedCatalog {
    async fn load(&self) -> Result<CatalogImage, CatalogError> {
        self.catalog.load().await
    }

    async fn put(
        &self,
        relationship: &Relationship,
        jobs: &[Job],
        events: &[Event],
    ) -> Result<(), CatalogError> {
        let keyed = self.keyed(relationship);
        self.catalog.put(&keyed, jobs, events).await?;
        self.pins.saved(keyed.vm, &keyed.keys);
        Ok(())
    }

    async fn remove_relationship(&self, vm: VmId, index: u8) -> Result<(), CatalogError> {
        self.catalog.remove_relationship(vm, index).await?;
        if index == 0 {
            self.pins.forget(vm);
        }
        Ok(())
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
        self.catalog.put_request(request, event).await
    }

    async fn remove_request(&self, request: RequestId, event: &Event) -> Result<(), CatalogError> {
        self.catalog.remove_request(request, event).await
    }

    async fn add_event(&self, event: &Event) -> Result<(), CatalogError> {
        self.catalog.add_event(event).await
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

/// Puts the keys of these relationships between the engine and the world: before the link, which asks them for each request,
/// and before the catalog, which gets them with each record.
pub(crate) fn guard(ports: &mut Ports, host: &str, relationships: &[Relationship]) -> Arc<Pins> {
    let pins = Arc::new(Pins::new(host));
    for relationship in relationships.iter().filter(|r| r.index == 0) {
        pins.load(relationship);
    }
    ports.link.judged_by(Arc::new(Judge {
        pins: pins.clone(),
        clock: ports.clock.clone(),
    }));
    ports.catalog = Arc::new(KeyedCatalog {
        catalog: ports.catalog.clone(),
        pins: pins.clone(),
    });
    pins
}

impl Host {
    /// Whether a caller is who it was before, as far as its name was seen.
    pub(crate) fn judge(&self, peer: &PeerIdentity, vm: Option<VmId>) -> Result<(), PeerRefusal> {
        let judged = self.pins.judge(vm, None, peer, self.ports.clock.now());
        judged.map_err(|OtherKey(detail)| PeerRefusal::OtherKey {
            host: self.config.name.clone(),
            detail: detail.into(),
        })
    }

    /// This host's own keys as they were looked at last.
    pub(crate) fn own_keys(&self) -> OwnKeys {
        self.own_keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The same, to be shown.
    pub(crate) fn shown_keys(&self) -> ServerKeys {
        ServerKeys {
            own: self.own_keys().own,
            next: self.next_key(),
        }
    }

    /// The key that is to follow; `None`: none is to.
    fn next_key(&self) -> Option<Fingerprint> {
        let keys = self.own_keys();
        keys.next.filter(|next| keys.own != Some(*next))
    }

    /// Other hosts, each with how many VMs it shares with this one, that do not know this host's next key.
    fn uninformed(&self, next: Fingerprint) -> Vec<(String, usize)> {
        let mut found: Vec<(String, usize)> = Vec::new();
        for (vm, peers) in self.presence.needed() {
            let keys = self.pins.keys(vm);
            for peer in peers {
                let told = keys.iter().any(|k| k.is_at(&peer) && k.told == Some(next));
                match found.iter_mut().find(|(p, _)| *p == peer) {
                    _ if told => {}
                    Some((_, vms)) => *vms += 1,
                    None => found.push((peer, 1)),
                }
            }
        }
        found
    }

    /// Where this host is with a change of its key, in words.
    pub(crate) fn key_notes(&self) -> Vec<Finding> {
        let Some(next) = self.next_key() else {
            return Vec::new();
        };
        let missing = self.uninformed(next);
        if missing.is_empty() {
            let text =
                format!("the next key of this host, {next}, is known to every host it replicates with");
            let note = Note::new(text, hint::Trust::UseNextKey);
            return vec![Finding::new(Health::Ok, ProblemKind::NextKey, note)];
        }
        let hosts: Vec<String> = missing
            .iter()
            .map(|(peer, vms)| format!("{peer} ({vms} VMs)"))
            .collect();
        let text = format!(
            "the next key of this host, {next}, is not known yet to {}",
            hosts.join(", ")
        );
        let name = self.config.name.clone();
        let note = Note::new(text, hint::Trust::AwaitNextKey { name, key: next });
        vec![Finding::new(Health::Ok, ProblemKind::NextKey, note)]
    }

    /// What was tried with the names of a relationship's hosts and other keys.
    pub(crate) fn key_findings(&self, vm: VmId) -> Vec<Finding> {
        let alarms = self.pins.alarms(vm);
        let found = |(label, note)| Finding::warning(ProblemKind::OtherKey, note).about(label);
        alarms.into_iter().map(found).collect()
    }

    /// Looks at this host's own keys now.
    async fn look_at_keys(&self) {
        let keys = self.ports.environment.keys().await;
        *self.own_keys.lock().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Has what is new written and recorded; whether something could not be.
    async fn settle_keys(&self) -> bool {
        let (unsaved, told) = self.pins.news();
        for vm in &unsaved {
            let handle = self.with_actors(|a| a.get(vm).cloned());
            // One with a full mailbox is busy; it is asked again.
            if let Some(handle) = handle {
                let _ = handle.mailbox.try_send(Message::SaveKeys(None));
            }
        }
        for told in told {
            warn!(vm = %told.vm, "{}", told.note);
            self.key_event(told.vm, told.note).await;
        }
        !unsaved.is_empty()
    }

    pub(crate) async fn key_event(&self, vm: VmId, note: Note) {
        let event = Event {
            at: self.ports.clock.now(),
            vm: Some(vm),
            message: note.text,
            hint: note.hint,
            by: crate::common::by::now(),
        };
        if let Err(e) = self.ports.catalog.add_event(&event).await {
            warn!(%vm, error = %e, message = event.message, "event not recorded");
        }
    }

    /// Tells other hosts the next key of this one, or that there is none after all.
    async fn announce_key(&self) {
        let next = self.next_key();
        let own = self.own_keys().own;
        let mut away = BTreeSet::new();
        for (vm, peers) in self.presence.needed() {
            for peer in peers {
                let keys = self.pins.keys(vm);
                let told = keys.iter().find(|k| k.is_at(&peer)).and_then(|k| k.told);
                if told == next || away.contains(&peer) {
                    continue;
                }
                if next.is_none() && told == own {
                    // It was used since, and a peer that saw it has taken it over.
                    self.pins.announced(vm, &peer, None);
                    continue;
                }
                let request = PeerRequest::AnnounceKey { vm, next };
                match self.ports.link.call(&peer, request).await {
                    Ok(_) => self.pins.announced(vm, &peer, next),
                    Err(LinkError::Unreachable { .. }) => drop(away.insert(peer)),
                    // An older release, or one that does not know this VM now. It is told again, and shown until then.
                    Err(e) => tracing::debug!(%vm, "the next key was not taken note of: {e}"),
                }
            }
        }
    }
}

/// Has keys written and told for as long as the engine lives.
pub(crate) async fn watch(host: Weak<Host>) {
    while let Some(host) = host.upgrade() {
        let again = host.settle_keys().await;
        let pins = host.pins.clone();
        drop(host);
        let patience = if again { AGAIN } else { LOOK };
        // A key that could not be written raises no notice: it is tried again sooner.
        tokio::select! {
            () = pins.changed.notified() => {}
            () = tokio::time::sleep(patience) => {}
        }
    }
}

/// Looks at this host's own keys, and tells other hosts of them, for as long as the engine lives.
pub(crate) async fn announce(host: Weak<Host>) {
    while let Some(host) = host.upgrade() {
        host.look_at_keys().await;
        host.announce_key().await;
        drop(host);
        tokio::time::sleep(LOOK).await;
    }
}
