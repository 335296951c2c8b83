//! Media: directories that carry an initial copy from the primary to the replica when somebody's hands are quicker than
//! the network. What is written is the same segments that the network would carry, and a manifest that makes them whole.
//! Who decides when and what is the engine; this only keeps files.

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::LogDisk;
use lifeboat_model::{Position, VmId};
use serde::{Deserialize, Serialize};

use super::ByteStream;

/// One file of an export: a segment of the initial copy (`LogKind::Bulk`) of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Disk number in the order of the export's disks.
    pub disk: u16,
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
    /// Its name in the directory: lower-case letters, digits, `-` and `.` only.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// BLAKE3 of it, in hexadecimal.
    pub blake3: String,
}

/// What an export consists of. Written last: without it there is no export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// 1.
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

/// Why media are not written or not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MediaError {
    /// There is something in the directory that is not an interrupted export of the same copy.
    #[error("{0} is not empty; name an empty or a new directory")]
    NotEmpty(Utf8PathBuf),
    /// The directory is not what its name says, or somebody else could change what is in it.
    #[error("{dir} is not taken: {why}")]
    NotTaken {
        /// The directory, or what it lies in.
        dir: Utf8PathBuf,
        /// Why, and what helps.
        why: String,
    },
    /// There is no export.
    #[error(
        "{0} holds no export: lifeboat-export.json is not there; the export is incomplete, or this is another directory"
    )]
    NoExport(Utf8PathBuf),
    /// The export is not what its manifest says.
    #[error("the export is damaged: {file}: {detail}; copy the directory again, or export anew")]
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
    /// What an interrupted export of this copy left in `dir`: the segment files that are whole. `None`: the directory is
    /// missing or empty. Anything else in it is `NotEmpty`. A link on the way to it, or one that others can write to, is
    /// `NotTaken`, here as below.
    async fn found(
        &self,
        dir: &Utf8Path,
        vm: VmId,
        start: Position,
    ) -> Result<Option<Vec<SegmentFile>>, MediaError>;

    /// Makes `dir` the place of this copy's export; from now on it is `found`. What is made is for this program's user alone; permissions of what
    /// was there are never changed.
    async fn begin(&self, dir: &Utf8Path, vm: VmId, start: Position) -> Result<(), MediaError>;

    /// Writes a segment file; durable when it returns. A body that ends with an error leaves nothing that counts.
    async fn put(&self, dir: &Utf8Path, name: &str, body: ByteStream) -> Result<SegmentFile, MediaError>;

    /// Writes the manifest, durably, after everything it names.
    async fn finish(&self, dir: &Utf8Path, manifest: &Manifest) -> Result<(), MediaError>;

    /// The manifest of a complete export. Names in it lead nowhere but into `dir`.
    async fn open(&self, dir: &Utf8Path) -> Result<Manifest, MediaError>;

    /// Reads a segment file from end to end and compares it with what it must be.
    async fn check(&self, dir: &Utf8Path, file: &SegmentFile) -> Result<(), MediaError>;

    /// The content of a segment file.
    async fn read(&self, dir: &Utf8Path, file: &SegmentFile) -> Result<ByteStream, MediaError>;
}
