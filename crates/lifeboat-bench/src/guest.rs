//! The test guest: commands through its agent, and the writers' latency lines on its console.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use lifeboat_block::agent::Agent;

use crate::process::wait;
use crate::stats::Samples;

/// Runs a shell line in the guest whose run directory is `dir`.
pub(crate) fn shell(dir: &Path, script: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut agent = Agent::connect(dir.join("agent.sock")).await?;
        agent.sync(Duration::from_secs(10)).await?;
        let done = agent.exec_sh(script, Duration::from_secs(120)).await?;
        if done.exit != Some(0) {
            bail!(
                "in the guest: {script}: {}",
                String::from_utf8_lossy(&done.stderr)
            );
        }
        Ok(())
    })
}

/// Waits until the guest has booted and its agent answers.
pub(crate) fn wait_ready(dir: &Path) -> Result<()> {
    let pause = Duration::from_millis(200);
    wait("the guest's agent", Duration::from_secs(180), pause, || {
        Ok(shell(dir, "true").ok())
    })
}

/// Starts a writer whose lines go to the console, and waits until it writes: it first looks for its last record.
pub(crate) fn start_writer(dir: &Path, writer: &str) -> Result<()> {
    let from = mark(dir)?;
    let mode = writer.split_whitespace().next().unwrap_or_default();
    let line = format!("LAT {mode}");
    shell(
        dir,
        &format!("(lifeboat-workload {writer} >/dev/ttyS0 2>&1 </dev/null &)"),
    )?;
    let pause = Duration::from_millis(100);
    wait("the guest's writer", Duration::from_secs(120), pause, || {
        Ok(since(dir, from)?.contains(&line).then_some(()))
    })
}

pub(crate) fn stop_writers(dir: &Path) -> Result<()> {
    shell(dir, "killall lifeboat-workload; sleep 0.2; sync; true")
}

/// What one window of time showed; one sample a second, in microseconds.
#[derive(Default)]
pub(crate) struct Window {
    /// Records written.
    pub(crate) writes: f64,
    pub(crate) p50: Samples,
    pub(crate) p99: Samples,
    pub(crate) max: Samples,
}

impl Window {
    pub(crate) fn join(&mut self, other: &Self) {
        self.writes += other.writes;
        self.p50.extend(&other.p50);
        self.p99.extend(&other.p99);
        self.max.extend(&other.max);
    }

    fn line(&mut self, line: &str) {
        let field = |name: &str| {
            let found = line.split_whitespace().find_map(|w| w.strip_prefix(name));
            found.and_then(|v| v.parse::<f64>().ok())
        };
        if let (true, Some(n), Some(p50), Some(p99), Some(max)) = (
            line.contains("LAT scatter"),
            field("n="),
            field("p50="),
            field("p99="),
            field("max="),
        ) {
            self.writes += n;
            self.p50.add(p50);
            self.p99.add(p99);
            self.max.add(max);
        }
    }
}

/// How long the guest's console is now, in bytes.
pub(crate) fn mark(dir: &Path) -> Result<usize> {
    Ok(usize::try_from(
        std::fs::metadata(dir.join("console.log"))?.len(),
    )?)
}

fn since(dir: &Path, mark: usize) -> Result<String> {
    let bytes = std::fs::read(dir.join("console.log"))?;
    Ok(String::from_utf8_lossy(bytes.get(mark..).unwrap_or_default()).into_owned())
}

/// What the scatter writer has said since a mark.
pub(crate) fn said(dir: &Path, mark: usize) -> Result<Window> {
    let mut window = Window::default();
    // The first line speaks of the second before.
    for line in since(dir, mark)?.lines().skip(1) {
        window.line(line);
    }
    if window.p50.len() == 0 {
        bail!("the guest's writer says nothing any more");
    }
    Ok(window)
}

/// Watches the scatter writer for `time`.
pub(crate) fn watch(dir: &Path, time: Duration) -> Result<Window> {
    let from = mark(dir)?;
    std::thread::sleep(time);
    said(dir, from)
}
