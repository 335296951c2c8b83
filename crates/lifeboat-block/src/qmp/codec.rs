//! The framing of QMP and of the guest agent: bytes in, messages out, one JSON object per line.
//!
//! Pure: no socket and no clock. It does not match replies to requests; the clients do.
//! Whatever the bytes are, the answer is a message or a [`CodecError`], never a panic.

use bytes::{Buf, BytesMut};
use lifeboat_model::words;
use serde_json::{Map, Value};

/// The longest line accepted, in bytes (16 MiB). QEMU's longest answers (`query-qmp-schema`) stay well below 1 MiB.
pub const MAX_LINE: usize = 16 << 20;

/// The byte a guest agent puts before its answer to `guest-sync-delimited`. It cannot occur in valid UTF-8.
const RESYNC: u8 = 0xff;

/// One message from a monitor or a guest agent.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// The monitor's first words: it serves this connection.
    Greeting {
        /// QEMU's version as (major, minor, micro).
        version: (u64, u64, u64),
    },
    /// A command succeeded.
    Return {
        /// The id of the command, if the peer gave one (older guest agents do not).
        id: Option<Value>,
        /// What the command returned; `{}` when it returns nothing.
        value: Value,
    },
    /// A command failed.
    Error {
        /// The id of the command; absent when the peer could not even parse it.
        id: Option<Value>,
        /// Error class, nearly always `GenericError`.
        class: String,
        /// Text for people.
        desc: String,
    },
    /// An event, which no command has asked for.
    Event(Event),
}

/// An event of the monitor.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Such as `BLOCK_JOB_COMPLETED`.
    pub name: String,
    /// The event's own data; `null` when it has none.
    pub data: Value,
    /// Host wall clock, whole seconds since 1970; -1 when QEMU did not know it.
    pub seconds: i64,
    /// Microseconds within that second; -1 when QEMU did not know it.
    pub micros: i64,
}

/// Why a line is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The line does not end within [`MAX_LINE`].
    #[error("the peer sent a line longer than {MAX_LINE} bytes; the rest of it is skipped")]
    TooLong,
    /// The line is no JSON, or nested too deeply.
    #[error("the peer sent a line that is not JSON: {0}")]
    NotJson(String),
    /// JSON, but none of the known message shapes.
    #[error("the peer sent JSON of an unknown shape: {0}")]
    UnknownShape(String),
}

/// Cuts a byte stream into messages. After an error the next call goes on with the next line.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    /// Bytes of `buffer` already searched for a line end, so that a long line is not searched again and again.
    searched: usize,
    /// Inside a line that was too long: everything up to its end is dropped.
    skipping: bool,
    agent: bool,
}

impl Decoder {
    /// A decoder for a QMP monitor.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A decoder for a guest agent: the resync byte throws away whatever stood before it on its line.
    #[must_use]
    pub fn guest_agent() -> Self {
        Self {
            agent: true,
            ..Self::default()
        }
    }

    /// Takes bytes as they came from the peer. Call [`Decoder::next`] until it is empty before pushing more:
    /// that keeps memory below [`MAX_LINE`] plus one push.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message, `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`CodecError`] for a line that is no message; that line is consumed.
    #[allow(clippy::should_implement_trait)] // An iterator would have to end; this one may go on after the next push.
    pub fn next(&mut self) -> Result<Option<Message>, CodecError> {
        while let Some(line) = self.line()? {
            let line = if self.agent {
                after_resync(&line)
            } else {
                &line[..]
            }
            .trim_ascii();
            if !line.is_empty() {
                return parse(line).map(Some);
            }
        }
        Ok(None)
    }

    fn line(&mut self) -> Result<Option<BytesMut>, CodecError> {
        loop {
            let fresh = self.buffer.get(self.searched..).unwrap_or_default();
            let Some(end) = fresh.iter().position(|byte| *byte == b'\n') else {
                return self.without_line_end();
            };
            let line = self.buffer.split_to(self.searched + end);
            self.buffer.advance(1);
            self.searched = 0;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if line.len() > MAX_LINE {
                return Err(CodecError::TooLong);
            }
            return Ok(Some(line));
        }
    }

    fn without_line_end(&mut self) -> Result<Option<BytesMut>, CodecError> {
        let too_long = self.buffer.len() > MAX_LINE;
        if self.skipping || too_long {
            self.buffer = BytesMut::new();
        }
        self.searched = self.buffer.len();
        if too_long && !self.skipping {
            self.skipping = true;
            return Err(CodecError::TooLong);
        }
        Ok(None)
    }
}

/// What follows the last resync byte: an agent that was interrupted in mid-answer left part of one before it.
fn after_resync(line: &[u8]) -> &[u8] {
    line.rsplit(|byte| *byte == RESYNC).next().unwrap_or(line)
}

fn parse(line: &[u8]) -> Result<Message, CodecError> {
    let value: Value =
        serde_json::from_slice(line).map_err(|error| CodecError::NotJson(error.to_string()))?;
    let Value::Object(mut object) = value else {
        return Err(CodecError::UnknownShape("not an object".to_owned()));
    };
    let id = object.remove("id");
    if let Some(value) = object.remove("return") {
        return Ok(Message::Return { id, value });
    }
    if let Some(error) = object.remove("error") {
        return error_message(id, &error);
    }
    if let Some(name) = object.remove("event") {
        return event_message(name, &mut object);
    }
    if let Some(greeting) = object.get("QMP") {
        return Ok(Message::Greeting {
            version: version(greeting),
        });
    }
    let keys: Vec<String> = object
        .keys()
        .take(4)
        .map(|key| key.chars().take(40).collect())
        .collect();
    Err(CodecError::UnknownShape(format!(
        "an object with the members [{}]",
        keys.join(", ")
    )))
}

fn error_message(id: Option<Value>, error: &Value) -> Result<Message, CodecError> {
    let text = |member: &str| error.get(member).and_then(Value::as_str).map(words::kept);
    match (text("class"), text("desc")) {
        (Some(class), Some(desc)) => Ok(Message::Error { id, class, desc }),
        _ => Err(CodecError::UnknownShape(
            "an error without class and desc".to_owned(),
        )),
    }
}

fn event_message(name: Value, object: &mut Map<String, Value>) -> Result<Message, CodecError> {
    let Value::String(name) = name else {
        return Err(CodecError::UnknownShape(
            "an event whose name is no text".to_owned(),
        ));
    };
    let data = object.remove("data").unwrap_or(Value::Null);
    let stamp = |member: &str| {
        object
            .get("timestamp")
            .and_then(|stamp| stamp.get(member))
            .and_then(Value::as_i64)
            .unwrap_or(-1)
    };
    let (seconds, micros) = (stamp("seconds"), stamp("microseconds"));
    Ok(Message::Event(Event {
        name,
        data,
        seconds,
        micros,
    }))
}

fn version(greeting: &Value) -> (u64, u64, u64) {
    let part = |name: &str| {
        greeting
            .pointer(&format!("/version/qemu/{name}"))
            .and_then(Value::as_u64)
            .unwrap_or(0)
    };
    (part("major"), part("minor"), part("micro"))
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
