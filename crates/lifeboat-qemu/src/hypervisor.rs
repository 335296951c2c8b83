//! The hypervisor port over QEMU processes. A VM's process is found by its written record, never by memory, so that a
//! restarted daemon sees the same world. What a process does with its disks is in [`crate::capture`] and
//! [`crate::merge`].

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use lifeboat_block::agent::{Agent, ShutdownMode, guest};
use lifeboat_block::fdset;
use lifeboat_block::held::Held;
use lifeboat_block::qmp::{Qmp, QmpError};
use lifeboat_engine::ports::capture::{CaptureError, CaptureSource};
use lifeboat_engine::ports::hypervisor::{
    Console, GuestOs, GuestProcess, GuestRun, Hypervisor, HypervisorError, ImagesSeen, Launch, LiveMerge,
    Power,
};
use lifeboat_model::{DiskId, Firmware, VmId, VmSpec};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::capture;
use crate::config::{QemuConfig, VmPaths};
use crate::confine::Users;
use crate::console;
use crate::files;
use crate::firmware;
use crate::handed::{self, Access};
use crate::ledger::{Holder, Ledger, Look};
use crate::locate::Processes;
use crate::merge;
use crate::power;
use crate::preflight;
use crate::probe;
use crate::process::{PidRecord, Process};
use crate::start;

/// How long a monitor may take to greet before its process counts as stuck.
pub(crate) const GREETING: Duration = Duration::from_secs(5);

/// How long the daemon's own end may wait for a storage daemon to let go of its images.
const RELEASE: Duration = Duration::from_secs(20);

/// How long the file system may take to say what an image looks like.
const LOOKING: Duration = Duration::from_secs(2);

/// How long a monitor may take to say what its disks' dirty bitmaps mark.
const COUNTING: Duration = Duration::from_secs(4);

/// How long a process may take to close its images.
pub(crate) const CLOSING: Duration = Duration::from_secs(30);

/// Virtual machines as QEMU processes of this host.
#[derive(Debug)]
pub struct Qemu {
    pub(crate) config: QemuConfig,
    pub(crate) held: Held,
    /// VMs whose guests are being thawed.
    pub(crate) thawing: Held,
    /// Whether KVM is worth using, once it was probed.
    pub(crate) kvm: OnceCell<bool>,
    pub(crate) known: probe::Cache,
    pub(crate) processes: Processes,
    pub(crate) users: Users,
    /// What is remembered of all images.
    pub(crate) ledger: Arc<Ledger>,
}

impl Qemu {
    /// Keeps what the guest says on its console from filling the host's memory, where the file is.
    async fn bound_console(&self, vm: VmId) {
        let log = self.paths(vm).file("console.log").into_std_path_buf();
        let bound = move || {
            if console::is_full(&log) {
                console::rotate(&log)
            } else {
                Ok(())
            }
        };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(bound).await {
            tracing::warn!(%vm, %error, "the log of the VM's console cannot be cut");
        }
    }

    /// An adapter for this host. Touches nothing yet.
    #[must_use]
    pub fn new(config: QemuConfig) -> Self {
        Self {
            ledger: Arc::new(Ledger::new(&config)),
            users: Users::new(config.guest_users),
            config,
            held: Held::default(),
            thawing: Held::default(),
            kvm: OnceCell::new(),
            known: probe::Cache::default(),
            processes: Processes::default(),
        }
    }

    pub(crate) fn paths(&self, vm: VmId) -> VmPaths {
        self.config.paths(vm)
    }

    /// The VM's process. `None`: it was looked for, and there is none.
    pub(crate) async fn process(&self, vm: VmId) -> Result<Option<Process>, HypervisorError> {
        self.processes.locate(&self.config, vm, self.paths(vm)).await
    }

    async fn running(&self, vm: VmId) -> Result<Process, HypervisorError> {
        self.process(vm).await?.ok_or(HypervisorError::NotRunning)
    }

    pub(crate) async fn control(&self, vm: VmId) -> Result<Qmp, QmpError> {
        Qmp::connect(self.paths(vm).control(), GREETING).await
    }

    /// Gives a VM's monitor a command without arguments.
    async fn command(&self, vm: VmId, command: &str) -> Result<(), HypervisorError> {
        let monitor = self.control(vm).await.map_err(monitor_error)?;
        let answer = monitor.execute_timeout(command, Value::Null, GREETING).await;
        answer.map(|_| ()).map_err(monitor_error)
    }

