//! Reading what a chain shows, through a QEMU process that has it open read-only: the one reader that knows every feature
//! an administrator's image or a guest's own layer may have. It opens exactly the files it is given. Writing layers is
//! `layer`'s, which needs no process.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use camino::Utf8Path;
use lifeboat_block::nbd::{BlockingClient, STATE_ZERO};
use lifeboat_engine::ports::store::StoreError;

use crate::chain::{self, Image};
use crate::error::{Result, io_error};
use crate::files;

/// Most bytes of one read.
pub(crate) const MAX_READ: u32 = 2 << 20;

/// NBD metadata context that distinguishes data from what reads as zeros.
const ALLOCATION: &str = "base:allocation";

/// Directory of the sockets.
pub(crate) const DIR: &str = "run";

/// How long QEMU may take to open a chain.
const COMING_UP: Duration = Duration::from_secs(20);

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A chain that is open for reading. Its process ends with it, and by itself when this program does.
pub(crate) struct Export {
    child: Child,
    client: BlockingClient,
}

impl Export {
    /// Opens a chain (absolute paths, lowest first) of the replica in `dir`.
    pub(crate) fn open(dir: &Utf8Path, images: &[Image]) -> Result<Self> {
        let run = dir.join(DIR);
        std::fs::create_dir_all(&run).map_err(io_error("make", &run))?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", std::process::id());
        let chain = format!("json:{}", chain::readable(images));
        let mut child = Command::new("qemu-nbd")
            // A socket's name has room for about a hundred bytes; the replica's directory may be longer.
            .args(["-r", "-k", &format!("/proc/self/cwd/{name}"), &chain])
            .current_dir(&run)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(io_error("run qemu-nbd on", dir))?;
        let opened = connect(&mut child, &run, &name);
        let _ = files::remove(&run.join(&name));
        match opened {
            Ok(client) => Ok(Self { child, client }),
            Err(error) => {
                let said = end(&mut child);
                let top = images.last().map_or(dir, |i| &i.file);
                if said.contains(" lock") {
                    return Err(StoreError::Busy(top.to_string()));
                }
                Err(StoreError::Damaged {
                    path: top.to_owned(),
                    detail: format!("it cannot be opened: {error} {}", said.trim()),
                })
            }
        }
    }
}

fn connect(child: &mut Child, run: &Utf8Path, name: &str) -> io::Result<BlockingClient> {
    let dir = File::open(run)?;
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    let until = Instant::now() + COMING_UP;
    loop {
        match UnixStream::connect(&path) {
            Ok(stream) => return greet(stream),
            Err(error) if child.try_wait()?.is_some() || Instant::now() > until => return Err(error),
            // qemu-nbd says in no other way that it listens.
            Err(_) => std::thread::sleep(Duration::from_millis(3)),
        }
    }
}

/// Opens the export without a name, which is the only one.
fn greet(stream: UnixStream) -> io::Result<BlockingClient> {
    let client = BlockingClient::connect(stream, "", &[ALLOCATION]).map_err(io::Error::other)?;
    match client.size() {
        0 => Err(io::Error::other("it has no size")),
        _ => Ok(client),
    }
}

/// Ends the process and returns what it had to say.
fn end(child: &mut Child) -> String {
    let _ = child.kill();
    let mut said = String::new();
    if let Some(stderr) = &mut child.stderr {
        let _ = stderr.read_to_string(&mut said);
    }
    let _ = child.wait();
    said
}

impl Export {
    /// The disk's bytes.
    pub(crate) fn size(&self) -> u64 {
        self.client.size()
    }

    /// Reads `len` bytes, at most [`MAX_READ`].
    pub(crate) fn read(&mut self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.client.read(offset, len).map_err(io::Error::other)
    }

    /// What is allocated from `from` up to `to` or the end of the disk: adjacent pieces, each as its length in bytes and
    /// whether it reads as zeros.
    pub(crate) fn allocated(&mut self, from: u64, to: u64) -> io::Result<Vec<(u64, bool)>> {
        let len = to.min(self.size()).saturating_sub(from);
        if len == 0 {
            return Ok(Vec::new());
        }
        let found = self.client.block_status(ALLOCATION, from, len);
        let found = found.map_err(io::Error::other)?;
        Ok(found.iter().map(|e| (e.len, e.flags & STATE_ZERO != 0)).collect())
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
