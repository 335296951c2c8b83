//! A log on its way in. A body that was cut or stalls ends with an error, never as if it were complete. What the
//! handler leaves unread comes back here, to be drained: closing a connection with unread bytes would destroy the answer.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::{Instant, Sleep};

/// Most bytes read for nothing after an early answer.
const DRAIN_BYTES: usize = 64 << 20;
/// Longest time spent on it.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// Where the unread rest of a body is found once the handler has let go of it.
#[derive(Clone, Default)]
pub(crate) struct Leftover(Arc<Mutex<Option<Incoming>>>);

impl Leftover {
    /// Reads and forgets the rest in the background, within bounds.
    pub(crate) fn drain(&self) {
        let rest = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(body) = rest {
            drain(body);
        }
    }
}

/// Reads and forgets a body in the background, within bounds.
pub(crate) fn drain(mut body: Incoming) {
    tokio::spawn(tokio::time::timeout(DRAIN_TIME, async move {
        let mut budget = DRAIN_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let size = frame.data_ref().map_or(0, Bytes::len);
            match budget.checked_sub(size) {
                Some(rest) => budget = rest,
                None => break,
            }
        }
    }));
}

/// The body as the handler reads it.
pub(crate) struct LogBody {
    // `None` once it has ended, well or not.
    body: Option<Incoming>,
    leftover: Leftover,
    patience: Duration,
    timer: Pin<Box<Sleep>>,
}

impl LogBody {
    /// `patience`: longest time without a byte.
    pub(crate) fn new(body: Incoming, patience: Duration) -> (Self, Leftover) {
        let leftover = Leftover::default();
        let timer = Box::pin(tokio::time::sleep(patience));
        (
            Self {
                body: Some(body),
                leftover: leftover.clone(),
                patience,
                timer,
            },
            leftover,
        )
    }
}

impl Drop for LogBody {
    fn drop(&mut self) {
        *self.leftover.0.lock().unwrap_or_else(PoisonError::into_inner) = self.body.take();
    }
}

impl Stream for LogBody {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let this = &mut *self;
        loop {
            let Some(body) = &mut this.body else {
                return Poll::Ready(None);
            };
            let polled = Pin::new(body).poll_frame(cx);
            if polled.is_ready() {
                // Time the handler spends between two chunks is not the sender's silence.
                this.timer.as_mut().reset(Instant::now() + this.patience);
            }
            match polled {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Poll::Ready(Some(Err(e))) => {
                    this.body = None;
                    let text = format!("the log was cut on its way: {}", crate::pool::chain(&e));
                    return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))));
                }
                Poll::Ready(None) => {
                    this.body = None;
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    std::task::ready!(this.timer.as_mut().poll(cx));
                    this.body = None;
                    let text = format!("nothing of the log has come for {:?}", this.patience);
                    return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, text))));
                }
            }
        }
    }
}
