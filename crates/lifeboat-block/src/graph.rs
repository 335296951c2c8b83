//! Nodes that are there in the block graph of a disk as long as its process: device → `top-ID` → `disk-ID` → layers and files.
//!
//! `top-ID` passes everything through, so that one `blockdev-reopen` of all tops puts the filters of a capture in or out. It is
//! a throttle node without limits rather than a raw node because QEMU merges layers (`block-commit`) only below a chain of
//! filters, and raw is no filter. What lies below `disk-ID` is decided by the code that starts the process.

use lifeboat_model::DiskId;
use serde_json::{Value, json};

/// Node of the disk's content: the format node of the layer the guest writes to; dirty bitmaps live on it.
#[must_use]
pub fn disk_node(id: &DiskId) -> String {
    format!("disk-{id}")
}

/// The permanent pass-through node under the device.
#[must_use]
pub fn top_node(id: &DiskId) -> String {
    format!("top-{id}")
}

/// The throttle group of a disk's top node; it has no limits.
#[must_use]
pub fn group(id: &DiskId) -> String {
    format!("tg-{id}")
}

/// Options of the top node over `file`; complete, because reopening resets what is not said.
#[must_use]
pub fn top(id: &DiskId, file: &str) -> Value {
    json!({
        "driver": "throttle", "node-name": top_node(id), "throttle-group": group(id),
        "file": file, "discard": "unmap",
    })
}
