//! What the store says of a replica's files and disks: for the health, for events and for the other host; and the look at
//! the files that something is to be brought up on, before anybody is told that it can be. What is looked at and how is
//! the store's matter.

use crate::contract::{PointView, Refusal};
use crate::core::Core;
use crate::port::storage::StorageFault;
use crate::port::storage::StorageFaultKind as Kind;
use crate::port::store::{ReplicaInfo, StoreError, Target};
use crate::target::TargetPart;
use crate::target::points::points;
use crate::work::calls::failed;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::causes::chain;
use lifeboat_model::{BranchId, Finding, ProblemKind, hint};

/// What the health has to say of the files, given the store's answer of this moment.
pub(crate) fn findings(info: Option<&Result<ReplicaInfo, StoreError>>) -> Vec<Finding> {
    match info {
        None => Vec::new(),
        Some(Ok(info)) => info.faults.iter().map(finding).collect(),
        Some(Err(
            e @ (StoreError::Damaged { .. } | StoreError::Locked { .. } | StoreError::Failing { .. }),
        )) => {
            let text = format!("the replica cannot be used: {}", chain(e));
            vec![Finding::critical(e.problem(), text)]
        }
        // Not open yet, or something that the work with the replica reports itself.
        Some(Err(
            StoreError::NoReplica(_)
            | StoreError::Conflict(_)
            | StoreError::NoPoint(_)
            | StoreError::NoBranch(_)
            | StoreError::OutOfSequence { .. }
            | StoreError::Superseded { .. }
            | StoreError::BadLog(_)
            | StoreError::NoSpace(_)
            | StoreError::OverQuota { .. }
            | StoreError::Busy(_)
            | StoreError::Io { .. },
        )) => Vec::new(),
    }
}

fn finding(fault: &StorageFault) -> Finding {
    let text = fault.to_string();
    let found = match fault.kind {
        Kind::Failing => Finding::critical(ProblemKind::WriteFailed, text),
        Kind::Lost => Finding::critical(ProblemKind::FileLost, text),
        Kind::Locked => Finding::critical(ProblemKind::Locked, text),
        Kind::SetAside => Finding::warning(ProblemKind::FileSetAside, text),
        Kind::Rebuilt => Finding::warning(ProblemKind::FileRebuilt, text),
    };
    found.about(fault.path.as_str())
}

/// What the other host has to know: whatever keeps this replica from being brought up.
pub(crate) fn problems(info: &ReplicaInfo) -> Vec<String> {
    let grave = |f: &StorageFault| match f.kind {
        Kind::Failing | Kind::Lost => Some("a file of the replica could not be written"),
        Kind::Locked => Some("the replica's files are locked, their key is missing"),
        Kind::SetAside | Kind::Rebuilt => None,
    };
    let first = info.faults.iter().find_map(grave);
    first
        .map(|what| format!("{what}, see the state of the replication there"))
        .into_iter()
        .collect()
}

impl Core {
    /// Refuses a point with a file that cannot be used, and names the next one without.
    pub(crate) async fn check_point(&self, chosen: &PointView) -> Result<(), Refusal> {
        let error = match self.verify_target(chosen.target).await {
            Ok(()) => return Ok(()),
            Err(e @ StoreError::Damaged { .. }) => e,
            Err(e) => return Err(failed("the recovery point's files cannot be looked at", &e)),
        };
        let message = format!("recovery point {} cannot be used: {}", chosen.id, chain(&error));
        let hint = match self.next_good(chosen.target).await {
            Some(good) => hint::Failover::UsePoint { point: good.id },
            None => hint::Failover::RestoreFile,
        };
        Err(Refusal::new(ReturnCode::Failed, message, hint))
    }

    /// The first point whose files can be used: those after the unusable one in the list, then those before it.
    async fn next_good(&self, bad: Target) -> Option<PointView> {
        let info = self.store_info().await.ok()?;
        let all = points(&info);
        let place = all.iter().position(|p| p.target == bad).map_or(0, |n| n + 1);
        let (newer, older) = all.split_at_checked(place).unwrap_or_default();
        for point in older.iter().chain(newer.iter().rev()).filter(|p| p.target != bad) {
            if self.verify_target(point.target).await.is_ok() {
                return Some(point.clone());
            }
        }
        None
    }

    /// The newest recovery point with a file that cannot be used, in words; the newest stands on all others.
    pub(crate) async fn unusable_point(&self) -> Option<String> {
        let info = self.store_info().await.ok()?;
        let newest = info.points.last()?;
        let target = Target::Point { id: newest.id };
        match self.verify_target(target).await {
            Err(e @ StoreError::Damaged { .. }) => {
                let next = match self.next_good(target).await {
                    Some(good) => format!("the next one that can is {}", good.id),
                    None => "no other one can".to_owned(),
                };
                Some(format!(
                    "recovery point {} cannot be used: {}; {next}",
                    newest.id,
                    chain(&e)
                ))
            }
            Ok(()) | Err(_) => None,
        }
    }

    /// Refuses to make a branch the VM's disks when a file below it cannot be used.
    pub(crate) async fn check_branch(&self, branch: BranchId) -> Result<(), Refusal> {
        let looked = async { self.images()?.verify_branch(self.id, branch).await };
        match looked.await {
            Ok(()) => Ok(()),
            Err(e @ StoreError::Damaged { .. }) => Err(Refusal::new(
                ReturnCode::Failed,
                format!("the failover disks cannot be committed: {}", chain(&e)),
                hint::Failover::RestoreFileOrRevert,
            )),
            Err(e) => Err(failed("the failover disks cannot be looked at", &e)),
        }
    }
}

impl TargetPart {
    /// Makes an event of each fact that is new.
    pub(crate) async fn storage_seen(&mut self, core: &Core, info: &ReplicaInfo) {
        let known = std::mem::take(&mut self.storage_faults);
        let same = |a: &StorageFault, b: &StorageFault| a.kind == b.kind && a.path == b.path;
        for fault in info.faults.iter().filter(|f| !known.iter().any(|k| same(f, k))) {
            core.event(&fault.to_string()).await;
        }
        self.storage_faults.clone_from(&info.faults);
    }
}
