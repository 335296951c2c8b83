//! What the replicas of one owner may take together: two replicas, one quota, and what a refusal leaves.

use std::sync::Arc;

use lifeboat_engine::ports::store::{ImageStore, Quota, StoreError, Target};

use super::world::{World, stream};

fn quota(bytes: u64) -> Option<Quota> {
    let owner = "alpha.example.org".to_owned();
    Some(Quota {
        owner,
        bytes: Some(bytes),
        disk_bytes: None,
    })
}

#[track_caller]
fn refused<T: std::fmt::Debug>(said: &Result<T, StoreError>) {
    let Err(StoreError::OverQuota { owner, .. }) = said else {
        panic!("{said:?}")
    };
    assert_eq!(owner, "alpha.example.org");
}

/// A second replica in the store of the first.
async fn beside(w: &World, seed: u64) -> World {
    let mut other = World::new(seed).await;
    other.store.close(other.vm).await;
    other.store.shares = Arc::clone(&w.store.shares);
    other.store.open(&other.dir().into(), other.vm).await.unwrap();
    other
}

#[tokio::test]
async fn replicas_of_one_owner_share_what_it_may_take() {
    let mut w = World::new(100).await;
    w.fill_disks().await;
    let mut other = beside(&w, 101).await;
    w.store.bound(w.vm, quota(4 << 20));
    // 3 MiB are here, and a third replica belongs to nobody.
    let mut free = beside(&w, 102).await;
    free.fill_disks().await;
    other.store.bound(other.vm, quota(4 << 20));
    let target = other.disks()[1].clone();
    let segment = other.segment(&target, 0, &vec![1; 2 << 20]);
    refused(&other.store.bulk(other.vm, stream(&segment)).await);
    // More is allowed, and the same call succeeds.
    w.store.bound(w.vm, quota(16 << 20));
    other.store.bound(other.vm, quota(16 << 20));
    other.fill_disks().await;
    other.rounds(1).await;
    other.check().await;
    // Less than is there already: nothing more is taken, of either, and nothing is lost.
    w.store.bound(w.vm, quota(1 << 20));
    other.store.bound(other.vm, quota(1 << 20));
    let header = other.header();
    let (log, model) = other.log(&header);
    refused(&other.send(header.position, &log).await);
    assert_eq!(
        std::fs::read_dir(other.dir().join("incoming")).unwrap().count(),
        0
    );
    other.check().await;
    // A failover is not kept from anybody.
    let position = other.durable;
    other.branch(Target::Cycle { position }).await.unwrap();
    other.check().await;
    // One is removed: its part is free for the other.
    w.store.bound(w.vm, quota(8 << 20));
    other.store.bound(other.vm, quota(8 << 20));
    w.store.destroy(w.vm).await.unwrap();
    other.send(header.position, &log).await.unwrap();
    other.landed(header.position, model);
    other.seal().await;
    other.check().await;
}

#[tokio::test]
async fn a_disk_does_not_grow_beyond_what_it_may_have() {
    let mut w = World::new(104).await;
    w.fill_disks().await;
    w.rounds(1).await;
    let owner = "alpha.example.org".to_owned();
    let bound = |disk_bytes| Quota {
        owner: owner.clone(),
        bytes: None,
        disk_bytes: Some(disk_bytes),
    };
    // "sys" is larger already.
    w.store.bound(w.vm, Some(bound(3 << 19)));
    w.rounds(1).await;
    for grown in 0..2 {
        let mut header = w.header();
        header.disks[grown].size += 1 << 20;
        let (log, _) = w.log(&header);
        refused(&w.send(header.position, &log).await);
    }
    w.store.bound(w.vm, Some(bound(3 << 20)));
    let mut header = w.header();
    header.disks[1].size += 1 << 20;
    let (log, model) = w.log(&header);
    w.send(header.position, &log).await.unwrap();
    w.landed(header.position, model);
    w.seal().await;
    w.check().await;
}

#[tokio::test]
async fn what_is_overwritten_counts_once() {
    let mut w = World::new(103).await;
    w.fill_disks().await;
    // Room for the base, all logs, and two copies of each disk in layers, but not for all that is ever written.
    w.store.bound(w.vm, quota(24 << 20));
    let mut written = 0;
    while written < 48 << 20 {
        let header = w.header();
        let (log, model) = w.log(&header);
        written += log.len() as u64;
        w.send(header.position, &log).await.unwrap();
        w.landed(header.position, model);
        w.apply_all().await;
        w.seal().await;
        while w.points.len() > 2 {
            w.store.expire_oldest(w.vm).await.unwrap();
            w.points.remove(0);
        }
    }
    w.check().await;
}
