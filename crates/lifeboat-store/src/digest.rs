//! Recorded digests of files: one for each block as it lies in the file, in a file of their own below `scrub/digests`.
//! A block is 64 KiB of a base and 4 KiB of a layer, whose smallest clusters are as large: data or a table, not both.
//! It knows blocks and pages, and nothing of what the files mean.
//!
//! A page of 4 KiB holds 255 digests (BLAKE3, the first 16 bytes) and the digest of those, so that damage of the record
//! is not taken for damage of the data. All zeros is "not recorded"; blocks in holes have no digest either. A terabyte of
//! data in a base has 256 MiB of digests, a terabyte of holes has none.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::SeekFrom;

use crate::chain::Image;
use crate::error::{Result, io_error};
use crate::files;

/// Bytes of a base that one digest covers.
pub(crate) const BLOCK: u64 = 64 << 10;

/// Bytes of a layer that one digest covers.
pub(crate) const LAYER_BLOCK: u64 = 4 << 10;

/// Digests of a page.
pub(crate) const PER_PAGE: u64 = 255;

/// Everything that scrubbing keeps, below the replica's directory.
pub(crate) const DIR: &str = "scrub";

/// Digests below [`DIR`].
pub(crate) const DIGESTS: &str = "scrub/digests";

const PAGE: usize = 4096;
const LEN: usize = 16;

/// A recorded digest.
pub(crate) type Digest = [u8; LEN];

/// No digest is recorded.
pub(crate) const UNKNOWN: Digest = [0; LEN];

/// What is recorded of the blocks of one page.
#[derive(Clone, Debug)]
pub(crate) struct Page(Vec<Digest>);

impl Page {
    fn unknown() -> Self {
        Self(vec![UNKNOWN; (PAGE - LEN) / LEN])
    }

    /// What is recorded of a block of this page, by its number in the file.
    pub(crate) fn get(&self, block: u64) -> Digest {
        let place = usize::try_from(block % PER_PAGE).unwrap_or(usize::MAX);
        self.0.get(place).copied().unwrap_or(UNKNOWN)
    }

    /// Sets it; says whether that changed anything.
    pub(crate) fn set(&mut self, block: u64, digest: Digest) -> bool {
        let place = usize::try_from(block % PER_PAGE).unwrap_or(usize::MAX);
        match self.0.get_mut(place) {
            Some(there) if *there != digest => {
                *there = digest;
                true
            }
            Some(_) | None => false,
        }
    }
}

/// The digests of one file.
pub(crate) struct Sidecar {
    path: Utf8PathBuf,
    /// Page zero begins with it.
    file: Option<File>,
}

impl Sidecar {
    /// The digests of an image (a path relative to the replica's directory, or absolute), recorded or not.
    pub(crate) fn of(dir: &Utf8Path, image: &Image) -> Result<Self> {
        let path = path_of(dir, &image.file);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(io_error("open", &path)(e)),
        };
        Ok(Self { path, file })
    }

    /// Pages that may hold something.
    pub(crate) fn pages(&self) -> u64 {
        let len = self.file.as_ref().and_then(|f| f.metadata().ok());
        len.map_or(0, |m| m.len() / PAGE as u64)
    }

    /// A page; one that is damaged is as if nothing had been recorded.
    pub(crate) fn page(&self, number: u64) -> Result<Page> {
        let Some(file) = &self.file else {
            return Ok(Page::unknown());
        };
        let mut bytes = vec![0; PAGE];
        match file.read_exact_at(&mut bytes, number * PAGE as u64) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(Page::unknown()),
            Err(e) => {
                tracing::warn!(path = %self.path, error = %e, "recorded digests cannot be read");
                return Ok(Page::unknown());
            }
        }
        let (digests, check) = bytes.split_at(PAGE - LEN);
        if digests.iter().all(|b| *b == 0) {
            return Ok(Page::unknown());
        }
        if digest(digests) != check {
            tracing::warn!(path = %self.path, number, "a page of recorded digests is damaged; they are recorded again");
            return Ok(Page::unknown());
        }
        let digests = digests.chunks_exact(LEN).map(|d| d.first_chunk().copied());
        Ok(Page(digests.map(Option::unwrap_or_default).collect()))
    }

    /// Writes a page. Durable after [`Self::sync`].
    pub(crate) fn put(&mut self, number: u64, page: &Page) -> Result<()> {
        if self.file.is_none() {
            let parent = self.path.parent().unwrap_or(&self.path);
            std::fs::create_dir_all(parent).map_err(io_error("make", parent))?;
        }
        let path = &self.path;
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(path)
                    .map_err(io_error("make", path))?,
            ),
        };
        let mut bytes: Vec<u8> = page.0.iter().flatten().copied().collect();
        let check = digest(&bytes);
        bytes.extend_from_slice(&check);
        file.write_all_at(&bytes, number * PAGE as u64)
            .map_err(io_error("write", path))
    }

    /// Makes what was put durable.
    pub(crate) fn sync(&self) -> Result<()> {
        match &self.file {
            Some(file) => file.sync_data().map_err(io_error("sync", &self.path)),
            None => Ok(()),
        }
    }

    /// Removes all recorded digests of the file.
    pub(crate) fn remove(mut self) -> Result<()> {
        self.file = None;
        files::remove(&self.path)
    }
}

