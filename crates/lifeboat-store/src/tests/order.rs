//! Points of an older generation below the current one, and when points arrived: what the engine's order and ages stand on.

use lifeboat_engine::ports::store::{ImageStore, Origin, Target};
use lifeboat_model::{Arrival, PointId, Position, Reading, Timestamp};

use super::lifecycle::{adopted, adoption};
use super::world::World;

#[tokio::test]
async fn points_of_an_older_generation_lie_below_the_current_one() {
    let mut w = World::new(90).await;
    w.bulk().await;
    w.rounds(6).await;
    let old: Vec<(PointId, Position)> = w.points.clone();
    let content = w.now.clone();
    let a = adoption(&mut w, Origin::Here, false, false);
    w.store.adopt(&w.root.clone().into(), w.vm, &a).await.unwrap();
    adopted(&mut w, &a, &content);
    w.receive().await;
    w.seal().await;
    for _ in 0..2 {
        w.receive().await;
    }
    w.apply_all().await;
    let info = w.store.info(w.vm).await.unwrap();
    let sealed: Vec<Position> = info.points.iter().map(|p| p.position).collect();
    let wanted: Vec<Position> = w.points.iter().map(|p| p.1).collect();
    assert_eq!(sealed, wanted, "the order of the chain");
    let (newest_old, newest) = (old.last().unwrap().1, w.durable);
    assert!(!newest.same_generation(newest_old));
    assert!(
        newest.sequence() < newest_old.sequence(),
        "numbers would say otherwise"
    );
    for log in info.logs {
        w.branch(Target::Cycle {
            position: log.position,
        })
        .await
        .unwrap();
    }
    for (id, _) in &old {
        w.branch(Target::Point { id: *id }).await.unwrap();
    }
    w.check().await;
    w.reopen().await;
    w.check().await;
    for id in w.branches.keys().copied().collect::<Vec<_>>() {
        w.store.drop_branch(w.vm, id).await.unwrap();
        w.branches.remove(&id);
    }
    while w.points.len() > 1 {
        w.store.expire_oldest(w.vm).await.unwrap();
        w.points.remove(0);
        w.check().await;
    }
    w.branch(Target::Cycle { position: newest }).await.unwrap();
    w.check().await;
}

#[tokio::test]
async fn when_a_point_arrived_outlives_the_daemon_and_may_be_missing() {
    let mut w = World::new(91).await;
    w.bulk().await;
    w.rounds(1).await;
    w.receive().await;
    w.apply_all().await;
    let arrival = Arrival {
        progress_ms: 61_000,
        at: Reading {
            boot: uuid::Uuid::from_u128(7),
            up_ms: 5,
            wall: Timestamp(1_700_000_000_000),
        },
    };
    let id = PointId(uuid::Uuid::from_u128(8));
    w.store.seal(w.vm, id, Some(arrival)).await.unwrap();
    w.points.push((id, w.durable));
    w.reopen().await;
    let arrived = |info: lifeboat_engine::ports::store::ReplicaInfo| {
        info.points.iter().map(|p| p.arrived).collect::<Vec<_>>()
    };
    let info = w.store.info(w.vm).await.unwrap();
    assert_eq!(arrived(info), [None, Some(arrival)]);
    // As a program wrote it that noted no arrivals, and no digest of the manifest either.
    let path = w.dir().join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    for point in manifest["points"].as_array_mut().unwrap() {
        point.as_object_mut().unwrap().remove("arrived");
    }
    manifest.as_object_mut().unwrap().remove("digest").unwrap();
    std::fs::write(&path, manifest.to_string()).unwrap();
    w.reopen().await;
    let info = w.store.info(w.vm).await.unwrap();
    assert_eq!(arrived(info), [None, None]);
    w.check().await;
}
