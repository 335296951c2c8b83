//! The checks of the fuzz targets on a stable toolchain: over the committed corpora, and over seeded mutations of them.
//! `cargo test -p lifeboat-deltalog --test corpus -- --ignored` writes the seeds anew after the format has changed.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

#[path = "../../../fuzz/checks/deltalog.rs"]
mod checks;
mod common;
mod mini;

use std::path::{Path, PathBuf};

use common::Rng;
use lifeboat_deltalog::{Encoder, LOG_TAIL, LogKind, footer_len, read_index, verify};

/// Mutations per test. Seeds are fixed, so that a failure is found again by running it again.
const ROUNDS: usize = 20_000;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target)
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder(target)).expect("the corpus is in git");
    let mut files: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 4, "{target}: {files:?}");
    let read = |p: PathBuf| {
        (
            p.file_name().unwrap().to_string_lossy().into_owned(),
            std::fs::read(&p).unwrap(),
        )
    };
    files.into_iter().map(read).collect()
}

/// Changes a few bytes, cuts, doubles, joins with another seed, or lies about a number.
fn mutate(rng: &mut Rng, seeds: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = seeds[rng.below(seeds.len())].1.clone();
    for _ in 0..=rng.below(3) {
        let at = rng.below(bytes.len().max(1));
        match rng.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << rng.below(8),
            1 if !bytes.is_empty() => bytes[at] = u8::try_from(rng.below(256)).unwrap(),
            2 => bytes.truncate(at),
            3 if bytes.len() >= at + 8 => {
                let lies = [
                    0,
                    1,
                    511,
                    513,
                    1 << 20,
                    (1 << 20) + 512,
                    1 << 32,
                    1 << 56,
                    u64::MAX - 511,
                    u64::MAX,
                ];
                bytes[at..at + 8].copy_from_slice(&lies[rng.below(lies.len())].to_le_bytes());
            }
            4 => {
                let other = &seeds[rng.below(seeds.len())].1;
                bytes.truncate(at);
                bytes.extend_from_slice(&other[rng.below(other.len())..]);
            }
            _ => {
                let end = at + rng.below((bytes.len() - at.min(bytes.len())).clamp(1, 64));
                let copy = bytes.get(at..end).unwrap_or_default().to_vec();
                bytes.splice(at.min(bytes.len())..at.min(bytes.len()), copy);
            }
        }
    }
    bytes
}

/// Right checksums for whatever the fields now say, where the log can still be walked: what only a hostile writer makes.
fn try_repair(bytes: &mut [u8]) {
    let number = |b: &[u8], at: usize, n: usize| -> Option<usize> {
        let field = b.get(at..at + n)?;
        usize::try_from(field.iter().rev().fold(0_u64, |v, x| v << 8 | u64::from(*x))).ok()
    };
    let Some(mut at) = number(bytes, 12, 4).filter(|h| (16..bytes.len()).contains(h)) else {
        return;
    };
    let mut records = vec![at];
    while bytes.get(at..at.saturating_add(4)) == Some(b"LBFR") {
        let Some(next) = number(bytes, at + 24, 4).map(|s| at + 32 + s) else {
            return;
        };
        if next > bytes.len() {
            return;
        }
        records.push(next);
        at = next;
    }
    if bytes.len() >= at + 44 {
        common::repair(bytes, &records);
    }
}

#[test]
fn the_decoder_holds_over_the_corpus_and_its_mutations() {
    let seeds = corpus("deltalog_decode");
    for (name, bytes) in &seeds {
        checks::decode(bytes);
        assert_eq!(verify(bytes).is_ok(), name.starts_with("valid"), "{name}");
    }
    let seed = 0x11fe_b0a7;
    println!("seed {seed:#x}");
    let mut rng = Rng::new(seed);
    let mut accepted = 0;
    for round in 0..ROUNDS {
        let mut bytes = mutate(&mut rng, &seeds);
        if rng.below(2) == 0 {
            try_repair(&mut bytes);
        }
        checks::decode(&bytes);
        let (ours, theirs) = (verify(&bytes), mini::read(&bytes));
        assert_eq!(
            ours.is_ok(),
            theirs.is_ok(),
            "round {round}: {ours:?}, second reader {theirs:?}"
        );
        accepted += usize::from(ours.is_ok());
        index_at_the_end(&bytes, ours.ok().map(|(_, summary)| summary.extents));
    }
    println!("{accepted} of {ROUNDS} mutations are valid logs");
    assert!(
        accepted > 0,
        "mutations that only break logs test half of the rules"
    );
}

