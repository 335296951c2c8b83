//! Host to host: HTTP/1.1 over TLS 1.3, certificates on both sides. Control calls are small JSON documents, a log is a
//! streamed body. It carries the engine's messages and decides nothing.
//!
//! Who is who:
//! - `identity` says whose certificates were shown; what they are and how they are read is `lifeboat_tls`'s. `enrolment` gets a
//!   certificate to a new host without carrying a key.
//! - `wire` is the protocol as text: paths, query, statuses, JSON.
//! - `client`, `pool` and `progress` are the calling side ([`Link`]); `server`, `service` and `incoming` the called
//!   side ([`serve`]).
//!
//! Invariants: nothing reaches the handler without a certificate of the configured CA that carries a DNS name; a body
//! that was cut never looks as if it had ended; a log is never sent twice by itself.
// To move into [workspace.lints] when all crates hold it.
#![warn(clippy::match_bool, clippy::option_option, clippy::struct_excessive_bools)]
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

mod client;
pub mod enrolment;
pub mod exercise;
mod identity;
mod incoming;
mod limits;
mod pool;
mod progress;
mod server;
mod service;
mod socket;
mod wire;

pub use client::{Link, Timing};
pub use lifeboat_admission::{Cap, Places};
pub use limits::{GRACE, Limits};
pub use server::{serve, serve_with, serve_within};
