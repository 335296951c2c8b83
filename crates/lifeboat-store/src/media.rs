//! Exports of initial copies as plain files in a directory of a medium. A file has its name only when it is whole and
//! durable, and the manifest comes last; so what a crash or a full medium leaves is never taken for an export. Whoever
//! looks for data in it finds delta logs (`docs/deltalog.md`). Which directories are taken at all is `place`'s.
//!
//! ```text
//! <dir>/lifeboat-export.begun   whose export this is; there from the first moment
//!       00-000000.segment       256 MiB of the first disk, as one log
//!       lifeboat-export.json    the manifest
//! ```

use std::fs::File;
use std::io::{self, Read, Write};

use async_trait::async_trait;
use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use futures_util::{StreamExt, stream};
use lifeboat_engine::ports::ByteStream;
use lifeboat_engine::ports::media::{Manifest, Media, MediaError, SegmentFile};
use lifeboat_model::{Position, VmId};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::durable;
use crate::files::is_full;
use crate::place::Place;

/// The manifest.
const MANIFEST: &str = "lifeboat-export.json";

/// Says whose export is being written.
const BEGUN: &str = "lifeboat-export.begun";

/// What follows the name of a file that is not whole yet.
const UNFINISHED: &str = ".unfinished";

/// Most bytes of a manifest: a segment is an entry of some 150 bytes, which is enough for a petabyte.
const MANIFEST_MAX: u64 = 1 << 30;

/// Most bytes of [`BEGUN`].
const BEGUN_MAX: u64 = 4096;

/// Bytes read at once.
const PIECE: usize = 256 << 10;

type Result<T> = std::result::Result<T, MediaError>;

/// Directories of this host's file systems.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileMedia;

/// The content of [`BEGUN`].
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Begun {
    vm: VmId,
    start: Position,
}

pub(crate) fn at(what: &str, path: &Utf8Path) -> impl FnOnce(io::Error) -> MediaError {
    let (what, path) = (what.to_owned(), path.to_owned());
    move |e| match is_full(&e) {
        true => MediaError::NoSpace(path.parent().unwrap_or(&path).to_owned()),
        false => MediaError::Io(format!("{what} {path}: {e}")),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|e| Err(MediaError::Io(format!("the worker ended early: {e}"))))
}

fn sync_dir(dir: &Utf8Path) -> Result<()> {
    durable::sync_dir_raw(dir).map_err(at("sync", dir))
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
                return Err(at("remove", &dir.path().join(unfinished))(e));
            }
            Ok(()) | Err(_) => {}
        }
        let file = dir.create(&unfinished);
        let file = file.map_err(at("create", &dir.path().join(&unfinished)))?;
        Ok(Self { dir, name, file })
    }

    fn path(&self) -> Utf8PathBuf {
        self.dir.path().join(self.name)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let path = self.path();
        durable::write_raw(&path, || self.file.write_all(bytes)).map_err(at("write", &path))
    }

    fn finish(self) -> Result<()> {
        let (path, unfinished) = (self.path(), format!("{}{UNFINISHED}", self.name));
        let beside = self.dir.path().join(&unfinished);
        durable::sync_raw(&beside, || self.file.sync_all()).map_err(at("sync", &path))?;
        let named = self.dir.rename(&unfinished, self.name);
        named.map_err(at("rename", &path))?;
        let synced = self.dir.sync().map_err(at("sync", self.dir.path()));
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

/// A name of ours: it leads to no other directory and is no hidden file.
fn is_plain(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    (1..=64).contains(&name.len()) && !name.starts_with('.') && name.chars().all(allowed)
}

fn is_segment(name: &str) -> bool {
    is_plain(name) && name.ends_with(".segment")
}

/// Reads a file to its end and says what it is.
fn describe(dir: &Place, name: &str) -> io::Result<SegmentFile> {
    let mut file = dir.open(name)?;
    let (mut hash, mut buffer, mut bytes) = (blake3::Hasher::new(), vec![0; PIECE], 0);
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(SegmentFile {
                name: name.to_owned(),
                bytes,
                blake3: hash.finalize().to_hex().to_string(),
            });
        }
        hash.update(buffer.get(..n).unwrap_or_default());
        bytes += n as u64;
    }
}

