//! A recovery point in a list.

use lifeboat_deltalog::Consistency;
use lifeboat_model::{Changed, Target, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A recovery point in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointView {
    /// What to give to `failover start --point`.
    pub id: String,
    /// The instant's name in the management API, which is taken here as well. It stays the same when a cycle is sealed, and
    /// on each host; `None` for what was set aside.
    #[serde(default)]
    pub guid: Option<Uuid>,
    /// What it is.
    pub target: Target,
    /// The instant on the primary.
    pub instant: Timestamp,
    /// What it guarantees.
    pub consistency: Consistency,
    /// Bytes it takes.
    pub size: u64,
    /// Why it is not offered: its data is, or may be, wrong. `None`: nothing is known against it.
    #[serde(default)]
    pub unusable: Option<String>,
    /// What changed since the point before it; `None` for a cycle that is no point, and where it was not noted.
    #[serde(default)]
    pub changed: Option<Changed>,
}
