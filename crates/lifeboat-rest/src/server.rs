//! The socket: who may have it, who may connect to it, and how much a connection may ask for.

use std::fs::{File, TryLockError};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::sync::Arc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use lifeboat_admission::{AcceptLoop, Ending};
use lifeboat_engine::action::{Management, Refusal};
use lifeboat_model::api::ReturnCode;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::accounts;
use crate::http::{self, ErrorBody};

/// Connections served at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 128;
/// How long a client may take to send the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long requests in progress may take to end when the server stops.
const STOP_TIME: Duration = Duration::from_secs(5);
/// For a lock that a daemon which is gone has left to a program it was starting.
const LOCK_TIME: Duration = Duration::from_secs(3);

/// Who may act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// User ids that may connect; root and the daemon's own user are among them only when they are listed.
    pub uids: Vec<u32>,
    /// Members of this group as well.
    pub gid: Option<u32>,
}

impl Admission {
    /// Root, the user this process runs as, and members of `admin_gid`.
    #[must_use]
    pub fn local(admin_gid: Option<u32>) -> Self {
        Self {
            uids: vec![0, rustix::process::geteuid().as_raw()],
            gid: admin_gid,
        }
    }

    fn allows(&self, uid: u32, groups: &[u32]) -> bool {
        self.uids.contains(&uid) || self.gid.is_some_and(|g| groups.contains(&g))
    }

    fn admits(&self, stream: &UnixStream) -> bool {
        let Ok(peer) = stream.peer_cred() else {
            return false;
        };
        let mut groups = vec![peer.gid()];
        if self.gid.is_some() {
            groups.extend(peer.pid().map(supplementary_groups).unwrap_or_default());
        }
        self.allows(peer.uid(), &groups)
    }
}

/// The kernel's credentials name only the first group of a process; the others are in its status. Should the process
/// have ended and its number be in use again, the file mode of the socket has still let only group members connect.
fn supplementary_groups(pid: i32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("Groups:"))
        .unwrap_or_default();
    line.split_whitespace().filter_map(|g| g.parse().ok()).collect()
}

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon serves on it.
    #[error("another daemon is running: it answers on {0}. Stop it first, or give this one another socket")]
    InUse(Utf8PathBuf),
    /// Something that is not a socket is there.
    #[error("{0} exists and is not a socket. Move it away, or configure another path")]
    NotASocket(Utf8PathBuf),
    /// A file operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// A bound socket.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: Utf8PathBuf,
    admission: Admission,
    /// Held as long as the socket is ours; the kernel lets go of it however this process ends.
    _lock: File,
}

impl Server {
    /// Takes the socket. A socket left behind by a daemon that is gone is replaced. Must be called within a runtime.
    pub fn bind(path: &Utf8Path, admission: Admission) -> Result<Self, BindError> {
        let io = |what: String| move |source| BindError::Io { what, source };
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(io(format!("make directory {dir}")))?;
        }
        let lock_path = Utf8PathBuf::from(format!("{path}.lock"));
        let open = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path);
        let lock = open.map_err(io(format!("open {lock_path}")))?;
        match taken(&lock) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(BindError::InUse(path.into())),
            Err(TryLockError::Error(source)) => return Err(io(format!("lock {lock_path}"))(source)),
        }
        clear_stale(path)?;
        let listener = UnixListener::bind(path).map_err(io(format!("bind {path}")))?;
        if let Some(gid) = admission.gid {
            std::os::unix::fs::chown(path, None, Some(gid))
                .map_err(io(format!("give {path} to group {gid}")))?;
        }
        let mode = std::fs::Permissions::from_mode(0o660);
        std::fs::set_permissions(path, mode).map_err(io(format!("set mode of {path}")))?;
        Ok(Self {
            listener,
            path: path.into(),
            admission,
            _lock: lock,
        })
    }

    /// Serves until `stop`, lets requests in progress end, and removes the socket.
    pub async fn serve(self, management: Arc<dyn Management>, stop: CancellationToken) {
        let router = http::router(management, stop.clone());
        let ending = Ending::new(stop.clone(), STOP_TIME);
        let admit = |stream, _, slot| {
            let (admission, router, stop) = (self.admission.clone(), router.clone(), stop.clone());
            Some(async move {
                connection(stream, &admission, router, stop).await;
                drop(slot);
            })
        };
        AcceptLoop::new("management socket", MAX_CONNECTIONS, ending)
            .run(self.listener, admit)
            .await;
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, socket = %self.path, "cannot remove the management socket");
        }
    }
}

/// Takes the lock. A daemon that was killed while it started another program leaves it to that one until its image is loaded,
/// which takes long on a busy host; so it is tried for a while. Nothing else of this process has begun yet.
fn taken(lock: &File) -> Result<(), TryLockError> {
    let end = std::time::Instant::now() + LOCK_TIME;
    loop {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if std::time::Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(20));
            }
            tried => return tried,
        }
    }
}

fn clear_stale(path: &Utf8Path) -> Result<(), BindError> {
    let io = |what: &str| {
        let what = format!("{what} {path}");
        move |source| BindError::Io { what, source }
    };
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(io("look at")(e)),
        Ok(meta) if !meta.file_type().is_socket() => Err(BindError::NotASocket(path.into())),
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => Err(BindError::InUse(path.into())),
        Ok(_) => std::fs::remove_file(path).map_err(io("remove stale socket")),
    }
}

async fn connection(
    stream: UnixStream,
    admission: &Admission,
    router: axum::Router,
    stop: CancellationToken,
) {
    if !admission.admits(&stream) {
        turn_away(stream).await;
        return;
    }
    let router = match stream.peer_cred() {
        Ok(peer) => router.layer(axum::Extension(accounts::caller(peer.uid(), peer.pid()))),
        Err(_) => router,
    };
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_headers(64);
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection to the management socket ended early");
    }
}

/// Nothing that a process without permission sends is read, let alone parsed.
async fn turn_away(mut stream: UnixStream) {
    let refusal = Refusal::new(
        ReturnCode::AccessDenied,
        "only root, the daemon's own user and members of its admin group may manage this host",
        lifeboat_model::hint::Again::AsAdministrator,
    );
    let body = serde_json::to_string(&ErrorBody::from(refusal)).unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 403 Forbidden\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let send = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    };
    if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(1), send).await {
        tracing::debug!(%error, "a process without permission left before its refusal");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_users_and_the_group_may_act() {
        let some = Admission {
            uids: vec![0, 990],
            gid: Some(50),
        };
        assert!(some.allows(0, &[]) && some.allows(990, &[7]) && some.allows(1000, &[1000, 50]));
        assert!(!some.allows(1000, &[1000]) && !some.allows(50, &[0]));
        let no_group = Admission { gid: None, ..some };
        assert!(!no_group.allows(1000, &[50]));
        assert!(
            Admission::local(None)
                .uids
                .contains(&rustix::process::geteuid().as_raw())
        );
    }

    #[test]
    fn groups_of_a_process_are_found() {
        let own = i32::try_from(std::process::id()).unwrap();
        let known: Vec<u32> = rustix::process::getgroups()
            .unwrap()
            .iter()
            .map(|g| g.as_raw())
            .collect();
        assert_eq!(supplementary_groups(own), known);
        assert!(supplementary_groups(-1).is_empty());
    }
}
