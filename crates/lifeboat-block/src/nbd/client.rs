//! The NBD client: one connection, many requests in flight, replies in any order.
//!
//! One task owns the connection and both receives and transmits, so a server that stops reading never keeps
//! us from reading, and one that breaks ends every waiting call at once. Requests have no time limit of
//! their own: drop the future to give one up, its late reply is recognised and thrown away.
//! It does not reconnect and does not retry: only the caller knows whether the export is still the same disk.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::StatusExtent;
use super::error::{Asked, NbdError};
use super::handshake::{BlockSizes, Handshake, Negotiated, Step};
use super::proto;
use super::replies::{Answer, Completion, Expect, Replies, ServerError};
use super::request::{append, invalid, no_context, range_len, request_header, unfitting};

/// Requests under way on one connection, in all; further ones wait. QEMU itself works on 16 at a time.
const MAX_IN_FLIGHT: usize = 64;

/// Large enough to fetch a few headers at once, small enough that data passes it by.
const HEADER_BUFFER: usize = 4096;

/// How long [`NbdClient::disconnect`] waits for the server to close.
const GOODBYE: Duration = Duration::from_secs(5);

/// An open export. Clones share the connection; it closes when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct NbdClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    negotiated: Negotiated,
    next_cookie: AtomicU64,
    slots: Arc<Semaphore>,
    waiters: mpsc::UnboundedSender<Waiter>,
    send: mpsc::Sender<Outgoing>,
    ended: watch::Receiver<Option<End>>,
    task: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What ended a connection.
#[derive(Debug, Clone)]
enum End {
    Closed(String),
    Protocol(String),
}

struct Waiter {
    cookie: u64,
    expect: Expect,
    reply: oneshot::Sender<Result<Answer, ServerError>>,
    slot: OwnedSemaphorePermit,
}

enum Outgoing {
    Request { header: [u8; 28], payload: Bytes },
    Disconnect,
}

/// One request as it goes onto the wire.
struct Command {
    kind: u16,
    flags: u16,
    offset: u64,
    len: u32,
    expect: Expect,
    payload: Bytes,
}

impl NbdClient {
    /// Connects to the server at `path` and opens `export`, asking for `contexts` such as
    /// `qemu:dirty-bitmap:NAME` or `base:allocation`. `timeout` bounds all of it. A context the server does
    /// not have is no error here; see [`NbdClient::has_context`].
    ///
    /// # Errors
    /// [`NbdError::Connect`], [`NbdError::Refused`], [`NbdError::Timeout`], [`NbdError::Protocol`].
    pub async fn connect_unix(
        path: &Path,
        export: &str,
        contexts: &[&str],
        timeout: Duration,
    ) -> Result<Self, NbdError> {
        let open = async {
            let stream = UnixStream::connect(path)
                .await
                .map_err(|source| NbdError::Connect {
                    path: path.to_owned(),
                    source,
                })?;
            let (read, write) = stream.into_split();
            Self::open(read, write, export, contexts).await
        };
        within(timeout, export, open).await
    }

