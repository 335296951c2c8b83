//! Replicas in encrypted directories of a real ext4 file system: what is on the medium, and what the store says and does when
//! the key is missing, where the kernel answers that no file is there. Needs root and loop devices.

use std::collections::BTreeSet;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_engine::ports::scrub::ScrubWork;
use lifeboat_engine::ports::storage::StorageFaultKind as Kind;
use lifeboat_engine::ports::store::{ImageStore, LogStore, StoreError, Target};
use lifeboat_faults::keys::take_away;
use lifeboat_faults::sandbox;
use lifeboat_faults::volume::{Layout, Volume, run};
use lifeboat_kernel::{AtRest, MasterKey, Standing, encryption};
use lifeboat_model::Timestamp;

use super::world::World;
use crate::QcowStore;

const DISKS: [(&str, usize); 2] = [("sys", 2 << 20), ("data-1", 1 << 20)];

fn keys(seed: u8) -> Arc<AtRest> {
    let bytes: [u8; 64] = core::array::from_fn(|n| seed ^ u8::try_from(n * 3).unwrap());
    Arc::new(AtRest::with(MasterKey::parse(&bytes).unwrap(), None))
}

fn store(keys: &Arc<AtRest>) -> QcowStore {
    QcowStore::new(0).with_encryption(keys.clone())
}

/// The identifier that an encrypted directory names; none where it is not encrypted.
fn identifier(dir: &Utf8Path) -> Option<String> {
    match encryption::standing(dir.as_std_path()).unwrap() {
        Standing::Open(id) | Standing::Locked(id) => Some(id.to_string()),
        Standing::Plain | Standing::Unsupported(_) | Standing::Foreign => None,
    }
}

/// Runs a test in a sandbox with a file system that can encrypt.
fn play(test: &str, body: impl AsyncFnOnce(Volume, tempfile::TempDir, Utf8PathBuf)) {
    sandbox::run(&format!("tests::locked::{test}"), || {
        let tmp = tempfile::tempdir().unwrap();
        let layout = Layout {
            mkfs: &["-O", "encrypt"],
            mount: "",
        };
        let base = tmp.path();
        let volume = Volume::create(&base.join("fs"), &base.join("below"), 128, layout).unwrap();
        let root = Utf8PathBuf::from_path_buf(base.join("fs/replicas")).unwrap();
        std::fs::create_dir(&root).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(body(volume, tmp, root));
    });
}

async fn world(keys: &Arc<AtRest>, seed: u64, root: Utf8PathBuf) -> World {
    let mut w = World::kept_by(store(keys), seed, tempfile::tempdir().unwrap(), root, &DISKS).await;
    w.bulk().await;
    w.rounds(3).await;
    w.receive().await;
    w.apply_all().await;
    w
}

/// Whether the medium has the content of the disks: any of their sectors that is not empty. Blocks of a small ext4 have 1 KiB.
fn on_medium(volume: &Volume, w: &World) -> bool {
    run(&mut std::process::Command::new("sync")).unwrap();
    let medium = std::fs::read(volume.disk.file()).unwrap();
    let there: BTreeSet<&[u8]> = medium.chunks(512).collect();
    let mut sectors = w.now.values().flat_map(|d| d.chunks_exact(512));
    sectors.any(|sector| sector.iter().any(|b| *b != sector[0]) && there.contains(sector))
}

#[track_caller]
fn is_locked<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Locked { detail, .. }) => detail,
        other => panic!("it is locked: {other:?}"),
    }
}

/// Files and directories below, whatever they are called.
fn entries(dir: &Utf8Path) -> usize {
    let below = |at: Utf8PathBuf| if at.is_dir() { entries(&at) } else { 0 };
    let all = dir.read_dir_utf8().unwrap().map(|e| e.unwrap().into_path());
    all.map(|at| 1 + below(at)).sum()
}

#[test]
fn the_medium_has_nothing_of_an_encrypted_replica() {
    play(
        "the_medium_has_nothing_of_an_encrypted_replica",
        async |volume, _tmp, root| {
            let w = world(&keys(1), 400, root.clone()).await;
            assert!(identifier(&w.dir()).is_some());
            assert!(!on_medium(&volume, &w), "guests' data is on the medium");
            w.check().await;
            // The control: the same search finds a replica that is not encrypted.
            let plain = world(&Arc::default(), 401, root).await;
            assert_eq!(identifier(&plain.dir()), None);
            assert!(on_medium(&volume, &plain));
        },
    );
}

