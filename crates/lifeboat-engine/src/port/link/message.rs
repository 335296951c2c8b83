//! What hosts say to each other: version 1 of the control protocol, as types of its own. Their form as JSON is the format: the
//! names of fields and variants stay, a field that is added has a default, because peers of the versions before read and write
//! the same. What is recorded or shown of any of it has other types.

use super::PeerRefusal;
use crate::port::media::Sealing;
use crate::port::scrub::WantedRange;
use crate::port::store::{BulkProgress, CompareRange, Received};
use lifeboat_deltalog::{Consistency, LogDisk};
use lifeboat_model::hint;
use lifeboat_model::{
    DiskId, Fingerprint, Machine, Position, ReplicationMode, ReplicationSettings, ReplicationState,
    Timestamp, VmId, words,
};
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

/// What a primary asks of a replica host. Version 1 of the control protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum PeerRequest {
    /// Are you there, do you know me, do you take replicas of mine?
    Hello,
    /// Make, or confirm, the replica of this VM. Repeatable.
    Offer {
        /// The VM as its guest sees it on the primary.
        vm: Box<Machine>,
        /// Settings of the relationship.
        settings: ReplicationSettings,
        /// Included disks with their sizes.
        disks: Vec<LogDisk>,
        /// Position before the first instant.
        start: Position,
        /// Where the offering host takes calls, `HOST:PORT`: the callback address. Empty when it takes none.
        #[serde(default)]
        from: String,
        /// What becomes the replica's first content.
        #[serde(default)]
        content: Content,
        /// The machine's firmware variables, base64; empty when it has none.
        #[serde(default)]
        firmware: String,
    },
    /// The settings or the machine changed; answered with what would keep the VM from starting there.
    Update {
        /// The VM as its guest sees it on the primary.
        vm: Box<Machine>,
        /// Settings of the relationship.
        settings: ReplicationSettings,
        /// The machine's firmware variables, base64; empty when it has none.
        firmware: String,
    },
    /// Which blocks differ from these digests?
    Compare {
        /// The VM.
        vm: VmId,
        /// The disk: numbers could mean different disks on the two sides while a change of the disks is on its way.
        disk: DiskId,
        /// What to compare; the disk numbers in it are not used.
        ranges: Vec<DigestRange>,
    },
    /// Where does this copy differ from the instant it once shared with ours? Asked page by page.
    Differences {
        /// The VM.
        vm: VmId,
        /// The disk.
        disk: DiskId,
        /// Ranges that begin at this byte or later.
        from: u64,
    },
    /// What is this VM's copy there, and does it run?
    Standing {
        /// The VM.
        vm: VmId,
    },
    /// From a replica to its primary: shut the VM down, send the rest, and let me take over.
    Prepare {
        /// The VM.
        vm: VmId,
        /// Turn the VM off when it does not shut down.
        force: bool,
        /// Start it on the replica.
        start: bool,
    },
    /// From a prepared primary to its replica: fail over to this position, become the primary. Repeatable.
    TakeOver {
        /// The VM.
        vm: VmId,
        /// The last instant.
        at: Position,
        /// Start the VM.
        start: bool,
    },
    /// From a primary that was prepared: I want to go on. Refused once the replica is failed over. Repeatable.
    StandDown {
        /// The VM.
        vm: VmId,
    },
    /// Where does the replica of this VM stand? Also the word of a primary that has nothing to send.
    Status {
        /// The VM.
        vm: VmId,
        /// What the caller says of itself.
        #[serde(default)]
        report: PrimaryReport,
    },
    /// The initial copy of this disk begins again.
    RestartBulk {
        /// The VM.
        vm: VmId,
        /// Disk number in the order of the offer.
        disk: u16,
    },
    /// The initial copy of a sealed point is complete as it stands: it is the first point. Repeatable.
    FinishBulk {
        /// The VM.
        vm: VmId,
        /// The instant that the copy is of.
        instant: Timestamp,
        /// What that instant guarantees.
        consistency: Consistency,
    },
    /// From a replica with damaged files to its primary: what do these ranges of the disks hold now?
    ReadDisk {
        /// The VM.
        vm: VmId,
        /// At most 64, each at most 64 KiB and of whole sectors.
        ranges: Vec<ReadRange>,
    },
    /// From a replica to its primary: the newest data is damaged here and could not be repaired; compare both copies.
    CompareAgain {
        /// The VM.
        vm: VmId,
    },
    /// The caller will have another key; authenticated by the one that it has. Repeatable.
    AnnounceKey {
        /// The VM whose relationship is to accept it.
        vm: VmId,
        /// SHA-256 of that key; `None`: the caller stays with the one it has.
        next: Option<Fingerprint>,
    },
    /// How much of this log is already there?
    LogOffset {
        /// The VM.
        vm: VmId,
        /// Position of the log.
        position: Position,
    },
}

