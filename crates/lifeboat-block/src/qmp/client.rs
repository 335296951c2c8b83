//! The QMP monitor client: one connection, many callers, events on the side.
//!
//! It knows ids, time limits and what a lost connection means for those who wait. It does not know any
//! command beyond the capability negotiation, and it never reconnects: its owner decides that.

use std::collections::HashMap;
use std::future::Future;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::codec::{Decoder, Event, Message};

/// How long [`Qmp::execute`] waits for an answer.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Events kept for a slow subscriber before it gets an error that some were lost.
const EVENT_BACKLOG: usize = 1024;

/// Messages for an earlier client that may come before the greeting: a client of ours has few commands under way when it goes.
const MOST_LATE: u32 = 64;

/// Commands waiting for a peer that does not read; further callers wait within their own time limit.
const SEND_BACKLOG: usize = 64;

/// Why a monitor call failed.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The socket cannot be reached.
    #[error("cannot connect to the QEMU monitor {}: is the process running?", path.display())]
    Connect {
        /// The monitor socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The socket accepts connections, but no greeting comes.
    #[error(
        "the QEMU monitor {} does not greet: another client holds it (a monitor serves one at a time), or the \
         process hangs; disconnect the other client or give the VM a second monitor", path.display()
    )]
    Busy {
        /// The monitor socket.
        path: PathBuf,
    },
    /// No answer in time. Whether the command was carried out is unknown.
    #[error("QEMU did not answer {command} within {} ms; it may still carry it out", after.as_millis())]
    Timeout {
        /// The command, or the event that was awaited.
        command: String,
        /// The limit that passed.
        after: Duration,
    },
    /// QEMU refused or failed the command.
    #[error("QEMU refused {command}: {desc}")]
    Command {
        /// Name of the command, such as `query-block`.
        command: String,
        /// QEMU's error class, such as `GenericError` or `DeviceNotFound`.
        class: String,
        /// QEMU's words.
        desc: String,
    },
    /// The connection is gone: QEMU ended or closed it. A command in flight may have been carried out.
    #[error("the QEMU monitor connection is closed: the process ended or dropped the connection")]
    Closed,
    /// The subscriber was too slow, the event it waits for may be among the lost ones.
    #[error(
        "{missed} QEMU events were lost because the subscriber did not take them in time; ask QEMU for the present state instead"
    )]
    Lagged {
        /// Number of lost events.
        missed: u64,
    },
    /// The peer does not speak QMP as it should; the connection is closed.
    #[error("the QEMU monitor broke the protocol: {0}")]
    Protocol(String),
}

/// A connected monitor. Clones share the connection; it closes when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Qmp {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    next_id: AtomicU64,
    version: (u64, u64, u64),
    send: mpsc::Sender<Line>,
    closed: watch::Receiver<bool>,
    tasks: [AbortHandle; 2],
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// A command on its way, with what it hands over.
#[derive(Debug)]
struct Line {
    bytes: Vec<u8>,
    file: Option<OwnedFd>,
}

type Reply = oneshot::Sender<Result<Value, Failure>>;

/// What a waiting command learns when it does not succeed.
#[derive(Debug, Clone)]
enum Failure {
    Command { class: String, desc: String },
    Closed,
    Protocol(String),
}

/// What callers and the reader share. Locked only for single map operations, never across an await.
#[derive(Debug)]
struct Shared(Mutex<Table>);

#[derive(Debug)]
struct Table {
    waiting: HashMap<u64, Reply>,
    /// `None` once the peer is gone, which ends every subscription after its buffered events.
    events: Option<broadcast::Sender<Event>>,
    /// Why there is no connection any more.
    ended: Option<Failure>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // A poisoned table is still consistent: each critical section is one map operation.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, why: &Failure) {
        let waiting = {
            let mut table = self.lock();
            table.ended.get_or_insert_with(|| why.clone());
            table.events = None;
            std::mem::take(&mut table.waiting)
        };
        for reply in waiting.into_values() {
            let _ = reply.send(Err(why.clone()));
        }
    }
}

