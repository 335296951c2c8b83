//! Which bytes of a disk a layer of ours holds, and where in its file they are; and sets of byte ranges. Nothing is
//! read but the layer's own tables, a window at a time.

use camino::Utf8Path;
use imago::file::File;
use imago::{FormatAccess, ShallowMapping};
use lifeboat_engine::ports::store::{Ranges, StoreError};

use crate::chain::Image;
use crate::error::{Result, io_error};
use crate::layer;

/// A range that a layer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// First byte of the disk.
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// First byte in the file; none for zeros that need no place.
    pub(crate) host: Option<u64>,
}

/// The tables of a layer.
pub(crate) struct Map {
    image: FormatAccess<File>,
    path: camino::Utf8PathBuf,
}

impl Map {
    /// Opens a layer (an absolute path) of a disk of `size` bytes. Fails for layers that QEMU wrote with sub-clusters, and
    /// for one that claims another size: that number is the file's own, and one wrong bit of it makes a disk that is
    /// too large to go through to its end.
    pub(crate) fn open(path: &Utf8Path, size: u64) -> Result<Self> {
        let image = layer::open_image(&Image::layer(path), None, false)?;
        if image.size() != size {
            return Err(StoreError::Damaged {
                path: path.to_owned(),
                detail: format!("it claims a disk of {} bytes, not of {size}", image.size()),
            });
        }
        Ok(Self {
            image,
            path: path.to_owned(),
        })
    }

    /// Bytes of the disk.
    pub(crate) fn size(&self) -> u64 {
        self.image.size()
    }

    /// The whole disk, `step` bytes at a time, so that the tables of a large layer are never all in memory: first byte and
    /// end of each piece.
    pub(crate) fn windows(&self, step: u64) -> impl Iterator<Item = (u64, u64)> + use<> {
        let size = self.size();
        (0..size.div_ceil(step)).map(move |n| (n * step, ((n + 1) * step).min(size)))
    }

    /// What the layer itself holds of a range.
    pub(crate) fn pieces(&self, from: u64, to: u64) -> Result<Vec<Piece>> {
        let (mut offset, to) = (from, to.min(self.size()));
        let mut pieces = Vec::new();
        while offset < to {
            let mapping = self.image.get_shallow_mapping(offset, to - offset);
            let (mapping, len) = mapping.map_err(io_error("read", &self.path))?;
            if len == 0 {
                break;
            }
            let len = len.min(to - offset);
            #[expect(
                clippy::wildcard_enum_match_arm,
                reason = "imago's enum: everything else is held by the layer without a place in its file"
            )]
            let host = match mapping {
                ShallowMapping::Zero { explicit: false, .. } => None,
                ShallowMapping::Raw { offset: host, .. } => Some(Some(host)),
                _ => Some(None),
            };
            if let Some(host) = host {
                pieces.push(Piece { offset, len, host });
            }
            offset += len;
        }
        Ok(pieces)
    }

    /// These ranges without what the layer holds itself.
    pub(crate) fn uncovered(&self, ranges: &Ranges) -> Result<Ranges> {
        let mut left = ranges.clone();
        for &(offset, len) in ranges {
            let own = self.pieces(offset, offset.saturating_add(len))?;
            let own: Ranges = own.into_iter().map(|p| (p.offset, p.len)).collect();
            left = without(&left, &own);
        }
        Ok(left)
    }
}

/// The ranges of `a` without those of `b`; both ascending and not overlapping, as the result is.
pub(crate) fn without(a: &Ranges, b: &Ranges) -> Ranges {
    let mut left = Ranges::new();
    for &(offset, len) in a {
        let (mut at, end) = (offset, offset.saturating_add(len));
        let first = b.partition_point(|(o, l)| o.saturating_add(*l) <= at);
        for &(o, l) in b.iter().skip(first).take_while(|(o, _)| *o < end) {
            if o > at {
                left.push((at, o - at));
            }
            at = at.max(o.saturating_add(l));
        }
        if at < end {
            left.push((at, end - at));
        }
    }
    left
}

/// What is in both.
pub(crate) fn within(a: &Ranges, b: &Ranges) -> Ranges {
    without(a, &without(a, b))
}

/// These ranges sorted by offset, those that touch or overlap as one.
pub(crate) fn tidy(mut ranges: Ranges) -> Ranges {
    ranges.sort_unstable();
    let mut joined = Ranges::new();
    for (offset, len) in ranges {
        match joined.last_mut() {
            Some(last) if offset <= last.0 + last.1 => last.1 = (offset + len).max(last.0 + last.1) - last.0,
            Some(_) | None => joined.push((offset, len)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_and_crossed() {
        let a = vec![(0, 100), (200, 50)];
        assert_eq!(
            without(&a, &vec![(10, 5), (90, 120)]),
            [(0, 10), (15, 75), (210, 40)]
        );
        assert_eq!(without(&a, &vec![(0, 300)]), []);
        assert_eq!(without(&a, &vec![]), a);
        assert_eq!(within(&a, &vec![(50, 160)]), [(50, 50), (200, 10)]);
        assert_eq!(tidy(vec![(5, 5), (0, 5), (20, 1)]), [(0, 10), (20, 1)]);
    }
}
