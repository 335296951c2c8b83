//! What every envelope looks like. What is in one, `encode` and `fault` know.

use lifeboat_xml::Writer;

use super::ns;

/// The namespaces that every envelope declares. Clients that look names up by prefix know these letters.
pub(super) const PREFIXES: [(&str, &str); 9] = [
    ("xmlns:s", ns::SOAP),
    ("xmlns:a", ns::ADDRESSING),
    ("xmlns:w", ns::WSMAN),
    ("xmlns:n", ns::ENUMERATION),
    ("xmlns:e", ns::EVENTING),
    ("xmlns:x", ns::TRANSFER),
    ("xmlns:b", ns::BINDING),
    ("xmlns:cim", ns::CIM),
    ("xmlns:xsi", ns::XSI),
];

/// An envelope to the sender of the request. `body` is XML with the prefixes of [`PREFIXES`].
pub(super) fn envelope(action: &str, message_id: &str, relates_to: Option<&str>, body: &str) -> String {
    let mut w = Writer::new();
    w.start("s:Envelope", &PREFIXES);
    w.start("s:Header", &[]);
    w.leaf("a:To", &[], ns::ANONYMOUS);
    w.leaf("a:Action", &[], action);
    w.leaf("a:MessageID", &[], message_id);
    if let Some(relates_to) = relates_to {
        w.leaf("a:RelatesTo", &[], relates_to);
    }
    w.end("s:Header");
    finish(w, body)
}

/// Puts the body behind a header that is complete.
pub(super) fn finish(mut w: Writer, body: &str) -> String {
    w.start("s:Body", &[]);
    w.raw(body);
    w.end("s:Body");
    w.end("s:Envelope");
    w.finish()
}
