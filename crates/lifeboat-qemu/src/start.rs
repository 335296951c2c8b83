//! Starting a VM: nothing of an earlier start may be in the way, the process is on record before the guest executes
//! its first instruction, and a crash between any two steps leaves what the next start understands.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use camino::Utf8PathBuf;
use lifeboat_block::qmp::{Qmp, QmpError};
use lifeboat_engine::ports::hypervisor::{DiskImage, HypervisorError, Launch};
use lifeboat_model::{DiskFormat, VmId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::process::Child;

use crate::command;
use crate::config::VmPaths;
use crate::confine::{self, User, Users};
use crate::error::{io_error, monitor_error, not_run};
use crate::files;
use crate::graph::DiskGraph;
use crate::handed::{self, Handed};
use crate::layers::{Kind, Layer};
use crate::ledger::{Holder, Images, Run};
use crate::limits::Limits;
use crate::preflight::{self, Ready};
use crate::process::{self, PidRecord};
use crate::qemu::Qemu;
use crate::seed;
use crate::tracking_overlay;

/// How long QEMU may take to open its images and its monitor.
const COMING_UP: Duration = Duration::from_secs(60);

/// What was started, for a later daemon that finds the process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Started {
    pub(crate) name: String,
    pub(crate) graphs: Vec<DiskGraph>,
    /// The set of descriptors by which the process has each file; none of a process that opened its files itself, as those of
    /// earlier versions did.
    #[serde(default)]
    pub(crate) sets: BTreeMap<String, u32>,
}

pub(crate) async fn start(qemu: &Qemu, launch: &Launch) -> Result<(), HypervisorError> {
    let vm = launch.spec.uuid;
    let paths = qemu.paths(vm);
    clear_the_way(qemu, vm, &paths).await?;
    let ready = preflight::check(qemu, launch).await?;
    end_offline(qemu, vm).await?;
    files::private_dir(paths.dir()).map_err(io_error(format!("cannot create {}", paths.dir().display())))?;
    files::remove_tree(paths.spool()).map_err(io_error("cannot remove the files of an old capture"))?;
    files::remove(paths.frozen().as_std_path())
        .map_err(io_error("cannot remove the mark of an old freeze"))?;
    let run = Run::new(Holder::Vm);
    let graphs = graphs(qemu, launch, run).await?;
    let started = bring_up(qemu, launch, graphs, ready).await;
    if started.is_err() {
        // The process was ended, or never started.
        qemu.ledger.closed(vm).await;
    }
    started
}

/// Starts the process of a VM whose images are known to be free.
async fn bring_up(
    qemu: &Qemu,
    launch: &Launch,
    graphs: Vec<DiskGraph>,
    ready: Ready,
) -> Result<(), HypervisorError> {
    let vm = launch.spec.uuid;
    let Prepared { user, command, given } = prepare(qemu, launch, graphs, ready).await?;
    tracing::debug!(%vm, ?command, "starting QEMU");
    let spawned = spawn(qemu, launch, &command, given.handed).await;
    // From now on its process shows it.
    drop(user);
    let in_words = |why: String| handed::in_words(&why, &given.started.sets);
    spawned.map_err(|error| match error {
        HypervisorError::DidNotStart(why) => HypervisorError::DidNotStart(in_words(why)),
        HypervisorError::Locked(why) => HypervisorError::Locked(in_words(why)),
        other @ (HypervisorError::Preflight(_)
        | HypervisorError::Running
        | HypervisorError::NotRunning
        | HypervisorError::NotKnown(_)
        | HypervisorError::ShutdownTimeout(_)
        | HypervisorError::Monitor(_)
        | HypervisorError::Agent(_)
        | HypervisorError::Io { .. }) => other,
    })
}

/// A process that can be started.
pub(crate) struct Prepared {
    user: Option<User>,
    pub(crate) command: Vec<String>,
    pub(crate) given: Given,
}

/// What a process is given.
pub(crate) struct Given {
    arguments: Vec<String>,
    pub(crate) handed: Handed,
    started: Started,
}