impl Qmp {
    /// Connects to the monitor socket at `path` and negotiates capabilities. `timeout` bounds all of it.
    ///
    /// # Errors
    /// [`QmpError::Connect`] when there is no listener, [`QmpError::Busy`] when another client holds the monitor.
    pub async fn connect(path: impl AsRef<Path>, timeout: Duration) -> Result<Self, QmpError> {
        let path = path.as_ref();
        let deadline = Instant::now() + timeout;
        let busy = || QmpError::Busy {
            path: path.to_owned(),
        };
        let mut stream = match timeout_at(deadline, UnixStream::connect(path)).await {
            Err(_) => return Err(busy()),
            // The listener's queue is full: clients already stand in line.
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return Err(busy()),
            Ok(Err(source)) => {
                return Err(QmpError::Connect {
                    path: path.to_owned(),
                    source,
                });
            }
            Ok(Ok(stream)) => stream,
        };
        let mut decoder = Decoder::new();
        let version = timeout_at(deadline, greeting(&mut stream, &mut decoder))
            .await
            .map_err(|_| busy())??;
        let qmp = Self::start(stream, decoder, version);
        qmp.negotiate(deadline).await?;
        Ok(qmp)
    }

    /// A client that connects while QEMU is still starting may be greeted twice (measured with 10.0), and each
    /// greeting puts the monitor back to before the negotiation. So the result is tried out.
    async fn negotiate(&self, deadline: Instant) -> Result<(), QmpError> {
        let left = || deadline.saturating_duration_since(Instant::now());
        loop {
            match self
                .execute_timeout("qmp_capabilities", Value::Null, left())
                .await
            {
                // Refused as unknown: it is already done.
                Err(QmpError::Command { ref class, .. }) if class == "CommandNotFound" => {}
                outcome => drop(outcome?),
            }
            match self.execute_timeout("query-version", Value::Null, left()).await {
                Err(QmpError::Command { ref class, .. })
                    if class == "CommandNotFound" && !left().is_zero() => {}
                outcome => return outcome.map(drop),
            }
        }
    }

    fn start(stream: UnixStream, decoder: Decoder, version: (u64, u64, u64)) -> Self {
        let (read, write) = stream.into_split();
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let shared = Arc::new(Shared(Mutex::new(Table {
            waiting: HashMap::new(),
            events: Some(events),
            ended: None,
        })));
        let (send, lines) = mpsc::channel(SEND_BACKLOG);
        let (closed_in, closed) = watch::channel(false);
        let reader = tokio::spawn(read_task(read, decoder, Arc::clone(&shared), closed_in));
        let writer = tokio::spawn(write_task(write, lines));
        let tasks = [reader.abort_handle(), writer.abort_handle()];
        Self {
            inner: Arc::new(Inner {
                shared,
                next_id: AtomicU64::new(first_id()),
                version,
                send,
                closed,
                tasks,
            }),
        }
    }

    /// QEMU's version as (major, minor, micro), from the greeting.
    #[must_use]
    pub fn version(&self) -> (u64, u64, u64) {
        self.inner.version
    }

