//! Processes that outlive the daemon: started on their own, recorded, found again, signalled without ever meeting
//! another process that was given the same number. It knows nothing of what runs in them.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use lifeboat_engine::ports::hypervisor::GuestProcess;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};

use crate::files;

/// A process as it is written down. A number alone says nothing: the kernel gives it to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PidRecord {
    pub(crate) pid: i32,
    /// Start time in clock ticks since boot.
    pub(crate) start_time: u64,
}

impl PidRecord {
    /// The process that has this number now; `None` when it is gone or only waits to be reaped. An error when the system
    /// does not say, which proves nothing.
    pub(crate) fn examine(pid: i32) -> io::Result<Option<Self>> {
        let Some(stat) = there(fs::read_to_string(format!("/proc/{pid}/stat")))? else {
            return Ok(None);
        };
        Ok(parse_stat(pid, &stat)
            .filter(|(_, state)| !matches!(*state, "Z" | "X" | "x"))
            .map(|(record, _)| record))
    }

    /// The process as it is shown; `None` when it is gone, or when the system does not say.
    pub(crate) fn living(&self) -> Option<GuestProcess> {
        let same = Self::of(self.pid) == Some(*self);
        let uptime = fs::read_to_string("/proc/uptime").ok()?;
        let up_ms = milliseconds(uptime.split_ascii_whitespace().next()?)?;
        let began_ms = self.start_time.saturating_mul(1000 / TICKS_PER_SECOND);
        let process = GuestProcess {
            pid: u32::try_from(self.pid).ok()?,
            age_ms: up_ms.saturating_sub(began_ms),
        };
        same.then_some(process)
    }

    /// As `examine`, but a process of which nothing is known counts as gone.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Self::examine(pid).ok()?
    }

    /// What was written down; `None` when nothing was. An error when there is something and it cannot be read.
    pub(crate) fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What was written down; nothing when there is no record or it is unreadable.
    pub(crate) fn load(path: &Path) -> Option<Self> {
        Self::read(path).ok()?
    }

    /// Writes it down durably.
    pub(crate) fn store(&self, path: &Path) -> io::Result<()> {
        files::write_durably(path, &serde_json::to_vec(self)?)
    }

    /// A handle on exactly this process, or nothing when it is gone. `tag` must appear in its command line.
    pub(crate) fn open(&self, tag: &str) -> Option<Process> {
        self.try_open(tag).ok()?
    }

    /// As [`Self::open`], with an error when it is not known whether the process is there.
    pub(crate) fn try_open(&self, tag: &str) -> io::Result<Option<Process>> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(None);
        };
        let fd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        // Compared after the handle was taken: what it points to cannot change any more.
        if Self::examine(self.pid)? != Some(*self)
            || !command_line(self.pid)?.is_some_and(|c| c.contains(tag))
        {
            return Ok(None);
        }
        Ok(Some(Process {
            fd: watch(fd)?,
            pid: self.pid,
        }))
    }
}

/// A file of `/proc`, unless its process is gone or another user's.
fn there<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        // What another user hides is not ours: VMs run as this user.
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(None)
        }
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The record and the state letter of a process.
fn parse_stat(pid: i32, stat: &str) -> Option<(PidRecord, &str)> {
    // The second field is the name in parentheses and may itself contain blanks and parentheses.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    let start_time = fields.nth(18)?.parse().ok()?;
    Some((PidRecord { pid, start_time }, state))
}

/// Clock ticks in which `/proc` gives times (`USER_HZ`, proc(5)); 100 on every Linux for x86 and Arm.
const TICKS_PER_SECOND: u64 = 100;

/// Seconds with decimals, as `/proc/uptime` writes them.
fn milliseconds(seconds: &str) -> Option<u64> {
    let (whole, part) = seconds.split_once('.').unwrap_or((seconds, ""));
    let part: String = part.chars().chain("000".chars()).take(3).collect();
    let whole: u64 = whole.parse().ok()?;
    Some(whole.saturating_mul(1000).saturating_add(part.parse().ok()?))
}

/// A running process of ours.
#[derive(Debug)]
pub(crate) struct Process {
    fd: AsyncFd<OwnedFd>,
    pid: i32,
}

impl Process {
    /// Its number, for messages.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it was stopped by a signal, so that it answers nothing until it is let go on.
    pub(crate) fn stopped(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.pid)).is_ok_and(|stat| {
            parse_stat(self.pid, &stat).is_some_and(|(_, state)| matches!(state, "T" | "t"))
        })
    }

    /// Waits until it is gone; false when `limit` passed first.
    pub(crate) async fn gone(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.fd.readable()).await.is_ok()
    }

    /// Ends it: first politely, so that it closes its images, then without asking. False when even that did not help.
    pub(crate) async fn end(&self, polite: Duration) -> bool {
        self.signal(Signal::TERM);
        if self.gone(polite).await {
            return true;
        }
        self.signal(Signal::KILL);
        self.gone(Duration::from_secs(10)).await
    }

    /// Ends it the way a crash does.
    #[cfg(test)]
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        // Fails only when it is gone already, which the caller sees next.
        let _ = pidfd_send_signal(&self.fd, signal);
    }
}

