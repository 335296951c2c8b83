//! Copies that become replicas and replicas that become VMs, again and again: adoption, pieces of synchronizations,
//! promotion, what is kept and what differs. The truth is the same plain arrays as everywhere.

use std::collections::BTreeMap;

use base64::Engine;
use camino::Utf8PathBuf;
use lifeboat_deltalog::{Consistency, LogDisk, LogKind};
use lifeboat_engine::ports::store::{
    Abandoned, Adoption, CompareRange, Divergence, ImageStore, LogStore, Origin, StoreError, Target,
};
use lifeboat_model::{DiskFormat, DiskId, GenerationId, PointId, Position, Timestamp};

use super::world::{Model, World, check_images, disk, run_ok};
use crate::QcowStore;

/// Images of an administrator: one raw, one qcow2 of another size with change tracking and sub-clusters.
pub(super) struct Own {
    pub(super) images: Vec<(DiskId, Utf8PathBuf, DiskFormat)>,
    pub(super) content: Model,
}

/// A world whose replica is gone and whose disks lie around as plain images.
pub(super) async fn with_images(seed: u64) -> (World, Own) {
    let mut w = World::new(seed).await;
    w.store.destroy(w.vm).await.unwrap();
    let dir = w.root.join("own images");
    std::fs::create_dir(&dir).unwrap();
    let mut own = Own {
        images: Vec::new(),
        content: BTreeMap::new(),
    };
    for (n, target) in w.disks().into_iter().enumerate() {
        // Smaller, equal or larger than what is offered.
        let size = target.size + 512 * 300 * w.rng.below(3) - 512 * 300;
        let mut data = vec![0; usize::try_from(size).unwrap()];
        let half = data.len() / 2;
        w.rng.fill(&mut data[..half]);
        let tail = data.len() - 70_000;
        w.rng.fill(&mut data[tail..]);
        let raw = dir.join(format!("{}.img", target.id));
        std::fs::write(&raw, &data).unwrap();
        let image = if n == 0 {
            (target.id.clone(), raw, DiskFormat::Raw)
        } else {
            let path = dir.join(format!("{}.qcow2", target.id));
            let options = ["cluster_size=64k", "extended_l2=on"][usize::try_from(w.rng.below(2)).unwrap()];
            let convert = ["convert", "-f", "raw", "-O", "qcow2", "-o", options];
            run_ok(
                "qemu-img",
                &[&convert[..], &[raw.as_str(), path.as_str()]].concat(),
            );
            run_ok(
                "qemu-img",
                &["bitmap", "--add", "--enable", path.as_str(), "tracked"],
            );
            (target.id.clone(), path, DiskFormat::Qcow2)
        };
        own.images.push(image);
        own.content.insert(target.id, data);
    }
    (w, own)
}

/// As a disk of this size shows it.
fn resized(content: &Model, disks: &[LogDisk]) -> Model {
    let show = |d: &LogDisk| {
        let mut data = content.get(&d.id).cloned().unwrap_or_default();
        data.resize(usize::try_from(d.size).unwrap(), 0);
        (d.id.clone(), data)
    };
    disks.iter().map(show).collect()
}

fn new_start(w: &mut World) -> Position {
    Position::from_parts(GenerationId(w.rng.uuid()), w.rng.below(3))
}

pub(super) fn adoption(w: &mut World, origin: Origin, sealed: bool, keep: bool) -> Adoption {
    let since = w.durable;
    Adoption {
        disks: w.disks(),
        start: new_start(w),
        origin,
        sealed: sealed.then(|| {
            (
                PointId(w.rng.uuid()),
                Timestamp(1_700_000_000_000),
                Consistency::Planned,
            )
        }),
        keep: keep.then_some(Abandoned {
            since,
            at: Timestamp(5),
        }),
        divergence: Divergence {
            since,
            disks: vec![(disk("sys"), Some(vec![(0, 512)])), (disk("data-1"), None)],
        },
    }
}

