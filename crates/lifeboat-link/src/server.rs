//! The called side's connections: who may come in, and how they end. How many, `lifeboat_admission` decides.

use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lifeboat_admission::{Door, Ending, HandshakeError, Level, Notice, Place, Stage, linger, shake_hands};
use lifeboat_engine::ports::link::PeerHandler;
use lifeboat_model::Timestamp;
use lifeboat_tls::certificate::valid_until;
use lifeboat_tls::handshake::find_fault;
use lifeboat_tls::{
    CertificateFiles, Credentials, CredentialsError, Loaded, Purpose, RevocationList, TlsFault, fingerprints,
    until,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::identity::identity;
use crate::limits::Limits;
use crate::service::Service;
use crate::socket::tune;

const UNTRUSTED: Notice = Notice {
    level: Level::Warn,
    what: "caller refused",
};
const UNKNOWN: Notice = Notice {
    level: Level::Info,
    what: "caller shown out: no authorization entry and no replication of this host names it",
};
const REVOKED: Notice = Notice {
    level: Level::Warn,
    what: "cut: the certificate of the caller, or its key, was revoked",
};
const LATE: Notice = Notice {
    level: Level::Info,
    what: "no TLS handshake in time",
};
const BROKEN: Notice = Notice {
    level: Level::Info,
    what: "the handshake broke off",
};

/// Read buffer of a connection in bytes; also the largest header of a request.
const READ_BUFFER: usize = 256 << 10;

/// Answers peers until `shutdown`, then lets requests under way end within a grace time. Fails only at once, when the
/// certificates cannot be used.
pub async fn serve(
    listener: TcpListener,
    files: &CertificateFiles,
    handler: Arc<dyn PeerHandler>,
    shutdown: CancellationToken,
) -> Result<(), CredentialsError> {
    serve_within(Limits::default(), listener, files, handler, shutdown).await
}

/// As [`serve`], with places and time limits of the caller's choice.
pub async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    files: &CertificateFiles,
    handler: Arc<dyn PeerHandler>,
    shutdown: CancellationToken,
) -> Result<(), CredentialsError> {
    let credentials = Credentials::load(Purpose::Peers, files, RevocationList::none())?;
    serve_with(limits, listener, credentials, handler, shutdown).await;
    Ok(())
}

/// As [`serve_within`], with certificates that were read already and are shared with the calling side, so that it cannot fail.
pub async fn serve_with(
    limits: Limits,
    listener: TcpListener,
    credentials: Arc<Credentials>,
    handler: Arc<dyn PeerHandler>,
    shutdown: CancellationToken,
) {
    let server = Arc::new(Server {
        credentials,
        handler,
        limits,
        work: TaskTracker::new(),
        stopping: shutdown.clone(),
    });
    let ending = Ending {
        stop: shutdown,
        grace: limits.grace,
        tasks: server.work.clone(),
    };
    let handle = |socket, place| {
        let server = server.clone();
        async move { server.connection(socket, place).await }
    };
    let door = Door::new("peers", limits.places);
    door.serve(listener, Stage::Silent, ending, handle).await;
}

struct Server {
    credentials: Arc<Credentials>,
    handler: Arc<dyn PeerHandler>,
    limits: Limits,
    work: TaskTracker,
    stopping: CancellationToken,
}

impl Server {
    async fn connection(&self, socket: TcpStream, place: Arc<Place>) {
        tune(&socket);
        let config = async {
            let with = self.credentials.current().await;
            (with.server.clone(), with)
        };
        let shaking = shake_hands(socket, &place, self.limits.handshake, config);
        let shaken = tokio::select! {
            shaken = shaking => shaken,
            () = self.stopping.cancelled() => return,
        };
        match shaken {
            Ok((tls, with)) => self.requests(tls, &with, place).await,
            Err(HandshakeError::NoPlace) => {}
            Err(HandshakeError::Late) => place.note(LATE, ""),
            Err(HandshakeError::Failed { error, stream }) => {
                match find_fault(&error, &self.credentials.files().cert) {
                    Some(TlsFault::Untrusted(why)) => place.note(UNTRUSTED, &why.text),
                    Some(TlsFault::Protocol(why)) => place.note(BROKEN, &why),
                    None => place.note(BROKEN, &error.to_string()),
                }
                if let Some(stream) = stream {
                    linger(stream).await;
                }
            }
        }
    }

    async fn requests(&self, tls: TlsStream<TcpStream>, with: &Arc<Loaded>, place: Arc<Place>) {
        let shown = tls.get_ref().1.peer_certificates().unwrap_or_default();
        let end = valid_until(shown).min(with.own_until);
        let peer = Some(identity(shown)).filter(|p| !p.names.is_empty());
        for name in peer.iter().flat_map(|p| &p.names) {
            self.credentials.shown(name, shown);
        }
        let placed = match peer.as_ref().filter(|p| self.handler.knows(p)) {
            Some(peer) => place.known(peer.names.first().map_or("", String::as_str)),
            None => place.advance(Stage::Stranger),
        };
        if placed.is_err() {
            return;
        }
        let revoked = fingerprints(shown);
        let revoked = self.credentials.revoked().revoked(&revoked);
        let service = Service {
            handler: self.handler.clone(),
            place: place.clone(),
            peer: peer.map(Arc::new),
            work: self.work.clone(),
            limits: self.limits,
        };
        tokio::select! {
            () = self.conversation(tls, with, end, service) => {}
            found = revoked => place.note(REVOKED, &found.to_string()),
        }
    }

    /// Requests, one after the other, until the connection ends or has to be made again.
    async fn conversation(
        &self,
        tls: TlsStream<TcpStream>,
        with: &Arc<Loaded>,
        end: Timestamp,
        service: Service,
    ) {
        let (place, from) = (service.place.clone(), service.place.from());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header)
            .max_buf_size(READ_BUFFER)
            .serve_connection(
                TokioIo::new(tls),
                service_fn(move |request| service.clone().answer(request)),
            );
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = self.outdated(with, end) => {
                connection.as_mut().graceful_shutdown();
                let Ok(ended) = tokio::time::timeout(self.limits.expiry_grace, connection).await else {
                    tracing::warn!(%from, "cut: a certificate of the connection has ended");
                    return;
                };
                ended
            }
            () = place.overdue(self.limits.strangers) => return place.note(UNKNOWN, ""),
        };
        if let Err(e) = ended {
            tracing::debug!(%from, "connection ended: {}", crate::pool::chain(&e));
        }
    }

    /// Waits until a connection made with these certificates has to be made again: one of them has ended, or others are in
    /// use.
    async fn outdated(&self, with: &Arc<Loaded>, end: Timestamp) {
        let replaced = async {
            while Arc::ptr_eq(with, &self.credentials.current().await) {
                tokio::time::sleep(self.limits.look).await;
            }
        };
        tokio::select! {
            () = until(end) => {}
            () = replaced => {}
        }
    }
}
