//! Two hosts, a VM without a system whose disks are written by the test, and the record of what was written and acknowledged.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use lifeboat_faults::history::{Content, History, SLOT, Write};
use lifeboat_faults::link::{Link, Way};
use lifeboat_faults::monitor::Monitor;
use lifeboat_faults::volume::run;
use serde_json::Value;

use crate::host::{Ground, Host, binary, request, wait_for};

pub(crate) const VM: &str = "probe";
pub(crate) const DISKS: [(&str, &str); 2] = [("one", "qcow2"), ("two", "raw")];
const DISK_MIB: usize = 16;
/// How far back every cycle can be brought back, as the replication is enabled.
pub(crate) const ANY_POINT: Duration = Duration::from_secs(8);

/// True time, milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// How the test's world is made.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) a: Ground,
    pub(crate) b: Ground,
}

pub(crate) struct World {
    // Hosts end before the directory goes.
    pub(crate) a: Host,
    pub(crate) b: Host,
    pub(crate) to_b: Link,
    pub(crate) to_a: Link,
    pub(crate) uuid: String,
    pub(crate) history: Arc<Mutex<History>>,
    pub(crate) timeline: Timeline,
    pub(crate) watch: Watch,
    pub(crate) writer: Option<Writer>,
    dir: tempfile::TempDir,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(crate) fn new(setup: Setup) -> Result<Self> {
        // Guests' users pass it on the way to what is theirs.
        let passable = std::fs::Permissions::from_mode(0o711);
        let dir = tempfile::Builder::new()
            .prefix("lbf")
            .permissions(passable)
            .tempdir()?;
        let mut authority = Command::new(binary());
        authority.args(["cert", "init", "--name", "Faults"]);
        run(authority.arg(dir.path().join("ca")))?;
        let a = Host::new(dir.path(), "alpha.test", setup.a)?;
        let b = Host::new(dir.path(), "beta.test", setup.b)?;
        let (to_a, to_b) = (Link::to(a.port)?, Link::to(b.port)?);
        a.configure(to_a.port())?;
        b.configure(to_b.port())?;
        let timeline = Timeline::default();
        let watch = Watch::new(a.root.join("sock"), timeline.clone());
        let world = Self {
            a,
            b,
            to_b,
            to_a,
            uuid: uuid::Uuid::new_v4().to_string(),
            history: Arc::new(Mutex::new(History::new(setup.seed, &[DISK_MIB << 20; 2]))),
            timeline,
            watch,
            writer: None,
            dir,
        };
        world.make_vm()?;
        Ok(world)
    }

    fn make_vm(&self) -> Result<()> {
        let disks = self.a.durable.join("disks");
        std::fs::create_dir_all(&disks)?;
        let mut description = format!(
            "name = \"{VM}\"\nuuid = \"{}\"\nmemory_mib = 32\ncpus = 1\nmachine = \"pc\"\ncpu = \"qemu64\"\nguest_agent = false\n",
            self.uuid
        );
        for (path, (id, format)) in self.disk_paths().iter().zip(DISKS) {
            let mut create = Command::new("qemu-img");
            create.args(["create", "-q", "-f", format]).arg(path);
            run(create.arg(format!("{DISK_MIB}M")))?;
            let path = path.display();
            description.push_str(&format!(
                "[[disk]]\nid = \"{id}\"\npath = \"{path}\"\nformat = \"{format}\"\n"
            ));
        }
        // The VM is older than its replication: a power cut does not take its disks away.
        run(&mut Command::new("sync"))?;
        Ok(std::fs::write(self.a.root.join("vms/probe.toml"), description)?)
    }

    /// Where the VM's own disks are, on A.
    pub(crate) fn disk_paths(&self) -> Vec<PathBuf> {
        let dir = self.a.durable.join("disks");
        DISKS
            .map(|(id, format)| dir.join(format!("{id}.{format}")))
            .into()
    }

