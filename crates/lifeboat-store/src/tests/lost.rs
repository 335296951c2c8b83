//! Files that are gone, replaced, cut or damaged while the replica is used and at its start: said at once, never made
//! anew, never deleted, and whatever does not need them goes on. The images below are judged by `qemu-img`, as everywhere.

use camino::Utf8PathBuf;
use lifeboat_engine::ports::storage::{StorageFault, StorageFaultKind as Kind};
use lifeboat_engine::ports::store::{ImageStore, StoreError, Target};
use lifeboat_model::{BranchId, Position};

use super::world::World;
use crate::QcowStore;

async fn world(seed: u64) -> World {
    let mut w = World::new(seed).await;
    w.bulk().await;
    w.rounds(3).await;
    w.receive().await;
    w.apply_all().await;
    w
}

/// The facts, without the wait between looks that only want to know.
async fn faults(w: &World) -> Vec<StorageFault> {
    let _ = w.store.apply(w.vm).await;
    w.store.info(w.vm).await.unwrap().faults
}

#[track_caller]
fn is_damaged<T: std::fmt::Debug>(result: Result<T, StoreError>, file: &Utf8PathBuf) -> String {
    match result {
        Err(StoreError::Damaged { path, detail }) if path == *file => detail,
        other => panic!("{file} should be named: {other:?}"),
    }
}

/// Sends a log and expects the file to be named; nothing may have been taken.
async fn refused(w: &mut World, file: &Utf8PathBuf) -> String {
    let header = w.header();
    let (bytes, _) = w.log(&header);
    let sent = w.send(header.position, &bytes).await;
    let detail = is_damaged(sent, file);
    assert_eq!(w.store.info(w.vm).await.unwrap().durable, w.durable);
    detail
}

#[tokio::test]
async fn a_base_that_is_gone_is_never_made_anew() {
    let mut w = world(300).await;
    let base = w.dir().join("disks/sys/base.raw");
    let away = w.root.join("away");
    // With a head that is there, and with one that is to be begun.
    for sealed in [false, true] {
        if sealed {
            w.seal().await;
        }
        std::fs::rename(&base, &away).unwrap();
        assert!(refused(&mut w, &base).await.contains("gone"));
        is_damaged(w.store.apply(w.vm).await, &base);
        let position = w.points[2].1;
        let target = Target::Cycle { position };
        is_damaged(w.store.verify_target(w.vm, target).await, &base);
        let seen = faults(&w).await;
        assert!(
            seen.iter().any(|f| f.kind == Kind::Lost && f.path == base),
            "{seen:?}"
        );
        assert!(!base.exists(), "an empty base took its place");
        std::fs::rename(&away, &base).unwrap();
        w.receive().await;
        w.apply_all().await;
        assert_eq!(faults(&w).await, []);
        w.check().await;
    }
    w.seal().await;
    w.check().await;
}

#[tokio::test]
async fn a_replay_makes_no_base_for_a_disk_that_had_one() {
    let mut w = world(301).await;
    w.receive().await;
    w.apply_all().await;
    let base = w.dir().join("disks/data-1/base.raw");
    std::fs::remove_file(&base).unwrap();
    let earlier = w.store.info(w.vm).await.unwrap().logs.last().unwrap().parent;
    let target = Target::Cycle { position: earlier };
    let id = BranchId(w.rng.uuid());
    is_damaged(w.store.branch(w.vm, id, target, None).await, &base);
    assert!(!base.exists());
}

#[tokio::test]
async fn a_layer_that_is_gone_replaced_or_cut_is_named_with_the_next_log() {
    let mut w = world(302).await;
    let layer = w.point_files(w.points[1].0).into_values().next().unwrap();
    let away = w.root.join("away");
    std::fs::rename(&layer, &away).unwrap();
    assert!(refused(&mut w, &layer).await.contains("gone"));
    std::fs::copy(&away, &layer).unwrap();
    assert!(refused(&mut w, &layer).await.contains("another file"));
    std::fs::rename(&away, &layer).unwrap();
    w.receive().await;
    let len = std::fs::metadata(&layer).unwrap().len();
    let content = std::fs::read(&layer).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&layer).unwrap();
    file.set_len(len / 2).unwrap();
    assert!(refused(&mut w, &layer).await.contains("cut"));
    std::fs::write(&layer, content).unwrap();
    w.receive().await;
    w.seal().await;
    assert_eq!(faults(&w).await, []);
    w.check().await;
}

