//! What must hold for control documents between hosts on any input. Shared by the fuzz target and by a test of the crate that runs
//! it over the corpus and seeded mutations on a stable toolchain, so it uses only the public API.

use lifeboat_engine::ports::link::{PeerRefusal, PeerReply, PeerRequest};
use lifeboat_link::exercise;
use lifeboat_model::words::{TEXT_MAX, is_obeyed};

/// Most bytes of what a document becomes for each of its own: fields that were left out are written.
const GROWTH: usize = 64;
/// Whatever it was.
const SMALL: usize = 16 << 10;

/// A message for people: short, whatever was sent, and nothing that a terminal obeys.
fn short(message: &str) {
    assert!(
        message.len() <= 2 * TEXT_MAX,
        "{} bytes: {message}",
        message.len()
    );
    assert!(!message.chars().any(is_obeyed), "{message:?}");
}

/// Arbitrary bytes as every document of the protocol.
pub(crate) fn decode(bytes: &[u8]) {
    request(bytes);
    reply(bytes);
    log(bytes);
}

/// As a request: no panic, every refusal fits into an answer, and what is taken can be written, is bounded and reads the same.
fn request(bytes: &[u8]) {
    let request = match exercise::request(bytes) {
        Ok(request) => request,
        Err(error) => return short(&error),
    };
    let written = serde_json::to_vec(&request).expect("what was read");
    assert!(
        written.len() <= SMALL + GROWTH * bytes.len(),
        "{} of {}",
        written.len(),
        bytes.len()
    );
    assert_eq!(exercise::request(&written).expect("what was written"), request);
    judged(&request);
}

/// What a host does first with a description and with settings: judges them, in words.
fn judged(request: &PeerRequest) {
    let (PeerRequest::Offer { vm, settings, .. } | PeerRequest::Update { vm, settings, .. }) = request else {
        return;
    };
    let document = serde_json::to_value(vm).expect("what was read");
    let paths = |value: &serde_json::Value| {
        let disks = value["disk"].as_array().cloned().unwrap_or_default();
        let path = |d: &serde_json::Value| d["path"].as_str().unwrap_or_default().to_owned();
        disks.iter().map(path).collect::<String>()
    };
    assert_eq!(paths(&document), "", "no path of a peer is kept");
    if let Err(error) = vm.validate() {
        assert!(error.to_string().len() <= 2 * TEXT_MAX, "{error}");
    }
    if let Err(error) = settings.validate(vm.disks.iter().map(|d| &d.id)) {
        assert!(error.to_string().len() <= 2 * TEXT_MAX, "{error}");
    }
    if let PeerRequest::Offer { disks, .. } = request {
        for error in disks.iter().filter_map(|d| d.validate().err()) {
            assert!(error.to_string().len() <= 2 * TEXT_MAX, "{error}");
        }
    }
}

/// As a reply: no panic, and the words in it are bounded.
fn reply(bytes: &[u8]) {
    let Ok(reply) = exercise::reply(bytes) else {
        return;
    };
    let reply = match reply {
        Ok(reply) => reply,
        Err(words) => return short(&words),
    };
    let written = serde_json::to_vec(&reply).expect("what was read");
    assert!(
        written.len() <= SMALL + GROWTH * bytes.len(),
        "{} of {}",
        written.len(),
        bytes.len()
    );
    let again = exercise::reply(&written).expect("what was written");
    assert_eq!(again.as_ref(), Ok(&reply));
    if let PeerReply::Refused(refusal) = &reply {
        refused(refusal);
    }
}

fn refused(refusal: &PeerRefusal) {
    // Two texts at most, and what stands around them.
    let said = refusal.to_string();
    assert!(said.len() <= 3 * TEXT_MAX, "{} bytes", said.len());
    assert!(!said.chars().any(is_obeyed), "{said:?}");
}

/// As an answer to a log, and as the query that names one.
fn log(bytes: &[u8]) {
    if let Ok(kept) = exercise::log_answer(bytes) {
        assert!(kept.len() <= SMALL, "{} bytes", kept.len());
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match exercise::log_query(text) {
        Ok(written) => assert_eq!(exercise::log_query(&written).as_ref(), Ok(&written)),
        Err(error) => assert!(error.len() <= TEXT_MAX, "{error}"),
    }
}
