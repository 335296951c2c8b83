//! The ports: what the engine needs from the world, as traits. Adapters implement them and know nothing of one
//! another; the simulated world implements them in memory. No logic lives here.

pub mod capture;
pub mod catalog;
pub mod environment;
pub mod hypervisor;
pub mod hypervisors;
pub mod link;
pub mod machine_event;
pub mod media;
pub mod power;
mod reasons;
pub mod scrub;
pub mod spool;
pub mod storage;
pub mod store;

use crate::common::export_key::ExportKey;
use bytes::Bytes;
use futures_util::Stream;
use lifeboat_model::{Reading, Timestamp};
use std::pin::Pin;
use uuid::Uuid;

/// Bytes on their way from a file or a connection, in order.
pub type ByteStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// The clocks of this host. Intervals inside the engine use the runtime's timer instead.
pub trait Clock: Send + Sync {
    /// The wall clock: what people read, and what they and time synchronization set. No age is measured by it.
    fn now(&self) -> Timestamp;

    /// All clocks at one moment: what ages are measured by, also across a start of the daemon.
    fn reading(&self) -> Reading;

    /// Minutes since midnight where this host is, 0 to 1439. Time windows of settings are local.
    fn local_minute(&self) -> u16;
}

/// Where new ids and keys come from.
pub trait Entropy: Send + Sync {
    /// A UUID never seen before.
    fn uuid(&self) -> Uuid;

    /// A key that cannot be foreseen.
    ///
    /// # Errors
    /// There is no source of random numbers.
    fn key(&self) -> std::io::Result<ExportKey>;
}
