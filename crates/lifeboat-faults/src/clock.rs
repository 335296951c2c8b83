//! The wall clock that a process sees, changed while it runs. The monotonic clock stays true, as when an administrator or a
//! time server sets a real clock. This is libfaketime (Debian package `faketime`), so the product needs no switch for it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// The clock of one process and of those of its children that have its environment: not of guests.
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
