//! Random moments, from a seed that is printed and can be replayed with `LIFEBOAT_SEED`; `LIFEBOAT_ROUNDS` makes a
//! test longer.

use std::time::Duration;

/// xorshift64*: small, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(what: &str) -> Self {
        let seed = std::env::var("LIFEBOAT_SEED")
            .ok()
            .and_then(|s| s.parse().ok())
            .unwrap_or(20_261_122);
        eprintln!("{what}: LIFEBOAT_SEED={seed}");
        Self(seed)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % n
    }

    pub fn pause(&mut self, max_ms: u64) {
        // The point of a random moment is that nothing announces it.
        std::thread::park_timeout(Duration::from_millis(self.below(max_ms)));
    }
}

/// How many rounds a test does.
pub fn rounds(default: u64) -> u64 {
    std::env::var("LIFEBOAT_ROUNDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(default)
}
