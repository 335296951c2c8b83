//! Logs that are not whole or not honest: every one is refused, with an error that says what is wrong.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

mod common;

use common::{decode, example, header, records, repair};
use lifeboat_deltalog::{
    DecodeError, Decoder, EncodeError, Encoder, Fault, FrameEncoder, FrameError, Header, HeaderError, Item,
    MAX_DISK_SIZE, MAX_EXTENTS, MAX_FRAME_DATA, Part, verify,
};
use lifeboat_model::{GenerationId, Position};

#[test]
fn a_log_cut_at_any_byte_is_truncated() {
    let log = example();
    let marks = records(&log);
    let (first, footer) = (marks[0], *marks.last().unwrap());
    for cut in 0..log.len() {
        let part = match cut {
            c if c < first => Part::Header,
            // Up to four bytes of a footer could still be the start of a frame's tag being awaited.
            c if c <= footer + 4 => Part::Frames,
            _ => Part::Footer,
        };
        let at = cut as u64;
        assert_eq!(
            verify(&log[..cut]).unwrap_err(),
            DecodeError::Truncated { at, part },
            "cut at {cut}"
        );
    }
}

#[test]
fn any_flipped_bit_is_noticed() {
    let log = example();
    for bit in 0..log.len() * 8 {
        let mut bad = log.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(
            verify(&bad).is_err(),
            "bit {} of byte {} went unnoticed",
            bit % 8,
            bit / 8
        );
    }
}

#[test]
fn any_byte_lost_or_doubled_is_noticed() {
    let log = example();
    for at in 0..log.len() {
        let mut lost = log.clone();
        lost.remove(at);
        assert!(verify(&lost).is_err(), "lost byte {at}");
        let mut doubled = log.clone();
        doubled.insert(at, log[at]);
        assert!(verify(&doubled).is_err(), "doubled byte {at}");
    }
}

#[test]
fn damage_is_found_where_it_is_before_anything_is_made_of_it() {
    let log = example();
    let marks = records(&log);
    let flipped = |at: usize| {
        let mut bad = log.clone();
        bad[at] ^= 1;
        let mut decoder = Decoder::new();
        decoder.push(&bad);
        let mut items = 0;
        let error = loop {
            match decoder.next() {
                Ok(item) => items += usize::from(item.is_some()),
                Err(error) => break error,
            }
        };
        (items, error)
    };
    // The instant; content stored raw; content stored packed; the digest.
    let at = |at: usize, fault| DecodeError::Damaged { at: at as u64, fault };
    assert_eq!(flipped(80), (0, at(0, Fault::HeaderChecksum)));
    assert_eq!(flipped(marks[0] + 40), (1, at(marks[0], Fault::FrameChecksum)));
    assert_eq!(flipped(marks[1] + 50), (2, at(marks[1], Fault::FrameChecksum)));
    // Onto another place that would be allowed.
    assert_eq!(flipped(marks[0] + 10), (1, at(marks[0], Fault::FrameChecksum)));
    assert_eq!(flipped(log.len() - 1), (4, at(marks[3], Fault::Digest)));
    assert_eq!(flipped(log.len() - 33), (4, at(marks[3], Fault::FooterChecksum)));
}

#[test]
fn what_follows_the_end_is_refused_also_when_nobody_asks_for_more() {
    let mut log = example();
    let at = log.len() as u64;
    log.push(0);
    let mut decoder = Decoder::new();
    decoder.push(&log);
    while !matches!(decoder.next().unwrap(), Some(Item::End(_))) {}
    assert_eq!(decoder.finish().unwrap_err(), DecodeError::TrailingBytes { at });
}

#[test]
fn the_index_is_full_at_its_limit_on_both_ends() {
    let size = 1 << 40;
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&header(&[("a", size)]), false, &mut out).unwrap();
    let mut decoder = Decoder::new();
    let mut drain = |out: &mut Vec<u8>| {
        decoder.push(out);
        out.clear();
        while decoder.next()?.is_some() {}
        Ok(())
    };
    for n in 0..MAX_EXTENTS as u64 {
        encoder.zero(0, n * 1024, 512, &mut out).unwrap();
        if n % 4096 == 0 {
            drain(&mut out).unwrap();
        }
    }
    let beyond = MAX_EXTENTS as u64 * 1024;
    let full = EncodeError::Frame(FrameError::TooManyExtents);
    assert_eq!(encoder.zero(0, beyond, 512, &mut out), Err(full));
    // What touches an extent needs no place of its own.
    encoder.zero(0, beyond - 512, 512, &mut out).unwrap();
    drain(&mut out).unwrap();
    let mut other = Vec::new();
    let mut one_too_many = Encoder::new(&header(&[("a", size)]), false, &mut Vec::new()).unwrap();
    one_too_many.zero(0, beyond + 512, 512, &mut other).unwrap();
    match drain(&mut other).unwrap_err() {
        DecodeError::Damaged { fault, .. } => assert_eq!(fault, FrameError::TooManyExtents.into()),
        error => panic!("{error}"),
    }
}

