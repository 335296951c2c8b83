//! VM processes that outlive the daemon, on images of the host.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_deltalog::LogDisk;
use lifeboat_engine::ports::capture::{CaptureError, CaptureSource};
use lifeboat_engine::ports::hypervisor::{
    Console, DiskImage, GuestOs, GuestProcess, GuestRun, Hypervisor, HypervisorError, ImagesSeen,
    KnownMachine, Launch, LiveMerge, MachineEvent, Power, PowerChange, PowerState, Role, Stall, StallCause,
    StateKind,
};
use lifeboat_model::{DiskId, VmId, VmSpec};
use tokio::sync::broadcast;

use crate::capture::Source;
use crate::disk::BLOCK;
use crate::port::Port;
use crate::state::{Order, Process, Ran, State, adopted, process};

/// The key of an image in the host's table of files.
pub(crate) fn key(image: &DiskImage) -> String {
    match image {
        DiskImage::Plain { path, .. } => path.to_string(),
        DiskImage::Chain { layers } => layers.last().map(|l| l.file.to_string()).unwrap_or_default(),
    }
}

/// How a VM's process ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// A call of the port asked for it.
    Asked,
    /// The guest shut down by itself.
    ByGuest,
    /// Without closing its images.
    Killed,
}

/// Ends a VM's process.
pub(crate) fn end(s: &mut State, h: usize, vm: VmId, ending: Ending) {
    let p = process(s, h, vm);
    if p.power == PowerState::Off {
        return;
    }
    p.power = PowerState::Off;
    p.stall = None;
    p.views.clear();
    let images = std::mem::take(&mut p.images);
    for key in images {
        if let Some(image) = s.hosts[h].images.get_mut(&key) {
            match ending {
                Ending::Killed => image.killed(),
                Ending::Asked | Ending::ByGuest => image.closed(),
            }
        }
    }
    let change = match ending {
        Ending::Asked => PowerChange::Ended,
        Ending::ByGuest | Ending::Killed => PowerChange::EndedByItself,
    };
    s.hosts[h].tell(vm, change);
}

fn check(s: &State, h: usize, launch: &Launch) -> Result<Vec<String>, HypervisorError> {
    let keys: Vec<String> = launch.disks.iter().map(|d| key(&d.image)).collect();
    match keys.iter().find(|k| !s.hosts[h].images.contains_key(*k)) {
        Some(missing) => Err(HypervisorError::Preflight(format!("{missing} does not exist"))),
        None => Ok(keys),
    }
}

/// What must not be started, for any caller.
fn forbidden(s: &mut State, h: usize, vm: VmId, keys: &[String]) {
    if let Some(key) = keys.iter().find(|k| adopted(s, h, k)) {
        s.violation(format!("a VM was started on {key}, which is below a replica"));
    }
    let mut others = s.hosts[h].processes.iter();
    let shared = |p: &Process| p.power != PowerState::Off && p.images.iter().any(|k| keys.contains(k));
    if others.any(|(id, p)| *id != vm && shared(p)) {
        s.violation("two VMs were started on one image");
    }
}

/// Notes a start of which the hypervisor was not told: of a VM that is held, or on other disks of a branch than were named.
fn untold(s: &mut State, h: usize, launch: &Launch, keys: &[String]) {
    let vm = launch.spec.uuid;
    if s.hosts[h].held.contains(&vm) {
        s.violation("a VM that is held was started");
    }
    let branch = launch
        .disks
        .iter()
        .any(|d| matches!(d.image, DiskImage::Chain { .. }));
    let told = s.hosts[h].machines.get(&vm).is_some_and(|(_, on)| on == keys);
    if branch && !told {
        s.violation("a VM was started on a branch that its hypervisor was not told of");
    }
}

/// What this host knows of a VM.
fn seen(s: &mut State, h: usize, vm: VmId) -> Power {
    if let Some(why) = s.hosts[h].blind.get(&vm) {
        return Power::NotKnown { why: why.clone() };
    }
    let p = process(s, h, vm);
    match p.power {
        PowerState::Off => Power::Off,
        PowerState::Running => Power::Running,
        PowerState::Paused => Power::Paused,
        PowerState::Stalled => Power::Stalled(p.stall.clone().unwrap_or(Stall {
            cause: StallCause::StorageError,
            disks: Vec::new(),
        })),
        PowerState::Unknown => Power::NotKnown {
            why: "its process cannot be asked".into(),
        },
    }
}