impl PeerRequest {
    /// Whether a reply is one to this request; a refusal is one to every request.
    #[must_use]
    pub fn is_answered_by(&self, reply: &PeerReply) -> bool {
        matches!(
            (self, reply),
            (_, PeerReply::Refused(_))
                | (Self::Hello, PeerReply::Hello { .. })
                | (
                    Self::Offer { .. }
                        | Self::Status { .. }
                        | Self::RestartBulk { .. }
                        | Self::FinishBulk { .. },
                    PeerReply::Status(_)
                )
                | (Self::LogOffset { .. }, PeerReply::Offset { .. })
                | (Self::Update { .. }, PeerReply::Checked { .. })
                | (Self::Compare { .. }, PeerReply::Differ { .. })
                | (Self::Differences { .. }, PeerReply::Differences { .. })
                | (Self::Standing { .. }, PeerReply::Standing(_))
                | (Self::ReadDisk { .. }, PeerReply::DiskData { .. })
                | (
                    Self::Prepare { .. }
                        | Self::TakeOver { .. }
                        | Self::StandDown { .. }
                        | Self::CompareAgain { .. }
                        | Self::AnnounceKey { .. },
                    PeerReply::Accepted
                )
        )
    }

    /// The VM it is about; `None` for one about the host.
    #[must_use]
    pub fn vm(&self) -> Option<VmId> {
        match self {
            Self::Hello => None,
            Self::Offer { vm, .. } | Self::Update { vm, .. } => Some(vm.uuid),
            Self::Compare { vm, .. }
            | Self::Differences { vm, .. }
            | Self::Standing { vm }
            | Self::Prepare { vm, .. }
            | Self::TakeOver { vm, .. }
            | Self::StandDown { vm }
            | Self::Status { vm, .. }
            | Self::RestartBulk { vm, .. }
            | Self::FinishBulk { vm, .. }
            | Self::ReadDisk { vm, .. }
            | Self::CompareAgain { vm }
            | Self::AnnounceKey { vm, .. }
            | Self::LogOffset { vm, .. } => Some(*vm),
        }
    }
}

/// What a primary says of itself, so that its replica can tell silence from nothing to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrimaryReport {
    /// Nothing: an older version, or a caller that is not the primary.
    #[default]
    Unspecified,
    /// Changes are sent as they come.
    Working,
    /// The VM is off and everything it wrote is on the replica.
    UpToDate,
    /// Nothing is sent until a person goes on: suspended, or waiting for a resynchronization.
    Held,
}

