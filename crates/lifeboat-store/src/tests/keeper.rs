//! Logs in files for images that are kept elsewhere: an image store in memory is given the log store, and sees of it only what the
//! port says.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::TryStreamExt;
use lifeboat_deltalog::{Decoder, FrameBody, Item};
use lifeboat_engine::ports::store::{ImageStore, LogKeeper, StoreError, StoreLocation};
use lifeboat_model::{DiskId, GenerationId, Position, VmId};

use super::world::{Model, World, disk, stream};
use crate::QcowStore;

/// Images as plain bytes. They stand for any store that has no directory.
struct MemoryImages {
    logs: Arc<dyn LogKeeper>,
    vm: VmId,
    /// Where the log store says that the logs are.
    place: StoreLocation,
    applied: Position,
    /// The newest recovery point.
    sealed: Position,
    head: BTreeMap<DiskId, Vec<u8>>,
}

impl MemoryImages {
    /// Images first, logs last, as the port says.
    async fn create(logs: Arc<dyn LogKeeper>, location: &StoreLocation, vm: VmId, start: Position) -> Self {
        let place = logs.begin_logs(location, vm, start).await.unwrap();
        Self {
            logs,
            vm,
            place,
            applied: start,
            sealed: start,
            head: BTreeMap::new(),
        }
    }

    /// Applies the log that continues the head; false when none does.
    async fn apply(&mut self) -> bool {
        let stored = self.logs.stored_logs(self.vm).await.unwrap();
        let Some(next) = stored.logs.iter().find(|l| l.parent == self.applied) else {
            return false;
        };
        let body = self.logs.read_log(self.vm, next.position, 0).await.unwrap();
        let pieces: Vec<bytes::Bytes> = body.try_collect().await.unwrap();
        let mut decoder = Decoder::new();
        pieces.iter().for_each(|piece| decoder.push(piece));
        let mut disks = Vec::new();
        while let Some(item) = decoder.next().unwrap() {
            match item {
                Item::Header(header) => {
                    for d in &header.disks {
                        let size = usize::try_from(d.size).unwrap();
                        self.head.entry(d.id.clone()).or_default().resize(size, 0);
                    }
                    disks = header.disks;
                }
                Item::Frame(frame) => {
                    let data = self.head.get_mut(&disks[usize::from(frame.disk)].id).unwrap();
                    let from = usize::try_from(frame.offset).unwrap();
                    match frame.body {
                        FrameBody::Data(bytes) => data[from..from + bytes.len()].copy_from_slice(&bytes),
                        FrameBody::Zero(len) => data[from..from + usize::try_from(len).unwrap()].fill(0),
                    }
                }
                Item::End(_) => {}
            }
        }
        decoder.finish().unwrap();
        self.applied = next.position;
        true
    }
}

/// A source of logs, whose own replica plays no part, and images that are given a log store of files.
async fn given(seed: u64) -> (World, StoreLocation, MemoryImages) {
    let w = World::new(seed).await;
    let location = StoreLocation::from(w.root.join("logs-alone"));
    std::fs::create_dir(location.directory()).unwrap();
    let keeper: Arc<dyn LogKeeper> = Arc::new(QcowStore::new(0));
    let images = MemoryImages::create(keeper, &location, w.vm, w.start).await;
    (w, location, images)
}

/// A random log arrives in the log store.
async fn arrives(w: &mut World, logs: &dyn LogKeeper) -> Model {
    let header = w.header();
    let (bytes, model) = w.log(&header);
    let received = logs
        .receive(w.vm, header.position, 0, stream(&bytes))
        .await
        .unwrap();
    assert_eq!(received.durable, header.position);
    w.landed(header.position, model.clone());
    model
}

/// The log store as after a start of the daemon.
async fn reopened(images: &mut MemoryImages) -> Position {
    images.logs = Arc::new(QcowStore::new(0));
    let logs = images.logs.open_logs(&images.place, images.vm).await.unwrap();
    logs.durable
}

