//! A host for tests: its own directories, VMs with empty disks and no system, and a model of what the disks hold that
//! never asks the code under test.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_block::qmp::Qmp;
use lifeboat_deltalog::Consistency;
use lifeboat_engine::ports::capture::{BlockView, CaptureError, CaptureSource, Instant};
use lifeboat_engine::ports::hypervisor::{DiskImage, Hypervisor, ImageLayer, Launch, LaunchDisk};
use lifeboat_model::vm::{DiskBus, DiskSpec};
use lifeboat_model::{DiskFormat, DiskId, GenerationId, Hardware, OwnHardware, Position, VmId, VmSpec};
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use crate::config::{Accel, FIRMWARE_DIRS, QemuConfig};
use crate::confine::UserRange;
use crate::process::PidRecord;
use crate::qemu::Qemu;

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const DISK: u64 = 8 * MIB;

pub(crate) struct Host {
    pub(crate) qemu: Qemu,
    pub(crate) dir: TempDir,
    vms: Vec<VmId>,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut QemuConfig)) -> Self {
        // Users of guests pass it on the way to what is theirs.
        let dir = tempfile::Builder::new()
            .prefix("lbq")
            .permissions(std::fs::Permissions::from_mode(0o711))
            .tempdir_in("/tmp")
            .unwrap();
        let base = Utf8PathBuf::from_path_buf(dir.path().to_owned()).unwrap();
        let mut config = QemuConfig {
            run_dir: base.join("run"),
            state_dir: base.join("state"),
            spool_dir: base.join("spool"),
            reserve_mib: 1,
            binary: None,
            accel: Accel::Tcg,
            guest_users: Some(UserRange::default()),
            guest_limits: true,
            firmware_dirs: FIRMWARE_DIRS.map(Into::into).into(),
        };
        change(&mut config);
        Self {
            qemu: Qemu::new(config),
            dir,
            vms: Vec::new(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A VM with empty disks called a, b, ... of these formats.
    pub(crate) fn vm(&mut self, formats: &[DiskFormat]) -> Launch {
        let mut disks = Vec::new();
        for (letter, format) in ('a'..).zip(formats) {
            let name = match format {
                DiskFormat::Qcow2 => "qcow2",
                DiskFormat::Raw => "raw",
            };
            let path = self.path(&format!("{letter}, disk.{name}"));
            tool(
                "qemu-img",
                &[
                    "create",
                    "-q",
                    "-f",
                    name,
                    path.to_str().unwrap(),
                    &DISK.to_string(),
                ],
            );
            disks.push(LaunchDisk {
                id: DiskId::new(letter.to_string()).unwrap(),
                bus: DiskBus::Virtio,
                image: DiskImage::Plain {
                    path: Utf8PathBuf::from_path_buf(path).unwrap(),
                    format: *format,
                },
            });
        }
        self.launch(disks)
    }

    pub(crate) fn launch(&mut self, disks: Vec<LaunchDisk>) -> Launch {
        let ids: Vec<_> = disks.iter().map(|d| d.id.as_str()).collect();
        let mut spec = self.spec_of(&ids);
        for (described, disk) in spec.disks.iter_mut().zip(&disks) {
            described.bus = disk.bus;
        }
        self.adopt(spec.uuid);
        Launch {
            spec,
            disks,
            firmware_vars: None,
            seed: Vec::new(),
        }
    }

    /// Ends the processes of this VM too when the test is over.
    pub(crate) fn adopt(&mut self, vm: VmId) {
        self.vms.push(vm);
    }

    /// A VM with disks of these names.
    pub(crate) fn spec_of(&self, disks: &[&str]) -> VmSpec {
        let uuid = VmId(Uuid::new_v4());
        let spec: VmSpec = serde_json::from_value(json!({
            "name": "test, one", "uuid": uuid, "memory_mib": 32, "cpus": 1, "guest_agent": false,
        }))
        .unwrap();
        let described = disks.iter().map(|id| DiskSpec {
            id: DiskId::new(*id).unwrap(),
            path: format!("/nowhere/{id}"),
            format: DiskFormat::Qcow2,
            bus: DiskBus::Virtio,
            allow: Default::default(),
        });
        VmSpec {
            disks: described.collect(),
            ..spec
        }
    }

    /// A VM whose disks are branches as a replica store makes them, and what they show.
    pub(crate) fn branches(&mut self, names: &[&str]) -> (Launch, Model) {
        let mut model = Model::new(names);
        let disks = names.iter().map(|name| self.branch(name, &mut model));
        let disks = disks.collect();
        (self.launch(disks), model)
    }

    /// A raw base, two sealed layers and a writable one with sub-clusters.
    fn branch(&self, name: &str, model: &mut Model) -> LaunchDisk {
        let path = |file: &str| Utf8PathBuf::from_path_buf(self.path(&format!("{name} {file}"))).unwrap();
        let base = path("base.raw");
        let size = DISK.to_string();
        tool("qemu-img", &["create", "-q", "-f", "raw", base.as_str(), &size]);
        let layer = |file: &Utf8Path, format| ImageLayer {
            file: file.to_owned(),
            format,
        };
        let mut layers = vec![layer(&base, DiskFormat::Raw)];
        let mut below = (base, "raw");
        for (image, options) in [
            ("1.qcow2", "cluster_size=4k"),
            ("2.qcow2", "cluster_size=4k"),
            ("branch.qcow2", "extended_l2=on,cluster_size=128k"),
        ] {
            let file = path(image);
            let backing = below.0.file_name().unwrap();
            #[rustfmt::skip]
            tool("qemu-img", &[
                "create", "-q", "-u", "-f", "qcow2", "-o", options, "-F", below.1, "-b", backing, file.as_str(), &size,
            ]);
            let byte = u8::try_from((name.len() * 31 + layers.len() * 47) % 200).unwrap() + 1;
            let offset = u64::from(byte) * 4096;
            // What is below the branch; the branch itself is empty.
            let (of, format) = &below;
            let write = format!("write -P {byte} {offset} {}", 2 * MIB);
            tool("qemu-io", &["-f", format, "-c", &write, of.as_str()]);
            model.fill(name, offset, 2 * MIB, byte);
            layers.push(layer(&file, DiskFormat::Qcow2));
            below = (file, "qcow2");
        }
        LaunchDisk {
            id: DiskId::new(name).unwrap(),
            bus: DiskBus::Virtio,
            image: DiskImage::Chain { layers },
        }
    }

    pub(crate) async fn source(&self, launch: &Launch) -> Box<dyn CaptureSource> {
        let ids: Vec<_> = launch.disks.iter().map(|d| d.id.clone()).collect();
        self.qemu.source(launch, &ids).await.unwrap()
    }

    /// Ends the VM's process the way a power cut does.
    pub(crate) async fn kill(&self, launch: &Launch) {
        let process = self.qemu.process(launch.spec.uuid).await.unwrap().unwrap();
        process.kill();
        assert!(process.gone(Duration::from_secs(10)).await);
    }

    /// A monitor that stands for the guest.
    pub(crate) async fn guest(&self, launch: &Launch) -> Guest {
        let monitor = self.qemu.control(launch.spec.uuid).await.unwrap();
        Guest {
            monitor,
            log: self.qemu.paths(launch.spec.uuid).log().into_std_path_buf(),
        }
    }
}

/// The part of a description that a QEMU process of Lifeboat's has for itself.
pub(crate) fn hardware(spec: &mut VmSpec) -> &mut OwnHardware {
    let Hardware::Own(hardware) = &mut spec.hardware;
    hardware
}

/// An instant of one VM, for which nothing is waited between preparing and taking.
#[async_trait]
pub(crate) trait AtOnce {
    async fn instant(
        &self,
        base: Position,
        next: Position,
        wanted: Consistency,
    ) -> Result<Instant, CaptureError>;
}

#[async_trait]
impl<T: CaptureSource + ?Sized> AtOnce for T {
    async fn instant(
        &self,
        base: Position,
        next: Position,
        wanted: Consistency,
    ) -> Result<Instant, CaptureError> {
        self.prepare(base, next, wanted).await?.take().await
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for vm in &self.vms {
            let paths = self.qemu.paths(*vm);
            let tag = vm.to_string();
            for record in [paths.pid(), paths.offline().pid()] {
                if let Some(process) = PidRecord::load(record.as_std_path()).and_then(|r| r.open(&tag)) {
                    process.kill();
                }
            }
        }
    }
}

/// Writes to disks the way a guest does: through the device.
pub(crate) struct Guest {
    monitor: Qmp,
    log: PathBuf,
}

impl Guest {
    /// Names of the nodes of the block graph.
    pub(crate) async fn nodes(&self) -> Vec<String> {
        let nodes = self
            .monitor
            .execute("query-named-block-nodes", json!({"flat": true}));
        let nodes = nodes.await.unwrap();
        let names = nodes.as_array().unwrap().iter();
        names
            .filter_map(|n| n["node-name"].as_str().map(str::to_owned))
            .collect()
    }

    pub(crate) async fn io(&self, disk: &str, command: &str) {
        let line = format!("qemu-io -d /machine/peripheral/vd-{disk}/virtio-backend \"{command}\"");
        let arguments = json!({"command-line": line});
        let said = self
            .monitor
            .execute("human-monitor-command", arguments)
            .await
            .unwrap();
        assert_eq!(said, Value::String(String::new()), "{command}");
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        assert!(!log.contains("failed"), "{command}: {log}");
    }

    pub(crate) async fn write(&self, disk: &str, model: &mut Model, offset: u64, len: u64, byte: u8) {
        self.io(disk, &format!("write -P {byte} {offset} {len}")).await;
        model.fill(disk, offset, len, byte);
    }
}

/// What each disk holds.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Model(pub(crate) BTreeMap<String, Vec<u8>>);

impl Model {
    pub(crate) fn new(disks: &[&str]) -> Self {
        let empty = |d: &&str| ((*d).to_owned(), vec![0; usize::try_from(DISK).unwrap()]);
        Self(disks.iter().map(empty).collect())
    }

    pub(crate) fn fill(&mut self, disk: &str, offset: u64, len: u64, byte: u8) {
        let (from, to) = (
            usize::try_from(offset).unwrap(),
            usize::try_from(offset + len).unwrap(),
        );
        self.0.get_mut(disk).unwrap()[from..to].fill(byte);
    }

    /// Disks of the view whose whole content differs from the model.
    pub(crate) async fn differing(&self, view: &dyn BlockView) -> Vec<String> {
        let mut differing = Vec::new();
        for (number, (name, data)) in self.0.iter().enumerate() {
            if read_all(view, number).await != *data {
                differing.push(name.clone());
            }
        }
        differing
    }
}

pub(crate) async fn read_all(view: &dyn BlockView, disk: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for offset in (0..DISK).step_by(1 << 20) {
        all.extend_from_slice(&view.read(disk, offset, 1 << 20).await.unwrap());
    }
    all
}

/// A copy of the disks, kept by nothing but changed ranges and their data.
#[derive(Clone)]
pub(crate) struct Replica(pub(crate) Model);

impl Replica {
    pub(crate) async fn apply(&mut self, view: &dyn BlockView) {
        for (number, data) in self.0.0.values_mut().enumerate() {
            for extent in view.changed(number).await.unwrap() {
                let mut at = extent.offset;
                while at < extent.offset + extent.len {
                    let len = (extent.offset + extent.len - at).min(1 << 20);
                    let bytes = view.read(number, at, u32::try_from(len).unwrap()).await.unwrap();
                    let from = usize::try_from(at).unwrap();
                    data[from..from + bytes.len()].copy_from_slice(&bytes);
                    at += len;
                }
            }
        }
    }
}

pub(crate) fn at(sequence: u64) -> Position {
    Position::from_parts(GenerationId(Uuid::from_u128(0x1ffe_b0a7)), sequence)
}

/// Stops a process and waits until it stands still: the signal takes effect when the process is next scheduled.
pub(crate) fn stop(pid: impl std::fmt::Display) {
    tool("kill", &["-STOP", &pid.to_string()]);
    let stat = format!("/proc/{pid}/stat");
    while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
        std::thread::yield_now();
    }
}

/// Lets a call go on `steps` times, then drops it, as a caller does that gives up; its result if it was over by then.
pub(crate) async fn given_up<F: Future>(steps: usize, call: F) -> Option<F::Output> {
    let mut call = std::pin::pin!(call);
    let mut left = steps;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        call.as_mut().poll(context).map(Some)
    })
    .await
}

/// Runs a program that must succeed and returns what it printed.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program).args(arguments).output().unwrap();
    assert!(
        out.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

/// A seeded generator; splitmix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}
