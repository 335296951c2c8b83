//! Other programs: run to their end, or kept and ended with their owner; and what the kernel says of a process.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Runs a program that must succeed; its standard output.
pub(crate) fn output(program: &str, args: &[&str]) -> Result<String> {
    let out = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}; run: make setup"))?;
    if !out.status.success() {
        bail!(
            "{program} {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A program that is killed when this is dropped.
pub(crate) struct Kept(Child);

impl Kept {
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).spawn();
        Ok(Self(child.with_context(|| {
            format!("cannot start {}", command.get_program().to_string_lossy())
        })?))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended.
    pub(crate) fn ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks again and again until there is an answer.
pub(crate) fn wait<T>(
    what: &str,
    limit: Duration,
    pause: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = ask()? {
            return Ok(found);
        }
        if Instant::now() > end {
            bail!("waited {limit:?} in vain for {what}");
        }
        std::thread::sleep(pause);
    }
}

/// Processes whose command line names a file below `dir`.
fn below(dir: &Path) -> Vec<(u32, String)> {
    let wanted = dir.to_string_lossy().into_owned();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|e| {
            let pid: u32 = e.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(e.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).into_owned();
            (pid != std::process::id() && line.contains(&wanted)).then_some((pid, line))
        })
        .collect()
}

/// The system emulator that uses `dir`.
pub(crate) fn emulator(dir: &Path) -> Option<u32> {
    let found = below(dir).into_iter();
    let qemu = |line: &str| line.split('\0').next().is_some_and(|p| p.contains("qemu-system"));
    found.into_iter().find(|(_, line)| qemu(line)).map(|(pid, _)| pid)
}

/// Ends every process that was given a file below `dir`, a directory only this run knows, and waits until all are gone.
pub(crate) fn end_all(dir: &Path) {
    for _ in 0..200 {
        let all = below(dir);
        if all.is_empty() {
            return;
        }
        for (pid, _) in all {
            let _ = Command::new("kill")
                .args(["-9", &pid.to_string()])
                .stderr(Stdio::null())
                .status();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Unmounts what is mounted below `dir`: an interrupted run leaves it.
pub(crate) fn unmount_all(dir: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    for place in places.filter(|place| Path::new(place).starts_with(dir)) {
        let _ = Command::new("umount").args(["-l", place]).status();
    }
}

/// A size from `/proc/PID/status` in MiB: `VmRSS`, or `VmHWM` for its largest value ever.
pub(crate) fn memory_mib(pid: u32, key: &str) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u32>().ok());
    Ok(f64::from(kib.with_context(|| format!("process {pid} tells no {key}"))?) / 1024.0)
}

/// Processor seconds a process has used, in hundredths.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    // User and system time are the 14th and 15th field; the text starts at the third.
    let ticks = |n: usize| {
        after
            .split_whitespace()
            .nth(n)
            .and_then(|w| w.parse::<u32>().ok())
    };
    let both = ticks(11)
        .zip(ticks(12))
        .context("the kernel's numbers make no sense")?;
    Ok(f64::from(both.0 + both.1) / 100.0)
}

/// MiB that the files below `dir` take on disk.
pub(crate) fn usage_mib(dir: &Path) -> Result<f64> {
    let text = output("du", &["-s", "--block-size=1K", &dir.to_string_lossy()])?;
    let kib = text.split_whitespace().next().and_then(|w| w.parse::<u32>().ok());
    Ok(f64::from(kib.context("du printed something else")?) / 1024.0)
}
