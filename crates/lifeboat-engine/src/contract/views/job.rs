//! What is done and what has happened: jobs, events, and what waits for a second person.

use crate::common::by::By;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::hint::{self, Hint};
use lifeboat_model::{JobId, JobState, JobType, Timestamp, VmId};
use serde::{Deserialize, Serialize};

/// A long operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    /// Random, and the job's name in the management API (`InstanceID`).
    pub id: JobId,
    /// The VM it works on.
    pub vm: VmId,
    /// What it does.
    pub kind: JobType,
    /// State by the API's numbers.
    pub state: JobState,
    /// 0 to 100.
    pub percent: u8,
    /// What is being done, in words, with amounts.
    pub detail: String,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all; 0 when it makes no sense.
    pub total_bytes: u64,
    /// Why it ended badly.
    pub error: Option<String>,
    /// What can be done about that.
    #[serde(
        default,
        deserialize_with = "hint::told",
        skip_serializing_if = "Option::is_none"
    )]
    pub hint: Option<Hint>,
    /// The API's return code for that; `None` unless it ended in an exception.
    pub code: Option<ReturnCode>,
    /// When it was asked for, by this host's wall clock.
    pub created: Timestamp,
    /// When its work first began; `None` while it waits for its time.
    pub started: Option<Timestamp>,
    /// When it ended, well or not; `None` while it goes on or waits.
    pub ended: Option<Timestamp>,
    /// Who asked for it; `None`: no user did, or that is not known.
    pub by: Option<By>,
}

/// Something that happened, for the log an administrator reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
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
    /// Who asked for it; `None`: it happened by itself, or that is not known.
    pub by: Option<By>,
}

/// How far a request has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum RequestStage {
    /// It waits for a second person.
    Waits,
    /// It is being carried out.
    Confirmed {
        /// Who confirmed it.
        second: Box<By>,
    },
    /// It was confirmed, and whether it was carried out is not known. It is not begun again.
    NotKnown {
        /// Who confirmed it.
        second: Box<By>,
    },
}