/// The VM's process, for a command to its monitor.
fn monitor(s: &mut State, h: usize, vm: VmId) -> Result<&mut Process, HypervisorError> {
    if let Some(why) = s.hosts[h].blind.get(&vm) {
        return Err(HypervisorError::Monitor(why.clone()));
    }
    let p = process(s, h, vm);
    match p.power {
        PowerState::Off => Err(HypervisorError::NotRunning),
        PowerState::Running | PowerState::Paused | PowerState::Stalled | PowerState::Unknown => Ok(p),
    }
}

/// What the dirty bitmaps of a running VM's disks mark together; nothing where one of them has no valid bitmap.
fn pending(s: &mut State, h: usize, vm: VmId, disks: &[DiskId]) -> Option<u64> {
    let process = monitor(s, h, vm).ok()?;
    let (started, keys) = (process.spec.clone(), process.images.clone());
    // One that ran when the world began is as it was described.
    let described = || s.hosts[h].local.iter().find(|v| v.uuid == vm).cloned();
    let spec = started.or_else(described)?;
    let mut blocks = 0;
    for disk in disks {
        let at = spec.disks.iter().position(|d| d.id == *disk)?;
        let image = s.hosts[h].images.get(keys.get(at)?)?;
        let believed = !image.tracked.is_empty() && image.tracked.iter().all(|t| !t.broken);
        if !believed || image.touched().is_some() {
            return None;
        }
        blocks += image.tracked.iter().map(|t| t.dirty.len()).sum::<usize>();
    }
    Some(blocks as u64 * BLOCK)
}

/// The system whose agent answers.
fn answering(s: &mut State, h: usize, vm: VmId) -> Result<GuestOs, HypervisorError> {
    if process(s, h, vm).power != PowerState::Running {
        return Err(HypervisorError::NotRunning);
    }
    s.agent
        .ok_or_else(|| HypervisorError::Monitor("no agent answers".into()))
}

/// For how long nothing was in the way of the hosts' talk before what one of them does is its own fault, in milliseconds.
const CALM: u64 = 20_000;

impl Port {
    /// Notes a start while the same VM runs on the host that this one knows as the other side and could have asked.
    fn twin(&self, s: &mut State, vm: VmId) {
        let h = self.host;
        let now = self.shared.now().0;
        if now < s.trouble_at + CALM {
            return;
        }
        let rels = s.hosts[h].catalog.relationships.iter().filter(|r| r.vm == vm);
        let peers: Vec<String> = rels
            .flat_map(|r| r.callback.iter().chain([&r.peer]).cloned())
            .collect();
        let known = |o: usize| {
            let other = &s.hosts[o];
            let named = |p: &String| {
                let name = p.split(':').next().unwrap_or_default();
                !name.is_empty() && (name == other.name || name == other.address)
            };
            peers.iter().any(named)
        };
        let reachable = |o: usize| !self.shared.cuts.borrow().contains(&(o.min(h), o.max(h)));
        let runs = |o: usize| {
            s.hosts[o]
                .processes
                .get(&vm)
                .is_some_and(|p| p.power != PowerState::Off)
        };
        let twin = (0..s.hosts.len()).find(|o| *o != h && runs(*o) && known(*o) && reachable(*o));
        if let Some(o) = twin {
            let note = format!("{vm} was started on {h} while it ran on {o}, which could have been asked");
            s.note(format!("TWIN {note}"));
            s.twins.push(note);
        }
    }
}

#[async_trait]
impl Hypervisor for Port {
    /// No fault meets it: what is described is known before the daemon does anything.
    async fn machines(&self) -> Vec<KnownMachine> {
        let state = self.shared.state();
        let local = state.hosts[self.host].local.iter();
        let known = local.map(|spec| KnownMachine {
            spec: spec.clone(),
            described: None,
        });
        known.collect()
    }

