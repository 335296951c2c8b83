//! Temporary space: what a guest overwrites while an instant is read is kept in files here.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use lifeboat_engine::ports::capture::CaptureError;
use lifeboat_model::DiskId;

use crate::files;

/// The temporary space of one VM.
#[derive(Clone, Debug)]
pub struct Space {
    /// Made when it is needed, and removed with everything in it.
    pub dir: PathBuf,
    /// Bytes that stay free.
    pub reserve: u64,
}

impl Space {
    /// Refuses when the reserve is touched.
    pub(crate) fn check(&self) -> Result<(), CaptureError> {
        // The directory itself may not exist yet; its nearest ancestor that does lies in the same file system.
        let there = self
            .dir
            .ancestors()
            .find(|p| p.exists())
            .unwrap_or(Path::new("/"));
        let stat = rustix::fs::statvfs(there).map_err(|e| self.failed(e.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free <= self.reserve {
            return Err(CaptureError::NoSpace(format!(
                "{}: {} MiB are free, {} MiB are to stay free",
                self.dir.display(),
                free >> 20,
                self.reserve >> 20
            )));
        }
        Ok(())
    }

    /// An empty file as large as the disk, occupying nothing, and its path.
    pub(crate) fn create(&self, disk: &DiskId, size: u64) -> Result<(File, PathBuf), CaptureError> {
        let path = self.dir.join(format!("{disk}.old"));
        let make = || {
            files::private_dir(&self.dir)?;
            files::remove(&path)?;
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            file.set_len(size)?;
            Ok(file)
        };
        let file = make().map_err(|e| self.failed(e))?;
        Ok((file, path))
    }

    /// Gives everything back.
    pub(crate) fn clear(&self) -> Result<(), CaptureError> {
        files::remove_tree(&self.dir).map_err(|e| self.failed(e))
    }

    fn failed(&self, error: io::Error) -> CaptureError {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        if matches!(error.kind(), StorageFull | QuotaExceeded) {
            return CaptureError::NoSpace(format!("{}: {error}", self.dir.display()));
        }
        CaptureError::Block {
            what: format!("the temporary space {}", self.dir.display()),
            detail: error.to_string(),
        }
    }
}
