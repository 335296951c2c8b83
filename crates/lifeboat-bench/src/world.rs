//! Two hosts on loopback, driven through the command line as an administrator would, and a counting proxy between them
//! for the rows that need the bytes on the wire.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::Bench;
use crate::process::{Kept, end_all, output, wait};

/// A VM of host A.
pub(crate) struct Vm {
    pub(crate) name: String,
    pub(crate) uuid: uuid::Uuid,
    pub(crate) memory_mib: u32,
    /// Name and image (qcow2).
    pub(crate) disks: Vec<(&'static str, PathBuf)>,
}

impl Vm {
    pub(crate) fn new(name: impl Into<String>, memory_mib: u32, disks: Vec<(&'static str, PathBuf)>) -> Self {
        Self {
            name: name.into(),
            uuid: uuid::Uuid::new_v4(),
            memory_mib,
            disks,
        }
    }

    fn toml(&self) -> String {
        let mut text = format!(
            "name = \"{}\"\nuuid = \"{}\"\nmemory_mib = {}\ncpus = 1\nmachine = \"pc\"\ncpu = \"qemu64\"\n",
            self.name, self.uuid, self.memory_mib
        );
        for (id, path) in &self.disks {
            let path = path.display();
            text.push_str(&format!(
                "\n[[disk]]\nid = \"{id}\"\npath = \"{path}\"\nformat = \"qcow2\"\n"
            ));
        }
        text
    }
}

/// One daemon.
pub(crate) struct Host {
    pub(crate) dir: PathBuf,
    pub(crate) port: u16,
    lifeboat: PathBuf,
    daemon: Option<Kept>,
}

/// Two daemons; B takes replicas of A.
pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) a: Host,
    pub(crate) b: Host,
}

impl World {
    /// Both daemons up.
    pub(crate) fn start(bench: &Bench, vms: &[Vm]) -> Result<Self> {
        let mut world = Self::laid_out(bench)?;
        for vm in vms {
            std::fs::write(world.a.dir.join(format!("vms/{}.toml", vm.name)), vm.toml())?;
        }
        world.a.serve()?;
        world.serve_replica()?;
        Ok(world)
    }

    /// Only the replica's host up, with what `prepare` has put into its directories.
    pub(crate) fn replica_only(bench: &Bench, prepare: impl FnOnce(&Host) -> Result<()>) -> Result<Self> {
        let mut world = Self::laid_out(bench)?;
        prepare(&world.b)?;
        world.serve_replica()?;
        Ok(world)
    }

    fn laid_out(bench: &Bench) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("w")
            .permissions(passable())
            .tempdir_in(&bench.root)?;
        let lifeboat = bench.lifeboat.to_string_lossy().into_owned();
        let ca = dir.path().join("ca");
        output(
            &lifeboat,
            &["cert", "init", &ca.to_string_lossy(), "--name", "Bench CA"],
        )?;
        let a = Host::new(bench, dir.path(), "alpha.bench")?;
        let b = Host::new(bench, dir.path(), "beta.bench")?;
        Ok(Self { dir, a, b })
    }

    fn serve_replica(&mut self) -> Result<()> {
        self.b.serve()?;
        self.b.ok(&["server", "set", "--replica", "on"])?;
        let location = self.b.dir.join("replicas");
        let location = location.to_string_lossy();
        self.b
            .ok(&["authorization", "add", "alpha.bench", "--location", &location])?;
        Ok(())
    }

    /// A directory with a certificate of a host that has no entry anywhere.
    pub(crate) fn unauthorized(&self, bench: &Bench, name: &str) -> Result<PathBuf> {
        let (ca, out) = (self.dir.path().join("ca"), self.dir.path().join(name));
        let (ca, to) = (ca.to_string_lossy(), out.to_string_lossy());
        let issue = ["cert", "issue", "--ca", &ca, "--host", name, "--out", &to];
        output(&bench.lifeboat.to_string_lossy(), &issue)?;
        Ok(out)
    }

    /// Where A reaches B.
    pub(crate) fn peer(&self) -> String {
        format!("127.0.0.1:{}", self.b.port)
    }

    /// The replica's directory on B.
    pub(crate) fn replica(&self, vm: &Vm) -> PathBuf {
        self.b.dir.join("replicas").join(vm.uuid.to_string())
    }

    /// The run directory of a VM on A.
    pub(crate) fn run_dir(&self, vm: &Vm) -> PathBuf {
        self.a.dir.join("run").join(vm.uuid.to_string())
    }

    /// Relationship set up and the first cycle done.
    pub(crate) fn replicate(&self, vm: &Vm, to: &str, options: &[&str]) -> Result<()> {
        let mut args = vec!["replication", "enable", &vm.name, "--to", to];
        args.extend_from_slice(options);
        self.a.ok(&args)?;
        self.a.ok(&["replication", "start", &vm.name])?;
        self.a.wait_state(&vm.name, "Replicating")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        (self.a.daemon, self.b.daemon) = (None, None);
        // Guests outlive daemons by design.
        end_all(self.dir.path());
    }
}

/// Of directories that guests' users pass on the way to what is theirs.
pub(crate) fn passable() -> Permissions {
    Permissions::from_mode(0o711)
}

