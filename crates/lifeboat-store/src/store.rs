//! The port of images: finds the replica a call is about and runs the operation on a thread that may block. No logic of its own. Logs are in
//! `log_store`; one object is behind both ports, because one manifest says what counts of both.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::{Consistency, LogDisk};
use lifeboat_engine::ports::ByteStream;
use lifeboat_engine::ports::capture::BlockView;
use lifeboat_engine::ports::hypervisor::{DiskImage, LiveMerge};
use lifeboat_engine::ports::scrub::{RepairSource, Repaired, ScrubState, ScrubStep, ScrubWork};
use lifeboat_engine::ports::store::{
    Adoption, BulkProgress, CompareRange, Divergence, ImageStore, Origin, Point, Quota, ReplicaInfo,
    StorageDelay, StoreError, StoreLocation, StoredLog, Target,
};
use lifeboat_kernel::AtRest;
use lifeboat_model::{Arrival, BranchId, DiskId, PointId, Position, Timestamp, VmId};

use crate::error::{Result, io_error};
use crate::files::MIB;
use crate::replica::{Replica, exclusive, exclusive_with_stream, incoming};
use crate::room::{Room, Shares};
use crate::steps::Steps;
use crate::view::PointView;
use crate::{
    adopt, apply, branch, bulk, compare, divergence, expire, firmware, found, locked, merge, open, repair,
    scrub, verify,
};

/// Replicas as qcow2 chains in directories of this host.
pub struct QcowStore {
    replicas: Mutex<HashMap<VmId, Arc<Replica>>>,
    /// Why those that should be open are not: what is wrong, and where.
    unusable: Mutex<HashMap<VmId, Unusable>>,
    reserve: u64,
    /// The key of encrypted replicas.
    pub(crate) at_rest: Arc<AtRest>,
    pub(crate) shares: Arc<Shares>,
    pub(crate) steps: Steps,
}

/// Why a replica could not be opened.
#[derive(Clone)]
struct Unusable {
    path: Utf8PathBuf,
    detail: String,
    /// Its key is missing; nothing else is known of it.
    locked: bool,
}

impl From<Unusable> for StoreError {
    fn from(u: Unusable) -> Self {
        let (path, detail) = (u.path, u.detail);
        if u.locked {
            Self::Locked { path, detail }
        } else {
            Self::Damaged { path, detail }
        }
    }
}

impl QcowStore {
    /// A store without open replicas. Nothing is written once less than `reserve_mib` MiB would stay free on a replica's
    /// file system.
    #[must_use]
    pub fn new(reserve_mib: u64) -> Self {
        Self {
            replicas: Mutex::default(),
            unusable: Mutex::default(),
            reserve: reserve_mib.saturating_mul(MIB),
            at_rest: Arc::new(AtRest::off()),
            shares: Arc::default(),
            steps: Steps::default(),
        }
    }

    /// The same store, which makes the directories of new replicas encrypted and gives the key to a file system before it opens
    /// a replica there.
    #[must_use]
    pub fn with_encryption(self, at_rest: Arc<AtRest>) -> Self {
        Self { at_rest, ..self }
    }

    pub(crate) fn find(&self, vm: VmId) -> Result<Arc<Replica>> {
        let replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(replica) = replicas.get(&vm) {
            return Ok(Arc::clone(replica));
        }
        drop(replicas);
        let unusable = self.unusable.lock().unwrap_or_else(PoisonError::into_inner);
        Err(match unusable.get(&vm).cloned() {
            Some(why) => why.into(),
            None => StoreError::NoReplica(vm),
        })
    }

    /// Remembers why a replica could not be opened, for who asks for it later.
    fn remember(&self, dir: &Utf8Path, vm: VmId, error: &StoreError) {
        let locked = matches!(error, StoreError::Locked { .. });
        let (path, detail) = match error {
            StoreError::Damaged { path, detail } | StoreError::Locked { path, detail } => {
                (path.clone(), detail.clone())
            }
            StoreError::NoReplica(_) => {
                let detail = "there is no replica here; is its storage mounted?".to_owned();
                (dir.to_owned(), detail)
            }
            StoreError::Io { what, source } => (dir.to_owned(), format!("{what}: {source}")),
            StoreError::Failing { .. }
            | StoreError::Conflict(_)
            | StoreError::NoPoint(_)
            | StoreError::NoBranch(_)
            | StoreError::OutOfSequence { .. }
            | StoreError::Superseded { .. }
            | StoreError::BadLog(_)
            | StoreError::NoSpace(_)
            | StoreError::OverQuota { .. }
            | StoreError::Busy(_) => (dir.to_owned(), error.to_string()),
        };
        let mut unusable = self.unusable.lock().unwrap_or_else(PoisonError::into_inner);
        unusable.insert(vm, Unusable { path, detail, locked });
    }