    /// Runs one command and returns what it returned; [`DEFAULT_TIMEOUT`] applies.
    /// `arguments` is an object, or `null` for none. Many calls may be under way; QEMU answers them in order.
    ///
    /// # Errors
    /// See [`QmpError`]. Dropping the future abandons the answer, not the command.
    pub async fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.execute_timeout(command, arguments, DEFAULT_TIMEOUT).await
    }

    /// [`Qmp::execute`] with a time limit of the caller's.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn execute_timeout(
        &self,
        command: &str,
        arguments: Value,
        timeout: Duration,
    ) -> Result<Value, QmpError> {
        self.command(command, arguments, None, timeout).await
    }

    /// [`Qmp::execute`] of a command that takes an open file, such as `add-fd` or `getfd`. QEMU has it from then on, and this
    /// process no longer.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn execute_with_file(
        &self,
        command: &str,
        arguments: Value,
        file: OwnedFd,
    ) -> Result<Value, QmpError> {
        self.command(command, arguments, Some(file), DEFAULT_TIMEOUT)
            .await
    }

    async fn command(
        &self,
        command: &str,
        arguments: Value,
        file: Option<OwnedFd>,
        timeout: Duration,
    ) -> Result<Value, QmpError> {
        let outcome = tokio::time::timeout(timeout, self.round_trip(command, arguments, file)).await;
        let failure = match outcome {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(failure)) => failure,
            Err(_) => {
                return Err(QmpError::Timeout {
                    command: command.to_owned(),
                    after: timeout,
                });
            }
        };
        Err(match failure {
            Failure::Command { class, desc } => QmpError::Command {
                command: command.to_owned(),
                class,
                desc,
            },
            Failure::Closed => QmpError::Closed,
            Failure::Protocol(what) => QmpError::Protocol(what),
        })
    }

    async fn round_trip(
        &self,
        command: &str,
        arguments: Value,
        file: Option<OwnedFd>,
    ) -> Result<Value, Failure> {
        let permit = self.inner.send.reserve().await;
        let (reply, answer) = oneshot::channel();
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        {
            let mut table = self.inner.shared.lock();
            if let Some(why) = &table.ended {
                return Err(why.clone());
            }
            table.waiting.insert(id, reply);
        }
        let _forget = Forget {
            shared: &self.inner.shared,
            id,
        };
        // A writer that is gone has failed to write; the reader sees the end too, but maybe later.
        let Ok(permit) = permit else {
            return Err(Failure::Closed);
        };
        let mut line = json!({"execute": command, "id": id});
        if let (false, Some(object)) = (arguments.is_null(), line.as_object_mut()) {
            object.insert("arguments".to_owned(), arguments);
        }
        permit.send(Line {
            bytes: format!("{line}\n").into_bytes(),
            file,
        });
        answer.await.unwrap_or(Err(Failure::Closed))
    }

    /// Subscribes to events from now on. Subscribe before the command whose event is awaited.
    #[must_use]
    pub fn events(&self) -> EventStream {
        let subscribed = self
            .inner
            .shared
            .lock()
            .events
            .as_ref()
            .map(broadcast::Sender::subscribe);
        // Without a connection: a stream that has already ended.
        let receiver = subscribed.unwrap_or_else(|| broadcast::channel(1).1);
        EventStream { receiver }
    }

    /// Resolves when the peer is gone (or every handle was dropped). The future borrows nothing.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut closed = self.inner.closed.clone();
        async move {
            let _ = closed.wait_for(|gone| *gone).await;
        }
    }
}

/// Takes an abandoned command out of the table, whichever way its future ends.
struct Forget<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.lock().waiting.remove(&self.id);
    }
}

/// A subscription to events. Dropping it costs nothing; not reading it loses its oldest events, with notice.
#[derive(Debug)]
pub struct EventStream {
    receiver: broadcast::Receiver<Event>,
}

impl EventStream {
    /// The next event.
    ///
    /// # Errors
    /// [`QmpError::Lagged`] once after a loss (then it goes on), [`QmpError::Closed`] at the end.
    pub async fn next(&mut self) -> Result<Event, QmpError> {
        self.receiver.recv().await.map_err(|error| match error {
            broadcast::error::RecvError::Lagged(missed) => QmpError::Lagged { missed },
            broadcast::error::RecvError::Closed => QmpError::Closed,
        })
    }

    /// Waits for the first event called `name` whose data satisfies `matches`; others are dropped on the way.
    /// Free of races when the subscription was taken before the command that triggers the event.
    ///
    /// # Errors
    /// [`QmpError::Timeout`], [`QmpError::Lagged`] (the event may have been lost) or [`QmpError::Closed`].
    pub async fn wait_for(
        &mut self,
        name: &str,
        matches: impl Fn(&Value) -> bool,
        timeout: Duration,
    ) -> Result<Event, QmpError> {
        let search = async {
            loop {
                let event = self.next().await?;
                if event.name == name && matches(&event.data) {
                    return Ok(event);
                }
            }
        };
        let late = |_| QmpError::Timeout {
            command: format!("event {name}"),
            after: timeout,
        };
        tokio::time::timeout(timeout, search).await.map_err(late)?
    }
}

