//! An NBD client for threads that may block: one request at a time, nothing but reading. It decodes with the machines that
//! [`super::client`] uses too; where many requests are to be in flight, that one is the right one.
//!
//! It knows no time limits: the owner of the stream sets them there, or ends the server.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use super::StatusExtent;
use super::error::{Asked, NbdError};
use super::handshake::{Handshake, Negotiated, Step};
use super::proto;
use super::replies::{Answer, Expect, Replies, ServerError};
use super::request::{append, invalid, no_context, range_len, request_header, unfitting};

/// An open export. The connection closes when it is dropped.
#[derive(Debug)]
pub struct BlockingClient<S = UnixStream> {
    stream: S,
    negotiated: Negotiated,
    replies: Replies,
    next_cookie: u64,
    /// Why nothing can be asked any more.
    ended: Option<String>,
}

impl<S: Read + Write> BlockingClient<S> {
    /// Opens `export` over a stream that is already connected, asking for `contexts` such as `base:allocation`. A context
    /// the server does not have is no error here.
    ///
    /// # Errors
    /// [`NbdError::Refused`], [`NbdError::Handshake`], [`NbdError::Protocol`].
    pub fn connect(mut stream: S, export: &str, contexts: &[&str]) -> Result<Self, NbdError> {
        let broken = |source| NbdError::Handshake {
            export: export.to_owned(),
            source,
        };
        let mut handshake = Handshake::new(export, contexts)?;
        let negotiated = loop {
            match handshake.step()? {
                Step::Send(bytes) => stream.write_all(&bytes).map_err(broken)?,
                Step::NeedMore => {
                    let mut chunk = [0; 4096];
                    let count = receive(&mut stream, &mut chunk).map_err(broken)?;
                    handshake.push(chunk.get(..count).unwrap_or_default());
                }
                Step::Ready(_) if !handshake.rest().is_empty() => {
                    let what = "it answered before anything was asked";
                    return Err(NbdError::Protocol(what.to_owned()));
                }
                Step::Ready(negotiated) => break negotiated,
            }
        };
        let ids = negotiated.contexts.iter().map(|(id, _)| *id).collect();
        Ok(Self {
            stream,
            replies: Replies::new(negotiated.structured, ids),
            negotiated,
            next_cookie: 1,
            ended: None,
        })
    }

    /// Size of the export in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.negotiated.size
    }

    /// Reads `len` bytes at `offset`, at most what [`super::BlockSizes::maximum`] allows.
    ///
    /// # Errors
    /// See [`NbdError`]; never fewer bytes than asked for.
    pub fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, NbdError> {
        let asked = Asked::Read {
            offset,
            len: len as u64,
        };
        self.negotiated.check(&asked, offset, len as u64, true)?;
        if len == 0 {
            return Ok(Vec::new());
        }
        let len = u32::try_from(len).map_err(|_| invalid(&asked, "it is too long"))?;
        let expect = Expect::Read { offset, len };
        match self.request(proto::CMD_READ, offset, len, expect, &asked)? {
            Answer::Data(data) => Ok(data),
            other @ (Answer::Done | Answer::Status(_)) => Err(unfitting(&asked, &other)),
        }
    }

    /// The status of a range in `context`, in order and without gaps; neighbours differ in their flags. The result takes 24
    /// bytes per extent: ask for a huge, finely divided range in pieces.
    ///
    /// # Errors
    /// See [`NbdError`]; [`NbdError::NoContext`] when it was not asked for, or the server does not have it.
    pub fn block_status(
        &mut self,
        context: &str,
        offset: u64,
        len: u64,
    ) -> Result<Vec<StatusExtent>, NbdError> {
        let id = self.negotiated.context_id(context);
        let id = id.ok_or_else(|| no_context(context))?;
        let asked = Asked::BlockStatus {
            context: context.to_owned(),
            offset,
            len,
        };
        self.negotiated.check(&asked, offset, len, false)?;
        let mut extents = Vec::new();
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let len = range_len(end - at);
            let expect = Expect::Status { context: id, len };
            match self.request(proto::CMD_BLOCK_STATUS, at, len, expect, &asked)? {
                Answer::Status(parts) => at = append(&mut extents, at, parts),
                other @ (Answer::Done | Answer::Data(_)) => return Err(unfitting(&asked, &other)),
            }
        }
        Ok(extents)
    }

    fn request(
        &mut self,
        kind: u16,
        offset: u64,
        len: u32,
        expect: Expect,
        asked: &Asked,
    ) -> Result<Answer, NbdError> {
        if let Some(reason) = &self.ended {
            return Err(NbdError::Closed {
                reason: reason.clone(),
            });
        }
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        self.replies.expect(cookie, expect);
        let header = request_header(0, kind, cookie, offset, len);
        match self.round_trip(&header) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(ServerError { errno, message })) => Err(NbdError::Server {
                asked: asked.clone(),
                errno,
                message,
            }),
            Err(error) => {
                self.ended = Some(error.to_string());
                Err(error)
            }
        }
    }

    /// The answer to the only request in flight. After an error the connection cannot be used any more.
    fn round_trip(&mut self, header: &[u8]) -> Result<Result<Answer, ServerError>, NbdError> {
        let closed = |what: &'static str| {
            move |error: io::Error| NbdError::Closed {
                reason: format!("{what} failed: {error}"),
            }
        };
        self.stream.write_all(header).map_err(closed("sending"))?;
        loop {
            let count = receive(&mut self.stream, self.replies.space()).map_err(closed("receiving"))?;
            let outcome = self.replies.filled(count);
            let outcome = outcome.map_err(|violation| NbdError::Protocol(violation.to_string()))?;
            if let Some(completion) = outcome {
                return Ok(completion.result);
            }
        }
    }
}

/// At least one byte.
fn receive(stream: &mut impl Read, space: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(space) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
#[path = "blocking_tests.rs"]
mod tests;
