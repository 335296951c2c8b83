//! What is done and what has happened: jobs, events, and what waits for a second person.

use lifeboat_model::api::ReturnCode;
use lifeboat_model::{JobId, JobState, JobType, RequestId, Timestamp, VmId};
use serde::{Deserialize, Serialize};

use crate::by::By;
use crate::contract::Action;

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
    /// The API's return code for that; `None` unless it ended in an exception.
    pub code: Option<ReturnCode>,
    /// When it was asked for, by this host's wall clock.
    pub created: Timestamp,
    /// When its work first began; `None` while it waits for its time.
    pub started: Option<Timestamp>,
    /// When it ended, well or not; `None` while it goes on or waits.
    pub ended: Option<Timestamp>,
    /// Who asked for it; `None`: nobody did, or that is not known.
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
    /// Who asked for it; `None`: it happened by itself, or that is not known.
    pub by: Option<By>,
}

/// An action that waits for a second person, or that one has confirmed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestView {
    /// Its name.
    pub id: RequestId,
    /// Who asks.
    pub by: By,
    /// What for; a VM in it is named by its UUID.
    pub action: Action,
    /// The VM it is about; `None`: the host.
    pub vm: Option<VmId>,
    /// What it would do, in words.
    pub what: String,
    /// When it was asked for.
    pub asked: Timestamp,
    /// When it ends if nobody confirms it.
    pub until: Timestamp,
    /// How far it has come.
    pub state: RequestStage,
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
