//! How much of this host a guest's process may use: memory, tasks, and an equal share of processor and disks. A scope of systemd
//! with cgroup v2 holds that. The process is moved there after it has come up and before the guest executes anything, so a
//! guest starts also where systemd refuses or is not there. What the process may *do* is [`crate::confine`]'s business.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use lifeboat_engine::ports::hypervisor::Launch;
use tokio::process::Command;

/// How long a start waits for systemd.
const LIMIT: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(10);

/// Where the hierarchy of cgroup v2 is, and what only systemd makes (sd_booted(3)).
const CGROUPS: &str = "/sys/fs/cgroup";
const BOOTED: &str = "/run/systemd/system";
/// The name of the first process. In a container with the host's `/run` it is not systemd, and systemd would take a process
/// number for another process.
const FIRST_PROCESS: &str = "/proc/1/comm";

/// Threads of one process: virtual processors, and at most 64 workers for each of its event loops (QEMU's thread-pool-max).
const TASKS: u64 = 4096;

/// What a guest's process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes, with what the kernel caches for the process, which it gives back first.
    memory: u64,
}

impl Limits {
    /// The guest's memory, an eighth of it for page tables and devices, 64 MiB for the caches of each disk, and 2 GiB, of which
    /// QEMU's translated code takes 1 GiB at most. A process that needs more than this is not doing what a guest asks for.
    pub(crate) fn of(launch: &Launch) -> Self {
        const MIB: u64 = 1 << 20;
        let guest = u64::from(launch.spec.memory_mib);
        let disks = launch.disks.len() as u64;
        Self {
            memory: (guest + guest / 8 + 64 * disks + 2048) * MIB,
        }
    }

    /// Puts the process `pid` of the VM under its limits where this host has systemd and cgroup v2, and looks whether they hold.
    /// What goes wrong is logged: a guest that has to run goes without limits rather than not at all.
    pub(crate) async fn put_on(self, launch: &Launch, pid: i32) {
        if !available(Path::new(BOOTED), Path::new(FIRST_PROCESS), Path::new(CGROUPS)) {
            return;
        }
        let vm = launch.spec.uuid;
        // Until systemd has seen the end of an earlier process its scope's name is taken.
        let unit = format!("lifeboat-{vm}-{pid}.scope");
        let request = self.request(&unit, &launch.spec.name, pid);
        let put_on = async {
            call(&request).await?;
            while !self.hold(&unit, pid)? {
                tokio::time::sleep(POLL).await;
            }
            Ok(())
        };
        let late = || io::Error::other(format!("systemd has not done it within {} s", LIMIT.as_secs()));
        let put_on: io::Result<()> = tokio::time::timeout(LIMIT, put_on)
            .await
            .unwrap_or_else(|_| Err(late()));
        if let Err(error) = put_on {
            tracing::warn!(%vm, unit, %error, "the VM runs without limits of memory and tasks");
        }
    }

    /// The call of systemd's D-Bus interface (org.freedesktop.systemd1(5)), as arguments of busctl(1).
    fn request(self, unit: &str, name: &str, pid: i32) -> Vec<String> {
        const MANAGER: [&str; 5] = [
            "org.freedesktop.systemd1",
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
            "StartTransientUnit",
            "ssa(sv)a(sa(sv))",
        ];
        let properties = [
            ("Description", "s", format!("Lifeboat guest {name}")),
            ("Slice", "s", "lifeboat.slice".to_owned()),
            ("CollectMode", "s", "inactive-or-failed".to_owned()),
            ("MemoryMax", "t", self.memory.to_string()),
            ("TasksMax", "t", TASKS.to_string()),
            ("CPUWeight", "t", "100".to_owned()),
            ("IOWeight", "t", "100".to_owned()),
        ];
        let mut arguments: Vec<String> = ["--system", "--quiet", "call", "--"].map(str::to_owned).into();
        arguments.extend(MANAGER.map(str::to_owned));
        arguments.extend([unit, "fail"].map(str::to_owned));
        arguments.push((properties.len() + 1).to_string());
        for (property, kind, value) in properties {
            arguments.extend([property.to_owned(), kind.to_owned(), value]);
        }
        arguments.extend(["PIDs", "au", "1", &pid.to_string(), "0"].map(str::to_owned));
        arguments
    }

