//! What the adapter is configured with, and where everything of one VM lies. No file is touched here.

use std::path::{Path, PathBuf};

use camino::Utf8PathBuf;
use lifeboat_model::{DiskId, VmId};
use serde::{Deserialize, Serialize};

use crate::confine::UserRange;

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// KVM when a probe shows that it works, else TCG.
    #[default]
    Auto,
    /// KVM only.
    Kvm,
    /// Emulation by QEMU's TCG only: works everywhere, and is many times slower.
    Tcg,
}

/// The host as the adapter needs to know it.
#[derive(Clone, Debug)]
pub struct QemuConfig {
    /// Directory of sockets and process records, one subdirectory for each VM. Its path must be short: the path of a socket has
    /// at most 107 bytes.
    pub run_dir: Utf8PathBuf,
    /// Directory that survives a reboot: the tracking overlays of raw disks.
    pub state_dir: Utf8PathBuf,
    /// Directory for the old data that guests overwrite while an instant is read.
    pub spool_dir: Utf8PathBuf,
    /// Free space in MiB that a capture leaves in `spool_dir`.
    pub reserve_mib: u64,
    /// QEMU's system emulator; `None`: `qemu-system-x86_64` from the search path.
    pub binary: Option<Utf8PathBuf>,
    /// What executes the guest.
    pub accel: Accel,
    /// Users of guests, each its own; `None`, or a daemon that is not root: all of them run as the daemon's user.
    pub guest_users: Option<UserRange>,
    /// Whether systemd bounds the memory and tasks of guests, where it runs this host with cgroup v2.
    pub guest_limits: bool,
    /// Directories of firmware descriptors; a later one goes before.
    pub firmware_dirs: Vec<Utf8PathBuf>,
}

/// Where distributions put firmware descriptors, and where administrators do (QEMU's docs/interop/firmware.json).
pub const FIRMWARE_DIRS: [&str; 2] = ["/usr/share/qemu/firmware", "/etc/qemu/firmware"];

impl QemuConfig {
    pub(crate) fn binary(&self) -> &str {
        self.binary.as_ref().map_or("qemu-system-x86_64", |b| b.as_str())
    }

    pub(crate) fn paths(&self, vm: VmId) -> VmPaths {
        VmPaths {
            dir: self.run_dir.join(vm.to_string()),
            spool: self.spool_dir.join(vm.to_string()),
        }
    }

    /// Where VMs' processes write their numbers.
    pub(crate) fn running(&self) -> Utf8PathBuf {
        self.state_dir.join("running")
    }

    /// The tracking overlay of a raw disk. The directory has the name that older releases gave it.
    pub(crate) fn tracking_overlay(&self, vm: VmId, disk: &DiskId) -> PathBuf {
        self.state_dir
            .join("shells")
            .join(format!("{vm}-{disk}.qcow2"))
            .into_std_path_buf()
    }
}

/// The places of one VM.
#[derive(Clone, Debug)]
pub(crate) struct VmPaths {
    dir: Utf8PathBuf,
    spool: Utf8PathBuf,
}

impl VmPaths {
    pub(crate) fn dir(&self) -> &Path {
        self.dir.as_std_path()
    }

    pub(crate) fn file(&self, name: &str) -> Utf8PathBuf {
        self.dir.join(name)
    }

    /// Monitor for single questions. A monitor serves one client at a time, so captures and merges, which hold
    /// theirs for long, have their own.
    pub(crate) fn control(&self) -> Utf8PathBuf {
        self.file("qmp.sock")
    }

    pub(crate) fn capture(&self) -> Utf8PathBuf {
        self.file("capture.sock")
    }

    pub(crate) fn merge(&self) -> Utf8PathBuf {
        self.file("merge.sock")
    }

    pub(crate) fn agent(&self) -> Utf8PathBuf {
        self.file("agent.sock")
    }

    pub(crate) fn nbd(&self) -> Utf8PathBuf {
        self.file("nbd.sock")
    }

    pub(crate) fn log(&self) -> Utf8PathBuf {
        self.file("qemu.log")
    }

    pub(crate) fn pid(&self) -> Utf8PathBuf {
        self.file("pid.json")
    }

    pub(crate) fn launch(&self) -> Utf8PathBuf {
        self.file("launch.json")
    }

    /// Files of the seed disk.
    pub(crate) fn seed(&self) -> Utf8PathBuf {
        self.file("seed")
    }

    /// Exists while the guest's file systems may be frozen by us.
    pub(crate) fn frozen(&self) -> Utf8PathBuf {
        self.file("frozen")
    }

    /// Old data kept for an instant that is being read.
    pub(crate) fn spool(&self) -> &Path {
        self.spool.as_std_path()
    }

    /// The paths of the storage daemon that has the images of a VM that is off.
    pub(crate) fn offline(&self) -> Self {
        Self {
            dir: self.dir.join("offline"),
            spool: self.spool.clone(),
        }
    }
}
