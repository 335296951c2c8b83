//! Repairing damaged blocks. Right bytes come from the logs kept here, from another copy, or from trying every bit; the
//! recorded digest alone says whether they are right, so that it does not matter where they come from or how old they
//! are. What is written is made durable and read back from the disk.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::{FrameBody, Item};
use lifeboat_engine::ports::scrub::{OfferedRange, RepairSource, Repaired, WantedRange};
use lifeboat_engine::ports::store::StoreError;
use lifeboat_model::DiskId;

use crate::damage::{Bad, Sealed, sealed};
use crate::digest::{Blocks, Digest, PER_PAGE, Sidecar, UNKNOWN, digest};
use crate::divergence::extents;
use crate::error::{Result, io_error};
use crate::logs::{self, Entry};
use crate::map::within;
use crate::qemu_img::Cancel;
use crate::replica::Replica;
use crate::scrub::uncache;
use crate::shown::places;

/// Bytes that are replaced together: what a synchronization and a guest's file system write at least.
const PIECE: usize = 4 << 10;

/// Most ranges that are asked of another copy at once: 4 MiB.
const MAX_WANTED: usize = 64;

/// A damaged block that could be repaired.
struct Broken {
    item: Sealed,
    bad: Bad,
    recorded: Digest,
    /// As it is; unreadable bytes are zeros.
    now: Vec<u8>,
    /// First byte in the block, first byte of the disk, length.
    places: Vec<(u64, u64, u64)>,
}

/// Tries to repair what is damaged from one source.
pub(crate) fn repair(replica: &Replica, source: &RepairSource, cancel: &Cancel) -> Result<Repaired> {
    replica.manifest().not_promoted()?;
    let broken = broken(replica)?;
    let mut mended = Vec::new();
    match source {
        RepairSource::Logs => mended.extend(from_logs(replica, &broken, cancel)?),
        RepairSource::Copy(offered) => {
            for b in &broken {
                if let Some(right) = variant(b, |place| from_offer(offered, &b.item.disk, place)) {
                    mended.push((b, right));
                }
            }
        }
        RepairSource::OneBit => {
            if let Some(b) = broken.iter().find(|b| !b.bad.hopeless && !b.bad.searched) {
                match one_bit(&b.now, b.recorded, || cancel.check())? {
                    Some(right) => mended.push((b, right)),
                    None => searched(replica, &b.bad)?,
                }
            }
        }
        RepairSource::None => give_up(replica, |_| true)?,
    }
    let mut files = Vec::new();
    let mut blocks = 0;
    for (b, right) in mended {
        write(replica, b, &right)?;
        blocks += 1;
        if !replica.bads().iter().any(|bad| bad.file == b.bad.file) {
            files.push(replica.dir.join(&b.bad.file));
        }
    }
    let bads = replica.bads();
    let same = |b: &Bad, of: &Bad| b.file == of.file && b.block == of.block;
    let hopeful = |b: &&Broken| bads.iter().any(|bad| same(bad, &b.bad) && !bad.hopeless);
    let left: Vec<&Broken> = broken.iter().filter(hopeful).collect();
    let pending = bads.iter().filter(|b| !b.hopeless);
    Ok(Repaired {
        blocks,
        files,
        wanted: wanted(&left),
        left: pending.clone().count() as u64,
        untried: pending
            .filter(|b| !b.searched && left.iter().any(|l| same(b, &l.bad)))
            .count() as u64,
    })
}

fn searched(replica: &Replica, which: &Bad) -> Result<()> {
    replica.change_bads(|all| {
        for bad in all.iter_mut().filter(|b| *b == which) {
            bad.searched = true;
        }
    })
}

fn give_up(replica: &Replica, which: impl Fn(&Bad) -> bool) -> Result<()> {
    replica.change_bads(|all| {
        for bad in all.iter_mut().filter(|b| which(b)) {
            bad.hopeless = true;
        }
    })
}

