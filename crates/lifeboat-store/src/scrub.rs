//! Scrubbing: recording digests of what is sealed and reading it again later. One call reads about one page of digests
//! of one file, so that nothing else waits long; how far a pass is lies in `scrub/state.json`, which may be lost at the
//! price of beginning again. What damage means is `damage`'s.
//!
//! The base changes whenever a point expires; `digest_merge` keeps its digests true across that. The head has none: it is
//! built from logs, which carry their own, and `proof` compares it with them once it is sealed.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_engine::ports::scrub::{ScrubNews, ScrubNext, ScrubPass, ScrubState, ScrubStep, ScrubWork};
use lifeboat_engine::ports::store::StoreError;
use lifeboat_model::{DiskFormat, Position, Timestamp};
use rustix::fs::Advice;
use serde::{Deserialize, Serialize};

use crate::damage::{Bad, Known, Sealed, log_files, note, prune, sealed};
use crate::digest::{BLOCK, Blocks, DIGESTS, DIR, LAYER_BLOCK, PER_PAGE, Seen, Sidecar, UNKNOWN};
use crate::files::{self, Result, io_error};
use crate::logs::Reader;
use crate::manifest::Manifest;
use crate::map::{Map, tidy};
use crate::proof::{self, Proof};
use crate::qemu_img::Cancel;
use crate::replica::Replica;

/// File of the progress, below [`DIR`].
const NAME: &str = "state.json";

/// File that names the replica all this is about, below [`DIR`].
const OF: &str = "of.json";

/// Bytes that one call reads, about.
pub(crate) const AT_ONCE: u64 = 16 << 20;

/// How long one call goes through holes.
const LONG_ENOUGH: Duration = Duration::from_millis(50);

/// How far scrubbing is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    /// Files of which every block was looked at since they were sealed.
    recorded: BTreeSet<Utf8PathBuf>,
    /// Layers that were compared with their logs, and have no digests yet.
    #[serde(default)]
    proved: BTreeSet<Utf8PathBuf>,
    /// The file that is being recorded, and the next page of it.
    recording: Option<(Utf8PathBuf, u64)>,
    pass: Option<Pass>,
    /// When the last complete pass began.
    last: Option<Timestamp>,
}

/// A pass under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pass {
    shown: ScrubPass,
    /// Files that are through.
    done: BTreeSet<Utf8PathBuf>,
    /// The file it is in, and the next page of it.
    current: Option<(Utf8PathBuf, u64)>,
    /// The last log that is through.
    log: Option<Utf8PathBuf>,
    /// The head is through.
    #[serde(default)]
    head: bool,
}

/// What a replica keeps in memory of all this.
#[derive(Default)]
pub(crate) struct Scrub {
    /// Start of the replica that this is about. After an adoption the same files hold something else.
    of: Option<Position>,
    progress: Progress,
    log: Option<Reader>,
    /// The comparison with logs that is under way.
    pub(crate) proof: Option<Box<Proof>>,
    pub(crate) damage: Known,
}

impl Scrub {
    /// What is recorded for the replica in `dir`; nothing when it is about one that was here before.
    pub(crate) fn load(dir: &Utf8Path, start: Position) -> Self {
        let path = dir.join(DIR).join(NAME);
        let read = std::fs::read(&path).ok();
        let progress: Option<Progress> = read.and_then(|bytes| match serde_json::from_slice(&bytes) {
            Ok(progress) => Some(progress),
            Err(e) => {
                tracing::warn!(%path, error = %e, "how far the scrub was cannot be read; it begins again");
                None
            }
        });
        let of = std::fs::read(dir.join(DIR).join(OF)).ok();
        let of: Option<Position> = of.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if of != Some(start) {
            return Self::default();
        }
        Self {
            of,
            progress: progress.unwrap_or_default(),
            log: None,
            proof: None,
            damage: Known::load(dir),
        }
    }

    /// Whether a layer needs not be compared with logs any more.
    pub(crate) fn is_through(&self, file: &Utf8Path) -> bool {
        self.progress.recorded.contains(file) || self.progress.proved.contains(file)
    }

    /// Whether what is recorded is about a replica with this start.
    pub(crate) fn is_about(&self, start: Position) -> bool {
        self.of == Some(start)
    }
}

