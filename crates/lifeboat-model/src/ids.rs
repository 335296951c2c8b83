//! One id type per kind of thing, and the position of a copy. Ids are made by the shell and only carried here.

use std::cmp::Ordering;
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
    /// A generation of a VM's data; a new one is minted when a relationship is made and when a failover is committed.
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
uuid_id! {
    /// An action that a caller has asked for and a second person has to confirm.
    RequestId
}

/// Number of one of a VM's relationships on a host: the index of `Msvm_ReplicationRelationship.InstanceID`. 0 is the one that
/// gives the VM its role here; those from 1 on are outgoing ones, by which a replica forwards what arrives. A number is free
/// again when its relationship is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RelationshipId(u32);

impl RelationshipId {
    /// The relationship that gives the VM its role.
    pub const OWN: Self = Self(0);
    /// The first outgoing one: the extended replication of the API.
    pub const FIRST_OUTGOING: Self = Self(1);

    /// The relationship with this number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Whether it is the extended replication of the API.
    #[must_use]
    pub fn is_first_outgoing(&self) -> bool {
        *self == Self::FIRST_OUTGOING
    }
}

impl fmt::Display for RelationshipId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
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

/// Which instant a copy of a VM holds: the generation of its data, and the number of the instant in it. Sequence 0 is the state
/// before the first instant (nothing, or a bulk copy that no instant has closed yet).
///
/// Positions of one generation are ordered; between generations there is no order. A generation may follow another one
/// in the middle of a copy's history, and only the logs, each of which names its parent, say where. So there is neither
/// `Ord` nor `PartialOrd` (whose `<` would answer `false` where there is no answer), and the parts are private: code that
/// has to order two positions asks [`Position::compare`] or [`Position::at_or_after`] and says what follows when there
/// is no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    generation: GenerationId,
    sequence: u64,
}

impl Position {
    /// The state before the first instant of a generation.
    #[must_use]
    pub const fn start(generation: GenerationId) -> Self {
        Self {
            generation,
            sequence: 0,
        }
    }

    /// A position as a file, a name or a message spells it. Any sequence is valid.
    #[must_use]
    pub const fn from_parts(generation: GenerationId, sequence: u64) -> Self {
        Self { generation, sequence }
    }

    /// The generation.
    #[must_use]
    pub const fn generation(self) -> GenerationId {
        self.generation
    }

    /// The number of the instant within its generation, ascending from 1; 0 before the first. For names and formats: as a
    /// number alone it must not be compared.
    #[must_use]
    pub const fn sequence(self) -> u64 {
        self.sequence
    }

    /// Whether this is the state before the first instant of its generation.
    #[must_use]
    pub const fn is_start(self) -> bool {
        self.sequence == 0
    }

    /// The state before the first instant of this position's generation.
    #[must_use]
    pub const fn first(self) -> Self {
        Self::start(self.generation)
    }

    /// The position that follows in the same generation.
    #[must_use]
    pub const fn next(self) -> Self {
        Self {
            generation: self.generation,
            sequence: self.sequence.saturating_add(1),
        }
    }

    /// Whether this position is so far after `other` of its generation that no counting leads there: 2^32 is 136 years of cycles
    /// of one second. Counting on from such a number runs out of numbers.
    #[must_use]
    pub fn is_out_of_reach_of(self, other: Self) -> bool {
        self.same_generation(other) && self.sequence.saturating_sub(other.sequence) > 1 << 32
    }

    /// Whether both positions are of one generation, that is, whether they can be ordered.
    #[must_use]
    pub fn same_generation(self, other: Self) -> bool {
        self.generation == other.generation
    }

    /// The order of two positions of one generation; `None` between generations.
    #[must_use]
    pub fn compare(self, other: Self) -> Option<Ordering> {
        self.same_generation(other)
            .then(|| self.sequence.cmp(&other.sequence))
    }

    /// Whether this position is `other` or comes after it; `None` between generations.
    #[must_use]
    pub fn at_or_after(self, other: Self) -> Option<bool> {
        self.compare(other).map(Ordering::is_ge)
    }

    /// The later of two positions of one generation; `self` when there is no order between them.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        match other.compare(self) {
            Some(Ordering::Greater) => other,
            Some(Ordering::Less | Ordering::Equal) | None => self,
        }
    }
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

    fn position(generation: u128, sequence: u64) -> Position {
        Position::from_parts(GenerationId(Uuid::from_u128(generation)), sequence)
    }

    #[test]
    fn positions_are_ordered_within_one_generation_only() {
        let table = [
            (position(1, 4), position(1, 5), Some(Ordering::Less)),
            (position(1, 5), position(1, 5), Some(Ordering::Equal)),
            (position(1, 6), position(1, 5), Some(Ordering::Greater)),
            (position(1, 4), position(2, 5), None),
            (position(1, 6), position(2, 5), None),
            (position(1, 5), position(2, 5), None),
        ];
        for (a, b, order) in table {
            assert_eq!(a.compare(b), order, "{a} {b}");
            assert_eq!(a.at_or_after(b), order.map(|o| o != Ordering::Less), "{a} {b}");
        }
        assert_eq!(position(1, 4).later(position(1, 5)), position(1, 5));
        assert_eq!(position(1, 5).later(position(1, 4)), position(1, 5));
        assert_eq!(
            position(1, 4).later(position(2, 9)),
            position(1, 4),
            "no order between"
        );
    }

    #[test]
    fn a_position_counts_on_from_the_start_of_its_generation() {
        let start = Position::start(GenerationId(Uuid::from_u128(1)));
        assert!(start.is_start() && !start.next().is_start());
        assert_eq!(start.next().next(), position(1, 2));
        assert_eq!(position(1, 7).first(), start);
        let last = position(1, u64::MAX);
        assert_eq!(last.next(), last, "never back to the start");
    }

    #[test]
    fn a_position_keeps_its_spelling() {
        let at = position(1, 7);
        let spelled =
            serde_json::json!({"generation": "00000000-0000-0000-0000-000000000001", "sequence": 7});
        assert_eq!(serde_json::to_value(at).unwrap(), spelled);
        assert_eq!(serde_json::from_value::<Position>(spelled).unwrap(), at);
        assert_eq!(at.to_string(), "00000000-0000-0000-0000-000000000001:7");
    }

    #[test]
    fn a_wrong_uuid_is_named_and_cut_short() {
        let e = "x".repeat(500).parse::<VmId>().unwrap_err();
        assert!(e.to_string().len() < 100, "{e}");
    }
}
