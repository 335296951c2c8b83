//! Files that are made and never overwritten: keys, certificates and their directories, whole and durable or not at all.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};

use camino::Utf8Path;

use crate::error::{CertError, io};

/// Makes a directory for its owner alone, and those above it, where they are not there.
///
/// # Errors
/// It cannot be made.
pub fn make_dir(dir: &Utf8Path) -> Result<(), CertError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(io(dir))
}

/// Whether none of these is there, so that they can be made.
///
/// # Errors
/// The first that is there.
pub fn refuse_existing(paths: &[&Utf8Path]) -> Result<(), CertError> {
    match paths.iter().find(|p| p.symlink_metadata().is_ok()) {
        Some(path) => Err(CertError::Exists((*path).into())),
        None => Ok(()),
    }
}

/// The copy may be there from an earlier certificate, but not one of another CA.
pub(crate) fn copy_ca(pem: &[u8], to: &Utf8Path) -> Result<(), CertError> {
    match std::fs::read(to) {
        Ok(there) if there == pem => Ok(()),
        Ok(_) => Err(CertError::Exists(to.into())),
        Err(_) => write_new(to, &String::from_utf8_lossy(pem), 0o644),
    }
}

/// A durable file that has no name to stay yet.
fn beside(dir: &Utf8Path, text: &str, mode: u32) -> std::io::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(mode))
        .prefix(".lifeboat-")
        .tempfile_in(dir)?;
    // The mask of the process is not asked.
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Writes a file that is not there yet, whole and durable or not at all: its name appears with all of it. `mode` is its
/// permissions.
///
/// # Errors
/// It is there, or cannot be written.
pub fn write_new(path: &Utf8Path, text: &str, mode: u32) -> Result<(), CertError> {
    let parent = path
        .parent()
        .filter(|p| !p.as_str().is_empty())
        .unwrap_or(Utf8Path::new("."));
    let made = || {
        beside(parent, text, mode)?
            .persist_noclobber(path)
            .map_err(|e| e.error)?;
        File::open(parent)?.sync_all()
    };
    made().map_err(|e| {
        if e.kind() == std::io::ErrorKind::AlreadyExists {
            CertError::Exists(path.into())
        } else {
            io(path)(e)
        }
    })
}

/// Puts a file of its owner alone in the place of one that is there, whole and durable or not at all.
pub(crate) fn replace(dir: &Utf8Path, path: &Utf8Path, text: &str) -> Result<(), CertError> {
    let replaced = || {
        beside(dir, text, 0o600)?.persist(path).map_err(|e| e.error)?;
        File::open(dir)?.sync_all()
    };
    replaced().map_err(io(path))
}
