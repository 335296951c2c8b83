//! Short-lived room for a log between the local read and the send, so that the WAN never holds a guest's writes.

use super::ByteStream;
use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_model::{Position, VmId};
use std::sync::Arc;

/// Why the spool failed.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Writing on would leave less free space than the reserve that guests on the same file system need.
    #[error("spool {dir}: less than {reserve_mib} MiB would stay free")]
    NoSpace {
        /// The spool's directory.
        dir: String,
        /// Reserve in MiB.
        reserve_mib: u64,
    },
    /// Anything else.
    #[error("spool {what}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// The spool directory of a host.
#[async_trait]
pub trait Spool: Send + Sync {
    /// A new empty file for a log; an older one of the same VM is replaced.
    async fn create(&self, vm: VmId, position: Position) -> Result<Arc<dyn SpoolFile>, SpoolError>;
}

/// One log on its way. Removed from disk when the last handle is dropped, or by the next start of the daemon.
#[async_trait]
pub trait SpoolFile: Send + Sync {
    /// Writes at the end; readers that wait get the bytes. An error when the file is finished, or when the spool has no room.
    async fn append(&self, bytes: Bytes) -> Result<(), SpoolError>;

    /// No more will be appended. After `complete == false` readers end with an error.
    fn finish(&self, complete: bool);

    /// Bytes appended so far.
    fn len(&self) -> u64;

    /// Whether nothing was appended yet.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything from `offset` on, following what is still being appended, until finished.
    fn reader(&self, offset: u64) -> ByteStream;
}
