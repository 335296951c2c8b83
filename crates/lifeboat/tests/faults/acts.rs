//! The faults a history is made of: what each does to the world, and how the world is put right again.

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use lifeboat_faults::disk::Fate;
use lifeboat_faults::history::SLOT;
use lifeboat_faults::link::Way;
use lifeboat_faults::random::Random;
use lifeboat_faults::served::{Delays, Failing, Kind, Requests};
use lifeboat_faults::volume::run;
use rustix::io::Errno;
use rustix::process::{Signal, kill_process};

use crate::cuts::{self, Moment, Then};
use crate::host::Host;
use crate::judge::{Judge, read_disks};
use crate::prober::Prober;
use crate::report::Class;
use crate::world::{DISKS, VM, World, command, lock, now_ms};

/// Which host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Primary,
    Replica,
}

/// One fault, with everything that was drawn for it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// The link is cut, or silent without an end.
    Link(Way, Duration),
    /// kill -9 of a daemon.
    Kill(Side),
    /// kill -9 of both daemons.
    KillBoth,
    /// A daemon stands still.
    Stop(Side, Duration),
    /// The VM's QEMU stands still.
    StopGuest(Duration),
    /// kill -9 of the VM's QEMU.
    KillGuest,
    /// A host loses its power.
    PowerCut(Side),
    /// Requests of a disk fail, then the host loses its power: nothing may have been believed.
    Errors(Side, Kind, u64, u64),
    /// A disk does not answer.
    Hang(Side, Requests, Duration),
    /// Each flush of a disk takes this long.
    Slow(Side, Duration, Duration),
    /// No space left.
    Full(Side, Duration),
    /// No inodes left.
    NoInodes(Side, Duration),
    /// The file system turns read-only; only a restart of the machine cures that.
    ReadOnly(Side, Duration),
    /// The clock jumps by so many seconds, and is put right later.
    Clock(Side, i64, Duration),
    /// The VM is off and somebody writes to one of its disks.
    ForeignEdit,
    /// The VM runs and somebody writes to its raw disk.
    ForeignEditRunning,
}

