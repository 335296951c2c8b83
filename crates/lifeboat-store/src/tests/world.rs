//! A replica, the truth about it, and the tools to hold one against the other.

use std::collections::{BTreeMap, HashMap};
use std::process::{Command, Output};

use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::{Consistency, Encoder, Header, LogDisk, LogKind};
use lifeboat_engine::ports::ByteStream;
use lifeboat_engine::ports::hypervisor::{DiskImage, ImageLayer};
use lifeboat_engine::ports::store::{ImageStore, LogStore, Received, StoreError, Target};
use lifeboat_model::{BranchId, DiskId, GenerationId, PointId, Position, Timestamp, VmId};
use uuid::Uuid;

use crate::QcowStore;

/// Content of every disk.
pub(super) type Model = BTreeMap<DiskId, Vec<u8>>;

/// A small generator; the seed is all a failed test needs.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(super) fn uuid(&mut self) -> Uuid {
        Uuid::from_u64_pair(self.next(), self.next())
    }

    pub(super) fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

/// A replica under test.
pub(super) struct World {
    _tmp: tempfile::TempDir,
    pub(super) root: Utf8PathBuf,
    pub(super) vm: VmId,
    pub(super) store: QcowStore,
    pub(super) rng: Rng,
    /// Content after the newest durable log.
    pub(super) now: Model,
    pub(super) durable: Position,
    pub(super) start: Position,
    pub(super) at: HashMap<Position, Model>,
    /// Oldest first.
    pub(super) points: Vec<(PointId, Position)>,
    pub(super) branches: BTreeMap<BranchId, Model>,
    /// What an adoption keeps.
    pub(super) kept: Option<Model>,
}

pub(super) fn disk(name: &str) -> DiskId {
    DiskId::new(name).unwrap()
}

pub(super) fn body(pieces: Vec<std::io::Result<Bytes>>) -> ByteStream {
    Box::pin(futures_util::stream::iter(pieces))
}

/// Bytes in odd pieces.
pub(super) fn stream(bytes: &[u8]) -> ByteStream {
    body(
        bytes
            .chunks(70_001)
            .map(|c| Ok(Bytes::copy_from_slice(c)))
            .collect(),
    )
}

pub(super) fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).output().unwrap()
}

#[track_caller]
pub(crate) fn run_ok(program: &str, args: &[&str]) -> String {
    let out = run(program, args);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?}: {said}");
    String::from_utf8(out.stdout).unwrap()
}