#[test]
fn what_follows_the_end_is_refused() {
    let mut log = example();
    let at = log.len() as u64;
    log.push(0);
    assert_eq!(decode(&log, 1).unwrap_err(), DecodeError::TrailingBytes { at });
    assert_eq!(
        decode(&log, log.len()).unwrap_err(),
        DecodeError::TrailingBytes { at }
    );
}

#[test]
fn foreign_bytes_are_refused_at_the_first_one() {
    for foreign in [&b"QFI\xfb"[..], b"x", b"LBDELTB\0", b"\0"] {
        let mut decoder = Decoder::new();
        decoder.push(foreign);
        assert_eq!(decoder.next(), Err(DecodeError::NotALog));
    }
    let message = DecodeError::NotALog.to_string();
    assert_eq!(message, "not a delta log: it does not start with LBDELTA");
}

#[test]
fn another_version_is_named_and_nothing_after_the_prefix_is_read() {
    let mut log = example();
    log[8] = 2;
    log.truncate(12);
    let mut decoder = Decoder::new();
    decoder.push(&log);
    let error = decoder.next().unwrap_err();
    assert_eq!(error, DecodeError::Version { found: 2 });
    let text = "delta log version 2: this Lifeboat reads version 1; bring both hosts to the same release";
    assert_eq!(error.to_string(), text);
    assert_eq!(decoder.finish().unwrap_err(), error);
}

/// Changes the example at `at`, makes every checksum right again, and returns what the decoder says.
fn lie(at: usize, bytes: &[u8]) -> DecodeError {
    let mut log = example();
    let marks = records(&log);
    log[at..at + bytes.len()].copy_from_slice(bytes);
    repair(&mut log, &marks);
    verify(&log).expect_err("a lie was believed")
}

#[track_caller]
fn lie_is(at: usize, bytes: &[u8], expected: Fault) {
    match lie(at, bytes) {
        DecodeError::Damaged { fault, .. } => assert_eq!(fault, expected),
        other => panic!("{other}"),
    }
}

#[test]
fn a_lying_header_is_refused() {
    for len in [0_u32, 16, 100, 123, 125, 100 + 24 * 65, u32::MAX] {
        let mut log = example();
        log[12..16].copy_from_slice(&len.to_le_bytes());
        let fault = Fault::HeaderLength(len);
        assert_eq!(verify(&log).unwrap_err(), DecodeError::Damaged { at: 12, fault });
    }
    let fields = [
        (88, 0, "kind"),
        (88, 4, "kind"),
        (89, 0, "consistency"),
        (89, 4, "consistency"),
    ];
    for (at, value, field) in fields {
        lie_is(at, &[value], Fault::HeaderField(field));
    }
    for flag in 92..96 {
        lie_is(flag, &[1], Fault::HeaderField("flags"));
    }
    lie_is(90, &[1], Fault::HeaderField("disk count"));
    lie_is(90, &[3], Fault::HeaderField("disk count"));
    lie_is(90, &[0xff, 0xff], HeaderError::DiskCount(65535).into());
    for id in [&b"\0"[..], b"-ys", b"SYS", b"s/s", b"s\0s", b"\xff\xfe"] {
        lie_is(96, id, Fault::HeaderField("disk id"));
    }
    let disk = |id: &str| header(&[(id, 512)]).disks[0].id.clone();
    lie_is(96, b"data-1", HeaderError::DiskTwice(disk("data-1")).into());
    for size in [0, 511, 513, MAX_DISK_SIZE + 512, u64::MAX - 511] {
        lie_is(
            112,
            &size.to_le_bytes(),
            HeaderError::DiskSize {
                id: disk("sys"),
                size,
            }
            .into(),
        );
    }
    let stays = HeaderError::NotForward {
        parent: common::position(7),
        position: common::position(7),
    };
    lie_is(72, &[7], stays.into());
}

