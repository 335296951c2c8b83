//! The initial copy of a running VM's disk through two daemons, against `nbdcopy` of the same image to a file. Which
//! part of the work takes the time is told by each process's processor time and by the log's codec alone.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lifeboat_deltalog::{Consistency, Decoder, Encoder, Header, LogDisk, LogKind};
use lifeboat_model::{DiskId, GenerationId, Position, Timestamp, VmId};
use uuid::Uuid;

use crate::Bench;
use crate::process::{Kept, cpu_seconds, emulator, memory_mib, output, wait};
use crate::report::{Line, Part, Verdict};
use crate::stats::{Rng, Samples};
use crate::world::{Vm, World};

const MIB: usize = 1 << 20;

/// What one copy took, in seconds and MiB.
#[derive(Default)]
struct Copies {
    time: Samples,
    /// Of it, until the bulk copy was durable on the replica; then comes the first cycle.
    bulk: Samples,
    cpu_primary: Samples,
    cpu_replica: Samples,
    cpu_emulator: Samples,
    growth_primary: Samples,
    growth_replica: Samples,
}

pub(crate) fn measure(bench: &Bench) -> Result<Part> {
    let mib = bench.pick(1024, 4096);
    let image = make_image(&bench.root, mib)?;
    let (mut plain, mut flushed) = (Samples::default(), Samples::default());
    let (mut with, mut without) = (Copies::default(), Copies::default());
    for n in 0..bench.pick(3, 7) {
        eprintln!("copy {}", n + 1);
        plain.add(nbdcopy(&bench.root, &image, &[])?);
        with.add(bench, &image, &[])?;
        flushed.add(nbdcopy(&bench.root, &image, &["--flush"])?);
        without.add(bench, &image, &["--no-compression"])?;
    }
    let codec = codec()?;
    Ok(part(mib, &plain, &flushed, &with, &without, &codec))
}

/// Data in pieces of 1 MiB, every other of which compresses (about 3 : 1).
fn mixed(n: usize, rng: &mut Rng, piece: &mut [u8]) {
    rng.fill(piece);
    if n.is_multiple_of(2) {
        for line in piece.chunks_mut(64) {
            for (to, from) in line
                .iter_mut()
                .skip(16)
                .zip(b"a line of a log file that says the same as the others\n")
            {
                *to = *from;
            }
        }
    }
}

