//! Two real hosts on loopback for the tests of this directory, or three: daemons of the built binary, a proxy between them
//! that can cut the link, and a real guest. Everything is driven through the command line, as an administrator would.
#![allow(unreachable_pub, reason = "shared by the test files")]

pub mod client;
pub mod guest;
pub mod hostile;
pub mod proxy;
pub mod random;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use lifeboat_block::qmp::Qmp;
use serde_json::Value;

/// The VM that all tests use.
pub const VM: &str = "story";
/// Its UUID is different in each world, so that two tests never meet.
pub struct World {
    pub dir: tempfile::TempDir,
    pub a: Host,
    pub b: Host,
    /// The way from A to B.
    pub proxy: proxy::Proxy,
    /// The way from B to A.
    pub way_back: proxy::Proxy,
    /// A third host, when a test asked for one.
    pub c: Option<Third>,
    pub uuid: String,
}

/// The host that B extends a replication to.
pub struct Third {
    pub host: Host,
    /// The way from B to it.
    pub proxy: proxy::Proxy,
}

/// How a world is set up.
pub struct Setup {
    /// Format of both disks.
    pub format: &'static str,
    /// Copy the guest's disks, or make two empty ones of this size in MiB.
    pub empty_mib: Option<u64>,
    /// Where B keeps replicas; `None`: in its own directory.
    pub replica_dir: Option<PathBuf>,
    /// Where A spools; `None`: in its own directory.
    pub spool_dir: Option<PathBuf>,
    /// Free space that must stay, in MiB.
    pub reserve_mib: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            format: "qcow2",
            empty_mib: None,
            replica_dir: None,
            spool_dir: None,
            reserve_mib: 1,
        }
    }
}

pub struct Host {
    pub name: &'static str,
    pub dir: PathBuf,
    pub port: u16,
    child: Option<Child>,
}

/// The program under test; another build's where `LIFEBOAT_BINARY` names it.
pub fn binary() -> String {
    std::env::var("LIFEBOAT_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_lifeboat").to_owned())
}

/// Where `make guest` puts its images.
pub fn image_dir() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest-image");
    assert!(
        dir.join("sys.qcow2").exists(),
        "the guest image is missing: run 'make guest'"
    );
    dir
}

/// Waits for a condition that can only be asked for, with a deadline that is far beyond what it ever takes.
pub fn wait_until<T>(what: &str, limit: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(x) = found() {
            return x;
        }
        assert!(Instant::now() < end, "waited {limit:?} in vain for: {what}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// A directory that the daemon takes, whatever the umask is.
fn private_dir(at: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(at)
}

/// Guests' users pass it on the way to what is theirs.
fn passable(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711)).unwrap();
}

pub fn free_port() -> u16 {
    lifeboat_faults::port::free().unwrap()
}