    /// Whether the process is in its scope and the kernel has its limit of memory. The kernel counts in whole pages.
    fn hold(self, unit: &str, pid: i32) -> io::Result<bool> {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let Some(group) = unified(&groups).filter(|group| group.ends_with(&format!("/{unit}"))) else {
            return Ok(false);
        };
        let file = format!("{CGROUPS}{group}/memory.max");
        let max = std::fs::read_to_string(&file);
        let max = max.map_err(|e| io::Error::new(e.kind(), format!("{file}: {e}")))?;
        Ok(max.trim_end().parse().is_ok_and(|max: u64| max <= self.memory))
    }
}

/// Whether systemd runs what this process sees as the host, with cgroup v2 alone, as it does since version 248 unless it is told
/// otherwise.
fn available(booted: &Path, first: &Path, cgroups: &Path) -> bool {
    let first = std::fs::read_to_string(first);
    booted.is_dir()
        && first.is_ok_and(|name| name.trim_end() == "systemd")
        && cgroups.join("cgroup.controllers").is_file()
}

/// The group of cgroup v2 that a process is in, from its `/proc/PID/cgroup` (cgroups(7)).
fn unified(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| line.strip_prefix("0::"))
}

async fn call(arguments: &[String]) -> io::Result<()> {
    let called = Command::new("busctl")
        .args(arguments)
        // systemd expects notifications of the daemon only.
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| io::Error::new(e.kind(), format!("busctl: {e}")))?;
    if called.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&called.stderr);
    Err(io::Error::other(format!(
        "busctl: {}: {}",
        called.status,
        said.trim()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_asked_for_where_systemd_has_cgroup_v2_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let [booted, first, cgroups] = ["system", "comm", "cgroup"].map(|name| dir.path().join(name));
        let is = || available(&booted, &first, &cgroups);
        std::fs::write(&first, "systemd\n").unwrap();
        std::fs::create_dir(&cgroups).unwrap();
        assert!(!is());
        std::fs::create_dir(&booted).unwrap();
        assert!(!is(), "the hierarchies of cgroup v1");
        std::fs::write(cgroups.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        assert!(is());
        std::fs::write(&first, "bash\n").unwrap();
        assert!(!is(), "a container with the host's /run");
    }

    #[test]
    fn a_scope_is_asked_for_with_every_property_and_its_type() {
        let limits = Limits { memory: 3 << 30 };
        let request = limits.request("lifeboat-x-42.scope", "web; --x", 42);
        let call = request.iter().position(|a| a == "--").unwrap();
        let words: Vec<_> = request[call + 1..].iter().map(String::as_str).collect();
        assert_eq!(
            words[3..8],
            [
                "StartTransientUnit",
                "ssa(sv)a(sa(sv))",
                "lifeboat-x-42.scope",
                "fail",
                "8"
            ]
        );
        let (properties, end) = words[8..].split_at(7 * 3);
        let pairs: Vec<_> = properties.chunks(3).map(|p| (p[0], p[1], p[2])).collect();
        assert!(pairs.contains(&("Description", "s", "Lifeboat guest web; --x")));
        assert!(pairs.contains(&("MemoryMax", "t", "3221225472")));
        assert!(pairs.contains(&("TasksMax", "t", "4096")));
        assert_eq!(end, ["PIDs", "au", "1", "42", "0"]);
    }

    #[test]
    fn the_group_of_a_process_is_read_beside_those_of_version_1() {
        assert_eq!(
            unified("0::/lifeboat.slice/a.scope\n"),
            Some("/lifeboat.slice/a.scope")
        );
        assert_eq!(unified("8:pids:/\n1:cpu:/\n0::/\n"), Some("/"));
        assert_eq!(unified("8:pids:/\n"), None);
    }

    #[test]
    fn a_process_that_is_in_no_scope_has_no_limits() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let limits = Limits { memory: 1 << 30 };
        assert!(!limits.hold("lifeboat-x-1.scope", pid).unwrap());
    }
}
