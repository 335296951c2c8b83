//! HTTP/1.1 for every protocol: who connects, what a request may cost before it is understood, and who sent it. What is in a
//! request is the business of its [`Protocol`].
//!
//! A caller who has not logged in makes this host keep a few KiB at most: credentials are in the head, and an unidentified
//! caller's body is read only to be thrown away.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use lifeboat_admission::{
    Cap, Door, Ending, HandshakeError, Level, Notice, Place, Places, Stage, linger, shake_hands,
};
use lifeboat_engine::by::Surface;
use lifeboat_model::Timestamp;
use lifeboat_tls::certificate::valid_until;
use lifeboat_tls::{Credentials, fingerprints, until};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::cim::Caller;
use crate::login::{ClientCertificate, Denied, Login};

/// Body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Most bytes that are read of an unidentified caller's body, to keep the connection, and of an Identify without credentials.
const UNIDENTIFIED_BODY: usize = 64 << 10;
/// How long that may take.
const UNIDENTIFIED_TIME: Duration = Duration::from_secs(5);
/// Largest head in bytes.
const MAX_HEAD: usize = 64 << 10;
/// Silence on a connection before the kernel probes whether the client still answers.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Time after which a connection is cut whose client has not acknowledged what was sent to it.
const UNREAD: Duration = Duration::from_secs(120);

/// `Retry-After` of an answer for which no better time is known.
const MOMENT: Duration = Duration::from_secs(1);

const fn notice(level: Level, what: &'static str) -> Notice {
    Notice { level, what }
}

const LATE: Notice = notice(Level::Info, "no TLS handshake in time");
const BROKEN: Notice = notice(Level::Info, "the TLS handshake failed");
const REVOKED: Notice = notice(
    Level::Warn,
    "cut: the certificate of the caller, or its key, was revoked",
);
const UNKNOWN: Notice = notice(Level::Info, "shown out: no credentials that were right in time");
const NOTHING: Notice = notice(Level::Debug, "login refused");
const DENIED: Notice = notice(Level::Warn, "login refused");
const TOO_MANY: Notice = notice(Level::Warn, "login put off");
const BUSY: Notice = notice(Level::Warn, "login not looked at");
const REFUSED: Notice = notice(Level::Info, "request refused");

/// Bounds on what callers may use up, for each protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once. A caller is known from the first request on whose credentials are right.
    pub places: Places,
    /// Time until a TLS handshake is done.
    pub handshake: Duration,
    /// Time from there until the caller is known.
    pub strangers: Duration,
    /// Time until the head of the next request of a known caller is there. Idle connections are closed after it.
    pub head: Duration,
    /// Time until a body is there.
    pub body: Duration,
    /// Largest body in bytes.
    pub body_bytes: usize,
    /// Bytes of bodies held at once, of all callers.
    pub bodies_bytes: usize,
    /// Time that requests under way have when the daemon stops.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            places: Places {
                silent: Cap {
                    total: 1024,
                    each: 128,
                },
                handshaking: Cap { total: 256, each: 64 },
                strangers: Cap {
                    total: 512,
                    each: 128,
                },
                known: Cap {
                    total: 512,
                    each: 256,
                },
            },
            handshake: Duration::from_secs(10),
            strangers: Duration::from_secs(10),
            head: Duration::from_secs(60),
            body: Duration::from_secs(30),
            body_bytes: 4 << 20,
            bodies_bytes: 64 << 20,
            grace: Duration::from_secs(5),
        }
    }
}

/// A request by a caller whose credentials were right.
pub(crate) struct Exchange {
    /// The caller, with its role and the address it calls from.
    pub(crate) caller: Caller,
    /// Address of the client.
    pub(crate) from: SocketAddr,
    /// Its head's fields.
    pub(crate) headers: HeaderMap,
    /// Its body.
    pub(crate) body: Bytes,
}

impl Exchange {
    /// A header that is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// The `charset` of the content type.
    pub(crate) fn charset(&self) -> Option<&str> {
        charset(&self.headers)
    }
}

