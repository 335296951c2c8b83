//! Writing qcow2 layers in this process. Chains are put together from the manifest: a reference inside an image is never
//! followed, and an image that wants an external data file is refused.
//!
//! Clusters have the granularity of captured changes (`change_granularity`), so that applying a change copies nothing from
//! below. Measured with writes all over a fresh layer: at 16 KiB each, this writer with 16 KiB clusters made 56 000/s, with 64 KiB
//! clusters 22 000/s (and three times the space), QEMU's writer with sub-clusters 24 000/s; at 4 KiB each, 31 000/s, 16 000/s
//! and 36 000/s. So a second writer in another process would gain little. Clusters of 4 KiB are faster still (126 000/s) but
//! would make the tables of a 1 TiB disk too large to keep (4 MiB of first-level table per layer at 4 KiB).

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;

use camino::{Utf8Path, Utf8PathBuf};
use imago::file::File;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder, ShallowMapping};
use lifeboat_deltalog::{Frame, FrameBody};
use lifeboat_engine::ports::store::StoreError;
use lifeboat_model::DiskFormat;
use lifeboat_model::policy::change_granularity;

use crate::chain::Image;
use crate::durable;
use crate::error::{Result, io_error};
use crate::export::{Export, MAX_READ};
use crate::files;

/// Neighbouring frames are written together up to this many bytes.
const BATCH: usize = 4 << 20;

/// Bytes of an entry of a qcow2 table (docs/interop/qcow2.txt of QEMU).
const TABLE_ENTRY: u64 = 8;

/// Longest backing file name a qcow2 header may hold, in bytes.
const MAX_NAME: u32 = 1023;

/// A layer open for writing, on top of its chain.
pub(crate) struct Writer {
    image: FormatAccess<File>,
    foreign: Option<Foreign>,
    path: Utf8PathBuf,
    batch: Vec<u8>,
    batch_at: u64,
    /// Something was written since it was opened.
    written: bool,
    /// Bytes of a cluster.
    cluster: u64,
}

/// Makes an empty layer of `size` bytes whose header refers to `backing`.
pub(crate) fn create(path: &Utf8Path, size: u64, backing: &Utf8Path, format: DiskFormat) -> Result<()> {
    let cluster = usize::try_from(change_granularity(size)).unwrap_or(64 << 10);
    create_with(path, size, backing, format, cluster)
}

/// As [`create`], with a cluster size in bytes, for measuring what it costs.
pub(crate) fn create_with(
    path: &Utf8Path,
    size: u64,
    backing: &Utf8Path,
    format: DiskFormat,
    cluster: usize,
) -> Result<()> {
    let format = match format {
        DiskFormat::Raw => "raw",
        DiskFormat::Qcow2 => "qcow2",
    };
    let make = || {
        let file = files::create(path)?;
        Qcow2::<File>::create_builder(File::try_from(file)?)
            .size(size)
            .cluster_size(cluster)
            .backing(backing.to_string(), format.to_owned())
            .create()
    };
    durable::write(path, make)
}

pub(crate) fn open_image(
    image: &Image,
    below: Option<FormatAccess<File>>,
    write: bool,
) -> Result<FormatAccess<File>> {
    let path = &image.file;
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .open(path)
        .and_then(File::try_from)
        .map_err(io_error("open", path))?;
    let damaged = |detail: String| StoreError::Damaged {
        path: path.clone(),
        detail,
    };
    if image.format == DiskFormat::Raw {
        let raw = Raw::open_image(file, write).map_err(io_error("open", path))?;
        return Ok(FormatAccess::new(raw));
    }
    let image = Qcow2::<File>::builder(file)
        .write(write)
        .backing(below)
        .data_file(None)
        .open(DenyImplicitOpenGate::default())
        .map_err(|e| damaged(e.to_string()))?;
    if image.requires_external_data_file() {
        return Err(damaged("wants an external data file".to_owned()));
    }
    Ok(FormatAccess::new(image))
}

/// Images below that `imago` does not read. Opened by QEMU when the first write covers a cluster only in part, which
/// captured changes do nowhere but at the end of a disk of an odd size.
struct Foreign {
    dir: Utf8PathBuf,
    below: Vec<Image>,
    open: Option<Export>,
    /// Bytes of a cluster of the image that is written.
    cluster: u64,
}

impl Foreign {
    fn read(&mut self, from: u64, to: u64) -> Result<Vec<u8>> {
        let export = match &mut self.open {
            Some(export) => export,
            None => self.open.insert(Export::open(&self.dir, &self.below)?),
        };
        let mut data = vec![0; usize::try_from(to - from).unwrap_or_default()];
        let there = export.size().clamp(from, to) - from;
        let there = data.get_mut(..usize::try_from(there).unwrap_or_default());
        for (n, piece) in there
            .unwrap_or_default()
            .chunks_mut(MAX_READ as usize)
            .enumerate()
        {
            let offset = from + n as u64 * u64::from(MAX_READ);
            let path = self.below.last().map_or(&self.dir, |i| &i.file);
            let content = export.read(offset, piece.len()).map_err(io_error("read", path))?;
            piece.copy_from_slice(&content);
        }
        Ok(data)
    }
}

