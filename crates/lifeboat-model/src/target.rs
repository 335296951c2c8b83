//! Where an instant that can be brought back is. What there is of it, and how it is brought back, the store knows.

use serde::{Deserialize, Serialize};

use crate::ids::{PointId, Position};

/// Where an instant to be brought back is: a sealed point, or a cycle that needs replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Target {
    /// A sealed point.
    Point {
        /// Its id.
        id: PointId,
    },
    /// A cycle in the retained logs, not before the oldest sealed point.
    Cycle {
        /// Its position.
        position: Position,
    },
    /// What this copy held when it became a replica of what had been its own replica.
    Abandoned,
}
