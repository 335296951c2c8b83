//! Refusals that several actions share.

use lifeboat_model::api::ReturnCode;
use lifeboat_model::lifecycle::NotNow;
use lifeboat_model::{Hint, Note, RequestId, hint};
use serde::{Deserialize, Serialize};

pub(crate) fn no_relationship() -> Refusal {
    Refusal::new(
        ReturnCode::InvalidState,
        "this VM is not replicated",
        hint::Replicate::Enable,
    )
}

pub(crate) fn not_now(e: &NotNow) -> Refusal {
    Refusal::new(ReturnCode::InvalidState, e.to_string(), e.hint.clone())
}

/// Why an action is not carried out. `code` is the API's return code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The API's return code.
    pub code: ReturnCode,
    /// What and why, naming state and thing.
    pub message: String,
    /// What to do instead; `None`: there is nothing.
    #[serde(default, deserialize_with = "hint::told")]
    pub hint: Option<Hint>,
    /// The request that was recorded instead: it waits for a second person.
    #[serde(default)]
    pub request: Option<RequestId>,
}

impl Refusal {
    /// A refusal with what to do instead.
    pub fn new(code: ReturnCode, message: impl Into<String>, hint: impl Into<Hint>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..Self::bare(code, message)
        }
    }

    /// A refusal after which there is nothing to do.
    pub fn bare(code: ReturnCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
            request: None,
        }
    }

    /// What is told of it, without its code.
    #[must_use]
    pub fn note(&self) -> Note {
        Note {
            text: self.message.clone(),
            hint: self.hint.clone(),
        }
    }
}