    /// [`NbdClient::connect_unix`] over any stream that is already connected.
    ///
    /// # Errors
    /// [`NbdError::Refused`], [`NbdError::Timeout`], [`NbdError::Protocol`].
    pub async fn connect<S>(
        stream: S,
        export: &str,
        contexts: &[&str],
        timeout: Duration,
    ) -> Result<Self, NbdError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(stream);
        within(timeout, export, Self::open(read, write, export, contexts)).await
    }

    async fn open<R, W>(mut read: R, mut write: W, export: &str, contexts: &[&str]) -> Result<Self, NbdError>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let negotiated = shake_hands(&mut read, &mut write, export, contexts).await?;
        let ids = negotiated.contexts.iter().map(|(id, _)| *id).collect();
        let replies = Replies::new(negotiated.structured, ids);
        let (waiters, waiters_in) = mpsc::unbounded_channel();
        let (send, outgoing) = mpsc::channel(MAX_IN_FLIGHT);
        let (ended_in, ended) = watch::channel(None);
        let read = BufReader::with_capacity(HEADER_BUFFER, read);
        let receiver = Receiver {
            read,
            replies,
            waiters: waiters_in,
            waiting: HashMap::new(),
        };
        let task = tokio::spawn(run(receiver, write, outgoing, ended_in)).abort_handle();
        let slots = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
        let next_cookie = AtomicU64::new(1);
        Ok(Self {
            inner: Arc::new(Inner {
                negotiated,
                next_cookie,
                slots,
                waiters,
                send,
                ended,
                task,
            }),
        })
    }

    /// Size of the export in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.inner.negotiated.size
    }

    /// Whether the server refuses writes.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.inner.negotiated.flags & proto::FLAG_READ_ONLY != 0
    }

    /// The server's block sizes, in bytes.
    #[must_use]
    pub fn block_sizes(&self) -> BlockSizes {
        self.inner.negotiated.block_sizes
    }

    /// Whether `context` was asked for and the server has it.
    #[must_use]
    pub fn has_context(&self, context: &str) -> bool {
        self.inner.negotiated.context_id(context).is_some()
    }

    /// Reads `len` bytes at `offset`; `len` is at most [`BlockSizes::maximum`].
    ///
    /// # Errors
    /// See [`NbdError`]; never fewer bytes than asked for.
    pub async fn read(&self, offset: u64, len: u32) -> Result<Bytes, NbdError> {
        let asked = Asked::Read {
            offset,
            len: u64::from(len),
        };
        self.inner
            .negotiated
            .check(&asked, offset, u64::from(len), true)?;
        if len == 0 {
            return Ok(Bytes::new());
        }
        let expect = Expect::Read { offset, len };
        let command = Command {
            kind: proto::CMD_READ,
            flags: 0,
            offset,
            len,
            expect,
            payload: Bytes::new(),
        };
        match self.request(command, &asked).await? {
            Answer::Data(data) => Ok(Bytes::from(data)),
            other @ (Answer::Done | Answer::Status(_)) => Err(unfitting(&asked, &other)),
        }
    }

    /// The status of a range in `context`, in order and without gaps; neighbours differ in their flags.
    /// Takes as many round trips as the server's partial answers need. The result takes 24 bytes per
    /// extent: ask for a huge, finely divided range in pieces.
    ///
    /// # Errors
    /// See [`NbdError`]; [`NbdError::NoContext`] when [`NbdClient::has_context`] is false.
    pub async fn block_status(
        &self,
        context: &str,
        offset: u64,
        len: u64,
    ) -> Result<Vec<StatusExtent>, NbdError> {
        let negotiated = &self.inner.negotiated;
        let id = negotiated
            .context_id(context)
            .ok_or_else(|| no_context(context))?;
        let asked = Asked::BlockStatus {
            context: context.to_owned(),
            offset,
            len,
        };
        self.inner.negotiated.check(&asked, offset, len, false)?;
        let mut extents: Vec<StatusExtent> = Vec::new();
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let len = range_len(end - at);
            let expect = Expect::Status { context: id, len };
            let payload = Bytes::new();
            let command = Command {
                kind: proto::CMD_BLOCK_STATUS,
                flags: 0,
                offset: at,
                len,
                expect,
                payload,
            };
            let Answer::Status(parts) = self.request(command, &asked).await? else {
                return Err(NbdError::Protocol(
                    "a status query answered with something else".to_owned(),
                ));
            };
            at = append(&mut extents, at, parts);
        }
        Ok(extents)
    }

    /// Writes `data` at `offset`; at most [`BlockSizes::maximum`] bytes. Durable only after [`NbdClient::flush`].
    ///
    /// # Errors
    /// See [`NbdError`].
    pub async fn write(&self, offset: u64, data: Bytes) -> Result<(), NbdError> {
        let asked = Asked::Write {
            offset,
            len: data.len() as u64,
        };
        self.inner
            .negotiated
            .check(&asked, offset, data.len() as u64, true)?;
        self.check_writable(&asked)?;
        if data.is_empty() {
            return Ok(());
        }
        let len = u32::try_from(data.len()).map_err(|_| invalid(&asked, "it is too long"))?;
        let expect = Expect::Plain;
        let command = Command {
            kind: proto::CMD_WRITE,
            flags: 0,
            offset,
            len,
            expect,
            payload: data,
        };
        self.request(command, &asked).await.map(drop)
    }

    /// Makes a range read as zeroes, without sending them. With `no_hole` its storage stays allocated.
    ///
    /// # Errors
    /// See [`NbdError`].
    pub async fn write_zeroes(&self, offset: u64, len: u64, no_hole: bool) -> Result<(), NbdError> {
        let asked = Asked::WriteZeroes { offset, len };
        self.inner.negotiated.check(&asked, offset, len, false)?;
        self.check_writable(&asked)?;
        if self.inner.negotiated.flags & proto::FLAG_SEND_WRITE_ZEROES == 0 {
            return Err(invalid(
                &asked,
                "the server does not offer zeroing; write zeroes as data",
            ));
        }
        let flags = if no_hole { proto::CMD_FLAG_NO_HOLE } else { 0 };
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let len = range_len(end - at);
            let (expect, payload) = (Expect::Plain, Bytes::new());
            let command = Command {
                kind: proto::CMD_WRITE_ZEROES,
                flags,
                offset: at,
                len,
                expect,
                payload,
            };
            self.request(command, &asked).await?;
            at += u64::from(len);
        }
        Ok(())
    }

    /// Makes everything written so far durable. A server that offers no flush has nothing to lose.
    ///
    /// # Errors
    /// See [`NbdError`].
    pub async fn flush(&self) -> Result<(), NbdError> {
        if self.inner.negotiated.flags & proto::FLAG_SEND_FLUSH == 0 {
            return Ok(());
        }
        let (expect, payload) = (Expect::Plain, Bytes::new());
        let command = Command {
            kind: proto::CMD_FLUSH,
            flags: 0,
            offset: 0,
            len: 0,
            expect,
            payload,
        };
        self.request(command, &Asked::Flush).await.map(drop)
    }

    /// Says goodbye and waits until the server has closed (5 s at most). Calls under way on clones fail.
    pub async fn disconnect(self) {
        let goodbye = async {
            if self.inner.send.send(Outgoing::Disconnect).await.is_ok() {
                let _ = self.inner.ended.clone().wait_for(Option::is_some).await;
            }
        };
        let _ = tokio::time::timeout(GOODBYE, goodbye).await;
    }

    fn check_writable(&self, asked: &Asked) -> Result<(), NbdError> {
        if self.is_read_only() {
            return Err(invalid(asked, "the export is read-only"));
        }
        Ok(())
    }

    async fn request(&self, command: Command, asked: &Asked) -> Result<Answer, NbdError> {
        let inner = &self.inner;
        let slot = Arc::clone(&inner.slots)
            .acquire_owned()
            .await
            .map_err(|_| self.ended())?;
        let place = inner.send.reserve().await.map_err(|_| self.ended())?;
        let cookie = inner.next_cookie.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let Command {
            kind,
            flags,
            offset,
            len,
            expect,
            payload,
        } = command;
        // In this order and without an await between: the reply is expected before the request can leave.
        inner
            .waiters
            .send(Waiter {
                cookie,
                expect,
                reply,
                slot,
            })
            .map_err(|_| self.ended())?;
        place.send(Outgoing::Request {
            header: request_header(flags, kind, cookie, offset, len),
            payload,
        });
        match answer.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(ServerError { errno, message })) => Err(NbdError::Server {
                asked: asked.clone(),
                errno,
                message,
            }),
            Err(_) => Err(self.ended()),
        }
    }

    fn ended(&self) -> NbdError {
        match &*self.inner.ended.borrow() {
            Some(End::Protocol(what)) => NbdError::Protocol(what.clone()),
            Some(End::Closed(reason)) => NbdError::Closed {
                reason: reason.clone(),
            },
            None => NbdError::Closed {
                reason: "the connection was given up".to_owned(),
            },
        }
    }
}