/// What the truth is after an adoption of `content`.
pub(super) fn adopted(w: &mut World, a: &Adoption, content: &Model) {
    w.now = resized(content, &a.disks);
    w.at.insert(a.start, w.now.clone());
    (w.start, w.durable) = (a.start, a.start);
    if let Some((id, ..)) = a.sealed {
        w.points.push((id, a.start));
    }
    if a.keep.is_some() {
        w.kept = Some(content.clone());
    }
}

async fn piece(w: &mut World) {
    let mut header = w.header();
    header.kind = LogKind::Sync;
    let (bytes, model) = w.log(&header);
    let received = w.send(header.position, &bytes).await.unwrap();
    assert!(received.partial);
    w.landed(header.position, model);
}

/// What is kept, seen through a branch, and that branch's end.
async fn check_kept(w: &mut World) {
    if w.kept.is_some() {
        let branch = w.branch(Target::Abandoned).await.unwrap();
        w.write(branch).await;
        w.check().await;
        let busy = w.store.drop_abandoned(w.vm).await;
        assert!(matches!(busy, Err(StoreError::Busy(_))), "{busy:?}");
        // Points go on expiring above it.
        if w.points.len() > 2 {
            w.store.expire_oldest(w.vm).await.unwrap();
            w.points.remove(0);
            w.check().await;
        }
        w.store.drop_branch(w.vm, branch).await.unwrap();
        w.branches.remove(&branch);
    }
}

async fn replicate(w: &mut World, steps: usize) {
    for n in 0..steps {
        match w.rng.below(9) {
            0 | 1 => w.receive().await,
            2 => {
                piece(w).await;
                piece(w).await;
                w.apply_all().await;
                let refused = w.store.seal(w.vm, PointId(w.rng.uuid()), None).await;
                assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
                let refused = w.branch(Target::Cycle { position: w.durable }).await;
                assert!(matches!(refused, Err(StoreError::NoPoint(_))), "{refused:?}");
                w.receive().await;
            }
            3 | 4 => {
                w.receive().await;
                w.seal().await;
            }
            5 | 6 if w.points.len() > 1 => {
                w.store.expire_oldest(w.vm).await.unwrap();
                w.points.remove(0);
            }
            7 => w.reopen().await,
            _ => {
                w.store.apply(w.vm).await.unwrap();
            }
        }
        if n % 5 == 4 {
            w.check().await;
        }
    }
    check_kept(w).await;
}

/// Every byte that differs is within the ranges.
fn covers(divergence: &Divergence, one: &Model, other: &Model) {
    for (id, ranges) in &divergence.disks {
        let Some(ranges) = ranges else { continue };
        for pair in ranges.windows(2) {
            assert!(pair[0].0 + pair[0].1 < pair[1].0, "{pair:?}");
        }
        let (one, other) = (&one[id], &other[id]);
        for at in 0..one.len().max(other.len()) {
            let at64 = at as u64;
            if one.get(at) != other.get(at) {
                let inside = ranges.iter().any(|(o, l)| (*o..*o + *l).contains(&at64));
                assert!(inside, "{id} byte {at} differs");
            }
        }
    }
}

pub(super) async fn promote(w: &mut World, merge: bool) -> Origin {
    w.receive().await;
    w.seal().await;
    w.receive().await;
    piece(w).await;
    let n = usize::try_from(w.rng.below(w.points.len() as u64)).unwrap();
    let (id, position) = w.points[n];
    let branch = w.branch(Target::Point { id }).await.unwrap();
    if w.rng.below(2) == 0 {
        // Then only the layers still tell what changed.
        w.store.expire_logs(w.vm, w.durable, &[]).await.unwrap();
    }
    let last = w.now.clone();
    w.store.promote(w.vm, branch).await.unwrap();
    w.store.promote(w.vm, branch).await.unwrap();
    let told = w.store.divergence(w.vm).await.unwrap();
    assert_eq!(told.since, position);
    assert!(told.disks.iter().all(|d| d.1.is_some()));
    covers(&told, &w.at[&position], &last);
    w.points.clear();
    w.kept = None;
    w.durable = position;
    w.write(branch).await;
    w.check().await;
    if merge {
        w.store.merge_promoted(w.vm, branch).await.unwrap();
        w.check().await;
    }
    w.now = w.branches[&branch].clone();
    Origin::Promoted(branch)
}

