//! What was written to the disks of a VM, and whether an image is a state that the disks have had.
//!
//! Write number `k` (1, 2, …) follows from the seed and `k` alone: which disk, which slots of 4 KiB, and what is in them. So
//! after `k` writes every byte of all disks is known, and a copy is right when it is **exactly the first `k` writes, the same
//! `k` on all disks**. When each write was complete is remembered beside it: a copy that claims an instant must hold every
//! write that was complete before.
//!
//! A power cut under the VM itself loses writes that were not flushed. What the disks hold afterwards is where writing goes
//! on from ([`History::rebase`]); instants before the cut are judged by what was true then.

use std::collections::{BTreeMap, BTreeSet};

use crate::random::{Random, mix};

/// Bytes of a slot, the unit of writing.
pub const SLOT: usize = 4096;
const MAGIC: &[u8; 8] = b"FAULTREC";
/// Power cuts under the VM that are remembered: points from before them are judged by what was true then.
const EPOCHS: usize = 64;
/// Two writes without content never follow each other, so a state shows its newest record or one of these before it.
const HIDDEN: u64 = 5;

/// What a write leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A record that tells the number of the write.
    Record,
    /// Zeros, written as such.
    Zeros,
}

/// One write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Its number, from 1.
    pub number: u64,
    /// Which disk, from 0.
    pub disk: usize,
    /// First slot.
    pub slot: u64,
    /// How many slots it fills, one after another.
    pub slots: u64,
    /// What it leaves.
    pub content: Content,
}

impl Write {
    /// The bytes it writes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        (self.slot..self.slot + self.slots)
            .flat_map(|slot| record(self.number, self.content, self.disk, slot))
            .collect()
    }

    fn covers(&self, disk: usize, slot: u64) -> bool {
        self.disk == disk && (self.slot..self.slot + self.slots).contains(&slot)
    }
}

fn record(number: u64, content: Content, disk: usize, slot: u64) -> Vec<u8> {
    let mut bytes = vec![0; SLOT];
    if content == Content::Record {
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
        bytes[16..24].copy_from_slice(&(disk as u64).to_le_bytes());
        bytes[24..32].copy_from_slice(&slot.to_le_bytes());
        let mut random = Random::new(mix(number) ^ mix((slot << 8) | disk as u64));
        for word in bytes[32..].chunks_exact_mut(8) {
            word.copy_from_slice(&random.next_u64().to_le_bytes());
        }
    }
    bytes
}

/// What an image, or one image for each disk, turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Exactly the first `k` writes, for each `k` from `from` to `to`: writes in between changed nothing.
    State {
        /// Least `k`.
        from: u64,
        /// Greatest `k`.
        to: u64,
    },
    /// No state the disks ever had; why.
    Wrong(String),
}

/// Content before some write, and which writes came since.
struct Epoch {
    /// Instants up to this one belong to it; `None`: it lasts.
    until: Option<u64>,
    /// Writes before it.
    before: u64,
    /// Slots of each disk.
    base: Vec<Vec<Held>>,
    /// For each disk and slot, the numbers of the writes that touched it, ascending.
    touched: Vec<BTreeMap<u64, Vec<u64>>>,
}

/// What a slot holds. Nearly all follow from a number.
#[derive(Clone)]
enum Held {
    Zeros,
    Record(u64),
    Other(Box<[u8]>),
}

impl Held {
    fn of(bytes: &[u8], disk: usize, slot: u64) -> Self {
        if bytes.iter().all(|b| *b == 0) {
            return Self::Zeros;
        }
        match number_of(bytes) {
            Some(n) if record(n, Content::Record, disk, slot) == bytes => Self::Record(n),
            Some(_) | None => Self::Other(bytes.into()),
        }
    }

    fn bytes(&self, disk: usize, slot: u64) -> Vec<u8> {
        match self {
            Self::Zeros => vec![0; SLOT],
            Self::Record(number) => record(*number, Content::Record, disk, slot),
            Self::Other(bytes) => bytes.to_vec(),
        }
    }
}

