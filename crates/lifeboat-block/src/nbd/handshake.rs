//! The opening of an NBD connection, as a machine without I/O: bytes in, bytes to send and the result out.
//!
//! Fixed newstyle only. Structured replies are asked for always and required when contexts are asked for;
//! a context the server does not know is left out of the result, which is no error here.

use bytes::{Buf, BytesMut};

use super::error::NbdError;
use super::proto::{self, Fields};

/// An option reply may not be longer, in bytes: the longest legal one is a text with a few numbers.
const MAX_OPTION_REPLY: u32 = 16 << 10;

/// Replies to one option: as many as infos and contexts could need.
const MAX_OPTION_REPLIES: u32 = 256;

/// Requests with data may carry this many bytes when the server names no limit, and never more.
const DEFAULT_MAX_BLOCK: u32 = 32 << 20;

/// What the server wants requests to look like, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths must be multiples of this.
    pub minimum: u32,
    /// Requests of this size and alignment are served best.
    pub preferred: u32,
    /// The most data one read or write may carry; at most 32 MiB.
    pub maximum: u32,
}

/// What was agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// Size of the export in bytes.
    pub size: u64,
    /// Transmission flags as sent by the server.
    pub flags: u16,
    /// Block sizes, with defaults where the server named none.
    pub block_sizes: BlockSizes,
    /// The server answers with structured replies.
    pub structured: bool,
    /// Contexts by the id the server uses for them.
    pub contexts: Vec<(u32, String)>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send these bytes, then ask again.
    Send(Vec<u8>),
    /// Push more bytes from the server, then ask again.
    NeedMore,
    /// The export is open; what follows belongs to [`super::replies`].
    Ready(Negotiated),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    Structured,
    Contexts,
    Go,
    Finished,
}

/// The machine. It ends with [`Step::Ready`] or an error; after an error it must be dropped.
#[derive(Debug)]
pub struct Handshake {
    export: String,
    wanted: Vec<String>,
    state: State,
    buffer: BytesMut,
    replies: u32,
    size: Option<(u64, u16)>,
    block_sizes: BlockSizes,
    structured: bool,
    contexts: Vec<(u32, String)>,
}

impl Handshake {
    /// Opens `export` and asks for `contexts`.
    ///
    /// # Errors
    /// [`NbdError::Refused`] when a name is longer than the protocol allows (4096 bytes).
    pub fn new(export: &str, contexts: &[&str]) -> Result<Self, NbdError> {
        let longest = contexts
            .iter()
            .map(|name| name.len())
            .chain([export.len()])
            .max()
            .unwrap_or(0);
        let handshake = Self {
            export: export.to_owned(),
            wanted: contexts.iter().map(|name| (*name).to_owned()).collect(),
            state: State::Greeting,
            buffer: BytesMut::new(),
            replies: 0,
            size: None,
            block_sizes: BlockSizes {
                minimum: 1,
                preferred: 4096,
                maximum: DEFAULT_MAX_BLOCK,
            },
            structured: false,
            contexts: Vec::new(),
        };
        if longest > proto::MAX_STRING {
            return Err(handshake.refused("the name", "it is longer than 4096 bytes".to_owned()));
        }
        Ok(handshake)
    }

