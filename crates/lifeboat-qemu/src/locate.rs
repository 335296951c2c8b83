//! Whether a VM has a process, in three outcomes: there, gone, or not known. A record that is missing, wrong or
//! unreadable proves nothing, so then every process of the host is looked at; only a complete look says "gone".
//!
//! What a process that is there does is not asked here.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use camino::Utf8PathBuf;
use lifeboat_engine::ports::hypervisor::HypervisorError;
use lifeboat_model::VmId;

use crate::config::{QemuConfig, VmPaths};
use crate::files;
use crate::ledger::witness;
use crate::process::{self, PidRecord, Process};

/// For how long one look at all processes serves: a list of hundreds of VMs that are off costs one. What this daemon
/// starts ends it, and no other program starts these processes.
const FRESH: Duration = Duration::from_secs(1);

/// How long a look waits for another one. A process that waits for its storage can make every program wait that looks at it.
const PATIENCE: Duration = Duration::from_secs(2);

/// What one look at all processes found, and when.
type Seen = (Instant, HashMap<VmId, PidRecord>);

/// The processes of VMs on this host, as they were at one look.
#[derive(Clone, Debug, Default)]
pub(crate) struct Processes(Arc<Mutex<Option<Seen>>>);

/// Directories of this daemon that the command line of a VM's process names one of.
#[derive(Clone, Debug)]
struct Places {
    run_dir: Utf8PathBuf,
    running: Utf8PathBuf,
}

impl Places {
    fn of(config: &QemuConfig) -> Self {
        Self {
            run_dir: config.run_dir.clone(),
            running: config.running(),
        }
    }

    /// Whether a process with these arguments is one of this daemon's. Those that earlier versions started name their
    /// control socket, later ones the file in which they write their number.
    fn name(&self, vm: VmId, arguments: &str) -> bool {
        let witness = witness(&self.running, vm);
        let socket = self.run_dir.join(vm.to_string()).join("qmp.sock");
        arguments.split('\0').any(|a| a == witness) || arguments.replace(",,", ",").contains(socket.as_str())
    }
}

impl Processes {
    /// A process is about to be started: what was seen before is the past.
    pub(crate) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Waits for another look that is under way, but not for one that hangs.
    fn find(&self, places: &Places, vm: VmId) -> io::Result<Option<PidRecord>> {
        let until = Instant::now() + PATIENCE;
        let mut seen = loop {
            match self.0.try_lock() {
                Ok(seen) => break seen,
                Err(TryLockError::Poisoned(seen)) => break seen.into_inner(),
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(TryLockError::WouldBlock) => {
                    let why = "looking at the processes of this host takes too long";
                    return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                }
            }
        };
        if let Some((at, found)) = seen.as_ref()
            && at.elapsed() < FRESH
        {
            return Ok(found.get(&vm).copied());
        }
        let found = look(places)?;
        let it = found.get(&vm).copied();
        *seen = Some((Instant::now(), found));
        Ok(it)
    }

    /// The VM's process. `None`: it has none.
    pub(crate) async fn locate(
        &self,
        config: &QemuConfig,
        vm: VmId,
        paths: VmPaths,
    ) -> Result<Option<Process>, HypervisorError> {
        let (processes, places) = (self.clone(), Places::of(config));
        // Files of a process that waits for its storage may make their reader wait too.
        let located = tokio::task::spawn_blocking(move || locate(&processes, &places, vm, &paths)).await;
        match located {
            Ok(Ok(process)) => Ok(process),
            Ok(Err(e)) => Err(HypervisorError::NotKnown(unseen(&e))),
            Err(e) => Err(HypervisorError::NotKnown(format!(
                "looking for its process failed: {e}"
            ))),
        }
    }
}

/// What keeps this host from looking, and what helps.
fn unseen(e: &io::Error) -> String {
    let helps = match e.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::MFILE) => "; raise LimitNOFILE of the daemon",
        Some(rustix::io::Errno::NFILE) => "; raise fs.file-max of this host",
        _ => "",
    };
    format!("this host cannot look for its process: {e}{helps}")
}

fn locate(processes: &Processes, places: &Places, vm: VmId, paths: &VmPaths) -> io::Result<Option<Process>> {
    let tag = vm.to_string();
    let path = paths.pid();
    // A record that cannot be read is no record; what it should have said is found below.
    if let Ok(Some(record)) = PidRecord::read(path.as_std_path())
        && let Some(process) = record.try_open(&tag)?
    {
        return Ok(Some(process));
    }
    let Some(record) = processes.find(places, vm)? else {
        return Ok(None);
    };
    let Some(process) = record.try_open(&tag)? else {
        // It ended just now.
        return Ok(None);
    };
    tracing::warn!(%vm, pid = record.pid, "the record of the VM's process was lost; the process was found without it");
    let rewritten = files::private_dir(paths.dir()).and_then(|()| record.store(path.as_std_path()));
    if let Err(error) = rewritten {
        tracing::debug!(%vm, %error, "the record is not written again");
    }
    Ok(Some(process))
}

/// Every process that runs a VM of this daemon's.
fn look(places: &Places) -> io::Result<HashMap<VmId, PidRecord>> {
    let mut found = HashMap::new();
    for (pid, arguments) in process::all()? {
        if let Some(vm) = vm_of(&arguments, places)
            && let Some(record) = PidRecord::examine(pid)?
        {
            found.insert(vm, record);
        }
    }
    Ok(found)
}

/// The VM that a process with these arguments runs: named by `-uuid`, with a place of ours. Programs that merely name such a
/// place have no such argument.
fn vm_of(arguments: &str, places: &Places) -> Option<VmId> {
    let mut parts = arguments.split('\0');
    parts.find(|a| *a == "-uuid")?;
    let vm: VmId = parts.next()?.parse().ok()?;
    places.name(vm, arguments).then_some(vm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_that_runs_the_vm_from_this_directory_is_its_process() {
        let vm = "6f3b2f2e-3a63-4a0e-9a53-0d9f5f6f0001";
        let places = |run: &str, running: &str| Places {
            run_dir: run.into(),
            running: running.into(),
        };
        let here = places("/run/lb", "/var/lib/lb/running");
        let line = |rest: &str| format!("qemu-system-x86_64\0-uuid\0{vm}\0{rest}\0");
        let confined = |rest: &str| format!("setpriv\0--reuid\01900000001\0--\0{}", line(rest));
        let earlier = |dir: &str| {
            line(&format!(
                "-chardev\0socket,id=qmp,path={dir}/{vm}/qmp.sock,server=on"
            ))
        };
        let witness = |dir: &str| format!("-chardev\0socket,id=qmp,fd=3\0-pidfile\0{dir}/{vm}/pid");
        let ours = Some(vm.parse().unwrap());
        assert_eq!(vm_of(&line(&witness("/var/lib/lb/running")), &here), ours);
        // In the moment before it becomes QEMU.
        assert_eq!(vm_of(&confined(&witness("/var/lib/lb/running")), &here), ours);
        assert_eq!(vm_of(&line(&witness("/var/lib/other/running")), &here), None);
        assert_eq!(vm_of(&earlier("/run/lb"), &here), ours);
        assert_eq!(vm_of(&earlier("/run/a,,b"), &places("/run/a,b", "/x")), ours);
        assert_eq!(vm_of(&earlier("/run/other"), &here), None);
        let looks_at_it = format!("socat\0-\0UNIX-CONNECT:/run/lb/{vm}/qmp.sock\0");
        assert_eq!(vm_of(&looks_at_it, &here), None);
    }
}
