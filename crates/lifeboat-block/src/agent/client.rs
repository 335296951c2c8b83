//! The client of the QEMU guest agent, over the Unix socket of its virtio-serial port.
//!
//! The far end is a guest: it may be off, booting, hung or hostile. The port has no greeting and no
//! end-of-connection, and bytes for an agent that does not run pile up in it until it is full (after some
//! 170 small messages). So this client keeps one command under way at a time, synchronizes before the first
//! command and after everything that was cut short, and asks a silent agent ever more rarely.
//! It does not decide when a guest is frozen or shut down; callers do.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::qmp::{Decoder, Message};

/// Longest pause between two questions to an agent that stays silent.
const SLOWEST_POLL: Duration = Duration::from_secs(32);

/// `guest-shutdown` answers only when it refuses; a refusal comes within this time.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// Numbers of questions are never used twice, not even by the next connection or process: an agent that was held up
/// answers what predecessors asked, and that must not be taken for an answer to us. Exact as a floating point number.
static NEXT_SYNC: LazyLock<AtomicU64> =
    LazyLock::new(|| AtomicU64::new(RandomState::new().hash_one(0) >> 12));

/// Why talking to a guest agent failed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// QEMU's end of the port cannot be reached.
    #[error("cannot connect to the guest agent port {}: does the VM run, with an agent channel?", path.display())]
    Connect {
        /// The port's socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The agent in the guest does not answer at all.
    #[error("the guest agent did not respond within {} ms: it is not installed, not running, or still booting",
        after.as_millis())]
    NotResponding {
        /// The limit that passed.
        after: Duration,
    },
    /// The agent was there but did not answer this command in time; it may still carry it out.
    #[error("the guest agent did not answer {command} within {} ms; it may still carry it out", after.as_millis())]
    Timeout {
        /// Name of the command, such as `guest-fsfreeze-freeze`.
        command: String,
        /// The limit that passed.
        after: Duration,
    },
    /// The agent refused or failed the command.
    #[error("the guest agent refused {command}: {desc}")]
    Command {
        /// Name of the command, such as `guest-fsfreeze-freeze`.
        command: String,
        /// Error class; `CommandNotFound` also means that the guest's owner disabled the command.
        class: String,
        /// The agent's words.
        desc: String,
    },
    /// QEMU closed the port: the VM is gone, or another client holds the port.
    #[error("the guest agent port is closed: the VM ended, or another client holds the port")]
    Closed,
    /// The agent's answer does not have the documented shape.
    #[error("the guest agent broke the protocol: {0}")]
    Protocol(String),
}

/// How a guest is asked to go down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownMode {
    /// Shut the guest's system down and power it off.
    Powerdown,
    /// Halt without power off.
    Halt,
    /// Shut the guest's system down and start it again.
    Reboot,
}

/// What a command run in the guest left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit code; `None` when a signal ended it.
    pub exit: Option<i64>,
    /// The signal (or Windows exception) that ended it.
    pub signal: Option<i64>,
    /// Standard output, as far as the agent kept it (16 MiB).
    pub stdout: Vec<u8>,
    /// Standard error, likewise.
    pub stderr: Vec<u8>,
    /// The agent dropped some output.
    pub truncated: bool,
}

/// A connected agent port. One command at a time, which is all an agent can do.
#[derive(Debug)]
pub struct Agent {
    stream: UnixStream,
    decoder: Decoder,
    /// False until a sync succeeded, and again while the agent may still answer a caller that no longer waits.
    in_sync: bool,
    unanswered: Option<Asked>,
}

/// The latest question a silent agent still owes an answer to.
#[derive(Debug, Clone, Copy)]
struct Asked {
    id: u64,
    at: Instant,
    /// How many went before it unanswered; the pause doubles with each.
    before: u32,
}

impl Asked {
    fn again_at(&self) -> Instant {
        self.at + Duration::from_secs(1 << self.before.min(5)).min(SLOWEST_POLL)
    }
}