#[test]
fn a_lying_frame_is_refused() {
    let marks = records(&example());
    let (raw, packed, zero) = (marks[0], marks[1], marks[2]);
    for kind in [0, 3, 255] {
        lie_is(raw + 4, &[kind], Fault::FrameField("kind"));
    }
    for codec in [2, 255] {
        lie_is(raw + 5, &[codec], Fault::FrameField("codec"));
    }
    lie_is(zero + 5, &[1], Fault::FrameField("codec"));
    lie_is(
        raw + 6,
        &[2],
        FrameError::UnknownDisk { disk: 2, disks: 2 }.into(),
    );
    lie_is(
        raw + 6,
        &[255, 255],
        FrameError::UnknownDisk {
            disk: 65535,
            disks: 2,
        }
        .into(),
    );
    for offset in [1, 511, u64::MAX] {
        lie_is(
            raw + 8,
            &offset.to_le_bytes(),
            FrameError::Unaligned { offset, len: 512 }.into(),
        );
    }
    let size = 1 << 20;
    for offset in [size, 1 << 63, u64::MAX - 511] {
        let beyond = FrameError::BeyondDisk {
            disk: 0,
            offset,
            len: 512,
            size,
        };
        lie_is(raw + 8, &offset.to_le_bytes(), beyond.into());
    }
    for len in [0_u64, 1, 513] {
        lie_is(
            raw + 16,
            &len.to_le_bytes(),
            FrameError::Unaligned { offset: 4096, len }.into(),
        );
    }
    let all_but_one = u64::MAX - 511;
    let beyond = FrameError::BeyondDisk {
        disk: 1,
        offset: 0,
        len: all_but_one,
        size: 65536,
    };
    lie_is(zero + 16, &all_but_one.to_le_bytes(), beyond.into());
    // The raw frame moved onto the packed one.
    let overlap = FrameError::Overlap {
        disk: 0,
        offset: 8192,
        len: 1024,
    };
    lie_is(raw + 8, &8192_u64.to_le_bytes(), overlap.into());
    // Contents that do not unpack to what was said: longer, shorter, not zstd at all.
    for len in [512_u64, 1536, 1 << 16] {
        let unpacked = usize::try_from(len).unwrap();
        lie_is(packed + 16, &len.to_le_bytes(), Fault::Compression(unpacked));
    }
    lie_is(packed + 32, &[0; 4], Fault::Compression(1024));
}

#[test]
fn a_hostile_length_is_refused_before_its_payload_comes() {
    let size = 1_u64 << 40;
    let mut log = Vec::new();
    Encoder::new(&header(&[("sys", size)]), false, &mut log).unwrap();
    let start = log.len();
    let mut frame = |kind: u8, codec: u8, len: u64, stored: u32| {
        log.truncate(start);
        log.extend_from_slice(b"LBFR");
        log.extend_from_slice(&[kind, codec, 0, 0]);
        log.extend_from_slice(&0_u64.to_le_bytes());
        log.extend_from_slice(&len.to_le_bytes());
        log.extend_from_slice(&stored.to_le_bytes());
        log.extend_from_slice(&[0; 4]);
        match verify(&log).unwrap_err() {
            DecodeError::Damaged { fault, .. } => fault,
            other => panic!("waits for the payload: {other}"),
        }
    };
    let too_long = MAX_FRAME_DATA as u64 + 512;
    assert_eq!(
        frame(1, 0, too_long, 1 << 20),
        FrameError::TooLong(too_long).into()
    );
    assert_eq!(frame(1, 1, size, 100), FrameError::TooLong(size).into());
    for stored in [0, 511, 513, u32::MAX] {
        assert_eq!(frame(1, 0, 512, stored), Fault::FrameField("stored length"));
    }
    for stored in [0, 512, u32::MAX] {
        assert_eq!(frame(1, 1, 512, stored), Fault::FrameField("stored length"));
    }
    for stored in [1, u32::MAX] {
        assert_eq!(frame(2, 0, size, stored), Fault::FrameField("stored length"));
    }
}

