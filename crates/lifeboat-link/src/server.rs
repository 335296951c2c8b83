//! The called side's connections: who may come in, how many, and how they end.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lifeboat_engine::ports::link::{PeerHandler, PeerIdentity};
use lifeboat_model::Timestamp;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::certs;
use crate::credentials::{CLOCK_LOOK, Credentials, GRACE, Loaded, until, valid_until};
use crate::service::Service;
use crate::socket::tune;
use crate::tls::{LinkConfig, LinkSetupError, TlsFault, find_fault};

/// Bounds on what callers may use up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of peers at once.
    pub connections: usize,
    /// Handshakes at once; further callers wait in the kernel's queue.
    pub handshakes: usize,
    /// Until a TLS handshake is done.
    pub handshake: Duration,
    /// Until the header of the next request is there. Idle connections are closed after it.
    pub header: Duration,
    /// Until a control document is there.
    pub document: Duration,
    /// Without a byte of a log that is being received.
    pub silence: Duration,
    /// Between signs of life while a log is being made durable.
    pub heartbeat: Duration,
    /// For requests under way when the daemon stops.
    pub grace: Duration,
    /// For requests under way when a certificate of their connection ends.
    pub expiry_grace: Duration,
    /// Between looks at whether the certificates that a connection was made with are still those in use.
    pub look: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            handshakes: 64,
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(90),
            document: Duration::from_secs(30),
            silence: Duration::from_secs(120),
            heartbeat: Duration::from_secs(10),
            grace: Duration::from_secs(10),
            expiry_grace: GRACE,
            look: CLOCK_LOOK,
        }
    }
}

/// Read buffer of a connection in bytes; also the largest header of a request.
const READ_BUFFER: usize = 256 << 10;

/// Answers peers until `shutdown`, then lets requests under way end within a grace time. Fails only at once, when the
/// certificates cannot be used.
pub async fn serve(
    listener: TcpListener,
    config: &LinkConfig,
    handler: Arc<dyn PeerHandler>,
    shutdown: CancellationToken,
) -> Result<(), LinkSetupError> {
    serve_within(Limits::default(), listener, config, handler, shutdown).await
}

/// The same with other bounds.
pub async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    config: &LinkConfig,
    handler: Arc<dyn PeerHandler>,
    shutdown: CancellationToken,
) -> Result<(), LinkSetupError> {
    let credentials = Credentials::load(config)?;
    serve_with(limits, listener, credentials, handler, shutdown).await;
    Ok(())
}

/// The same with certificates that were read already and are shared with the calling side.
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
        places: Arc::new(Semaphore::new(limits.connections)),
        stopping: shutdown.clone(),
        stopped: CancellationToken::new(),
    });
    let handshakes = Arc::new(Semaphore::new(limits.handshakes));
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = accept(&server, &listener, &handshakes) => {}
    }
    drop(listener);
    server.work.close();
    if tokio::time::timeout(limits.grace, server.work.wait())
        .await
        .is_err()
    {
        tracing::warn!("requests of peers were still under way and are cut");
    }
    server.stopped.cancel();
}

struct Server {
    credentials: Arc<Credentials>,
    handler: Arc<dyn PeerHandler>,
    limits: Limits,
    work: TaskTracker,
    places: Arc<Semaphore>,
    stopping: CancellationToken,
    stopped: CancellationToken,
}

async fn accept(server: &Arc<Server>, listener: &TcpListener, handshakes: &Arc<Semaphore>) {
    // The semaphore is never closed, so the loop ends only by being dropped.
    while let Ok(slot) = handshakes.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((socket, from)) => {
                let server = server.clone();
                server.work.clone().spawn(async move {
                    let connection = server.connection(socket, from, slot);
                    tokio::select! {
                        () = connection => {}
                        () = server.stopped.cancelled() => {}
                    }
                });
            }
            Err(e) => {
                // Out of file handles, most likely: they come back.
                tracing::warn!("a connection could not be accepted: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Server {
    async fn connection(&self, socket: TcpStream, from: std::net::SocketAddr, slot: OwnedSemaphorePermit) {
        tune(&socket);
        let handshake = self.handshake(socket, from);
        let tls = tokio::select! {
            tls = tokio::time::timeout(self.limits.handshake, handshake) => tls,
            () = self.stopping.cancelled() => return,
        };
        drop(slot);
        let (tls, with) = match tls {
            Ok(Some(made)) => made,
            Ok(None) => return,
            Err(_) => {
                tracing::debug!(%from, "no TLS handshake in time");
                return;
            }
        };
        let Ok(_place) = self.places.clone().try_acquire_owned() else {
            tracing::warn!(%from, "refused: {} connections of peers are open already", self.limits.connections);
            return;
        };
        self.requests(tls, &with, from).await;
    }

    async fn handshake(
        &self,
        socket: TcpStream,
        from: std::net::SocketAddr,
    ) -> Option<(TlsStream<TcpStream>, Arc<Loaded>)> {
        let with = self.credentials.current().await;
        let acceptor = TlsAcceptor::from(with.server.clone());
        match acceptor.accept(socket).into_fallible().await {
            Ok(tls) => Some((tls, with)),
            Err((e, socket)) => {
                match find_fault(&e, &self.credentials.config.cert) {
                    Some(TlsFault::Untrusted(why)) => tracing::warn!(%from, "caller refused: {why}"),
                    Some(TlsFault::Protocol(why)) => tracing::debug!(%from, "caller refused: {why}"),
                    None => tracing::debug!(%from, "the handshake broke off: {e}"),
                }
                linger(socket).await;
                None
            }
        }
    }

    async fn requests(&self, tls: TlsStream<TcpStream>, with: &Arc<Loaded>, from: std::net::SocketAddr) {
        let shown = tls.get_ref().1.peer_certificates().unwrap_or_default();
        let end = valid_until(shown).min(with.own_until);
        let peer = identity(shown);
        for name in peer.iter().flat_map(|p| &p.names) {
            self.credentials.shown(name, shown);
        }
        let service = Service {
            handler: self.handler.clone(),
            peer: peer.map(Arc::new),
            work: self.work.clone(),
            limits: self.limits,
        };
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

/// The names in the caller's certificate. The common name does not count: only SANs are what a CA vouches for.
fn identity(shown: &[CertificateDer<'_>]) -> Option<PeerIdentity> {
    let cert = shown.first()?;
    let names = certs::dns_names(cert);
    (!names.is_empty()).then(|| PeerIdentity {
        names,
        addresses: certs::ip_addresses(cert),
    })
}

/// Lets a refused caller read why: closing a socket with unread bytes would throw the alert away.
async fn linger(mut socket: TcpStream) {
    let rest = async {
        let _ = socket.shutdown().await;
        let mut scratch = [0; 4096];
        let mut budget = 64 << 10;
        while let Ok(n) = socket.read(&mut scratch).await {
            if n == 0 || n > budget {
                break;
            }
            budget -= n;
        }
    };
    // A caller that neither reads nor closes is not waited for.
    let _ = tokio::time::timeout(Duration::from_secs(2), rest).await;
}
