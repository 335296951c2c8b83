//! Random histories of faults on two hosts, from a seed: a fault, the world put right, replication has to go on, and what the
//! replica holds is judged. Answers of both daemons are timed all the while.

use std::time::Duration;

use anyhow::Result;
use lifeboat_faults::history::Verdict;
use lifeboat_faults::link::Way;
use lifeboat_faults::random::Random;
use lifeboat_faults::volume::Layout;

use crate::acts::{Act, Stage};
use crate::cuts;
use crate::host::Ground;
use crate::judge::{Judge, read_disks};
use crate::prober::Prober;
use crate::report::{Class, Report};
use crate::world::{Setup, VM, World, lock, now_ms};

/// Every kind of fault.
pub(crate) const ALL: &[&str] = &[
    "link",
    "kill",
    "kill-both",
    "stop",
    "stop-guest",
    "kill-guest",
    "power-cut",
    "errors",
    "hang",
    "slow",
    "full",
    "no-inodes",
    "read-only",
    "clock",
    "foreign-edit",
    "foreign-edit-running",
];

/// What is played: so many histories, each of so many faults of these kinds.
pub(crate) struct Program {
    pub(crate) histories: u64,
    pub(crate) faults: u64,
    pub(crate) kinds: &'static [&'static str],
}

/// Longest until replication goes on after a fault.
const GOES_ON: Duration = Duration::from_secs(180);

/// Plays histories; number `n` (from 0) is that of the seed plus `n`. `LIFEBOAT_FAULTS` (kinds, separated by commas) takes
/// the place of the kinds.
pub(crate) fn play(name: &str, seed: u64, program: &Program) -> Report {
    let mut report = Report::new(name, seed);
    let chosen = std::env::var("LIFEBOAT_FAULTS").unwrap_or_default();
    let chosen: Vec<&str> = chosen.split(',').filter(|k| ALL.contains(k)).collect();
    let kinds = if chosen.is_empty() { program.kinds } else { &chosen };
    for n in 0..program.histories {
        eprintln!("history {n}: LIFEBOAT_SEED={}", seed + n);
        let mut judge = Judge::new(report);
        let done = history(seed + n, program.faults, kinds, &mut judge);
        report = judge.report;
        if let Err(error) = done {
            report.add(
                Class::CouldNotTell,
                format!("history of seed {}: {error:#}", seed + n),
            );
        }
        report.count("histories", 1);
    }
    report
}

fn history(seed: u64, faults: u64, kinds: &[&str], judge: &mut Judge) -> Result<()> {
    let ground = Ground {
        volume: Some(Layout {
            mkfs: &["-N", "2048"],
            mount: "errors=remount-ro",
        }),
        clock: true,
    };
    let setup = Setup {
        seed,
        a: ground,
        b: ground,
    };
    let mut world = World::new(setup)?;
    world.begin(cuts::FLUSHED)?;
    let mut random = Random::new(seed);
    let (on_primary, on_replica) = (Prober::start(&world.a), Prober::start(&world.b));
    let mut deck = Vec::new();
    for n in 0..faults {
        let act = Act::draw(next_kind(&mut deck, kinds, &mut random), &mut random);
        eprintln!("fault {n} of seed {seed}: {act}");
        judge.report.count(&format!("faults: {}", act.kind()), 1);
        let losses = judge.report.losses();
        Stage {
            world: &mut world,
            judge,
            random: &mut random,
            on_primary: &on_primary,
            on_replica: &on_replica,
        }
        .play(act)?;
        late_answers(&act, &[&on_primary, &on_replica], judge);
        if let Err(error) = world.goes_on(now_ms(), GOES_ON) {
            let text = format!("after {act}, seed {seed}: {error:#}");
            judge.report.add(Class::Stuck, text);
            return Ok(());
        }
        if random.percent(40) {
            world.set_links(Way::Cut);
            judge.failovers(&world, &world.watch.all(), &mut random);
            world.set_links(Way::Open);
        }
        if judge.report.losses() > losses {
            judge
                .report
                .add(Class::Loss, format!("the above came with {act}, seed {seed}"));
        }
    }
    on_primary.expect(false);
    on_replica.expect(false);
    end(&mut world, judge)
}

/// The next kind of fault in a random order in which each comes before any comes again.
fn next_kind<'k>(deck: &mut Vec<&'k str>, kinds: &[&'k str], random: &mut Random) -> &'k str {
    if deck.is_empty() {
        deck.extend_from_slice(kinds);
    }
    let at = random.below(deck.len() as u64);
    deck.swap_remove(usize::try_from(at).unwrap_or(0))
}

fn late_answers(act: &Act, probers: &[&Prober], judge: &mut Judge) {
    for prober in probers {
        let answers = prober.take();
        judge.report.count("timed questions", answers.asked);
        let slowest = u64::try_from(answers.slowest.as_millis()).unwrap_or(u64::MAX);
        judge.report.slowest("slowest answer in ms", slowest);
        for late in answers.late {
            judge.report.add(Class::Late, format!("{act}: {late}"));
        }
    }
}

/// The last write arrives; every point is what it claims; the VM's own disks hold every write too.
fn end(world: &mut World, judge: &mut Judge) -> Result<()> {
    world.stop_writing()?;
    let last = world.all_arrives(GOES_ON)?;
    judge.report.count("writes", last);
    judge
        .report
        .count("acknowledged instants", world.watch.all().len() as u64);
    world.set_links(Way::Cut);
    let told = world.watch.all().last_key_value().map_or(0, |(_, told)| *told);
    judge.failover(world, "the newest data at the end", &[], told);
    world.b.stop()?;
    judge.points(world);
    world.a.ok(&["vm", "stop", VM, "--force"])?;
    world.a.stop()?;
    let images = read_disks(world)?;
    match lock(&world.history).judge(&images, None) {
        Verdict::State { to, .. } if to >= last => {}
        other => {
            let text = format!("the VM's own disks after {last} writes: {other:?}");
            judge.report.add(Class::Loss, text);
        }
    }
    Ok(())
}
