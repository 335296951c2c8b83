//! Work of a synchronization: finding where two copies differ, from what is known or by digests, and sending that as logs
//! of its own kind. Plain functions over the ports; the actor decides when they run. Any of these futures may be dropped.

use crate::host::tools::Tools;
use crate::port::ByteStream;
use crate::port::capture::{BlockView, CaptureSource, Extent, Tracking};
use crate::port::link::{DigestRange, LinkError, LogAddress, PeerReply, PeerRequest, ReplicaStatus};
use crate::port::store::{Divergence, Ranges};
use crate::record::{SyncKind, Synchronization};
use crate::source::copy;
use crate::source::copy::IN_FLIGHT;
use crate::source::copy::ROOM;
use crate::source::copy::Route;
use crate::work::failure::CopyError;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::{StreamExt, future, stream};
use lifeboat_deltalog::{Consistency, Encoder, Header, LogDisk, LogKind};
use lifeboat_model::{DiskId, Position};
use std::collections::BTreeMap;
use tokio::sync::mpsc;

/// Bytes of one comparison.
const WINDOW: u64 = 256 << 20;

/// Bytes of a range in it.
const RANGE: u64 = 64 << 20;

/// Ranges in one question.
const ASKED: usize = 512;

/// Bytes a first digest stands for: 16 bytes for these cost 0.025 % of a disk.
const COARSE: u32 = 64 << 10;

/// Bytes a second digest stands for, inside blocks that differ.
const FINE: u32 = 4 << 10;

/// Bytes a first digest stands for in a range of holes, which is compared without being read: a thin disk of 3 TiB takes
/// 50 MiB of digests instead of 800.
const HOLE: u32 = 1 << 20;

/// Bytes sent in one log: what an interruption may cost on the wire.
const CHUNK: u64 = 64 << 20;

/// Bytes looked at in one piece of work: what an interruption may cost in reading.
const LOOKED_AT: u64 = 4 << 30;

/// Where two copies may differ, per disk; `None`: not known.
pub(crate) type Known = Vec<Option<Vec<Extent>>>;

/// How a synchronization was taken up.
pub(crate) enum Begun {
    /// Go on from the cursor.
    Open {
        source: Box<dyn CaptureSource>,
        known: Known,
        /// The replica stands here.
        parent: Position,
        /// Dirty bitmaps were begun again: everything before is to be looked at again.
        restarted: bool,
    },
    /// The cycle that closes it is on the replica already.
    Closed {
        source: Box<dyn CaptureSource>,
        at: Position,
    },
    /// Changes are no longer recorded, so that what was compared counts for nothing. The record has to say so before
    /// recording begins again: found later, the new bitmaps would vouch for the old cursor.
    Lost,
}

/// Takes a synchronization up, after anything may have happened.
pub(crate) async fn begin(
    tools: &Tools,
    route: &Route,
    source: Box<dyn CaptureSource>,
    sync: &Synchronization,
    own: Option<&Divergence>,
) -> Result<Begun, CopyError> {
    let tracking = source.recover().await?;
    let status = copy::status(&*tools.link, route).await?;
    if status.durable.is_out_of_reach_of(sync.start) {
        return Err(LinkError::Protocol {
            peer: route.peer.clone(),
            detail: format!("it says that it stands at {}, which cannot be", status.durable),
        }
        .into());
    }
    let restarted = match recorded(&tracking, sync, &status) {
        Recorded::Closed { drop } => {
            if let Some(base) = drop {
                source.acknowledge(base).await?;
            }
            let at = status.durable;
            return Ok(Begun::Closed { source, at });
        }
        Recorded::Interrupted { next } => {
            source.give_back(sync.start, next).await?;
            false
        }
        Recorded::Open => false,
        Recorded::Not if sync.tracking => {
            source.close().await?;
            return Ok(Begun::Lost);
        }
        Recorded::Not => {
            // Records since an earlier instant are no help, and may be there.
            source.stop_tracking().await?;
            source.start_tracking(sync.start).await?;
            true
        }
    };
    let known = match (sync.kind, own) {
        // What the branch holds is asked after recording began: nothing is between the two.
        (SyncKind::Reverse, Some(own)) => reversed(tools, route, &*source, own).await?,
        (SyncKind::Reverse | SyncKind::Resync | SyncKind::Seed, _) => vec![None; source.disks().len()],
    };
    Ok(Begun::Open {
        source,
        known,
        parent: status.durable,
        restarted: restarted || !sync.tracking,
    })
}

