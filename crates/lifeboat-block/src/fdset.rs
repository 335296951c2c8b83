//! Open files for a running QEMU process, which so needs no right to their paths: sets of descriptors that it opens by the name
//! `/dev/fdset/N`, and sockets that already listen. What a process is given when it is started is not known here.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use camino::Utf8Path;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::files;
use crate::qmp::{Monitor, QmpError};

/// The name by which QEMU opens a file of a set.
#[must_use]
pub fn set_name(set: impl std::fmt::Display) -> String {
    format!("/dev/fdset/{set}")
}

/// A file in a set of a running process.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Lent {
    fdset_id: u64,
    fd: u64,
}

impl Lent {
    /// By which QEMU opens it.
    #[must_use]
    pub fn name(&self) -> String {
        set_name(self.fdset_id)
    }
}

/// Hands an open file over to a running process, into this set or into a new one.
///
/// # Errors
/// See [`QmpError`].
pub async fn lend(monitor: &dyn Monitor, set: Option<u32>, file: File) -> Result<Lent, QmpError> {
    let arguments = match set {
        Some(set) => json!({"fdset-id": set}),
        None => json!({}),
    };
    let lent = monitor
        .execute_with_file("add-fd", arguments, file.into())
        .await?;
    serde_json::from_value(lent).map_err(|e| QmpError::Protocol(format!("the answer to add-fd: {e}")))
}

/// Takes a file out of its set. Whatever QEMU opened by it stays open; a set without any is gone.
///
/// # Errors
/// See [`QmpError`]; that it was taken out before is none.
pub async fn take_back(monitor: &dyn Monitor, lent: &Lent) -> Result<(), QmpError> {
    let arguments = json!({"fdset-id": lent.fdset_id, "fd": lent.fd});
    match monitor.execute("remove-fd", arguments).await {
        // It was taken out before.
        Ok(_) | Err(QmpError::Command { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Takes all files out of these sets.
///
/// # Errors
/// See [`QmpError`].
pub async fn empty(monitor: &dyn Monitor, sets: &[u32]) -> Result<(), QmpError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Set {
        fdset_id: u64,
        fds: Vec<Member>,
    }
    #[derive(Deserialize)]
    struct Member {
        fd: u64,
    }
    let known = monitor.execute("query-fdsets", Value::Null).await?;
    let known: Vec<Set> = serde_json::from_value(known)
        .map_err(|e| QmpError::Protocol(format!("the answer to query-fdsets: {e}")))?;
    let wanted = known
        .iter()
        .filter(|known| sets.iter().any(|set| u64::from(*set) == known.fdset_id));
    for set in wanted {
        for Member { fd } in &set.fds {
            let lent = Lent {
                fdset_id: set.fdset_id,
                fd: *fd,
            };
            take_back(monitor, &lent).await?;
        }
    }
    Ok(())
}

/// A socket that only this user and root can connect to, in place of one that an earlier process left.
///
/// # Errors
/// What the system says.
pub fn listen(path: &Utf8Path) -> io::Result<UnixListener> {
    files::remove(path.as_std_path())?;
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
