//! The few file operations everything here is made of: durable replacement, removal, free space. No knowledge of what the files
//! mean.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;

use camino::Utf8Path;
use lifeboat_engine::ports::store::{Ranges, StoreError};
use rustix::fs::SeekFrom;

use crate::durable;
use crate::error::{Result, io_error};
use crate::locked;

/// Bytes in a MiB.
pub(crate) const MIB: u64 = 1 << 20;

/// Makes a directory's entries durable.
pub(crate) fn sync_dir(dir: &Utf8Path) -> Result<()> {
    durable::sync_dir_raw(dir).map_err(durable::failing("a flush", dir))
}

/// Makes a file's content durable, also what another process wrote.
pub(crate) fn sync_file(path: &Utf8Path) -> Result<()> {
    durable::sync_by(path, || File::open(path).and_then(|f| f.sync_all()))
}

/// Writes `bytes` beside `path` and puts them in its place: after a crash the file is the old one or the new one.
pub(crate) fn replace(path: &Utf8Path, bytes: &[u8]) -> Result<()> {
    replace_with(path, |file| file.write_all(bytes))
}

/// As [`replace`], with content that `fill` writes.
pub(crate) fn replace_with(path: &Utf8Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let first = !path.exists();
    put_with(path, fill)?;
    let synced = sync_dir(path.parent().unwrap_or(path));
    if synced.is_err() && first {
        // Found later, it would be taken for durable.
        let _ = fs::remove_file(path);
    }
    synced
}

/// Like [`replace`], but the name may lead to the old file after a crash.
pub(crate) fn put(path: &Utf8Path, bytes: &[u8]) -> Result<()> {
    put_with(path, |file| file.write_all(bytes))
}

fn put_with(path: &Utf8Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let tmp = path.with_extension("tmp");
    let write = || {
        let mut file = create(&tmp)?;
        durable::write_raw(&tmp, || fill(&mut file))?;
        durable::sync_raw(&tmp, || file.sync_all())?;
        fs::rename(&tmp, path)
    };
    if let Err(error) = write() {
        // Not believed, and removing it gives the room back when the disk is full.
        let _ = fs::remove_file(&tmp);
        return Err(durable::failing("a write", path)(error));
    }
    Ok(())
}

/// Makes a file that is a new one: nothing of what had its name is believed.
pub(crate) fn create(path: &Utf8Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Ok(()) | Err(_) => {}
    }
    File::options().read(true).write(true).create_new(true).open(path)
}

/// Makes a directory durably if it is not there. What it is in must be.
pub(crate) fn make_dir(dir: &Utf8Path) -> Result<()> {
    match fs::create_dir(dir) {
        Ok(()) => sync_dir(dir.parent().unwrap_or(dir)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(io_error("make", dir)(e)),
    }
}

/// Removes a file that may be gone already.
pub(crate) fn remove(path: &Utf8Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes a directory tree that may be gone already.
pub(crate) fn remove_tree(path: &Utf8Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Names in a directory; none when it does not exist. Names that are not UTF-8 are none of ours and are skipped. A locked
/// directory, whose names are none, is an error, and so is one that seems not to exist in a locked one.
pub(crate) fn names(dir: &Utf8Path) -> Result<Vec<String>> {
    locked::check(dir)?;
    let listed = list(dir)?;
    locked::check(dir)?;
    Ok(listed)
}

fn list(dir: &Utf8Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_error("list", dir)(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("list", dir))?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// Refuses when writing `bytes` more below `dir` would leave less than `reserve` bytes free.
pub(crate) fn room(dir: &Utf8Path, bytes: u64, reserve: u64) -> Result<()> {
    let stat = rustix::fs::statvfs(dir.as_std_path()).map_err(|e| io_error("look at", dir)(e.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < reserve.saturating_add(bytes) {
        return Err(StoreError::NoSpace(dir.to_owned()));
    }
    Ok(())
}

/// Bytes a file takes on disk (holes do not count); 0 when the file cannot be looked at.
pub(crate) fn usage(path: &Utf8Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.blocks().saturating_mul(512))
}

/// The ranges of a file between two bytes for which room is taken. Where that cannot be asked, none is.
pub(crate) fn stored(file: &File, from: u64, to: u64) -> Ranges {
    let mut stored = Ranges::new();
    let mut at = from;
    while at < to {
        let Ok(data) = rustix::fs::seek(file, SeekFrom::Data(at)) else {
            break;
        };
        let hole = rustix::fs::seek(file, SeekFrom::Hole(data)).unwrap_or(to).min(to);
        if hole <= data {
            break;
        }
        stored.push((data, hole - data));
        at = hole;
    }
    stored
}
