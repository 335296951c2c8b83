//! Logs that are damaged, cut, or not ours, and transfers that break off.

use bytes::Bytes;
use lifeboat_deltalog::{Encoder, Header, LogKind};
use lifeboat_engine::ports::store::{ImageStore, LogStore, StoreError};
use lifeboat_model::{GenerationId, Position, VmId};

use super::world::{World, body, stream};

async fn ready(seed: u64) -> World {
    let mut w = World::new(seed).await;
    w.bulk().await;
    w.rounds(2).await;
    w
}

/// What an error must say, and what is wrong with the header.
type Wrong = (&'static str, fn(&mut Header));

fn one_frame(header: &Header) -> Vec<u8> {
    let mut log = Vec::new();
    let mut encoder = Encoder::new(header, false, &mut log).unwrap();
    encoder.data(0, 0, &[7; 4096], &mut log).unwrap();
    encoder.finish(&mut log);
    log
}

fn nothing_left(w: &World) {
    let left: Vec<_> = std::fs::read_dir(w.dir().join("incoming")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_log_that_does_not_belong_here_is_refused() {
    let mut w = ready(60).await;
    let wrong: [Wrong; 3] = [
        ("of VM", |h| h.vm = VmId(uuid::Uuid::nil())),
        ("initial copy", |h| h.kind = LogKind::Bulk),
        ("announced", |h| h.position = h.position.next()),
    ];
    for (why, change) in wrong {
        let mut header = w.header();
        let position = header.position;
        change(&mut header);
        let said = w.send(position, &one_frame(&header)).await;
        let Err(StoreError::BadLog(said)) = said else {
            panic!("{why}: {said:?}")
        };
        assert!(said.contains(why), "{why}: {said}");
        nothing_left(&w);
    }
    let mut header = w.header();
    header.parent = Position::from_parts(header.parent.generation(), header.parent.sequence() - 1);
    let said = w.send(header.position, &one_frame(&header)).await;
    assert!(matches!(said, Err(StoreError::OutOfSequence { .. })), "{said:?}");
    header = w.header();
    header.parent = Position::from_parts(GenerationId(uuid::Uuid::nil()), header.parent.sequence());
    let said = w.send(header.position, &one_frame(&header)).await;
    assert!(matches!(said, Err(StoreError::OutOfSequence { .. })), "{said:?}");
    // Whoever went on from there would run out of numbers.
    header = w.header();
    header.position = Position::from_parts(header.position.generation(), u64::MAX - 1);
    let said = w.send(header.position, &one_frame(&header)).await;
    assert!(matches!(said, Err(StoreError::BadLog(_))), "{said:?}");
    nothing_left(&w);
    w.rounds(1).await;
    w.check().await;
}

#[tokio::test]
async fn every_kind_of_damage_is_refused() {
    let mut w = ready(61).await;
    let header = w.header();
    let (good, model) = w.log(&header);
    for n in 0..60 {
        let mut bad = good.clone();
        let at = usize::try_from(w.rng.below(bad.len() as u64)).unwrap();
        bad[at] ^= 1 << (n % 8);
        let said = w.send(header.position, &bad).await;
        // A damaged position or parent in the header fails its checksum first.
        assert!(matches!(said, Err(StoreError::BadLog(_))), "byte {at}: {said:?}");
        nothing_left(&w);
    }
    let mut long = good.clone();
    long.push(0);
    let said = w.send(header.position, &long).await;
    assert!(matches!(said, Err(StoreError::BadLog(_))), "{said:?}");
    w.send(header.position, &good).await.unwrap();
    w.landed(header.position, model);
    w.seal().await;
    w.check().await;
}

#[tokio::test]
async fn a_new_generation_continues_the_old_one() {
    let mut w = ready(62).await;
    let mut header = w.header();
    header.position = Position::start(GenerationId(w.rng.uuid())).next();
    let (log, model) = w.log(&header);
    w.send(header.position, &log).await.unwrap();
    w.landed(header.position, model);
    w.rounds(2).await;
    w.reopen().await;
    w.check().await;
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let mut w = ready(63).await;
    for _ in 0..6 {
        let header = w.header();
        let (log, model) = w.log(&header);
        let mut here = 0;
        for _ in 0..3 {
            let more = usize::try_from(w.rng.below((log.len() - here) as u64)).unwrap();
            let piece = Bytes::copy_from_slice(&log[here..here + more]);
            let cut = body(vec![Ok(piece), Err(std::io::ErrorKind::ConnectionReset.into())]);
            let said = w.store.receive(w.vm, header.position, here as u64, cut).await;
            assert!(matches!(said, Err(StoreError::Io { .. })), "{said:?}");
            here += more;
            if w.rng.below(2) == 0 {
                w.reopen().await;
            }
            let offset = w.store.receive_offset(w.vm, header.position).await.unwrap();
            assert_eq!(offset, here as u64);
        }
        // The sender may also go back a little.
        let from = here / 2;
        let done = w
            .store
            .receive(w.vm, header.position, from as u64, stream(&log[from..]))
            .await;
        assert_eq!(done.unwrap().bytes, log.len() as u64);
        w.landed(header.position, model);
        let again = w
            .store
            .receive(w.vm, header.position, 0, stream(&[]))
            .await
            .unwrap();
        assert_eq!((again.durable, again.instant), (header.position, header.instant));
    }
    w.seal().await;
    w.check().await;
}

#[tokio::test]
async fn a_part_that_went_bad_is_thrown_away() {
    let mut w = ready(64).await;
    let header = w.header();
    let log = one_frame(&header);
    let piece = Bytes::copy_from_slice(&log[..3000]);
    let cut = vec![Ok(piece), Err(std::io::ErrorKind::ConnectionReset.into())];
    w.store
        .receive(w.vm, header.position, 0, body(cut))
        .await
        .unwrap_err();
    let part = std::fs::read_dir(w.dir().join("incoming"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = std::fs::read(&part).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&part, &bytes).unwrap();
    w.reopen().await;
    let said = w
        .store
        .receive(w.vm, header.position, 3000, stream(&log[3000..]))
        .await;
    assert!(matches!(said, Err(StoreError::BadLog(_))), "{said:?}");
    assert_eq!(w.store.receive_offset(w.vm, header.position).await.unwrap(), 0);
    let ahead = w
        .store
        .receive(w.vm, header.position, 100, stream(&log[100..]))
        .await;
    assert!(matches!(ahead, Err(StoreError::BadLog(_))), "{ahead:?}");
    w.send(header.position, &log).await.unwrap();
}

#[tokio::test]
async fn a_stored_log_that_rots_is_named_and_touches_no_point() {
    let w = ready(65).await;
    let header = w.header();
    w.send(header.position, &one_frame(&header)).await.unwrap();
    let name = format!(
        "logs/{}-{:020}.lbd",
        header.position.generation(),
        header.position.sequence()
    );
    let path = w.dir().join(name);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[2000] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let said = w.store.apply(w.vm).await;
    assert!(matches!(said, Err(StoreError::Damaged { .. })), "{said:?}");
    // It is claimed no longer.
    w.check().await;
}

#[tokio::test]
async fn bulk_takes_only_what_continues_it() {
    let mut w = World::new(66).await;
    let target = w.disks()[0].clone();
    let ahead = w.segment(&target, 512, &[1; 512]);
    let said = w.store.bulk(w.vm, stream(&ahead)).await;
    assert!(matches!(said, Err(StoreError::BadLog(_))), "{said:?}");
    let mut bigger = target.clone();
    bigger.size += 512;
    let said = w
        .store
        .bulk(w.vm, stream(&w.segment(&bigger, 0, &[1; 512])))
        .await;
    assert!(matches!(said, Err(StoreError::BadLog(_))), "{said:?}");
    let good = w.segment(&target, 0, &[1; 4096]);
    let said = w.store.bulk(w.vm, stream(&good[..good.len() - 1])).await;
    assert!(matches!(said, Err(StoreError::Io { .. })), "{said:?}");
    // The frame came whole although the segment did not: it counts.
    let bulk = w.store.info(w.vm).await.unwrap().bulk;
    assert_eq!(bulk.iter().find(|b| b.disk == target.id).unwrap().done, 4096);
    w.store.restart_bulk(w.vm, &target.id).await.unwrap();
    w.bulk().await;
    w.rounds(1).await;
    let late = w.store.bulk(w.vm, stream(&good)).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))), "{late:?}");
    w.check().await;
}

