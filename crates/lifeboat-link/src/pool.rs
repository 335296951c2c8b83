//! Connections to peers: making them, and keeping the idle ones for the next call.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use lifeboat_engine::ports::link::{LinkError, PeerIdentity};
use lifeboat_model::Note;
use lifeboat_model::reach::check_resolved;
use lifeboat_model::{Fingerprint, Timestamp};
use lifeboat_tls::certificate::valid_until;
use lifeboat_tls::handshake::{find_fault, revoked_here};
use lifeboat_tls::{Credentials, Loaded, RevocationList, TlsFault, fingerprints, now};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::identity::identity;
use crate::progress::{Meter, Metered};
use crate::socket::tune;
use crate::wire::OutBody;
pub(crate) use lifeboat_model::causes::chain;

/// Idle connections kept to one peer.
const IDLE_MAX: usize = 4;
/// Idle for longer than this, a connection is not used again. Shorter than the called side's patience.
const IDLE_TIME: Duration = Duration::from_secs(60);
/// A connection is made again after this, whatever its certificates say.
const AGE_MAX: Duration = Duration::from_secs(3600);

/// A connection. Dropping it closes it, whatever it is doing.
pub(crate) struct Conn {
    /// Takes one request at a time.
    pub(crate) sender: SendRequest<OutBody>,
    /// Bytes over its socket.
    pub(crate) meter: Meter,
    task: JoinHandle<Result<(), hyper::Error>>,
    made: Instant,
    /// What it was made with.
    with: Arc<Loaded>,
    /// Until when the certificates of both sides are valid.
    pub(crate) valid_until: Timestamp,
    /// Who is at the other end.
    pub(crate) identity: PeerIdentity,
    /// What a revocation list may name the other side's certificates by.
    named: Vec<Fingerprint>,
    idle_since: Instant,
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Conn {
    /// Whether it may carry another request: it is open, young enough, and a new one would be made with the same
    /// certificates and be accepted.
    fn usable(&self, credentials: &Credentials) -> bool {
        !self.sender.is_closed()
            && self.idle_since.elapsed() < IDLE_TIME
            && self.made.elapsed() < AGE_MAX
            && now() <= self.valid_until
            && credentials.revoked().first_of(&self.named).is_none()
            && Arc::ptr_eq(&self.with, &credentials.in_use())
    }

    /// The connection's own last words, when it has ended or is about to: an alert may reach it after the request failed.
    async fn last_words(&mut self) -> Option<hyper::Error> {
        let ended = tokio::time::timeout(Duration::from_secs(1), &mut self.task)
            .await
            .ok()?;
        ended.ok()?.err()
    }
}

/// Connections to all peers.
pub(crate) struct Pool {
    credentials: Arc<Credentials>,
    connect_time: Duration,
    idle: Mutex<HashMap<String, Vec<Conn>>>,
}

impl Pool {
    /// No connection yet.
    pub(crate) fn new(credentials: Arc<Credentials>, connect_time: Duration) -> Self {
        Self {
            credentials,
            connect_time,
            idle: Mutex::default(),
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<Conn>>> {
        // A map of connections cannot be left half-changed by a panic elsewhere.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An idle connection, if one seems alive.
    pub(crate) fn take(&self, peer: &str) -> Option<Conn> {
        let mut idle = self.idle();
        let conns = idle.get_mut(peer)?;
        conns.retain(|c| c.usable(&self.credentials));
        let conn = conns.pop();
        if conns.is_empty() {
            idle.remove(peer);
        }
        conn
    }

    /// Keeps a connection whose last answer was read to its end.
    pub(crate) fn give_back(&self, peer: &str, mut conn: Conn) {
        conn.idle_since = Instant::now();
        let mut idle = self.idle();
        idle.retain(|_, conns| {
            conns.retain(|c| c.usable(&self.credentials));
            !conns.is_empty()
        });
        let conns = idle.entry(peer.to_owned()).or_default();
        if conns.len() < IDLE_MAX && conn.usable(&self.credentials) {
            conns.push(conn);
        }
    }

    /// Forgets all idle connections to a peer that did not answer: they would not either.
    pub(crate) fn forget(&self, peer: &str) {
        self.idle().remove(peer);
    }

    /// Makes a connection.
    pub(crate) async fn connect(&self, peer: &str) -> Result<Conn, LinkError> {
        match tokio::time::timeout(self.connect_time, self.establish(peer)).await {
            Ok(result) => result,
            Err(_) => Err(unreachable(
                peer,
                format!("no connection within {:?}", self.connect_time),
            )),
        }
    }

    async fn establish(&self, peer: &str) -> Result<Conn, LinkError> {
        let socket = self.dial(peer).await?;
        self.secure(peer, socket).await
    }

    /// Connects to the peer's host. That this succeeds proves that a program listens there.
    pub(crate) async fn dial(&self, peer: &str) -> Result<TcpStream, LinkError> {
        let (host, port) = split_peer(peer)?;
        let failed = |e: std::io::Error| unreachable(peer, e.to_string());
        let (mut good, mut bad) = (Vec::new(), None);
        for address in tokio::net::lookup_host((host, port)).await.map_err(failed)? {
            match check_resolved(host, address.ip()) {
                Ok(()) => good.push(address),
                Err(why) => bad = Some(why),
            }
        }
        if let (true, Some(why)) = (good.is_empty(), bad) {
            let detail = format!(
                "the name leads to {why}, where no other host is; if that is meant, write the address instead of the name, and have it in the certificate"
            );
            return Err(unreachable(peer, detail));
        }
        TcpStream::connect(good.as_slice()).await.map_err(failed)
    }

    /// Makes a connection of a socket.
    pub(crate) async fn secure(&self, peer: &str, socket: TcpStream) -> Result<Conn, LinkError> {
        let (host, _) = split_peer(peer)?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| protocol(peer, format!("\"{host}\" is neither a host name nor an address")))?;
        tune(&socket);
        let meter = Meter::default();
        let metered = Metered {
            socket,
            meter: meter.clone(),
        };
        let with = self.credentials.current().await;
        let tls = TlsConnector::from(with.client.clone())
            .connect(name, metered)
            .await
            .map_err(|e| self.explain(peer, &e))?;
        let shown = tls.get_ref().1.peer_certificates().unwrap_or_default();
        self.credentials.shown(peer, shown);
        let valid_until = valid_until(shown).min(with.own_until);
        let (identity, named) = (identity(shown), fingerprints(shown));
        let (sender, connection) = http1::handshake(TokioIo::new(tls))
            .await
            .map_err(|e| self.explain(peer, &e))?;
        let made = Instant::now();
        Ok(Conn {
            sender,
            meter,
            task: tokio::spawn(unless_revoked(
                self.credentials.revoked().clone(),
                named.clone(),
                connection,
            )),
            made,
            identity,
            named,
            with,
            valid_until,
            idle_since: made,
        })
    }

    /// An error of a connection in the port's words.
    pub(crate) fn explain(&self, peer: &str, error: &(dyn Error + 'static)) -> LinkError {
        match find_fault(error, &self.credentials.files().cert) {
            Some(TlsFault::Untrusted(note)) => untrusted(peer, note),
            Some(TlsFault::Protocol(detail)) => protocol(peer, detail),
            None => unreachable(peer, chain(error)),
        }
    }

    /// An error of a request on `conn` in the port's words. With TLS 1.3 the peer judges our certificate only after
    /// our handshake is done, so its refusal arrives here.
    pub(crate) async fn explain_request(
        &self,
        peer: &str,
        conn: &mut Conn,
        error: &hyper::Error,
    ) -> LinkError {
        if self.credentials.revoked().first_of(&conn.named).is_some() {
            return untrusted(peer, revoked_here());
        }
        if find_fault(error, &self.credentials.files().cert).is_none()
            && let Some(last) = conn.last_words().await
            && find_fault(&last, &self.credentials.files().cert).is_some()
        {
            return self.explain(peer, &last);
        }
        if error.is_parse() {
            return protocol(peer, chain(error));
        }
        self.explain(peer, error)
    }
}

/// Drives a connection until it ends, or a certificate of the other side is revoked.
async fn unless_revoked(
    list: Arc<RevocationList>,
    named: Vec<Fingerprint>,
    connection: impl Future<Output = Result<(), hyper::Error>>,
) -> Result<(), hyper::Error> {
    tokio::select! {
        ended = connection => ended,
        found = list.revoked(&named) => {
            tracing::warn!(%found, "cut: the certificate of a host, or its key, was revoked");
            Ok(())
        }
    }
}

fn split_peer(peer: &str) -> Result<(&str, u16), LinkError> {
    let bad = || protocol(peer, "write HOST:PORT".into());
    let (host, port) = peer.rsplit_once(':').ok_or_else(bad)?;
    let host = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host);
    match port.parse() {
        Ok(port) if port > 0 && !host.is_empty() => Ok((host, port)),
        _ => Err(bad()),
    }
}

/// `Unreachable` for `peer`.
pub(crate) fn unreachable(peer: &str, detail: String) -> LinkError {
    LinkError::Unreachable {
        peer: peer.into(),
        detail,
        late: false,
    }
}

/// `Untrusted` for `peer`.
pub(crate) fn untrusted(peer: &str, note: Note) -> LinkError {
    LinkError::Untrusted {
        peer: peer.into(),
        detail: note.text,
        hint: note.hint,
    }
}

/// `Protocol` for `peer`.
pub(crate) fn protocol(peer: &str, detail: String) -> LinkError {
    LinkError::Protocol {
        peer: peer.into(),
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_split_at_the_last_colon() {
        assert_eq!(split_peer("b.example.org:8700").unwrap(), ("b.example.org", 8700));
        assert_eq!(split_peer("[::1]:8700").unwrap(), ("::1", 8700));
        for bad in ["", "b", "b:", ":1", "b:0", "b:65536", "b:x"] {
            assert!(split_peer(bad).is_err(), "{bad}");
        }
    }
}
