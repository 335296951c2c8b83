//! What is known to break on this host, said before anything is started. Reads, never writes.

use std::fs::{self, File};
use std::io::Read;

use camino::Utf8Path;
use lifeboat_engine::ports::hypervisor::{DiskImage, HypervisorError, Launch};
use lifeboat_model::vm::DiskBus;
use lifeboat_model::{DiskFormat, DiskId, Firmware, NicBackend, VmSpec};

use crate::config::QemuConfig;
use crate::graph::DiskGraph;
use crate::hypervisor::Qemu;
use crate::probe;

/// Longest Unix socket path in bytes.
const SOCKET_PATH_MAX: usize = 107;

/// Checks everything and says how the guest will be executed: the `-accel` argument.
pub(crate) async fn check(qemu: &Qemu, launch: &Launch) -> Result<&'static str, HypervisorError> {
    let config = &qemu.config;
    let spec = &launch.spec;
    spec.validate()
        .map_err(|e| HypervisorError::Preflight(e.to_string()))?;
    let socket = config.paths(spec.uuid).offline().capture();
    if socket.as_str().len() > SOCKET_PATH_MAX {
        return refuse(format!(
            "{socket} is too long for a socket: use a shorter run directory"
        ));
    }
    check_pairs(launch)?;
    let version = probe::version(config.binary()).await?;
    check_version(version, spec)?;
    check_machine(launch)?;
    check_known(config, "-machine", "machine", &spec.machine).await?;
    check_known(config, "-cpu", "cpu", &spec.cpu).await?;
    let (accel, kvm) = probe::accel(config, &qemu.kvm).await?;
    if spec.cpu == "host" && !kvm {
        return refuse(
            "cpu \"host\" needs KVM, which is not used on this host: use \"max\" or a named model".into(),
        );
    }
    check_firmware(&spec.firmware)?;
    spec.nics.iter().try_for_each(|nic| check_nic(&nic.backend))?;
    launch
        .disks
        .iter()
        .try_for_each(|d| check_image(&d.id, &d.image))?;
    Ok(accel)
}

fn refuse<T>(why: String) -> Result<T, HypervisorError> {
    Err(HypervisorError::Preflight(why))
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
    if spec.iothreads && major < 9 {
        return refuse(format!(
            "QEMU {major}.{minor} is killed by an assertion when disks with iothreads are captured: set iothreads = false \
             or install QEMU 9 or newer"
        ));
    }
    Ok(())
}

fn check_machine(launch: &Launch) -> Result<(), HypervisorError> {
    let machine = &launch.spec.machine;
    let ide = launch.disks.iter().filter(|d| d.bus == DiskBus::Ide).count();
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

async fn check_known(
    config: &QemuConfig,
    option: &str,
    what: &str,
    name: &str,
) -> Result<(), HypervisorError> {
    let list = probe::ask(config.binary(), &[option, "help"]).await?;
    if list.split_ascii_whitespace().any(|word| word == name) {
        Ok(())
    } else {
        refuse(format!(
            "this host's QEMU does not know {what} \"{name}\": {} {option} help lists what it knows",
            config.binary()
        ))
    }
}

fn check_firmware(firmware: &Firmware) -> Result<(), HypervisorError> {
    match firmware {
        Firmware::Bios => Ok(()),
        Firmware::Uefi { code, vars } => {
            for path in [code, vars] {
                if let Err(e) = File::open(path) {
                    return refuse(format!("firmware file {path} cannot be opened: {e}"));
                }
            }
            Ok(())
        }
    }
}

/// QEMU with enough rights would create a missing device, connected to nothing.
fn check_nic(backend: &NicBackend) -> Result<(), HypervisorError> {
    match backend {
        NicBackend::Tap { ifname } if !Utf8Path::new("/sys/class/net").join(ifname).exists() => {
            refuse(format!(
                "network device {ifname} does not exist: create it (ip tuntap add {ifname} mode tap) and connect it first"
            ))
        }
        NicBackend::Tap { .. } | NicBackend::User | NicBackend::None => Ok(()),
    }
}

fn check_image(id: &DiskId, image: &DiskImage) -> Result<(), HypervisorError> {
    match image {
        DiskImage::Plain { path, format } => check_plain(id, path, *format),
        DiskImage::Chain { .. } => {
            let disk = lifeboat_engine::ports::hypervisor::LaunchDisk {
                id: id.clone(),
                bus: DiskBus::Virtio,
                image: image.clone(),
            };
            let graph = DiskGraph::new(&disk, None);
            for path in graph.layers.keys() {
                if let Err(e) = File::open(path) {
                    return refuse(format!("disk {id}: layer {path} cannot be opened: {e}"));
                }
            }
            Ok(())
        }
    }
}

/// An administrator's image: there, of the format it is said to be, and complete in itself.
fn check_plain(id: &DiskId, path: &Utf8Path, format: DiskFormat) -> Result<(), HypervisorError> {
    let open = fs::metadata(path).and_then(|m| Ok((m, File::options().read(true).write(true).open(path)?)));
    let (meta, file) = match open {
        Ok(opened) => opened,
        Err(e) => return refuse(format!("disk {id}: {path} cannot be opened for writing: {e}")),
    };
    match format {
        DiskFormat::Raw if meta.is_file() && (meta.len() == 0 || meta.len() % 512 != 0) => refuse(format!(
            "disk {id}: {path} has {} bytes; a raw image has a multiple of 512 and is not empty",
            meta.len()
        )),
        DiskFormat::Raw if !meta.is_file() => refuse(format!(
            "disk {id}: {path} is not a regular file; block devices are not supported yet"
        )),
        DiskFormat::Raw => Ok(()),
        DiskFormat::Qcow2 => check_qcow2(id, path, file),
    }
}

/// Reads the header's fixed part: magic, version, backing file and external data file.
fn check_qcow2(id: &DiskId, path: &Utf8Path, file: File) -> Result<(), HypervisorError> {
    let mut header = Vec::new();
    if let Err(e) = file.take(80).read_to_end(&mut header) {
        return refuse(format!("disk {id}: {path} cannot be read: {e}"));
    }
    let word = |at: usize| {
        let bytes = header.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    };
    let long = |at: usize| Some(u64::from(word(at)?) << 32 | u64::from(word(at + 4)?));
    const MAGIC: u32 = 0x5146_49fb;
    const DATA_FILE: u64 = 4;
    match (word(0), word(4), long(8), long(72)) {
        (Some(MAGIC), Some(3), Some(0), Some(features)) if features & DATA_FILE == 0 => Ok(()),
        (Some(MAGIC), Some(3), Some(0), Some(_)) => refuse(format!(
            "disk {id}: {path} keeps its data in another file; use that file, or convert it with qemu-img convert"
        )),
        (Some(MAGIC), Some(3), Some(_), Some(_)) => refuse(format!(
            "disk {id}: {path} has a backing file, which would be opened without being replicated; make it \
             complete with qemu-img rebase -b \"\" or qemu-img convert"
        )),
        (Some(MAGIC), Some(_), _, _) => refuse(format!(
            "disk {id}: {path} is an old qcow2 that cannot record changes: qemu-img amend -o compat=1.1"
        )),
        _ => refuse(format!("disk {id}: {path} is not a qcow2 image")),
    }
}
