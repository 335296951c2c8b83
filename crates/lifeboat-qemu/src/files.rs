//! Files of this host: small ones that must survive a crash or be of bounded size, and who has a file open.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub(crate) use lifeboat_block::files::{private_dir, remove, remove_tree, write_durably};

/// The content of a file of at most `limit` bytes.
pub(crate) fn read_at_most(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let why = format!("it has more than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

/// Processes that have `path` open, as "name (pid)", as far as this user may see them.
pub(crate) fn holders(path: &Path) -> Vec<String> {
    let (Ok(wanted), Ok(entries)) = (fs::metadata(path), fs::read_dir("/proc")) else {
        return Vec::new();
    };
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(fds) = fs::read_dir(entry.path().join("fd")) else {
            continue;
        };
        let open = fds
            .flatten()
            .filter_map(|fd| fs::metadata(fd.path()).ok())
            .any(|m| (m.dev(), m.ino()) == (wanted.dev(), wanted.ino()));
        if open && pid != own {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push(format!("{} (pid {pid})", name.trim()));
        }
    }
    found
}

/// A sentence about who has `path` open, to be put after an error; empty when no process is seen.
pub(crate) fn held_by(path: &Path) -> String {
    let holders = holders(path);
    if holders.is_empty() {
        String::new()
    } else {
        format!("; opened by {}", holders.join(", "))
    }
}
