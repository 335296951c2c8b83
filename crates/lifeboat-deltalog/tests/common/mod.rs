//! What several tests share: sample logs, a seeded source of numbers, and taking a log apart. No assertions about the format.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use lifeboat_deltalog::{
    Consistency, DecodeError, Decoder, Encoder, FrameEncoder, Header, Item, LogDisk, LogKind,
};
use lifeboat_model::{DiskId, GenerationId, Position, Timestamp, VmId};

/// A small generator (xorshift64*): the same numbers for the same seed, everywhere.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 0 to `n` - 1.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % (n as u64)).expect("below a usize")
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(8))
            .flat_map(|_| self.next().to_le_bytes())
            .take(len)
            .collect()
    }
}

pub fn position(sequence: u64) -> Position {
    let generation: GenerationId = "10111213-1415-1617-1819-1a1b1c1d1e1f".parse().expect("a UUID");
    Position::from_parts(generation, sequence)
}

pub fn header(disks: &[(&str, u64)]) -> Header {
    let vm: VmId = "00112233-4455-6677-8899-aabbccddeeff".parse().expect("a UUID");
    let disk = |&(id, size): &(&str, u64)| LogDisk {
        id: DiskId::new(id).expect("a disk id"),
        size,
    };
    Header {
        vm,
        kind: LogKind::Delta,
        position: position(7),
        parent: position(6),
        instant: Timestamp(1_767_323_045_678),
        consistency: Consistency::Application,
        disks: disks.iter().map(disk).collect(),
    }
}

/// The log of the worked example in `docs/deltalog.md`.
pub fn example() -> Vec<u8> {
    let mut log = Vec::new();
    let header = header(&[("sys", 1 << 20), ("data-1", 64 << 10)]);
    let mut e = Encoder::new(&header, false, &mut log).expect("a valid header");
    e.data(0, 4096, &[0x5a; 512], &mut log).expect("in range");
    let packed = FrameEncoder::new(true)
        .encode(0, 8192, &[0x41; 1024])
        .expect("a valid frame");
    e.push_frame(&packed, &mut log).expect("in range");
    e.zero(1, 0, 64 << 10, &mut log).expect("in range");
    e.finish(&mut log);
    log
}

/// All items of a log, pushed in pieces of `step` bytes.
pub fn decode(log: &[u8], step: usize) -> Result<Vec<Item>, DecodeError> {
    let mut decoder = Decoder::new();
    let mut items = Vec::new();
    for piece in log.chunks(step.max(1)) {
        decoder.push(piece);
        while let Some(item) = decoder.next()? {
            items.push(item);
        }
    }
    decoder.finish()?;
    Ok(items)
}

/// Positions of the frames in a valid log, and of the footer at the end of the list.
pub fn records(log: &[u8]) -> Vec<usize> {
    let u32_at = |at: usize| u32::from_le_bytes(log[at..at + 4].try_into().expect("4 bytes")) as usize;
    let mut at = u32_at(12);
    let mut found = vec![at];
    while &log[at..at + 4] == b"LBFR" {
        at += 32 + u32_at(at + 24);
        found.push(at);
    }
    found
}

/// Puts right checksums and digest after a field was changed, as a hostile writer would.
pub fn repair(log: &mut [u8], records: &[usize]) {
    let crc_to = |log: &mut [u8], at: usize, crc: u32| log[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    let header = records[0];
    let crc = crc32c::crc32c(&log[..header - 4]);
    crc_to(log, header - 4, crc);
    for pair in records.windows(2) {
        let (start, end) = (pair[0], pair[1]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&log[start..start + 28]), &log[start + 32..end]);
        crc_to(log, start + 28, crc);
    }
    let footer = *records.last().expect("a footer");
    let digest = log.len() - 32;
    let crc = crc32c::crc32c(&log[footer..digest - 4]);
    crc_to(log, digest - 4, crc);
    let hash = *blake3::hash(&log[..digest]).as_bytes();
    log[digest..].copy_from_slice(&hash);
}
