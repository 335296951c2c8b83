//! Rows and the records in them. Every function is one statement or part of the caller's transaction.

use lifeboat_engine::ports::catalog::{CatalogError, CatalogImage};
use lifeboat_engine::records::{Event, Job, Relationship, ServerSettings};
use lifeboat_model::{AuthorizationEntry, JobId, VmId};
use rusqlite::{Connection, OptionalExtension, Params, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::database;

/// Events kept.
pub(crate) const EVENTS_KEPT: i64 = 10_000;

fn encode(key: &str, record: &impl Serialize) -> Result<String, CatalogError> {
    serde_json::to_string(record).map_err(|e| CatalogError::Record(key.into(), e.to_string()))
}

fn decode<T: DeserializeOwned>(key: &str, text: &str) -> Result<T, CatalogError> {
    serde_json::from_str(text).map_err(|e| CatalogError::Record(key.into(), e.to_string()))
}

fn run(connection: &Connection, sql: &str, parameters: impl Params) -> Result<usize, CatalogError> {
    connection
        .prepare_cached(sql)
        .and_then(|mut s| s.execute(parameters))
        .map_err(|e| database(&e))
}

/// All rows of a query as (key for people, record text).
fn texts(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
    row: impl FnMut(&Row<'_>) -> rusqlite::Result<(String, String)>,
) -> Result<Vec<(String, String)>, CatalogError> {
    let mut statement = connection.prepare_cached(sql).map_err(|e| database(&e))?;
    let rows = statement.query_map(parameters, row).map_err(|e| database(&e))?;
    rows.collect::<rusqlite::Result<_>>().map_err(|e| database(&e))
}

/// Decodes rows and checks that each record belongs to its key: a mixed-up row must not act on another VM.
fn records<T: DeserializeOwned>(
    rows: Vec<(String, String)>,
    key_of: impl Fn(&T) -> String,
) -> Result<Vec<T>, CatalogError> {
    let one = |(key, text): (String, String)| {
        let record = decode(&key, &text)?;
        let inside = key_of(&record);
        if inside == key {
            Ok(record)
        } else {
            Err(CatalogError::Record(key, format!("it holds {inside}")))
        }
    };
    rows.into_iter().map(one).collect()
}

fn relationship_key(vm: impl std::fmt::Display, index: impl std::fmt::Display) -> String {
    format!("relationship {vm}/{index}")
}

fn job_key(id: impl std::fmt::Display) -> String {
    format!("job {id}")
}

fn entry_key(primary: impl std::fmt::Display) -> String {
    format!("authorization entry {primary}")
}

/// Everything but the events, ordered by key.
pub(crate) fn load(connection: &Connection) -> Result<CatalogImage, CatalogError> {
    let relationships = texts(
        connection,
        "SELECT vm, peer_index, record FROM relationship ORDER BY vm, peer_index",
        [],
        |r| {
            Ok((
                relationship_key(r.get::<_, String>(0)?, r.get::<_, i64>(1)?),
                r.get(2)?,
            ))
        },
    )?;
    let jobs = texts(connection, "SELECT id, record FROM job ORDER BY id", [], |r| {
        Ok((job_key(r.get::<_, String>(0)?), r.get(1)?))
    })?;
    let entries = texts(
        connection,
        "SELECT primary_host, record FROM authorization_entry ORDER BY primary_host",
        [],
        |r| Ok((entry_key(r.get::<_, String>(0)?), r.get(1)?)),
    )?;
    let server: Option<String> = connection
        .query_row("SELECT record FROM server_settings", [], |r| r.get(0))
        .optional()
        .map_err(|e| database(&e))?;
    Ok(CatalogImage {
        relationships: records(relationships, |r: &Relationship| relationship_key(r.vm, r.index))?,
        jobs: records(jobs, |j: &Job| job_key(j.id))?,
        entries: records(entries, |e: &AuthorizationEntry| entry_key(&e.primary))?,
        server: server
            .map(|text| decode("server settings", &text))
            .transpose()?
            .unwrap_or_default(),
    })
}

/// Writes or replaces a relationship.
pub(crate) fn put_relationship(connection: &Connection, record: &Relationship) -> Result<(), CatalogError> {
    let text = encode(&relationship_key(record.vm, record.index), record)?;
    let sql = "INSERT INTO relationship (vm, peer_index, record) VALUES (?1, ?2, ?3)
               ON CONFLICT DO UPDATE SET record = excluded.record";
    run(
        connection,
        sql,
        params![record.vm.to_string(), record.index, text],
    )
    .map(drop)
}

/// Removes a relationship if there is one.
pub(crate) fn remove_relationship(connection: &Connection, vm: VmId, index: u8) -> Result<(), CatalogError> {
    let sql = "DELETE FROM relationship WHERE vm = ?1 AND peer_index = ?2";
    run(connection, sql, params![vm.to_string(), index]).map(drop)
}

/// Writes or replaces a job.
pub(crate) fn put_job(connection: &Connection, record: &Job) -> Result<(), CatalogError> {
    let text = encode(&job_key(record.id), record)?;
    let sql = "INSERT INTO job (id, vm, record) VALUES (?1, ?2, ?3)
               ON CONFLICT DO UPDATE SET vm = excluded.vm, record = excluded.record";
    run(
        connection,
        sql,
        params![record.id.to_string(), record.vm.to_string(), text],
    )
    .map(drop)
}

/// Removes a job if there is one.
pub(crate) fn remove_job(connection: &Connection, job: JobId) -> Result<(), CatalogError> {
    run(connection, "DELETE FROM job WHERE id = ?1", [job.to_string()]).map(drop)
}

/// Writes or replaces an authorization entry.
pub(crate) fn put_entry(connection: &Connection, record: &AuthorizationEntry) -> Result<(), CatalogError> {
    let text = encode(&entry_key(&record.primary), record)?;
    let sql = "INSERT INTO authorization_entry (primary_host, record) VALUES (?1, ?2)
               ON CONFLICT DO UPDATE SET record = excluded.record";
    run(connection, sql, params![record.primary, text]).map(drop)
}

/// Removes an authorization entry; tells whether there was one.
pub(crate) fn remove_entry(connection: &Connection, primary: &str) -> Result<bool, CatalogError> {
    run(
        connection,
        "DELETE FROM authorization_entry WHERE primary_host = ?1",
        [primary],
    )
    .map(|n| n > 0)
}

/// Writes the server settings.
pub(crate) fn put_server(connection: &Connection, record: &ServerSettings) -> Result<(), CatalogError> {
    let text = encode("server settings", record)?;
    let sql = "INSERT INTO server_settings (one, record) VALUES (1, ?1)
               ON CONFLICT DO UPDATE SET record = excluded.record";
    run(connection, sql, [text]).map(drop)
}

/// Appends an event and forgets the ones that are too many. Call it in a transaction.
pub(crate) fn add_event(connection: &Connection, event: &Event) -> Result<(), CatalogError> {
    let text = encode("event", event)?;
    let at = i64::try_from(event.at.0).unwrap_or(i64::MAX);
    let vm = event.vm.map(|vm| vm.to_string());
    run(
        connection,
        "INSERT INTO event (at, vm, record) VALUES (?1, ?2, ?3)",
        params![at, vm, text],
    )?;
    let oldest = connection.last_insert_rowid() - EVENTS_KEPT;
    run(connection, "DELETE FROM event WHERE id <= ?1", [oldest]).map(drop)
}

/// The newest events, newest first.
pub(crate) fn events(
    connection: &Connection,
    vm: Option<VmId>,
    limit: u32,
) -> Result<Vec<Event>, CatalogError> {
    let row = |r: &Row<'_>| Ok((format!("event {}", r.get::<_, i64>(0)?), r.get(1)?));
    let rows = match vm {
        None => texts(
            connection,
            "SELECT id, record FROM event ORDER BY id DESC LIMIT ?1",
            [limit],
            row,
        ),
        Some(vm) => texts(
            connection,
            "SELECT id, record FROM event WHERE vm = ?1 ORDER BY id DESC LIMIT ?2",
            params![vm.to_string(), limit],
            row,
        ),
    }?;
    rows.into_iter().map(|(key, text)| decode(&key, &text)).collect()
}
