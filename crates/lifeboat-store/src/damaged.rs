//! Files that cannot be used and are not deleted: each is moved to a directory of its own in the replica, where a person
//! finds it. What else is here goes on without it.

use std::os::unix::fs::MetadataExt;

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_engine::ports::storage::StorageFaultKind as Kind;
use lifeboat_model::Timestamp;

use crate::error::{Result, io_error};
use crate::faults::{Faults, now};
use crate::files;

/// Directory of what was set aside.
pub(crate) const DIR: &str = "damaged";

/// Moves `file` (relative to the replica's directory) out of the way durably and returns its new place, absolute.
pub(crate) fn set_aside(dir: &Utf8Path, file: &Utf8Path) -> Result<Utf8PathBuf> {
    let place = dir.join(DIR);
    std::fs::create_dir_all(&place).map_err(io_error("make", &place))?;
    let name = file.file_name().unwrap_or("file");
    let free = |n: u32| match n {
        0 => place.join(name),
        n => place.join(format!("{name}.{n}")),
    };
    let to = (0..).map(free).find(|p| !p.exists());
    let to = to.unwrap_or_else(|| place.join(name));
    let from = dir.join(file);
    std::fs::rename(&from, &to).map_err(io_error("set aside", &from))?;
    files::sync_dir(&place)?;
    files::sync_dir(from.parent().unwrap_or(dir))?;
    files::sync_dir(dir)?;
    tracing::warn!(%from, %to, "a damaged file was set aside");
    Ok(to)
}

/// Says what is set aside, until a person has removed it.
pub(crate) fn note(dir: &Utf8Path, faults: &Faults) -> Result<()> {
    let place = dir.join(DIR);
    let names = files::names(&place)?;
    faults.end(|f| {
        let gone = |name: &str| !names.iter().any(|n| n == name);
        f.kind == Kind::SetAside && f.path.starts_with(&place) && f.path.file_name().is_none_or(gone)
    });
    for name in names {
        let path = place.join(name);
        // Renaming changed the file's status, so that is when it was set aside.
        let changed = std::fs::metadata(&path).map(|m| u64::try_from(m.ctime()).unwrap_or_default());
        let since = changed.map_or_else(|_| now(), |seconds| Timestamp(seconds.saturating_mul(1000)));
        let detail = "it was damaged or could not be used any more, and is set aside; delete it when you do not need it";
        faults.note_since(Kind::SetAside, &path, detail, since);
    }
    Ok(())
}
