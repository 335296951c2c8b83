//! The hypervisor port over QEMU processes: which module does what of it. What a process is told to do with its disks is in
//! [`crate::capture`] and [`crate::merge`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use lifeboat_block::agent::guest;
use lifeboat_block::fdset;
use lifeboat_engine::ports::capture::{CaptureError, CaptureSource};
use lifeboat_engine::ports::hypervisor::{
    Console, GuestOs, GuestProcess, GuestRun, Hypervisor, HypervisorError, ImagesSeen, KnownMachine, Launch,
    LiveMerge, MachineEvent, Power, Role, StateKind,
};
use lifeboat_model::{DiskId, Firmware, Hardware, VmId, VmSpec};
use serde_json::json;
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::capture;
use crate::error::{io_error, monitor_error};
use crate::files;
use crate::firmware;
use crate::handed::{self, Access};
use crate::ledger::Look;
use crate::merge;
use crate::power;
use crate::preflight;
use crate::process::PidRecord;
use crate::qemu::Qemu;
use crate::start;

/// How long the daemon's own end may wait for a storage daemon to let go of its images.
const RELEASE: Duration = Duration::from_secs(20);

/// How long the file system may take to say what an image looks like.
const LOOKING: Duration = Duration::from_secs(2);

/// How long a monitor may take to say what its disks' dirty bitmaps mark.
const COUNTING: Duration = Duration::from_secs(4);

#[async_trait]
impl Hypervisor for Qemu {
    async fn machines(&self) -> Vec<KnownMachine> {
        self.machines.clone()
    }

    async fn watch(&self) -> broadcast::Receiver<MachineEvent> {
        let events = self.teller.listen();
        for vm in self.with_places() {
            self.attend(vm);
        }
        events
    }

    async fn preflight(&self, launch: &Launch) -> Result<(), HypervisorError> {
        preflight::check(self, launch).await.map(|_| ())
    }

    // A VM is started from a launch by the daemon alone, and the host has no list that others could start one from: there is
    // nothing to define, nothing to hold, and nothing to take back.

    async fn define(&self, _launch: &Launch, _role: Role) -> Result<(), HypervisorError> {
        Ok(())
    }

    async fn undefine(&self, _vm: VmId) -> Result<(), HypervisorError> {
        Ok(())
    }

    async fn hold(&self, _vm: VmId) -> Result<(), HypervisorError> {
        Ok(())
    }

    async fn free(&self, _vm: VmId) -> Result<(), HypervisorError> {
        Ok(())
    }

    async fn start(&self, launch: &Launch) -> Result<(), HypervisorError> {
        start::start(self, launch).await
    }

    async fn power(&self, vm: VmId) -> Power {
        self.attend(vm);
        self.bound_console(vm).await;
        power::look(self, vm).await
    }

