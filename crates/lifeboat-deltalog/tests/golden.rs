//! The worked example of `docs/deltalog.md`, to the byte. If the encoder's bytes change, either this is a new version of the
//! format, or only zstd's output changed: then the page gets the new bytes, and the old ones must still decode.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

mod common;
mod mini;

use std::fmt::Write as _;

use lifeboat_deltalog::{Frame, FrameBody, Item, Summary};

const PAGE: &str = include_str!("../../../docs/deltalog.md");

/// Offsets, sixteen bytes a line, `*` for lines that repeat, the length at the end.
fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut last: &[u8] = &[];
    let mut starred = false;
    for (n, line) in bytes.chunks(16).enumerate() {
        if line == last {
            if !starred {
                text.push_str("*\n");
            }
            starred = true;
            continue;
        }
        (last, starred) = (line, false);
        let hex: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
        writeln!(text, "{:04x}  {}", n * 16, hex.join(" ")).unwrap();
    }
    writeln!(text, "{:04x}", bytes.len()).unwrap();
    text
}

/// The page's block back to bytes.
fn undump(text: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    for line in text.lines().filter(|l| *l != "*") {
        let mut words = line.split_whitespace();
        let at = usize::from_str_radix(words.next().unwrap(), 16).unwrap();
        while bytes.len() < at {
            bytes.extend_from_within(bytes.len() - 16..);
        }
        assert_eq!(bytes.len(), at, "{line}");
        bytes.extend(words.map(|w| u8::from_str_radix(w, 16).unwrap()));
    }
    bytes
}

fn block() -> &'static str {
    let (_, rest) = PAGE.split_once("```hex\n").expect("the page has a hex block");
    rest.split_once("```").expect("the block ends").0
}

#[test]
fn the_encoder_writes_the_bytes_of_the_page() {
    let dumped = dump(&common::example());
    assert_eq!(block(), dumped, "the page should say:\n{dumped}");
}

#[test]
fn the_bytes_of_the_page_say_what_the_page_says() {
    let log = undump(block());
    let items = common::decode(&log, 7).unwrap();
    let digest = *blake3::hash(&log[..log.len() - 32]).as_bytes();
    let expected = vec![
        Item::Header(common::header(&[("sys", 1 << 20), ("data-1", 64 << 10)])),
        Item::Frame(Frame {
            disk: 0,
            offset: 4096,
            body: FrameBody::Data(vec![0x5a; 512]),
        }),
        Item::Frame(Frame {
            disk: 0,
            offset: 8192,
            body: FrameBody::Data(vec![0x41; 1024]),
        }),
        Item::Frame(Frame {
            disk: 1,
            offset: 0,
            body: FrameBody::Zero(65536),
        }),
        Item::End(Summary {
            extents: vec![vec![(4096, 512), (8192, 1024)], vec![(0, 65536)]],
            data_bytes: 1536,
            zero_bytes: 65536,
            frames: 3,
            digest,
        }),
    ];
    assert_eq!(items, expected);
}

#[test]
fn the_second_reader_agrees_with_the_page() {
    let log = mini::read(&undump(block())).unwrap();
    assert_eq!(
        log.disks,
        [("sys".to_owned(), 1 << 20), ("data-1".to_owned(), 65536)]
    );
    assert_eq!(
        (log.kind, log.consistency, log.instant),
        (1, 2, 1_767_323_045_678)
    );
    assert_eq!((log.parent.1, log.position.1), (6, 7));
    let frames = [
        (0, 4096, Ok(vec![0x5a; 512])),
        (0, 8192, Ok(vec![0x41; 1024])),
        (1, 0, Err(65536)),
    ];
    assert_eq!(log.frames, frames);
}