impl Act {
    /// The name a history is told by.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Link(..) => "link",
            Self::Kill(_) => "kill",
            Self::KillBoth => "kill-both",
            Self::Stop(..) => "stop",
            Self::StopGuest(_) => "stop-guest",
            Self::KillGuest => "kill-guest",
            Self::PowerCut(_) => "power-cut",
            Self::Errors(..) => "errors",
            Self::Hang(..) => "hang",
            Self::Slow(..) => "slow",
            Self::Full(..) => "full",
            Self::NoInodes(..) => "no-inodes",
            Self::ReadOnly(..) => "read-only",
            Self::Clock(..) => "clock",
            Self::ForeignEdit => "foreign-edit",
            Self::ForeignEditRunning => "foreign-edit-running",
        }
    }

    /// Draws a fault of this kind.
    pub(crate) fn draw(kind: &str, random: &mut Random) -> Self {
        let side = *random.one_of(&[Side::Primary, Side::Replica]);
        let mut seconds = |from: u64, to: u64| Duration::from_millis(random.between(from * 1000, to * 1000));
        let (short, long) = (seconds(2, 8), seconds(6, 14));
        match kind {
            "link" => {
                let way = random.one_of(&[Way::Cut, Way::Mute, Way::MuteAnswers]);
                Self::Link(*way, if random.percent(20) { long * 2 } else { short })
            }
            "kill" => Self::Kill(side),
            "kill-both" => Self::KillBoth,
            "stop" => Self::Stop(side, long),
            "stop-guest" => Self::StopGuest(long),
            "kill-guest" => Self::KillGuest,
            "power-cut" => Self::PowerCut(side),
            "errors" => {
                let kind = *random.one_of(&[Kind::Write, Kind::Write, Kind::Flush, Kind::Read]);
                Self::Errors(side, kind, random.below(250), *random.one_of(&[1, 1, 3, 40]))
            }
            "hang" => {
                let requests = [Requests::All, Requests::Changes, Requests::Only(Kind::Flush)];
                Self::Hang(side, *random.one_of(&requests), long)
            }
            "slow" => Self::Slow(side, Duration::from_millis(random.between(30, 300)), long),
            "full" => Self::Full(side, short),
            "no-inodes" => Self::NoInodes(side, short),
            "read-only" => Self::ReadOnly(side, short),
            "clock" => {
                let day = 86_400;
                let jumps = [-3600, 3600, day, 40 * day, -day];
                let jump = random.one_of(&jumps);
                Self::Clock(side, *jump, short)
            }
            "foreign-edit-running" => Self::ForeignEditRunning,
            _ => Self::ForeignEdit,
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Everything an act works on.
pub(crate) struct Stage<'a> {
    pub(crate) world: &'a mut World,
    pub(crate) judge: &'a mut Judge,
    pub(crate) random: &'a mut Random,
    pub(crate) on_primary: &'a Prober,
    pub(crate) on_replica: &'a Prober,
}

impl Stage<'_> {
    fn host(&mut self, side: Side) -> &mut Host {
        match side {
            Side::Primary => &mut self.world.a,
            Side::Replica => &mut self.world.b,
        }
    }

    fn prober(&self, side: Side) -> &Prober {
        match side {
            Side::Primary => self.on_primary,
            Side::Replica => self.on_replica,
        }
    }

    fn expect(&self, up: bool) {
        self.on_primary.expect(up);
        self.on_replica.expect(up);
    }

    /// Plays a fault and puts the world right.
    pub(crate) fn play(&mut self, act: Act) -> Result<()> {
        match act {
            Act::Link(way, time) => {
                self.world.set_links(way);
                std::thread::sleep(time);
                self.world.set_links(Way::Open);
            }
            Act::Kill(side) => self.kill(&[side])?,
            Act::KillBoth => self.kill(&[Side::Primary, Side::Replica])?,
            Act::Stop(side, time) => {
                self.prober(side).expect(false);
                self.host(side).signal(Signal::STOP)?;
                std::thread::sleep(time);
                self.host(side).signal(Signal::CONT)?;
                std::thread::sleep(Duration::from_millis(300));
                self.prober(side).expect(true);
            }
            Act::StopGuest(time) => {
                let guest = self.world.a.qemu().context("no QEMU on the primary")?;
                kill_process(guest, Signal::STOP)?;
                std::thread::sleep(time);
                kill_process(guest, Signal::CONT)?;
            }
            Act::KillGuest => self.kill_guest()?,
            Act::PowerCut(side) => self.power_cut(side, Moment::Random)?,
            Act::Errors(side, kind, after, count) => self.errors(side, kind, after, count)?,
            Act::Hang(side, requests, time) => {
                cuts::disk(self.host(side))?.set_hanging(Some(requests));
                std::thread::sleep(time);
                cuts::disk(self.host(side))?.set_hanging(None);
            }
            Act::Slow(side, flush, time) => {
                let write = flush / 30;
                cuts::disk(self.host(side))?.set_delays(Delays { write, flush });
                std::thread::sleep(time);
                cuts::disk(self.host(side))?.set_delays(Delays::default());
            }
            Act::Full(side, time) => {
                let filler = self.host(side).durable.join("filler");
                fill(&filler)?;
                std::thread::sleep(time);
                std::fs::remove_file(filler)?;
            }
            Act::NoInodes(side, time) => {
                let dir = self.host(side).durable.join("many");
                take_inodes(&dir);
                std::thread::sleep(time);
                std::fs::remove_dir_all(dir)?;
            }
            Act::ReadOnly(side, time) => {
                let volume = self.host(side).volume.as_ref().context("no volume")?;
                volume.trigger_error()?;
                std::thread::sleep(time);
                self.power_cut(side, Moment::Now(Fate::Written))?;
            }
            Act::Clock(side, seconds, time) => self.clock(side, seconds, time)?,
            Act::ForeignEdit => self.foreign_edit()?,
            Act::ForeignEditRunning => self.foreign_edit_running()?,
        }
        Ok(())
    }

    fn kill(&mut self, sides: &[Side]) -> Result<()> {
        for side in sides {
            self.prober(*side).expect(false);
            self.host(*side).kill9();
        }
        std::thread::sleep(Duration::from_millis(self.random.below(3000)));
        for side in sides {
            self.host(*side).start()?;
            self.prober(*side).expect(true);
        }
        Ok(())
    }

    fn power_cut(&mut self, side: Side, moment: Moment) -> Result<()> {
        self.expect(false);
        match side {
            Side::Primary => {
                let then = Then::GoesOn;
                cuts::primary_round(self.world, self.judge, self.random, moment, then)?;
            }
            Side::Replica => cuts::replica_round(self.world, self.judge, self.random, moment)?,
        }
        self.expect(true);
        Ok(())
    }

    /// The disk reports an error; whatever the host made of it, after a power cut everything acknowledged is there.
    fn errors(&mut self, side: Side, kind: Kind, after: u64, count: u64) -> Result<()> {
        let failing = Failing {
            requests: Requests::Only(kind),
            after,
            count,
            error: Errno::IO,
        };
        let before = cuts::disk(self.host(side))?.counts().1;
        cuts::disk(self.host(side))?.set_failing(Some(failing));
        std::thread::sleep(Duration::from_millis(self.random.between(2000, 6000)));
        cuts::disk(self.host(side))?.set_failing(None);
        let failed = cuts::disk(self.host(side))?.counts().1 - before;
        self.judge.report.count("requests that failed with EIO", failed);
        std::thread::sleep(Duration::from_millis(self.random.below(3000)));
        self.power_cut(side, Moment::Now(Fate::Lost))
    }

    /// Kills QEMU. What it had not written out is lost, so its disks are where writing goes on from.
    fn kill_guest(&mut self) -> Result<()> {
        self.expect(false);
        self.world.a.stop()?;
        let guest = self.world.a.qemu().context("no QEMU on the primary")?;
        kill_process(guest, Signal::KILL)?;
        let _ = self.world.stop_writing();
        self.on_replica.expect(true);
        let flushed = lock(&self.world.history).complete();
        let images = read_disks(self.world)?;
        let kept = lock(&self.world.history).rebase(&images, flushed, now_ms());
        if let Err(lost) = kept {
            self.judge
                .report
                .add(Class::Loss, format!("the VM's own disk: {lost}"));
        }
        self.world.a.start()?;
        self.on_primary.expect(true);
        self.world.a.ok(&["vm", "start", VM])?;
        self.world.write_on(cuts::FLUSHED)
    }

    fn clock(&mut self, side: Side, seconds: i64, time: Duration) -> Result<()> {
        for ahead in [seconds, 0] {
            if side == Side::Primary {
                self.world.timeline.jump(ahead * 1000);
            }
            let clock = self.host(side).clock.as_ref();
            clock.context("a clock that cannot jump")?.set(ahead)?;
            if ahead != 0 {
                std::thread::sleep(time);
                self.look("while a clock is wrong");
            }
        }
        std::thread::sleep(Duration::from_secs(3));
        self.look("after a clock was put right");
        Ok(())
    }

    /// The newest data on the replica is the newest that was acknowledged.
    pub(crate) fn look(&mut self, when: &str) {
        let acknowledged = self.world.watch.all();
        let told = acknowledged.last_key_value().map_or(0, |(_, told)| *told);
        let what = format!("the newest data {when}");
        self.judge.failover(self.world, &what, &[], told);
    }

    /// The next write is made by somebody else while the VM is off.
    fn foreign_edit(&mut self) -> Result<()> {
        self.world.stop_writing()?;
        self.world.a.ok(&["vm", "stop", VM, "--force"])?;
        self.world.all_arrives(Duration::from_secs(120))?;
        let write = lock(&self.world.history).begin();
        let command = command(&write, "", &self.world.scratch("foreign"))?;
        let path = &self.world.disk_paths()[write.disk];
        let mut edit = Command::new("qemu-io");
        let said = run(edit.args(["-f", DISKS[write.disk].1, "-c", &command]).arg(path))?;
        if !said.contains("wrote ") {
            lock(&self.world.history).failed(write.number);
            anyhow::bail!("qemu-io could not edit {}: {said}", path.display());
        }
        lock(&self.world.history).end(write.number, now_ms());
        if let Err(error) = self.world.all_arrives(Duration::from_secs(120)) {
            let text = format!("an edit of a disk whose VM is off does not arrive: {error:#}");
            self.judge.report.add(Class::Stuck, text);
        } else {
            self.look("after somebody edited a disk of the VM");
        }
        self.world.a.ok(&["vm", "start", VM])?;
        self.world.write_on(cuts::FLUSHED)
    }
}

