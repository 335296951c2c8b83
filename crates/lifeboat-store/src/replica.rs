//! One replica in memory: its manifest, its logs, and the locks that order operations on it. Two operations that change
//! images never run at once; what arrives from the network runs beside them and meets them only at the manifest.

use std::io;
use std::sync::{Arc, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_engine::ports::storage::StorageFaultKind as Kind;
use lifeboat_engine::ports::store::{ReplicaInfo, StoreError, StoredLogs};
use lifeboat_model::{PointId, Position, VmId};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::chain::Image;
use crate::error::Result;
use crate::faults::Faults;
use crate::files;
use crate::locked;
use crate::logs::{self, Logs};
use crate::manifest::{Layer, Manifest, is_divergence, own_base};
use crate::presence::Presence;
use crate::progress::Scrub;
use crate::qemu_img::Cancel;
use crate::room::{Need, Room};
use crate::steps::Steps;
use crate::twin;
use crate::watch::{self, Watch};

/// A replica that is open.
pub(crate) struct Replica {
    pub(crate) vm: VmId,
    pub(crate) dir: Utf8PathBuf,
    /// What may be taken of the disk.
    pub(crate) room: Room,
    pub(crate) state: Mutex<State>,
    pub(crate) steps: Steps,
    /// Held by whatever changes images.
    work: Arc<Mutex<()>>,
    /// Held by whatever takes in a log or a bulk segment.
    inflow: Arc<Mutex<()>>,
    /// Digests of what is sealed, and what is damaged.
    scrub: std::sync::Mutex<Scrub>,
    /// Recovery points that are being read, once for each reader.
    pub(crate) pins: std::sync::Mutex<Vec<PointId>>,
    /// Operations under way.
    pub(crate) watch: Watch,
    /// What the engine saw last.
    pub(crate) seen: std::sync::Mutex<Option<ReplicaInfo>>,
    /// The newest transfer. A sender has one under way, so that an older one is what a broken connection left.
    newest: std::sync::Mutex<Transfer>,
    /// What was seen to be wrong with its files and disks.
    pub(crate) faults: Faults,
    /// Which files were there.
    pub(crate) presence: Presence,
}

/// What is known of it. Locked only for as long as a manifest takes to write.
pub(crate) struct State {
    pub(crate) manifest: Manifest,
    pub(crate) logs: Logs,
    /// The file may be another one than `manifest`, because writing it failed.
    unsettled: bool,
    /// What the copy of the manifest holds, as far as that is known.
    pub(crate) copy: Option<Manifest>,
}

/// Something that is taken in.
#[derive(Clone, Default)]
struct Transfer {
    /// The log's position; `None` for a segment of the initial copy.
    to: Option<Position>,
    /// Ends it; cancelled too when it has ended by itself.
    end: CancellationToken,
}

impl State {
    /// Last position whose log is durable, and can be applied.
    pub(crate) fn durable(&self) -> Position {
        self.logs.reach(self.manifest.applied)
    }
}

impl Replica {
    /// Puts a manifest and its logs together.
    pub(crate) fn new(manifest: Manifest, logs: Logs, room: Room, steps: Steps) -> Self {
        let dir = room.dir();
        Self {
            vm: manifest.vm,
            dir: dir.to_owned(),
            scrub: std::sync::Mutex::new(Scrub::load(dir, manifest.start)),
            room,
            state: Mutex::new(State {
                manifest,
                logs,
                unsettled: false,
                copy: None,
            }),
            steps,
            work: Arc::default(),
            inflow: Arc::default(),
            pins: std::sync::Mutex::default(),
            watch: Watch::default(),
            seen: std::sync::Mutex::default(),
            newest: std::sync::Mutex::default(),
            faults: Faults::default(),
            presence: Presence::default(),
        }
    }

    /// What is known of digests and damage. Held for moments only.
    pub(crate) fn scrub(&self) -> std::sync::MutexGuard<'_, Scrub> {
        self.scrub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The manifest as it is now. From blocking threads only.
    pub(crate) fn manifest(&self) -> Manifest {
        self.state.blocking_lock().manifest.clone()
    }

    /// Changes the manifest durably, or not at all. From blocking threads only.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Manifest)) -> Result<()> {
        self.commit(&mut self.state.blocking_lock(), change)
    }

    /// As [`Replica::change`], for a caller that has locked the state already.
    pub(crate) fn commit(&self, state: &mut State, change: impl FnOnce(&mut Manifest)) -> Result<()> {
        let mut next = state.manifest.clone();
        change(&mut next);
        if next == state.manifest && !state.unsettled {
            return Ok(());
        }
        self.step("before the manifest is replaced")?;
        if let Err(error) = next.save(&self.dir) {
            // Its name may lead to the new one, which is not durable and did not take effect: the old one goes back.
            state.unsettled =
                !matches!(error, StoreError::NoSpace(_)) && state.manifest.save(&self.dir).is_err();
            return Err(error);
        }
        self.proved(&self.dir.join(crate::manifest::NAME));
        state.unsettled = false;
        state.manifest = next;
        self.keep_copy(state);
        self.step("after the manifest was replaced")
    }

    /// Writes the copy of the manifest when it would be another one. The manifest itself is in place already, so an error
    /// is kept as a fact and the copy is written with the next change.
    pub(crate) fn keep_copy(&self, state: &mut State) {
        let copy = state.manifest.without_head();
        if state.copy.as_ref() == Some(&copy) {
            return;
        }
        state.copy = match twin::save_copy(&self.dir, &copy) {
            Ok(()) => Some(copy),
            Err(error) => {
                self.faults.note_error(&error);
                tracing::warn!(vm = %self.vm, %error, "the manifest has no copy now");
                None
            }
        };
    }

    /// A file made again at `path` is durable: what failed there, or beside it, is over.
    pub(crate) fn proved(&self, path: &Utf8Path) {
        let place = path.parent();
        // A branch that failed is never made again, only another one.
        let branches = self.dir.join("branches");
        self.faults.end(|f| {
            let below = f.path != self.dir && place.is_some_and(|p| p.starts_with(&f.path));
            let here = f.path.parent() == place || Some(f.path.as_path()) == place || below;
            let let_go = f.path.starts_with(&branches) && !f.path.exists();
            f.kind == Kind::Failing && (here || let_go)
        });
    }

    /// Refuses when so many bytes more are too many. From blocking threads only.
    pub(crate) fn take(&self, bytes: u64, need: Need) -> Result<()> {
        self.room.take(bytes, need, || self.usage())
    }

    /// Bytes it takes on disk.
    pub(crate) fn usage(&self) -> u64 {
        let state = self.state.blocking_lock();
        let logs = state.logs.entries.iter().map(|e| e.log.size);
        let logs = logs.fold(0, u64::saturating_add);
        let manifest = state.manifest.clone();
        drop(state);
        let bases = manifest.disks_with_base().map(own_base);
        let files = manifest.files().cloned().chain(bases);
        let arriving = logs::INCOMING;
        let parts = files::names(&self.dir.join(arriving)).unwrap_or_default();
        let parts = parts.iter().map(|n| Utf8Path::new(arriving).join(n));
        let images = files.chain(parts).map(|f| files::usage(&self.dir.join(f)));
        images.fold(logs, u64::saturating_add)
    }

    /// A place where tests fail.
    pub(crate) fn step(&self, name: &str) -> Result<()> {
        watch::beat();
        self.steps.pass(name)
    }

    /// A chain with absolute paths.
    pub(crate) fn absolute(&self, chain: &[Image]) -> Vec<Image> {
        absolute(&self.dir, chain)
    }

    /// Whether a recovery point is being read.
    pub(crate) fn is_pinned(&self, id: PointId) -> bool {
        let pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.contains(&id)
    }

    /// Makes the directories of freshly made layers durable.
    pub(crate) fn sync_dirs(&self, layers: &[Layer]) -> Result<()> {
        for layer in layers {
            files::sync_dir(self.dir.join(&layer.file).parent().unwrap_or(&self.dir))?;
        }
        Ok(())
    }

    /// Removes every file that the manifest and the logs do not name. Repeatable, and right at any moment at which no
    /// operation is under way.
    pub(crate) fn sweep(&self) -> Result<()> {
        let manifest = self.manifest();
        let named: std::collections::HashSet<&Utf8Path> =
            manifest.files().map(Utf8PathBuf::as_path).collect();
        for disk in &manifest.disks {
            let dir = Utf8PathBuf::from(format!("disks/{}", disk.id));
            for name in files::names(&self.dir.join(&dir))? {
                let file = dir.join(&name);
                if name != "base.raw" && !named.contains(file.as_path()) {
                    self.step("before a file is removed")?;
                    files::remove(&self.dir.join(file))?;
                }
            }
        }
        for name in files::names(&self.dir.join("branches"))? {
            if manifest.branches.iter().any(|b| b.id.to_string() == name) {
                continue;
            }
            let dir = Utf8PathBuf::from("branches").join(name);
            if !named.iter().any(|f| f.starts_with(&dir)) {
                self.step("before a branch is removed")?;
                files::remove_tree(&self.dir.join(dir))?;
                continue;
            }
            // Layers of a branch that is the content of an adopted replica now.
            for name in files::names(&self.dir.join(&dir))? {
                let file = dir.join(name);
                if !named.contains(file.as_path()) {
                    files::remove(&self.dir.join(file))?;
                }
            }
        }
        for name in files::names(&self.dir)?.iter().filter(|n| is_divergence(n)) {
            if manifest.divergence.as_ref().is_none_or(|d| d != name.as_str()) {
                files::remove(&self.dir.join(name))?;
            }
        }
        // Locked, because a log may arrive meanwhile and must not count as one that is not known.
        let state = self.state.blocking_lock();
        for name in files::names(&self.dir.join(logs::DIR))? {
            if !state.logs.entries.iter().any(|e| e.file == name) {
                files::remove(&self.dir.join(logs::DIR).join(name))?;
            }
        }
        Ok(())
    }

    /// Ends the transfer under way and gives the next one. Requests overtake each other: one of a log that its sender has
    /// given up long ago ends nothing, and `None` is given.
    fn supersede(&self, to: Option<Position>) -> Option<Transfer> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = newest.to.filter(|_| !newest.end.is_cancelled());
        if let (Some(now), Some(to)) = (under_way, to)
            && now.compare(to) == Some(std::cmp::Ordering::Greater)
        {
            return None;
        }
        let next = Transfer {
            to,
            ..Transfer::default()
        };
        std::mem::replace(&mut *newest, next.clone()).end.cancel();
        Some(next)
    }

    /// Ends the transfer under way and lets none begin while the guard lives.
    pub(crate) async fn no_inflow(&self) -> tokio::sync::OwnedMutexGuard<()> {
        self.supersede(None);
        Arc::clone(&self.inflow).lock_owned().await
    }

    /// Waits until no operation is under way.
    pub(crate) async fn idle(&self) {
        let _inflow = self.no_inflow().await;
        let _work = self.work.lock().await;
    }

    /// What the engine saw last, without waiting for anything.
    pub(crate) fn last_info(&self) -> Option<ReplicaInfo> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its logs.
    pub(crate) async fn stored_logs(&self) -> StoredLogs {
        let state = self.state.lock().await;
        StoredLogs {
            durable: state.durable(),
            logs: state.logs.entries.iter().map(|e| e.log.clone()).collect(),
        }
    }

    /// What is known of it, without a look at its files.
    pub(crate) async fn as_it_is(&self) -> ReplicaInfo {
        let state = self.state.lock().await;
        let manifest = &state.manifest;
        ReplicaInfo {
            place: self.dir.as_path().into(),
            disks: manifest.disks.clone(),
            bulk: manifest.bulk.clone(),
            durable: state.durable(),
            applied: manifest.applied,
            points: manifest.recovery_points().map(|p| p.point.clone()).collect(),
            logs: state.logs.entries.iter().map(|e| e.log.clone()).collect(),
            branches: manifest.branches.iter().map(|b| b.id).collect(),
            abandoned: manifest.kept.as_ref().map(|k| k.what.clone()),
            files: manifest.disk_files(&self.dir),
            faults: self.faults.list(),
            damage: Vec::new(),
            unsealed: manifest.head.as_ref().map(|h| h.changed).unwrap_or_default(),
        }
    }
}

