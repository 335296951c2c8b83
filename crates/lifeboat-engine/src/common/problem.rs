//! What is wrong with a relationship, and since when. It is remembered, so that a start of the daemon does not forget it, and it is
//! shown as it is.

use lifeboat_model::Finding;
use lifeboat_model::Hint;
use lifeboat_model::Note;
use lifeboat_model::ProblemKind;
use lifeboat_model::Timestamp;
use lifeboat_model::hint;
use serde::{Deserialize, Serialize};

/// Something that is wrong and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Since when.
    pub since: Timestamp,
    /// What kind of thing is wrong, by which two problems are the same.
    #[serde(default, skip_serializing_if = "ProblemKind::is_unspecified")]
    pub kind: ProblemKind,
    /// What is wrong, in words.
    pub message: String,
    /// What can be done.
    #[serde(
        default,
        deserialize_with = "hint::told",
        skip_serializing_if = "Option::is_none"
    )]
    pub hint: Option<Hint>,
    /// Attempts that failed so far.
    pub attempts: u32,
}

impl Problem {
    /// A problem beside the one that was known: the same kind counts up, with what is told of it now; another one takes its
    /// place and keeps its beginning. True: it was not known.
    pub(crate) fn again(known: Option<Self>, kind: ProblemKind, note: Note, now: Timestamp) -> (Self, bool) {
        let new = known.as_ref().is_none_or(|p| p.kind != kind);
        let again = Self {
            since: known.as_ref().map_or(now, |p| p.since),
            kind,
            message: note.text,
            hint: note.hint,
            attempts: known.map_or(1, |p| p.attempts.saturating_add(1)),
        };
        (again, new)
    }

    /// What it means for the health: the attempts so far, and what was found.
    pub(crate) fn found(&self) -> (u32, Finding) {
        let note = Note {
            text: self.message.clone(),
            hint: self.hint.clone(),
        };
        (self.attempts, Finding::warning(self.kind, note))
    }
}
