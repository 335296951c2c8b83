//! What sealing an export costs: the same log is written to a medium and imported from it, sealed as the product does it,
//! and, as a control in turn with that, in the clear with a BLAKE3 digest, which is how exports were before they were
//! sealed. The log comes from memory and the medium is a directory that the kernel has in its cache, so that the cipher
//! shows as much as it can; a real export also reads a guest's disk, and a real medium is slower.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::time::Instant;

use anyhow::{Result, ensure};
use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::{Consistency, Encoder, Header, LogDisk, LogKind};
use lifeboat_engine::ports::ByteStream;
use lifeboat_engine::ports::media::{Media, Part as Piece, Seal};
use lifeboat_engine::ports::store::ImageStore;
use lifeboat_engine::sealing::{ExportKey, KEY, Sealing};
use lifeboat_model::{DiskId, GenerationId, Position, Timestamp, VmId};
use lifeboat_store::{FileMedia, QcowStore};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::Bench;
use crate::report::{Line, Part, Verdict};
use crate::stats::{Rng, Samples};

/// What the engine hands on at once, and what earlier versions read at once.
const PIECE: usize = 256 << 10;

/// Seconds of one way.
#[derive(Default)]
struct Way {
    export: Samples,
    check: Samples,
    import: Samples,
}

struct Log {
    vm: VmId,
    start: Position,
    disk: LogDisk,
    bytes: Bytes,
}

impl Log {
    /// One segment of a disk of this size, of content that does not compress.
    fn new(size: u64) -> Result<Self> {
        let (vm, generation) = (VmId(Uuid::from_u128(1)), GenerationId(Uuid::from_u128(2)));
        let start = Position::start(generation);
        let disk = LogDisk {
            id: DiskId::new("sys")?,
            size,
        };
        let header = Header {
            vm,
            kind: LogKind::Bulk,
            position: start,
            parent: start,
            instant: Timestamp(0),
            consistency: Consistency::Crash,
            disks: vec![disk.clone()],
        };
        let (mut log, mut rng, mut data) = (Vec::new(), Rng(7), vec![0; 1 << 20]);
        let mut encoder = Encoder::new(&header, false, &mut log)?;
        for at in (0..size).step_by(data.len()) {
            rng.fill(&mut data);
            encoder.data(0, at, &data, &mut log)?;
        }
        encoder.finish(&mut log);
        Ok(Self {
            vm,
            start,
            disk,
            bytes: log.into(),
        })
    }

    fn body(&self) -> ByteStream {
        let whole = self.bytes.clone();
        let pieces = (0..whole.len()).step_by(PIECE);
        let cut: Vec<_> = pieces
            .map(|at| Ok(whole.slice(at..(at + PIECE).min(whole.len()))))
            .collect();
        Box::pin(futures_util::stream::iter(cut))
    }
}

/// A file in the clear: written and digested at once, then durable.
fn put(path: &Utf8Path, log: &Bytes) -> io::Result<()> {
    let (mut file, mut hash) = (File::create(path)?, blake3::Hasher::new());
    for piece in log.chunks(PIECE) {
        file.write_all(piece)?;
        hash.update(piece);
    }
    file.sync_all()?;
    std::hint::black_box(hash.finalize());
    Ok(())
}

fn check(path: &Utf8Path) -> io::Result<()> {
    let (mut file, mut hash, mut buffer) = (File::open(path)?, blake3::Hasher::new(), vec![0; PIECE]);
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            std::hint::black_box(hash.finalize());
            return Ok(());
        }
        hash.update(buffer.get(..n).unwrap_or_default());
    }
}

/// The content of a file in the clear.
fn read(path: &Utf8Path) -> io::Result<ByteStream> {
    let mut file = File::open(path)?;
    let (to, from) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut piece = vec![0; PIECE];
            let read = match file.read(&mut piece) {
                Ok(0) => return,
                Ok(n) => {
                    piece.truncate(n);
                    Ok(Bytes::from(piece))
                }
                Err(e) => Err(e),
            };
            if to.blocking_send(read).is_err() {
                return;
            }
        }
    });
    Ok(Box::pin(futures_util::stream::unfold(from, |mut from| async {
        from.recv().await.map(|piece| (piece, from))
    })))
}

