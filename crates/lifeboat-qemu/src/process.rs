//! Processes that outlive the daemon: started on their own, recorded, found again, signalled without ever meeting
//! another process that was given the same number. It knows nothing of what runs in them.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

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
    /// The process that has this number now, unless it is gone or only waits to be reaped.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the name in parentheses and may itself contain blanks and parentheses.
        let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
        let state = fields.next()?;
        let start_time = fields.nth(18)?.parse().ok()?;
        (!matches!(state, "Z" | "X" | "x")).then_some(Self { pid, start_time })
    }

    /// What was written down; nothing when there is no record or it is unreadable.
    pub(crate) fn load(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Writes it down durably.
    pub(crate) fn store(&self, path: &Path) -> io::Result<()> {
        files::write_durably(path, &serde_json::to_vec(self)?)
    }

    /// A handle on exactly this process, or nothing when it is gone. `tag` must appear in its command line.
    pub(crate) fn open(&self, tag: &str) -> Option<Process> {
        let pid = Pid::from_raw(self.pid)?;
        let fd = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
        // Compared after the handle was taken: what it points to cannot change any more.
        let same =
            Self::of(self.pid) == Some(*self) && command_line(self.pid).is_some_and(|c| c.contains(tag));
        if !same {
            return None;
        }
        watch(fd).map(|fd| Process { fd })
    }
}

/// A running process of ours.
#[derive(Debug)]
pub(crate) struct Process {
    fd: AsyncFd<OwnedFd>,
}

impl Process {
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
fn watch(fd: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE).ok()
}

fn command_line(pid: i32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A process whose command line contains `tag`, other than this one.
pub(crate) fn find(tag: &str) -> Option<PidRecord> {
    let own = i32::try_from(std::process::id()).ok();
    fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| Some(*pid) != own && command_line(*pid).is_some_and(|c| c.contains(tag)))
        .find_map(PidRecord::of)
}

/// Starts a process in a group of its own with its output in `log`. It is not ended with the daemon.
pub(crate) fn spawn(program: &str, arguments: &[String], log: &Path) -> io::Result<Child> {
    let out = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(log)?;
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .process_group(0)
        .kill_on_drop(false)
        .spawn()
}

/// The record of a child that was just started; nothing when it died at once.
pub(crate) fn record_of(child: &Child) -> Option<PidRecord> {
    PidRecord::of(i32::try_from(child.id()?).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_record_fits_only_the_process_it_was_made_of() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = spawn("sleep", &["600".into()], &dir.path().join("log")).unwrap();
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