#[test]
fn a_zstd_payload_is_one_frame_and_stays_within_the_length() {
    // A megabyte in a few bytes, claimed to be one sector; then one sector followed by more, skippable or not.
    let bomb = zstd::bulk::compress(&vec![0x41; 1 << 20], 19).unwrap();
    let sector = zstd::bulk::compress(&[0x41; 512], 1).unwrap();
    let skippable = [&sector[..], &[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]].concat();
    let twice = [sector.clone(), zstd::bulk::compress(&[], 1).unwrap()].concat();
    for payload in [bomb, skippable, twice] {
        let mut log = Vec::new();
        Encoder::new(&header(&[("sys", 1 << 20)]), false, &mut log).unwrap();
        let at = log.len();
        log.extend_from_slice(b"LBFR\x01\x01\0\0\0\0\0\0\0\0\0\0");
        log.extend_from_slice(&512_u64.to_le_bytes());
        log.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&log[at..]), &payload);
        log.extend_from_slice(&crc.to_le_bytes());
        log.extend_from_slice(&payload);
        let fault = Fault::Compression(512);
        assert_eq!(
            verify(&log).unwrap_err(),
            DecodeError::Damaged { at: at as u64, fault }
        );
    }
}

#[test]
fn a_lying_footer_is_refused() {
    let log = example();
    let footer = *records(&log).last().unwrap();
    for (offset, what) in [
        (8, "data total"),
        (16, "zero total"),
        (24, "frame count"),
        (32, "extent count"),
        (36, "extent count"),
        (40, "extent index"),
        (48, "extent index"),
        (56, "extent index"),
        (80, "extent index"),
        (88, "length"),
    ] {
        lie_is(
            footer + offset,
            &[log[footer + offset] ^ 1],
            Fault::FooterMismatch(what),
        );
        lie_is(footer + offset, &[0xff; 4], Fault::FooterMismatch(what));
    }
    lie_is(footer, b"LBFOOTEL", Fault::UnknownRecord);
    // A whole frame taken out, everything else right.
    let marks = records(&log);
    let mut short = log.clone();
    short.drain(marks[1]..marks[2]);
    let gone = marks[2] - marks[1];
    repair(&mut short, &[marks[0], marks[1], footer - gone]);
    let fault = Fault::FooterMismatch("data total");
    let at = (footer - gone) as u64;
    assert_eq!(verify(&short).unwrap_err(), DecodeError::Damaged { at, fault });
}

#[test]
fn the_encoder_refuses_what_no_log_may_hold_and_appends_nothing() {
    let mut out = Vec::new();
    let good = header(&[("sys", 4096)]);
    let mut bad = Vec::new();
    let changes: [fn(&mut Header); 8] = [
        |h| h.disks.clear(),
        |h| {
            h.disks = header(&[("sys", 512); 1])
                .disks
                .into_iter()
                .cycle()
                .take(65)
                .collect()
        },
        |h| h.disks.extend(header(&[("sys", 512)]).disks),
        |h| h.disks[0].size = 0,
        |h| h.disks[0].size = 1000,
        |h| h.disks[0].size = MAX_DISK_SIZE + 512,
        |h| h.parent = h.position,
        |h| h.parent = Position::from_parts(h.parent.generation(), 8),
    ];
    for change in changes {
        let mut h = good.clone();
        change(&mut h);
        bad.push(h);
    }
    for h in bad {
        assert!(
            matches!(Encoder::new(&h, true, &mut out), Err(EncodeError::Header(_))),
            "{h:?}"
        );
    }
    assert!(out.is_empty());

    let mut e = Encoder::new(&good, true, &mut out).unwrap();
    e.data(0, 1024, &[1; 1024], &mut out).unwrap();
    let len = out.len();
    e.data(0, 1536, &[1; 512], &mut out).unwrap_err();
    e.data(0, 3584, &[1; 1024], &mut out).unwrap_err();
    e.data(0, 100, &[1; 512], &mut out).unwrap_err();
    e.data(0, 0, &[], &mut out).unwrap_err();
    e.data(1, 0, &[1; 512], &mut out).unwrap_err();
    e.zero(0, u64::MAX - 511, 1024, &mut out).unwrap_err();
    let mut frames = FrameEncoder::new(true);
    frames.encode(0, 0, &vec![1; MAX_FRAME_DATA + 512]).unwrap_err();
    e.push_frame(&frames.encode(0, 0, &[1; 1536]).unwrap(), &mut out)
        .unwrap_err();
    assert_eq!(out.len(), len);
    e.finish(&mut out);
    verify(&out).unwrap();
}

#[test]
fn a_new_generation_may_start_its_sequence_anew() {
    let mut h = header(&[("sys", 4096)]);
    h.position = Position::start(GenerationId(uuid::Uuid::from_u128(5))).next();
    let mut out = Vec::new();
    Encoder::new(&h, true, &mut out).unwrap().finish(&mut out);
    assert_eq!(verify(&out).unwrap().0, h);
}
