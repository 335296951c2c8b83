//! Tests of the handshake: what is sent, what is agreed on, and everything a server may do wrong.

use super::*;
use crate::nbd::exercise;

const BITMAP: &str = "qemu:dirty-bitmap:repl-1";

fn greeting() -> Vec<u8> {
    [&b"NBDMAGICIHAVEOPT"[..], &3_u16.to_be_bytes()].concat()
}

fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    let numbers = [option, kind, len].into_iter().flat_map(u32::to_be_bytes);
    proto::OPTION_REPLY_MAGIC
        .to_be_bytes()
        .into_iter()
        .chain(numbers)
        .chain(data.iter().copied())
        .collect()
}

fn context(id: u32, name: &str) -> Vec<u8> {
    reply(10, 4, &[&id.to_be_bytes()[..], name.as_bytes()].concat())
}

fn info_export(size: u64, flags: u16) -> Vec<u8> {
    reply(
        7,
        3,
        &[&[0, 0][..], &size.to_be_bytes(), &flags.to_be_bytes()].concat(),
    )
}

fn info_block_size(sizes: [u32; 3]) -> Vec<u8> {
    let sizes: Vec<u8> = sizes.into_iter().flat_map(u32::to_be_bytes).collect();
    reply(7, 3, &[&[0, 3][..], &sizes].concat())
}

/// A server that agrees to everything.
fn honest() -> Vec<u8> {
    [
        greeting(),
        reply(8, 1, &[]),
        context(11, BITMAP),
        context(12, "base:allocation"),
        reply(10, 1, &[]),
        reply(7, 3, b"\0\x01disk"),
        info_export(1 << 40, 0b101),
        info_block_size([512, 65536, u32::MAX]),
        reply(7, 1, &[]),
    ]
    .concat()
}

/// Plays `bytes` to the end and returns all that was sent, and the result.
fn play(bytes: &[u8], contexts: &[&str], piece: usize) -> (Vec<u8>, Result<Negotiated, String>) {
    let mut machine = Handshake::new("disk", contexts).unwrap();
    let (mut sent, mut pieces) = (Vec::new(), bytes.chunks(piece));
    loop {
        match machine.step() {
            Err(error) => return (sent, Err(error.to_string())),
            Ok(Step::Send(bytes)) => sent.extend(bytes),
            Ok(Step::Ready(negotiated)) => return (sent, Ok(negotiated)),
            Ok(Step::NeedMore) => match pieces.next() {
                Some(piece) => machine.push(piece),
                None => return (sent, Err("unfinished".to_owned())),
            },
        }
    }
}

#[test]
fn an_export_with_contexts_is_opened() {
    let contexts = &[BITMAP, "base:allocation"];
    let expected = Negotiated {
        size: 1 << 40,
        flags: 5,
        block_sizes: BlockSizes {
            minimum: 512,
            preferred: 65536,
            maximum: 32 << 20,
        },
        structured: true,
        contexts: vec![(11, BITMAP.to_owned()), (12, "base:allocation".to_owned())],
    };
    for piece in [1, 7, 4096] {
        assert_eq!(
            play(&honest(), contexts, piece).1.as_ref(),
            Ok(&expected),
            "in pieces of {piece}"
        );
    }
}

#[test]
fn what_is_sent_is_what_the_protocol_document_says() {
    let bytes = [
        greeting(),
        reply(8, 1, &[]),
        reply(10, 1, &[]),
        info_export(9, 1),
        reply(7, 1, &[]),
    ]
    .concat();
    let (sent, outcome) = play(&bytes, &["base:allocation"], 4096);
    let expected = [
        &[0, 0, 0, 3][..],
        b"IHAVEOPT\0\0\0\x08\0\0\0\0",
        b"IHAVEOPT\0\0\0\x0a\0\0\0\x1f\0\0\0\x04disk\0\0\0\x01\0\0\0\x0fbase:allocation",
        b"IHAVEOPT\0\0\0\x07\0\0\0\x0c\0\0\0\x04disk\0\x01\0\x03",
    ]
    .concat();
    assert_eq!(sent, expected);
    assert_eq!(outcome.unwrap().contexts, vec![]);
}