async fn lifecycle(seed: u64) {
    let (mut w, own) = with_images(seed).await;
    let flip = |w: &mut World| w.rng.below(2) == 0;
    let (sealed, keep) = (flip(&mut w), flip(&mut w));
    let a = adoption(&mut w, Origin::Images(own.images.clone()), sealed, keep);
    w.store.adopt(&w.root.clone().into(), w.vm, &a).await.unwrap();
    w.store.adopt(&w.root.clone().into(), w.vm, &a).await.unwrap();
    assert_eq!(w.store.divergence(w.vm).await.unwrap(), a.divergence);
    adopted(&mut w, &a, &own.content);
    w.check().await;
    replicate(&mut w, 20).await;
    if keep {
        for (id, path, _) in &own.images {
            w.compare(path.as_str(), &own.content[id]);
        }
    }
    let early = flip(&mut w);
    let origin = promote(&mut w, early).await;
    let (sealed, keep) = (flip(&mut w), flip(&mut w));
    let content = w.now.clone();
    let a = adoption(&mut w, origin, sealed, keep);
    w.store.adopt(&w.root.clone().into(), w.vm, &a).await.unwrap();
    w.branches.clear();
    adopted(&mut w, &a, &content);
    w.check().await;
    replicate(&mut w, 20).await;
    w.receive().await;
    w.seal().await;
    w.receive().await;
    w.apply_all().await;
    let keep = flip(&mut w);
    let content = w.now.clone();
    let a = adoption(&mut w, Origin::Here, false, keep);
    w.store.adopt(&w.root.clone().into(), w.vm, &a).await.unwrap();
    adopted(&mut w, &a, &content);
    w.check().await;
    replicate(&mut w, 20).await;
    w.store.drop_abandoned(w.vm).await.unwrap();
    w.store.drop_abandoned(w.vm).await.unwrap();
    w.kept = None;
    w.rounds(2).await;
    while w.points.len() > 1 {
        w.store.expire_oldest(w.vm).await.unwrap();
        w.points.remove(0);
        w.check().await;
    }
    let left = std::fs::read_dir(w.dir().join("disks/sys")).unwrap().count();
    assert!(
        left <= 2,
        "only the newest point and our base are left, not {left}"
    );
    w.store.destroy(w.vm).await.unwrap();
    assert!(!w.dir().exists());
    for (_, path, _) in &own.images {
        assert!(path.is_file(), "images that are not ours stay");
    }
    check_images(&w.root);
}

macro_rules! lifecycles {
    ($($name:ident: $seed:expr),*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            lifecycle($seed).await;
        }
    )*};
}
lifecycles! { lifecycle_1: 501, lifecycle_2: 502, lifecycle_3: 503, lifecycle_4: 504 }

#[tokio::test]
#[ignore = "a long run for a person who changed something: SEEDS=first..last"]
async fn many_lifecycles() {
    let seeds = std::env::var("SEEDS").unwrap_or_else(|_| "600..620".to_owned());
    let (first, last) = seeds.split_once("..").unwrap();
    for seed in first.parse().unwrap()..last.parse().unwrap() {
        lifecycle(seed).await;
    }
}

