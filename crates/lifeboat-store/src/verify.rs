//! Whether the images that something would be brought up on can be opened, found before it is reported that they can:
//! the files are there, their headers are those of images, the tables are inside of the files, and each image refers to one
//! below it. It reads headers and first-level tables, so it costs some reads for each image. What guests wrote is not read
//! here: digests of content are another matter.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use lifeboat_engine::ports::store::{StoreError, Target};
use lifeboat_model::{BranchId, DiskFormat};

use crate::branch::plan;
use crate::chain::Image;
use crate::error::{Result, io_error};
use crate::layer;
use crate::logs;
use crate::manifest::Manifest;
use crate::merge::complete;
use crate::replica::Replica;

/// Largest first-level table that QEMU opens, in bytes.
const MAX_L1: u64 = 32 << 20;

/// Bits of a table's entry that hold a place in the file.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// Bits of a first-level entry that are always zero.
const RESERVED: u64 = 0x7f00_0000_0000_01ff;

/// Bits of features without which an image cannot be read, as far as they may be set: not written back properly, another
/// compression, sub-clusters.
const KNOWN: u64 = 0b1_1001;

/// Looks at every image that would be in the chains of a branch to `target`.
pub(crate) fn target(replica: &Replica, target: Target) -> Result<()> {
    let plan = plan(replica, target)?;
    let manifest = replica.manifest();
    for disk in &plan.disks {
        let chain = replica.absolute(&manifest.chain(&disk.id, plan.on));
        images(replica, &manifest, &chain)?;
        if let Some(top) = chain.last().filter(|i| i.format == DiskFormat::Qcow2) {
            at_least(top, disk.size)?;
        }
    }
    for entry in &plan.logs {
        let path = replica.dir.join(logs::DIR).join(&entry.file);
        let there = logs::read_header(&path).map_err(|e| gone(&path, e))?;
        if there.is_none_or(|t| t.file != entry.file || t.log.size != entry.log.size) {
            return Err(damaged(&path, "it is no whole delta log"));
        }
    }
    Ok(())
}

/// Looks at a complete branch and everything below it.
pub(crate) fn branch(replica: &Replica, id: BranchId) -> Result<()> {
    let manifest = replica.manifest();
    let branch = complete(&manifest, id)?;
    for layer in &branch.layers {
        let chain = replica.absolute(&manifest.branch_chain(branch, layer));
        images(replica, &manifest, &chain)?;
        if let Some(top) = chain.last() {
            at_least(top, layer.size)?;
        }
    }
    Ok(())
}

/// Looks at a chain (absolute paths, lowest first).
fn images(replica: &Replica, manifest: &Manifest, chain: &[Image]) -> Result<()> {
    for (n, image) in chain.iter().enumerate() {
        let below = chain.get(..n).unwrap_or_default();
        match image.format {
            DiskFormat::Raw => raw(replica, manifest, image)?,
            DiskFormat::Qcow2 => qcow2(image, below)?,
        }
    }
    Ok(())
}

fn damaged(path: &Utf8Path, detail: impl Into<String>) -> StoreError {
    StoreError::Damaged {
        path: path.to_owned(),
        detail: detail.into(),
    }
}

/// A file that cannot be opened because it is not there is damage, not an error of the disk.
fn gone(path: &Utf8Path, error: StoreError) -> StoreError {
    let StoreError::Io { source, .. } = &error else {
        return error;
    };
    if source.kind() == io::ErrorKind::NotFound {
        damaged(path, "it is gone")
    } else if source.kind() == io::ErrorKind::UnexpectedEof {
        damaged(path, "it ends too early")
    } else {
        error
    }
}

fn open(path: &Utf8Path) -> Result<(File, u64)> {
    let file = File::open(path).map_err(|e| gone(path, io_error("open", path)(e)))?;
    let metadata = file.metadata().map_err(io_error("look at", path))?;
    if metadata.is_file() {
        Ok((file, metadata.len()))
    } else {
        Err(damaged(path, "it is no file"))
    }
}

/// A base holds at least what the first copy put there, unless it is an image that was taken over or older than the generation.
fn raw(replica: &Replica, manifest: &Manifest, image: &Image) -> Result<()> {
    let (_, len) = open(&image.file)?;
    if manifest.adopted.is_some() || manifest.promoted.is_some() {
        return Ok(());
    }
    let of = |d: &&lifeboat_deltalog::LogDisk| replica.dir.join(manifest.base(&d.id).file) == image.file;
    match manifest.created.iter().find(of) {
        Some(disk) if len < disk.size => {
            let detail = format!("it has {len} bytes, the disk has {}", disk.size);
            Err(damaged(&image.file, detail))
        }
        Some(_) | None => Ok(()),
    }
}

fn at_least(image: &Image, size: u64) -> Result<()> {
    let shows = layer::size_of(image)?;
    if shows < size {
        let detail = format!("it shows a disk of {shows} bytes, the disk has {size} bytes");
        Err(damaged(&image.file, detail))
    } else {
        Ok(())
    }
}

/// The fixed part of a qcow2 header.
struct Header([u8; 104]);

impl Header {
    fn u32(&self, offset: usize) -> u32 {
        let field = self.0.get(offset..offset + 4).and_then(|f| f.try_into().ok());
        u32::from_be_bytes(field.unwrap_or_default())
    }

    fn u64(&self, offset: usize) -> u64 {
        let field = self.0.get(offset..offset + 8).and_then(|f| f.try_into().ok());
        u64::from_be_bytes(field.unwrap_or_default())
    }
}