/// What the dirty bitmaps say of a synchronization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recorded {
    /// It is closed; the frozen dirty bitmap can be dropped.
    Closed { drop: Option<Position> },
    /// Its closing cycle did not arrive.
    Interrupted { next: Position },
    /// Changes since its start are recorded.
    Open,
    /// They are not.
    Not,
}

fn recorded(tracking: &Tracking, sync: &Synchronization, status: &ReplicaStatus) -> Recorded {
    let Tracking::Since(at) = tracking else {
        return Recorded::Not;
    };
    let arrived = |p: &Position| *p == status.durable && !status.partial;
    match at.as_slice() {
        [base, next] if *base == sync.start && arrived(next) => Recorded::Closed { drop: Some(*base) },
        [base, next] if *base == sync.start => Recorded::Interrupted { next: *next },
        [only] if *only == sync.start => Recorded::Open,
        // Acknowledged already; only the end was not recorded.
        [only] if sync.tracking && arrived(only) && only.same_generation(sync.start) => {
            Recorded::Closed { drop: None }
        }
        _ => Recorded::Not,
    }
}

/// Where an old primary's copy may differ from the VM that went on here: what it wrote and never sent, what it sent after
/// the chosen point, and what was written here since.
async fn reversed(
    tools: &Tools,
    route: &Route,
    source: &dyn CaptureSource,
    own: &Divergence,
) -> Result<Known, CopyError> {
    let written = source.own_ranges().await?;
    let mut known = Known::new();
    for (disk, written) in source.disks().iter().zip(written) {
        let theirs = differences(tools, route, &disk.id, own.since).await?;
        let sent = own
            .disks
            .iter()
            .find(|(id, _)| *id == disk.id)
            .and_then(|(_, r)| r.clone());
        known.push(match (theirs, sent) {
            (Some(theirs), Some(sent)) => Some(union(written, [theirs, sent], disk.size)),
            _ => None,
        });
    }
    Ok(known)
}

/// The peer's own changes since the last instant both copies had; `None` when they are not known, or are those since an
/// instant of another generation.
async fn differences(
    tools: &Tools,
    route: &Route,
    disk: &DiskId,
    fork: Position,
) -> Result<Option<Ranges>, CopyError> {
    let (mut all, mut from) = (Ranges::new(), 0);
    loop {
        let request = PeerRequest::Differences {
            vm: route.vm,
            disk: disk.clone(),
            from,
        };
        match tools.link.call(&route.peer, request).await? {
            PeerReply::Differences {
                since,
                known,
                ranges,
                next,
            } => {
                if !known || !since.same_generation(fork) {
                    return Ok(None);
                }
                all.extend(ranges);
                match next {
                    // A peer that leads in circles would be asked for ever.
                    Some(next) if next > from => from = next,
                    Some(_) => return Ok(None),
                    None => return Ok(Some(all)),
                }
            }
            other => return Err(crate::work::calls::unexpected(&route.peer, &other).into()),
        }
    }
}

/// Ranges that are in any of these, ascending and joined, cut to the disk.
fn union(written: Vec<Extent>, others: [Ranges; 2], size: u64) -> Vec<Extent> {
    let others = others.into_iter().flatten();
    let mut all: Ranges = written
        .into_iter()
        .map(|e| (e.offset, e.len))
        .chain(others)
        .collect();
    all.sort_unstable();
    let mut joined: Vec<Extent> = Vec::with_capacity(all.len());
    for (offset, len) in all {
        let end = offset.saturating_add(len).min(size);
        match joined.last_mut() {
            Some(last) if offset <= last.offset + last.len => {
                last.len = last.len.max(end.saturating_sub(last.offset));
            }
            _ if offset < end => joined.push(Extent {
                offset,
                len: end - offset,
                zero: false,
            }),
            _ => {}
        }
    }
    joined
}

/// What one piece of work came to.
pub(crate) struct Step {
    pub(crate) source: Box<dyn CaptureSource>,
    pub(crate) known: Known,
    /// Everything before it is on the replica.
    pub(crate) cursor: (u16, u64),
    /// The replica stands here.
    pub(crate) parent: Position,
    /// Bytes of the log that was sent; 0 when nothing differed.
    pub(crate) bytes: u64,
}

