//! The seed disk: a small read-only disk with the label `cidata`, from which cloud-init in the guest takes its settings.
//! QEMU shows a directory of the VM's run directory as a FAT disk; what is in the files is the engine's business.

use lifeboat_engine::ports::hypervisor::{HypervisorError, Launch};
use serde_json::{Value, json};

use crate::config::VmPaths;
use crate::files;
use crate::hypervisor::io_error;

/// Most bytes of all files of a seed together.
const SIZE_MAX: usize = 1 << 20;

/// Writes the files of the seed, and nothing else, into their directory.
pub(crate) fn write(launch: &Launch, paths: &VmPaths) -> Result<(), HypervisorError> {
    let dir = paths.seed();
    files::remove_tree(dir.as_std_path())
        .map_err(io_error(format!("cannot remove the old seed in {dir}")))?;
    if launch.seed.is_empty() {
        return Ok(());
    }
    let size: usize = launch.seed.iter().map(|(_, text)| text.len()).sum();
    if size > SIZE_MAX {
        return Err(HypervisorError::Preflight(format!(
            "the seed has {size} bytes, {SIZE_MAX} is the limit: shorten its files"
        )));
    }
    files::private_dir(dir.as_std_path()).map_err(io_error(format!("cannot create {dir}")))?;
    for (name, text) in &launch.seed {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            return Err(HypervisorError::Preflight(format!(
                "\"{name}\" is no name for a file of the seed: use letters, digits and . _ - only"
            )));
        }
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(io_error(format!("cannot write {path}")))?;
    }
    Ok(())
}

/// Options of the seed disk. Always virtio: every guest with cloud-init has its driver, and IDE knows no read-only disks.
pub(crate) fn arguments(paths: &VmPaths) -> [(&'static str, Value); 2] {
    let node = json!({
        "driver": "vvfat", "node-name": "seed", "dir": paths.seed(), "label": "cidata", "read-only": true,
    });
    let device = json!({"driver": "virtio-blk-pci", "id": "seed", "drive": "seed", "serial": "seed"});
    [("-blockdev", node), ("-device", device)]
}
