//! Random histories, and the stories a person would tell: every point and branch equals the truth after each step.

use super::world::{World, check_images, disk, run_ok};
use lifeboat_engine::ports::hypervisor::DiskImage;
use lifeboat_engine::ports::store::{ImageStore, LogStore, StoreError, Target};
use lifeboat_model::{BranchId, PointId, Position};

async fn step(w: &mut World) {
    let any_point = |w: &mut World| {
        let n = w.points.len() as u64;
        (n > 0).then(|| w.points[usize::try_from(w.rng.below(n)).unwrap()].0)
    };
    let any_branch = |w: &mut World| {
        let n = w.branches.len() as u64;
        let skip = if n == 0 {
            0
        } else {
            usize::try_from(w.rng.below(n)).unwrap()
        };
        w.branches.keys().nth(skip).copied()
    };
    match w.rng.below(12) {
        0..=3 => w.receive().await,
        4 => drop(w.store.apply(w.vm).await.unwrap()),
        5 | 6 if w.durable != w.start => w.seal().await,
        7 => match w.store.expire_oldest(w.vm).await {
            Ok(()) => drop(w.points.remove(0)),
            Err(StoreError::Conflict(_)) => assert!(w.points.len() < 2),
            Err(StoreError::Busy(_)) => assert!(!w.branches.is_empty()),
            Err(e) => panic!("{e}"),
        },
        8 => {
            if let Some(id) = any_point(w) {
                w.branch(Target::Point { id }).await.unwrap();
            }
        }
        9 => {
            let info = w.store.info(w.vm).await.unwrap();
            let oldest = info.points.first().map_or(u64::MAX, |p| p.position.sequence());
            let sequence = 1 + w.rng.below(w.durable.sequence().max(1));
            let position = Position::from_parts(w.durable.generation(), sequence);
            let made = w.branch(Target::Cycle { position }).await;
            assert_eq!(made.is_ok(), sequence >= oldest, "{made:?}");
        }
        10 => {
            if let Some(id) = any_branch(w) {
                w.write(id).await;
            }
        }
        11 => {
            if let Some(id) = any_branch(w) {
                w.store.drop_branch(w.vm, id).await.unwrap();
                w.store.drop_branch(w.vm, id).await.unwrap();
                w.branches.remove(&id);
            }
        }
        _ => w.reopen().await,
    }
}

async fn history(seed: u64, steps: usize) {
    let mut w = World::new(seed).await;
    w.bulk().await;
    for n in 0..steps {
        step(&mut w).await;
        if n % 6 == 5 {
            w.check().await;
        }
    }
    w.receive().await;
    w.seal().await;
    w.check().await;
    let (id, _) = w.points[w.points.len() / 2];
    let branch = w.branch(Target::Point { id }).await.unwrap();
    w.write(branch).await;
    promote_and_merge(&mut w, branch).await;
}

async fn promote_and_merge(w: &mut World, branch: BranchId) {
    w.store.promote(w.vm, branch).await.unwrap();
    w.store.promote(w.vm, branch).await.unwrap();
    let position = w.store.info(w.vm).await.unwrap().applied;
    w.points.clear();
    w.branches.retain(|id, _| *id == branch);
    w.durable = position;
    w.check().await;
    assert!(!w.store.promoted_layers(w.vm, branch).await.unwrap().is_empty());
    w.write(branch).await;
    w.store.merge_promoted(w.vm, branch).await.unwrap();
    w.store.merge_promoted(w.vm, branch).await.unwrap();
    w.check().await;
    assert!(w.store.promoted_layers(w.vm, branch).await.unwrap().is_empty());
    w.reopen().await;
    w.check().await;
    let left = std::fs::read_dir(w.dir().join("disks/sys")).unwrap().count();
    assert_eq!(left, 1, "only the base is left below the branch");
}

macro_rules! histories {
    ($($name:ident: $seed:expr),*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            history($seed, 48).await;
        }
    )*};
}
histories! { history_1: 1, history_2: 2, history_3: 3, history_4: 4, history_5: 5, history_6: 6 }

