//! Arbitrary bytes as an envelope of WS-Management: an answer or a fault, either of them well-formed, and within its bounds.
#![no_main]

use lifeboat_cim::wsman::{Operation, decode, encode};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = lifeboat_xml::decode_text(bytes, None) else {
        return;
    };
    let envelope = match decode(&text) {
        Ok(message) => {
            if let Operation::Subscribe(subscribe) = &message.operation {
                for to in subscribe.notify.iter().chain(&subscribe.end) {
                    let headers = format!("<h>{}</h>", to.headers);
                    assert!(lifeboat_xml::parse(&headers).is_ok(), "{headers}");
                }
            }
            let answer = encode::response(&message.headers, "uuid:1", &encode::pull("", Some("context")));
            assert!(answer.len() <= encode::OVERHEAD, "{answer}");
            answer
        }
        Err(fault) => fault.envelope("uuid:1", "host"),
    };
    assert!(lifeboat_xml::parse(&envelope).is_ok(), "{envelope}");
});
