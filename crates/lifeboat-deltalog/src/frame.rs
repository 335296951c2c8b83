//! One frame: from disk content to bytes. It knows nothing of the log around it, so several threads may each make frames
//! with a [`FrameEncoder`] of their own and one [`crate::Encoder`] puts them in.

use crate::error::{EncodeError, FrameError};
use crate::format::{
    CODEC_RAW, CODEC_ZSTD, FRAME_HEAD, FRAME_TAG, KIND_DATA, KIND_ZERO, MAX_FRAME_DATA, SECTOR,
};

/// zstd's level: the fastest ordinary one. Higher levels cost more time than they save on any link worth having.
const LEVEL: i32 = 1;

/// A frame as it will stand in the log, made by [`FrameEncoder::encode`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedFrame {
    pub(crate) disk: u16,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) zero: bool,
    pub(crate) bytes: Vec<u8>,
}

impl EncodedFrame {
    /// The frame's bytes, exactly as [`crate::Encoder::push_frame`] will write them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Makes frames, keeping the compressor's memory from one to the next.
pub struct FrameEncoder {
    /// `None`: everything is stored raw.
    zstd: Option<zstd::bulk::Compressor<'static>>,
    scratch: Vec<u8>,
}

impl FrameEncoder {
    /// `compress`: try zstd on every data frame and keep what is smaller.
    #[must_use]
    pub fn new(compress: bool) -> Self {
        // Without memory for a compressor the log is larger, not wrong.
        let zstd = compress
            .then(|| zstd::bulk::Compressor::new(LEVEL).ok())
            .flatten();
        Self {
            zstd,
            scratch: Vec::new(),
        }
    }

    /// Makes one frame of 512 to [`MAX_FRAME_DATA`] bytes, a multiple of 512. Whether disk and offset exist is checked
    /// when the frame is put into a log.
    ///
    /// # Errors
    /// Length or offset is not what a frame can have.
    pub fn encode(&mut self, disk: u16, offset: u64, data: &[u8]) -> Result<EncodedFrame, EncodeError> {
        let len = data.len() as u64;
        if data.is_empty() || !len.is_multiple_of(SECTOR) || !offset.is_multiple_of(SECTOR) {
            return Err(FrameError::Unaligned { offset, len }.into());
        }
        if data.len() > MAX_FRAME_DATA {
            return Err(FrameError::TooLong(len).into());
        }
        let mut bytes = Vec::new();
        let zero = self.append(disk, offset, data, &mut bytes);
        Ok(EncodedFrame {
            disk,
            offset,
            len,
            zero,
            bytes,
        })
    }

    /// Appends the frame for `data` (length already checked); says whether it became a zero frame.
    pub(crate) fn append(&mut self, disk: u16, offset: u64, data: &[u8], out: &mut Vec<u8>) -> bool {
        let len = data.len() as u64;
        if is_zero(data) {
            append_zero(disk, offset, len, out);
            return true;
        }
        let (codec, payload) = match self.compress(data) {
            Some(smaller) => (CODEC_ZSTD, smaller),
            None => (CODEC_RAW, data),
        };
        append_record(KIND_DATA, codec, disk, offset, len, payload, out);
        false
    }

    /// The compressed form, if it is smaller.
    fn compress(&mut self, data: &[u8]) -> Option<&[u8]> {
        let zstd = self.zstd.as_mut()?;
        let room = data.len() - 1;
        if self.scratch.len() < room {
            self.scratch.resize(room, 0);
        }
        // One byte less room than the data has: what does not fit is not worth storing.
        let target = self.scratch.get_mut(..room)?;
        let len = zstd.compress_to_buffer(data, target).ok()?;
        self.scratch.get(..len)
    }
}

/// Appends a zero frame.
pub(crate) fn append_zero(disk: u16, offset: u64, len: u64, out: &mut Vec<u8>) {
    append_record(KIND_ZERO, CODEC_RAW, disk, offset, len, &[], out);
}

fn append_record(kind: u8, codec: u8, disk: u16, offset: u64, len: u64, payload: &[u8], out: &mut Vec<u8>) {
    let stored = u32::try_from(payload.len()).expect("a payload is at most 1 MiB");
    out.reserve(FRAME_HEAD + payload.len());
    let start = out.len();
    out.extend_from_slice(&FRAME_TAG);
    out.extend_from_slice(&[kind, codec]);
    out.extend_from_slice(&disk.to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&stored.to_le_bytes());
    let crc = crc32c::crc32c(out.get(start..).unwrap_or_default());
    out.extend_from_slice(&crc32c::crc32c_append(crc, payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Folding whole blocks lets the compiler use wide registers; the block ends the search early for ordinary data.
fn is_zero(data: &[u8]) -> bool {
    data.chunks(1024).all(|c| c.iter().fold(0, |acc, b| acc | b) == 0)
}
