//! Digests across an expiry, which writes a layer's data into the image below it. What is about to be copied, and what it
//! is copied into, is verified first: damage must not get a digest that calls it right. Then the digests of the blocks
//! that will change are taken back durably, the data is copied and made durable, and their new digests are recorded; a
//! crash leaves blocks without a digest, never ones with a wrong digest, and the repeated merge records them.

use std::collections::BTreeSet;

use camino::Utf8Path;
use lifeboat_engine::ports::store::{Ranges, StoreError};
use lifeboat_model::{DiskFormat, Timestamp};

use crate::chain::Image;
use crate::damage::{Bad, Sealed, sealed};
use crate::digest::{BLOCK, Blocks, PER_PAGE, Page, Sidecar, UNKNOWN};
use crate::error::{Result, io_error};
use crate::manifest::Manifest;
use crate::map::{Map, tidy, within, without};
use crate::merge;
use crate::qemu_img::Cancel;
use crate::replica::Replica;
use crate::scrub;
use crate::shown::describe;

/// Bytes of a disk that are gone through at once.
const WINDOW: u64 = PER_PAGE * BLOCK;

/// A merge: the layer, and the image below it.
struct Merge<'a> {
    replica: &'a Replica,
    layer: &'a Sealed,
    below: &'a Sealed,
    /// The last block of the image below, when the merge makes the image longer, and so the block.
    tail: Option<u64>,
    now: Timestamp,
}

/// Copies a layer into the image below (the last two of a chain, relative paths), with digests kept true.
pub(crate) fn copy_down(
    replica: &Replica,
    manifest: &Manifest,
    chain: &[Image],
    cancel: &Cancel,
) -> Result<()> {
    scrub::renew(replica, manifest)?;
    let sealed = sealed(manifest);
    let found = |image: &Image| sealed.iter().find(|s| s.image.file == image.file);
    let (Some(layer), Some(below)) = (
        chain.last().and_then(found),
        chain.iter().rev().nth(1).and_then(found),
    ) else {
        return merge::copy_down(replica, chain, cancel);
    };
    let merge = Merge {
        replica,
        layer,
        below,
        tail: tail(&replica.dir.join(&below.image.file), layer.size)?,
        now: now(),
    };
    merge.layer_is_right(cancel)?;
    let map = Map::open(&replica.dir.join(&layer.image.file), layer.size);
    let raw = below.image.format == DiskFormat::Raw;
    let (Ok(map), true) = (map, raw) else {
        // Where the data goes in the file is QEMU's choice: everything is recorded again, after the merge.
        replica.step("before digests are taken back")?;
        Sidecar::of(&replica.dir, &below.image)?.remove()?;
        return merge::copy_down(replica, chain, cancel);
    };
    merge.each_window(&map, |m, touched| m.take_back(touched))?;
    merge::copy_down(replica, chain, cancel)?;
    replica.step("before digests are recorded")?;
    merge.each_window(&map, |m, touched| m.record(touched))?;
    merge.carry_over(&map)?;
    replica.step("after digests are recorded")
}

fn tail(below: &Utf8Path, size: u64) -> Result<Option<u64>> {
    let len = std::fs::metadata(below)
        .map_err(io_error("look at", below))?
        .len();
    Ok((len < size && len % BLOCK > 0).then_some(len / BLOCK))
}

/// The time of the record; nothing is decided by it.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
}

