//! What an I/O error means to the store, which names the path: no room, no key, or an error of its own. Which errors are final for
//! a file, `durable` knows.

use std::io;

use camino::Utf8Path;
use lifeboat_engine::ports::store::StoreError;

pub(crate) type Result<T> = std::result::Result<T, StoreError>;

/// Turns an I/O error at `path` into the store's error; a full disk gets its own kind.
pub(crate) fn io_error(what: &str, path: &Utf8Path) -> impl FnOnce(io::Error) -> StoreError {
    let (what, path) = (what.to_owned(), path.to_owned());
    move |source| {
        if is_full(&source) {
            let dir = path.parent().unwrap_or(&path);
            StoreError::NoSpace(dir.to_owned())
        } else if lacks_key(&source) {
            without_key(&path)
        } else {
            StoreError::Io {
                what: format!("{what} {path}: {source}"),
                source,
            }
        }
    }
}

/// Whether an error says that there is no room. Image libraries wrap errors, so the cause is looked for as well.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded) || error.to_string().contains("No space left")
}

/// What the kernel says of a file whose key is missing (`ENOKEY`).
pub(crate) fn lacks_key(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOKEY.raw_os_error())
}

/// A file that cannot be opened, read or written for want of its key.
fn without_key(path: &Utf8Path) -> StoreError {
    let dir = path.parent().unwrap_or(path).to_owned();
    let detail =
        format!("the key of {path} is missing: start Lifeboat again, which gives it to the file system");
    StoreError::Locked { path: dir, detail }
}
