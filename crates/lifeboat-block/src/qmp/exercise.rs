//! Drives the QMP decoder with arbitrary bytes and checks what must hold whatever those are.
//!
//! For the fuzz target and the seeded mutation test, which so share one idea of "correct". Not for production.

use super::codec::{CodecError, Decoder, Message};

/// Everything the decoder makes of `bytes`, pushed in pieces of at most `piece` bytes (0 counts as 1).
#[must_use]
pub fn decode(bytes: &[u8], agent: bool, piece: usize) -> Vec<Result<Message, CodecError>> {
    let mut decoder = if agent {
        Decoder::guest_agent()
    } else {
        Decoder::new()
    };
    let mut found = Vec::new();
    for piece in bytes.chunks(piece.max(1)) {
        decoder.push(piece);
        while let Some(outcome) = decoder.next().transpose() {
            found.push(outcome);
        }
    }
    found
}

/// Decodes `bytes` whole and in pieces.
///
/// # Panics
/// When the two differ, or when a line gives more than one outcome.
pub fn check(bytes: &[u8], agent: bool, piece: usize) {
    let whole = decode(bytes, agent, bytes.len());
    assert_eq!(
        whole,
        decode(bytes, agent, piece),
        "how bytes were cut must not matter"
    );
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
    assert!(
        whole.len() <= lines,
        "{} outcomes from {lines} lines",
        whole.len()
    );
}
