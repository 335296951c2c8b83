//! Why a host does not do what another one asked. It travels, and it is shown to the administrator of the host that asked.

use lifeboat_model::hint::{self, Hint, Note};
use lifeboat_model::{Position, words};
use serde::{Deserialize, Serialize};

/// Why a replica host does not do what was asked. Sent over the wire, shown to the primary's administrator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum PeerRefusal {
    /// Not enabled as a replica server.
    #[error("{host} is not enabled as a replica server")]
    NotEnabled {
        /// The host.
        #[serde(deserialize_with = "words::text")]
        host: String,
    },
    /// No authorization entry.
    #[error("{host} has no authorization entry for {}", .names.join(", "))]
    NotAuthorized {
        /// The host.
        #[serde(deserialize_with = "words::text")]
        host: String,
        /// What the caller's certificate says.
        #[serde(deserialize_with = "words::texts")]
        names: Vec<String>,
    },
    /// No replica of this VM there.
    #[error("{host} has no replica of this VM")]
    NoReplica {
        /// The host.
        #[serde(deserialize_with = "words::text")]
        host: String,
    },
    /// The replica was failed over: nothing is received until it is reverted.
    #[error("the replica on {host} is failed over; revert it there to go on")]
    FailedOver {
        /// The host.
        #[serde(deserialize_with = "words::text")]
        host: String,
    },
    /// The replica was committed: its generation is newer, this primary must not send.
    #[error("the replica on {host} was committed and is a newer generation; this copy is the past")]
    NewerGeneration {
        /// The host.
        #[serde(deserialize_with = "words::text")]
        host: String,
    },
    /// The replica is paused by its administrator.
    #[error("the replica on {host} is suspended; resume it there")]
    Suspended {
        /// The host.
        #[serde(deserialize_with = "words::text")]
        host: String,
    },
    /// The VM runs there, and what was asked needs it off.
    #[error("the VM is running on {host}; shut it down there first")]
    Running {
        /// The host.
        #[serde(deserialize_with = "words::text")]
        host: String,
    },
    /// Not possible in the state that side is in.
    #[error("{host}: {detail}")]
    NotNow {
        /// The host.
        #[serde(deserialize_with = "words::text")]
        host: String,
        /// Which state, and what can be done.
        #[serde(flatten)]
        detail: Detail,
    },
    /// A log that does not continue what is there.
    #[error("the log does not continue the replica, which stands at {have}")]
    OutOfSequence {
        /// What is durable there.
        have: Position,
    },
    /// Enough is there that has to be applied first. Not a fault: the same log is taken as soon as there is room.
    #[error("{host} has {logs} logs ({bytes} bytes) to apply before it takes another one")]
    Backlog {
        /// The host.
        #[serde(deserialize_with = "words::text")]
        host: String,
        /// Logs that wait there.
        logs: u32,
        /// Their bytes.
        bytes: u64,
    },
    /// No room.
    #[error("{host} has no space left in {location}")]
    NoSpace {
        /// The host.
        #[serde(deserialize_with = "words::text")]
        host: String,
        /// What is full, in words: a host names none of its paths to another one.
        #[serde(deserialize_with = "words::text")]
        location: String,
    },
    /// The offer contradicts what is there, or is invalid.
    #[error("{detail}")]
    Conflict {
        /// What contradicts what, as a whole sentence, and what can be done.
        #[serde(flatten)]
        detail: Detail,
    },
    /// The caller has shown a certificate with the name of a host that is known there by another key. It travels as a refusal of
    /// the transport, which every release understands.
    #[error("{host} refuses our certificate: {detail}")]
    OtherKey {
        /// The host.
        #[serde(deserialize_with = "words::text")]
        host: String,
        /// Which key was shown and which is known, and what can be done.
        #[serde(flatten)]
        detail: Detail,
    },
    /// Anything that went wrong there.
    #[error("{host}: {detail}")]
    Failed {
        /// The host.
        #[serde(deserialize_with = "words::text")]
        host: String,
        /// What went wrong, to be read after the host's name.
        #[serde(deserialize_with = "words::text")]
        detail: String,
    },
}
/// What a host says of its refusal in words. On the wire it is the field `detail`, as before there were hints, with `hint` beside
/// it where there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// The words.
    #[serde(rename = "detail", deserialize_with = "words::text")]
    pub text: String,
    /// What can be done, seen from the host that was refused.
    #[serde(
        default,
        deserialize_with = "hint::told",
        skip_serializing_if = "Option::is_none"
    )]
    pub hint: Option<Hint>,
}

impl std::fmt::Display for Detail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Note> for Detail {
    fn from(said: Note) -> Self {
        let Note { text, hint } = said;
        Self { text, hint }
    }
}

impl From<String> for Detail {
    fn from(text: String) -> Self {
        Note::from(text).into()
    }
}

impl From<&str> for Detail {
    fn from(text: &str) -> Self {
        Note::from(text).into()
    }
}
