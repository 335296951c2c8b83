//! What changes look like: how much was written, and how much of it looks like encrypted data. Ransomware that encrypts a
//! guest's files shows as a burst of changes that cannot be compressed. No file and no clock here; it does not know why a
//! guest writes, so a backup that a guest makes of itself looks the same.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::arrival::Arrival;

/// Bytes that changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Written with other content than zeros.
    pub data: u64,
    /// Of `data`, what no compression makes smaller: encrypted or compressed already, as far as samples show.
    pub random: u64,
    /// Zeroed or discarded.
    pub zeroed: u64,
}

/// Of each piece of this size the beginning is looked at.
const PIECE: usize = 16 << 10;

/// Bytes that are looked at of a piece: enough that 256 values of a byte show how even they are.
const SAMPLE: usize = 4096;

/// Shorter pieces say nothing.
const SAMPLE_MIN: usize = 256;

impl Changed {
    /// Adds data that was written.
    pub fn wrote(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(PIECE) {
            let len = piece.len() as u64;
            self.data = self.data.saturating_add(len);
            if is_random(piece.get(..SAMPLE).unwrap_or(piece)) {
                self.random = self.random.saturating_add(len);
            }
        }
    }

    /// Adds a range that was zeroed.
    pub fn zeroed(&mut self, len: u64) {
        self.zeroed = self.zeroed.saturating_add(len);
    }

    /// Bytes that changed at all.
    #[must_use]
    pub fn touched(self) -> u64 {
        self.data.saturating_add(self.zeroed)
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            data: self.data.saturating_add(other.data),
            random: self.random.saturating_add(other.random),
            zeroed: self.zeroed.saturating_add(other.zeroed),
        }
    }

    /// What came since a smaller sum.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            data: self.data.saturating_sub(earlier.data),
            random: self.random.saturating_sub(earlier.random),
            zeroed: self.zeroed.saturating_sub(earlier.zeroed),
        }
    }
}

/// Whether the bytes are as evenly distributed as those of encrypted or compressed data: two of them are equal at most 1.25
/// times as often as chance has it (1 in 256), which is a collision entropy above 7.67 bits per byte. Text has 4 to 5,
/// programs 5 to 6.5, base64 6.
fn is_random(sample: &[u8]) -> bool {
    if sample.len() < SAMPLE_MIN {
        return false;
    }
    let mut counts = [0u64; 256];
    for byte in sample {
        counts[usize::from(*byte)] += 1;
    }
    let len = sample.len() as u64;
    let pairs: u64 = counts.iter().map(|n| n * n.saturating_sub(1)).sum();
    // pairs <= 1.25 * len * (len - 1) / 256
    pairs * 1024 <= 5 * len * (len - 1)
}

/// How long changes are added up.
pub const BURST_TIME: Duration = Duration::from_secs(3600);

/// Least bytes of a burst: what ordinary work of a small VM comes to.
const BURST_MIN: u64 = 512 << 20;

/// Most bytes that it takes, however large the disks are: an encrypting process writes some 5 MB/s at least.
const BURST_MAX: u64 = 16 << 30;

/// How many times the usual a burst is.
const BURST_TIMES: u64 = 4;

/// What is known of the rate of changes of a VM. The hours are those in which something arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRate {
    /// Changes of the hour that goes on.
    #[serde(default)]
    pub hour: Changed,
    /// When it began, on the scale of arrivals (`Arrival::progress_ms`).
    #[serde(default)]
    pub began_ms: u64,
    /// Bytes that could not be compressed in the worst hour, forgotten by 2 % an hour: after a day 62 % are left, after
    /// four days 14 %. So a backup of each night is usual from its second time on.
    #[serde(default)]
    pub usual: u64,
}

/// Changes that are out of the ordinary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// Since the hour began.
    pub hour: Changed,
    /// Bytes that could not be compressed in the worst hour before.
    pub usual: u64,
}

impl ChangeRate {
    /// Adds changes that arrived then, of disks with so many bytes together. A burst is at least a sixteenth of the disks (and
    /// 512 MiB, and at most 16 GiB) within an hour, four times the usual, and three quarters of what was written.
    pub fn add(&mut self, at: Arrival, changed: Changed, disks: u64) -> Option<Burst> {
        let hour = u64::try_from(BURST_TIME.as_millis()).unwrap_or(u64::MAX);
        let passed = at.progress_ms.saturating_sub(self.began_ms) / hour;
        if passed > 0 || at.progress_ms < self.began_ms {
            self.usual = self.usual.max(self.hour.random);
            for _ in 0..passed.min(24 * 30) {
                self.usual = self.usual / 100 * 98;
            }
            (self.hour, self.began_ms) = (Changed::default(), at.progress_ms);
        }
        self.hour = self.hour.and(changed);
        let of_disks = (disks / 16).clamp(BURST_MIN, BURST_MAX);
        let random = self.hour.random;
        let much = random >= of_disks && random >= self.usual.saturating_mul(BURST_TIMES);
        let mostly = random >= self.hour.data / 4 * 3;
        (much && mostly).then_some(Burst {
            hour: self.hour,
            usual: self.usual,
        })
    }

