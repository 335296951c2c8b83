//! How a replica's history is kept, as it is recorded.

use lifeboat_model::{Arrival, ChangeRate, ReplicationSettings, Timestamp};
use serde::{Deserialize, Serialize};

/// What a replica remembers of how its history is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Keeping {
    /// The longest history that its primary has asked for, or what an administrator here agreed to since; `None` before the first
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
    /// An administrator asked for it.
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

impl From<&ReplicationSettings> for History {
    fn from(settings: &ReplicationSettings) -> Self {
        Self {
            points: settings.history,
            spacing_s: settings.point_spacing_s,
            window_s: settings.any_point_window_s,
        }
    }
}

impl History {
    /// How far back the points reach, in seconds.
    fn reach(self) -> u64 {
        u64::from(self.points) * u64::from(self.spacing_s)
    }

    /// Whether it gives up something of the other.
    pub(crate) fn is_less_than(self, other: Self) -> bool {
        self.points < other.points || self.reach() < other.reach() || self.window_s < other.window_s
    }
}

impl std::fmt::Display for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            points,
            spacing_s,
            window_s,
        } = self;
        write!(
            f,
            "{points} points {spacing_s} s apart and every instant of {window_s} s"
        )
    }
}

impl Reason {
    pub(crate) fn same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    pub(crate) fn text(&self, primary: &str) -> String {
        match self {
            Self::Asked => "an administrator asked for that".to_owned(),
            Self::LessHistory { before, now } => {
                format!("{primary} asks for less history: {now}, instead of {before}")
            }
            Self::Burst { random, usual } => format!(
                "{} MiB that cannot be compressed arrived within an hour, {} MiB in the worst hour before: an encrypting program in \
                 the guest looks like this, and so does a large copy of compressed data",
                random >> 20,
                usual >> 20
            ),
        }
    }
}
