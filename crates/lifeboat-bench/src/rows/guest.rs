//! Rows that need a guest that writes: the cost of a cycle by disk size, bytes per byte written, the guest's write
//! latency, and the smallest interval that is kept.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use lifeboat_model::policy::change_granularity;

use crate::guest::{Window, mark, said, start_writer, stop_writers, wait_ready, watch};
use crate::process::{output, usage_mib, wait};
use crate::report::{Line, Part, Verdict};
use crate::stats::Samples;
use crate::world::{Proxy, Vm, World};
use crate::{Bench, guest_images};

/// What writes: synced 4 KiB blocks in pseudo-random order over 125 MiB, of content that does not compress.
const SCATTER: &str = "scatter /dev/lifeboat/data-area --slots 32000 --ack-ms 600000 --direct";

pub(crate) fn measure(bench: &Bench) -> Result<Part> {
    let dir = bench.root.join("guests");
    let small = guest(&dir, "small", 1)?;
    let large = guest(&dir, "large", 100)?;
    let fast = guest(&dir, "fast", 1)?;
    let vms = [small, large, fast];
    let world = World::start(bench, &vms)?;
    let [small, large, fast] = vms;
    // Both go through one, so that the two stay comparable; only the first one's bytes count.
    let proxies = [Proxy::start(world.b.port)?, Proxy::start(world.b.port)?];
    for vm in [&small, &large] {
        world.a.ok(&["vm", "start", &vm.name])?;
    }
    for ((vm, interval), proxy) in [(&small, "15m"), (&large, "30s")].into_iter().zip(&proxies) {
        wait_ready(&world.run_dir(vm))?;
        start_writer(&world.run_dir(vm), &format!("{SCATTER} --rate 200"))?;
        let to = format!("127.0.0.1:{}", proxy.port);
        world.replicate(vm, &to, &["--interval", interval])?;
    }
    eprintln!("cycles");
    let [proxy, _] = &proxies;
    let mut part = cycles(bench, &world, [&small, &large], proxy)?;
    world.a.ok(&["vm", "stop", &small.name, "--force"])?;

    eprintln!("latency at 30 s");
    let at_30 = latency(&world, &large, bench.pick(2, 6), [10, bench.pick(20, 35)])?;
    world.a.ok(&["vm", "stop", &large.name, "--force"])?;

    world.a.ok(&["vm", "start", &fast.name])?;
    wait_ready(&world.run_dir(&fast))?;
    start_writer(&world.run_dir(&fast), &format!("{SCATTER} --rate 200"))?;
    world.replicate(&fast, &world.peer(), &["--interval", "1s"])?;
    eprintln!("latency at 1 s");
    let at_1 = latency(&world, &fast, bench.pick(2, 10), [8, 8])?;
    part.lines.push(latency_line(&at_30, &at_1));
    part.details.push(latency_details(&at_30, &at_1));
    eprintln!("interval of 1 s");
    part.lines.push(interval(bench, &world, &fast)?);
    Ok(part)
}

