//! The wall clock that a process sees, changed while it runs. The monotonic clock stays true, as when an administrator or a
//! time server sets a real clock. This is libfaketime (Debian package `faketime`), so the product needs no switch for it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// The clock of one process and its children.
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// A clock that is right until it is told otherwise. `file` is where its offset is kept.
    ///
    /// # Errors
    /// When libfaketime is not installed.
    pub fn new(file: &Path) -> Result<Self> {
        std::fs::metadata(LIBRARY)
            .with_context(|| format!("{LIBRARY} is missing: run scripts/setup.sh (package faketime)"))?;
        let clock = Self {
            file: file.to_owned(),
        };
        clock.set(0)?;
        Ok(clock)
    }

    /// What the process has to be started with.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let pairs = [
            ("LD_PRELOAD", LIBRARY.to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("FAKETIME_DONT_RESET", "1".to_owned()),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// Lets processes of every user go by the clock of this running process: libfaketime 0.9.10 keeps what its children need in
    /// shared memory of its own user.
    ///
    /// # Errors
    /// When the process does not go by a clock of this kind.
    pub fn share(pid: u32) -> Result<()> {
        for name in [format!("sem.faketime_sem_{pid}"), format!("faketime_shm_{pid}")] {
            let path = Path::new("/dev/shm").join(name);
            std::fs::set_permissions(&path, Permissions::from_mode(0o666))
                .with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// From now on the clock is so many seconds ahead of the true time.
    ///
    /// # Errors
    /// When the file cannot be replaced.
    pub fn set(&self, seconds_ahead: i64) -> Result<()> {
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{seconds_ahead:+}\n"))?;
        std::fs::rename(&new, &self.file)?;
        Ok(())
    }
}
