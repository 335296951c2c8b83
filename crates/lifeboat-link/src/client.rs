//! The calling side: one request, one answer, and what each failure means for the caller.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::response::Parts;
use hyper::{Method, Request, Response, StatusCode};
use lifeboat_engine::ports::ByteStream;
use lifeboat_engine::ports::link::{
    KeyJudge, LinkError, LogAddress, LogReceipt, NoAnswer, OtherKey, PeerLink, PeerReply, PeerRequest,
};
use lifeboat_model::Note;
use lifeboat_model::{VmId, words};
use lifeboat_tls::{CertificateFiles, Credentials, CredentialsError, Purpose, RevocationList, now, until};
use tokio::time::{Instant, timeout_at};

use crate::limits::GRACE;
use crate::pool::{Conn, Pool, chain, protocol, unreachable, untrusted};
use crate::progress::{Source, SourceBody, stalled};
use crate::wire::{
    CONTROL, DOCUMENT_MAX, LogAnswer, OutBody, WireError, full, log_target, parse_log_answer, parse_reply,
};

/// Bytes of a header of a peer that are shown.
const SHOWN: usize = 80;

/// How long a peer is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Until a connection is made and its TLS handshake is done on our side.
    pub connect: Duration,
    /// Until a control call is answered, connecting included.
    pub call: Duration,
    /// Without a byte in either direction while a log is sent or its answer is awaited. A replica whose disk is slow says a byte
    /// now and then while it stores a log, so one that does nothing else is waited for as if its disk were: the engine says that
    /// nothing is acknowledged.
    pub stall: Duration,
    /// For a log that is being sent when a certificate of its connection ends.
    pub grace: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            call: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            grace: GRACE,
        }
    }
}

/// Calls to other hosts. One for the whole daemon; it keeps a few idle connections to each peer.
pub struct Link {
    pool: Pool,
    timing: Timing,
    /// Says which hosts this one may talk to; before it is set, no key is checked.
    judge: OnceLock<Arc<dyn KeyJudge>>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("timing", &self.timing)
            .finish_non_exhaustive()
    }
}

/// Why a request brought no answer.
enum Failure {
    /// The connection ended before any answer; the request, if it was not even begun, comes back.
    Broken(LinkError, Option<Box<Request<OutBody>>>),
    /// An answer that is of no use.
    Answer(LinkError),
}

impl From<Failure> for LinkError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Broken(e, _) | Failure::Answer(e) => e,
        }
    }
}

impl Link {
    /// Reads the certificates, of which none is revoked. Makes no connection yet.
    pub fn new(files: &CertificateFiles) -> Result<Self, CredentialsError> {
        Self::with_timing(files, Timing::default())
    }

    /// As [`Link::new`], with time limits of the caller's choice.
    pub fn with_timing(files: &CertificateFiles, timing: Timing) -> Result<Self, CredentialsError> {
        let credentials = Credentials::load(Purpose::Peers, files, RevocationList::none())?;
        Ok(Self::with_credentials(credentials, timing))
    }

    /// With certificates that were read already and are shared with the called side.
    #[must_use]
    pub fn with_credentials(credentials: Arc<Credentials>, timing: Timing) -> Self {
        Self {
            pool: Pool::new(credentials, timing.connect),
            timing,
            judge: OnceLock::new(),
        }
    }

    /// A kept connection that may be used for what is about `vm`.
    fn kept(&self, peer: &str, vm: Option<VmId>) -> Option<Conn> {
        let fits = |conn: &Conn| self.judge.get().is_none_or(|j| j.fits(peer, vm, &conn.identity));
        self.pool.take(peer).filter(fits)
    }

    /// Whether what is about `vm` may be said over this connection.
    fn judged(&self, peer: &str, vm: Option<VmId>, conn: &Conn) -> Result<(), LinkError> {
        let Some(judge) = self.judge.get() else {
            return Ok(());
        };
        judge
            .judge(peer, vm, &conn.identity)
            .map_err(|OtherKey(note)| untrusted(peer, note))
    }

