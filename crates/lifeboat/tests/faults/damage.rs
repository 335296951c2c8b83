//! A replica whose files rot or go: one bit is turned, or one file deleted, and then the replica is scrubbed. Whatever is
//! brought up afterwards is right, because the damage was repaired or is elsewhere, or it is refused. It is never wrong.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use lifeboat_faults::link::Way;
use lifeboat_faults::random::Random;
use serde_json::Value;

use crate::cuts;
use crate::host::Ground;
use crate::judge::{Judge, manifest};
use crate::report::{Class, Report};
use crate::world::{Setup, VM, World};

/// Which file.
#[derive(Clone, Copy, Debug)]
enum Target {
    Base,
    SealedLayer,
    Head,
    Log,
    Manifest,
}

/// What happens to it.
#[derive(Clone, Copy, Debug)]
enum Harm {
    /// One bit of its head, where a header is.
    FlippedHeader,
    /// One bit anywhere in it.
    FlippedBit,
    Deleted,
}

const TARGETS: [Target; 5] = [
    Target::Base,
    Target::SealedLayer,
    Target::Head,
    Target::Log,
    Target::Manifest,
];
const HARMS: [Harm; 3] = [Harm::FlippedHeader, Harm::FlippedBit, Harm::Deleted];

const SCRUB: [&str; 3] = ["replication", "scrub", VM];

/// Each round is a world of its own: what is damaged stays so. Round `n` (from 0) is that of the seed plus `n`.
pub(crate) fn play(name: &str, seed: u64, rounds: u64) -> Report {
    let mut report = Report::new(name, seed);
    for n in 0..rounds {
        let mut judge = Judge::new(report);
        let done = round(seed + n, &mut judge);
        report = judge.report;
        if let Err(error) = done {
            let text = format!("damage of seed {}: {error:#}", seed + n);
            report.add(Class::CouldNotTell, text);
        }
        report.count("rounds", 1);
    }
    report
}

fn round(seed: u64, judge: &mut Judge) -> Result<()> {
    let mut random = Random::new(seed);
    let (target, harm) = (*random.one_of(&TARGETS), *random.one_of(&HARMS));
    let mut world = World::new(Setup {
        seed,
        a: Ground::default(),
        b: Ground::default(),
    })?;
    world.begin(cuts::FLUSHED)?;
    std::thread::sleep(Duration::from_secs(7));
    world.stop_writing()?;
    world.all_arrives(Duration::from_secs(60))?;
    // Digests of everything that is sealed are recorded by its end.
    world.b.ok(&SCRUB)?;
    world.set_links(Way::Cut);
    // The daemon finds it at its start, or under its hands.
    let down = random.percent(50);
    if down {
        world.b.stop()?;
    }
    let file = find(&world, target, &mut random)?;
    spoil(&file, harm, &mut random)?;
    let what = format!("{harm:?} {target:?} ({}), seed {seed}", file.display());
    eprintln!("{what}, daemon down: {down}");
    judge.report.count(&format!("{harm:?} {target:?}"), 1);
    world.b.stop()?;
    if let Err(refused) = world.b.start() {
        eprintln!("the daemon does not start: {refused:#}");
        judge.report.count("the daemon refused to start", 1);
        return Ok(());
    }
    world.set_links(Way::Open);
    // It fails when it finds something that is not repaired yet; what that means is judged below.
    if !world.b.cli(&SCRUB)?.status.success() {
        judge.report.count("scrubs that found damage", 1);
    }
    std::thread::sleep(Duration::from_secs(8));
    world.set_links(Way::Cut);
    let path = format!("/api/v1/vms/{VM}/points");
    let listed = world.b.get(&path, Duration::from_secs(10)).unwrap_or_default();
    for point in listed.as_array().into_iter().flatten() {
        let id = point["id"].as_str().unwrap_or("");
        let instant = point["instant"].as_u64().unwrap_or(0);
        attempt(&world, judge, &what, &["--point", id], instant);
    }
    attempt(&world, judge, &what, &[], 0);
    Ok(())
}

fn attempt(world: &World, judge: &mut Judge, what: &str, point: &[&str], instant: u64) {
    let name = format!("a failover {point:?} of {instant} after {what}");
    if let Err(refused) = judge.try_failover(world, &name, point, instant) {
        let refused = format!("{refused:#}");
        let line = refused.lines().next().unwrap_or_default();
        eprintln!("refused: {line}");
        judge.report.count("failovers refused", 1);
    }
}

fn find(world: &World, target: Target, random: &mut Random) -> Result<PathBuf> {
    let replica = world.replica();
    let manifest = manifest(world)?;
    let layer = |of: &Value| {
        let file = of["layers"][0]["file"].as_str().context("no layer")?;
        Ok(replica.join(file))
    };
    let points = manifest["points"].as_array().context("no points")?;
    match target {
        Target::Base => Ok(replica.join("disks/one/base.raw")),
        Target::SealedLayer => layer(random.one_of(points)),
        Target::Head if manifest["head"].is_null() => layer(points.last().context("no points")?),
        Target::Head => layer(&manifest["head"]),
        Target::Log => {
            let logs = std::fs::read_dir(replica.join("logs"))?;
            let mut logs: Vec<PathBuf> = logs.flatten().map(|e| e.path()).collect();
            logs.sort();
            anyhow::ensure!(!logs.is_empty(), "no log is kept");
            Ok(random.one_of(&logs).clone())
        }
        Target::Manifest => Ok(replica.join("manifest.json")),
    }
}

fn spoil(file: &Path, harm: Harm, random: &mut Random) -> Result<()> {
    let len = std::fs::metadata(file)
        .with_context(|| file.display().to_string())?
        .len();
    let at = match harm {
        Harm::Deleted => return Ok(std::fs::remove_file(file)?),
        Harm::FlippedHeader => random.below(len.min(100)),
        Harm::FlippedBit => data_offset(file, len, random)?,
    };
    let open = OpenOptions::new().read(true).write(true).open(file)?;
    let mut byte = [0];
    open.read_exact_at(&mut byte, at)?;
    byte[0] ^= 1 << random.below(8);
    Ok(open.write_all_at(&byte, at)?)
}

/// A byte that is not zero, the next one from a random place on: a bit of a hole is nobody's data.
fn data_offset(file: &Path, len: u64, random: &mut Random) -> Result<u64> {
    let bytes = std::fs::read(file)?;
    let start = usize::try_from(random.below(len))?;
    let (before, after) = bytes.split_at(start);
    let data = |part: &[u8]| part.iter().position(|b| *b != 0);
    let near = data(after).map(|n| start + n).or_else(|| data(before));
    Ok(u64::try_from(near.context("a file without data")?)?)
}