/// One step of a synchronization: from where, and how the log is called if one is needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) cursor: (u16, u64),
    pub(crate) parent: Position,
    pub(crate) position: Position,
}

/// Finds the next differences and sends them.
pub(crate) async fn step(
    tools: Tools,
    route: Route,
    source: Box<dyn CaptureSource>,
    known: Known,
    piece: Piece,
) -> Result<Step, CopyError> {
    let view = source.current().await?;
    let found = find(&tools, &route, (source.disks(), &*view), &known, piece.cursor).await;
    let sent = match found {
        Err(e) => Err(e),
        Ok(found) if found.ranges.is_empty() => Ok((found.cursor, piece.parent, 0)),
        Ok(found) => send(&tools, &route, (source.disks(), &*view), &found.ranges, piece)
            .await
            .map(|bytes| (found.cursor, piece.position, bytes)),
    };
    let closed = view.close().await;
    let (cursor, parent, bytes) = sent?;
    closed?;
    Ok(Step {
        source,
        known,
        cursor,
        parent,
        bytes,
    })
}

pub(crate) struct Found {
    /// Disk number and range.
    pub(crate) ranges: Vec<(u16, Extent)>,
    pub(crate) cursor: (u16, u64),
}

pub(crate) async fn find(
    tools: &Tools,
    route: &Route,
    (disks, view): (&[LogDisk], &dyn BlockView),
    known: &Known,
    from: (u16, u64),
) -> Result<Found, CopyError> {
    let mut found = Found {
        ranges: Vec::new(),
        cursor: from,
    };
    let (mut bytes, mut seen) = (0, 0);
    for (index, disk) in (0u16..).zip(disks).skip(usize::from(from.0)) {
        let mut at = if index == from.0 { from.1 } else { 0 };
        let known = known.get(usize::from(index)).and_then(Option::as_ref);
        while at < disk.size {
            if bytes >= CHUNK || seen >= LOOKED_AT {
                found.cursor = (index, at);
                return Ok(found);
            }
            let (differ, to) = match known {
                Some(known) => (next_known(known, at, CHUNK - bytes), None),
                None => {
                    let len = WINDOW.min(disk.size - at);
                    let window = (at, len);
                    let differ = compared(tools, route, (view, index, &disk.id), window).await?;
                    (differ, Some(at + len))
                }
            };
            seen += to.map_or(0, |to| to - at);
            at = to
                .or_else(|| differ.last().map(|e| e.offset + e.len))
                .unwrap_or(disk.size);
            bytes += differ.iter().map(|e| e.len).sum::<u64>();
            found.ranges.extend(differ.into_iter().map(|e| (index, e)));
        }
        found.cursor = (index + 1, 0);
    }
    Ok(found)
}

/// The known ranges from `at` on, about `most` bytes of them.
fn next_known(known: &[Extent], at: u64, most: u64) -> Vec<Extent> {
    let (mut next, mut bytes) = (Vec::new(), 0);
    let first = known.partition_point(|e| e.offset + e.len <= at);
    for e in known.iter().skip(first) {
        if bytes >= most {
            break;
        }
        let offset = e.offset.max(at);
        let len = (e.offset + e.len - offset).min(most - bytes);
        bytes += len;
        next.push(Extent {
            offset,
            len,
            zero: false,
        });
    }
    next
}

/// Ranges of a window that differ from the replica's copy, by digests of 64 KiB and then of 4 KiB.
async fn compared(
    tools: &Tools,
    route: &Route,
    of: (&dyn BlockView, u16, &DiskId),
    (offset, len): (u64, u64),
) -> Result<Vec<Extent>, CopyError> {
    // Several in one question: each question opens the images on the peer again.
    let ends = (0..len).step_by(usize::try_from(RANGE).unwrap_or(usize::MAX));
    let whole: Ranges = ends.map(|at| (offset + at, RANGE.min(len - at))).collect();
    let (mut data, mut holes) = (Ranges::new(), Ranges::new());
    for (at, len) in whole {
        if is_hole(of.0, of.1, (at, len)).await? {
            holes.push((at, len));
        } else {
            data.push((at, len));
        }
    }
    let mut coarse = differing(tools, route, of, &data, COARSE).await?;
    coarse.extend(differing(tools, route, of, &holes, HOLE).await?);
    coarse.sort_unstable();
    let mut fine = Vec::new();
    // Many ranges in one question, within what one may ask.
    for group in coarse.chunks(ASKED) {
        fine.extend(differing(tools, route, of, group, FINE).await?);
    }
    Ok(fine
        .into_iter()
        .map(|(offset, len)| Extent {
            offset,
            len,
            zero: false,
        })
        .collect())
}

