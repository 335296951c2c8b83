//! Drives the NBD decoders with arbitrary bytes and checks what must hold whatever those are.
//!
//! For fuzz targets and the seeded mutation tests, which so share one idea of "correct". Not for production.

use super::handshake::{Handshake, Step};
use super::replies::{Answer, Expect, Replies};

/// The requests [`replies`] has in flight, as cookie and expectation.
pub const IN_FLIGHT: [(u64, Expect); 5] = [
    (
        1,
        Expect::Read {
            offset: 4096,
            len: 4096,
        },
    ),
    (
        2,
        Expect::Read {
            offset: 1 << 40,
            len: 65536,
        },
    ),
    (
        3,
        Expect::Status {
            context: 7,
            len: 1 << 20,
        },
    ),
    (4, Expect::Plain),
    (5, Expect::Read { offset: 0, len: 512 }),
];

/// The context ids [`replies`] has agreed on.
pub const CONTEXTS: [u32; 2] = [7, 9];

/// Feeds `bytes` to the reply machine in pieces of at most `piece` bytes (0 counts as 1) and returns how many
/// requests it completed before the bytes or its patience ended.
///
/// # Panics
/// When the machine breaks one of its promises.
pub fn replies(bytes: &[u8], structured: bool, piece: usize) -> usize {
    let mut machine = Replies::new(structured, CONTEXTS.to_vec());
    for (cookie, expect) in IN_FLIGHT {
        machine.expect(cookie, expect);
    }
    let mut open: Vec<u64> = IN_FLIGHT.iter().map(|(cookie, _)| *cookie).collect();
    let mut rest = bytes;
    while !rest.is_empty() {
        let space = machine.space();
        assert!(!space.is_empty(), "the machine wants no bytes but is not done");
        let count = space.len().min(rest.len()).min(piece.max(1));
        let (head, tail) = rest.split_at(count);
        space
            .iter_mut()
            .zip(head)
            .for_each(|(place, byte)| *place = *byte);
        rest = tail;
        let Ok(outcome) = machine.filled(count) else { break };
        let Some(completion) = outcome else { continue };
        let place = open.iter().position(|cookie| *cookie == completion.cookie);
        let place = place.expect("a completion belongs to a request in flight, once");
        open.swap_remove(place);
        if let Ok(answer) = completion.result {
            check(completion.cookie, &answer);
        }
    }
    IN_FLIGHT.len() - open.len()
}

fn check(cookie: u64, answer: &Answer) {
    let asked = IN_FLIGHT
        .iter()
        .find(|(known, _)| *known == cookie)
        .map(|(_, expect)| expect);
    match (asked, answer) {
        (Some(Expect::Read { len, .. }), Answer::Data(data)) => {
            assert_eq!(data.len(), *len as usize, "a read is whole or fails");
        }
        (Some(Expect::Status { len, .. }), Answer::Status(extents)) => {
            let total: u64 = extents.iter().map(|(len, _)| u64::from(*len)).sum();
            assert!(
                !extents.is_empty() && total <= u64::from(*len),
                "extents stay in the range"
            );
            assert!(extents.iter().all(|(len, _)| *len > 0), "no extent is empty");
        }
        (Some(Expect::Plain), Answer::Done) => {}
        (asked, answer) => assert!(asked.is_none(), "{asked:?} was answered with {answer:?}"),
    }
}

/// Feeds `bytes` to the handshake in pieces of at most `piece` bytes (0 counts as 1). True when an export was opened.
///
/// # Panics
/// When the machine breaks one of its promises.
pub fn handshake(bytes: &[u8], contexts: &[&str], piece: usize) -> bool {
    let Ok(mut machine) = Handshake::new("disk", contexts) else {
        return false;
    };
    let mut pieces = bytes.chunks(piece.max(1));
    loop {
        match machine.step() {
            Err(_) => return false,
            Ok(Step::Send(_)) => {}
            Ok(Step::NeedMore) => match pieces.next() {
                Some(bytes) => machine.push(bytes),
                None => return false,
            },
            Ok(Step::Ready(negotiated)) => {
                let sizes = negotiated.block_sizes;
                assert!(
                    i64::try_from(negotiated.size).is_ok(),
                    "sizes leave room for sums"
                );
                assert!(
                    sizes.minimum.is_power_of_two() && sizes.minimum <= sizes.maximum,
                    "{sizes:?}"
                );
                assert!(
                    negotiated.contexts.len() <= contexts.len(),
                    "only contexts that were asked for"
                );
                return true;
            }
        }
    }
}
