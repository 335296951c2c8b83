//! A VM as this host sees it.

use super::ReplicationView;
use camino::Utf8PathBuf;
use lifeboat_model::Finding;
use lifeboat_model::power::PowerState;
use lifeboat_model::{DiskId, Timestamp, VmSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A VM as this host sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmView {
    /// The machine.
    pub spec: VmSpec,
    /// What it does.
    pub power: PowerState,
    /// Why it is stalled, or why that is not known; `None` in every ordinary state.
    #[serde(default)]
    pub power_note: Option<PowerNote>,
    /// Its process; `None` when it has none, or when that is not known.
    #[serde(default)]
    pub process: Option<ProcessView>,
    /// Since when.
    #[serde(default)]
    pub times: VmTimes,
    /// Where to look at it.
    pub console: ConsoleView,
    /// The file of each disk on this host, absolute; a disk whose file is not known now is missing.
    #[serde(default)]
    pub disk_files: BTreeMap<DiskId, Utf8PathBuf>,
    /// Its replication; `None` when there is none.
    pub replication: Option<ReplicationView>,
    /// Where the VM's description should be, and what to do, when it is gone; then `spec` is what was recorded of it.
    #[serde(default)]
    pub description_gone: Option<Finding>,
}

/// The process that a VM runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessView {
    /// Its number on this host.
    pub pid: u32,
    /// For how long it has existed, in milliseconds, by a clock that cannot be set. Its resolution is that of the kernel's
    /// process times, 10 ms.
    pub age_ms: u64,
}

/// Where a person can look at a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleView {
    /// Unix socket of the serial console.
    pub socket: Utf8PathBuf,
    /// File to which everything on the serial console is also written.
    pub log: Utf8PathBuf,
}

/// When something of a VM began. What is not known is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmTimes {
    /// The VM became known to this host: its description was written, or its replica was made.
    pub known: Option<Timestamp>,
    /// Its description, or the settings of its replica, were changed last.
    pub configured: Option<Timestamp>,
    /// Its power became what it is.
    pub power: Option<Timestamp>,
}

/// What is out of the ordinary about a VM's power.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerNote {
    /// What was seen, in words.
    pub reason: String,
    /// Since when it is so, as far as this daemon has looked.
    pub since: Timestamp,
    /// What the VM did when that was last known; `None` where it is known now, or never was.
    #[serde(default)]
    pub before: Option<SeenPower>,
}

/// What a VM did at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenPower {
    /// What it did.
    pub power: PowerState,
    /// When that was seen.
    pub at: Timestamp,
}
