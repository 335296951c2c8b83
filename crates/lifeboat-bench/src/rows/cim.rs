//! The management API under load: many clients that list many VMs and their recovery points at once, in both protocols, and
//! one client that wants to see one VM meanwhile. Answers are checked for completeness; what a wrong one cost says nothing.

mod client;
mod replicas;

use std::collections::HashSet;
use std::fmt::Write;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use camino::Utf8Path;
use uuid::Uuid;

use crate::Bench;
use crate::process::{cpu_seconds, memory_mib};
use crate::report::{Line, Part, Verdict};
use crate::stats::Samples;
use crate::world::World;
use client::{Form, Listed, Target};
use replicas::Made;

const VMS: usize = 500;
const POINTS: usize = 24;
const CLIENTS: usize = 50;
/// Between two questions for one VM while the others list.
const PAUSE: Duration = Duration::from_millis(100);
pub(crate) const USER: (&str, &str) = ("bench", "correct-horse");

/// What is listed.
struct Class {
    name: &'static str,
    items: usize,
    /// What must be among the ids in the answer.
    ids: HashSet<Uuid>,
}

/// One class in one form.
struct Case {
    class: &'static str,
    form: Form,
    items: usize,
    mib: f64,
    /// Milliseconds of each of some one after another, half of them before those at once, half after.
    alone: Samples,
    /// Milliseconds on the average, and the daemon's processor seconds for each.
    alone_mean: f64,
    alone_cpu: f64,
    /// Seconds until the last of all was done.
    all: f64,
    /// Milliseconds of each of those.
    each: Samples,
    /// Milliseconds of every answer of those.
    answers: Samples,
    /// Milliseconds to get one VM, before and while they listed.
    get_before: Samples,
    get_meanwhile: Samples,
    /// The daemon's resident size before, largest meanwhile, and after.
    memory: [f64; 3],
    /// The daemon's processor seconds for all.
    cpu: f64,
}

impl Case {
    /// Time of all at once by the time that as many take one after another.
    fn ratio(&self) -> f64 {
        self.all * 1000.0 / (self.alone_mean * CLIENTS as f64)
    }
}

pub(crate) fn measure(bench: &Bench) -> Result<Part> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let (ports, mut made) = ((free_port()?, free_port()?), Vec::new());
    let world = World::replica_only(bench, |host| {
        let users = host.dir.join("users.toml");
        add_user(&bench.lifeboat, &users)?;
        host.configure(&format!(
            "\n[management]\nwsman = \"127.0.0.1:{}\"\ncimxml = \"127.0.0.1:{}\"\nusers = \"{}\"\n",
            ports.0,
            ports.1,
            users.display()
        ))?;
        let dir = Utf8Path::from_path(&host.dir).context("the directory is not UTF-8")?;
        let (location, state) = (dir.join("replicas"), dir.join("state"));
        let work = replicas::make(&location, &state, VMS, POINTS);
        made = runtime.block_on(work)?;
        Ok(())
    })?;
    let target = Target::new(&world.b.dir.join("tls/ca.crt"), ports, USER.0, USER.1)?;
    let daemon = world.b.pid()?;
    let alone = bench.pick(5, 25);
    let fresh = memory_mib(daemon, "VmRSS")?;
    let cases = runtime.block_on(measure_all(Arc::new(target), daemon, &made, alone))?;
    Ok(part(&cases, fresh))
}

pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

