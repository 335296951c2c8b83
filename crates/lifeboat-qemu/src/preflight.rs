//! What is known to break on this host, said before anything is started. Reads, never writes.

use std::fs::{self, File};

use camino::Utf8Path;
use lifeboat_engine::ports::hypervisor::{DiskImage, HypervisorError, Launch, LaunchDisk};
use lifeboat_model::vm::DiskBus;
use lifeboat_model::{DiskId, Hardware, NicBackend, OwnHardware, VmSpec};

use crate::config::QemuConfig;
use crate::error::refuse;
use crate::firmware::{self, Flash};
use crate::graph::DiskGraph;
use crate::layers::{self, Known, Layer};
use crate::probe;
use crate::qemu::Qemu;
use crate::tracking_overlay;

/// Longest Unix socket path in bytes.
const SOCKET_PATH_MAX: usize = 107;

/// What a VM that passed every check is started with.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    /// The `-accel` argument.
    pub(crate) accel: &'static str,
    /// The files of its firmware; `None` for a BIOS machine.
    pub(crate) flash: Option<Flash>,
}

impl Ready {
    /// Devices that the process opens itself.
    pub(crate) fn devices(&self) -> &'static [&'static str] {
        match self.accel {
            probe::KVM => &["/dev/kvm"],
            _ => &[],
        }
    }
}

/// Checks what can be known beforehand of what would keep the VM from starting. Changes nothing.
pub(crate) async fn check(qemu: &Qemu, launch: &Launch) -> Result<Ready, HypervisorError> {
    let config = &qemu.config;
    let spec = &launch.spec;
    spec.validate_machine()
        .map_err(|e| HypervisorError::Preflight(e.to_string()))?;
    let socket = config.paths(spec.uuid).offline().capture();
    if socket.as_str().len() > SOCKET_PATH_MAX {
        return refuse(format!(
            "{socket} is too long for a socket: use a shorter run directory"
        ));
    }
    check_pairs(launch)?;
    check_confinement(qemu)?;
    let known = qemu.known.ask(config.binary()).await?;
    check_version(known.version, spec)?;
    check_sandbox(&known)?;
    let Hardware::Own(hardware) = &spec.hardware;
    check_machine(&hardware.machine, launch.disks.iter().map(|d| d.bus))?;
    check_machine_type(config, &known, hardware)?;
    check_cpu(config, &known, hardware)?;
    let accel = check_accel(qemu, hardware).await?;
    let flash = firmware::flash(config, launch).await?;
    check_seed(config, launch).await?;
    spec.nics.iter().try_for_each(|nic| check_nic(&nic.backend))?;
    let disks: Vec<_> = launch.disks.iter().map(|d| d.id.clone()).collect();
    images(config, launch, &disks)?;
    Ok(Ready { accel, flash })
}

/// Everything of `spec` that this host lacks, whatever it connects to and opens.
pub(crate) async fn missing(qemu: &Qemu, spec: &VmSpec) -> Vec<String> {
    let config = &qemu.config;
    let Hardware::Own(hardware) = &spec.hardware;
    let mut found = vec![
        spec.validate_machine()
            .map_err(|e| HypervisorError::Preflight(e.to_string())),
        check_machine(&hardware.machine, spec.disks.iter().map(|d| d.bus)),
    ];
    match qemu.known.recent(config.binary()).await {
        Ok(known) => found.extend([
            check_version(known.version, spec),
            check_sandbox(&known),
            check_confinement(qemu),
            check_machine_type(config, &known, hardware),
            check_cpu(config, &known, hardware),
            check_accel(qemu, hardware).await.map(|_| ()),
        ]),
        Err(error) => found.push(Err(error)),
    }
    found.extend([
        check_memory(spec.memory_mib, host_memory_mib()),
        firmware::check(config, &hardware.firmware).await,
    ]);
    let reasons = found.into_iter().filter_map(Result::err);
    reasons.map(|e| e.to_string()).collect()
}

fn check_pairs(launch: &Launch) -> Result<(), HypervisorError> {
    let wanted: Vec<_> = launch.spec.disks.iter().map(|d| &d.id).collect();
    let given: Vec<_> = launch.disks.iter().map(|d| &d.id).collect();
    if wanted == given {
        Ok(())
    } else {
        refuse(format!(
            "the VM has disks {wanted:?}, the launch has images for {given:?}"
        ))
    }
}

/// The rules that depend on QEMU's version.
pub(crate) fn check_version(version: (u32, u32), spec: &VmSpec) -> Result<(), HypervisorError> {
    let (major, minor) = version;
    if version < probe::OLDEST {
        return refuse(format!(
            "QEMU {major}.{minor} is too old: install {}.{} or newer",
            probe::OLDEST.0,
            probe::OLDEST.1
        ));
    }
    let Hardware::Own(hardware) = &spec.hardware;
    if hardware.iothreads && major < 9 {
        return refuse(format!(
            "QEMU {major}.{minor} is killed by an assertion when disks with iothreads are captured: set iothreads = false \
             or install QEMU 9 or newer"
        ));
    }
    Ok(())
}

/// What it takes to give a guest a user of its own.
fn check_confinement(qemu: &Qemu) -> Result<(), HypervisorError> {
    match qemu.users.obstacle(qemu.config.state_dir.as_std_path()) {
        None => Ok(()),
        Some(why) => refuse(why),
    }
}

/// Guests of other hosts run here: none of them without it.
fn check_sandbox(known: &probe::Known) -> Result<(), HypervisorError> {
    if known.sandbox {
        Ok(())
    } else {
        refuse(
            "this QEMU was built without seccomp, so that a guest's process cannot be confined: install one that has it, as \
             distributions do"
                .into(),
        )
    }
}