impl Writer {
    /// Opens the last image of `chain` (absolute paths, lowest first) of the replica in `dir` for writing and grows it to
    /// `size` if it is smaller.
    pub(crate) fn open(dir: &Utf8Path, chain: &[Image], size: u64) -> Result<Self> {
        let Some((top, below)) = chain.split_last() else {
            let what = "an empty image chain".to_owned();
            let source = io::ErrorKind::InvalidInput.into();
            return Err(StoreError::Io { what, source });
        };
        let mut image = None;
        let foreign = if below.iter().all(|i| i.ours) {
            for lower in below {
                image = Some(open_image(lower, image.take(), false)?);
            }
            None
        } else {
            Some(Foreign {
                dir: dir.to_owned(),
                below: below.to_vec(),
                open: None,
                cluster: cluster_size(&top.file)?,
            })
        };
        let mut writer = Self {
            image: open_image(top, image, true)?,
            foreign,
            path: top.file.clone(),
            batch: Vec::new(),
            batch_at: 0,
            written: false,
            cluster: cluster_size(&top.file)?.max(1),
        };
        let had = writer.image.size();
        if size > had {
            writer.written = true;
            writer
                .image
                .resize(size, imago::format::PreallocateMode::None)
                .map_err(io_error("grow", &top.file))?;
            writer.cover(below, had, size)?;
        }
        Ok(writer)
    }

    /// Hides what images further below have from byte `from` on: they may be larger than a disk of this chain was.
    fn cover(&mut self, below: &[Image], from: u64, to: u64) -> Result<()> {
        let mut largest = 0;
        for image in below {
            largest = largest.max(size_of(image)?);
        }
        if from < largest.min(to) {
            // Whole clusters, so that none is filled with data.
            let end = largest.next_multiple_of(self.cluster);
            self.zero(from, end.min(to) - from)?;
        }
        Ok(())
    }

    /// Bytes by which a change lets the file grow at most: clusters that it fills or cuts, and a table of them for each
    /// range that one covers. Little that is far apart costs much.
    pub(crate) fn cost(&self, frame: &Frame) -> u64 {
        let cluster = self.cluster;
        let len = match &frame.body {
            FrameBody::Data(data) => data.len() as u64,
            FrameBody::Zero(len) => *len,
        };
        let end = frame.offset.saturating_add(len);
        let (first, last) = (frame.offset / cluster, end.div_ceil(cluster));
        let clusters = match &frame.body {
            FrameBody::Data(_) => last - first,
            FrameBody::Zero(_) => [frame.offset, end].iter().filter(|at| *at % cluster != 0).count() as u64,
        };
        let per_table = (cluster / TABLE_ENTRY).max(1);
        let tables = last.div_ceil(per_table) - first / per_table;
        clusters.saturating_add(tables).saturating_mul(cluster)
    }

    /// Takes a change. It may be held back until [`Self::finish`].
    pub(crate) fn write(&mut self, frame: Frame) -> Result<()> {
        self.written = true;
        match frame.body {
            FrameBody::Data(data) => {
                let end = self.batch_at + self.batch.len() as u64;
                if end != frame.offset || self.batch.len() + data.len() > BATCH {
                    self.drain()?;
                    self.batch_at = frame.offset;
                }
                self.batch.extend_from_slice(&data);
                Ok(())
            }
            FrameBody::Zero(len) => self.zero(frame.offset, len),
        }
    }

    /// Makes a range zeros.
    pub(crate) fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        self.drain()?;
        self.written = true;
        let end = offset + len;
        self.complete_cluster(offset)?;
        self.complete_cluster(end)?;
        durable::write(&self.path, || self.image.write_zeroes(offset, len))
    }

    /// Fetches the cluster with byte `edge` from below if a write begins or ends inside of it. Images that `imago` reads
    /// itself need no such help.
    fn complete_cluster(&mut self, edge: u64) -> Result<()> {
        let Some(foreign) = &mut self.foreign else {
            return Ok(());
        };
        let start = edge - edge % foreign.cluster;
        if start == edge || edge >= self.image.size() {
            return Ok(());
        }
        let end = (start + foreign.cluster).min(self.image.size());
        let mapping = self.image.get_shallow_mapping(start, 1);
        let (mapping, _) = mapping.map_err(io_error("read", &self.path))?;
        // Opened without what is below, an unallocated cluster is one of zeros that were not written.
        if matches!(mapping, ShallowMapping::Zero { explicit: false, .. }) {
            let data = foreign.read(start, end)?;
            durable::write(&self.path, || self.image.write(data.as_slice(), start))?;
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        if !self.batch.is_empty() {
            self.complete_cluster(self.batch_at)?;
            self.complete_cluster(self.batch_at + self.batch.len() as u64)?;
            durable::write(&self.path, || {
                self.image.write(self.batch.as_slice(), self.batch_at)
            })?;
            self.batch.clear();
        }
        Ok(())
    }

    /// Writes everything, makes it durable, and returns which file it is in. An image that nothing was written to is as durable
    /// as it was.
    pub(crate) fn finish(mut self) -> Result<Utf8PathBuf> {
        if !self.written {
            return Ok(self.path);
        }
        self.drain()?;
        durable::write(&self.path, || self.image.flush())?;
        durable::sync_by(&self.path, || self.image.sync())?;
        Ok(self.path)
    }
}

