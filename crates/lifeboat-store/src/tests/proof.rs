//! What rots in the head, between the write of a log and the seal of its point: a digest never calls it right, data comes
//! back from the logs, wrong tables are named. And nothing that is right is called wrong, whatever the logs wrote.

use std::os::unix::fs::FileExt;

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::Encoder;
use lifeboat_engine::ports::scrub::{RepairSource, RepairState};
use lifeboat_engine::ports::storage::StorageFaultKind;
use lifeboat_engine::ports::store::{ImageStore, LogStore};
use lifeboat_model::PointId;

use super::scrub::{damage, files, flip, layer, names_the_right_points, prepared, record, verify};
use super::world::{World, disk};

/// Where the logs of these tests write, and how much: four clusters.
const AT: usize = 1 << 20;
const LEN: usize = 64 << 10;

/// The head's image of the disk "sys", from the manifest as anybody can read it.
fn head(w: &World) -> Utf8PathBuf {
    let text = std::fs::read_to_string(w.dir().join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    let layers = manifest["head"]["layers"].as_array().unwrap().iter();
    let mut of = layers.filter(|l| l["disk"] == "sys");
    w.dir().join(of.next().unwrap()["file"].as_str().unwrap())
}

/// A log arrives that fills a range, and is applied.
async fn fill(w: &mut World, at: usize, len: usize) {
    let header = w.header();
    let index = header.disks.iter().position(|d| d.id == disk("sys")).unwrap();
    let mut bytes = vec![0; len];
    w.rng.fill(&mut bytes);
    let mut log = Vec::new();
    let mut encoder = Encoder::new(&header, true, &mut log).unwrap();
    let index = u16::try_from(index).unwrap();
    encoder.data(index, at as u64, &bytes, &mut log).unwrap();
    encoder.finish(&mut log);
    w.send(header.position, &log).await.unwrap();
    let mut model = w.now.clone();
    model.get_mut(&disk("sys")).unwrap()[at..at + len].copy_from_slice(&bytes);
    w.landed(header.position, model);
    w.apply_all().await;
}

/// A head that one log filled a range of and a newer one a part of it.
async fn filled(seed: u64) -> World {
    let mut w = prepared(seed).await;
    w.seal().await;
    record(&w).await;
    fill(&mut w, AT, LEN).await;
    fill(&mut w, AT + (16 << 10), 16 << 10).await;
    w
}

fn number(file: &Utf8Path, at: u64) -> u64 {
    let mut bytes = [0; 8];
    std::fs::File::open(file)
        .unwrap()
        .read_exact_at(&mut bytes, at)
        .unwrap();
    u64::from_be_bytes(bytes)
}

/// The place in the file of the second-level entry of a byte of the disk, and the entry.
fn entry(file: &Utf8Path, guest: u64) -> (u64, u64) {
    let cluster = 1 << (number(file, 16) & 0xffff_ffff);
    let l1 = number(file, 40);
    let per_table = cluster / 8;
    let index = guest / cluster;
    let l2 = number(file, l1 + index / per_table * 8) & 0x00ff_ffff_ffff_fe00;
    let at = l2 + index % per_table * 8;
    (at, number(file, at))
}

/// Where a byte of the disk is in the file.
fn host(file: &Utf8Path, guest: u64) -> u64 {
    let cluster = 1 << (number(file, 16) & 0xffff_ffff);
    (entry(file, guest).1 & 0x00ff_ffff_ffff_fe00) + guest % cluster
}

#[tokio::test]
async fn data_that_rots_before_the_seal_comes_back_from_the_logs() {
    // What the older log wrote, what the newer one did, and the last byte.
    for (seed, offset) in [(701, 5), (702, (16 << 10) + 7), (703, LEN - 1)] {
        let mut w = filled(seed).await;
        let file = head(&w);
        flip(&file, host(&file, (AT + offset) as u64));
        w.seal().await;
        record(&w).await;
        let found = damage(&w).await;
        assert_eq!((found.len(), &found[0].file), (1, &file), "{offset}");
        names_the_right_points(&w, &found[0], w.points.len() - 1);
        assert_eq!(found[0].points, [w.points.last().unwrap().0]);
        // The logs stay until the repair is over.
        w.store.expire_logs(w.vm, w.durable, &[]).await.unwrap();
        let done = w.store.repair(w.vm, RepairSource::Logs).await.unwrap();
        assert_eq!((done.blocks, done.left), (1, 0));
        assert_eq!(verify(&w).await.found, 0);
        w.check().await;
    }
}

#[tokio::test]
async fn tables_that_rot_before_the_seal_are_named() {
    let cases: [(&str, u64, u32); 4] = [
        // Zeros instead of data.
        ("zero flag", AT as u64, 0),
        // Another place in the file.
        ("place", AT as u64, 14),
        // What is below instead of data.
        ("allocated", AT as u64 + (32 << 10), 63),
        // A place that makes no sense.
        ("odd place", AT as u64, 10),
    ];
    for (n, (what, guest, bit)) in (0..).zip(cases) {
        let mut w = filled(710 + n).await;
        let file = head(&w);
        let (at, was) = entry(&file, guest);
        let now = match what {
            "allocated" => 0,
            _ => was ^ (1 << bit),
        };
        let writable = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
        writable.write_all_at(&now.to_be_bytes(), at).unwrap();
        w.seal().await;
        record(&w).await;
        let found = damage(&w).await;
        assert!(!found.is_empty(), "{what}");
        assert_eq!(found[0].file, file, "{what}");
        names_the_right_points(&w, &found[0], w.points.len() - 1);
    }
}

#[tokio::test]
async fn a_table_that_shows_zeros_nobody_wrote_is_named() {
    let mut w = filled(720).await;
    let file = head(&w);
    // A cluster in a table that is there, which no log wrote.
    let cluster = 1_u64 << (number(&file, 16) & 0xffff_ffff);
    let free = (0..(2 << 20) / cluster).find(|n| entry(&file, n * cluster).1 == 0);
    let (at, _) = entry(&file, free.unwrap() * cluster);
    let writable = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    writable.write_all_at(&1_u64.to_be_bytes(), at).unwrap();
    w.seal().await;
    record(&w).await;
    let found = damage(&w).await;
    assert_eq!((found.len(), found[0].repair), (1, RepairState::Hopeless));
    assert!(found[0].what.contains("which no log wrote"), "{found:?}");
    names_the_right_points(&w, &found[0], w.points.len() - 1);
}

#[tokio::test]
async fn a_head_that_rots_is_found_by_a_scrub_and_built_again() {
    let mut w = filled(730).await;
    let file = head(&w);
    flip(&file, host(&file, AT as u64 + 3));
    assert_eq!(verify(&w).await.found, 1);
    let faults = w.store.info(w.vm).await.unwrap().faults;
    assert!(
        faults
            .iter()
            .any(|f| f.kind == StorageFaultKind::Rebuilt && f.path == file),
        "{faults:?}"
    );
    assert_eq!(damage(&w).await, [], "nothing sealed is hurt");
    w.seal().await;
    assert_eq!(verify(&w).await.found, 0);
    w.check().await;
    // A log that comes while a scrub is on its way is no damage.
    fill(&mut w, AT, LEN).await;
    assert_eq!(verify(&w).await.found, 0);
}

#[tokio::test]
async fn logs_stay_until_what_was_made_of_them_was_compared() {
    let mut w = World::new(740).await;
    w.bulk().await;
    w.rounds(3).await;
    w.store.expire_logs(w.vm, w.durable, &[]).await.unwrap();
    let logs = files(&w.dir().join("logs")).len();
    assert_eq!(logs, 3, "none was compared");
    record(&w).await;
    w.store.expire_logs(w.vm, w.durable, &[]).await.unwrap();
    assert_eq!(files(&w.dir().join("logs")).len(), 0);
    assert_eq!(verify(&w).await.found, 0);
    // A host that never compares does not keep logs for ever.
    w.rounds(7).await;
    w.store.expire_logs(w.vm, w.durable, &[]).await.unwrap();
    assert_eq!(files(&w.dir().join("logs")).len(), 4);
}

#[tokio::test]
async fn what_logs_wrote_is_never_called_damage() {
    for seed in 800..806 {
        let mut w = World::new(seed).await;
        w.bulk().await;
        for _ in 0..6 {
            for _ in 0..1 + w.rng.below(4) {
                w.receive().await;
                if w.rng.below(3) == 0 {
                    w.apply_all().await;
                }
            }
            // Disks grow and become smaller, to odd sizes as well.
            if w.rng.below(2) == 0 {
                let by = usize::try_from(1 + w.rng.below(200)).unwrap() * 512;
                let grows = w.rng.below(2) == 0;
                for data in w.now.values_mut() {
                    let size = if grows { data.len() + by } else { data.len() - by };
                    data.resize(size, 0);
                }
            }
            if w.rng.below(4) == 0 {
                w.reopen().await;
            }
            w.seal().await;
            if w.rng.below(3) > 0 {
                record(&w).await;
            }
            if w.rng.below(3) == 0 && w.points.len() > 1 {
                w.store.expire_oldest(w.vm).await.unwrap();
                w.points.remove(0);
            }
        }
        let found = verify(&w).await.found;
        assert_eq!((found, damage(&w).await), (0, Vec::new()), "seed {seed}");
        w.check().await;
    }
}

#[tokio::test]
async fn a_layer_with_too_much_damage_is_no_layer() {
    let mut w = prepared(750).await;
    w.seal().await;
    record(&w).await;
    fill(&mut w, 0, 1 << 20).await;
    let file = head(&w);
    let first = host(&file, 0);
    let writable = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    writable.write_all_at(&vec![9; 1 << 20], first).unwrap();
    let id = PointId(w.rng.uuid());
    w.store.seal(w.vm, id, None).await.unwrap();
    record(&w).await;
    let found = damage(&w).await;
    assert_eq!(found[0].points, [id]);
    w.points.push((id, w.durable));
    let done = w.store.repair(w.vm, RepairSource::Logs).await.unwrap();
    assert_eq!(done.left, 0, "256 blocks are repaired: {done:?}");
    assert_eq!(layer(&w, w.points.len() - 1, "sys"), file);
    w.check().await;
}