/// Everything that was written.
pub struct History {
    seed: u64,
    sizes: Vec<usize>,
    /// For each write, by number - 1: when it was complete, milliseconds since 1970.
    done: Vec<Option<u64>>,
    /// Writes that failed at least once before they succeeded: their slots may be new before the write counts.
    torn: BTreeSet<u64>,
    epochs: Vec<Epoch>,
}

impl History {
    /// Disks of zeros of these sizes in bytes.
    #[must_use]
    pub fn new(seed: u64, sizes: &[usize]) -> Self {
        let epoch = Epoch {
            until: None,
            before: 0,
            base: sizes.iter().map(|n| vec![Held::Zeros; n / SLOT]).collect(),
            touched: vec![BTreeMap::new(); sizes.len()],
        };
        Self {
            seed,
            sizes: sizes.to_vec(),
            done: Vec::new(),
            torn: BTreeSet::new(),
            epochs: vec![epoch],
        }
    }

    /// Write number `number`, as it was, is or will be.
    #[must_use]
    pub fn write(&self, number: u64) -> Write {
        let mut random = Random::new(mix(self.seed) ^ mix(number));
        let disk = usize::try_from(random.below(self.sizes.len() as u64)).unwrap_or(0);
        let all = (self.sizes[disk] / SLOT) as u64;
        let slots = (*random.one_of(&[1, 1, 1, 2, 4, 16, 64])).min(all);
        let slot = random.below(all - slots + 1);
        let zeros = number.is_multiple_of(2) && random.percent(20);
        Write {
            number,
            disk,
            slot,
            slots,
            content: if zeros { Content::Zeros } else { Content::Record },
        }
    }

