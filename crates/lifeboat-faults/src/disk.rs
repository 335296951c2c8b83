//! A disk with a volatile write cache, as data in memory: what was written, and which part of it would survive a power cut.
//! How it is reached, and what else can go wrong with it, is in [`served`](crate::served).

use std::collections::VecDeque;

use crate::random::Random;

/// What becomes of the cache when the power goes. A real disk may do any of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// All of it is lost.
    Lost,
    /// All of it was written just in time.
    Written,
    /// Writes are kept in their order, up to a random one.
    Prefix,
    /// Each 4 KiB sector of each write is kept with this probability, so later writes survive earlier ones.
    Sectors {
        /// 0 to 100.
        percent: u8,
    },
    /// The same with 512-byte sectors: a 4 KiB block of a file system can be torn.
    Torn {
        /// 0 to 100.
        percent: u8,
    },
}

/// What a power cut found in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Writes that had not been flushed.
    pub writes: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Bytes of them that were kept.
    pub kept: u64,
}

/// Whether the disk does what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Honesty {
    /// A flush that succeeded made everything before it durable.
    Honest,
    /// A flush succeeds and makes nothing durable. With such a disk every campaign must find losses.
    DropsFlushes,
}

struct Pending {
    offset: usize,
    data: Vec<u8>,
}

/// The disk. Offsets and lengths are bytes.
pub struct Disk {
    live: Vec<u8>,
    durable: Vec<u8>,
    cache: VecDeque<Pending>,
    honesty: Honesty,
}

impl Disk {
    /// A disk of zeros. Memory is taken only for what is written.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self {
            live: vec![0; len],
            durable: vec![0; len],
            cache: VecDeque::new(),
            honesty: Honesty::Honest,
        }
    }

    /// Size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether the disk has no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// From now on flushes do what this says.
    pub fn set_honesty(&mut self, honesty: Honesty) {
        self.honesty = honesty;
    }

    /// What a reader sees: writes count at once. Shorter at the end of the disk.
    #[must_use]
    pub fn read(&self, offset: usize, len: usize) -> &[u8] {
        let from = offset.min(self.len());
        let to = offset.saturating_add(len).min(self.len());
        &self.live[from..to]
    }

    /// Takes a write into the cache; false when it would go beyond the end.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> bool {
        let Some(to) = offset.checked_add(data.len()).filter(|to| *to <= self.len()) else {
            return false;
        };
        self.live[offset..to].copy_from_slice(data);
        self.cache.push_back(Pending {
            offset,
            data: data.to_vec(),
        });
        true
    }

    /// Makes everything written so far durable, unless the disk lies.
    pub fn flush(&mut self) {
        match self.honesty {
            Honesty::Honest => {
                for write in self.cache.drain(..) {
                    keep(&mut self.durable, write.offset, &write.data);
                }
            }
            Honesty::DropsFlushes => {}
        }
    }

    /// Writes that no flush has made durable, and the bytes in them.
    #[must_use]
    pub fn pending(&self) -> (u64, u64) {
        let bytes = self.cache.iter().map(|w| w.data.len() as u64).sum();
        (self.cache.len() as u64, bytes)
    }

    /// The power goes: the cache meets its fate, and the disk holds what survived.
    pub fn cut(&mut self, fate: Fate, random: &mut Random) -> Cut {
        let (writes, bytes) = self.pending();
        let mut kept = 0;
        let prefix = match fate {
            Fate::Prefix => random.below(writes + 1),
            Fate::Written => writes,
            Fate::Lost | Fate::Sectors { .. } | Fate::Torn { .. } => 0,
        };
        for (number, write) in (0..).zip(&self.cache) {
            kept += match fate {
                Fate::Lost | Fate::Written | Fate::Prefix if number < prefix => {
                    keep(&mut self.durable, write.offset, &write.data)
                }
                Fate::Lost | Fate::Written | Fate::Prefix => 0,
                Fate::Sectors { percent } => some(&mut self.durable, write, 4096, percent, random),
                Fate::Torn { percent } => some(&mut self.durable, write, 512, percent, random),
            };
        }
        // Each place that the cache covered shows what survived there.
        for write in self.cache.drain(..) {
            let range = write.offset..write.offset + write.data.len();
            self.live[range.clone()].copy_from_slice(&self.durable[range]);
        }
        Cut { writes, bytes, kept }
    }
}

