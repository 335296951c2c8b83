//! From bytes to changes, as the bytes arrive. Nothing in the input is believed before it is checked: a length is held
//! against its cap before anything waits for or allocates that much, and memory beyond the index stays near one frame.

use crate::digest::Digest;
use crate::error::{DecodeError, Fault, FrameError, Part};
use crate::format::{
    CODEC_RAW, CODEC_ZSTD, CRC_LEN, FOOTER_EXTENT, FOOTER_FIXED, FOOTER_MAGIC, FOOTER_TAIL, FRAME_HEAD,
    FRAME_SUMMED, FRAME_TAG, Fields, HEADER_DISK, HEADER_FIXED, KIND_DATA, KIND_ZERO, MAGIC, MAX_DISKS,
    MAX_FRAME_DATA, PREFIX_LEN, VERSION,
};
use crate::header::Header;
use crate::index::Index;
use crate::{Frame, FrameBody, Item, Summary};

/// Reads one delta log: [`push`](Self::push) bytes in pieces of any size, then call [`next`](Self::next) until it returns
/// `None`, and [`finish`](Self::finish) when there are no more.
pub struct Decoder {
    input: Input,
    state: State,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

enum State {
    /// Before the end of the prefix.
    Prefix,
    /// The prefix is good and says how long the header is.
    Header(usize),
    /// Between frames.
    Frames(Index),
    /// The footer has begun.
    Footer(Box<Footer>),
    /// The footer was valid.
    Done,
    /// An error was reported; there is no way on.
    Failed(DecodeError),
}

struct Footer {
    /// Where it starts in the log.
    start: u64,
    /// What it must say.
    expected: Summary,
    crc: u32,
    part: FooterPart,
}

enum FooterPart {
    Head,
    /// The next extent to compare.
    Extents {
        disk: usize,
        extent: usize,
    },
    Tail,
}

/// What one step of the machine led to.
enum Step {
    Item(Item),
    Again,
    Starved,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            input: Input::default(),
            state: State::Prefix,
            zstd: None,
        }
    }

    /// Takes the next bytes, any number. They are held until [`next`](Self::next) has used them, so push moderate pieces (up
    /// to 1 MiB) and drain after each.
    pub fn push(&mut self, bytes: &[u8]) {
        // After an error nothing is read any more, so nothing is held either.
        if !matches!(self.state, State::Failed(_)) {
            self.input.push(bytes);
        }
    }

    /// The next item; `None` when more bytes are needed, and after the end.
    ///
    /// # Errors
    /// The bytes cannot belong to a valid log. Every later call says the same.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator's None is an end, here it asks for more bytes"
    )]
    pub fn next(&mut self) -> Result<Option<Item>, DecodeError> {
        loop {
            match self.step() {
                Ok(Step::Item(item)) => return Ok(Some(item)),
                Ok(Step::Again) => {}
                Ok(Step::Starved) => return Ok(None),
                Err(error) => {
                    self.input = Input::default();
                    self.state = State::Failed(error.clone());
                    return Err(error);
                }
            }
        }
    }

    /// No more bytes will come: was it a whole log? Call [`next`](Self::next) until `None` before; a log whose items were
    /// not all taken counts as truncated.
    ///
    /// # Errors
    /// It was cut short, or something follows it, or `next` had found it damaged.
    pub fn finish(self) -> Result<(), DecodeError> {
        let at = self.input.at();
        let part = match self.state {
            State::Done if self.input.rest().is_empty() => return Ok(()),
            State::Done => return Err(DecodeError::TrailingBytes { at }),
            State::Failed(error) => return Err(error),
            State::Prefix | State::Header(_) => Part::Header,
            State::Frames(_) => Part::Frames,
            State::Footer(_) => Part::Footer,
        };
        Err(DecodeError::Truncated {
            at: at + self.input.rest().len() as u64,
            part,
        })
    }

    fn step(&mut self) -> Result<Step, DecodeError> {
        let at = self.input.at();
        let damaged = |fault| DecodeError::Damaged { at, fault };
        match &mut self.state {
            State::Prefix => {
                let Some(len) = prefix(self.input.rest())? else {
                    return Ok(Step::Starved);
                };
                self.state = State::Header(len);
                Ok(Step::Again)
            }
            State::Header(len) => {
                let Some(bytes) = self.input.rest().get(..*len) else {
                    return Ok(Step::Starved);
                };
                let header = Header::decode(bytes).map_err(damaged)?;
                self.input.consume(*len);
                self.state = State::Frames(Index::new(&header.disks));
                Ok(Step::Item(Item::Header(header)))
            }
            State::Frames(index) => {
                let rest = self.input.rest();
                let tag_len = rest.len().min(FOOTER_MAGIC.len());
                if rest.get(..tag_len) == FOOTER_MAGIC.get(..tag_len) && tag_len > FRAME_TAG.len() {
                    let index = std::mem::replace(index, Index::new(&[]));
                    self.state = State::Footer(Box::new(Footer::new(at, index)));
                    return Ok(Step::Again);
                }
                let Some(head) = FrameHead::read(rest, index).map_err(damaged)? else {
                    return Ok(Step::Starved);
                };
                let Some(payload) = rest.get(FRAME_HEAD..FRAME_HEAD + head.stored) else {
                    return Ok(Step::Starved);
                };
                let summed = rest.get(..FRAME_SUMMED).unwrap_or_default();
                if crc32c::crc32c_append(crc32c::crc32c(summed), payload) != head.crc {
                    return Err(damaged(Fault::FrameChecksum));
                }
                let body = head.body(payload, &mut self.zstd).map_err(damaged)?;
                index
                    .insert(head.disk, head.offset, head.len)
                    .map_err(|e| damaged(e.into()))?;
                index.count(head.len, matches!(body, FrameBody::Zero(_)));
                self.input.consume(FRAME_HEAD + head.stored);
                Ok(Step::Item(Item::Frame(Frame {
                    disk: head.disk,
                    offset: head.offset,
                    body,
                })))
            }
            State::Footer(footer) => {
                let step = footer.step(&mut self.input)?;
                if matches!(step, Step::Item(_)) {
                    self.state = State::Done;
                }
                Ok(step)
            }
            State::Done if self.input.rest().is_empty() => Ok(Step::Starved),
            State::Done => Err(DecodeError::TrailingBytes { at }),
            State::Failed(error) => Err(error.clone()),
        }
    }
}

