//! Opening the catalog's file: who owns it, who may read it, how durable it is.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_engine::ports::catalog::CatalogError;
use rusqlite::{Connection, OpenFlags};

use crate::error::{damaged, database, file};
use crate::schema::{MIGRATIONS, checked_version, migrate};

/// How long a writer waits while a person's `sqlite3` holds a lock.
const BUSY: Duration = Duration::from_secs(5);

/// An open catalog. The lock outlives the connection, so the next owner finds the file closed.
pub(crate) struct Opened {
    /// The only connection that writes.
    pub(crate) connection: Connection,
    /// Where it is.
    pub(crate) path: Utf8PathBuf,
    /// Held for as long as the daemon lives; the kernel lets go of it when the process ends, however it ends.
    pub(crate) lock: File,
}

/// Opens or makes the catalog and takes it for this process alone.
pub(crate) fn open(path: &Utf8Path) -> Result<Opened, CatalogError> {
    let lock = take(path)?;
    make(path)?;
    let connection = connect(path)?;
    Ok(Opened {
        connection,
        path: path.to_owned(),
        lock,
    })
}

/// Opens the file that is this process's already: at its start, and again after an error, when what the last connection
/// had in memory is not believed.
pub(crate) fn connect(path: &Utf8Path) -> Result<Connection, CatalogError> {
    prepare(path).map_err(|e| {
        if let CatalogError::Database(detail) = e {
            CatalogError::Database(format!("{path}: {detail}"))
        } else {
            e
        }
    })
}

/// Reads everything that is in use once. Space that is free may hold anything.
fn intact(connection: &Connection) -> Result<(), CatalogError> {
    let said: String = connection
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(|e| database(&e))?;
    match said.as_str() {
        "ok" => Ok(()),
        said => Err(CatalogError::Database(damaged(said))),
    }
}

/// A lock file beside the database, not a lock on it: a person may read the records while the daemon runs.
fn take(path: &Utf8Path) -> Result<File, CatalogError> {
    let beside = Utf8PathBuf::from(format!("{path}.lock"));
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&beside)
        .map_err(|e| file(beside.as_str(), &e))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(CatalogError::Database(format!(
            "{path} is in use by another Lifeboat on this host; stop that one, or give this one a file of its own"
        ))),
        Err(TryLockError::Error(e)) => Err(file(beside.as_str(), &e)),
    }
}

/// Makes the empty file, readable by its owner only, so that SQLite makes its log with the same mode; and makes its
/// name durable.
fn make(path: &Utf8Path) -> Result<(), CatalogError> {
    match OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)
    {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        Err(e) => return Err(file(path.as_str(), &e)),
    }
    let parent = match path.parent() {
        Some(p) if !p.as_str().is_empty() => p,
        _ => Utf8Path::new("."),
    };
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| file(parent.as_str(), &e))
}

fn prepare(path: &Utf8Path) -> Result<Connection, CatalogError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(|e| database(&e))?;
    connection.busy_timeout(BUSY).map_err(|e| database(&e))?;
    // Versions and damage first: nothing is changed in a file that is refused.
    checked_version(&connection, MIGRATIONS.len())?;
    intact(&connection)?;
    migrate(&mut connection, MIGRATIONS)?;
    connection
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0))
        .map_err(|e| database(&e))?;
    connection
        .pragma_update(None, "synchronous", "FULL")
        .map_err(|e| database(&e))?;
    // Keys of exports are among the records: what is no longer one is overwritten, not only forgotten.
    connection
        .pragma_update(None, "secure_delete", "ON")
        .map_err(|e| database(&e))?;
    crate::rows::add_digests(&mut connection)?;
    crate::rows::part_groups(&mut connection)?;
    Ok(connection)
}
