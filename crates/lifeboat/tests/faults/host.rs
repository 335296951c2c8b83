//! One host of the fault tests: the real daemon with directories of its own, on a volume that can fail or on the plain file
//! system, asked over its socket with the time each answer took.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use lifeboat_faults::clock::Clock;
use lifeboat_faults::volume::{Layout, Volume, run};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::world::VM;

/// Size of a host's volume. Memory is taken only for what is written.
const VOLUME_MIB: usize = 512;

/// Where guests put what the test wants of them, in a host's directory, and the file that they print to.
const GUESTS: &str = "guests";
const OUTPUT: &str = "qemu.out";

/// A host.
pub(crate) struct Host {
    pub(crate) name: &'static str,
    /// Sockets, certificates, logs and the run directory: what a restart of the machine may lose.
    pub(crate) root: PathBuf,
    /// State, spool, replicas and disks: what has to survive.
    pub(crate) durable: PathBuf,
    pub(crate) port: u16,
    pub(crate) volume: Option<Volume>,
    pub(crate) clock: Option<Clock>,
    child: Option<Child>,
}

/// What a host stands on.
#[derive(Clone, Copy, Default)]
pub(crate) struct Ground {
    /// A volume that can fail; `None`: the file system of the test.
    pub(crate) volume: Option<Layout>,
    /// A clock that can jump.
    pub(crate) clock: bool,
}

/// The program under test; another build's where `LIFEBOAT_BINARY` names it.
pub(crate) fn binary() -> String {
    std::env::var("LIFEBOAT_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_lifeboat").to_owned())
}

/// Asks until there is an answer.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut found: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(x) = found() {
            return Ok(x);
        }
        if Instant::now() > end {
            bail!("waited {limit:?} in vain for: {what}");
        }
        std::thread::park_timeout(Duration::from_millis(40));
    }
}

impl Host {
    pub(crate) fn new(base: &Path, name: &'static str, ground: Ground) -> Result<Self> {
        let root = base.join(&name[..1]);
        for sub in ["vms", "tls", GUESTS] {
            std::fs::create_dir_all(root.join(sub))?;
        }
        // Each start of a guest may be another user's, and what an earlier one left is in its way.
        std::fs::set_permissions(root.join(GUESTS), Permissions::from_mode(0o777))?;
        std::fs::write(root.join(GUESTS).join(OUTPUT), "")?;
        std::fs::set_permissions(root.join(GUESTS).join(OUTPUT), Permissions::from_mode(0o666))?;
        let durable = root.join("durable");
        let volume = ground
            .volume
            .map(|layout| Volume::create(&durable, &root.join("below"), VOLUME_MIB, layout))
            .transpose()?;
        std::fs::create_dir_all(&durable)?;
        let clock = ground
            .clock
            .then(|| Clock::new(&root.join("clock")))
            .transpose()?;
        let mut issue = Command::new(binary());
        issue.args(["cert", "issue", "--host", name, "--host", "127.0.0.1", "--ca"]);
        run(issue.arg(base.join("ca")).arg("--out").arg(root.join("tls")))?;
        Ok(Self {
            name,
            root,
            durable,
            port: lifeboat_faults::port::free()?,
            volume,
            clock,
            child: None,
        })
    }

    /// Writes the configuration. Peers are told to call back at this port.
    pub(crate) fn configure(&self, advertised_port: u16) -> Result<()> {
        let (root, durable) = (self.root.display(), self.durable.display());
        let guests = self.root.join(GUESTS);
        let guests = guests.display();
        // QEMU gets a monitor of the test's own, and says line by line how each write went.
        let qemu = self.root.join("qemu");
        let script = format!(
            "#!/bin/bash\nwhile [ $# -gt 0 ]; do\n  [ \"$1\" = -uuid ] && uuid=$2\n  args+=(\"$1\"); shift\ndone\n\
             [ -n \"$uuid\" ] || exec qemu-system-x86_64 \"${{args[@]}}\"\n\
             exec stdbuf -oL qemu-system-x86_64 \"${{args[@]}}\" \
             -chardev socket,id=test,path={guests}/mon-$uuid,server=on,wait=off -mon chardev=test,mode=control \
             >>{guests}/{OUTPUT}\n"
        );
        std::fs::write(&qemu, script)?;
        std::fs::set_permissions(&qemu, Permissions::from_mode(0o755))?;
        let config = format!(
            "host = \"{}\"\nlisten = \"127.0.0.1:{}\"\nstate_dir = \"{durable}/state\"\nrun_dir = \"{root}/run\"\n\
             spool_dir = \"{durable}/spool\"\nsocket = \"{root}/sock\"\nvm_dir = \"{root}/vms\"\nreserve_mib = 1\n\
             [tls]\nca = \"{root}/tls/ca.crt\"\ncert = \"{root}/tls/host.crt\"\nkey = \"{root}/tls/host.key\"\n\
             [peer]\nadvertise = \"127.0.0.1:{advertised_port}\"\n\
             [qemu]\nbinary = \"{}\"\naccel = \"tcg\"\n",
            self.name,
            self.port,
            qemu.display()
        );
        Ok(std::fs::write(self.root.join("lifeboat.toml"), config)?)
    }

    /// The monitor of the test's own in the guest with this UUID, and the file that QEMU prints to.
    pub(crate) fn monitor(&self, uuid: &str) -> (PathBuf, PathBuf) {
        let guests = self.root.join(GUESTS);
        (guests.join(format!("mon-{uuid}")), guests.join(OUTPUT))
    }

