//! A real file system whose disk can lose its power: ext4 on a loop device on a [`Served`] disk. The kernel's page cache and
//! its handling of errors are the real ones; only the disk below is ours.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::served::Served;

/// How the file system is made and mounted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layout {
    /// Options for `mkfs.ext4`, for example `["-N", "256"]` for few inodes.
    pub mkfs: &'static [&'static str],
    /// Options for `mount -o`; empty: none.
    pub mount: &'static str,
}

/// The file system, mounted. Unmounts itself.
pub struct Volume {
    /// The disk below.
    pub disk: Served,
    dir: PathBuf,
    layout: Layout,
    device: Option<String>,
}

impl Volume {
    /// Makes a file system of this size and mounts it at `dir`, which is made. What belongs to the disk is in `below`.
    ///
    /// # Errors
    /// Without root, `/dev/fuse` or loop devices, or when `mkfs.ext4` fails.
    pub fn create(dir: &Path, below: &Path, mib: usize, layout: Layout) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        std::fs::create_dir_all(below)?;
        let mut volume = Self {
            disk: Served::mount(below, mib << 20)?,
            dir: dir.to_owned(),
            layout,
            device: None,
        };
        let device = volume.attach()?;
        let quiet = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
        let mut make = Command::new("mkfs.ext4");
        make.args(["-q", "-E", quiet]).args(layout.mkfs).arg(&device);
        let made = run(&mut make);
        run(Command::new("losetup").args(["-d", &device]))?;
        made?;
        volume.mount()?;
        Ok(volume)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Name of the block device, as in `/sys/fs/ext4`.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// Brings the file system up from what the disk holds.
    ///
    /// # Errors
    /// When the kernel refuses: it cannot read the file system.
    pub fn mount(&mut self) -> Result<()> {
        let device = self.attach()?;
        let mut mount = Command::new("mount");
        if !self.layout.mount.is_empty() {
            mount.args(["-o", self.layout.mount]);
        }
        let mounted = run(mount.arg(&device).arg(&self.dir));
        // In use, it is detached when the file system is unmounted by any process.
        run(Command::new("losetup").args(["-d", &device]))?;
        mounted?;
        self.device = device.strip_prefix("/dev/").map(str::to_owned);
        Ok(())
    }

    /// A loop device on the disk.
    fn attach(&self) -> Result<String> {
        attach(&self.disk)
    }

    /// Unmounts, which succeeds only when no process uses it any more.
    ///
    /// # Errors
    /// When it is busy for 30 s.
    pub fn unmount(&mut self) -> Result<()> {
        let Some(device) = self.device.take() else {
            return Ok(());
        };
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            match run(Command::new("umount").arg(&self.dir)) {
                Ok(_) => break,
                Err(error) if Instant::now() > end => {
                    self.device = Some(device);
                    return Err(error.context("the file system is still in use"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        // The kernel detaches the loop device a little later. Two of one file would be two caches of it.
        let backing = PathBuf::from(format!("/sys/block/{device}/loop"));
        while backing.exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// After a power cut, when the machine's processes were killed: lets their last requests fail and mounts what is left. True
    /// when the file system had to be repaired first, as a host does when it starts: ext4 writes its superblock outside of the
    /// journal too, its two sectors can be torn, and the kernel mounts none whose checksum is wrong.
    ///
    /// # Errors
    /// When a process still uses it or the file system cannot be mounted.
    pub fn restart(&mut self) -> Result<bool> {
        self.disk.fail_everything();
        self.unmount()?;
        self.disk.revive();
        let Err(torn) = self.mount() else {
            return Ok(false);
        };
        self.check()
            .with_context(|| format!("after the power cut: {torn:#}"))?;
        self.mount().context("after the power cut, repaired")?;
        Ok(true)
    }

    /// Repairs the file system, which is not mounted.
    fn check(&self) -> Result<()> {
        /// Everything is in order, or is now (e2fsck(8)).
        const REPAIRED: i32 = 3;
        let device = self.attach()?;
        let checked = Command::new("e2fsck").args(["-f", "-y", &device]).output();
        run(Command::new("losetup").args(["-d", &device]))?;
        let checked = checked.context("cannot run e2fsck")?;
        if checked.status.code().is_some_and(|code| code <= REPAIRED) {
            return Ok(());
        }
        bail!(
            "e2fsck: {}: {}",
            checked.status,
            String::from_utf8_lossy(&checked.stdout)
        )
    }

    /// Tells ext4 that it has an error. With `errors=remount-ro` it turns read-only until it is mounted again.
    ///
    /// # Errors
    /// When this kernel has no such switch.
    pub fn trigger_error(&self) -> Result<()> {
        let device = self.device().context("not mounted")?;
        let switch = format!("/sys/fs/ext4/{device}/trigger_fs_error");
        std::fs::write(&switch, "asked for by a test").context(switch)
    }
}

/// A loop device on a disk; its name.
///
/// # Errors
/// Without root or loop devices.
pub fn attach(disk: &Served) -> Result<String> {
    let said = run(Command::new("losetup").args(["-f", "--show"]).arg(disk.file()))?;
    let device = said.trim().to_owned();
    // A loop device takes a write that came through in part for one that succeeded (measured with Linux 6.18): the file system
    // would be told of no error. So no request is larger than what FUSE carries in one piece.
    let name = device.strip_prefix("/dev/").unwrap_or(&device);
    let limit = format!("/sys/block/{name}/queue/max_sectors_kb");
    std::fs::write(&limit, "64").context(limit)?;
    Ok(device)
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.disk.fail_everything();
        if self.device.is_some() {
            let _ = run(Command::new("umount").args(["-l"]).arg(&self.dir));
        }
    }
}

/// Runs a program; what it said.
///
/// # Errors
/// When it cannot be run or fails, with what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !out.status.success() {
        bail!(
            "{command:?}: {}: {}{}",
            out.status,
            said(&out.stdout),
            said(&out.stderr)
        );
    }
    Ok(said(&out.stdout))
}