    async fn shut_down(&self, vm: VmId, timeout: Duration) -> Result<(), HypervisorError> {
        let deadline = Instant::now() + timeout;
        let process = self.running(vm).await?;
        let asking = self.teller.asks(vm, process.pid());
        let asked = tokio::time::timeout_at(deadline, self.ask_to_shut_down(vm)).await;
        if let Ok(Err(error)) = asked
            && !process.gone(Duration::ZERO).await
        {
            return Err(error);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if process.gone(left).await {
            asking.granted();
            self.ledger.closed(vm).await;
            Ok(())
        } else {
            Err(HypervisorError::ShutdownTimeout(timeout))
        }
    }

    /// The images of a VM that is off are opened by themselves, with the dirty bitmaps that its process wrote at its end.
    async fn hand_over(&self, vm: VmId, timeout: Duration) -> Result<(), HypervisorError> {
        self.shut_down(vm, timeout).await
    }

    async fn turn_off(&self, vm: VmId) -> Result<(), HypervisorError> {
        match self.process(vm).await? {
            None => Ok(()),
            Some(process) => self.end(vm, &process, &self.paths(vm)).await,
        }
    }

    async fn pause(&self, vm: VmId) -> Result<(), HypervisorError> {
        self.running(vm).await?;
        self.command(vm, "stop").await
    }

    async fn resume(&self, vm: VmId) -> Result<(), HypervisorError> {
        self.running(vm).await?;
        power::go_on(self, vm).await
    }

    async fn reset(&self, vm: VmId) -> Result<(), HypervisorError> {
        self.running(vm).await?;
        self.command(vm, "system_reset").await
    }

    async fn process(&self, vm: VmId) -> Option<GuestProcess> {
        let path = self.paths(vm).pid();
        let look = move || PidRecord::read(path.as_std_path()).ok()??.living();
        tokio::task::spawn_blocking(look).await.ok()?
    }

    fn console(&self, vm: VmId) -> Console {
        let paths = self.paths(vm);
        Console {
            socket: paths.file("console.sock"),
            log: paths.file("console.log"),
        }
    }

    fn max_images(&self) -> Option<usize> {
        None
    }

    async fn missing(&self, spec: &VmSpec) -> Vec<String> {
        preflight::missing(self, spec).await
    }

    async fn release(&self) {
        let ends = self.with_places().into_iter().map(|vm| async move {
            let ended = tokio::time::timeout(RELEASE, start::end_offline(self, vm)).await;
            let why = match ended {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it does not end in time".to_owned(),
            };
            tracing::warn!(%vm, why, "the storage daemon of the VM, which is off, is left behind");
        });
        join_all(ends).await;
    }

    async fn machine_state(&self, spec: &VmSpec) -> Result<Vec<(StateKind, Bytes)>, HypervisorError> {
        let Hardware::Own(hardware) = &spec.hardware;
        match &hardware.firmware {
            Firmware::Bios | Firmware::Uefi { vars: None, .. } => Ok(Vec::new()),
            Firmware::Uefi { vars: Some(vars), .. } => {
                Ok(vec![(StateKind::Nvram, firmware::read(vars.into()).await?)])
            }
        }
    }

    async fn guest_os(&self, vm: VmId) -> Result<GuestOs, HypervisorError> {
        self.running(vm).await?;
        guest::os(self.paths(vm).agent().as_std_path()).await
    }

    async fn guest_run(
        &self,
        vm: VmId,
        program: &str,
        arguments: &[String],
        timeout: Duration,
    ) -> Result<GuestRun, HypervisorError> {
        self.running(vm).await?;
        guest::run(self.paths(vm).agent().as_std_path(), program, arguments, timeout).await
    }

    async fn screenshot(&self, vm: VmId) -> Result<Bytes, HypervisorError> {
        self.running(vm).await?;
        let path = self.paths(vm).file("screen.png");
        let monitor = self.control(vm).await.map_err(monitor_error)?;
        files::remove(path.as_std_path()).map_err(io_error(format!("cannot remove {path}")))?;
        let picture = handed::open(path.as_std_path(), Access::Append);
        let picture = picture.map_err(io_error(format!("cannot make {path}")))?;
        let picture = fdset::lend(&monitor, None, picture)
            .await
            .map_err(monitor_error)?;
        let arguments = json!({"filename": picture.name(), "format": "png"});
        let taken = monitor.execute("screendump", arguments).await;
        fdset::take_back(&monitor, &picture)
            .await
            .map_err(monitor_error)?;
        taken.map_err(monitor_error)?;
        let picture = std::fs::read(&path).map_err(io_error(format!("cannot read {path}")))?;
        files::remove(path.as_std_path()).map_err(io_error(format!("cannot remove {path}")))?;
        Ok(picture.into())
    }

    async fn source(
        &self,
        launch: &Launch,
        disks: &[DiskId],
    ) -> Result<Box<dyn CaptureSource>, CaptureError> {
        Ok(Box::new(capture::open(self, launch, disks).await?))
    }

    async fn untouched(&self, launch: &Launch, disks: &[DiskId]) -> Result<ImagesSeen, CaptureError> {
        let vm = launch.spec.uuid;
        let failed = |detail: String| CaptureError::Block {
            what: "looking at the images".to_owned(),
            detail,
        };
        self.ledger.finish(vm).await;
        let (ledger, wanted) = (Arc::clone(&self.ledger), disks.to_vec());
        let look = tokio::task::spawn_blocking(move || ledger.look(vm, &wanted));
        let seen = match tokio::time::timeout(LOOKING, look).await {
            Ok(Ok(Ok(seen))) => seen,
            Ok(Ok(Err(error))) => return Err(failed(error.to_string())),
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => {
                return Err(failed(format!(
                    "their storage does not answer within {} s",
                    LOOKING.as_secs()
                )));
            }
        };
        Ok(match seen {
            Look::AsClosed => ImagesSeen::AsClosed,
            Look::Changed(disk, reason) => ImagesSeen::Changed { disk, reason },
            Look::NotRecorded => ImagesSeen::NotRecorded,
        })
    }

    async fn pending(&self, vm: VmId, disks: &[DiskId]) -> Option<u64> {
        let counted = capture::pending::of(self, vm, disks);
        tokio::time::timeout(COUNTING, counted).await.ok()?
    }

    async fn merge_live(
        &self,
        vm: VmId,
        layers: &[LiveMerge],
        bytes_per_s: u64,
    ) -> Result<(), HypervisorError> {
        self.running(vm).await?;
        merge::run(&self.paths(vm), layers, bytes_per_s).await
    }
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod host_tests;
#[cfg(test)]
#[path = "hypervisor_tests.rs"]
mod tests;
