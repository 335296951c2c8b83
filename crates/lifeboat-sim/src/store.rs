//! The replica store, in memory: real logs are decoded and applied to maps of writes. It checks the engine's side of
//! the contract: one changing call at a time for a VM, no branch thrown away under a running VM.

use std::sync::Arc;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use futures_util::StreamExt;
use lifeboat_deltalog::{Decoder, FrameBody, Header, Item, LogDisk, LogKind};
use lifeboat_engine::ports::ByteStream;
use lifeboat_engine::ports::hypervisor::{DiskImage, LiveMerge, PowerState};
use lifeboat_engine::ports::store::{
    BulkProgress, Point, Received, ReplicaInfo, ReplicaStore, StoreError, StoredLog, Target,
};
use lifeboat_model::{BranchId, DiskId, PointId, Position, Timestamp, VmId};

use crate::disk::{BLOCK, Content, Image, numbers_of};
use crate::gate::{Fault, Injected, Port};
use crate::hypervisor::process;
use crate::state::{Changes, Replica, Shared, State};

type Result<T> = std::result::Result<T, StoreError>;

/// A changing call under way; ended when dropped.
struct Busy {
    shared: Arc<Shared>,
    host: usize,
    vm: VmId,
    name: &'static str,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut s = self.shared.state();
        let list = s.hosts[self.host].busy.entry(self.vm).or_default();
        if let Some(at) = list.iter().position(|n| *n == self.name) {
            list.remove(at);
        }
    }
}

fn replica(s: &mut State, h: usize, vm: VmId) -> Result<&mut Replica> {
    match s.hosts[h].replicas.get_mut(&vm) {
        Some(r) if r.open => Ok(r),
        _ => Err(StoreError::NoReplica(vm)),
    }
}

fn room(s: &State, h: usize) -> Result<()> {
    match s.hosts[h].store_full {
        true => Err(StoreError::NoSpace("/replicas".into())),
        false => Ok(()),
    }
}

fn incoming(name: &str) -> bool {
    name.starts_with("store.receive") || name.starts_with("store.bulk")
}

impl Port {
    fn busy(&self, vm: VmId, name: &'static str) -> Busy {
        let mut s = self.shared.state();
        let list = s.hosts[self.host].busy.entry(vm).or_default();
        list.push(name);
        let beside = [
            "store.apply",
            "store.seal",
            "store.expire_oldest",
            "store.expire_logs",
        ];
        let clash = list[..list.len() - 1].iter().find(|other| {
            let fits = match (incoming(other), incoming(name)) {
                (true, true) => true,
                (true, false) => beside.contains(&name),
                (false, true) => beside.contains(other),
                (false, false) => false,
            };
            !fits
        });
        if let Some(other) = clash.copied() {
            s.violation(format!("{name} beside {other}"));
        }
        Busy {
            shared: self.shared.clone(),
            host: self.host,
            vm,
            name,
        }
    }

    /// A changing call.
    async fn change<R: Send>(
        &self,
        vm: VmId,
        name: &'static str,
        effect: impl FnOnce(&mut State, usize) -> Result<R> + Send,
    ) -> Result<R> {
        let _busy = self.busy(vm, name);
        self.run(name, effect).await
    }

    /// Takes a body in, keeping what arrived for `part`.
    async fn body(&self, vm: VmId, part: Option<u64>, mut body: ByteStream) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|source| StoreError::Io {
                what: "the connection broke".into(),
                source,
            })?;
            tokio::task::yield_now().await;
            let mut s = self.shared.state();
            room(&s, self.host)?;
            match part {
                Some(sequence) => {
                    let parts = &mut replica(&mut s, self.host, vm)?.parts;
                    parts.entry(sequence).or_default().extend_from_slice(&chunk);
                }
                None => all.extend_from_slice(&chunk),
            }
        }
        Ok(all)
    }
}

fn decode(bytes: &[u8]) -> Result<(Header, Changes, u64)> {
    let bad = |e: String| StoreError::BadLog(e);
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    let (mut header, mut changes, mut data) = (None, Changes::new(), 0);
    while let Some(item) = decoder.next().map_err(|e| bad(e.to_string()))? {
        match item {
            Item::Header(h) => header = Some(h),
            Item::Frame(f) => match f.body {
                FrameBody::Data(d) => {
                    data += d.len() as u64 / BLOCK;
                    let numbers =
                        numbers_of(f.offset, &d).ok_or_else(|| bad("torn block on the wire".into()))?;
                    changes.extend(numbers.into_iter().map(|(b, n)| (usize::from(f.disk), b, n)));
                }
                FrameBody::Zero(len) => {
                    let (first, end) = (f.offset / BLOCK, (f.offset + len) / BLOCK);
                    // A hole of many blocks is kept as one mark: number 0 at the first, its length as the second.
                    changes.push((usize::from(f.disk) | 1 << 32, first, end));
                }
            },
            Item::End(_) => {}
        }
    }
    decoder.finish().map_err(|e| bad(e.to_string()))?;
    header
        .map(|h| (h, changes, data))
        .ok_or_else(|| bad("no header".into()))
}

