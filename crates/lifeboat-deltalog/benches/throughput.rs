//! How fast delta logs are written and read, beside a plain copy of the same bytes in the same run. Prints GiB of disk content
//! per second, best of five, and the ratio to the copy. Not a test: nothing here passes or fails.

#![allow(clippy::unwrap_used, reason = "a bench stops at the first surprise")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use lifeboat_deltalog::{Consistency, Decoder, Encoder, Header, LogDisk, LogKind, verify};
use lifeboat_model::{DiskId, GenerationId, Position, Timestamp, VmId};

const TOTAL: usize = 256 << 20;

fn header() -> Header {
    let position = |sequence| Position::from_parts(GenerationId(uuid::Uuid::from_u128(1)), sequence);
    Header {
        vm: VmId(uuid::Uuid::from_u128(2)),
        kind: LogKind::Delta,
        position: position(2),
        parent: position(1),
        instant: Timestamp(0),
        consistency: Consistency::Crash,
        disks: vec![LogDisk {
            id: DiskId::new("sys").unwrap(),
            size: 1 << 40,
        }],
    }
}

fn best(mut work: impl FnMut()) -> Duration {
    let mut once = || {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..5).map(|_| once()).min().unwrap()
}

/// Writes `content` in pieces of `piece` bytes, one piece apart so that nothing merges.
fn encode(content: &[u8], piece: usize, compress: bool, log: &mut Vec<u8>) {
    log.clear();
    let mut encoder = Encoder::new(&header(), compress, log).unwrap();
    for (n, data) in content.chunks(piece).enumerate() {
        encoder.data(0, (2 * n * piece) as u64, data, log).unwrap();
    }
    encoder.finish(log);
}

fn decode(log: &[u8]) {
    let mut decoder = Decoder::new();
    for bytes in log.chunks(256 << 10) {
        decoder.push(bytes);
        while let Some(item) = decoder.next().unwrap() {
            black_box(item);
        }
    }
    decoder.finish().unwrap();
}

fn main() {
    let mut x = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        x = x
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        x ^= x >> 29;
        x.to_le_bytes()
    })
    .take(TOTAL / 8)
    .flatten()
    .collect();
    // Every second 64 bytes repeated: roughly what file systems hold, and zstd halves it.
    let text: Vec<u8> = noise
        .chunks(64)
        .enumerate()
        .flat_map(|(n, c)| if n % 2 == 0 { c } else { &noise[..64] })
        .copied()
        .collect();
    let mut copy = vec![1; TOTAL];
    let base = best(|| {
        copy.copy_from_slice(black_box(&noise));
        black_box(&mut copy);
    });
    let show = |what: &str, time: Duration| {
        let rate = TOTAL as f64 / time.as_secs_f64() / f64::from(1 << 30);
        println!(
            "{what:<34} {rate:6.2} GiB/s   {:5.3} of a copy",
            base.as_secs_f64() / time.as_secs_f64()
        );
    };
    show("plain copy", base);
    let mut log = Vec::with_capacity(TOTAL + (64 << 20));
    for (name, content, piece, compress) in [
        ("raw, 1 MiB", &noise, 1 << 20, false),
        ("raw, 64 KiB", &noise, 64 << 10, false),
        ("raw, 16 KiB", &noise, 16 << 10, false),
        ("raw, 4 KiB", &noise, 4 << 10, false),
        ("zstd on noise, 1 MiB", &noise, 1 << 20, true),
        ("zstd on noise, 16 KiB", &noise, 16 << 10, true),
        ("zstd on half noise, 1 MiB", &text, 1 << 20, true),
    ] {
        show(
            &format!("encode {name}"),
            best(|| encode(content, piece, compress, &mut log)),
        );
        println!("{:>34} {} %", "stored", log.len() * 100 / TOTAL);
        show(&format!("decode {name}"), best(|| decode(&log)));
        show(
            &format!("verify {name}"),
            best(|| verify(&log).map(drop).unwrap()),
        );
    }
}
