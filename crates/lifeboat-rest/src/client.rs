//! The client of the REST surface: one connection per call over the Unix socket. It translates and reports; it does
//! not retry and has no opinion about answers.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use camino::{Utf8Path, Utf8PathBuf};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::LINK;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use lifeboat_engine::action::{Action, Answer, JobView, Refusal};
use lifeboat_engine::paging::Page;
use lifeboat_engine::query::Query;
use lifeboat_model::JobId;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::http::{ANSWER_HEADER, ErrorBody, MISSED};
use crate::routes::{self, Call, PREFIX, Verb};

/// Longest answer taken in, in bytes: a picture of a large screen fits, and a page of a list by far; nonsense does not fill
/// the memory.
const MAX_ANSWER: usize = 64 << 20;
/// Longest single event of the job stream in bytes.
const MAX_EVENT: usize = 1 << 20;
/// Silence about a job after which it is asked for: the stream may skip when the reader was slow.
const ASK_AGAIN: Duration = Duration::from_secs(3);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon serves there, or the socket may not be opened.
    #[error("the daemon cannot be reached at {socket}: {source}")]
    Unreachable {
        /// Path of the daemon's socket.
        socket: Utf8PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The daemon went away in the middle.
    #[error("the daemon at {socket} ended the connection: {detail}")]
    Lost {
        /// Path of the daemon's socket.
        socket: Utf8PathBuf,
        /// What happened.
        detail: String,
    },
    /// The other side is no Lifeboat of a version we know.
    #[error("the answer from {socket} cannot be read: {detail}")]
    Protocol {
        /// Path of the daemon's socket.
        socket: Utf8PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// It refused.
    #[error("{0}")]
    Refused(Refusal),
}

/// A way to the daemon of this host.
#[derive(Clone, Debug)]
pub struct Client {
    socket: Utf8PathBuf,
}

impl Client {
    /// The daemon behind `socket`. Connections are made call by call.
    #[must_use]
    pub fn new(socket: &Utf8Path) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// Has an action performed and waits for the answer, however long that takes.
    pub async fn perform(&self, action: &Action) -> Result<Answer, ClientError> {
        let call = routes::call(action).ok_or_else(|| self.protocol("there is no route for this action"))?;
        let response = self.send(&call).await?;
        let status = response.status();
        let tag = response
            .headers()
            .get(ANSWER_HEADER)
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned);
        let next = response
            .headers()
            .get(LINK)
            .and_then(|v| next_page(v.to_str().ok()?));
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|e| self.lost(e.to_string()))?.to_bytes();
        if !status.is_success() {
            return Err(self.refusal(status, &body));
        }
        let tag = tag.ok_or_else(|| self.protocol("it does not say what it answers"))?;
        if tag == "picture" {
            return Ok(Answer::Picture(body.to_vec()));
        }
        let mut parts = json!({ "answer": tag });
        if !body.is_empty() {
            parts["value"] = serde_json::from_slice(&body).map_err(|e| self.protocol(e))?;
        }
        let mut answer: Answer = serde_json::from_value(parts).map_err(|e| self.protocol(e))?;
        if let Some(place) = answer.next_mut() {
            *place = next;
        }
        Ok(answer)
    }

    /// Asks a question and waits for the answer.
    ///
    /// # Errors
    /// As [`Client::perform`]; `Protocol` when the answer is none to this question.
    pub async fn query<T>(&self, query: &Query<T>) -> Result<T, ClientError> {
        let answer = self.perform(query.action()).await?;
        query.read(answer).map_err(|e| self.protocol(e))
    }

    /// Asks for a list page by page until `enough` items are there, or all.
    ///
    /// # Errors
    /// As [`Client::query`], of the first page that there is none of.
    pub async fn gather<T>(&self, mut query: Query<Page<T>>, enough: usize) -> Result<Vec<T>, ClientError> {
        let Page {
            items: mut all,
            mut next,
        } = self.query(&query).await?;
        let mut before = None;
        while let Some(from) = next.take().filter(|_| all.len() < enough) {
            if before.as_ref() == Some(&from) {
                return Err(self.protocol("a list goes on where it was"));
            }
            before = Some(from.clone());
            let Some(going_on) = query.going_on(from) else {
                break;
            };
            query = going_on;
            let page = self.query(&query).await?;
            all.extend(page.items);
            next = page.next;
        }
        Ok(all)
    }

    /// Follows a job from now on; the first state returned is the one it is in.
    pub async fn follow(&self, job: JobId) -> Result<JobFollower, ClientError> {
        let call = Call {
            verb: Verb::Get,
            target: format!("{PREFIX}/jobs/events"),
            body: None,
        };
        let response = self.send(&call).await?;
        if !response.status().is_success() {
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_EVENT).collect().await;
            return Err(self.refusal(status, &body.map_err(|e| self.lost(e.to_string()))?.to_bytes()));
        }
        Ok(JobFollower {
            client: self.clone(),
            job,
            body: response.into_body(),
            pending: BytesMut::new(),
            asked: false,
            last: None,
        })
    }

    async fn send(&self, call: &Call) -> Result<Response<Incoming>, ClientError> {
        let unreachable = |source| ClientError::Unreachable {
            socket: self.socket.clone(),
            source,
        };
        let stream = UnixStream::connect(&self.socket).await.map_err(unreachable)?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|e| self.lost(e.to_string()))?;
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(call.verb.as_str())
            .uri(&call.target)
            .header("host", "lifeboat");
        let body = match &call.body {
            Some(value) => {
                request = request.header("content-type", "application/json");
                Bytes::from(value.to_string())
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(body)).map_err(|e| self.protocol(e))?;
        sender
            .send_request(request)
            .await
            .map_err(|e| self.lost(e.to_string()))
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> ClientError {
        match serde_json::from_slice::<ErrorBody>(body) {
            Ok(e) => ClientError::Refused(Refusal {
                code: e.name,
                message: e.message,
                hint: e.hint,
                request: e.request,
            }),
            Err(_) => self.protocol(format!("status {status} without an explanation")),
        }
    }

    fn lost(&self, detail: String) -> ClientError {
        ClientError::Lost {
            socket: self.socket.clone(),
            detail,
        }
    }

    fn protocol(&self, detail: impl ToString) -> ClientError {
        ClientError::Protocol {
            socket: self.socket.clone(),
            detail: detail.to_string(),
        }
    }
}