    /// Writes begun so far.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.done.len() as u64
    }

    /// The write that is made next.
    #[must_use]
    pub fn next(&self) -> Write {
        self.write(self.begun() + 1)
    }

    /// The next write, which is about to be made.
    pub fn begin(&mut self) -> Write {
        let write = self.next();
        self.done.push(None);
        if let Some(epoch) = self.epochs.last_mut() {
            for slot in write.slot..write.slot + write.slots {
                epoch.touched[write.disk]
                    .entry(slot)
                    .or_default()
                    .push(write.number);
            }
        }
        write
    }

    /// The write that was begun and never completed, to be made again; otherwise the next one. Part of it may be there.
    pub fn repeat_or_begin(&mut self) -> Write {
        let next = self.complete() + 1;
        if next > self.begun() {
            return self.begin();
        }
        self.failed(next);
        self.write(next)
    }

    /// A write is complete, at this time in milliseconds since 1970.
    pub fn end(&mut self, number: u64, now: u64) {
        if let Some(done) = index(number).and_then(|i| self.done.get_mut(i)) {
            *done = Some(now);
        }
    }

    /// A write failed and will be tried again: part of it may be there.
    pub fn failed(&mut self, number: u64) {
        self.torn.insert(number);
    }

    /// The last of the writes that, with all before it, were complete before this time.
    #[must_use]
    pub fn complete_before(&self, time: u64) -> u64 {
        let complete = self.done.iter().take_while(|d| d.is_some_and(|d| d < time));
        complete.count() as u64
    }

    /// The last of the writes that, with all before it, are complete.
    #[must_use]
    pub fn complete(&self) -> u64 {
        self.complete_before(u64::MAX)
    }

    /// When a write was complete.
    #[must_use]
    pub fn done_at(&self, number: u64) -> Option<u64> {
        *self.done.get(index(number)?)?
    }

    /// What these images are, one for each disk, in order; of instants before a power cut under the VM as of later ones.
    /// `instant` is in milliseconds since 1970; `None`: now.
    #[must_use]
    pub fn judge(&self, images: &[Vec<u8>], instant: Option<u64>) -> Verdict {
        for (disk, (image, size)) in images.iter().zip(&self.sizes).enumerate() {
            if image.len() != *size {
                return Verdict::Wrong(format!("disk {disk} has {} bytes, not {size}", image.len()));
            }
        }
        let fits = |e: &&Epoch| e.until.is_none_or(|until| instant.is_some_and(|i| i <= until));
        let Some(epoch) = self.epochs.iter().find(fits) else {
            return Verdict::Wrong("no history".into());
        };
        let newest = images
            .iter()
            .flat_map(|i| i.chunks_exact(SLOT))
            .filter_map(number_of);
        let newest = newest.max().unwrap_or(0).max(epoch.before);
        if newest > self.begun() {
            return Verdict::Wrong(format!("holds write {newest} of {}", self.begun()));
        }
        let (mut state, mut first_wrong) = (None, None);
        // Part of a write that failed may be there before it counts.
        let least = newest - u64::from(newest > epoch.before && self.torn.contains(&newest));
        for k in least..=self.begun().min(newest + HIDDEN) {
            match (self.difference(epoch, images, k), state) {
                (None, None) => state = Some((k, k)),
                (None, Some((from, _))) => state = Some((from, k)),
                (Some(_), Some(_)) => break,
                (Some(wrong), None) => {
                    first_wrong.get_or_insert(wrong);
                }
            }
        }
        match state {
            Some((from, to)) => Verdict::State { from, to },
            None => Verdict::Wrong(format!(
                "newest record found is of write {newest}; {}",
                first_wrong.unwrap_or_default()
            )),
        }
    }

    /// Where the images are not the state after `k` writes.
    fn difference(&self, epoch: &Epoch, images: &[Vec<u8>], k: u64) -> Option<String> {
        let mut wrong = Vec::new();
        for (disk, image) in images.iter().enumerate() {
            let base = (0..).zip(&epoch.base[disk]);
            let mut expected: Vec<u8> = base.flat_map(|(slot, held)| held.bytes(disk, slot)).collect();
            for (slot, numbers) in &epoch.touched[disk] {
                let last = numbers.partition_point(|n| *n <= k).checked_sub(1);
                let Some(number) = last.and_then(|at| numbers.get(at)) else {
                    continue;
                };
                let content = self.write(*number).content;
                expected[range(*slot)].copy_from_slice(&record(*number, content, disk, *slot));
            }
            if expected == *image {
                continue;
            }
            let pairs = expected.chunks_exact(SLOT).zip(image.chunks_exact(SLOT));
            for (slot, (want, got)) in (0..).zip(pairs).filter(|(_, (want, got))| want != got) {
                if !self.excused(k + 1, disk, slot) {
                    wrong.push(format!(
                        "disk {disk} slot {slot} holds {}, not {}",
                        describe(got),
                        describe(want)
                    ));
                }
            }
        }
        let count = wrong.len();
        wrong.truncate(4);
        (count > 0).then(|| {
            format!(
                "{count} slots differ from the state after {k}: {}",
                wrong.join("; ")
            )
        })
    }

    /// Whether this slot may be old or new because the next write has failed there before it succeeded.
    fn excused(&self, next: u64, disk: usize, slot: u64) -> bool {
        self.torn.contains(&next) && self.write(next).covers(disk, slot)
    }

    /// The power of the VM's host went at `now`, and this is what its disks hold: every write up to `flushed` was flushed and
    /// has to be there; of later ones any sector may be old or new. Writing goes on from here.
    ///
    /// # Errors
    /// What a flushed write lost.
    pub fn rebase(&mut self, images: &[Vec<u8>], flushed: u64, now: u64) -> Result<(), String> {
        let lost = self.lost_flushed(images, flushed);
        if let Some(epoch) = self.epochs.last_mut() {
            epoch.until = Some(now);
        }
        let touched = vec![BTreeMap::new(); self.sizes.len()];
        let held = |(disk, image): (usize, &Vec<u8>)| {
            let slots = (0..).zip(image.chunks_exact(SLOT));
            slots.map(|(slot, bytes)| Held::of(bytes, disk, slot)).collect()
        };
        let base = images.iter().enumerate().map(held).collect();
        // What was begun and never flushed is settled now, one way or the other.
        for done in &mut self.done {
            done.get_or_insert(now);
        }
        self.epochs.push(Epoch {
            until: None,
            before: self.begun(),
            base,
            touched,
        });
        let old = self.epochs.len().saturating_sub(EPOCHS);
        self.epochs.drain(..old);
        lost.map_or(Ok(()), Err)
    }

    fn lost_flushed(&self, images: &[Vec<u8>], flushed: u64) -> Option<String> {
        let epoch = self.epochs.last()?;
        let later: Vec<Write> = (flushed + 1..=self.begun()).map(|n| self.write(n)).collect();
        for (disk, image) in images.iter().enumerate() {
            for (slot, got) in (0..).zip(image.chunks_exact(SLOT)) {
                if later.iter().any(|w| w.covers(disk, slot)) {
                    continue;
                }
                let numbers = epoch.touched[disk].get(&slot).map_or(&[][..], |n| n);
                let last = numbers.iter().rfind(|n| **n <= flushed);
                let want = match last {
                    Some(n) => record(*n, self.write(*n).content, disk, slot),
                    None => epoch.base[disk]
                        .get(usize::try_from(slot).unwrap_or(usize::MAX))
                        .map_or_else(Vec::new, |held| held.bytes(disk, slot)),
                };
                if got != want {
                    let (got, want) = (describe(got), describe(&want));
                    return Some(format!(
                        "disk {disk} slot {slot} holds {got} after the cut, not {want}, which was flushed"
                    ));
                }
            }
        }
        None
    }
}

