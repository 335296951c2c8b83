//! Seeded damage, shared by the tests of the decoders.

/// A small generator (xorshift): what matters is that a seed repeats its run everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap()
    }

    /// One to three hurts: a flipped bit, an extreme byte, a cut, a doubled or a lost piece. Half of the hurts
    /// hit one of the first `head` bytes behind a random spot, where headers are more likely than data.
    pub(crate) fn damage(&mut self, bytes: &mut Vec<u8>, head: usize) {
        for _ in 0..=self.below(3) {
            if bytes.is_empty() {
                return;
            }
            let near = if self.below(2) == 0 {
                bytes.len().min(head)
            } else {
                bytes.len()
            };
            let from_end = self.below(2) == 0;
            let spot = self.below(near);
            let spot = if from_end { bytes.len() - 1 - spot } else { spot };
            match self.below(5) {
                0 => bytes[spot] ^= 1 << self.below(8),
                1 => bytes[spot] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                2 => bytes.truncate(spot),
                3 => {
                    let piece = bytes[spot..(spot + 1 + self.below(64)).min(bytes.len())].to_vec();
                    bytes.splice(spot..spot, piece);
                }
                _ => drop(bytes.drain(spot..(spot + 1 + self.below(32)).min(bytes.len()))),
            }
        }
    }
}