/// Makes the digests of the first blocks of a layer again around a change of its header, which names the image below.
pub(crate) fn around_header(
    replica: &Replica,
    manifest: &Manifest,
    file: &Utf8Path,
    change: impl FnOnce() -> Result<()>,
) -> Result<()> {
    /// Bytes that the header's cluster has at most.
    const HEAD: u64 = 128 << 10;
    scrub::renew(replica, manifest)?;
    let sealed = sealed(manifest);
    let Some(layer) = sealed.iter().find(|s| s.image.file == *file) else {
        return change();
    };
    let path = replica.dir.join(file);
    let mut sidecar = Sidecar::of(&replica.dir, &layer.image)?;
    let mut page = sidecar.page(0)?;
    let mut blocks = Blocks::open(&path, layer.block())?;
    let (recorded, wrong) = compared(&mut blocks, &page, 0..HEAD / layer.block());
    stop_at(replica, layer, &wrong, now())?;
    if recorded.is_empty() {
        return change();
    }
    let before = page.clone();
    for n in &recorded {
        page.set(*n, UNKNOWN);
    }
    sidecar.put(0, &page)?;
    sidecar.sync()?;
    replica.step("before a layer's header is changed")?;
    change()?;
    let mut blocks = Blocks::open(&path, layer.block())?;
    for n in recorded {
        let digest = if wrong.contains(&n) {
            before.get(n)
        } else {
            blocks.look(n).to_record()
        };
        page.set(n, digest);
    }
    sidecar.put(0, &page)?;
    sidecar.sync()
}

/// Which of these blocks have a digest in the page, and which of those read as something else.
fn compared(blocks: &mut Blocks, page: &Page, these: impl Iterator<Item = u64>) -> (Vec<u64>, Vec<u64>) {
    let recorded: Vec<u64> = these.filter(|n| page.get(*n) != UNKNOWN).collect();
    let differs = |n: &u64| !blocks.look(*n).is(page.get(*n));
    let wrong = recorded.iter().copied().filter(differs).collect();
    (recorded, wrong)
}

/// Notes damage and refuses to go on; what no source could repair is let through.
fn stop_at(replica: &Replica, item: &Sealed, blocks: &[u64], now: Timestamp) -> Result<()> {
    if blocks.is_empty() {
        return Ok(());
    }
    let seen = |n: &u64| (*n, "its data differs from the recorded digest".to_owned());
    let bads = replica.bads();
    let known = |n: &u64| bads.iter().any(|b| b.file == item.image.file && b.block == *n);
    let new: Vec<(u64, String)> = blocks.iter().filter(|n| !known(n)).map(seen).collect();
    let found = describe(&replica.dir, item, new, now);
    replica.note_bads(found, item.size)?;
    let bads = replica.bads();
    let hurt = |b: &&Bad| b.file == item.image.file && blocks.contains(&b.block);
    if bads.iter().filter(hurt).any(|b| !b.hopeless || b.table) {
        return Err(StoreError::Damaged {
            path: replica.dir.join(&item.image.file),
            detail:
                "its data differs from the recorded digest; the recovery point expires when that is repaired"
                    .to_owned(),
        });
    }
    Ok(())
}

