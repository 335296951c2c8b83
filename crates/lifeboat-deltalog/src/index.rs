//! Which bytes of which disk a log has spoken of. Both ends keep one: the encoder writes it into the footer, the
//! decoder holds the footer against it. Touching extents are merged as they come, so its size follows the number of gaps.

use std::collections::BTreeMap;

use crate::error::FrameError;
use crate::format::{MAX_EXTENTS, SECTOR};
use crate::{LogDisk, Summary};

/// The extents of all disks, and the totals.
pub(crate) struct Index {
    disks: Vec<DiskIndex>,
    extents: usize,
    data_bytes: u64,
    zero_bytes: u64,
    frames: u64,
}

struct DiskIndex {
    size: u64,
    /// Start to end (exclusive). A tree because frames may come in any order, and a sorted vector would cost
    /// quadratic time for a sender that means harm.
    spans: BTreeMap<u64, u64>,
}

impl Index {
    pub(crate) fn new(disks: &[LogDisk]) -> Self {
        let disks = disks.iter().map(|d| DiskIndex {
            size: d.size,
            spans: BTreeMap::new(),
        });
        Self {
            disks: disks.collect(),
            extents: 0,
            data_bytes: 0,
            zero_bytes: 0,
            frames: 0,
        }
    }

    /// Whether the range is one that a frame may have, seen alone. Returns its end.
    pub(crate) fn check(&self, disk: u16, offset: u64, len: u64) -> Result<u64, FrameError> {
        let Some(d) = self.disks.get(usize::from(disk)) else {
            return Err(FrameError::UnknownDisk {
                disk,
                disks: self.disks.len(),
            });
        };
        if len == 0 || !len.is_multiple_of(SECTOR) || !offset.is_multiple_of(SECTOR) {
            return Err(FrameError::Unaligned { offset, len });
        }
        match offset.checked_add(len) {
            Some(end) if end <= d.size => Ok(end),
            _ => Err(FrameError::BeyondDisk {
                disk,
                offset,
                len,
                size: d.size,
            }),
        }
    }

    /// Checks the range, also against all earlier ones, and adds it. Changes nothing on error.
    pub(crate) fn insert(&mut self, disk: u16, offset: u64, len: u64) -> Result<(), FrameError> {
        let end = self.check(disk, offset, len)?;
        let disks = self.disks.len();
        let Some(d) = self.disks.get_mut(usize::from(disk)) else {
            return Err(FrameError::UnknownDisk { disk, disks });
        };
        let before = d.spans.range(..=offset).next_back().map(|(&s, &e)| (s, e));
        let after = d.spans.range(offset..).next().map(|(&s, &e)| (s, e));
        if before.is_some_and(|(_, e)| e > offset) || after.is_some_and(|(s, _)| s < end) {
            return Err(FrameError::Overlap { disk, offset, len });
        }
        let start = before.filter(|&(_, e)| e == offset).map(|(s, _)| s);
        let next = after.filter(|&(s, _)| s == end);
        if start.is_none() && next.is_none() {
            if self.extents >= MAX_EXTENTS {
                return Err(FrameError::TooManyExtents);
            }
            self.extents += 1;
        }
        if let Some((s, _)) = next {
            d.spans.remove(&s);
            self.extents -= usize::from(start.is_some());
        }
        d.spans
            .insert(start.unwrap_or(offset), next.map_or(end, |(_, e)| e));
        Ok(())
    }

    /// Counts a frame of `len` disk bytes.
    pub(crate) fn count(&mut self, len: u64, zero: bool) {
        self.frames += 1;
        if zero {
            self.zero_bytes += len;
        } else {
            self.data_bytes += len;
        }
    }

    /// The index as the footer lists it, digest still empty.
    pub(crate) fn into_summary(self) -> Summary {
        let list = |d: DiskIndex| d.spans.into_iter().map(|(s, e)| (s, e - s)).collect();
        Summary {
            extents: self.disks.into_iter().map(list).collect(),
            data_bytes: self.data_bytes,
            zero_bytes: self.zero_bytes,
            frames: self.frames,
            digest: [0; 32],
        }
    }
}

#[cfg(test)]
mod tests {
    use lifeboat_model::DiskId;

    use super::*;

    fn index() -> Index {
        Index::new(&[LogDisk {
            id: DiskId::new("a").unwrap(),
            size: 1 << 20,
        }])
    }

    #[test]
    fn touching_ranges_merge_from_either_side_and_across() {
        let mut i = index();
        for sector in [4_u64, 0, 2, 5, 1, 3] {
            i.insert(0, sector * 512, 512).unwrap();
        }
        assert_eq!(i.extents, 1);
        assert_eq!(i.into_summary().extents, [[(0, 6 * 512)]]);
    }

    #[test]
    fn every_kind_of_overlap_is_refused_and_changes_nothing() {
        let mut i = index();
        i.insert(0, 2048, 2048).unwrap();
        for (offset, len) in [
            (2048, 2048),
            (1536, 1024),
            (3584, 1024),
            (2560, 512),
            (1024, 8192),
            (2048, 512),
        ] {
            assert_eq!(
                i.insert(0, offset, len),
                Err(FrameError::Overlap { disk: 0, offset, len })
            );
        }
        assert_eq!(
            (i.extents, i.into_summary().extents),
            (1, vec![vec![(2048, 2048)]])
        );
    }
}