/// Whether nothing in a range was ever written.
async fn is_hole(view: &dyn BlockView, disk: u16, (at, len): (u64, u64)) -> Result<bool, CopyError> {
    let map = view.allocation(usize::from(disk), at, len).await?;
    Ok(map.iter().all(|e| e.zero))
}

async fn differing(
    tools: &Tools,
    route: &Route,
    (view, disk, id): (&dyn BlockView, u16, &DiskId),
    ranges: &[(u64, u64)],
    block: u32,
) -> Result<Ranges, CopyError> {
    if ranges.is_empty() {
        return Ok(Ranges::new());
    }
    let mut asked = Vec::new();
    for &(offset, len) in ranges {
        let digests = digests(view, disk, (offset, len), block).await?;
        asked.push(DigestRange {
            disk,
            offset,
            len,
            block,
            digests,
        });
    }
    let request = PeerRequest::Compare {
        vm: route.vm,
        disk: id.clone(),
        ranges: asked,
    };
    let blocks = match tools.link.call(&route.peer, request).await? {
        PeerReply::Differ { blocks } if blocks.len() == ranges.len() => blocks,
        other => return Err(crate::work::calls::unexpected(&route.peer, &other).into()),
    };
    let mut differ = Ranges::new();
    for (&(offset, len), blocks) in ranges.iter().zip(blocks) {
        for number in blocks {
            let start = u64::from(number) * u64::from(block);
            if start >= len {
                continue;
            }
            let (at, size) = (offset + start, u64::from(block).min(len - start));
            match differ.last_mut() {
                Some((o, l)) if *o + *l == at && *l + size <= CHUNK => *l += size,
                _ => differ.push((at, size)),
            }
        }
    }
    Ok(differ)
}

/// Digests of the blocks of a range, without reading what is known to be zero.
async fn digests(
    view: &dyn BlockView,
    disk: u16,
    (offset, len): (u64, u64),
    block: u32,
) -> Result<String, CopyError> {
    let map = view.allocation(usize::from(disk), offset, len).await?;
    let end = offset + len;
    let holes = |at: u64, to: u64| {
        map.iter()
            .any(|e| e.zero && e.offset <= at && to <= e.offset + e.len)
    };
    let step = u64::from(block);
    // Most of many disks is holes: they are hashed once.
    let hole = digest(&vec![0; usize::try_from(block).unwrap_or(0)]);
    // Several blocks are read at once where they are data.
    let mut reads: Vec<(u64, u64, bool)> = Vec::new();
    let mut at = offset;
    while at < end {
        let to = end.min(at + step);
        let zero = holes(at, to);
        match reads.last_mut() {
            Some((from, till, false)) if !zero && to - *from <= copy::READ => *till = to,
            _ => reads.push((at, to, zero)),
        }
        at = to;
    }
    let mut read = stream::iter(reads)
        .map(|(from, till, zero)| async move {
            if zero {
                return Ok((till - from, None));
            }
            let len = u32::try_from(till - from).unwrap_or(u32::MAX);
            view.read(usize::from(disk), from, len)
                .await
                .map(|b| (0, Some(b)))
        })
        .buffered(IN_FLIGHT);
    let mut all = Vec::new();
    while let Some(piece) = read.next().await {
        match piece? {
            (_, Some(data)) => data
                .chunks(usize::try_from(block).unwrap_or(usize::MAX))
                .for_each(|b| all.extend_from_slice(&digest(b))),
            (len, None) if len == step => all.extend_from_slice(&hole),
            (len, None) => all.extend_from_slice(&digest(&vec![0; usize::try_from(len).unwrap_or(0)])),
        }
    }
    Ok(BASE64_STANDARD.encode(all))
}

/// The first half of a block's BLAKE3 hash: 128 bits are far beyond chance for any number of blocks.
fn digest(block: &[u8]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&blake3::hash(block).as_bytes()[..16]);
    half
}

