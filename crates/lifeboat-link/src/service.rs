//! One request on the called side: is it ours, what does it ask, what is answered.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use lifeboat_admission::Place;
use lifeboat_engine::ports::link::{
    LogAddress, LogReceipt, PeerHandler, PeerIdentity, PeerRefusal, PeerReply,
};
use lifeboat_model::hint::Trust;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::task::TaskTracker;

use crate::incoming::{Leftover, LogBody, drain};
use crate::limits::Limits;
use crate::wire::{
    CONTROL, DOCUMENT_MAX, LOGS, OutBody, ROOT, WireError, json, parse_log_query, parse_request,
    refusal_status, wire_error, with_body,
};

type LogTask = JoinHandle<Result<LogReceipt, PeerRefusal>>;

/// What every request on a connection shares.
#[derive(Clone)]
pub(crate) struct Service {
    /// The engine.
    pub(crate) handler: Arc<dyn PeerHandler>,
    /// The connection's place.
    pub(crate) place: Arc<Place>,
    /// Who calls; `None` when the certificate carries no usable name.
    pub(crate) peer: Option<Arc<PeerIdentity>>,
    /// Work that goes on when a caller hangs up: nothing is stopped half-way by a cut line.
    pub(crate) work: TaskTracker,
    /// Time limits and places of the listener that this service belongs to.
    pub(crate) limits: Limits,
}

impl Service {
    /// Answers one request.
    pub(crate) async fn answer(self, request: Request<Incoming>) -> Result<Response<OutBody>, Infallible> {
        // A host that is known here is not interrupted by others that are.
        let _held = self.place.is_known().then(|| self.place.hold());
        let (head, body) = request.into_parts();
        let Some(peer) = self.peer.clone() else {
            drain(body);
            let error =
                "your certificate carries no DNS name, and hosts are known by their DNS names".to_owned();
            let hint = Some(Trust::AddName.into());
            return Ok(json(StatusCode::FORBIDDEN, &WireError { error, hint }));
        };
        let response = match (head.uri.path(), &head.method) {
            (CONTROL, &Method::POST) => self.control(peer, body).await,
            (LOGS, &Method::PUT) => self.log(peer, head.uri.query().unwrap_or_default(), body).await,
            (path, method) => {
                drain(body);
                elsewhere(path, method)
            }
        };
        Ok(response)
    }

    async fn control(&self, peer: Arc<PeerIdentity>, body: Incoming) -> Response<OutBody> {
        let text = match read_document(body, self.limits.document).await {
            Ok(text) => text,
            Err(response) => return response,
        };
        let request = match parse_request(&text) {
            Ok(request) => request,
            Err(e) => {
                return wire_error(
                    StatusCode::BAD_REQUEST,
                    format!("the request is not understood: {e}"),
                );
            }
        };
        let handler = self.handler.clone();
        match self
            .work
            .spawn(async move { handler.call(&peer, request).await })
            .await
        {
            Ok(PeerReply::Refused(PeerRefusal::OtherKey { detail, .. })) => {
                json(StatusCode::FORBIDDEN, &WireError::from(detail))
            }
            Ok(reply) => {
                let status = match &reply {
                    PeerReply::Refused(refusal) => refusal_status(refusal),
                    PeerReply::Hello { .. }
                    | PeerReply::Status(_)
                    | PeerReply::Offset { .. }
                    | PeerReply::Checked { .. }
                    | PeerReply::Differ { .. }
                    | PeerReply::Differences { .. }
                    | PeerReply::Standing(_)
                    | PeerReply::DiskData { .. }
                    | PeerReply::Accepted => StatusCode::OK,
                };
                json(status, &reply)
            }
            Err(e) => crashed(&e),
        }
    }

    async fn log(&self, peer: Arc<PeerIdentity>, query: &str, body: Incoming) -> Response<OutBody> {
        let address = match parse_log_query(query) {
            Ok(address) => address,
            Err(e) => {
                drain(body);
                return wire_error(
                    StatusCode::BAD_REQUEST,
                    format!("which log this is, is not understood: {e}"),
                );
            }
        };
        let (stream, leftover) = LogBody::new(body, self.limits.silence);
        let mut task = self.receive(peer, address, stream);
        tokio::select! {
            biased;
            result = &mut task => {
                leftover.drain();
                let (status, text) = log_answer(result);
                with_body(status, crate::wire::full(text))
            }
            () = tokio::time::sleep(self.limits.heartbeat) => {
                with_body(StatusCode::OK, awaited(task, leftover, self.limits.heartbeat))
            }
        }
    }

