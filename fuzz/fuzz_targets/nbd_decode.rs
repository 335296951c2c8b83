//! Arbitrary bytes into the NBD handshake and the NBD reply machine.
#![no_main]

use lifeboat_block::nbd::exercise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // The first byte says what was agreed on, the second how the stream is cut.
    let [mode, piece, stream @ ..] = bytes else { return };
    match mode % 3 {
        0 => drop(exercise::handshake(stream, &["base:allocation"], usize::from(*piece))),
        mode => drop(exercise::replies(stream, mode == 1, usize::from(*piece) * 16)),
    }
});
