//! `make bench`: measures the built product against its budgets and writes `docs/benchmarks.md`. Every number that
//! can be is a ratio to a peer or to a control that was measured in the same run, interleaved with it, because machines
//! differ and other work runs beside. Nothing here passes or fails: a missed budget is a line in the table.
//!
//! `lifeboat-bench FILE [ROW...]` writes FILE; rows are `failover`, `copy`, `media`, `encryption`, `memory`, `cim`, `floods`, `guest` (default: all).
//! `BENCH_FULL=1` measures longer. The daemons are those of the `lifeboat` binary beside this one.
// To move into [workspace.lints] when all crates hold it.
#![warn(clippy::match_bool, clippy::option_option, clippy::struct_excessive_bools)]
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

mod guest;
mod machine;
mod process;
mod report;
mod rows;
mod stats;
mod world;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::report::Report;

/// Names of the groups of rows.
const GROUPS: [&str; 8] = [
    "failover",
    "copy",
    "media",
    "encryption",
    "memory",
    "cim",
    "floods",
    "guest",
];

/// What every row needs to know.
struct Bench {
    /// Directory for everything the run makes.
    root: PathBuf,
    /// The built product.
    lifeboat: PathBuf,
    /// `BENCH_FULL=1`.
    full: bool,
}

impl Bench {
    /// One of two numbers: of the short and of the long run.
    fn pick<T>(&self, quick: T, full: T) -> T {
        if self.full { full } else { quick }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let Some(file) = args.next() else {
        bail!("usage: lifeboat-bench FILE [ROW...]; rows: {}", GROUPS.join(", "));
    };
    let groups: Vec<String> = args.collect();
    if let Some(unknown) = groups.iter().find(|g| !GROUPS.contains(&g.as_str())) {
        bail!("there is no row \"{unknown}\"; rows: {}", GROUPS.join(", "));
    }
    let root = tempfile::Builder::new()
        .prefix("lifeboat-bench")
        .permissions(world::passable())
        .tempdir()?;
    let lifeboat = std::env::current_exe()?.with_file_name("lifeboat");
    if !lifeboat.exists() {
        bail!("the lifeboat binary is missing beside this one; run: make bench");
    }
    let bench = Bench {
        root: root.path().to_owned(),
        lifeboat,
        full: std::env::var("BENCH_FULL").is_ok_and(|v| v == "1"),
    };
    let dir = bench.root.clone();
    let work = tokio::task::spawn_blocking(move || measure(&bench, &groups));
    // Guests outlive daemons by design, so an interrupted run must end them itself.
    let done = tokio::select! {
        done = work => done.context("the run ended early")?,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    process::end_all(&dir);
    process::unmount_all(&dir);
    let interrupted = done.as_ref().is_err_and(|e| e.to_string() == "interrupted");
    if interrupted {
        // The measuring thread may be in the middle of anything; what it uses is gone, so nothing waits for it.
        let _ = std::fs::remove_dir_all(&dir);
        std::process::exit(130);
    }
    std::fs::write(&file, done?.markdown()).with_context(|| format!("cannot write {file}"))?;
    eprintln!("wrote {file}");
    Ok(())
}

fn measure(bench: &Bench, groups: &[String]) -> Result<Report> {
    let wanted = |name: &str| groups.is_empty() || groups.iter().any(|g| g == name);
    let mut report = Report::new(machine::facts(&bench.root, bench.full)?);
    for name in GROUPS.into_iter().filter(|n| wanted(n)) {
        eprintln!("== {name}");
        let part = match name {
            "failover" => rows::failover::measure(bench),
            "copy" => rows::copy::measure(bench),
            "media" => rows::media::measure(bench),
            "encryption" => rows::encryption::measure(bench),
            "memory" => rows::memory::measure(bench),
            "cim" => rows::cim::measure(bench),
            "floods" => rows::floods::measure(bench),
            _ => rows::guest::measure(bench),
        };
        // One row that cannot be measured here must not cost the others.
        match part {
            Ok(part) => report.add(part),
            Err(error) => report.failed(name, &error),
        }
    }
    report.finish(machine::load()?);
    Ok(report)
}

/// The test guest's images.
fn guest_images() -> Result<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest-image");
    if !dir.join("sys.qcow2").exists() {
        bail!("the guest image is missing; run: make guest");
    }
    Ok(dir)
}
