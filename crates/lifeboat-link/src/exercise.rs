//! Reads control documents and addresses of logs as the two sides of a connection do, without one.
//!
//! For the fuzz target and the seeded mutation test, which so share one idea of "correct". Not for production.

use lifeboat_engine::ports::link::{PeerReply, PeerRequest};

use crate::wire::{self, LogAnswer};

/// A request, as the called side reads it.
///
/// # Errors
/// What the caller is answered.
pub fn request(text: &[u8]) -> Result<PeerRequest, String> {
    wire::parse_request(text)
}

/// An answer, as the calling side reads it: a reply, or the words of the other side's transport.
///
/// # Errors
/// It is neither; the parser's own words.
pub fn reply(text: &[u8]) -> Result<Result<PeerReply, String>, String> {
    let read = wire::parse_reply(text).map_err(|e| e.to_string())?;
    Ok(read.map_err(|e| e.error))
}

/// What is kept of an answer to a log, as JSON; the words of the other side's transport as they are.
///
/// # Errors
/// It is none; the parser's own words.
pub fn log_answer(text: &[u8]) -> Result<String, String> {
    let written = match wire::parse_log_answer(text).map_err(|e| e.to_string())? {
        LogAnswer::Receipt(receipt) => serde_json::to_string(&receipt),
        LogAnswer::Refusal(refusal) => serde_json::to_string(&refusal),
        LogAnswer::Error(error) => return Ok(error.error),
    };
    written.map_err(|e| e.to_string())
}

/// The query of a log, written again.
///
/// # Errors
/// What the caller is answered.
pub fn log_query(query: &str) -> Result<String, String> {
    let target = wire::log_target(&wire::parse_log_query(query)?);
    Ok(target
        .split_once('?')
        .map(|(_, q)| q.to_owned())
        .unwrap_or_default())
}
