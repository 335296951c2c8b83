//! Dirty bitmaps for raw disks. A raw file has no room for them, so it is opened through a qcow2 file, the *tracking overlay*,
//! whose data all lies in the raw file at the same offsets. The raw file stays plain raw; the overlay holds only the
//! bitmaps and is made again whenever it may not belong to the raw file's present content.
//!
//! That is so, too, when QEMU did not close it in order. An overlay has a map, in which QEMU marks clusters of zeros, and the map
//! is written back later than the data: with a map from before, the guest would see zeros where the raw file holds what it
//! wrote. File times do not show it, because after a power cut they may be newer than the content. The evidence is
//! QEMU's own: it marks every bitmap in an image as in use, durably, before anything else is written there, and takes the mark
//! away when all is closed. So each overlay has a disabled bitmap from the start.
//!
//! Beside each overlay lies a note that says which file it is for, and that bitmaps were lost with an earlier overlay.

use std::fs::{self, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use lifeboat_block::capture::RECORD_PREFIX;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::files;

/// The bitmap that every tracking overlay has, by the name that the files of older releases have.
const ALWAYS: &str = "shell";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// The raw file the overlay was made for; nothing while it is being made.
    file: Option<Identity>,
    /// Why the bitmaps are gone, until tracking is started or stopped.
    lost: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
}

fn note_path(overlay: &Path) -> PathBuf {
    overlay.with_extension("json")
}

fn load(overlay: &Path) -> Note {
    fs::read(note_path(overlay))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

fn store(overlay: &Path, note: &Note) -> io::Result<()> {
    files::write_durably(&note_path(overlay), &serde_json::to_vec(note)?)
}

/// Why the bitmaps of this overlay's disk are gone, if they are.
pub(crate) fn lost(overlay: &Path) -> Option<String> {
    load(overlay).lost
}

/// Whether `overlay` was made for the file that is at `raw` now, which was so accepted as a raw disk.
pub(crate) fn is_for(overlay: &Path, raw: &Path) -> bool {
    let Ok(meta) = fs::metadata(raw) else { return false };
    let made_for = load(overlay).file;
    made_for.is_some_and(|f| f.path == raw && (f.device, f.inode) == (meta.dev(), meta.ino()))
}

/// Tracking was started again or stopped: what was lost before is no longer of interest.
pub(crate) fn forget_loss(overlay: &Path) -> io::Result<()> {
    let note = load(overlay);
    match note.lost {
        None => Ok(()),
        Some(_) => store(overlay, &Note { lost: None, ..note }),
    }
}

/// Makes sure that `overlay` fits the raw file `raw`, which no process has open. Bitmaps are kept only when the overlay was
/// closed in order and the raw file was not touched after that.
pub(crate) async fn prepare(overlay: &Path, raw: &Path) -> io::Result<()> {
    let meta = fs::metadata(raw)?;
    let identity = Identity {
        path: raw.to_owned(),
        device: meta.dev(),
        inode: meta.ino(),
        size: size_of(raw, &meta)?,
    };
    let note = load(overlay);
    let doubt = match fs::metadata(overlay) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
        Ok(_) if !fits(note.file.as_ref(), &identity, overlay) => {
            Some("the raw file was replaced or resized".to_owned())
        }
        // QEMU writes the overlay last when it closes a disk. The change time, unlike the modification time, cannot be
        // set back by a copying tool.
        Ok(own) if changed(&meta) > changed(&own) => Some(
            "the raw file changed after its disk was closed, or the disk was not closed cleanly".to_owned(),
        ),
        Ok(_) => {
            let bitmaps = Bitmaps::of(overlay).await;
            if bitmaps.closed_in_order {
                let file = Some(identity);
                return if note.file == file {
                    Ok(())
                } else {
                    store(overlay, &Note { file, ..note })
                };
            }
            Some("the VM's process did not close its images in order".to_owned())
        }
    };
    let lost = match doubt {
        Some(reason) if Bitmaps::of(overlay).await.records => Some(reason),
        _ => note.lost,
    };
    // The loss is noted before the overlay goes: a crash in between must not make it look as if tracking never began.
    if let Some(dir) = overlay.parent() {
        files::private_dir(dir)?;
    }
    let mut note = Note { file: None, lost };
    store(overlay, &note)?;
    files::remove(overlay)?;
    create(overlay, raw, identity.size).await?;
    note.file = Some(identity);
    store(overlay, &note)
}

/// Bytes of a raw file, or of a device, whose metadata does not have it.
fn size_of(raw: &Path, meta: &Metadata) -> io::Result<u64> {
    if meta.is_file() {
        return Ok(meta.len());
    }
    fs::File::open(raw)?.seek(SeekFrom::End(0))
}