/// Applies changes to disks.
pub(crate) fn apply(disks: &mut [Content], changes: &Changes) {
    for &(disk, block, number) in changes {
        let zero = disk >> 32 == 1;
        let Some(content) = disks.get_mut(disk & 0xffff) else {
            continue;
        };
        if zero {
            let inside: Vec<u64> = content.range(block..number).map(|(b, _)| *b).collect();
            for b in inside {
                content.remove(&b);
            }
        } else if number == 0 {
            content.remove(&block);
        } else {
            content.insert(block, number);
        }
    }
}

impl Replica {
    /// What the disks held at a cycle, by replay; `None` when it cannot be had.
    #[must_use]
    pub fn replayed(&self, to: Position) -> Option<Vec<Content>> {
        let mut line: Vec<&Changes> = Vec::new();
        let mut at = to;
        loop {
            if let Some((_, content)) = self.points.iter().find(|(p, _)| p.position == at) {
                let mut disks = content.clone();
                line.iter().rev().for_each(|c| apply(&mut disks, c));
                return Some(disks);
            }
            let (log, changes) = self.logs.iter().find(|(l, _)| l.position == at)?;
            line.push(changes);
            at = log.parent;
        }
    }

    fn info(&self) -> ReplicaInfo {
        ReplicaInfo {
            dir: self.dir.clone().into(),
            disks: self.disks.clone(),
            bulk: self
                .disks
                .iter()
                .zip(&self.bulk)
                .map(|(d, done)| BulkProgress {
                    disk: d.id.clone(),
                    done: *done,
                })
                .collect(),
            durable: self.durable,
            applied: self.applied,
            points: self.points.iter().map(|(p, _)| p.clone()).collect(),
            logs: self.logs.iter().map(|(l, _)| l.clone()).collect(),
            branches: self.branches.keys().copied().collect(),
        }
    }

    fn images(&self, branch: BranchId) -> Vec<(DiskId, DiskImage)> {
        let image = |d: &LogDisk| DiskImage::Chain {
            blockdev: serde_json::json!({"driver": "qcow2", "file": file(branch, &d.id)}),
        };
        self.disks.iter().map(|d| (d.id.clone(), image(d))).collect()
    }
}

/// The key of a branch's image.
pub(crate) fn file(branch: BranchId, disk: &DiskId) -> String {
    format!("/replicas/branch-{branch}-{disk}")
}

fn promoted(s: &mut State, h: usize, vm: VmId, branch: BranchId) -> Result<&mut (BranchId, bool, bool)> {
    match &mut replica(s, h, vm)?.promoted {
        Some(p) if p.0 == branch => Ok(p),
        _ => Err(StoreError::Conflict(
            "that branch is not the disks of the VM".into(),
        )),
    }
}

fn running(s: &mut State, h: usize, vm: VmId) -> bool {
    process(s, h, vm).power != PowerState::Off
}

#[async_trait]
impl ReplicaStore for Port {
    async fn create(&self, location: &Utf8Path, vm: VmId, disks: &[LogDisk], start: Position) -> Result<()> {
        self.change(vm, "store.create", |s, h| {
            room(s, h)?;
            let empty = |r: &Replica| r.durable.sequence == 0 && r.bulk.iter().all(|b| *b == 0);
            let other = |r: &Replica| r.start != start || r.disks != disks;
            s.hosts[h]
                .replicas
                .retain(|id, r| *id != vm || !empty(r) || !other(r));
            if let Some(r) = s.hosts[h].replicas.get_mut(&vm) {
                if r.start != start || r.disks != disks {
                    return Err(StoreError::Conflict(
                        "a replica with another generation exists".into(),
                    ));
                }
                r.open = true;
                return Ok(());
            }
            let empty = vec![Content::new(); disks.len()];
            let new = Replica {
                dir: format!("{location}/{vm}"),
                disks: disks.to_vec(),
                start,
                bulk: vec![0; disks.len()],
                durable: start,
                applied: start,
                head: empty,
                points: Vec::new(),
                logs: Vec::new(),
                parts: std::collections::BTreeMap::new(),
                branches: std::collections::BTreeMap::new(),
                promoted: None,
                open: true,
            };
            s.hosts[h].replicas.insert(vm, new);
            Ok(())
        })
        .await
    }