/// Everything before the process: its user, its files, and what it was given, written down.
pub(crate) async fn prepare(
    qemu: &Qemu,
    launch: &Launch,
    graphs: Vec<DiskGraph>,
    ready: Ready,
) -> Result<Prepared, HypervisorError> {
    let vm = launch.spec.uuid;
    let paths = qemu.paths(vm);
    let user = qemu.users.take(vm);
    let user = user.map_err(io_error("cannot find a user for the VM's process"))?;
    seed::write(launch, &paths, user.as_ref())?;
    if let Some(flash) = &ready.flash {
        flash.make().await?;
    }
    let devices = confine::groups(ready.devices());
    let mut given = give(launch, graphs, &paths, ready).await?;
    let bytes = serde_json::to_vec_pretty(&given.started)
        .map_err(|e| HypervisorError::Preflight(format!("the launch cannot be written down: {e}")))?;
    files::write_durably(paths.launch().as_std_path(), &bytes)
        .map_err(io_error(format!("cannot write {}", paths.launch())))?;
    let witness = qemu.ledger.witness(vm);
    let state = qemu.config.state_dir.as_std_path();
    let dir = witness.parent().unwrap_or(&witness);
    let let_in = qemu.users.let_in(state, dir.as_std_path(), user.as_ref());
    let_in.map_err(io_error(format!("cannot hand over {dir}")))?;
    given
        .arguments
        .extend(["-pidfile".to_owned(), witness.into_string()]);
    let arguments = std::mem::take(&mut given.arguments);
    let command = Users::guest(user.as_ref(), &devices, qemu.config.binary(), arguments);
    Ok(Prepared { user, command, given })
}

/// Opens what the process is given. Storage that does not answer makes its opener wait.
async fn give(
    launch: &Launch,
    graphs: Vec<DiskGraph>,
    paths: &VmPaths,
    ready: Ready,
) -> Result<Given, HypervisorError> {
    let (launch, paths) = (launch.clone(), paths.clone());
    let open = move || {
        let mut handed = Handed::default();
        let mut arguments = command::arguments(&launch, &graphs, &paths, &ready, &mut handed)?;
        let (options, sets) = handed.take_sets();
        arguments.extend(options);
        Ok(Given {
            arguments,
            handed,
            started: Started {
                name: launch.spec.name.clone(),
                graphs,
                sets,
            },
        })
    };
    let opened = tokio::task::spawn_blocking(open).await;
    let opened = opened.unwrap_or_else(|e| Err(std::io::Error::other(e)));
    opened.map_err(io_error("cannot open what the VM's process is given"))
}

/// Refuses when the VM runs; ends what is left of a start that was cut off before the guest ran.
async fn clear_the_way(qemu: &Qemu, vm: VmId, paths: &VmPaths) -> Result<(), HypervisorError> {
    if qemu.held.contains(vm) {
        return Err(HypervisorError::Preflight(
            "the disks of the VM are being captured while it is off: let that end first".into(),
        ));
    }
    // Between the start of a process and its record lies a moment, and a record can be lost: every process is looked at.
    qemu.processes.forget();
    let Some(process) = qemu.process(vm).await? else {
        return Ok(());
    };
    let never_ran = match Qmp::connect(paths.control(), Duration::from_secs(5)).await {
        Err(_) => process.gone(Duration::ZERO).await,
        Ok(monitor) => {
            let status = monitor
                .execute("query-status", Value::Null)
                .await
                .map_err(monitor_error)?;
            status.get("status").and_then(Value::as_str) == Some("prelaunch")
        }
    };
    if !never_ran {
        return Err(HypervisorError::Running);
    }
    tracing::warn!(%vm, "ending a process whose start was cut off before the guest ran");
    qemu.end(vm, &process, paths).await
}

