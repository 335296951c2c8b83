//! A full file system, for real: a small tmpfs. Every refusal says so and leaves the replica whole; with room again the
//! same call succeeds. Needs the right to mount; without it the tests say so and prove nothing.

use camino::Utf8PathBuf;
use lifeboat_deltalog::Encoder;
use lifeboat_engine::ports::store::{ImageStore, StoreError, Target};
use lifeboat_model::PointId;

use super::world::{World, run, stream};

/// A mounted tmpfs; unmounted when dropped.
struct Small(Utf8PathBuf);

impl Drop for Small {
    fn drop(&mut self) {
        run("umount", &["-l", self.0.as_str()]);
    }
}

async fn small(seed: u64, mib: u64, reserve: u64) -> Option<(World, Small)> {
    small_with(
        seed,
        mib,
        reserve,
        &[("sys", 2 << 20), ("data-1", (1 << 20) + 512)],
    )
    .await
}

async fn small_with(seed: u64, mib: u64, reserve: u64, disks: &[(&str, usize)]) -> Option<(World, Small)> {
    let tmp = tempfile::tempdir().unwrap();
    let root = Utf8PathBuf::from_path_buf(tmp.path().join("small")).unwrap();
    std::fs::create_dir(&root).unwrap();
    let size = format!("size={mib}m");
    let mounted = run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", root.as_str()]);
    if !mounted.status.success() {
        eprintln!("SKIPPED: no right to mount a tmpfs here");
        return None;
    }
    let guard = Small(root.clone());
    Some((World::below(seed, tmp, root, reserve, disks).await, guard))
}

fn free(w: &World) -> u64 {
    let stat = rustix::fs::statvfs(w.root.as_std_path()).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// Waits until there is as much room as before: what was deleted takes room until the last process that read it has let
/// go of it.
async fn given_back(w: &World, before: u64) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while free(w) + (64 << 10) < before {
        assert!(std::time::Instant::now() < end, "{} of {before} bytes", free(w));
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Takes all room but `left` bytes.
fn fill(w: &World, left: u64) {
    let file = std::fs::File::create(w.root.join("ballast")).unwrap();
    let zeros = vec![1; usize::try_from(free(w).saturating_sub(left)).unwrap()];
    std::io::Write::write_all(&mut &file, &zeros).unwrap();
}

fn release(w: &World) {
    std::fs::remove_file(w.root.join("ballast")).unwrap();
}

#[track_caller]
fn no_space<T: std::fmt::Debug>(said: &Result<T, StoreError>) {
    assert!(matches!(said, Err(StoreError::NoSpace(_))), "{said:?}");
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    for left in [0, 4096, 20_000, 60_000, 120_000, 300_000] {
        let Some((mut w, _mount)) = small(left, 64, 0).await else {
            return;
        };
        w.bulk().await;
        w.rounds(2).await;
        w.receive().await;
        w.receive().await;
        let header = w.header();
        let (log, model) = w.log(&header);
        fill(&w, left);
        // Each may still fit or not; what matters is what is left.
        let received = w.send(header.position, &log).await;
        let applied = w.store.apply(w.vm).await;
        let sealed = match &applied {
            Ok(_) => Some(w.store.seal(w.vm, PointId(header.vm.0), None).await),
            Err(_) => None,
        };
        let id = w.points[0].0;
        let branched = w.branch(Target::Point { id }).await;
        let all = [
            received.as_ref().err(),
            applied.as_ref().err(),
            sealed.as_ref().and_then(|s| s.as_ref().err()),
            branched.as_ref().err(),
        ];
        for error in all.into_iter().flatten() {
            assert!(matches!(error, StoreError::NoSpace(_)), "{left} bytes: {error:?}");
        }
        if left == 0 {
            assert_eq!(all.into_iter().flatten().count(), 3, "nothing fits: {all:?}");
        }
        release(&w);
        for unfinished in w.store.info(w.vm).await.unwrap().branches {
            if branched.is_err() {
                w.store.drop_branch(w.vm, unfinished).await.unwrap();
            }
        }
        if received.is_err() {
            w.send(header.position, &log).await.unwrap();
        }
        w.landed(header.position, model);
        if let Some(Ok(point)) = sealed {
            w.points.push((point.id, point.position));
        }
        w.check().await;
        w.seal().await;
        w.reopen().await;
        w.check().await;
    }
}

#[tokio::test]
async fn the_reserve_is_kept_free() {
    let Some((mut w, _mount)) = small(80, 40, 8).await else {
        return;
    };
    w.bulk().await;
    w.rounds(2).await;
    w.receive().await;
    fill(&w, 15 << 19);
    let header = w.header();
    let (log, model) = w.log(&header);
    no_space(&w.send(header.position, &log).await);
    assert_eq!(std::fs::read_dir(w.dir().join("incoming")).unwrap().count(), 0);
    no_space(&w.store.apply(w.vm).await);
    w.check().await;
    // A failover is what it is for.
    let (position, before) = (w.durable, free(&w));
    let id = w.branch(Target::Cycle { position }).await.unwrap();
    w.check().await;
    w.store.drop_branch(w.vm, id).await.unwrap();
    w.branches.remove(&id);
    given_back(&w, before).await;
    // What gives room back is not kept from it.
    w.store.expire_oldest(w.vm).await.unwrap();
    w.points.remove(0);
    w.check().await;
    release(&w);
    w.send(header.position, &log).await.unwrap();
    w.landed(header.position, model);
    w.seal().await;
    w.check().await;
}

#[tokio::test]
async fn the_initial_copy_stops_and_goes_on() {
    let Some((mut w, _mount)) = small(81, 16, 0).await else {
        return;
    };
    let target = w.disks()[1].clone();
    let mut bytes = vec![0; 1 << 20];
    w.rng.fill(&mut bytes);
    let segment = w.segment(&target, 0, &bytes);
    fill(&w, 300_000);
    no_space(&w.store.bulk(w.vm, stream(&segment)).await);
    release(&w);
    assert!(w.store.info(w.vm).await.unwrap().bulk.iter().all(|b| b.done == 0));
    w.bulk().await;
    w.rounds(1).await;
    w.check().await;
}

/// A log that is small and changes 512 bytes in each cluster of a disk.
fn scattered(w: &World, zeros: bool) -> Vec<u8> {
    let header = w.header();
    let mut log = Vec::new();
    let mut encoder = Encoder::new(&header, true, &mut log).unwrap();
    for cluster in 0..header.disks[1].size / (4 << 10) {
        let at = cluster * (4 << 10) + 512;
        if zeros {
            encoder.zero(1, at, 512, &mut log).unwrap()
        } else {
            encoder.data(1, at, &[7; 512], &mut log).unwrap()
        }
    }
    encoder.finish(&mut log);
    assert!(log.len() < 2 << 20, "{} bytes", log.len());
    log
}

#[tokio::test]
async fn a_small_log_that_costs_much_does_not_take_the_reserve() {
    // 48 MiB of changed clusters fit into what the base leaves, with 24 MiB to spare, but not above the reserve.
    for (zeros, reserve) in [(true, 0), (true, 40), (false, 0), (false, 40)] {
        let disks = [("a", 1 << 20), ("big", 48 << 20)];
        let Some((mut w, _mount)) = small_with(90, 120, reserve, &disks).await else {
            return;
        };
        w.fill_disks().await;
        let log = scattered(&w, zeros);
        w.send(w.header().position, &log).await.unwrap();
        let applied = w.store.apply(w.vm).await;
        match reserve {
            0 => drop(applied.unwrap()),
            _ => no_space(&applied),
        }
    }
}
