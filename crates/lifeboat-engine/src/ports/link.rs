//! Host to host: small control calls and streamed logs, over one authenticated connection each way. The messages
//! are the engine's; the transport is the adapter's.

use async_trait::async_trait;
use lifeboat_deltalog::LogDisk;
use lifeboat_model::{Position, ReplicationSettings, VmId, VmSpec};
use serde::{Deserialize, Serialize};

use super::ByteStream;
use super::store::{BulkProgress, Received};

/// Who is at the other end, as its certificate says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Names of the certificate (DNS names, lower case). Never empty.
    pub names: Vec<String>,
}

/// What a primary asks of a replica host. Version 1 of the control protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum PeerRequest {
    /// Are you there, do you know me, do you take replicas of mine?
    Hello,
    /// Make, or confirm, the replica of this VM. Repeatable.
    Offer {
        /// The VM as it is on the primary.
        vm: Box<VmSpec>,
        /// Settings of the relationship.
        settings: ReplicationSettings,
        /// Included disks with their sizes.
        disks: Vec<LogDisk>,
        /// Position before the first instant.
        start: Position,
    },
    /// Where does the replica of this VM stand?
    Status {
        /// The VM.
        vm: VmId,
    },
    /// The initial copy of this disk begins again.
    RestartBulk {
        /// The VM.
        vm: VmId,
        /// Disk number in the order of the offer.
        disk: u16,
    },
    /// How much of this log is already there?
    LogOffset {
        /// The VM.
        vm: VmId,
        /// Position of the log.
        position: Position,
    },
}

/// A replica host's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum PeerReply {
    /// To `Hello`.
    Hello {
        /// Name of the host.
        host: String,
        /// Version of its Lifeboat.
        version: String,
    },
    /// To `Offer`, `Status` and `RestartBulk`.
    Status(ReplicaStatus),
    /// To `LogOffset`.
    Offset {
        /// Bytes there.
        bytes: u64,
    },
    /// Refused.
    Refused(PeerRefusal),
}

/// Where a replica stands, for its primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Last durable position.
    pub durable: Position,
    /// Initial copy, per disk.
    pub bulk: Vec<BulkProgress>,
    /// The replica was paused by its administrator.
    pub suspended: bool,
}

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
        host: String,
        /// What the caller's certificate says.
        names: Vec<String>,
    },
    /// No replica of this VM there.
    #[error("{host} has no replica of this VM")]
    NoReplica {
        /// The host.
        host: String,
    },
    /// The replica was failed over: nothing is received until it is reverted.
    #[error("the replica on {host} is failed over; revert it there to go on")]
    FailedOver {
        /// The host.
        host: String,
    },
    /// The replica was committed: its generation is newer, this primary must not send.
    #[error("the replica on {host} was committed and is a newer generation; this copy is the past")]
    NewerGeneration {
        /// The host.
        host: String,
    },
    /// The replica is paused by its administrator.
    #[error("the replica on {host} is suspended; resume it there")]
    Suspended {
        /// The host.
        host: String,
    },
    /// A log that does not continue what is there.
    #[error("the log does not continue the replica, which stands at {have}")]
    OutOfSequence {
        /// What is durable there.
        have: Position,
    },
    /// No room.
    #[error("{host} has no space left in {location}")]
    NoSpace {
        /// The host.
        host: String,
        /// Where.
        location: String,
    },
    /// The offer contradicts what is there, or is invalid.
    #[error("{detail}")]
    Conflict {
        /// What.
        detail: String,
    },
    /// Anything that went wrong there.
    #[error("{host}: {detail}")]
    Failed {
        /// The host.
        host: String,
        /// What.
        detail: String,
    },
}

/// Why a call to a peer brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The network, or the host, or its daemon is away. Worth trying again for ever.
    #[error("{peer} cannot be reached: {detail}")]
    Unreachable {
        /// The peer.
        peer: String,
        /// What happened.
        detail: String,
    },
    /// The TLS handshake failed: a certificate of ours or theirs is not accepted.
    #[error("{peer}: certificates do not match: {detail}")]
    Untrusted {
        /// The peer.
        peer: String,
        /// What happened.
        detail: String,
    },
    /// It answers, but not this protocol.
    #[error("{peer} does not speak this protocol: {detail}")]
    Protocol {
        /// The peer.
        peer: String,
        /// What happened.
        detail: String,
    },
    /// It answered with a refusal.
    #[error("{0}")]
    Refused(PeerRefusal),
}

/// Which log a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum LogAddress {
    /// A delta, kept by the replica.
    Delta {
        /// The VM.
        vm: VmId,
        /// Position after it.
        position: Position,
        /// First byte that is sent.
        offset: u64,
    },
    /// A segment of the initial copy.
    Bulk {
        /// The VM.
        vm: VmId,
    },
}

/// Answer to a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum LogReceipt {
    /// The delta is durable.
    Delta(Received),
    /// The segment is durable.
    Bulk(BulkProgress),
}

/// The calling side.
#[async_trait]
pub trait PeerLink: Send + Sync {
    /// A control call to `peer` (`HOST:PORT`). `PeerReply::Refused` comes back as `LinkError::Refused`.
    async fn call(&self, peer: &str, request: PeerRequest) -> Result<PeerReply, LinkError>;

    /// Streams a log to `peer` and waits until it is durable there.
    async fn send(&self, peer: &str, address: LogAddress, body: ByteStream) -> Result<LogReceipt, LinkError>;
}

/// The called side: the engine.
#[async_trait]
pub trait PeerHandler: Send + Sync {
    /// A control call.
    async fn call(&self, peer: &PeerIdentity, request: PeerRequest) -> PeerReply;

    /// A streamed log.
    async fn receive(
        &self,
        peer: &PeerIdentity,
        address: LogAddress,
        body: ByteStream,
    ) -> Result<LogReceipt, PeerRefusal>;
}
