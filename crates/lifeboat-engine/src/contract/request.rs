//! Actions that wait for a second person, as they are shown.

use lifeboat_model::{RequestId, Timestamp, VmId};
use serde::{Deserialize, Serialize};

use super::Action;
use super::views::RequestStage;
use crate::common::by::By;

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
    /// When it ends if it is not confirmed.
    pub until: Timestamp,
    /// How far it has come.
    pub state: RequestStage,
}
