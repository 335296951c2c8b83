//! A medium with a volatile cache, below a directory of real files. What the store writes is seen at once by whoever reads
//! the files, and is on the medium only after a flush that succeeded. A flush can be made to fail as the kernel does it: the
//! error comes once, the file still reads as if all were well, later flushes succeed, and what was to be written is lost.
//! After a cut the files are what the medium has: no file has content that was not flushed, and no directory an entry.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};

/// Granularity at which later writes are told from what was lost, in bytes.
const BLOCK: usize = 512;

/// Every medium there is. Found by path, so that the code under test need not carry it.
static MEDIA: Mutex<Vec<Arc<Medium>>> = Mutex::new(Vec::new());

/// A directory and all below it.
pub(crate) struct Medium {
    root: Utf8PathBuf,
    model: Mutex<Model>,
}

#[derive(Default)]
struct Model {
    /// Writes and flushes still to pass before one fails; 0: none fails.
    left: u64,
    /// Flushes still to pass before one is left out; 0: none is.
    left_to_skip: u64,
    /// What failed or was left out.
    failed: Option<String>,
    files: HashMap<u64, Node>,
    dirs: HashMap<u64, Dir>,
}

struct Node {
    /// Keeps the inode from being used for another file.
    file: File,
    durable: Vec<u8>,
    /// What the cache held when a flush failed: never written unless it changes again.
    lost: Option<Vec<u8>>,
}

struct Dir {
    _file: File,
    durable: BTreeMap<String, Entry>,
    /// Entries of files that a failed flush lost. One of a directory is written again with the next flush.
    lost: BTreeSet<(String, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    File(u64),
    Dir(u64),
}

fn of(path: &Utf8Path) -> Option<Arc<Medium>> {
    let media = MEDIA.lock().unwrap_or_else(PoisonError::into_inner);
    media.iter().find(|m| path.starts_with(&m.root)).cloned()
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

/// A write is about to be carried out.
pub(crate) fn before_write(path: &Utf8Path) -> io::Result<()> {
    match of(path) {
        Some(medium) if medium.model().turn(&format!("write to {path}")) => Err(eio()),
        Some(_) | None => Ok(()),
    }
}

/// Flushes a file by `work`.
pub(crate) fn sync(path: &Utf8Path, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let Some(medium) = of(path) else { return work() };
    let what = format!("flush of {path}");
    if medium.model().skips(&what) {
        return Ok(());
    }
    let fails = medium.model().turn(&what);
    if !fails {
        work()?;
    }
    medium.model().flushed(path, fails)
}

/// Flushes a directory by `work`.
pub(crate) fn sync_dir(dir: &Utf8Path, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let Some(medium) = of(dir) else { return work() };
    let what = format!("flush of {dir}");
    if medium.model().skips(&what) {
        return Ok(());
    }
    let fails = medium.model().turn(&what);
    if !fails {
        work()?;
    }
    medium.model().flushed_dir(dir, fails)
}

/// The cache of a file is dropped: what was lost shows.
pub(crate) fn drop_cache(path: &Utf8Path) {
    let Some(medium) = of(path) else { return };
    let mut model = medium.model();
    let ino = fs::metadata(path).unwrap().ino();
    if let Some(node) = model.files.get_mut(&ino).filter(|n| n.lost.is_some()) {
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(node.durable.len() as u64).unwrap();
        file.write_all_at(&node.durable, 0).unwrap();
        node.lost = None;
    }
}

impl Medium {
    /// Everything below `root` is on the medium now.
    pub(crate) fn below(root: &Utf8Path) -> Arc<Self> {
        let medium = Arc::new(Self {
            root: root.to_owned(),
            model: Mutex::default(),
        });
        medium.model().settle(root);
        let mut media = MEDIA.lock().unwrap_or_else(PoisonError::into_inner);
        media.push(Arc::clone(&medium));
        medium
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `n - 1` writes and flushes pass and fails the next; 0 fails none.
    pub(crate) fn fail_at(&self, n: u64) {
        let mut model = self.model();
        (model.left, model.failed) = (n, None);
    }

    /// Lets `n - 1` flushes be carried out and leaves the next one out, as if the program lacked it.
    pub(crate) fn skip_at(&self, n: u64) {
        let mut model = self.model();
        (model.left_to_skip, model.failed) = (n, None);
    }

    /// What failed or was left out since then.
    pub(crate) fn failed(&self) -> Option<String> {
        self.model().failed.clone()
    }

    /// The power goes: the files are what the medium has.
    pub(crate) fn cut(&self) {
        let mut model = self.model();
        let root = fs::metadata(&self.root).unwrap().ino();
        wipe(&self.root);
        model.restore(&self.root, root);
        *model = Model::default();
        model.settle(&self.root);
    }

    /// Forgets this medium.
    pub(crate) fn end(self: Arc<Self>) {
        let mut media = MEDIA.lock().unwrap_or_else(PoisonError::into_inner);
        media.retain(|m| !Arc::ptr_eq(m, &self));
    }
}

/// The tests' own files.
fn is_foreign(name: &str) -> bool {
    name.starts_with("truth")
}

/// Removes everything; files of a dropped branch may be going at the same time.
fn wipe(root: &Utf8Path) {
    for _ in 0..100 {
        let mut left = false;
        for entry in fs::read_dir(root).unwrap().flatten() {
            let path = Utf8PathBuf::from_path_buf(entry.path()).unwrap();
            if is_foreign(path.file_name().unwrap()) {
                continue;
            }
            let gone = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            left |= gone.is_err();
        }
        if !left {
            return;
        }
    }
    panic!("{root} cannot be cleared");
}

fn listing(dir: &Utf8Path) -> BTreeMap<String, Entry> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            all.insert(name, Entry::Dir(metadata.ino()));
        } else if metadata.is_file() && !is_foreign(&name) {
            all.insert(name, Entry::File(metadata.ino()));
        }
    }
    all
}