    /// Ends a VM's process: by its monitor, so that it closes its images in order, else by signals.
    pub(crate) async fn end(
        &self,
        vm: VmId,
        process: &Process,
        paths: &VmPaths,
    ) -> Result<(), HypervisorError> {
        end(process, paths).await?;
        self.ledger.closed(vm).await;
        Ok(())
    }

    /// Makes sure that the end of a running VM's process will be written down, after a restart of the daemon too.
    pub(crate) fn attend(&self, vm: VmId) {
        if let Some(record) = PidRecord::load(self.paths(vm).pid().as_std_path()) {
            self.attend_process(vm, Holder::Vm, record, &vm.to_string());
        }
    }

    /// As [`Qemu::attend`], for any process that has the VM's images open; `tag` is part of its command line.
    pub(crate) fn attend_process(&self, vm: VmId, holder: Holder, record: PidRecord, tag: &str) {
        if self.ledger.attends(vm, record.pid) {
            return;
        }
        if let Some(process) = record.open(tag) {
            let ended = async move { while !process.gone(Duration::from_secs(3600)).await {} };
            self.ledger.attend(vm, holder, record.pid, ended);
        }
    }

    async fn ask_to_shut_down(&self, vm: VmId) -> Result<(), HypervisorError> {
        let limit = Duration::from_secs(5);
        let asked = async {
            let mut agent = Agent::connect(self.paths(vm).agent()).await?;
            agent.shutdown(ShutdownMode::Powerdown, limit).await
        };
        let Err(error) = asked.await else {
            return Ok(());
        };
        tracing::info!(%vm, %error, "no shutdown through the guest agent; pressing the power button");
        let monitor = self.control(vm).await.map_err(monitor_error)?;
        monitor
            .execute("system_powerdown", Value::Null)
            .await
            .map_err(monitor_error)?;
        Ok(())
    }
}

/// Ends the process whose sockets are in `paths`.
pub(crate) async fn end(process: &Process, paths: &VmPaths) -> Result<(), HypervisorError> {
    let quit = async {
        let monitor = Qmp::connect(paths.control(), GREETING).await?;
        monitor.execute_timeout("quit", Value::Null, GREETING).await
    };
    let closing = match quit.await {
        // It may close the connection before the answer is out.
        Ok(_) | Err(QmpError::Closed) => process.gone(CLOSING).await,
        Err(error) => {
            tracing::warn!(%error, "the monitor does not take quit; ending the process by signal");
            false
        }
    };
    if closing || process.end(Duration::from_secs(5)).await {
        return Ok(());
    }
    Err(HypervisorError::Io {
        what: "the process does not end even when killed; it probably waits for storage that does not answer"
            .into(),
        source: io::ErrorKind::TimedOut.into(),
    })
}

pub(crate) fn monitor_error(error: QmpError) -> HypervisorError {
    HypervisorError::Monitor(error.to_string())
}

/// Puts words to an I/O error.
pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> HypervisorError {
    let what = what.into();
    move |source| HypervisorError::Io { what, source }
}

#[async_trait]
impl Hypervisor for Qemu {
    async fn preflight(&self, launch: &Launch) -> Result<(), HypervisorError> {
        preflight::check(self, launch).await.map(|_| ())
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
        let asked = tokio::time::timeout_at(deadline, self.ask_to_shut_down(vm)).await;
        if let Ok(Err(error)) = asked
            && !process.gone(Duration::ZERO).await
        {
            return Err(error);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if process.gone(left).await {
            self.ledger.closed(vm).await;
            Ok(())
        } else {
            Err(HypervisorError::ShutdownTimeout(timeout))
        }
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

    async fn missing(&self, spec: &VmSpec) -> Vec<String> {
        preflight::missing(self, spec).await
    }

    async fn release(&self) {
        let dirs = std::fs::read_dir(&self.config.run_dir)
            .into_iter()
            .flatten()
            .flatten();
        let vms = dirs.filter_map(|dir| dir.file_name().to_str()?.parse::<VmId>().ok());
        let ends = vms.map(|vm| async move {
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

    async fn firmware_vars(&self, spec: &VmSpec) -> Result<Option<Bytes>, HypervisorError> {
        match &spec.firmware {
            Firmware::Bios => Ok(None),
            Firmware::Uefi { vars: None, .. } => Ok(None),
            Firmware::Uefi { vars: Some(vars), .. } => firmware::read(vars.into()).await.map(Some),
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
