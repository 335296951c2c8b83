//! What can be wrong with a delta log, and whose fault it is. `EncodeError` is always the caller's; `DecodeError` is
//! the sender's, the link's or the medium's, and names the byte.

use lifeboat_model::{DiskId, Position};

use crate::format::{MAX_DISK_SIZE, MAX_DISKS, MAX_EXTENTS, MAX_FRAME_DATA, VERSION};

/// A header that no log may have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// No disk, or too many.
    #[error("{0} disks: a delta log has 1 to {MAX_DISKS}")]
    DiskCount(usize),
    /// One disk listed twice.
    #[error("disk \"{0}\" is listed twice")]
    DiskTwice(DiskId),
    /// A size that no disk has.
    #[error("disk \"{id}\" has {size} bytes: a size is a multiple of 512, from 512 to {MAX_DISK_SIZE}")]
    DiskSize {
        /// Which disk.
        id: DiskId,
        /// Its size in bytes.
        size: u64,
    },
    /// A delta that does not lead forward.
    #[error("a delta from {parent} to {position} does not lead forward")]
    NotForward {
        /// The position that the receiver would have to hold.
        parent: Position,
        /// Where it would end.
        position: Position,
    },
}

/// A frame that this log may not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No such disk in the header.
    #[error("disk number {disk} does not exist: the header lists {disks}")]
    UnknownDisk {
        /// The index used.
        disk: u16,
        /// How many there are.
        disks: usize,
    },
    /// Offset or length is not made of whole sectors, or the length is zero.
    #[error("offset {offset} and length {len} must be multiples of 512, the length not zero")]
    Unaligned {
        /// Offset in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Beyond the end of the disk.
    #[error("{len} bytes at {offset} reach beyond the end of disk number {disk} ({size} bytes)")]
    BeyondDisk {
        /// Index of the disk.
        disk: u16,
        /// Offset in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// The disk's size in bytes.
        size: u64,
    },
    /// Part of it was written before; a log says each byte once.
    #[error(
        "{len} bytes at {offset} of disk number {disk} overlap an earlier frame: a log holds each byte once"
    )]
    Overlap {
        /// Index of the disk.
        disk: u16,
        /// Offset in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// The index is full.
    #[error(
        "more than {MAX_EXTENTS} separate extents: join neighbours by including the unchanged bytes between them"
    )]
    TooManyExtents,
    /// More content than one frame may hold.
    #[error("{0} bytes in one frame: at most {MAX_FRAME_DATA}")]
    TooLong(u64),
}

/// Why a log could not be written; nothing was appended to the output.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The header is not one a log can have.
    #[error("delta log header: {0}")]
    Header(#[from] HeaderError),
    /// The change is not one this log can hold.
    #[error("delta log frame: {0}")]
    Frame(#[from] FrameError),
}

/// The parts of a log, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Prefix and header.
    Header,
    /// The frames, or between two of them.
    Frames,
    /// The footer.
    Footer,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Frames => "frames",
            Self::Footer => "footer",
        })
    }
}

/// Why bytes are not a delta log. After any of these nothing that came before may be kept as a state of the VM.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The first bytes are something else.
    #[error("not a delta log: it does not start with LBDELTA")]
    NotALog,
    /// Written by another version of the format.
    #[error(
        "delta log version {found}: this Lifeboat reads version {VERSION}; bring both hosts to the same release"
    )]
    Version {
        /// The version it says.
        found: u32,
    },
    /// It does not say what a whole log says here.
    #[error("damaged delta log at byte {at}: {fault}; fetch it again")]
    Damaged {
        /// Where the damaged part starts, in bytes from the log's start.
        at: u64,
        /// What is wrong.
        fault: Fault,
    },
    /// It stops before its end.
    #[error("delta log ends at byte {at}, in its {part}: fetch the rest, or drop it")]
    Truncated {
        /// How many bytes there were.
        at: u64,
        /// What they ended in.
        part: Part,
    },
    /// Something follows the end.
    #[error("delta log is complete at byte {at}, but more bytes follow: they do not belong to it")]
    TrailingBytes {
        /// Where the log ended.
        at: u64,
    },
}

/// What is wrong with a damaged log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Header length that no version-1 header has.
    #[error("header length {0} is impossible")]
    HeaderLength(u32),
    /// The header's checksum is wrong.
    #[error("the header's checksum is wrong")]
    HeaderChecksum,
    /// A field of the header holds a value without meaning.
    #[error("header field \"{0}\" has a value without meaning")]
    HeaderField(&'static str),
    /// The header contradicts the rules.
    #[error("header: {0}")]
    Header(#[from] HeaderError),
    /// Neither a frame nor the footer.
    #[error("neither a frame nor the footer starts here")]
    UnknownRecord,
    /// A field of a frame holds a value without meaning.
    #[error("frame field \"{0}\" has a value without meaning")]
    FrameField(&'static str),
    /// The frame is not one this log may have.
    #[error("frame: {0}")]
    Frame(#[from] FrameError),
    /// The frame's checksum is wrong.
    #[error("the frame's checksum is wrong")]
    FrameChecksum,
    /// The payload does not decompress to what the frame says.
    #[error("the frame's content does not decompress to {0} bytes")]
    Compression(usize),
    /// The footer disagrees with the frames.
    #[error("the footer's {0} is not what the frames add up to")]
    FooterMismatch(&'static str),
    /// The footer's checksum is wrong.
    #[error("the footer's checksum is wrong")]
    FooterChecksum,
    /// The digest is wrong.
    #[error("the digest over the whole log is wrong")]
    Digest,
}