    /// One request on one connection.
    async fn exchange(
        &self,
        peer: &str,
        conn: &mut Conn,
        request: Request<OutBody>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        if let Err(e) = conn.sender.ready().await {
            let error = self.pool.explain_request(peer, conn, &e).await;
            return Err(Failure::Broken(error, Some(Box::new(request))));
        }
        let response = match conn.sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut e) => {
                let request = e.take_message().map(Box::new);
                let error = self.pool.explain_request(peer, conn, e.error()).await;
                return Err(Failure::Broken(error, request));
            }
        };
        read_answer(peer, response).await.map_err(Failure::Answer)
    }

    async fn control(
        &self,
        peer: &str,
        asked: &PeerRequest,
        document: Bytes,
    ) -> Result<PeerReply, LinkError> {
        let (mut used, vm) = (None, asked.vm());
        if let Some(mut conn) = self.kept(peer, vm) {
            self.judged(peer, vm, &conn)?;
            match self
                .exchange(peer, &mut conn, control_request(peer, document.clone())?)
                .await
            {
                Ok(answer) => used = Some((conn, answer)),
                // It was idle and the peer has closed it since. Every control call can be repeated.
                Err(Failure::Broken(..)) => self.pool.forget(peer),
                Err(failure) => return Err(failure.into()),
            }
        }
        let (conn, (status, text)) = match used {
            Some(used) => used,
            None => {
                let mut conn = self.pool.connect(peer).await?;
                self.judged(peer, vm, &conn)?;
                let answer = self
                    .exchange(peer, &mut conn, control_request(peer, document)?)
                    .await?;
                (conn, answer)
            }
        };
        self.pool.give_back(peer, conn);
        reply_of(peer, asked, status, &text)
    }

    /// One control call on a connection of its own; what went wrong says whether the peer was there.
    async fn question(
        &self,
        peer: &str,
        asked: &PeerRequest,
        document: Bytes,
        patience: Duration,
    ) -> Result<PeerReply, NoAnswer> {
        let until = Instant::now() + patience;
        let late = || format!("no answer within {patience:?}");
        let unanswered = |e: LinkError| NoAnswer::Unanswered { detail: bare(&e) };
        // The rest of the time is for its answer.
        let socket = match timeout_at(until - patience / 3, self.pool.dial(peer)).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(e)) => return Err(NoAnswer::Unreachable { detail: bare(&e) }),
            Err(_) => {
                let detail = format!("no connection within {:?}", patience - patience / 3);
                return Err(NoAnswer::Unreachable { detail });
            }
        };
        // A connection that ends before the handshake does was taken by no daemon: a relay or a host without one.
        let conn = match timeout_at(until, self.pool.secure(peer, socket)).await {
            Ok(Ok(conn)) => conn,
            Ok(Err(e @ LinkError::Unreachable { .. })) => {
                return Err(NoAnswer::Unreachable { detail: bare(&e) });
            }
            Ok(Err(e)) => return Err(unanswered(e)),
            Err(_) => return Err(NoAnswer::Unanswered { detail: late() }),
        };
        self.judged(peer, asked.vm(), &conn).map_err(unanswered)?;
        let answer = async {
            let mut conn = conn;
            let request = control_request(peer, document)?;
            let (status, text) = self.exchange(peer, &mut conn, request).await?;
            self.pool.give_back(peer, conn);
            reply_of(peer, asked, status, &text)
        };
        match timeout_at(until, answer).await {
            Ok(answer) => answer.map_err(unanswered),
            Err(_) => Err(NoAnswer::Unanswered { detail: late() }),
        }
    }

    /// Sends a log on `first`, or on a fresh connection when `first` turns out to be closed before a byte was sent.
    async fn stream(
        &self,
        peer: &str,
        address: &LogAddress,
        body: ByteStream,
    ) -> Result<LogReceipt, LinkError> {
        let source = Arc::new(Source::default());
        let body = SourceBody {
            stream: body,
            source: source.clone(),
        }
        .boxed_unsync();
        let mut request = request(
            peer,
            Method::PUT,
            &log_target(address),
            "application/octet-stream",
            body,
        )?;
        let (LogAddress::Delta { vm, .. } | LogAddress::Bulk { vm }) = address;
        let mut conn = self.kept(peer, Some(*vm));
        let (conn, (status, text)) = loop {
            let pooled = conn.is_some();
            let mut on = match conn.take() {
                Some(conn) => conn,
                None => self.pool.connect(peer).await?,
            };
            self.judged(peer, Some(*vm), &on)?;
            match self.watched(peer, &mut on, request, &source).await {
                Ok(answer) => break (on, answer),
                Err(Failure::Broken(_, Some(untouched))) if pooled => request = *untouched,
                Err(failure) => return Err(source_first(peer, &source, failure.into())),
            }
        };
        // Refused early, the rest of the log is still wanted by the connection: that one is closed.
        if source.ended() {
            self.pool.give_back(peer, conn);
        }
        match parse_log_answer(&text) {
            Ok(LogAnswer::Receipt(receipt)) => Ok(receipt),
            Ok(LogAnswer::Refusal(refusal)) => Err(LinkError::Refused(refusal)),
            Ok(LogAnswer::Error(error)) => Err(transport_refusal(peer, status, error)),
            Err(e) => Err(not_ours(peer, status, &e)),
        }
    }

    async fn watched(
        &self,
        peer: &str,
        conn: &mut Conn,
        request: Request<OutBody>,
        source: &Source,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let meter = conn.meter.clone();
        let end = conn.valid_until.plus(self.timing.grace);
        // Certificates that are over from the beginning are the other side's to judge, which says why.
        let over = async {
            if now() > end {
                std::future::pending().await
            } else {
                until(end).await
            }
        };
        tokio::select! {
            answer = self.exchange(peer, conn, request) => answer,
            () = over => {
                self.pool.forget(peer);
                let detail = "a certificate of the connection has ended, and so has the time for what was under way";
                Err(Failure::Broken(unreachable(peer, detail.to_owned()), None))
            }
            () = stalled(&meter, source, self.timing.stall) => {
                self.pool.forget(peer);
                let detail = format!("the transfer has not moved for {:?}", self.timing.stall);
                Err(Failure::Broken(unreachable(peer, detail), None))
            }
        }
    }
}

