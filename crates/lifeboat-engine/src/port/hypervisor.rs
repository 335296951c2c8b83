//! What runs virtual machines on this host. Processes that Lifeboat starts implement it; libvirt can stand beside them.

use super::capture::{CaptureError, CaptureSource};
pub use super::machine_event::{MachineEvent, PowerChange};
pub use super::power::{Power, PowerState, Stall, StallCause};
use async_trait::async_trait;
use bytes::Bytes;
use camino::Utf8PathBuf;
use lifeboat_model::vm::DiskBus;
use lifeboat_model::{DiskFormat, DiskId, Timestamp, VmId, VmSpec};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::sync::broadcast;

/// A VM together with what its disks are at this moment on this host.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The machine; the paths in its disk list are the primary's and are not used.
    pub spec: VmSpec,
    /// One entry for each disk of `spec`, in the same order.
    pub disks: Vec<LaunchDisk>,
    /// Variable store of the firmware, in place of the path in `spec`: a branch has its own. A file that is not there is
    /// made from this host's template.
    pub firmware_vars: Option<Utf8PathBuf>,
    /// Files of a NoCloud seed: the guest sees a small read-only disk with the label `cidata`. Empty: no such disk.
    pub seed: Vec<(String, String)>,
}

/// A VM that this host has by itself, not by a relationship.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownMachine {
    /// The machine.
    pub spec: VmSpec,
    /// When that was written; `None`: not known.
    pub described: Option<Described>,
}

/// When a VM's description was written. Shown, and nothing is decided by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// When the description was made; as far as that is known, else when it was changed.
    pub created: Timestamp,
    /// When it was written for the last time.
    pub changed: Timestamp,
}

/// A part of a machine's state that is not on its disks, and that a start elsewhere needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateKind {
    /// Variables of its firmware.
    Nvram,
}

/// What a machine is on this host that came from another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Of a replica: it has no disks here, and cannot be started until a failover.
    Replica,
    /// On the disks of a failover, which may still be thrown away.
    FailedOver,
    /// The machine of a test failover.
    Test,
    /// The VM lives here now, on the disks of a committed failover.
    Primary,
}

/// What a guest's agent says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestOs {
    /// Linux; also one whose distribution is not known.
    Linux,
    /// Windows, of any version.
    Windows,
    /// Anything else.
    Other,
}

/// How a program in the guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestRun {
    /// Its exit code; `None` when it was ended by a signal.
    pub code: Option<i64>,
    /// The beginning of what it printed, both streams, at most 4 KiB.
    pub output: String,
}

/// One disk of a launch.
#[derive(Clone, Debug, PartialEq)]
pub struct LaunchDisk {
    /// Which disk of the VM.
    pub id: DiskId,
    /// Bus the guest sees.
    pub bus: DiskBus,
    /// What holds the data.
    pub image: DiskImage,
}

/// One image of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageLayer {
    /// Absolute path.
    pub file: Utf8PathBuf,
    /// Its format, as it was recorded; never probed.
    pub format: DiskFormat,
}

/// Where a disk's data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskImage {
    /// An administrator's image file.
    Plain {
        /// Absolute path.
        path: Utf8PathBuf,
        /// Its format; never probed.
        format: DiskFormat,
    },
    /// A branch of the replica store: every image of it, so that no file is opened that an image names by itself.
    Chain {
        /// The lowest first; the guest writes to the last one, and nothing else is changed but by a merge.
        layers: Vec<ImageLayer>,
    },
}

/// The process that a VM runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestProcess {
    /// Its number on this host.
    pub pid: u32,
    /// For how long it has existed, in milliseconds, by a clock that is never set. Its resolution is that of the kernel's
    /// process times, 10 ms.
    pub age_ms: u64,
}

/// Where a person can look at a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Console {
    /// Unix socket of the serial console.
    pub socket: Utf8PathBuf,
    /// File to which everything on the serial console is also written.
    pub log: Utf8PathBuf,
}

