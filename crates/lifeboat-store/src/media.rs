//! Exports of initial copies as plain files in a directory of a medium. A file has its name only when it is whole and
//! durable, and the manifest comes last; so what a crash or a full medium leaves is never taken for an export. Content is
//! sealed (`seal`): delta logs (`docs/deltalog.md`) and JSON in encrypted chunks. Which directories are taken at all is
//! `place`'s.
//!
//! ```text
//! <dir>/lifeboat-export.begun   which export this is; there from the first moment; not sealed and never believed
//!       00-000000.segment       256 MiB of the first disk, as one log, sealed
//!       lifeboat-export.sealed  the manifest, sealed
//! ```

use std::fs::File;
use std::io::{self, Read, Write};

use async_trait::async_trait;
use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use futures_util::{StreamExt, stream};
use lifeboat_engine::ports::ByteStream;
use lifeboat_engine::ports::media::{Manifest, Media, MediaError, Part, Seal, SegmentFile};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::durable;
use crate::place::{Place, io_error};
use crate::seal::{CHUNK, Header, Opener, SealError, Sealer, What};

/// File name of the manifest, which names and seals all other files of the export.
const MANIFEST: &str = "lifeboat-export.sealed";

/// The manifest of exports of version 1, which were not sealed.
const NOT_SEALED: &str = "lifeboat-export.json";

/// Says which export is being written.
const BEGUN: &str = "lifeboat-export.begun";

/// What follows the name of a file that is not whole yet.
const UNFINISHED: &str = ".unfinished";

/// Most bytes of a manifest: a segment is an entry of some 150 bytes, which is enough for a petabyte. No more than two chunks
/// of it are in memory before the first one has turned out to be authentic.
const MANIFEST_MAX: u64 = 1 << 30;

/// Most bytes of [`BEGUN`].
const BEGUN_MAX: u64 = 4096;

type Result<T> = std::result::Result<T, MediaError>;

/// Directories of this host's file systems.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileMedia;

/// The content of [`BEGUN`].
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Begun {
    export: Uuid,
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|e| Err(MediaError::Io(format!("the worker ended early: {e}"))))
}

fn sync_dir(dir: &Utf8Path) -> Result<()> {
    durable::sync_dir_raw(dir).map_err(io_error("sync", dir))
}

/// A file of a medium that gets its name when it is whole.
struct Unfinished<'a> {
    dir: &'a Place,
    name: &'a str,
    file: File,
}

impl<'a> Unfinished<'a> {
    fn create(dir: &'a Place, name: &'a str) -> Result<Self> {
        let unfinished = format!("{name}{UNFINISHED}");
        match dir.remove(&unfinished) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &dir.path().join(unfinished))(e));
            }
            Ok(()) | Err(_) => {}
        }
        let file = dir.create(&unfinished);
        let file = file.map_err(io_error("create", &dir.path().join(&unfinished)))?;
        Ok(Self { dir, name, file })
    }

    fn path(&self) -> Utf8PathBuf {
        self.dir.path().join(self.name)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let path = self.path();
        durable::write_raw(&path, || self.file.write_all(bytes)).map_err(io_error("write", &path))
    }

    fn finish(self) -> Result<()> {
        let (path, unfinished) = (self.path(), format!("{}{UNFINISHED}", self.name));
        let beside = self.dir.path().join(&unfinished);
        durable::sync_raw(&beside, || self.file.sync_all()).map_err(io_error("sync", &path))?;
        let named = self.dir.rename(&unfinished, self.name);
        named.map_err(io_error("rename", &path))?;
        let synced = self.dir.sync().map_err(io_error("sync", self.dir.path()));
        if synced.is_err() {
            // Found by a later attempt, it would be taken for durable.
            let _ = self.dir.remove(self.name);
        }
        synced
    }
}

impl Drop for Unfinished<'_> {
    /// Nothing of a file that was not finished is used again.
    fn drop(&mut self) {
        let _ = self.dir.remove(&format!("{}{UNFINISHED}", self.name));
    }
}

fn put_whole(dir: &Place, name: &str, bytes: &[u8]) -> Result<()> {
    let mut file = Unfinished::create(dir, name)?;
    file.write(bytes)?;
    file.finish()
}

/// Writes files that cannot be read, nor changed unnoticed, without the key.
struct Sealing<'a> {
    file: Unfinished<'a>,
    sealer: Sealer,
    header: Header,
    bytes: u64,
}

