//! Single cases of docs/field-cases.md that need a disk that fails, a power cut or much time: each is the smallest input that
//! showed the fault, over again. They play on any build (`LIFEBOAT_BINARY`).

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use lifeboat_faults::disk::Fate;
use lifeboat_faults::link::Way;
use lifeboat_faults::random::Random;
use lifeboat_faults::served::{Delays, Failing, Kind, Requests};
use rustix::io::Errno;

use crate::cuts::{self, Moment};
use crate::host::{Ground, Host, binary, wait_for};
use crate::judge::{Judge, manifest};
use crate::report::{Class, Report};
use crate::world::{Setup, VM, World, now_ms};

/// The world of these cases: the replica's disk can fail.
fn world(seed: u64) -> Result<World> {
    World::new(Setup {
        seed,
        a: Ground::default(),
        b: cuts::ground(),
    })
}

/// N3: a write of a log fails once and the answer that says so is lost with the connection. The log is offered again; is it
/// acknowledged without being on the medium? A power cut tells.
pub(crate) fn of_an_error_that_is_reported_once(name: &str, seed: u64, rounds: u64) -> Report {
    let mut judge = Judge::new(Report::new(name, seed));
    let done = world(seed).and_then(|mut world| {
        world.begin(cuts::FLUSHED)?;
        let mut random = Random::new(seed);
        for round in 0..rounds {
            eprintln!("round {round}");
            reported_once(&mut world, &mut judge, &mut random)?;
            judge.report.count("rounds", 1);
        }
        Ok(())
    });
    cuts::settle(judge, done)
}

fn reported_once(world: &mut World, judge: &mut Judge, random: &mut Random) -> Result<()> {
    std::thread::sleep(Duration::from_secs(1));
    let since = now_ms();
    world.set_links(Way::MuteAnswers);
    let before = cuts::disk(&world.b)?.counts().1;
    cuts::disk(&world.b)?.set_failing(Some(Failing {
        requests: Requests::Only(Kind::Write),
        after: random.below(3),
        count: 4,
        error: Errno::IO,
    }));
    let failed = wait_for("a write fails", Duration::from_secs(30), || {
        let failed = cuts::disk(&world.b).ok()?.counts().1 - before;
        (failed > 0).then_some(failed)
    })?;
    judge.report.count("writes that failed", failed);
    std::thread::sleep(Duration::from_secs(1));
    world.set_links(Way::Cut);
    std::thread::sleep(Duration::from_millis(500));
    cuts::disk(&world.b)?.set_failing(None);
    world.set_links(Way::Open);
    // A file system that turned read-only acknowledges nothing more.
    if world.goes_on(since, Duration::from_secs(60)).is_ok() {
        judge.report.count("rounds that were acknowledged", 1);
    }
    cuts::replica_round(world, judge, random, Moment::Now(Fate::Lost))
}

