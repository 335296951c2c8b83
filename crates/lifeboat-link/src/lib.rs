//! Host to host: HTTP/1.1 over TLS 1.3, certificates on both sides. Control calls are small JSON documents, a log is a
//! streamed body. It carries the engine's messages and decides nothing.
//!
//! Who is who:
//! - `tls` makes sense of certificates and puts TLS errors into words; `credentials` holds those in use and reads them
//!   anew when they change; `certs` makes and describes certificates, `ca_key` keeps the authority's key, and `enrolment` gets a
//!   certificate to a new host without carrying a key.
//! - `wire` is the protocol as text: paths, query, statuses, JSON.
//! - `client`, `pool` and `progress` are the calling side ([`Link`]); `server`, `service` and `incoming` the called
//!   side ([`serve`]).
//!
//! Invariants: nothing reaches the handler without a certificate of the configured CA that carries a DNS name; a body
//! that was cut never looks as if it had ended; a log is never sent twice by itself.

mod ca_key;
pub mod certs;
mod client;
mod credentials;
pub mod enrolment;
pub mod exercise;
mod incoming;
mod pool;
mod progress;
mod server;
mod service;
mod socket;
mod tls;
mod wire;

pub use ca_key::{Ask, PASSPHRASE_MIN, Passphrase};
pub use client::{Link, Timing};
pub use lifeboat_admission::{Cap, Places};

pub use credentials::{Credentials, GRACE, Holder, Validity};
pub use server::{Limits, serve, serve_with, serve_within};
pub use tls::{LinkConfig, LinkSetupError};
