//! Whether a transfer moves: bytes over the socket are counted below TLS, because one chunk of a log can take longer
//! than the stall time on a slow line. Waiting for our own source is not the peer's stall.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use lifeboat_engine::ports::ByteStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes that crossed a socket, both directions together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter(Arc<AtomicU64>);

impl Meter {
    fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A socket that counts.
pub(crate) struct Metered {
    /// The socket that is read and written through this one.
    pub(crate) socket: TcpStream,
    /// Counts the bytes that the peer has taken or sent.
    pub(crate) meter: Meter,
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(cx, buf);
        self.meter.add(buf.filled().len() - before);
        polled
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = &polled {
            self.meter.add(*n);
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(n)) = &polled {
            self.meter.add(*n);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// What is known of a log's source while it is being sent.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// It was asked for bytes and has none yet.
    waiting: AtomicBool,
    /// It was read to its end.
    ended: AtomicBool,
    /// Why reading it failed, if it did.
    failure: OnceLock<String>,
}

impl Source {
    /// Whether the whole log has been handed to the connection.
    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Why the log could not be read here.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }
}

/// A log as a request body.
pub(crate) struct SourceBody {
    /// The bytes of the log, which can be read once.
    pub(crate) stream: ByteStream,
    /// What others may know of it.
    pub(crate) source: Arc<Source>,
}

impl Body for SourceBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.source.ended() {
            return Poll::Ready(None);
        }
        let polled = self.stream.as_mut().poll_next(cx);
        self.source.waiting.store(polled.is_pending(), Ordering::Release);
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(bytes))) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Poll::Ready(Some(Err(e))) => {
                // Set once: nothing is asked of the stream after its first error.
                let _ = self.source.failure.set(e.to_string());
                Poll::Ready(Some(Err(e)))
            }
            Poll::Ready(None) => {
                self.source.ended.store(true, Ordering::Release);
                Poll::Ready(None)
            }
        }
    }
}

/// Returns when nothing has crossed the socket for `limit` although the source was not to blame.
pub(crate) async fn stalled(meter: &Meter, source: &Source, limit: Duration) {
    let mut seen = meter.value();
    let mut since = tokio::time::Instant::now();
    loop {
        tokio::time::sleep((limit / 16).max(Duration::from_millis(1))).await;
        let now = meter.value();
        if now != seen || source.waiting.load(Ordering::Acquire) {
            seen = now;
            since = tokio::time::Instant::now();
        } else if since.elapsed() >= limit {
            return;
        }
    }
}