impl Agent {
    /// Connects to the port's socket. This says nothing about the guest: QEMU listens before it boots.
    ///
    /// # Errors
    /// [`AgentError::Connect`].
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, AgentError> {
        let path = path.as_ref();
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| AgentError::Connect {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            stream,
            decoder: Decoder::guest_agent(),
            in_sync: false,
            unanswered: None,
        })
    }

    /// Makes sure that the agent is there and that the next answer belongs to the next command.
    /// Safe to call again and again while a guest boots: a silent agent is asked ever more rarely, but an
    /// answer to the last question is seen at once.
    ///
    /// # Errors
    /// [`AgentError::NotResponding`] after `limit`, [`AgentError::Closed`].
    pub async fn sync(&mut self, limit: Duration) -> Result<(), AgentError> {
        self.in_sync = false;
        let deadline = Instant::now() + limit;
        let silent = || AgentError::NotResponding { after: limit };
        loop {
            let asked = match self.unanswered {
                Some(asked) if Instant::now() < asked.again_at() => asked,
                earlier => timeout_at(deadline, self.ask(earlier))
                    .await
                    .map_err(|_| silent())??,
            };
            let until = asked.again_at().min(deadline);
            match timeout_at(until, self.sync_answer(asked.id)).await {
                Ok(outcome) => return outcome,
                Err(_) if Instant::now() >= deadline => return Err(silent()),
                Err(_) => {}
            }
        }
    }

    async fn ask(&mut self, earlier: Option<Asked>) -> Result<Asked, AgentError> {
        let id = NEXT_SYNC.fetch_add(1, Ordering::Relaxed);
        let before = earlier.map_or(0, |asked| asked.before.saturating_add(1));
        let asked = Asked {
            id,
            at: Instant::now(),
            before,
        };
        // Noted before it is sent: cut short in the middle, it still counts as asked.
        self.unanswered = Some(asked);
        // The leading byte makes the agent forget half a command that was cut off earlier.
        let mut line = vec![0xff];
        line.extend(
            format!(
                "{}\n",
                json!({"execute": "guest-sync-delimited", "arguments": {"id": id}})
            )
            .bytes(),
        );
        self.stream
            .write_all(&line)
            .await
            .map_err(|_| AgentError::Closed)?;
        Ok(asked)
    }

    async fn sync_answer(&mut self, id: u64) -> Result<(), AgentError> {
        loop {
            match self.message().await {
                Ok(Message::Return { value, .. }) if value.as_u64() == Some(id) => break,
                // Late answers to earlier callers, and parts of them.
                Ok(_) | Err(AgentError::Protocol(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.in_sync = true;
        self.unanswered = None;
        Ok(())
    }

    /// Runs one agent command within `limit`, synchronizing first when needed.
    ///
    /// # Errors
    /// See [`AgentError`]. After an error of time, and when the future is dropped, the next call synchronizes first.
    pub async fn execute(
        &mut self,
        command: &str,
        arguments: Value,
        limit: Duration,
    ) -> Result<Value, AgentError> {
        let deadline = Instant::now() + limit;
        if !self.in_sync {
            self.sync(limit).await?;
        }
        self.in_sync = false;
        let late = |_| AgentError::Timeout {
            command: command.to_owned(),
            after: limit,
        };
        timeout_at(deadline, self.send(command, arguments))
            .await
            .map_err(late)??;
        let outcome = timeout_at(deadline, self.answer(command)).await.map_err(late)?;
        self.in_sync = matches!(outcome, Ok(_) | Err(AgentError::Command { .. }));
        outcome
    }

    async fn send(&mut self, command: &str, arguments: Value) -> Result<(), AgentError> {
        let mut line = json!({"execute": command});
        if let (false, Some(object)) = (arguments.is_null(), line.as_object_mut()) {
            object.insert("arguments".to_owned(), arguments);
        }
        self.stream
            .write_all(format!("{line}\n").as_bytes())
            .await
            .map_err(|_| AgentError::Closed)
    }

    async fn answer(&mut self, command: &str) -> Result<Value, AgentError> {
        match self.message().await? {
            Message::Return { value, .. } => Ok(value),
            Message::Error { class, desc, .. } => Err(AgentError::Command {
                command: command.to_owned(),
                class,
                desc,
            }),
            Message::Greeting { .. } | Message::Event(_) => Err(AgentError::Protocol(
                "this is a monitor, not a guest agent".to_owned(),
            )),
        }
    }

    async fn message(&mut self) -> Result<Message, AgentError> {
        loop {
            let message = self
                .decoder
                .next()
                .map_err(|error| AgentError::Protocol(error.to_string()))?;
            if let Some(message) = message {
                return Ok(message);
            }
            let mut chunk = [0; 16384];
            match self.stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return Err(AgentError::Closed),
                Ok(count) => self.decoder.push(chunk.get(..count).unwrap_or_default()),
            }
        }
    }

    /// Flushes and freezes the guest's file systems and returns how many. After *any* error call
    /// [`Agent::thaw`]: the freeze may have happened, or may still happen.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn fsfreeze(&mut self, limit: Duration) -> Result<u64, AgentError> {
        self.count("guest-fsfreeze-freeze", limit).await
    }

    /// Thaws the guest's file systems and returns how many were frozen. Harmless when none is.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn thaw(&mut self, limit: Duration) -> Result<u64, AgentError> {
        self.count("guest-fsfreeze-thaw", limit).await
    }

    async fn count(&mut self, command: &str, limit: Duration) -> Result<u64, AgentError> {
        let value = self.execute(command, Value::Null, limit).await?;
        value
            .as_u64()
            .ok_or_else(|| AgentError::Protocol(format!("{command} returned {value}, not a number")))
    }

    /// Asks the guest to go down. `Ok` means that the agent took the request, not that the guest is down:
    /// watch QEMU's `SHUTDOWN` event for that.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn shutdown(&mut self, mode: ShutdownMode, limit: Duration) -> Result<(), AgentError> {
        let deadline = Instant::now() + limit;
        self.sync(limit).await?;
        self.in_sync = false;
        let mode = match mode {
            ShutdownMode::Powerdown => "powerdown",
            ShutdownMode::Halt => "halt",
            ShutdownMode::Reboot => "reboot",
        };
        let command = "guest-shutdown";
        let late = |_| AgentError::Timeout {
            command: command.to_owned(),
            after: limit,
        };
        timeout_at(deadline, self.send(command, json!({"mode": mode})))
            .await
            .map_err(late)??;
        match timeout(REFUSAL_TIME, self.answer(command)).await {
            Ok(Err(AgentError::Closed) | Ok(_)) | Err(_) => Ok(()),
            Ok(Err(error)) => Err(error),
        }
    }

    /// Runs `script` with the guest's `/bin/sh` and waits for its end within `limit`. When the limit passes,
    /// the script goes on running in the guest.
    ///
    /// # Errors
    /// See [`AgentError`]; a script that fails is no error, see [`ExecOutput::exit`].
    pub async fn exec_sh(&mut self, script: &str, limit: Duration) -> Result<ExecOutput, AgentError> {
        let arguments = ["-c".to_owned(), script.to_owned()];
        self.exec("/bin/sh", &arguments, limit).await
    }

    /// Runs a program in the guest and waits for its end within `limit`. When the limit passes, it goes on running.
    ///
    /// # Errors
    /// See [`AgentError`]; a program that fails is no error, see [`ExecOutput::exit`].
    pub async fn exec(
        &mut self,
        program: &str,
        arguments: &[String],
        limit: Duration,
    ) -> Result<ExecOutput, AgentError> {
        let deadline = Instant::now() + limit;
        let arguments = json!({"path": program, "arg": arguments, "capture-output": true});
        let started = self.execute("guest-exec", arguments, limit).await?;
        let pid = started.get("pid").and_then(Value::as_i64);
        let pid =
            pid.ok_or_else(|| AgentError::Protocol(format!("guest-exec returned {started}, without a pid")))?;
        let mut pause = Duration::from_millis(20);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(AgentError::Timeout {
                    command: "guest-exec".to_owned(),
                    after: limit,
                });
            }
            let status = self
                .execute("guest-exec-status", json!({"pid": pid}), left)
                .await?;
            if status.get("exited").and_then(Value::as_bool) == Some(true) {
                return exec_output(&status);
            }
            // The agent has no event for the end of a command: asking again is the only way.
            sleep(pause.min(left)).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }
}