    /// No fault meets it and no time passes: what is told changes nothing by itself.
    async fn watch(&self) -> broadcast::Receiver<MachineEvent> {
        self.shared.state().hosts[self.host].listeners.listen()
    }

    async fn preflight(&self, launch: &Launch) -> Result<(), HypervisorError> {
        self.run("hv.preflight", |s, h| check(s, h, launch).map(|_| ()))
            .await
    }

    async fn define(&self, launch: &Launch, role: Role) -> Result<(), HypervisorError> {
        self.run("hv.define", |s, h| {
            if let Some(why) = &s.hosts[h].takes_no_machines {
                return Err(HypervisorError::Preflight(why.clone()));
            }
            let vm = launch.spec.uuid;
            let keys: Vec<_> = launch.disks.iter().map(|d| key(&d.image)).collect();
            if keys.is_empty() != (role == Role::Replica) {
                s.violation(format!("a machine was defined as {role:?} on {keys:?}"));
            }
            s.hosts[h].held.remove(&vm);
            s.hosts[h].machines.insert(vm, (role, keys));
            s.hosts[h].orders.push((vm, Order::Define(role)));
            Ok(())
        })
        .await
    }

    async fn undefine(&self, vm: VmId) -> Result<(), HypervisorError> {
        self.run("hv.undefine", |s, h| {
            if process(s, h, vm).power != PowerState::Off {
                s.violation("the machine of a VM that runs was taken back");
            }
            s.hosts[h].machines.remove(&vm);
            s.hosts[h].orders.push((vm, Order::Undefine));
            Ok(())
        })
        .await
    }

    async fn hold(&self, vm: VmId) -> Result<(), HypervisorError> {
        self.run("hv.hold", |s, h| {
            if process(s, h, vm).power != PowerState::Off {
                s.violation("a VM that runs was held");
            }
            s.hosts[h].held.insert(vm);
            s.hosts[h].orders.push((vm, Order::Hold));
            Ok(())
        })
        .await
    }

    async fn free(&self, vm: VmId) -> Result<(), HypervisorError> {
        self.run("hv.free", |s, h| {
            s.hosts[h].held.remove(&vm);
            s.hosts[h].machines.remove(&vm);
            s.hosts[h].orders.push((vm, Order::Free));
            Ok(())
        })
        .await
    }

    async fn start(&self, launch: &Launch) -> Result<(), HypervisorError> {
        self.run("hv.start", |s, h| {
            let keys = check(s, h, launch)?;
            let p = process(s, h, launch.spec.uuid);
            if p.power != PowerState::Off {
                return Err(HypervisorError::Running);
            }
            if p.held > 0 {
                s.violation("a VM was started while its images were held for capture");
                return Err(HypervisorError::DidNotStart("image is locked".into()));
            }
            forbidden(s, h, launch.spec.uuid, &keys);
            untold(s, h, launch, &keys);
            self.twin(s, launch.spec.uuid);
            let p = process(s, h, launch.spec.uuid);
            (p.power, p.images, p.run) = (PowerState::Running, keys, p.run + 1);
            p.began = tokio::time::Instant::now();
            p.spec = Some(launch.spec.clone());
            p.seed.clone_from(&launch.seed);
            p.vars = launch.firmware_vars.as_ref().map(ToString::to_string);
            p.views.clear();
            Ok(())
        })
        .await
    }

    async fn power(&self, vm: VmId) -> Power {
        if self.shared.state().hosts[self.host].stuck.contains(&vm) {
            std::future::pending::<()>().await;
        }
        let seen = self.run("hv.power", |s, h| Ok(seen(s, h, vm))).await;
        seen.unwrap_or_else(|e: HypervisorError| Power::NotKnown { why: e.to_string() })
    }

