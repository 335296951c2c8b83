//! Rows and the records in them. Every function is one statement or part of the caller's transaction.

use crate::error::database;
use lifeboat_engine::ports::catalog::{CatalogError, CatalogImage, Recorded};
use lifeboat_engine::records::{self};
use lifeboat_engine::records::{Event, Job, Record, RecordError, Relationship, Request, ServerSettings};
use lifeboat_model::hint::Trust;
use lifeboat_model::{AuthorizationEntry, JobId, RequestId, Timestamp, VmId};
use rusqlite::{Connection, Params, Row, params};

/// Events kept.
pub(crate) const EVENTS_KEPT: i64 = 10_000;

fn encode(key: &str, record: &impl Record) -> Result<String, CatalogError> {
    records::write(record).map_err(|e| refused(key, e))
}

fn decode<T: Record>(key: &str, text: &str) -> Result<T, CatalogError> {
    records::read(text).map_err(|e| refused(key, e))
}

fn refused(key: &str, error: RecordError) -> CatalogError {
    match error {
        RecordError::TooNew { found, known } => CatalogError::NewerRecord {
            key: key.into(),
            found,
            known,
        },
        RecordError::Lacks(_) | RecordError::Malformed(_) => {
            CatalogError::Record(key.into(), error.to_string())
        }
    }
}

/// The digest of a record: its key belongs to it, so that a record under another one's key is found.
fn digest(key: &str, text: &str) -> String {
    let mut hash = blake3::Hasher::new();
    hash.update(key.as_bytes()).update(b"\n").update(text.as_bytes());
    hash.finalize().to_hex().to_string()
}

/// Whether a record is what was written. One without a digest was written by version 1.
fn is_intact(row: &Text) -> Result<(), CatalogError> {
    match &row.digest {
        Some(said) if *said != digest(&row.key, &row.text) => Err(CatalogError::Record(
            row.key.clone(),
            "it is not what was written: its digest differs; restore a copy of the file, or delete this row with sqlite3".into(),
        )),
        Some(_) | None => Ok(()),
    }
}

/// A row: its key for people, its record, and the digest that was written with it.
struct Text {
    key: String,
    text: String,
    digest: Option<String>,
}

fn run(connection: &Connection, sql: &str, parameters: impl Params) -> Result<usize, CatalogError> {
    connection
        .prepare_cached(sql)
        .and_then(|mut s| s.execute(parameters))
        .map_err(|e| database(&e))
}

