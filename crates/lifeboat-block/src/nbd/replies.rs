//! What an NBD server answers, matched to what was asked, as a machine without I/O.
//!
//! The machine says which bytes it wants next by lending out the place they belong to: for data that is the
//! caller's future buffer itself, so nothing is copied on the way. It believes nothing: a reply must belong
//! to a request in flight and be of a kind that fits it, chunks must lie inside the request and may not
//! overlap, and a request is complete only when every byte of it was covered. It sends nothing.

use std::collections::{BTreeMap, HashMap};

use super::proto::{self, Fields};

/// The most status extents taken from one reply. QEMU stops at 131072.
const MAX_EXTENTS: u32 = 1 << 20;

/// The largest payload of an error chunk: its text, a few numbers, and room for kinds to come.
const MAX_ERROR_PAYLOAD: u32 = 8 << 10;

/// Separate pieces one read may arrive in, while holes are left between them.
const MAX_FRAGMENTS: usize = 1 << 16;

const SIMPLE_HEADER: usize = 16;
const STRUCTURED_HEADER: usize = 20;

/// What a request in flight may be answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Success or failure, nothing else.
    Plain,
    /// The data of this range.
    Read {
        /// First byte; `offset + len` must be below 2^63.
        offset: u64,
        /// Length in bytes.
        len: u32,
    },
    /// Status extents of a range, in one context.
    Status {
        /// Id of the wanted context; others are passed over.
        context: u32,
        /// Length asked for, in bytes.
        len: u32,
    },
}

/// A successful answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To [`Expect::Plain`].
    Done,
    /// To [`Expect::Read`], as long as asked for.
    Data(Vec<u8>),
    /// To [`Expect::Status`]: length and flags, in order from the request's offset. At least one; together
    /// not longer than asked for, maybe shorter.
    Status(Vec<(u32, u32)>),
}

/// The server's refusal of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// The errno value on the wire, never 0.
    pub errno: u32,
    /// The server's words, often empty.
    pub message: String,
}

/// The end of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// The request's cookie.
    pub cookie: u64,
    /// How it ended.
    pub result: Result<Answer, ServerError>,
}

/// The server broke the protocol; nothing it sends can be trusted any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

/// The machine. After a [`Violation`] it must be dropped.
#[derive(Debug)]
pub struct Replies {
    structured: bool,
    contexts: Vec<u32>,
    in_flight: HashMap<u64, Request>,
    state: State,
    scratch: Vec<u8>,
    filled: usize,
}

#[derive(Debug)]
enum State {
    Header,
    /// The scratch buffer collects a chunk's payload, or the offset before its data.
    Payload(Chunk),
    /// Data goes straight into the request's buffer. The request is out of the table meanwhile.
    Data {
        cookie: u64,
        request: Request,
        at: usize,
        end: usize,
        done: bool,
    },
}

#[derive(Debug, Clone, Copy)]
struct Chunk {
    cookie: u64,
    kind: u16,
    done: bool,
    len: u32,
}

#[derive(Debug)]
struct Request {
    expect: Expect,
    error: Option<ServerError>,
    /// Empty until the first data arrives: a read of nothing but holes is zeroed in one go at its end.
    buffer: Vec<u8>,
    /// What was covered, as start → end relative to the request; neighbours are merged.
    covered: BTreeMap<u32, u32>,
    contexts_seen: Vec<u32>,
    status: Option<Vec<(u32, u32)>>,
}

impl Replies {
    /// A machine for a connection where `structured` replies and these `contexts` (ids) were agreed on.
    #[must_use]
    pub fn new(structured: bool, contexts: Vec<u32>) -> Self {
        let scratch = vec![0; SIMPLE_HEADER];
        Self {
            structured,
            contexts,
            in_flight: HashMap::new(),
            state: State::Header,
            scratch,
            filled: 0,
        }
    }