#[async_trait]
impl PeerLink for Link {
    fn judged_by(&self, judge: Arc<dyn KeyJudge>) {
        // One engine has the link for as long as it lives.
        let _ = self.judge.set(judge);
    }

    async fn call(&self, peer: &str, request: PeerRequest) -> Result<PeerReply, LinkError> {
        let document = serde_json::to_vec(&request)
            .map_err(|e| protocol(peer, format!("the request cannot be written: {e}")))?;
        if document.len() > DOCUMENT_MAX {
            return Err(protocol(
                peer,
                format!("the request is larger than {DOCUMENT_MAX} bytes"),
            ));
        }
        let answer = self.control(peer, &request, document.into());
        match tokio::time::timeout(self.timing.call, answer).await {
            Ok(result) => result,
            Err(_) => {
                self.pool.forget(peer);
                Err(LinkError::Unreachable {
                    peer: peer.to_owned(),
                    detail: format!("no answer within {:?}", self.timing.call),
                    late: true,
                })
            }
        }
    }

    async fn ask(&self, peer: &str, request: PeerRequest, patience: Duration) -> Result<PeerReply, NoAnswer> {
        let document = serde_json::to_vec(&request).map_err(|e| NoAnswer::Unanswered {
            detail: format!("the request cannot be written: {e}"),
        })?;
        self.question(peer, &request, document.into(), patience).await
    }

    async fn send(&self, peer: &str, address: LogAddress, body: ByteStream) -> Result<LogReceipt, LinkError> {
        self.stream(peer, &address, body).await
    }
}

/// A peer's answer in the port's words.
fn reply_of(
    peer: &str,
    asked: &PeerRequest,
    status: StatusCode,
    text: &[u8],
) -> Result<PeerReply, LinkError> {
    match parse_reply(text) {
        Ok(Ok(PeerReply::Refused(refusal))) => Err(LinkError::Refused(refusal)),
        Ok(Ok(reply)) if asked.is_answered_by(&reply) => Ok(reply),
        // A caller may take any answer for a yes.
        Ok(Ok(_)) => Err(protocol(peer, "its answer does not fit the request".into())),
        Ok(Err(error)) => Err(transport_refusal(peer, status, error)),
        Err(e) => Err(not_ours(peer, status, &e)),
    }
}