/// The first id of a connection: no other one has ids near it. QEMU sends an answer to the client that is connected when it has it,
/// also if a client that went away gave the command, and that must not be taken for the answer to another command.
fn first_id() -> u64 {
    u64::from(Uuid::new_v4().as_fields().0) << 30
}

/// Waits for the greeting; QEMU's version. What an earlier client was still to be told (see [`first_id`]) may come before it.
async fn greeting(stream: &mut UnixStream, decoder: &mut Decoder) -> Result<(u64, u64, u64), QmpError> {
    let mut late = 0;
    loop {
        let message = decoder
            .next()
            .map_err(|error| QmpError::Protocol(error.to_string()))?;
        match message {
            Some(Message::Greeting { version }) => return Ok(version),
            Some(Message::Return { .. } | Message::Error { .. } | Message::Event(_)) if late < MOST_LATE => {
                late += 1;
                continue;
            }
            Some(_) => return Err(QmpError::Protocol("it does not greet".to_owned())),
            None => {}
        }
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).await.map_err(|_| QmpError::Closed)?;
        if count == 0 {
            return Err(QmpError::Closed);
        }
        decoder.push(chunk.get(..count).unwrap_or_default());
    }
}

async fn read_task(
    mut read: OwnedReadHalf,
    mut decoder: Decoder,
    shared: Arc<Shared>,
    closed: watch::Sender<bool>,
) {
    let why = loop {
        if let Err(why) = deliver(&mut decoder, &shared) {
            break why;
        }
        let mut chunk = [0; 16384];
        match read.read(&mut chunk).await {
            Ok(0) | Err(_) => break Failure::Closed,
            Ok(count) => decoder.push(chunk.get(..count).unwrap_or_default()),
        }
    };
    if let Failure::Protocol(what) = &why {
        tracing::warn!(what, "QEMU monitor connection given up");
    }
    shared.end(&why);
    let _ = closed.send(true);
}

fn deliver(decoder: &mut Decoder, shared: &Shared) -> Result<(), Failure> {
    while let Some(message) = decoder
        .next()
        .map_err(|error| Failure::Protocol(error.to_string()))?
    {
        let (id, result) = match message {
            Message::Event(event) => {
                if let Some(events) = &shared.lock().events {
                    let _ = events.send(event);
                }
                continue;
            }
            // See `Qmp::negotiate`.
            Message::Greeting { .. } => continue,
            Message::Return { id, value } => (id, Ok(value)),
            Message::Error { id, class, desc } => (id, Err(Failure::Command { class, desc })),
        };
        let Some(id) = id.as_ref().and_then(Value::as_u64) else {
            let answer = result.map_or_else(|error| format!("{error:?}"), |_| "a success".to_owned());
            return Err(Failure::Protocol(format!(
                "an answer to a command never sent: {answer}"
            )));
        };
        // No caller waits for a late answer, nor for one to a command of an earlier connection.
        if let Some(reply) = shared.lock().waiting.remove(&id) {
            let _ = reply.send(result);
        }
    }
    Ok(())
}

async fn write_task(mut write: OwnedWriteHalf, mut lines: mpsc::Receiver<Line>) {
    // A failure to write ends this task; the reader sees the end of the connection and wakes all waiting callers.
    while let Some(Line { bytes, file }) = lines.recv().await {
        let sent = match file {
            None => Ok(0),
            Some(file) => hand_over(write.as_ref(), &bytes, &file).await,
        };
        let Ok(sent) = sent else { return };
        if write
            .write_all(bytes.get(sent..).unwrap_or_default())
            .await
            .is_err()
        {
            return;
        }
    }
}

/// Sends the beginning of a command with the file it hands over, and says how many bytes went with it.
async fn hand_over(stream: &UnixStream, bytes: &[u8], file: &OwnedFd) -> io::Result<usize> {
    let send = || {
        let files = [file.as_fd()];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut with = SendAncillaryBuffer::new(&mut room);
        if !with.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(sendmsg(
            stream,
            &[IoSlice::new(bytes)],
            &mut with,
            SendFlags::NOSIGNAL,
        )?)
    };
    stream.async_io(Interest::WRITABLE, send).await
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