impl Host {
    fn new(bench: &Bench, root: &Path, name: &str) -> Result<Self> {
        let dir = root.join(name.split('.').next().unwrap_or(name));
        for sub in ["vms", "state", "run", "replicas", "tls"] {
            // As the daemon takes them, whatever the umask is.
            let mut private = std::fs::DirBuilder::new();
            private.recursive(true).mode(0o700).create(dir.join(sub))?;
        }
        std::fs::set_permissions(&dir, passable())?;
        let (ca, tls) = (root.join("ca"), dir.join("tls"));
        let issue = [
            "cert",
            "issue",
            "--ca",
            &ca.to_string_lossy(),
            "--host",
            name,
            "--host",
            "127.0.0.1",
            "--out",
            &tls.to_string_lossy(),
        ];
        output(&bench.lifeboat.to_string_lossy(), &issue)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let d = dir.display();
        let config = format!(
            "host = \"{name}\"\nlisten = \"127.0.0.1:{port}\"\nstate_dir = \"{d}/state\"\nrun_dir = \"{d}/run\"\nspool_dir = \"{d}/spool\"\nsocket = \"{d}/sock\"\nvm_dir = \"{d}/vms\"\nreserve_mib = 1\n\n[tls]\nca = \"{d}/tls/ca.crt\"\ncert = \"{d}/tls/host.crt\"\nkey = \"{d}/tls/host.key\"\n\n[qemu]\naccel = \"tcg\"\n"
        );
        std::fs::write(dir.join("lifeboat.toml"), config)?;
        Ok(Self {
            dir,
            port,
            lifeboat: bench.lifeboat.clone(),
            daemon: None,
        })
    }

    /// More lines at the end of its configuration, for its next start.
    pub(crate) fn configure(&self, text: &str) -> Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(self.dir.join("lifeboat.toml"))?;
        Ok(file.write_all(text.as_bytes())?)
    }

    fn serve(&mut self) -> Result<()> {
        let log = std::fs::File::create(self.dir.join("daemon.log"))?;
        let mut command = Command::new(&self.lifeboat);
        command
            .args(["serve", "--config"])
            .arg(self.dir.join("lifeboat.toml"))
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut daemon = Kept::spawn(&mut command)?;
        let pause = Duration::from_millis(20);
        wait("the daemon to answer", Duration::from_secs(60), pause, || {
            if daemon.ended() {
                bail!("the daemon ended: {}", self.log());
            }
            Ok(self.ok(&["server", "show"]).ok())
        })?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Ends the daemon and starts it again; guests run on.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.daemon = None;
        self.serve()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("daemon.log")).unwrap_or_default()
    }

    /// The daemon's process.
    pub(crate) fn pid(&self) -> Result<u32> {
        Ok(self.daemon.as_ref().context("the daemon does not run")?.id())
    }

    /// A command that must succeed; its standard output.
    pub(crate) fn ok(&self, args: &[&str]) -> Result<String> {
        let out = Command::new(&self.lifeboat)
            .arg("--socket")
            .arg(self.dir.join("sock"))
            .args(args)
            .stdin(Stdio::null())
            .output()?;
        if !out.status.success() {
            let said = String::from_utf8_lossy(&out.stderr);
            bail!(
                "lifeboat {}: {}\nlog of the daemon:\n{}",
                args.join(" "),
                said.trim(),
                self.log()
            );
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// The replication of a VM as this host sees it.
    pub(crate) fn replication(&self, vm: &str) -> Result<Value> {
        let all: Value = serde_json::from_str(&self.ok(&["vm", "show", vm, "--output", "json"])?)?;
        Ok(all.get("replication").cloned().unwrap_or_default())
    }

    /// One of the replication's counters.
    pub(crate) fn counter(&self, vm: &str, name: &str) -> Result<u64> {
        let replication = self.replication(vm)?;
        let value = replication.pointer(&format!("/counters/{name}"));
        value
            .and_then(Value::as_u64)
            .with_context(|| format!("no counter {name} of {vm}"))
    }

    pub(crate) fn wait_state(&self, vm: &str, state: &str) -> Result<()> {
        let what = format!("{vm} to be {state}");
        wait(&what, Duration::from_secs(300), Duration::from_millis(10), || {
            let now = self.replication(vm)?;
            Ok((now.get("state").and_then(Value::as_str) == Some(state)).then_some(()))
        })
    }
}

/// Forwards connections and counts what goes to the replica.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    bytes: Arc<AtomicU64>,
}

impl Proxy {
    /// Threads of it live as long as their connections.
    pub(crate) fn start(to: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let bytes = Arc::new(AtomicU64::new(0));
        let counted = bytes.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else {
                    continue;
                };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let (Ok(back), Ok(forth)) = (server.try_clone(), client.try_clone()) else {
                    continue;
                };
                let counted = counted.clone();
                std::thread::spawn(move || pump(forth, server, &counted));
                std::thread::spawn(move || pump(back, client, &AtomicU64::new(0)));
            }
        });
        Ok(Self { port, bytes })
    }

    /// Bytes so far, TLS and HTTP included.
    pub(crate) fn mib(&self) -> f64 {
        self.bytes.load(Ordering::SeqCst) as f64 / f64::from(1 << 20)
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, counted: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n) = from.read(&mut buffer) {
        counted.fetch_add(n as u64, Ordering::SeqCst);
        if n == 0 || to.write_all(buffer.get(..n).unwrap_or_default()).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}
