//! Holding the applied content against another copy's digests, block by block. What was never written is not read: the
//! digest of zeros is known. What to do about a difference is the engine's matter.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lifeboat_engine::ports::store::{CompareRange, Ranges, StoreError};
use lifeboat_model::DiskId;

use crate::error::{Result, io_error};
use crate::export::{Export, MAX_READ};
use crate::map::{tidy, without};
use crate::replica::Replica;
use crate::spoiled;

/// Bytes of a digest.
const DIGEST: usize = 16;

/// Most bytes of one range.
const MAX_RANGE: u64 = 64 << 20;

/// Smallest and largest block.
const BLOCK: std::ops::RangeInclusive<u32> = 4096..=1 << 20;

/// Numbers of the blocks that differ, for each range.
pub(crate) fn compare(replica: &Replica, ranges: &[CompareRange]) -> Result<Vec<Vec<u32>>> {
    let (manifest, waiting) = {
        let state = replica.state.blocking_lock();
        let waiting = state.durable() != state.manifest.applied;
        (state.manifest.clone(), waiting)
    };
    manifest.not_promoted()?;
    if waiting || manifest.head.as_ref().is_some_and(|h| h.dirty) {
        return Err(StoreError::Busy(format!(
            "the head of VM {}: logs are still to be applied to it, and it",
            replica.vm
        )));
    }
    let mut open: HashMap<DiskId, Export> = HashMap::new();
    let mut found = Vec::new();
    let mut equal: HashMap<DiskId, Ranges> = HashMap::new();
    for range in ranges {
        let Some(disk) = manifest.disks.get(usize::from(range.disk)) else {
            return bad(format!("disk {}: there are {}", range.disk, manifest.disks.len()));
        };
        let digests = digests(range)?;
        let export = match open.entry(disk.id.clone()) {
            std::collections::hash_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                let chain = replica.absolute(&manifest.head_chain(&disk.id));
                place.insert(Export::open(&replica.dir, &chain)?)
            }
        };
        let differing = differing(export, range, &digests);
        let differing = differing.map_err(io_error("compare", &replica.dir))?;
        if replica.is_damaged() {
            let same = equal.entry(disk.id.clone()).or_default();
            same.extend(same_blocks(range, &differing));
        }
        found.push(differing);
    }
    for (disk, ranges) in equal {
        spoiled::equal(replica, &manifest, &disk, &tidy(ranges))?;
    }
    Ok(found)
}

/// What of a range is equal.
fn same_blocks(range: &CompareRange, differing: &[u32]) -> Ranges {
    let block = u64::from(range.block);
    let end = range.offset + range.len;
    let wrong = differing.iter().map(|n| {
        let from = range.offset + u64::from(*n) * block;
        (from, block.min(end.saturating_sub(from)))
    });
    without(&vec![(range.offset, range.len)], &wrong.collect())
}

fn bad<T>(why: String) -> Result<T> {
    Err(StoreError::Conflict(format!("compare: {why}")))
}

/// Checks a range and unpacks its digests.
fn digests(range: &CompareRange) -> Result<Vec<u8>> {
    if !BLOCK.contains(&range.block) {
        return bad(format!(
            "block: {} bytes; 4096 to 1048576 are possible",
            range.block
        ));
    }
    if range.len == 0 || range.len > MAX_RANGE {
        return bad(format!("len: {} bytes; 1 to {MAX_RANGE} are possible", range.len));
    }
    if !range.offset.is_multiple_of(u64::from(range.block)) {
        return bad(format!(
            "offset: {} is no multiple of the block size",
            range.offset
        ));
    }
    if range
        .offset
        .checked_add(range.len)
        .is_none_or(|end| end > lifeboat_deltalog::MAX_DISK_SIZE)
    {
        return bad(format!("offset: {} is beyond any disk", range.offset));
    }
    let blocks = range.len.div_ceil(u64::from(range.block));
    let expected = usize::try_from(blocks)
        .unwrap_or(usize::MAX)
        .saturating_mul(DIGEST);
    // Four characters for three bytes; looked at before anything is unpacked.
    if range.digests.len() != expected.div_ceil(3) * 4 {
        return bad(format!("digests: not those of {blocks} blocks"));
    }
    match STANDARD.decode(&range.digests) {
        Ok(digests) if digests.len() == expected => Ok(digests),
        Ok(_) | Err(_) => bad(format!("digests: not those of {blocks} blocks in base64")),
    }
}