impl<'a> Sealing<'a> {
    fn begin(dir: &'a Place, name: &'a str, seal: &Seal, what: What) -> Result<Self> {
        let path = dir.path().join(name);
        let header = Header::new(seal.sealing.export).map_err(io_error("seal", &path))?;
        let sealer = Sealer::new(seal, what, &header).map_err(io_error("seal", &path))?;
        let mut file = Unfinished::create(dir, name)?;
        let begin = header.bytes();
        file.write(&begin)?;
        Ok(Self {
            file,
            sealer,
            header,
            bytes: begin.len() as u64,
        })
    }

    fn write(&mut self, content: &[u8]) -> Result<()> {
        let (file, bytes) = (&mut self.file, &mut self.bytes);
        self.sealer.push(content, |chunk| {
            *bytes += chunk.len() as u64;
            file.write(chunk).map_err(Failure)
        })?;
        Ok(())
    }

    /// The size of the whole file, and its salt.
    fn finish(self) -> Result<(u64, String)> {
        let (mut file, mut bytes) = (self.file, self.bytes);
        self.sealer.finish(|chunk| {
            bytes += chunk.len() as u64;
            file.write(chunk).map_err(Failure)
        })?;
        file.finish()?;
        Ok((bytes, self.header.salt()))
    }
}

/// An error of a medium, from what only knows those of files.
struct Failure(MediaError);

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Self(MediaError::Io(e.to_string()))
    }
}

impl From<Failure> for MediaError {
    fn from(Failure(e): Failure) -> Self {
        e
    }
}

/// What it means that a sealed file does not open.
fn spoilt(path: &Utf8Path) -> impl Fn(SealError) -> MediaError {
    let path = path.to_owned();
    move |e| match e {
        SealError::Forged(detail) => MediaError::Damaged {
            file: path.clone(),
            detail: detail.to_owned(),
        },
        SealError::Io(e) => io_error("read", &path)(e),
    }
}

fn damaged<T>(path: &Utf8Path, detail: impl Into<String>) -> Result<T> {
    Err(MediaError::Damaged {
        file: path.to_owned(),
        detail: detail.into(),
    })
}

/// A segment that an interrupted export left, if all of it opens. Reads it to its end.
fn whole(dir: &Place, seal: &Seal, part: Part) -> Result<Option<SegmentFile>> {
    let path = dir.path().join(part.name());
    let mut file = dir.open(&part.name()).map_err(io_error("read", &path))?;
    let bytes = file.metadata().map_err(io_error("look at", &path))?.len();
    let mut read = || {
        let header = Header::read(&mut file)?;
        let mut opener = Opener::new(seal, What::Segment(part), &header, &mut file)?;
        while opener.next()?.is_some() {}
        Ok(header.salt())
    };
    match read() {
        Ok(salt) => Ok(Some(SegmentFile { part, bytes, salt })),
        Err(SealError::Io(e)) => Err(io_error("read", &path)(e)),
        Err(SealError::Forged(why)) => {
            tracing::warn!(file = %path, why, "a segment of an interrupted export does not open; it is written again");
            Ok(None)
        }
    }
}

/// A segment file that is as long as it has to be and is the writing that its manifest names, behind its header.
fn opened(dir: &Utf8Path, seal: &Seal, is: &SegmentFile) -> Result<Opener<File>> {
    let (name, what) = (is.part.name(), What::Segment(is.part));
    let path = dir.join(&name);
    let opened = Place::opened(dir)?.readable()?.open(&name);
    let mut file = match opened {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return damaged(&path, "it is not there"),
        opened => opened.map_err(io_error("open", &path))?,
    };
    let bytes = file.metadata().map_err(io_error("look at", &path))?.len();
    if bytes != is.bytes {
        return damaged(&path, format!("it has {bytes} bytes, {} were exported", is.bytes));
    }
    let header = Header::read(&mut file).map_err(spoilt(&path))?;
    if header.export != seal.sealing.export || header.salt() != is.salt {
        return damaged(
            &path,
            "it is not the file that was exported, but another one of this name",
        );
    }
    Opener::new(seal, what, &header, file).map_err(spoilt(&path))
}

fn names(dir: &Place) -> Result<Vec<String>> {
    let mut names = dir.names().map_err(io_error("list", dir.path()))?;
    // Media have this directory when they are new.
    names.retain(|n| n != "lost+found");
    names.sort();
    Ok(names)
}