/// Imports into a replica made for it; the seconds of that.
async fn import(store: &QcowStore, root: &Utf8Path, log: &Log, body: ByteStream) -> Result<f64> {
    let disks = [log.disk.clone()];
    store.create(&root.into(), log.vm, &disks, log.start).await?;
    let begun = Instant::now();
    let progress = store.import(log.vm, body).await?;
    let took = begun.elapsed().as_secs_f64();
    ensure!(progress.done == log.disk.size, "the log was not imported whole");
    store.destroy(log.vm).await?;
    Ok(took)
}

async fn sealed(way: &mut Way, store: &QcowStore, root: &Utf8Path, log: &Log, n: u8) -> Result<()> {
    let dir = root.join(format!("sealed{n}"));
    let seal = Seal {
        vm: log.vm,
        sealing: Sealing {
            export: Uuid::from_u128(n.into()),
            key: ExportKey::new([n; KEY]),
        },
    };
    FileMedia.begin(&dir, &seal).await?;
    let begun = Instant::now();
    let part = Piece { disk: 0, number: 0 };
    let file = FileMedia.put(&dir, &seal, part, log.body()).await?;
    way.export.add(begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    FileMedia.check(&dir, &seal, &file).await?;
    way.check.add(begun.elapsed().as_secs_f64());
    let body = FileMedia.read(&dir, &seal, &file).await?;
    way.import.add(import(store, root, log, body).await?);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

async fn clear(way: &mut Way, store: &QcowStore, root: &Utf8Path, log: &Log) -> Result<()> {
    let path = root.join("clear");
    let (to, bytes) = (path.clone(), log.bytes.clone());
    let begun = Instant::now();
    tokio::task::spawn_blocking(move || put(&to, &bytes)).await??;
    way.export.add(begun.elapsed().as_secs_f64());
    let from = path.clone();
    let begun = Instant::now();
    tokio::task::spawn_blocking(move || check(&from)).await??;
    way.check.add(begun.elapsed().as_secs_f64());
    way.import.add(import(store, root, log, read(&path)?).await?);
    std::fs::remove_file(&path)?;
    Ok(())
}

pub(crate) fn measure(bench: &Bench) -> Result<Part> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let (mib, runs) = bench.pick((256, 7), (1024, 15));
    let root = Utf8PathBuf::from_path_buf(bench.root.join("media"))
        .map_err(|p| anyhow::anyhow!("{} is not UTF-8", p.display()))?;
    std::fs::create_dir_all(&root)?;
    let log = Log::new(mib << 20)?;
    let (mut with, mut without) = (Way::default(), Way::default());
    let store = QcowStore::new(0);
    runtime.block_on(async {
        for n in 0..=runs {
            let (mut cold, mut bare) = (Way::default(), Way::default());
            // The first pair warms up and does not count.
            let (with, without) = match n {
                0 => (&mut cold, &mut bare),
                _ => (&mut with, &mut without),
            };
            sealed(with, &store, &root, &log, n).await?;
            clear(without, &store, &root, &log).await?;
        }
        anyhow::Ok(())
    })?;
    Ok(part(mib, &with, &without))
}

fn part(mib: u64, with: &Way, without: &Way) -> Part {
    let rate = |s: &Samples| f64::from(u32::try_from(mib).unwrap_or(u32::MAX)) / s.median();
    let mut table = format!(
        "A log of {mib} MiB that does not compress, from memory to a medium's directory in the kernel's cache, and from there into a replica. Medians of {} runs of each, in turn; MiB/s. In the clear is how exports were before they were sealed: a BLAKE3 digest of each file.\n\n| | export | check | import |\n|---|---|---|---|\n",
        with.export.len()
    );
    for (name, way) in [("sealed, AES-256-GCM", with), ("in the clear, BLAKE3", without)] {
        let _ = writeln!(
            table,
            "| {name} | {:.0} | {:.0} | {:.0} |",
            rate(&way.export),
            rate(&way.check),
            rate(&way.import)
        );
    }
    let both = |w: &Way| w.check.median() + w.import.median();
    let export = without.export.median() / with.export.median();
    let import = both(without) / both(with);
    Part {
        lines: vec![Line {
            what: "export to and import from a medium, encrypted and authenticated",
            budget: "small",
            measured: format!("export {export:.2} × the speed in the clear, import {import:.2} ×"),
            verdict: Verdict::Open,
            why: "the control has a digest instead of a cipher; import is the check of the whole medium and then taking it in"
                .into(),
        }],
        details: vec![("Initial copies on media", table)],
    }
}
