//! The catalog port on SQLite: one file, one writer thread, one transaction per call, on the disk before the call
//! returns. It decides nothing; it only remembers.
//!
//! Invariant: the file has one owner. A second daemon is refused, because two of them would run the same VMs.
//! Reading with the `sqlite3` tool while the daemon runs is fine.
// To move into [workspace.lints] when all crates hold it.
#![warn(clippy::match_bool, clippy::option_option, clippy::struct_excessive_bools)]
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

mod error;
mod open;
mod rows;
mod schema;

use std::sync::mpsc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_engine::ports::catalog::{Catalog, CatalogError, CatalogImage, Recorded};
use lifeboat_engine::records::{Event, Job, Relationship, Request, ServerSettings};
use lifeboat_model::{AuthorizationEntry, JobId, RequestId, VmId};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use crate::error::database;
use crate::open::Opened;

type Work = Box<dyn FnOnce(&mut Link) + Send>;

/// The connection, as long as it is believed.
struct Link {
    connection: Option<Connection>,
    path: Utf8PathBuf,
}

impl Link {
    /// Runs `work`. After an error of the database or of its disk the file is opened and checked again before the next
    /// one: what a connection holds in memory may not be what the file has.
    fn carry_out<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => open::connect(&self.path)?,
        };
        let done = carry_out(&mut connection, work);
        match &done {
            Err(CatalogError::Database(_)) => drop(connection),
            Ok(_)
            | Err(
                CatalogError::TooNew { .. }
                | CatalogError::NewerRecord { .. }
                | CatalogError::Record(..)
                | CatalogError::NoSpace,
            ) => {
                self.connection = Some(connection);
            }
        }
        done
    }
}

/// The catalog in an SQLite file. Dropping it waits for the calls that were made and closes the file.
#[derive(Debug)]
pub struct SqliteCatalog {
    // `None` only while it is being dropped.
    queue: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl SqliteCatalog {
    /// Opens the catalog at `path` or makes an empty one there; the directory must exist. Fails when another process
    /// has it open, and when a newer Lifeboat wrote it.
    pub fn open(path: &Utf8Path) -> Result<Self, CatalogError> {
        let Opened {
            connection,
            path,
            lock,
        } = open::open(path)?;
        let mut link = Link {
            connection: Some(connection),
            path,
        };
        let (queue, work) = mpsc::channel::<Work>();
        let thread = std::thread::Builder::new()
            .name("catalog".into())
            .spawn(move || {
                for one in work {
                    one(&mut link);
                }
                drop(link);
                drop(lock);
            })
            .map_err(|e| CatalogError::Database(format!("its thread could not be started: {e}")))?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    /// Runs `work` on the thread as one transaction. It is carried out even when the caller stops waiting.
    async fn transaction<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, CatalogError> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let ended = || CatalogError::Database("its thread has ended; start Lifeboat again".into());
        let (answer, wait) = oneshot::channel();
        let job: Work = Box::new(move |link| {
            // The receiver is gone when the caller was dropped; the work is done all the same.
            let _ = answer.send(link.carry_out(work));
        });
        self.queue
            .as_ref()
            .ok_or_else(ended)?
            .send(job)
            .map_err(|_| ended())?;
        wait.await.map_err(|_| ended())?
    }
}

fn carry_out<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, CatalogError>,
) -> Result<T, CatalogError> {
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|e| database(&e))?;
    let value = work(&transaction)?;
    transaction.commit().map_err(|e| database(&e))?;
    Ok(value)
}

impl Drop for SqliteCatalog {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the catalog's thread panicked");
        }
    }
}

#[async_trait]
impl Catalog for SqliteCatalog {
    async fn load(&self) -> Result<CatalogImage, CatalogError> {
        self.transaction(|t| rows::load(t)).await
    }

    async fn put(
        &self,
        relationship: &Relationship,
        jobs: &[Job],
        events: &[Event],
    ) -> Result<(), CatalogError> {
        let (relationship, jobs, events) = (relationship.clone(), jobs.to_vec(), events.to_vec());
        self.transaction(move |t| {
            rows::put_relationship(t, &relationship)?;
            for job in &jobs {
                rows::put_job(t, job)?;
            }
            for event in &events {
                rows::add_event(t, event)?;
            }
            Ok(())
        })
        .await
    }

    async fn remove_relationship(&self, vm: VmId, index: u8) -> Result<(), CatalogError> {
        self.transaction(move |t| rows::remove_relationship(t, vm, index))
            .await
    }

    async fn put_job(&self, job: &Job) -> Result<(), CatalogError> {
        let record = job.clone();
        self.transaction(move |t| rows::put_job(t, &record)).await
    }

    async fn remove_job(&self, job: JobId) -> Result<(), CatalogError> {
        self.transaction(move |t| rows::remove_job(t, job)).await
    }

    async fn put_entry(&self, entry: &AuthorizationEntry) -> Result<(), CatalogError> {
        let record = entry.clone();
        self.transaction(move |t| rows::put_entry(t, &record)).await
    }

    async fn remove_entry(&self, primary: &str) -> Result<bool, CatalogError> {
        let primary = primary.to_owned();
        self.transaction(move |t| rows::remove_entry(t, &primary)).await
    }

    async fn put_server(&self, settings: &ServerSettings) -> Result<(), CatalogError> {
        let record = settings.clone();
        self.transaction(move |t| rows::put_server(t, &record)).await
    }

    async fn put_request(&self, request: &Request, event: &Event) -> Result<(), CatalogError> {
        let (request, event) = (request.clone(), event.clone());
        self.transaction(move |t| {
            rows::put_request(t, &request)?;
            rows::add_event(t, &event)
        })
        .await
    }

    async fn remove_request(&self, request: RequestId, event: &Event) -> Result<(), CatalogError> {
        let event = event.clone();
        self.transaction(move |t| {
            rows::remove_request(t, request)?;
            rows::add_event(t, &event)
        })
        .await
    }

    async fn add_event(&self, event: &Event) -> Result<(), CatalogError> {
        let event = event.clone();
        self.transaction(move |t| rows::add_event(t, &event)).await
    }

    async fn events_before(
        &self,
        vm: Option<VmId>,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Recorded, CatalogError> {
        self.transaction(move |t| rows::events(t, vm, before, limit))
            .await
    }
}
