//! The seed disk: a small read-only disk with the label `cidata`, from which cloud-init in the guest takes its settings.
//! QEMU shows a directory of the VM's run directory as a FAT disk; what is in the files is the engine's business.

use std::io;
use std::path::Path;

use lifeboat_engine::ports::hypervisor::{HypervisorError, Launch};
use serde_json::{Value, json};

use crate::config::VmPaths;
use crate::confine::User;
use crate::error::io_error;
use crate::files;
use crate::handed::Handed;

/// Most bytes of all files of a seed together.
const SIZE_MAX: usize = 1 << 20;

/// Writes the files of the seed, and nothing else, into their directory, and makes them `user`'s.
pub(crate) fn write(launch: &Launch, paths: &VmPaths, user: Option<&User>) -> Result<(), HypervisorError> {
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
        let written = std::fs::write(&path, text).and_then(|()| own(path.as_std_path(), user));
        written.map_err(io_error(format!("cannot write {path}")))?;
    }
    own(dir.as_std_path(), user).map_err(io_error(format!("cannot hand over {dir}")))
}

fn own(path: &Path, user: Option<&User>) -> io::Result<()> {
    user.map_or(Ok(()), |user| user.own(path))
}

/// Options of the seed disk. Always virtio: every guest with cloud-init has its driver, and IDE knows no read-only disks.
pub(crate) fn arguments(paths: &VmPaths, handed: &mut Handed) -> io::Result<[(&'static str, Value); 2]> {
    let dir = handed.directory(&paths.seed())?;
    let node = json!({
        "driver": "vvfat", "node-name": "seed", "dir": dir, "label": "cidata", "read-only": true,
    });
    let device = json!({"driver": "virtio-blk-pci", "id": "seed", "drive": "seed", "serial": "seed"});
    Ok([("-blockdev", node), ("-device", device)])
}