/// The damaged blocks of which a digest is recorded.
fn broken(replica: &Replica) -> Result<Vec<Broken>> {
    let all = sealed(&replica.manifest());
    let mut broken = Vec::new();
    for item in all {
        let bads: Vec<Bad> = replica
            .bads()
            .into_iter()
            .filter(|b| b.file == item.image.file)
            .collect();
        let numbers: Vec<u64> = bads.iter().map(|b| b.block).collect();
        if bads.is_empty() {
            continue;
        }
        let Ok(mut blocks) = Blocks::open(&replica.dir.join(&item.image.file), item.block()) else {
            continue;
        };
        let sidecar = Sidecar::of(&replica.dir, &item.image)?;
        for (bad, places) in bads.into_iter().zip(places(&replica.dir, &item, &numbers)) {
            let recorded = sidecar.page(bad.block / PER_PAGE)?.get(bad.block);
            if recorded == UNKNOWN {
                continue;
            }
            let size = item.block();
            let len = blocks.len.saturating_sub(bad.block * size).min(size);
            let zeros = vec![0; usize::try_from(len).unwrap_or_default()];
            let now = blocks.bytes(bad.block).map_or(zeros, <[u8]>::to_vec);
            broken.push(Broken {
                item: item.clone(),
                bad,
                recorded,
                now,
                places: places.data,
            });
        }
    }
    Ok(broken)
}

fn wanted(broken: &[&Broken]) -> Vec<WantedRange> {
    let ranges = broken.iter().flat_map(|b| {
        b.places.iter().map(|(_, offset, len)| WantedRange {
            disk: b.item.disk.clone(),
            offset: *offset,
            len: u32::try_from(*len).unwrap_or_default(),
        })
    });
    ranges.take(MAX_WANTED).collect()
}

/// The variant of a block that has the recorded digest, if the source has what is missing. Only a part of the block may
/// be damaged, and of the rest the source may have something newer: every run of pieces is tried.
fn variant(b: &Broken, fill: impl Fn((u64, &mut [u8]))) -> Option<Vec<u8>> {
    let mut other = b.now.clone();
    for &(from, offset, len) in &b.places {
        let (from, len) = (usize::try_from(from).ok()?, usize::try_from(len).ok()?);
        let end = (from + len).min(other.len());
        if let Some(place) = other.get_mut(from..end) {
            fill((offset, place));
        }
    }
    runs(&b.now, &other, b.recorded)
}

fn runs(now: &[u8], other: &[u8], wanted: Digest) -> Option<Vec<u8>> {
    let pieces = now.len().div_ceil(PIECE);
    for first in 0..pieces {
        let from = first * PIECE;
        let mut tried = now.to_vec();
        for last in first..pieces {
            let (a, b) = (last * PIECE, ((last + 1) * PIECE).min(now.len()));
            if now.get(a..b) == other.get(a..b) {
                if last == first {
                    // A run that begins with what is here anyway was tried, or will be.
                    break;
                }
                continue;
            }
            tried.get_mut(a..b)?.copy_from_slice(other.get(a..b)?);
            if digest(&tried) == wanted {
                tracing::debug!(from, to = b, "the recorded digest is met");
                return Some(tried);
            }
        }
    }
    None
}

fn from_offer(offered: &[OfferedRange], disk: &DiskId, (offset, place): (u64, &mut [u8])) {
    for range in offered.iter().filter(|r| r.disk == *disk) {
        overlay(place, offset, range.offset, &range.data);
    }
}

/// Puts what `data` (at `from`) has of a place (at `at`) into it.
fn overlay(place: &mut [u8], at: u64, from: u64, data: &[u8]) {
    let start = from.max(at);
    let end = (from + data.len() as u64).min(at + place.len() as u64);
    let index = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    if start < end
        && let (Some(to), Some(data)) = (
            place.get_mut(index(start - at)..index(end - at)),
            data.get(index(start - from)..index(end - from)),
        )
    {
        to.copy_from_slice(data);
    }
}