impl Replica {
    /// What is known of digests and damage. Held for moments only.
    pub(crate) fn scrub(&self) -> std::sync::MutexGuard<'_, Scrub> {
        self.scrub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_progress(&self, progress: Progress) {
        let path = self.dir.join(DIR).join(NAME);
        let tmp = path.with_extension("tmp");
        let bytes = serde_json::to_vec(&progress).unwrap_or_default();
        // Not synced: an older state, or none, only means that something is read twice.
        let written = std::fs::create_dir_all(self.dir.join(DIR))
            .and_then(|()| std::fs::write(&tmp, bytes))
            .and_then(|()| std::fs::rename(&tmp, &path));
        if let Err(error) = written {
            tracing::warn!(%path, %error, "how far the scrub is cannot be noted");
        }
        self.scrub().progress = progress;
    }
}

/// How far it is.
pub(crate) fn state(replica: &Replica) -> ScrubState {
    let scrub = replica.scrub();
    ScrubState {
        running: scrub.progress.pass.as_ref().map(|p| p.shown),
        last: scrub.progress.last,
    }
}

/// Forgets digests and damage: the files will hold something else.
pub(crate) fn forget(replica: &Replica) -> Result<()> {
    *replica.scrub() = Scrub::default();
    files::remove_tree(&replica.dir.join(DIR))
}

/// One piece of work.
pub(crate) fn step(replica: &Replica, work: ScrubWork, now: Timestamp, cancel: &Cancel) -> Result<ScrubStep> {
    let (manifest, logs) = {
        let state = replica.state.blocking_lock();
        (state.manifest.clone(), log_files(&state))
    };
    // Without a point nothing is sealed: the base is still being filled.
    if manifest.promoted.is_some() || manifest.points.is_empty() {
        return Ok(nothing());
    }
    renew(replica, &manifest)?;
    replica.change_bads(|bads| prune(bads, &manifest, &logs))?;
    if let Some(stepped) = proof::step(replica, &manifest, now, cancel)? {
        return Ok(proved(replica, &manifest, stepped));
    }
    match work {
        ScrubWork::Record => record(replica, &manifest, now, cancel),
        ScrubWork::Verify | ScrubWork::Restart => verify(replica, &manifest, &logs, (work, now), cancel),
    }
}

/// Lets go of what is recorded of a replica that was here before.
pub(crate) fn renew(replica: &Replica, manifest: &Manifest) -> Result<()> {
    if replica.scrub().is_about(manifest.start) {
        return Ok(());
    }
    forget(replica)?;
    let dir = replica.dir.join(DIR);
    std::fs::create_dir_all(&dir).map_err(io_error("make", &dir))?;
    let bytes = serde_json::to_vec(&manifest.start).map_err(|e| io_error("write", &dir)(e.into()))?;
    files::replace(&dir.join(OF), &bytes)?;
    replica.scrub().of = Some(manifest.start);
    // What is there already was sealed without a digest: the first pass records it and says so.
    replica.set_progress(Progress {
        recorded: sealed(manifest).into_iter().map(|s| s.image.file).collect(),
        ..Progress::default()
    });
    Ok(())
}

fn nothing() -> ScrubStep {
    ScrubStep {
        read: 0,
        next: ScrubNext::Nothing,
        pass: None,
        news: ScrubNews::None,
    }
}

/// Notes which layers were compared with their logs.
fn proved(replica: &Replica, manifest: &Manifest, stepped: proof::Stepped) -> ScrubStep {
    let mut progress = replica.scrub().progress.clone();
    let pass = progress.pass.as_ref().map(|p| p.shown);
    let all = sealed(manifest);
    progress.proved.extend(stepped.through);
    progress.proved.retain(|f| all.iter().any(|s| s.image.file == *f));
    replica.set_progress(progress);
    ScrubStep {
        read: stepped.read,
        next: ScrubNext::More,
        pass,
        news: news(stepped.found),
    }
}

/// Records digests of the next file that lacks them.
fn record(replica: &Replica, manifest: &Manifest, now: Timestamp, cancel: &Cancel) -> Result<ScrubStep> {
    let mut progress = replica.scrub().progress.clone();
    let all = sealed(manifest);
    progress
        .recorded
        .retain(|f| all.iter().any(|s| s.image.file == *f));
    let Some(item) = all.iter().find(|s| !progress.recorded.contains(&s.image.file)) else {
        return Ok(nothing());
    };
    let from = progress.recording.take().filter(|(f, _)| *f == item.image.file);
    let from = from.map_or(0, |(_, page)| page);
    let looked = look(replica, item, from, (ScrubWork::Record, now), cancel)?;
    match looked.next {
        Some(page) => progress.recording = Some((item.image.file.clone(), page)),
        None => drop(progress.recorded.insert(item.image.file.clone())),
    }
    replica.set_progress(progress);
    Ok(ScrubStep {
        read: looked.read,
        next: ScrubNext::More,
        pass: None,
        news: news(looked.found),
    })
}

