//! What a VM does, as its host can see it. Not known is an answer of its own: a time-out, a file that cannot be read or
//! a monitor without a socket says nothing about the guest, and is never taken for a VM that is off.

use lifeboat_model::DiskId;
use lifeboat_model::power::Guest;
pub use lifeboat_model::power::PowerState;
use std::fmt;

/// What a VM does, with the reason where it is no ordinary state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Power {
    /// No process: looked for and not found.
    Off,
    /// The guest runs.
    Running,
    /// The process exists, the guest is paused.
    Paused,
    /// The process exists and its guest makes no progress.
    Stalled(Stall),
    /// It cannot be told. An action that needs the VM off must not go on, nor must one that needs it running.
    NotKnown {
        /// What was seen, in words.
        why: String,
    },
}

impl Power {
    /// The state without the reason.
    #[must_use]
    pub fn state(&self) -> PowerState {
        match self {
            Self::Off => PowerState::Off,
            Self::Running => PowerState::Running,
            Self::Paused => PowerState::Paused,
            Self::Stalled(_) => PowerState::Stalled,
            Self::NotKnown { .. } => PowerState::Unknown,
        }
    }

    /// Whether it is certain that the VM has no process.
    #[must_use]
    pub fn is_off(&self) -> bool {
        *self == Self::Off
    }

    /// What a command about the VM's power has to know of it.
    #[must_use]
    pub fn guest(&self) -> Guest {
        match self {
            Self::Off => Guest::Off,
            Self::Running => Guest::Running,
            Self::Paused => Guest::Paused,
            Self::Stalled(stall) if stall.cause.needs_reset() => Guest::Crashed,
            Self::Stalled(_) => Guest::Stalled,
            Self::NotKnown { .. } => Guest::NotKnown,
        }
    }

    /// Why the guest is stalled, or why its state is not known.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Off | Self::Running | Self::Paused => None,
            Self::Stalled(stall) => Some(stall.to_string()),
            Self::NotKnown { why } => Some(why.clone()),
        }
    }
}

/// Why a guest was stopped by its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// What happened.
    pub cause: StallCause,
    /// The disks it happened to; empty when no disk is the cause, or none says so.
    pub disks: Vec<DiskId>,
}

/// What stopped a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StallCause {
    /// A write found no space on the host's file system.
    NoSpace,
    /// A read or write of the host's storage failed.
    StorageError,
    /// The guest's system crashed.
    Panicked,
    /// The virtual processor cannot go on.
    Internal,
    /// The guest's watchdog expired.
    Watchdog,
}

impl StallCause {
    /// Whether the guest cannot go on where it was stopped, and only a reset helps.
    #[must_use]
    pub fn needs_reset(self) -> bool {
        match self {
            Self::NoSpace | Self::StorageError | Self::Watchdog => false,
            Self::Panicked | Self::Internal => true,
        }
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disks: Vec<&str> = self.disks.iter().map(DiskId::as_str).collect();
        let disks = match disks.as_slice() {
            [] => "one of its disks".to_owned(),
            [one] => format!("disk {one}"),
            several => format!("disks {}", several.join(", ")),
        };
        match self.cause {
            StallCause::NoSpace => write!(f, "no space left for {disks}"),
            StallCause::StorageError => write!(f, "the host's storage of {disks} reported an error"),
            StallCause::Panicked => f.write_str("the guest's system crashed"),
            StallCause::Internal => f.write_str("the virtual processor cannot go on"),
            StallCause::Watchdog => f.write_str("the guest's watchdog expired"),
        }
    }
}
