//! Files and records of this host that nothing refers to: they are told, and never removed by themselves.

use crate::host::Host;
use crate::port::store::StoreLocation;
use crate::record::Relationship;
use lifeboat_model::ReplicationState as State;
use lifeboat_model::causes::chain;
use lifeboat_model::{Finding, Hint, Note, ProblemKind, VmId, hint};
use std::collections::BTreeSet;
use std::sync::{PoisonError, Weak};
use std::time::Duration;
use tracing::warn;

/// Time between two looks at the storage locations.
const LOOK: Duration = Duration::from_secs(600);

/// How long a look at one location may take: its storage may hang.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a VM whose own images a replica stands on gets them back.
pub(crate) fn to_own_images(state: State) -> Hint {
    if state == State::WaitingToCompleteInitialReplication {
        // There may never be a point to fail over to.
        hint::Copies::AwaitOrForget.into()
    } else {
        hint::Failover::KeepImages.into()
    }
}

/// Removes records that no actor stands for: extended relationships were records of their own once.
pub(crate) async fn drop_strays(host: &Host, relationships: &[Relationship]) {
    for rel in relationships.iter().filter(|r| r.index != 0) {
        let message = format!(
            "a record of VM {} (\"{}\", number {}, peer {}) belongs to no relationship and was removed; no file was touched",
            rel.vm, rel.spec.name, rel.index, rel.peer
        );
        match host.ports.catalog.remove_relationship(rel.vm, rel.index).await {
            Ok(()) => note(host, &message).await,
            Err(e) => warn!(vm = %rel.vm, error = %e, "a stray record is not removed"),
        }
    }
}

pub(crate) async fn note(host: &Host, message: impl Into<Note>) {
    let note = message.into();
    warn!("{note}");
    host.event(note).await;
}

/// What storage locations say of themselves: one that cannot be used, and files that no relationship stands for.
async fn storage_notes(host: &Host) -> Vec<Finding> {
    let entries = host.access(|a| a.entries.clone());
    let locations: BTreeSet<String> = entries.into_iter().map(|e| e.storage_location).collect();
    let mut notes = Vec::new();
    for location in locations {
        let look = async {
            if let Err(e) = host.ports.environment.replica_location(&location).await {
                let note = Note::new(format!("replicas cannot be stored: {e}"), hint::Look::Mounts);
                return vec![Finding::critical(ProblemKind::LocationUnusable, note).about(&location)];
            }
            leftovers(host, &location).await
        };
        let found = tokio::time::timeout(PATIENCE, look).await;
        notes.extend(found.unwrap_or_else(|_| {
            let text = format!(
                "{location} did not answer within {} s: does its storage hang?",
                PATIENCE.as_secs()
            );
            vec![Finding::critical(ProblemKind::StorageSilent, text).about(&location)]
        }));
    }
    notes
}

/// Replicas without a relationship that are named for a location. Ours: a lost catalog leaves thousands, and each is an event.
const LEFTOVERS: usize = 20;

async fn leftovers(host: &Host, location: &str) -> Vec<Finding> {
    let location = StoreLocation::new(location);
    let found = match host.ports.stores.at(&location).images.found(&location).await {
        Ok(found) => found,
        Err(e) => {
            let text = format!("replicas in {location} cannot be listed: {}", chain(&e));
            return vec![Finding::critical(ProblemKind::LocationUnusable, text).about(location)];
        }
    };
    let known = host.known_to_actors();
    let strangers: Vec<_> = found.into_iter().filter(|(vm, _)| !known.contains(vm)).collect();
    let more = strangers.len().saturating_sub(LEFTOVERS);
    let named = |(vm, dir): (VmId, StoreLocation)| {
        let text = format!("{dir} holds a replica of VM {vm}, and no relationship of this host uses it");
        let note = Note::new(text, hint::Copies::SeedOrDelete { dir: dir.to_string() });
        Finding::warning(ProblemKind::Leftovers, note).about(dir.as_str())
    };
    let mut notes: Vec<Finding> = strangers.into_iter().take(LEFTOVERS).map(named).collect();
    if more > 0 {
        let text = format!(
            "{location} holds {more} more replicas that no relationship of this host uses; they are named when others are gone"
        );
        notes.push(Finding::warning(ProblemKind::Leftovers, text).about(location));
    }
    notes
}

/// Looks at the storage locations for as long as the engine lives, and says what is new.
pub(crate) async fn watch(host: Weak<Host>) {
    let mut told: Option<BTreeSet<String>> = None;
    while let Some(host) = host.upgrade() {
        let notes = storage_notes(&host).await;
        if told.is_none() && !notes.is_empty() {
            // A restart is no news.
            let before = host.ports.catalog.events(None, 10_000).await.unwrap_or_default();
            told = Some(before.into_iter().map(|e| e.message).collect());
        }
        for new in notes
            .iter()
            .filter(|n| told.as_ref().is_none_or(|t| !t.contains(&n.text)))
        {
            note(&host, new.note()).await;
        }
        told = Some(notes.iter().map(|n| n.text.clone()).collect());
        *host.storage_notes.lock().unwrap_or_else(PoisonError::into_inner) = notes;
        drop(host);
        tokio::time::sleep(LOOK).await;
    }
}
