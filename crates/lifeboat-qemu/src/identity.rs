//! What identifies the content of an image file without reading it, and whether two looks saw the same. Compared for
//! equality only: times are never ordered, because clocks jump and times of files can be set.
//!
//! A file's change time cannot be set by anybody, and moves with every write; a copy over it, another file moved into its
//! place and a modification time that is put back all show. Times advance in ticks of the kernel, so a look within a tick
//! of a change could miss the next one: [`at_rest`] waits for that tick to pass. A device has no such times. What the
//! kernel counts of it takes their place: what was written to it since this boot.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_model::DiskFormat;
use serde::{Deserialize, Serialize};

use crate::layers::{Kind, Layer};

/// Longer than a tick of the kernel's file times, which take 1 to 10 ms.
const TICK: Duration = Duration::from_millis(20);

/// Bytes at the beginning of a qcow2 image that are part of its identity: header, extensions, and the names in them.
const HEADER: u64 = 4096;

/// Seconds and nanoseconds, as the file system has them.
type FileTime = (i64, i64);

/// What a look at an image saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) path: Utf8PathBuf,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// Bytes; 0 for a device, whose length is no property of its file.
    size: u64,
    modified: FileTime,
    changed: FileTime,
    fact: Fact,
}

/// What else is compared, by what the image is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Fact {
    /// A raw file has nothing beside its content.
    Raw,
    /// Digest of the header, which every program that opens an image for writing touches.
    Qcow2 { header: String },
    /// What the kernel counts of a device.
    Device {
        /// This boot of the host; counters begin at 0 with each.
        boot: String,
        /// Number of the device since boot: one that is removed and made again has another.
        sequence: String,
        /// Requests and sectors that were written and discarded.
        written: Vec<u64>,
    },
}

impl Identity {
    /// Looks at an image.
    pub(crate) fn of(layer: &Layer) -> io::Result<Self> {
        let path = &layer.path;
        let meta = fs::metadata(path)?;
        let fact = match (layer.kind, layer.format) {
            (Kind::Device, _) => device(&meta)?,
            (Kind::File, DiskFormat::Raw) => Fact::Raw,
            (Kind::File, DiskFormat::Qcow2) => {
                let mut header = Vec::new();
                File::open(path)?.take(HEADER).read_to_end(&mut header)?;
                Fact::Qcow2 {
                    header: blake3::hash(&header).to_hex().to_string(),
                }
            }
        };
        // The file of a device belongs to the system, which touches its times as it likes.
        let (size, modified, changed) = match layer.kind {
            Kind::File => (
                meta.len(),
                (meta.mtime(), meta.mtime_nsec()),
                (meta.ctime(), meta.ctime_nsec()),
            ),
            Kind::Device => (0, (0, 0), (0, 0)),
        };
        Ok(Self {
            path: path.clone(),
            device: meta.dev(),
            inode: meta.ino(),
            size,
            modified,
            changed,
            fact,
        })
    }

    /// Whether both are looks at one file, whatever it holds.
    pub(crate) fn same_file(&self, other: &Self) -> bool {
        (&self.path, self.device, self.inode) == (&other.path, other.device, other.inode)
    }

    /// Whether it is a file, of this format. A device is none.
    pub(crate) fn holds(&self, format: DiskFormat) -> bool {
        match self.fact {
            Fact::Raw => format == DiskFormat::Raw,
            Fact::Qcow2 { .. } => format == DiskFormat::Qcow2,
            Fact::Device { .. } => false,
        }
    }

    /// How `now` differs, in words; nothing when it does not.
    pub(crate) fn difference(&self, now: &Self) -> Option<String> {
        if self == now {
            return None;
        }
        let path = &now.path;
        Some(if self.path != now.path {
            format!("the disk is {path} now, and was {}", self.path)
        } else if !self.same_file(now) {
            format!("{path} was replaced by another file")
        } else if self.size != now.size {
            format!("{path} was resized from {} to {} bytes", self.size, now.size)
        } else if self.changed != now.changed || self.modified != now.modified {
            format!("{path} was changed after it was closed")
        } else {
            match (&self.fact, &now.fact) {
                (Fact::Device { boot: a, .. }, Fact::Device { boot: b, .. }) if a != b => {
                    format!("the host was restarted, and {path} may have been written to meanwhile")
                }
                _ => format!("{path} was written to after it was closed"),
            }
        })
    }

