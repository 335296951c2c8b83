//! Tests of the QMP framing: what peers really send, what they should not, and random damage.

use serde_json::json;

use super::*;
use crate::nbd::tests::Random;
use crate::qmp::exercise;

const STREAM: &str = concat!(
    r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "Debian"}, "capabilities": ["oob"]}}"#,
    "\r\n",
    r#"{"return": {}, "id": 0}"#,
    "\r\n",
    r#"{"timestamp": {"seconds": 1763832000, "microseconds": 7}, "event": "BLOCK_JOB_COMPLETED", "data": {"device": "bk0"}}"#,
    "\r\n",
    r#"{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "STOP"}"#,
    "\r\n",
    r#"{"id": 1, "error": {"class": "GenericError", "desc": "Cannot find device=\"x\""}}"#,
    "\r\n",
);

fn only(line: &[u8], agent: bool) -> Result<Message, CodecError> {
    let mut found = exercise::decode(&[line, b"\n"].concat(), agent, usize::MAX);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn messages_of_every_kind_are_decoded() {
    let event = |name: &str, data, seconds, micros| Event {
        name: name.to_owned(),
        data,
        seconds,
        micros,
    };
    let expected = vec![
        Ok(Message::Greeting { version: (10, 0, 2) }),
        Ok(Message::Return {
            id: Some(json!(0)),
            value: json!({}),
        }),
        Ok(Message::Event(event(
            "BLOCK_JOB_COMPLETED",
            json!({"device": "bk0"}),
            1_763_832_000,
            7,
        ))),
        Ok(Message::Event(event("STOP", Value::Null, -1, -1))),
        Ok(Message::Error {
            id: Some(json!(1)),
            class: "GenericError".to_owned(),
            desc: "Cannot find device=\"x\"".to_owned(),
        }),
    ];
    for piece in [1, 5, 4096] {
        assert_eq!(
            exercise::decode(STREAM.as_bytes(), false, piece),
            expected,
            "in pieces of {piece}"
        );
    }
}

#[test]
fn an_agent_that_was_interrupted_is_understood_from_the_resync_byte_on() {
    let line = b"{\"return\": {\"pid\": 12\xff\xff{\"return\": 77}";
    assert_eq!(
        only(line, true),
        Ok(Message::Return {
            id: None,
            value: json!(77)
        })
    );
    assert!(only(line, false).is_err(), "a monitor never sends that byte");
}

#[test]
fn what_is_no_message_is_an_error_and_the_next_line_counts_again() {
    let bad: [&[u8]; 9] = [
        b"{",
        b"hello",
        b"\x00\x01",
        b"[1]",
        b"7",
        b"{}",
        b"{\"error\": {\"desc\": 1}}",
        b"{\"event\": 5}",
        b"{\"return\": \"\xc3\x28\"}",
    ];
    for line in bad {
        let bytes = [line, b"\n\n\r\n{\"return\": 1}\n"].concat();
        let found = exercise::decode(&bytes, false, 3);
        assert!(found[0].is_err(), "{line:?}");
        assert_eq!(
            found[1..],
            [Ok(Message::Return {
                id: None,
                value: json!(1)
            })]
        );
    }
    let deep = [&b"[".repeat(100_000)[..], &b"]".repeat(100_000)].concat();
    assert!(
        matches!(only(&deep, false), Err(CodecError::NotJson(_))),
        "depth is limited"
    );
}

#[test]
fn a_line_without_end_is_cut_off_once_and_skipped() {
    let mut decoder = Decoder::new();
    let mut errors = 0;
    for _ in 0..40 {
        decoder.push(&vec![b'x'; 1 << 20]);
        errors += usize::from(decoder.next().is_err());
        assert!(decoder.buffer.len() <= MAX_LINE);
    }
    assert_eq!(errors, 1);
    decoder.push(b"\n{\"return\": 1}\n");
    assert_eq!(
        decoder.next(),
        Ok(Some(Message::Return {
            id: None,
            value: json!(1)
        }))
    );
}

#[test]
fn a_stream_cut_anywhere_gives_only_what_was_complete() {
    for end in 0..STREAM.len() {
        let complete = STREAM[..end].matches('\n').count();
        let found = exercise::decode(&STREAM.as_bytes()[..end], false, 11);
        assert_eq!(
            found.iter().filter(|outcome| outcome.is_ok()).count(),
            complete,
            "cut at {end}"
        );
        assert_eq!(found.len(), complete);
    }
}

#[test]
fn damaged_streams_decode_the_same_however_they_are_cut() {
    let seed = 0x9_e377_9b97_u64;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    for round in 0..20_000 {
        let mut bytes = STREAM.as_bytes().to_vec();
        random.damage(&mut bytes, 400);
        exercise::check(&bytes, round % 2 == 0, 1 + random.below(90));
    }
}
