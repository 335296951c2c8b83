//! The stand-in for a VM that is off: a storage daemon that opens the same graph, so that a capture is the same with
//! and without a guest.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_block::capture::{StandIn, failed};
use lifeboat_block::held::Hold;
use lifeboat_block::qmp::{Qmp, QmpError};
use lifeboat_engine::ports::capture::CaptureError;
use lifeboat_engine::ports::hypervisor::{HypervisorError, Launch};
use lifeboat_model::{DiskId, VmId};
use serde_json::json;

use crate::config::VmPaths;
use crate::confine::Users;
use crate::error::{io_error, monitor_error};
use crate::files;
use crate::graph::{self, DiskGraph};
use crate::ledger::{Holder, Ledger, Run};
use crate::process::{self, PidRecord, Process};
use crate::qemu::{self, Qemu};
use crate::start;

/// How long the storage daemon may take to come up; it opens no image while it does.
const COMING_UP: Duration = Duration::from_secs(20);

/// A storage daemon that holds a VM's disks.
#[derive(Debug)]
pub(crate) struct Offline {
    process: Process,
    paths: VmPaths,
    vm: VmId,
    ledger: Arc<Ledger>,
    /// Released after the process is gone.
    _hold: Hold,
}

impl Offline {
    /// Opens the disks of a VM that is off.
    pub(crate) async fn open(
        qemu: &Qemu,
        launch: &Launch,
        disks: &[DiskId],
    ) -> Result<(Self, Qmp), CaptureError> {
        let vm = launch.spec.uuid;
        let Some(hold) = qemu.held.take(vm) else {
            return Err(CaptureError::InUse {
                disk: disks.first().map(DiskId::to_string).unwrap_or_default(),
                detail: "another capture of this VM has not been closed".to_owned(),
            });
        };
        let paths = qemu.paths(vm);
        start::end_offline(qemu, vm).await.map_err(trouble)?;
        let mut wanted = launch.clone();
        wanted.disks.retain(|d| disks.contains(&d.id));
        let run = Run::new(Holder::StandIn);
        let graphs = start::graphs(qemu, &wanted, run).await.map_err(trouble)?;
        let paths = paths.offline();
        let (process, monitor, record) = match spawn(&qemu.users, &paths).await {
            Ok(up) => up,
            Err(error) => {
                qemu.ledger.closed(vm).await;
                return Err(trouble(error));
            }
        };
        qemu.attend_process(vm, Holder::StandIn, record, paths.control().as_str());
        let offline = Self {
            process,
            paths,
            vm,
            ledger: Arc::clone(&qemu.ledger),
            _hold: hold,
        };
        for graph in &graphs {
            if let Err(error) = add(&monitor, graph).await {
                let error = in_use(graph, error);
                drop(monitor);
                offline.close().await?;
                return Err(error);
            }
        }
        Ok((offline, monitor))
    }

    /// Closes the images, which writes the bitmaps, and waits until no process has them open.
    pub(crate) async fn close(self) -> Result<(), CaptureError> {
        qemu::end(&self.process, &self.paths).await.map_err(trouble)?;
        self.ledger.closed(self.vm).await;
        Ok(())
    }
}

#[async_trait]
impl StandIn for Offline {
    async fn end(self: Box<Self>) -> Result<(), CaptureError> {
        self.close().await
    }
}