/// Checks as much of the prefix as there is, so that foreign bytes are refused at the first one. Returns the header's length.
fn prefix(bytes: &[u8]) -> Result<Option<usize>, DecodeError> {
    let known = bytes.len().min(MAGIC.len());
    if bytes.get(..known) != MAGIC.get(..known) {
        return Err(DecodeError::NotALog);
    }
    let mut fields = Fields(bytes.get(MAGIC.len()..).unwrap_or_default());
    let Some(found) = fields.u32() else {
        return Ok(None);
    };
    if found != VERSION {
        return Err(DecodeError::Version { found });
    }
    let Some(said) = fields.u32() else { return Ok(None) };
    debug_assert_eq!(PREFIX_LEN, MAGIC.len() + 8);
    let disks = usize::try_from(said)
        .ok()
        .and_then(|len| len.checked_sub(HEADER_FIXED + CRC_LEN));
    match disks {
        Some(d) if d % HEADER_DISK == 0 && (1..=MAX_DISKS).contains(&(d / HEADER_DISK)) => {
            Ok(Some(HEADER_FIXED + CRC_LEN + d))
        }
        _ => Err(DecodeError::Damaged {
            at: 12,
            fault: Fault::HeaderLength(said),
        }),
    }
}

/// The fields of a frame, each within its bounds.
struct FrameHead {
    disk: u16,
    offset: u64,
    len: u64,
    stored: usize,
    zero: bool,
    zstd: bool,
    crc: u32,
}