    fn forget(&self, vm: VmId) {
        let mut unusable = self.unusable.lock().unwrap_or_else(PoisonError::into_inner);
        unusable.remove(&vm);
    }

    fn keep(&self, replica: Option<Replica>, vm: VmId) -> Option<Arc<Replica>> {
        let mut replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        match replica {
            Some(replica) => {
                let replica = Arc::new(replica);
                replicas.insert(vm, Arc::clone(&replica));
                Some(replica)
            }
            None => replicas.remove(&vm),
        }
    }

    pub(crate) async fn load(&self, dir: Utf8PathBuf, vm: VmId) -> Result<Arc<Replica>> {
        // Opened twice, the first one's last operation must be over before its files are judged.
        self.close(vm).await;
        let (shares, steps) = (self.shares.clone(), self.steps.clone());
        let room = Room::new(vm, dir.clone(), self.reserve, shares.clone());
        let (place, at_rest) = (dir.clone(), self.at_rest.clone());
        let opened = blocking(move || {
            unlock(&at_rest, &place)?;
            let opened = locked::guarded(&place, || open::open(&place, vm, room, steps));
            let replica = opened?;
            shares.measured(vm, replica.usage());
            Ok(replica)
        })
        .await;
        let replica = opened.inspect_err(|e| self.remember(&dir, vm, e))?;
        self.keep(Some(replica), vm).ok_or(StoreError::NoReplica(vm))
    }
}

/// Runs file work that belongs to no open replica.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|e| {
        Err(StoreError::Io {
            what: format!("the store's worker ended early: {e}"),
            source: std::io::ErrorKind::Other.into(),
        })
    })
}

/// What a replica consists of, with what is damaged.
async fn described(replica: Arc<Replica>) -> Result<ReplicaInfo> {
    let mut info = replica.info().await;
    if replica.is_damaged() {
        info.damage = blocking(move || Ok(replica.damage())).await?;
    }
    Ok(info)
}

/// Looks at files of an open replica beside whatever else goes on.
pub(crate) async fn on<T: Send + 'static>(
    replica: Arc<Replica>,
    work: impl FnOnce(&Replica) -> Result<T> + Send + 'static,
) -> Result<T> {
    blocking(move || locked::guarded(&replica.dir, || work(&replica))).await
}

/// Has the replica in `dir` readable.
pub(crate) fn unlock(at_rest: &AtRest, dir: &Utf8Path) -> Result<()> {
    let unlocked = at_rest.unlock(dir.as_std_path());
    unlocked.map(|_| ()).map_err(|e| locked::refusal(dir, &e))
}

pub(crate) fn absolute(dir: &Utf8Path) -> Result<Utf8PathBuf> {
    camino::absolute_utf8(dir).map_err(io_error("resolve", dir))
}

/// How long the daemon's end may wait for work that was dropped.
const RELEASE: Duration = Duration::from_secs(20);

#[async_trait]
impl ImageStore for QcowStore {
    fn place(&self, location: &StoreLocation, vm: VmId) -> StoreLocation {
        let location = location.directory();
        let absolute = absolute(location).unwrap_or_else(|_| location.to_owned());
        absolute.join(vm.to_string()).into()
    }

    async fn create(
        &self,
        location: &StoreLocation,
        vm: VmId,
        disks: &[LogDisk],
        start: Position,
    ) -> Result<()> {
        let dir = absolute(location.directory())?.join(vm.to_string());
        let (made, disks, steps) = (dir.clone(), disks.to_vec(), self.steps.clone());
        let at_rest = self.at_rest.clone();
        blocking(move || {
            unlock(&at_rest, &made)?;
            locked::guarded(&made, || {
                open::create((&made, &at_rest), vm, &disks, start, &steps)
            })
        })
        .await?;
        // Loaded again if it was: it may have been replaced.
        if self.find(vm).is_ok() {
            self.close(vm).await;
        }
        self.load(dir, vm).await?;
        Ok(())
    }

    async fn open(&self, place: &StoreLocation, vm: VmId) -> Result<ReplicaInfo> {
        described(self.load(absolute(place.directory())?, vm).await?).await
    }

    async fn info(&self, vm: VmId) -> Result<ReplicaInfo> {
        described(self.find(vm)?).await
    }