async fn spawn(users: &Users, paths: &VmPaths) -> Result<(Process, Qmp, PidRecord), HypervisorError> {
    let io = |what: &str| io_error(format!("{what} {}", paths.dir().display()));
    files::private_dir(paths.dir()).map_err(io("cannot create"))?;
    let mut arguments = Vec::new();
    for (id, path) in [("qmp", paths.control()), ("capture", paths.capture())] {
        let path = path.as_str().replace(',', ",,");
        arguments.extend([
            "--chardev".to_owned(),
            format!("socket,id={id},path={path},server=on,wait=off"),
        ]);
        arguments.extend(["--monitor".to_owned(), format!("chardev={id}")]);
    }
    let log = paths.log();
    let before = std::fs::metadata(&log).map_or(0, |m| m.len());
    let command = users.tool("qemu-storage-daemon", arguments);
    let mut child = process::spawn(&command, log.as_std_path(), Vec::new())
        .map_err(io("cannot start qemu-storage-daemon in"))?;
    let died = || HypervisorError::DidNotStart("qemu-storage-daemon ended at once".to_owned());
    let record = process::record_of(&child);
    let up = match record {
        None => Err(died()),
        Some(record) => match record.store(paths.pid().as_std_path()) {
            Err(source) => Err(io("cannot write into")(source)),
            Ok(()) => up(&mut child, paths, record).await,
        },
    };
    match up {
        Ok(up) => {
            tokio::spawn(async move { child.wait().await });
            Ok(up)
        }
        Err(error) => {
            if let Err(error) = child.kill().await {
                tracing::debug!(%error, "the storage daemon had ended by itself");
            }
            Err(start::explain(error, log.as_std_path(), before))
        }
    }
}

async fn up(
    child: &mut tokio::process::Child,
    paths: &VmPaths,
    record: PidRecord,
) -> Result<(Process, Qmp, PidRecord), HypervisorError> {
    // The first monitor shows that it is up, and stays free for the call that ends it.
    drop(start::connect(child, paths, COMING_UP).await?);
    let monitor = Qmp::connect(paths.capture(), COMING_UP)
        .await
        .map_err(monitor_error)?;
    let process = record.open(paths.control().as_str());
    let process = process.ok_or_else(|| HypervisorError::DidNotStart("it ended at once".to_owned()))?;
    Ok((process, monitor, record))
}

async fn add(monitor: &Qmp, graph: &DiskGraph) -> Result<(), QmpError> {
    let id = &graph.id;
    let group = json!({"qom-type": "throttle-group", "id": graph::group(id)});
    monitor.execute("object-add", group).await?;
    monitor.execute("blockdev-add", graph.node.clone()).await?;
    monitor
        .execute("blockdev-add", graph::top(id, &graph::disk_node(id)))
        .await?;
    Ok(())
}

fn in_use(graph: &DiskGraph, error: QmpError) -> CaptureError {
    let locked = matches!(&error, QmpError::Command { desc, .. } if desc.contains("lock"));
    if !locked {
        return failed(&format!("opening disk {}", graph.id), error);
    }
    let holders: String = graph
        .written()
        .iter()
        .map(|path| files::held_by(std::path::Path::new(path)))
        .collect();
    CaptureError::InUse {
        disk: graph.id.to_string(),
        detail: format!("{error}{holders}"),
    }
}

fn said_in_use(why: String) -> CaptureError {
    let disk = why.split(':').next().unwrap_or_default();
    CaptureError::InUse {
        disk: disk.trim_start_matches("disk ").to_owned(),
        detail: why,
    }
}

/// A process's trouble as a capture sees it.
fn trouble(error: HypervisorError) -> CaptureError {
    match error {
        HypervisorError::Preflight(why) => CaptureError::Preflight(why),
        HypervisorError::Locked(why) => said_in_use(why),
        // The storage daemon says it in its log.
        HypervisorError::DidNotStart(why) if why.contains("lock") => said_in_use(why),
        other @ (HypervisorError::Running
        | HypervisorError::NotRunning
        | HypervisorError::NotKnown(_)
        | HypervisorError::DidNotStart(_)
        | HypervisorError::ShutdownTimeout(_)
        | HypervisorError::Monitor(_)
        | HypervisorError::Agent(_)
        | HypervisorError::Io { .. }) => {
            let source = std::error::Error::source(&other).map(|s| format!(": {s}"));
            CaptureError::Block {
                what: "opening the disks of the powered-off VM".to_owned(),
                detail: format!("{other}{}", source.unwrap_or_default()),
            }
        }
    }
}
