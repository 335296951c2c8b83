//! Logs that were received and wait, or are kept for replay. A log store knows nothing of images: it takes in logs that
//! continue one another, hands them out as they are, and deletes what it is told to delete.
//!
//! A log store answers which logs are here and how far they lead. What was applied of them, which instant is a recovery point,
//! and how long logs are needed are the image store's answers ([`images`](super::images)); when they expire is the engine's
//! decision.
//!
//! # Who orders what
//!
//! A log that was reported durable stays until one of these is durable: a sealed point at or after it, with its retention over
//! (`expire_logs`, with what the images still need); a promotion or an adoption, after which no log of that generation is
//! received; the deletion of the replica. So the log store never has to ask the images anything, and a crash between the two
//! leaves logs that are not needed, never images that lack one.
//!
//! The engine calls a [`LogStore`]. [`LogKeeper`] is for an image store that keeps no logs itself: it is given one when it is
//! made, and has its logs begun, opened and ended there.

use super::{Quota, Received, StoreError, StoreLocation, StoredLogs};
use crate::port::ByteStream;
use async_trait::async_trait;
use lifeboat_model::{Position, VmId};

/// Logs of the replicas of this host. `receive` and `receive_offset` may run beside any call; of two transfers for one VM the
/// newer ends the older. The other calls for one VM are made one at a time by its actor.
#[async_trait]
pub trait LogStore: Send + Sync {
    /// The logs that are here, and how far they lead.
    async fn stored_logs(&self, vm: VmId) -> Result<StoredLogs, StoreError>;

    /// How many bytes of the log to `position` are here from an interrupted transfer (0: none).
    async fn receive_offset(&self, vm: VmId, position: Position) -> Result<u64, StoreError>;

    /// Receives the log (a delta, or a piece of a synchronization) to `position` from `offset` on. When it returns `Ok` the whole log is verified and durable and
    /// `durable` has moved. Interrupted, the bytes so far are kept for `receive_offset`. A log that is already durable
    /// is answered `Ok` without reading the body.
    async fn receive(
        &self,
        vm: VmId,
        position: Position,
        offset: u64,
        body: ByteStream,
    ) -> Result<Received, StoreError>;

    /// A durable log from `offset` on, to be forwarded as it is.
    async fn read_log(&self, vm: VmId, position: Position, offset: u64) -> Result<ByteStream, StoreError>;

    /// Keeps every log after any of these positions from expiry, until told otherwise (without one, none is kept). One that is
    /// not known any more keeps every log. Lost at a restart.
    async fn keep_logs(&self, vm: VmId, after: &[Position]);

    /// Deletes the oldest logs up to the one that leads to `upto`, but none after any of the positions `needed`, and none that is
    /// kept. `needed` is what [`ImageStore::needed_logs`](super::ImageStore::needed_logs) says.
    async fn expire_logs(&self, vm: VmId, upto: Position, needed: &[Position]) -> Result<(), StoreError>;
}

/// A log store that keeps the logs of images which are kept elsewhere. The image store calls it, never the engine. Calls for one VM
/// are made one at a time.
#[async_trait]
pub trait LogKeeper: LogStore {
    /// From now on logs of the VM that continue `start` are received, at this location of the log store. Logs of another start are
    /// deleted: the images stand at `start`, durably. Repeated with the same start it changes nothing. Where they are, for
    /// `open_logs`.
    async fn begin_logs(
        &self,
        location: &StoreLocation,
        vm: VmId,
        start: Position,
    ) -> Result<StoreLocation, StoreError>;

    /// Opens the logs at `place` after a start of the daemon. What is damaged is set aside with what nothing leads to without it,
    /// and has to be sent again.
    async fn open_logs(&self, place: &StoreLocation, vm: VmId) -> Result<StoredLogs, StoreError>;

    /// Bytes that the logs may take, of what the owner's replicas may take together; `None`: no bound. Waits for nothing.
    fn bound_logs(&self, vm: VmId, quota: Option<Quota>);

    /// Lets go of the logs without touching them.
    async fn close_logs(&self, vm: VmId);

    /// Deletes all logs of the VM; none is received until they are begun again. Repeatable.
    async fn end_logs(&self, vm: VmId) -> Result<(), StoreError>;
}
