//! Values that actions have in common: which VM, which recovery point, which way for a copy.

use lifeboat_model::{Timestamp, VmId};
use serde::{Deserialize, Serialize};

/// Which VM. Written, it is a text; what is read is [`VmRef::Text`].
#[derive(Clone, Debug, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum VmRef {
    /// The VM with this id, and no other.
    Id(VmId),
    /// A name or UUID, as a person writes it. A UUID comes first.
    Text(String),
}

/// Equal are two that are written alike: what was recorded by its id is found again after it was read.
impl PartialEq for VmRef {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Id(one), Self::Id(other)) => one == other,
            (Self::Text(one), Self::Text(other)) => one == other,
            (Self::Id(id), Self::Text(text)) | (Self::Text(text), Self::Id(id)) => id.to_string() == *text,
        }
    }
}

impl std::fmt::Display for VmRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl From<VmId> for VmRef {
    fn from(id: VmId) -> Self {
        Self::Id(id)
    }
}

impl From<String> for VmRef {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<VmRef> for String {
    fn from(vm: VmRef) -> Self {
        vm.to_string()
    }
}

/// Which recovery point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", content = "value", rename_all = "lowercase")]
pub enum PointSelector {
    /// The newest data there is.
    #[default]
    Latest,
    /// A listed point, by its id (a point's UUID, or a cycle's `generation:sequence`, which stays good when it is sealed), an
    /// unambiguous beginning of it, or its GUID.
    Id(String),
    /// The newest instant not after this one.
    At(Timestamp),
}

/// How an initial copy gets to the replica (`InitialReplicationType`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "lowercase")]
pub enum InitialCopy {
    /// Over the network.
    #[default]
    Network,
    /// To a directory, whose content a person carries to the replica's host and imports there.
    Export {
        /// Absolute path of an empty or missing directory.
        dir: String,
    },
    /// From a copy that is on the replica's host already; only what differs travels.
    Seed,
}
