//! Every write and every flush of every operation fails once, as the kernel reports it: one error, after which everything
//! seems clean. The operation is tried again as the engine would, in the same process, after a restart, or after a power
//! cut; then the power goes. Everything that was acknowledged must be there, by the same plain model as everywhere. With no
//! fault at all this finds a flush that is missing.

use std::sync::Arc;

use lifeboat_engine::ports::media::{Media, SegmentFile};
use lifeboat_engine::ports::storage::StorageFaultKind as Kind;
use lifeboat_engine::ports::store::{ImageStore, StoreError};
use lifeboat_model::BranchId;

use super::crash::{Call, Op, call, call_again, observe, prepare};
use super::media;
use super::medium::Medium;
use super::world::{World, stream};
use crate::{FileMedia, QcowStore};

/// What happens between the fault and the next attempt.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// Nothing.
    Retry,
    /// The daemon is started again; the host's memory stays.
    Restart,
    /// The power goes.
    Cut,
}

const ALL: [Then; 3] = [Then::Retry, Then::Restart, Then::Cut];

/// The power goes, and the daemon is started again.
async fn cut(w: &mut World, medium: &Medium) {
    w.store.close(w.vm).await;
    w.store = QcowStore::new(0);
    medium.cut();
    w.reopen().await;
}

/// One operation with the fault at write or flush `n`; false when the operation has no more of them.
async fn one(op: Op, n: u64, then: Then) -> bool {
    let (mut w, c) = prepare(2000 + n, op).await;
    let medium = Medium::below(&w.root);
    medium.fail_at(n);
    let outcome = call(&mut w, &c).await;
    let failed = medium.failed();
    medium.fail_at(0);
    println!("{op:?} {n} {then:?}: {failed:?} {outcome:?}");
    if let Err(e) = &outcome {
        assert!(matches!(e, StoreError::Failing { .. }), "{e}");
        let faults = w.store.info(w.vm).await.unwrap().faults;
        assert!(
            faults.iter().any(|f| f.kind == Kind::Failing),
            "{e} is not said: {faults:?}"
        );
        w.branches.remove(&BranchId(c.id));
        match then {
            Then::Retry => {}
            Then::Restart => w.reopen().await,
            Then::Cut => cut(&mut w, &medium).await,
        }
        observe(&mut w, &c).await;
        call_again(&mut w, &c).await;
    }
    observe(&mut w, &c).await;
    done(&w, &c).await;
    w.check().await;
    cut(&mut w, &medium).await;
    done(&w, &c).await;
    w.check().await;
    if !matches!(op, Op::Promote | Op::Merge) {
        w.receive().await;
        w.seal().await;
        cut(&mut w, &medium).await;
        w.check().await;
    }
    medium.end();
    assert!(outcome.is_ok() || failed.is_some(), "{outcome:?}");
    failed.is_some()
}

/// Whether the operation took effect.
async fn done(w: &World, c: &Call) {
    let info = w.store.info(w.vm).await.unwrap();
    match c.op {
        Op::Receive => assert_eq!(info.durable.sequence() + 1, w.at.len() as u64),
        Op::Apply | Op::ApplyFresh | Op::Destroy => {}
        Op::Seal => assert_eq!(info.points.len(), 4),
        Op::Expire => assert_eq!(info.points.len(), 2),
        Op::BranchPoint | Op::BranchCycle => assert!(info.branches.contains(&BranchId(c.id))),
        Op::Drop => assert!(info.branches.is_empty()),
        Op::Promote | Op::Merge => assert!(info.points.is_empty()),
    }
}

/// Fails each write and flush in turn, and after each of them goes on in each way, or in one after the other.
async fn every_fault(op: Op, each: bool) {
    for n in 1.. {
        let ways = if each {
            &ALL[..]
        } else {
            &ALL[usize::try_from(n % 3).unwrap()..][..1]
        };
        for then in ways {
            if !one(op, n, *then).await {
                assert!(n > 1, "{op:?} writes nothing");
                return;
            }
        }
    }
}

macro_rules! faults {
    ($($name:ident: $op:ident $each:literal),*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            every_fault(Op::$op, $each).await;
        }
    )*};
}
faults! {
    a_fault_while_a_log_comes_loses_nothing: Receive true, a_fault_while_applying_loses_nothing: Apply true,
    a_fault_while_a_head_is_begun_loses_nothing: ApplyFresh false, a_fault_while_sealing_loses_nothing: Seal false,
    a_fault_while_a_point_expires_loses_nothing: Expire false, a_fault_while_branching_loses_nothing: BranchPoint false,
    a_fault_while_replaying_loses_nothing: BranchCycle false, a_fault_while_dropping_loses_nothing: Drop false,
    a_fault_while_promoting_loses_nothing: Promote false, a_fault_while_merging_loses_nothing: Merge false
}

