//! What is remembered of something that happened.

use lifeboat_model::{Timestamp, VmId};
use serde::{Deserialize, Serialize};

use super::Record;
use crate::by::By;

/// Something that happened, for the log an administrator reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When it was recorded, by this host's wall clock.
    pub at: Timestamp,
    /// About which VM.
    pub vm: Option<VmId>,
    /// What, in words.
    pub message: String,
    /// Who asked for it; `None`: it happened by itself, or was recorded before callers were.
    pub by: Option<By>,
}

impl Record for Event {
    const REQUIRED: &'static [&'static str] = &[];
}
