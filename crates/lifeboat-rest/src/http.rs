//! HTTP around the table: reads a request, has its action performed, writes the answer. No route is spelled out here.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Query, RawPathParams, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, get, on};
use futures_util::Stream;
use lifeboat_engine::action::{Action, Answer, Change, Management, NotTold, Refusal, What};
use lifeboat_engine::by::By;
use lifeboat_model::RequestId;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::hint::{self, Hint};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::openapi;
use crate::routes::{self, PREFIX, ROUTES, Reply, Route, Verb};

/// Longest request body in bytes.
pub(crate) const MAX_BODY: usize = 1 << 20;
/// How long a client may take to send its body.
const BODY_TIME: Duration = Duration::from_secs(20);
/// Says which answer a body is; the client needs no second table.
pub(crate) const ANSWER_HEADER: &str = "lifeboat-answer";

/// The event that says that changes of jobs were missed. It has no data, so that clients of older releases pass over it.
pub(crate) const MISSED: &str = "missed";

/// A refusal as a body.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErrorBody {
    /// The API's return code as a number.
    pub(crate) code: u32,
    /// Its name.
    pub(crate) name: ReturnCode,
    /// What and why.
    pub(crate) message: String,
    /// What to do instead; `None` when there is nothing to do.
    #[serde(default, deserialize_with = "hint::told")]
    pub(crate) hint: Option<Hint>,
    /// The request that was recorded instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<RequestId>,
}

impl From<Refusal> for ErrorBody {
    fn from(r: Refusal) -> Self {
        Self {
            code: r.code.number(),
            name: r.code,
            message: r.message,
            hint: r.hint,
            request: r.request,
        }
    }
}

/// HTTP status that fits a return code.
pub(crate) fn status(code: ReturnCode) -> StatusCode {
    match code {
        ReturnCode::AccessDenied => StatusCode::FORBIDDEN,
        ReturnCode::NotSupported => StatusCode::NOT_IMPLEMENTED,
        ReturnCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ReturnCode::InvalidParameter | ReturnCode::IncorrectType => StatusCode::BAD_REQUEST,
        ReturnCode::InUse | ReturnCode::InvalidState => StatusCode::CONFLICT,
        ReturnCode::Unavailable | ReturnCode::OutOfMemory => StatusCode::SERVICE_UNAVAILABLE,
        ReturnCode::FileNotFound => StatusCode::NOT_FOUND,
        // The first two are no refusals: an engine that refuses with them is at fault.
        ReturnCode::Completed | ReturnCode::JobStarted | ReturnCode::Failed | ReturnCode::Unknown => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

fn refuse(status: StatusCode, refusal: Refusal) -> Response {
    (status, axum::Json(ErrorBody::from(refusal))).into_response()
}

/// The router of all routes.
pub(crate) fn router(management: Arc<dyn Management>, stop: CancellationToken) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let management = Arc::clone(&management);
        let handler = move |path: RawPathParams, request: Request| async move {
            carry_out(route, management.as_ref(), &path, request).await
        };
        router = router.route(
            &format!("{PREFIX}{}", route.path),
            on(filter(route.verb), handler),
        );
    }
    let events = move || async move { job_events(management.as_ref(), stop) };
    router
        .route(&format!("{PREFIX}/jobs/events"), get(events))
        .route(
            &format!("{PREFIX}/openapi.json"),
            get(|| async { axum::Json(openapi::document()) }),
        )
        .fallback(|| async { unknown(StatusCode::NOT_FOUND, "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            unknown(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path does not support this method",
            )
        })
}

fn filter(verb: Verb) -> MethodFilter {
    match verb {
        Verb::Get => MethodFilter::GET,
        Verb::Post => MethodFilter::POST,
        Verb::Put => MethodFilter::PUT,
        Verb::Delete => MethodFilter::DELETE,
    }
}

fn unknown(status: StatusCode, message: &str) -> Response {
    refuse(
        status,
        Refusal::new(ReturnCode::NotSupported, message, hint::Look::Document),
    )
}

