//! Talking to a QEMU process and to the agent in its guest: framing, the monitor client, the agent client.
//!
//! This module moves commands, replies and events. It is not the place that knows what a capture or a
//! start consists of; callers put the commands together.

pub mod agent;
pub mod client;
pub mod codec;
pub mod exercise;

pub use agent::{Agent, AgentError, ExecOutput, ShutdownMode};
pub use client::{DEFAULT_TIMEOUT, EventStream, Qmp, QmpError};
pub use codec::{CodecError, Decoder, Event, MAX_LINE, Message};