    /// Notes a request. Must happen before the server can have answered it, with a cookie not in flight.
    pub fn expect(&mut self, cookie: u64, expect: Expect) {
        let request = Request {
            expect,
            error: None,
            buffer: Vec::new(),
            covered: BTreeMap::new(),
            contexts_seen: Vec::new(),
            status: None,
        };
        self.in_flight.insert(cookie, request);
    }

    /// Where the next bytes from the server belong; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        match &mut self.state {
            State::Data { request, at, end, .. } => request.buffer.get_mut(*at..*end),
            State::Header | State::Payload(_) => self.scratch.get_mut(self.filled..),
        }
        .unwrap_or_default()
    }

    /// Says that the first `count` bytes of [`Replies::space`] were filled.
    ///
    /// # Errors
    /// [`Violation`] when what the server sent cannot be an answer to what was asked.
    pub fn filled(&mut self, count: usize) -> Result<Option<Completion>, Violation> {
        if let State::Data { at, end, .. } = &mut self.state {
            *at += count;
            if at < end {
                return Ok(None);
            }
        } else {
            self.filled += count;
            if self.filled < self.scratch.len() {
                return Ok(None);
            }
        }
        match std::mem::replace(&mut self.state, State::Header) {
            State::Header => self.header(),
            State::Payload(chunk) => self.payload(chunk),
            State::Data {
                cookie,
                request,
                done,
                ..
            } => {
                self.want_header();
                self.chunk_end(cookie, request, done)
            }
        }
    }

    fn want(&mut self, len: usize) {
        self.scratch.clear();
        self.scratch.resize(len, 0);
        self.filled = 0;
    }

    fn want_header(&mut self) {
        // A long status reply must not occupy memory until the connection ends.
        self.scratch.clear();
        self.scratch.shrink_to(4096);
        self.want(SIMPLE_HEADER);
    }

    fn take(&mut self, cookie: u64) -> Result<Request, Violation> {
        self.in_flight
            .remove(&cookie)
            .ok_or_else(|| violation("a reply to a request that is not in flight"))
    }

    fn header(&mut self) -> Result<Option<Completion>, Violation> {
        let short = || violation("a header that is cut off");
        let mut fields = Fields(&self.scratch);
        match fields.u32().ok_or_else(short)? {
            proto::SIMPLE_REPLY_MAGIC => {
                let (errno, cookie) = (fields.u32().ok_or_else(short)?, fields.u64().ok_or_else(short)?);
                self.simple(errno, cookie)
            }
            proto::STRUCTURED_REPLY_MAGIC if !self.structured => {
                Err(violation("a structured reply, which was not agreed on"))
            }
            proto::STRUCTURED_REPLY_MAGIC if self.scratch.len() < STRUCTURED_HEADER => {
                self.scratch.resize(STRUCTURED_HEADER, 0);
                Ok(None)
            }
            proto::STRUCTURED_REPLY_MAGIC => {
                let (flags, kind) = (fields.u16().ok_or_else(short)?, fields.u16().ok_or_else(short)?);
                let (cookie, len) = (fields.u64().ok_or_else(short)?, fields.u32().ok_or_else(short)?);
                let done = flags & proto::REPLY_FLAG_DONE != 0;
                self.chunk(Chunk {
                    cookie,
                    kind,
                    done,
                    len,
                })
            }
            magic => Err(violation(&format!("a reply that begins with {magic:#010x}"))),
        }
    }

    fn simple(&mut self, errno: u32, cookie: u64) -> Result<Option<Completion>, Violation> {
        let mut request = self.take(cookie)?;
        self.want_header();
        let read = match request.expect {
            Expect::Plain => None,
            Expect::Read { len, .. } => Some(len as usize),
            Expect::Status { .. } => return Err(violation("a simple reply to a status query")),
        };
        if read.is_some() && self.structured {
            return Err(violation(
                "a simple reply to a read, after structured replies were agreed on",
            ));
        }
        if errno != 0 {
            request.error = Some(ServerError {
                errno,
                message: String::new(),
            });
        } else if let Expect::Read { offset, len } = request.expect
            && len > 0
        {
            request.cover(offset, u64::from(len))?;
            request.buffer = vec![0; len as usize];
            self.state = State::Data {
                cookie,
                request,
                at: 0,
                end: len as usize,
                done: true,
            };
            return Ok(None);
        }
        request.complete(cookie).map(Some)
    }

    /// A chunk's header is complete: decides what its payload may be before any of it is taken.
    fn chunk(&mut self, chunk: Chunk) -> Result<Option<Completion>, Violation> {
        let request = self.in_flight.get(&chunk.cookie);
        let request = request.ok_or_else(|| violation("a reply to a request that is not in flight"))?;
        let payload = match (chunk.kind, request.expect) {
            (proto::REPLY_NONE, _) if chunk.len == 0 && chunk.done => {
                let request = self.take(chunk.cookie)?;
                self.want_header();
                return self.chunk_end(chunk.cookie, request, true);
            }
            // Only the offset; what follows it needs no scratch space.
            (proto::REPLY_OFFSET_DATA, Expect::Read { len, .. })
                if chunk.len > 8 && u64::from(chunk.len) <= u64::from(len) + 8 =>
            {
                8
            }
            (proto::REPLY_OFFSET_HOLE, Expect::Read { .. }) if chunk.len == 12 => 12,
            (proto::REPLY_BLOCK_STATUS, Expect::Status { .. })
                if chunk.len >= 12 && chunk.len % 8 == 4 && chunk.len / 8 <= MAX_EXTENTS =>
            {
                chunk.len
            }
            (kind, _)
                if kind & proto::REPLY_ERROR_BIT != 0 && (6..=MAX_ERROR_PAYLOAD).contains(&chunk.len) =>
            {
                chunk.len
            }
            (kind, expect) => {
                let what = format!(
                    "a chunk of type {kind} and length {} in the reply to {expect:?}",
                    chunk.len
                );
                return Err(Violation(what));
            }
        };
        self.want(payload as usize);
        self.state = State::Payload(chunk);
        Ok(None)
    }

    fn payload(&mut self, chunk: Chunk) -> Result<Option<Completion>, Violation> {
        let mut request = self.take(chunk.cookie)?;
        let short = || violation("a chunk that is cut off");
        let mut fields = Fields(&self.scratch);
        match chunk.kind {
            proto::REPLY_OFFSET_DATA => {
                let offset = fields.u64().ok_or_else(short)?;
                let len = chunk.len - 8;
                let at = request.cover(offset, u64::from(len))? as usize;
                if request.buffer.is_empty() {
                    request.buffer = vec![0; request.len()];
                }
                let (cookie, end, done) = (chunk.cookie, at + len as usize, chunk.done);
                self.state = State::Data {
                    cookie,
                    request,
                    at,
                    end,
                    done,
                };
                return Ok(None);
            }
            proto::REPLY_OFFSET_HOLE => {
                let (offset, len) = (fields.u64().ok_or_else(short)?, fields.u32().ok_or_else(short)?);
                request.cover(offset, u64::from(len))?;
            }
            proto::REPLY_BLOCK_STATUS => request.take_status(&mut fields, &self.contexts)?,
            // The header was checked: all that is left are errors.
            _ => {
                let errno = fields.u32().filter(|errno| *errno != 0);
                let errno = errno.ok_or_else(|| violation("an error without an error number"))?;
                let text = fields
                    .u16()
                    .and_then(|len| fields.bytes(usize::from(len)))
                    .ok_or_else(short)?;
                let message = String::from_utf8_lossy(text).into_owned();
                request.error.get_or_insert(ServerError { errno, message });
            }
        }
        self.want_header();
        self.chunk_end(chunk.cookie, request, chunk.done)
    }

    fn chunk_end(
        &mut self,
        cookie: u64,
        request: Request,
        done: bool,
    ) -> Result<Option<Completion>, Violation> {
        if done {
            return request.complete(cookie).map(Some);
        }
        self.in_flight.insert(cookie, request);
        Ok(None)
    }
}