/// Ends the storage daemon that a capture of the powered-off VM left behind.
pub(crate) async fn end_offline(qemu: &Qemu, vm: VmId) -> Result<(), HypervisorError> {
    let offline = qemu.paths(vm).offline();
    let tag = offline.control();
    let left = PidRecord::load(offline.pid().as_std_path()).filter(|r| r.open(tag.as_str()).is_some());
    let left = left.or_else(|| process::find(tag.as_str()));
    let Some((record, process)) = left.and_then(|r| Some((r, r.open(tag.as_str())?))) else {
        return Ok(());
    };
    // The caller may be dropped while it waits here.
    qemu.attend_process(vm, Holder::StandIn, record, tag.as_str());
    qemu.end(vm, &process, &offline).await
}

/// The graphs of all disks, with tracking overlays for raw images made ready and when no other process has the images: an attempt
/// that fails on the second disk would already have spoiled the dirty bitmaps of the first.
pub(crate) async fn graphs(
    qemu: &Qemu,
    launch: &Launch,
    run: Run,
) -> Result<Vec<DiskGraph>, HypervisorError> {
    let (config, vm) = (&qemu.config, launch.spec.uuid);
    let wanted: Vec<_> = launch.disks.iter().map(|d| d.id.clone()).collect();
    let images = preflight::images(config, launch, &wanted)?;
    let (mut graphs, mut opened) = (Vec::new(), Vec::new());
    for (disk, images) in launch.disks.iter().zip(&images) {
        if let DiskImage::Plain { path, format } = &disk.image {
            check_free(disk.id.as_str(), path.as_std_path(), *format).await?;
        }
        let overlay = match &disk.image {
            DiskImage::Plain {
                path,
                format: DiskFormat::Raw,
            } => {
                let overlay = config.tracking_overlay(vm, &disk.id);
                tracking_overlay::prepare(&overlay, path.as_std_path())
                    .await
                    .map_err(io_error(format!(
                        "disk {}: cannot prepare its tracking overlay",
                        disk.id
                    )))?;
                Some(utf8(overlay)?)
            }
            DiskImage::Plain { .. } | DiskImage::Chain { .. } => None,
        };
        let graph = DiskGraph::new(disk, images, overlay.as_deref());
        opened.push((disk.id.clone(), remembered(&disk.image, images, &graph)));
        graphs.push(graph);
    }
    let looked = qemu.ledger.opening(vm, run, &opened).await;
    looked.map_err(io_error("cannot remember what the VM's images are"))?;
    Ok(graphs)
}

/// What is remembered of a disk: all images of an administrator, and the one of a store's that is written to.
fn remembered(image: &DiskImage, layers: &[Layer], graph: &DiskGraph) -> Images {
    match image {
        DiskImage::Plain { .. } => Images {
            layers: layers.to_vec(),
            store: Vec::new(),
        },
        DiskImage::Chain { .. } => {
            let first = graph.written().into_iter().next().unwrap_or_default();
            let store = graph.layers.keys().filter(|file| **file != first);
            Images {
                store: store.cloned().collect(),
                layers: vec![Layer {
                    path: first.into(),
                    format: DiskFormat::Qcow2,
                    kind: Kind::File,
                }],
            }
        }
    }
}

fn utf8(path: std::path::PathBuf) -> Result<Utf8PathBuf, HypervisorError> {
    Utf8PathBuf::from_path_buf(path)
        .map_err(|p| HypervisorError::Preflight(format!("{}: the path is not UTF-8", p.display())))
}

/// What QEMU and its tools say of an image that another process has locked.
const LOCKED: &str = "Is another process using the image";

/// Asks for the locks that a writing process holds on an image.
async fn check_free(id: &str, path: &Path, format: DiskFormat) -> Result<(), HypervisorError> {
    let format = match format {
        DiskFormat::Qcow2 => "qcow2",
        DiskFormat::Raw => "raw",
    };
    let out = tokio::process::Command::new("qemu-img")
        .args(["info", "--output=json", "-f", format])
        .arg(path)
        .output()
        .await
        .map_err(not_run("qemu-img"))?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    let detail = format!(
        "disk {id}: {}{}",
        said.trim().replace('\n', " "),
        files::held_by(path)
    );
    // What else may be wrong with the image is no matter of who has it open.
    if said.contains(LOCKED) {
        return Err(HypervisorError::Locked(detail));
    }
    Err(HypervisorError::DidNotStart(detail))
}