pub(crate) fn charset(headers: &HeaderMap) -> Option<&str> {
    let kind = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let parameter = |p: &&str| p.trim_start().to_ascii_lowercase().starts_with("charset=");
    let charset = kind.split(';').find(parameter)?.split_once('=')?.1;
    Some(charset.trim().trim_matches('"'))
}

/// What is spoken on a port.
pub(crate) trait Protocol: Send + Sync + 'static {
    /// Its name, for the log.
    const NAME: &'static str;
    /// The surface that is recorded with its actions.
    const SURFACE: Surface;
    /// Paths that it is spoken at.
    const PATHS: &'static [&'static str];
    /// `WWW-Authenticate` of an answer to a caller who has not logged in.
    const CHALLENGE: &'static str;

    /// Whether a request may be a question that is answered without credentials, by [`Protocol::introduce`].
    fn asks_who(&self, _headers: &HeaderMap) -> bool {
        false
    }

    /// The answer to such a question; `None` when it is something else.
    fn introduce(&self, _body: &[u8], _charset: Option<&str>) -> Option<Response<Body>> {
        None
    }

    /// The answer to a request by another method than POST; otherwise how it is refused, and why.
    fn other_method(&self, _method: &str) -> Result<Response<Body>, (StatusCode, &'static str)> {
        Err((StatusCode::METHOD_NOT_ALLOWED, "only POST"))
    }

    /// The answer to a caller whose credentials were right.
    fn answer(&self, exchange: Exchange) -> impl Future<Output = Response<Body>> + Send;
}

/// A port with what is spoken on it.
pub(crate) struct Server<P> {
    protocol: P,
    login: Arc<Login>,
    certificates: Option<Arc<Credentials>>,
    limits: Limits,
    door: Arc<Door>,
    /// What is left of [`Limits::bodies_bytes`], in KiB.
    bodies: Arc<Semaphore>,
}

/// The other end of a connection.
struct Peer {
    place: Arc<Place>,
    certificate: Option<ClientCertificate>,
}

impl<P: Protocol> Server<P> {
    pub(crate) fn new(
        protocol: P,
        login: Arc<Login>,
        certificates: Option<Arc<Credentials>>,
        limits: Limits,
    ) -> Arc<Self> {
        Arc::new(Self {
            door: Door::new(P::NAME, limits.places),
            protocol,
            login,
            certificates,
            limits,
            bodies: Arc::new(Semaphore::new(limits.bodies_bytes / 1024)),
        })
    }

