//! The protocol as text, without any connection: paths, the query that says which log, statuses, JSON answers.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::{Response, StatusCode};
use lifeboat_engine::ports::link::{Detail, LogAddress, LogReceipt, PeerRefusal, PeerReply, PeerRequest};
use lifeboat_model::{GenerationId, Position, VmId, words};
use lifeboat_model::{Hint, hint};
use serde::{Deserialize, Serialize};

/// A body that is being sent.
pub(crate) type OutBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// Everything of this protocol is below this path.
pub(crate) const ROOT: &str = "/lifeboat/";
/// `POST`: a `PeerRequest`, answered by a `PeerReply`.
pub(crate) const CONTROL: &str = "/lifeboat/1/control";
/// `PUT`: a log.
pub(crate) const LOGS: &str = "/lifeboat/1/logs";
/// Most bytes of a control document, either way, and of an answer to a log. An offer carries the firmware's variables,
/// up to 4 MiB that base64 makes 5.4; nothing else comes near.
pub(crate) const DOCUMENT_MAX: usize = 8 << 20;

/// An answer of the transport itself; the handler was not asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireError {
    /// What is wrong, in words.
    #[serde(deserialize_with = "words::text")]
    pub(crate) error: String,
    /// What can be done; earlier versions do not say.
    #[serde(
        default,
        deserialize_with = "hint::told",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) hint: Option<Hint>,
}

impl WireError {
    /// One with nothing that could be done.
    pub(crate) fn plain(error: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            hint: None,
        }
    }
}

impl From<Detail> for WireError {
    fn from(detail: Detail) -> Self {
        Self {
            error: detail.text,
            hint: detail.hint,
        }
    }
}

/// Any answer to a log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LogAnswer {
    /// The handler took the log; the receipt says what is durable now.
    Receipt(LogReceipt),
    /// Refused by the handler.
    Refusal(PeerRefusal),
    /// Refused by the transport.
    Error(WireError),
}

/// The path and query that name a log.
pub(crate) fn log_target(address: &LogAddress) -> String {
    match address {
        LogAddress::Delta { vm, position, offset } => format!(
            "{LOGS}?kind=delta&vm={vm}&generation={}&sequence={}&offset={offset}",
            position.generation(),
            position.sequence()
        ),
        LogAddress::Bulk { vm } => format!("{LOGS}?kind=bulk&vm={vm}"),
    }
}

/// Reads the query of a log. Every field once, none unknown: a field that was overlooked could change the meaning.
pub(crate) fn parse_log_query(query: &str) -> Result<LogAddress, String> {
    let mut fields = Vec::new();
    for pair in query.split('&') {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| format!("\"{}\" is not NAME=VALUE", short(pair)))?;
        if fields.iter().any(|(n, _)| *n == name) {
            return Err(format!("{} appears twice", short(name)));
        }
        fields.push((name, value));
    }
    let mut take = |name: &str| {
        let at = fields
            .iter()
            .position(|(n, _)| *n == name)
            .ok_or_else(|| format!("{name} is missing"))?;
        Ok::<_, String>(fields.swap_remove(at).1)
    };
    let number = |name: &str, text: &str| {
        text.parse::<u64>()
            .map_err(|_| format!("{name} \"{}\" is not a number", short(text)))
    };
    let kind = take("kind")?;
    let vm: VmId = take("vm")?.parse().map_err(|e| format!("vm: {e}"))?;
    let address = match kind {
        "bulk" => LogAddress::Bulk { vm },
        "delta" => {
            let generation: GenerationId = take("generation")?
                .parse()
                .map_err(|e| format!("generation: {e}"))?;
            let sequence = number("sequence", take("sequence")?)?;
            let offset = number("offset", take("offset")?)?;
            LogAddress::Delta {
                vm,
                position: Position::from_parts(generation, sequence),
                offset,
            }
        }
        other => return Err(format!("kind \"{}\" is not known", short(other))),
    };
    match fields.first() {
        None => Ok(address),
        Some((name, _)) => Err(format!("{} is not known", short(name))),
    }
}

fn short(text: &str) -> String {
    text.chars().take(60).collect()
}