fn names(dir: &Place) -> Result<Vec<String>> {
    let mut names = dir.names().map_err(at("list", dir.path()))?;
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

fn found(dir: &Place, whose: &Begun) -> Result<Option<Vec<SegmentFile>>> {
    let names = names(dir)?;
    if names.is_empty() {
        return Ok(None);
    }
    let mut begun = Vec::new();
    let read = dir
        .open(BEGUN)
        .and_then(|f| f.take(BEGUN_MAX).read_to_end(&mut begun));
    let begun: Option<Begun> = read.ok().and_then(|_| serde_json::from_slice(&begun).ok());
    if begun.as_ref() != Some(whose) {
        return Err(MediaError::NotEmpty(dir.path().to_owned()));
    }
    let mut whole = Vec::new();
    // Whoever ended in the middle may have named a file and not made that durable.
    dir.sync().map_err(at("sync", dir.path()))?;
    for name in names.iter().filter(|n| is_segment(n)) {
        whole.push(describe(dir, name).map_err(at("read", &dir.path().join(name)))?);
    }
    Ok(Some(whole))
}

fn begin(dir: &Utf8Path, whose: &Begun) -> Result<()> {
    let place = Place::made(dir)?.writable()?;
    if found(&place, whose)?.is_some() {
        // An attempt before may have failed at just this.
        return sync_dir(dir.parent().unwrap_or(dir));
    }
    let text = serde_json::to_vec(whose).map_err(|e| MediaError::Io(e.to_string()))?;
    put_whole(&place, BEGUN, &text)?;
    sync_dir(dir.parent().unwrap_or(dir))
}

fn put(dir: &Utf8Path, name: &str, mut body: mpsc::Receiver<io::Result<Bytes>>) -> Result<SegmentFile> {
    let place = Place::opened(dir)?.writable()?;
    let mut file = Unfinished::create(&place, name)?;
    let (mut hash, mut bytes) = (blake3::Hasher::new(), 0);
    while let Some(chunk) = body.blocking_recv() {
        let chunk = chunk.map_err(|e| MediaError::Io(format!("what is exported cannot be read: {e}")))?;
        file.write(&chunk)?;
        hash.update(&chunk);
        bytes += chunk.len() as u64;
    }
    file.finish()?;
    Ok(SegmentFile {
        name: name.to_owned(),
        bytes,
        blake3: hash.finalize().to_hex().to_string(),
    })
}

fn manifest(dir: &Utf8Path) -> Result<Manifest> {
    let path = dir.join(MANIFEST);
    let damaged = |detail: String| MediaError::Damaged {
        file: path.clone(),
        detail,
    };
    let Some(place) = Place::existing(dir)? else {
        return Err(MediaError::NoExport(dir.to_owned()));
    };
    let file = match place.readable()?.open(MANIFEST) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(MediaError::NoExport(dir.to_owned())),
        Err(e) => return Err(at("open", &path)(e)),
    };
    let mut text = Vec::new();
    let read = file.take(MANIFEST_MAX).read_to_end(&mut text);
    read.map_err(at("read", &path))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
    match manifest.segments.iter().find(|s| !is_segment(&s.file.name)) {
        Some(s) => Err(damaged(format!(
            "it names \"{}\", which is no segment",
            s.file.name
        ))),
        None => Ok(manifest),
    }
}

fn check(dir: &Utf8Path, file: &SegmentFile) -> Result<()> {
    let path = dir.join(&file.name);
    let damaged = |detail: String| {
        Err(MediaError::Damaged {
            file: path.clone(),
            detail,
        })
    };
    if !is_segment(&file.name) {
        return damaged("it is no segment".to_owned());
    }
    match describe(&Place::opened(dir)?.readable()?, &file.name) {
        Ok(is) if is == *file => Ok(()),
        Ok(is) if is.bytes != file.bytes => {
            damaged(format!("it has {} bytes, {} were exported", is.bytes, file.bytes))
        }
        Ok(_) => damaged("its content is not what was exported".to_owned()),
        Err(e) => damaged(e.to_string()),
    }
}

/// Hands a file out in pieces, until nobody takes any more.
fn pour(mut file: File, to: &mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let mut piece = vec![0; PIECE];
        let read = match file.read(&mut piece) {
            Ok(0) => return,
            Ok(n) => {
                piece.truncate(n);
                Ok(Bytes::from(piece))
            }
            Err(e) => Err(e),
        };
        let last = read.is_err();
        if to.blocking_send(read).is_err() || last {
            return;
        }
    }
}

#[async_trait]
impl Media for FileMedia {
    async fn found(&self, dir: &Utf8Path, vm: VmId, start: Position) -> Result<Option<Vec<SegmentFile>>> {
        let dir = dir.to_owned();
        blocking(move || match existing(&dir)? {
            Some(place) => found(&place, &Begun { vm, start }),
            None => Ok(None),
        })
        .await
    }

    async fn begin(&self, dir: &Utf8Path, vm: VmId, start: Position) -> Result<()> {
        let dir = dir.to_owned();
        blocking(move || begin(&dir, &Begun { vm, start })).await
    }

    async fn put(&self, dir: &Utf8Path, name: &str, mut body: ByteStream) -> Result<SegmentFile> {
        let (dir, name) = (dir.to_owned(), name.to_owned());
        if !is_segment(&name) {
            return Err(MediaError::Io(format!("\"{name}\" is no name of a segment")));
        }
        let (tx, rx) = mpsc::channel(4);
        let written = blocking(move || put(&dir, &name, rx));
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

    async fn finish(&self, dir: &Utf8Path, manifest: &Manifest) -> Result<()> {
        let dir = dir.to_owned();
        let mut text = serde_json::to_vec_pretty(manifest).map_err(|e| MediaError::Io(e.to_string()))?;
        text.push(b'\n');
        blocking(move || put_whole(&Place::opened(&dir)?.writable()?, MANIFEST, &text)).await
    }

    async fn open(&self, dir: &Utf8Path) -> Result<Manifest> {
        let dir = dir.to_owned();
        blocking(move || manifest(&dir)).await
    }

    async fn check(&self, dir: &Utf8Path, file: &SegmentFile) -> Result<()> {
        let (dir, file) = (dir.to_owned(), file.clone());
        blocking(move || check(&dir, &file)).await
    }

    async fn read(&self, dir: &Utf8Path, file: &SegmentFile) -> Result<ByteStream> {
        let (dir, name) = (dir.to_owned(), file.name.clone());
        if !is_segment(&file.name) {
            return Err(MediaError::Io(format!(
                "\"{}\" is no name of a segment",
                file.name
            )));
        }
        let open = move || {
            let opened = Place::opened(&dir)?.readable()?.open(&name);
            opened.map_err(at("open", &dir.join(&name)))
        };
        let file = blocking(open).await?;
        let (tx, rx) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || pour(file, &tx));
        Ok(Box::pin(stream::unfold(rx, |mut rx| async {
            rx.recv().await.map(|x| (x, rx))
        })))
    }
}