/// A replica host's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum PeerReply {
    /// To `Hello`.
    Hello {
        /// Name of the host.
        #[serde(deserialize_with = "words::text")]
        host: String,
        /// Version of its Lifeboat.
        #[serde(deserialize_with = "words::text")]
        version: String,
    },
    /// To `Offer`, `Status`, `RestartBulk` and `FinishBulk`.
    Status(ReplicaStatus),
    /// To `LogOffset`.
    Offset {
        /// Bytes there.
        bytes: u64,
    },
    /// To `Update`: reasons why the VM would not start there; empty when it would.
    Checked {
        /// In words.
        #[serde(deserialize_with = "words::texts")]
        problems: Vec<String>,
    },
    /// To `Compare`: per range the numbers of the blocks that differ.
    Differ {
        /// Block numbers, ascending.
        blocks: Vec<Vec<u32>>,
    },
    /// To `Differences`.
    Differences {
        /// The instant both sides had; ranges are meaningless for a copy that went on from another one.
        since: Position,
        /// Whether the ranges are known; if not, only a comparison helps.
        known: bool,
        /// Offset and length.
        ranges: Vec<(u64, u64)>,
        /// Where to ask on; `None` at the end.
        next: Option<u64>,
    },
    /// To `Standing`.
    Standing(Standing),
    /// To `ReadDisk`: the bytes of each range in base64, fewer or none where the disk ends or is not replicated.
    DiskData {
        /// In the order of the question.
        data: Vec<String>,
    },
    /// To a request to prepare, to take over, to stand down, to compare again, or to expect another key: noted; it is done, or under way.
    Accepted,
    /// To any request: it was not carried out.
    Refused(PeerRefusal),
}

/// Where a replica stands, for its primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Last durable position.
    pub durable: Position,
    /// Initial copy, per disk.
    pub bulk: Vec<CopiedDisk>,
    /// `durable` is a piece of a synchronization that has not been closed yet.
    #[serde(default)]
    pub partial: bool,
    /// The replica has a whole instant to be brought up at.
    #[serde(default)]
    pub usable: bool,
    /// What would keep the VM from starting there.
    #[serde(default, deserialize_with = "words::texts")]
    pub problems: Vec<String>,
    /// Logs that are durable there and not applied yet.
    #[serde(default)]
    pub waiting_logs: u32,
    /// Their bytes.
    #[serde(default)]
    pub waiting_bytes: u64,
    /// What this host does when the primary hands over.
    #[serde(default)]
    pub hand_over: HandOver,
    /// The export that is to be imported there; its key is recorded. Earlier versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<Uuid>,
}

/// What a replica does in a planned failover by the word of its primary alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HandOver {
    /// It takes over, and starts the VM if it is asked to. What releases did that do not say.
    #[default]
    Starts,
    /// It takes over; the VM is started on its own host.
    Off,
    /// Nothing: committing gives up points that it keeps whatever the primary asks for.
    ByHand,
}

impl HandOver {
    /// Why a planned failover that starts the VM, or does not, is not carried out on that host by its primary's word, and what to
    /// do instead; `None`: it is.
    #[must_use]
    pub fn refusal(self, start: bool, host: &str) -> Option<(String, hint::Planned)> {
        match self {
            Self::Off if start => Some((
                format!("{host} starts no VM by the word of this host"),
                hint::Planned::PlanThereOrAllow,
            )),
            Self::ByHand => Some((
                format!(
                    "{host} keeps the recovery points of this VM whatever its primary asks for, and a planned failover gives them up"
                ),
                hint::Planned::PlanOnReplicaHost,
            )),
            Self::Starts | Self::Off => None,
        }
    }
}

/// What becomes the first content of an offered replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "content", rename_all = "kebab-case")]
pub enum Content {
    /// Nothing: an initial copy follows.
    #[default]
    Empty,
    /// What the host has of this VM, whatever it is: its own VM that is off, or an earlier replica. A comparison follows.
    Seed,
    /// Nothing yet: an administrator carries the initial copy there. Deltas that arrive before are kept.
    Media {
        /// What the copy will be sealed with; `None` from earlier versions, which are refused.
        #[serde(default, deserialize_with = "told", skip_serializing_if = "Option::is_none")]
        sealing: Option<Sealing>,
    },
    /// What the offering replica has, which becomes the copy of a copy. An extended replica that is there already is gone on
    /// with, whatever it holds.
    Extended,
    /// The old primary's own copy: the roles are swapped.
    Reverse {
        /// The last instant that the new primary had of it.
        since: Position,
        /// The old primary was prepared at that instant: its copy is that instant.
        planned: bool,
    },
}

