//! Why an action is not carried out, with the API's return code and the way out.

use lifeboat_model::RequestId;
use lifeboat_model::api::ReturnCode;
use serde::{Deserialize, Serialize};

/// Why a wish was not granted. `code` is the API's return code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The API's return code.
    pub code: ReturnCode,
    /// What and why, naming state and thing.
    pub message: String,
    /// The way out; empty when there is none.
    pub hint: String,
    /// The request that was recorded instead: it waits for a second person.
    #[serde(default)]
    pub request: Option<RequestId>,
}

impl Refusal {
    /// A refusal with a way out.
    pub fn new(code: ReturnCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: hint.into(),
            request: None,
        }
    }
}
