//! One id type per kind of thing, and the position of a copy. Ids are made by the shell and only carried here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                Uuid::parse_str(s).map(Self).map_err(|_| IdError::NotAUuid(s.chars().take(64).collect()))
            }
        }
    };
}

uuid_id! {
    /// A virtual machine. The same on the primary and on every replica.
    VmId
}
uuid_id! {
    /// A lineage of a VM's data; a new one is minted when a promoted copy starts to differ.
    GenerationId
}
uuid_id! {
    /// A recovery point.
    PointId
}
uuid_id! {
    /// A branch: the writable copy-on-write disks of a failover or of a test.
    BranchId
}
uuid_id! {
    /// A job, as `Msvm_ConcreteJob.InstanceID` shows it.
    JobId
}

/// Longest disk id in characters: QEMU node names end at 31 and we put a prefix before it.
pub const DISK_ID_MAX: usize = 16;

/// A disk's name within its VM: lower-case letters, digits and `-`, 1 to 16 characters, starting with a letter
/// or digit. It appears in file names and QEMU node names, hence the narrow alphabet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskId(String);

impl DiskId {
    /// Checks the alphabet and the length.
    pub fn new(name: impl Into<String>) -> Result<Self, IdError> {
        let name = name.into();
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let fits = (1..=DISK_ID_MAX).contains(&name.len());
        if fits && plain(name.as_bytes()[0]) && name.bytes().all(|c| plain(c) || c == b'-') {
            Ok(Self(name))
        } else {
            Err(IdError::NotADiskId(name.chars().take(64).collect()))
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for DiskId {
    type Error = IdError;
    fn try_from(s: String) -> Result<Self, IdError> {
        Self::new(s)
    }
}

impl From<DiskId> for String {
    fn from(d: DiskId) -> String {
        d.0
    }
}

/// Text that is not the id it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not a UUID.
    #[error("\"{0}\" is not a UUID")]
    NotAUuid(String),
    /// Not a disk id.
    #[error("\"{0}\" is not a disk id: use 1 to 16 of a-z, 0-9 and -, starting with a letter or digit")]
    NotADiskId(String),
}

/// Where a copy of a VM stands: which lineage, and which instant of it. Sequence 0 is the state before the first
/// instant (nothing, or a bulk copy that no instant has closed yet).
///
/// Only positions of one generation can be ordered; between generations there is no order, so there is no `Ord`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The lineage.
    pub generation: GenerationId,
    /// The instant within it, ascending from 1.
    pub sequence: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.generation, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_ids_keep_to_what_file_and_node_names_can_hold() {
        for good in ["a", "0", "sys", "data-1", "abcdefghij012345"] {
            assert_eq!(DiskId::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", "A", "a_b", "a/b", "..", "abcdefghij0123456", "ä", "a b"] {
            assert!(DiskId::new(bad).is_err(), "{bad}");
            assert!(
                serde_json::from_value::<DiskId>(serde_json::json!(bad)).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_wrong_uuid_is_named_and_cut_short() {
        let e = "x".repeat(500).parse::<VmId>().unwrap_err();
        assert!(e.to_string().len() < 100, "{e}");
    }
}