#[tokio::test]
#[ignore = "a long run for a person who changed something: SEEDS=first..last"]
async fn many_histories() {
    let seeds = std::env::var("SEEDS").unwrap_or_else(|_| "100..140".to_owned());
    let (first, last) = seeds.split_once("..").unwrap();
    for seed in first.parse().unwrap()..last.parse().unwrap() {
        history(seed, 80).await;
    }
}

#[tokio::test]
async fn create_repeats_and_conflicts() {
    let mut w = World::new(20).await;
    let disks = w.disks();
    w.bulk().await;
    w.store
        .create(&w.root.clone().into(), w.vm, &disks, w.start)
        .await
        .unwrap();
    let fewer = w
        .store
        .create(&w.root.clone().into(), w.vm, &disks[..1], w.start)
        .await;
    assert!(matches!(fewer, Err(StoreError::Conflict(_))), "{fewer:?}");
    let other = Position::from_parts(lifeboat_model::GenerationId(w.vm.0), w.start.sequence());
    let other = w.store.create(&w.root.clone().into(), w.vm, &disks, other).await;
    assert!(matches!(other, Err(StoreError::Conflict(_))), "{other:?}");
}

#[tokio::test]
async fn seal_is_idempotent_and_refuses_nothing() {
    let mut w = World::new(21).await;
    let empty = w.store.seal(w.vm, PointId(w.rng.uuid()), None).await;
    assert!(matches!(empty, Err(StoreError::Conflict(_))), "{empty:?}");
    w.bulk().await;
    w.rounds(1).await;
    let other = PointId(w.rng.uuid());
    let again = w.store.seal(w.vm, other, None).await.unwrap();
    assert_eq!(again.id, w.points[0].0);
    w.check().await;
}

#[tokio::test]
async fn a_grown_disk_grows_and_old_points_keep_their_size() {
    let mut w = World::new(22).await;
    w.bulk().await;
    w.rounds(2).await;
    w.receive().await;
    w.apply_all().await;
    let mut header = w.header();
    for d in &mut header.disks {
        d.size += 768 << 10;
    }
    let (bytes, model) = w.log(&header);
    w.send(header.position, &bytes).await.unwrap();
    w.landed(header.position, model);
    w.seal().await;
    w.rounds(2).await;
    let oldest = w.branch(Target::Point { id: w.points[1].0 }).await.unwrap();
    let at = w.points[2].1;
    w.branch(Target::Cycle { position: at }).await.unwrap();
    w.check().await;
    w.store.drop_branch(w.vm, oldest).await.unwrap();
    w.branches.remove(&oldest);
    while w.points.len() > 1 {
        let pinned = w.store.expire_oldest(w.vm).await;
        if let Err(StoreError::Busy(_)) = pinned {
            let id = *w.branches.keys().next().unwrap();
            w.store.drop_branch(w.vm, id).await.unwrap();
            w.branches.remove(&id);
            continue;
        }
        pinned.unwrap();
        w.points.remove(0);
        w.check().await;
    }
}

/// A log with disks that are longer or shorter than before.
async fn resized(w: &mut World, change: impl Fn(u64) -> u64) {
    let mut header = w.header();
    for d in &mut header.disks {
        d.size = change(d.size);
        w.now
            .get_mut(&d.id)
            .unwrap()
            .resize(usize::try_from(d.size).unwrap(), 0);
    }
    let (bytes, model) = w.log(&header);
    w.send(header.position, &bytes).await.unwrap();
    w.landed(header.position, model);
}