/// The other end is gone without a word: its transfer must not hold the next one.
#[tokio::test]
async fn a_newer_transfer_ends_a_silent_one() {
    use futures_util::StreamExt;
    let mut w = World::new(68).await;
    let target = w.disks()[0].clone();
    let whole = w.segment(&target, 0, &[1; 8192]);
    let start: std::io::Result<bytes::Bytes> = Ok(whole[..whole.len() / 2].to_vec().into());
    let silent = Box::pin(futures_util::stream::iter([start]).chain(futures_util::stream::pending()));
    let old = w.store.bulk(w.vm, silent);
    let new = async {
        tokio::task::yield_now().await;
        w.store.restart_bulk(w.vm, &target.id).await
    };
    let (old, new) = futures_util::future::join(old, new).await;
    assert!(matches!(old, Err(StoreError::Superseded { .. })), "{old:?}");
    new.unwrap();
    w.bulk().await;
    w.rounds(1).await;
    w.check().await;
}

/// Requests overtake each other: one of a log that its sender gave up comes after that of the log it sends now.
#[tokio::test]
async fn a_request_of_before_does_not_end_the_transfer_under_way() {
    use futures_util::StreamExt;
    let mut w = ready(67).await;
    let old = w.header();
    let mut header = w.header();
    header.position = header.position.next();
    let (bytes, model) = w.log(&header);
    let (tx, rx) = tokio::sync::oneshot::channel::<()>();
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    let start: std::io::Result<bytes::Bytes> = Ok(first.to_vec().into());
    let rest: std::io::Result<bytes::Bytes> = Ok(rest.to_vec().into());
    let rest = futures_util::stream::once(async {
        let _ = rx.await;
        rest
    });
    let body = Box::pin(futures_util::stream::iter([start]).chain(rest));
    let live = w.store.receive(w.vm, header.position, 0, body);
    let late = async {
        tokio::task::yield_now().await;
        let said = w.send(old.position, &one_frame(&old)).await;
        let _ = tx.send(());
        said
    };
    let (live, late) = futures_util::future::join(live, late).await;
    assert!(matches!(late, Err(StoreError::Superseded { .. })), "{late:?}");
    assert_eq!(live.unwrap().durable, header.position);
    w.landed(header.position, model);
    // A transfer that is over stands in nobody's way.
    let said = w.send(old.position, &one_frame(&old)).await;
    assert_eq!(said.unwrap().durable, header.position);
    w.rounds(1).await;
    w.check().await;
}

