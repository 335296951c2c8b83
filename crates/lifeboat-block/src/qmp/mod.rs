//! Talking to a QEMU process: the framing, which is also that of guest agents, and the monitor client.
//!
//! This module moves commands, replies and events. It is not the place that knows what a capture or a
//! start consists of; callers put the commands together.

pub mod client;
pub mod codec;
pub mod exercise;
mod monitor;

pub use client::{DEFAULT_TIMEOUT, EventStream, Qmp, QmpError};
pub use codec::{CodecError, Decoder, Event, MAX_LINE, Message};
pub use monitor::Monitor;
