//! Disk work of InitiateFailover and RevertFailover: the store's `branch` and `drop_branch` on real chains, with what a
//! guest would have written put in by qemu-io.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::{Consistency, Encoder, Header, LogDisk, LogKind};
use lifeboat_engine::ports::hypervisor::DiskImage;
use lifeboat_engine::ports::store::{ImageStore, LogStore, Target};
use lifeboat_model::{BranchId, DiskId, GenerationId, PointId, Position, Timestamp, VmId};
use lifeboat_store::QcowStore;
use uuid::Uuid;

use crate::Bench;
use crate::process::{output, wait};
use crate::report::{Line, Part, Verdict};
use crate::stats::{Rng, Samples};

/// Times of one combination, in milliseconds.
struct Cell {
    size: u64,
    points: usize,
    written_mib: u64,
    branch: Samples,
    drop: Samples,
}

/// A replica made by the store.
pub(super) struct Replica {
    pub(super) store: QcowStore,
    pub(super) vm: VmId,
    disk: LogDisk,
    pub(super) dir: Utf8PathBuf,
    pub(super) at: Position,
    pub(super) points: Vec<PointId>,
    rng: Rng,
}

pub(crate) fn measure(bench: &Bench) -> Result<Part> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let depths: &[usize] = bench.pick(&[1, 24, 40], &[1, 8, 24, 40]);
    let sizes: &[u64] = bench.pick(&[1 << 30, 1 << 40], &[1 << 30, 1 << 35, 1 << 40]);
    // Written since, and how often.
    let written: [(u64, usize); 3] =
        bench.pick([(0, 12), (256, 5), (1024, 2)], [(0, 60), (256, 20), (1024, 8)]);
    let mut cells = Vec::new();
    for &size in sizes {
        let root = Utf8PathBuf::from_path_buf(bench.root.join(format!("s{size}")))
            .map_err(|p| anyhow::anyhow!("{} is not UTF-8", p.display()))?;
        std::fs::create_dir_all(&root)?;
        runtime.block_on(async {
            let mut replica = Replica::new(&root, size).await?;
            for &depth in depths {
                while replica.points.len() < depth {
                    replica.add_point().await?;
                }
                for (mib, times) in written {
                    eprintln!("{} GiB, {depth} points, {mib} MiB written", size >> 30);
                    cells.push(replica.cell(depth, mib, times).await?);
                }
            }
            replica
                .store
                .destroy(replica.vm)
                .await
                .map_err(anyhow::Error::from)
        })?;
    }
    Ok(part(&cells))
}

impl Replica {
    pub(super) async fn new(root: &Utf8Path, size: u64) -> Result<Self> {
        let mut rng = Rng(size);
        let vm = VmId(Uuid::from_u64_pair(rng.next(), rng.next()));
        let at = Position::start(GenerationId(Uuid::from_u64_pair(rng.next(), rng.next())));
        let disk = LogDisk {
            id: DiskId::new("sys")?,
            size,
        };
        let store = QcowStore::new(1024);
        store
            .create(&root.into(), vm, std::slice::from_ref(&disk), at)
            .await?;
        Ok(Self {
            store,
            vm,
            disk,
            dir: root.join(vm.to_string()),
            at,
            points: Vec::new(),
            rng,
        })
    }

    fn uuid(&mut self) -> Uuid {
        Uuid::from_u64_pair(self.rng.next(), self.rng.next())
    }

    /// A cycle of 64 writes of 16 KiB all over the disk, sealed.
    pub(super) async fn add_point(&mut self) -> Result<()> {
        let position = self.at.next();
        let header = Header {
            vm: self.vm,
            kind: LogKind::Delta,
            position,
            parent: self.at,
            instant: Timestamp(position.sequence() * 1000),
            consistency: Consistency::Crash,
            disks: vec![self.disk.clone()],
        };
        let (mut log, mut data) = (Vec::new(), vec![0; 16 << 10]);
        let mut encoder = Encoder::new(&header, true, &mut log)?;
        let stride = self.disk.size / 64;
        for n in 0..64 {
            self.rng.fill(&mut data);
            let slots = stride / data.len() as u64;
            let at = n * stride + (self.rng.next() % slots) * data.len() as u64;
            encoder.data(0, at, &data, &mut log)?;
        }
        encoder.finish(&mut log);
        let body = Box::pin(futures_util::stream::iter([Ok(Bytes::from(log))]));
        self.store.receive(self.vm, position, 0, body).await?;
        self.store.apply(self.vm).await?;
        let id = PointId(self.uuid());
        self.store.seal(self.vm, id, None).await?;
        self.at = position;
        self.points.push(id);
        Ok(())
    }