    async fn shut_down(&self, vm: VmId, timeout: Duration) -> Result<(), HypervisorError> {
        let stubborn = self.shared.state().stubborn;
        let power = process(&mut self.shared.state(), self.host, vm).power;
        // CPUs that are stopped follow no request.
        if matches!(power, PowerState::Paused | PowerState::Stalled) || stubborn && power != PowerState::Off {
            tokio::time::sleep(timeout).await;
            return Err(HypervisorError::ShutdownTimeout(timeout));
        }
        self.run("hv.shut_down", |s, h| {
            monitor(s, h, vm)?;
            end(s, h, vm, Ending::Asked);
            Ok(())
        })
        .await
    }

    async fn hand_over(&self, vm: VmId, timeout: Duration) -> Result<(), HypervisorError> {
        self.shut_down(vm, timeout).await
    }

    async fn turn_off(&self, vm: VmId) -> Result<(), HypervisorError> {
        self.run("hv.turn_off", |s, h| {
            s.hosts[h].blind.remove(&vm);
            end(s, h, vm, Ending::Asked);
            Ok(())
        })
        .await
    }

    async fn pause(&self, vm: VmId) -> Result<(), HypervisorError> {
        self.run("hv.pause", |s, h| {
            monitor(s, h, vm)?.power = PowerState::Paused;
            s.hosts[h].tell(vm, PowerChange::Halted);
            Ok(())
        })
        .await
    }

    async fn resume(&self, vm: VmId) -> Result<(), HypervisorError> {
        self.run("hv.resume", |s, h| {
            let p = monitor(s, h, vm)?;
            if let (PowerState::Stalled, Some(stall)) = (p.power, &p.stall) {
                let again = format!("the guest was let go on and was stopped again: {stall}");
                return Err(HypervisorError::Monitor(again));
            }
            self.twin(s, vm);
            process(s, h, vm).power = PowerState::Running;
            s.hosts[h].tell(vm, PowerChange::WentOn);
            Ok(())
        })
        .await
    }

    async fn reset(&self, vm: VmId) -> Result<(), HypervisorError> {
        self.run("hv.reset", |s, h| {
            let p = monitor(s, h, vm)?;
            // QEMU comes back with its processors stopped, and what failed is forgotten.
            if p.power == PowerState::Stalled {
                (p.power, p.stall) = (PowerState::Paused, None);
            }
            s.resets += 1;
            Ok(())
        })
        .await
    }

    async fn process(&self, vm: VmId) -> Option<GuestProcess> {
        let state = self.shared.state();
        let found = state.hosts[self.host].processes.get(&vm)?;
        let process = GuestProcess {
            pid: u32::try_from(found.run).ok()?,
            age_ms: u64::try_from(found.began.elapsed().as_millis()).ok()?,
        };
        (found.power != PowerState::Off).then_some(process)
    }

    fn console(&self, vm: VmId) -> Console {
        Console {
            socket: format!("/run/{vm}/console").into(),
            log: format!("/run/{vm}/log").into(),
        }
    }

    fn max_images(&self) -> Option<usize> {
        self.shared.state().hosts[self.host].max_images
    }

    async fn missing(&self, _spec: &VmSpec) -> Vec<String> {
        let missing = self.run("hv.missing", |s, h| {
            Ok::<_, HypervisorError>(s.hosts[h].missing.clone())
        });
        missing.await.unwrap_or_default()
    }

    /// Nothing here holds an image longer than the source that opened it.
    async fn release(&self) {}

    async fn machine_state(&self, spec: &VmSpec) -> Result<Vec<(StateKind, Bytes)>, HypervisorError> {
        self.run("hv.machine_state", |s, h| {
            let vars = s.hosts[h].vars.get(&spec.uuid).cloned();
            Ok(vars.into_iter().map(|vars| (StateKind::Nvram, vars)).collect())
        })
        .await
    }

    async fn guest_os(&self, vm: VmId) -> Result<GuestOs, HypervisorError> {
        self.run("hv.guest_os", |s, h| answering(s, h, vm)).await
    }

    async fn guest_run(
        &self,
        vm: VmId,
        program: &str,
        arguments: &[String],
        _timeout: Duration,
    ) -> Result<GuestRun, HypervisorError> {
        self.run("hv.guest_run", |s, host| {
            answering(s, host, vm)?;
            let mut command = vec![program.to_owned()];
            command.extend_from_slice(arguments);
            s.ran.push(Ran { host, vm, command });
            Ok(GuestRun {
                code: Some(s.exit_code),
                output: String::new(),
            })
        })
        .await
    }