#[tokio::test]
async fn a_disk_that_becomes_smaller_keeps_its_points_and_shows_nothing_again() {
    for seed in 22..26 {
        let mut w = World::new(seed).await;
        w.bulk().await;
        w.rounds(2).await;
        // Applied and not sealed: what is cut off is in the head as well.
        w.receive().await;
        w.apply_all().await;
        resized(&mut w, |size| size - (700 << 10)).await;
        let small = w.durable;
        w.apply_all().await;
        w.receive().await;
        resized(&mut w, |size| size + (900 << 10)).await;
        let large = w.durable;
        w.reopen().await;
        w.seal().await;
        w.rounds(1).await;
        for position in [small, large] {
            w.branch(Target::Cycle { position }).await.unwrap();
        }
        w.check().await;
        for id in std::mem::take(&mut w.branches).into_keys() {
            w.store.drop_branch(w.vm, id).await.unwrap();
        }
        while w.points.len() > 1 {
            w.store.expire_oldest(w.vm).await.unwrap();
            w.points.remove(0);
            w.check().await;
        }
        resized(&mut w, |size| size - (800 << 10)).await;
        w.seal().await;
        w.check().await;
        w.store.expire_oldest(w.vm).await.unwrap();
        w.points.remove(0);
        let id = w.branch(Target::Point { id: w.points[0].0 }).await.unwrap();
        w.write(id).await;
        w.check().await;
        w.store.promote(w.vm, id).await.unwrap();
    }
}

#[tokio::test]
async fn the_directory_can_be_moved() {
    let mut w = World::new(23).await;
    w.bulk().await;
    w.rounds(3).await;
    w.branch(Target::Point { id: w.points[1].0 }).await.unwrap();
    let moved = w.root.join("elsewhere");
    std::fs::create_dir(&moved).unwrap();
    std::fs::rename(w.dir(), moved.join(w.vm.to_string())).unwrap();
    w.root = moved;
    w.reopen().await;
    w.check().await;
    w.store.expire_oldest(w.vm).await.unwrap();
    w.points.remove(0);
    w.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_vm_keeps_its_chain() {
    let mut w = World::new(24).await;
    w.bulk().await;
    w.rounds(4).await;
    let branch = w.branch(Target::Point { id: w.points[1].0 }).await.unwrap();
    let names = w.file_names(branch).await;
    // Holds the branch open as a VM does; ends when its input does.
    let mut vm = std::process::Command::new("qemu-io")
        .arg(&names[&disk("sys")])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 8];
    std::io::Read::read_exact(vm.stdout.as_mut().unwrap(), &mut ready).unwrap();
    for _ in 0..2 {
        let busy = w.store.expire_oldest(w.vm).await;
        assert!(matches!(busy, Err(StoreError::Busy(_))), "{busy:?}");
        w.rounds(1).await;
    }
    drop(vm.stdin.take());
    vm.wait().unwrap();
    w.check().await;
    w.store.expire_oldest(w.vm).await.unwrap();
    w.points.remove(0);
    w.check().await;
    let pinned = w.store.expire_oldest(w.vm).await;
    assert!(
        matches!(pinned, Err(StoreError::Busy(_))),
        "the branch stands on it: {pinned:?}"
    );
}

#[tokio::test]
async fn a_merge_by_the_running_vm_is_believed_when_it_happened() {
    let mut w = World::new(25).await;
    w.bulk().await;
    w.rounds(3).await;
    let branch = w.branch(Target::Point { id: w.points[2].0 }).await.unwrap();
    w.write(branch).await;
    w.store.promote(w.vm, branch).await.unwrap();
    w.points.clear();
    let early = w.store.merged_live(w.vm, branch).await;
    assert!(matches!(early, Err(StoreError::Conflict(_))), "{early:?}");
    for merge in w.store.promoted_layers(w.vm, branch).await.unwrap() {
        run_ok(
            "qemu-img",
            &[
                "commit",
                "-q",
                "-f",
                "qcow2",
                "-b",
                merge.base.as_str(),
                merge.top.as_str(),
            ],
        );
        let own = w.dir().join(format!("branches/{branch}/{}.qcow2", merge.id));
        run_ok(
            "qemu-img",
            &[
                "rebase",
                "-u",
                "-f",
                "qcow2",
                "-F",
                "raw",
                "-b",
                merge.base.as_str(),
                own.as_str(),
            ],
        );
    }
    w.store.merged_live(w.vm, branch).await.unwrap();
    assert!(w.store.promoted_layers(w.vm, branch).await.unwrap().is_empty());
    w.check().await;
    check_images(&w.dir());
}

