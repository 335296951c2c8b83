//! A failure at every step of every operation: whatever is on the disk then must open, show every point as it was, and
//! let the same call succeed.

use lifeboat_engine::ports::store::{ImageStore, StoreError, Target};
use lifeboat_model::{BranchId, PointId};

use super::world::World;
use crate::QcowStore;

/// What is tried, on a replica with three points, an applied log, a durable log, and a branch on the middle point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Op {
    Receive,
    Apply,
    ApplyFresh,
    Seal,
    Expire,
    BranchPoint,
    BranchCycle,
    Drop,
    Promote,
    Merge,
    Destroy,
}

/// Things that must be the same in the failed call and in its repetition.
pub(super) struct Call {
    pub(super) op: Op,
    pub(super) id: uuid::Uuid,
    old: BranchId,
    log: Vec<u8>,
}

pub(super) async fn prepare(seed: u64, op: Op) -> (World, Call) {
    let mut w = World::new(seed).await;
    w.bulk().await;
    w.rounds(3).await;
    let old = w.branch(Target::Point { id: w.points[1].0 }).await.unwrap();
    w.write(old).await;
    w.receive().await;
    if op != Op::ApplyFresh {
        w.apply_all().await;
    }
    if op == Op::Apply {
        w.receive().await;
    }
    if op == Op::Expire {
        // With logs that only the expired point needs.
        w.reopen().await;
    }
    if op == Op::Merge {
        let cycle = w.branch(Target::Cycle { position: w.durable }).await.unwrap();
        w.write(cycle).await;
        w.store.promote(w.vm, cycle).await.unwrap();
        w.points.clear();
        w.branches.retain(|b, _| *b == cycle);
    }
    let header = w.header();
    let (log, model) = w.log(&header);
    w.at.insert(header.position, model);
    let id = w.rng.uuid();
    let old = w.branches.keys().next().copied().unwrap_or(old);
    (w, Call { op, id, old, log })
}

pub(super) async fn call(w: &mut World, c: &Call) -> Result<(), StoreError> {
    let vm = w.vm;
    let position = w.header().position;
    match c.op {
        Op::Receive => w.send(position, &c.log).await.map(drop),
        Op::Apply | Op::ApplyFresh => w.store.apply(vm).await.map(drop),
        Op::Seal => {
            while w.store.apply(vm).await?.is_some() {}
            w.store.seal(vm, PointId(c.id), None).await.map(drop)
        }
        Op::Expire => w.store.expire_oldest(vm).await,
        Op::BranchPoint => {
            let id = w.points[2].0;
            w.branch_as(BranchId(c.id), Target::Point { id }).await
        }
        Op::BranchCycle => {
            let position = w.durable;
            w.branch_as(BranchId(c.id), Target::Cycle { position }).await
        }
        Op::Drop => w.store.drop_branch(vm, c.old).await,
        Op::Promote => w.store.promote(vm, c.old).await,
        Op::Merge => w.store.merge_promoted(vm, c.old).await,
        Op::Destroy => w.store.destroy(vm).await,
    }
}

/// What the files say happened, where either is right after a crash.
pub(super) async fn observe(w: &mut World, c: &Call) {
    let info = w.store.info(w.vm).await.unwrap();
    match c.op {
        Op::Seal if info.points.len() == 4 && w.points.len() == 3 => {
            w.points.push((PointId(c.id), w.durable))
        }
        Op::Expire if info.points.len() == 2 && w.points.len() == 3 => drop(w.points.remove(0)),
        Op::Drop if info.branches.is_empty() => w.branches.clear(),
        Op::Promote if info.points.is_empty() && !w.points.is_empty() => {
            w.durable = w.points[1].1;
            w.points.clear();
        }
        Op::Receive if info.durable != w.durable => {
            let at = w.header().position;
            let model = w.at[&at].clone();
            w.landed(at, model);
        }
        Op::BranchPoint | Op::BranchCycle if info.branches.len() == 2 => {
            let at = if c.op == Op::BranchPoint {
                w.points[2].1
            } else {
                w.durable
            };
            let model = w.at[&at].clone();
            w.branches.insert(BranchId(c.id), model);
        }
        _ => {}
    }
}