/// A directory that is there and may be written to.
fn existing(dir: &Utf8Path) -> Result<Option<Place>> {
    let place = Place::existing(dir)?;
    place.map(Place::writable).transpose()
}

/// The names in a directory that is this export's; `None` when it is empty.
fn own(dir: &Place, seal: &Seal) -> Result<Option<Vec<String>>> {
    let names = names(dir)?;
    if names.is_empty() {
        return Ok(None);
    }
    let mut begun = Vec::new();
    let read = dir
        .open(BEGUN)
        .and_then(|f| f.take(BEGUN_MAX).read_to_end(&mut begun));
    let begun: Option<Begun> = read.ok().and_then(|_| serde_json::from_slice(&begun).ok());
    if begun.is_some_and(|b| b.export == seal.sealing.export) {
        Ok(Some(names))
    } else {
        Err(MediaError::NotEmpty(dir.path().to_owned()))
    }
}

fn found(dir: &Place, seal: &Seal) -> Result<Option<Vec<SegmentFile>>> {
    let Some(names) = own(dir, seal)? else {
        return Ok(None);
    };
    // A process that ended in the middle may have named a file and not made that durable.
    dir.sync().map_err(io_error("sync", dir.path()))?;
    let parts = names.iter().filter_map(|name| Part::of(name));
    let whole = parts.map(|part| whole(dir, seal, part));
    whole
        .filter_map(Result::transpose)
        .collect::<Result<_>>()
        .map(Some)
}

fn begin(dir: &Utf8Path, seal: &Seal) -> Result<()> {
    let place = Place::made(dir)?.writable()?;
    if own(&place, seal)?.is_some() {
        // An earlier attempt may have failed at exactly this step.
        return sync_dir(dir.parent().unwrap_or(dir));
    }
    let begun = Begun {
        export: seal.sealing.export,
    };
    let text = serde_json::to_vec(&begun).map_err(|e| MediaError::Io(e.to_string()))?;
    put_whole(&place, BEGUN, &text)?;
    sync_dir(dir.parent().unwrap_or(dir))
}

fn put(
    dir: &Utf8Path,
    seal: &Seal,
    part: Part,
    mut body: mpsc::Receiver<io::Result<Bytes>>,
) -> Result<SegmentFile> {
    let place = Place::opened(dir)?.writable()?;
    let name = part.name();
    let mut file = Sealing::begin(&place, &name, seal, What::Segment(part))?;
    while let Some(chunk) = body.blocking_recv() {
        let chunk = chunk.map_err(|e| MediaError::Io(format!("what is exported cannot be read: {e}")))?;
        file.write(&chunk)?;
    }
    let (bytes, salt) = file.finish()?;
    Ok(SegmentFile { part, bytes, salt })
}

fn finish(dir: &Utf8Path, seal: &Seal, text: &[u8]) -> Result<()> {
    let place = Place::opened(dir)?.writable()?;
    let mut file = Sealing::begin(&place, MANIFEST, seal, What::Manifest)?;
    file.write(text)?;
    file.finish().map(drop)
}

fn manifest(dir: &Utf8Path, seal: &Seal) -> Result<Manifest> {
    let path = dir.join(MANIFEST);
    let Some(place) = Place::existing(dir)? else {
        return Err(MediaError::NoExport(dir.to_owned()));
    };
    let place = place.readable()?;
    let file = match place.open(MANIFEST) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let earlier = names(&place)?.iter().any(|n| n == NOT_SEALED);
            return Err(if earlier {
                MediaError::NotSealed(dir.to_owned())
            } else {
                MediaError::NoExport(dir.to_owned())
            });
        }
        Err(e) => return Err(io_error("open", &path)(e)),
    };
    let mut file = file.take(MANIFEST_MAX);
    let header = Header::read(&mut file).map_err(spoilt(&path))?;
    if header.export != seal.sealing.export {
        return Err(MediaError::Another {
            dir: dir.to_owned(),
            found: header.export,
            awaited: seal.sealing.export,
        });
    }
    let mut opener = Opener::new(seal, What::Manifest, &header, file).map_err(spoilt(&path))?;
    let mut text = Vec::new();
    while let Some(piece) = opener.next().map_err(spoilt(&path))? {
        text.extend_from_slice(&piece);
    }
    serde_json::from_slice(&text).or_else(|e| damaged(&path, e.to_string()))
}