fn keep(durable: &mut [u8], offset: usize, data: &[u8]) -> u64 {
    durable[offset..offset + data.len()].copy_from_slice(data);
    data.len() as u64
}

/// Keeps each sector of a write with a probability; the bytes kept.
fn some(durable: &mut [u8], write: &Pending, sector: usize, percent: u8, random: &mut Random) -> u64 {
    let (mut at, mut kept) = (0, 0);
    while at < write.data.len() {
        let place = write.offset + at;
        let next = (place / sector + 1) * sector - write.offset;
        let next = next.min(write.data.len());
        if random.percent(percent.into()) {
            kept += keep(durable, place, &write.data[at..next]);
        }
        at = next;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Disk {
        let mut disk = Disk::new(64 << 10);
        assert!(disk.write(0, &[1; 8192]));
        disk.flush();
        assert!(disk.write(4096, &[2; 8192]));
        assert!(disk.write(8192, &[3; 4096]));
        disk
    }

    #[test]
    fn what_was_flushed_survives_and_what_was_not_is_lost() {
        let mut disk = disk();
        assert_eq!(disk.read(8192, 1), [3]);
        let cut = disk.cut(Fate::Lost, &mut Random::new(1));
        assert_eq!(
            cut,
            Cut {
                writes: 2,
                bytes: 12288,
                kept: 0
            }
        );
        assert_eq!(disk.read(4096, 4096), [1; 4096]);
        assert_eq!(disk.read(8192, 4096), [0; 4096]);
        assert_eq!(disk.pending(), (0, 0));
    }

    #[test]
    fn a_cache_that_was_written_in_time_is_as_good_as_flushed() {
        let mut disk = disk();
        assert_eq!(disk.cut(Fate::Written, &mut Random::new(1)).kept, 12288);
        assert_eq!(disk.read(4096, 4096), [2; 4096]);
        assert_eq!(disk.read(8192, 4096), [3; 4096]);
    }

    #[test]
    fn a_prefix_never_keeps_a_later_write_without_an_earlier_one() {
        let mut seen = [0; 3];
        for seed in 0..60 {
            let mut disk = disk();
            disk.cut(Fate::Prefix, &mut Random::new(seed));
            let found = (disk.read(4096, 1)[0], disk.read(8192, 1)[0]);
            let which = [(1, 0), (2, 2), (2, 3)].iter().position(|x| *x == found);
            seen[which.expect("a prefix")] += 1;
        }
        assert!(seen.iter().all(|n| *n > 5), "{seen:?}");
    }

    #[test]
    fn sectors_survive_one_by_one_and_only_torn_ones_break_4_kib() {
        let mut reordered = 0;
        for seed in 0..60 {
            let mut whole = disk();
            whole.cut(Fate::Sectors { percent: 50 }, &mut Random::new(seed));
            for at in [4096, 8192] {
                let sector = whole.read(at, 4096);
                assert!(sector.iter().all(|b| *b == sector[0]));
            }
            reordered += i32::from(whole.read(4096, 1) == [1] && whole.read(8192, 1) == [3]);
        }
        assert!(reordered > 5);
        let mut torn = disk();
        torn.cut(Fate::Torn { percent: 50 }, &mut Random::new(2));
        let sector = torn.read(8192, 4096);
        assert!(sector.iter().any(|b| *b != sector[0]));
    }

    #[test]
    fn a_disk_that_drops_flushes_loses_what_was_flushed() {
        let mut disk = disk();
        disk.set_honesty(Honesty::DropsFlushes);
        disk.flush();
        disk.cut(Fate::Lost, &mut Random::new(1));
        assert_eq!(disk.read(4096, 1), [1]);
        assert_eq!(disk.read(8192, 1), [0]);
    }

    #[test]
    fn nothing_is_written_beyond_the_end() {
        let mut disk = Disk::new(4096);
        assert!(!disk.write(4095, &[1, 2]));
        assert!(!disk.write(usize::MAX, &[1]));
        assert_eq!(disk.read(4000, 4096).len(), 96);
    }
}
