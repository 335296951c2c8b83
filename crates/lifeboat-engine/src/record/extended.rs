//! What a replica remembers of its relationship to a third host (index 1), in which it is what a primary is to a replica.

use super::{Counters, Problem, nothing_set};
use lifeboat_model::{JobId, PointId, Position, Recency, ReplicationSettings, ReplicationState, Timestamp};
use serde::{Deserialize, Serialize};

/// The relationship of a replica to a third host (index 1), in which it is what a primary is to a replica.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Extended {
    /// Settings; the peer in them is the third host.
    pub settings: ReplicationSettings,
    /// State by the API's table of a primary.
    pub state: ReplicationState,
    /// Last position that the third host has confirmed as durable; `None` before the initial copy is there.
    pub acknowledged: Option<Position>,
    /// A comparison that goes on.
    pub comparison: Option<Comparison>,
    /// The job of a comparison that an administrator asked for, until it is over.
    pub compare: Option<JobId>,
    /// When the copy or a comparison is to begin; `None` when nothing waits.
    pub scheduled: Option<Timestamp>,
    /// What would keep the VM from starting there.
    pub preflight: Vec<String>,
    /// What is wrong now.
    pub problem: Option<Problem>,
    /// When the relationship was made.
    pub created: Timestamp,
    /// Last log sent.
    pub last_replication: Option<Timestamp>,
    /// Instant of the newest data there.
    pub newest_instant: Option<Timestamp>,
    /// The same two by clocks that cannot be set: what ages are measured by.
    pub recency: Recency,
    /// Counters since it was made.
    pub counters: Counters,
    /// The job of the initial copy.
    pub job: Option<JobId>,
}

/// To no peer, with nothing sent.
impl Default for Extended {
    fn default() -> Self {
        Self {
            settings: nothing_set(),
            state: ReplicationState::Disabled,
            acknowledged: None,
            comparison: None,
            compare: None,
            scheduled: None,
            preflight: Vec::new(),
            problem: None,
            created: Timestamp::default(),
            last_replication: None,
            newest_instant: None,
            recency: Recency::default(),
            counters: Counters::default(),
            job: None,
        }
    }
}

/// How far a copy of a copy is compared with a sealed point. Lost, it begins again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// The point.
    pub point: PointId,
    /// Where the other copy stands.
    pub at: Position,
    /// What lies before it is equal: disk number and offset.
    pub cursor: (u16, u64),
}