#[tokio::test]
async fn images_that_cannot_be_a_base_are_refused() {
    let (mut w, own) = with_images(520).await;
    let qcow2 = own
        .images
        .iter()
        .find(|i| i.2 == DiskFormat::Qcow2)
        .unwrap()
        .clone();
    let on_top = w.root.join("on-top.qcow2");
    let create = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"];
    run_ok(
        "qemu-img",
        &[&create[..], &[qcow2.1.as_str(), on_top.as_str()]].concat(),
    );
    let apart = w.root.join("apart.qcow2");
    let option = format!("data_file={}", w.root.join("apart.raw"));
    run_ok(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-o", &option, apart.as_str(), "1M"],
    );
    let raw = own.images[1].1.clone();
    let wrong = [
        (on_top, "backing file"),
        (apart, "another file"),
        (w.root.join("missing"), "missing"),
        (w.root.clone(), "regular file"),
        (raw, "qcow2"),
    ];
    for (path, why) in wrong {
        let format = if why == "qcow2" && path == qcow2.1 {
            continue;
        } else {
            DiskFormat::Qcow2
        };
        let images = vec![(qcow2.0.clone(), path, format)];
        let a = adoption(&mut w, Origin::Images(images), true, false);
        let said = w
            .store
            .adopt(&w.root.clone().into(), w.vm, &a)
            .await
            .unwrap_err()
            .to_string();
        assert!(said.contains(why), "{why}: {said}");
        let none = w.store.info(w.vm).await;
        assert!(matches!(none, Err(StoreError::NoReplica(_))), "{none:?}");
    }
    // Nothing came of it, so the right call succeeds, and another start replaces it until something arrives.
    for sealed in [true, false, true] {
        let a = adoption(&mut w, Origin::Images(own.images.clone()), sealed, true);
        w.store.adopt(&w.root.clone().into(), w.vm, &a).await.unwrap();
        w.points.clear();
        adopted(&mut w, &a, &own.content);
        w.check().await;
    }
    w.receive().await;
    let late = adoption(&mut w, Origin::Images(own.images.clone()), true, false);
    let late = w.store.adopt(&w.root.clone().into(), w.vm, &late).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))), "{late:?}");
    let bulk = w.segment(&w.disks()[0].clone(), 0, &[1; 512]);
    let bulk = w.store.bulk(w.vm, super::world::stream(&bulk)).await;
    assert!(matches!(bulk, Err(StoreError::Conflict(_))), "{bulk:?}");
}

/// What is made to fail at each of its steps.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Images,
    Promoted,
    Here,
    Drop,
    Piece,
    ExpireAboveKept,
    FinishBulk,
}

async fn prepare(op: Op, n: u64) -> (World, Origin, Model) {
    let (mut w, own) = with_images(2000 + n).await;
    let mut origin = Origin::Images(own.images.clone());
    let a = adoption(&mut w, origin.clone(), true, true);
    let mut content = own.content.clone();
    if op == Op::FinishBulk {
        let disks = w.disks();
        w.store
            .create(&w.root.clone().into(), w.vm, &disks, w.start)
            .await
            .unwrap();
        w.bulk().await;
    } else if op != Op::Images {
        w.store.adopt(&w.root.clone().into(), w.vm, &a).await.unwrap();
        adopted(&mut w, &a, &content);
        w.rounds(3).await;
    }
    match op {
        Op::Promoted => {
            origin = promote(&mut w, false).await;
            content = w.now.clone();
        }
        Op::Here => {
            w.receive().await;
            w.apply_all().await;
            origin = Origin::Here;
            content = w.now.clone();
        }
        Op::Piece => piece(&mut w).await,
        Op::Images | Op::Drop | Op::ExpireAboveKept | Op::FinishBulk => {}
    }
    (w, origin, content)
}