/// What the kept logs wrote, log by log: a block is as one of them left it.
fn from_logs<'b>(
    replica: &Replica,
    broken: &'b [Broken],
    cancel: &Cancel,
) -> Result<Vec<(&'b Broken, Vec<u8>)>> {
    let entries = replica.state.blocking_lock().logs.entries.clone();
    let mut mended: Vec<(&Broken, Vec<u8>)> = Vec::new();
    // What all logs up to here made of the blocks, beginning with what is there.
    let mut made: Vec<Vec<u8>> = broken.iter().map(|b| b.now.clone()).collect();
    if broken.is_empty() {
        return Ok(mended);
    }
    for entry in &entries {
        let path = replica.dir.join(logs::DIR).join(&entry.file);
        if !touches(&path, entry, broken) {
            continue;
        }
        let mut disks: Vec<DiskId> = Vec::new();
        let read = logs::read(&path, |item| {
            cancel.check()?;
            match item {
                Item::Header(header) => disks = header.disks.into_iter().map(|d| d.id).collect(),
                Item::Frame(frame) => {
                    let disk = disks.get(usize::from(frame.disk));
                    for (b, made) in broken
                        .iter()
                        .zip(&mut made)
                        .filter(|(b, _)| Some(&b.item.disk) == disk)
                    {
                        for &(from, offset, len) in &b.places {
                            let from = usize::try_from(from).unwrap_or(usize::MAX);
                            let end = from.saturating_add(usize::try_from(len).unwrap_or_default());
                            let end = end.min(made.len());
                            let Some(place) = made.get_mut(from..end) else {
                                continue;
                            };
                            match &frame.body {
                                FrameBody::Data(data) => overlay(place, offset, frame.offset, data),
                                FrameBody::Zero(len) => clear(place, offset, frame.offset, *len),
                            }
                        }
                    }
                }
                Item::End(_) => {}
            }
            Ok(())
        });
        if let Err(StoreError::Damaged { detail, .. }) = &read {
            tracing::warn!(%path, detail, "a log cannot be used to repair from");
            continue;
        }
        read?;
        for (b, made) in broken.iter().zip(&made) {
            let there = mended.iter().any(|(m, _)| std::ptr::eq(*m, b));
            if !there && let Some(right) = runs(&b.now, made, b.recorded) {
                mended.push((b, right));
            }
        }
    }
    Ok(mended)
}

/// Whether a log says in its index that it writes to one of the blocks.
fn touches(path: &Utf8Path, entry: &Entry, broken: &[Broken]) -> bool {
    let Ok(extents) = extents(path, entry) else {
        return true;
    };
    entry.disks.iter().zip(extents).any(|(disk, ranges)| {
        let of_disk = broken.iter().filter(|b| b.item.disk == disk.id);
        let mut places = of_disk.flat_map(|b| &b.places);
        places.any(|(_, offset, len)| !within(&vec![(*offset, *len)], &ranges).is_empty())
    })
}

fn clear(place: &mut [u8], at: u64, from: u64, len: u64) {
    let start = from.max(at) - at;
    let end = (from + len).min(at + place.len() as u64);
    let end = end.saturating_sub(at);
    let index = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    if start < end
        && let Some(place) = place.get_mut(index(start)..index(end))
    {
        place.fill(0);
    }
}

/// The block with one bit changed that has the wanted digest. Only the hash of one chunk and the way from it to the root
/// are computed for each bit: half a million variants take a second or two.
fn one_bit(block: &[u8], wanted: Digest, go_on: impl Fn() -> Result<()>) -> Result<Option<Vec<u8>>> {
    let chunks: Vec<&[u8]> = block.chunks(blake3::CHUNK_LEN).collect();
    if !chunks.len().is_power_of_two() || chunks.len() < 2 {
        return Ok(one_bit_slowly(block, wanted));
    }
    // Levels of the tree, leaves first.
    let leaves = (0..).zip(&chunks).map(|(n, c)| leaf(n, c));
    let mut levels: Vec<Vec<ChainingValue>> = vec![leaves.collect()];
    while let Some(level) = levels.last().filter(|l| l.len() > 2) {
        let next = level.chunks(2).filter_map(|pair| match pair {
            [a, b] => Some(merge_subtrees_non_root(a, b, Mode::Hash)),
            _ => None,
        });
        let next: Vec<ChainingValue> = next.collect();
        levels.push(next);
    }
    for (n, chunk) in chunks.iter().enumerate() {
        go_on()?;
        let mut tried = chunk.to_vec();
        for bit in 0..chunk.len() * 8 {
            flip(&mut tried, bit);
            if root(&levels, n, leaf(n as u64, &tried)) == Some(wanted) {
                let mut right = block.to_vec();
                flip(&mut right, n * blake3::CHUNK_LEN * 8 + bit);
                return Ok((digest(&right) == wanted).then_some(right));
            }
            flip(&mut tried, bit);
        }
    }
    Ok(None)
}