async fn spawn(
    qemu: &Qemu,
    launch: &Launch,
    command: &[String],
    handed: Handed,
) -> Result<(), HypervisorError> {
    let vm = launch.spec.uuid;
    let paths = &qemu.paths(vm);
    let log = paths.log();
    let before = std::fs::metadata(&log).map_or(0, |m| m.len());
    let spawned = process::spawn(command, log.as_std_path(), handed.mappings);
    qemu.processes.forget();
    let program = command.first().map_or("", String::as_str);
    let mut child = spawned.map_err(not_run(program))?;
    let up = match process::record_of(&child) {
        None => Err(HypervisorError::DidNotStart(String::new())),
        Some(record) => match record.store(paths.pid().as_std_path()) {
            Err(source) => Err(HypervisorError::Io {
                what: format!("cannot write {}", paths.pid()),
                source,
            }),
            Ok(()) => run_guest(qemu, launch, &mut child, record.pid).await,
        },
    };
    if let Err(error) = up {
        // Whatever it is, the guest has not run: nothing is lost by ending it.
        if let Err(error) = child.kill().await {
            tracing::debug!(%error, "QEMU had ended by itself");
        }
        return Err(explain(error, log.as_std_path(), before));
    }
    let pid = child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .unwrap_or_default();
    // Its end is collected whenever it comes; without this it would stay as a zombie.
    let teller = qemu.teller.clone();
    qemu.ledger.attend(vm, Holder::Vm, pid, async move {
        if let Err(error) = child.wait().await {
            tracing::warn!(%error, "the end of a process was not collected");
        }
        teller.ended(vm, pid);
    });
    Ok(())
}

async fn run_guest(qemu: &Qemu, launch: &Launch, child: &mut Child, pid: i32) -> Result<(), HypervisorError> {
    let monitor = connect(child, &qemu.paths(launch.spec.uuid), COMING_UP).await?;
    if qemu.config.guest_limits {
        Limits::of(launch).put_on(launch, pid).await;
    }
    monitor
        .execute("cont", Value::Null)
        .await
        .map_err(monitor_error)?;
    Ok(())
}

/// Connects to the monitor of a process that is just coming up, unless it ends first.
pub(crate) async fn connect(
    child: &mut Child,
    paths: &VmPaths,
    limit: Duration,
) -> Result<Qmp, HypervisorError> {
    let attempts = async {
        loop {
            match Qmp::connect(paths.control(), limit).await {
                // Not there yet; or there and hung up, as a process does that gives up its start: then it ends, which
                // is heard below and tells more.
                Err(QmpError::Connect { .. } | QmpError::Closed) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                other => return other.map_err(monitor_error),
            }
        }
    };
    tokio::select! {
        ended = child.wait() => {
            tracing::debug!(?ended, "the process ended while its monitor was awaited");
            Err(HypervisorError::DidNotStart(String::new()))
        }
        up = tokio::time::timeout(limit, attempts) => {
            up.unwrap_or_else(|_| Err(HypervisorError::DidNotStart(format!("no monitor within {limit:?}"))))
        }
    }
}

/// Adds to an error what the process wrote into its log since `from`.
pub(crate) fn explain(error: HypervisorError, log: &Path, from: u64) -> HypervisorError {
    let bytes = std::fs::read(log).unwrap_or_default();
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    let said = String::from_utf8_lossy(bytes.get(from..).unwrap_or_default());
    let said = said.trim().replace('\n', "; ");
    let HypervisorError::DidNotStart(why) = error else {
        return error;
    };
    let parts = [why, said].into_iter().filter(|s| !s.is_empty());
    let said = parts.collect::<Vec<_>>().join(": ");
    if said.contains(LOCKED) {
        HypervisorError::Locked(said)
    } else {
        HypervisorError::DidNotStart(said)
    }
}