async fn within<T>(
    limit: Duration,
    export: &str,
    work: impl Future<Output = Result<T, NbdError>>,
) -> Result<T, NbdError> {
    let late = |_| NbdError::Timeout {
        export: export.to_owned(),
        after: limit,
    };
    tokio::time::timeout(limit, work).await.map_err(late)?
}

async fn shake_hands<R, W>(
    read: &mut R,
    write: &mut W,
    export: &str,
    contexts: &[&str],
) -> Result<Negotiated, NbdError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let broken = |source| NbdError::Handshake {
        export: export.to_owned(),
        source,
    };
    let mut handshake = Handshake::new(export, contexts)?;
    loop {
        match handshake.step()? {
            Step::Send(bytes) => write.write_all(&bytes).await.map_err(broken)?,
            Step::NeedMore => {
                let mut chunk = [0; 4096];
                let count = read.read(&mut chunk).await.map_err(broken)?;
                if count == 0 {
                    return Err(broken(std::io::ErrorKind::UnexpectedEof.into()));
                }
                handshake.push(chunk.get(..count).unwrap_or_default());
            }
            Step::Ready(_) if !handshake.rest().is_empty() => {
                return Err(NbdError::Protocol(
                    "it answered before anything was asked".to_owned(),
                ));
            }
            Step::Ready(negotiated) => return Ok(negotiated),
        }
    }
}