/// The index alone is what the whole log said, and of anything else no panic comes.
fn index_at_the_end(bytes: &[u8], whole: Option<Vec<Vec<(u64, u64)>>>) {
    let len = bytes.last_chunk::<LOG_TAIL>().and_then(footer_len);
    let start = len.and_then(|len| bytes.len().checked_sub(usize::try_from(len).ok()?));
    let disks = whole.as_ref().map_or(2, Vec::len);
    let found = start.and_then(|start| read_index(&bytes[start..], disks).ok());
    if whole.is_some() {
        assert_eq!(found, whole);
    }
}

#[test]
fn what_goes_in_comes_out_over_the_corpus_and_its_mutations() {
    let seeds = corpus("deltalog_roundtrip");
    for (name, bytes) in &seeds {
        checks::roundtrip(bytes).unwrap_or_else(|e| panic!("{name} makes no log: {e}"));
    }
    let seed = 0x5eed_0002;
    println!("seed {seed:#x}");
    let mut rng = Rng::new(seed);
    for _ in 0..ROUNDS / 10 {
        let _ = checks::roundtrip(&mutate(&mut rng, &seeds));
    }
}

fn small_log(
    kind: LogKind,
    disks: &[(&str, u64)],
    write: impl FnOnce(&mut Encoder, &mut Vec<u8>),
) -> Vec<u8> {
    let mut header = common::header(disks);
    header.kind = kind;
    let mut log = Vec::new();
    let mut encoder = Encoder::new(&header, true, &mut log).unwrap();
    write(&mut encoder, &mut log);
    encoder.finish(&mut log);
    log
}

#[test]
#[ignore = "writes the committed seeds; run it after a change of the format"]
fn write_the_seeds() {
    let put = |target: &str, name: &str, bytes: &[u8]| {
        std::fs::create_dir_all(folder(target)).unwrap();
        std::fs::write(folder(target).join(name), bytes).unwrap();
    };
    let example = common::example();
    let target = "deltalog_decode";
    put(target, "valid-example", &example);
    put(
        target,
        "valid-empty",
        &small_log(LogKind::Delta, &[("sys", 512)], |_, _| {}),
    );
    let bulk = small_log(
        LogKind::Bulk,
        &[("a", 1 << 56), ("b", 4096), ("c", 1 << 30)],
        |e, out| {
            e.zero(0, 0, 1 << 56, out).unwrap();
            e.data(2, 1 << 20, &Rng::new(3).bytes(512), out).unwrap();
            e.data(1, 512, &[7; 1024], out).unwrap();
            e.data(1, 0, &[8; 512], out).unwrap();
        },
    );
    put(target, "valid-bulk", &bulk);
    let sync = small_log(LogKind::Sync, &[("sys", 1 << 20), ("added", 8192)], |e, out| {
        e.data(0, 65536, &Rng::new(4).bytes(4096), out).unwrap();
        e.zero(1, 4096, 4096, out).unwrap();
    });
    put(target, "valid-sync", &sync);
    put(target, "cut-short", &example[..example.len() - 40]);
    let mut next_version = example.clone();
    next_version[8] = 2;
    put(target, "next-version", &next_version);
    put(target, "two-joined", &[example.clone(), example].concat());
    for (n, len) in [70, 120, 300, 900].into_iter().enumerate() {
        put(
            "deltalog_roundtrip",
            &format!("plan-{n}"),
            &Rng::new(40 + n as u64).bytes(len),
        );
    }
}
