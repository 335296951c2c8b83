//! Power cuts: the memory of a host and the cache of its disk are lost in the middle of replication. Everything is brought up
//! again from what the disk holds, judged, and has to go on by itself.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use lifeboat_faults::disk::{Fate, Honesty};
use lifeboat_faults::link::Way;
use lifeboat_faults::random::Random;
use lifeboat_faults::served::{Delays, Kind, Requests, Served};
use lifeboat_faults::volume::Layout;

use crate::host::{Ground, Host, binary, wait_for};
use crate::judge::{Judge, read_disks};
use crate::report::{Class, Report};
use crate::world::{Pace, Setup, VM, World, lock, now_ms};

/// Longest that anything may take until it goes on by itself.
pub(crate) const GOES_ON: Duration = Duration::from_secs(180);
/// A slow disk has more in its cache when the power goes.
const SLOW: Delays = Delays {
    write: Duration::from_micros(60),
    flush: Duration::from_micros(2000),
};
const UNFLUSHED: Pace = Pace {
    per_second: 80,
    flushed: false,
};
pub(crate) const FLUSHED: Pace = Pace {
    per_second: 60,
    flushed: true,
};

pub(crate) fn ground() -> Ground {
    Ground {
        volume: Some(Layout::default()),
        clock: false,
    }
}

pub(crate) fn disk(host: &Host) -> Result<&Served> {
    let volume = host
        .volume
        .as_ref()
        .context("this host has no volume that can fail")?;
    Ok(&volume.disk)
}

fn any_fate(random: &mut Random) -> Fate {
    let percent = *random.one_of(&[10, 50, 90]);
    match random.below(6) {
        0 => Fate::Lost,
        1 => Fate::Written,
        2 => Fate::Prefix,
        3 => Fate::Torn { percent },
        _ => Fate::Sectors { percent },
    }
}

/// When the power goes, and what becomes of the cache.
#[derive(Clone, Copy)]
pub(crate) enum Moment {
    /// At a moment or a request of chance, with any fate.
    Random,
    /// Now, with this fate.
    Now(Fate),
}

/// Cuts the power of a disk.
fn cut(disk: &Served, moment: Moment, random: &mut Random, report: &mut Report) -> Result<()> {
    let seed = random.next_u64();
    let (fate, choice) = match moment {
        Moment::Now(fate) => (fate, 0),
        Moment::Random => {
            std::thread::sleep(Duration::from_millis(random.between(200, 1500)));
            (any_fate(random), random.below(8))
        }
    };
    let requests = match choice {
        0 => None,
        // Before a flush is carried out, there is something in the cache.
        1..=4 => Some((Requests::Only(Kind::Flush), random.between(1, 120))),
        5 | 6 => Some((Requests::Only(Kind::Write), random.between(1, 300))),
        _ => Some((Requests::Changes, random.between(1, 400))),
    };
    let armed = requests.and_then(|(requests, after)| {
        disk.arm(requests, after, fate, seed);
        disk.wait_cut(Duration::from_secs(20))
    });
    let cut = armed.or_else(|| disk.cut(fate, seed)).context("no cut")?;
    eprintln!("cut: {fate:?}, {cut:?}");
    report.count(&format!("cuts {fate:?}"), 1);
    report.count("bytes in the cache at the cuts", cut.bytes);
    report.count("of them kept", cut.kept);
    Ok(())
}

/// What follows a cut on the host itself: its processes are gone, its file system comes up from what the disk holds.
pub(crate) fn restart_machine(host: &mut Host) -> Result<()> {
    disk(host)?.fail_everything();
    host.reap()?;
    let volume = host.volume.as_mut().context("no volume")?;
    if volume.restart()? {
        eprintln!("the file system had to be repaired before it could be mounted");
    }
    Ok(())
}