async fn run<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    mut receiver: Receiver<R>,
    mut write: W,
    mut outgoing: mpsc::Receiver<Outgoing>,
    ended: watch::Sender<Option<End>>,
) {
    let end = tokio::select! {
        end = receiver.receive() => end,
        end = transmit(&mut write, &mut outgoing) => end,
    };
    // First the reason, then the wake-up: a caller that wakes because its waiter is dropped finds out why.
    let _ = ended.send(Some(end));
}

struct Receiver<R> {
    read: BufReader<R>,
    replies: Replies,
    waiters: mpsc::UnboundedReceiver<Waiter>,
    waiting: HashMap<u64, (oneshot::Sender<Result<Answer, ServerError>>, OwnedSemaphorePermit)>,
}

impl<R: AsyncRead + Unpin> Receiver<R> {
    async fn receive(&mut self) -> End {
        loop {
            let count = match self.read.read(self.replies.space()).await {
                Ok(0) => return End::Closed("the server closed it or ended".to_owned()),
                Ok(count) => count,
                Err(error) => return End::Closed(format!("receiving failed: {error}")),
            };
            // A request is noted before it is sent, so all that can be answered by now is in the queue.
            while let Ok(Waiter {
                cookie,
                expect,
                reply,
                slot,
            }) = self.waiters.try_recv()
            {
                self.replies.expect(cookie, expect);
                self.waiting.insert(cookie, (reply, slot));
            }
            match self.replies.filled(count) {
                Ok(None) => {}
                Ok(Some(Completion { cookie, result })) => {
                    if let Some((reply, _slot)) = self.waiting.remove(&cookie) {
                        let _ = reply.send(result);
                    }
                }
                Err(violation) => return End::Protocol(violation.to_string()),
            }
        }
    }
}

async fn transmit<W: AsyncWrite + Unpin>(write: &mut W, outgoing: &mut mpsc::Receiver<Outgoing>) -> End {
    loop {
        let outcome = match outgoing.recv().await {
            Some(Outgoing::Request { header, payload }) if payload.is_empty() => {
                write.write_all(&header).await
            }
            Some(Outgoing::Request { header, payload }) => match write.write_all(&header).await {
                Ok(()) => write.write_all(&payload).await,
                Err(error) => Err(error),
            },
            Some(Outgoing::Disconnect) => {
                outgoing.close();
                let header = request_header(0, proto::CMD_DISC, 0, 0, 0);
                match write.write_all(&header).await {
                    Ok(()) => write.shutdown().await,
                    Err(error) => Err(error),
                }
            }
            // All senders are dropped; the other half notices the end of the connection.
            None => std::future::pending().await,
        };
        if let Err(error) = outcome {
            return End::Closed(format!("sending failed: {error}"));
        }
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
