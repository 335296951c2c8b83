//! Random numbers from a seed, the same on every machine. Not for secrets.

/// xorshift64* over a seed that was mixed first, so that neighbouring seeds lead to unrelated sequences.
#[derive(Clone, Debug)]
pub struct Random(u64);

/// One step of splitmix64: a well mixed function of `x`.
#[must_use]
pub fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Random {
    /// A sequence of its own for each seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(mix(seed).max(1))
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number from 0 to `n` - 1; 0 when `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { (self.next_u64() >> 11) % n }
    }

    /// A number from `from` to `to`, both included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// One of these.
    ///
    /// # Panics
    /// When there is none.
    pub fn one_of<'a, T>(&mut self, these: &'a [T]) -> &'a T {
        assert!(!these.is_empty(), "nothing to choose from");
        let at = usize::try_from(self.below(these.len() as u64)).unwrap_or(0);
        &these[at]
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_and_another_seed_gives_others() {
        let numbers = |seed| {
            let mut random = Random::new(seed);
            (0..8).map(|_| random.between(3, 9)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
        assert!(numbers(7).iter().all(|n| (3..=9).contains(n)));
    }
}
