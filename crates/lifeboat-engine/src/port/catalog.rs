//! Durable state of the engine: relationships, jobs, authorization, server settings, events. Not the truth about
//! files of replicas, which the store keeps beside them.

use crate::record::Request;
use crate::record::{Event, Job, Relationship, ServerSettings};
use async_trait::async_trait;
use lifeboat_model::{AuthorizationEntry, JobId, RequestId, VmId};

/// Why the catalog failed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Written by a newer Lifeboat.
    #[error(
        "the catalog has schema version {found}, this Lifeboat knows up to {known}; start the newer version again"
    )]
    TooNew {
        /// Version in the file.
        found: i64,
        /// Newest version known here.
        known: i64,
    },
    /// A record was written by a newer Lifeboat: nothing of it is taken.
    #[error(
        "catalog record {key} has version {found}, this Lifeboat knows up to {known}; start the newer version again"
    )]
    NewerRecord {
        /// The record, in words.
        key: String,
        /// Its version.
        found: u64,
        /// Newest version known here.
        known: u32,
    },
    /// A record cannot be read.
    #[error("catalog record {0} cannot be read: {1}")]
    Record(String, String),
    /// The disk is full.
    #[error("no space left for the catalog")]
    NoSpace,
    /// Anything else the database says.
    #[error("catalog: {0}")]
    Database(String),
}

/// Everything that is in the catalog, read at start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CatalogImage {
    /// Relationships of all VMs, on whichever side this host is.
    pub relationships: Vec<Relationship>,
    /// Jobs that have not been removed.
    pub jobs: Vec<Job>,
    /// Authorization entries.
    pub entries: Vec<AuthorizationEntry>,
    /// Settings of this host as a replica server.
    pub server: ServerSettings,
    /// What waits for a second person.
    pub requests: Vec<Request>,
}

/// Events as they are recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Each by its number, which counts up and is never used again, the newest first; `None`: its record is damaged.
    pub events: Vec<(u64, Option<Event>)>,
    /// There are older ones.
    pub more: bool,
}

/// The catalog. When a call returns `Ok` its change survives a power cut.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// Reads everything.
    async fn load(&self) -> Result<CatalogImage, CatalogError>;
    /// Writes a relationship, whose key is its VM and index, with jobs and events in the same transaction.
    async fn put(
        &self,
        relationship: &Relationship,
        jobs: &[Job],
        events: &[Event],
    ) -> Result<(), CatalogError>;
    /// Removes a relationship. `Ok` when there is none.
    async fn remove_relationship(&self, vm: VmId, index: u8) -> Result<(), CatalogError>;
    /// Writes a job.
    async fn put_job(&self, job: &Job) -> Result<(), CatalogError>;
    /// Removes a job. `Ok` when there is none.
    async fn remove_job(&self, job: JobId) -> Result<(), CatalogError>;
    /// Writes an authorization entry; the key is its primary.
    async fn put_entry(&self, entry: &AuthorizationEntry) -> Result<(), CatalogError>;
    /// Removes an authorization entry; tells whether there was one.
    async fn remove_entry(&self, primary: &str) -> Result<bool, CatalogError>;
    /// Writes the server settings.
    async fn put_server(&self, settings: &ServerSettings) -> Result<(), CatalogError>;
    /// Writes a request, and the event that tells of it, in one transaction.
    async fn put_request(&self, request: &Request, event: &Event) -> Result<(), CatalogError>;
    /// Removes a request, and appends the event that tells why, in one transaction. `Ok` when there is none.
    async fn remove_request(&self, request: RequestId, event: &Event) -> Result<(), CatalogError>;
    /// Appends an event; only the newest 10,000 are kept.
    async fn add_event(&self, event: &Event) -> Result<(), CatalogError>;
    /// Events with a lower number than `before`, newest first, at most `limit`, of one VM or of all.
    async fn events_before(
        &self,
        vm: Option<VmId>,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Recorded, CatalogError>;
    /// The newest events that can be read, newest first, at most `limit`, of one VM or of all.
    async fn events(&self, vm: Option<VmId>, limit: u32) -> Result<Vec<Event>, CatalogError> {
        let recorded = self.events_before(vm, None, limit).await?.events;
        Ok(recorded.into_iter().filter_map(|(_, event)| event).collect())
    }
}
