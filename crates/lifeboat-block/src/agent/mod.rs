//! The agent in a guest: its client, and what is asked of a guest by it.
//!
//! When a guest is frozen, shut down or asked is decided elsewhere.

mod client;
pub mod guest;

pub use client::{Agent, AgentError, ExecOutput, ShutdownMode};
