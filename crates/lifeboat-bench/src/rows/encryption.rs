//! What encryption at rest costs: a file is written, made durable and read back from the medium in an encrypted directory and, in
//! turn with that, in a plain one of the same ext4 file system on a loop device. The kernel does the work where it likes, in the
//! process that flushes or in its own threads, so processor time is the whole machine's and only true where nothing else runs.

use std::fmt::Write as _;
use std::fs::{File, read_to_string};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use lifeboat_kernel::{AtRest, MasterKey};
use rustix::fs::{Advice, fadvise};

use crate::Bench;
use crate::process::output;
use crate::report::{Line, Part, Verdict};
use crate::stats::{Rng, Samples};

/// What is written and read at once.
const PIECE: usize = 1 << 20;

/// Seconds, and processor seconds of the machine, of one kind of directory.
#[derive(Default)]
struct Way {
    write: (Samples, Samples),
    read: (Samples, Samples),
}

/// Processor seconds that the machine has worked so far.
fn busy() -> Result<f64> {
    let text = read_to_string("/proc/stat")?;
    let first = text.lines().next().unwrap_or_default();
    // user, nice, system, idle, iowait, irq, softirq: in hundredths.
    let all: Vec<f64> = first
        .split_whitespace()
        .skip(1)
        .filter_map(|n| n.parse().ok())
        .collect();
    ensure!(all.len() > 6, "/proc/stat is not understood: {first}");
    Ok((all[0] + all[1] + all[2] + all[5] + all[6]) / 100.0)
}

/// Does something, and adds how long it took and how long processors worked.
fn timed((time, work): &mut (Samples, Samples), what: impl FnOnce() -> Result<()>) -> Result<()> {
    let (begun, before) = (Instant::now(), busy()?);
    what()?;
    time.add(begun.elapsed().as_secs_f64());
    work.add(busy()? - before);
    Ok(())
}

/// A file of `mib` MiB, written and flushed, then read from the medium and not from the cache.
fn round(way: &mut Way, dir: &Path, mib: usize, data: &[u8]) -> Result<()> {
    let path = dir.join("file");
    timed(&mut way.write, || {
        let mut file = File::create(&path)?;
        for _ in 0..mib {
            file.write_all(data)?;
        }
        Ok(file.sync_all()?)
    })?;
    let mut file = File::open(&path)?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    let mut buffer = vec![0; PIECE];
    timed(&mut way.read, || {
        for _ in 0..mib {
            file.read_exact(&mut buffer)?;
        }
        Ok(())
    })?;
    ensure!(buffer == data, "something else was read than was written");
    Ok(std::fs::remove_file(&path)?)
}

/// The file system, until it is dropped.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn new(root: &Path, mib: usize) -> Result<Self> {
        let (image, dir) = (root.join("image"), root.join("fs"));
        std::fs::create_dir_all(&dir)?;
        File::create(&image)?.set_len(u64::try_from(mib << 20)?)?;
        let (image, at) = (image.to_string_lossy(), dir.to_string_lossy());
        output("mkfs.ext4", &["-q", "-O", "encrypt", &image])?;
        output("mount", &["-o", "loop", &image, &at])?;
        Ok(Self(dir))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = output("umount", &[&self.0.to_string_lossy()]) {
            eprintln!("{error:#}");
        }
    }
}

pub(crate) fn measure(bench: &Bench) -> Result<Part> {
    let (mib, runs) = bench.pick((512, 5), (1024, 15));
    let root = bench.root.join("encryption");
    std::fs::create_dir_all(&root)?;
    let mounted = Mounted::new(&root, mib * 2 + 256).context("this needs root and loop devices")?;
    let mut rng = Rng(9);
    let mut key = [0; 64];
    rng.fill(&mut key);
    let keys = AtRest::with(MasterKey::parse(&key)?, None);
    let (encrypted, plain) = (mounted.0.join("encrypted"), mounted.0.join("plain"));
    keys.make(&encrypted)?;
    std::fs::create_dir(&plain)?;
    let mut data = vec![0; PIECE];
    rng.fill(&mut data);
    let (mut with, mut without) = (Way::default(), Way::default());
    for n in 0..=runs {
        let (mut cold, mut bare) = (Way::default(), Way::default());
        // The first pair warms up and does not count.
        let (with, without) = match n {
            0 => (&mut cold, &mut bare),
            _ => (&mut with, &mut without),
        };
        round(with, &encrypted, mib, &data)?;
        round(without, &plain, mib, &data)?;
    }
    Ok(part(mib, &with, &without, &cipher()?))
}

/// What of the kernel does the cipher.
fn cipher() -> Result<String> {
    let all = read_to_string("/proc/crypto")?;
    let mut drivers = all.split("\n\n").filter(|c| {
        let mut lines = c.lines();
        lines.any(|l| l.split(':').map(str::trim).eq(["name", "xts(aes)"]))
    });
    let driver = drivers
        .next()
        .and_then(|c| c.lines().find_map(|l| l.strip_prefix("driver")));
    let driver = driver.map_or("not told", |d| d.trim_start_matches([' ', ':', '\t']));
    Ok(driver.to_owned())
}

fn part(mib: usize, with: &Way, without: &Way, cipher: &str) -> Part {
    let size = f64::from(u32::try_from(mib).unwrap_or(u32::MAX));
    let mut table = format!(
        "A file of {mib} MiB that does not compress, written and flushed, then read from the medium: ext4 on a loop device, an encrypted and a plain directory of it in turn. Medians of {} pairs; processor seconds of the whole machine for each GiB. The kernel's AES-256-XTS here is `{cipher}`.\n\n| | write MiB/s | read MiB/s | write s/GiB | read s/GiB |\n|---|---|---|---|---|\n",
        with.write.0.len()
    );
    for (name, way) in [("encrypted", with), ("plain", without)] {
        let _ = writeln!(
            table,
            "| {name} | {:.0} | {:.0} | {:.2} | {:.2} |",
            size / way.write.0.median(),
            size / way.read.0.median(),
            way.write.1.median() * 1024.0 / size,
            way.read.1.median() * 1024.0 / size,
        );
    }
    let write = without.write.0.median() / with.write.0.median();
    let read = without.read.0.median() / with.read.0.median();
    Part {
        lines: vec![Line {
            what: "encryption at rest: a file in an encrypted directory, written and read",
            budget: "small",
            measured: format!("write {write:.2} × the speed of a plain one, read {read:.2} ×"),
            verdict: Verdict::Open,
            why: format!(
                "the kernel's cipher, `{cipher}`, decides: with the processor's AES instructions it costs a fraction of one without"
            ),
        }],
        details: vec![("Encryption at rest", table)],
    }
}
