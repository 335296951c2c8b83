//! Opening the disks of a VM for capture: in its own process, or, while it is off, in a storage daemon.
//! What a capture does there is `lifeboat-block`'s.

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod foreign_tests;
#[cfg(test)]
mod image_tests;
mod losses;
#[cfg(test)]
mod measure;
mod offline;
pub(crate) mod pending;
#[cfg(test)]
mod pending_tests;
#[cfg(test)]
mod range_tests;
#[cfg(test)]
mod resize_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use lifeboat_block::capture::{Freezer, Opened, Shared, Source, Space, failed, holes};
use lifeboat_block::qmp::{Monitor, Qmp};
use lifeboat_engine::ports::capture::CaptureError;
use lifeboat_engine::ports::hypervisor::{DiskImage, Launch};
use lifeboat_model::{DiskFormat, DiskId, VmId};

use self::losses::Remembered;
use self::offline::Offline;
use crate::ledger::Holder;
use crate::preflight;
use crate::process::{PidRecord, Process};
use crate::qemu::Qemu;

/// Opens the disks of a VM for capture: through its process when it has one.
pub(crate) async fn open(qemu: &Qemu, launch: &Launch, disks: &[DiskId]) -> Result<Source, CaptureError> {
    open_by(qemu, launch, disks, |monitor| Arc::new(monitor)).await
}

/// [`open`], with whatever is between the source and its monitor.
async fn open_by(
    qemu: &Qemu,
    launch: &Launch,
    disks: &[DiskId],
    through: impl FnOnce(Qmp) -> Arc<dyn Monitor>,
) -> Result<Source, CaptureError> {
    for id in disks {
        if !launch.disks.iter().any(|d| d.id == *id) {
            return Err(CaptureError::Preflight(format!("the VM has no disk {id}")));
        }
    }
    let vm = launch.spec.uuid;
    let paths = qemu.paths(vm);
    if process_of(qemu, vm).await?.is_none() {
        let (offline, monitor) = Offline::open(qemu, launch, disks).await?;
        let shared = share(qemu, launch, disks, through(monitor), Holder::StandIn, None).await;
        return match shared {
            Ok(shared) => Ok(Source::new(shared, Some(Box::new(offline)))),
            Err(error) => {
                offline.close().await?;
                Err(error)
            }
        };
    }
    qemu.attend(vm);
    preflight::images(&qemu.config, launch, disks).map_err(|e| CaptureError::Preflight(e.to_string()))?;
    let monitor = Qmp::connect(paths.capture(), Duration::from_secs(10))
        .await
        .map_err(|e| failed("connecting to the VM's monitor", e))?;
    qemu.teller.follow(vm, &monitor);
    let freezer = launch.spec.guest_agent.then(|| Freezer {
        socket: paths.agent(),
        mark: paths.frozen().into_std_path_buf(),
        vm,
        thawing: qemu.thawing.clone(),
    });
    let shared = share(qemu, launch, disks, through(monitor), Holder::Vm, freezer).await?;
    Ok(Source::new(shared, None))
}

/// The VM's process. While it is not known whether there is one, no other process may open the images.
async fn process_of(qemu: &Qemu, vm: VmId) -> Result<Option<Process>, CaptureError> {
    qemu.process(vm).await.map_err(|e| CaptureError::Block {
        what: "opening the disks".to_owned(),
        detail: e.to_string(),
    })
}

async fn share(
    qemu: &Qemu,
    launch: &Launch,
    wanted: &[DiskId],
    monitor: Arc<dyn Monitor>,
    holder: Holder,
    freezer: Option<Freezer>,
) -> Result<Shared, CaptureError> {
    let vm = launch.spec.uuid;
    let paths = match holder {
        Holder::Vm => qemu.paths(vm),
        Holder::StandIn => qemu.paths(vm).offline(),
    };
    let image = |id: &DiskId| launch.disks.iter().find(|d| d.id == *id).map(|d| &d.image);
    let overlay = |id: &DiskId| match image(id) {
        Some(DiskImage::Plain {
            format: DiskFormat::Raw,
            ..
        }) => Some(qemu.config.tracking_overlay(vm, id)),
        _ => None,
    };
    let disks = wanted.iter().map(|id| (id.clone(), overlay(id))).collect();
    let pid = PidRecord::load(paths.pid().as_std_path()).map_or(0, |record| record.pid);
    let data = |id: &DiskId| image(id).and_then(|image| holes::file_of(image, pid));
    let wanted = wanted.iter().map(|id| (id.clone(), data(id))).collect();
    let opened = Opened {
        monitor,
        holder,
        nbd: paths.nbd(),
        space: Space {
            dir: paths.spool().to_owned(),
            reserve: qemu.config.reserve_mib << 20,
        },
        freezer,
        losses: Box::new(Remembered {
            vm,
            disks,
            ledger: Arc::clone(&qemu.ledger),
        }),
    };
    Shared::open(opened, wanted).await
}