/// The status that goes with a refusal, for people with a packet dump; programs read the JSON.
pub(crate) fn refusal_status(refusal: &PeerRefusal) -> StatusCode {
    match refusal {
        PeerRefusal::NotEnabled { .. } | PeerRefusal::NotAuthorized { .. } | PeerRefusal::OtherKey { .. } => {
            StatusCode::FORBIDDEN
        }
        PeerRefusal::NoReplica { .. } => StatusCode::NOT_FOUND,
        PeerRefusal::FailedOver { .. }
        | PeerRefusal::NewerGeneration { .. }
        | PeerRefusal::Suspended { .. }
        | PeerRefusal::Running { .. }
        | PeerRefusal::NotNow { .. }
        | PeerRefusal::OutOfSequence { .. }
        | PeerRefusal::Conflict { .. } => StatusCode::CONFLICT,
        PeerRefusal::NoSpace { .. } => StatusCode::INSUFFICIENT_STORAGE,
        PeerRefusal::Backlog { .. } => StatusCode::SERVICE_UNAVAILABLE,
        PeerRefusal::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A whole body.
pub(crate) fn full(bytes: impl Into<Bytes>) -> OutBody {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, document: &impl Serialize) -> Response<OutBody> {
    let (status, text) = match serde_json::to_vec(document) {
        Ok(text) => (status, text),
        Err(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            br#"{"error":"the answer cannot be written"}"#.to_vec(),
        ),
    };
    with_body(status, full(text))
}

/// An answer with any body.
pub(crate) fn with_body(status: StatusCode, body: OutBody) -> Response<OutBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    response
}

/// An answer of the transport itself.
pub(crate) fn wire_error(status: StatusCode, error: impl Into<String>) -> Response<OutBody> {
    json(status, &WireError::plain(error))
}

/// Reads a request.
///
/// # Errors
/// Why it is none, in words that fit into an answer: the parser's own repeat what it has read.
pub(crate) fn parse_request(text: &[u8]) -> Result<PeerRequest, String> {
    serde_json::from_slice(text).map_err(|e| words::kept(&e.to_string()))
}

/// Reads the answer to a control call.
pub(crate) fn parse_reply(text: &[u8]) -> Result<Result<PeerReply, WireError>, serde_json::Error> {
    match serde_json::from_slice::<WireError>(text) {
        Ok(error) => Ok(Err(error)),
        Err(_) => serde_json::from_slice(text).map(Ok),
    }
}

/// Reads the answer to a log. `kind` marks a receipt, `reason` a refusal, `error` the transport.
pub(crate) fn parse_log_answer(text: &[u8]) -> Result<LogAnswer, serde_json::Error> {
    let value: serde_json::Value = serde_json::from_slice(text)?;
    if value.get("error").is_some() {
        serde_json::from_value(value).map(LogAnswer::Error)
    } else if value.get("reason").is_some() {
        serde_json::from_value(value).map(LogAnswer::Refusal)
    } else {
        serde_json::from_value(value).map(LogAnswer::Receipt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn vm() -> VmId {
        VmId(Uuid::from_u128(5))
    }

    #[test]
    fn addresses_survive_the_query() {
        let position = Position::from_parts(GenerationId(Uuid::from_u128(6)), u64::MAX);
        for address in [
            LogAddress::Bulk { vm: vm() },
            LogAddress::Delta {
                vm: vm(),
                position,
                offset: 0,
            },
        ] {
            let target = log_target(&address);
            let (path, query) = target.split_once('?').unwrap();
            assert_eq!(path, LOGS);
            assert_eq!(parse_log_query(query), Ok(address));
        }
    }

    #[test]
    fn bad_queries_are_named() {
        let id = vm();
        for (query, part) in [
            (String::new(), "NAME=VALUE"),
            (format!("vm={id}"), "kind is missing"),
            (format!("kind=full&vm={id}"), "kind \"full\""),
            ("kind=bulk&vm=5".into(), "not a UUID"),
            (format!("kind=bulk&vm={id}&vm={id}"), "twice"),
            (format!("kind=bulk&vm={id}&offset=3"), "offset is not known"),
            (
                format!("kind=delta&vm={id}&generation={id}&sequence=1"),
                "offset is missing",
            ),
            (
                format!("kind=delta&vm={id}&generation={id}&sequence=-1&offset=0"),
                "sequence \"-1\"",
            ),
            (
                format!("kind=delta&vm={id}&generation={id}&sequence=18446744073709551616&offset=0"),
                "not a number",
            ),
        ] {
            let e = parse_log_query(&query).unwrap_err();
            assert!(e.contains(part), "{query}: {e}");
        }
    }
}