#[test]
fn structured_replies_are_required_only_for_contexts() {
    let refusal = reply(8, 0x8000_0001, &[]);
    let bytes = [greeting(), refusal, info_export(9, 1), reply(7, 1, &[])].concat();
    assert!(!play(&bytes, &[], 4096).1.unwrap().structured);
    let said = play(&bytes, &[BITMAP], 4096).1.unwrap_err();
    assert!(
        said.contains("structured replies") && said.contains("disk"),
        "{said}"
    );
}

#[test]
fn a_refusal_carries_the_servers_words() {
    let bytes = [
        greeting(),
        reply(8, 1, &[]),
        reply(7, 0x8000_0006, b"export 'disk' not present"),
    ]
    .concat();
    let said = play(&bytes, &[], 4096).1.unwrap_err();
    assert!(
        said.contains("there is no such export (export 'disk' not present)"),
        "{said}"
    );
}

#[track_caller]
fn refused(replies: &[Vec<u8>], complaint: &str) {
    let said = play(&replies.concat(), &[BITMAP], 4096)
        .1
        .expect_err("this must be refused");
    assert!(said.contains(complaint), "{said}");
}

#[test]
fn servers_of_another_kind_are_refused() {
    refused(&[b"SSH-2.0-OpenSSH_9.2p1".to_vec()], "does not greet");
    refused(
        &[b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53".to_vec(), vec![0; 136]],
        "old NBD",
    );
    refused(&[b"NBDMAGICIHAVEOPT\0\0".to_vec()], "old NBD");
    refused(&[greeting(), reply(7, 1, &[])], "no option that was asked");
    refused(&[greeting(), vec![7; 20]], "no option that was asked");
    refused(
        &[greeting(), reply(8, 1, &[])[..16].to_vec(), vec![0xff; 4]],
        "longer than",
    );
}

#[test]
fn option_replies_that_cannot_be_are_refused() {
    let after_structured = |replies: &[Vec<u8>], complaint| {
        refused(&[&[greeting(), reply(8, 1, &[])], replies].concat(), complaint);
    };
    after_structured(&[info_export(1, 1)], "no option that was asked");
    after_structured(&[context(1, "base:other")], "not asked for");
    after_structured(&[context(1, BITMAP), context(2, BITMAP)], "twice");
    after_structured(&[reply(10, 4, &[1])], "without an id");
    after_structured(&[reply(10, 4, &[0, 0, 0, 1, 0xff])], "no text");
    let acked = || reply(10, 1, &[]);
    after_structured(&[acked(), reply(7, 1, &[])], "without saying its size");
    after_structured(&[acked(), info_export(1 << 63, 1)], "larger than");
    after_structured(&[acked(), reply(7, 3, &[0, 0, 1])], "wrong length");
    after_structured(&[acked(), reply(7, 3, &[])], "wrong length");
    after_structured(&[acked(), info_block_size([0, 1, 1])], "contradict");
    after_structured(&[acked(), info_block_size([3, 4096, 8192])], "contradict");
    after_structured(&[acked(), info_block_size([512, 4096, 0])], "contradict");
}

#[test]
fn a_server_cannot_talk_without_end() {
    let info = reply(7, 3, b"\0\x02a description");
    let bytes = [&greeting()[..], &reply(8, 1, &[]), &info.repeat(300)].concat();
    let said = play(&bytes, &[], 4096).1.unwrap_err();
    assert!(said.contains("longer than the protocol allows"), "{said}");
}

#[test]
fn names_longer_than_the_protocol_allows_are_refused_at_once() {
    let long = "x".repeat(4097);
    assert!(Handshake::new(&long, &[]).is_err());
    assert!(Handshake::new("disk", &[&long]).is_err());
}

#[test]
fn a_handshake_cut_anywhere_opens_nothing() {
    let (bytes, contexts) = (honest(), [BITMAP, "base:allocation"]);
    assert!(exercise::handshake(&bytes, &contexts, 4096));
    for end in 0..bytes.len() {
        assert!(!exercise::handshake(&bytes[..end], &contexts, 13), "cut at {end}");
    }
}

#[test]
fn damaged_handshakes_never_break_a_promise() {
    let seed = 0x5eed_0bad_u64;
    println!("seed {seed:#x}");
    let mut random = crate::nbd::tests::Random(seed);
    let honest = honest();
    let opened = (0..50_000).filter(|_| {
        let mut bytes = honest.clone();
        random.damage(&mut bytes, 300);
        exercise::handshake(&bytes, &[BITMAP, "base:allocation"], 1 + random.below(200))
    });
    assert!(opened.count() > 100, "damage must leave something to open");
}
