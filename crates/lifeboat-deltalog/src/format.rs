//! The numbers of `docs/deltalog.md` and the two smallest tools to read and write little-endian fields. No rules here.

/// First eight bytes of every version.
pub const MAGIC: [u8; 8] = *b"LBDELTA\0";
/// The version this crate writes and the only one it reads.
pub const VERSION: u32 = 1;
/// Everything is addressed in multiples of this many bytes.
pub const SECTOR: u64 = 512;
/// Most disks in one log.
pub const MAX_DISKS: usize = 64;
/// Largest disk in bytes (64 PiB). Keeps every sum over a log within 64 bits.
pub const MAX_DISK_SIZE: u64 = 1 << 56;
/// Most bytes of disk content in one data frame.
pub const MAX_FRAME_DATA: usize = 1 << 20;
/// Most extents in the index, over all disks. Bounds a reader's memory to about 200 MiB in the worst case; an ordinary log has thousands.
pub const MAX_EXTENTS: usize = 1 << 22;

/// Magic, version, header length: never changes.
pub(crate) const PREFIX_LEN: usize = 16;
/// Prefix and header without disks and checksum.
pub(crate) const HEADER_FIXED: usize = 96;
/// One disk in the header.
pub(crate) const HEADER_DISK: usize = 24;
/// A CRC-32C.
pub(crate) const CRC_LEN: usize = 4;

/// First four bytes of a frame.
pub(crate) const FRAME_TAG: [u8; 4] = *b"LBFR";
/// A frame without its payload.
pub(crate) const FRAME_HEAD: usize = 32;
/// The part of it that comes before its checksum.
pub(crate) const FRAME_SUMMED: usize = 28;
pub(crate) const KIND_DATA: u8 = 1;
pub(crate) const KIND_ZERO: u8 = 2;
pub(crate) const CODEC_RAW: u8 = 0;
pub(crate) const CODEC_ZSTD: u8 = 1;

/// First eight bytes of the footer.
pub(crate) const FOOTER_MAGIC: [u8; 8] = *b"LBFOOTER";
/// Footer before the per-disk counts.
pub(crate) const FOOTER_FIXED: usize = 32;
/// One extent in the footer.
pub(crate) const FOOTER_EXTENT: usize = 16;
/// Footer length, checksum, digest.
pub(crate) const FOOTER_TAIL: usize = 44;

/// Takes fields off the front of a slice; `None` when it is too short.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl Fields<'_> {
    pub(crate) fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.bytes::<1>().map(|[b]| b)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.bytes().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_le_bytes)
    }
}
