//! Reading the disks of a source over NBD. One connection per disk carries all reads in flight; the allocation of an
//! instant has its own, opened when first asked for, because a delta must never pay for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_engine::ports::capture::{BlockView, CaptureError, Extent};
use tokio::sync::OnceCell;

use super::block::unread;
use super::holes;
use super::shared::Shared;
use crate::nbd::{NbdClient, NbdError, STATE_DIRTY, STATE_ZERO, StatusExtent};

/// NBD metadata context that distinguishes holes from data.
pub const ALLOCATION: &str = "base:allocation";

/// Reads between two looks at the temporary space: at 1 MiB each, 64 MiB.
const LOOK_EVERY: u32 = 64;

const OPENING: Duration = Duration::from_secs(20);

/// A range asked about at once.
const MAP_PIECE: u64 = 64 << 30;

/// Context of the record called `name`.
pub(crate) fn changes(name: &str) -> String {
    format!("qemu:dirty-bitmap:{name}")
}

/// Open exports of all disks.
pub(crate) struct View {
    shared: Arc<Shared>,
    disks: Vec<NbdClient>,
    allocations: Vec<OnceCell<NbdClient>>,
    /// The context that `changed` asks; none when the disks are read as they change.
    changes: Option<String>,
    reads: AtomicU32,
}

impl View {
    pub(crate) async fn open(shared: Arc<Shared>, contexts: &[&str]) -> Result<Self, CaptureError> {
        let live = contexts.contains(&ALLOCATION);
        let mut disks = Vec::new();
        let mut allocations = Vec::new();
        for number in 0..shared.disks.len() {
            let client = connect(&shared, number, contexts).await?;
            if let Some(missing) = contexts.iter().find(|c| !client.has_context(c)) {
                return Err(CaptureError::Block {
                    what: "opening an export".to_owned(),
                    detail: format!("QEMU does not offer {missing}"),
                });
            }
            let allocation = if live {
                OnceCell::new_with(Some(client.clone()))
            } else {
                OnceCell::new()
            };
            allocations.push(allocation);
            disks.push(client);
        }
        let changes = contexts.iter().find(|c| **c != ALLOCATION);
        Ok(Self {
            changes: changes.map(|c| (*c).to_owned()),
            shared,
            disks,
            allocations,
            reads: AtomicU32::new(0),
        })
    }

    fn disk(&self, number: usize) -> Result<&NbdClient, CaptureError> {
        self.disks.get(number).ok_or_else(|| no_disk(number))
    }

    /// An error of a read. An instant whose temporary space ran out fails all its reads, also where QEMU reports none.
    fn explain(&self, what: &str, error: &NbdError) -> CaptureError {
        if self.changes.is_some()
            && let Err(full) = self.shared.space.check()
        {
            return full;
        }
        unread(what, error)
    }
}

fn no_disk(number: usize) -> CaptureError {
    CaptureError::Block {
        what: format!("disk number {number}"),
        detail: "the source has fewer disks".to_owned(),
    }
}

/// Ranges of a whole disk that `counts` says yes to, ascending, adjacent ones as one.
pub(crate) async fn extents(
    client: &NbdClient,
    context: &str,
    counts: impl Fn(&StatusExtent) -> bool,
) -> Result<Vec<Extent>, NbdError> {
    let mut extents: Vec<Extent> = Vec::new();
    let size = client.size();
    let mut at = 0;
    while at < size {
        let len = MAP_PIECE.min(size - at);
        let piece = client.block_status(context, at, len).await?;
        for e in piece.into_iter().filter(|e| counts(e)) {
            match extents.last_mut() {
                Some(last) if last.offset + last.len == e.offset => last.len += e.len,
                _ => extents.push(Extent {
                    offset: e.offset,
                    len: e.len,
                    zero: false,
                }),
            }
        }
        at += len;
    }
    Ok(extents)
}

pub(crate) async fn connect(
    shared: &Shared,
    number: usize,
    contexts: &[&str],
) -> Result<NbdClient, CaptureError> {
    let disk = shared.disks.get(number).ok_or_else(|| no_disk(number))?;
    NbdClient::connect_unix(shared.nbd.as_std_path(), disk.id.as_str(), contexts, OPENING)
        .await
        .map_err(|e| unread("opening an export", &e))
}

#[async_trait]
impl BlockView for View {
    async fn changed(&self, disk: usize) -> Result<Vec<Extent>, CaptureError> {
        let client = self.disk(disk)?;
        let Some(context) = &self.changes else {
            return Err(CaptureError::Block {
                what: "changes of a disk".to_owned(),
                detail: "the disks are being read as they change, not at an instant".to_owned(),
            });
        };
        let dirty = |e: &StatusExtent| e.flags & STATE_DIRTY != 0;
        extents(client, context, dirty)
            .await
            .map_err(|e| self.explain("asking what changed", &e))
    }

    async fn allocation(&self, disk: usize, offset: u64, len: u64) -> Result<Vec<Extent>, CaptureError> {
        // An instant's disks go on changing below it, so only the disks as they are can ask their file.
        if self.changes.is_none()
            && let Some(Some(file)) = self.shared.data.get(disk)
        {
            return holes::map(file, offset, len).map_err(|e| CaptureError::Block {
                what: "asking what is allocated".to_owned(),
                detail: e.to_string(),
            });
        }
        let cell = self.allocations.get(disk).ok_or_else(|| no_disk(disk))?;
        let client = cell
            .get_or_try_init(|| connect(&self.shared, disk, &[ALLOCATION]))
            .await?;
        let extents = client
            .block_status(ALLOCATION, offset, len)
            .await
            .map_err(|e| self.explain("asking what is allocated", &e))?;
        let extent = |e: StatusExtent| Extent {
            offset: e.offset,
            len: e.len,
            zero: e.flags & STATE_ZERO != 0,
        };
        Ok(extents.into_iter().map(extent).collect())
    }

    async fn read(&self, disk: usize, offset: u64, len: u32) -> Result<Bytes, CaptureError> {
        let client = self.disk(disk)?;
        let looked = self.reads.fetch_add(1, Ordering::Relaxed) % LOOK_EVERY;
        if looked == 0 && self.changes.is_some() {
            // Given up here, an instant leaves the reserve to the other users of the file system.
            self.shared.space.check()?;
        }
        client
            .read(offset, len)
            .await
            .map_err(|e| self.explain("reading", &e))
    }

    async fn close(self: Box<Self>) -> Result<(), CaptureError> {
        let Self {
            shared,
            disks,
            allocations,
            ..
        } = *self;
        drop((disks, allocations));
        shared.clear().await
    }
}
