//! What the QEMU installed on this host is and can do: asked of the program itself, before anything is started.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lifeboat_engine::ports::hypervisor::HypervisorError;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::{Mutex, OnceCell};

use crate::config::{Accel, QemuConfig};
use crate::error::not_run;

/// Oldest QEMU whose capture commands were tried.
pub(crate) const OLDEST: (u32, u32) = (7, 2);

/// What a VM's process forbids itself by seccomp: obsolete system calls, more rights, other programs, and the priorities and
/// processors of processes.
pub(crate) const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The `-accel` argument of a machine whose instructions the processor executes.
pub(crate) const KVM: &str = "kvm";

/// How long it is believed what was asked: the program may be replaced by an upgrade.
const BELIEVED: Duration = Duration::from_secs(600);

/// What a program says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// Major and minor.
    pub(crate) version: (u32, u32),
    pub(crate) machines: BTreeSet<String>,
    pub(crate) cpus: BTreeSet<String>,
    /// Whether it can forbid itself what no guest needs; a build without libseccomp cannot.
    pub(crate) sandbox: bool,
}

/// What the program said when it was last asked.
#[derive(Debug, Default)]
pub(crate) struct Cache(Mutex<Option<(Instant, Arc<Known>)>>);

impl Cache {
    /// Asks, whatever is remembered.
    pub(crate) async fn ask(&self, binary: &str) -> Result<Arc<Known>, HypervisorError> {
        let mut remembered = self.0.lock().await;
        let known = Arc::new(known(binary).await?);
        *remembered = Some((Instant::now(), Arc::clone(&known)));
        Ok(known)
    }

    /// What is remembered, unless that was long ago.
    pub(crate) async fn recent(&self, binary: &str) -> Result<Arc<Known>, HypervisorError> {
        let remembered = self.0.lock().await.clone();
        match remembered {
            Some((at, known)) if at.elapsed() < BELIEVED => Ok(known),
            _ => self.ask(binary).await,
        }
    }
}

async fn known(binary: &str) -> Result<Known, HypervisorError> {
    // It reads its options in their order, and ends at one that it was built without.
    let mut text = ask(binary, &["-sandbox", SANDBOX, "--version"]).await?;
    let sandbox = parse_version(&text).is_some();
    if !sandbox {
        text = ask(binary, &["--version"]).await?;
    }
    let version = parse_version(&text)
        .ok_or_else(|| HypervisorError::Preflight(format!("{binary} --version says no version: {text}")))?;
    Ok(Known {
        version,
        machines: parse_names(&ask(binary, &["-machine", "help"]).await?),
        cpus: parse_names(&ask(binary, &["-cpu", "help"]).await?),
        sandbox,
    })
}

/// Names from a list as the program prints it: one a line, before its description. Old versions put the architecture
/// before names of CPUs, and their flags behind the list.
pub(crate) fn parse_names(text: &str) -> BTreeSet<String> {
    let lines = text.lines().take_while(|l| !l.starts_with("Recognized"));
    let name = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("x86") => words.next().map(str::to_owned),
            first => first.map(str::to_owned),
        }
    };
    lines.filter_map(name).collect()
}

/// Finds "version 10.0.2" in what the program says.
pub(crate) fn parse_version(text: &str) -> Option<(u32, u32)> {
    let number = text.split_once("version ")?.1;
    let mut parts = number.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What the program prints for `arguments`.
pub(crate) async fn ask(binary: &str, arguments: &[&str]) -> Result<String, HypervisorError> {
    let run = Command::new(binary)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let out = tokio::time::timeout(Duration::from_secs(30), run).await;
    match out {
        Ok(Ok(out)) => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
        Ok(Err(source)) => Err(not_run(binary)(source)),
        Err(_) => Err(HypervisorError::Preflight(format!(
            "{binary} {} did not answer within 30 s",
            arguments.join(" ")
        ))),
    }
}

/// Whether KVM is worth using here. That `/dev/kvm` exists proves nothing: it can be forbidden, fail at the first
/// instruction, or be a nested one so slow that no system boots on it. So the firmware of a machine without disks
/// is run to its end, and KVM must not take longer for it than twice the time of emulation, under the same load.
async fn kvm_works(binary: &str) -> bool {
    if OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return false;
    }
    const PATIENCE: Duration = Duration::from_secs(20);
    let emulated = firmware_time(binary, "tcg", PATIENCE).await.unwrap_or(PATIENCE);
    let limit = (emulated * 2).min(PATIENCE);
    let works = firmware_time(binary, KVM, limit).await.is_some();
    tracing::info!(works, ?emulated, "KVM was probed");
    works
}

/// Time from the start of a machine without disks until its firmware has found nothing to boot.
async fn firmware_time(binary: &str, accel: &str, limit: Duration) -> Option<Duration> {
    let begun = Instant::now();
    let mut child = Command::new(binary)
        .args(["-accel", accel, "-machine", "pc", "-cpu", "max", "-m", "16M"])
        .args(["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-chardev", "stdio,id=debug,signal=off"])
        .args(["-device", "isa-debugcon,iobase=0x402,chardev=debug"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .ok()?;
    let mut out = child.stdout.take()?;
    let finished = async {
        let mut said = Vec::new();
        while !String::from_utf8_lossy(&said).contains("No bootable device") {
            if out.read_buf(&mut said).await.unwrap_or(0) == 0 {
                return None;
            }
        }
        Some(begun.elapsed())
    };
    let time = tokio::time::timeout(limit, finished).await.ok().flatten();
    if let Err(error) = child.kill().await {
        tracing::debug!(%error, "the probe had ended by itself");
    }
    time
}

/// The `-accel` argument, and whether it is KVM. What a probe found is kept in `known`.
pub(crate) async fn accel(
    config: &QemuConfig,
    known: &OnceCell<bool>,
) -> Result<(&'static str, bool), HypervisorError> {
    const TCG: (&str, bool) = ("tcg,thread=multi", false);
    if config.accel == Accel::Tcg {
        return Ok(TCG);
    }
    let works = *known.get_or_init(|| kvm_works(config.binary())).await;
    match config.accel {
        Accel::Auto | Accel::Kvm if works => Ok((KVM, true)),
        Accel::Auto | Accel::Tcg => Ok(TCG),
        Accel::Kvm => Err(HypervisorError::Preflight(
            "KVM does not work on this host, or slower than emulation: check that /dev/kvm exists, that this user may open it and that \
             virtualization is enabled in the firmware, or allow emulation (accel = \"tcg\")"
                .into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_lists_old_and_new() {
        let old = "Available CPUs:\nx86 486  (alias configured by machine type)\nx86 max  Enables all features\n\n\
                   Recognized CPUID flags:\n  3dnow aes\n";
        let new =
            "Available CPUs:\n  486   (alias of 486-v1)\n  max\n\nRecognized CPUID flags:\n  3dnow aes\n";
        for text in [old, new] {
            let names = parse_names(text);
            assert!(names.contains("486") && names.contains("max"), "{names:?}");
            assert!(!names.contains("aes") && !names.contains("3dnow"), "{names:?}");
        }
    }

    #[test]
    fn versions_are_read_as_distributions_print_them() {
        let table = [
            (
                "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)",
                Some((10, 0)),
            ),
            ("QEMU emulator version 7.2.22", Some((7, 2))),
            ("QEMU emulator version 9.1.0-rc1", Some((9, 1))),
            ("qemu-kvm", None),
            ("version x", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_version(text), expected, "{text}");
        }
    }
}
