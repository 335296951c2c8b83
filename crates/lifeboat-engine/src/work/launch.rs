//! Images and machines as a VM is started on them.

use crate::port::hypervisor::{DiskImage, Launch, LaunchDisk};
use crate::port::store::{ImageStore, StoreError};
use lifeboat_model::network::NicFailover;
use lifeboat_model::network::{self};
use lifeboat_model::{BranchId, DiskId, NicSpec, VmId, VmSpec};

pub(crate) fn plain(disk: &lifeboat_model::DiskSpec) -> LaunchDisk {
    use crate::port::hypervisor::DiskImage;
    let image = DiskImage::Plain {
        path: disk.path.clone().into(),
        format: disk.format,
    };
    LaunchDisk {
        id: disk.id.clone(),
        bus: disk.bus,
        image,
    }
}

/// The machine as it is connected after a failover. `own` is its description on this host, if it came from here: a copy
/// that comes back is connected as it was, because its taps are this host's again.
pub(crate) fn connected(spec: &VmSpec, cards: &[NicFailover], own: Option<&VmSpec>) -> VmSpec {
    let mut nics = spec.nics.clone();
    for nic in &mut nics {
        let same = |o: &&NicSpec| o.mac.eq_ignore_ascii_case(&nic.mac);
        if let Some(own) = own.and_then(|o| o.nics.iter().find(same)) {
            nic.backend = own.backend.clone();
        }
    }
    VmSpec {
        nics: network::failed_over(&nics, cards),
        ..spec.clone()
    }
}

/// Disks of a failed-over VM: the branch's images on the buses of the description.
pub(crate) fn launch_disks(spec: &VmSpec, images: Vec<(DiskId, DiskImage)>) -> Vec<LaunchDisk> {
    // A disk that is no longer replicated is in the images as it was then, and must not meet the others.
    let disk = |(id, image)| {
        let bus = spec.disk(&id)?.bus;
        Some(LaunchDisk { bus, id, image })
    };
    let mut disks: Vec<LaunchDisk> = images.into_iter().filter_map(disk).collect();
    disks.sort_by_key(|d| spec.disks.iter().position(|s| s.id == d.id));
    disks
}

/// A VM on the images of a branch, with the branch's firmware variables and what its settings tell cloud-init.
pub(crate) async fn branch_launch(
    images: &dyn ImageStore,
    spec: VmSpec,
    cards: &[NicFailover],
    (of, branch): (VmId, BranchId),
) -> Result<Launch, StoreError> {
    let disks = images.branch_images(of, branch).await?;
    let firmware_vars = Some(images.branch_firmware(of, branch).await?);
    Ok(Launch {
        disks: launch_disks(&spec, disks),
        spec,
        firmware_vars,
        // Settings are checked before they are stored; and no failover fails for its addresses.
        seed: network::no_cloud(cards, &branch.to_string()).unwrap_or_default(),
    })
}
