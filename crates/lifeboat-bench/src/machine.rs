//! What the reader must know of the machine, and nothing that names it.

use std::fs::read_to_string;
use std::path::Path;

use anyhow::Result;

use crate::process::output;

/// The value after the first line of `text` that starts with `key`.
fn field<'a>(text: &'a str, key: &str) -> &'a str {
    let line = text.lines().find(|l| l.starts_with(key)).unwrap_or_default();
    line.split_once(':').map_or("unknown", |(_, v)| v.trim())
}

/// Facts as a Markdown list. `dir` is where the disks of the run are.
pub(crate) fn facts(dir: &Path, full: bool) -> Result<String> {
    let cpu = read_to_string("/proc/cpuinfo")?;
    let memory = read_to_string("/proc/meminfo")?;
    let kib: u64 = field(&memory, "MemTotal")
        .trim_end_matches(" kB")
        .parse()
        .unwrap_or_default();
    let cores = cpu.lines().filter(|l| l.starts_with("processor")).count();
    let kernel = read_to_string("/proc/sys/kernel/osrelease")?;
    let first = |text: String| text.lines().next().unwrap_or_default().to_owned();
    let qemu = first(output("qemu-system-x86_64", &["--version"])?);
    let nbdcopy = first(output("nbdcopy", &["--version"])?);
    let dir = dir.to_string_lossy();
    let fs = output("stat", &["-f", "-c", "%T", &dir])?;
    let date = output("date", &["-u", "+%F"])?;
    let length = if full { "long" } else { "short" };
    Ok(format!(
        "- {}, {cores} cores, {} GiB memory\n- Linux {}, disks on {}\n- {qemu}, guests emulated (TCG); {nbdcopy}\n- {}, {length} run; {}\n",
        field(&cpu, "model name"),
        kib >> 20,
        kernel.trim(),
        fs.trim(),
        date.trim(),
        load()?
            .trim_start_matches("- ")
            .replace("load at the end", "load at the start")
            .trim()
    ))
}

/// The load average now, as a Markdown list item.
pub(crate) fn load() -> Result<String> {
    let text = read_to_string("/proc/loadavg")?;
    let three: Vec<&str> = text.split_whitespace().take(3).collect();
    Ok(format!(
        "- load at the end (1, 5, 15 minutes): {}\n",
        three.join(", ")
    ))
}