fn check(dir: &Utf8Path, seal: &Seal, file: &SegmentFile) -> Result<()> {
    let mut opener = opened(dir, seal, file)?;
    let path = dir.join(file.part.name());
    while opener.next().map_err(spoilt(&path))?.is_some() {}
    Ok(())
}

/// Bytes that are handed out at once. Ours: what the engine hands on as well; each piece costs its taker a turn.
const HANDED: usize = 256 << 10;

/// Hands a file out in pieces, until the receiver is gone or one is not what was sealed. A piece is of chunks that were all
/// authenticated; those before one that is not are handed out, as each of them would have been alone.
fn pour(mut file: Opener<File>, path: &Utf8Path, to: &mpsc::Sender<io::Result<Bytes>>) {
    let (mut piece, mut ended) = (Vec::with_capacity(HANDED), None);
    while ended.is_none() {
        match file.next() {
            Ok(None) => ended = Some(Ok(())),
            Ok(Some(chunk)) => piece.extend_from_slice(&chunk),
            Err(SealError::Io(e)) => ended = Some(Err(e)),
            Err(e @ SealError::Forged(_)) => {
                let error = spoilt(path)(e).to_string();
                ended = Some(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
        }
        let full = piece.len() + CHUNK > HANDED || (ended.is_some() && !piece.is_empty());
        if full {
            let piece = std::mem::replace(&mut piece, Vec::with_capacity(HANDED));
            if to.blocking_send(Ok(Bytes::from(piece))).is_err() {
                return;
            }
        }
    }
    if let Some(Err(e)) = ended {
        // Where the receiver is gone, the error is of no interest.
        let _ = to.blocking_send(Err(e));
    }
}

#[async_trait]
impl Media for FileMedia {
    async fn found(&self, dir: &Utf8Path, seal: &Seal) -> Result<Option<Vec<SegmentFile>>> {
        let (dir, seal) = (dir.to_owned(), seal.clone());
        blocking(move || match existing(&dir)? {
            Some(place) => found(&place, &seal),
            None => Ok(None),
        })
        .await
    }

    async fn begin(&self, dir: &Utf8Path, seal: &Seal) -> Result<()> {
        let (dir, seal) = (dir.to_owned(), seal.clone());
        blocking(move || begin(&dir, &seal)).await
    }

    async fn put(
        &self,
        dir: &Utf8Path,
        seal: &Seal,
        part: Part,
        mut body: ByteStream,
    ) -> Result<SegmentFile> {
        let (dir, seal) = (dir.to_owned(), seal.clone());
        let (tx, rx) = mpsc::channel(4);
        let written = blocking(move || put(&dir, &seal, part, rx));
        let fed = async {
            while let Some(chunk) = body.next().await {
                if tx.send(chunk).await.is_err() {
                    break;
                }
            }
            drop(tx);
        };
        futures_util::future::join(written, fed).await.0
    }

    async fn finish(&self, dir: &Utf8Path, seal: &Seal, manifest: &Manifest) -> Result<()> {
        let (dir, seal) = (dir.to_owned(), seal.clone());
        let text = serde_json::to_vec(manifest).map_err(|e| MediaError::Io(e.to_string()))?;
        blocking(move || finish(&dir, &seal, &text)).await
    }

    async fn open(&self, dir: &Utf8Path, seal: &Seal) -> Result<Manifest> {
        let (dir, seal) = (dir.to_owned(), seal.clone());
        blocking(move || manifest(&dir, &seal)).await
    }

    async fn check(&self, dir: &Utf8Path, seal: &Seal, file: &SegmentFile) -> Result<()> {
        let (dir, seal, file) = (dir.to_owned(), seal.clone(), file.clone());
        blocking(move || check(&dir, &seal, &file)).await
    }

    async fn read(&self, dir: &Utf8Path, seal: &Seal, file: &SegmentFile) -> Result<ByteStream> {
        let path = dir.join(file.part.name());
        let (dir, seal, file) = (dir.to_owned(), seal.clone(), file.clone());
        let opener = blocking(move || opened(&dir, &seal, &file)).await?;
        let (tx, rx) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || pour(opener, &path, &tx));
        Ok(Box::pin(stream::unfold(rx, |mut rx| async {
            rx.recv().await.map(|x| (x, rx))
        })))
    }
}