pub fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(
        out.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

impl World {
    pub fn new(setup: &Setup) -> Self {
        let dir = tempfile::Builder::new().prefix("lb").tempdir().unwrap();
        passable(dir.path());
        let uuid = uuid::Uuid::new_v4().to_string();
        let ca = dir.path().join("ca");
        run(
            &binary(),
            &["cert", "init", ca.to_str().unwrap(), "--name", "Test CA"],
        );
        let a = Host::new(dir.path(), "alpha.test", setup);
        let b = Host::new(dir.path(), "beta.test", setup);
        let world = Self {
            way_back: proxy::Proxy::start(a.port),
            proxy: proxy::Proxy::start(b.port),
            dir,
            a,
            b,
            c: None,
            uuid,
        };
        // Each tells the other an address behind the link that a test can cut.
        for (host, port) in [(&world.a, world.way_back.port), (&world.b, world.proxy.port)] {
            host.configure(&format!("[peer]\nadvertise = \"127.0.0.1:{port}\"\n"));
        }
        world.make_vm(setup);
        world
    }

    fn make_vm(&self, setup: &Setup) {
        let disks = self.a.dir.join("disks");
        std::fs::create_dir_all(&disks).unwrap();
        let mut toml = format!(
            "name = \"{VM}\"\nuuid = \"{}\"\nmemory_mib = 192\ncpus = 1\nmachine = \"pc\"\ncpu = \"qemu64\"\n\n[[nic]]\nmac = \"52:54:00:4c:42:01\"\nbackend = {{ type = \"user\" }}\n",
            self.uuid
        );
        for disk in ["sys", "data"] {
            let path = disks.join(format!("{disk}.{}", setup.format));
            match setup.empty_mib {
                None => {
                    let from = image_dir().join(format!("{disk}.{}", setup.format));
                    run(
                        "cp",
                        &["--sparse=always", from.to_str().unwrap(), path.to_str().unwrap()],
                    );
                }
                Some(mib) => {
                    run(
                        "qemu-img",
                        &[
                            "create",
                            "-q",
                            "-f",
                            setup.format,
                            path.to_str().unwrap(),
                            &format!("{mib}M"),
                        ],
                    );
                }
            }
            let (path, format) = (path.display(), setup.format);
            toml.push_str(&format!(
                "\n[[disk]]\nid = \"{disk}\"\npath = \"{path}\"\nformat = \"{format}\"\n"
            ));
        }
        std::fs::write(self.a.dir.join("vms/story.toml"), toml).unwrap();
    }

    /// Both daemons up, B ready to take replicas of A.
    pub fn start(&mut self) {
        self.a.start();
        self.b.start();
        self.b.ok(&["server", "set", "--replica", "on"]);
        let location = self.b.dir.join("replicas");
        self.b.ok(&[
            "authorization",
            "add",
            "alpha.test",
            "--allow-start",
            "--location",
            location.to_str().unwrap(),
        ]);
    }

    /// A takes replicas of B too, so that roles can be swapped.
    pub fn allow_return(&self) {
        self.a.ok(&["server", "set", "--replica", "on"]);
        let location = self.a.dir.join("replicas");
        let location = location.to_str().unwrap();
        let entry = ["authorization", "add", "beta.test", "--allow-start", "--location"];
        self.a.ok(&[&entry[..], &[location]].concat());
    }

    /// A third host, up and ready to take replicas of B. B and it know each other by name, as hosts do.
    pub fn add_third(&mut self) {
        let mut host = Host::new(self.dir.path(), "gamma.test", &Setup::default());
        let proxy = proxy::Proxy::start(host.port);
        host.configure(&format!("[peer]\nadvertise = \"localhost:{}\"\n", proxy.port));
        host.start();
        host.ok(&["server", "set", "--replica", "on"]);
        let location = host.dir.join("replicas");
        let location = location.to_str().unwrap();
        host.ok(&["authorization", "add", "beta.test", "--location", location]);
        self.c = Some(Third { host, proxy });
    }

    /// The third host.
    pub fn third(&self) -> &Third {
        self.c.as_ref().unwrap()
    }

    /// Cuts the link between A and B in both directions.
    pub fn cut(&self) {
        self.proxy.cut();
        self.way_back.cut();
    }

    pub fn heal(&self) {
        self.proxy.heal();
        self.way_back.heal();
    }

    /// A is lost with its guest: kill -9 of its daemon, then of QEMU.
    pub fn lose_primary(&mut self) {
        self.a.kill9();
        kill9(self.qemu_pid(&self.a).expect("the guest runs on A"));
    }

    /// One random blow: a daemon is killed, or both are, or the link is cut for up to `cut_ms` milliseconds. Afterwards everything is
    /// up and connected.
    pub fn blow(&mut self, random: &mut random::Random, cut_ms: u64) {
        match random.below(4) {
            0 => self.a.restart(),
            1 => self.b.restart(),
            2 => {
                self.cut();
                random.pause(cut_ms);
                self.heal();
            }
            _ => {
                self.a.kill9();
                self.b.kill9();
                self.b.start();
                self.a.start();
            }
        }
    }

    pub fn peer(&self) -> String {
        format!("127.0.0.1:{}", self.proxy.port)
    }

    /// Relationship with the given extra options.
    pub fn enable(&self, options: &[&str]) {
        let peer = self.peer();
        let enable = ["replication", "enable", VM, "--to", &peer];
        self.a.ok(&[&enable, options].concat());
    }

    /// Relationship with the given extra options, initial copy done, first point sealed.
    pub fn replicate(&mut self, options: &[&str]) {
        self.enable(options);
        self.a.ok(&["replication", "start", VM]);
        self.b.wait_state("Replicating");
        self.a.wait_state("Replicating");
    }

    /// Waits until a cycle has arrived. One that is asked for while the copies are compared is refused.
    pub fn arrived(&self) {
        wait_until("a cycle arrives", Duration::from_secs(60), || {
            self.a
                .cli(&["replication", "now", VM])
                .status
                .success()
                .then_some(())
        });
    }

    /// Brings the replica up without starting it; the file of the second disk.
    pub fn brought_up(&self, more: &[&str]) -> PathBuf {
        let start = ["failover", "start", VM, "--no-start"];
        self.b.ok(&[&start, more].concat());
        let branch = self.b.branch_of(VM);
        self.replica().join("branches").join(branch).join("data.qcow2")
    }

    /// A command to the QEMU that runs the VM on A.
    pub fn monitor(&self, command: &str, arguments: Value) {
        let path = self.vm_dir(&self.a).join("merge.sock");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let monitor = Qmp::connect(&path, Duration::from_secs(10)).await.unwrap();
            monitor.execute(command, arguments).await.unwrap();
        });
    }

    /// The directory of the replica on B.
    pub fn replica(&self) -> PathBuf {
        self.replica_on(&self.b)
    }

    /// The directory of the replica on a host.
    pub fn replica_on(&self, host: &Host) -> PathBuf {
        host.dir.join("replicas").join(&self.uuid)
    }

    /// The run directory of the VM on a host.
    pub fn vm_dir(&self, host: &Host) -> PathBuf {
        host.dir.join("run").join(&self.uuid)
    }

    /// The QEMU process of the VM on a host.
    pub fn qemu_pid(&self, host: &Host) -> Option<u32> {
        qemu_with(&self.vm_dir(host))
    }
}

