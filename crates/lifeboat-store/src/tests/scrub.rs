//! Bit rot on real files: one flipped bit in any kind of file is found by the next pass, the right points are named,
//! nothing gives damage a digest that calls it right, and what is repaired is what was there. What a point must hold is
//! compared by `qemu-img` with what the test wrote.

use std::os::unix::fs::FileExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_deltalog::{Encoder, Header, LogKind};
use lifeboat_engine::ports::scrub::{
    DamagedFile, NewestData, OfferedRange, RepairSource, RepairState, ScrubNext, ScrubPass, ScrubWork,
    WantedRange,
};
use lifeboat_engine::ports::store::{CompareRange, ImageStore, StoreError};
use lifeboat_model::{PointId, Timestamp};

use super::world::{Model, World, disk, run};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

pub(super) async fn record(w: &World) {
    while w.store.scrub(w.vm, ScrubWork::Record, NOW).await.unwrap().next != ScrubNext::Nothing {}
}

pub(super) async fn verify(w: &World) -> ScrubPass {
    record(w).await;
    loop {
        let step = w.store.scrub(w.vm, ScrubWork::Verify, NOW).await.unwrap();
        if let ScrubNext::Complete(pass) = step.next {
            return pass;
        }
    }
}

pub(super) async fn damage(w: &World) -> Vec<DamagedFile> {
    w.store.info(w.vm).await.unwrap().damage
}

/// Four points above a copied base, a log that is applied and one that is not, and digests of everything.
pub(super) async fn prepared(seed: u64) -> World {
    let mut w = World::new(seed).await;
    w.bulk().await;
    w.rounds(4).await;
    w.receive().await;
    w.apply_all().await;
    w.receive().await;
    let pass = verify(&w).await;
    assert_eq!(pass.found, 0);
    w
}

pub(super) fn flip(path: &Utf8Path, byte: u64) {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut there = [0];
    file.read_exact_at(&mut there, byte).unwrap();
    file.write_all_at(&[there[0] ^ 8], byte).unwrap();
}