pub(crate) fn add_user(lifeboat: &Path, users: &Path) -> Result<()> {
    let mut child = Command::new(lifeboat)
        .args(["user", "add", USER.0, "--role", "viewer", "--users"])
        .arg(users)
        .stdin(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("the command takes no password")?;
    writeln!(input, "{}", USER.1)?;
    drop(input);
    ensure!(child.wait()?.success(), "the user cannot be added");
    Ok(())
}

fn classes(made: &[Made]) -> [Class; 2] {
    let vms: HashSet<Uuid> = made.iter().map(|m| m.vm.0).collect();
    let points = made.iter().flat_map(|m| m.names.iter().copied());
    let all = vms.iter().copied().chain(points).collect();
    [
        Class {
            name: "Msvm_ComputerSystem",
            // The host is one.
            items: VMS + 1,
            ids: vms,
        },
        Class {
            name: "Msvm_VirtualSystemSettingData",
            items: VMS * (1 + POINTS),
            ids: all,
        },
    ]
}

async fn measure_all(target: Arc<Target>, daemon: u32, made: &[Made], alone: usize) -> Result<Vec<Case>> {
    let vm = made.first().context("there are replicas")?.vm.0;
    let mut cases = Vec::new();
    for class in classes(made) {
        for form in Form::ALL {
            eprintln!("{}, {}", class.name, form.name());
            cases.push(case(&target, daemon, &class, form, vm, alone).await?);
        }
    }
    Ok(cases)
}

async fn case(
    target: &Arc<Target>,
    daemon: u32,
    class: &Class,
    form: Form,
    vm: Uuid,
    alone: usize,
) -> Result<Case> {
    let first = target.list(form, class.name, true).await?;
    complete(class, &first)?;
    // Small listings are over before a busy machine shows: as many of them as there are clients.
    let alone = if class.items < VMS * 2 { CLIENTS / 2 } else { alone };
    let (mut singles, mut alone_cpu) = (Vec::new(), 0.0);
    alone_cpu += one_by_one(target, daemon, class, form, alone, &mut singles).await?;
    let mut get_before = Vec::new();
    for _ in 0..20 {
        get_before.push(target.get(vm).await?);
    }
    let (before, cpu) = (memory_mib(daemon, "VmRSS")?, cpu_seconds(daemon)?);
    // From now on the kernel counts the largest size again.
    std::fs::write(format!("/proc/{daemon}/clear_refs"), "5")?;
    let crowd = at_once(target, class, form, vm).await?;
    let (peak, after) = (memory_mib(daemon, "VmHWM")?, memory_mib(daemon, "VmRSS")?);
    let cpu = cpu_seconds(daemon)? - cpu;
    alone_cpu += one_by_one(target, daemon, class, form, alone, &mut singles).await?;
    let times = singles.len() as f64;
    Ok(Case {
        class: class.name,
        form,
        items: class.items,
        mib: first.bytes as f64 / f64::from(1 << 20),
        alone_mean: singles.iter().sum::<f64>() / times,
        alone_cpu: alone_cpu / times,
        alone: singles.into_iter().collect(),
        all: crowd.all,
        each: crowd.each.into_iter().collect(),
        answers: crowd.answers.into_iter().collect(),
        get_before: get_before.into_iter().collect(),
        get_meanwhile: crowd.gets.into_iter().collect(),
        memory: [before, peak, after],
        cpu,
    })
}

/// What many at once experienced.
struct Crowd {
    /// Seconds until the last was done.
    all: f64,
    each: Vec<f64>,
    answers: Vec<f64>,
    gets: Vec<f64>,
}

async fn at_once(target: &Arc<Target>, class: &Class, form: Form, vm: Uuid) -> Result<Crowd> {
    let start = Instant::now();
    let begin = |_| {
        let (target, name) = (target.clone(), class.name);
        tokio::spawn(async move { target.list(form, name, false).await })
    };
    let listing: Vec<_> = (0..CLIENTS).map(begin).collect();
    let (target, ended) = (target.clone(), Arc::new(AtomicBool::new(false)));
    let stop = ended.clone();
    // On a thread of its own: behind the reading of so many answers it would measure this program.
    let asking = std::thread::spawn(move || ask_on(&target, vm, &stop));
    let (mut each, mut answers) = (Vec::new(), Vec::new());
    for one in listing {
        let listed = one.await??;
        counted(class, &listed)?;
        each.push(listed.took);
        answers.extend(listed.answers);
    }
    let all = start.elapsed().as_secs_f64();
    ended.store(true, Ordering::Relaxed);
    Ok(Crowd {
        all,
        each,
        answers,
        gets: asking.join().map_err(|_| anyhow!("asking for one VM failed"))??,
    })
}

/// Gets one VM again and again; the milliseconds of each.
fn ask_on(target: &Target, vm: Uuid, stop: &AtomicBool) -> Result<Vec<f64>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut gets = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        gets.push(runtime.block_on(target.get(vm))?);
        std::thread::sleep(PAUSE);
    }
    Ok(gets)
}

/// Lists so many times; the daemon's processor seconds for them.
async fn one_by_one(
    target: &Target,
    daemon: u32,
    class: &Class,
    form: Form,
    times: usize,
    took: &mut Vec<f64>,
) -> Result<f64> {
    let before = cpu_seconds(daemon)?;
    for _ in 0..times {
        let listed = target.list(form, class.name, false).await?;
        counted(class, &listed)?;
        took.push(listed.took);
    }
    Ok(cpu_seconds(daemon)? - before)
}

fn counted(class: &Class, listed: &Listed) -> Result<()> {
    let (found, wanted) = (listed.items, class.items);
    ensure!(
        found == wanted,
        "{found} instances of {}, not {wanted}",
        class.name
    );
    Ok(())
}

/// Whether each id is there; with the number right, each is there once.
fn complete(class: &Class, listed: &Listed) -> Result<()> {
    counted(class, listed)?;
    let text = std::str::from_utf8(&listed.text)?;
    let values = text
        .split('>')
        .filter_map(|part| part.split_once('<').map(|(value, _)| value));
    let ids = values.filter_map(|v| v.strip_prefix("Microsoft:").unwrap_or(v).parse().ok());
    let found: HashSet<Uuid> = ids.collect();
    match class.ids.difference(&found).next() {
        Some(missing) => bail!("{missing} is missing among the instances of {}", class.name),
        None => Ok(()),
    }
}