/// Whether the overlay is one of this raw file. Both grow together when a running VM's disk does.
fn fits(made_for: Option<&Identity>, now: &Identity, overlay: &Path) -> bool {
    made_for.is_some_and(|made| {
        let grown = Identity {
            size: now.size,
            ..made.clone()
        };
        made == now || (grown == *now && virtual_size(overlay) == Some(now.size))
    })
}

/// The disk's size in bytes as the overlay has it: a field of a qcow2 header.
fn virtual_size(overlay: &Path) -> Option<u64> {
    const AT: std::ops::Range<usize> = 24..32;
    let mut header = [0; AT.end];
    fs::File::open(overlay).ok()?.read_exact(&mut header).ok()?;
    Some(u64::from_be_bytes(header.get(AT)?.try_into().ok()?))
}

fn changed(meta: &Metadata) -> (i64, i64) {
    (meta.ctime(), meta.ctime_nsec())
}

/// What the bitmaps in an overlay say.
struct Bitmaps {
    /// There are some, and QEMU took its mark from each.
    closed_in_order: bool,
    /// Bitmaps with which Lifeboat tracks changes are among them.
    records: bool,
}

impl Bitmaps {
    /// Those of an overlay that no process has open. Of one that cannot be read the worse is assumed.
    async fn of(overlay: &Path) -> Self {
        // Read without the data file: only the header and the directory of bitmaps count.
        let image = serde_json::json!({
            "driver": "qcow2", "file": {"driver": "file", "filename": overlay},
            "data-file": {"driver": "null-co", "size": 0}, "backing": null,
        });
        let out = Command::new("qemu-img")
            .args(["info", "-U", "--output=json"])
            .arg(format!("json:{image}"))
            .output()
            .await;
        let info: Option<serde_json::Value> = out.ok().and_then(|o| serde_json::from_slice(&o.stdout).ok());
        let Some(info) = info else {
            return Self {
                closed_in_order: false,
                records: true,
            };
        };
        let bitmaps = info.pointer("/format-specific/data/bitmaps");
        let bitmaps = bitmaps.and_then(|b| b.as_array()).map_or(&[][..], Vec::as_slice);
        let in_use = |b: &serde_json::Value| {
            let flags = b.get("flags").and_then(|f| f.as_array());
            flags.is_none_or(|f| f.iter().any(|flag| flag == "in-use"))
        };
        let ours = |b: &serde_json::Value| {
            let name = b.get("name").and_then(|n| n.as_str());
            name.is_some_and(|n| n.starts_with(RECORD_PREFIX))
        };
        Self {
            closed_in_order: !bitmaps.is_empty() && !bitmaps.iter().any(in_use),
            records: bitmaps.iter().any(ours),
        }
    }
}

/// Creates an overlay over `raw` without touching it: made over an empty stand-in, then pointed to the raw file.
async fn create(overlay: &Path, raw: &Path, size: u64) -> io::Result<()> {
    let stand_in = overlay.with_extension("stand-in");
    let fresh = overlay.with_extension("fresh");
    files::remove(&stand_in)?;
    files::remove(&fresh)?;
    // The map of clusters takes 8 bytes each and is complete from the start.
    let cluster = match size {
        0..=0x40_0000_0000 => "64k",
        s if s <= 4 << 40 => "256k",
        _ => "1M",
    };
    let name = escape(&stand_in)?;
    let options = format!("data_file={name},data_file_raw=on,cluster_size={cluster}");
    let target = text(&fresh)?;
    image_tool(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        &options,
        target,
        &size.to_string(),
    ])
    .await?;
    // As coarse as can be: it takes no room.
    image_tool(&[
        "bitmap",
        "--add",
        "--disable",
        "-g",
        "2G",
        "-f",
        "qcow2",
        target,
        ALWAYS,
    ])
    .await?;
    let options = format!("data_file={}", escape(raw)?);
    image_tool(&["amend", "-q", "-f", "qcow2", "-o", &options, target]).await?;
    files::remove(&stand_in)?;
    fs::File::open(&fresh)?.sync_all()?;
    fs::rename(&fresh, overlay)
}

fn text(path: &Path) -> io::Result<&str> {
    path.to_str()
        .ok_or_else(|| io::Error::other(format!("{}: the path is not UTF-8", path.display())))
}

/// A path inside a list of options, where a comma is written twice.
fn escape(path: &Path) -> io::Result<String> {
    Ok(text(path)?.replace(',', ",,"))
}

async fn image_tool(arguments: &[&str]) -> io::Result<()> {
    let out = Command::new("qemu-img").args(arguments).output().await?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    Err(io::Error::other(format!("qemu-img: {}", said.trim())))
}
