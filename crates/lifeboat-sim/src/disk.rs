//! Disks as maps of numbered writes, and the dirty bitmaps QEMU keeps for them. A block holds the number of the
//! guest's write that filled it, repeated; nothing else is ever in a block, so torn or mixed data is noticed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use lifeboat_engine::ports::capture::Extent;
use lifeboat_model::Position;

/// Bytes of a block.
pub const BLOCK: u64 = 4096;

/// Block number → number of the write that filled it. Absent blocks read as zeros.
pub type Content = BTreeMap<u64, u64>;

/// A dirty bitmap.
#[derive(Clone, Debug)]
pub struct Tracked {
    /// Changes since this position.
    pub since: Position,
    /// Numbers of the blocks that changed since then.
    pub dirty: BTreeSet<u64>,
    /// Still recording; a frozen record is not.
    pub recording: bool,
    /// It is in the image file, so that a killed process leaves it there, unusable.
    pub stored: bool,
    /// Left by a killed process: can only be removed.
    pub broken: bool,
}

/// A disk image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Size in bytes.
    pub size: u64,
    /// What it holds.
    pub content: Content,
    /// Dirty bitmaps, oldest first.
    pub tracked: Vec<Tracked>,
    /// Blocks that a branch holds itself, everything else shows through from below; `None` for a plain image.
    pub own: Option<BTreeSet<u64>>,
    /// Times that another program wrote to it, which no dirty bitmap knows.
    pub edits: u64,
    /// How many of them were there when it was closed last, or when tracking began again.
    pub seen: u64,
}

impl Image {
    /// An empty image.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self {
            size,
            content: Content::new(),
            tracked: Vec::new(),
            own: None,
            edits: 0,
            seen: 0,
        }
    }

    /// A new branch above this content.
    #[must_use]
    pub fn branch(size: u64, content: Content) -> Self {
        Self {
            content,
            own: Some(BTreeSet::new()),
            ..Self::new(size)
        }
    }

    /// The guest writes; number 0 writes zeros.
    pub fn write(&mut self, block: u64, number: u64) {
        if number == 0 {
            self.content.remove(&block);
        } else {
            self.content.insert(block, number);
        }
        if let Some(own) = &mut self.own {
            own.insert(block);
        }
        for t in self.tracked.iter_mut().filter(|t| t.recording) {
            t.dirty.insert(block);
        }
    }

    /// Another program writes to the image, behind the back of whatever has it open.
    pub fn edit(&mut self, block: u64, number: u64) {
        self.content.insert(block, number);
        self.edits += 1;
    }

    /// Why its dirty bitmaps are not valid.
    #[must_use]
    pub fn touched(&self) -> Option<&'static str> {
        (self.edits != self.seen).then_some("another program wrote to its image")
    }

    /// The process that had it open ended in order.
    pub fn closed(&mut self) {
        self.tracked.iter_mut().for_each(|t| t.stored = true);
    }

    /// The process that had it open was killed.
    pub fn killed(&mut self) {
        self.tracked.retain(|t| t.stored);
        for t in &mut self.tracked {
            (t.broken, t.recording) = (true, false);
        }
    }
}

/// Bytes of a range, which must lie on block boundaries.
#[must_use]
pub(crate) fn bytes_of(content: &Content, offset: u64, len: u64) -> Bytes {
    let mut out = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
    for block in offset / BLOCK..(offset + len) / BLOCK {
        let number = content.get(&block).copied().unwrap_or(0);
        for _ in 0..BLOCK / 8 {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
    Bytes::from(out)
}

/// The writes in bytes that begin at a block boundary; `None` when a block is torn.
#[must_use]
pub(crate) fn numbers_of(offset: u64, data: &[u8]) -> Option<Vec<(u64, u64)>> {
    let block = usize::try_from(BLOCK).ok()?;
    if !offset.is_multiple_of(BLOCK) || !data.len().is_multiple_of(block) {
        return None;
    }
    (offset / BLOCK..)
        .zip(data.chunks(block))
        .map(|(at, bytes)| {
            let mut words = bytes
                .chunks_exact(8)
                .map(|w| w.try_into().map(u64::from_le_bytes).unwrap_or(u64::MAX));
            let first = words.next()?;
            words.all(|w| w == first).then_some((at, first))
        })
        .collect()
}

/// Blocks as extents, adjacent ones of a kind joined.
#[must_use]
pub(crate) fn extents(blocks: impl Iterator<Item = u64>, content: &Content) -> Vec<Extent> {
    let mut out: Vec<Extent> = Vec::new();
    for block in blocks {
        let zero = !content.contains_key(&block);
        match out.last_mut() {
            Some(last) if last.offset + last.len == block * BLOCK && last.zero == zero => last.len += BLOCK,
            _ => out.push(Extent {
                offset: block * BLOCK,
                len: BLOCK,
                zero,
            }),
        }
    }
    out
}

/// Extents that cover `offset..offset + len`, holes as zeros.
#[must_use]
pub(crate) fn cover(content: &Content, offset: u64, len: u64) -> Vec<Extent> {
    let mut out: Vec<Extent> = Vec::new();
    let mut at = offset;
    let data = extents(
        content
            .range(offset / BLOCK..(offset + len) / BLOCK)
            .map(|(b, _)| *b),
        content,
    );
    let hole = |from: u64, to: u64| Extent {
        offset: from,
        len: to - from,
        zero: true,
    };
    for e in data {
        if e.offset > at {
            out.push(hole(at, e.offset));
        }
        at = e.offset + e.len;
        out.push(e);
    }
    if at < offset + len {
        out.push(hole(at, offset + len));
    }
    out
}
