//! How much memory reading takes, counted by the allocator. One test, because the count is the process's.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like the tests")]

mod common;

use std::alloc::System;

use cap::Cap;
use common::{Rng, header};
use lifeboat_deltalog::{Decoder, Encoder, Item, verify};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Runs `work` and returns how far memory rose above where it was.
fn peak(work: impl FnOnce()) -> usize {
    let room = ALLOCATOR.allocated();
    let before = ALLOCATOR.max_allocated();
    work();
    let after = ALLOCATOR.max_allocated();
    // The high-water mark cannot be reset, so what is measured must exceed all that was before.
    if after > before { after - room } else { 0 }
}

/// Feeds a log that is made as it is read, so that its own size does not count.
fn stream(mut piece: impl FnMut(&mut Encoder, &mut Vec<u8>) -> bool) {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&header(&[("a", 1 << 40)]), true, &mut out).unwrap();
    let mut decoder = Decoder::new();
    let mut drain = |out: &mut Vec<u8>| {
        for bytes in out.chunks(100_000) {
            decoder.push(bytes);
            while let Some(item) = decoder.next().unwrap() {
                drop(item);
            }
        }
        out.clear();
    };
    while piece(&mut encoder, &mut out) {
        drain(&mut out);
    }
    encoder.finish(&mut out);
    drain(&mut out);
    decoder.finish().unwrap();
}

#[test]
fn memory_does_not_follow_the_length_of_the_log_nor_what_it_claims() {
    let noise = Rng::new(1).bytes(1 << 20);
    let text = vec![7; 1 << 20];
    let mut n = 0;
    let rise = peak(|| {
        stream(|encoder, out| {
            let data = if n % 2 == 0 { &noise } else { &text };
            encoder.data(0, n << 20, data, out).unwrap();
            n += 1;
            n < 512
        });
    });
    println!("512 MiB of frames: {} KiB", rise >> 10);
    assert!(rise < 12 << 20, "{rise} bytes to write and read 512 MiB");

    // Heads that claim the most a frame may have, and a footer that claims more extents than were seen: nothing is
    // set aside for them. The mark above hides small rises, hence one that is far above it would show.
    let mut claims = Vec::new();
    Encoder::new(&header(&[("a", 1 << 56)]), false, &mut claims).unwrap();
    let mut footer = claims.clone();
    claims.extend_from_slice(b"LBFR\x01\x01\0\0\0\0\0\0\0\0\0\0\0\0\x10\0\0\0\0\0\xff\xff\x0f\0");
    footer.extend_from_slice(b"LBFOOTER");
    footer.extend_from_slice(&[0; 24]);
    footer.extend_from_slice(&u32::MAX.to_le_bytes());
    let rise = peak(|| {
        let mut held = Vec::new();
        for _ in 0..64 {
            let mut decoder = Decoder::new();
            decoder.push(&claims);
            while let Ok(Some(Item::Header(_))) = decoder.next() {}
            held.push(decoder);
        }
        verify(&footer).unwrap_err();
    });
    assert!(rise < 16 << 20, "{rise} bytes for 64 claims");
}
