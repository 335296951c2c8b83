//! Why a host does not do what another one asked. It travels, and it is shown to the administrator of the host that asked.

use lifeboat_model::{Position, words};
use serde::{Deserialize, Serialize};

/// Why a replica host does not do what was asked. Sent over the wire, shown to the primary's administrator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum PeerRefusal {
    /// Not enabled as a replica server.
    #[error(
        "{host} is not enabled as a replica server; enable it there with: lifeboat server set --replica on"
    )]
    NotEnabled {
        /// The host.
        #[serde(deserialize_with = "words::text")]
        host: String,
    },
    /// No authorization entry.
    #[error(
        "{host} has no authorization entry for {}; add one there with: lifeboat authorization add {} --location DIR",
        .names.join(", "),
        .names.first().map_or("NAME", String::as_str)
    )]
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
        /// Which state, and the way out.
        #[serde(deserialize_with = "words::text")]
        detail: String,
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
        /// What contradicts what, as a whole sentence.
        #[serde(deserialize_with = "words::text")]
        detail: String,
    },
    /// The caller has shown a certificate with the name of a host that is known there by another key. It travels as a refusal of
    /// the transport, which every release understands.
    #[error("{host} refuses our certificate: {detail}")]
    OtherKey {
        /// The host.
        #[serde(deserialize_with = "words::text")]
        host: String,
        /// Which key was shown and which is known, and the way out.
        #[serde(deserialize_with = "words::text")]
        detail: String,
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
