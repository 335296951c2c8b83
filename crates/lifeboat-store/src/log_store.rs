//! The port of logs: for the images of this store, and for images that are kept elsewhere. The latter is a directory like that of a
//! replica, whose manifest names no disk; its applied position is where the logs that are left begin.

use std::sync::Arc;

use async_trait::async_trait;
use lifeboat_engine::ports::ByteStream;
use lifeboat_engine::ports::store::{
    ImageStore, LogKeeper, LogStore, Quota, Received, StoreError, StoreLocation, StoredLogs,
};
use lifeboat_model::{Position, VmId};

use crate::error::Result;
use crate::replica::{Replica, exclusive, incoming};
use crate::store::{QcowStore, absolute, blocking, on, unlock};
use crate::{expire, locked, logs, open, receive};

#[async_trait]
impl LogStore for QcowStore {
    async fn stored_logs(&self, vm: VmId) -> Result<StoredLogs> {
        Ok(self.find(vm)?.stored_logs().await)
    }

    async fn receive_offset(&self, vm: VmId, position: Position) -> Result<u64> {
        let replica = self.find(vm)?;
        on(replica, move |r| Ok(receive::offset(r, position))).await
    }

    async fn receive(&self, vm: VmId, position: Position, offset: u64, body: ByteStream) -> Result<Received> {
        incoming(self.find(vm)?, Some(position), body, move |r, chunks| {
            receive::receive(r, position, offset, chunks)
        })
        .await
    }

    async fn read_log(&self, vm: VmId, position: Position, offset: u64) -> Result<ByteStream> {
        let replica = self.find(vm)?;
        let read = move |r: &Replica| {
            let found = r.state.blocking_lock().logs.to(position).cloned();
            let entry = found.ok_or_else(|| StoreError::NoPoint(position.to_string()))?;
            logs::stream(&r.dir, &entry, offset)
        };
        on(replica, read).await
    }

    async fn keep_logs(&self, vm: VmId, after: &[Position]) {
        if let Ok(replica) = self.find(vm) {
            replica.state.lock().await.logs.keep_after = after.to_vec();
        }
    }

    async fn expire_logs(&self, vm: VmId, upto: Position, needed: &[Position]) -> Result<()> {
        let needed = needed.to_vec();
        exclusive(self.find(vm)?, move |r, _| expire::expire_logs(r, upto, &needed)).await
    }
}

#[async_trait]
impl LogKeeper for QcowStore {
    async fn begin_logs(&self, location: &StoreLocation, vm: VmId, start: Position) -> Result<StoreLocation> {
        let dir = absolute(location.directory())?.join(vm.to_string());
        // Another start takes the place of the one that is open.
        self.close(vm).await;
        let (made, at_rest, steps) = (dir.clone(), self.at_rest.clone(), self.steps.clone());
        blocking(move || {
            unlock(&at_rest, &made)?;
            locked::guarded(&made, || open::begin_logs((&made, &at_rest), vm, start, &steps))
        })
        .await?;
        self.load(dir.clone(), vm).await?;
        Ok(dir.into())
    }

    async fn open_logs(&self, place: &StoreLocation, vm: VmId) -> Result<StoredLogs> {
        let replica = self.load(absolute(place.directory())?, vm).await?;
        if let Err(e) = of_logs_alone(&replica).await {
            self.close(vm).await;
            return Err(e);
        }
        Ok(replica.stored_logs().await)
    }

    fn bound_logs(&self, vm: VmId, quota: Option<Quota>) {
        self.shares.bound(vm, quota);
    }

    async fn close_logs(&self, vm: VmId) {
        self.close(vm).await;
    }

    async fn end_logs(&self, vm: VmId) -> Result<()> {
        match self.find(vm) {
            Ok(replica) => of_logs_alone(&replica).await?,
            Err(StoreError::NoReplica(_)) => return Ok(()),
            Err(e) => return Err(e),
        }
        self.destroy(vm).await
    }
}

/// Refuses what has images of its own: its logs are theirs.
async fn of_logs_alone(replica: &Arc<Replica>) -> Result<()> {
    if replica.state.lock().await.manifest.logs_alone {
        Ok(())
    } else {
        let why = format!(
            "{} holds a replica with images, whose logs are its own",
            replica.dir
        );
        Err(StoreError::Conflict(why))
    }
}