impl World {
    /// An empty replica of two small disks in a directory of its own.
    pub(super) async fn new(seed: u64) -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(tmp.path().to_owned()).unwrap();
        Self::below(
            seed,
            tmp,
            root,
            0,
            &[("sys", 2 << 20), ("data-1", (1 << 20) + 512 * 3)],
        )
        .await
    }

    pub(super) async fn below(
        seed: u64,
        tmp: tempfile::TempDir,
        root: Utf8PathBuf,
        reserve_mib: u64,
        disks: &[(&str, usize)],
    ) -> Self {
        Self::kept_by(QcowStore::new(reserve_mib), seed, tmp, root, disks).await
    }

    /// The same with a store of the test's own.
    pub(super) async fn kept_by(
        store: QcowStore,
        seed: u64,
        tmp: tempfile::TempDir,
        root: Utf8PathBuf,
        disks: &[(&str, usize)],
    ) -> Self {
        println!("seed {seed}");
        let mut rng = Rng(seed);
        let vm = VmId(rng.uuid());
        let start = Position::start(GenerationId(rng.uuid()));
        let now: Model = disks.iter().map(|(n, s)| (disk(n), vec![0; *s])).collect();
        let world = Self {
            _tmp: tmp,
            store,
            at: HashMap::from([(start, now.clone())]),
            root,
            vm,
            rng,
            now,
            durable: start,
            start,
            points: Vec::new(),
            branches: BTreeMap::new(),
            kept: None,
        };
        let disks = world.disks();
        world
            .store
            .create(&world.root.clone().into(), vm, &disks, start)
            .await
            .unwrap();
        world
    }

    pub(super) fn dir(&self) -> Utf8PathBuf {
        self.root.join(self.vm.to_string())
    }

    pub(super) fn disks(&self) -> Vec<LogDisk> {
        let disk = |(id, data): (&DiskId, &Vec<u8>)| LogDisk {
            id: id.clone(),
            size: data.len() as u64,
        };
        self.now.iter().map(disk).collect()
    }

    /// As after a start of the daemon.
    pub(super) async fn reopen(&mut self) {
        self.store = QcowStore::new(0);
        self.store.open(&self.dir().into(), self.vm).await.unwrap();
    }

    pub(super) fn header(&self) -> Header {
        Header {
            vm: self.vm,
            kind: LogKind::Delta,
            position: self.durable.next(),
            parent: self.durable,
            instant: Timestamp(1_700_000_000_000 + self.durable.sequence() * 1000),
            consistency: Consistency::Crash,
            disks: self.disks(),
        }
    }

    /// Random changes as a log that continues `header.parent`, and the content after it.
    pub(super) fn log(&mut self, header: &Header) -> (Vec<u8>, Model) {
        let mut model = self.now.clone();
        let mut out = Vec::new();
        let mut encoder = Encoder::new(header, true, &mut out).unwrap();
        let count = self.rng.below(24);
        for _ in 0..count {
            let n = self.rng.below(header.disks.len() as u64);
            let target = &header.disks[usize::try_from(n).unwrap()];
            let data = model.get_mut(&target.id).unwrap();
            data.resize(usize::try_from(target.size).unwrap(), 0);
            let sectors = target.size / 512;
            let from = self.rng.below(sectors);
            let span = [1, 8, 32, 128, 700][usize::try_from(self.rng.below(5)).unwrap()];
            let len = (1 + self.rng.below(span)).min(sectors - from);
            let (from, len) = (from * 512, len * 512);
            let range = usize::try_from(from).unwrap()..usize::try_from(from + len).unwrap();
            let index = u16::try_from(n).unwrap();
            if self.rng.below(4) == 0 {
                if encoder.zero(index, from, len, &mut out).is_ok() {
                    data[range].fill(0);
                }
            } else {
                let mut bytes = vec![0; range.len()];
                self.rng.fill(&mut bytes);
                if encoder.data(index, from, &bytes, &mut out).is_ok() {
                    data[range].copy_from_slice(&bytes);
                }
            }
        }
        encoder.finish(&mut out);
        for disk in &header.disks {
            let size = usize::try_from(disk.size).unwrap();
            model.get_mut(&disk.id).unwrap().resize(size, 0);
        }
        (out, model)
    }

    pub(super) async fn send(&self, position: Position, bytes: &[u8]) -> Result<Received, StoreError> {
        self.store.receive(self.vm, position, 0, stream(bytes)).await
    }

    pub(super) fn landed(&mut self, position: Position, model: Model) {
        self.durable = position;
        self.at.insert(position, model.clone());
        self.now = model;
    }

    /// A random log arrives.
    pub(super) async fn receive(&mut self) {
        let header = self.header();
        let (bytes, model) = self.log(&header);
        let received = self.send(header.position, &bytes).await.unwrap();
        assert_eq!(received.durable, header.position);
        self.landed(header.position, model);
    }

    pub(super) async fn apply_all(&self) {
        while self.store.apply(self.vm).await.unwrap().is_some() {}
    }

    /// Applies everything and seals it.
    pub(super) async fn seal(&mut self) {
        self.apply_all().await;
        let id = PointId(self.rng.uuid());
        let point = self.store.seal(self.vm, id, None).await.unwrap();
        assert_eq!(point.position, self.durable);
        if point.id == id {
            self.points.push((id, self.durable));
        }
    }

    pub(super) async fn rounds(&mut self, n: usize) {
        for _ in 0..n {
            self.receive().await;
            self.seal().await;
        }
    }

    /// Bulk segments with random content on random places, the rest empty.
    pub(super) async fn bulk(&mut self) {
        for target in self.disks() {
            let mut done = 0;
            while done < target.size {
                let len = ((1 + self.rng.below(2048)) * 512).min(target.size - done);
                let mut bytes = vec![0; usize::try_from(len).unwrap()];
                if self.rng.below(3) > 0 {
                    self.rng.fill(&mut bytes);
                }
                let log = self.segment(&target, done, &bytes);
                let progress = self.store.bulk(self.vm, stream(&log)).await.unwrap();
                let from = usize::try_from(done).unwrap();
                let data = self.now.get_mut(&target.id).unwrap();
                data[from..from + bytes.len()].copy_from_slice(&bytes);
                done += len;
                assert_eq!((progress.disk, progress.done), (target.id.clone(), done));
            }
        }
        self.at.insert(self.start, self.now.clone());
    }

    /// Bulk segments that fill every disk.
    pub(super) async fn fill_disks(&mut self) {
        for target in self.disks() {
            for from in (0..target.size).step_by(1 << 20) {
                let bytes = vec![1; usize::try_from((1 << 20).min(target.size - from)).unwrap()];
                let log = self.segment(&target, from, &bytes);
                self.store.bulk(self.vm, stream(&log)).await.unwrap();
                let from = usize::try_from(from).unwrap();
                let data = self.now.get_mut(&target.id).unwrap();
                data[from..from + bytes.len()].copy_from_slice(&bytes);
            }
        }
        self.at.insert(self.start, self.now.clone());
    }

    pub(super) fn segment(&self, disk: &LogDisk, from: u64, bytes: &[u8]) -> Vec<u8> {
        let mut header = self.header();
        header.kind = LogKind::Bulk;
        header.position = self.start;
        header.parent = self.start;
        header.disks = vec![disk.clone()];
        let mut log = Vec::new();
        let mut encoder = Encoder::new(&header, true, &mut log).unwrap();
        encoder.data(0, from, bytes, &mut log).unwrap();
        encoder.finish(&mut log);
        log
    }

    pub(super) async fn branch(&mut self, target: Target) -> Result<BranchId, StoreError> {
        let id = BranchId(self.rng.uuid());
        self.branch_as(id, target).await.map(|()| id)
    }

    pub(super) async fn branch_as(&mut self, id: BranchId, target: Target) -> Result<(), StoreError> {
        let images = self.store.branch(self.vm, id, target, None).await?;
        let model = match target {
            Target::Point { id } => self.at[&self.points.iter().find(|p| p.0 == id).unwrap().1].clone(),
            Target::Cycle { position } => self.at[&position].clone(),
            Target::Abandoned => self.kept.clone().unwrap(),
        };
        assert_eq!(images, self.store.branch_images(self.vm, id).await.unwrap());
        self.branches.insert(id, model);
        Ok(())
    }

    pub(super) async fn file_names(&self, branch: BranchId) -> BTreeMap<DiskId, String> {
        let images = self.store.branch_images(self.vm, branch).await.unwrap();
        let name = |(id, image)| match image {
            DiskImage::Chain { layers } => (id, writable(&layers)),
            DiskImage::Plain { .. } => panic!("a branch is a chain"),
        };
        images.into_iter().map(name).collect()
    }

    /// A guest writes to a branch, through QEMU.
    pub(super) async fn write(&mut self, branch: BranchId) {
        for (id, name) in self.file_names(branch).await {
            let data = self.branches.get_mut(&branch).unwrap().get_mut(&id).unwrap();
            let sectors = data.len() as u64 / 512;
            let from = self.rng.below(sectors);
            let len = (1 + self.rng.below(40)).min(sectors - from);
            let pattern = u8::try_from(self.rng.below(256)).unwrap();
            let command = format!("write -P {pattern} {} {}", from * 512, len * 512);
            run_ok("qemu-io", &["-c", &command, &name]);
            let (from, len) = (
                usize::try_from(from * 512).unwrap(),
                usize::try_from(len * 512).unwrap(),
            );
            data[from..from + len].fill(pattern);
        }
    }

    /// Compares every point and branch with the truth, and checks every image.
    pub(super) async fn check(&self) {
        let info = self.store.info(self.vm).await.unwrap();
        let points: Vec<_> = info.points.iter().map(|p| (p.id, p.position)).collect();
        assert_eq!(points, self.points);
        assert_eq!(info.durable, self.durable);
        for (id, position) in &self.points {
            self.check_point(*id, &self.at[position]);
        }
        let branches: Vec<_> = self.branches.keys().copied().collect();
        let mut listed = info.branches.clone();
        listed.sort();
        assert_eq!(listed, branches);
        for (id, model) in &self.branches {
            for (disk, name) in self.file_names(*id).await {
                self.compare(&name, &model[&disk]);
                // And as a person would: through the names inside the image.
                let file = self.dir().join(format!("branches/{id}/{disk}.qcow2"));
                self.compare(file.as_str(), &model[&disk]);
            }
        }
        assert_eq!(info.abandoned.is_some(), self.kept.is_some());
        // What is sound must not be refused when it is needed.
        for (id, _) in &self.points {
            let target = Target::Point { id: *id };
            self.store.verify_target(self.vm, target).await.unwrap();
        }
        for id in self.branches.keys() {
            self.store.verify_branch(self.vm, *id).await.unwrap();
        }
        if self.kept.is_some() {
            self.store
                .verify_target(self.vm, Target::Abandoned)
                .await
                .unwrap();
        }
        check_images(&self.root);
    }

    /// The files of a point, from the manifest as anybody can read it.
    pub(super) fn point_files(&self, id: PointId) -> BTreeMap<DiskId, Utf8PathBuf> {
        let text = std::fs::read_to_string(self.dir().join("manifest.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
        let points = manifest["points"].as_array().unwrap();
        let point = points.iter().find(|p| p["id"] == id.to_string()).unwrap();
        let layers = point["layers"].as_array().unwrap().iter();
        let file = |l: &serde_json::Value| {
            let file = self.dir().join(l["file"].as_str().unwrap());
            (disk(l["disk"].as_str().unwrap()), file)
        };
        layers.map(file).collect()
    }

    #[track_caller]
    pub(super) fn check_point(&self, id: PointId, model: &Model) {
        let files = self.point_files(id);
        assert_eq!(files.keys().collect::<Vec<_>>(), model.keys().collect::<Vec<_>>());
        for (disk, file) in files {
            self.compare(file.as_str(), &model[&disk]);
        }
    }

    #[track_caller]
    pub(super) fn compare(&self, image: &str, model: &[u8]) {
        let truth = self.root.join(format!("truth-{:?}", std::thread::current().id()));
        std::fs::write(&truth, model).unwrap();
        // `info` opens only the image itself and cannot take the options of those below.
        if !image.starts_with("json:") {
            let info = run_ok("qemu-img", &["info", "-U", "--output=json", image]);
            let info: serde_json::Value = serde_json::from_str(&info).unwrap();
            assert_eq!(info["virtual-size"], model.len() as u64, "{image}");
        }
        let truth = format!(r#"json:{{"driver":"raw","file":{{"driver":"file","filename":"{truth}"}}}}"#);
        let out = run("qemu-img", &["compare", "-U", &truth, image]);
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(
            out.status.success(),
            "{image}: {said}{}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
}

/// `qemu-img check` on every image below `dir`.
#[track_caller]
pub(super) fn check_images(dir: &Utf8Path) {
    for entry in dir.read_dir_utf8().unwrap() {
        let path = entry.unwrap().into_path();
        if path.is_dir() {
            check_images(&path);
        } else if path.extension() == Some("qcow2") {
            run_ok("qemu-img", &["check", "-q", "-U", "-f", "qcow2", path.as_str()]);
        }
    }
}

/// How qemu-img opens a chain with its last image writable, whatever the images name themselves.
fn writable(layers: &[ImageLayer]) -> String {
    let mut node = serde_json::Value::Null;
    for (n, layer) in layers.iter().enumerate() {
        let (driver, top) = (layer.format, n + 1 == layers.len());
        let below = std::mem::take(&mut node);
        node = serde_json::json!({
            "driver": driver, "file": {"driver": "file", "filename": layer.file},
        });
        if !top {
            node["read-only"] = true.into();
        }
        if n > 0 {
            node["backing"] = below;
        }
    }
    format!("json:{node}")
}
