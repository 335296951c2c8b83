//! Scrubbing: recording digests of what is sealed and reading it again later. One call reads about one page of digests
//! of one file, so that nothing else waits long; how far a pass is lies in `scrub/state.json`, which may be lost at the
//! price of beginning again. What damage means is `damage`'s.
//!
//! The base changes whenever a point expires; `digest_merge` keeps its digests true across that. The head has none: it is
//! built from logs, which carry their own, and `proof` compares it with them once it is sealed.

use std::collections::BTreeSet;
use std::fs::File;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_engine::ports::scrub::{ScrubNews, ScrubNext, ScrubPass, ScrubState, ScrubStep, ScrubWork};
use lifeboat_engine::ports::store::StoreError;
use lifeboat_model::{Position, Timestamp};
use rustix::fs::Advice;

use crate::damage::{Bad, Sealed, note, prune, sealed};
use crate::digest::{Blocks, DIGESTS, DIR, PER_PAGE, Seen, Sidecar, UNKNOWN};
use crate::error::{Result, io_error};
use crate::files;
use crate::logs::Reader;
use crate::manifest::Manifest;
use crate::progress::{AT_ONCE, NAME, OF, Pass, Progress, Scrub};
use crate::proof;
use crate::qemu_img::Cancel;
use crate::replica::Replica;
use crate::shown::describe;
use crate::spoiled::log_files;

/// How long one call goes through holes.
const LONG_ENOUGH: Duration = Duration::from_millis(50);

impl Replica {
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