/// Why an operation on a VM did not happen.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// Known to break on this host; nothing was started.
    #[error("{0}")]
    Preflight(String),
    /// The VM runs already.
    #[error("the VM is running")]
    Running,
    /// The VM does not run.
    #[error("the VM is not running")]
    NotRunning,
    /// Whether the VM has a process cannot be told; nothing was done.
    #[error("whether the VM runs is not known: {0}")]
    NotKnown(String),
    /// The process did not come up, or died at once; holds what it said.
    #[error("the VM's process did not start: {0}")]
    DidNotStart(String),
    /// Another process has one of the disks open; says which, and who where that is known. Nothing was started.
    #[error("a disk is in use by another process: {0}")]
    Locked(String),
    /// The guest did not follow a shutdown request in time.
    #[error("the guest did not shut down within {0:?}; turn it off with force")]
    ShutdownTimeout(Duration),
    /// The monitor refused or did not answer.
    #[error("the VM's monitor: {0}")]
    Monitor(String),
    /// The agent in the guest refused, failed or did not answer.
    #[error("{0}")]
    Agent(String),
    /// A file or process operation failed.
    #[error("{what}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// Runs virtual machines, and knows of those that may run here: what others could start beside Lifeboat has to be known to it. Their processes outlive the daemon: every method finds a VM by its id again after a
