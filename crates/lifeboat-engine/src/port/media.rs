//! Media: directories in which a person carries an initial copy from the primary to the replica when that is quicker than
//! the network. What is written is the same segments that the network would carry, and a manifest that makes them whole,
//! all of it sealed: encrypted, and authenticated by a key that the medium does not have. Who decides when and what is the
//! engine; this only keeps files.

use super::ByteStream;
use crate::common::export_key::ExportKey;
use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::LogDisk;
use lifeboat_model::{Position, VmId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The name of an export and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealing {
    /// Which export. It lies on the medium for every user to read.
    pub export: Uuid,
    /// Its key.
    pub key: ExportKey,
}

/// What an export is sealed with, and whose it is: files of another VM's export do not open, even under the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The VM.
    pub vm: VmId,
    /// The export and its key.
    pub sealing: Sealing,
}

/// Which piece of the copy a file holds. The file's name follows from it, and only from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Part {
    /// Disk number in the order of the export's disks.
    pub disk: u16,
    /// Number of the segment within the disk, from 0.
    pub number: u64,
}

impl Part {
    /// The name of its file.
    #[must_use]
    pub fn name(self) -> String {
        format!("{:02}-{:06}.segment", self.disk, self.number)
    }

    /// The part whose file has this name; `None` for any other file.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        let (disk, number) = name.strip_suffix(".segment")?.split_once('-')?;
        let part = Self {
            disk: disk.parse().ok()?,
            number: number.parse().ok()?,
        };
        (part.name() == name).then_some(part)
    }
}

/// One file of an export: a segment of the initial copy (`LogKind::Bulk`) of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// First byte of the disk that it speaks of.
    pub from: u64,
    /// First byte that it does not speak of any more.
    pub to: u64,
    /// The file.
    pub file: SegmentFile,
}

/// What a file of an export must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentFile {
    /// What it holds.
    pub part: Part,
    /// Its size on the medium.
    pub bytes: u64,
    /// Which writing of this part it is, 64 hexadecimal digits: an interrupted one may have been written before, with other
    /// content.
    pub salt: String,
}

/// What an export consists of. Written last: without it there is no export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// 2. Manifests of version 1, and what they named, were not sealed.
    pub version: u32,
    /// The VM.
    pub vm: VmId,
    /// Its name, for people.
    pub name: String,
    /// The position that the first delta continues.
    pub start: Position,
    /// Included disks with their sizes.
    pub disks: Vec<LogDisk>,
    /// Every segment: by disk, ascending, without gaps.
    pub segments: Vec<Segment>,
}

/// What to do where an export cannot be used and changes are sent already.
const AGAIN: &str =
    "export it again: remove the replication on the primary, enable it and start it with --export DIR";

/// Why media are not written or not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MediaError {
    /// There is something in the directory that is not an interrupted export of the same copy.
    #[error("{0} is not empty; name an empty or a new directory")]
    NotEmpty(Utf8PathBuf),
    /// The directory is not what its name says, or another user could change what is in it.
    #[error("{dir} is not taken: {why}")]
    NotTaken {
        /// The directory, or what it lies in.
        dir: Utf8PathBuf,
        /// Why, and what helps.
        why: String,
    },
    /// There is no export.
    #[error(
        "{0} holds no export: lifeboat-export.sealed is not there; the export is incomplete, or this is another directory"
    )]
    NoExport(Utf8PathBuf),
    /// An export of an earlier version: every person who carried it could have changed it.
    #[error(
        "{0} holds an export of an earlier version, which is neither encrypted nor authenticated, so that it is not imported; {AGAIN}"
    )]
    NotSealed(Utf8PathBuf),
    /// The export was begun by an earlier version, which told no key.
    #[error(
        "there is no key for this export: it was begun by an earlier version, which wrote exports that the person who carries them can change; {AGAIN}"
    )]
    NoKey,
    /// Another export lies there.
    #[error(
        "this export does not fit: {dir} holds export {found} and {awaited} is awaited: it is of another attempt, or of another VM; import the newest export of this VM"
    )]
    Another {
        /// The directory.
        dir: Utf8PathBuf,
        /// What is there.
        found: Uuid,
        /// What the link told.
        awaited: Uuid,
    },
    /// The export is not what was sealed with the key that the link told.
    #[error("the export is damaged or forged: {file}: {detail}; copy the directory again, or export again")]
    Damaged {
        /// The file.
        file: Utf8PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// It is the export of something else, or of another time.
    #[error("this export does not fit: {0}")]
    Other(String),
    /// The medium is full.
    #[error("no space left in {0}")]
    NoSpace(Utf8PathBuf),
    /// Anything else.
    #[error("{0}")]
    Io(String),
}

/// Directories of this host that are, or become, exports.
#[async_trait]
pub trait Media: Send + Sync {
    /// What an interrupted export of this copy left in `dir`: the segments that are whole and open with the key. `None`: the
    /// directory is missing or empty. Anything else in it is `NotEmpty`. A link on the way to it, or one that others can
    /// write to, is `NotTaken`, here as below.
    async fn found(&self, dir: &Utf8Path, seal: &Seal) -> Result<Option<Vec<SegmentFile>>, MediaError>;

    /// Makes `dir` the place of this copy's export; from now on it is `found`. What is made is for this program's user alone; permissions of what
    /// was there are never changed.
    async fn begin(&self, dir: &Utf8Path, seal: &Seal) -> Result<(), MediaError>;

    /// Writes a segment file, sealed under a salt of its own; durable when it returns. A body that ends with an error leaves
    /// nothing that counts.
    async fn put(
        &self,
        dir: &Utf8Path,
        seal: &Seal,
        part: Part,
        body: ByteStream,
    ) -> Result<SegmentFile, MediaError>;

    /// Writes the manifest, sealed and durably, after everything it names.
    async fn finish(&self, dir: &Utf8Path, seal: &Seal, manifest: &Manifest) -> Result<(), MediaError>;

    /// The manifest of a complete export that was sealed so.
    async fn open(&self, dir: &Utf8Path, seal: &Seal) -> Result<Manifest, MediaError>;

    /// Reads a segment file from end to end: all of it is what was sealed.
    async fn check(&self, dir: &Utf8Path, seal: &Seal, file: &SegmentFile) -> Result<(), MediaError>;

    /// The content of a segment file. Each piece was authenticated before it is handed out; the stream ends with an error
    /// before the first one that was not.
    async fn read(&self, dir: &Utf8Path, seal: &Seal, file: &SegmentFile) -> Result<ByteStream, MediaError>;
}