    /// Takes bytes from the server.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that were pushed but not consumed; after [`Step::Ready`] they belong to the next phase.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.buffer
    }

    /// Goes one step.
    ///
    /// # Errors
    /// [`NbdError::Refused`] or [`NbdError::Protocol`].
    pub fn step(&mut self) -> Result<Step, NbdError> {
        match self.state {
            State::Greeting => self.greeting(),
            State::Structured | State::Contexts | State::Go => self.option_reply(),
            State::Finished => Err(protocol("the handshake is over")),
        }
    }

    fn greeting(&mut self) -> Result<Step, NbdError> {
        let mut fields = Fields(&self.buffer);
        let (Some(magic), Some(kind), Some(flags)) = (fields.u64(), fields.u64(), fields.u16()) else {
            return Ok(Step::NeedMore);
        };
        if magic != proto::GREETING_MAGIC {
            return Err(protocol("it does not greet as an NBD server"));
        }
        if kind != proto::OPTION_MAGIC || flags & proto::FIXED_NEWSTYLE == 0 {
            return Err(protocol(
                "it speaks the old NBD handshake, which knows no options",
            ));
        }
        self.buffer.advance(18);
        let answer = u32::from(flags & (proto::FIXED_NEWSTYLE | proto::NO_ZEROES));
        let mut bytes = answer.to_be_bytes().to_vec();
        bytes.extend(option(proto::OPT_STRUCTURED_REPLY, &[]));
        self.state = State::Structured;
        Ok(Step::Send(bytes))
    }

    fn option_reply(&mut self) -> Result<Step, NbdError> {
        let mut fields = Fields(&self.buffer);
        let header = (fields.u64(), fields.u32(), fields.u32(), fields.u32());
        let (Some(magic), Some(asked), Some(kind), Some(len)) = header else {
            return Ok(Step::NeedMore);
        };
        if magic != proto::OPTION_REPLY_MAGIC || asked != self.option_asked() {
            return Err(protocol("its option reply belongs to no option that was asked"));
        }
        if len > MAX_OPTION_REPLY || self.replies >= MAX_OPTION_REPLIES {
            return Err(protocol("its option replies are longer than the protocol allows"));
        }
        let total = 20 + len as usize;
        if self.buffer.len() < total {
            return Ok(Step::NeedMore);
        }
        let reply = self.buffer.split_to(total).split_off(20);
        self.replies += 1;
        if kind & proto::REP_ERROR_BIT != 0 {
            return self.option_refused(kind, &reply);
        }
        match (self.state, kind) {
            (_, proto::REP_ACK) => return self.option_done(),
            (State::Contexts, proto::REP_META_CONTEXT) => self.context(&reply)?,
            (State::Go, proto::REP_INFO) => self.info(&reply)?,
            _ => {
                return Err(protocol(
                    "its option reply is of a type that does not fit the option",
                ));
            }
        }
        self.step()
    }

    fn option_asked(&self) -> u32 {
        match self.state {
            State::Structured => proto::OPT_STRUCTURED_REPLY,
            State::Contexts => proto::OPT_SET_META_CONTEXT,
            State::Greeting | State::Go | State::Finished => proto::OPT_GO,
        }
    }

    fn option_refused(&mut self, kind: u32, text: &[u8]) -> Result<Step, NbdError> {
        let text = String::from_utf8_lossy(text);
        let reason = if text.is_empty() {
            refusal(kind).to_owned()
        } else {
            format!("{} ({text})", refusal(kind))
        };
        match self.state {
            // A server without structured replies can still be read, but it has no contexts.
            State::Structured if self.wanted.is_empty() => Ok(self.go()),
            State::Structured => Err(self.refused("structured replies", reason)),
            State::Contexts => Err(self.refused("status contexts", reason)),
            State::Greeting | State::Go | State::Finished => Err(self.refused("to open", reason)),
        }
    }

    fn option_done(&mut self) -> Result<Step, NbdError> {
        match self.state {
            State::Structured => {
                self.structured = true;
                if self.wanted.is_empty() {
                    return Ok(self.go());
                }
                self.begin(State::Contexts);
                let queries = self.wanted.iter().flat_map(|name| text(name));
                let count = u32::try_from(self.wanted.len()).unwrap_or(u32::MAX);
                let data: Vec<u8> = text(&self.export)
                    .chain(count.to_be_bytes())
                    .chain(queries)
                    .collect();
                Ok(Step::Send(option(proto::OPT_SET_META_CONTEXT, &data)))
            }
            State::Contexts => Ok(self.go()),
            State::Greeting | State::Go | State::Finished => self.finish(),
        }
    }

    fn begin(&mut self, state: State) {
        self.state = state;
        self.replies = 0;
    }

    fn go(&mut self) -> Step {
        self.begin(State::Go);
        let infos = [1_u16, proto::INFO_BLOCK_SIZE]
            .into_iter()
            .flat_map(u16::to_be_bytes);
        let data: Vec<u8> = text(&self.export).chain(infos).collect();
        Step::Send(option(proto::OPT_GO, &data))
    }

    fn context(&mut self, reply: &[u8]) -> Result<(), NbdError> {
        let mut fields = Fields(reply);
        let id = fields.u32().ok_or_else(|| protocol("a context without an id"))?;
        let name = std::str::from_utf8(fields.0).map_err(|_| protocol("a context whose name is no text"))?;
        if !self.wanted.iter().any(|wanted| wanted == name) {
            return Err(protocol("a context that was not asked for"));
        }
        if self
            .contexts
            .iter()
            .any(|(known, known_name)| *known == id || known_name == name)
        {
            return Err(protocol("the same context twice"));
        }
        self.contexts.push((id, name.to_owned()));
        Ok(())
    }

    fn info(&mut self, reply: &[u8]) -> Result<(), NbdError> {
        let mut fields = Fields(reply);
        let short = || protocol("an export description of the wrong length");
        match fields.u16().ok_or_else(short)? {
            proto::INFO_EXPORT => {
                let (size, flags) = (fields.u64().ok_or_else(short)?, fields.u16().ok_or_else(short)?);
                // Offsets are signed on every system a disk lives on; this also keeps all sums below 2^64.
                if i64::try_from(size).is_err() {
                    return Err(protocol("an export larger than 2^63 bytes"));
                }
                self.size = Some((size, flags));
            }
            proto::INFO_BLOCK_SIZE => {
                let mut size = || fields.u32().ok_or_else(short);
                let (minimum, preferred, maximum) = (size()?, size()?, size()?);
                let sane = minimum.is_power_of_two() && minimum <= 64 << 10 && preferred.is_power_of_two();
                if !sane || preferred < minimum || maximum < minimum {
                    return Err(protocol("block sizes that contradict each other"));
                }
                let maximum = maximum.min(DEFAULT_MAX_BLOCK) / minimum * minimum;
                self.block_sizes = BlockSizes {
                    minimum,
                    preferred,
                    maximum,
                };
            }
            // Names and descriptions, and whatever comes to be sent: a client must pass over them.
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Step, NbdError> {
        let (size, flags) = self
            .size
            .ok_or_else(|| protocol("it opened the export without saying its size"))?;
        self.state = State::Finished;
        Ok(Step::Ready(Negotiated {
            size,
            flags,
            block_sizes: self.block_sizes,
            structured: self.structured,
            contexts: std::mem::take(&mut self.contexts),
        }))
    }

    fn refused(&self, what: &'static str, reason: String) -> NbdError {
        NbdError::Refused {
            export: self.export.clone(),
            what,
            reason,
        }
    }
}

fn protocol(what: &str) -> NbdError {
    NbdError::Protocol(what.to_owned())
}

fn text(text: &str) -> impl Iterator<Item = u8> {
    let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
    len.to_be_bytes().into_iter().chain(text.bytes())
}

fn option(kind: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut bytes = proto::OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(kind.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes.extend(data);
    bytes
}

fn refusal(kind: u32) -> &'static str {
    match kind & !proto::REP_ERROR_BIT {
        1 => "the server does not know this option",
        2 => "the server's policy forbids it",
        3 => "the server calls the request invalid",
        5 => "the server demands TLS",
        6 => "there is no such export",
        7 => "the server is shutting down",
        8 => "the server demands that block sizes are respected",
        9 => "the request is too large for the server",
        10 => "the server demands extended headers",
        _ => "the server gives an unknown reason",
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