fn len(path: &Utf8Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

pub(super) fn layer(w: &World, point: usize, name: &str) -> Utf8PathBuf {
    w.point_files(w.points[point].0)[&disk(name)].clone()
}

fn base(w: &World, name: &str) -> Utf8PathBuf {
    w.dir().join(format!("disks/{name}/base.raw"))
}

pub(super) fn files(dir: &Utf8Path) -> Vec<Utf8PathBuf> {
    let all = std::fs::read_dir(dir).unwrap();
    let mut all: Vec<_> = all
        .map(|e| Utf8PathBuf::from_path_buf(e.unwrap().path()).unwrap())
        .collect();
    all.sort();
    all
}

/// Whether a point shows something else than it should, or nothing at all.
fn is_wrong(w: &World, point: PointId, model: &Model) -> bool {
    w.point_files(point).iter().any(|(disk, file)| {
        let truth = w.root.join("truth");
        std::fs::write(&truth, &model[disk]).unwrap();
        let out = run(
            "qemu-img",
            &[
                "compare",
                "-U",
                "-f",
                "raw",
                "-F",
                "qcow2",
                truth.as_str(),
                file.as_str(),
            ],
        );
        !out.status.success()
    })
}

/// Every point that `qemu-img` finds wrong is named, and none below the damage is.
pub(super) fn names_the_right_points(w: &World, found: &DamagedFile, lowest: usize) {
    for (n, (id, position)) in w.points.iter().enumerate() {
        let named = found.points.contains(id);
        assert!(!named || n >= lowest, "point {n} is below {}", found.file);
        assert!(
            named || !is_wrong(w, *id, &w.at[position]),
            "point {n} is wrong and not named: {found:?}"
        );
    }
}

#[tokio::test]
async fn one_flipped_bit_in_any_file_is_found_and_the_right_points_are_named() {
    let w = prepared(501).await;
    let mut places: Vec<(Utf8PathBuf, u64, usize)> = Vec::new();
    // Not in holes: nothing is stored there that could rot.
    for (name, some) in [("sys", 2), ("data-1", 1)] {
        let copied = &w.at[&w.start][&disk(name)];
        let stored: Vec<u64> = (0..)
            .zip(copied)
            .filter(|(_, b)| **b != 0)
            .map(|(n, _)| n)
            .collect();
        let parts = stored.chunks(stored.len() / some);
        places.extend(parts.take(some).map(|p| (base(&w, name), p[p.len() - 1], 0)));
    }
    // The header, the size in it, tables, and data.
    for (name, point) in [("sys", 0), ("data-1", 1), ("sys", 3)] {
        let file = layer(&w, point, name);
        for at in [3, 24, len(&file) / 3, len(&file) - 5] {
            places.push((file.clone(), at, point));
        }
    }
    for (file, at, lowest) in places {
        flip(&file, at);
        assert_eq!(verify(&w).await.found, 1, "bit {at} of {file}");
        let found = damage(&w).await;
        assert_eq!(found.iter().map(|d| &d.file).collect::<Vec<_>>(), [&file]);
        names_the_right_points(&w, &found[0], lowest);
        flip(&file, at);
        assert_eq!(verify(&w).await.found, 0);
        assert_eq!(damage(&w).await, [], "put right by hand");
    }
}

#[tokio::test]
async fn one_flipped_bit_in_a_kept_log_is_found() {
    let w = prepared(502).await;
    let logs = files(&w.dir().join("logs"));
    assert!(logs.len() >= 2);
    for log in logs {
        for at in [0, 40, len(&log) / 2, len(&log) - 3] {
            flip(&log, at);
            assert_eq!(verify(&w).await.found, 1, "byte {at} of {log}");
            let found = damage(&w).await;
            assert_eq!((found.len(), &found[0].file), (1, &log));
            let at_position = found[0].log.unwrap();
            assert!(
                log.as_str()
                    .ends_with(&format!("{:020}.lbd", at_position.sequence()))
            );
            assert_eq!(found[0].newest, NewestData::Good);
            flip(&log, at);
            verify(&w).await;
            assert_eq!(damage(&w).await, []);
        }
    }
}

#[tokio::test]
async fn damage_and_progress_survive_a_restart() {
    let mut w = prepared(503).await;
    flip(&layer(&w, 1, "sys"), 70);
    let pass = verify(&w).await;
    assert_eq!(pass.found, 1);
    w.store.scrub(w.vm, ScrubWork::Verify, NOW).await.unwrap();
    let (was, before) = (damage(&w).await, w.store.scrub_state(w.vm).await.unwrap());
    assert!(before.running.is_some_and(|p| p.done > 0));
    w.reopen().await;
    assert_eq!(damage(&w).await, was);
    assert_eq!(w.store.scrub_state(w.vm).await.unwrap(), before);
}

#[tokio::test]
async fn a_replica_without_digests_says_that_it_is_seen_for_the_first_time() {
    let mut w = prepared(504).await;
    // As a version without digests left it.
    std::fs::remove_dir_all(w.dir().join("scrub")).unwrap();
    w.reopen().await;
    let mut first = 0;
    loop {
        let step = w.store.scrub(w.vm, ScrubWork::Verify, NOW).await.unwrap();
        if let ScrubNext::Complete(pass) = step.next {
            assert_eq!(pass.found, 0);
            first += pass.first_seen;
            break;
        }
    }
    assert!(first > 0);
    assert_eq!(verify(&w).await.first_seen, 0, "and verified from then on");
    w.check().await;
}

#[tokio::test]
async fn digests_stay_true_across_expiry() {
    let mut w = prepared(505).await;
    w.seal().await;
    while w.points.len() > 1 {
        w.store.expire_oldest(w.vm).await.unwrap();
        w.points.remove(0);
        let pass = verify(&w).await;
        assert_eq!(
            (pass.found, pass.first_seen),
            (0, 0),
            "nothing is without a digest"
        );
        w.check().await;
    }
    let base = base(&w, "sys");
    flip(&base, 12_345);
    assert_eq!(verify(&w).await.found, 1);
    names_the_right_points(&w, &damage(&w).await[0], 0);
}

#[tokio::test]
async fn an_interrupted_expiry_leaves_no_wrong_digest() {
    let mut n = 1;
    loop {
        let mut w = prepared(506).await;
        w.store.steps.fail_at(n);
        let failed = w.store.expire_oldest(w.vm).await.is_err();
        if w.store.steps.pending() {
            break;
        }
        w.reopen().await;
        assert_eq!(verify(&w).await.found, 0, "after step {n}");
        if w.store.info(w.vm).await.unwrap().points.len() == 4 {
            assert!(failed);
            w.store.expire_oldest(w.vm).await.unwrap();
        }
        w.points.remove(0);
        assert_eq!(verify(&w).await.found, 0, "after step {n} and a repetition");
        w.check().await;
        n += 1;
    }
    assert!(n > 8, "{n}");
}

/// What a layer holds: bytes of the disk, how many, and where they are in the file.
fn data(file: &Utf8Path) -> Vec<[u64; 3]> {
    let name =
        format!(r#"json:{{"driver":"qcow2","backing":null,"file":{{"driver":"file","filename":"{file}"}}}}"#);
    let out = run("qemu-img", &["map", "-U", "--output=json", &name]);
    let map: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let data = map.as_array().unwrap().iter().filter(|e| e["data"] == true);
    data.map(|e| ["start", "length", "offset"].map(|k| e[k].as_u64().unwrap()))
        .collect()
}

fn first_data(file: &Utf8Path) -> (u64, u64) {
    let [start, _, host] = data(file)[0];
    (start, host)
}

/// A replica whose oldest point holds data above something in the base, both wherever it is: the byte of the disk, and
/// where it is in the layer.
async fn with_data_over_data(first: u64) -> (World, u64, u64) {
    for seed in first.. {
        let w = prepared(seed).await;
        let file = layer(&w, 0, "sys");
        let below = &w.at[&w.start][&disk("sys")];
        for [start, len, host] in data(&file) {
            let stored = |n: &u64| below[usize::try_from(start + n).unwrap()] != 0;
            if let Some(n) = (0..len).step_by(512).find(stored) {
                return (w, start + n, host + n);
            }
        }
    }
    panic!("no seed is left")
}

#[tokio::test]
async fn expiry_does_not_make_damage_right() {
    // In the layer that goes, and in the base where that layer is copied to.
    for place in ["layer", "base"] {
        let (w, guest, host) = with_data_over_data(507).await;
        let file = layer(&w, 0, "sys");
        match place {
            "layer" => flip(&file, host + 17),
            _ => flip(&base(&w, "sys"), guest),
        }
        let refused = w.store.expire_oldest(w.vm).await;
        assert!(
            matches!(refused, Err(StoreError::Damaged { .. })),
            "{place}: {refused:?}"
        );
        let found = damage(&w).await;
        assert_eq!(found.len(), 1, "{place}: {found:?}");
        names_the_right_points(&w, &found[0], 0);
        assert_eq!(w.store.info(w.vm).await.unwrap().points.len(), 4);
    }
}

#[tokio::test]
async fn what_cannot_be_repaired_keeps_its_mark_when_it_is_merged() {
    let (mut w, guest, host) = with_data_over_data(600).await;
    let file = layer(&w, 0, "sys");
    flip(&file, host + 17);
    flip(&file, host + 18);
    assert_eq!(verify(&w).await.found, 1);
    let named = damage(&w).await[0].points.clone();
    w.store.repair(w.vm, RepairSource::None).await.unwrap();
    assert_eq!(damage(&w).await[0].repair, RepairState::Hopeless);
    w.store.expire_oldest(w.vm).await.unwrap();
    let gone = w.points.remove(0);
    verify(&w).await;
    let found = damage(&w).await;
    assert_eq!(
        (found.len(), &found[0].file),
        (1, &base(&w, "sys")),
        "around byte {guest}"
    );
    let left: Vec<PointId> = named.into_iter().filter(|p| *p != gone.0).collect();
    assert_eq!(found[0].points, left);
    names_the_right_points(&w, &found[0], 0);
}

fn offer(wanted: &[WantedRange], from: &Model) -> RepairSource {
    let offered = wanted.iter().map(|r| {
        let data = &from[&r.disk];
        let at = usize::try_from(r.offset).unwrap();
        let end = (at + r.len as usize).min(data.len());
        OfferedRange {
            disk: r.disk.clone(),
            offset: r.offset,
            data: data[at..end].to_vec().into(),
        }
    });
    RepairSource::Copy(offered.collect())
}

#[tokio::test]
async fn damaged_data_is_repaired_from_logs_or_from_another_copy() {
    for source in ["logs", "copy"] {
        let w = prepared(509).await;
        let file = layer(&w, 3, "sys");
        let (guest, host) = first_data(&file);
        for byte in [1, 500, 1000] {
            flip(&file, host + byte);
        }
        assert_eq!(verify(&w).await.found, 1);
        let at = &w.at[&w.points[3].1];
        assert!(is_wrong(&w, w.points[3].0, at), "byte {guest}");
        let nothing = w
            .store
            .repair(w.vm, RepairSource::Copy(Vec::new()))
            .await
            .unwrap();
        assert!(nothing.blocks == 0 && nothing.left == 1 && !nothing.wanted.is_empty());
        let wrong = Model::from([(disk("sys"), vec![7; 2 << 20])]);
        let lied = w
            .store
            .repair(w.vm, offer(&nothing.wanted, &wrong))
            .await
            .unwrap();
        assert_eq!(
            (lied.blocks, lied.left),
            (0, 1),
            "only what has the digest is believed"
        );
        let done = match source {
            "logs" => w.store.repair(w.vm, RepairSource::Logs).await.unwrap(),
            _ => w.store.repair(w.vm, offer(&nothing.wanted, at)).await.unwrap(),
        };
        assert_eq!(
            (done.blocks, done.left, done.files),
            (1, 0, vec![file.clone()]),
            "{source}"
        );
        assert_eq!(damage(&w).await, []);
        assert_eq!(verify(&w).await.found, 0);
        w.check().await;
    }
}

#[tokio::test]
async fn the_base_is_repaired_from_what_the_primary_has_now() {
    let w = prepared(510).await;
    let base = base(&w, "sys");
    let (old, new) = (&w.at[&w.start][&disk("sys")], &w.now[&disk("sys")]);
    let piece = |n: usize| n * 4096..(n + 1) * 4096;
    // A piece that is what it was, in a block that was written to elsewhere since.
    let found = (0..old.len() / 4096).find(|n| {
        let block = n / 16 * 65_536..(n / 16 + 1) * 65_536;
        old[piece(*n)] == new[piece(*n)]
            && old[piece(*n)].iter().any(|b| *b != 0)
            && old[block.clone()] != new[block]
    });
    let at = found.unwrap() as u64 * 4096;
    for byte in [10, 20, 3000] {
        flip(&base, at + byte);
    }
    assert_eq!(verify(&w).await.found, 1);
    let asked = w
        .store
        .repair(w.vm, RepairSource::Copy(Vec::new()))
        .await
        .unwrap();
    let done = w.store.repair(w.vm, offer(&asked.wanted, &w.now)).await.unwrap();
    assert_eq!((done.blocks, done.left), (1, 0));
    w.check().await;
}

#[tokio::test]
async fn a_header_with_one_wrong_bit_is_repaired_without_another_copy() {
    let mut w = prepared(511).await;
    let file = layer(&w, 2, "data-1");
    flip(&file, 2);
    assert_eq!(verify(&w).await.found, 1);
    let found = damage(&w).await;
    let above: Vec<PointId> = w.points[2..].iter().map(|p| p.0).collect();
    assert_eq!((&found[0].points, found[0].newest), (&above, NewestData::Spoiled));
    let none = w.store.repair(w.vm, RepairSource::Logs).await.unwrap();
    assert_eq!((none.blocks, none.left, none.untried), (0, 1, 1));
    let done = w.store.repair(w.vm, RepairSource::OneBit).await.unwrap();
    assert_eq!((done.blocks, done.left), (1, 0));
    w.reopen().await;
    w.check().await;
}

/// Digests of a whole disk, as a primary sends them.
fn asked(data: &[u8], block: u32) -> CompareRange {
    let digests = data
        .chunks(block as usize)
        .flat_map(|b| blake3::hash(b).as_bytes()[..16].to_vec());
    CompareRange {
        disk: 1,
        offset: 0,
        len: data.len() as u64,
        block,
        digests: STANDARD.encode(digests.collect::<Vec<_>>()),
    }
}

#[tokio::test]
async fn a_comparison_makes_the_newest_data_good_again_and_no_older_point() {
    let mut w = World::new(512).await;
    w.bulk().await;
    w.rounds(2).await;
    verify(&w).await;
    let sys = disk("sys");
    let (old, new) = (&w.at[&w.start][&sys], &w.now[&sys]);
    let kept = (0..32).find(|n| {
        let block = n * 65_536..(n + 1) * 65_536;
        old[block.clone()] == new[block.clone()] && old[block].iter().any(|b| *b != 0)
    });
    let block = kept.unwrap() as u64 * 65_536;
    flip(&base(&w, "sys"), block + 9000);
    verify(&w).await;
    assert_eq!(damage(&w).await[0].newest, NewestData::Spoiled);
    let hurt: Vec<PointId> = w.points.iter().map(|p| p.0).collect();
    assert_eq!(damage(&w).await[0].points, hurt);
    // What a primary does: coarse, then fine, then a log with what differs and one that closes it.
    let range = |block: u32| CompareRange {
        disk: u16::try_from(w.disks().iter().position(|d| d.id == sys).unwrap()).unwrap(),
        ..asked(&w.now[&sys], block)
    };
    let coarse = w.store.compare(w.vm, &[range(65_536)]).await.unwrap();
    assert_eq!(coarse, [[u32::try_from(block / 65_536).unwrap()]]);
    let fine = w.store.compare(w.vm, &[range(4096)]).await.unwrap();
    assert_eq!(fine, [[u32::try_from((block + 9000) / 4096).unwrap()]]);
    let at = usize::try_from(fine[0][0]).unwrap() * 4096;
    for kind in [LogKind::Sync, LogKind::Delta] {
        let header = Header { kind, ..w.header() };
        let mut log = Vec::new();
        let mut encoder = Encoder::new(&header, true, &mut log).unwrap();
        if kind == LogKind::Sync {
            let n = header.disks.iter().position(|d| d.id == sys).unwrap();
            let piece = &w.now[&sys][at..at + 4096];
            encoder
                .data(u16::try_from(n).unwrap(), at as u64, piece, &mut log)
                .unwrap();
        }
        encoder.finish(&mut log);
        w.send(header.position, &log).await.unwrap();
        let now = w.now.clone();
        w.landed(header.position, now);
    }
    w.seal().await;
    let found = damage(&w).await;
    assert_eq!((&found[0].points, found[0].newest), (&hurt, NewestData::Good));
    assert!(!is_wrong(&w, w.points[2].0, &w.now));
}

#[tokio::test]
async fn a_base_that_an_expiry_makes_longer_is_not_called_damaged() {
    let mut w = prepared(511).await;
    // Its last block is not a whole one, and nothing is written there.
    let grown = w.now.get_mut(&disk("data-1")).unwrap();
    let size = grown.len() + 9 * 512;
    grown.resize(size, 0);
    let header = w.header();
    let mut log = Vec::new();
    let encoder = Encoder::new(&header, true, &mut log).unwrap();
    encoder.finish(&mut log);
    w.send(header.position, &log).await.unwrap();
    let model = w.now.clone();
    w.landed(header.position, model);
    w.seal().await;
    w.rounds(1).await;
    record(&w).await;
    while w.points.len() > 1 {
        w.store.expire_oldest(w.vm).await.unwrap();
        w.points.remove(0);
        let pass = verify(&w).await;
        assert_eq!((pass.found, pass.first_seen), (0, 0));
    }
    assert_eq!(len(&base(&w, "data-1")), size as u64);
    w.check().await;
}
