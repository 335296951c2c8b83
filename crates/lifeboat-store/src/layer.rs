//! Writing qcow2 layers in this process. Chains are put together from the manifest: a reference inside an image is never
//! followed, and an image that wants an external data file is refused.
//!
//! Clusters are 16 KiB: the granularity of captured changes, so that applying a change copies nothing from below.
//! Measured with writes all over a fresh layer: at 16 KiB each, this writer with 16 KiB clusters made 56 000/s, with 64 KiB
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
use imago::{DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder};
use lifeboat_deltalog::{Frame, FrameBody};
use lifeboat_engine::ports::store::StoreError;
use lifeboat_model::policy::change_granularity;

use crate::chain::format_of;
use crate::files::{Result, at, is_full};

/// Neighbouring frames are written together up to this many bytes.
const BATCH: usize = 4 << 20;

/// Longest backing file name a qcow2 header may hold, in bytes.
const MAX_NAME: u32 = 1023;

/// A layer open for writing, on top of its chain.
pub(crate) struct Writer {
    image: FormatAccess<File>,
    path: Utf8PathBuf,
    batch: Vec<u8>,
    batch_at: u64,
}

/// Makes an empty layer of `size` bytes whose header refers to `backing`.
pub(crate) fn create(path: &Utf8Path, size: u64, backing: &Utf8Path) -> Result<()> {
    let cluster = usize::try_from(change_granularity(size)).unwrap_or(64 << 10);
    create_with(path, size, backing, cluster)
}

/// The same with another cluster size, for measuring what it costs.
pub(crate) fn create_with(path: &Utf8Path, size: u64, backing: &Utf8Path, cluster: usize) -> Result<()> {
    let make = || {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        Qcow2::<File>::create_builder(File::try_from(file)?)
            .size(size)
            .cluster_size(cluster)
            .backing(backing.to_string(), format_of(backing).to_owned())
            .create()
    };
    make().map_err(at("create", path))
}

fn open_image(path: &Utf8Path, below: Option<FormatAccess<File>>, write: bool) -> Result<FormatAccess<File>> {
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .open(path)
        .and_then(File::try_from)
        .map_err(at("open", path))?;
    let damaged = |detail: String| StoreError::Damaged {
        path: path.to_owned(),
        detail,
    };
    if format_of(path) == "raw" {
        let raw = Raw::open_image(file, write).map_err(at("open", path))?;
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

impl Writer {
    /// Opens the last image of `chain` (absolute paths, lowest first) for writing and grows it to `size` if it is smaller.
    pub(crate) fn open(chain: &[Utf8PathBuf], size: u64) -> Result<Self> {
        let mut image = None;
        for (n, path) in chain.iter().enumerate() {
            image = Some(open_image(path, image.take(), n + 1 == chain.len())?);
        }
        let (Some(image), Some(path)) = (image, chain.last()) else {
            let what = "an empty image chain".to_owned();
            let source = io::ErrorKind::InvalidInput.into();
            return Err(StoreError::Io { what, source });
        };
        let mut writer = Self {
            image,
            path: path.clone(),
            batch: Vec::new(),
            batch_at: 0,
        };
        writer.grow(size)?;
        Ok(writer)
    }

    fn grow(&mut self, size: u64) -> Result<()> {
        self.image
            .resize(size.max(self.image.size()), imago::format::PreallocateMode::None)
            .map_err(at("grow", &self.path))
    }

    /// Takes a change. It may be held back until [`Self::finish`].
    pub(crate) fn write(&mut self, frame: Frame) -> Result<()> {
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
            FrameBody::Zero(len) => {
                self.drain()?;
                self.image
                    .write_zeroes(frame.offset, len)
                    .map_err(|e| self.failed(e))
            }
        }
    }

    fn drain(&mut self) -> Result<()> {
        if !self.batch.is_empty() {
            self.image
                .write(self.batch.as_slice(), self.batch_at)
                .map_err(|e| self.failed(e))?;
            self.batch.clear();
        }
        Ok(())
    }

    /// Writes everything and makes it durable.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.drain()?;
        self.image.flush().map_err(|e| self.failed(e))?;
        self.image.sync().map_err(|e| self.failed(e))
    }

    fn failed(&self, error: io::Error) -> StoreError {
        if is_full(&error) || error.to_string().contains("No space left") {
            StoreError::NoSpace(self.path.parent().unwrap_or(&self.path).to_owned())
        } else {
            at("write", &self.path)(error)
        }
    }
}

/// Whether `path` can be opened as a layer of ours; says nothing about its content.
pub(crate) fn opens(path: &Utf8Path) -> bool {
    open_image(path, None, false).is_ok()
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
    read().map_err(at("read", path))
}
