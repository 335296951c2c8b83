//! One record on disk: how it is laid out, where it belongs, and how to tell a whole one from anything else.
//! Reading and writing files is left to the callers.
//!
//! Layout, little-endian, in a buffer of 512 bytes (`append`) or 4096 bytes (`scatter`, `pair`):
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | magic `LBWLOAD1` |
//! | 8..16 | run: tells streams on the same device apart |
//! | 16..24 | sequence number, from 0 |
//! | 24..32 | wall clock of the writer, milliseconds since 1970 |
//! | 32..40 | slot this record belongs in |
//! | 40..48 | number of slots of the ring (0 for `append`) |
//! | 48..52 | length of the whole record |
//! | 52..56 | CRC-32C of the whole record with this field as zero |
//! | 56.. | bytes that follow from run, sequence and slot |

/// Length in bytes of one `append` record: one disk sector, so a disk cannot tear it.
pub const APPEND_LEN: usize = 512;
/// Length in bytes of one `scatter` or `pair` block.
pub const BLOCK_LEN: usize = 4096;

const MAGIC: [u8; 8] = *b"LBWLOAD1";
const CRC_AT: usize = 52;
const PAYLOAD_AT: usize = 56;

/// What a record says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The stream it belongs to.
    pub run: u64,
    /// Its number, from 0.
    pub seq: u64,
    /// When it was written, milliseconds since 1970 by the writer's clock.
    pub wall_ms: u64,
    /// The slot it was written to.
    pub slot: u64,
    /// Size of the ring it was written into; 0 for `append`.
    pub slots: u64,
}

/// What was found where a record could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Only zeros: never written, or lost.
    Empty,
    /// A whole record of the run that was asked for.
    Good(Record),
    /// A whole record of another run.
    Foreign,
    /// Bytes that are no whole record.
    Damaged,
}

impl Record {
    /// Fills `buf` with this record. `buf` must be [`APPEND_LEN`] or [`BLOCK_LEN`] bytes long.
    pub fn encode_into(&self, buf: &mut [u8]) {
        debug_assert!(buf.len() == APPEND_LEN || buf.len() == BLOCK_LEN);
        let len = u32::try_from(buf.len()).expect("a record is at most 4096 bytes");
        buf[..8].copy_from_slice(&MAGIC);
        let words = [self.run, self.seq, self.wall_ms, self.slot, self.slots];
        for (place, word) in buf[8..48].chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        buf[48..CRC_AT].copy_from_slice(&len.to_le_bytes());
        buf[CRC_AT..PAYLOAD_AT].fill(0);
        for (place, word) in buf[PAYLOAD_AT..].chunks_exact_mut(8).zip(self.payload()) {
            place.copy_from_slice(&word);
        }
        let crc = crc32c::crc32c(buf);
        buf[CRC_AT..PAYLOAD_AT].copy_from_slice(&crc.to_le_bytes());
    }

    fn payload(&self) -> impl Iterator<Item = [u8; 8]> + use<> {
        let start = mix(mix(self.run ^ mix(self.seq)) ^ self.slot);
        (0_u64..).map(move |word| mix(start.wrapping_add(word)).to_le_bytes())
    }
}

/// Says what `buf` (one place of a stream, whole) holds, for a reader that looks for `run`.
#[must_use]
pub fn classify(buf: &[u8], run: u64) -> Found {
    if buf.iter().all(|byte| *byte == 0) {
        return Found::Empty;
    }
    let Some(record) = parse(buf) else {
        return Found::Damaged;
    };
    // The content follows from the header: re-made from it, every bit has to be the same.
    let mut expected = [0; BLOCK_LEN];
    let expected = &mut expected[..buf.len()];
    record.encode_into(expected);
    match (expected == buf, record.run == run) {
        (true, true) => Found::Good(record),
        (true, false) => Found::Foreign,
        (false, _) => Found::Damaged,
    }
}

fn parse(buf: &[u8]) -> Option<Record> {
    if buf.len() != APPEND_LEN && buf.len() != BLOCK_LEN || buf[..8] != MAGIC {
        return None;
    }
    let word = |at: usize| {
        let bytes = buf[at..at + 8]
            .try_into()
            .expect("eight bytes of a buffer that was measured");
        u64::from_le_bytes(bytes)
    };
    Some(Record {
        run: word(8),
        seq: word(16),
        wall_ms: word(24),
        slot: word(32),
        slots: word(40),
    })
}

/// The slot of record `seq` in a `scatter` ring of `slots` (at least 1). Pseudo-random, so that neighbours in
/// time lie far apart on the disk, and a pure function, so that the verifier knows the state after every record.
#[must_use]
pub fn scatter_slot(run: u64, seq: u64, slots: u64) -> u64 {
    mix(mix(run) ^ seq) % slots
}

/// SplitMix64's output step: spreads every input bit over all output bits.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: Record = Record {
        run: 7,
        seq: 41,
        wall_ms: 1_700_000_000_123,
        slot: 3,
        slots: 64,
    };

    fn block(len: usize) -> Vec<u8> {
        let mut buf = vec![0; len];
        RECORD.encode_into(&mut buf);
        buf
    }

    #[test]
    fn a_whole_record_is_recognised_in_both_sizes() {
        for len in [APPEND_LEN, BLOCK_LEN] {
            assert_eq!(classify(&block(len), 7), Found::Good(RECORD));
            assert_eq!(classify(&block(len), 8), Found::Foreign);
            assert_eq!(classify(&vec![0; len], 7), Found::Empty);
        }
    }

    #[test]
    fn any_flipped_bit_is_damage() {
        let good = block(APPEND_LEN);
        for bit in 0..APPEND_LEN * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(classify(&bad, 7), Found::Damaged, "bit {bit}");
        }
    }

    #[test]
    fn a_sector_of_an_older_block_is_damage() {
        let mut older = vec![0; BLOCK_LEN];
        Record { seq: 40, ..RECORD }.encode_into(&mut older);
        for sector in 0..8 {
            let mut torn = block(BLOCK_LEN);
            torn[sector * 512..(sector + 1) * 512].copy_from_slice(&older[sector * 512..(sector + 1) * 512]);
            assert_eq!(classify(&torn, 7), Found::Damaged, "sector {sector}");
        }
    }

    #[test]
    fn scattered_slots_cover_the_ring() {
        let hit: std::collections::BTreeSet<u64> = (0..1000).map(|seq| scatter_slot(1, seq, 64)).collect();
        assert_eq!(hit.len(), 64);
        assert!(hit.iter().all(|slot| *slot < 64));
    }
}