/// A chain with absolute paths.
pub(crate) fn absolute(dir: &Utf8Path, chain: &[Image]) -> Vec<Image> {
    chain.iter().map(|i| absolute_one(dir, i)).collect()
}

/// One image of it.
pub(crate) fn absolute_one(dir: &Utf8Path, image: &Image) -> Image {
    Image {
        file: dir.join(&image.file),
        ..image.clone()
    }
}

/// Runs work that changes images, alone, on a thread that may block. Dropped, it stops at the next child process and its
/// lock is held until it has.
pub(crate) async fn exclusive<T: Send + 'static>(
    replica: Arc<Replica>,
    work: impl FnOnce(&Replica, &Cancel) -> Result<T> + Send + 'static,
) -> Result<T> {
    let guard = Arc::clone(&replica.work).lock_owned().await;
    let (_alive, cancel) = Cancel::new();
    joined(tokio::task::spawn_blocking(move || {
        let _guard = guard;
        let _watched = replica.watch.begin();
        let done = locked::guarded(&replica.dir, || work(&replica, &cancel));
        if !matches!(done, Err(StoreError::Locked { .. })) {
            replica.room.measured(|| replica.usage());
        }
        done.inspect_err(|e| replica.faults.note_error(e))
    }))
    .await
}

/// Runs work that takes something in; beside `exclusive`, but one at a time. A transfer that is still under way ends as
/// interrupted: with the other end gone without a word, it would wait for its next byte for minutes.
pub(crate) async fn incoming<T: Send + 'static>(
    replica: Arc<Replica>,
    to: Option<Position>,
    body: lifeboat_engine::ports::ByteStream,
    work: impl FnOnce(&Replica, Chunks) -> Result<T> + Send + 'static,
) -> Result<T> {
    let superseded = async || {
        let have = replica.state.lock().await.durable();
        Err(StoreError::Superseded { have })
    };
    let Some(transfer) = replica.supersede(to) else {
        return superseded().await;
    };
    let _over = transfer.end.clone().drop_guard();
    let guard = Arc::clone(&replica.inflow).lock_owned().await;
    if transfer.end.is_cancelled() {
        return superseded().await;
    }
    match stream_to_worker(Arc::clone(&replica), body, (guard, transfer.end.clone()), work).await {
        Err(StoreError::Io { .. }) if transfer.end.is_cancelled() => superseded().await,
        done => done,
    }
}