/// A guest with its data disk grown to this many GiB; the content stays where it is.
fn guest(dir: &Path, name: &str, gib: u32) -> Result<Vm> {
    std::fs::create_dir_all(dir)?;
    let images = guest_images()?;
    let mut disks: Vec<(&'static str, PathBuf)> = Vec::new();
    for disk in ["sys", "data"] {
        let to = dir.join(format!("{name}-{disk}.qcow2"));
        std::fs::copy(images.join(format!("{disk}.qcow2")), &to)?;
        if disk == "data" {
            let size = format!("{gib}G");
            output(
                "qemu-img",
                &["resize", "-q", "-f", "qcow2", &to.to_string_lossy(), &size],
            )?;
        }
        disks.push((disk, to));
    }
    Ok(Vm::new(name, 192, disks))
}

/// One cycle now; milliseconds from its instant to durable on the replica.
fn cycle(world: &World, vm: &Vm) -> Result<f64> {
    let before = world.a.counter(&vm.name, "cycles")?;
    world.a.ok(&["replication", "now", &vm.name])?;
    let pause = Duration::from_millis(10);
    wait("a cycle", Duration::from_secs(60), pause, || {
        Ok((world.a.counter(&vm.name, "cycles")? > before).then_some(()))
    })?;
    let took = world.a.counter(&vm.name, "last_latency_ms")?;
    Ok(f64::from(u32::try_from(took)?))
}

/// The same change on a small and on a large disk in turn, and what it puts on the wire and into the store.
fn cycles(bench: &Bench, world: &World, vms: [&Vm; 2], proxy: &Proxy) -> Result<Part> {
    let rounds = bench.pick(9, 30);
    let mut times = [Samples::default(), Samples::default()];
    let [small, _] = vms;
    let replica = world.replica(small);
    for vm in vms {
        cycle(world, vm)?;
    }
    let (logs, layers) = (
        usage_mib(&replica.join("logs"))?,
        usage_mib(&replica.join("disks"))?,
    );
    let (from, sent) = (mark(&world.run_dir(small))?, proxy.mib());
    for _ in 0..rounds {
        std::thread::sleep(Duration::from_secs(3));
        for (vm, samples) in vms.into_iter().zip(&mut times) {
            samples.add(cycle(world, vm)?);
        }
    }
    let writes = said(&world.run_dir(small), from)?.writes;
    let wire = proxy.mib() - sent;
    // Applying runs behind; it is over when nothing grows any more.
    let mut last = -1.0;
    wait(
        "the replica to apply",
        Duration::from_secs(60),
        Duration::from_millis(500),
        || {
            let now = usage_mib(&replica.join("disks"))?;
            let same = now - last == 0.0;
            last = now;
            Ok(same.then_some(()))
        },
    )?;
    let written = writes * 4.0 / 1024.0;
    let logs = (usage_mib(&replica.join("logs"))? - logs) / written;
    let layers = (last - layers) / written;
    let [one, hundred] = times;
    let ratio = hundred.median() / one.median();
    let lines = vec![
        Line {
            what: "delta cycle, same change on 100 × the disk",
            budget: "≤ 1.2 × the time",
            measured: format!("{ratio:.2} ×"),
            verdict: Verdict::of(ratio <= 1.2),
            why: format!(
                "1 GiB: p50 {:.0} ms, max {:.0}; 100 GiB: p50 {:.0} ms, max {:.0}; {rounds} pairs of {:.0} random 4 KiB writes each, instant to durable",
                one.median(),
                one.max(),
                hundred.median(),
                hundred.max(),
                writes / f64::from(rounds)
            ),
        },
        Line {
            what: "4 KiB random writes, bytes per byte written",
            budget: "small",
            measured: format!("wire {:.1}, logs {logs:.1}, layers {layers:.1}", wire / written),
            verdict: Verdict::Open,
            why: format!(
                "content that does not compress, {:.0} writes on a 1 GiB disk, whose changes are recorded in pieces of {} KiB; the logs are what is kept for the any-point window",
                writes,
                change_granularity(1 << 30) >> 10
            ),
        },
    ];
    Ok(Part {
        lines,
        details: Vec::new(),
    })
}

/// Latency without and with replication.
#[derive(Default)]
struct Pair {
    without: Window,
    with: Window,
    /// Median p50 of each suspended window: how far the control agrees with itself.
    controls: Samples,
}

impl Pair {
    fn ratio(&self) -> f64 {
        self.with.p50.median() / self.without.p50.median()
    }

    fn noise(&self) -> f64 {
        self.controls.max() / self.controls.percentile(0) - 1.0
    }
}

/// Suspended and resumed in turn; `seconds` of each. A resumed relationship begins with a cycle at once.
fn latency(world: &World, vm: &Vm, rounds: usize, seconds: [u64; 2]) -> Result<Pair> {
    let dir = world.run_dir(vm);
    let mut pair = Pair::default();
    let [without, with] = seconds.map(Duration::from_secs);
    let quiet = |pair: &mut Pair| -> Result<()> {
        world.a.ok(&["replication", "suspend", &vm.name])?;
        std::thread::sleep(Duration::from_secs(1));
        let window = watch(&dir, without)?;
        pair.controls.add(window.p50.median());
        pair.without.join(&window);
        Ok(())
    };
    for _ in 0..rounds {
        quiet(&mut pair)?;
        world.a.ok(&["replication", "resume", &vm.name])?;
        pair.with.join(&watch(&dir, with)?);
    }
    // The control is measured before and after what it controls.
    quiet(&mut pair)?;
    world.a.ok(&["replication", "resume", &vm.name])?;
    Ok(pair)
}

fn latency_line(at_30: &Pair, at_1: &Pair) -> Line {
    let stall = at_30.with.max.max() / 1000.0;
    let percent = |ratio: f64| (ratio - 1.0) * 100.0;
    let verdict = if stall > 200.0 && at_30.without.max.max() <= 200_000.0 {
        Verdict::Missed
    } else if at_30.ratio() <= 1.05 {
        Verdict::of(stall <= 200.0)
    } else if at_30.ratio() - 1.0 > at_30.noise() {
        Verdict::Missed
    } else {
        Verdict::Open
    };
    Line {
        what: "guest write latency while replicating at 30 s",
        budget: "≤ 5 % at p50, no stall over 200 ms",
        measured: format!(
            "{:+.1} % at p50, longest write {stall:.0} ms; at 1 s {:+.1} %, {:.0} ms",
            percent(at_30.ratio()),
            percent(at_1.ratio()),
            at_1.with.max.max() / 1000.0
        ),
        verdict,
        why: format!(
            "suspended windows differ among themselves by {:.1} % and {:.1} %, which is how much this run can tell; longest write while suspended {:.0} ms and {:.0} ms",
            at_30.noise() * 100.0,
            at_1.noise() * 100.0,
            at_30.without.max.max() / 1000.0,
            at_1.without.max.max() / 1000.0
        ),
    }
}

fn latency_details(at_30: &Pair, at_1: &Pair) -> (&'static str, String) {
    let mut table = String::from(
        "200 synced random 4 KiB writes a second in the guest; median over seconds of each second's percentile, in milliseconds. Replication is suspended and resumed in turn; a window begins with a cycle, so that the short run's of 20 s have one in 20 s rather than in 30.\n\n| | seconds | p50 | p99 | longest |\n|---|---|---|---|---|\n",
    );
    for (name, w) in [
        ("suspended", &at_30.without),
        ("every 30 s", &at_30.with),
        ("suspended", &at_1.without),
        ("every 1 s", &at_1.with),
    ] {
        let _ = writeln!(
            table,
            "| {name} | {} | {:.2} | {:.2} | {:.0} |",
            w.p50.len(),
            w.p50.median() / 1000.0,
            w.p99.median() / 1000.0,
            w.max.max() / 1000.0
        );
    }
    ("Guest write latency", table)
}

/// Both disks under load for a minute at an interval of 1 s.
fn interval(bench: &Bench, world: &World, vm: &Vm) -> Result<Line> {
    let dir = world.run_dir(vm);
    let seconds: u32 = bench.pick(60, 300);
    start_writer(
        &dir,
        "scatter /dev/lifeboat/sys-area --slots 4096 --rate 100 --ack-ms 600000 --direct",
    )?;
    let count = |name| world.a.counter(&vm.name, name);
    let before = [count("cycles")?, count("missed")?, count("failures")?];
    let mut latency = Samples::default();
    for _ in 0..seconds {
        std::thread::sleep(Duration::from_secs(1));
        latency.add(f64::from(u32::try_from(count("last_latency_ms")?)?));
    }
    let after = [count("cycles")?, count("missed")?, count("failures")?];
    stop_writers(&dir)?;
    let [cycles, missed, failed] = [0, 1, 2].map(|n: usize| {
        let value = |of: &[u64; 3]| of.get(n).copied().unwrap_or_default();
        value(&after).saturating_sub(value(&before))
    });
    Ok(Line {
        what: "smallest sustained interval",
        budget: "1 s with two disks under load",
        measured: format!("{cycles} cycles in {seconds} s at 1 s, {missed} late, {failed} failed"),
        verdict: Verdict::of(missed == 0 && failed == 0),
        why: format!(
            "instant to durable: p50 {:.0} ms, p99 {:.0} ms; 200 and 100 synced random 4 KiB writes a second",
            latency.median(),
            latency.percentile(99)
        ),
    })
}