#[tokio::test]
async fn logs_expire_but_never_those_the_head_needs() {
    let mut w = World::new(26).await;
    w.bulk().await;
    w.rounds(1).await;
    for _ in 0..4 {
        w.receive().await;
    }
    w.seal().await;
    for _ in 0..3 {
        w.receive().await;
    }
    w.apply_all().await;
    super::scrub::record(&w).await;
    let all = w.store.info(w.vm).await.unwrap().logs;
    w.store.expire_logs(w.vm, all[1].position, &[]).await.unwrap();
    let left = w.store.info(w.vm).await.unwrap().logs;
    assert_eq!(left, all[2..]);
    w.store.expire_logs(w.vm, w.durable, &[]).await.unwrap();
    let left = w.store.info(w.vm).await.unwrap().logs;
    assert_eq!(left, all[5..], "the three since the newest point");
    let gone = w
        .branch(Target::Cycle {
            position: all[2].position,
        })
        .await;
    assert!(matches!(gone, Err(StoreError::NoPoint(_))), "{gone:?}");
    w.reopen().await;
    w.seal().await;
    w.check().await;
}

#[tokio::test]
async fn chains_stay_short() {
    let mut w = World::new(27).await;
    w.bulk().await;
    let refused = loop {
        w.receive().await;
        w.apply_all().await;
        let id = PointId(w.rng.uuid());
        match w.store.seal(w.vm, id, None).await {
            Ok(_) => w.points.push((id, w.durable)),
            Err(e) => break e,
        }
    };
    assert!(refused.to_string().contains("must expire first"), "{refused}");
    let newest = w.points.last().unwrap().0;
    let branch = w.branch(Target::Point { id: newest }).await.unwrap();
    w.branch(Target::Cycle { position: w.durable }).await.unwrap();
    let chain = run_ok(
        "qemu-img",
        &[
            "info",
            "--backing-chain",
            w.dir().join(format!("branches/{branch}/sys.qcow2")).as_str(),
        ],
    );
    assert!(chain.matches("virtual size").count() < 50);
    w.store.expire_oldest(w.vm).await.unwrap();
    w.points.remove(0);
    w.seal().await;
    w.check().await;
}

#[tokio::test]
async fn destroy_leaves_nothing() {
    let mut w = World::new(28).await;
    w.bulk().await;
    w.rounds(2).await;
    w.store.destroy(w.vm).await.unwrap();
    w.store.destroy(w.vm).await.unwrap();
    assert!(!w.dir().exists());
    let gone = w.store.open(&w.dir().into(), w.vm).await;
    assert!(matches!(gone, Err(StoreError::NoReplica(_))), "{gone:?}");
    let disks = w.disks();
    w.store
        .create(&w.root.clone().into(), w.vm, &disks, w.start)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_chain_is_no_longer_than_the_hypervisor_opens() {
    let mut w = World::new(26).await;
    w.bulk().await;
    w.rounds(3).await;
    for (at, (point, _)) in w.points.clone().into_iter().enumerate() {
        let (id, target) = (BranchId(w.rng.uuid()), Target::Point { id: point });
        // The base, the layers up to the point, and the branch's own.
        let images = at + 3;
        let refused = w.store.branch(w.vm, id, target, Some(images - 1)).await;
        let why = refused.unwrap_err().to_string();
        assert!(why.contains(&format!("{images} images")), "{why}");
        assert!(!w.dir().join(format!("branches/{id}")).exists());
        for (_, image) in w.store.branch(w.vm, id, target, Some(images)).await.unwrap() {
            let DiskImage::Chain { layers } = image else {
                panic!("{image:?}")
            };
            assert_eq!(layers.len(), images);
        }
        w.store.drop_branch(w.vm, id).await.unwrap();
    }
    w.check().await;
}