impl FrameHead {
    /// Reads and checks the fields; `None` when they are not all there yet. Wrong tags are found as early as they show.
    fn read(rest: &[u8], index: &Index) -> Result<Option<Self>, Fault> {
        let known = rest.len().min(FRAME_TAG.len());
        let is_frame = rest.get(..known) == FRAME_TAG.get(..known);
        let may_be_footer = rest.len() <= FRAME_TAG.len() && rest.get(..known) == FOOTER_MAGIC.get(..known);
        if !is_frame && !may_be_footer {
            return Err(Fault::UnknownRecord);
        }
        if rest.len() < FRAME_HEAD {
            return Ok(None);
        }
        let mut f = Fields(rest.get(FRAME_TAG.len()..).unwrap_or_default());
        let mut read = || Some((f.u8()?, f.u8()?, f.u16()?, f.u64()?, f.u64()?, f.u32()?, f.u32()?));
        let Some((kind, codec, disk, offset, len, stored, crc)) = read() else {
            return Ok(None);
        };
        let zero = match kind {
            KIND_DATA => false,
            KIND_ZERO => true,
            _ => return Err(Fault::FrameField("kind")),
        };
        let zstd = match codec {
            CODEC_RAW => false,
            CODEC_ZSTD if !zero => true,
            _ => return Err(Fault::FrameField("codec")),
        };
        index.check(disk, offset, len)?;
        if !zero && len > MAX_FRAME_DATA as u64 {
            return Err(FrameError::TooLong(len).into());
        }
        let stored_is_right = match (zero, zstd) {
            (true, _) => stored == 0,
            (false, false) => u64::from(stored) == len,
            (false, true) => stored > 0 && u64::from(stored) < len,
        };
        let stored = usize::try_from(stored).ok().filter(|_| stored_is_right);
        let stored = stored.ok_or(Fault::FrameField("stored length"))?;
        Ok(Some(Self {
            disk,
            offset,
            len,
            stored,
            zero,
            zstd,
            crc,
        }))
    }

    /// The content, unpacked. Allocates what the frame says, which is at most 1 MiB.
    fn body(
        &self,
        payload: &[u8],
        zstd: &mut Option<zstd::bulk::Decompressor<'static>>,
    ) -> Result<FrameBody, Fault> {
        if self.zero {
            return Ok(FrameBody::Zero(self.len));
        }
        if !self.zstd {
            return Ok(FrameBody::Data(payload.to_vec()));
        }
        let len = usize::try_from(self.len).unwrap_or(MAX_FRAME_DATA);
        unzstd(payload, len, zstd)
            .map(FrameBody::Data)
            .ok_or(Fault::Compression(len))
    }
}

/// Exactly `len` bytes out of exactly one zstd frame.
fn unzstd(
    payload: &[u8],
    len: usize,
    context: &mut Option<zstd::bulk::Decompressor<'static>>,
) -> Option<Vec<u8>> {
    if zstd::zstd_safe::find_frame_compressed_size(payload).ok()? != payload.len() {
        return None;
    }
    let zstd = match context {
        Some(zstd) => zstd,
        None => context.insert(zstd::bulk::Decompressor::new().ok()?),
    };
    // A slice as the target: a vector's capacity may be larger than asked for, and would be filled.
    let mut data = vec![0; len];
    let got = zstd.decompress_to_buffer(payload, data.as_mut_slice()).ok()?;
    (got == len).then_some(data)
}

impl Footer {
    fn new(start: u64, index: Index) -> Self {
        Self {
            start,
            expected: index.into_summary(),
            crc: 0,
            part: FooterPart::Head,
        }
    }

    fn step(&mut self, input: &mut Input) -> Result<Step, DecodeError> {
        let at = self.start;
        let step = match self.part {
            FooterPart::Head => self.head(input),
            FooterPart::Extents { disk, extent } => self.extents(input, disk, extent),
            FooterPart::Tail => self.tail(input),
        };
        step.map_err(|fault| DecodeError::Damaged { at, fault })
    }

    fn mismatch(what: &'static str, right: bool) -> Result<(), Fault> {
        if right {
            Ok(())
        } else {
            Err(Fault::FooterMismatch(what))
        }
    }