async fn every_step(op: Op) {
    for n in 1.. {
        let (mut w, origin, content) = prepare(op, n).await;
        let b = adoption(&mut w, origin, true, true);
        let id = PointId(w.rng.uuid());
        w.store.steps.fail_at(n);
        let outcome = call(&w, op, &b, id).await;
        let through = w.store.steps.pending();
        w.store.steps.fail_at(0);
        assert_eq!(through, outcome.is_ok(), "{op:?} step {n}: {outcome:?}");
        if !through {
            w.store = QcowStore::new(0);
            let opened = w.store.open(&w.dir().into(), w.vm).await;
            let there = w.dir().join("manifest.json").exists();
            assert_eq!(opened.is_ok(), there, "{op:?} step {n}: {opened:?}");
            if op != Op::Images {
                before_or_after(&mut w, op, &b).await;
            }
            let done = op == Op::ExpireAboveKept && w.points.len() == 3;
            if !done {
                call(&w, op, &b, id).await.unwrap();
            }
        }
        match op {
            Op::Images | Op::Promoted | Op::Here => {
                w.branches.clear();
                if op != Op::Here {
                    w.points.clear();
                }
                w.points.retain(|p| p.1 != b.start);
                adopted(&mut w, &b, &content);
            }
            Op::Drop => w.kept = None,
            Op::Piece => {}
            Op::ExpireAboveKept if w.points.len() == 4 => drop(w.points.remove(0)),
            Op::ExpireAboveKept => {}
            Op::FinishBulk => w.points.push((id, w.start)),
        }
        w.check().await;
        check_kept(&mut w).await;
        w.rounds(2).await;
        w.store.expire_oldest(w.vm).await.unwrap();
        w.points.remove(0);
        w.check().await;
        if through {
            assert!(n > 1, "{op:?} has no step at which it could fail");
            return;
        }
    }
}

async fn call(w: &World, op: Op, b: &Adoption, id: PointId) -> Result<(), StoreError> {
    match op {
        Op::Images | Op::Promoted | Op::Here => w.store.adopt(&w.root.clone().into(), w.vm, b).await,
        Op::Drop => w.store.drop_abandoned(w.vm).await,
        Op::Piece => w.store.apply(w.vm).await.map(drop),
        Op::ExpireAboveKept => w.store.expire_oldest(w.vm).await,
        Op::FinishBulk => {
            let at = Timestamp(7);
            w.store
                .finish_bulk(w.vm, id, at, Consistency::Application)
                .await
                .map(drop)
        }
    }
}

/// After a failure everything is as it was, or done.
async fn before_or_after(w: &mut World, op: Op, b: &Adoption) {
    let info = w.store.info(w.vm).await.unwrap();
    match op {
        Op::Promoted | Op::Here if info.durable == b.start => {
            assert_eq!(info.abandoned, b.keep);
            return;
        }
        Op::Drop if info.abandoned.is_none() => w.kept = None,
        Op::ExpireAboveKept if info.points.len() == 3 => drop(w.points.remove(0)),
        Op::FinishBulk if info.points.len() == 1 => return,
        _ => {}
    }
    w.check().await;
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
    adopting_images_fails_anywhere: Images, adopting_a_branch_fails_anywhere: Promoted,
    adopting_a_replica_fails_anywhere: Here, dropping_fails_anywhere: Drop, a_piece_fails_anywhere: Piece,
    expiring_above_what_is_kept_fails_anywhere: ExpireAboveKept, finishing_a_copy_fails_anywhere: FinishBulk
}