impl Merge<'_> {
    /// Verifies the layer that is about to be copied.
    fn layer_is_right(&self, cancel: &Cancel) -> Result<()> {
        let replica = self.replica;
        let sidecar = Sidecar::of(&replica.dir, &self.layer.image)?;
        let mut blocks = Blocks::open(&replica.dir.join(&self.layer.image.file), self.layer.block())?;
        let mut wrong = Vec::new();
        for number in 0..sidecar.pages() {
            cancel.check()?;
            let page = sidecar.page(number)?;
            let of_page = number * PER_PAGE..(number + 1) * PER_PAGE;
            wrong.extend(compared(&mut blocks, &page, of_page).1);
        }
        stop_at(replica, self.layer, &wrong, self.now)
    }

    /// Calls for each page of the base with the blocks that the layer touches.
    fn each_window(
        &self,
        map: &Map,
        mut each: impl FnMut(&Self, &BTreeSet<u64>) -> Result<()>,
    ) -> Result<()> {
        for (offset, to) in map.windows(WINDOW) {
            let pieces = map.pieces(offset, to)?;
            let blocks = pieces.iter().flat_map(|p| {
                let end = p.offset + p.len;
                p.offset / BLOCK..end.div_ceil(BLOCK)
            });
            let mut touched: BTreeSet<u64> = blocks.collect();
            touched.extend(self.tail.filter(|t| (offset..to).contains(&(t * BLOCK))));
            if !touched.is_empty() {
                each(self, &touched)?;
            }
        }
        Ok(())
    }

    /// Verifies what will change and takes its digests back.
    fn take_back(&self, touched: &BTreeSet<u64>) -> Result<()> {
        let Some(first) = touched.first() else {
            return Ok(());
        };
        let number = first / PER_PAGE;
        let mut sidecar = Sidecar::of(&self.replica.dir, &self.below.image)?;
        let mut page = sidecar.page(number)?;
        let mut blocks = Blocks::open(&self.replica.dir.join(&self.below.image.file), BLOCK)?;
        let (recorded, wrong) = compared(&mut blocks, &page, touched.iter().copied());
        stop_at(self.replica, self.below, &wrong, self.now)?;
        if recorded.is_empty() {
            return Ok(());
        }
        self.replica.step("before digests are taken back")?;
        for n in &recorded {
            page.set(*n, UNKNOWN);
        }
        sidecar.put(number, &page)?;
        sidecar.sync()
    }

    /// Records what was changed, except where it is known to be wrong.
    fn record(&self, touched: &BTreeSet<u64>) -> Result<()> {
        let Some(first) = touched.first() else {
            return Ok(());
        };
        let number = first / PER_PAGE;
        let bads = self.replica.bads();
        let wrong = |n: &u64| {
            let base = bads
                .iter()
                .any(|b| b.file == self.below.image.file && b.block == *n);
            let (from, to) = (n * BLOCK, BLOCK);
            let layer = bads.iter().filter(|b| b.file == self.layer.image.file);
            base || layer
                .clone()
                .any(|b| !within(&b.suspect, &vec![(from, to)]).is_empty())
        };
        let mut sidecar = Sidecar::of(&self.replica.dir, &self.below.image)?;
        let mut page = sidecar.page(number)?;
        let mut blocks = Blocks::open(&self.replica.dir.join(&self.below.image.file), BLOCK)?;
        for block in touched.iter().filter(|n| !wrong(n)) {
            page.set(*block, blocks.look(*block).to_record());
        }
        sidecar.put(number, &page)?;
        sidecar.sync()
    }

    /// What was wrong in the layer is wrong in the base from now on; what was wrong there and overwritten is not.
    fn carry_over(&self, map: &Map) -> Result<()> {
        let bads = self.replica.bads();
        let here = |b: &&Bad| b.file == self.below.image.file || b.file == self.layer.image.file;
        if !bads.iter().any(|b| here(&b)) {
            return Ok(());
        }
        let mut next: Vec<Bad> = bads.iter().filter(|b| !here(b)).cloned().collect();
        for bad in bads.iter().filter(|b| b.file == self.below.image.file) {
            let mut left = bad.clone();
            left.suspect = map.uncovered(&bad.suspect)?;
            if let Some(later) = &mut left.later {
                later.suspect = map.uncovered(&later.suspect)?;
            }
            if !left.suspect.is_empty() {
                next.push(left);
            }
        }
        for bad in bads.iter().filter(|b| b.file == self.layer.image.file) {
            next.extend(self.moved(map, bad)?);
            // The layer is here until the manifest no longer names it.
            next.push(bad.clone());
        }
        self.replica.change_bads(|all| *all = next)
    }

    /// Damage of the layer as damage of the base.
    fn moved(&self, map: &Map, bad: &Bad) -> Result<Vec<Bad>> {
        let own = without(&bad.suspect, &map.uncovered(&bad.suspect)?);
        let mut moved: Vec<Bad> = Vec::new();
        for &(offset, len) in &tidy(own) {
            for block in offset / BLOCK..(offset + len).div_ceil(BLOCK) {
                let range: Ranges = vec![(block * BLOCK, BLOCK)];
                let later = bad.later.clone().map(|mut l| {
                    l.suspect = within(&l.suspect, &range);
                    l
                });
                moved.push(Bad {
                    file: self.below.image.file.clone(),
                    block,
                    suspect: within(&bad.suspect, &range),
                    later,
                    hopeless: true,
                    ..bad.clone()
                });
            }
        }
        Ok(moved)
    }
}
