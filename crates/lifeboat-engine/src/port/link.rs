//! Host to host: small control calls and streamed logs, over one authenticated connection each way. The messages
//! are the engine's (`message`, `refusal`); the transport is the adapter's.

mod message;
mod refusal;

use super::ByteStream;
use async_trait::async_trait;
use core::net::IpAddr;
use lifeboat_model::hint::{Hint, Note};
use lifeboat_model::{Fingerprint, VmId};
pub use message::{
    Content, CopiedDisk, DigestRange, DurableLog, HandOver, LogAddress, LogReceipt, PeerPower, PeerReply,
    PeerRequest, PlannedStep, PrimaryReport, ReadRange, ReplicaStatus, Standing,
};
pub use refusal::{Detail, PeerRefusal};
use std::sync::Arc;
use std::time::Duration;

/// Who is at the other end, as its certificate says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Names of the certificate (DNS names, lower case). Never empty for a caller.
    pub names: Vec<String>,
    /// Addresses of the certificate. They authorize nothing; a peer that was named by its address is known by them.
    pub addresses: Vec<IpAddr>,
    /// SHA-256 of its public key; `None` when it could not be read, which then is no key that anybody was told of.
    pub key: Option<Fingerprint>,
}

impl PeerIdentity {
    /// Whether the certificate was issued for the host of `peer`, a `HOST:PORT` with a name or an address in it. A wildcard
    /// stands for one label, as it does when the host is called.
    #[must_use]
    pub fn is_host_of(&self, peer: &str) -> bool {
        let host = peer.rsplit_once(':').map_or(peer, |(host, _)| host);
        let host = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(host);
        let host = host.strip_suffix('.').unwrap_or(host);
        // An address can be written in several ways.
        let address: Option<IpAddr> = host.parse().ok();
        let parent = host.split_once('.').map(|(_, parent)| parent);
        let named = |name: &String| match name.strip_prefix("*.") {
            Some(domain) => parent.is_some_and(|p| p.eq_ignore_ascii_case(domain)),
            None => name.eq_ignore_ascii_case(host),
        };
        address.is_some_and(|a| self.addresses.contains(&a)) || self.names.iter().any(named)
    }
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
        /// It was reached and did not answer in time.
        late: bool,
    },
    /// The TLS handshake failed: a certificate of ours or theirs is not accepted.
    #[error("{peer}: certificates do not match: {detail}")]
    Untrusted {
        /// The peer.
        peer: String,
        /// What happened.
        detail: String,
        /// What can be done; `None`: what helps against any of these.
        hint: Option<Hint>,
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

/// Why a question brought no answer, as far as it says something of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// No connection was made: its name has no address, there is no route, no process listens, or nothing came back. Its site
    /// may be lost, or only the way to it.
    Unreachable {
        /// What happened.
        detail: String,
    },
    /// It was connected to, and did not answer in time, refused, or answered with something else.
    Unanswered {
        /// What happened.
        detail: String,
    },
}

/// A host is known by another key than the one it shows: which ones, and what to do, for an administrator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OtherKey(pub Note);

/// Says which host may be talked to, by the key in the certificate that it shows.
pub trait KeyJudge: Send + Sync {
    /// Whether what is about `vm`, or about the host itself, may be said to the host at `peer`, which has shown this
    /// certificate. The answer may change while a connection is open: it is asked for before every request.
    ///
    /// # Errors
    /// That host is known by another key.
    fn judge(&self, peer: &str, vm: Option<VmId>, shown: &PeerIdentity) -> Result<(), OtherKey>;

    /// Whether a connection that was kept may go on being used for that. One that may not is closed, and a new one judged: the
    /// host may have changed its key meanwhile, which is no fault.
    fn fits(&self, peer: &str, vm: Option<VmId>, shown: &PeerIdentity) -> bool;
}

/// The calling side.
#[async_trait]
pub trait PeerLink: Send + Sync {
    /// From now on nothing is said to a host that this one does not let pass; it is answered with [`LinkError::Untrusted`].
    fn judged_by(&self, judge: Arc<dyn KeyJudge>);

    /// A control call to `peer` (`HOST:PORT`). `PeerReply::Refused` comes back as `LinkError::Refused`.
    async fn call(&self, peer: &str, request: PeerRequest) -> Result<PeerReply, LinkError>;

    /// A control call on a connection made for it, answered within `patience`: a kept connection to a host that is gone
    /// looks like a host that is slow. The error tells the two apart.
    async fn ask(&self, peer: &str, request: PeerRequest, patience: Duration) -> Result<PeerReply, NoAnswer>;

    /// Streams a log to `peer` and waits until it is durable there.
    async fn send(&self, peer: &str, address: LogAddress, body: ByteStream) -> Result<LogReceipt, LinkError>;
}

/// The called side: the engine.
#[async_trait]
pub trait PeerHandler: Send + Sync {
    /// Whether this host has anything to do with the peer: an authorization entry, or a replication that names it. Answered
    /// from memory, for each connection. Nothing is allowed by it: it says whose connections are kept when too many come.
    fn knows(&self, peer: &PeerIdentity) -> bool;

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
