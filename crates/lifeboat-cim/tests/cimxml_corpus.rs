//! The checks of the CIM-XML fuzz targets on a stable toolchain: over the committed corpora, and over seeded mutations of
//! them. The requests among the seeds are pywbem's own (see `cimxml.rs`).

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

#[path = "../../../fuzz/checks/cimxml.rs"]
mod checks;

use std::path::Path;

/// Mutations per test. Seeds are fixed, so that a failure is found again by running it again.
const ROUNDS: u64 = 5_000;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = folder.read_dir().unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 4, "{target}: {files:?}");
    files.into_iter().map(|f| std::fs::read(f).unwrap()).collect()
}

/// Numbers that follow from a seed.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n.max(1)
    }
}

/// Swaps, cuts or doubles pieces between marks that mean something, or changes a byte.
fn mutate(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[rng.below(seeds.len())].clone();
    for _ in 0..=rng.below(4) {
        let mark = |rng: &mut Rng, bytes: &[u8]| {
            let from = rng.below(bytes.len());
            let found = bytes[from..].iter().position(|b| b"<>\"&.,=".contains(b));
            found.map_or(bytes.len(), |at| from + at)
        };
        let (a, b) = (mark(rng, &bytes), mark(rng, &bytes));
        let (a, b) = (a.min(b), a.max(b));
        match rng.below(5) {
            0 => drop(bytes.drain(a..b)),
            1 => {
                let piece = bytes[a..b].to_vec();
                bytes.splice(b..b, piece);
            }
            2 => {
                let other = &seeds[rng.below(seeds.len())];
                let (c, d) = (mark(rng, other), mark(rng, other));
                bytes.splice(a..b, other[c.min(d)..c.max(d)].to_vec());
            }
            3 if !bytes.is_empty() => {
                let at = rng.below(bytes.len());
                bytes[at] = u8::try_from(rng.below(128)).unwrap();
            }
            _ => bytes.truncate(b.max(8)),
        }
    }
    bytes
}

fn run(target: &str, check: fn(&[u8])) {
    let seeds = corpus(target);
    seeds.iter().for_each(|s| check(s));
    for seed in 0..ROUNDS {
        println!("seed {seed}");
        check(&mutate(&mut Rng(seed), &seeds));
    }
}

#[test]
fn requests_hold_over_the_corpus_and_its_mutations() {
    run("cimxml_decode", checks::decode);
}

#[test]
fn embedded_instances_hold_over_the_corpus_and_its_mutations() {
    run("embedded_decode", checks::embedded);
}