/// Where the next page of a list begins, from its link.
fn next_page(link: &str) -> Option<String> {
    let (target, relation) = link.trim().strip_prefix('<')?.split_once('>')?;
    relation.contains("rel=\"next\"").then_some(())?;
    let (_, query) = target.split_once('?')?;
    let after = query.split('&').find_map(|part| part.strip_prefix("after="))?;
    // A place consists of characters that need no encoding in a URL.
    Some(after.to_owned())
}

/// What an event of the stream of jobs tells.
enum Told {
    Job(Box<JobView>),
    /// Changes were missed.
    Missed,
}

/// States of one job, one after the other, until it has ended.
#[derive(Debug)]
pub struct JobFollower {
    client: Client,
    job: JobId,
    body: Incoming,
    pending: BytesMut,
    asked: bool,
    last: Option<JobView>,
}

impl JobFollower {
    /// The next state that differs from the last one; `None` after the final one. May be dropped between two states.
    pub async fn next(&mut self) -> Result<Option<JobView>, ClientError> {
        if self.last.as_ref().is_some_and(|j| j.state.is_final()) {
            return Ok(None);
        }
        loop {
            let job = if self.asked {
                match tokio::time::timeout(ASK_AGAIN, self.event()).await {
                    Ok(Ok(Some(job))) => job,
                    Ok(Ok(None)) | Err(_) => self.ask().await?,
                    Ok(Err(error)) => return Err(error),
                }
            } else {
                // The stream is open by now: nothing that happens after this answer is missed.
                self.asked = true;
                self.ask().await?
            };
            if self.last.as_ref() != Some(&job) {
                self.last = Some(job.clone());
                return Ok(Some(job));
            }
        }
    }

    async fn ask(&self) -> Result<JobView, ClientError> {
        self.client.query(&Query::show_job(self.job)).await
    }

    /// The next event about our job; `None`: there may have been one that was missed.
    async fn event(&mut self) -> Result<Option<JobView>, ClientError> {
        loop {
            while let Some(told) = self.take_event()? {
                match told {
                    Told::Job(job) if job.id == self.job => return Ok(Some(*job)),
                    Told::Job(_) => {}
                    Told::Missed => return Ok(None),
                }
            }
            let frame = self.body.frame().await;
            let frame = frame.ok_or_else(|| self.client.lost("the daemon is stopping".into()))?;
            let frame = frame.map_err(|e| self.client.lost(e.to_string()))?;
            if let Some(data) = frame.data_ref() {
                self.pending.extend_from_slice(data);
            }
            if self.pending.len() > MAX_EVENT {
                return Err(self.client.protocol("an event without end"));
            }
        }
    }

    /// Takes whole events off the front of what has arrived, until one tells something.
    fn take_event(&mut self) -> Result<Option<Told>, ClientError> {
        while let Some(end) = self.pending.windows(2).position(|w| w == b"\n\n") {
            let event = self.pending.split_to(end);
            self.pending.advance(2);
            let text = String::from_utf8_lossy(&event);
            let is_missed = |l: &str| l.strip_prefix("event:").is_some_and(|name| name.trim() == MISSED);
            if text.lines().any(is_missed) {
                return Ok(Some(Told::Missed));
            }
            let data: String = text
                .lines()
                .filter_map(|l| l.strip_prefix("data:"))
                .map(str::trim_start)
                .collect();
            if !data.is_empty() {
                let value: Value = serde_json::from_str(&data).map_err(|e| self.client.protocol(e))?;
                let job = serde_json::from_value(value).map_err(|e| self.client.protocol(e))?;
                return Ok(Some(Told::Job(Box::new(job))));
            }
        }
        Ok(None)
    }
}
