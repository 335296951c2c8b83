//! What a replica may take of the disk: the free space above the reserve, and its part of what all replicas of one owner may
//! take together. Who owns a replica, and how much that is, the engine says. No writing here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::LogDisk;
use lifeboat_engine::ports::store::{Quota, StoreError};
use lifeboat_model::{DiskId, VmId};

use crate::error::Result;
use crate::files::{self, MIB};

/// The disk is looked at again after this many bytes.
pub(crate) const STEP: u64 = MIB;

/// What the replicas of each owner take.
#[derive(Default)]
pub(crate) struct Shares(Mutex<HashMap<VmId, Share>>);

#[derive(Default)]
struct Share {
    quota: Option<Quota>,
    /// Bytes on disk, as they were measured last.
    measured: u64,
    /// Taken since. What was overwritten is counted again.
    taken: u64,
}

/// Bytes that a replica without a quota takes before it is measured again.
const DRIFT: u64 = 64 * MIB;

impl Shares {
    fn lock(&self) -> MutexGuard<'_, HashMap<VmId, Share>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn bound(&self, vm: VmId, quota: Option<Quota>) {
        self.lock().entry(vm).or_default().quota = quota;
    }

    /// Whether what is known is to be measured again after something was written.
    fn is_old(&self, vm: VmId) -> bool {
        let old = |s: &Share| s.taken > DRIFT || s.quota.as_ref().is_some_and(|q| q.bytes.is_some());
        self.lock().get(&vm).is_some_and(old)
    }

    pub(crate) fn measured(&self, vm: VmId, bytes: u64) {
        let mut shares = self.lock();
        let share = shares.entry(vm).or_default();
        (share.measured, share.taken) = (bytes, 0);
    }

    pub(crate) fn forget(&self, vm: VmId) {
        self.lock().remove(&vm);
    }

    /// Adds what is about to be taken, unless it is too much.
    fn take(&self, vm: VmId, bytes: u64) -> Result<()> {
        let mut shares = self.lock();
        let quota = shares.get(&vm).and_then(|s| s.quota.as_ref());
        if let Some((owner, most)) = quota.and_then(|q| Some((q.owner.clone(), q.bytes?))) {
            let of_owner = |s: &&Share| s.quota.as_ref().is_some_and(|q| q.owner == owner);
            let used = shares.values().filter(of_owner);
            let used = used.map(|s| s.measured.saturating_add(s.taken));
            if used.fold(bytes, u64::saturating_add) > most {
                let most = format!("{most} bytes on disk for all replicas");
                return Err(StoreError::OverQuota { owner, most });
            }
        }
        let share = shares.entry(vm).or_default();
        share.taken = share.taken.saturating_add(bytes);
        Ok(())
    }
}

/// How much of the reserve is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// All of it, and the owner's share is not exceeded.
    Ordinary,
    /// Half of it: expiry gives room back, and a failover is what the rest is for. Of the owner's share it takes as it needs.
    Urgent,
}

/// The room of one replica.
pub(crate) struct Room {
    vm: VmId,
    dir: Utf8PathBuf,
    reserve: u64,
    shares: Arc<Shares>,
}

impl Room {
    pub(crate) fn new(vm: VmId, dir: Utf8PathBuf, reserve: u64, shares: Arc<Shares>) -> Self {
        Self {
            vm,
            dir,
            reserve,
            shares,
        }
    }

    pub(crate) fn dir(&self) -> &Utf8Path {
        &self.dir
    }

    /// Refuses when writing so many bytes more would leave too little, or take more than is the owner's. `measure` returns what
    /// the replica takes; it is asked when the sum of what was taken is too much, because that counts what was overwritten.
    pub(crate) fn take(&self, bytes: u64, need: Need, measure: impl FnOnce() -> u64) -> Result<()> {
        let reserve = match need {
            Need::Ordinary => self.reserve,
            Need::Urgent => self.reserve / 2,
        };
        files::room(&self.dir, bytes, reserve)?;
        if need == Need::Ordinary && self.shares.take(self.vm, bytes).is_err() {
            self.shares.measured(self.vm, measure());
            return self.shares.take(self.vm, bytes);
        }
        Ok(())
    }

    /// Refuses disks that are larger than the owner's may be, and than they are.
    pub(crate) fn fits(&self, disks: &[LogDisk], had: &[LogDisk]) -> Result<()> {
        let shares = self.shares.lock();
        let quota = shares.get(&self.vm).and_then(|s| s.quota.as_ref());
        let Some((owner, most)) = quota.and_then(|q| Some((&q.owner, q.disk_bytes?))) else {
            return Ok(());
        };
        let size = |id: &DiskId| had.iter().find(|d| d.id == *id).map_or(0, |d| d.size);
        match disks.iter().find(|d| d.size > most.max(size(&d.id))) {
            Some(disk) => Err(StoreError::OverQuota {
                owner: owner.clone(),
                most: format!("disks of {most} bytes, \"{}\" would have {}", disk.id, disk.size),
            }),
            None => Ok(()),
        }
    }

    /// What the replica takes was measured.
    pub(crate) fn measured(&self, measure: impl FnOnce() -> u64) {
        if self.shares.is_old(self.vm) {
            self.shares.measured(self.vm, measure());
        }
    }
}