fn news(found: u64) -> ScrubNews {
    if found > 0 {
        ScrubNews::Damage
    } else {
        ScrubNews::None
    }
}

/// Goes on with the pass, or begins one.
fn verify(
    replica: &Replica,
    manifest: &Manifest,
    logs: &[(Utf8PathBuf, Position)],
    (work, now): (ScrubWork, Timestamp),
    cancel: &Cancel,
) -> Result<ScrubStep> {
    let mut progress = replica.scrub().progress.clone();
    let all = sealed(manifest);
    let mut pass = match progress.pass.take().filter(|_| work == ScrubWork::Verify) {
        Some(pass) => pass,
        None => begin(replica, &all, logs, now)?,
    };
    let (read, found) = if let Some(item) = all.iter().find(|s| !pass.done.contains(&s.image.file)) {
        let from = pass.current.take().filter(|(f, _)| *f == item.image.file);
        let from = from.map_or(0, |(_, page)| page);
        let looked = look(replica, item, from, (ScrubWork::Verify, now), cancel)?;
        pass.shown.first_seen += looked.first_seen;
        match looked.next {
            Some(page) => pass.current = Some((item.image.file.clone(), page)),
            None => {
                progress.recorded.insert(item.image.file.clone());
                pass.done.insert(item.image.file.clone());
            }
        }
        (looked.read, looked.found)
    } else if let Some((name, at)) = next_log(&pass, logs) {
        let (read, found, whole) = read_log(replica, name, *at, now)?;
        if whole {
            pass.log = Some(name.clone());
        }
        (read, found)
    } else if !pass.head
        && let Some(stepped) = proof::head(replica, manifest, now, cancel)?
    {
        pass.head = !stepped.through.is_empty();
        (stepped.read, stepped.found)
    } else {
        progress.last = Some(pass.shown.started);
        replica.set_progress(progress);
        return Ok(ScrubStep {
            read: 0,
            next: ScrubNext::Complete(pass.shown),
            pass: Some(pass.shown),
            news: ScrubNews::None,
        });
    };
    pass.shown.done += read;
    pass.shown.found += found;
    let shown = pass.shown;
    progress.pass = Some(pass);
    replica.set_progress(progress);
    Ok(ScrubStep {
        read,
        next: ScrubNext::More,
        pass: Some(shown),
        news: news(found),
    })
}

/// The logs expire from the oldest on: when the last one that was read is gone, all that are left come after it.
fn next_log<'l>(pass: &Pass, logs: &'l [(Utf8PathBuf, Position)]) -> Option<&'l (Utf8PathBuf, Position)> {
    let last = pass.log.as_ref();
    let read = last.and_then(|last| logs.iter().position(|(f, _)| f == last));
    logs.get(read.map_or(0, |n| n + 1))
}

fn begin(
    replica: &Replica,
    all: &[Sealed],
    logs: &[(Utf8PathBuf, Position)],
    now: Timestamp,
) -> Result<Pass> {
    drop_useless_digests(replica, all)?;
    let images = all.iter().map(|s| &s.image.file);
    let files = images.chain(logs.iter().map(|(f, _)| f));
    Ok(Pass {
        shown: ScrubPass {
            started: now,
            done: 0,
            total: files.map(|f| files::usage(&replica.dir.join(f))).sum(),
            first_seen: 0,
            found: 0,
        },
        done: BTreeSet::new(),
        current: None,
        log: None,
        head: false,
    })
}

/// Digests of files that are gone.
fn drop_useless_digests(replica: &Replica, all: &[Sealed]) -> Result<()> {
    let dir = replica.dir.join(DIGESTS).join("disks");
    for disk in files::names(&dir)? {
        for name in files::names(&dir.join(&disk))? {
            let of = name.strip_suffix(".digests").unwrap_or(&name);
            let file = Utf8Path::new("disks").join(&disk).join(of);
            if !all.iter().any(|s| s.image.file == file) {
                files::remove(&dir.join(&disk).join(&name))?;
            }
        }
    }
    Ok(())
}

/// What was seen of some pages of a file.
struct Looked {
    read: u64,
    found: u64,
    first_seen: u64,
    /// The page to go on with; none at the end of the file.
    next: Option<u64>,
}