/// Where the digests of an image are.
fn path_of(dir: &Utf8Path, image: &Utf8Path) -> Utf8PathBuf {
    let mut name = image.as_str().trim_start_matches('/').to_owned();
    if image.is_absolute() {
        // An image of this host that was taken over: beside, not below, the names of our own.
        name = format!("taken-over/{name}");
    }
    dir.join(DIGESTS).join(format!("{name}.digests"))
}

/// The digest of a block.
pub(crate) fn digest(bytes: &[u8]) -> Digest {
    let hash = blake3::hash(bytes);
    hash.as_bytes().first_chunk().copied().unwrap_or_default()
}

/// What was read of a block.
pub(crate) enum Seen {
    /// Nothing is stored there: zeros, as many as these.
    Hole(u64),
    /// Its bytes have this digest.
    Data(Digest),
    /// It cannot be read.
    Unreadable(io::Error),
}

impl Seen {
    /// Whether this is what was recorded.
    pub(crate) fn is(&self, recorded: Digest) -> bool {
        match self {
            Self::Data(digest) => *digest == recorded,
            // The room of zeros may have been given back, by trimming for example.
            Self::Hole(len) => digest(&vec![0; usize::try_from(*len).unwrap_or_default()]) == recorded,
            Self::Unreadable(_) => false,
        }
    }

    /// What is to be recorded of it.
    pub(crate) fn to_record(&self) -> Digest {
        match self {
            Self::Data(digest) => *digest,
            Self::Hole(_) | Self::Unreadable(_) => UNKNOWN,
        }
    }
}

/// A file whose blocks are looked at.
pub(crate) struct Blocks {
    pub(crate) file: File,
    pub(crate) len: u64,
    /// Bytes of a block.
    block: u64,
    /// Stored ranges near the last question.
    data: Option<(Range<u64>, bool)>,
    buffer: Vec<u8>,
    /// Bytes that were read.
    pub(crate) read: u64,
}

impl Blocks {
    /// Opens a file for reading.
    pub(crate) fn open(path: &Utf8Path, block: u64) -> Result<Self> {
        let file = File::open(path).map_err(io_error("open", path))?;
        let len = file.metadata().map_err(io_error("look at", path))?.len();
        Ok(Self {
            file,
            len,
            block,
            data: None,
            buffer: vec![0; usize::try_from(block).unwrap_or_default()],
            read: 0,
        })
    }

    /// Blocks of the file.
    pub(crate) fn count(&self) -> u64 {
        self.len.div_ceil(self.block)
    }

    /// Looks at a block.
    pub(crate) fn look(&mut self, block: u64) -> Seen {
        let from = block * self.block;
        let len = self.len.saturating_sub(from).min(self.block);
        if !self.holds_data(from, from + len) {
            return Seen::Hole(len);
        }
        match self.bytes(block) {
            Ok(bytes) => Seen::Data(digest(bytes)),
            Err(e) => Seen::Unreadable(e),
        }
    }

    /// The bytes of a block; fewer at the end of the file.
    pub(crate) fn bytes(&mut self, block: u64) -> io::Result<&[u8]> {
        let from = block * self.block;
        let len = self.len.saturating_sub(from).min(self.block);
        let len = usize::try_from(len).unwrap_or_default();
        let buffer = self.buffer.get_mut(..len).unwrap_or_default();
        self.file.read_exact_at(buffer, from)?;
        self.read += buffer.len() as u64;
        Ok(buffer)
    }

    /// Whether anything is stored in a range. Where that cannot be asked, everything counts as stored.
    fn holds_data(&mut self, from: u64, to: u64) -> bool {
        if let Some((range, stored)) = &self.data
            && range.contains(&from)
            && to <= range.end
        {
            return *stored;
        }
        match rustix::fs::seek(&self.file, SeekFrom::Data(from)) {
            Ok(at) if at >= to => {
                self.data = Some((from..at, false));
                false
            }
            Ok(_) => {
                let end = rustix::fs::seek(&self.file, SeekFrom::Hole(from)).unwrap_or(to);
                self.data = Some((from..end.max(to), true));
                true
            }
            // Nothing is stored from here to the end.
            Err(rustix::io::Errno::NXIO) => {
                self.data = Some((from..self.len.max(to), false));
                false
            }
            Err(_) => true,
        }
    }
}
