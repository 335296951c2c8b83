//! Tests of the reply machine: honest replies, every lie it must notice, and random damage.

use super::*;
use crate::nbd::exercise;

const DONE: u16 = proto::REPLY_FLAG_DONE;

fn chunk(flags: u16, kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = proto::STRUCTURED_REPLY_MAGIC.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn data(flags: u16, cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    chunk(
        flags,
        proto::REPLY_OFFSET_DATA,
        cookie,
        &[&offset.to_be_bytes()[..], data].concat(),
    )
}

fn hole(flags: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    chunk(
        flags,
        proto::REPLY_OFFSET_HOLE,
        cookie,
        &[&offset.to_be_bytes()[..], &len.to_be_bytes()].concat(),
    )
}

fn status(flags: u16, cookie: u64, context: u32, extents: &[(u32, u32)]) -> Vec<u8> {
    let numbers = extents.iter().flat_map(|(len, flags)| [*len, *flags]);
    let payload: Vec<u8> = [context]
        .into_iter()
        .chain(numbers)
        .flat_map(u32::to_be_bytes)
        .collect();
    chunk(flags, proto::REPLY_BLOCK_STATUS, cookie, &payload)
}

fn error(flags: u16, cookie: u64, errno: u32, message: &str, more: &[u8]) -> Vec<u8> {
    let len = u16::try_from(message.len()).unwrap();
    let payload = [
        &errno.to_be_bytes()[..],
        &len.to_be_bytes(),
        message.as_bytes(),
        more,
    ]
    .concat();
    let kind = if more.is_empty() { 1 } else { 2 };
    chunk(flags, proto::REPLY_ERROR_BIT | kind, cookie, &payload)
}

fn simple(errno: u32, cookie: u64, data: &[u8]) -> Vec<u8> {
    let magic = proto::SIMPLE_REPLY_MAGIC.to_be_bytes();
    [&magic[..], &errno.to_be_bytes(), &cookie.to_be_bytes(), data].concat()
}

/// Feeds bytes in pieces of at most `piece`.
fn feed(machine: &mut Replies, bytes: &[u8], piece: usize) -> Result<Vec<Completion>, Violation> {
    let mut rest = bytes;
    let mut done = Vec::new();
    while !rest.is_empty() {
        let space = machine.space();
        let count = space.len().min(rest.len()).min(piece);
        assert!(count > 0);
        space[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        done.extend(machine.filled(count)?);
    }
    Ok(done)
}

fn machine(expectations: &[(u64, Expect)]) -> Replies {
    let mut machine = Replies::new(true, vec![7, 9]);
    expectations
        .iter()
        .for_each(|(cookie, expect)| machine.expect(*cookie, *expect));
    machine
}

const READ: Expect = Expect::Read {
    offset: 1000,
    len: 100,
};
const STATUS: Expect = Expect::Status {
    context: 7,
    len: 1000,
};

#[test]
fn chunks_of_several_reads_may_mix_and_come_in_any_order() {
    let bytes = [
        data(0, 1, 1050, &[5; 50]),
        data(0, 2, 1000, &[8; 100]),
        hole(0, 1, 1010, 40),
        chunk(DONE, proto::REPLY_NONE, 2, &[]),
        data(DONE, 1, 1000, &[4; 10]),
    ]
    .concat();
    let expected = [&[4; 10][..], &[0; 40], &[5; 50]].concat();
    for piece in [1, 3, 16, usize::MAX] {
        let done = feed(&mut machine(&[(1, READ), (2, READ)]), &bytes, piece).unwrap();
        let answers: Vec<_> = done.into_iter().map(|done| (done.cookie, done.result)).collect();
        let expected = vec![
            (2, Ok(Answer::Data(vec![8; 100]))),
            (1, Ok(Answer::Data(expected.clone()))),
        ];
        assert_eq!(answers, expected, "in pieces of {piece}");
    }
}

#[test]
fn a_read_of_one_hole_is_all_zeroes() {
    let done = feed(&mut machine(&[(1, READ)]), &hole(DONE, 1, 1000, 100), 7).unwrap();
    assert_eq!(done[0].result, Ok(Answer::Data(vec![0; 100])));
}

#[test]
fn an_error_spoils_its_request_only_and_the_first_one_counts() {
    let bytes = [
        error(0, 1, 5, "bad sector", &1050_u64.to_be_bytes()),
        data(0, 1, 1000, &[1; 50]),
        error(DONE, 1, 28, "", &[]),
        data(DONE, 2, 1000, &[2; 100]),
    ]
    .concat();
    let done = feed(&mut machine(&[(1, READ), (2, READ)]), &bytes, usize::MAX).unwrap();
    assert_eq!(
        done[0].result,
        Err(ServerError {
            errno: 5,
            message: "bad sector".to_owned()
        })
    );
    assert_eq!(done[1].result, Ok(Answer::Data(vec![2; 100])));
}

#[test]
fn status_is_taken_from_the_wanted_context_and_cut_at_the_end() {
    let bytes = [
        status(0, 1, 9, &[(77, 3)]),
        status(0, 1, 7, &[(400, 1), (9000, 0)]),
        chunk(DONE, proto::REPLY_NONE, 1, &[]),
    ]
    .concat();
    let done = feed(&mut machine(&[(1, STATUS)]), &bytes, 5).unwrap();
    assert_eq!(done[0].result, Ok(Answer::Status(vec![(400, 1), (600, 0)])));
}

#[test]
fn simple_replies_serve_plain_requests_and_reads_without_structured_replies() {
    let mut plain = machine(&[(1, Expect::Plain), (2, Expect::Plain)]);
    let done = feed(&mut plain, &[simple(0, 2, &[]), simple(28, 1, &[])].concat(), 3).unwrap();
    assert_eq!(
        done[0],
        Completion {
            cookie: 2,
            result: Ok(Answer::Done)
        }
    );
    assert_eq!(done[1].result.as_ref().unwrap_err().errno, 28);
    let mut old = Replies::new(false, vec![]);
    [(1, READ), (2, READ)]
        .into_iter()
        .for_each(|(cookie, expect)| old.expect(cookie, expect));
    let done = feed(
        &mut old,
        &[simple(5, 1, &[]), simple(0, 2, &[6; 100])].concat(),
        13,
    )
    .unwrap();
    assert_eq!(done[0].result.as_ref().unwrap_err().errno, 5);
    assert_eq!(done[1].result, Ok(Answer::Data(vec![6; 100])));
}

const READS: &[(u64, Expect)] = &[(1, READ), (2, READ)];
const MIXED: &[(u64, Expect)] = &[(1, READ), (3, STATUS), (4, Expect::Plain)];

#[track_caller]
fn refused(expectations: &[(u64, Expect)], chunks: &[Vec<u8>], complaint: &str) {
    let outcome = feed(&mut machine(expectations), &chunks.concat(), usize::MAX);
    let said = outcome.expect_err("this must be refused").to_string();
    assert!(said.contains(complaint), "{said}");
}

#[test]
fn replies_to_nothing_that_is_in_flight_are_refused() {
    refused(READS, &[data(DONE, 9, 1000, &[1; 100])], "not in flight");
    refused(MIXED, &[simple(0, 9, &[])], "not in flight");
    refused(
        READS,
        &[hole(DONE, 1, 1000, 100), hole(DONE, 1, 1000, 100)],
        "not in flight",
    );
    refused(READS, &[vec![0; 16]], "begins with");
}

#[test]
fn chunks_outside_the_range_are_refused() {
    refused(READS, &[data(0, 1, 999, &[1; 10])], "outside");
    refused(READS, &[data(0, 1, 1091, &[1; 10])], "outside");
    refused(READS, &[hole(0, 1, 1000, 101)], "outside");
    refused(READS, &[hole(0, 1, 1000, u32::MAX)], "outside");
    refused(READS, &[hole(0, 1, u64::MAX, 100)], "outside");
    refused(READS, &[hole(0, 1, 1000, 0)], "outside");
    refused(READS, &[data(0, 1, 1000, &[])], "length 8");
    refused(READS, &[data(0, 1, 1000, &[1; 101])], "length 109");
}

#[test]
fn chunks_that_overlap_or_leave_gaps_are_refused() {
    refused(
        READS,
        &[data(0, 1, 1000, &[1; 60]), hole(0, 1, 1059, 41)],
        "same bytes",
    );
    refused(
        READS,
        &[data(0, 1, 1000, &[1; 60]), hole(0, 1, 1010, 5)],
        "same bytes",
    );
    refused(
        READS,
        &[data(0, 1, 1020, &[1; 10]), hole(0, 1, 1000, 100)],
        "same bytes",
    );
    refused(READS, &[data(DONE, 1, 1000, &[1; 99])], "misses bytes");
    refused(READS, &[data(DONE, 1, 1001, &[1; 99])], "misses bytes");
    refused(READS, &[chunk(DONE, proto::REPLY_NONE, 1, &[])], "misses bytes");
}

#[test]
fn chunks_of_a_kind_that_does_not_fit_are_refused() {
    refused(READS, &[chunk(0, proto::REPLY_NONE, 1, &[])], "type 0");
    refused(READS, &[chunk(DONE, proto::REPLY_NONE, 1, &[1])], "type 0");
    refused(READS, &[chunk(DONE, 4, 1, &[1; 20])], "type 4");
    refused(MIXED, &[simple(0, 1, &[1; 100])], "simple reply to a read");
    refused(MIXED, &[simple(0, 3, &[])], "simple reply to a status");
    refused(MIXED, &[data(DONE, 3, 1000, &[1; 10])], "type 1");
    refused(MIXED, &[data(DONE, 4, 1000, &[1; 10])], "type 1");
    refused(MIXED, &[status(DONE, 1, 7, &[(1, 1)])], "type 5");
    refused(
        READS,
        &[error(DONE, 1, 0, "fine", &[])],
        "without an error number",
    );
    refused(
        READS,
        &[chunk(DONE, 0x8001, 1, &[0, 0, 0, 5, 0xff, 0xff, 1])],
        "cut off",
    );
    refused(READS, &[chunk(DONE, 0x8001, 1, &[1; 9000])], "length 9000");
}

#[test]
fn status_that_cannot_be_is_refused() {
    refused(MIXED, &[status(DONE, 3, 8, &[(1, 1)])], "not agreed");
    refused(
        MIXED,
        &[status(0, 3, 9, &[(1, 1)]), status(0, 3, 9, &[(1, 1)])],
        "twice",
    );
    refused(MIXED, &[status(DONE, 3, 9, &[(1, 1)])], "without its context");
    refused(MIXED, &[status(DONE, 3, 7, &[(0, 1)])], "empty or");
    refused(MIXED, &[status(DONE, 3, 7, &[(1000, 1), (1, 1)])], "empty or");
    refused(MIXED, &[status(DONE, 3, 7, &[])], "length 4");
    refused(
        MIXED,
        &[chunk(DONE, proto::REPLY_BLOCK_STATUS, 3, &[0; 16])],
        "length 16",
    );
}

#[test]
fn a_length_is_refused_before_memory_is_taken_for_it() {
    let mut bytes = status(0, 1, 7, &[]);
    bytes.truncate(16);
    bytes.extend((MAX_EXTENTS * 8 + 12).to_be_bytes());
    refused(&[(1, STATUS)], &[bytes], "type 5");
    let mut machine = Replies::new(false, vec![]);
    machine.expect(1, READ);
    let said = feed(&mut machine, &data(DONE, 1, 1000, &[1; 100]), 16).unwrap_err();
    assert!(said.to_string().contains("not agreed on"));
}

#[test]
fn a_read_cannot_be_split_without_end() {
    let expect = Expect::Read {
        offset: 0,
        len: 1 << 20,
    };
    let mut machine = machine(&[(1, expect)]);
    let outcome = (0..u64::from(1_u32 << 19))
        .try_for_each(|piece| feed(&mut machine, &hole(0, 1, piece * 2, 1), usize::MAX).map(drop));
    assert!(outcome.unwrap_err().to_string().contains("more pieces"));
}

/// A stream that answers everything [`exercise::IN_FLIGHT`] has asked.
fn honest() -> Vec<u8> {
    [
        data(0, 1, 6000, &[1; 2192]),
        error(0, 5, 5, "input/output error", &100_u64.to_be_bytes()),
        hole(0, 2, 1 << 40, 30000),
        hole(0, 1, 4096, 1904),
        status(0, 3, 9, &[(1 << 20, 0)]),
        simple(0, 4, &[]),
        data(DONE, 2, (1 << 40) + 30000, &[2; 35536]),
        status(DONE, 3, 7, &[(65536, 1), (1 << 20, 0)]),
        chunk(DONE, proto::REPLY_NONE, 1, &[]),
        chunk(DONE, proto::REPLY_NONE, 5, &[]),
    ]
    .concat()
}

#[test]
fn a_stream_cut_anywhere_completes_less_but_harms_nothing() {
    let bytes = honest();
    assert_eq!(exercise::replies(&bytes, true, usize::MAX), 5);
    for end in (0..bytes.len()).filter(|end| *end < 3000 || end % 97 == 0) {
        assert!(exercise::replies(&bytes[..end], true, 4096) < 5);
    }
}

#[test]
fn damaged_streams_never_break_a_promise() {
    let seed = 0x1dea_5eed_u64;
    println!("seed {seed:#x}");
    let mut random = crate::nbd::tests::Random(seed);
    let (honest, mut completed) = (honest(), 0);
    for round in 0..20_000 {
        let mut bytes = honest.clone();
        random.damage(&mut bytes, 40);
        completed += exercise::replies(&bytes, round % 8 != 0, 1 + random.below(6000));
    }
    assert!(
        completed > 1000,
        "damage must leave something to decode: {completed}"
    );
}