/// Everything that could take a locked replica for a lost one is tried. It says that the replica is locked, and changes nothing.
async fn nothing_is_concluded(w: &mut World) {
    let files = entries(&w.dir());
    let header = w.header();
    let (bytes, _) = w.log(&header);
    is_locked(w.send(header.position, &bytes).await);
    is_locked(w.store.apply(w.vm).await);
    is_locked(w.store.expire_oldest(w.vm).await);
    is_locked(w.store.expire_logs(w.vm, w.durable, &[]).await);
    for position in [w.points[1].1, w.durable] {
        is_locked(w.store.verify_target(w.vm, Target::Cycle { position }).await);
    }
    for work in [ScrubWork::Restart, ScrubWork::Verify, ScrubWork::Record] {
        is_locked(w.store.scrub(w.vm, work, Timestamp(1)).await);
    }
    is_locked(w.store.firmware(w.vm).await);
    is_locked(w.store.receive_offset(w.vm, header.position).await);
    is_locked(w.store.destroy(w.vm).await);
    let info = w.store.info(w.vm).await.unwrap();
    let kinds: BTreeSet<String> = info.faults.iter().map(|f| format!("{:?}", f.kind)).collect();
    assert_eq!(
        kinds,
        BTreeSet::from([format!("{:?}", Kind::Locked)]),
        "{:?}",
        info.faults
    );
    assert_eq!((info.durable, info.damage), (w.durable, Vec::new()));
    assert_eq!(entries(&w.dir()), files, "files were made or removed");
}

#[test]
fn a_key_that_is_taken_away_loses_nothing() {
    play(
        "a_key_that_is_taken_away_loses_nothing",
        async |_volume, _tmp, root| {
            let keys = keys(1);
            let mut w = world(&keys, 402, root.clone()).await;
            let id = identifier(&w.dir()).unwrap();
            // With nothing open, and with files in use, below which some names stay readable.
            for in_use in [false, true] {
                let held = in_use.then(|| {
                    let base = std::fs::File::open(w.dir().join("disks/sys/base.raw")).unwrap();
                    (base, std::fs::File::open(w.dir()).unwrap())
                });
                take_away(root.as_std_path(), &id).unwrap();
                nothing_is_concluded(&mut w).await;
                drop(held);
                keys.unlock(w.dir().as_std_path()).unwrap();
                w.receive().await;
                w.apply_all().await;
                w.seal().await;
                assert_eq!(w.store.info(w.vm).await.unwrap().faults, []);
                w.check().await;
            }
        },
    );
}

#[test]
fn a_replica_is_opened_with_its_own_key_alone() {
    play(
        "a_replica_is_opened_with_its_own_key_alone",
        async |mut volume, _tmp, root| {
            let mut w = world(&keys(1), 403, root.clone()).await;
            let wants = identifier(&w.dir()).unwrap();
            w.store.release().await;
            for other in [Arc::default(), keys(2)] {
                volume.unmount().unwrap();
                volume.mount().unwrap();
                w.store = store(&other);
                let files = entries(&w.dir());
                let said = is_locked(w.store.open(&w.dir().into(), w.vm).await);
                assert!(said.contains(&wants), "{said}");
                // Asked again later it is locked still, and neither damaged nor absent.
                is_locked(w.store.info(w.vm).await);
                is_locked(w.store.destroy(w.vm).await);
                is_locked(
                    w.store
                        .create(&w.root.clone().into(), w.vm, &w.disks(), w.start)
                        .await,
                );
                assert_eq!(entries(&w.dir()), files);
            }
            w.store = store(&keys(1));
            w.store.open(&w.dir().into(), w.vm).await.unwrap();
            w.check().await;
        },
    );
}

#[test]
fn new_replicas_are_encrypted_and_old_ones_stay() {
    play(
        "new_replicas_are_encrypted_and_old_ones_stay",
        async |_volume, _tmp, root| {
            let mut w = world(&Arc::default(), 404, root).await;
            w.store.release().await;
            w.store = store(&keys(1));
            w.store.open(&w.dir().into(), w.vm).await.unwrap();
            w.receive().await;
            w.seal().await;
            w.check().await;
            assert_eq!(identifier(&w.dir()), None);
            // Made anew, it is encrypted; a crash between the directory and its policy leaves an empty directory.
            w.store.destroy(w.vm).await.unwrap();
            std::fs::create_dir(w.dir()).unwrap();
            w.store
                .create(&w.root.clone().into(), w.vm, &w.disks(), w.start)
                .await
                .unwrap();
            assert!(identifier(&w.dir()).is_some());
            w.store.destroy(w.vm).await.unwrap();
            // What somebody else keeps there cannot become encrypted, and is not touched.
            std::fs::create_dir(w.dir()).unwrap();
            std::fs::write(w.dir().join("notes"), "x").unwrap();
            let refused = w
                .store
                .create(&w.root.clone().into(), w.vm, &w.disks(), w.start)
                .await
                .unwrap_err();
            assert!(matches!(refused, StoreError::Io { .. }), "{refused:?}");
            assert!(refused.to_string().contains("not empty"), "{refused}");
            assert_eq!(entries(&w.dir()), 1);
        },
    );
}