fn exec_output(status: &Value) -> Result<ExecOutput, AgentError> {
    let number = |name: &str| status.get(name).and_then(Value::as_i64);
    let flag = |name: &str| status.get(name).and_then(Value::as_bool).unwrap_or(false);
    let data = |name: &str| match status.get(name).and_then(Value::as_str) {
        None => Ok(Vec::new()),
        Some(text) => decode_base64(text.as_bytes())
            .ok_or_else(|| AgentError::Protocol(format!("guest-exec-status: {name} is not base64"))),
    };
    Ok(ExecOutput {
        exit: number("exitcode"),
        signal: number("signal"),
        stdout: data("out-data")?,
        stderr: data("err-data")?,
        truncated: flag("out-truncated") || flag("err-truncated"),
    })
}

/// Standard alphabet, padding required: what GLib's encoder writes. A dependency for this one use would weigh more.
fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text
        .iter()
        .rev()
        .take(2)
        .take_while(|byte| **byte == b'=')
        .count();
    let symbols = text.get(..text.len() - padding)?;
    let mut bytes = Vec::with_capacity(symbols.len() / 4 * 3 + 2);
    for group in symbols.chunks(4) {
        let mut bits = 0_u32;
        for symbol in group {
            bits = bits << 6 | u32::from(base64_value(*symbol)?);
        }
        // A short last group is aligned like a full one.
        (group.len()..4).for_each(|_| bits <<= 6);
        let [_, decoded @ ..] = bits.to_be_bytes();
        bytes.extend(decoded.iter().take(group.len() - 1));
    }
    Some(bytes)
}

fn base64_value(symbol: u8) -> Option<u8> {
    match symbol {
        b'A'..=b'Z' => Some(symbol - b'A'),
        b'a'..=b'z' => Some(symbol - b'a' + 26),
        b'0'..=b'9' => Some(symbol - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