/// For serde: what an offer says of the seal, in whose error nothing of it is repeated.
///
/// # Errors
/// It is neither nothing nor a name and a key.
fn told<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Sealing>, D::Error> {
    Option::deserialize(from).map_err(|_| {
        serde::de::Error::custom("what seals an export is a UUID and a key, which is 32 bytes in base64")
    })
}

/// A copy of a VM as another host may know of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Role of that side.
    pub mode: ReplicationMode,
    /// State of that side.
    pub state: ReplicationState,
    /// Where it stands.
    pub position: Position,
    /// Its process exists, or may exist.
    pub running: bool,
    /// The same in three outcomes; `None` from a host that knows two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<PeerPower>,
    /// Instant of its newest replicated data.
    pub newest_instant: Option<Timestamp>,
    /// How far a planned failover is there; `None` when none goes on.
    #[serde(default)]
    pub planned: Option<PlannedStep>,
}

impl Standing {
    /// Whether the VM runs on that side.
    #[must_use]
    pub fn does(&self) -> PeerPower {
        match (&self.power, self.running) {
            (Some(power), _) => power.clone(),
            (None, true) => PeerPower::Runs,
            (None, false) => PeerPower::Off,
        }
    }
}

/// Whether a VM runs on another host, as that host says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum PeerPower {
    /// It has no process there.
    Off,
    /// Its process exists.
    Runs,
    /// That host cannot tell.
    NotKnown {
        /// What it saw, in words.
        #[serde(deserialize_with = "words::text")]
        why: String,
    },
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
    Delta(DurableLog),
    /// The segment is durable.
    Bulk(CopiedDisk),
}

/// How far a planned failover is on the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlannedStep {
    /// The guest is being shut down.
    Stopping,
    /// The last changes are being sent.
    Closing,
    /// Everything is on the replica; the VM is locked off.
    Prepared,
    /// The replica was told to take over.
    HandingOver,
}

/// How far the initial copy of one disk has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiedDisk {
    /// The disk.
    pub disk: DiskId,
    /// Every byte below this one is durable on the replica.
    pub done: u64,
}

impl From<BulkProgress> for CopiedDisk {
    fn from(BulkProgress { disk, done }: BulkProgress) -> Self {
        Self { disk, done }
    }
}

/// A range of a disk and the digests of its blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestRange {
    /// Disk number on the asking side. It is not used: the question names the disk.
    pub disk: u16,
    /// First byte, a multiple of `block`.
    pub offset: u64,
    /// Bytes, at most 64 MiB; a last block may be shorter than `block`.
    pub len: u64,
    /// Bytes that one digest stands for, 4,096 to 1 MiB.
    pub block: u32,
    /// One digest for each block: BLAKE3, the first 16 bytes, concatenated, as base64.
    pub digests: String,
}

impl DigestRange {
    /// The range as the store of this host compares it; `disk` is the disk's number here.
    #[must_use]
    pub fn here(&self, disk: u16) -> CompareRange {
        CompareRange {
            disk,
            offset: self.offset,
            len: self.len,
            block: self.block,
            digests: self.digests.clone(),
        }
    }
}

/// A range of a disk that is to be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadRange {
    /// The disk.
    pub disk: DiskId,
    /// First byte.
    pub offset: u64,
    /// Bytes, at most 64 KiB.
    pub len: u32,
}

impl From<WantedRange> for ReadRange {
    fn from(WantedRange { disk, offset, len }: WantedRange) -> Self {
        Self { disk, offset, len }
    }
}

/// A delta, or a piece of a synchronization, that is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DurableLog {
    /// Position that is durable now.
    pub durable: Position,
    /// The log's own instant.
    pub instant: Timestamp,
    /// Bytes of the log.
    pub bytes: u64,
    /// It is a piece of a synchronization: `instant` is no instant of the disks.
    #[serde(default)]
    pub partial: bool,
}

impl From<Received> for DurableLog {
    fn from(log: Received) -> Self {
        let Received {
            durable,
            instant,
            bytes,
            partial,
        } = log;
        Self {
            durable,
            instant,
            bytes,
            partial,
        }
    }
}
