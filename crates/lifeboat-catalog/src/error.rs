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
        Some(e) if e.code == ErrorCode::DatabaseCorrupt => {
            CatalogError::Database(damaged(&error.to_string()))
        }
        Some(e) if e.code == ErrorCode::DatabaseBusy => {
            CatalogError::Database("another program has held a lock on the file for too long; end it".into())
        }
        _ => CatalogError::Database(error.to_string()),
    }
}

/// What is said of a damaged file; the replicas beside it are not touched by any of that.
pub(crate) fn damaged(detail: &str) -> String {
    format!(
        "the file is damaged ({detail}); put it aside and restore a copy, or save what can be read of it with: sqlite3 FILE .recover | sqlite3 NEW"
    )
}

/// An error of the file system while opening.
pub(crate) fn file(what: &str, error: &std::io::Error) -> CatalogError {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    if matches!(error.kind(), StorageFull | QuotaExceeded) {
        CatalogError::NoSpace
    } else {
        CatalogError::Database(format!("{what}: {error}"))
    }
}