/// Looks at a file from a page on.
fn look(
    replica: &Replica,
    item: &Sealed,
    from: u64,
    (work, now): (ScrubWork, Timestamp),
    cancel: &Cancel,
) -> Result<Looked> {
    let path = replica.dir.join(&item.image.file);
    let mut blocks = match Blocks::open(&path, item.block()) {
        Ok(blocks) => blocks,
        Err(error) => return missing(replica, item, &error.to_string(), now),
    };
    let mut sidecar = Sidecar::of(&replica.dir, &item.image)?;
    let count = blocks.count().max(sidecar.pages() * PER_PAGE);
    let began = Instant::now();
    let (mut number, mut first_seen, mut found) = (from, 0, Vec::new());
    let mut cured = Vec::new();
    let known: BTreeSet<u64> = of_file(replica, item).map(|b| b.block).collect();
    while number * PER_PAGE < count && blocks.read < AT_ONCE && began.elapsed() < LONG_ENOUGH {
        cancel.check()?;
        let mut page = sidecar.page(number)?;
        let mut changed = false;
        if work != ScrubWork::Record {
            uncache(&blocks.file, number, item.block());
        }
        for block in number * PER_PAGE..((number + 1) * PER_PAGE).min(count) {
            let recorded = page.get(block);
            if work == ScrubWork::Record && recorded != UNKNOWN {
                continue;
            }
            let seen = blocks.look(block);
            match (&seen, recorded) {
                (Seen::Unreadable(e), _) => found.push((block, format!("it cannot be read: {e}"))),
                (Seen::Hole(_), UNKNOWN) => {}
                // It is damaged: with a digest recorded now, the damage would never be found again.
                (Seen::Data(_), UNKNOWN) if known.contains(&block) => {}
                (Seen::Data(digest), UNKNOWN) => {
                    changed |= page.set(block, *digest);
                    first_seen += item.block();
                }
                (seen, _) if seen.is(recorded) => cured.extend(known.get(&block)),
                (Seen::Hole(_) | Seen::Data(_), _) => {
                    found.push((block, "its data differs from the recorded digest".to_owned()))
                }
            }
        }
        if changed {
            sidecar.put(number, &page)?;
        }
        if work != ScrubWork::Record {
            // What is read only here need not push other things out.
            uncache(&blocks.file, number, item.block());
        }
        number += 1;
    }
    sidecar.sync()?;
    let bads = describe(&replica.dir, item, found, now);
    let mut new = 0;
    replica.change_bads(|all| {
        all.retain(|b| b.file != item.image.file || !cured.contains(&b.block));
        new = note(all, bads, item.size);
    })?;
    Ok(Looked {
        read: blocks.read,
        found: new,
        first_seen,
        next: (number * PER_PAGE < count).then_some(number),
    })
}

fn of_file<'a>(replica: &Replica, item: &'a Sealed) -> impl Iterator<Item = Bad> + use<'a> {
    let bads = replica.bads().into_iter();
    bads.filter(|b| b.file == item.image.file)
}

/// Lets the next read of a page of blocks come from the disk.
pub(crate) fn uncache(file: &File, page: u64, block: u64) {
    let len = std::num::NonZeroU64::new(PER_PAGE * block);
    // Advice: where it is not taken, a copy in memory is verified.
    let _ = rustix::fs::fadvise(file, page * PER_PAGE * block, len, Advice::DontNeed);
}

/// A file that cannot be opened is damaged as a whole.
fn missing(replica: &Replica, item: &Sealed, seen: &str, now: Timestamp) -> Result<Looked> {
    let bad = Bad::whole(item, format!("it cannot be opened: {seen}"), now);
    Ok(Looked {
        read: 0,
        found: replica.note_bads(vec![bad], item.size)?,
        first_seen: 0,
        next: None,
    })
}

/// What damaged blocks of a file mean for the disk.
pub(crate) fn describe(dir: &Utf8Path, item: &Sealed, found: Vec<(u64, String)>, now: Timestamp) -> Vec<Bad> {
    if found.is_empty() {
        return Vec::new();
    }
    let numbers: Vec<u64> = found.iter().map(|(n, _)| *n).collect();
    let places = places(dir, item, &numbers);
    let bad = |((block, seen), place): ((u64, String), Place)| {
        let suspect = place.data.iter().map(|(_, at, len)| (*at, *len)).collect();
        Bad {
            file: item.image.file.clone(),
            disk: Some(item.disk.clone()),
            block,
            seen,
            since: now,
            table: place.table,
            suspect: if place.table {
                vec![(0, item.size)]
            } else {
                tidy(suspect)
            },
            later: None,
            hopeless: false,
            searched: false,
        }
    };
    found.into_iter().zip(places).map(bad).collect()
}

