//! Floods of connections on each of the three ports, with the product's own limits, and a client that wants an answer meanwhile:
//! from an address that has never called before, and from the one that floods. The client gives up nothing: when it is dropped
//! it connects again, and the time counts from its first attempt.

mod callers;

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use crate::Bench;
use crate::process::memory_mib;
use crate::report::{Line, Part, Verdict};
use crate::rows::cim::{USER, add_user, free_port};
use crate::stats::Samples;
use crate::world::World;
use callers::{Callers, Port};

/// Connections of a flood: those that say nothing, and those that stop in the middle of a head after TLS.
const HALF_OPEN: usize = 2000;
const SLOW: usize = 700;
/// Addresses of a flood that does not come from the client's.
const ADDRESSES: u32 = 200;
/// After which a connection that was closed is made again.
const RENEWAL: Duration = Duration::from_secs(1);
/// Until a flood is at its height.
const RISE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(200);
const GIVE_UP: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    HalfOpen,
    Slow,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::HalfOpen => "2,000 half-open",
            Self::Slow => "700 slow after TLS",
        }
    }

    fn count(self) -> usize {
        match self {
            Self::HalfOpen => HALF_OPEN,
            Self::Slow => SLOW,
        }
    }
}

struct Case {
    port: Port,
    kind: Kind,
    same: bool,
    /// Milliseconds to an answer.
    answers: Samples,
    /// Connections of the client that were dropped.
    dropped: usize,
    /// Connections of the flood that were made.
    made: usize,
    /// The daemon's resident size before, and largest meanwhile.
    memory: [f64; 2],
}

pub(crate) fn measure(bench: &Bench) -> Result<Part> {
    raise_descriptors();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let ports = (free_port()?, free_port()?);
    let world = World::replica_only(bench, |host| {
        let users = host.dir.join("users.toml");
        add_user(&bench.lifeboat, &users)?;
        host.configure(&format!(
            "\n[management]\nwsman = \"127.0.0.1:{}\"\ncimxml = \"127.0.0.1:{}\"\nusers = \"{}\"\n",
            ports.0,
            ports.1,
            users.display()
        ))
    })?;
    let eve = world.unauthorized(bench, "eve.bench")?;
    let callers = Callers::new(
        &world.a.dir.join("tls"),
        &eve,
        [world.b.port, ports.0, ports.1],
        USER,
    )?;
    let daemon = world.b.pid()?;
    let rounds = bench.pick(20, 100);
    let cases = runtime.block_on(measure_all(Arc::new(callers), daemon, rounds))?;
    drop(runtime);
    Ok(part(&cases))
}

/// A flood costs this process as many descriptors as it has connections.
fn raise_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // When it is too low all the same, connecting fails and says so.
    let _ = setrlimit(Resource::Nofile, limit);
}

async fn measure_all(callers: Arc<Callers>, daemon: u32, rounds: usize) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let mut fresh = 0;
    for port in Port::ALL {
        callers
            .answered(port, Ipv4Addr::LOCALHOST)
            .await
            .context("without a flood")?;
        for kind in [Kind::HalfOpen, Kind::Slow] {
            for same in [false, true] {
                let case = measure_one(&callers, daemon, rounds, (port, kind, same), &mut fresh).await?;
                eprintln!("{}", row(&case).trim());
                cases.push(case);
                // What the flood left behind ends before the next one begins.
                tokio::time::sleep(RISE).await;
            }
        }
    }
    Ok(cases)
}

async fn measure_one(
    callers: &Arc<Callers>,
    daemon: u32,
    rounds: usize,
    (port, kind, same): (Port, Kind, bool),
    fresh: &mut u32,
) -> Result<Case> {
    let mut case = Case {
        port,
        kind,
        same,
        answers: Samples::default(),
        dropped: 0,
        made: 0,
        memory: [memory_mib(daemon, "VmRSS")?; 2],
    };
    let made = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut flood = JoinSet::new();
    for n in 0..u32::try_from(kind.count())? {
        let from = if same {
            Ipv4Addr::LOCALHOST
        } else {
            Ipv4Addr::from(0x7f01_0001 + n % ADDRESSES)
        };
        let (callers, made) = (callers.clone(), made.clone());
        flood.spawn(async move {
            loop {
                match kind {
                    Kind::HalfOpen => callers.half_open(port, from, &made).await,
                    Kind::Slow => callers.slow(port, from, &made).await,
                }
                tokio::time::sleep(RENEWAL).await;
            }
        });
    }
    tokio::time::sleep(RISE).await;
    for _ in 0..rounds {
        let from = if same {
            Ipv4Addr::LOCALHOST
        } else {
            *fresh += 1;
            Ipv4Addr::from(0x7f02_0001 + *fresh)
        };
        let start = Instant::now();
        while callers.answered(port, from).await.is_err() {
            case.dropped += 1;
            ensure!(
                start.elapsed() < GIVE_UP,
                "{} {}: no answer in {GIVE_UP:?}",
                port.name(),
                kind.name()
            );
        }
        case.answers.add(start.elapsed().as_secs_f64() * 1000.0);
        case.memory[1] = case.memory[1].max(memory_mib(daemon, "VmRSS")?);
        tokio::time::sleep(PAUSE).await;
    }
    flood.shutdown().await;
    case.made = made.load(std::sync::atomic::Ordering::Relaxed);
    Ok(case)
}

fn row(case: &Case) -> String {
    let from = if case.same { "the same" } else { "200 others" };
    let [before, largest] = case.memory;
    format!(
        "| {} | {} | {from} | {:.0} ms | {:.0} ms | {} of {} | {} | {before:.0} | {largest:.0} |\n",
        case.port.name(),
        case.kind.name(),
        case.answers.median(),
        case.answers.max(),
        case.dropped,
        case.dropped + case.answers.len(),
        case.made,
    )
}

fn part(cases: &[Case]) -> Part {
    let worst = |same: bool| {
        let of = cases.iter().filter(|c| c.same == same);
        of.map(|c| c.answers.max()).fold(0.0, f64::max) / 1000.0
    };
    let (others, same) = (worst(false), worst(true));
    let growth = cases
        .iter()
        .map(|c| c.memory[1] - c.memory[0])
        .fold(0.0, f64::max);
    let line = |what, budget, measured, met, why: &str| Line {
        what,
        budget,
        measured,
        verdict: Verdict::of(met),
        why: why.into(),
    };
    let lines = vec![
        line(
            "a client's answer while other addresses flood its port",
            "≤ 2 s",
            format!("{others:.2} s at worst"),
            others <= 2.0,
            "2,000 half-open and 700 slow connections from 200 addresses, each port in turn; the client has never called before",
        ),
        line(
            "the same while its own address floods",
            "≤ 10 s",
            format!("{same:.2} s at worst"),
            same <= 10.0,
            "with as many new connections as the client needs",
        ),
        line(
            "daemon memory, during a flood",
            "small",
            format!("{growth:.1} MiB more than before, at worst"),
            growth <= 64.0,
            "resident size",
        ),
    ];
    let mut text = String::from(
        "The daemon's own limits. A connection of the flood that was closed is made again a second later. Slow ones finish TLS and stop in the middle of a head: without credentials, and on the peers' port with a certificate of the authority that has no entry. The client shakes hands and asks one authenticated question over a new connection each time. Flood, client and daemon share the cores.\n\n| port | flood | from | answer p50 | longest | client's connections dropped | flood's connections | MiB before | largest |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for case in cases {
        let _ = write!(text, "{}", row(case));
    }
    Part {
        lines,
        details: vec![("Floods of connections", text)],
    }
}