    fn receive(&self, peer: Arc<PeerIdentity>, address: LogAddress, body: LogBody) -> LogTask {
        let handler = self.handler.clone();
        self.work
            .spawn(async move { handler.receive(&peer, address, Box::pin(body)).await })
    }
}

async fn read_document(mut body: Incoming, patience: Duration) -> Result<Bytes, Response<OutBody>> {
    let mut text = BytesMut::new();
    let read = async {
        while let Some(frame) = body.frame().await {
            let frame = frame
                .map_err(|e| wire_error(StatusCode::BAD_REQUEST, format!("the request was cut: {e}")))?;
            let data = frame.into_data().unwrap_or_default();
            if text.len() + data.len() > DOCUMENT_MAX {
                let error = format!("the request is larger than {DOCUMENT_MAX} bytes");
                return Err(wire_error(StatusCode::PAYLOAD_TOO_LARGE, error));
            }
            text.extend_from_slice(&data);
        }
        Ok(())
    };
    let read = tokio::time::timeout(patience, read).await;
    let late = || wire_error(StatusCode::REQUEST_TIMEOUT, "the request did not come in time");
    match read.map_err(|_| late()).flatten() {
        Ok(()) => Ok(text.freeze()),
        Err(response) => {
            drain(body);
            Err(response)
        }
    }
}

/// An answer that is begun before it is known: blanks, which JSON allows, until the log is durable. A slow disk is not
/// a dead host, and the caller can distinguish them.
fn awaited(task: LogTask, leftover: Leftover, heartbeat: Duration) -> OutBody {
    let frames = stream::unfold(Some(task), move |state| {
        let leftover = leftover.clone();
        async move {
            let mut task = state?;
            tokio::select! {
                biased;
                result = &mut task => {
                    leftover.drain();
                    Some((Ok(Frame::data(log_answer(result).1)), None))
                }
                () = tokio::time::sleep(heartbeat) => Some((Ok(Frame::data(Bytes::from_static(b" "))), Some(task))),
            }
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

fn log_answer(result: Result<Result<LogReceipt, PeerRefusal>, JoinError>) -> (StatusCode, Bytes) {
    let (status, text) = match result {
        Ok(Ok(receipt)) => (StatusCode::OK, serde_json::to_vec(&receipt)),
        Ok(Err(PeerRefusal::OtherKey { detail, .. })) => (
            StatusCode::FORBIDDEN,
            serde_json::to_vec(&WireError::from(detail)),
        ),
        Ok(Err(refusal)) => (refusal_status(&refusal), serde_json::to_vec(&refusal)),
        Err(e) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            serde_json::to_vec(&WireError::plain(crash_text(&e))),
        ),
    };
    match text {
        Ok(text) => (status, text.into()),
        Err(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            Bytes::from_static(br#"{"error":"the answer cannot be written"}"#),
        ),
    }
}

fn crash_text(e: &JoinError) -> String {
    tracing::error!("a request of a peer ended in a panic: {e}");
    "the request ended in a fault of Lifeboat; see the log there".into()
}

fn crashed(e: &JoinError) -> Response<OutBody> {
    wire_error(StatusCode::INTERNAL_SERVER_ERROR, crash_text(e))
}

fn elsewhere(path: &str, method: &Method) -> Response<OutBody> {
    let path: String = path.chars().take(100).collect();
    match path.as_str() {
        CONTROL | LOGS => wire_error(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{method} is not understood at {path}"),
        ),
        other if other.starts_with(ROOT) => wire_error(
            StatusCode::NOT_FOUND,
            format!("{path} is not part of version 1, the only version of the protocol this Lifeboat speaks"),
        ),
        _ => wire_error(
            StatusCode::NOT_FOUND,
            format!("nothing is at {path}; Lifeboat speaks below {ROOT}"),
        ),
    }
}