/// What a block of a file is on the disk.
#[derive(Clone)]
pub(crate) struct Place {
    /// First byte in the block, first byte of the disk, length.
    pub(crate) data: Vec<(u64, u64, u64)>,
    /// It holds something else than data, or that is not known.
    pub(crate) table: bool,
}

/// What blocks of a file are on the disk.
pub(crate) fn places(dir: &Utf8Path, item: &Sealed, blocks: &[u64]) -> Vec<Place> {
    let path = dir.join(&item.image.file);
    let unknown = || {
        let place = Place {
            data: Vec::new(),
            table: true,
        };
        vec![place; blocks.len()]
    };
    let raw = |n: &u64| Place {
        data: vec![(0, n * BLOCK, BLOCK)],
        table: false,
    };
    match item.image.format {
        DiskFormat::Raw => blocks.iter().map(raw).collect(),
        DiskFormat::Qcow2 if !item.image.ours => unknown(),
        DiskFormat::Qcow2 => in_layer(&path, item.size, blocks).unwrap_or_else(|_| unknown()),
    }
}

fn in_layer(path: &Utf8Path, size: u64, blocks: &[u64]) -> Result<Vec<Place>> {
    let end = std::fs::metadata(path).map_err(io_error("look at", path))?.len();
    let map = Map::open(path, size)?;
    let mut places: Vec<Vec<(u64, u64, u64)>> = vec![Vec::new(); blocks.len()];
    for (offset, to) in map.windows(1 << 30) {
        for piece in map.pieces(offset, to)? {
            let Some(host) = piece.host else { continue };
            for (block, place) in blocks.iter().zip(&mut places) {
                let (from, till) = (block * LAYER_BLOCK, (block + 1) * LAYER_BLOCK);
                let (a, b) = (host.max(from), (host + piece.len).min(till));
                if a < b {
                    place.push((a - from, piece.offset + (a - host), b - a));
                }
            }
        }
    }
    let place = |(block, data): (&u64, Vec<(u64, u64, u64)>)| {
        let bytes: u64 = data.iter().map(|(_, _, len)| len).sum();
        Place {
            table: bytes < end.saturating_sub(block * LAYER_BLOCK).min(LAYER_BLOCK),
            data,
        }
    };
    Ok(blocks.iter().zip(places).map(place).collect())
}

/// Reads on in a log; bytes read, damage found, and whether it is through.
fn read_log(
    replica: &Replica,
    name: &Utf8Path,
    position: Position,
    now: Timestamp,
) -> Result<(u64, u64, bool)> {
    let path = replica.dir.join(name);
    let open = replica.scrub().log.take().filter(|l| l.path == path);
    let mut log = match open.map_or_else(|| Reader::open(path), Ok) {
        Ok(log) => log,
        Err(error) => return bad_log(replica, name, position, &error.to_string(), 0, now),
    };
    let mut read = 0;
    while read < AT_ONCE {
        match log.read(|_| Ok(())) {
            Ok(0) => {
                replica.change_bads(|all| all.retain(|b| b.file != name))?;
                return Ok((read, 0, true));
            }
            Ok(n) => read += n,
            Err(StoreError::Damaged { detail, .. }) => {
                return bad_log(replica, name, position, &detail, read, now);
            }
            Err(e) => {
                let seen = format!("it cannot be read: {e}");
                return bad_log(replica, name, position, &seen, read, now);
            }
        }
    }
    replica.scrub().log = Some(log);
    Ok((read, 0, false))
}

fn bad_log(
    replica: &Replica,
    name: &Utf8Path,
    position: Position,
    seen: &str,
    read: u64,
    now: Timestamp,
) -> Result<(u64, u64, bool)> {
    let bad = Bad {
        file: name.to_owned(),
        disk: None,
        block: 0,
        seen: format!("the log to {position} is damaged: {seen}"),
        since: now,
        suspect: Vec::new(),
        later: None,
        table: false,
        // The primary forgets what is durable here.
        hopeless: true,
        searched: true,
    };
    Ok((read, replica.note_bads(vec![bad], 0)?, true))
}