impl Model {
    /// Whether this write or flush is the one that fails.
    fn turn(&mut self, what: &str) -> bool {
        let fails = self.left == 1;
        self.left = self.left.saturating_sub(1);
        if fails {
            self.failed = Some(what.to_owned());
        }
        fails
    }

    /// Whether this flush is the one that is left out.
    fn skips(&mut self, what: &str) -> bool {
        let skips = self.left_to_skip == 1;
        self.left_to_skip = self.left_to_skip.saturating_sub(1);
        if skips {
            self.failed = Some(what.to_owned());
        }
        skips
    }

    fn settle(&mut self, dir: &Utf8Path) {
        let entries = listing(dir);
        for (name, entry) in &entries {
            let path = dir.join(name);
            match entry {
                Entry::Dir(_) => self.settle(&path),
                Entry::File(ino) => {
                    let file = File::open(&path).unwrap();
                    let durable = fs::read(&path).unwrap();
                    self.files.insert(
                        *ino,
                        Node {
                            file,
                            durable,
                            lost: None,
                        },
                    );
                }
            }
        }
        self.dir(dir).durable = entries;
    }

    fn dir(&mut self, path: &Utf8Path) -> &mut Dir {
        let file = File::open(path).unwrap();
        let ino = file.metadata().unwrap().ino();
        self.dirs.entry(ino).or_insert_with(|| Dir {
            _file: file,
            durable: BTreeMap::new(),
            lost: BTreeSet::new(),
        })
    }

    fn node(&mut self, path: &Utf8Path) -> io::Result<&mut Node> {
        let file = File::open(path)?;
        let ino = file.metadata()?.ino();
        Ok(self.files.entry(ino).or_insert_with(|| Node {
            file,
            durable: Vec::new(),
            lost: None,
        }))
    }

    fn flushed(&mut self, path: &Utf8Path, fails: bool) -> io::Result<()> {
        let node = self.node(path)?;
        let len = node.file.metadata()?.len();
        let mut now = vec![0; usize::try_from(len).unwrap()];
        node.file.read_exact_at(&mut now, 0)?;
        if fails {
            node.lost = Some(now);
            return Err(eio());
        }
        node.durable = match &node.lost {
            None => now,
            Some(lost) => written_since(&node.durable, lost, &now),
        };
        Ok(())
    }

    fn flushed_dir(&mut self, path: &Utf8Path, fails: bool) -> io::Result<()> {
        if !path.is_dir() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let now = listing(path);
        for (name, entry) in &now {
            // Kept open from now on, so that nothing else gets their numbers.
            match entry {
                Entry::File(_) => drop(self.node(&path.join(name))),
                Entry::Dir(_) => {
                    self.dir(&path.join(name));
                }
            }
        }
        let dir = self.dir(path);
        let number = |e: &Entry| match e {
            Entry::File(ino) | Entry::Dir(ino) => *ino,
        };
        if fails {
            let fresh = now.iter().filter(|(n, e)| dir.durable.get(*n) != Some(*e));
            let fresh = fresh.filter(|(_, e)| matches!(e, Entry::File(_)));
            let fresh: Vec<_> = fresh.map(|(n, e)| (n.clone(), number(e))).collect();
            dir.lost.extend(fresh);
            return Err(eio());
        }
        let mut durable = BTreeMap::new();
        for (name, entry) in now {
            if !dir.lost.contains(&(name.clone(), number(&entry))) {
                durable.insert(name, entry);
            } else if let Some(before) = dir.durable.get(&name) {
                durable.insert(name, *before);
            }
        }
        dir.durable = durable;
        Ok(())
    }

    fn restore(&self, path: &Utf8Path, dir: u64) {
        let Some(dir) = self.dirs.get(&dir) else { return };
        for (name, entry) in &dir.durable {
            let place = path.join(name);
            match entry {
                // A thread of the code under test may still be removing what was dropped.
                _ if place.as_str().contains(".gone") => {}
                Entry::Dir(ino) => {
                    fs::create_dir(&place).unwrap();
                    self.restore(&place, *ino);
                }
                Entry::File(ino) => fs::write(&place, &self.files[ino].durable).unwrap(),
            }
        }
    }
}

/// What the medium has after a flush that followed one that failed: the blocks that were written to since.
fn written_since(durable: &[u8], lost: &[u8], now: &[u8]) -> Vec<u8> {
    let mut after = now.to_vec();
    for (n, block) in after.chunks_mut(BLOCK).enumerate() {
        let range = n * BLOCK..n * BLOCK + block.len();
        if lost.get(range.clone()) == Some(&*block) {
            block.fill(0);
            if let Some(before) = durable.get(range.start..range.end.min(durable.len())) {
                block[..before.len()].copy_from_slice(before);
            }
        }
    }
    after
}
