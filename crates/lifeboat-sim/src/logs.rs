//! The log store, in memory: logs as they arrived, each checked when it is complete. What is made of them is in `store`.

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_engine::ports::ByteStream;
use lifeboat_engine::ports::store::{LogStore, Received, StoreError, StoredLogs};
use lifeboat_model::{Position, VmId};

use crate::gate::{Fault, Injected};
use crate::read;
use crate::replica::{self, Result};
use crate::stores::{SimStore, here, room, share};

#[async_trait]
impl LogStore for SimStore {
    async fn stored_logs(&self, vm: VmId) -> Result<StoredLogs> {
        self.run(vm, "store.stored_logs", |s, h| {
            let r = here(s, h, vm)?;
            Ok(StoredLogs {
                durable: r.durable,
                logs: r.logs.iter().map(|l| l.log.clone()).collect(),
            })
        })
        .await
    }

    async fn receive_offset(&self, vm: VmId, position: Position) -> Result<u64> {
        self.run(vm, "store.receive_offset", |s, h| {
            let r = here(s, h, vm)?;
            Ok(r.parts.get(&position).map_or(0, |p| p.len() as u64))
        })
        .await
    }

    async fn receive(&self, vm: VmId, position: Position, offset: u64, body: ByteStream) -> Result<Received> {
        let _busy = self.busy(vm, "store.receive");
        let there = {
            let mut s = self.port.shared.state();
            self.reached(&mut s, vm, "store.receive");
            let r = here(&mut s, self.port.host, vm)?;
            let log = r.logs.iter().find(|l| l.log.position == position);
            let there = log.map(|l| Received {
                durable: r.durable,
                instant: l.log.instant,
                bytes: l.log.size,
                partial: l.log.partial,
            });
            if there.is_none() {
                let part = r.parts.entry(position).or_default();
                let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                if offset > part.len() {
                    return Err(StoreError::BadLog("a gap in the transfer".into()));
                }
                part.truncate(offset);
            }
            there
        };
        if let Some(received) = there {
            return self.run(vm, "store.receive", |_, _| Ok(received)).await;
        }
        // An interruption by the daemon's end may come before the body as well.
        if let Some(Fault::Fail) = self.port.enter("store.receive body").await {
            return Err(StoreError::injected("store.receive body"));
        }
        self.body(vm, Some(position), body).await?;
        self.run(vm, "store.receive", |s, h| {
            room(s, h)?;
            let parts = &mut here(s, h, vm)?.parts;
            let bytes = parts.remove(&position).unwrap_or_default();
            share(s, h, vm, bytes.len())?;
            replica::arrived(s, h, vm, position, bytes)
        })
        .await
    }

    async fn read_log(&self, vm: VmId, position: Position, offset: u64) -> Result<ByteStream> {
        let bytes: Bytes = self
            .run(vm, "store.read_log", |s, h| {
                let logs = &here(s, h, vm)?.logs;
                let found = logs.iter().find(|l| l.log.position == position);
                let found = found.map(|l| l.bytes.clone());
                found.ok_or_else(|| StoreError::NoPoint(position.to_string()))
            })
            .await?;
        Ok(read::log(&bytes, offset))
    }

    async fn keep_logs(&self, vm: VmId, after: &[Position]) {
        let _: Result<()> = self
            .run(vm, "store.keep_logs", |s, h| {
                here(s, h, vm)?.keep_since = after.to_vec();
                Ok(())
            })
            .await;
    }

    async fn expire_logs(&self, vm: VmId, upto: Position, needed: &[Position]) -> Result<()> {
        self.change(vm, "store.expire_logs", |s, h| {
            let r = here(s, h, vm)?;
            let floor = r.floor();
            let after = |at: &Position| r.logs.iter().position(|l| l.log.parent == *at);
            let free = needed.iter().filter_map(after).min().unwrap_or(r.logs.len());
            let last = r.logs.iter().position(|l| l.log.position == upto);
            let gone = last.map_or(0, |n| n + 1).min(free);
            let gone: Vec<Position> = r.logs.iter().take(gone).map(|l| l.log.position).collect();
            r.forget_logs(|l| !gone.contains(&l.log.position));
            if !needed.contains(&floor) {
                s.violation("logs expire without a word of what the images need");
            }
            Ok(())
        })
        .await
    }
}
