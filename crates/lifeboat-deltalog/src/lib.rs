//! The delta log: the extents of a VM's disks that changed since an instant, as one self-describing, checksummed
//! stream. The same bytes travel between hosts, wait in the spool and lie in the replica's log directory.
//!
//! [`Encoder`] writes one, [`Decoder`] reads one as bytes arrive, [`Verifier`] only says whether one is whole. The format is
//! specified to the byte in `docs/deltalog.md`; this crate follows that page, not the other way round.
//!
//! Pure: no file, socket, clock or runtime. Where bytes come from, where they go and when they are durable is the
//! caller's business. [`read_index`]
//! takes the list of extents from a finished log's end. What is deliberately absent: seeking, appending to a finished log, and repairing a damaged one.
//! A log without a valid footer does not exist, so its frames may be staged but never kept as a state of the VM.
// To move into [workspace.lints] when all crates hold it.
#![warn(clippy::match_bool, clippy::option_option, clippy::struct_excessive_bools)]
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

mod decode;
mod digest;
mod encode;
mod error;
mod footer;
mod format;
mod frame;
mod header;
mod index;
mod verify;

pub use decode::Decoder;
pub use encode::Encoder;
pub use error::{DecodeError, EncodeError, Fault, FrameError, HeaderError, Part};
pub use footer::{LOG_TAIL, footer_len, read_index};
pub use format::{MAGIC, MAX_DISK_SIZE, MAX_DISKS, MAX_EXTENTS, MAX_FRAME_DATA, SECTOR, VERSION};
pub use frame::{EncodedFrame, FrameEncoder};
pub use header::{Consistency, Header, LogDisk, LogKind};
pub use verify::{Verifier, verify};

/// What [`Decoder::next`] found. A valid log is one header, any number of frames, one end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// The header; always the first item.
    Header(Header),
    /// A change. Its own checksum is right and it lies within its disk; the log as a whole is not proved until `End`.
    Frame(Frame),
    /// The footer was valid: everything before it is complete and as it was written.
    End(Summary),
}

/// One change to one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Index into [`Header::disks`].
    pub disk: u16,
    /// Where on the disk, in bytes; a multiple of 512.
    pub offset: u64,
    /// What is there now.
    pub body: FrameBody,
}

/// The new content of an extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameBody {
    /// These bytes: 512 to [`MAX_FRAME_DATA`], a multiple of 512.
    Data(Vec<u8>),
    /// This many zero bytes, a multiple of 512; no limit but the disk's size.
    Zero(u64),
}

/// What a whole log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Per disk, in the header's order: (offset, length) in bytes, ascending, touching extents merged, data and zeros alike.
    pub extents: Vec<Vec<(u64, u64)>>,
    /// Disk bytes in data frames, before compression.
    pub data_bytes: u64,
    /// Disk bytes in zero frames.
    pub zero_bytes: u64,
    /// Number of frames.
    pub frames: u64,
    /// BLAKE3 of every byte of the log before the digest itself.
    pub digest: [u8; 32],
}
