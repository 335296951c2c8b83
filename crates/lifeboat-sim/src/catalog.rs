//! The durable catalog, in memory, with the clock and the source of ids.

use async_trait::async_trait;
use lifeboat_engine::ports::catalog::{Catalog, CatalogError, CatalogImage, Recorded};
use lifeboat_engine::ports::{Clock, Entropy};
use lifeboat_engine::records::{Event, Job, Relationship, Request, ServerSettings};
use lifeboat_engine::sealing::{ExportKey, KEY};
use lifeboat_model::{AuthorizationEntry, JobId, Reading, RequestId, Timestamp, VmId};
use uuid::Uuid;

use crate::port::Port;
use crate::state::{HostState, State};

fn host(s: &mut State, h: usize) -> Result<&mut HostState, CatalogError> {
    let host = s
        .hosts
        .get_mut(h)
        .ok_or_else(|| CatalogError::Database("no such host".into()))?;
    if host.catalog_full {
        return Err(CatalogError::NoSpace);
    }
    Ok(host)
}

fn set_relationship(image: &mut CatalogImage, r: &Relationship) {
    image.relationships.retain(|x| (x.vm, x.index) != (r.vm, r.index));
    image.relationships.push(r.clone());
}

fn set_job(image: &mut CatalogImage, job: &Job) {
    image.jobs.retain(|j| j.id != job.id);
    image.jobs.push(job.clone());
}

#[async_trait]
impl Catalog for Port {
    async fn load(&self) -> Result<CatalogImage, CatalogError> {
        self.run("catalog.load", |s, h| Ok(s.hosts[h].catalog.clone()))
            .await
    }

    async fn put(
        &self,
        relationship: &Relationship,
        jobs: &[Job],
        events: &[Event],
    ) -> Result<(), CatalogError> {
        self.run("catalog.put", |s, h| {
            let host = host(s, h)?;
            set_relationship(&mut host.catalog, relationship);
            for job in jobs {
                set_job(&mut host.catalog, job);
            }
            host.events.extend_from_slice(events);
            for event in events {
                s.note(format!("  event on {h}: {}", event.message));
            }
            Ok(())
        })
        .await
    }

    async fn remove_relationship(&self, vm: VmId, index: u8) -> Result<(), CatalogError> {
        self.run("catalog.remove_relationship", |s, h| {
            let image = &mut host(s, h)?.catalog;
            image.relationships.retain(|x| (x.vm, x.index) != (vm, index));
            Ok(())
        })
        .await
    }

    async fn put_job(&self, job: &Job) -> Result<(), CatalogError> {
        self.run("catalog.put_job", |s, h| {
            set_job(&mut host(s, h)?.catalog, job);
            Ok(())
        })
        .await
    }

    async fn remove_job(&self, job: JobId) -> Result<(), CatalogError> {
        self.run("catalog.remove_job", |s, h| {
            host(s, h)?.catalog.jobs.retain(|j| j.id != job);
            Ok(())
        })
        .await
    }

    async fn put_entry(&self, entry: &AuthorizationEntry) -> Result<(), CatalogError> {
        self.run("catalog.put_entry", |s, h| {
            let image = &mut host(s, h)?.catalog;
            image.entries.retain(|e| e.primary != entry.primary);
            image.entries.push(entry.clone());
            Ok(())
        })
        .await
    }

    async fn remove_entry(&self, primary: &str) -> Result<bool, CatalogError> {
        self.run("catalog.remove_entry", |s, h| {
            let image = &mut host(s, h)?.catalog;
            let before = image.entries.len();
            image.entries.retain(|e| e.primary != primary);
            Ok(image.entries.len() < before)
        })
        .await
    }

    async fn put_server(&self, settings: &ServerSettings) -> Result<(), CatalogError> {
        self.run("catalog.put_server", |s, h| {
            host(s, h)?.catalog.server = settings.clone();
            Ok(())
        })
        .await
    }

    async fn put_request(&self, request: &Request, event: &Event) -> Result<(), CatalogError> {
        self.run("catalog.put_request", |s, h| {
            let host = host(s, h)?;
            host.catalog.requests.retain(|r| r.id != request.id);
            host.catalog.requests.push(request.clone());
            host.events.push(event.clone());
            s.note(format!("  event on {h}: {}", event.message));
            Ok(())
        })
        .await
    }

    async fn remove_request(&self, request: RequestId, event: &Event) -> Result<(), CatalogError> {
        self.run("catalog.remove_request", |s, h| {
            let host = host(s, h)?;
            host.catalog.requests.retain(|r| r.id != request);
            host.events.push(event.clone());
            s.note(format!("  event on {h}: {}", event.message));
            Ok(())
        })
        .await
    }

    async fn add_event(&self, event: &Event) -> Result<(), CatalogError> {
        self.run("catalog.add_event", |s, h| {
            host(s, h)?.events.push(event.clone());
            s.note(format!("  event on {h}: {}", event.message));
            Ok(())
        })
        .await
    }

    async fn events_before(
        &self,
        vm: Option<VmId>,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Recorded, CatalogError> {
        self.run("catalog.events", |s, h| {
            let numbered = (1_u64..).zip(&s.hosts[h].events).collect::<Vec<_>>();
            let older = |n: u64| before.is_none_or(|before| n < before);
            let wanted = |(n, e): &(u64, &Event)| older(*n) && (vm.is_none() || e.vm == vm);
            let mut wanted = numbered.into_iter().rev().filter(wanted);
            let events = wanted.by_ref().take(usize::try_from(limit).unwrap_or(usize::MAX));
            Ok(Recorded {
                events: events.map(|(n, e)| (n, Some(e.clone()))).collect(),
                more: wanted.next().is_some(),
            })
        })
        .await
    }
}

impl Clock for Port {
    fn now(&self) -> Timestamp {
        let off = self.shared.state().hosts[self.host].clock_off_ms;
        Timestamp(self.shared.now().0.saturating_add_signed(off))
    }

    fn reading(&self) -> Reading {
        let host = &self.shared.state().hosts[self.host];
        let now = self.shared.now().0;
        Reading {
            boot: Uuid::from_u128(host.boot),
            up_ms: now - host.booted_at,
            wall: Timestamp(now.saturating_add_signed(host.clock_off_ms)),
        }
    }

    fn local_minute(&self) -> u16 {
        u16::try_from(self.now().0 / 60_000 % 1440).unwrap_or(0)
    }
}

impl Entropy for Port {
    fn uuid(&self) -> Uuid {
        let mut s = self.shared.state();
        let (high, low) = (s.rng.draw(), s.rng.draw());
        uuid::Builder::from_random_bytes(((u128::from(high) << 64) | u128::from(low)).to_be_bytes())
            .into_uuid()
    }

    fn key(&self) -> std::io::Result<ExportKey> {
        let mut s = self.shared.state();
        let mut key = [0; KEY];
        for bytes in key.chunks_mut(8) {
            bytes.copy_from_slice(&s.rng.draw().to_be_bytes());
        }
        Ok(ExportKey::new(key))
    }
}
