//! The spool: followed while it grows, gone when nobody holds it.

use bytes::Bytes;
use camino::Utf8PathBuf;
use futures_util::StreamExt;
use lifeboat_engine::ports::ByteStream;
use lifeboat_engine::ports::spool::{Spool, SpoolError};
use lifeboat_model::{GenerationId, Position, VmId};

use super::world::Rng;
use crate::FileSpool;

fn ids(seed: u128) -> (VmId, Position) {
    let id = uuid::Uuid::from_u128(seed);
    let generation = GenerationId(id);
    (VmId(id), Position::from_parts(generation, 1))
}

fn temp() -> (tempfile::TempDir, Utf8PathBuf) {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Utf8PathBuf::from_path_buf(tmp.path().join("spool")).unwrap();
    (tmp, dir)
}

fn count(dir: &Utf8PathBuf) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

async fn all(mut stream: ByteStream) -> Result<Vec<u8>, std::io::Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_follow_the_tail_from_any_offset() {
    let (_tmp, dir) = temp();
    let spool = FileSpool::new(&dir, 0).unwrap();
    let (vm, at) = ids(1);
    let file = spool.create(vm, at).await.unwrap();
    let mut data = vec![0; 3_000_000];
    Rng(7).fill(&mut data);
    let readers = [0_usize, 1, 999_999, 3_000_000].map(|from| (from, file.reader(from as u64)));
    let readers: Vec<_> = readers
        .into_iter()
        .map(|(from, r)| (from, tokio::spawn(all(r))))
        .collect();
    assert!(file.is_empty());
    for piece in data.chunks(100_003) {
        file.append(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    assert_eq!(file.len(), 3_000_000);
    file.finish(true);
    for (from, reader) in readers {
        assert!(reader.await.unwrap().unwrap() == data[from..], "from {from}");
    }
    assert!(all(file.reader(5)).await.unwrap() == data[5..]);
    assert!(file.append(Bytes::from_static(b"x")).await.is_err());
}

#[tokio::test]
async fn a_log_given_up_ends_with_an_error() {
    let (_tmp, dir) = temp();
    let spool = FileSpool::new(&dir, 0).unwrap();
    let (vm, at) = ids(2);
    let file = spool.create(vm, at).await.unwrap();
    file.append(Bytes::from_static(b"abc")).await.unwrap();
    let (finished, dropped) = (file.reader(0), file.reader(0));
    file.finish(false);
    assert!(all(finished).await.is_err());
    drop(file);
    assert!(all(dropped).await.is_err());
}

#[tokio::test]
async fn files_go_with_their_handles_and_with_the_next_start() {
    let (_tmp, dir) = temp();
    let spool = FileSpool::new(&dir, 0).unwrap();
    let (vm, at) = ids(3);
    let first = spool.create(vm, at).await.unwrap();
    first.append(Bytes::from_static(b"first")).await.unwrap();
    first.finish(true);
    let second = spool.create(vm, at).await.unwrap();
    assert_eq!(count(&dir), 1, "replaced");
    assert_eq!(all(first.reader(0)).await.unwrap(), b"first");
    drop(first);
    assert_eq!(count(&dir), 1, "the older handle leaves the newer file alone");
    let same = std::sync::Arc::clone(&second);
    drop(second);
    assert_eq!(count(&dir), 1);
    drop(same);
    assert_eq!(count(&dir), 0);
    std::fs::write(dir.join("left.spool"), "x").unwrap();
    std::fs::write(dir.join("foreign.txt"), "x").unwrap();
    drop(FileSpool::new(&dir, 0).unwrap());
    assert!(!dir.join("left.spool").exists() && dir.join("foreign.txt").exists());
}

#[tokio::test]
async fn the_reserve_is_kept() {
    let (_tmp, dir) = temp();
    let spool = FileSpool::new(&dir, u64::MAX >> 21).unwrap();
    let (vm, at) = ids(4);
    let file = spool.create(vm, at).await.unwrap();
    let said = file.append(Bytes::from_static(b"x")).await;
    assert!(matches!(said, Err(SpoolError::NoSpace { .. })), "{said:?}");
    assert_eq!(file.len(), 0);
}