/// The process ends at a step; what it left in the host's memory is gone only later.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_left_unflushed_is_not_believed_by_the_next() {
    for op in [Op::Receive, Op::Apply, Op::Seal, Op::BranchPoint] {
        for n in 1.. {
            let (mut w, c) = prepare(2500 + n, op).await;
            let medium = Medium::below(&w.root);
            w.store.steps.fail_at(n);
            let outcome = call(&mut w, &c).await;
            let through = w.store.steps.pending();
            w.store.steps.fail_at(0);
            if through {
                outcome.unwrap();
                medium.end();
                break;
            }
            w.branches.remove(&BranchId(c.id));
            w.reopen().await;
            observe(&mut w, &c).await;
            let before = w.store.info(w.vm).await.unwrap();
            cut(&mut w, &medium).await;
            let after = w.store.info(w.vm).await.unwrap();
            assert_eq!(
                (before.durable, before.points),
                (after.durable, after.points),
                "{op:?} step {n}"
            );
            w.check().await;
            call_again(&mut w, &c).await;
            cut(&mut w, &medium).await;
            w.check().await;
            medium.end();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_while_a_replica_is_made_and_first_filled_loses_nothing() {
    for n in 1.. {
        let mut w = World::new(n).await;
        w.store.destroy(w.vm).await.unwrap();
        let medium = Medium::below(&w.root);
        medium.fail_at(n);
        let disks = w.disks();
        if w.store
            .create(&w.root.clone().into(), w.vm, &disks, w.start)
            .await
            .is_err()
        {
            w.store
                .create(&w.root.clone().into(), w.vm, &disks, w.start)
                .await
                .unwrap();
        }
        fill(&mut w).await;
        let failed = medium.failed();
        medium.fail_at(0);
        println!("{n}: {failed:?}");
        cut(&mut w, &medium).await;
        for progress in w.store.info(w.vm).await.unwrap().bulk {
            let size = disks.iter().find(|d| d.id == progress.disk).unwrap().size;
            assert_eq!(progress.done, size);
        }
        w.rounds(1).await;
        w.check().await;
        cut(&mut w, &medium).await;
        w.check().await;
        medium.end();
        if failed.is_none() {
            assert!(n > 8);
            return;
        }
    }
}

/// A first copy by segments, each sent again from where the replica says when it failed.
async fn fill(w: &mut World) {
    for target in w.disks() {
        let mut bytes = vec![0; usize::try_from(target.size).unwrap()];
        w.rng.fill(&mut bytes);
        loop {
            let info = w.store.info(w.vm).await.unwrap();
            let progress = info.bulk.iter().find(|b| b.disk == target.id).unwrap();
            let from = usize::try_from(progress.done).unwrap();
            if from == bytes.len() {
                break;
            }
            let to = (from + (600 << 10)).min(bytes.len());
            let log = w.segment(&target, progress.done, &bytes[from..to]);
            let _ = w.store.bulk(w.vm, stream(&log)).await;
        }
        w.now.insert(target.id.clone(), bytes);
    }
    w.at.insert(w.start, w.now.clone());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_while_exporting_loses_nothing() {
    for n in 1.. {
        let mut w = World::new(n).await;
        let (dir, seal) = (w.root.join("medium"), media::seal(1));
        let medium: Arc<Medium> = Medium::below(&w.root);
        let mut bytes = vec![0; 300_000];
        w.rng.fill(&mut bytes);
        medium.fail_at(n);
        let mut files: Vec<SegmentFile> = Vec::new();
        for attempt in 0.. {
            assert!(attempt < 3, "one fault is cured by trying again");
            if FileMedia.begin(&dir, &seal).await.is_err() {
                continue;
            }
            // What an earlier attempt finished is not written again.
            let Ok(found) = FileMedia.found(&dir, &seal).await else {
                continue;
            };
            files = found.unwrap();
            if files.is_empty() {
                match FileMedia.put(&dir, &seal, media::ONE, stream(&bytes)).await {
                    Ok(file) => files.push(file),
                    Err(_) => continue,
                }
            }
            if FileMedia
                .finish(&dir, &seal, &media::manifest(&files))
                .await
                .is_err()
            {
                continue;
            }
            break;
        }
        let failed = medium.failed();
        medium.fail_at(0);
        medium.cut();
        assert_eq!(
            FileMedia.open(&dir, &seal).await.unwrap(),
            media::manifest(&files)
        );
        FileMedia.check(&dir, &seal, &files[0]).await.unwrap();
        assert_eq!(media::content(&dir, &seal, &files[0]).await, (bytes, None));
        medium.end();
        if failed.is_none() {
            assert!(n > 5);
            return;
        }
    }
}

/// The tests above can fail: a program without one of its flushes is found out.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_is_left_out_is_noticed() {
    for op in [Op::Receive, Op::ApplyFresh] {
        let mut noticed = Vec::new();
        for n in 1.. {
            let (mut w, c) = prepare(2800 + n, op).await;
            let medium = Medium::below(&w.root);
            medium.skip_at(n);
            call(&mut w, &c).await.unwrap();
            let left_out = medium.failed();
            observe(&mut w, &c).await;
            w.store.close(w.vm).await;
            w.store = QcowStore::new(0);
            medium.cut();
            medium.end();
            let Some(left_out) = left_out else { break };
            let judged = tokio::spawn(async move {
                w.reopen().await;
                w.seal().await;
                w.check().await;
            });
            if judged.await.is_err() {
                noticed.push(left_out);
            }
        }
        // Of the log its content and its name. Of a layer the last flush alone: the one before it is covered by it.
        match op {
            Op::Receive => assert_eq!(noticed.len(), 2, "{noticed:?}"),
            _ => {
                let layers = noticed.iter().filter(|f| f.ends_with(".qcow2")).count();
                assert!(layers >= 1, "{noticed:?}");
            }
        }
    }
}