/// Fails each step in turn until the operation gets through without reaching the failure.
async fn every_step(op: Op) {
    for n in 1.. {
        let (mut w, c) = prepare(1000 + n, op).await;
        w.store.steps.fail_at(n);
        let outcome = call(&mut w, &c).await;
        let through = w.store.steps.pending();
        w.store.steps.fail_at(0);
        if through {
            outcome.unwrap();
            assert!(n > 1, "{op:?} has no step at which it could fail");
            return;
        }
        let error = outcome.expect_err("an injected failure is reported");
        assert!(error.to_string().contains("injected"), "{op:?} step {n}: {error}");
        if op == Op::Destroy {
            destroyed(&mut w).await;
            continue;
        }
        w.branches.remove(&BranchId(c.id));
        w.reopen().await;
        observe(&mut w, &c).await;
        w.check().await;
        let applied_before = w.durable;
        call_again(&mut w, &c).await;
        w.check().await;
        if !matches!(op, Op::Promote | Op::Merge) {
            w.receive().await;
            w.seal().await;
            assert_ne!(applied_before, w.durable);
            w.check().await;
        }
    }
}

pub(super) async fn call_again(w: &mut World, c: &Call) {
    let done = match c.op {
        Op::Expire => w.points.len() == 2,
        Op::Receive => w.at.len() as u64 == w.durable.sequence() + 1,
        _ => false,
    };
    if !done {
        call(w, c).await.unwrap();
        observe(w, c).await;
    }
    if c.op == Op::Seal && w.points.len() == 3 {
        panic!("sealing did not seal");
    }
}

async fn destroyed(w: &mut World) {
    let store = QcowStore::new(0);
    match store.open(&w.dir().into(), w.vm).await {
        Ok(_) => store.destroy(w.vm).await.unwrap(),
        Err(StoreError::NoReplica(_)) => {}
        Err(e) => panic!("{e}"),
    }
    assert!(!w.dir().exists());
}

macro_rules! steps {
    ($($name:ident: $op:ident),*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            every_step(Op::$op).await;
        }
    )*};
}
steps! {
    receive_fails_anywhere: Receive, apply_fails_anywhere: Apply, first_apply_fails_anywhere: ApplyFresh,
    seal_fails_anywhere: Seal, expire_fails_anywhere: Expire, branch_fails_anywhere: BranchPoint,
    replay_fails_anywhere: BranchCycle, drop_fails_anywhere: Drop, promote_fails_anywhere: Promote,
    merge_fails_anywhere: Merge, destroy_fails_anywhere: Destroy
}

#[tokio::test]
async fn create_fails_anywhere() {
    for n in 1.. {
        let mut w = World::new(n).await;
        w.store.destroy(w.vm).await.unwrap();
        w.store.steps.fail_at(n);
        let disks = w.disks();
        let made = w
            .store
            .create(&w.root.clone().into(), w.vm, &disks, w.start)
            .await;
        if w.store.steps.pending() {
            made.unwrap();
            assert!(n > 1);
            return;
        }
        made.unwrap_err();
        w.store = QcowStore::new(0);
        w.store
            .create(&w.root.clone().into(), w.vm, &disks, w.start)
            .await
            .unwrap();
        w.bulk().await;
        w.rounds(1).await;
        w.check().await;
    }
}

#[tokio::test]
async fn bulk_fails_anywhere_and_leaves_nothing_stale() {
    for n in 1.. {
        let mut w = World::new(n).await;
        let target = w.disks()[0].clone();
        let size = usize::try_from(target.size).unwrap();
        let stale = w.segment(&target, 0, &vec![0xEE; size]);
        w.store.steps.fail_at(n);
        let sent = w.store.bulk(w.vm, super::world::stream(&stale)).await;
        if w.store.steps.pending() {
            sent.unwrap();
            assert!(n > 1);
            return;
        }
        w.reopen().await;
        w.store.restart_bulk(w.vm, &target.id).await.unwrap();
        // What comes now is mostly holes: nothing of the first try may shine through.
        w.bulk().await;
        w.rounds(1).await;
        w.check().await;
    }
}

