//! Disks of a VM as three things each, as clients expect them: a controller, a drive on it, and an image in the drive.

use lifeboat_cim::{Instance, ObjectPath};
use lifeboat_engine::action::VmView;
use lifeboat_model::DiskSpec;
use lifeboat_model::vm::DiskBus;

use super::names::{by_id, disk_path, guid, part_id, text};
use super::{ClassView, Make, part, view};
use crate::cim::HostFacts;
use crate::cim::facts::VmParts;

pub(super) const CLASSES: &[ClassView] = &[
    view(RESOURCE, Make::Vm(controllers_and_drives)),
    view(STORAGE, Make::Vm(images)),
];

const RESOURCE: &str = "Msvm_ResourceAllocationSettingData";
const STORAGE: &str = "Msvm_StorageAllocationSettingData";

/// A controller. There is none of virtio in this API; its disks are shown on the SCSI controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Controller {
    Ide(usize),
    Scsi,
}

/// Where a disk is attached.
struct Place<'a> {
    disk: &'a DiskSpec,
    controller: Controller,
    slot: usize,
}

/// Where the disks are attached: two to each IDE controller, all others to one SCSI controller.
fn places(view: &VmView) -> Vec<Place<'_>> {
    let (mut ide, mut scsi) = (0, 0);
    let place = |disk: &'_ DiskSpec| {
        let next = match disk.bus {
            DiskBus::Ide => &mut ide,
            DiskBus::Virtio | DiskBus::Scsi => &mut scsi,
        };
        let n = *next;
        *next += 1;
        match disk.bus {
            DiskBus::Ide => (Controller::Ide(n / 2), n % 2),
            DiskBus::Virtio | DiskBus::Scsi => (Controller::Scsi, n),
        }
    };
    let mut place = place;
    let mut all = Vec::new();
    for disk in &view.spec.disks {
        let (controller, slot) = place(disk);
        all.push(Place {
            disk,
            controller,
            slot,
        });
    }
    all
}

impl Controller {
    fn id(self, view: &VmView) -> String {
        let part = match self {
            Self::Ide(n) => format!("Controller\\IDE\\{n}"),
            Self::Scsi => "Controller\\SCSI\\0".to_owned(),
        };
        part_id(view.spec.uuid, &part)
    }

    fn instance(self, view: &VmView) -> Instance {
        let (kind, name, address) = match self {
            Self::Ide(n) => (
                (5, "Microsoft:Hyper-V:Emulated IDE Controller"),
                format!("IDE Controller {n}"),
                n,
            ),
            Self::Scsi => (
                (6, "Microsoft:Hyper-V:Synthetic SCSI Controller"),
                "SCSI Controller".into(),
                0,
            ),
        };
        let description = "Settings of a disk controller";
        let names = (name.as_str(), description, name.as_str());
        part(RESOURCE, &self.id(view), names, kind, "count", 1)
            .with("Address", address.to_string())
            .with(
                "VirtualSystemIdentifiers",
                vec![format!("{{{}}}", guid(view.spec.uuid))],
            )
    }
}

fn controllers(view: &VmView) -> Vec<Controller> {
    let mut all: Vec<Controller> = Vec::new();
    for place in places(view) {
        if !all.contains(&place.controller) {
            all.push(place.controller);
        }
    }
    all
}

fn drive_id(view: &VmView, disk: &DiskSpec) -> String {
    part_id(view.spec.uuid, &format!("{}\\Drive", disk.id))
}

fn drive(host: &HostFacts, view: &VmView, place: &Place<'_>) -> Instance {
    let kind = (17, "Microsoft:Hyper-V:Synthetic Disk Drive");
    let names = ("Hard Drive", "Settings of a disk drive", "Hard Drive");
    part(RESOURCE, &drive_id(view, place.disk), names, kind, "count", 1)
        .with("Parent", text(host, by_id(RESOURCE, &place.controller.id(view))))
        .with("AddressOnParent", place.slot.to_string())
        .with("Address", place.slot.to_string())
}

fn controllers_and_drives(host: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let view = &of.view;
    let controllers = controllers(view).into_iter().map(|c| c.instance(view));
    let drives = places(view);
    controllers
        .chain(drives.iter().map(|p| drive(host, view, p)))
        .collect()
}

fn image(host: &HostFacts, view: &VmView, disk: &DiskSpec) -> Instance {
    let id = part_id(view.spec.uuid, disk.id.as_str());
    let names = (
        "Hard Disk Image Default Settings",
        "Describes the default settings for the hard disk image resources",
        disk.id.as_str(),
    );
    let kind = (31, "Microsoft:Hyper-V:Virtual Hard Disk");
    part(STORAGE, &id, names, kind, "count(fixed size block)", 1)
        .with("Reservation", 0_u64)
        .with("Parent", text(host, by_id(RESOURCE, &drive_id(view, disk))))
        .with_some(
            "HostResource",
            view.disk_files.get(&disk.id).map(|f| vec![f.as_str()]),
        )
        .with("VirtualResourceBlockSize", 512_u64)
        .with("Access", 3_u16)
        .with("CachingMode", 2_u16)
        .with("IOPSLimit", 0_u64)
        .with("IOPSReservation", 0_u64)
        .with("PersistentReservationsSupported", false)
        .with("SnapshotId", "")
        .with("IgnoreFlushes", false)
        .with("WriteHardeningMethod", 0_u16)
}

fn images(host: &HostFacts, of: &VmParts) -> Vec<Instance> {
    let disks = of.view.spec.disks.iter();
    disks.map(|d| image(host, &of.view, d)).collect()
}

/// Everything here that is part of a VM.
pub(super) fn paths(view: &VmView) -> Vec<ObjectPath> {
    let controllers = controllers(view)
        .into_iter()
        .map(|c| by_id(RESOURCE, &c.id(view)));
    let drives = view
        .spec
        .disks
        .iter()
        .map(|d| by_id(RESOURCE, &drive_id(view, d)));
    let images = view.spec.disks.iter().map(|d| disk_path(view.spec.uuid, &d.id));
    controllers.chain(drives).chain(images).collect()
}
