//! Capture: changes recorded by QEMU's dirty bitmaps, instants by copy-before-write filters that one `blockdev-reopen`
//! puts under all of a VM's devices at once, data read over NBD.
//!
//! Names in the graph of the process, for a disk `ID`: `fleece-ID` holds what the guest overwrites, `cbw-ID` is the
//! filter, `snap-ID` shows the instant, `union-ID` carries what is known to have changed. `top-ID` and `disk-ID` are
//! there always. All of it can be told from the graph alone, so whatever a daemon leaves behind that dies between two
//! commands, the next one puts in order:
//!
//! | died after | what is there | what the engine is told |
//! |---|---|---|
//! | files, `fleece` nodes | leftovers only | since base |
//! | record of `next` added | both records run; no instant | since base and next |
//! | filters added | the same | the same |
//! | tops reopened: **the instant** | both records run, `next` began a little early | the same |
//! | record of `base` frozen | the normal state of a cycle | the same |
//! | record of `base` removed | the cycle is over | since next |
//!
//! A record that began a little early, or was frozen a little late, holds a little more than it must; never less.
//! Merging the records back is right in every row.
//!
//! A disk may be resized at any moment, by whoever has another monitor. QEMU ends with an assertion when a bitmap of the
//! disk is exported at that moment, so only copies of records, on nodes of ours, ever are. A source keeps the sizes it
//! was opened with, and refuses once they are no longer true.

mod block;
#[cfg(test)]
mod foreign_tests;
mod freeze;
mod holes;
#[cfg(test)]
mod image_tests;
#[cfg(test)]
mod measure;
mod offline;
pub(crate) mod pending;
#[cfg(test)]
mod pending_tests;
#[cfg(test)]
mod range_tests;
mod ranges;
#[cfg(test)]
mod resize_tests;
mod source;
mod space;
#[cfg(test)]
mod tests;
mod tracking;
mod view;

use std::sync::Arc;
use std::time::Duration;

use lifeboat_block::qmp::Qmp;
use lifeboat_deltalog::LogDisk;
use lifeboat_engine::ports::capture::CaptureError;
use lifeboat_engine::ports::hypervisor::{DiskImage, Launch};
use lifeboat_model::{DiskFormat, DiskId, VmId};

use self::block::{Monitor, failed};
use self::freeze::Freezer;
use self::offline::Offline;
use self::source::Shared;
pub(crate) use self::source::Source;
use self::space::Space;
use crate::graph;
use crate::hypervisor::Qemu;
use crate::ledger::Holder;
use crate::preflight;
use crate::process::{PidRecord, Process};

/// Opens the disks of a VM for capture: through its process when it has one.
pub(crate) async fn open(qemu: &Qemu, launch: &Launch, disks: &[DiskId]) -> Result<Source, CaptureError> {
    for id in disks {
        if !launch.disks.iter().any(|d| d.id == *id) {
            return Err(CaptureError::Preflight(format!("the VM has no disk {id}")));
        }
    }
    let vm = launch.spec.uuid;
    let paths = qemu.paths(vm);
    if process_of(qemu, vm).await?.is_none() {
        let (offline, monitor) = Offline::open(qemu, launch, disks).await?;
        let shared = share(qemu, launch, disks, monitor, Holder::StandIn, None).await;
        return match shared {
            Ok(shared) => Ok(Source::new(shared, Some(offline))),
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
    let freezer = launch.spec.guest_agent.then(|| Freezer {
        socket: paths.agent(),
        mark: paths.frozen().into_std_path_buf(),
        vm,
        thawing: qemu.thawing.clone(),
    });
    let shared = share(qemu, launch, disks, monitor, Holder::Vm, freezer).await?;
    Ok(Source::new(shared, None))
}

/// The VM's process; whoever cannot tell whether there is one must not open the images beside it.
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
    monitor: Qmp,
    holder: Holder,
    freezer: Option<Freezer>,
) -> Result<Arc<Shared>, CaptureError> {
    let paths = match holder {
        Holder::Vm => qemu.paths(launch.spec.uuid),
        Holder::StandIn => qemu.paths(launch.spec.uuid).offline(),
    };
    let monitor = Monitor::new(monitor);
    let nodes = monitor.nodes().await?;
    let mut disks = Vec::new();
    let mut shells = Vec::new();
    let mut persistent = Vec::new();
    let pid = PidRecord::load(paths.pid().as_std_path()).map_or(0, |record| record.pid);
    let mut data = Vec::new();
    for id in wanted {
        let name = graph::disk_node(id);
        let node = nodes.iter().find(|n| n.name == name);
        let node = node.ok_or_else(|| {
            CaptureError::Preflight(format!("disk {id} was not there when the VM was started"))
        })?;
        disks.push(LogDisk {
            id: id.clone(),
            size: node.image.size,
        });
        persistent.push(node.driver == "qcow2");
        let image = launch.disks.iter().find(|d| d.id == *id).map(|d| &d.image);
        data.push(image.and_then(|image| holes::file_of(image, pid)));
        shells.push(match image {
            Some(DiskImage::Plain {
                format: DiskFormat::Raw,
                ..
            }) => Some(qemu.config.shell(launch.spec.uuid, id)),
            _ => None,
        });
    }
    Ok(Arc::new(Shared {
        monitor,
        disks,
        persistent,
        data,
        shells,
        vm: launch.spec.uuid,
        ledger: Arc::clone(&qemu.ledger),
        nbd: paths.nbd(),
        holder,
        space: Space {
            dir: paths.spool().to_owned(),
            reserve: qemu.config.reserve_mib << 20,
        },
        freezer,
    }))
}