    async fn open(&self, _dir: &Utf8Path, vm: VmId) -> Result<ReplicaInfo> {
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
        self.run("store.info", |s, h| Ok(replica(s, h, vm)?.info())).await
    }

    async fn bulk(&self, vm: VmId, body: ByteStream) -> Result<BulkProgress> {
        let _busy = self.busy(vm, "store.bulk");
        let bytes = self.body(vm, None, body).await?;
        self.run("store.bulk", |s, h| {
            room(s, h)?;
            let (header, changes, data) = decode(&bytes)?;
            s.bulk_blocks += data;
            s.bulk_segments += 1;
            let r = replica(s, h, vm)?;
            if header.kind != LogKind::Bulk || header.disks.len() != 1 || r.durable.sequence > 0 {
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

    async fn restart_bulk(&self, vm: VmId, disk: &DiskId) -> Result<()> {
        self.change(vm, "store.restart_bulk", |s, h| {
            let r = replica(s, h, vm)?;
            if r.durable.sequence > 0 {
                return Err(StoreError::Conflict("a delta is here".into()));
            }
            if let Some(n) = r.disks.iter().position(|d| d.id == *disk) {
                r.bulk[n] = 0;
            }
            Ok(())
        })
        .await
    }

    async fn receive_offset(&self, vm: VmId, position: Position) -> Result<u64> {
        self.run("store.receive_offset", |s, h| {
            let r = replica(s, h, vm)?;
            Ok(r.parts.get(&position.sequence).map_or(0, |p| p.len() as u64))
        })
        .await
    }

    async fn receive(&self, vm: VmId, position: Position, offset: u64, body: ByteStream) -> Result<Received> {
        let _busy = self.busy(vm, "store.receive");
        let there = {
            let mut s = self.shared.state();
            let r = replica(&mut s, self.host, vm)?;
            let log = r.logs.iter().find(|(l, _)| l.position == position);
            let there = log.map(|(l, _)| Received {
                durable: r.durable,
                instant: l.instant,
                bytes: l.size,
            });
            if there.is_none() {
                let part = r.parts.entry(position.sequence).or_default();
                let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                if offset > part.len() {
                    return Err(StoreError::BadLog("a gap in the transfer".into()));
                }
                part.truncate(offset);
            }
            there
        };
        if let Some(received) = there {
            return self.run("store.receive", |_, _| Ok(received)).await;
        }
        // An interruption by the daemon's end may come before the body as well.
        if let Some(Fault::Fail) = self.enter("store.receive body").await {
            return Err(StoreError::injected("store.receive body"));
        }
        self.body(vm, Some(position.sequence), body).await?;
        self.run("store.receive", |s, h| {
            room(s, h)?;
            let r = replica(s, h, vm)?;
            let bytes = r.parts.remove(&position.sequence).unwrap_or_default();
            let (header, changes, _) = decode(&bytes)?;
            if header.position != position || header.vm != vm || header.kind != LogKind::Delta {
                return Err(StoreError::BadLog("another log".into()));
            }
            if header.parent != r.durable {
                return Err(StoreError::OutOfSequence {
                    parent: header.parent,
                    have: r.durable,
                });
            }
            r.parts.clear();
            r.durable = position;
            let log = StoredLog {
                position,
                parent: header.parent,
                instant: header.instant,
                consistency: header.consistency,
                size: bytes.len() as u64,
            };
            r.logs.push((log, changes));
            Ok(Received {
                durable: position,
                instant: header.instant,
                bytes: bytes.len() as u64,
            })
        })
        .await
    }

    async fn apply(&self, vm: VmId) -> Result<Option<StoredLog>> {
        self.change(vm, "store.apply", |s, h| {
            room(s, h)?;
            let r = replica(s, h, vm)?;
            let Some((log, changes)) = r.logs.iter().find(|(l, _)| l.parent == r.applied).cloned() else {
                return Ok(None);
            };
            apply(&mut r.head, &changes);
            r.applied = log.position;
            Ok(Some(log))
        })
        .await
    }

    async fn seal(&self, vm: VmId, id: PointId) -> Result<Point> {
        self.change(vm, "store.seal", |s, h| {
            room(s, h)?;
            let r = replica(s, h, vm)?;
            if let Some((p, _)) = r.points.iter().find(|(p, _)| p.position == r.applied) {
                return Ok(p.clone());
            }
            let log = r.logs.iter().find(|(l, _)| l.position == r.applied);
            let Some((log, _)) = log else {
                return Err(StoreError::NoPoint(r.applied.to_string()));
            };
            let point = Point {
                id,
                position: r.applied,
                instant: log.instant,
                consistency: log.consistency,
                size: log.size,
            };
            r.points.push((point.clone(), r.head.clone()));
            Ok(point)
        })
        .await
    }

    async fn expire_oldest(&self, vm: VmId) -> Result<()> {
        self.change(vm, "store.expire_oldest", |s, h| {
            let r = replica(s, h, vm)?;
            if !r.branches.is_empty() {
                return Err(StoreError::Busy("the oldest point".into()));
            }
            if r.points.len() > 1 {
                r.points.remove(0);
                let oldest = r.points[0].0.position.sequence;
                r.logs.retain(|(l, _)| l.position.sequence > oldest);
            }
            Ok(())
        })
        .await
    }

    async fn expire_logs(&self, vm: VmId, before: Timestamp) -> Result<()> {
        self.change(vm, "store.expire_logs", |s, h| {
            let r = replica(s, h, vm)?;
            let newest = r.points.last().map_or(0, |(p, _)| p.position.sequence);
            r.logs
                .retain(|(l, _)| l.instant >= before || l.position.sequence > newest);
            Ok(())
        })
        .await
    }

    async fn branch(&self, vm: VmId, branch: BranchId, target: Target) -> Result<Vec<(DiskId, DiskImage)>> {
        self.change(vm, "store.branch", |s, h| {
            room(s, h)?;
            let r = replica(s, h, vm)?;
            if let Some((existing, _)) = r.branches.get(&branch) {
                return match *existing == target {
                    true => Ok(r.images(branch)),
                    false => Err(StoreError::Conflict("the branch stands on another point".into())),
                };
            }
            let (position, contents) = match target {
                Target::Point { id } => {
                    let found = r.points.iter().find(|(p, _)| p.id == id);
                    found.map(|(p, c)| (p.position, c.clone()))
                }
                Target::Cycle { position } => r.replayed(position).map(|c| (position, c)),
            }
            .ok_or_else(|| StoreError::NoPoint(format!("{target:?}")))?;
            r.branches.insert(branch, (target, position));
            let images = r.images(branch);
            let disks = r.disks.clone();
            for (disk, content) in disks.iter().zip(contents) {
                let mut image = Image::new(disk.size);
                image.content = content;
                s.hosts[h].images.insert(file(branch, &disk.id), image);
            }
            Ok(images)
        })
        .await
    }

    async fn branch_images(&self, vm: VmId, branch: BranchId) -> Result<Vec<(DiskId, DiskImage)>> {
        self.run("store.branch_images", |s, h| {
            let r = replica(s, h, vm)?;
            match r.branches.contains_key(&branch) {
                true => Ok(r.images(branch)),
                false => Err(StoreError::NoBranch(branch)),
            }
        })
        .await
    }

    async fn drop_branch(&self, vm: VmId, branch: BranchId) -> Result<()> {
        self.change(vm, "store.drop_branch", |s, h| {
            let r = replica(s, h, vm)?;
            if r.branches.remove(&branch).is_none() {
                return Ok(());
            }
            if running(s, h, vm) {
                s.violation("a branch was thrown away under a running VM");
            }
            let prefix = format!("/replicas/branch-{branch}-");
            s.hosts[h].images.retain(|k, _| !k.starts_with(&prefix));
            Ok(())
        })
        .await
    }

    async fn promote(&self, vm: VmId, branch: BranchId) -> Result<()> {
        self.change(vm, "store.promote", |s, h| {
            let r = replica(s, h, vm)?;
            if matches!(r.promoted, Some((b, _, _)) if b == branch) {
                return Ok(());
            }
            let Some((_, position)) = r.branches.get(&branch).copied() else {
                return Err(StoreError::NoBranch(branch));
            };
            r.promoted = Some((branch, false, false));
            r.points.retain(|(p, _)| p.position.sequence <= position.sequence);
            r.logs.clear();
            r.parts.clear();
            r.branches.retain(|b, _| *b == branch);
            Ok(())
        })
        .await
    }

    async fn promoted_layers(&self, vm: VmId, branch: BranchId) -> Result<Vec<LiveMerge>> {
        self.run("store.promoted_layers", |s, h| {
            if promoted(s, h, vm, branch)?.2 {
                return Ok(Vec::new());
            }
            let disks = &replica(s, h, vm)?.disks;
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

    async fn close(&self, vm: VmId) {
        let _busy = self.busy(vm, "store.close");
        let _: Result<()> = self
            .run("store.close", |s, h| {
                if let Ok(r) = replica(s, h, vm) {
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