    async fn screenshot(&self, vm: VmId) -> Result<Bytes, HypervisorError> {
        self.run("hv.screenshot", |s, h| monitor(s, h, vm).map(|_| Bytes::new()))
            .await
    }

    async fn source(
        &self,
        launch: &Launch,
        disks: &[DiskId],
    ) -> Result<Box<dyn CaptureSource>, CaptureError> {
        let vm = launch.spec.uuid;
        let (keys, sizes, live, run) = self
            .run("hv.source", |s, h| {
                if let Some(why) = s.hosts[h].blind.get(&vm) {
                    return Err(CaptureError::Block {
                        what: "opening the disks".into(),
                        detail: why.clone(),
                    });
                }
                let (mut keys, mut sizes) = (Vec::new(), Vec::new());
                for id in disks {
                    let found = launch.disks.iter().find(|d| d.id == *id).map(|d| key(&d.image));
                    let image = found.as_ref().and_then(|k| s.hosts[h].images.get(k));
                    let (Some(key), Some(image)) = (&found, image) else {
                        return Err(CaptureError::Preflight(format!("no image of disk {id}")));
                    };
                    sizes.push(LogDisk {
                        id: id.clone(),
                        size: image.size,
                    });
                    keys.push(key.clone());
                }
                let p = process(s, h, vm);
                let live = p.power != PowerState::Off;
                if !live {
                    if p.held > 0 {
                        s.violation("a second source of a powered-off VM was opened");
                        return Err(CaptureError::InUse {
                            disk: "sys".into(),
                            detail: "another capture of this VM has not been closed".into(),
                        });
                    }
                    // Whatever an earlier daemon left behind is ended in order.
                    p.views.clear();
                }
                Ok((keys, sizes, live, p.run))
            })
            .await?;
        Ok(Box::new(Source::open(self, vm, keys, sizes, live, run)))
    }

    async fn untouched(&self, launch: &Launch, disks: &[DiskId]) -> Result<ImagesSeen, CaptureError> {
        self.run("hv.untouched", |s, h| {
            if s.hosts[h].images_hang {
                return Err(CaptureError::Block {
                    what: "looking at the images".into(),
                    detail: "their storage does not answer".into(),
                });
            }
            for disk in launch.disks.iter().filter(|d| disks.contains(&d.id)) {
                let Some(image) = s.hosts[h].images.get(&key(&disk.image)) else {
                    return Err(CaptureError::Block {
                        what: "looking at the images".into(),
                        detail: "no such file".into(),
                    });
                };
                if let Some(reason) = image.touched() {
                    return Ok(ImagesSeen::Changed {
                        disk: disk.id.clone(),
                        reason: reason.into(),
                    });
                }
            }
            Ok(ImagesSeen::AsClosed)
        })
        .await
    }

    /// No fault meets it and no time passes: it changes nothing, and views that ask for it are to disturb no history.
    async fn pending(&self, vm: VmId, disks: &[DiskId]) -> Option<u64> {
        let hangs = {
            let s = self.shared.state();
            s.hosts[self.host].stuck.contains(&vm) || s.hangs.contains(&(self.host, "hv.pending"))
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        let mut s = self.shared.state();
        pending(&mut s, self.host, vm, disks)
    }

    async fn merge_live(
        &self,
        vm: VmId,
        layers: &[LiveMerge],
        _bytes_per_s: u64,
    ) -> Result<(), HypervisorError> {
        self.run("hv.merge_live", |s, h| {
            if process(s, h, vm).power == PowerState::Off {
                return Err(HypervisorError::NotRunning);
            }
            if layers.is_empty() {
                s.violation("nothing to merge");
            }
            if let Some((_, by_vm, _)) = s.hosts[h].replicas.get_mut(&vm).and_then(|r| r.promoted.as_mut()) {
                *by_vm = true;
            }
            Ok(())
        })
        .await
    }
}