/// Runs work that takes a body in and changes images: alone of other such work, while logs may arrive. A body that is taken in
/// alone of other arrivals is [`incoming`]'s.
pub(crate) async fn exclusive_with_stream<T: Send + 'static>(
    replica: Arc<Replica>,
    body: lifeboat_engine::ports::ByteStream,
    work: impl FnOnce(&Replica, Chunks) -> Result<T> + Send + 'static,
) -> Result<T> {
    let guard = Arc::clone(&replica.work).lock_owned().await;
    stream_to_worker(replica, body, (guard, CancellationToken::new()), work).await
}

/// Hands a body to work on a thread that may block, which holds the guard to its end.
async fn stream_to_worker<T: Send + 'static>(
    replica: Arc<Replica>,
    mut body: lifeboat_engine::ports::ByteStream,
    (guard, superseded): (tokio::sync::OwnedMutexGuard<()>, CancellationToken),
    work: impl FnOnce(&Replica, Chunks) -> Result<T> + Send + 'static,
) -> Result<T> {
    use futures_util::StreamExt;
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let mut task = tokio::task::spawn_blocking(move || {
        let _guard = guard;
        let _watched = replica.watch.begin();
        let done = locked::guarded(&replica.dir, || work(&replica, receiver));
        done.inspect_err(|e| replica.faults.note_error(e))
    });
    loop {
        tokio::select! {
            biased;
            ended = &mut task => return ended.unwrap_or_else(|e| Err(lost(&e))),
            () = superseded.cancelled() => {
                let _ = sender.send(Err(io::ErrorKind::Interrupted.into())).await;
                break;
            }
            chunk = body.next() => {
                let Some(chunk) = chunk else { break };
                if sender.send(chunk).await.is_err() {
                    break;
                }
            }
        }
    }
    drop(sender);
    joined(task).await
}

/// Bytes from the network, as they arrive. Ends also when the caller gave up.
pub(crate) type Chunks = tokio::sync::mpsc::Receiver<std::io::Result<bytes::Bytes>>;

async fn joined<T>(task: tokio::task::JoinHandle<Result<T>>) -> Result<T> {
    task.await.unwrap_or_else(|e| Err(lost(&e)))
}

fn lost(error: &tokio::task::JoinError) -> StoreError {
    StoreError::Io {
        what: format!("the store's worker ended early: {error}"),
        source: std::io::ErrorKind::Other.into(),
    }
}