/// An offer that was never answered leaves an empty replica, which the next offer replaces; a used one is kept.
#[tokio::test]
async fn only_an_empty_leftover_is_replaced() {
    let mut w = World::new(69).await;
    let other = Position::start(GenerationId(uuid::Uuid::from_u128(99)));
    let location = w.dir().parent().unwrap().to_owned();
    let disks = w.store.info(w.vm).await.unwrap().disks;
    w.store
        .create(&location.clone().into(), w.vm, &disks, other)
        .await
        .unwrap();
    assert_eq!(w.store.info(w.vm).await.unwrap().durable, other);
    w.store
        .create(&location.clone().into(), w.vm, &disks, w.start)
        .await
        .unwrap();
    w.bulk().await;
    let said = w
        .store
        .create(&location.clone().into(), w.vm, &disks, other)
        .await;
    assert!(matches!(said, Err(StoreError::Conflict(_))), "{said:?}");
    w.rounds(1).await;
    w.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn receiving_runs_beside_applying_sealing_and_expiring() {
    let mut w = ready(67).await;
    let mut logs = Vec::new();
    for _ in 0..20 {
        let header = w.header();
        let (log, model) = w.log(&header);
        w.landed(header.position, model);
        logs.push((header.position, log));
    }
    let sender = async {
        for (position, log) in &logs {
            w.store.receive(w.vm, *position, 0, stream(log)).await.unwrap();
        }
    };
    let last = w.durable;
    let points = w.points.clone();
    let worker = async {
        let mut points = points;
        loop {
            let applied = w.store.apply(w.vm).await.unwrap();
            if let Some(log) = applied {
                let id = lifeboat_model::PointId(uuid::Uuid::from_u128(u128::from(log.position.sequence())));
                w.store.seal(w.vm, id, None).await.unwrap();
                points.push((id, log.position));
                if points.len() > 4 {
                    w.store.expire_oldest(w.vm).await.unwrap();
                    points.remove(0);
                }
                if log.position == last {
                    return points;
                }
            } else {
                tokio::task::yield_now().await;
            }
        }
    };
    let ((), points) = tokio::join!(sender, worker);
    w.points = points;
    w.check().await;
    w.reopen().await;
    w.check().await;
}