    async fn bulk(&self, vm: VmId, body: ByteStream) -> Result<BulkProgress> {
        incoming(self.find(vm)?, None, body, bulk::bulk).await
    }

    async fn import(&self, vm: VmId, body: ByteStream) -> Result<BulkProgress> {
        exclusive_with_stream(self.find(vm)?, body, bulk::import).await
    }

    async fn restart_bulk(&self, vm: VmId, disk: &DiskId) -> Result<()> {
        let disk = disk.clone();
        let nothing: ByteStream = Box::pin(futures_util::stream::empty());
        incoming(self.find(vm)?, None, nothing, move |r, _| bulk::restart(r, &disk)).await
    }

    async fn apply(&self, vm: VmId) -> Result<Option<StoredLog>> {
        exclusive(self.find(vm)?, |r, _| apply::apply(r)).await
    }

    async fn apply_through(&self, vm: VmId, last: Position) -> Result<Option<StoredLog>> {
        exclusive(self.find(vm)?, move |r, _| apply::apply_through(r, last)).await
    }

    fn storage_delay(&self, vm: VmId) -> Option<StorageDelay> {
        let replica = self.find(vm).ok()?;
        let since = replica.watch.longest()?;
        let path = replica.dir.clone();
        Some(StorageDelay { path, since })
    }

    fn last_info(&self, vm: VmId) -> Option<ReplicaInfo> {
        self.find(vm).ok()?.last_info()
    }

    async fn seal(&self, vm: VmId, id: PointId, arrived: Option<Arrival>) -> Result<Point> {
        exclusive(self.find(vm)?, move |r, _| apply::seal(r, id, arrived)).await
    }

    async fn needed_logs(&self, vm: VmId) -> Result<Vec<Position>> {
        let replica = self.find(vm)?;
        on(replica, |r| {
            Ok(expire::needed(r, &r.state.blocking_lock().manifest))
        })
        .await
    }

    async fn expire_oldest(&self, vm: VmId) -> Result<()> {
        exclusive(self.find(vm)?, expire::expire_oldest).await
    }

    async fn branch(
        &self,
        vm: VmId,
        branch: BranchId,
        target: Target,
        max_images: Option<usize>,
    ) -> Result<Vec<(DiskId, DiskImage)>> {
        exclusive(self.find(vm)?, move |r, cancel| {
            branch::branch(r, (branch, target), max_images, cancel)
        })
        .await
    }

    async fn verify_target(&self, vm: VmId, target: Target) -> Result<()> {
        exclusive(self.find(vm)?, move |r, _| verify::target(r, target)).await
    }

    async fn verify_branch(&self, vm: VmId, branch: BranchId) -> Result<()> {
        exclusive(self.find(vm)?, move |r, _| verify::branch(r, branch)).await
    }

    async fn branch_images(&self, vm: VmId, branch: BranchId) -> Result<Vec<(DiskId, DiskImage)>> {
        exclusive(self.find(vm)?, move |r, _| branch::images(r, branch)).await
    }

    async fn drop_branch(&self, vm: VmId, branch: BranchId) -> Result<()> {
        exclusive(self.find(vm)?, move |r, _| branch::drop_branch(r, branch)).await
    }

    async fn promote(&self, vm: VmId, branch: BranchId) -> Result<()> {
        let replica = self.find(vm)?;
        let _nothing_arrives = replica.no_inflow().await;
        exclusive(replica, move |r, _| merge::promote(r, branch)).await
    }

    async fn adopt(&self, location: &StoreLocation, vm: VmId, adoption: &Adoption) -> Result<()> {
        let given = adoption.clone();
        if let Origin::Images(images) = &adoption.origin {
            let dir = absolute(location.directory())?.join(vm.to_string());
            let (made, images, steps) = (dir.clone(), images.clone(), self.steps.clone());
            let at_rest = self.at_rest.clone();
            blocking(move || {
                unlock(&at_rest, &made)?;
                locked::guarded(&made, || {
                    adopt::images((&made, &at_rest), vm, &given, &images, &steps)
                })
            })
            .await?;
            self.load(dir, vm).await?;
            return Ok(());
        }
        let replica = self.find(vm)?;
        let _nothing_arrives = replica.no_inflow().await;
        exclusive(replica, move |r, _| adopt::here(r, &given)).await
    }

    async fn divergence(&self, vm: VmId) -> Result<Divergence> {
        let replica = self.find(vm)?;
        on(replica, |r| divergence::load(&r.dir, &r.manifest())).await
    }

