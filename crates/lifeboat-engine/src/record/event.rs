//! What is remembered of something that happened.

use super::Record;
use crate::common::by::By;
use lifeboat_model::Hint;
use lifeboat_model::hint;
use lifeboat_model::{Timestamp, VmId};
use serde::{Deserialize, Serialize};

/// Something that happened, for the log an administrator reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When it was recorded, by this host's wall clock.
    pub at: Timestamp,
    /// About which VM.
    pub vm: Option<VmId>,
    /// What, in words.
    pub message: String,
    /// What can be done about it.
    #[serde(
        default,
        deserialize_with = "hint::told",
        skip_serializing_if = "Option::is_none"
    )]
    pub hint: Option<Hint>,
    /// Who asked for it; `None`: it happened by itself, or was recorded before callers were.
    pub by: Option<By>,
}

impl Record for Event {
    const REQUIRED: &'static [&'static str] = &[];
}
