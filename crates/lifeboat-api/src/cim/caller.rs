//! Who asks, and what they may. How somebody proved to be who they say is the servers' business.

use serde::{Deserialize, Serialize};

/// What somebody may do. Each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Read.
    Viewer,
    /// Everything with VMs and their replication.
    Operator,
    /// Settings of the host and who may replicate to it as well.
    Administrator,
}

/// Somebody who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Name, for the log.
    pub name: String,
    /// What they may do.
    pub role: Role,
}