    async fn drop_abandoned(&self, vm: VmId) -> Result<()> {
        exclusive(self.find(vm)?, |r, _| adopt::drop_abandoned(r)).await
    }

    async fn compare(&self, vm: VmId, ranges: &[CompareRange]) -> Result<Vec<Vec<u32>>> {
        let ranges = ranges.to_vec();
        exclusive(self.find(vm)?, move |r, _| compare::compare(r, &ranges)).await
    }

    async fn read_point(&self, vm: VmId, point: PointId) -> Result<Box<dyn BlockView>> {
        let replica = self.find(vm)?;
        let pinned = Arc::clone(&replica);
        let view = exclusive(replica, move |_, _| PointView::open(&pinned, point)).await?;
        Ok(Box::new(view))
    }

    async fn finish_bulk(
        &self,
        vm: VmId,
        id: PointId,
        instant: Timestamp,
        consistency: Consistency,
    ) -> Result<Point> {
        exclusive(self.find(vm)?, move |r, _| {
            adopt::finish_bulk(r, id, instant, consistency)
        })
        .await
    }

    async fn put_firmware(&self, vm: VmId, vars: Bytes) -> Result<()> {
        exclusive(self.find(vm)?, move |r, _| firmware::put(r, &vars)).await
    }

    async fn firmware(&self, vm: VmId) -> Result<Option<Bytes>> {
        let replica = self.find(vm)?;
        on(replica, firmware::get).await
    }

    async fn branch_firmware(&self, vm: VmId, branch: BranchId) -> Result<Utf8PathBuf> {
        exclusive(self.find(vm)?, move |r, _| firmware::of_branch(r, branch)).await
    }

    async fn promoted_layers(&self, vm: VmId, branch: BranchId) -> Result<Vec<LiveMerge>> {
        exclusive(self.find(vm)?, move |r, _| merge::promoted_layers(r, branch)).await
    }

    async fn merge_promoted(&self, vm: VmId, branch: BranchId) -> Result<()> {
        exclusive(self.find(vm)?, move |r, cancel| {
            merge::merge_promoted(r, branch, cancel)
        })
        .await
    }

    async fn merged_live(&self, vm: VmId, branch: BranchId) -> Result<()> {
        exclusive(self.find(vm)?, move |r, _| merge::merged_live(r, branch)).await
    }

    async fn found(&self, location: &StoreLocation) -> Result<Vec<(VmId, StoreLocation)>> {
        let location = absolute(location.directory())?;
        let all = blocking(move || found::found(&location)).await?;
        Ok(all.into_iter().map(|(vm, dir)| (vm, dir.into())).collect())
    }

    async fn scrub(&self, vm: VmId, work: ScrubWork, now: Timestamp) -> Result<ScrubStep> {
        exclusive(self.find(vm)?, move |r, cancel| scrub::step(r, work, now, cancel)).await
    }

    async fn scrub_state(&self, vm: VmId) -> Result<ScrubState> {
        Ok(scrub::state(&*self.find(vm)?))
    }

    async fn repair(&self, vm: VmId, source: RepairSource) -> Result<Repaired> {
        exclusive(self.find(vm)?, move |r, cancel| {
            repair::repair(r, &source, cancel)
        })
        .await
    }

    fn bound(&self, vm: VmId, quota: Option<Quota>) {
        self.shares.bound(vm, quota);
    }

    async fn close(&self, vm: VmId) {
        self.forget(vm);
        if let Some(replica) = self.keep(None, vm) {
            replica.idle().await;
        }
    }

    async fn release(&self) {
        let open: Vec<_> = {
            let replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
            replicas.values().cloned().collect()
        };
        let idle = futures_util::future::join_all(open.iter().map(|replica| replica.idle()));
        if tokio::time::timeout(RELEASE, idle).await.is_err() {
            tracing::warn!("work on a replica's files does not end; the next start takes it up");
        }
    }

    async fn destroy(&self, vm: VmId) -> Result<()> {
        if let Err(locked @ StoreError::Locked { .. }) = self.find(vm) {
            return Err(locked);
        }
        self.forget(vm);
        let Ok(replica) = self.find(vm) else { return Ok(()) };
        let _nothing_arrives = replica.no_inflow().await;
        exclusive(replica, |r, _| {
            r.change(|m| m.destroying = true)?;
            open::remove(&r.dir, &r.steps)
        })
        .await?;
        self.keep(None, vm);
        self.shares.forget(vm);
        Ok(())
    }
}
