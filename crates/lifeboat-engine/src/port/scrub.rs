//! Words for bit rot: what a scrub reads, what it found, what would repair it. The store finds and repairs, the engine
//! decides when and asks other hosts; nothing is done here.

use bytes::Bytes;
use camino::Utf8PathBuf;
use lifeboat_model::{DiskId, PointId, Position, Timestamp};
use serde::{Deserialize, Serialize};

/// What a call of `ImageStore::scrub` is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubWork {
    /// Record digests of sealed content that has none yet. Nothing is verified.
    Record,
    /// Go on with the pass under way, or begin one.
    Verify,
    /// Begin a pass, whatever the one under way has read.
    Restart,
}

/// A pass over everything that has a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubPass {
    /// When it began, by this host's clock.
    pub started: Timestamp,
    /// Bytes read so far.
    pub done: u64,
    /// Bytes to read, as far as it was known at the beginning.
    pub total: u64,
    /// Bytes that had no digest: recorded as they were found, not verified.
    pub first_seen: u64,
    /// Damaged blocks that this pass found.
    pub found: u64,
}

/// What one call of `ImageStore::scrub` came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubStep {
    /// Bytes that were read: what a rate limit has to count.
    pub read: u64,
    /// What comes next.
    pub next: ScrubNext,
    /// The pass under way.
    pub pass: Option<ScrubPass>,
    /// Something was found damaged that was not known to be.
    pub news: ScrubNews,
}

/// What comes after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubNext {
    /// There is more of the same.
    More,
    /// The pass is complete.
    Complete(ScrubPass),
    /// There is nothing to record, or nothing that could be verified yet.
    Nothing,
}

/// Whether a step changed what is known of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubNews {
    /// It did not.
    None,
    /// New damage was found; `ReplicaInfo::damage` has it.
    Damage,
}

/// How far a replica's scrub is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubState {
    /// The pass under way.
    pub running: Option<ScrubPass>,
    /// When the last complete pass began.
    pub last: Option<Timestamp>,
}

/// A damaged file of a replica, and what it spoils.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedFile {
    /// Absolute path.
    pub file: Utf8PathBuf,
    /// What is wrong with it, in words.
    pub what: String,
    /// When it was found.
    pub since: Timestamp,
    /// Recovery points whose data is, or may be, wrong because of it; oldest first.
    pub points: Vec<PointId>,
    /// The file is this log: no cycle can be replayed through it.
    pub log: Option<Position>,
    /// Whether the data at the applied position is hurt.
    pub newest: NewestData,
    /// Whether it can still be repaired.
    pub repair: RepairState,
}

/// What damage means for the newest data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NewestData {
    /// It does not show the damaged bytes.
    Good,
    /// It does, or may do.
    Spoiled,
}

/// What can be done about damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RepairState {
    /// Not every source was asked yet.
    Pending,
    /// No source had the right bytes. Asked again after the next pass.
    Hopeless,
}

/// Bytes of a disk that would help to repair damage, if another copy still has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedRange {
    /// The disk.
    pub disk: DiskId,
    /// First byte of the disk.
    pub offset: u64,
    /// Bytes, at most 64 KiB.
    pub len: u32,
}

/// Bytes of a disk as another copy has them. They are believed only if the recorded digest says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedRange {
    /// The disk.
    pub disk: DiskId,
    /// First byte of the disk.
    pub offset: u64,
    /// The bytes.
    pub data: Bytes,
}

/// Where the right bytes are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RepairSource {
    /// The logs that this host has kept.
    Logs,
    /// What another copy holds at these places now.
    Copy(Vec<OfferedRange>),
    /// All variants of a block with one bit changed, for one block: the commonest damage needs no other copy.
    OneBit,
    /// There is no other source: what is left is marked as not repairable.
    None,
}

/// What an attempt to repair came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// Blocks that have their recorded digest again, read back from the file.
    pub blocks: u64,
    /// Files that are whole again.
    pub files: Vec<Utf8PathBuf>,
    /// What would help with the rest.
    pub wanted: Vec<WantedRange>,
    /// Damaged blocks that may still be repaired.
    pub left: u64,
    /// Those of them of which not every bit was tried yet.
    pub untried: u64,
}