    /// When the file changed last; nothing for a device.
    pub(crate) fn changed(&self) -> Option<FileTime> {
        match self.fact {
            Fact::Raw | Fact::Qcow2 { .. } => Some(self.changed),
            Fact::Device { .. } => None,
        }
    }

    /// Whether a further change would show in the file's times.
    fn rests(&self) -> bool {
        let Some((seconds, nanos)) = self.changed() else {
            return true;
        };
        let (Ok(seconds), Ok(nanos)) = (u64::try_from(seconds), u32::try_from(nanos)) else {
            return true;
        };
        let changed = UNIX_EPOCH + Duration::new(seconds, nanos);
        // A time in the future comes of a clock that was put back; waiting does not help.
        SystemTime::now()
            .duration_since(changed)
            .map_or(true, |age| age > TICK)
    }
}

/// Looks at images that no process should be writing to, late enough that a change after it would show.
pub(crate) async fn at_rest(layers: &[Layer]) -> io::Result<Vec<Identity>> {
    let mut seen = look(layers)?;
    for _ in 0..3 {
        if seen.iter().all(Identity::rests) {
            break;
        }
        tokio::time::sleep(TICK).await;
        seen = look(layers)?;
    }
    Ok(seen)
}

/// Looks at images as they are.
pub(crate) fn look(layers: &[Layer]) -> io::Result<Vec<Identity>> {
    let look = |layer: &Layer| {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", layer.path));
        Identity::of(layer).map_err(named)
    };
    layers.iter().map(look).collect()
}

fn device(meta: &Metadata) -> io::Result<Fact> {
    let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    let dir = Utf8PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    // Kernels before 5.15 have no sequence numbers.
    let sequence = fs::read_to_string(dir.join("diskseq")).unwrap_or_default();
    let stat = fs::read_to_string(dir.join("stat"))?;
    // Of the documented columns: write requests and sectors, discard requests and sectors. A column that an old kernel
    // lacks is not compared.
    let columns: Vec<u64> = stat
        .split_ascii_whitespace()
        .filter_map(|n| n.parse().ok())
        .collect();
    let written = [4, 6, 11, 13].iter().filter_map(|n| columns.get(*n).copied());
    Ok(Fact::Device {
        boot: read(Utf8Path::new("/proc/sys/kernel/random/boot_id"))?,
        sequence: sequence.trim().to_owned(),
        written: written.collect(),
    })
}

fn read(path: &Utf8Path) -> io::Result<String> {
    Ok(fs::read_to_string(path)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(path: &std::path::Path) -> Layer {
        Layer {
            path: Utf8PathBuf::from_path_buf(path.to_owned()).unwrap(),
            format: DiskFormat::Raw,
            kind: Kind::File,
        }
    }

    #[tokio::test]
    async fn what_others_do_to_a_file_shows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.raw");
        let other = dir.path().join("other.raw");
        fs::write(&path, [7; 1024]).unwrap();
        let layers = [layer(&path)];
        type Deed = fn(&std::path::Path, &std::path::Path);
        let deeds: [(Deed, &str); 4] = [
            (
                |path, _| {
                    // One byte, and the modification time put back.
                    let file = File::options().write(true).open(path).unwrap();
                    let before = file.metadata().unwrap().modified().unwrap();
                    std::os::unix::fs::FileExt::write_all_at(&file, &[8], 100).unwrap();
                    file.set_modified(before).unwrap();
                },
                "was changed",
            ),
            (
                |path, other| {
                    fs::copy(path, other).unwrap();
                    fs::rename(other, path).unwrap();
                },
                "replaced by another file",
            ),
            (
                |path, other| {
                    fs::write(other, [9; 1024]).unwrap();
                    fs::copy(other, path).unwrap();
                },
                "was changed",
            ),
            (
                |path, _| fs::write(path, [7; 512]).unwrap(),
                "resized from 1024 to 512",
            ),
        ];
        for (deed, word) in deeds {
            let before = at_rest(&layers).await.unwrap();
            assert_eq!(look(&layers).unwrap(), before, "nothing happened");
            deed(&path, &other);
            let now = look(&layers).unwrap();
            let said = before[0].difference(&now[0]).unwrap_or_default();
            assert!(said.contains(word), "{said} should contain {word}");
        }
    }
}