/// N16: each flush of the replica's disk takes 300 ms. Points expire all the same, and a failover does not wait for a replay.
pub(crate) fn of_a_slow_disk(name: &str, seed: u64) -> Report {
    /// Five and the latest are wanted; a few more may be there between a seal and the expiry after it.
    const POINTS: usize = 9;
    /// Longest for a failover to the newest data and its revert.
    const FAILOVER: Duration = Duration::from_secs(45);
    let mut judge = Judge::new(Report::new(name, seed));
    let done = world(seed).and_then(|mut world| {
        world.begin(cuts::FLUSHED)?;
        let (write, flush) = (Duration::ZERO, Duration::from_millis(300));
        cuts::disk(&world.b)?.set_delays(Delays { write, flush });
        let mut most = 0;
        let end = Instant::now() + Duration::from_secs(100);
        while Instant::now() < end {
            std::thread::sleep(Duration::from_secs(1));
            let manifest = manifest(&world)?;
            let points = manifest["points"].as_array().into_iter().flatten();
            most = most.max(points.filter(|p| p["loose"] != true).count());
        }
        judge.report.count("most points", most as u64);
        if most > POINTS {
            judge
                .report
                .add(Class::Stuck, format!("{most} points; points do not expire"));
        }
        world.set_links(Way::Cut);
        let told = world.watch.all().last_key_value().map_or(0, |(_, told)| *told);
        let began = Instant::now();
        judge.failover(&world, "the newest data", &[], told);
        let took = began.elapsed();
        judge.report.count("failover and revert in ms", millis(took));
        if took > FAILOVER {
            judge
                .report
                .add(Class::Late, format!("a failover and its revert took {took:?}"));
        }
        cuts::disk(&world.b)?.set_delays(Delays::default());
        world.set_links(Way::Open);
        world.goes_on(now_ms(), cuts::GOES_ON)?;
        cuts::end(&mut world, &mut judge)
    });
    cuts::settle(judge, done)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// N20: the replica's host is back after so long that the primary waits half a minute between two attempts.
pub(crate) fn of_a_host_that_comes_back(name: &str, seed: u64) -> Report {
    /// Attempts come after 1, 2, 4, 8 and 16 seconds, and then one after 30.
    const AWAY: Duration = Duration::from_secs(36);
    const AT_ONCE: Duration = Duration::from_secs(10);
    let mut judge = Judge::new(Report::new(name, seed));
    let done = world(seed).and_then(|mut world| {
        world.begin(cuts::FLUSHED)?;
        world.b.stop()?;
        std::thread::sleep(AWAY);
        world.b.start()?;
        let took = world.goes_on(now_ms(), cuts::GOES_ON)?;
        judge.report.count("until it went on in ms", millis(took));
        if took > AT_ONCE {
            let text = format!("the host was back, and replication went on after {took:?}");
            judge.report.add(Class::Stuck, text);
        }
        cuts::end(&mut world, &mut judge)
    });
    cuts::settle(judge, done)
}

/// N17: a planned failover is asked for on the replica's host, which loses its power before the primary has got the command.
/// Afterwards it is carried out, or that host says what became of it.
pub(crate) fn of_a_command_that_was_cut(name: &str, seed: u64) -> Report {
    let mut judge = Judge::new(Report::new(name, seed));
    let done = world(seed).and_then(|mut world| {
        world.begin(cuts::FLUSHED)?;
        world.set_links(Way::Mute);
        let mut command = Command::new(binary());
        command.arg("--socket").arg(world.b.root.join("sock"));
        command.args(["failover", "start", VM, "--planned", "--no-start", "--force"]);
        let mut command = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_secs(2));
        cuts::disk(&world.b)?.cut(Fate::Written, seed);
        let cut_at = now_ms();
        world.b.power_off();
        world.set_links(Way::Cut);
        command.kill()?;
        command.wait()?;
        cuts::restart_machine(&mut world.b)?;
        world.b.start()?;
        world.set_links(Way::Open);
        let what = "the command is carried out or reported";
        let told = wait_for(what, Duration::from_secs(60), || {
            let moved = world.b.replication()["mode"] == "Primary";
            (moved || told_since(&world.b, cut_at)).then_some(())
        });
        if told.is_err() {
            let text =
                "a planned failover was asked for, the power went, and nothing is said of it".to_owned();
            judge.report.add(Class::Stuck, text);
        }
        world.goes_on(now_ms(), cuts::GOES_ON)?;
        cuts::end(&mut world, &mut judge)
    });
    cuts::settle(judge, done)
}

/// Whether an event since then, or the status, speaks of the planned failover.
fn told_since(host: &Host, since: u64) -> bool {
    let spoken = |text: &str| text.contains("planned failover");
    let events = host
        .get("/api/v1/events", Duration::from_secs(5))
        .unwrap_or_default();
    let mut events = events.as_array().into_iter().flatten();
    events.any(|e| e["at"].as_u64() >= Some(since) && spoken(e["message"].as_str().unwrap_or("")))
        || spoken(&host.replication()["health_notes"].to_string())
}