#[tokio::test]
async fn a_torn_manifest_beside_the_good_one_is_ignored() {
    let mut w = World::new(40).await;
    w.bulk().await;
    w.rounds(2).await;
    std::fs::write(w.dir().join("manifest.tmp"), "{\"version\": 1, \"vm\": \"").unwrap();
    w.reopen().await;
    w.check().await;
    assert!(!w.dir().join("manifest.tmp").exists());
    std::fs::write(w.dir().join("manifest.json"), "{\"version\": 1").unwrap();
    std::fs::write(w.dir().join("manifest.backup.json"), "{\"version\": 1").unwrap();
    let open = QcowStore::new(0).open(&w.dir().into(), w.vm).await;
    assert!(matches!(open, Err(StoreError::Damaged { .. })), "{open:?}");
}

#[tokio::test]
async fn a_manifest_that_names_foreign_files_is_refused() {
    let mut w = World::new(41).await;
    w.bulk().await;
    w.rounds(1).await;
    let path = w.dir().join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    // Without what would tell that it is not what was written.
    let (text, _) = text.rsplit_once(",\n  \"digest\"").unwrap();
    let text = format!("{text}\n}}\n");
    std::fs::remove_file(w.dir().join("manifest.backup.json")).unwrap();
    for foreign in ["disks/../../etc", "/etc/passwd", "logs/x/y.qcow2"] {
        let wrong = text.replacen("disks/sys/000000000001-0002.qcow2", foreign, 1);
        assert_ne!(wrong, text);
        std::fs::write(&path, wrong).unwrap();
        let open = QcowStore::new(0).open(&w.dir().into(), w.vm).await;
        assert!(matches!(open, Err(StoreError::Damaged { .. })), "{open:?}");
    }
}

#[tokio::test]
async fn a_lost_or_garbled_head_is_built_again() {
    for garbled in [false, true] {
        let mut w = World::new(42).await;
        w.bulk().await;
        w.rounds(2).await;
        for _ in 0..3 {
            w.receive().await;
        }
        w.apply_all().await;
        let head = std::fs::read_dir(w.dir().join("disks/sys"))
            .unwrap()
            .map(|e| e.unwrap().path());
        let head = head
            .filter(|p| p.extension().is_some_and(|e| e == "qcow2"))
            .max()
            .unwrap();
        if garbled {
            let mut noise = vec![0; 300_000];
            w.rng.fill(&mut noise);
            std::fs::write(&head, noise).unwrap();
        } else {
            std::fs::remove_file(&head).unwrap();
        }
        w.reopen().await;
        w.check().await;
        w.seal().await;
        w.check().await;
    }
}

#[tokio::test]
async fn a_lost_point_is_reported_not_hidden() {
    let mut w = World::new(43).await;
    w.bulk().await;
    w.rounds(2).await;
    let file = w.point_files(w.points[0].0).into_values().next().unwrap();
    std::fs::remove_file(&file).unwrap();
    let open = QcowStore::new(0).open(&w.dir().into(), w.vm).await;
    let Err(StoreError::Damaged { path, .. }) = open else {
        panic!("{open:?}")
    };
    assert_eq!(path, file);
}

#[tokio::test]
async fn files_nobody_names_are_swept() {
    let mut w = World::new(44).await;
    w.bulk().await;
    w.rounds(1).await;
    let orphans = [
        "disks/sys/000000000009-00ff.qcow2",
        "branches/0/sys.qcow2",
        "logs/x.lbd",
        "incoming/what",
    ];
    for orphan in orphans {
        let path = w.dir().join(orphan);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }
    w.reopen().await;
    for orphan in orphans {
        assert!(!w.dir().join(orphan).exists(), "{orphan}");
    }
    w.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_dropped_can_be_repeated() {
    let mut w = World::new(45).await;
    w.bulk().await;
    w.rounds(4).await;
    for delay in [0, 1, 3, 6, 10, 20, 40] {
        let wait = std::time::Duration::from_millis(delay);
        let _ = tokio::time::timeout(wait, w.store.expire_oldest(w.vm)).await;
        let left = w.store.info(w.vm).await.unwrap().points.len();
        w.store.close(w.vm).await;
        w.reopen().await;
        let now = w.store.info(w.vm).await.unwrap().points.len();
        assert!(now == left || now + 1 == left, "{left} {now}");
        while w.points.len() > now {
            w.points.remove(0);
        }
        w.check().await;
        if w.points.len() < 3 {
            w.rounds(2).await;
        }
    }
}