/// The process whose command line names this directory and is a system emulator.
pub fn qemu_with(dir: &Path) -> Option<u32> {
    let wanted = dir.to_str().unwrap();
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|e| {
        let pid = e.file_name().to_str()?.parse::<u32>().ok()?;
        let line = std::fs::read(e.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let qemu = line.split('\0').next().is_some_and(|p| p.contains("qemu-system"));
        (qemu && line.contains(wanted)).then_some(pid)
    })
}

pub fn kill9(pid: u32) {
    run("kill", &["-9", &pid.to_string()]);
    wait_until("the killed process is gone", Duration::from_secs(10), || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
}

impl Drop for World {
    fn drop(&mut self) {
        let third = self.c.as_mut().map(|c| &mut c.host);
        for host in [&mut self.a, &mut self.b].into_iter().chain(third) {
            host.kill9();
            let dir = host.dir.join("run");
            // Guests outlive daemons by design; a test's guests end with it.
            while let Some(pid) = any_child_of(&dir) {
                let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
                let gone = |pid: u32| !Path::new(&format!("/proc/{pid}")).exists();
                let end = Instant::now() + Duration::from_secs(10);
                while !gone(pid) && Instant::now() < end {
                    std::thread::park_timeout(Duration::from_millis(10));
                }
            }
        }
    }
}

/// Any QEMU process (guest or storage daemon) whose command line names this directory and that is no zombie.
fn any_child_of(dir: &Path) -> Option<u32> {
    let wanted = dir.to_str()?;
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|e| {
        let pid = e.file_name().to_str()?.parse::<u32>().ok()?;
        let line = std::fs::read(e.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        (line.starts_with("qemu") || line.contains("/qemu")).then_some(())?;
        line.contains(wanted).then_some(pid)
    })
}

impl Host {
    fn new(root: &Path, name: &'static str, setup: &Setup) -> Self {
        let dir = root.join(&name[..1]);
        for sub in ["vms", "state", "run", "replicas", "tls"] {
            private_dir(&dir.join(sub)).unwrap();
        }
        passable(&dir);
        let spool = match &setup.spool_dir {
            Some(s) if name.starts_with('a') => s.clone(),
            _ => dir.join("spool"),
        };
        if let Some(replicas) = setup.replica_dir.as_ref().filter(|_| name.starts_with('b')) {
            std::fs::remove_dir(dir.join("replicas")).unwrap();
            std::os::unix::fs::symlink(replicas, dir.join("replicas")).unwrap();
        }
        let tls = dir.join("tls");
        let ca = root.join("ca");
        let (ca, out) = (ca.to_str().unwrap(), tls.to_str().unwrap());
        // A host and its primary's primary never share a name, not even on loopback.
        let address = if name.starts_with('g') {
            "localhost"
        } else {
            "127.0.0.1"
        };
        run(
            &binary(),
            &[
                "cert", "issue", "--ca", ca, "--host", name, "--host", address, "--out", out,
            ],
        );
        let port = free_port();
        let d = dir.display();
        let config = format!(
            "host = \"{name}\"\nlisten = \"127.0.0.1:{port}\"\nstate_dir = \"{d}/state\"\nrun_dir = \"{d}/run\"\nspool_dir = \"{}\"\nsocket = \"{d}/sock\"\nvm_dir = \"{d}/vms\"\nreserve_mib = {}\n\n[tls]\nca = \"{}\"\ncert = \"{}\"\nkey = \"{}\"\n\n[qemu]\naccel = \"tcg\"\n",
            spool.display(),
            setup.reserve_mib,
            tls.join("ca.crt").display(),
            tls.join("host.crt").display(),
            tls.join("host.key").display(),
        );
        std::fs::write(dir.join("lifeboat.toml"), config).unwrap();
        Self {
            name,
            dir,
            port,
            child: None,
        }
    }

    /// Appends to the configuration.
    pub fn configure(&self, more: &str) {
        use std::io::Write;
        let path = self.dir.join("lifeboat.toml");
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        write!(file, "\n{more}").unwrap();
    }

    /// Starts the daemon and waits until it answers.
    pub fn start(&mut self) {
        self.launch(Command::new(binary()));
    }

    /// The same, with every system call of it and its children that names a file recorded in `trace`.
    pub fn start_traced(&mut self, trace: &Path) {
        // The tracer is not the parent (-D), so that the process is the daemon itself.
        let mut command = Command::new("strace");
        command.args([
            "-D",
            "-f",
            "--seccomp-bpf",
            "-qq",
            "-s",
            "4096",
            "-e",
            "trace=%file",
            "-o",
        ]);
        command.arg(trace).arg(binary());
        self.launch(command);
    }

    fn launch(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "{} is running", self.name);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join("daemon.log"))
            .unwrap();
        let child = command
            .args([
                "serve",
                "--config",
                self.dir.join("lifeboat.toml").to_str().unwrap(),
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        wait_until("the daemon answers", Duration::from_secs(60), || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("{} ended with {status}: {}", self.name, self.log());
            }
            self.cli(&["server", "show"]).status.success().then_some(())
        });
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("daemon.log")).unwrap_or_default()
    }

    /// The daemon's process.
    pub fn daemon(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Tells the daemon to end and waits for it.
    pub fn terminate(&mut self) {
        run("kill", &[&self.daemon().to_string()]);
        let mut child = self.child.take().unwrap();
        assert!(child.wait().unwrap().success(), "{}", self.log());
    }

    /// kill -9 of the daemon; its guests live on.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// kill -9 of the daemon, and its next start.
    pub fn restart(&mut self) {
        self.kill9();
        self.start();
    }

    pub fn cli(&self, args: &[&str]) -> Output {
        Command::new(binary())
            .args(["--socket", self.dir.join("sock").to_str().unwrap()])
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The command succeeds; its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let out = self.cli(args);
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        assert!(
            out.status.success(),
            "{}: {args:?} failed: {}\n{}\nlog of the daemon:\n{}",
            self.name,
            text(&out.stdout),
            text(&out.stderr),
            self.log()
        );
        text(&out.stdout)
    }

    /// The command is refused; what it says.
    pub fn refused(&self, args: &[&str]) -> String {
        let out = self.cli(args);
        assert!(!out.status.success(), "{}: {args:?} should be refused", self.name);
        String::from_utf8_lossy(&out.stderr).into_owned()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.extend_from_slice(&["--output", "json"]);
        serde_json::from_str(&self.ok(&all)).unwrap()
    }

    /// The VM's replication as this host sees it; null when there is none.
    /// The branch that the disks of a VM are on here, by the name of its directory.
    pub fn branch_of(&self, vm: &str) -> String {
        wait_until(
            "the files of its disks are known",
            Duration::from_secs(10),
            || {
                let files = self.json(&["vm", "show", vm])["disk_files"].clone();
                let file = files.as_object()?.values().next()?.as_str()?.to_owned();
                let branch = Path::new(&file).parent()?;
                let is_one = branch.parent()?.file_name()? == "branches";
                Some(branch.file_name()?.to_str()?.to_owned()).filter(|_| is_one)
            },
        )
    }

    pub fn replication(&self) -> Value {
        self.json(&["vm", "show", VM])["replication"].clone()
    }

    pub fn state(&self) -> String {
        self.replication()["state"].as_str().unwrap_or("none").to_owned()
    }

    pub fn wait_state(&self, state: &str) -> Value {
        wait_until(
            &format!("{} is {state}; log:\n{}", self.name, self.log()),
            Duration::from_secs(180),
            || {
                let now = self.replication();
                (now["state"] == state).then_some(now)
            },
        )
    }

    /// The role of this host; `none` without a replication.
    pub fn mode(&self) -> String {
        self.replication()["mode"].as_str().unwrap_or("none").to_owned()
    }

    /// Waits until this primary replicates and no comparison is under way.
    pub fn wait_in_step(&self) {
        wait_until(
            &format!("{} is in step; log:\n{}", self.name, self.log()),
            Duration::from_secs(180),
            || {
                let now = self.replication();
                (now["sync"].is_null() && now["state"] == "Replicating").then_some(())
            },
        );
    }

    /// Waits until this replica has `n` sealed points.
    pub fn wait_points(&self, n: usize) {
        wait_until(
            &format!("{n} sealed points on {}; log:\n{}", self.name, self.log()),
            Duration::from_secs(180),
            || (self.sealed_points().len() >= n).then_some(()),
        );
    }

    /// Waits for `n` more completed cycles.
    pub fn wait_cycles(&self, n: u64) {
        let count = || self.replication()["counters"]["cycles"].as_u64().unwrap_or(0);
        let from = count();
        wait_until(
            &format!("{n} cycles of {}", self.name),
            Duration::from_secs(180),
            || (count() >= from + n).then_some(()),
        );
    }

    pub fn points(&self) -> Vec<Value> {
        self.json(&["points", VM]).as_array().unwrap().clone()
    }

    pub fn sealed_points(&self) -> Vec<Value> {
        self.points()
            .into_iter()
            .filter(|p| p["target"]["kind"] == "point")
            .collect()
    }
}

impl Host {
    /// Instant of the newest data on a replica, in milliseconds.
    pub fn newest(&self) -> u64 {
        self.replication()["newest_instant"].as_u64().unwrap_or(0)
    }
}