/// The head's layer of the first disk.
fn head_file(w: &World) -> Utf8PathBuf {
    let text = std::fs::read_to_string(w.dir().join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    let head = manifest["head"]["layers"][0]["file"].as_str().unwrap();
    w.dir().join(head)
}

#[tokio::test]
async fn a_head_that_is_gone_is_built_again_and_said() {
    let mut w = world(303).await;
    w.receive().await;
    w.apply_all().await;
    let head = head_file(&w);
    std::fs::remove_file(&head).unwrap();
    let seen = faults(&w).await;
    assert!(
        seen.iter().any(|f| f.kind == Kind::Rebuilt && f.path == head),
        "{seen:?}"
    );
    w.seal().await;
    assert_eq!(faults(&w).await, []);
    w.check().await;
}

#[tokio::test]
async fn a_directory_that_is_gone_is_made_again_and_its_logs_are_not_believed() {
    let mut w = world(304).await;
    let dir = w.dir();
    std::fs::remove_dir_all(dir.join("incoming")).unwrap();
    w.receive().await;
    w.apply_all().await;
    assert_eq!(faults(&w).await, []);
    // Logs that are applied: only instants between points are lost.
    std::fs::remove_dir_all(dir.join("logs")).unwrap();
    w.receive().await;
    let seen = faults(&w).await;
    assert!(seen.iter().any(|f| f.path == dir.join("logs")), "{seen:?}");
    w.seal().await;
    assert_eq!(faults(&w).await, []);
    w.check().await;
    // Logs that were acknowledged and not applied: the replica no longer claims them.
    let applied = w.durable;
    w.receive().await;
    w.receive().await;
    std::fs::remove_dir_all(dir.join("logs")).unwrap();
    let header = w.header();
    let (bytes, _) = w.log(&header);
    let sent = w.send(header.position, &bytes).await;
    assert!(
        matches!(sent, Err(StoreError::OutOfSequence { have, .. }) if have == applied),
        "{sent:?}"
    );
    let seen = faults(&w).await;
    let said = seen.iter().find(|f| f.path == dir.join("logs")).unwrap();
    assert!(
        said.detail.contains("logs, from") && said.detail.contains("before they were applied"),
        "{said}"
    );
    w.durable = applied;
    w.now = w.at[&applied].clone();
    w.check().await;
}

#[tokio::test]
async fn storage_that_is_not_mounted_is_named_and_nothing_is_made_in_its_place() {
    let mut w = world(305).await;
    let (dir, away) = (w.dir(), w.root.join("away"));
    std::fs::rename(&dir, &away).unwrap();
    assert!(refused(&mut w, &dir).await.contains("mounted"));
    is_damaged(w.store.apply(w.vm).await, &dir);
    assert!(!dir.exists());
    // Found when the daemon starts, it is said to everybody who asks later.
    w.store = QcowStore::new(0);
    w.store.open(&dir.clone().into(), w.vm).await.unwrap_err();
    let detail = is_damaged(w.store.info(w.vm).await, &dir);
    assert!(detail.contains("mounted"), "{detail}");
    std::fs::rename(&away, &dir).unwrap();
    w.reopen().await;
    w.receive().await;
    w.seal().await;
    w.check().await;
}

/// Changes one byte of a file and returns the whole as it was.
fn flip(file: &camino::Utf8Path, at: usize) -> Vec<u8> {
    let before = std::fs::read(file).unwrap();
    let mut after = before.clone();
    after[at] ^= 0x10;
    std::fs::write(file, after).unwrap();
    before
}

/// The file of the log to a position.
fn log_to(w: &World, at: Position) -> Utf8PathBuf {
    w.dir()
        .join(format!("logs/{}-{:020}.lbd", at.generation(), at.sequence()))
}

/// Two logs that wait to be applied, the first of them with a wrong byte in the middle; where everything stood before, and
/// that file.
async fn rotten_before_it_is_applied(seed: u64) -> (World, Position, Utf8PathBuf) {
    let mut w = world(seed).await;
    let good = w.durable;
    w.receive().await;
    let log = log_to(&w, w.durable);
    w.receive().await;
    let middle = std::fs::metadata(&log).unwrap().len() / 2;
    flip(&log, usize::try_from(middle).unwrap());
    (w, good, log)
}

/// The replica is what it was before those logs, claims nothing of them, keeps both aside, and goes on.
async fn goes_on_without(mut w: World, good: Position, log: &Utf8PathBuf) {
    w.apply_all().await;
    let info = w.store.info(w.vm).await.unwrap();
    assert_eq!((info.durable, info.applied), (good, good));
    let aside = w.dir().join("damaged");
    assert!(aside.join(log.file_name().unwrap()).exists());
    assert_eq!(
        std::fs::read_dir(&aside).unwrap().count(),
        2,
        "the one on top leads nowhere"
    );
    let told = |f: &StorageFault| match f.kind {
        Kind::Lost => f.detail.contains("before they were applied"),
        Kind::SetAside => f.path.file_name() == log.file_name(),
        Kind::Failing | Kind::Rebuilt | Kind::Locked => false,
    };
    assert!(info.faults.iter().any(told), "{:?}", info.faults);
    w.durable = good;
    w.now = w.at[&good].clone();
    w.receive().await;
    w.seal().await;
    w.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_rots_before_it_is_applied_holds_nothing_up() {
    let (w, good, log) = rotten_before_it_is_applied(308).await;
    is_damaged(w.store.apply_through(w.vm, w.durable).await, &log);
    goes_on_without(w, good, &log).await;
    // One that was applied, and a head that has to be built again from it.
    let mut w = world(309).await;
    let (_, sealed) = *w.points.last().unwrap();
    let log = log_to(&w, w.durable);
    w.receive().await;
    w.apply_all().await;
    let middle = std::fs::metadata(&log).unwrap().len() / 2;
    flip(&log, usize::try_from(middle).unwrap());
    std::fs::remove_file(head_file(&w)).unwrap();
    is_damaged(w.store.apply(w.vm).await, &log);
    goes_on_without(w, sealed, &log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn setting_a_rotten_log_aside_fails_anywhere() {
    for n in 1.. {
        let (mut w, good, log) = rotten_before_it_is_applied(3200 + n).await;
        w.store.steps.fail_at(n);
        let outcome = w.store.apply_through(w.vm, w.durable).await;
        let through = w.store.steps.pending();
        w.store.steps.fail_at(0);
        assert!(outcome.is_err(), "step {n}");
        if n % 2 == 0 {
            w.reopen().await;
        }
        let aside = !log.exists();
        let again = w.store.apply_through(w.vm, w.durable).await;
        assert_eq!(again.is_ok(), aside, "step {n}: {again:?}");
        goes_on_without(w, good, &log).await;
        if through {
            assert!(n > 3, "it has only {n} steps");
            return;
        }
    }
}

#[tokio::test]
async fn one_wrong_byte_in_a_kept_log_costs_that_log_alone() {
    for at in [9, 40] {
        let mut w = World::new(306).await;
        w.bulk().await;
        w.rounds(1).await;
        for _ in 0..5 {
            w.receive().await;
        }
        w.apply_all().await;
        let logs = w.store.info(w.vm).await.unwrap().logs;
        let dir = w.dir();
        let file = |n: usize| {
            let p = logs[n].position;
            dir.join(format!("logs/{}-{:020}.lbd", p.generation(), p.sequence()))
        };
        let spoiled = file(3);
        flip(&spoiled, at);
        let content = std::fs::read(&spoiled).unwrap();
        w.reopen().await;
        let aside = w.dir().join("damaged").join(spoiled.file_name().unwrap());
        assert_eq!(std::fs::read(&aside).unwrap(), content, "set aside as it was");
        for n in [0, 1, 2, 4, 5] {
            assert!(file(n).exists(), "log {n}");
        }
        let info = w.store.info(w.vm).await.unwrap();
        let kept: Vec<_> = info.logs.iter().map(|l| l.position).collect();
        let expected: Vec<_> = [0, 1, 2, 4, 5].map(|n| logs[n].position).into();
        assert_eq!((kept, info.durable), (expected, w.durable));
        assert!(
            info.faults
                .iter()
                .any(|f| f.kind == Kind::SetAside && f.path == aside),
            "{:?}",
            info.faults
        );
        let earlier = Target::Cycle {
            position: logs[2].position,
        };
        w.branch(earlier).await.unwrap();
        w.receive().await;
        w.seal().await;
        w.check().await;
        std::fs::remove_file(aside).unwrap();
        assert_eq!(faults(&w).await, []);
    }
}

#[tokio::test]
async fn a_damaged_log_that_is_not_applied_takes_nothing_with_it() {
    let mut w = World::new(307).await;
    w.bulk().await;
    w.rounds(2).await;
    let applied = w.durable;
    for _ in 0..3 {
        w.receive().await;
    }
    let logs = w.store.info(w.vm).await.unwrap().logs;
    let name = |n: usize| {
        let p = logs[n].position;
        format!("{}-{:020}.lbd", p.generation(), p.sequence())
    };
    flip(&w.dir().join("logs").join(name(2)), 9);
    w.reopen().await;
    // The one after it cannot be used either, and is kept.
    for n in [2, 3, 4] {
        assert!(w.dir().join("damaged").join(name(n)).exists(), "log {n}");
    }
    w.durable = applied;
    w.now = w.at[&applied].clone();
    w.check().await;
    w.receive().await;
    w.seal().await;
    w.check().await;
}

#[tokio::test]
async fn an_image_that_could_not_be_opened_is_found_beforehand() {
    let mut w = world(308).await;
    let layer = w.point_files(w.points[2].0).into_values().next().unwrap();
    let bad = Target::Point { id: w.points[2].0 };
    let good = Target::Point { id: w.points[1].0 };
    let newest = Target::Cycle { position: w.durable };
    let branch = w.branch(bad).await.unwrap();
    w.write(branch).await;
    let table = {
        let bytes = std::fs::read(&layer).unwrap();
        usize::try_from(u64::from_be_bytes(bytes[40..48].try_into().unwrap())).unwrap()
    };
    // Magic, version, backing name's place and length, cluster size, disk size, tables, features, length of the header,
    // and an entry of the first-level table.
    for at in [
        0,
        7,
        12,
        18,
        23,
        26,
        36,
        41,
        50,
        78,
        79,
        102,
        table + 3,
        table + 7,
    ] {
        let before = flip(&layer, at);
        for target in [bad, newest] {
            is_damaged(w.store.verify_target(w.vm, target).await, &layer);
        }
        is_damaged(w.store.verify_branch(w.vm, branch).await, &layer);
        w.store.verify_target(w.vm, good).await.unwrap();
        std::fs::write(&layer, before).unwrap();
        w.store.verify_target(w.vm, bad).await.unwrap();
    }
    w.check().await;
}

#[tokio::test]
async fn a_log_that_cannot_be_replayed_is_found_beforehand() {
    let mut w = world(309).await;
    w.receive().await;
    let log = w.store.info(w.vm).await.unwrap().logs.last().unwrap().clone();
    let p = log.position;
    let file = w
        .dir()
        .join(format!("logs/{}-{:020}.lbd", p.generation(), p.sequence()));
    let target = Target::Cycle { position: p };
    w.store.verify_target(w.vm, target).await.unwrap();
    let before = flip(&file, 9);
    is_damaged(w.store.verify_target(w.vm, target).await, &file);
    std::fs::write(&file, &before[..before.len() - 5]).unwrap();
    is_damaged(w.store.verify_target(w.vm, target).await, &file);
    std::fs::remove_file(&file).unwrap();
    is_damaged(w.store.verify_target(w.vm, target).await, &file);
}

#[tokio::test]
async fn one_wrong_byte_in_the_manifest_costs_nothing() {
    let mut w = world(310).await;
    w.branch(Target::Point { id: w.points[1].0 }).await.unwrap();
    let (file, copy) = (
        w.dir().join("manifest.json"),
        w.dir().join("manifest.backup.json"),
    );
    let len = std::fs::read(&file).unwrap().len();
    for at in [0, 14, len / 3, len / 2, len - 90, len - 40, len - 3] {
        flip(&file, at);
        w.reopen().await;
        let info = w.store.info(w.vm).await.unwrap();
        assert!(
            info.faults
                .iter()
                .any(|f| f.kind == Kind::Rebuilt && f.path == file),
            "byte {at}"
        );
        assert!(w.dir().join("damaged/manifest.json").exists(), "byte {at}");
        w.check().await;
        w.receive().await;
        w.apply_all().await;
        w.check().await;
        std::fs::remove_dir_all(w.dir().join("damaged")).unwrap();
    }
    for at in [20, len / 2] {
        flip(&copy, at);
        w.reopen().await;
        assert_eq!(w.store.info(w.vm).await.unwrap().faults, []);
        w.check().await;
        std::fs::remove_file(&file).unwrap();
        w.reopen().await;
        w.seal().await;
        w.check().await;
    }
    flip(&file, len / 2);
    flip(&copy, 20);
    let open = QcowStore::new(0).open(&w.dir().into(), w.vm).await;
    let detail = is_damaged(open, &file);
    assert!(detail.contains("manifest.backup.json"), "{detail}");
}