fn part(cases: &[Case], fresh: f64) -> Part {
    let many = || cases.iter().filter(|c| c.items > VMS * 2);
    let listed = |what: &dyn Fn(&Case) -> String| {
        let each: Vec<_> = many().map(|c| format!("{} {}", c.form.name(), what(c))).collect();
        each.join("; ")
    };
    let worst = cases.iter().map(Case::ratio).fold(0.0, f64::max);
    let mut gets = Samples::default();
    cases.iter().for_each(|c| gets.extend(&c.get_meanwhile));
    let more = |c: &Case| {
        let [before, peak, _] = c.memory;
        peak - before
    };
    let largest = cases.iter().map(|c| c.memory[1]).fold(0.0, f64::max);
    let added = cases.iter().map(more).fold(0.0, f64::max);
    let lines = vec![
        Line {
            what: "50 CIM clients at once list 500 VMs with 24 points each",
            budget: "≤ 1.2 × 50 such one after another",
            measured: format!("{worst:.2} × at worst"),
            verdict: Verdict::of(worst <= 1.2),
            why: format!(
                "12,500 instances for each client, p99 of the 50: {}; one alone: {}",
                listed(&|c| format!("{:.1} s", c.each.percentile(99) / 1000.0)),
                listed(&|c| format!("{:.2} s", c.alone.median() / 1000.0))
            ),
        },
        Line {
            what: "one VM asked for meanwhile",
            budget: "≤ 1 s at p99",
            measured: format!(
                "p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms ({} times)",
                gets.median(),
                gets.percentile(99),
                gets.max(),
                gets.len()
            ),
            verdict: Verdict::of(gets.percentile(99) <= 1000.0),
            why: "WS-Management Get, each over a new TLS connection".into(),
        },
        Line {
            what: "daemon memory, 50 such clients at once",
            budget: "≤ 64 MiB more than before",
            measured: format!("{added:.1} MiB more, {largest:.1} MiB in all (started: {fresh:.1} MiB)"),
            verdict: Verdict::of(added <= 64.0),
            why: "largest resident size while they list less the one before; the largest of all forms".into(),
        },
    ];
    Part {
        lines,
        details: vec![("Enumerations by 50 CIM clients at once", details(cases))],
    }
}

fn details(cases: &[Case]) -> String {
    let mut text = String::from(
        "One host, 500 replicas with 24 sealed points each; TLS, Basic, a connection for each client. WS-Management asks for 32,000 instances in at most 512,000 bytes an answer, optimised. Clients run on the same cores and count what comes; a wrong number fails the row, and each form's first listing is searched for every id. Times by the client's clock, first byte of the handshake to the last of the answer.\n\n| | instances | MiB | alone | instances/s | 50 at once: last done | × 50 alone | p50 | p99 | one answer p50 | p99 |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for c in cases {
        let second = |ms: f64| ms / 1000.0;
        let _ = writeln!(
            text,
            "| {}, {} | {} | {:.1} | {:.2} s | {:.0} | {:.1} s | {:.2} | {:.1} s | {:.1} s | {:.0} ms | {:.0} ms |",
            short(c.class),
            c.form.name(),
            c.items,
            c.mib,
            second(c.alone.median()),
            c.items as f64 / second(c.alone.median()),
            c.all,
            c.ratio(),
            second(c.each.median()),
            second(c.each.percentile(99)),
            c.answers.median(),
            c.answers.percentile(99)
        );
    }
    text.push_str("\nThe daemon meanwhile, and one VM asked for before and while they list:\n\n| | MiB before | largest | after | processor | an instance | of one alone | Get before p50 | meanwhile p50 | p99 | longest |\n|---|---|---|---|---|---|---|---|---|---|---|\n");
    for c in cases {
        let [before, peak, after] = c.memory;
        let _ = writeln!(
            text,
            "| {}, {} | {before:.1} | {peak:.1} | {after:.1} | {:.1} s | {:.0} µs | {:.0} µs | {:.0} ms | {:.0} ms | {:.0} ms | {:.0} ms |",
            short(c.class),
            c.form.name(),
            c.cpu,
            c.cpu * 1e6 / (c.items * CLIENTS) as f64,
            c.alone_cpu * 1e6 / c.items as f64,
            c.get_before.median(),
            c.get_meanwhile.median(),
            c.get_meanwhile.percentile(99),
            c.get_meanwhile.max()
        );
    }
    text
}

fn short(class: &str) -> &str {
    match class {
        "Msvm_ComputerSystem" => "VMs",
        _ => "VMs' settings and points",
    }
}
