//! Reading from a replica of the simulated store: comparison by digest, sealed points, logs to be forwarded.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::stream;
use lifeboat_engine::ports::ByteStream;
use lifeboat_engine::ports::capture::{BlockView, CaptureError, Extent};
use lifeboat_engine::ports::store::{CompareRange, StoreError};
use lifeboat_model::{PointId, VmId};

use crate::disk::{BLOCK, Content, bytes_of, cover, extents};
use crate::port::Port;
use crate::replica::Result;

type Digest = [u8; 16];

fn digest(bytes: &[u8]) -> Digest {
    let mut out = [0; 16];
    out.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    out
}

/// Digest of a range. Most of a disk is zeros, which are hashed once for each length.
fn digest_of(content: &Content, offset: u64, len: u64) -> Digest {
    static ZEROS: Mutex<BTreeMap<u64, Digest>> = Mutex::new(BTreeMap::new());
    let written = content.range(offset / BLOCK..(offset + len).div_ceil(BLOCK));
    if written.count() > 0 {
        return digest(&bytes_of(content, offset, len));
    }
    let mut zeros = ZEROS.lock().unwrap_or_else(PoisonError::into_inner);
    let new = || digest(&vec![0; usize::try_from(len).unwrap_or(0)]);
    *zeros.entry(len).or_insert_with(new)
}

/// Numbers of the blocks of a range that are not what the digests say.
pub(crate) fn compare(head: &[Content], range: &CompareRange) -> Result<Vec<u32>> {
    let bad = |why: &str| StoreError::BadLog(format!("comparison: {why}"));
    let block = u64::from(range.block);
    let content = head
        .get(usize::from(range.disk))
        .ok_or_else(|| bad("no such disk"))?;
    if !(4096..=1 << 20).contains(&block) || range.len > 64 << 20 || !range.offset.is_multiple_of(block) {
        return Err(bad("out of bounds"));
    }
    let digests = BASE64_STANDARD
        .decode(&range.digests)
        .map_err(|_| bad("not base64"))?;
    let (digests, rest) = digests.as_chunks::<16>();
    if !rest.is_empty() || digests.len() as u64 != range.len.div_ceil(block) {
        return Err(bad("not one digest for each block"));
    }
    let differs = |(n, theirs): (u32, &Digest)| {
        let at = u64::from(n) * block;
        let ours = digest_of(content, range.offset + at, block.min(range.len - at));
        (ours != *theirs).then_some(n)
    };
    Ok((0..).zip(digests).filter_map(differs).collect())
}

/// A log from an offset on.
pub(crate) fn log(bytes: &Bytes, offset: u64) -> ByteStream {
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let rest = bytes.slice(from..);
    Box::pin(stream::iter((!rest.is_empty()).then_some(Ok(rest))))
}

/// A sealed point that is being read; pinned until dropped.
pub(crate) struct PointView {
    pub(crate) port: Port,
    pub(crate) vm: VmId,
    pub(crate) point: PointId,
    pub(crate) disks: Vec<Content>,
}

impl PointView {
    async fn run<R: Send>(
        &self,
        name: &'static str,
        disk: usize,
        effect: impl FnOnce(&Content) -> R + Send,
    ) -> std::result::Result<R, CaptureError> {
        self.port
            .run(name, |_, _| {
                let content = self.disks.get(disk);
                content.map(effect).ok_or_else(|| CaptureError::Block {
                    what: "read a point".into(),
                    detail: "no such disk".into(),
                })
            })
            .await
    }
}

impl Drop for PointView {
    fn drop(&mut self) {
        let mut s = self.port.shared.state();
        let replica = s.hosts[self.port.host].replicas.get_mut(&self.vm);
        if let Some(pins) = replica.and_then(|r| r.pins.get_mut(&self.point)) {
            *pins = pins.saturating_sub(1);
        }
    }
}

#[async_trait]
impl BlockView for PointView {
    async fn changed(&self, disk: usize) -> std::result::Result<Vec<Extent>, CaptureError> {
        self.run("point.changed", disk, |c| extents(c.keys().copied(), c))
            .await
    }

    async fn allocation(
        &self,
        disk: usize,
        offset: u64,
        len: u64,
    ) -> std::result::Result<Vec<Extent>, CaptureError> {
        self.run("point.allocation", disk, |c| cover(c, offset, len))
            .await
    }

    async fn read(&self, disk: usize, offset: u64, len: u32) -> std::result::Result<Bytes, CaptureError> {
        self.run("point.read", disk, |c| bytes_of(c, offset, len.into()))
            .await
    }

    async fn close(self: Box<Self>) -> std::result::Result<(), CaptureError> {
        self.port
            .run("point.close", |_, _| Ok::<(), CaptureError>(()))
            .await
    }
}