    /// Starts the daemon and waits until it answers; how long that took.
    pub(crate) fn start(&mut self) -> Result<Duration> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.root.join("daemon.log"))?;
        let mut command = Command::new(binary());
        command
            .arg("serve")
            .arg("--config")
            .arg(self.root.join("lifeboat.toml"));
        if let Some(clock) = &self.clock {
            command.envs(clock.environment());
        }
        let began = Instant::now();
        self.child = Some(
            command
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()?,
        );
        wait_for(&format!("{} answers", self.name), Duration::from_secs(60), || {
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                return Some(Err(anyhow!("{} ended with {status}", self.name)));
            }
            let answer = self.get("/api/v1/server", Duration::from_secs(5));
            answer.ok().map(|_| Ok(began.elapsed()))
        })
        .and_then(|x| x)
        .with_context(|| format!("log of {}:\n{}", self.name, self.log_tail()))
    }

    pub(crate) fn log_tail(&self) -> String {
        let log = std::fs::read(self.root.join("daemon.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Asks the daemon over its socket.
    pub(crate) fn request(&self, method: &str, path: &str, limit: Duration) -> std::io::Result<(u16, Value)> {
        request(&self.root.join("sock"), method, path, limit)
    }

    /// The answer to a question, which must succeed.
    pub(crate) fn get(&self, path: &str, limit: Duration) -> Result<Value> {
        match self.request("GET", path, limit)? {
            (200, value) => Ok(value),
            (status, value) => bail!("{}: GET {path}: {status} {value}", self.name),
        }
    }

    /// The replication of the VM as this host shows it; null when there is none or no answer.
    pub(crate) fn replication(&self) -> Value {
        let shown = self.get(&format!("/api/v1/vms/{VM}"), Duration::from_secs(10));
        shown.unwrap_or_default()["replication"].take()
    }

    pub(crate) fn state(&self) -> String {
        self.replication()["state"].as_str().unwrap_or("none").to_owned()
    }

    pub(crate) fn cli(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "120", &binary(), "--socket"]);
        Ok(command
            .arg(self.root.join("sock"))
            .args(args)
            .stdin(Stdio::null())
            .output()?)
    }

    /// A command that has to succeed; what it printed.
    pub(crate) fn ok(&self, args: &[&str]) -> Result<String> {
        let out = self.cli(args)?;
        if !out.status.success() {
            bail!(
                "{}: lifeboat {}: {}\nlog of the daemon:\n{}",
                self.name,
                args.join(" "),
                String::from_utf8_lossy(&out.stderr).trim(),
                self.log_tail()
            );
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    pub(crate) fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.child.as_ref()?.id()).ok()?)
    }

    /// Whether the VM's QEMU is a user of its own, which guests are unless the host is told otherwise.
    pub(crate) fn guest_is_confined(&self) -> Result<bool> {
        let pid = self.qemu().context("the guest does not run")?;
        let process = std::fs::metadata(format!("/proc/{}", pid.as_raw_nonzero()))?;
        Ok(process.uid() != rustix::process::geteuid().as_raw())
    }

    /// The VM's QEMU on this host.
    pub(crate) fn qemu(&self) -> Option<Pid> {
        self.processes()
            .into_iter()
            .find(|(_, line)| line.starts_with("qemu-system"))
            .map(|(pid, _)| pid)
    }

    /// Everything that works on this host's files: the daemon, its children, its guests.
    fn processes(&self) -> Vec<(Pid, String)> {
        let wanted = format!("{}/", self.root.display());
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        all.filter_map(|entry| {
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).into_owned();
            let program = line.split('\0').next()?.rsplit('/').next()?;
            let ours = program.starts_with("lifeboat") || program.starts_with("qemu");
            (ours && line.contains(&wanted)).then(|| (pid, format!("{program}\0{line}")))
        })
        .collect()
    }

    /// Sends a signal to the daemon.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().context("the daemon is not running")?;
        Ok(kill_process(pid, signal)?)
    }

    /// kill -9 of the daemon; guests live on.
    pub(crate) fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends the daemon as an administrator would.
    pub(crate) fn stop(&mut self) -> Result<()> {
        if self.child.is_none() {
            return Ok(());
        }
        self.signal(Signal::TERM)?;
        wait_for("the daemon ends", Duration::from_secs(60), || {
            let child = self.child.as_mut()?;
            child.try_wait().ok().flatten()
        })?;
        self.child = None;
        Ok(())
    }

    /// Kills everything of this host, without waiting: it may hang in the kernel.
    pub(crate) fn power_off(&self) {
        for (pid, _) in self.processes() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// After [`Host::power_off`], when its disk fails what it was asked: waits until everything is gone.
    pub(crate) fn reap(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            wait_for("the killed daemon is gone", Duration::from_secs(60), || {
                child.try_wait().ok().flatten()
            })?;
        }
        wait_for("the killed processes are gone", Duration::from_secs(60), || {
            self.processes().is_empty().then_some(())
        })?;
        // On a real host this is a tmpfs.
        let _ = std::fs::remove_dir_all(self.root.join("run"));
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.power_off();
        if let Some(volume) = &self.volume {
            volume.disk.fail_everything();
        }
        let _ = self.reap();
    }
}

/// One HTTP request on a connection of its own; the whole answer comes within the limit, or it is an error.
pub(crate) fn request(
    socket: &Path,
    method: &str,
    path: &str,
    limit: Duration,
) -> std::io::Result<(u16, Value)> {
    let end = Instant::now() + limit;
    let left = || {
        end.saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1))
    };
    let mut stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(left()))?;
    let body = if method == "POST" { "{}" } else { "" };
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        stream.set_read_timeout(Some(left()))?;
        match stream.read(&mut buffer)? {
            0 => break,
            n => answer.extend_from_slice(&buffer[..n]),
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let broken = || std::io::Error::other(format!("no HTTP answer: {answer}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    let body = serde_json::from_str(body).unwrap_or_default();
    Ok((status.ok_or_else(broken)?, body))
}
