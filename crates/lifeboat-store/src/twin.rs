//! The manifest's file and its copy: what is done when one changed bit is found in either. How that is found, `digested` knows.
//!
//! The copy leaves the head out, which is made again from the logs, so that it has to be written only when a recovery point,
//! a branch or the first copy changes and not with every log.

use std::io::ErrorKind;

use camino::Utf8Path;
use lifeboat_engine::ports::store::StoreError;

use crate::damaged;
use crate::digested::{checked, text};
use crate::error::{Result, io_error};
use crate::files;
use crate::manifest::{Manifest, NAME};

/// File name of the copy.
pub(crate) const COPY: &str = "manifest.backup.json";

/// What was found.
pub(crate) struct Found {
    pub(crate) manifest: Manifest,
    /// The file itself could not be used, for this reason; the manifest is that of the copy.
    pub(crate) recovered: Option<String>,
}

/// Reads one of the files; `None` when it is not there.
pub(crate) fn read(dir: &Utf8Path, name: &str) -> Result<Option<Manifest>> {
    let path = dir.join(name);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error("read", &path)(e)),
    };
    let damaged = |detail: String| StoreError::Damaged {
        path: path.clone(),
        detail,
    };
    let text = String::from_utf8(bytes).map_err(|_| damaged("it is no text any more".to_owned()))?;
    let text = checked(&text).map_err(damaged)?;
    Manifest::parse(&path, text.as_bytes()).map(Some)
}

/// Reads the manifest in `dir`, or its copy when it is damaged or gone; `None` when there is neither.
pub(crate) fn load(dir: &Utf8Path) -> Result<Option<Found>> {
    let error = match read(dir, NAME) {
        Ok(Some(manifest)) => {
            return Ok(Some(Found {
                manifest,
                recovered: None,
            }));
        }
        Ok(None) => None,
        Err(e @ StoreError::Damaged { .. }) => Some(e),
        Err(e) => return Err(e),
    };
    match (read(dir, COPY), error) {
        (Ok(Some(manifest)), error) => {
            let why = error.map_or_else(|| "it is gone".to_owned(), |e| e.to_string());
            Ok(Some(Found {
                manifest,
                recovered: Some(why),
            }))
        }
        (Ok(None), None) => Ok(None),
        (Err(e), None) => Err(e),
        (Ok(None), Some(StoreError::Damaged { path, detail })) => Err(StoreError::Damaged {
            path,
            detail: format!("{detail}; restore it, or replicate this VM again"),
        }),
        (Err(_), Some(StoreError::Damaged { path, detail })) => Err(StoreError::Damaged {
            path,
            detail: format!(
                "{detail}, and its copy {COPY} is damaged as well; restore one of them, or replicate this VM again"
            ),
        }),
        (Ok(None) | Err(_), Some(other)) => Err(other),
    }
}

/// Puts a manifest that was read from the copy in the place of the one that could not be used.
pub(crate) fn restore(dir: &Utf8Path, manifest: &Manifest) -> Result<()> {
    if dir.join(NAME).exists() {
        damaged::set_aside(dir, Utf8Path::new(NAME))?;
    }
    manifest.save(dir)
}

/// Writes the copy. Its name need not be durable: an older copy is replaced at the next start.
pub(crate) fn save_copy(dir: &Utf8Path, copy: &Manifest) -> Result<()> {
    let path = dir.join(COPY);
    let text = text(copy).map_err(|e| io_error("write", &path)(e.into()))?;
    files::put(&path, text.as_bytes())
}
