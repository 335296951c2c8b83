//! One file in the descriptions of two VMs: whichever runs writes the other's disk, and nothing of that is seen by the
//! other's replication. Refused where a VM would begin to rely on its files. Files are compared by what they are, not by
//! the text of their paths.

use crate::port::environment::FileId;
use lifeboat_model::{Firmware, Hardware, VmSpec};

/// A file that a VM writes to: what it is to the VM, and its path.
pub(crate) fn files(spec: &VmSpec) -> Vec<(String, String)> {
    let disks = spec
        .disks
        .iter()
        .map(|d| (format!("disk {}", d.id), d.path.clone()));
    let vars = match &spec.hardware {
        Hardware::Own(own) => match &own.firmware {
            Firmware::Uefi { vars, .. } => vars.clone(),
            Firmware::Bios => None,
        },
    };
    let vars = vars.map(|path| ("the firmware's variables".to_owned(), path));
    disks.chain(vars).collect()
}

/// A file of a VM, found by its identity.
pub(crate) struct Used<'a> {
    pub(crate) spec: &'a VmSpec,
    pub(crate) what: String,
    pub(crate) path: String,
    pub(crate) id: FileId,
}

impl Used<'_> {
    pub(crate) fn words(&self) -> String {
        let Self { spec, what, path, .. } = self;
        format!("{what} ({path}) of \"{}\" ({})", spec.name, spec.uuid)
    }
}
