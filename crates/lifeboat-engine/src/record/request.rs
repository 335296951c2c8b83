//! Requests that wait for a second person, as they are recorded.

use super::Record;
use crate::common::by::By;
use crate::contract::Action;
use lifeboat_model::{Reading, RequestId, Timestamp, VmId};
use serde::{Deserialize, Serialize};

/// An action that waits for a second person, or that one has confirmed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
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
    /// When it ends if it is not confirmed.
    pub until: Timestamp,
    /// The clocks when it was asked for.
    pub read: Reading,
    /// How far it has come.
    pub state: RequestState,
}

/// How far a request has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum RequestState {
    /// It waits for a second person.
    Waits,
    /// It is being carried out.
    Confirmed {
        /// Who confirmed it.
        second: Box<By>,
    },
    /// It was confirmed, and the daemon ended before it was known whether it was carried out. It is not begun again.
    NotKnown {
        /// Who confirmed it.
        second: Box<By>,
    },
}

impl Record for Request {
    const REQUIRED: &'static [&'static str] = &[];
}
