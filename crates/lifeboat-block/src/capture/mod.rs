//! Capture: changes recorded by QEMU's dirty bitmaps, instants by copy-before-write filters that one `blockdev-reopen`
//! puts under all of a VM's devices at once, data read over NBD.
//!
//! Names in the graph of the process, for a disk `ID`: `fleece-ID` holds what the guest overwrites, `cbw-ID` is the
//! filter, `snap-ID` shows the instant, `union-ID` carries what is known to have changed. `top-ID` and `disk-ID` are
//! there always. All of it can be seen from the graph alone, so whatever a daemon leaves behind that dies between two
//! commands, the next one puts in order:
//!
//! | died after | what is there | what the engine gets |
//! |---|---|---|
//! | files, `fleece` nodes | leftovers only | since base |
//! | filters added: **prepared** | the same; nothing passes the filters | the same |
//! | record of `next` added | both records run; no instant | since base and next |
//! | tops reopened: **the instant** | both records run, `next` began a little early | the same |
//! | record of `base` frozen | the normal state of a cycle | the same |
//! | record of `base` removed | the cycle is over | since next |
//!
//! A record that began a little early, or was frozen a little late, holds a little more than it must; never less.
//! Merging the records back is right in every row. A prepared instant that is not taken, because its daemon died or because it was
//! dropped, is a row of leftovers only: the records are those of before, and neither writes of the guest nor a resize of a disk
//! meet anything of it. So any time may pass between preparing and taking.
//!
//! A disk may be resized at any moment, through another monitor. QEMU ends with an assertion when a bitmap of the
//! disk is exported at that moment, so only copies of records, on nodes of ours, ever are. A source keeps the sizes it
//! was opened with, and refuses once they are no longer true.
//!
//! Where an instant comes from is in three functions of `shared.rs`: `prepare`, `take` and `clear`. The last two reopen `top-ID` over the
//! filter and back, so they need a process whose disks have these nodes ([`crate::graph`]).

mod block;
mod freeze;
pub mod holes;
mod marked;
mod ranges;
mod shared;
mod source;
mod space;
pub mod tracking;
mod view;

use std::fmt::Debug;
use std::io;

use async_trait::async_trait;
use lifeboat_engine::ports::capture::CaptureError;
use lifeboat_model::DiskId;
use serde::{Deserialize, Serialize};

pub use self::block::{Commands, Image, Node, failed};
pub use self::freeze::Freezer;
pub use self::marked::marked;
pub use self::shared::{Opened, Shared};
pub use self::source::Source;
pub use self::space::Space;
pub use self::tracking::RECORD_PREFIX;
pub use self::view::ALLOCATION;

/// Who opens a VM's images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Holder {
    /// The VM's own process: the guest writes.
    Vm,
    /// The storage daemon that has the images open while the VM is off: it writes nothing but dirty bitmaps.
    StandIn,
}

/// Why dirty bitmaps of the disks of a source are not valid, as far as QEMU does not know it: images that others wrote
/// to, or that were not closed in order.
pub trait Losses: Debug + Send + Sync {
    /// Why changes of a disk are not all recorded, if they are not. Asked at each look.
    fn lost(&self, disk: &DiskId) -> Option<String>;

    /// Tracking of all disks was started again or stopped: what was lost before is no longer of interest.
    ///
    /// # Errors
    /// When that cannot be written down. The loss is still known then.
    fn forget(&self) -> io::Result<()>;
}

/// A process that has the disks of a VM open while that is off, for a source and no longer.
#[async_trait]
pub trait StandIn: Debug + Send + Sync {
    /// Closes the images, which writes the bitmaps, and waits until no process has them open. No monitor is connected any more.
    ///
    /// # Errors
    /// When the process does not end, or cannot be seen to.
    async fn end(self: Box<Self>) -> Result<(), CaptureError>;
}