/// Failover and revert, again and again, so that cuts fall into them.
struct Failovers {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Failovers {
    fn start(socket: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let commands: [&[&str]; 2] = [
                &["failover", "start", VM, "--no-start", "--force"],
                &["failover", "revert", VM],
            ];
            for command in commands.iter().cycle() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                // Whatever becomes of it: the judge looks at what is left.
                let _ = Command::new("timeout")
                    .args(["-k", "1", "60", &binary(), "--socket"])
                    .arg(&socket)
                    .args(*command)
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status();
            }
        });
        Self { stop, thread }
    }

    fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.join();
    }
}

/// Cuts of the replica's host.
pub(crate) fn of_the_replica(name: &str, seed: u64, rounds: u64) -> Report {
    let mut judge = Judge::new(Report::new(name, seed));
    let setup = Setup {
        seed,
        a: Ground::default(),
        b: ground(),
    };
    let done = World::new(setup).and_then(|mut world| {
        world.begin(UNFLUSHED)?;
        disk(&world.b)?.set_delays(SLOW);
        let mut random = Random::new(seed);
        for round in 0..rounds {
            eprintln!("round {round}");
            replica_round(&mut world, &mut judge, &mut random, Moment::Random)?;
            judge.report.count("rounds", 1);
        }
        end(&mut world, &mut judge)
    });
    settle(judge, done)
}

/// One cut of the replica's host, until replication goes on.
pub(crate) fn replica_round(
    world: &mut World,
    judge: &mut Judge,
    random: &mut Random,
    moment: Moment,
) -> Result<()> {
    let failovers = random
        .percent(20)
        .then(|| Failovers::start(world.b.root.join("sock")));
    let cut = cut(disk(&world.b)?, moment, random, &mut judge.report);
    let cut_at = now_ms();
    world.b.power_off();
    world.set_links(Way::Cut);
    disk(&world.b)?.fail_everything();
    if let Some(failovers) = failovers {
        judge.report.count("cuts during failovers", 1);
        failovers.end();
    }
    cut?;
    restart_machine(&mut world.b)?;
    let acknowledged = world.watch.all();
    judge.points(world);
    world.b.start()?;
    after_failovers(world)?;
    judge.failovers(world, &acknowledged, random);
    world.set_links(Way::Open);
    goes_on(world, judge, cut_at);
    keeps_settings(&world.b, judge);
    Ok(())
}

/// A saga that the cut interrupted ends by itself; a failover that was made is given up.
fn after_failovers(world: &World) -> Result<()> {
    let limit = Duration::from_secs(10);
    wait_for("the saga ends", Duration::from_secs(60), || {
        let jobs = world.b.get("/api/v1/jobs", limit).ok()?;
        let running = |job: &serde_json::Value| {
            let state = job["state"].as_str().unwrap_or("");
            ![
                "Completed",
                "CompletedWithWarnings",
                "Exception",
                "Killed",
                "Terminated",
            ]
            .contains(&state)
        };
        (!jobs.as_array()?.iter().any(running)).then_some(())
    })?;
    if !world.b.replication()["failover"].is_null() {
        world.b.ok(&["failover", "revert", VM])?;
    }
    Ok(())
}

fn goes_on(world: &World, judge: &mut Judge, since: u64) {
    if let Err(error) = world.goes_on(since, GOES_ON) {
        judge.report.add(Class::Stuck, format!("{error:#}"));
    }
}

/// What was confirmed once is still there.
fn keeps_settings(host: &Host, judge: &mut Judge) {
    let view = host.replication();
    let settings = &view["settings"];
    if settings["history"] != 5 || settings["interval_s"] != 1 {
        let text = format!("{} has other settings: {settings}", host.name);
        judge.report.add(Class::Loss, text);
    }
}

/// The last write arrives, and everything is what it claims to be.
pub(crate) fn end(world: &mut World, judge: &mut Judge) -> Result<()> {
    world.stop_writing()?;
    let last = world.all_arrives(GOES_ON)?;
    judge.report.count("writes", last);
    judge
        .report
        .count("acknowledged instants", world.watch.all().len() as u64);
    world.b.stop()?;
    judge.points(world);
    Ok(())
}

