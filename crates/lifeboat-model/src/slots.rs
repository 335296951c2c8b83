//! Whether a machine has room for its devices. QEMU says so only when it starts, which for a replica is the worst moment.

use crate::vm::{DiskBus, Hardware, VmSpec};

/// Devices that fit on the root bus of `pc` and `q35` beside those that the machine and its display take; measured with QEMU
/// 10 for both.
pub const PCI_DEVICES_MAX: usize = 29;

impl VmSpec {
    /// Devices on the root bus that this VM starts with, a seed disk for failover addresses not counted.
    #[must_use]
    pub fn pci_devices(&self) -> usize {
        let virtio = self.disks.iter().filter(|d| d.bus == DiskBus::Virtio).count();
        let controller = self.disks.iter().any(|d| d.bus == DiskBus::Scsi);
        // One is the random number generator.
        1 + usize::from(self.guest_agent) + virtio + usize::from(controller) + self.nics.len()
    }

    /// Why the VM cannot start with these devices, and what to do instead; `None` when it can. `seed`: it also gets a disk with
    /// addresses for a failover.
    #[must_use]
    pub fn too_many_devices(&self, seed: bool) -> Option<String> {
        let devices = self.pci_devices() + usize::from(seed);
        let Hardware::Own(own) = &self.hardware;
        let root_bus = matches!(own.machine.as_str(), "pc" | "q35")
            || own.machine.starts_with("pc-i440fx-")
            || own.machine.starts_with("pc-q35-");
        (root_bus && devices > PCI_DEVICES_MAX).then(|| {
            format!(
                "{} virtio disks, {} network cards and what else the machine needs are {devices} devices, and {} has room for \
                 {PCI_DEVICES_MAX}: put disks on bus = \"scsi\", which share one",
                self.disks.iter().filter(|d| d.bus == DiskBus::Virtio).count(),
                self.nics.len(),
                own.machine
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(disks: usize, cards: usize, bus: DiskBus) -> VmSpec {
        let disk = |n: usize| crate::DiskSpec {
            id: crate::DiskId::new(format!("d{n}")).unwrap(),
            path: format!("/d{n}"),
            format: crate::DiskFormat::Raw,
            bus,
            allow: Default::default(),
        };
        let nic = |n: usize| crate::NicSpec {
            mac: format!("52:54:00:00:00:{n:02x}"),
            backend: crate::NicBackend::None,
        };
        VmSpec {
            name: "web".into(),
            uuid: crate::VmId(uuid::Uuid::from_u128(1)),
            memory_mib: 64,
            cpus: 1,
            disks: (0..disks).map(disk).collect(),
            nics: (0..cards).map(nic).collect(),
            guest_agent: true,
            hardware: Hardware::Own(crate::OwnHardware {
                machine: "q35".into(),
                cpu: "max".into(),
                firmware: crate::Firmware::Bios,
                iothreads: false,
            }),
        }
    }

    #[test]
    fn a_machine_has_room_for_29_devices() {
        assert_eq!(vm(24, 3, DiskBus::Virtio).too_many_devices(false), None);
        assert!(vm(24, 3, DiskBus::Virtio).too_many_devices(true).is_some());
        let why = vm(24, 8, DiskBus::Virtio).too_many_devices(false).unwrap();
        for part in ["24 virtio disks", "8 network cards", "34 devices", "scsi"] {
            assert!(why.contains(part), "{why}");
        }
        assert_eq!(vm(24, 8, DiskBus::Scsi).too_many_devices(true), None);
    }
}