/// What happened, without the peer's name, which is put before it.
fn bare(e: &LinkError) -> String {
    match e {
        LinkError::Unreachable { detail, .. }
        | LinkError::Untrusted { detail, .. }
        | LinkError::Protocol { detail, .. } => detail.clone(),
        LinkError::Refused(refusal) => refusal.to_string(),
    }
}

fn control_request(peer: &str, document: Bytes) -> Result<Request<OutBody>, LinkError> {
    request(peer, Method::POST, CONTROL, "application/json", full(document))
}

fn request(
    peer: &str,
    method: Method,
    target: &str,
    kind: &str,
    body: OutBody,
) -> Result<Request<OutBody>, LinkError> {
    Request::builder()
        .method(method)
        .uri(target)
        .header(HOST, peer)
        .header(CONTENT_TYPE, kind)
        .body(body)
        .map_err(|e| protocol(peer, format!("the request cannot be written: {e}")))
}

async fn read_answer(peer: &str, response: Response<Incoming>) -> Result<(StatusCode, Bytes), LinkError> {
    let (head, body) = response.into_parts();
    if let Some(wrong) = not_an_answer(&head) {
        return Err(protocol(peer, wrong));
    }
    let large = || protocol(peer, format!("its answer is larger than {DOCUMENT_MAX} bytes"));
    if body.size_hint().lower() > DOCUMENT_MAX as u64 {
        return Err(large());
    }
    match Limited::new(body, DOCUMENT_MAX).collect().await {
        Ok(body) => Ok((head.status, body.to_bytes())),
        Err(e) if e.is::<http_body_util::LengthLimitError>() => Err(large()),
        Err(e) => Err(unreachable(peer, format!("the answer was cut: {}", chain(&*e)))),
    }
}

/// What is wrong with the head of an answer, before anything of its body is read. Redirects are not followed, no other protocol
/// is spoken, and nothing is unpacked, which would have a size of its own.
fn not_an_answer(head: &Parts) -> Option<String> {
    let status = head.status;
    if status.is_informational() || status.is_redirection() {
        return Some(format!(
            "it answers HTTP {status}, which this protocol does not use"
        ));
    }
    let said = |name| {
        let value = head.headers.get(name).map(HeaderValue::as_bytes)?;
        let short = value.get(..value.len().min(SHOWN)).unwrap_or_default();
        Some(words::shown(&String::from_utf8_lossy(short)))
    };
    if let Some(coding) = said(CONTENT_ENCODING).filter(|c| !c.eq_ignore_ascii_case("identity")) {
        return Some(format!(
            "its answer is encoded (\"{coding}\"), which it was not asked for"
        ));
    }
    let json = |kind: &String| {
        let essence = kind.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/json")
    };
    let kind = said(CONTENT_TYPE).filter(|kind| !json(kind))?;
    Some(format!(
        "its answer (HTTP {status}) is \"{kind}\" instead of application/json"
    ))
}

/// When our own source failed, that is the cause and the broken connection only its consequence.
fn source_first(peer: &str, source: &Source, otherwise: LinkError) -> LinkError {
    match source.failure() {
        Some(detail) => unreachable(peer, format!("the log cannot be read on this host: {detail}")),
        None => otherwise,
    }
}

fn transport_refusal(peer: &str, status: StatusCode, said: WireError) -> LinkError {
    let WireError { error, hint } = said;
    match status {
        StatusCode::FORBIDDEN => untrusted(peer, Note { text: error, hint }),
        StatusCode::REQUEST_TIMEOUT | StatusCode::INTERNAL_SERVER_ERROR | StatusCode::SERVICE_UNAVAILABLE => {
            unreachable(peer, error)
        }
        _ => protocol(peer, error),
    }
}

fn not_ours(peer: &str, status: StatusCode, e: &serde_json::Error) -> LinkError {
    // The parser's own words repeat what it has read, which may be as long as a document.
    let why = words::kept(&e.to_string());
    protocol(
        peer,
        format!("its answer (HTTP {status}) is not understood: {why}"),
    )
}
