//! Encrypted directories whose key is missing. The kernel answers there that no file exists which is asked for by its name, and
//! lists names that are none: so before anything is concluded from what is not there, it is asked whether the directory is
//! locked. Keys and policies are `lifeboat-kernel`'s.

use camino::Utf8Path;
use lifeboat_engine::ports::store::StoreError;
use lifeboat_kernel::AtRestError;
use lifeboat_kernel::at_rest::readable;

use crate::error::Result;

/// What a directory that is not worked in means for the replica in `dir`.
pub(crate) fn refusal(dir: &Utf8Path, error: &AtRestError) -> StoreError {
    if error.is_locked() {
        StoreError::Locked {
            path: dir.to_owned(),
            detail: error.to_string(),
        }
    } else {
        StoreError::Io {
            what: error.to_string(),
            source: std::io::ErrorKind::Unsupported.into(),
        }
    }
}

/// Refuses when the directory, or the nearest one above it, is locked.
pub(crate) fn check(dir: &Utf8Path) -> Result<()> {
    readable(dir.as_std_path()).map_err(|e| refusal(dir, &e))
}

/// Does work on the files in `dir`, unless they are locked. Where the key is taken away meanwhile, that is the error, whatever the
/// work concluded.
pub(crate) fn guarded<T>(dir: &Utf8Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    check(dir)?;
    let done = work();
    if done.is_err() {
        check(dir)?;
    }
    done
}
