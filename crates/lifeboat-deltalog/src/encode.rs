//! From changes to bytes. The encoder appends to a buffer the caller owns and may empty at any time; it keeps only the
//! index and the running digest.

use crate::Summary;
use crate::digest::Digest;
use crate::error::EncodeError;
use crate::format::{FOOTER_EXTENT, FOOTER_FIXED, FOOTER_MAGIC, FOOTER_TAIL, MAX_FRAME_DATA};
use crate::frame::{EncodedFrame, FrameEncoder, append_zero};
use crate::header::Header;
use crate::index::Index;

/// Writes one delta log: header at once, then changes in any order (each byte of a disk at most once), then the footer.
pub struct Encoder {
    frames: FrameEncoder,
    index: Index,
    digest: Digest,
}

impl Encoder {
    /// Appends prefix and header to `out`. `compress`: store data frames with zstd where that is smaller.
    ///
    /// # Errors
    /// The header breaks a rule; `out` is as it was.
    pub fn new(header: &Header, compress: bool, out: &mut Vec<u8>) -> Result<Self, EncodeError> {
        let start = out.len();
        header.encode(out)?;
        let mut digest = Digest::default();
        digest.update(out.get(start..).unwrap_or_default());
        Ok(Self {
            frames: FrameEncoder::new(compress),
            index: Index::new(&header.disks),
            digest,
        })
    }

    /// Appends `data`, found at `offset` of `disk`, as frames of at most [`MAX_FRAME_DATA`] bytes. A frame of zeros only
    /// becomes a zero frame.
    ///
    /// # Errors
    /// The range is not one this log can hold; nothing was appended.
    pub fn data(
        &mut self,
        disk: u16,
        offset: u64,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        self.index.insert(disk, offset, data.len() as u64)?;
        let mut at = offset;
        for chunk in data.chunks(MAX_FRAME_DATA) {
            let start = out.len();
            let zero = self.frames.append(disk, at, chunk, out);
            self.digest.update(out.get(start..).unwrap_or_default());
            self.index.count(chunk.len() as u64, zero);
            at += chunk.len() as u64;
        }
        Ok(())
    }

    /// Appends a zero frame for `len` bytes at `offset` of `disk`.
    ///
    /// # Errors
    /// The range is not one this log can hold; nothing was appended.
    pub fn zero(&mut self, disk: u16, offset: u64, len: u64, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.index.insert(disk, offset, len)?;
        let start = out.len();
        append_zero(disk, offset, len, out);
        self.digest.update(out.get(start..).unwrap_or_default());
        self.index.count(len, true);
        Ok(())
    }

    /// Appends a frame that a [`FrameEncoder`] made, perhaps on another thread.
    ///
    /// # Errors
    /// The range is not one this log can hold; nothing was appended.
    pub fn push_frame(&mut self, frame: &EncodedFrame, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.index.insert(frame.disk, frame.offset, frame.len)?;
        self.digest.update(&frame.bytes);
        self.index.count(frame.len, frame.zero);
        out.extend_from_slice(&frame.bytes);
        Ok(())
    }

    /// Appends the footer. Only with it the log exists.
    pub fn finish(self, out: &mut Vec<u8>) -> Summary {
        let mut digest = self.digest;
        let mut summary = self.index.into_summary();
        let extents: usize = summary.extents.iter().map(Vec::len).sum();
        let len = FOOTER_FIXED + 4 * summary.extents.len() + FOOTER_EXTENT * extents + FOOTER_TAIL;
        out.reserve(len);
        let start = out.len();
        out.extend_from_slice(&FOOTER_MAGIC);
        for total in [summary.data_bytes, summary.zero_bytes, summary.frames] {
            out.extend_from_slice(&total.to_le_bytes());
        }
        for disk in &summary.extents {
            let count = u32::try_from(disk.len()).expect("the index holds at most 2^22 extents");
            out.extend_from_slice(&count.to_le_bytes());
        }
        for (offset, len) in summary.extents.iter().flatten() {
            out.extend_from_slice(&offset.to_le_bytes());
            out.extend_from_slice(&len.to_le_bytes());
        }
        out.extend_from_slice(&(len as u64).to_le_bytes());
        let crc = crc32c::crc32c(out.get(start..).unwrap_or_default());
        out.extend_from_slice(&crc.to_le_bytes());
        digest.update(out.get(start..).unwrap_or_default());
        summary.digest = digest.value();
        out.extend_from_slice(&summary.digest);
        summary
    }
}
