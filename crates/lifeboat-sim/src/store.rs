//! The image store, in memory: real logs are decoded and applied to maps of writes. Its logs are in `logs`. It checks the engine's
//! side of the contract: no branch thrown away under a running VM, one number for one log.

use crate::disk::Image;
use crate::read::PointView;
use crate::read::{self};
use crate::replica::{self};
use crate::replica::{Result, apply, decode, file};
use crate::state::{Replica, State, process};
use crate::stores::{SimStore, here, logs_whole, room};
use async_trait::async_trait;
use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::{Consistency, LogDisk, LogKind};
use lifeboat_engine::ports::ByteStream;
use lifeboat_engine::ports::capture::BlockView;
use lifeboat_engine::ports::hypervisor::{DiskImage, LiveMerge, PowerState};
use lifeboat_engine::ports::scrub::{RepairSource, Repaired, ScrubState, ScrubStep, ScrubWork};
use lifeboat_engine::ports::store::{
    Adoption, BulkProgress, CompareRange, Divergence, ImageStore, Point, Quota, ReplicaInfo, StorageDelay,
    StoreError, StoreLocation, StoredLog, Target,
};
use lifeboat_model::{Arrival, BranchId, DiskId, PointId, Position, Timestamp, VmId};

fn promoted(s: &mut State, h: usize, vm: VmId, branch: BranchId) -> Result<&mut (BranchId, bool, bool)> {
    match &mut here(s, h, vm)?.promoted {
        Some(p) if p.0 == branch => Ok(p),
        _ => Err(StoreError::Conflict(
            "that branch is not the disks of the VM".into(),
        )),
    }
}

fn thrown_away(s: &mut State, h: usize, branch: BranchId) {
    let prefix = format!("/replicas/branch-{branch}-");
    let mut running = s.hosts[h]
        .processes
        .values()
        .filter(|p| p.power != PowerState::Off);
    if running.any(|p| p.images.iter().any(|k| k.starts_with(&prefix))) {
        s.violation("a branch was thrown away under a running VM");
    }
    s.hosts[h].images.retain(|k, _| !k.starts_with(&prefix));
}

fn running(s: &mut State, h: usize, vm: VmId) -> bool {
    process(s, h, vm).power != PowerState::Off
}

#[async_trait]
impl ImageStore for SimStore {
    fn place(&self, location: &StoreLocation, vm: VmId) -> StoreLocation {
        StoreLocation::new(format!("{location}/{vm}"))
    }

    async fn create(
        &self,
        location: &StoreLocation,
        vm: VmId,
        disks: &[LogDisk],
        start: Position,
    ) -> Result<()> {
        self.change(vm, "store.create", |s, h| {
            room(s, h)?;
            let other = |r: &Replica| r.start != start || r.disks != disks;
            s.hosts[h]
                .replicas
                .retain(|id, r| *id != vm || !r.leftover() || !other(r));
            if let Some(r) = s.hosts[h].replicas.get_mut(&vm) {
                if other(r) {
                    return Err(StoreError::Conflict(
                        "a replica with another generation exists".into(),
                    ));
                }
                r.open = true;
                return Ok(());
            }
            let new = Replica::new(format!("{location}/{vm}"), disks, start);
            s.hosts[h].replicas.insert(vm, new);
            Ok(())
        })
        .await
    }

    async fn open(&self, _place: &StoreLocation, vm: VmId) -> Result<ReplicaInfo> {
        self.change(vm, "store.open", |s, h| {
            let r = s.hosts[h]
                .replicas
                .get_mut(&vm)
                .ok_or(StoreError::NoReplica(vm))?;
            r.open = true;
            Ok(r.info())
        })
        .await
    }

    async fn info(&self, vm: VmId) -> Result<ReplicaInfo> {
        self.run(vm, "store.info", |s, h| Ok(here(s, h, vm)?.info()))
            .await
    }