    /// Brings up and throws away branches on the oldest, the newest and the points between in turn.
    async fn cell(&mut self, points: usize, written_mib: u64, times: usize) -> Result<Cell> {
        let (mut branch, mut drop) = (Samples::default(), Samples::default());
        for n in 0..times {
            let id = BranchId(self.uuid());
            let steps = times.saturating_sub(1).max(1);
            let on = (self.points.len() - 1) * n / steps;
            let point = *self.points.get(on).context("there is a point")?;
            let start = Instant::now();
            let images = self
                .store
                .branch(self.vm, id, Target::Point { id: point }, None)
                .await?;
            branch.add(millis(start));
            write(&images, self.disk.size, written_mib)?;
            let start = Instant::now();
            self.store.drop_branch(self.vm, id).await?;
            drop.add(millis(start));
            // The next round must not pay for this one's files.
            let gone = self.dir.join(format!("branches/{id}.gone"));
            let pause = Duration::from_millis(5);
            wait("the files to go", Duration::from_secs(60), pause, || {
                Ok((!gone.exists()).then_some(()))
            })?;
        }
        Ok(Cell {
            size: self.disk.size,
            points,
            written_mib,
            branch,
            drop,
        })
    }
}

fn millis(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}

/// Writes 8 MiB pieces spread over the disk, as a guest would through QEMU.
fn write(images: &[(DiskId, DiskImage)], size: u64, mib: u64) -> Result<()> {
    let pieces = mib / 8;
    let Some((_, DiskImage::Chain { layers })) = images.first() else {
        anyhow::bail!("a branch is a chain");
    };
    let file = layers.last().map(|layer| layer.file.as_str());
    let file = file.context("the branch has an image")?;
    let commands: Vec<String> = (0..pieces)
        .map(|n| format!("write -q -P {} {}M 8M", n % 255 + 1, n * ((size >> 20) / pieces)))
        .collect();
    let mut args = vec!["-f", "qcow2"];
    for command in &commands {
        args.extend_from_slice(&["-c", command]);
    }
    args.push(file);
    if pieces > 0 {
        output("qemu-io", &args)?;
    }
    Ok(())
}

fn part(cells: &[Cell]) -> Part {
    let pool = |of: fn(&Cell) -> &Samples, which: &dyn Fn(&Cell) -> bool| {
        let mut all = Samples::default();
        cells.iter().filter(|c| which(c)).for_each(|c| all.extend(of(c)));
        all
    };
    let largest = cells.iter().map(|c| c.size).max().unwrap_or_default();
    let line = |what, budget, limit: f64, of: fn(&Cell) -> &Samples| {
        let all = pool(of, &|_| true);
        let of_size = |large: bool| pool(of, &|c: &Cell| (c.size == largest) == large).median();
        let of_written = |mib: u64| pool(of, &|c: &Cell| c.written_mib == mib).median();
        Line {
            what,
            budget,
            measured: format!(
                "p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms ({} runs)",
                all.median(),
                all.percentile(99),
                all.max(),
                all.len()
            ),
            verdict: Verdict::of(all.percentile(99) <= limit),
            why: format!(
                "largest disk to smaller ones {:.2} ×; 1 GiB written to nothing written {:.2} ×",
                of_size(true) / of_size(false),
                of_written(1024) / of_written(0)
            ),
        }
    };
    let lines = vec![
        line(
            "RevertFailover, disk work",
            "≤ 100 ms at p99, any size, points, amount written",
            100.0,
            |c| &c.drop,
        ),
        line(
            "InitiateFailover to a bootable disk, sealed point",
            "≤ 200 ms at p99, same ranges",
            200.0,
            |c| &c.branch,
        ),
    ];
    let mut table = String::from(
        "One disk. A branch on the oldest, newest and points between in turn; milliseconds.\n\n| disk | points | written since | branch p50 | max | drop p50 | max |\n|---|---|---|---|---|---|---|\n",
    );
    for c in cells {
        let _ = writeln!(
            table,
            "| {} GiB | {} | {} MiB | {:.1} | {:.1} | {:.1} | {:.1} |",
            c.size >> 30,
            c.points,
            c.written_mib,
            c.branch.median(),
            c.branch.max(),
            c.drop.median(),
            c.drop.max()
        );
    }
    Part {
        lines,
        details: vec![("Failover and revert by size, points and amount written", table)],
    }
}