impl Request {
    fn len(&self) -> usize {
        match self.expect {
            Expect::Read { len, .. } => len as usize,
            Expect::Plain | Expect::Status { .. } => 0,
        }
    }

    /// Notes that a chunk covers this range of the export and returns where it starts in the request.
    fn cover(&mut self, offset: u64, len: u64) -> Result<u32, Violation> {
        let Expect::Read {
            offset: first,
            len: asked,
        } = self.expect
        else {
            return Err(violation("data in the reply to a request for none"));
        };
        let start = offset
            .checked_sub(first)
            .and_then(|start| u32::try_from(start).ok());
        let end = start.and_then(|start| u32::try_from(len).ok()?.checked_add(start));
        let (Some(mut start), Some(mut end)) = (start, end.filter(|end| *end <= asked && len > 0)) else {
            return Err(violation("a chunk outside the range that was asked for"));
        };
        let at = start;
        let before = self
            .covered
            .range(..=start)
            .next_back()
            .map(|(start, end)| (*start, *end));
        let after = self
            .covered
            .range(start..)
            .next()
            .map(|(start, end)| (*start, *end));
        if before.is_some_and(|(_, before_end)| before_end > start)
            || after.is_some_and(|(next, _)| next < end)
        {
            return Err(violation("two chunks for the same bytes"));
        }
        if let Some((before_start, _)) = before.filter(|(_, before_end)| *before_end == start) {
            start = before_start;
        }
        if let Some((next, next_end)) = after.filter(|(next, _)| *next == end) {
            self.covered.remove(&next);
            end = next_end;
        }
        self.covered.insert(start, end);
        if self.covered.len() > MAX_FRAGMENTS {
            return Err(violation("a read in more pieces than are accepted"));
        }
        Ok(at)
    }