    async fn bulk(&self, vm: VmId, body: ByteStream) -> Result<BulkProgress> {
        let _busy = self.busy(vm, "store.bulk");
        let bytes = self.body(vm, None, body).await?;
        self.run(vm, "store.bulk", |s, h| {
            room(s, h)?;
            let (header, changes, data) = decode(&bytes)?;
            s.bulk_blocks += data;
            s.bulk_segments += 1;
            let r = here(s, h, vm)?;
            if header.kind != LogKind::Bulk || header.disks.len() != 1 || r.durable != r.start {
                return Err(StoreError::BadLog(
                    "not a bulk segment, or too late for one".into(),
                ));
            }
            let index = r.disks.iter().position(|d| *d == header.disks[0]);
            let index = index.ok_or_else(|| StoreError::BadLog("another disk".into()))?;
            apply(&mut r.head[index..=index], &changes);
            // A segment is whole: it ends where the next one begins.
            let next = (r.bulk[index] + (256 << 20)).min(r.disks[index].size);
            r.bulk[index] = next;
            Ok(BulkProgress {
                disk: r.disks[index].id.clone(),
                done: next,
            })
        })
        .await
    }

    async fn import(&self, vm: VmId, body: ByteStream) -> Result<BulkProgress> {
        let _busy = self.busy(vm, "store.import");
        let bytes = self.body(vm, None, body).await?;
        self.run(vm, "store.import", |s, h| {
            room(s, h)?;
            let (header, changes, _) = decode(&bytes)?;
            let r = here(s, h, vm)?;
            if r.applied != r.start || !r.points.is_empty() {
                return Err(StoreError::Conflict("a delta is applied".into()));
            }
            let index = r.disks.iter().position(|d| [d.clone()] == *header.disks);
            let index = index.filter(|_| header.kind == LogKind::Bulk && header.position == r.start);
            let index = index.ok_or_else(|| StoreError::BadLog("another copy".into()))?;
            let next = (r.bulk[index] + (256 << 20)).min(r.disks[index].size);
            // A segment is whole, and known by where it begins.
            let begins = changes.first().map_or(0, |c| c.1 * crate::disk::BLOCK);
            if begins >= r.bulk[index] {
                apply(&mut r.head[index..=index], &changes);
                r.bulk[index] = next;
            }
            Ok(BulkProgress {
                disk: r.disks[index].id.clone(),
                done: r.bulk[index],
            })
        })
        .await
    }

    async fn restart_bulk(&self, vm: VmId, disk: &DiskId) -> Result<()> {
        self.change(vm, "store.restart_bulk", |s, h| {
            let r = here(s, h, vm)?;
            if r.durable != r.start {
                return Err(StoreError::Conflict("a delta is here".into()));
            }
            if let Some(n) = r.disks.iter().position(|d| d.id == *disk) {
                r.bulk[n] = 0;
            }
            Ok(())
        })
        .await
    }

    async fn apply(&self, vm: VmId) -> Result<Option<StoredLog>> {
        self.change(vm, "store.apply", |s, h| {
            room(s, h)?;
            logs_whole(s, h)?;
            let noise = s.noise;
            let r = here(s, h, vm)?;
            let Some(next) = r.logs.iter().find(|l| l.log.parent == r.applied).cloned() else {
                return Ok(None);
            };
            r.apply(&next, noise);
            Ok(Some(next.log))
        })
        .await
    }