    /// Magic, totals, and how many extents each disk has.
    fn head(&mut self, input: &mut Input) -> Result<Step, Fault> {
        let rest = input.rest();
        let known = rest.len().min(FOOTER_MAGIC.len());
        if rest.get(..known) != FOOTER_MAGIC.get(..known) {
            return Err(Fault::UnknownRecord);
        }
        let len = FOOTER_FIXED + 4 * self.expected.extents.len();
        let Some(bytes) = rest.get(..len) else {
            return Ok(Step::Starved);
        };
        let mut f = Fields(bytes.get(FOOTER_MAGIC.len()..).unwrap_or_default());
        Self::mismatch("data total", f.u64() == Some(self.expected.data_bytes))?;
        Self::mismatch("zero total", f.u64() == Some(self.expected.zero_bytes))?;
        Self::mismatch("frame count", f.u64() == Some(self.expected.frames))?;
        for disk in &self.expected.extents {
            let said = f.u32().and_then(|n| usize::try_from(n).ok());
            Self::mismatch("extent count", said == Some(disk.len()))?;
        }
        self.crc = crc32c::crc32c(bytes);
        self.part = FooterPart::Extents { disk: 0, extent: 0 };
        input.consume(len);
        Ok(Step::Again)
    }

    /// As many extents as there are, held against what was seen.
    fn extents(&mut self, input: &mut Input, mut disk: usize, mut extent: usize) -> Result<Step, Fault> {
        let rest = input.rest();
        let mut used = 0;
        self.part = loop {
            let Some(expected) = self.expected.extents.get(disk) else {
                break FooterPart::Tail;
            };
            let Some(&(offset, len)) = expected.get(extent) else {
                (disk, extent) = (disk + 1, 0);
                continue;
            };
            let Some(bytes) = rest.get(used..used + FOOTER_EXTENT) else {
                break FooterPart::Extents { disk, extent };
            };
            let mut f = Fields(bytes);
            Self::mismatch("extent index", f.u64() == Some(offset) && f.u64() == Some(len))?;
            used += FOOTER_EXTENT;
            extent += 1;
        };
        self.crc = crc32c::crc32c_append(self.crc, rest.get(..used).unwrap_or_default());
        input.consume(used);
        Ok(match self.part {
            FooterPart::Tail => Step::Again,
            FooterPart::Head | FooterPart::Extents { .. } => Step::Starved,
        })
    }

    /// Length, checksum, digest.
    fn tail(&mut self, input: &mut Input) -> Result<Step, Fault> {
        let Some(bytes) = input.rest().get(..FOOTER_TAIL) else {
            return Ok(Step::Starved);
        };
        let mut f = Fields(bytes);
        let footer_len = input.at() + FOOTER_TAIL as u64 - self.start;
        Self::mismatch("length", f.u64() == Some(footer_len))?;
        let crc = crc32c::crc32c_append(self.crc, bytes.get(..8).unwrap_or_default());
        if f.u32() != Some(crc) {
            return Err(Fault::FooterChecksum);
        }
        let digest: Option<[u8; 32]> = f.bytes();
        input.consume(8 + CRC_LEN);
        let right = input.digest.value();
        if digest != Some(right) {
            return Err(Fault::Digest);
        }
        input.consume(right.len());
        let mut summary = std::mem::take(&mut self.expected);
        summary.digest = right;
        Ok(Step::Item(Item::End(summary)))
    }
}

/// Bytes that came and were not used yet, and the digest of those that were.
#[derive(Default)]
struct Input {
    buffer: Vec<u8>,
    used: usize,
    /// Bytes of the log before `buffer`.
    before: u64,
    digest: Digest,
}

impl Input {
    /// Moves the rest to the front only when it is smaller than what was used: each byte is moved at most once on average.
    fn push(&mut self, bytes: &[u8]) {
        if self.used > 0 && self.used >= self.buffer.len() - self.used {
            self.before += self.used as u64;
            self.buffer.drain(..self.used);
            self.used = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    fn rest(&self) -> &[u8] {
        self.buffer.get(self.used..).unwrap_or_default()
    }

    /// Position in the log of the first byte of `rest`.
    fn at(&self) -> u64 {
        self.before + self.used as u64
    }

    fn consume(&mut self, len: usize) {
        let end = (self.used + len).min(self.buffer.len());
        self.digest
            .update(self.buffer.get(self.used..end).unwrap_or_default());
        self.used = end;
    }
}
