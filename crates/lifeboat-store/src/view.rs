//! The data of a recovery point, to be read while the replica goes on. The point cannot expire until the view ends.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_engine::ports::capture::{BlockView, CaptureError, Extent};
use lifeboat_engine::ports::store::StoreError;
use lifeboat_model::PointId;

use crate::error::Result;
use crate::export::{Export, MAX_READ};
use crate::replica::Replica;

/// A recovery point that is being read.
pub(crate) struct PointView {
    /// In the order of the point's disks.
    disks: Vec<Arc<Mutex<Export>>>,
    /// Given back after the images were closed.
    _pin: Pin,
}

/// Keeps a point from expiring.
struct Pin {
    replica: Arc<Replica>,
    point: PointId,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.replica.pins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = pins.iter().position(|p| *p == self.point) {
            pins.swap_remove(place);
        }
    }
}

impl PointView {
    /// Opens a point. From blocking threads only, while no operation changes images.
    pub(crate) fn open(replica: &Arc<Replica>, point: PointId) -> Result<Self> {
        let manifest = replica.manifest();
        let missing = || StoreError::NoPoint(point.to_string());
        let index = manifest.index_of(point).ok_or_else(missing)?;
        let sealed = manifest.points.get(index).ok_or_else(missing)?;
        let mut pins = replica.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.push(point);
        drop(pins);
        let pin = Pin {
            replica: Arc::clone(replica),
            point,
        };
        let mut disks = Vec::new();
        for layer in &sealed.layers {
            let chain = replica.absolute(&manifest.chain(&layer.disk, Some(index)));
            disks.push(Arc::new(Mutex::new(Export::open(&replica.dir, &chain)?)));
        }
        Ok(Self { disks, _pin: pin })
    }

    async fn on<T: Send + 'static>(
        &self,
        disk: usize,
        what: &'static str,
        work: impl FnOnce(&mut Export) -> std::io::Result<T> + Send + 'static,
    ) -> std::result::Result<T, CaptureError> {
        let failed = |detail: String| CaptureError::Block {
            what: format!("{what} disk {disk} of a recovery point"),
            detail,
        };
        let Some(export) = self.disks.get(disk).cloned() else {
            return Err(failed(format!("there are {} disks", self.disks.len())));
        };
        let ended = tokio::task::spawn_blocking(move || {
            work(&mut export.lock().unwrap_or_else(PoisonError::into_inner))
        });
        let done = ended.await.map_err(|e| failed(e.to_string()))?;
        done.map_err(|e| failed(e.to_string()))
    }
}

/// Adjacent extents of a range.
fn extents(export: &mut Export, offset: u64, len: u64) -> std::io::Result<Vec<Extent>> {
    let mut found: Vec<Extent> = Vec::new();
    let mut at = offset;
    for (len, zero) in export.allocated(offset, offset.saturating_add(len))? {
        match found.last_mut() {
            Some(last) if last.zero == zero => last.len += len,
            Some(_) | None => found.push(Extent {
                offset: at,
                len,
                zero,
            }),
        }
        at += len;
    }
    Ok(found)
}

#[async_trait]
impl BlockView for PointView {
    async fn changed(&self, disk: usize) -> std::result::Result<Vec<Extent>, CaptureError> {
        let whole = self.on(disk, "ask what is allocated of", |e| extents(e, 0, u64::MAX));
        let mut found = whole.await?;
        found.retain(|e| !e.zero);
        Ok(found)
    }

    async fn allocation(
        &self,
        disk: usize,
        offset: u64,
        len: u64,
    ) -> std::result::Result<Vec<Extent>, CaptureError> {
        let work = move |e: &mut Export| extents(e, offset, len);
        self.on(disk, "ask what is allocated of", work).await
    }

    async fn read(&self, disk: usize, offset: u64, len: u32) -> std::result::Result<Bytes, CaptureError> {
        let work = move |export: &mut Export| {
            if len > MAX_READ {
                return Err(std::io::ErrorKind::InvalidInput.into());
            }
            export.read(offset, len as usize).map(Bytes::from)
        };
        self.on(disk, "read", work).await
    }

    async fn close(self: Box<Self>) -> std::result::Result<(), CaptureError> {
        // Ending the processes waits for them.
        let ended = tokio::task::spawn_blocking(move || drop(self)).await;
        ended.map_err(|e| CaptureError::Block {
            what: "close a recovery point".to_owned(),
            detail: e.to_string(),
        })
    }
}
