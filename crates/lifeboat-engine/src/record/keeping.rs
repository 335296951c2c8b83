//! What a replica remembers of how its history is kept: what was agreed, a hold, and how much changes.

use lifeboat_model::{Arrival, ChangeRate, Timestamp};
use serde::{Deserialize, Serialize};

/// What a replica remembers of how its history is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Keeping {
    /// The longest history that its primary has asked for, or what somebody here agreed to since; `None` before the first
    /// recovery point.
    pub agreed: Option<History>,
    /// Nothing expires.
    pub hold: Option<Hold>,
    /// How much changes.
    pub rate: ChangeRate,
}

/// How much history settings ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Points beside the newest.
    pub points: u16,
    /// Seconds between two points.
    pub spacing_s: u32,
    /// Seconds for which every instant is kept.
    pub window_s: u32,
}

/// A hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// When it began.
    pub since: Timestamp,
    /// The last arrival then, which its age is counted from.
    pub arrived: Option<Arrival>,
    /// Seconds for which every instant could be brought back then. Zero: logs are not held, or not any more.
    pub window_s: u32,
    /// Why, each kind of reason once.
    pub reasons: Vec<Reason>,
}

/// Why nothing expires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Reason {
    /// Somebody asked for it.
    Asked,
    /// The primary asks for less history than before.
    LessHistory {
        /// What was agreed.
        before: History,
        /// What it asks for.
        now: History,
    },
    /// Changes that cannot be compressed, and far more than usual.
    Burst {
        /// Bytes of them within an hour.
        random: u64,
        /// Bytes of them in the worst hour before.
        usual: u64,
    },
}