    /// Serves until `stop`, then lets requests under way end within a grace time.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let ending = Ending::new(stop.clone(), self.limits.grace);
        let handle = |stream, place| self.clone().connection(stream, place, stop.clone());
        let stage = match self.certificates {
            Some(_) => Stage::Silent,
            None => Stage::Stranger,
        };
        self.door.serve(listener, stage, ending, handle).await;
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, place: Arc<Place>, stop: CancellationToken) {
        tune(&stream);
        let Some(certificates) = self.certificates.clone() else {
            let certificate = None;
            let peer = Peer { place, certificate };
            return self.requests(stream, peer, Timestamp(u64::MAX), stop).await;
        };
        let config = async {
            let with = certificates.current().await;
            (with.server.clone(), with)
        };
        let shaken = tokio::select! {
            shaken = shake_hands(stream, &place, self.limits.handshake, config) => shaken,
            () = stop.cancelled() => return,
        };
        match shaken {
            Ok((tls, with)) => {
                let shown = tls.get_ref().1.peer_certificates().unwrap_or_default();
                let certificate = shown.first().map(ClientCertificate::read);
                let end = valid_until(shown).min(with.own_until);
                let revoked = fingerprints(shown);
                if place.advance(Stage::Stranger).is_err() {
                    return;
                }
                let peer = Peer {
                    place: place.clone(),
                    certificate,
                };
                tokio::select! {
                    () = self.requests(tls, peer, end, stop) => {}
                    found = certificates.revoked().revoked(&revoked), if !revoked.is_empty() => {
                        place.note(REVOKED, &found.to_string());
                    }
                }
            }
            Err(HandshakeError::NoPlace) => {}
            Err(HandshakeError::Late) => place.note(LATE, ""),
            Err(HandshakeError::Failed { error, stream }) => {
                place.note(BROKEN, &error.to_string());
                if let Some(stream) = stream {
                    linger(stream).await;
                }
            }
        }
    }

    /// Serves a connection until `stop`, or until a certificate of it ends, at `end`; a request under way may come to its
    /// end.
    async fn requests<S>(self: Arc<Self>, stream: S, peer: Peer, end: Timestamp, stop: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (place, limits, peer) = (peer.place.clone(), self.limits, Arc::new(peer));
        let service = service_fn(move |request| {
            let (server, peer) = (self.clone(), peer.clone());
            async move { Ok::<_, Infallible>(server.answer(&peer, request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = until(end) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = place.overdue(limits.strangers) => {
                place.note(UNKNOWN, "");
                // Credentials that are being checked now may be right: their request is answered.
                if !place.is_held() {
                    return;
                }
                connection.as_mut().graceful_shutdown();
                match tokio::time::timeout(limits.strangers, connection).await {
                    Ok(ended) => ended,
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(from = %place.from(), %error, "a management connection ended early");
        }
    }

    async fn answer(&self, peer: &Peer, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        if !P::PATHS.contains(&head.uri.path()) {
            return self
                .refuse(peer, StatusCode::NOT_FOUND, "no such path", body)
                .await;
        }
        let asked: u64 = head
            .headers
            .get(CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok()?.parse().ok())
            .unwrap_or(0);
        if asked > self.limits.body_bytes as u64 {
            return self
                .refuse(peer, StatusCode::PAYLOAD_TOO_LARGE, "body too large", body)
                .await;
        }
        if self.protocol.asks_who(&head.headers) {
            return self.introduce(peer, &head.headers, body).await;
        }
        // Keeps the connection from being dropped to make room, while credentials are checked and, when they are right, until
        // the request is answered.
        let held = peer.place.hold();
        let (from, certificate) = (peer.place.from(), peer.certificate.as_ref());
        let caller = match self.login.check(&head.headers, certificate, from.ip()).await {
            Ok(caller) => Caller {
                from: Some((P::SURFACE, from)),
                ..caller
            },
            Err(denied) => {
                drop(held);
                return self.deny(peer, denied, body).await;
            }
        };
        if peer.place.known(&caller.name).is_err() {
            return closing(later(StatusCode::SERVICE_UNAVAILABLE, MOMENT));
        }
        if head.method != Method::POST {
            return self.other_method(peer, &head.method, body).await;
        }
        let (body, _budget) = match self.read(body).await {
            Ok(read) => read,
            Err(status) => {
                tracing::info!(%from, caller = caller.name, "refused: body not taken ({status})");
                return closing(plain(status));
            }
        };
        let exchange = Exchange {
            caller,
            from,
            headers: head.headers,
            body,
        };
        self.protocol.answer(exchange).await
    }

    /// Identify: the one request that is answered without credentials.
    async fn introduce(&self, peer: &Peer, headers: &HeaderMap, body: Incoming) -> Response<Body> {
        let read =
            tokio::time::timeout(UNIDENTIFIED_TIME, Limited::new(body, UNIDENTIFIED_BODY).collect()).await;
        let Ok(Ok(read)) = read else {
            return closing(plain(StatusCode::PAYLOAD_TOO_LARGE));
        };
        match self.protocol.introduce(&read.to_bytes(), charset(headers)) {
            Some(answer) => answer,
            None => self.denied(peer, &Denied::Nothing),
        }
    }

    async fn other_method(&self, peer: &Peer, method: &Method, body: Incoming) -> Response<Body> {
        let (status, why) = match self.protocol.other_method(method.as_str()) {
            Ok(answer) => return answer,
            Err(refused) => refused,
        };
        let mut answer = self.refuse(peer, status, why, body).await;
        if status == StatusCode::METHOD_NOT_ALLOWED {
            let allowed = HeaderValue::from_static("POST");
            answer.headers_mut().insert(ALLOW, allowed);
        }
        answer
    }

    async fn deny(&self, peer: &Peer, denied: Denied, body: Incoming) -> Response<Body> {
        let all = drained(body).await;
        let answer = self.denied(peer, &denied);
        if all { answer } else { closing(answer) }
    }

    fn denied(&self, peer: &Peer, denied: &Denied) -> Response<Body> {
        let notice = match denied {
            // Many clients begin every connection without credentials.
            Denied::Nothing => NOTHING,
            Denied::Malformed | Denied::Wrong { .. } | Denied::UnknownCertificate { .. } => DENIED,
            Denied::Later { .. } => TOO_MANY,
            Denied::Busy => BUSY,
        };
        peer.place.note(notice, &denied.to_string());
        match denied {
            Denied::Busy => return later(StatusCode::SERVICE_UNAVAILABLE, MOMENT),
            Denied::Later { wait } => return later(StatusCode::TOO_MANY_REQUESTS, *wait),
            Denied::Nothing
            | Denied::Malformed
            | Denied::Wrong { .. }
            | Denied::UnknownCertificate { .. } => {}
        }
        let mut answer = plain(StatusCode::UNAUTHORIZED);
        answer
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static(P::CHALLENGE));
        answer
    }

    async fn refuse(&self, peer: &Peer, status: StatusCode, why: &str, body: Incoming) -> Response<Body> {
        peer.place.note(REFUSED, why);
        let small = body
            .size_hint()
            .exact()
            .is_some_and(|n| n <= UNIDENTIFIED_BODY as u64);
        if small && drained(body).await {
            return plain(status);
        }
        closing(plain(status))
    }

    /// The body, and its part of what all bodies together may take, to be held until the answer is made.
    async fn read(&self, body: Incoming) -> Result<(Bytes, OwnedSemaphorePermit), StatusCode> {
        let largest = self.limits.body_bytes as u64;
        let bytes = body.size_hint().exact().unwrap_or(largest).min(largest);
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let reading = async {
            let budget = self.bodies.clone().acquire_many_owned(kib).await;
            let budget = budget.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
            match Limited::new(body, self.limits.body_bytes).collect().await {
                Ok(read) => Ok((read.to_bytes(), budget)),
                Err(e) if e.is::<LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
                Err(_) => Err(StatusCode::BAD_REQUEST),
            }
        };
        tokio::time::timeout(self.limits.body, reading)
            .await
            .unwrap_or(Err(StatusCode::REQUEST_TIMEOUT))
    }
}

/// Whether a body that is not used could be read to its end, so that the connection can be kept.
async fn drained(body: Incoming) -> bool {
    let mut body = Limited::new(body, UNIDENTIFIED_BODY);
    let all = async {
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(UNIDENTIFIED_TIME, all)
        .await
        .unwrap_or(false)
}

/// An answer without a body.
pub(crate) fn plain(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(whole(Bytes::new()));
    *answer.status_mut() = status;
    answer
}

/// An answer that says when to try again, in whole seconds, rounded up.
fn later(status: StatusCode, wait: Duration) -> Response<Body> {
    let mut answer = plain(status);
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    answer.headers_mut().insert(RETRY_AFTER, seconds.max(1).into());
    answer
}

/// An answer with a body of this type, whose length is said.
pub(crate) fn document(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut answer = Response::new(whole(text.into()));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn closing(mut answer: Response<Body>) -> Response<Body> {
    answer
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// Sets options by which a client that vanished, or reads nothing, is noticed. A connection without them is still served.
fn tune(stream: &TcpStream) {
    use rustix::net::sockopt;
    let unread = u32::try_from(UNREAD.as_millis()).unwrap_or(u32::MAX);
    let set = || -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
        sockopt::set_tcp_user_timeout(stream, unread)?;
        Ok(())
    };
    if let Err(error) = set() {
        tracing::debug!(%error, "socket options");
    }
}
