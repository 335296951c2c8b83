//! A directory that a caller has named to this program, which may do more than most callers: opened without following
//! a link in any part of its path, so that it is where its name says, and held open, so that it stays the same one. What is
//! in it is reached through the open directory alone. Permissions of what was there before are never changed.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use lifeboat_engine::ports::media::MediaError;
use lifeboat_model::guard::Standing;
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use crate::durable;
use crate::error::is_full;

type Result<T> = std::result::Result<T, MediaError>;

/// Turns an I/O error at `path` into that of a medium; a full one gets its own kind.
pub(crate) fn io_error(what: &str, path: &Utf8Path) -> impl FnOnce(io::Error) -> MediaError {
    let (what, path) = (what.to_owned(), path.to_owned());
    move |e| {
        if is_full(&e) {
            MediaError::NoSpace(path.parent().unwrap_or(&path).to_owned())
        } else {
            MediaError::Io(format!("{what} {path}: {e}"))
        }
    }
}

/// Of a directory that is only passed.
const PASSED: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Of the directory itself.
const ITSELF: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// An open directory.
pub(crate) struct Place {
    path: Utf8PathBuf,
    dir: File,
}

impl Place {
    /// The directory of this path.
    pub(crate) fn opened(path: &Utf8Path) -> Result<Self> {
        let missing = || io_error("open", path)(io::ErrorKind::NotFound.into());
        Self::existing(path)?.ok_or_else(missing)
    }

    /// As [`Place::opened`]; `None` when there is nothing of this name.
    pub(crate) fn existing(path: &Utf8Path) -> Result<Option<Self>> {
        walk(path, false)
    }

    /// As [`Place::opened`]; whatever of it is missing is made, for this program's user alone.
    pub(crate) fn made(path: &Utf8Path) -> Result<Self> {
        let missing = || io_error("make", path)(io::ErrorKind::NotFound.into());
        walk(path, true)?.ok_or_else(missing)
    }

    fn standing(&self) -> Result<Standing> {
        let meta = self.dir.metadata().map_err(io_error("look at", &self.path))?;
        Ok(Standing {
            owner: meta.uid(),
            mode: meta.mode(),
            us: rustix::process::geteuid().as_raw(),
        })
    }

    fn not_taken<T>(&self, why: impl Into<String>) -> Result<T> {
        Err(MediaError::NotTaken {
            dir: self.path.clone(),
            why: why.into(),
        })
    }

    /// This directory, if it may be written to: it is this user's, and no other user can put anything into it.
    pub(crate) fn writable(self) -> Result<Self> {
        let Standing { owner, us, .. } = self.standing()?;
        if owner == us {
            self.readable()
        } else {
            self.not_taken(format!(
                "it belongs to user {owner} and this program runs as user {us}; name a directory that does not exist yet, or change its owner"
            ))
        }
    }

    /// This directory, if only its owner can change what is read from it.
    pub(crate) fn readable(self) -> Result<Self> {
        if self.standing()?.others_write() {
            self.not_taken(
                "others than its owner may write to it; take that away (chmod go-w; for a medium without permissions, mount it with umask=077), or name a new directory below it",
            )
        } else {
            Ok(self)
        }
    }

    /// Its path, as it was named.
    pub(crate) fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Opens a file in it to read. Nothing else is opened, and none waits for a process at its other end.
    pub(crate) fn open(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.dir, name, flags, Mode::empty())?);
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::other("it is not a file"))
        }
    }

    /// Makes a file in it that only this user can read.
    pub(crate) fn create(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(File::from(rustix::fs::openat(&self.dir, name, flags, mode)?))
    }

    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.dir, name, AtFlags::empty())?)
    }

    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.dir, from, &self.dir, to)?)
    }

    /// Names of what is in it.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Makes its entries durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        durable::sync_dir_by(&self.path, || self.dir.sync_all())
    }
}

/// What a path of a person leads to that may not be followed.
fn refusal(path: &Utf8Path, error: Errno) -> MediaError {
    let link = std::fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink());
    let why = match error {
        Errno::LOOP | Errno::NOTDIR if link => "it is a symbolic link; name the directory it leads to",
        Errno::NOTDIR => "it is not a directory",
        _ => return io_error("open", path)(error.into()),
    };
    MediaError::NotTaken {
        dir: path.to_owned(),
        why: why.to_owned(),
    }
}

/// Goes along a path part by part; `None` when one is missing and is not to be made.
fn walk(path: &Utf8Path, make: bool) -> Result<Option<Place>> {
    let mut parts = path.components().peekable();
    if parts.next() != Some(Utf8Component::RootDir) {
        return Err(MediaError::Io(format!("{path} is no absolute path")));
    }
    let mut here = Utf8PathBuf::from("/");
    let flags = |last: bool| if last { ITSELF } else { PASSED };
    let root = rustix::fs::open("/", flags(parts.peek().is_none()), Mode::empty());
    let mut dir = root.map_err(|e| refusal(&here, e))?;
    while let Some(part) = parts.next() {
        let Utf8Component::Normal(name) = part else {
            return Err(MediaError::Io(format!("{path}: write it without ..")));
        };
        here.push(name);
        let flags = flags(parts.peek().is_none());
        let mut opened = rustix::fs::openat(&dir, name, flags, Mode::empty());
        if make && matches!(opened, Err(Errno::NOENT)) {
            match rustix::fs::mkdirat(&dir, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(io_error("make", &here)(e.into())),
            }
            opened = rustix::fs::openat(&dir, name, flags, Mode::empty());
        }
        dir = match opened {
            Err(Errno::NOENT) if !make => return Ok(None),
            opened => opened.map_err(|e| refusal(&here, e))?,
        };
    }
    Ok(Some(Place {
        path: path.to_owned(),
        dir: dir.into(),
    }))
}