/// All rows of a query.
fn texts<T>(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
    row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, CatalogError> {
    let mut statement = connection.prepare_cached(sql).map_err(|e| database(&e))?;
    let rows = statement.query_map(parameters, row).map_err(|e| database(&e))?;
    rows.collect::<rusqlite::Result<_>>().map_err(|e| database(&e))
}

/// Decodes rows and checks that each record is what was written and belongs to its key: a mixed-up row must not act on
/// another VM.
fn records<T: Record>(rows: Vec<Text>, key_of: impl Fn(&T) -> String) -> Result<Vec<T>, CatalogError> {
    let one = |row: Text| {
        is_intact(&row)?;
        let record = decode(&row.key, &row.text)?;
        let inside = key_of(&record);
        if inside == row.key {
            Ok(record)
        } else {
            Err(CatalogError::Record(row.key, format!("it holds {inside}")))
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

fn request_key(id: impl std::fmt::Display) -> String {
    format!("request {id}")
}

fn entry_key(primary: impl std::fmt::Display) -> String {
    format!("authorization entry {primary}")
}

/// The trust group of entries whose group was not named, up to version 2.
const UNNAMED: &str = "default";

/// Key for people of the server's settings.
const SERVER: &str = "server settings";

fn event_key(vm: Option<&str>, at: i64) -> String {
    format!("event of {} at {at}", vm.unwrap_or("the host"))
}

const RELATIONSHIPS: &str = "SELECT vm, peer_index, record, digest FROM relationship ORDER BY vm, peer_index";
const JOBS: &str = "SELECT id, record, digest FROM job ORDER BY id";
const ENTRIES: &str = "SELECT primary_host, record, digest FROM authorization_entry ORDER BY primary_host";
const REQUESTS: &str = "SELECT id, record, digest FROM request ORDER BY id";
const SERVERS: &str = "SELECT record, digest FROM server_settings";

fn relationship_row(r: &Row<'_>) -> rusqlite::Result<Text> {
    Ok(Text {
        key: relationship_key(r.get::<_, String>(0)?, r.get::<_, i64>(1)?),
        text: r.get(2)?,
        digest: r.get(3)?,
    })
}

fn keyed(key: impl Fn(String) -> String, r: &Row<'_>) -> rusqlite::Result<Text> {
    Ok(Text {
        key: key(r.get(0)?),
        text: r.get(1)?,
        digest: r.get(2)?,
    })
}

fn server_row(r: &Row<'_>) -> rusqlite::Result<Text> {
    Ok(Text {
        key: SERVER.into(),
        text: r.get(0)?,
        digest: r.get(1)?,
    })
}

/// Everything but the events, ordered by key.
pub(crate) fn load(connection: &Connection) -> Result<CatalogImage, CatalogError> {
    let relationships = texts(connection, RELATIONSHIPS, [], relationship_row)?;
    let jobs = texts(connection, JOBS, [], |r| keyed(job_key, r))?;
    let entries = texts(connection, ENTRIES, [], |r| keyed(entry_key, r))?;
    let requests = texts(connection, REQUESTS, [], |r| keyed(request_key, r))?;
    let servers = texts(connection, SERVERS, [], server_row)?;
    let server: Vec<ServerSettings> = records(servers, |_| SERVER.into())?;
    Ok(CatalogImage {
        relationships: records(relationships, |r: &Relationship| relationship_key(r.vm, r.index))?,
        jobs: records(jobs, |j: &Job| job_key(j.id))?,
        entries: records(entries, |e: &AuthorizationEntry| entry_key(&e.primary))?,
        server: server.into_iter().next().unwrap_or_default(),
        requests: records(requests, |r: &Request| request_key(r.id))?,
    })
}

/// Gives the records of version 1 their digests, as they are now.
pub(crate) fn add_digests(connection: &mut Connection) -> Result<(), CatalogError> {
    let transaction = connection.transaction().map_err(|e| database(&e))?;
    let without = |rows: Vec<Text>| rows.into_iter().filter(|r| r.digest.is_none());
    for (table, sql) in [
        ("relationship", RELATIONSHIPS),
        ("job", JOBS),
        ("authorization_entry", ENTRIES),
        ("server_settings", SERVERS),
    ] {
        let rows = texts(&transaction, sql, [], |r| match table {
            "relationship" => relationship_row(r),
            "job" => keyed(job_key, r),
            "authorization_entry" => keyed(entry_key, r),
            _ => server_row(r),
        })?;
        let update = format!("UPDATE {table} SET digest = ?1 WHERE record = ?2 AND digest IS NULL");
        for row in without(rows) {
            run(&transaction, &update, [digest(&row.key, &row.text), row.text])?;
        }
    }
    transaction.commit().map_err(|e| database(&e))
}

/// Gives each entry of version 2 that has the group of all unnamed ones a group of its own, and says so.
pub(crate) fn part_groups(connection: &mut Connection) -> Result<(), CatalogError> {
    let transaction = connection.transaction().map_err(|e| database(&e))?;
    let before = "SELECT primary_host, record, digest FROM authorization_entry WHERE group_named = 0";
    let rows = texts(&transaction, before, [], |r| keyed(entry_key, r))?;
    let entries = records(rows, |e: &AuthorizationEntry| entry_key(&e.primary))?;
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    for entry in entries {
        if entry.trust_group != UNNAMED {
            put_entry(&transaction, &entry)?;
            continue;
        }
        let host = &entry.primary;
        let text = format!(
            "the trust group of the authorization entry {host} was \"{UNNAMED}\", like that of every entry whose group was \
             not named, so that all of these hosts could feed each other's replicas; it has a group of its own now"
        );
        add_event(
            &transaction,
            &Event {
                at: Timestamp::default().plus(now),
                vm: None,
                message: text,
                hint: Some(
                    Trust::ShareGroup {
                        primary: host.clone(),
                    }
                    .into(),
                ),
                by: None,
            },
        )?;
        let own = AuthorizationEntry {
            trust_group: host.clone(),
            ..entry
        };
        put_entry(&transaction, &own)?;
    }
    transaction.commit().map_err(|e| database(&e))
}

/// Writes or replaces a relationship.
pub(crate) fn put_relationship(connection: &Connection, record: &Relationship) -> Result<(), CatalogError> {
    let key = relationship_key(record.vm, record.index);
    let text = encode(&key, record)?;
    let sql = "INSERT INTO relationship (vm, peer_index, record, digest) VALUES (?1, ?2, ?3, ?4)
               ON CONFLICT DO UPDATE SET record = excluded.record, digest = excluded.digest";
    let digest = digest(&key, &text);
    run(
        connection,
        sql,
        params![record.vm.to_string(), record.index, text, digest],
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
    let key = job_key(record.id);
    let text = encode(&key, record)?;
    let sql = "INSERT INTO job (id, vm, record, digest) VALUES (?1, ?2, ?3, ?4)
               ON CONFLICT DO UPDATE SET vm = excluded.vm, record = excluded.record, digest = excluded.digest";
    let digest = digest(&key, &text);
    run(
        connection,
        sql,
        params![record.id.to_string(), record.vm.to_string(), text, digest],
    )
    .map(drop)
}

/// Removes a job if there is one.
pub(crate) fn remove_job(connection: &Connection, job: JobId) -> Result<(), CatalogError> {
    run(connection, "DELETE FROM job WHERE id = ?1", [job.to_string()]).map(drop)
}

/// Writes or replaces a request.
pub(crate) fn put_request(connection: &Connection, record: &Request) -> Result<(), CatalogError> {
    let key = request_key(record.id);
    let text = encode(&key, record)?;
    let sql = "INSERT INTO request (id, record, digest) VALUES (?1, ?2, ?3)
               ON CONFLICT DO UPDATE SET record = excluded.record, digest = excluded.digest";
    let digest = digest(&key, &text);
    run(connection, sql, params![record.id.to_string(), text, digest]).map(drop)
}

/// Removes a request if there is one.
pub(crate) fn remove_request(connection: &Connection, request: RequestId) -> Result<(), CatalogError> {
    run(
        connection,
        "DELETE FROM request WHERE id = ?1",
        [request.to_string()],
    )
    .map(drop)
}

/// Writes or replaces an authorization entry.
pub(crate) fn put_entry(connection: &Connection, record: &AuthorizationEntry) -> Result<(), CatalogError> {
    let key = entry_key(&record.primary);
    let text = encode(&key, record)?;
    let sql =
        "INSERT INTO authorization_entry (primary_host, record, digest, group_named) VALUES (?1, ?2, ?3, 1)
               ON CONFLICT DO UPDATE SET record = excluded.record, digest = excluded.digest, group_named = 1";
    let digest = digest(&key, &text);
    run(connection, sql, params![record.primary, text, digest]).map(drop)
}

/// Removes an authorization entry; returns whether there was one.
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
    let text = encode(SERVER, record)?;
    let sql = "INSERT INTO server_settings (one, record, digest) VALUES (1, ?1, ?2)
               ON CONFLICT DO UPDATE SET record = excluded.record, digest = excluded.digest";
    let digest = digest(SERVER, &text);
    run(connection, sql, [text, digest]).map(drop)
}

/// Appends an event and forgets the ones that are too many. Call it in a transaction.
pub(crate) fn add_event(connection: &Connection, event: &Event) -> Result<(), CatalogError> {
    let text = encode("event", event)?;
    let at = i64::try_from(event.at.0).unwrap_or(i64::MAX);
    let vm = event.vm.map(|vm| vm.to_string());
    let digest = digest(&event_key(vm.as_deref(), at), &text);
    run(
        connection,
        "INSERT INTO event (at, vm, record, digest) VALUES (?1, ?2, ?3, ?4)",
        params![at, vm, text, digest],
    )?;
    let oldest = connection.last_insert_rowid() - EVENTS_KEPT;
    run(connection, "DELETE FROM event WHERE id <= ?1", [oldest]).map(drop)
}

/// Events before a number, newest first. One more than is wanted is asked for, which says whether there are older ones.
pub(crate) fn events(
    connection: &Connection,
    vm: Option<VmId>,
    before: Option<u64>,
    limit: u32,
) -> Result<Recorded, CatalogError> {
    let (vm, limit) = (vm.map(|vm| vm.to_string()), i64::from(limit));
    let before = before.map_or(i64::MAX, |n| i64::try_from(n).unwrap_or(i64::MAX));
    let sql = match vm {
        None => {
            "SELECT vm, at, record, digest, id FROM event WHERE ?1 IS NULL AND id < ?2 ORDER BY id DESC LIMIT ?3"
        }
        Some(_) => {
            "SELECT vm, at, record, digest, id FROM event WHERE vm = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3"
        }
    };
    let row = |r: &Row<'_>| {
        let text = Text {
            key: event_key(r.get::<_, Option<String>>(0)?.as_deref(), r.get(1)?),
            text: r.get(2)?,
            digest: r.get(3)?,
        };
        Ok((r.get::<_, i64>(4)?, text))
    };
    let mut rows = texts(connection, sql, params![vm, before, limit + 1], row)?;
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > wanted;
    rows.truncate(wanted);
    let one = |(id, row): (i64, Text)| {
        let event = is_intact(&row).and_then(|()| decode(&row.key, &row.text));
        let event = event
            // An event is shown, not acted on: the others are worth more than an error.
            .inspect_err(|error| tracing::warn!(%error, "an event cannot be shown"))
            .ok();
        (u64::try_from(id).unwrap_or_default(), event)
    };
    let events = rows.into_iter().map(one).collect();
    Ok(Recorded { events, more })
}