    async fn apply_through(&self, vm: VmId, last: Position) -> Result<Option<StoredLog>> {
        let slow = self.port.shared.state().hosts[self.port.host].slow_apply_ms;
        if slow > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(slow)).await;
        }
        self.change(vm, "store.apply", |s, h| {
            room(s, h)?;
            logs_whole(s, h)?;
            let noise = s.noise;
            let r = here(s, h, vm)?;
            let mut applied = None;
            while r.applied != last {
                let Some(next) = r.logs.iter().find(|l| l.log.parent == r.applied).cloned() else {
                    break;
                };
                r.apply(&next, noise);
                applied = Some(next.log);
            }
            Ok(applied)
        })
        .await
    }

    fn storage_delay(&self, vm: VmId) -> Option<StorageDelay> {
        let mut s = self.port.shared.state();
        self.reached(&mut s, vm, "store.storage_delay");
        let host = &s.hosts[self.port.host];
        let path = host.replicas.get(&vm)?.dir.clone().into();
        host.stuck_since.map(|since| StorageDelay { path, since })
    }

    fn last_info(&self, vm: VmId) -> Option<ReplicaInfo> {
        let mut s = self.port.shared.state();
        self.reached(&mut s, vm, "store.last_info");
        let replica = s.hosts[self.port.host].replicas.get(&vm)?;
        replica.open.then(|| replica.info())
    }

    async fn seal(&self, vm: VmId, id: PointId, arrived: Option<Arrival>) -> Result<Point> {
        self.change(vm, "store.seal", |s, h| {
            room(s, h)?;
            let r = here(s, h, vm)?;
            if let Some((p, _)) = r.points.iter().find(|(p, _)| p.position == r.applied) {
                return Ok(p.clone());
            }
            let log = r.logs.iter().find(|l| l.log.position == r.applied);
            let Some(log) = log.map(|l| l.log.clone()) else {
                return Err(StoreError::NoPoint(r.applied.to_string()));
            };
            if log.partial {
                return Err(StoreError::Conflict("a synchronization is not closed".into()));
            }
            let point = Point {
                id,
                position: r.applied,
                instant: log.instant,
                consistency: log.consistency,
                size: log.size,
                arrived,
                changed: Some(std::mem::take(&mut r.unsealed)),
            };
            r.points.push((point.clone(), r.head.clone()));
            Ok(point)
        })
        .await
    }

    async fn needed_logs(&self, vm: VmId) -> Result<Vec<Position>> {
        self.run(vm, "store.needed_logs", |s, h| Ok(vec![here(s, h, vm)?.floor()]))
            .await
    }

    async fn expire_oldest(&self, vm: VmId) -> Result<()> {
        self.change(vm, "store.expire_oldest", |s, h| {
            let r = here(s, h, vm)?;
            let pinned = r
                .points
                .first()
                .and_then(|(p, _)| r.pins.get(&p.id))
                .is_some_and(|n| *n > 0);
            if !r.branches.is_empty() || pinned {
                return Err(StoreError::Busy("the oldest point".into()));
            }
            if r.points.len() < 2 {
                return Ok(());
            }
            r.forget_oldest();
            if r.kept.is_some() {
                return Ok(());
            }
            // The images below are what the oldest point is merged into.
            let base = r.base_images.clone().into_iter();
            let merged: Vec<_> = base.zip(r.points[0].1.clone()).collect();
            for (key, content) in merged {
                if let Some(image) = key.and_then(|k| s.hosts[h].images.get_mut(&k)) {
                    image.content = content;
                }
            }
            Ok(())
        })
        .await
    }

    async fn branch(
        &self,
        vm: VmId,
        branch: BranchId,
        target: Target,
        max_images: Option<usize>,
    ) -> Result<Vec<(DiskId, DiskImage)>> {
        self.change(vm, "store.branch", |s, h| {
            room(s, h)?;
            let r = here(s, h, vm)?;
            if let Some((existing, _)) = r.branches.get(&branch) {
                return if *existing == target {
                    Ok(r.images(branch))
                } else {
                    Err(StoreError::Conflict("the branch is on another point".into()))
                };
            }
            if let Target::Cycle { position } = target
                && r.partial(position)
            {
                s.violation("a branch of a piece of a synchronization was wanted");
                return Err(StoreError::NoPoint(position.to_string()));
            }
            let found = r.target(target);
            let (position, contents) = found.ok_or_else(|| StoreError::NoPoint(format!("{target:?}")))?;
            let below = match target {
                Target::Point { id } => r
                    .points
                    .iter()
                    .position(|(p, _)| p.id == id)
                    .map_or(0, |at| at + 1),
                Target::Cycle { .. } => r.points.len() + 1,
                Target::Abandoned => 0,
            };
            // With the base and the branch's own.
            let images = below + 2;
            if let Some(most) = max_images.filter(|most| images > *most) {
                let why = format!("a chain of {images} images, and the hypervisor opens at most {most}");
                return Err(StoreError::Conflict(why));
            }
            r.branches.insert(branch, (target, position));
            let images = r.images(branch);
            let disks = r.disks.clone();
            for (disk, content) in disks.iter().zip(contents) {
                let image = Image::branch(disk.size, content);
                s.hosts[h].images.insert(file(branch, &disk.id), image);
            }
            Ok(images)
        })
        .await
    }

    async fn verify_target(&self, vm: VmId, target: Target) -> Result<()> {
        self.run(vm, "store.verify_target", |s, h| here(s, h, vm)?.verify(target))
            .await
    }

    async fn verify_branch(&self, vm: VmId, branch: BranchId) -> Result<()> {
        self.run(vm, "store.verify_branch", |s, h| {
            let r = here(s, h, vm)?;
            match r.branches.get(&branch) {
                Some((target, _)) => r.verify(*target),
                None if matches!(r.promoted, Some((b, _, _)) if b == branch) => Ok(()),
                None => Err(StoreError::NoBranch(branch)),
            }
        })
        .await
    }

    async fn branch_images(&self, vm: VmId, branch: BranchId) -> Result<Vec<(DiskId, DiskImage)>> {
        self.run(vm, "store.branch_images", |s, h| {
            let r = here(s, h, vm)?;
            if r.branches.contains_key(&branch) {
                Ok(r.images(branch))
            } else {
                Err(StoreError::NoBranch(branch))
            }
        })
        .await
    }

    async fn drop_branch(&self, vm: VmId, branch: BranchId) -> Result<()> {
        self.change(vm, "store.drop_branch", |s, h| {
            let r = here(s, h, vm)?;
            if r.branches.remove(&branch).is_none() {
                return Ok(());
            }
            thrown_away(s, h, branch);
            Ok(())
        })
        .await
    }

    async fn promote(&self, vm: VmId, branch: BranchId) -> Result<()> {
        self.change(vm, "store.promote", |s, h| {
            let r = here(s, h, vm)?;
            if matches!(r.promoted, Some((b, _, _)) if b == branch) {
                return Ok(());
            }
            let Some((target, position)) = r.branches.get(&branch).copied() else {
                return Err(StoreError::NoBranch(branch));
            };
            let others: Vec<BranchId> = r.branches.keys().copied().filter(|b| *b != branch).collect();
            r.promote(branch, target, position);
            for other in others {
                thrown_away(s, h, other);
            }
            Ok(())
        })
        .await
    }

    async fn promoted_layers(&self, vm: VmId, branch: BranchId) -> Result<Vec<LiveMerge>> {
        self.run(vm, "store.promoted_layers", |s, h| {
            if promoted(s, h, vm, branch)?.2 {
                return Ok(Vec::new());
            }
            let disks = &here(s, h, vm)?.disks;
            let layer = |d: &LogDisk| LiveMerge {
                id: d.id.clone(),
                top: Utf8PathBuf::from("/replicas/top"),
                base: Utf8PathBuf::from("/replicas/base"),
            };
            Ok(disks.iter().map(layer).collect())
        })
        .await
    }

    async fn merge_promoted(&self, vm: VmId, branch: BranchId) -> Result<()> {
        self.change(vm, "store.merge_promoted", |s, h| {
            if running(s, h, vm) {
                s.violation("the store merged under a running VM");
            }
            promoted(s, h, vm, branch)?.2 = true;
            Ok(())
        })
        .await
    }

    async fn merged_live(&self, vm: VmId, branch: BranchId) -> Result<()> {
        self.change(vm, "store.merged_live", |s, h| {
            let p = promoted(s, h, vm, branch)?;
            if !p.1 {
                return Err(StoreError::Conflict("the layers are not merged yet".into()));
            }
            p.2 = true;
            Ok(())
        })
        .await
    }

    async fn adopt(&self, location: &StoreLocation, vm: VmId, adoption: &Adoption) -> Result<()> {
        self.change(vm, "store.adopt", |s, h| {
            room(s, h)?;
            replica::adopt(s, h, format!("{location}/{vm}"), vm, adoption)
        })
        .await
    }

    async fn divergence(&self, vm: VmId) -> Result<Divergence> {
        self.run(vm, "store.divergence", |s, h| {
            let known = here(s, h, vm)?.divergence.clone();
            known.ok_or_else(|| StoreError::Conflict("this copy never was equal to another one".into()))
        })
        .await
    }

    async fn drop_abandoned(&self, vm: VmId) -> Result<()> {
        self.change(vm, "store.drop_abandoned", |s, h| {
            let r = here(s, h, vm)?;
            if r.branches.values().any(|(t, _)| *t == Target::Abandoned) {
                return Err(StoreError::Busy("what was kept".into()));
            }
            r.kept = None;
            Ok(())
        })
        .await
    }

    async fn compare(&self, vm: VmId, ranges: &[CompareRange]) -> Result<Vec<Vec<u32>>> {
        self.run(vm, "store.compare", |s, h| {
            let head = &here(s, h, vm)?.head;
            ranges.iter().map(|r| read::compare(head, r)).collect()
        })
        .await
    }

    async fn read_point(&self, vm: VmId, point: PointId) -> Result<Box<dyn BlockView>> {
        let disks = self
            .run(vm, "store.read_point", |s, h| {
                let r = here(s, h, vm)?;
                let found = r.points.iter().find(|(p, _)| p.id == point);
                let disks = found.map(|(_, c)| c.clone());
                let disks = disks.ok_or_else(|| StoreError::NoPoint(point.to_string()))?;
                *r.pins.entry(point).or_default() += 1;
                Ok(disks)
            })
            .await?;
        Ok(Box::new(PointView {
            port: self.port.clone(),
            vm,
            point,
            disks,
        }))
    }

    async fn finish_bulk(
        &self,
        vm: VmId,
        id: PointId,
        instant: Timestamp,
        consistency: Consistency,
    ) -> Result<Point> {
        self.change(vm, "store.finish_bulk", |s, h| {
            room(s, h)?;
            let r = here(s, h, vm)?;
            if let Some((p, _)) = r.points.iter().find(|(p, _)| p.position == r.start) {
                return Ok(p.clone());
            }
            let whole = r.disks.iter().zip(&r.bulk).all(|(d, done)| d.size == *done);
            if !whole || r.durable != r.start {
                return Err(StoreError::Conflict("the copy is not complete".into()));
            }
            let point = Point {
                id,
                position: r.start,
                instant,
                consistency,
                size: 0,
                arrived: None,
                changed: None,
            };
            r.points.push((point.clone(), r.head.clone()));
            let content = r.head.clone();
            replica::finished(s, vm, point.position, instant, &content);
            Ok(point)
        })
        .await
    }

    async fn put_firmware(&self, vm: VmId, vars: Bytes) -> Result<()> {
        self.change(vm, "store.put_firmware", |s, h| {
            here(s, h, vm)?.vars = Some(vars);
            Ok(())
        })
        .await
    }

    async fn firmware(&self, vm: VmId) -> Result<Option<Bytes>> {
        self.run(vm, "store.firmware", |s, h| Ok(here(s, h, vm)?.vars.clone()))
            .await
    }

    async fn branch_firmware(&self, vm: VmId, branch: BranchId) -> Result<Utf8PathBuf> {
        self.run(vm, "store.branch_firmware", |s, h| {
            let r = here(s, h, vm)?;
            if !r.branches.contains_key(&branch) {
                return Err(StoreError::NoBranch(branch));
            }
            if let Some(vars) = r.vars.clone() {
                r.branch_vars.entry(branch).or_insert(vars);
            }
            Ok(format!("/replicas/branch-{branch}-vars").into())
        })
        .await
    }

    async fn found(&self, location: &StoreLocation) -> Result<Vec<(VmId, StoreLocation)>> {
        let s = self.port.shared.state();
        let below = |dir: &str| Utf8Path::new(dir).parent() == Some(location.directory());
        let all = s.hosts[self.port.host]
            .replicas
            .iter()
            .filter(|(_, r)| below(&r.dir));
        Ok(all.map(|(vm, r)| (*vm, StoreLocation::new(&r.dir))).collect())
    }

    async fn scrub(&self, vm: VmId, work: ScrubWork, now: Timestamp) -> Result<ScrubStep> {
        self.run(vm, "store.scrub", |s, h| Ok(here(s, h, vm)?.scrub(work, now)))
            .await
    }

    async fn scrub_state(&self, vm: VmId) -> Result<ScrubState> {
        self.run(vm, "store.scrub_state", |s, h| Ok(here(s, h, vm)?.scrubbed))
            .await
    }

    async fn repair(&self, vm: VmId, source: RepairSource) -> Result<Repaired> {
        self.run(vm, "store.repair", |s, h| Ok(here(s, h, vm)?.repair(&source)))
            .await
    }

    fn bound(&self, vm: VmId, quota: Option<Quota>) {
        let mut s = self.port.shared.state();
        self.reached(&mut s, vm, "store.bound");
        let quotas = &mut s.hosts[self.port.host].quotas;
        match quota {
            Some(quota) => drop(quotas.insert(vm, quota)),
            None => drop(quotas.remove(&vm)),
        }
    }

    async fn release(&self) {}

    async fn close(&self, vm: VmId) {
        let _busy = self.busy(vm, "store.close");
        let _: Result<()> = self
            .run(vm, "store.close", |s, h| {
                if let Ok(r) = here(s, h, vm) {
                    r.open = false;
                }
                Ok(())
            })
            .await;
    }

    async fn destroy(&self, vm: VmId) -> Result<()> {
        self.change(vm, "store.destroy", |s, h| {
            s.hosts[h].replicas.remove(&vm);
            Ok(())
        })
        .await
    }
}