    fn take_status(&mut self, fields: &mut Fields<'_>, contexts: &[u32]) -> Result<(), Violation> {
        let Expect::Status { context: wanted, len } = self.expect else {
            return Err(violation("status extents in the reply to another request"));
        };
        let context = fields.u32().filter(|id| contexts.contains(id));
        let context =
            context.ok_or_else(|| violation("status extents of a context that was not agreed on"))?;
        if self.contexts_seen.contains(&context) {
            return Err(violation("status extents of the same context twice"));
        }
        self.contexts_seen.push(context);
        if context != wanted {
            return Ok(());
        }
        let mut left = len;
        let mut extents = Vec::with_capacity(fields.0.len() / 8);
        while let (Some(extent), Some(flags)) = (fields.u32(), fields.u32()) {
            if extent == 0 || left == 0 {
                return Err(violation(
                    "status extents that are empty or lie outside the range that was asked for",
                ));
            }
            // The last extent may be about more than was asked; that part is cut off.
            let inside = extent.min(left);
            left -= inside;
            extents.push((inside, flags));
        }
        self.status = Some(extents);
        Ok(())
    }

    fn complete(self, cookie: u64) -> Result<Completion, Violation> {
        if let Some(error) = self.error {
            return Ok(Completion {
                cookie,
                result: Err(error),
            });
        }
        let answer = match self.expect {
            Expect::Plain => Answer::Done,
            Expect::Read { len, .. } => {
                let whole = len == 0 || self.covered.get(&0) == Some(&len);
                if !whole {
                    return Err(violation("a read that is called done but misses bytes"));
                }
                let holes_only = self.buffer.is_empty();
                Answer::Data(if holes_only {
                    vec![0; len as usize]
                } else {
                    self.buffer
                })
            }
            Expect::Status { .. } => Answer::Status(
                self.status
                    .ok_or_else(|| violation("a status query that is called done without its context"))?,
            ),
        };
        Ok(Completion {
            cookie,
            result: Ok(answer),
        })
    }
}

fn violation(what: &str) -> Violation {
    Violation(what.to_owned())
}

#[cfg(test)]
#[path = "replies_tests.rs"]
mod tests;
