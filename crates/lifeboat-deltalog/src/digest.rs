//! The running BLAKE3 of a log. It differs from a plain hasher only in speed: BLAKE3 is fast over long inputs, and frames
//! of a few KiB, hashed one by one, would cost twice the time.

/// What is shorter than this waits for company.
const BATCH: usize = 64 << 10;

#[derive(Default)]
pub(crate) struct Digest {
    hasher: blake3::Hasher,
    waiting: Vec<u8>,
}

impl Digest {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        if self.waiting.len() + bytes.len() < BATCH {
            self.waiting.extend_from_slice(bytes);
        } else {
            self.flush();
            self.hasher.update(bytes);
        }
    }

    fn flush(&mut self) {
        self.hasher.update(&self.waiting);
        self.waiting.clear();
    }

    pub(crate) fn value(&mut self) -> [u8; 32] {
        self.flush();
        *self.hasher.finalize().as_bytes()
    }
}