/// Reads no more than [`MAX_READ`] bytes at once, and nothing that is known to be zeros.
fn differing(export: &mut Export, range: &CompareRange, digests: &[u8]) -> std::io::Result<Vec<u32>> {
    let block = u64::from(range.block);
    let end = range.offset + range.len;
    let zeros = Zeros::new(range);
    let data = allocated(export, range.offset, end)?;
    let mut buffer = Vec::new();
    let mut have = range.offset..range.offset;
    let mut differing = Vec::new();
    for (number, digest) in (0_u32..).zip(digests.chunks(DIGEST)) {
        let from = range.offset + u64::from(number) * block;
        let to = (from + block).min(end);
        let next = data.partition_point(|d| d.1 <= from);
        let holds = data.get(next).is_some_and(|d| d.0 < to);
        let same = if holds {
            if !(have.start <= from && to <= have.end) {
                // As many whole blocks as fit, but no further than the data goes.
                let most = from + u64::from(MAX_READ) / block * block;
                let upto = data.get(next).map_or(to, |d| d.1).next_multiple_of(block).max(to);
                have = from..upto.min(most).min(end);
                buffer = content(export, have.clone())?;
            }
            let start = usize::try_from(from - have.start).unwrap_or(usize::MAX);
            let len = usize::try_from(to - from).unwrap_or_default();
            let bytes = buffer.get(start..start + len).unwrap_or_default();
            blake3::hash(bytes).as_bytes().get(..DIGEST) == Some(digest)
        } else {
            zeros.digest(to - from) == digest
        };
        if !same {
            differing.push(number);
        }
    }
    Ok(differing)
}

/// Reads a range; what lies beyond the end of the disk is zeros, as it will be once the disk has grown.
fn content(export: &mut Export, range: std::ops::Range<u64>) -> std::io::Result<Vec<u8>> {
    let len = |n: u64| usize::try_from(n).unwrap_or_default();
    let there = export.size().clamp(range.start, range.end) - range.start;
    let mut content = match there {
        0 => Vec::new(),
        there => export.read(range.start, len(there))?,
    };
    content.resize(len(range.end - range.start), 0);
    Ok(content)
}

/// Ranges (start, end) that hold data.
fn allocated(export: &mut Export, from: u64, to: u64) -> std::io::Result<Vec<(u64, u64)>> {
    let mut data: Vec<(u64, u64)> = Vec::new();
    let mut at = from;
    for (len, zero) in export.allocated(from, to)? {
        if !zero {
            match data.last_mut() {
                Some(last) if last.1 == at => last.1 += len,
                Some(_) | None => data.push((at, at + len)),
            }
        }
        at += len;
    }
    Ok(data)
}

/// Digests of blocks of zeros: of a whole one, and of what is left at the end of the range.
struct Zeros {
    block: u64,
    whole: [u8; DIGEST],
    last: [u8; DIGEST],
}

impl Zeros {
    fn new(range: &CompareRange) -> Self {
        let block = u64::from(range.block);
        let digest = |len: u64| {
            let zeros = vec![0; usize::try_from(len).unwrap_or_default()];
            let hash = blake3::hash(&zeros);
            hash.as_bytes().first_chunk().copied().unwrap_or_default()
        };
        Self {
            block,
            whole: digest(block),
            last: digest(range.len % block),
        }
    }

    fn digest(&self, len: u64) -> [u8; DIGEST] {
        if len == self.block { self.whole } else { self.last }
    }
}