/// A question about what differs that no host of ours asks.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ComparisonError {
    /// It costs more than any that this side asks.
    #[error("a comparison of {ranges} ranges with {bytes} bytes; {ASKED} and {WINDOW} are possible")]
    TooLarge {
        /// Ranges in it.
        ranges: usize,
        /// Bytes of all of them.
        bytes: u64,
    },
    /// Digests that are no Base64.
    #[error("digests of disk {disk}: {source}")]
    Digests {
        /// The disk's number.
        disk: u16,
        /// What is wrong.
        source: base64::DecodeError,
    },
    /// Another number of digests than blocks, or blocks of a size that is not used.
    #[error("a comparison of {len} bytes in blocks of {block} with {digests} digests")]
    Blocks {
        /// Bytes of the range.
        len: u64,
        /// Bytes of a block.
        block: u64,
        /// Digests of 16 bytes.
        digests: usize,
    },
}

/// Refuses a question that costs more than any that this side asks.
pub(crate) fn bounded(ranges: &[DigestRange]) -> Result<(), ComparisonError> {
    let bytes = ranges.iter().fold(0_u64, |sum, r| sum.saturating_add(r.len));
    if ranges.len() <= ASKED && bytes <= WINDOW {
        return Ok(());
    }
    let ranges = ranges.len();
    Err(ComparisonError::TooLarge { ranges, bytes })
}

/// Numbers of the blocks of each range that are not all zeros: what differs from a disk that holds nothing.
pub(crate) fn not_zero(ranges: &[DigestRange]) -> Result<Vec<Vec<u32>>, ComparisonError> {
    let mut zeros = BTreeMap::new();
    let mut zero = |len: u64| {
        *zeros
            .entry(len)
            .or_insert_with(|| digest(&vec![0; usize::try_from(len).unwrap_or(0)]))
    };
    ranges.iter().map(|r| not_zero_of(r, &mut zero)).collect()
}

fn not_zero_of(
    range: &DigestRange,
    zero: &mut impl FnMut(u64) -> [u8; 16],
) -> Result<Vec<u32>, ComparisonError> {
    let disk = range.disk;
    let digests = BASE64_STANDARD
        .decode(&range.digests)
        .map_err(|source| ComparisonError::Digests { disk, source })?;
    let (len, block) = (range.len, u64::from(range.block));
    let possible = (FINE..=HOLE).contains(&range.block) && len > 0 && len <= RANGE;
    if !possible || len.div_ceil(block) != digests.len() as u64 / 16 || digests.len() % 16 != 0 {
        let digests = digests.len() / 16;
        return Err(ComparisonError::Blocks { len, block, digests });
    }
    let mut differs = |(n, d): (u64, &[u8])| *d != zero(block.min(len - n * block));
    let numbers = (0..).zip(digests.chunks(16)).filter(|c| differs(*c));
    Ok(numbers.filter_map(|(n, _)| u32::try_from(n).ok()).collect())
}

pub(crate) async fn send(
    tools: &Tools,
    route: &Route,
    (disks, view): (&[LogDisk], &dyn BlockView),
    ranges: &[(u16, Extent)],
    piece: Piece,
) -> Result<u64, CopyError> {
    let (tx, rx) = mpsc::channel::<std::io::Result<Bytes>>(2);
    let body: ByteStream = Box::pin(stream::unfold(rx, |mut rx| async {
        rx.recv().await.map(|x| (x, rx))
    }));
    let header = Header {
        vm: route.vm,
        kind: LogKind::Sync,
        position: piece.position,
        parent: piece.parent,
        instant: tools.clock.now(),
        consistency: Consistency::Crash,
        disks: disks.to_vec(),
    };
    let produce = async {
        let written = write(view, &header, route.compress, ranges, &tx).await;
        if let Err(e) = &written {
            // The body must not end as if it were whole.
            let _ = tx.send(Err(std::io::Error::other(e.to_string()))).await;
        }
        drop(tx);
        written
    };
    let address = LogAddress::Delta {
        vm: route.vm,
        position: piece.position,
        offset: 0,
    };
    let (written, sent) = future::join(produce, tools.link.send(&route.peer, address, body)).await;
    let (receipt, bytes) = (sent?, written?);
    copy::confirmed(receipt, piece.position, &route.peer)?;
    Ok(bytes)
}