/// restart of the daemon. Calls for one VM are made one at a time by its actor; calls for different VMs run
/// concurrently.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// The VMs that this host has by itself, which people described to its hypervisor. Asked when the daemon starts. The order is the
    /// one in which they are shown; no two have the same id or name.
    async fn machines(&self) -> Vec<KnownMachine>;

    /// What happens to VMs from now on, as far as this hypervisor hears of it without asking them; also to those that ran before
    /// the daemon started. Events can be lost: a receiver that was too slow is told so (`RecvError::Lagged`) and then looks at
    /// everything; others are never told. It ends with the hypervisor.
    async fn watch(&self) -> broadcast::Receiver<MachineEvent>;

    /// Refuses what is known to break on this host: missing images, unusable firmware, iothreads where they are not supported.
    async fn preflight(&self, launch: &Launch) -> Result<(), HypervisorError>;

    /// Lets this host have a machine that came from another one, as it is to be started next; in place of what there was of
    /// it, a hold included. `Launch::disks` is empty for [`Role::Replica`]. A VM that runs is not disturbed: what changed counts
    /// from its next start. Repeatable; said again after each start of the daemon. A hypervisor of processes, without a
    /// list of machines, has nothing to do.
    async fn define(&self, launch: &Launch, role: Role) -> Result<(), HypervisorError>;

    /// Takes back what `define` made. The VM is off. `Ok` when there is nothing.
    async fn undefine(&self, vm: VmId) -> Result<(), HypervisorError>;

    /// Keeps one of this host's own VMs from being started, because it runs elsewhere or is about to; what it
    /// was is kept. The VM is off. Repeatable; said again after each start of the daemon.
    async fn hold(&self, vm: VmId) -> Result<(), HypervisorError>;

    /// Ends a hold: the VM is as it was before. Changes nothing of a VM that is not held, or not known. Repeatable; said
    /// again after each start of the daemon.
    async fn free(&self, vm: VmId) -> Result<(), HypervisorError>;

    /// Starts a VM; returns when the guest's CPUs run. `Running` when it does already.
    async fn start(&self, launch: &Launch) -> Result<(), HypervisorError>;

    /// What the VM does now. `Power::Off` only when the process was looked for and is not there; whatever keeps this host
    /// from telling is `Power::NotKnown` with the reason. Answers within 4 seconds, whatever hangs.
    async fn power(&self, vm: VmId) -> Power;

    /// Asks the guest to shut down (agent, then power button) and waits until the process is gone.
    async fn shut_down(&self, vm: VmId, timeout: Duration) -> Result<(), HypervisorError>;

    /// Has the guest end for a planned failover and returns when nothing more is written to the disks, which `source` can
    /// still read. Like `shut_down` in everything else.
    async fn hand_over(&self, vm: VmId, timeout: Duration) -> Result<(), HypervisorError>;

    /// Turns a VM off at once, closing its images in order, and waits until the process is gone. Also ends a
    /// process that no longer answers. `Ok` when it was off already; `NotKnown` when that cannot be told.
    async fn turn_off(&self, vm: VmId) -> Result<(), HypervisorError>;

    /// Stops the guest's CPUs; its process and memory stay. `NotRunning` without a process.
    async fn pause(&self, vm: VmId) -> Result<(), HypervisorError>;

    /// Lets a paused or stalled guest go on; returns when its CPUs run. An error when what stopped it does so again at
    /// once. `NotRunning` without a process.
    async fn resume(&self, vm: VmId) -> Result<(), HypervisorError>;

    /// Presses the reset button. A guest that is paused stays paused. `NotRunning` without a process.
    async fn reset(&self, vm: VmId) -> Result<(), HypervisorError>;

    /// The VM's process. `None` when there is none, and when that cannot be told; `power` says which.
    async fn process(&self, vm: VmId) -> Option<GuestProcess>;

    /// Where to look at the VM.
    fn console(&self, vm: VmId) -> Console;

    /// The most images that a chain may have, with its base, for a VM to start on it; `None`: the store's own limit is below.
    fn max_images(&self) -> Option<usize>;

    /// What of this machine would keep it from starting here, in words, one for each reason; disks are not looked at.
    async fn missing(&self, spec: &VmSpec) -> Vec<String>;

    /// The daemon stops and nothing is captured any more: lets go of the images of VMs that are off. What does not let go in
    /// time is left to the next start.
    async fn release(&self);

    /// What else than its disks a VM of this host has, as it is now: each kind at most once.
    async fn machine_state(&self, spec: &VmSpec) -> Result<Vec<(StateKind, Bytes)>, HypervisorError>;

    /// Which system the guest's agent says it is. An error while no agent answers.
    async fn guest_os(&self, vm: VmId) -> Result<GuestOs, HypervisorError>;

    /// Runs a program in the guest by its agent and waits for its end, at most `timeout`.
    async fn guest_run(
        &self,
        vm: VmId,
        program: &str,
        arguments: &[String],
        timeout: Duration,
    ) -> Result<GuestRun, HypervisorError>;

    /// A PNG of the screen.
    async fn screenshot(&self, vm: VmId) -> Result<Bytes, HypervisorError>;

    /// Access to the VM's disks for capture: through its process when it runs, else by opening the images. While a
    /// source of a powered-off VM exists the VM cannot be started; `CaptureSource::close` ends it.
    async fn source(&self, launch: &Launch, disks: &[DiskId])
    -> Result<Box<dyn CaptureSource>, CaptureError>;

    /// Compares the images of a VM that is off with what they were when they were last closed. Answers within seconds
    /// whatever their storage does; an error says why they could not be looked at.
    async fn untouched(&self, launch: &Launch, disks: &[DiskId]) -> Result<ImagesSeen, CaptureError>;

    /// Bytes of these disks of a VM that has a process which changed since the position its peer is known to have, as the
    /// dirty bitmaps say; a block that changed counts whole. While a cycle is under way also what the cycle carries.
    /// `None` when that cannot be told: no process, no answer, bitmaps that are lost or not there on one of the disks.
    async fn pending(&self, vm: VmId, disks: &[DiskId]) -> Option<u64>;

    /// Merges everything between `base` and the top of a running VM's disks into the base, limited to `bytes_per_s`
    /// (0: unlimited), and returns when done; dropped, the merge is left where it is and can be asked for again.
    /// `layers` names, per disk, the image files to merge away, topmost first, and the file to keep as the base.
    async fn merge_live(
        &self,
        vm: VmId,
        layers: &[LiveMerge],
        bytes_per_s: u64,
    ) -> Result<(), HypervisorError>;
}

/// What a look at the images of a powered-off VM showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImagesSeen {
    /// They are the same files, and no process changed them since they were closed.
    AsClosed,
    /// They are other files or were changed: what is recorded of their changes is not to be believed.
    Changed {
        /// The disk.
        disk: DiskId,
        /// What was seen.
        reason: String,
    },
    /// It is not recorded what they were; opening them says what is known.
    NotRecorded,
}

/// Layers of one disk of a running VM to be merged into the image below them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveMerge {
    /// The disk.
    pub id: DiskId,
    /// File of the uppermost layer to merge away; it is not the layer the guest writes to.
    pub top: Utf8PathBuf,
    /// File that receives the data.
    pub base: Utf8PathBuf,
}
