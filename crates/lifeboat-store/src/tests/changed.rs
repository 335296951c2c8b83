//! What is noted of the changes that logs bring: how much, and how much of it looks encrypted. The numbers follow from what the
//! test writes.

use lifeboat_deltalog::{Encoder, Header, LogKind};
use lifeboat_engine::ports::store::{ImageStore, Target};
use lifeboat_model::Changed;

use super::world::World;

const KIB: u64 = 1024;

/// What a log writes to the first disk, from the beginning on.
enum Piece {
    Random(u64),
    Text(u64),
    Zero(u64),
}

/// Sends a log and applies nothing.
async fn send(w: &mut World, kind: LogKind, pieces: &[Piece]) {
    let header = Header { kind, ..w.header() };
    let (mut log, mut at) = (Vec::new(), 0);
    let mut model = w.now.clone();
    let disk = model.get_mut(&header.disks[0].id).unwrap();
    let mut encoder = Encoder::new(&header, true, &mut log).unwrap();
    for piece in pieces {
        let len = match piece {
            Piece::Random(kib) | Piece::Text(kib) | Piece::Zero(kib) => kib * KIB,
        };
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        match piece {
            Piece::Random(_) => w.rng.fill(&mut bytes),
            Piece::Text(_) => bytes.fill(b'a'),
            Piece::Zero(_) => {}
        }
        match piece {
            Piece::Zero(_) => encoder.zero(0, at, len, &mut log).unwrap(),
            Piece::Random(_) | Piece::Text(_) => encoder.data(0, at, &bytes, &mut log).unwrap(),
        }
        let range = usize::try_from(at).unwrap()..usize::try_from(at + len).unwrap();
        disk[range].copy_from_slice(&bytes);
        at += len;
    }
    encoder.finish(&mut log);
    w.send(header.position, &log).await.unwrap();
    w.landed(header.position, model);
}

fn changed(data: u64, random: u64, zeroed: u64) -> Changed {
    Changed {
        data: data * KIB,
        random: random * KIB,
        zeroed: zeroed * KIB,
    }
}

#[tokio::test]
async fn a_point_says_what_changed_since_the_one_before_it() {
    use Piece::{Random, Text, Zero};
    let mut w = World::new(120).await;
    w.bulk().await;
    w.rounds(1).await;
    send(&mut w, LogKind::Delta, &[Random(128), Text(64), Zero(32)]).await;
    send(&mut w, LogKind::Delta, &[Text(4), Random(4)]).await;
    w.apply_all().await;
    let unsealed = changed(200, 132, 32);
    assert_eq!(w.store.info(w.vm).await.unwrap().unsealed, unsealed);
    // A start of the daemon forgets nothing of it, and a replay for a failover counts nothing.
    w.reopen().await;
    let position = w.durable;
    let branch = w.branch(Target::Cycle { position }).await.unwrap();
    assert_eq!(w.store.info(w.vm).await.unwrap().unsealed, unsealed);
    w.store.drop_branch(w.vm, branch).await.unwrap();
    w.branches.remove(&branch);
    // A head that is built again counts its logs once.
    let path = w.dir().join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    manifest["head"]["dirty"] = true.into();
    manifest.as_object_mut().unwrap().remove("digest").unwrap();
    std::fs::write(&path, manifest.to_string()).unwrap();
    w.reopen().await;
    send(&mut w, LogKind::Delta, &[Zero(16)]).await;
    w.seal().await;
    let info = w.store.info(w.vm).await.unwrap();
    assert_eq!(info.points.last().unwrap().changed, Some(changed(200, 132, 48)));
    assert_eq!(info.unsealed, Changed::default());
    // Pieces of a comparison are not changes of the guest.
    send(&mut w, LogKind::Sync, &[Random(64)]).await;
    send(&mut w, LogKind::Delta, &[Random(8)]).await;
    w.seal().await;
    w.reopen().await;
    let info = w.store.info(w.vm).await.unwrap();
    assert_eq!(info.points.last().unwrap().changed, Some(changed(8, 8, 0)));
    w.check().await;
}