/// What the harness could not do is a result of its own.
pub(crate) fn settle(mut judge: Judge, done: Result<()>) -> Report {
    if let Err(error) = done {
        judge.report.add(Class::CouldNotTell, format!("{error:#}"));
    }
    judge.report
}

/// Cuts of the primary's host. Every write of the VM is flushed, and after each cut its disks hold what was flushed.
pub(crate) fn of_the_primary(name: &str, seed: u64, rounds: u64) -> Report {
    let mut judge = Judge::new(Report::new(name, seed));
    let setup = Setup {
        seed,
        a: ground(),
        b: Ground::default(),
    };
    let done = World::new(setup).and_then(|mut world| {
        world.begin(FLUSHED)?;
        disk(&world.a)?.set_delays(SLOW);
        let mut random = Random::new(seed);
        for round in 0..rounds {
            eprintln!("round {round}");
            // Every third cut comes while the comparison after the one before is under way.
            let then = if round % 3 == 1 { Then::Leave } else { Then::GoesOn };
            primary_round(&mut world, &mut judge, &mut random, Moment::Random, then)?;
            judge.report.count("rounds", 1);
        }
        goes_on(&world, &mut judge, now_ms());
        end(&mut world, &mut judge)
    });
    settle(judge, done)
}

/// What follows a cut of the primary.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Both copies have to become equal.
    GoesOn,
    /// Nothing is waited for.
    Leave,
}

/// One cut of the primary's host.
pub(crate) fn primary_round(
    world: &mut World,
    judge: &mut Judge,
    random: &mut Random,
    moment: Moment,
    then: Then,
) -> Result<()> {
    let cut = cut(disk(&world.a)?, moment, random, &mut judge.report);
    world.a.power_off();
    let flushed = lock(&world.history).complete();
    world.set_links(Way::Cut);
    disk(&world.a)?.fail_everything();
    // It ends with QEMU, in the middle of a write.
    let _ = world.stop_writing();
    cut?;
    world.b.stop()?;
    restart_machine(&mut world.a)?;
    let cut_at = now_ms();
    judge.points(world);
    let images = read_disks(world);
    match images {
        Ok(images) => {
            let rebased = lock(&world.history).rebase(&images, flushed, cut_at);
            if let Err(lost) = rebased {
                judge
                    .report
                    .add(Class::Loss, format!("the VM's own disk: {lost}"));
            }
        }
        Err(error) => {
            judge.report.add(
                Class::Loss,
                format!("the VM's own disk cannot be read: {error:#}"),
            );
        }
    }
    world.set_links(Way::Open);
    world.b.start()?;
    world.a.start()?;
    world.a.ok(&["vm", "start", VM])?;
    world.write_on(FLUSHED)?;
    if then == Then::GoesOn {
        goes_on(world, judge, cut_at);
    }
    keeps_settings(&world.a, judge);
    Ok(())
}

/// The control: from some moment on the replica's disk acknowledges flushes and drops them. Then the power goes.
pub(crate) fn of_a_disk_that_drops_flushes(name: &str, seed: u64) -> Report {
    let mut judge = Judge::new(Report::new(name, seed));
    let setup = Setup {
        seed,
        a: Ground::default(),
        b: ground(),
    };
    let done = World::new(setup).and_then(|mut world| {
        world.begin(UNFLUSHED)?;
        let disk = disk(&world.b)?;
        disk.set_honesty(Honesty::DropsFlushes);
        world.goes_on(now_ms() + 1500, GOES_ON)?;
        disk.cut(Fate::Lost, seed);
        world.b.power_off();
        world.set_links(Way::Cut);
        disk.set_honesty(Honesty::Honest);
        restart_machine(&mut world.b)?;
        let acknowledged = world.watch.all();
        judge.points(&world);
        world.b.start()?;
        judge.failovers(&world, &acknowledged, &mut Random::new(seed));
        Ok(())
    });
    settle(judge, done)
}