/// Encodes a piece; its bytes.
async fn write(
    view: &dyn BlockView,
    header: &Header,
    compress: bool,
    ranges: &[(u16, Extent)],
    to: &mpsc::Sender<std::io::Result<Bytes>>,
) -> Result<u64, CopyError> {
    let mut bytes = 0;
    let mut out = Vec::with_capacity(ROOM);
    let mut encoder = Encoder::new(header, compress, &mut out)?;
    for (index, disk) in (0u16..).zip(&header.disks) {
        let of_disk = ranges
            .iter()
            .filter(|(d, _)| *d == index)
            .map(|(_, e)| *e)
            .collect();
        let mut reads = stream::iter(copy::pieces(of_disk, disk.size))
            .map(|piece| copy::read_piece(view, index, piece))
            .buffered(IN_FLIGHT);
        while let Some(read) = reads.next().await {
            copy::encode(&mut encoder, index, read?, &mut out)?;
            if out.len() < copy::BATCH {
                continue;
            }
            bytes += out.len() as u64;
            if to.send(Ok(copy::full(&mut out))).await.is_err() {
                return Ok(bytes);
            }
        }
    }
    encoder.finish(&mut out);
    bytes += out.len() as u64;
    let _ = to.send(Ok(Bytes::from(out))).await;
    Ok(bytes)
}

/// How far a cursor is: bytes before it, and bytes in all.
pub(crate) fn progress(disks: &[LogDisk], cursor: (u16, u64)) -> (u64, u64) {
    let before: u64 = disks.iter().take(usize::from(cursor.0)).map(|d| d.size).sum();
    (before + cursor.1, disks.iter().map(|d| d.size).sum())
}