fn index(number: u64) -> Option<usize> {
    usize::try_from(number.checked_sub(1)?).ok()
}

fn range(slot: u64) -> std::ops::Range<usize> {
    let from = usize::try_from(slot).unwrap_or(usize::MAX) * SLOT;
    from..from + SLOT
}

fn number_of(slot: &[u8]) -> Option<u64> {
    let number = slot.get(8..16)?.try_into().ok().map(u64::from_le_bytes)?;
    slot.starts_with(MAGIC).then_some(number)
}

fn describe(slot: &[u8]) -> String {
    if slot.iter().all(|b| *b == 0) {
        return "zeros".into();
    }
    let word = |at: usize| slot[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    match number_of(slot) {
        Some(number) => {
            let (disk, place) = (word(16), word(24));
            let intact = record(number, Content::Record, usize::try_from(disk).unwrap_or(0), place) == slot;
            let torn = if intact { "" } else { ", damaged" };
            format!("write {number} (of disk {disk} slot {place}{torn})")
        }
        None => format!("{:02x?}…", &slot[..8]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 1 << 20;

    /// A history of `n` writes, complete at 10, 20, 30 …, and the disks after each.
    fn written(n: u64) -> (History, Vec<Vec<Vec<u8>>>) {
        let mut history = History::new(5, &[SIZE, SIZE]);
        let mut states = vec![vec![vec![0; SIZE]; 2]];
        for k in 1..=n {
            let write = history.begin();
            let mut disks = states[states.len() - 1].clone();
            apply(&mut disks, &write);
            states.push(disks);
            history.end(k, k * 10);
        }
        (history, states)
    }

    fn apply(disks: &mut [Vec<u8>], write: &Write) {
        let from = range(write.slot).start;
        let bytes = write.bytes();
        disks[write.disk][from..from + bytes.len()].copy_from_slice(&bytes);
    }

    #[test]
    fn every_state_is_told_from_every_other() {
        let (history, states) = written(80);
        for (k, disks) in (0..).zip(&states) {
            let Verdict::State { from, to } = history.judge(disks, None) else {
                panic!("state {k}: {:?}", history.judge(disks, None));
            };
            assert!((from..=to).contains(&k), "{k} is not in {from}..={to}");
            for other in from..=to {
                assert_eq!(disks, &states[usize::try_from(other).unwrap()]);
            }
        }
    }

    #[test]
    fn two_disks_of_different_instants_one_stale_slot_and_one_bit_are_wrong() {
        let (history, states) = written(60);
        let wrong = |disks: &[Vec<u8>]| matches!(history.judge(disks, None), Verdict::Wrong(_));
        assert!(wrong(&[states[60][0].clone(), states[40][1].clone()]));
        let newest = history.write(60);
        let mut stale = states[60].clone();
        stale[newest.disk][range(newest.slot)].copy_from_slice(&states[59][newest.disk][range(newest.slot)]);
        let same = stale == states[60];
        assert!(same || wrong(&stale) || newest.slots == 1);
        let mut flipped = states[60].clone();
        flipped[0][SIZE / 2] ^= 1;
        assert!(wrong(&flipped));
        assert!(wrong(&[states[60][0][1..].to_vec(), states[60][1].clone()]));
    }

    #[test]
    fn an_instant_needs_every_write_that_was_complete_before_it() {
        let (mut history, _) = written(9);
        assert_eq!(history.complete_before(55), 5);
        assert_eq!(history.complete_before(50), 4);
        history.begin();
        assert_eq!(history.complete(), 9);
        assert_eq!(history.done_at(9), Some(90));
        assert_eq!(history.done_at(10), None);
    }

    #[test]
    fn after_a_power_cut_flushed_writes_must_be_there_and_later_ones_may_be() {
        let (mut history, states) = written(30);
        let lost = states[20].clone();
        assert!(history.lost_flushed(&lost, 20).is_none());
        assert!(history.lost_flushed(&lost, 30).is_some());
        assert!(history.rebase(&lost, 20, 305).is_ok());
        // Instants before the cut mean what was written then, later ones what survived.
        assert!(matches!(
            history.judge(&states[25], Some(255)),
            Verdict::State {
                from: ..=25,
                to: 25..
            }
        ));
        assert!(matches!(history.judge(&states[25], Some(306)), Verdict::Wrong(_)));
        assert_eq!(history.judge(&lost, None), Verdict::State { from: 30, to: 30 });
        let next = history.begin();
        assert_eq!(next.number, 31);
        let mut disks = lost;
        apply(&mut disks, &next);
        let told = history.judge(&disks, None);
        assert!(
            matches!(
                told,
                Verdict::State {
                    from: ..=31,
                    to: 31..
                }
            ),
            "{told:?}"
        );
    }

    #[test]
    fn an_instant_before_several_power_cuts_means_what_was_written_then() {
        let (mut history, states) = written(30);
        let held = states[20].clone();
        for cut in 0..9 {
            assert!(history.rebase(&held, 20, 305 + cut).is_ok());
        }
        assert!(matches!(
            history.judge(&states[25], Some(255)),
            Verdict::State { .. }
        ));
        assert!(matches!(
            history.judge(&held, Some(255)),
            Verdict::State {
                from: ..=20,
                to: 20..
            }
        ));
        assert!(matches!(history.judge(&states[25], None), Verdict::Wrong(_)));
    }

    #[test]
    fn a_write_that_failed_may_be_there_in_part_before_it_counts() {
        let (mut history, states) = written(20);
        let next = (21..)
            .map(|n| history.write(n))
            .find(|w| w.slots > 1 && w.content == Content::Record);
        let next = next.expect("a long write");
        let mut disks = states[20].clone();
        for k in 21..next.number {
            let write = history.begin();
            apply(&mut disks, &write);
            history.end(k, k * 10);
        }
        history.begin();
        let before = disks.clone();
        let bytes = next.bytes();
        disks[next.disk][range(next.slot)].copy_from_slice(&bytes[..SLOT]);
        assert!(matches!(history.judge(&disks, None), Verdict::Wrong(_)));
        history.failed(next.number);
        assert!(matches!(history.judge(&before, None), Verdict::State { .. }));
        assert!(matches!(history.judge(&disks, None), Verdict::State { .. }));
    }
}
