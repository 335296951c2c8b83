//! What is wrong with a relationship, and since when. It is remembered, so that a start of the daemon does not forget it, and it is
//! shown as it is.

use lifeboat_model::Timestamp;
use serde::{Deserialize, Serialize};

/// Something that is wrong and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Since when.
    pub since: Timestamp,
    /// What is wrong and the way out, in words.
    pub message: String,
    /// Attempts that failed so far.
    pub attempts: u32,
}

impl Problem {
    /// A problem beside the one that was known: the same counts up, another one takes its place and keeps its beginning. True:
    /// it was not known.
    pub(crate) fn again(known: Option<Self>, message: &str, now: Timestamp) -> (Self, bool) {
        let new = known.as_ref().is_none_or(|p| p.message != message);
        let again = Self {
            since: known.as_ref().map_or(now, |p| p.since),
            message: message.to_owned(),
            attempts: known.map_or(1, |p| p.attempts.saturating_add(1)),
        };
        (again, new)
    }
}