/// A copy's own changes, as a peer asks for them page by page.
pub(crate) fn page(of: &Divergence, disk: Option<&DiskId>, from: u64) -> PeerReply {
    /// Ranges of one answer: it stays far below what a document may be.
    const PAGE: usize = 16_384;
    let ranges = disk
        .and_then(|d| of.disks.iter().find(|(id, _)| id == d))
        .and_then(|(_, r)| r.as_ref());
    let Some(all) = ranges else {
        return PeerReply::Differences {
            since: of.since,
            known: false,
            ranges: Ranges::new(),
            next: None,
        };
    };
    let first = all.partition_point(|(offset, _)| *offset < from);
    let page: Ranges = all.iter().skip(first).take(PAGE).copied().collect();
    PeerReply::Differences {
        since: of.since,
        known: true,
        next: all.get(first + page.len()).map(|(offset, _)| *offset),
        ranges: page,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::link::HandOver;
    use lifeboat_model::GenerationId;
    use uuid::Uuid;

    fn at(generation: u128, sequence: u64) -> Position {
        Position::from_parts(GenerationId(Uuid::from_u128(generation)), sequence)
    }

    fn asked(len: u64, block: u32, digests: &[[u8; 16]]) -> DigestRange {
        DigestRange {
            disk: 0,
            offset: 0,
            len,
            block,
            digests: BASE64_STANDARD.encode(digests.concat()),
        }
    }

    #[test]
    fn a_disk_of_zeros_differs_where_the_digests_do() {
        let (whole, half, other) = (digest(&[0; 4096]), digest(&[0; 2048]), digest(b"x"));
        type Case<'a> = (u64, &'a [[u8; 16]], &'a [u32]);
        let table: [Case<'_>; _] = [
            (4096, &[whole], &[]),
            (2048, &[half], &[]),
            (2048, &[whole], &[0]),
            (4096 * 2 + 2048, &[whole, other, half], &[1]),
            (4096 * 2 + 2048, &[other, whole, whole], &[0, 2]),
        ];
        for (len, digests, differing) in table {
            assert_eq!(not_zero(&[asked(len, 4096, digests)]).unwrap(), [differing]);
        }
        assert_eq!(not_zero(&[]).unwrap(), Vec::<Vec<u32>>::new());
    }

    #[test]
    fn a_question_that_makes_no_sense_or_costs_too_much_is_refused() {
        let whole = digest(&[0; 4096]);
        for (len, block, digests) in [
            (0, 4096, &[][..]),
            (4096, 4096, &[][..]),
            (4096, 4096, &[whole, whole][..]),
            (4096, 0, &[whole][..]),
            (4096, 512, &[whole; 8][..]),
            (1 << 21, 1 << 21, &[whole][..]),
            (u64::MAX, 1 << 20, &[whole][..]),
        ] {
            not_zero(&[asked(len, block, digests)]).unwrap_err();
        }
        let broken = DigestRange {
            digests: "?".into(),
            ..asked(4096, 4096, &[])
        };
        not_zero(&[broken]).unwrap_err();
        let one = |len| asked(len, 4096, &[]);
        bounded(&vec![one(WINDOW / 512); 512]).unwrap();
        bounded(&vec![one(1); 513]).unwrap_err();
        bounded(&[one(WINDOW), one(1)]).unwrap_err();
        bounded(&[one(u64::MAX), one(u64::MAX)]).unwrap_err();
    }

    fn data(offset: u64, len: u64) -> Extent {
        Extent {
            offset,
            len,
            zero: false,
        }
    }

    fn status(durable: Position, partial: bool) -> ReplicaStatus {
        ReplicaStatus {
            durable,
            bulk: Vec::new(),
            partial,
            usable: true,
            problems: Vec::new(),
            waiting_logs: 0,
            waiting_bytes: 0,
            hand_over: HandOver::default(),
            export: None,
        }
    }

    #[test]
    fn records_say_how_far_a_synchronization_is() {
        let sync = Synchronization {
            start: at(1, 5),
            kind: SyncKind::Resync,
            cursor: (0, 0),
            tracking: true,
            sent: 0,
            job: None,
        };
        let since = |p: &[Position]| Tracking::Since(p.to_vec());
        let table = [
            (since(&[at(1, 5)]), status(at(1, 7), true), Recorded::Open),
            (since(&[at(1, 5)]), status(at(1, 3), false), Recorded::Open),
            (
                since(&[at(1, 5), at(1, 9)]),
                status(at(1, 9), false),
                Recorded::Closed { drop: Some(at(1, 5)) },
            ),
            (
                since(&[at(1, 5), at(1, 9)]),
                status(at(1, 7), true),
                Recorded::Interrupted { next: at(1, 9) },
            ),
            (
                since(&[at(1, 9)]),
                status(at(1, 9), false),
                Recorded::Closed { drop: None },
            ),
            // Changes since an instant before the synchronization are no help: what differs is older.
            (since(&[at(1, 3)]), status(at(1, 7), true), Recorded::Not),
            (Tracking::None, status(at(1, 3), false), Recorded::Not),
        ];
        for (tracking, status, want) in table {
            assert_eq!(
                recorded(&tracking, &sync, &status),
                want,
                "{tracking:?} {status:?}"
            );
        }
        let fresh = Synchronization {
            tracking: false,
            ..sync
        };
        let normal = since(&[at(1, 3)]);
        assert_eq!(
            recorded(&normal, &fresh, &status(at(1, 3), false)),
            Recorded::Not,
            "a resynchronization asked for while all was well is still to be done"
        );
    }

    #[test]
    fn a_union_loses_nothing_and_stays_on_the_disk() {
        let all = union(
            vec![data(0, 4096), data(8192, 4096)],
            [vec![(4096, 4096), (100_000, 50_000)], vec![(12_288, 10), (0, 1)]],
            120_000,
        );
        assert_eq!(all, [data(0, 12_298), data(100_000, 20_000)]);
        assert_eq!(union(vec![], [vec![(500, 9)], vec![]], 100), []);
    }

    #[test]
    fn known_ranges_are_taken_in_portions() {
        let known = [data(0, 100), data(200, 100), data(400, 100)];
        assert_eq!(next_known(&known, 0, 150), [data(0, 100), data(200, 50)]);
        assert_eq!(next_known(&known, 250, 1000), [data(250, 50), data(400, 100)]);
        assert_eq!(next_known(&known, 500, 1000), []);
    }

    #[test]
    fn pages_cover_everything_once() {
        let disk = DiskId::new("a").unwrap();
        let ranges: Ranges = (0..40_000).map(|i| (i * 8192, 4096)).collect();
        let of = Divergence {
            since: at(1, 1),
            disks: vec![(disk.clone(), Some(ranges.clone()))],
        };
        let (mut got, mut from) = (Ranges::new(), 0);
        while let PeerReply::Differences { ranges, next, .. } = page(&of, Some(&disk), from) {
            got.extend(ranges);
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        assert_eq!(got, ranges);
        assert!(matches!(
            page(&of, None, 0),
            PeerReply::Differences { known: false, .. }
        ));
    }
}