/// Whether `path` can be opened as a layer of ours; says nothing about its content.
pub(crate) fn opens(path: &Utf8Path) -> bool {
    open_image(&Image::layer(path), None, false).is_ok()
}

/// Makes a fresh layer (the last of `chain`, absolute) hide what the images below have from byte `from` on.
pub(crate) fn cover(dir: &Utf8Path, chain: &[Image], from: u64, size: u64) -> Result<()> {
    let Some((_, below)) = chain.split_last() else {
        return Ok(());
    };
    let mut writer = Writer::open(dir, chain, size)?;
    writer.cover(below, from, size)?;
    writer.finish().map(drop)
}

/// Whether an image of `below` has something from byte `from` on that a layer of this size would show.
pub(crate) fn shows_beyond(below: &[Image], from: u64, size: u64) -> Result<bool> {
    for image in below {
        if size_of(image)?.min(size) > from {
            return Ok(true);
        }
    }
    Ok(false)
}

fn field<const N: usize>(path: &Utf8Path, offset: u64) -> Result<[u8; N]> {
    let mut field = [0; N];
    std::fs::File::open(path)
        .and_then(|f| f.read_exact_at(&mut field, offset))
        .map_err(io_error("read", path))?;
    Ok(field)
}

/// Size in bytes of the disk that an image shows.
pub(crate) fn size_of(image: &Image) -> Result<u64> {
    match image.format {
        DiskFormat::Qcow2 => field(&image.file, 24).map(u64::from_be_bytes),
        DiskFormat::Raw => {
            let metadata = std::fs::metadata(&image.file).map_err(io_error("look at", &image.file))?;
            Ok(metadata.len().next_multiple_of(512))
        }
    }
}

pub(crate) fn cluster_size(path: &Utf8Path) -> Result<u64> {
    let bits = u32::from_be_bytes(field(path, 20)?);
    1_u64.checked_shl(bits).ok_or_else(|| StoreError::Damaged {
        path: path.to_owned(),
        detail: format!("has clusters of 2^{bits} bytes"),
    })
}

/// Refuses an image that cannot be a base: only itself may be opened for it.
pub(crate) fn stands_alone(image: &Image) -> Result<()> {
    let refuse = |why: &str| {
        Err(StoreError::Damaged {
            path: image.file.clone(),
            detail: why.to_owned(),
        })
    };
    let metadata = std::fs::metadata(&image.file).map_err(io_error("look at", &image.file))?;
    if !metadata.is_file() {
        return refuse("is no regular file; only image files can be taken over");
    }
    if image.format == DiskFormat::Raw {
        return Ok(());
    }
    let [a, b, c, d, version @ ..] = field::<8>(&image.file, 0)?;
    if [a, b, c, d] != *b"QFI\xfb" || !(2..=3).contains(&u32::from_be_bytes(version)) {
        return refuse("is no qcow2 image");
    }
    if backing(&image.file)?.is_some() {
        return refuse("has a backing file; make it one image with: qemu-img rebase -b \"\"");
    }
    if u32::from_be_bytes(field(&image.file, 32)?) != 0 {
        return refuse("is encrypted; only images without encryption can be taken over");
    }
    // Incompatible features. Bit 0, counters that were not written back, is cured when it is opened for writing; bit 1
    // is damage, bit 2 data in another file.
    let features = if u32::from_be_bytes(version) == 3 {
        u64::from_be_bytes(field(&image.file, 72)?)
    } else {
        0
    };
    if features & 0b100 != 0 {
        return refuse("keeps its data in another file; name that file instead");
    }
    if features & 0b10 != 0 {
        return refuse("is marked corrupt; repair it with: qemu-img check -r all");
    }
    Ok(())
}

/// The backing file an image names, for comparison only. Read from the header's fixed fields, because branches have
/// sub-clusters, which `imago` does not know.
pub(crate) fn backing(path: &Utf8Path) -> Result<Option<String>> {
    let read = || {
        let file = std::fs::File::open(path)?;
        let mut fields = [0; 12];
        file.read_exact_at(&mut fields, 8)?;
        let [o0, o1, o2, o3, o4, o5, o6, o7, l0, l1, l2, l3] = fields;
        let offset = u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]);
        let len = u32::from_be_bytes([l0, l1, l2, l3]);
        if offset == 0 || len > MAX_NAME {
            return Ok(None);
        }
        let mut name = vec![0; usize::try_from(len).unwrap_or_default()];
        file.read_exact_at(&mut name, offset)?;
        Ok(String::from_utf8(name).ok())
    };
    read().map_err(io_error("read", path))
}
