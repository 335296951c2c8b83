//! The few words of the NBD protocol that reading an image chain through QEMU needs: open the only export of a Unix
//! socket, ask what is allocated, read. One request at a time, from threads that may block. No writing, no reconnecting;
//! capturing a VM has a client of its own that keeps many requests in flight.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

const GREETING: u64 = 0x4e42_444d_4147_4943;
const OPTION: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x668e_33ef;

const OPT_GO: u32 = 7;
const OPT_STRUCTURED: u32 = 8;
const OPT_META: u32 = 10;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_META: u32 = 4;

const CMD_READ: u16 = 0;
const CMD_STATUS: u16 = 7;
const CHUNK_DATA: u16 = 1;
const CHUNK_HOLE: u16 = 2;
const CHUNK_STATUS: u16 = 5;
const CHUNK_ERROR: u16 = 1 << 15;

/// Most bytes of one request.
pub(crate) const MAX_READ: u32 = 2 << 20;

/// A server that says more than this at once is not QEMU.
const MAX_CHUNK: u32 = 32 << 20;

/// Longest range asked about at once.
const MAX_STATUS: u64 = 1 << 30;

/// An open export.
pub(crate) struct Client {
    stream: UnixStream,
    /// Bytes of the export.
    pub(crate) size: u64,
    /// The last chunk of the answer was read.
    ended: bool,
}

fn wrong(what: &str) -> io::Error {
    io::Error::other(format!("the NBD server answered {what}"))
}

impl Client {
    /// Greets the server and opens its export.
    pub(crate) fn open(stream: UnixStream) -> io::Result<Self> {
        let mut client = Self {
            stream,
            size: 0,
            ended: false,
        };
        if client.u64()? != GREETING || client.u64()? != OPTION {
            return Err(wrong("without a greeting"));
        }
        let _flags = client.u16()?;
        // Fixed newstyle, no padding.
        client.stream.write_all(&3_u32.to_be_bytes())?;
        client.option(OPT_STRUCTURED, &[])?;
        let context = b"base:allocation";
        let mut meta = vec![0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 15];
        meta.extend_from_slice(context);
        client.option(OPT_META, &meta)?;
        // The export without a name, no further information.
        client.option(OPT_GO, &[0; 6])?;
        if client.size == 0 {
            return Err(wrong("without the size of the export"));
        }
        Ok(client)
    }

    fn option(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let len = u32::try_from(data.len()).map_err(io::Error::other)?;
        let mut out = OPTION.to_be_bytes().to_vec();
        out.extend_from_slice(&option.to_be_bytes());
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(data);
        self.stream.write_all(&out)?;
        loop {
            if self.u64()? != OPTION_REPLY || self.u32()? != option {
                return Err(wrong("another option"));
            }
            let (kind, len) = (self.u32()?, self.u32()?);
            let body = self.bytes(len)?;
            match kind {
                REP_ACK => return Ok(()),
                REP_META => {}
                REP_INFO => {
                    // Information 0 is the export: its size and flags.
                    if let Some(([0, 0], rest)) = body.split_first_chunk()
                        && let Some((size, _)) = rest.split_first_chunk()
                    {
                        self.size = u64::from_be_bytes(*size);
                    }
                }
                _ => {
                    let said = String::from_utf8_lossy(&body).into_owned();
                    return Err(wrong(&format!("option {option} with error {kind:#x} {said}")));
                }
            }
        }
    }

    /// Reads `buffer.len()` bytes, at most [`MAX_READ`].
    pub(crate) fn read(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let len = u32::try_from(buffer.len()).map_err(io::Error::other)?;
        self.request(CMD_READ, offset, len)?;
        let mut left = buffer.len();
        while let Some((kind, len)) = self.chunk()? {
            let at = self.u64()?.checked_sub(offset);
            let at = at.and_then(|n| usize::try_from(n).ok());
            let len = len.checked_sub(8);
            let (Some(at), Some(len)) = (at, len) else {
                return Err(wrong("with data of another place"));
            };
            let (count, hole) = match kind {
                CHUNK_DATA => (len, false),
                CHUNK_HOLE => (self.u32()?, true),
                _ => return Err(wrong("a read with something else")),
            };
            let count = usize::try_from(count).map_err(io::Error::other)?;
            let place = at.checked_add(count).and_then(|end| buffer.get_mut(at..end));
            let place = place.ok_or_else(|| wrong("with data of another place"))?;
            if hole {
                place.fill(0);
            } else {
                self.stream.read_exact(place)?;
            }
            left = left.checked_sub(count).ok_or_else(|| wrong("with data twice"))?;
        }
        if left == 0 {
            Ok(())
        } else {
            Err(wrong("a read with too little"))
        }
    }

    /// What is allocated from `offset` on: lengths in bytes, and whether they read as zeros. Covers at least one piece and
    /// at most `len` bytes.
    pub(crate) fn status(&mut self, offset: u64, len: u64) -> io::Result<Vec<(u64, bool)>> {
        let asked = u32::try_from(len.min(MAX_STATUS)).map_err(io::Error::other)?;
        self.request(CMD_STATUS, offset, asked)?;
        let mut found = Vec::new();
        let mut left = u64::from(asked);
        while let Some((kind, len)) = self.chunk()? {
            let body = self.bytes(len)?;
            if kind != CHUNK_STATUS {
                return Err(wrong("a question about allocation with something else"));
            }
            let pieces = body.get(4..).unwrap_or_default();
            for piece in pieces.as_chunks::<8>().0 {
                let [a, b, c, d, .., flags] = *piece;
                // A server may tell more than it was asked.
                let len = u64::from(u32::from_be_bytes([a, b, c, d])).min(left);
                left -= len;
                if len > 0 {
                    // Bit 1: reads as zeros.
                    found.push((len, flags & 2 != 0));
                }
            }
        }
        if found.is_empty() {
            return Err(wrong("a question about allocation with nothing"));
        }
        Ok(found)
    }

    fn request(&mut self, command: u16, offset: u64, len: u32) -> io::Result<()> {
        let mut out = REQUEST.to_be_bytes().to_vec();
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&command.to_be_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&offset.to_be_bytes());
        out.extend_from_slice(&len.to_be_bytes());
        self.stream.write_all(&out)
    }

    /// The head of the next chunk of an answer; `None` at its end.
    fn chunk(&mut self) -> io::Result<Option<(u16, u32)>> {
        loop {
            if self.ended {
                self.ended = false;
                return Ok(None);
            }
            if self.u32()? != REPLY {
                return Err(wrong("without a reply"));
            }
            let (flags, kind) = (self.u16()?, self.u16()?);
            let _cookie = self.u64()?;
            let len = self.u32()?;
            self.ended = flags & 1 != 0;
            if kind & CHUNK_ERROR != 0 {
                let body = self.bytes(len)?;
                let said = String::from_utf8_lossy(body.get(6..).unwrap_or_default()).into_owned();
                return Err(wrong(&format!("an error: {said}")));
            }
            if kind != 0 {
                return Ok(Some((kind, len)));
            }
        }
    }

    fn bytes(&mut self, len: u32) -> io::Result<Vec<u8>> {
        if len > MAX_CHUNK {
            return Err(wrong("more than was asked for"));
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u16(&mut self) -> io::Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> io::Result<u64> {
        self.array().map(u64::from_be_bytes)
    }
}
