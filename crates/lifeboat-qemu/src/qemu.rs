//! A host's virtual machines as its QEMU processes: where each is, and how it is told and ended. A process is found by its written
//! record, never by memory, so that a restarted daemon sees the same world.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_block::agent::{Agent, ShutdownMode};
use lifeboat_block::held::Held;
use lifeboat_block::qmp::{Qmp, QmpError};
use lifeboat_engine::ports::hypervisor::{HypervisorError, KnownMachine};
use lifeboat_model::VmId;
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::config::{QemuConfig, VmPaths};
use crate::confine::Users;
use crate::console;
use crate::error::monitor_error;
use crate::ledger::{Holder, Ledger};
use crate::locate::Processes;
use crate::probe;
use crate::process::{PidRecord, Process};
use crate::tell::Teller;

/// How long a monitor may take to greet before its process counts as stuck.
pub(crate) const GREETING: Duration = Duration::from_secs(5);

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
    pub(crate) teller: Teller,
    /// The VMs that are described on this host.
    pub(crate) machines: Vec<KnownMachine>,
    /// What is remembered of all images.
    pub(crate) ledger: Arc<Ledger>,
}

impl Qemu {
    /// Keeps what the guest says on its console from filling the host's memory, where the file is.
    pub(crate) async fn bound_console(&self, vm: VmId) {
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
            teller: Teller::default(),
            machines: Vec::new(),
            config,
            held: Held::default(),
            thawing: Held::default(),
            kvm: OnceCell::new(),
            known: probe::Cache::default(),
            processes: Processes::default(),
        }
    }

    /// The same, for a host on which these VMs are described.
    #[must_use]
    pub fn with_machines(self, machines: Vec<KnownMachine>) -> Self {
        Self { machines, ..self }
    }

    pub(crate) fn paths(&self, vm: VmId) -> VmPaths {
        self.config.paths(vm)
    }

    /// The VM's process. `None`: it was looked for, and there is none.
    pub(crate) async fn process(&self, vm: VmId) -> Result<Option<Process>, HypervisorError> {
        self.processes.locate(&self.config, vm, self.paths(vm)).await
    }

    /// The same; it has to be there.
    pub(crate) async fn running(&self, vm: VmId) -> Result<Process, HypervisorError> {
        self.process(vm).await?.ok_or(HypervisorError::NotRunning)
    }

    pub(crate) async fn control(&self, vm: VmId) -> Result<Qmp, QmpError> {
        Qmp::connect(self.paths(vm).control(), GREETING).await
    }

    /// Gives a VM's monitor a command without arguments.
    pub(crate) async fn command(&self, vm: VmId, command: &str) -> Result<(), HypervisorError> {
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
        let asking = self.teller.asks(vm, process.pid());
        end(process, paths).await?;
        asking.granted();
        self.ledger.closed(vm).await;
        Ok(())
    }

    /// The VMs that have a directory for their processes.
    pub(crate) fn with_places(&self) -> Vec<VmId> {
        let dirs = std::fs::read_dir(&self.config.run_dir);
        let dirs = dirs.into_iter().flatten().flatten();
        dirs.filter_map(|dir| dir.file_name().to_str()?.parse::<VmId>().ok())
            .collect()
    }

    /// Makes sure that the end of a running VM's process will be written down and told, after a restart of the daemon too.
    pub(crate) fn attend(&self, vm: VmId) {
        if let Some(record) = PidRecord::load(self.paths(vm).pid().as_std_path()) {
            self.attend_process(vm, Holder::Vm, record, &vm.to_string());
        }
    }

    /// The same for any process that has the VM's images open; `tag` is part of its command line.
    pub(crate) fn attend_process(&self, vm: VmId, holder: Holder, record: PidRecord, tag: &str) {
        if self.ledger.attends(vm, record.pid) {
            return;
        }
        if let Some(process) = record.open(tag) {
            let teller = self.teller.clone();
            let ended = async move {
                while !process.gone(Duration::from_secs(3600)).await {}
                match holder {
                    Holder::Vm => teller.ended(vm, record.pid),
                    Holder::StandIn => {}
                }
            };
            self.ledger.attend(vm, holder, record.pid, ended);
        }
    }

    /// Asks the guest to shut down: its agent, and where there is none by the power button.
    pub(crate) async fn ask_to_shut_down(&self, vm: VmId) -> Result<(), HypervisorError> {
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
