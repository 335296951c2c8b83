//! Everything that reaches a disk and has to stay there goes through here: writes, flushes of files, flushes of directories.
//!
//! An error of a write or a flush is final for its file. The kernel reports it once and then says that the pages are
//! clean, so that a second flush would succeed while the medium has nothing. Code that gets such an error makes the file again;
//! where a file must stay (a base), [`drop_cache`] makes the kernel forget what it only believes, so that what is read
//! afterwards is what the medium has. In tests all of this goes to a model of a medium with a volatile cache.

use std::fs::File;
use std::io;

use camino::Utf8Path;
use lifeboat_engine::ports::store::StoreError;
use rustix::fs::{Advice, fadvise};

use crate::error::{Result, io_error, is_full, lacks_key};
#[cfg(test)]
use crate::tests::medium;

/// Outside of tests the medium is the disk itself.
#[cfg(not(test))]
mod medium {
    use std::io;

    use camino::Utf8Path;

    pub(super) fn before_write(_path: &Utf8Path) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn sync(_path: &Utf8Path, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        work()
    }

    pub(super) fn sync_dir(_dir: &Utf8Path, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        work()
    }

    pub(super) fn drop_cache(_path: &Utf8Path) {}
}

/// Turns an error of a write or a flush into the store's; a full disk is not a failing one.
pub(crate) fn failing(what: &'static str, path: &Utf8Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| {
        let gone = source.kind() == io::ErrorKind::NotFound;
        if gone || is_full(&source) || lacks_key(&source) {
            io_error(what, &path)(source)
        } else {
            StoreError::Failing { path, what, source }
        }
    }
}

/// Carries out a write to `path`.
pub(crate) fn write<T>(path: &Utf8Path, work: impl FnOnce() -> io::Result<T>) -> Result<T> {
    write_raw(path, work).map_err(failing("a write", path))
}

/// As [`write`], with the kernel's own error.
pub(crate) fn write_raw<T>(path: &Utf8Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    medium::before_write(path)?;
    work()
}

/// Makes the content of the file at `path` durable by `work`.
pub(crate) fn sync_by(path: &Utf8Path, work: impl FnOnce() -> io::Result<()>) -> Result<()> {
    sync_raw(path, work).map_err(failing("a flush", path))
}

/// As [`sync_by`], with the kernel's own error.
pub(crate) fn sync_raw(path: &Utf8Path, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    medium::sync(path, work)
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir_raw(dir: &Utf8Path) -> io::Result<()> {
    sync_dir_by(dir, || File::open(dir).and_then(|d| d.sync_all()))
}

/// As [`sync_dir_raw`], by `work`, where the directory is open already.
pub(crate) fn sync_dir_by(dir: &Utf8Path, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    medium::sync_dir(dir, work)
}

/// Makes the kernel forget what it has of a file, so that the next reader gets what the medium has. Pages that wait to be
/// written are written first; where that fails they are believed clean from then on and go as well.
pub(crate) fn drop_cache(path: &Utf8Path) -> Result<()> {
    let forget = || {
        let file = File::open(path)?;
        let _ = file.sync_data();
        fadvise(&file, 0, None, Advice::DontNeed).map_err(io::Error::from)
    };
    forget().map_err(io_error("read again", path))?;
    medium::drop_cache(path);
    Ok(())
}
