//! Arbitrary bytes into the decoder of monitors and guest agents.
#![no_main]

use lifeboat_block::qmp::exercise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // The first byte says who is speaking, the second how the stream is cut.
    let [agent, piece, stream @ ..] = bytes else { return };
    exercise::check(stream, agent % 2 == 1, usize::from(*piece));
});