async fn carry_out(
    route: &Route,
    management: &dyn Management,
    path: &RawPathParams,
    request: Request,
) -> Response {
    let by = request.extensions().get::<By>().cloned();
    let action = match read(route, path, request).await {
        Ok(action) => action,
        Err(response) => return response,
    };
    let list = matches!(route.reply, Reply::Pages(_)).then(|| action.clone());
    match management.perform(by, action).await {
        Ok(mut answer) => {
            let next = answer.next_mut().and_then(Option::take);
            let mut response = write(route.verb, answer);
            let next = list
                .zip(next)
                .and_then(|(list, from)| link(&list.going_on(from)?));
            if let Some(next) = next {
                response.headers_mut().insert(header::LINK, next);
            }
            response
        }
        Err(refusal) => refuse(status(refusal.code), refusal),
    }
}

/// The link to the next page of a list (RFC 8288).
fn link(next: &Action) -> Option<HeaderValue> {
    let target = routes::call(next)?.target;
    HeaderValue::from_str(&format!("<{target}>; rel=\"next\"")).ok()
}

async fn read(route: &Route, path: &RawPathParams, request: Request) -> Result<Action, Response> {
    let bad = |message: String| {
        refuse(
            StatusCode::BAD_REQUEST,
            Refusal::bare(ReturnCode::InvalidParameter, message),
        )
    };
    let (head, body) = request.into_parts();
    let Query(query) = Query::<Vec<(String, String)>>::try_from_uri(&head.uri)
        .map_err(|e| bad(format!("the query cannot be read: {e}")))?;
    let body = match tokio::time::timeout(BODY_TIME, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => {
            let message = format!("the body was cut off, or is longer than {MAX_BODY} bytes");
            let refusal = Refusal::bare(ReturnCode::InvalidParameter, message);
            return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, refusal));
        }
        Err(_) => {
            let refusal = Refusal::bare(ReturnCode::Timeout, "the body did not arrive in time");
            return Err(refuse(StatusCode::REQUEST_TIMEOUT, refusal));
        }
    };
    let path = path.iter().map(|(k, v)| (k.to_owned(), v.to_owned()));
    route
        .action(path, query, &body)
        .map_err(|refusal| refuse(status(refusal.code), refusal))
}

fn write(verb: Verb, answer: Answer) -> Response {
    let status = if matches!(answer, Answer::Done) {
        StatusCode::NO_CONTENT
    } else if let Answer::Job(job) = &answer
        && verb != Verb::Get
        && !job.state.is_final()
    {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    if let Answer::Picture(png) = answer {
        return (
            status,
            [
                (header::CONTENT_TYPE, "image/png"),
                (header::HeaderName::from_static(ANSWER_HEADER), "picture"),
            ],
            png,
        )
            .into_response();
    }
    let (tag, value) = match serde_json::to_value(&answer) {
        Ok(Value::Object(mut parts)) => (parts.remove("answer"), parts.remove("value")),
        Ok(_) | Err(_) => (None, None),
    };
    let tag = tag
        .as_ref()
        .and_then(Value::as_str)
        .and_then(|t| HeaderValue::from_str(t).ok());
    let Some(tag) = tag else {
        let refusal = Refusal::new(
            ReturnCode::Failed,
            "the answer cannot be written as JSON",
            hint::Again::ReportBug,
        );
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, refusal);
    };
    let mut response = match value {
        Some(value) => (status, axum::Json(value)).into_response(),
        None => (status, Body::empty()).into_response(),
    };
    response.headers_mut().insert(ANSWER_HEADER, tag);
    response
}

/// Jobs as they change. The subscription exists before the response begins, so that a client that asks for a job
/// after it has seen the response's head misses nothing.
fn job_events(
    management: &dyn Management,
    stop: CancellationToken,
) -> Sse<impl Stream<Item = Result<Event, Infallible>> + use<>> {
    let changes = management.watch();
    let stream = futures_util::stream::unfold((changes, stop), |(mut changes, stop)| async move {
        let event = loop {
            let next = tokio::select! {
                () = stop.cancelled() => return None,
                next = changes.next() => next,
            };
            match next {
                Ok(Change {
                    what: What::Job(job), ..
                }) => {
                    break Event::default().event("job").json_data(&job).unwrap_or_default();
                }
                Ok(Change {
                    what:
                        What::Vm { .. } | What::Relationship { .. } | What::JobRemoved { .. } | What::Event(_),
                    ..
                }) => {}
                // A reader that was too slow has to ask for its job again.
                Err(NotTold::Missed) => break Event::default().event(MISSED),
                Err(NotTold::Ended) => return None,
            }
        };
        Some((Ok(event), (changes, stop)))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(5)))
}