/// The disk that is plain bytes.
const RAW: usize = 1;

impl Stage<'_> {
    /// A write is made by somebody else to the raw disk of a VM that runs: past QEMU, as `dd` does.
    fn foreign_edit_running(&mut self) -> Result<()> {
        self.world.stop_writing()?;
        while lock(&self.world.history).next().disk != RAW {
            self.world.write_on(cuts::FLUSHED)?;
            self.world.stop_writing()?;
        }
        let write = lock(&self.world.history).begin();
        let file = File::options().write(true).open(&self.world.disk_paths()[RAW])?;
        file.write_all_at(&write.bytes(), write.slot * SLOT as u64)?;
        file.sync_all()?;
        drop(file);
        let done = now_ms();
        lock(&self.world.history).end(write.number, done);
        // It is noticed at the next cycle; the one after the comparison has it.
        let noticed = self.world.goes_on(done + 4000, Duration::from_secs(120));
        if let Err(error) = noticed {
            let text = format!("an edit of a disk whose VM runs does not arrive: {error:#}");
            self.judge.report.add(Class::Stuck, text);
        } else {
            self.look("after somebody edited a disk of the running VM");
        }
        self.world.write_on(cuts::FLUSHED)
    }
}

/// Fills a file system to the last byte.
fn fill(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    for size in [1 << 20, 64 << 10, 4096, 1] {
        let block = vec![0x55; size];
        while file.write_all(&block).is_ok() {}
    }
    // Delayed allocation would give some of it back.
    let _ = file.sync_all();
    Ok(())
}

/// Takes every inode of a file system.
fn take_inodes(dir: &Path) {
    if std::fs::create_dir(dir).is_ok() {
        let _ = (0..1_000_000).try_for_each(|n| File::create(dir.join(format!("{n}"))).map(drop));
    }
}
