//! Reading a log's extent index from its end, without its frames. For who has the whole log already proved and kept: the
//! footer's checksum says that the index is undamaged, not that the log is.

use crate::error::Fault;
use crate::format::{
    CRC_LEN, FOOTER_EXTENT, FOOTER_FIXED, FOOTER_MAGIC, FOOTER_TAIL, Fields, MAX_DISKS, MAX_EXTENTS,
};

/// Bytes at the end of every log that say how long its footer is.
pub const LOG_TAIL: usize = FOOTER_TAIL;

/// Length in bytes of the footer of a log whose last bytes are `tail`. `None`: no log ends like this.
#[must_use]
pub fn footer_len(tail: &[u8; LOG_TAIL]) -> Option<u64> {
    let len = Fields(tail).u64()?;
    let most = FOOTER_FIXED + 4 * MAX_DISKS + FOOTER_EXTENT * MAX_EXTENTS + FOOTER_TAIL;
    let least = FOOTER_FIXED + 4 + FOOTER_TAIL;
    (least as u64..=most as u64).contains(&len).then_some(len)
}

/// The extents that a footer lists for a log of `disks` disks: per disk (offset, length) in bytes, ascending.
///
/// # Errors
/// It is no footer, or damaged.
pub fn read_index(footer: &[u8], disks: usize) -> Result<Vec<Vec<(u64, u64)>>, Fault> {
    let summed = footer
        .len()
        .checked_sub(FOOTER_TAIL - 8)
        .ok_or(Fault::FooterChecksum)?;
    let (body, end) = footer.split_at(summed);
    let crc = end.first_chunk::<CRC_LEN>().copied().map(u32::from_le_bytes);
    if crc != Some(crc32c::crc32c(body)) {
        return Err(Fault::FooterChecksum);
    }
    let wrong = || Fault::FooterMismatch("extent count");
    if footer.get(..FOOTER_MAGIC.len()) != Some(FOOTER_MAGIC.as_slice()) {
        return Err(Fault::UnknownRecord);
    }
    let mut counts = Fields(footer.get(FOOTER_FIXED..).unwrap_or_default());
    let counts: Vec<u32> = (0..disks).map_while(|_| counts.u32()).collect();
    let all: u64 = counts.iter().map(|&n| u64::from(n)).sum();
    let head = FOOTER_FIXED + 4 * disks;
    let len = all * FOOTER_EXTENT as u64 + (head + FOOTER_TAIL) as u64;
    if counts.len() != disks || len != footer.len() as u64 {
        return Err(wrong());
    }
    let mut fields = Fields(footer.get(head..).unwrap_or_default());
    let mut read = |count: u32| -> Option<Vec<(u64, u64)>> {
        let mut extents = Vec::with_capacity(usize::try_from(count).ok()?);
        for _ in 0..count {
            extents.push((fields.u64()?, fields.u64()?));
        }
        Some(extents)
    };
    counts.into_iter().map(|n| read(n).ok_or_else(wrong)).collect()
}