#[expect(
    deprecated,
    reason = "the safe constructor is deprecated for types that may change their descriptor; an OwnedFd cannot"
)]
fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

fn command_line(pid: i32) -> io::Result<Option<String>> {
    let bytes = there(fs::read(format!("/proc/{pid}/cmdline")))?;
    Ok(bytes.map(|b| String::from_utf8_lossy(&b).into_owned()))
}

/// Every process but this one with its arguments, each ended by a NUL. An error when one of them cannot be looked at: then
/// a process that is not in the list may exist.
pub(crate) fn all() -> io::Result<Vec<(i32, String)>> {
    let own = i32::try_from(std::process::id()).ok();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        if Some(pid) == own {
            continue;
        }
        if let Some(arguments) = command_line(pid)? {
            found.push((pid, arguments));
        }
    }
    Ok(found)
}

/// A process whose command line contains `tag`, other than this one.
pub(crate) fn find(tag: &str) -> Option<PidRecord> {
    let all = all().ok()?;
    let fits = all.iter().filter(|(_, arguments)| arguments.contains(tag));
    fits.map(|(pid, _)| *pid).find_map(PidRecord::of)
}

/// What a process gets of the daemon's environment: where programs and libraries are, and how instants and messages are
/// written. All else is the daemon's own, such as its channel to systemd and where its credentials are.
const ENVIRONMENT: [&str; 5] = ["PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ"];

/// Starts a process in a group of its own with its output in `log`, and hands files over to it, which are closed here. It is
/// not ended with the daemon.
pub(crate) fn spawn(command: &[String], log: &Path, handed: Vec<FdMapping>) -> io::Result<Child> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let out = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(log)?;
    let mut process = Command::new(program);
    process
        .args(arguments)
        .env_clear()
        .envs(
            ENVIRONMENT
                .iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        )
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .process_group(0)
        .kill_on_drop(false);
    process.fd_mappings(handed).map_err(io::Error::other)?;
    process.spawn()
}

/// The record of a child that was just started; nothing when it died at once.
pub(crate) fn record_of(child: &Child) -> Option<PidRecord> {
    PidRecord::of(i32::try_from(child.id()?).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_has_a_number_and_an_age() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = spawn(
            &["sleep".into(), "600".into()],
            &dir.path().join("log"),
            Vec::new(),
        )
        .unwrap();
        let record = record_of(&child).unwrap();
        let seen = record.living().unwrap();
        assert_eq!(Some(seen.pid), child.id());
        assert!(seen.age_ms < 60_000, "{seen:?}");
        let earlier = PidRecord {
            start_time: record.start_time - 1,
            ..record
        };
        assert_eq!(earlier.living(), None, "another process had this number");
        child.kill().await.unwrap();
        assert_eq!(record.living(), None);
        let table = [("0.00", 0), ("12.34", 12_340), ("7", 7000), ("1.2345", 1234)];
        for (text, ms) in table {
            assert_eq!(milliseconds(text), Some(ms), "{text}");
        }
        assert_eq!(milliseconds("x"), None);
    }

    #[tokio::test]
    async fn a_process_gets_nothing_of_the_daemon_s_environment_but_what_it_needs() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        // Cargo has put many variables into this process's environment.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        let mut child = spawn(&["env".into()], &log, Vec::new()).unwrap();
        assert!(child.wait().await.unwrap().success());
        let printed = fs::read_to_string(log).unwrap();
        let names: Vec<_> = printed
            .lines()
            .filter_map(|line| Some(line.split_once('=')?.0))
            .collect();
        assert!(names.contains(&"PATH"), "{names:?}");
        assert!(names.iter().all(|name| ENVIRONMENT.contains(name)), "{names:?}");
    }

    #[tokio::test]
    async fn a_record_fits_only_the_process_it_was_made_of() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = spawn(
            &["sleep".into(), "600".into()],
            &dir.path().join("log"),
            Vec::new(),
        )
        .unwrap();
        let record = record_of(&child).unwrap();
        let path = dir.path().join("pid.json");
        record.store(&path).unwrap();
        assert_eq!(PidRecord::load(&path), Some(record));
        // exec may not have happened yet
        while record.open("600").is_none() {
            tokio::task::yield_now().await;
        }
        let reused = PidRecord {
            start_time: record.start_time - 1,
            ..record
        };
        assert!(
            reused.open("600").is_none(),
            "another start time is another process"
        );
        assert!(record.open("no such argument").is_none());
        let process = record.open("600").unwrap();
        assert!(!process.gone(Duration::from_millis(1)).await);
        assert!(process.end(Duration::from_secs(5)).await);
        // Not reaped yet or reaped: gone either way.
        assert!(record.open("600").is_none());
        child.wait().await.unwrap();
    }
}
