//! The vocabulary of Lifeboat as types: ids, positions, units, the API's enumerations with their numbers,
//! virtual machine descriptions, and the policies that decide from them. Pure: no runtime, file, socket,
//! clock or random source; time and ids come in as arguments.
// To move into [workspace.lints] when all crates hold it.
#![warn(clippy::match_bool, clippy::option_option, clippy::struct_excessive_bools)]
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

pub mod api;
pub mod arrival;
mod authorization;
pub mod causes;
pub mod certificates;
pub mod change;
pub mod fingerprint;
pub mod guard;
pub mod hint;
pub mod ids;
pub mod lifecycle;
mod machine;
pub mod network;
pub mod policy;
pub mod power;
pub mod problem;
pub mod quota;
pub mod reach;
pub mod reread;
pub mod settings;
pub mod shell;
mod slots;
mod target;
pub mod time;
pub mod vm;
pub mod words;

pub use api::{
    FailedOverReplicationType, JobState, JobType, ReplicationHealth, ReplicationMode, ReplicationState,
};
pub use arrival::{Arrival, Arrivals, Reading, Recency};
pub use authorization::AuthorizationEntry;
pub use change::{Burst, ChangeRate, Changed};
pub use fingerprint::Fingerprint;
pub use hint::{Hint, Note};
pub use ids::{
    BranchId, DiskId, GenerationId, IdError, JobId, PointId, Position, RelationshipId, RequestId, VmId,
};
pub use machine::Machine;
pub use network::NicFailover;
pub use problem::{Finding, ProblemKind};
pub use settings::{Bandwidth, BandwidthWindow, DayWindow, ReplicationSettings, SettingsError, check_peer};
pub use slots::PCI_DEVICES_MAX;
pub use target::Target;
pub use time::Timestamp;
pub use vm::{
    DiskAllow, DiskFormat, DiskSpec, Firmware, Hardware, NicBackend, NicSpec, OwnHardware, VmSpec,
    VmSpecError,
};