fn check_machine(machine: &str, buses: impl Iterator<Item = DiskBus>) -> Result<(), HypervisorError> {
    let ide = buses.filter(|bus| *bus == DiskBus::Ide).count();
    let old_chipset = machine == "pc" || machine.starts_with("pc-i440fx");
    if ide > 0 && !old_chipset {
        return refuse(format!(
            "machine \"{machine}\" has no IDE bus: use virtio or scsi disks, or machine \"pc\""
        ));
    }
    if ide > 4 {
        return refuse(format!("{ide} IDE disks: an IDE machine takes 4"));
    }
    Ok(())
}

fn check_machine_type(
    config: &QemuConfig,
    known: &probe::Known,
    hardware: &OwnHardware,
) -> Result<(), HypervisorError> {
    if known.machines.contains(&hardware.machine) {
        return Ok(());
    }
    unknown(config, "machine", &hardware.machine)
}

fn check_cpu(
    config: &QemuConfig,
    known: &probe::Known,
    hardware: &OwnHardware,
) -> Result<(), HypervisorError> {
    if known.cpus.contains(&hardware.cpu) {
        return Ok(());
    }
    unknown(config, "cpu", &hardware.cpu)
}

fn unknown(config: &QemuConfig, what: &str, name: &str) -> Result<(), HypervisorError> {
    refuse(format!(
        "this host's QEMU does not know {what} \"{name}\": {} -{what} help lists what it knows",
        config.binary()
    ))
}

/// The `-accel` argument.
async fn check_accel(qemu: &Qemu, hardware: &OwnHardware) -> Result<&'static str, HypervisorError> {
    let (accel, kvm) = probe::accel(&qemu.config, &qemu.kvm).await?;
    if hardware.cpu == "host" && !kvm {
        return refuse(
            "cpu \"host\" needs KVM, which is not used on this host: use \"max\" or a named model".into(),
        );
    }
    Ok(accel)
}

/// Not asked at a start: a host may well be configured to promise more memory than it has.
pub(crate) fn check_memory(wanted_mib: u32, host_mib: Option<u64>) -> Result<(), HypervisorError> {
    match host_mib {
        Some(host) if u64::from(wanted_mib) > host => refuse(format!(
            "the machine has {wanted_mib} MiB of memory, this host has {host} MiB: give the machine less or the host more"
        )),
        Some(_) | None => Ok(()),
    }
}

/// Memory of this host in MiB, when the system says it.
fn host_memory_mib() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let total = info.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kib >> 10)
}

/// Some distributions build QEMU without the driver that shows a directory as a disk.
async fn check_seed(config: &QemuConfig, launch: &Launch) -> Result<(), HypervisorError> {
    if launch.seed.is_empty() {
        return Ok(());
    }
    let formats = probe::ask(config.binary(), &["-drive", "format=help"]).await?;
    if formats.split_ascii_whitespace().any(|format| format == "vvfat") {
        return Ok(());
    }
    refuse(
        "this host's QEMU has no vvfat driver, which a seed disk needs: start the VM without a seed".into(),
    )
}

/// QEMU with enough rights would create a missing device, connected to nothing.
fn check_nic(backend: &NicBackend) -> Result<(), HypervisorError> {
    match backend {
        NicBackend::Tap { ifname } if !Utf8Path::new("/sys/class/net").join(ifname).exists() => {
            refuse(format!(
                "network device {ifname} does not exist: create it (ip tuntap add {ifname} mode tap) and connect it first"
            ))
        }
        NicBackend::Bridge { name }
            if !Utf8Path::new("/sys/class/net").join(name).join("bridge").exists() =>
        {
            refuse(format!(
                "there is no bridge {name}: create it (ip link add {name} type bridge) and bring it up first"
            ))
        }
        NicBackend::Tap { .. } | NicBackend::Bridge { .. } | NicBackend::User | NicBackend::None => Ok(()),
    }
}

/// The images of these disks, of the one the guest writes to first. The one place that says which images are captured
/// and started, whatever is to be done with them and whether the VM runs.
pub(crate) fn images(
    config: &QemuConfig,
    launch: &Launch,
    disks: &[DiskId],
) -> Result<Vec<Vec<Layer>>, HypervisorError> {
    let wanted = launch.disks.iter().filter(|d| disks.contains(&d.id));
    wanted.map(|disk| image(config, launch, disk)).collect()
}

fn image(config: &QemuConfig, launch: &Launch, disk: &LaunchDisk) -> Result<Vec<Layer>, HypervisorError> {
    let id = &disk.id;
    match &disk.image {
        DiskImage::Plain { path, format } => {
            let described = launch.spec.disk(id).map(|d| d.allow.clone());
            let overlay = config.tracking_overlay(launch.spec.uuid, id);
            let known = if tracking_overlay::is_for(&overlay, path.as_std_path()) {
                Known::AsRaw
            } else {
                Known::Not
            };
            layers::resolve(path, *format, &described.unwrap_or_default(), known)
                .or_else(|why| refuse(format!("disk {id}: {why}")))
        }
        DiskImage::Chain { .. } => {
            let graph = DiskGraph::new(disk, &[], None);
            for path in graph.layers.keys() {
                if let Err(e) = File::open(path) {
                    return refuse(format!("disk {id}: layer {path} cannot be opened: {e}"));
                }
            }
            Ok(Vec::new())
        }
    }
}