    /// The replica's directory on B.
    pub(crate) fn replica(&self) -> PathBuf {
        self.b.durable.join("replicas").join(&self.uuid)
    }

    /// A file for what is read from images.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Both daemons up, the VM running and written to, both hosts replicating, acknowledged instants remembered.
    pub(crate) fn begin(&mut self, pace: Pace) -> Result<()> {
        self.a.start()?;
        self.b.start()?;
        self.b.ok(&["server", "set", "--replica", "on"])?;
        let location = self.b.durable.join("replicas").display().to_string();
        self.b
            .ok(&["authorization", "add", "alpha.test", "--location", &location])?;
        self.a.ok(&["vm", "start", VM])?;
        self.write_on(pace)?;
        ensure!(
            self.a.guest_is_confined()?,
            "the guest has the rights of the daemon"
        );
        let peer = format!("127.0.0.1:{}", self.to_b.port());
        let any_point = format!("{}s", ANY_POINT.as_secs());
        let mut enable = vec!["replication", "enable", VM, "--to", &peer, "--interval", "1s"];
        enable.extend([
            "--history",
            "5",
            "--point-spacing",
            "2s",
            "--any-point",
            &any_point,
        ]);
        self.a.ok(&enable)?;
        self.a.ok(&["replication", "start", VM])?;
        self.goes_on(now_ms(), Duration::from_secs(120))?;
        Ok(())
    }

    /// A writer that goes on from the last write.
    pub(crate) fn write_on(&mut self, pace: Pace) -> Result<()> {
        let (socket, output) = self.a.monitor(&self.uuid);
        let monitor = wait_for("QEMU's monitor", Duration::from_secs(20), || {
            Monitor::connect(&socket, Duration::from_secs(150)).ok()
        })?;
        let writer = Writer::start(
            monitor,
            output,
            self.scratch("content"),
            self.history.clone(),
            pace,
        );
        self.writer = Some(writer);
        Ok(())
    }

    /// Ends the writer; what went wrong with it.
    pub(crate) fn stop_writing(&mut self) -> Result<()> {
        self.writer.take().map_or(Ok(()), Writer::stop)
    }

    /// Until both hosts say that they replicate and something captured after `since` is acknowledged; how long that took.
    pub(crate) fn goes_on(&self, since: u64, limit: Duration) -> Result<Duration> {
        let began = Instant::now();
        let seen = wait_for("replication goes on", limit, || {
            let on = self.watch.newest() > since && self.a.state() == "Replicating";
            (on && self.b.state() == "Replicating").then_some(())
        });
        seen.with_context(|| {
            format!(
                "alpha: {}\nbeta: {}\nlog of alpha:\n{}\nlog of beta:\n{}",
                summary(&self.a.replication()),
                summary(&self.b.replication()),
                self.a.log_tail(),
                self.b.log_tail()
            )
        })?;
        Ok(began.elapsed())
    }

    /// Everything written so far is acknowledged; nobody writes.
    pub(crate) fn all_arrives(&self, limit: Duration) -> Result<u64> {
        let last = lock(&self.history).complete();
        let done = lock(&self.history).done_at(last).unwrap_or(0);
        self.goes_on(done, limit)?;
        Ok(last)
    }

    pub(crate) fn set_links(&self, way: Way) {
        self.to_a.set(way);
        self.to_b.set(way);
    }
}

/// What a host says about the replication, in short.
pub(crate) fn summary(view: &Value) -> String {
    format!(
        "{} {} lag {} problem {} notes {}",
        view["state"], view["health"], view["lag_ms"], view["problem"]["message"], view["health_notes"]
    )
}

/// How fast is written, and whether each write is flushed before it counts.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) per_second: u32,
    pub(crate) flushed: bool,
}