#[tokio::test]
async fn images_elsewhere_apply_the_logs_that_they_were_given() {
    let (mut w, _, mut images) = given(81).await;
    for round in 0..6 {
        let logs = images.logs.clone();
        let model = arrives(&mut w, &*logs).await;
        if round % 2 == 0 {
            assert_eq!(reopened(&mut images).await, w.durable);
        }
        assert!(images.apply().await);
        assert!(!images.apply().await);
        assert_eq!(images.head, model, "round {round}");
    }
}

#[tokio::test]
async fn logs_that_images_elsewhere_need_stay_and_the_next_start_goes_on_from_them() {
    let (mut w, location, mut images) = given(82).await;
    for round in 1..=8 {
        let logs = images.logs.clone();
        arrives(&mut w, &*logs).await;
        if round == 5 {
            while images.apply().await {}
            images.sealed = images.applied;
        }
    }
    let left = async |images: &MemoryImages| {
        let stored = images.logs.stored_logs(images.vm).await.unwrap();
        stored
            .logs
            .iter()
            .map(|l| l.position.sequence())
            .collect::<Vec<_>>()
    };
    let upto = w.durable;
    images
        .logs
        .expire_logs(w.vm, upto, &[images.sealed])
        .await
        .unwrap();
    assert_eq!(left(&images).await, [6, 7, 8], "what the head is built from");
    assert_eq!(reopened(&mut images).await, w.durable);
    assert_eq!(left(&images).await, [6, 7, 8]);
    while images.apply().await {}
    assert_eq!(images.head, w.now);

    // Everything is sealed: nothing is left, and the next log is still received.
    images.sealed = images.applied;
    images
        .logs
        .expire_logs(w.vm, upto, &[images.sealed])
        .await
        .unwrap();
    assert_eq!(reopened(&mut images).await, w.durable);
    assert!(left(&images).await.is_empty());
    let logs = images.logs.clone();
    let model = arrives(&mut w, &*logs).await;
    assert!(images.apply().await);
    assert_eq!(images.head, model);

    // Begun again where they are they stay; another start takes their place.
    let again = images.logs.begin_logs(&location, w.vm, w.start).await.unwrap();
    assert_eq!(again, images.place);
    assert_eq!(left(&images).await, [9]);
    let other = Position::start(GenerationId(uuid::Uuid::from_u128(7)));
    images.logs.begin_logs(&location, w.vm, other).await.unwrap();
    assert!(left(&images).await.is_empty());
    images.logs.end_logs(w.vm).await.unwrap();
    images.logs.end_logs(w.vm).await.unwrap();
    assert!(matches!(
        images.logs.stored_logs(w.vm).await,
        Err(StoreError::NoReplica(_))
    ));
    assert!(!images.place.directory().exists());
}

#[tokio::test]
async fn logs_of_images_in_files_are_not_taken_for_logs_alone() {
    let mut w = World::new(83).await;
    w.receive().await;
    let location = StoreLocation::from(w.root.clone());
    let other = Position::start(GenerationId(uuid::Uuid::from_u128(7)));
    for start in [w.start, other] {
        let begun = w.store.begin_logs(&location, w.vm, start).await;
        assert!(matches!(begun, Err(StoreError::Conflict(_))), "{begun:?}");
    }
    let place = w.store.place(&location, w.vm);
    let opened = w.store.open_logs(&place, w.vm).await;
    assert!(matches!(opened, Err(StoreError::Conflict(_))), "{opened:?}");
    w.store.open(&place, w.vm).await.unwrap();
    let ended = w.store.end_logs(w.vm).await;
    assert!(matches!(ended, Err(StoreError::Conflict(_))), "{ended:?}");
    w.seal().await;
    assert_eq!(w.store.info(w.vm).await.unwrap().disks.len(), 2);
    assert_eq!(w.now[&disk("sys")].len(), 2 << 20);
}