#[tokio::test]
async fn a_replica_of_an_older_release_opens() {
    let mut w = World::new(580).await;
    w.bulk().await;
    w.rounds(2).await;
    w.branch(Target::Point { id: w.points[1].0 }).await.unwrap();
    let path = w.dir().join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut old: serde_json::Value = serde_json::from_str(&text).unwrap();
    old["version"] = 1.into();
    for new in ["bases", "adopted", "kept", "divergence", "digest"] {
        old.as_object_mut().unwrap().remove(new).unwrap();
    }
    for point in old["points"].as_array_mut().unwrap() {
        point.as_object_mut().unwrap().remove("loose").unwrap();
    }
    std::fs::write(&path, old.to_string()).unwrap();
    std::fs::remove_file(w.dir().join("manifest.backup.json")).unwrap();
    w.reopen().await;
    w.check().await;
    w.rounds(1).await;
    w.check().await;
    assert!(
        std::fs::read_to_string(&path)
            .unwrap()
            .contains(r#""version": 2"#)
    );
}

#[tokio::test]
async fn a_manifest_that_was_tampered_with_opens_nothing_else() {
    let (mut w, own) = with_images(590).await;
    let a = adoption(&mut w, Origin::Images(own.images.clone()), true, true);
    w.store.adopt(&w.root.clone().into(), w.vm, &a).await.unwrap();
    let path = w.dir().join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let good: serde_json::Value = serde_json::from_str(&text).unwrap();
    type Lie = fn(&mut serde_json::Value);
    let lies: [Lie; 5] = [
        |m| m["bases"][0]["path"] = "sys.img".into(),
        |m| m["bases"][0]["path"] = "/../etc/passwd".into(),
        |m| m["divergence"] = "../divergence-1.json".into(),
        |m| m["kept"]["levels"] = 9.into(),
        |m| m["version"] = 3.into(),
    ];
    for lie in lies {
        // Whoever writes lies leaves no digest and no copy that would give them away.
        let mut bad = good.clone();
        bad.as_object_mut().unwrap().remove("digest").unwrap();
        let _ = std::fs::remove_file(w.dir().join("manifest.backup.json"));
        lie(&mut bad);
        std::fs::write(&path, bad.to_string()).unwrap();
        let open = QcowStore::new(0).open(&w.dir().into(), w.vm).await;
        assert!(matches!(open, Err(StoreError::Damaged { .. })), "{open:?}");
    }
    std::fs::write(&path, text).unwrap();
    std::fs::remove_file(&own.images[0].1).unwrap();
    let open = QcowStore::new(0).open(&w.dir().into(), w.vm).await;
    let Err(StoreError::Damaged { path, .. }) = open else {
        panic!("{open:?}")
    };
    assert_eq!(path, own.images[0].1);
}

#[tokio::test]
async fn an_added_disk_takes_part_from_then_on() {
    let mut w = World::new(530).await;
    w.bulk().await;
    w.rounds(2).await;
    w.receive().await;
    w.apply_all().await;
    w.now.insert(disk("added"), vec![0; 300 * 512]);
    piece(&mut w).await;
    w.receive().await;
    let cycle = w.durable;
    w.branch(Target::Cycle { position: cycle }).await.unwrap();
    w.seal().await;
    let (old, new) = (w.points[1].0, w.points[2].0);
    for id in [old, new] {
        w.branch(Target::Point { id }).await.unwrap();
    }
    assert_eq!(w.point_files(old).len() + 1, w.point_files(new).len());
    w.rounds(1).await;
    w.reopen().await;
    w.check().await;
    for id in w.branches.keys().copied().collect::<Vec<_>>() {
        w.store.drop_branch(w.vm, id).await.unwrap();
    }
    w.branches.clear();
    while w.points.len() > 1 {
        w.store.expire_oldest(w.vm).await.unwrap();
        w.points.remove(0);
        w.check().await;
    }
}

fn digests(data: &[u8], block: usize) -> String {
    let all: Vec<u8> = data
        .chunks(block)
        .flat_map(|b| blake3::hash(b).as_bytes()[..16].to_vec())
        .collect();
    base64::engine::general_purpose::STANDARD.encode(all)
}

#[tokio::test]
async fn comparison_names_exactly_the_blocks_that_differ() {
    let mut w = World::new(540).await;
    w.bulk().await;
    w.rounds(2).await;
    w.receive().await;
    let range = CompareRange {
        disk: 0,
        offset: 0,
        len: 4096,
        block: 4096,
        digests: digests(&[0; 4096], 4096),
    };
    let busy = w.store.compare(w.vm, std::slice::from_ref(&range)).await;
    assert!(matches!(busy, Err(StoreError::Busy(_))), "{busy:?}");
    w.apply_all().await;
    for block in [4096_usize, 65536] {
        for (number, target) in (0_u16..).zip(w.disks()) {
            let mut other = w.now[&target.id].clone();
            let mut expected = Vec::new();
            for _ in 0..9 {
                let at = usize::try_from(w.rng.below(target.size)).unwrap();
                other[at] ^= 1;
            }
            for (n, (a, b)) in (0_u32..).zip(other.chunks(block).zip(w.now[&target.id].chunks(block))) {
                if a != b {
                    expected.push(n);
                }
            }
            let split = 8 * block;
            let ranges = [(0, split), (split, other.len() - split)].map(|(offset, len)| CompareRange {
                disk: number,
                offset: offset as u64,
                len: len as u64,
                block: u32::try_from(block).unwrap(),
                digests: digests(&other[offset..offset + len], block),
            });
            let found = w.store.compare(w.vm, &ranges).await.unwrap();
            let found: Vec<u32> = found[0]
                .iter()
                .copied()
                .chain(found[1].iter().map(|n| n + 8))
                .collect();
            assert_eq!(found, expected, "block {block}");
        }
    }
    type Wrong = (&'static str, fn(&mut CompareRange));
    let wrong: [Wrong; 6] = [
        ("disk", |r| r.disk = 9),
        ("block", |r| r.block = 512),
        ("len", |r| r.len = 65 << 20),
        ("offset", |r| r.offset = 1),
        ("digests", |r| r.digests.push('=')),
        ("digests", |r| r.digests = "!".repeat(24)),
    ];
    for (field, change) in wrong {
        let mut range = range.clone();
        change(&mut range);
        let said = w.store.compare(w.vm, &[range]).await.unwrap_err().to_string();
        assert!(
            said.contains(&format!("{field}:")) || said.contains(&format!("{field} ")),
            "{said}"
        );
    }
    assert_eq!(std::fs::read_dir(w.dir().join("run")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_point_is_read_while_the_replica_goes_on() {
    let mut w = World::new(550).await;
    w.bulk().await;
    w.rounds(3).await;
    let (id, position) = w.points[0];
    let view = w.store.read_point(w.vm, id).await.unwrap();
    let busy = w.store.expire_oldest(w.vm).await;
    assert!(matches!(busy, Err(StoreError::Busy(_))), "{busy:?}");
    w.rounds(1).await;
    for (n, (_, data)) in w.at[&position].iter().enumerate() {
        let mut seen = vec![0; data.len()];
        for extent in view.changed(n).await.unwrap() {
            let (mut at, end) = (extent.offset, extent.offset + extent.len);
            while at < end {
                let len = u32::try_from((end - at).min(1 << 20)).unwrap();
                let bytes = view.read(n, at, len).await.unwrap();
                let from = usize::try_from(at).unwrap();
                seen[from..from + bytes.len()].copy_from_slice(&bytes);
                at += u64::from(len);
            }
        }
        assert!(seen == *data, "disk {n}");
        let whole = view.allocation(n, 0, data.len() as u64).await.unwrap();
        assert_eq!(whole.iter().map(|e| e.len).sum::<u64>(), data.len() as u64);
    }
    view.close().await.unwrap();
    w.store.expire_oldest(w.vm).await.unwrap();
    w.points.remove(0);
    w.check().await;
}

#[tokio::test]
async fn logs_are_read_and_kept_for_who_forwards_them() {
    use futures_util::StreamExt;
    let mut w = World::new(560).await;
    w.bulk().await;
    w.rounds(1).await;
    let since = w.durable;
    let header = w.header();
    let (bytes, model) = w.log(&header);
    w.send(header.position, &bytes).await.unwrap();
    w.landed(header.position, model);
    w.rounds(3).await;
    w.store.keep_logs(w.vm, &[w.durable, since]).await;
    while w.points.len() > 1 {
        w.store.expire_oldest(w.vm).await.unwrap();
        w.points.remove(0);
    }
    w.store.expire_logs(w.vm, w.durable, &[]).await.unwrap();
    for offset in [0, 9, bytes.len()] {
        let mut log = w
            .store
            .read_log(w.vm, header.position, offset as u64)
            .await
            .unwrap();
        let mut read = Vec::new();
        while let Some(piece) = log.next().await {
            read.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(read, bytes[offset..]);
    }
    let beyond = w
        .store
        .read_log(w.vm, header.position, bytes.len() as u64 + 1)
        .await;
    assert!(matches!(beyond.err(), Some(StoreError::Conflict(_))));
    w.store.keep_logs(w.vm, &[]).await;
    w.store.expire_logs(w.vm, w.durable, &[]).await.unwrap();
    assert!(w.store.info(w.vm).await.unwrap().logs.is_empty());
    w.check().await;
}

#[tokio::test]
async fn firmware_variables_belong_to_their_branch() {
    let mut w = World::new(570).await;
    w.bulk().await;
    w.rounds(1).await;
    let id = w.points[0].0;
    let early = w.branch(Target::Point { id }).await.unwrap();
    let nothing = w.store.branch_firmware(w.vm, early).await.unwrap();
    assert!(!nothing.exists());
    w.store.put_firmware(w.vm, "one".into()).await.unwrap();
    let one = w.branch(Target::Point { id }).await.unwrap();
    w.store.put_firmware(w.vm, "two".into()).await.unwrap();
    for (branch, content) in [(early, "two"), (one, "one")] {
        let path = w.store.branch_firmware(w.vm, branch).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        std::fs::write(&path, "written by the guest").unwrap();
    }
    w.reopen().await;
    w.store.drop_branch(w.vm, early).await.unwrap();
    w.branches.remove(&early);
    w.store.promote(w.vm, one).await.unwrap();
    let path = w.store.branch_firmware(w.vm, one).await.unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "written by the guest");
    w.store.destroy(w.vm).await.unwrap();
    assert!(!w.dir().exists());
}

#[tokio::test]
async fn what_is_kept_can_become_the_disks_again() {
    let (mut w, own) = with_images(595).await;
    let mut a = adoption(&mut w, Origin::Images(own.images.clone()), true, true);
    let before = w.disks().into_iter().find(|d| d.id == disk("sys")).unwrap();
    a.divergence.disks[1] = (disk("sys"), Some(vec![(0, 4096), (before.size - 4096, 4096)]));
    a.divergence.disks[0] = (disk("data-1"), None);
    w.store.adopt(&w.root.clone().into(), w.vm, &a).await.unwrap();
    adopted(&mut w, &a, &own.content);
    w.rounds(3).await;
    w.store.expire_oldest(w.vm).await.unwrap();
    w.points.remove(0);
    w.receive().await;
    let branch = w.branch(Target::Abandoned).await.unwrap();
    w.write(branch).await;
    let last = w.now.clone();
    w.store.promote(w.vm, branch).await.unwrap();
    w.points.clear();
    w.kept = None;
    let since = a.keep.unwrap().since;
    w.durable = since;
    w.check().await;
    let told = w.store.divergence(w.vm).await.unwrap();
    assert_eq!(told.since, since);
    assert_eq!(told.disks.iter().find(|d| d.0 == disk("data-1")).unwrap().1, None);
    let shown = resized(&own.content, &a.disks);
    covers(&told, &shown, &last);
    let sys = told.disks.iter().find(|d| d.0 == disk("sys")).unwrap();
    let ranges = sys.1.as_ref().unwrap();
    assert!(
        ranges[0].0 == 0 && ranges[0].1 >= 4096,
        "what was told is part of it"
    );
    w.reopen().await;
    w.store.merge_promoted(w.vm, branch).await.unwrap();
    w.check().await;
}