/// Writes one write after the other.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Writer {
    fn start(
        mut monitor: Monitor,
        output: PathBuf,
        content: PathBuf,
        history: Arc<Mutex<History>>,
        pace: Pace,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                let began = Instant::now();
                let write = lock(&history).repeat_or_begin();
                let durable = if pace.flushed { " -f" } else { "" };
                let command = command(&write, durable, &content)?;
                let device = format!("/machine/peripheral/vd-{}/virtio-backend", DISKS[write.disk].0);
                // A guest's file system would give up; here the same write is made until it is there.
                while let Err(error) = monitor.write(&device, &command, &output) {
                    lock(&history).failed(write.number);
                    if stopped.load(Ordering::SeqCst) || !format!("{error:#}").contains("write failed") {
                        return Err(error.context(format!("write {}", write.number)));
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
                lock(&history).end(write.number, now_ms());
                let pause = Duration::from_secs(1) / pace.per_second;
                std::thread::sleep(pause.saturating_sub(began.elapsed()));
            }
            Ok(())
        });
        Self { stop, thread }
    }

    fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        match self.thread.join() {
            Ok(result) => result,
            Err(_) => bail!("the writer panicked"),
        }
    }
}

/// The command of `qemu-io` for a write; what it writes is put into the file `content`.
pub(crate) fn command(write: &Write, flags: &str, content: &Path) -> Result<String> {
    let (at, len) = (write.slot * SLOT as u64, write.slots * SLOT as u64);
    Ok(match write.content {
        Content::Zeros => format!("write -z{flags} {at} {len}"),
        Content::Record => {
            std::fs::write(content, write.bytes())?;
            format!("write{flags} -s {} {at} {len}", content.display())
        }
    })
}

/// What the primary's clock has shown when. Instants are told by that clock; the record of writes has the true time.
#[derive(Clone, Default)]
pub(crate) struct Timeline(Arc<Mutex<Vec<(u64, i64)>>>);

impl Timeline {
    /// From now on the clock is so many milliseconds ahead.
    pub(crate) fn jump(&self, ahead_ms: i64) {
        lock(&self.0).push((now_ms(), ahead_ms));
    }

    /// The true time of an instant; `None` when it is not known, because the clock was just being set.
    pub(crate) fn truth(&self, instant: u64) -> Option<u64> {
        let jumps = lock(&self.0);
        let spans = std::iter::once(&(0, 0)).chain(jumps.iter());
        let ends = jumps.iter().map(|j| j.0).chain([u64::MAX]);
        let true_time = |ahead: i64| instant.checked_add_signed(-ahead);
        spans.zip(ends).find_map(|((from, ahead), to)| {
            let time = true_time(*ahead)?;
            (*from..to.min(now_ms() + 1000)).contains(&time).then_some(time)
        })
    }
}

/// Watches what the primary says is safe on the other host: the acknowledged instants, by their true times.
pub(crate) struct Watch {
    seen: Arc<Mutex<BTreeMap<u64, u64>>>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    fn new(socket: PathBuf, timeline: Timeline) -> Self {
        let seen = Arc::new(Mutex::new(BTreeMap::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (into, stopped) = (seen.clone(), stop.clone());
        std::thread::spawn(move || {
            let path = format!("/api/v1/vms/{VM}");
            while !stopped.load(Ordering::SeqCst) {
                if let Ok((200, view)) = request(&socket, "GET", &path, Duration::from_secs(5)) {
                    let instant = view["replication"]["newest_instant"].as_u64();
                    let known = instant.and_then(|i| Some((timeline.truth(i)?, i)));
                    lock(&into).extend(known);
                }
                std::thread::sleep(Duration::from_millis(30));
            }
        });
        Self { seen, stop }
    }

    /// True time of the newest.
    pub(crate) fn newest(&self) -> u64 {
        lock(&self.seen).last_key_value().map_or(0, |(time, _)| *time)
    }

    /// By true time, each as the primary told it.
    pub(crate) fn all(&self) -> BTreeMap<u64, u64> {
        lock(&self.seen).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}