/// Looks at one qcow2 image and the images below it in the chain.
fn qcow2(image: &Image, below: &[Image]) -> Result<()> {
    let path = &image.file;
    let (file, len) = open(path)?;
    let mut header = Header([0; 104]);
    let have = usize::try_from(len.min(104)).unwrap_or(104);
    file.read_exact_at(header.0.get_mut(..have).unwrap_or_default(), 0)
        .map_err(|e| gone(path, io_error("read", path)(e)))?;
    let version = header.u32(4);
    if have < 72 || header.u32(0) != u32::from_be_bytes(*b"QFI\xfb") || !(2..=3).contains(&version) {
        return Err(damaged(path, "it is no qcow2 image any more"));
    }
    let bits = header.u32(20);
    if !(9..=21).contains(&bits) {
        return Err(damaged(
            path,
            format!("its header is damaged: clusters of 2^{bits} bytes"),
        ));
    }
    let wrong = |what: &str| Err(damaged(path, format!("its header is damaged: {what}")));
    if header.u32(32) != 0 {
        return wrong("it says that it is encrypted");
    }
    if version == 3 {
        let features = header.u64(72);
        if features & 0b10 != 0 {
            return Err(damaged(
                path,
                "it is marked corrupt; look at it with: qemu-img check",
            ));
        }
        if features & !KNOWN != 0 {
            return wrong("it wants features that do not exist here");
        }
        if !(104..=1 << bits).contains(&header.u32(100)) || header.u32(96) > 6 {
            return wrong("its own length or its counters");
        }
    }
    let cluster = 1_u64 << bits;
    let inside = |offset: u64| offset.is_multiple_of(cluster) && offset >= cluster && offset < len;
    if !inside(header.u64(48)) || header.u32(56) == 0 {
        return wrong("its reference counts are outside of the file");
    }
    first_level(path, &file, &header, len)?;
    if let Some(lower) = below.last() {
        refers_below(path, &file, &header, cluster, lower, below, image.ours)?;
    }
    if image.ours && !layer::opens(path) {
        Err(damaged(path, "it cannot be opened"))
    } else {
        Ok(())
    }
}

/// Whether the first-level table covers the disk and every table it names is inside of the file.
fn first_level(path: &Utf8Path, file: &File, header: &Header, len: u64) -> Result<()> {
    let wrong = |what: &str| Err(damaged(path, format!("its first-level table is damaged: {what}")));
    let cluster = 1_u64 << header.u32(20);
    let extended = header.u32(4) == 3 && header.u64(72) & 0b1_0000 != 0;
    let entries = cluster / if extended { 16 } else { 8 };
    let (count, offset) = (u64::from(header.u32(36)), header.u64(40));
    let needed = header.u64(24).div_ceil(cluster).div_ceil(entries);
    if count < needed || count * 8 > MAX_L1 {
        return wrong("it does not fit the disk's size");
    }
    if count == 0 {
        return Ok(());
    }
    if !offset.is_multiple_of(cluster) || offset < cluster || offset.saturating_add(count * 8) > len {
        return wrong("it is outside of the file");
    }
    let mut table = vec![0; usize::try_from(count * 8).unwrap_or_default()];
    file.read_exact_at(&mut table, offset)
        .map_err(|e| gone(path, io_error("read", path)(e)))?;
    for entry in table.as_chunks::<8>().0 {
        let entry = u64::from_be_bytes(*entry);
        let place = entry & OFFSET;
        if entry & RESERVED != 0 || !place.is_multiple_of(cluster) || place >= len {
            return wrong("it names a place that is no table");
        }
    }
    Ok(())
}

/// Whether the image names one of those below it. The name of a branch's image is whatever its VM's process chose.
fn refers_below(
    path: &Utf8Path,
    file: &File,
    header: &Header,
    cluster: u64,
    lower: &Image,
    below: &[Image],
    ours: bool,
) -> Result<()> {
    let (offset, len) = (header.u64(8), u64::from(header.u32(16)));
    if offset < 72 || len == 0 || len > 1023 || offset.saturating_add(len) > cluster {
        let detail = format!(
            "its header is damaged: it names no image below it, which is {}",
            lower.file
        );
        return Err(damaged(path, detail));
    }
    let mut name = vec![0; usize::try_from(len).unwrap_or_default()];
    file.read_exact_at(&mut name, offset)
        .map_err(|e| gone(path, io_error("read", path)(e)))?;
    if !ours {
        return Ok(());
    }
    let name = String::from_utf8_lossy(&name).into_owned();
    let said = plain(&path.parent().unwrap_or(path).join(&name));
    if below.iter().any(|i| plain(&i.file) == said) {
        Ok(())
    } else {
        let detail = format!(
            "its header is damaged: it names the backing file \"{name}\", not {}",
            lower.file
        );
        Err(damaged(path, detail))
    }
}

/// A path without `..`, by its words alone.
fn plain(path: &Utf8Path) -> Utf8PathBuf {
    let mut out = Utf8PathBuf::new();
    for part in path.components() {
        match part {
            Utf8Component::ParentDir => {
                out.pop();
            }
            Utf8Component::CurDir => {}
            part @ (Utf8Component::Prefix(_) | Utf8Component::RootDir | Utf8Component::Normal(_)) => {
                out.push(part.as_str());
            }
        }
    }
    out
}