fn make_image(root: &Path, mib: usize) -> Result<PathBuf> {
    let (raw, image) = (root.join("copy.raw"), root.join("copy.qcow2"));
    let mut file = File::create(&raw)?;
    let (mut rng, mut piece) = (Rng(7), vec![0; MIB]);
    for n in 0..mib {
        mixed(n, &mut rng, &mut piece);
        file.write_all(&piece)?;
    }
    let (from, to) = (raw.to_string_lossy(), image.to_string_lossy());
    output("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &from, &to])?;
    std::fs::remove_file(&raw)?;
    Ok(image)
}

/// Nothing written before may be paid for by what is measured next.
fn settle(root: &Path) -> Result<()> {
    output("sync", &["-f", &root.to_string_lossy()]).map(drop)
}

/// Seconds `nbdcopy` takes from an export of the image to a file.
fn nbdcopy(root: &Path, image: &Path, options: &[&str]) -> Result<f64> {
    let (socket, to) = (root.join("nbd.sock"), root.join("nbdcopy.raw"));
    let mut server = Command::new("qemu-nbd");
    server.args(["-r", "-f", "qcow2", "--shared=8", "-t", "-k"]);
    let _server = Kept::spawn(server.arg(&socket).arg(image))?;
    let pause = Duration::from_millis(5);
    wait("qemu-nbd", Duration::from_secs(20), pause, || {
        Ok(socket.exists().then_some(()))
    })?;
    settle(root)?;
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let to_text = to.to_string_lossy();
    let mut args = options.to_vec();
    args.extend_from_slice(&[&uri, &to_text]);
    let start = Instant::now();
    output("nbdcopy", &args)?;
    let took = start.elapsed().as_secs_f64();
    std::fs::remove_file(&to)?;
    let _ = std::fs::remove_file(&socket);
    Ok(took)
}

impl Copies {
    /// One copy between fresh hosts: from the order to start until the VM replicates, first cycle included.
    fn add(&mut self, bench: &Bench, image: &Path, options: &[&str]) -> Result<()> {
        let vm = Vm::new("copied", 64, vec![("sys", image.to_owned())]);
        let world = World::start(bench, std::slice::from_ref(&vm))?;
        world.a.ok(&["vm", "start", &vm.name])?;
        let peer = world.peer();
        let mut enable = vec![
            "replication",
            "enable",
            &vm.name,
            "--to",
            &peer,
            "--interval",
            "15m",
        ];
        enable.extend_from_slice(options);
        world.a.ok(&enable)?;
        let emulator = emulator(&world.run_dir(&vm)).context("the VM runs")?;
        let (a, b) = (world.a.pid()?, world.b.pid()?);
        settle(&bench.root)?;
        let pids = [a, b, emulator];
        let cpu = pids.map(cpu_seconds);
        let memory = [memory_mib(a, "VmRSS")?, memory_mib(b, "VmRSS")?];
        let start = Instant::now();
        world.a.ok(&["replication", "start", &vm.name, "--detach"])?;
        // Asking costs processor time that the copy lacks, so it is done rarely.
        let (limit, pause) = (Duration::from_secs(600), Duration::from_millis(40));
        let mut bulk = 0.0;
        wait("the copy", limit, pause, || {
            let now = world.b.replication(&vm.name)?;
            let number = |path| now.pointer(path).and_then(serde_json::Value::as_u64);
            if number("/bulk/0/progress/done") < number("/bulk/0/size") {
                bulk = start.elapsed().as_secs_f64();
            }
            Ok((now.get("state").is_some_and(|s| s == "Replicating")).then_some(()))
        })?;
        world.a.wait_state(&vm.name, "Replicating")?;
        self.time.add(start.elapsed().as_secs_f64());
        self.bulk.add(bulk);
        let used = [
            &mut self.cpu_primary,
            &mut self.cpu_replica,
            &mut self.cpu_emulator,
        ];
        for ((samples, pid), before) in used.into_iter().zip(pids).zip(cpu) {
            samples.add(cpu_seconds(pid)? - before?);
        }
        self.growth_primary.add(memory_mib(a, "VmHWM")? - memory[0]);
        self.growth_replica.add(memory_mib(b, "VmHWM")? - memory[1]);
        Ok(())
    }
}

/// MiB a second, one thread: (what, with zstd, without).
fn codec() -> Result<Vec<(&'static str, f64, f64)>> {
    const PIECES: usize = 128;
    let (mut rng, mut content) = (Rng(7), vec![0; PIECES * MIB]);
    for (n, piece) in content.chunks_mut(MIB).enumerate() {
        mixed(n, &mut rng, piece);
    }
    let position = |sequence| Position::from_parts(GenerationId(Uuid::from_u128(1)), sequence);
    let header = Header {
        vm: VmId(Uuid::from_u128(2)),
        kind: LogKind::Bulk,
        position: position(0),
        parent: position(0),
        instant: Timestamp(0),
        consistency: Consistency::Crash,
        disks: vec![LogDisk {
            id: DiskId::new("sys")?,
            size: content.len() as u64,
        }],
    };
    let mut rates = [[0.0; 2]; 2];
    for (n, compress) in [true, false].into_iter().enumerate() {
        let mut log = Vec::with_capacity(content.len() + MIB);
        let start = Instant::now();
        let mut encoder = Encoder::new(&header, compress, &mut log)?;
        for (at, piece) in content.chunks(MIB).enumerate() {
            encoder.data(0, (at * MIB) as u64, piece, &mut log)?;
        }
        encoder.finish(&mut log);
        let written = start.elapsed();
        let start = Instant::now();
        let mut decoder = Decoder::new();
        for piece in log.chunks(256 << 10) {
            decoder.push(piece);
            while decoder.next()?.is_some() {}
        }
        decoder.finish()?;
        for (row, time) in rates.iter_mut().zip([written, start.elapsed()]) {
            if let Some(rate) = row.get_mut(n) {
                *rate = 128.0 / time.as_secs_f64();
            }
        }
    }
    let [write, read] = rates;
    Ok(vec![
        ("write a log", write[0], write[1]),
        ("read and verify it", read[0], read[1]),
    ])
}

fn part(
    mib: usize,
    plain: &Samples,
    flushed: &Samples,
    with: &Copies,
    without: &Copies,
    codec: &[(&'static str, f64, f64)],
) -> Part {
    // How fast compared with the peer: the peer's time by ours.
    let ratio = plain.median() / with.time.median();
    let durable = flushed.median() / with.time.median();
    let cpu = with.cpu_primary.median() + with.cpu_replica.median();
    let rate = |s: &Samples| f64::from(u32::try_from(mib).unwrap_or(u32::MAX)) / s.median();
    let mut table = format!(
        "A running VM's qcow2 disk, {mib} MiB, every other MiB compressible; from `replication start` to Replicating, first cycle included. Medians of {} runs of each, in turn. Processor seconds of the primary's daemon, of the replica's and of QEMU.\n\n| | MiB/s | bulk copy | first cycle | primary | replica | QEMU |\n|---|---|---|---|---|---|---|\n| nbdcopy | {:.0} | | | | | |\n| nbdcopy --flush | {:.0} | | | | | |\n",
        with.time.len(),
        rate(plain),
        rate(flushed)
    );
    for (name, c) in [("Lifeboat", with), ("Lifeboat --no-compression", without)] {
        let _ = writeln!(
            table,
            "| {name} | {:.0} | {:.2} s | {:.2} s | {:.2} s | {:.2} s | {:.2} s |",
            rate(&c.time),
            c.bulk.median(),
            c.time.median() - c.bulk.median(),
            c.cpu_primary.median(),
            c.cpu_replica.median(),
            c.cpu_emulator.median()
        );
    }
    table.push_str(
        "\nThe delta log alone, one thread, same data, MiB/s:\n\n| | zstd | stored |\n|---|---|---|\n",
    );
    for (what, zstd, stored) in codec {
        let _ = writeln!(table, "| {what} | {zstd:.0} | {stored:.0} |");
    }
    let growth = with.growth_primary.max().max(with.growth_replica.max());
    let lines = vec![
        Line {
            what: "initial copy, TLS + CRC + zstd",
            budget: "≥ 0.9 × plain nbdcopy from the same export to a file",
            measured: format!("{ratio:.2} × nbdcopy; {durable:.2} × nbdcopy --flush"),
            verdict: Verdict::of(ratio >= 0.9),
            why: format!(
                "{:.2} × without compression; the daemons use {cpu:.1} s of processor for the {:.1} s, both hosts and the VM on the same cores, nbdcopy neither encrypts nor checks nor syncs",
                plain.median() / without.time.median(),
                with.time.median()
            ),
        },
        Line {
            what: "daemon memory, per transfer in flight",
            budget: "≤ 16 MiB",
            measured: format!(
                "{:.1} MiB primary, {:.1} MiB replica",
                with.growth_primary.max(),
                with.growth_replica.max()
            ),
            verdict: Verdict::of(growth <= 16.0),
            why: "largest resident size during the copy less the one before; the largest of all runs".into(),
        },
    ];
    Part {
        lines,
        details: vec![("Initial copy", table)],
    }
}