/// As [`one_bit`], for blocks at the end of a file, whose tree has another shape. Bounded by their size.
fn one_bit_slowly(block: &[u8], wanted: Digest) -> Option<Vec<u8>> {
    const MAX: usize = 16 << 10;
    if block.len() > MAX {
        return None;
    }
    let mut tried = block.to_vec();
    for bit in 0..block.len() * 8 {
        flip(&mut tried, bit);
        if digest(&tried) == wanted {
            return Some(tried);
        }
        flip(&mut tried, bit);
    }
    None
}

fn flip(bytes: &mut [u8], bit: usize) {
    if let Some(byte) = bytes.get_mut(bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
}

fn leaf(number: u64, chunk: &[u8]) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(number * blake3::CHUNK_LEN as u64);
    hasher.update(chunk);
    hasher.finalize_non_root()
}

/// The digest of the block when this chunk has this value.
fn root(levels: &[Vec<ChainingValue>], chunk: usize, value: ChainingValue) -> Option<Digest> {
    let (mut at, mut value) = (chunk, value);
    for (n, level) in levels.iter().enumerate() {
        let sibling = level.get(at ^ 1)?;
        let (left, right) = if at % 2 == 0 {
            (&value, sibling)
        } else {
            (sibling, &value)
        };
        if n + 1 == levels.len() {
            let root = merge_subtrees_root(left, right, Mode::Hash);
            return root.as_bytes().first_chunk().copied();
        }
        value = merge_subtrees_non_root(left, right, Mode::Hash);
        at /= 2;
    }
    None
}

/// Writes a block that has its digest, reads it back, and forgets the damage.
fn write(replica: &Replica, b: &Broken, right: &[u8]) -> Result<()> {
    let path: Utf8PathBuf = replica.dir.join(&b.item.image.file);
    let failed = |detail: &str| StoreError::Damaged {
        path: path.clone(),
        detail: detail.to_owned(),
    };
    if digest(right) != b.recorded {
        return Err(failed("what was found for a damaged block is not right"));
    }
    replica.step("before a block is repaired")?;
    let file = OpenOptions::new().read(true).write(true).open(&path);
    let file = file.map_err(io_error("open", &path))?;
    file.write_all_at(right, b.bad.block * b.item.block())
        .map_err(io_error("write", &path))?;
    file.sync_data().map_err(io_error("sync", &path))?;
    uncache(&file, b.bad.block / PER_PAGE, b.item.block());
    let mut blocks = Blocks::open(&path, b.item.block())?;
    if !blocks.look(b.bad.block).is(b.recorded) {
        return Err(failed(
            "a repaired block reads as something else: the disk is failing",
        ));
    }
    replica.change_bads(|all| all.retain(|bad| *bad != b.bad))?;
    replica.step("after a block is repaired")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_bit_is_found_by_its_digest() {
        for len in [64 << 10, 8 << 10, 5000, 700] {
            let right: Vec<u8> = (0..len).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect();
            let mut wrong = right.clone();
            wrong[len / 2] ^= 4;
            let found = one_bit(&wrong, digest(&right), || Ok(())).unwrap();
            assert_eq!(found.as_deref(), Some(right.as_slice()), "{len}");
            wrong[len / 3] ^= 1;
            let found = one_bit(&wrong, digest(&right), || Ok(())).unwrap();
            assert_eq!(found, None, "two bits of {len}");
        }
    }

    #[test]
    fn a_part_of_a_block_is_replaced_where_the_source_is_newer_elsewhere() {
        let right = vec![7_u8; 64 << 10];
        let (mut now, mut other) = (right.clone(), right.clone());
        now[20_000] = 0;
        other[60_000] = 9;
        assert_eq!(runs(&now, &other, digest(&right)), Some(right.clone()));
        other[20_000] = 1;
        assert_eq!(runs(&now, &other, digest(&right)), None);
    }
}