    /// An administrator looked at it and it is in order: as much again is no burst.
    pub fn accept(&mut self) {
        self.usual = self.usual.max(self.hour.random);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Reading, Timestamp};

    const GIB: u64 = 1 << 30;
    const HOUR: u64 = 3_600_000;

    /// Bytes of a generator (xorshift64*).
    fn noise(len: usize) -> Vec<u8> {
        let mut x = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            x ^= x >> 12;
            x ^= x << 25;
            x ^= x >> 27;
            (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    fn of(bytes: &[u8]) -> Changed {
        let mut changed = Changed::default();
        changed.wrote(bytes);
        changed
    }

    #[test]
    fn what_cannot_be_compressed_is_told_from_what_can() {
        let noise = noise(1 << 20);
        let base64: Vec<u8> = noise.iter().map(|b| b' ' + b % 64).collect();
        let text: Vec<u8> = b"the quick brown fox jumps over the lazy dog. "
            .iter()
            .copied()
            .cycle()
            .take(1 << 20)
            .collect();
        // Every second block of a file is encrypted, the others are left alone.
        let halves: Vec<u8> = noise
            .chunks(PIECE)
            .enumerate()
            .flat_map(|(n, c)| if n % 2 == 0 { c.to_vec() } else { vec![0; c.len()] })
            .collect();
        for (what, bytes, random) in [
            ("noise", &noise[..], 1 << 20),
            ("one block of it", &noise[..4096], 4096),
            ("512 bytes of it", &noise[..512], 512),
            ("too little to tell", &noise[..200], 0),
            ("base64", &base64[..], 0),
            ("text", &text[..], 0),
            ("zeros", &[0; 8192][..], 0),
            ("halves", &halves[..], 1 << 19),
            ("a table of 16-bit numbers", &counted()[..], 0),
        ] {
            let changed = of(bytes);
            assert_eq!(
                (changed.data, changed.random),
                (bytes.len() as u64, random),
                "{what}"
            );
        }
    }

    /// Numbers below 1000 in 16 bits each.
    fn counted() -> Vec<u8> {
        (0..8192u16).flat_map(|n| (n % 1000).to_le_bytes()).collect()
    }

    fn at(progress_ms: u64) -> Arrival {
        Arrival {
            progress_ms,
            at: Reading {
                boot: uuid::Uuid::nil(),
                up_ms: 0,
                wall: Timestamp(0),
            },
        }
    }

    fn random(bytes: u64) -> Changed {
        Changed {
            data: bytes,
            random: bytes,
            zeroed: 0,
        }
    }

    #[test]
    fn a_burst_is_much_of_the_disk_and_much_more_than_usual() {
        let mut rate = ChangeRate::default();
        let disk = 100 * GIB;
        // 6.25 GiB are a sixteenth.
        assert_eq!(rate.add(at(0), random(6 * GIB), disk), None);
        let burst = rate.add(at(60_000), random(GIB), disk).unwrap();
        assert_eq!((burst.hour.random, burst.usual), (7 * GIB, 0));
        // Looked at: the same again is none, four times as much is.
        rate.accept();
        assert_eq!(rate.add(at(HOUR), random(7 * GIB), disk), None);
        assert!(rate.add(at(2 * HOUR), random(29 * GIB), disk).is_some());
        // What compresses is none, nor is a little that does not beside it.
        let mut rate = ChangeRate::default();
        let mixed = Changed {
            data: 90 * GIB,
            random: 40 * GIB,
            zeroed: 0,
        };
        assert_eq!(rate.add(at(0), mixed, disk), None);
        // A small disk has to have 512 MiB, one of 10 TiB no more than 16 GiB.
        let (small, large) = (GIB, 10_240 * GIB);
        assert_eq!(ChangeRate::default().add(at(0), random(511 << 20), small), None);
        assert!(
            ChangeRate::default()
                .add(at(0), random(512 << 20), small)
                .is_some()
        );
        assert!(
            ChangeRate::default()
                .add(at(0), random(16 * GIB), large)
                .is_some()
        );
    }

    #[test]
    fn what_comes_each_night_is_usual_from_the_second_night_on() {
        let mut rate = ChangeRate::default();
        let mut found = Vec::new();
        for hour in 0..24 * 14 {
            let bytes = if hour % 24 == 2 { 40 * GIB } else { GIB / 10 };
            if rate.add(at(hour * HOUR), random(bytes), 200 * GIB).is_some() {
                found.push(hour);
            }
        }
        assert_eq!(found, [2], "the first night only");
        // A month of silence later it is unusual again.
        let later = (24 * 14 + 24 * 30) * HOUR;
        assert!(rate.add(at(later), random(40 * GIB), 200 * GIB).is_some());
    }

    #[test]
    fn numbers_at_their_limits_do_no_harm() {
        let mut rate = ChangeRate {
            began_ms: u64::MAX,
            usual: u64::MAX,
            ..ChangeRate::default()
        };
        let all = Changed {
            data: u64::MAX,
            random: u64::MAX,
            zeroed: u64::MAX,
        };
        assert!(rate.add(at(0), all, u64::MAX).is_some());
        rate.accept();
        assert!(rate.add(at(u64::MAX), all, u64::MAX).is_some());
        assert_eq!(rate.hour, all);
    }
}
