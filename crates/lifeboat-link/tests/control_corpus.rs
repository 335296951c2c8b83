//! The checks of the fuzz target of control documents on a stable toolchain: over the committed corpus, and over seeded mutations
//! of it. The corpus is one of each document of the protocol (`golden/control.txt`, see `wire.rs`); `UPDATE_GOLDEN=1` writes
//! it anew from there.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

#[path = "../../../fuzz/checks/control.rs"]
mod checks;

use std::path::{Path, PathBuf};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/control.txt");
/// Mutations. Seeds are fixed, so that a failure is found again by running it again.
const ROUNDS: u64 = 20_000;
/// What a number may be that is none anybody would write.
const NUMBERS: [&str; 12] = [
    "0",
    "-1",
    "1e400",
    "1.5",
    "4294967296",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-0",
    "1E9",
    "00",
    "99999999999999999999999999999999999999999",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/control_decode")
}

/// The documents of the protocol, and the query of a log.
fn documents() -> Vec<String> {
    let text = std::fs::read_to_string(GOLDEN).unwrap();
    let documents = text.lines().filter(|l| l.starts_with('{')).map(ToOwned::to_owned);
    let id = "00000000-0000-0000-0000-000000000003";
    let query = format!("kind=delta&vm={id}&generation={id}&sequence=7&offset=0");
    documents.chain([query]).collect()
}

fn name(number: usize) -> PathBuf {
    folder().join(format!("document-{number:02}"))
}

#[test]
fn the_corpus_has_every_document_of_the_protocol() {
    let documents = documents();
    assert!(documents.len() > 30);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let _ = std::fs::remove_dir_all(folder());
        std::fs::create_dir_all(folder()).unwrap();
        for (number, document) in documents.iter().enumerate() {
            std::fs::write(name(number), document).unwrap();
        }
    }
    for (number, document) in documents.iter().enumerate() {
        assert_eq!(
            std::fs::read_to_string(name(number)).as_deref().unwrap(),
            document
        );
        checks::decode(document.as_bytes());
    }
    assert_eq!(folder().read_dir().unwrap().count(), documents.len());
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

/// The next place at or after a random one where a piece of a document begins or ends.
fn mark(rng: &mut Rng, bytes: &[u8]) -> usize {
    let from = rng.below(bytes.len());
    let found = bytes[from..].iter().position(|b| b"{}[]:,\"&=".contains(b));
    found.map_or(bytes.len(), |at| from + at)
}

/// The first number at or after a random place.
fn number(rng: &mut Rng, bytes: &[u8]) -> std::ops::Range<usize> {
    let from = rng.below(bytes.len());
    let digit = |b: &u8| b.is_ascii_digit();
    let begin = bytes[from..]
        .iter()
        .position(digit)
        .map_or(bytes.len(), |at| from + at);
    let end = bytes[begin..]
        .iter()
        .position(|b| !digit(b))
        .map_or(bytes.len(), |at| begin + at);
    begin..end
}

/// A text that somebody sends who means no good: long, with what a terminal obeys, or with half of a character.
fn text(rng: &mut Rng) -> Vec<u8> {
    let unit = [
        "A",
        "\u{202e}",
        "\\u001b[2J",
        "\\ud800",
        "\u{e9}",
        "../",
        "\\u0000",
        "\n",
    ][rng.below(8)];
    unit.repeat(1 + rng.below(6000)).into_bytes()
}

/// Flips bits, cuts, doubles fields, joins documents, nests deeply, or lies about numbers and texts.
fn mutate(rng: &mut Rng, seeds: &[String]) -> Vec<u8> {
    let mut bytes = seeds[rng.below(seeds.len())].clone().into_bytes();
    // Most of them once: what is broken in several places is refused at the first.
    let times = if rng.below(4) == 0 { 4 } else { 1 };
    for _ in 0..times {
        let (a, b) = (mark(rng, &bytes), mark(rng, &bytes));
        let (a, b) = (a.min(b), a.max(b));
        match rng.below(12) {
            0 if !bytes.is_empty() => {
                let at = rng.below(bytes.len());
                bytes[at] ^= 1 << rng.below(8);
            }
            1 => bytes.truncate(b),
            2 => drop(bytes.drain(a..b)),
            // A field twice, a list with an entry more, a document behind another.
            3 => {
                let piece = bytes[a..b].to_vec();
                let at = if rng.below(2) == 0 { b } else { mark(rng, &bytes) };
                bytes.splice(at..at, piece);
            }
            4 => {
                let other = seeds[rng.below(seeds.len())].as_bytes();
                let (c, d) = (mark(rng, other), mark(rng, other));
                bytes.splice(a..b, other[c.min(d)..c.max(d)].to_vec());
            }
            5..=8 => {
                let at = number(rng, &bytes);
                bytes.splice(at, NUMBERS[rng.below(NUMBERS.len())].bytes());
            }
            9 => {
                let deep = 1 << rng.below(15);
                let open = ["[", "{\"vm\":", "{\"a\":["][rng.below(3)];
                bytes.splice(a..a, open.repeat(deep).into_bytes());
            }
            _ => {
                let at = bytes
                    .iter()
                    .skip(a)
                    .position(|b| *b == b'"')
                    .map_or(bytes.len(), |n| a + n + 1);
                bytes.splice(at.min(bytes.len())..at.min(bytes.len()), text(rng));
            }
        }
    }
    bytes
}

#[test]
fn mutated_documents_are_refused_or_bounded() {
    let seeds = documents();
    let mut taken = 0;
    for seed in 0..ROUNDS {
        let bytes = mutate(&mut Rng(seed), &seeds);
        println!("seed {seed}");
        let read = lifeboat_link::exercise::request(&bytes).is_ok();
        taken += usize::from(read || lifeboat_link::exercise::reply(&bytes).is_ok());
        checks::decode(&bytes);
    }
    // What is refused at the first byte would show nothing of what is behind it.
    assert!(taken > 1000, "{taken} of {ROUNDS} mutations are documents");
}

/// What a mutation does not come to by chance: the largest of everything.
#[test]
fn the_largest_documents_are_bounded() {
    let offer = documents().into_iter().find(|d| d.contains("\"offer\"")).unwrap();
    let nested = format!("{}{}", "[".repeat(2 << 20), "]".repeat(2 << 20));
    let long = "x".repeat(4 << 20);
    for document in [
        nested.clone(),
        offer.replacen("\"nic\":[]", &format!("\"nic\":{nested}"), 1),
        format!("{{\"request\":\"{long}\"}}"),
        offer.replacen("\"offer\"", &format!("\"offer\",\"{long}\":1"), 1),
        offer.replacen("\"web\"", &format!("\"{long}\""), 1),
        offer.replacen("a.example.org", &long, 1),
        offer.replacen("\"q35\"", &format!("\"{}\"", "\\u001b".repeat(500_000)), 1),
        offer.replacen(
            "\"nic\":[]",
            &format!("\"nic\":[{}{{}}]", "{},".repeat(1 << 20)),
            1,
        ),
        format!("{{\"error\":\"{long}\"}}"),
        format!("{{\"reply\":\"refused\",\"reason\":\"conflict\",\"detail\":\"{long}\"}}"),
        format!("{{\"reply\":\"{long}\"}}"),
    ] {
        checks::decode(document.as_bytes());
    }
}
