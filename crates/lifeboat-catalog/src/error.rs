//! SQLite's errors in the catalog's words.

use lifeboat_engine::ports::catalog::CatalogError;
use rusqlite::ErrorCode;
use rusqlite::ffi;

/// Any error but that of a record.
pub(crate) fn database(error: &rusqlite::Error) -> CatalogError {
    match error.sqlite_error() {
        Some(e) if e.code == ErrorCode::DiskFull => CatalogError::NoSpace,
        // The shared-memory file beside the log is only ever grown, and growing fails for lack of space.
        Some(e) if e.extended_code == ffi::SQLITE_IOERR_SHMSIZE => CatalogError::NoSpace,
        Some(e) if e.code == ErrorCode::NotADatabase => {
            CatalogError::Database("the file is not an SQLite database; name another file".into())
        }
        Some(e) if e.code == ErrorCode::DatabaseCorrupt => CatalogError::Database(format!(
            "the file is damaged ({error}); put it aside and restore a copy"
        )),
        Some(e) if e.code == ErrorCode::DatabaseBusy => {
            CatalogError::Database("another program has held a lock on the file for too long; end it".into())
        }
        _ => CatalogError::Database(error.to_string()),
    }
}

/// An error of the file system while opening.
pub(crate) fn file(what: &str, error: &std::io::Error) -> CatalogError {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => CatalogError::NoSpace,
        _ => CatalogError::Database(format!("{what}: {error}")),
    }
}
