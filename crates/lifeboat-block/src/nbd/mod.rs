//! NBD: reading and writing exported disks, and asking which parts of them changed.
//!
//! [`handshake`] and [`replies`] decode what a server sends, without any I/O; [`client`] puts them on a socket of the
//! runtime's, with many requests in flight, [`blocking`] on one of a thread's, with one. Whose disk it is, and what a changed extent means, is known elsewhere.

pub mod blocking;
pub mod client;
pub mod error;
pub mod exercise;
pub mod handshake;
mod proto;
pub mod replies;
mod request;

pub use blocking::BlockingClient;
pub use client::NbdClient;
pub use error::{Asked, NbdError};
pub use handshake::{BlockSizes, Negotiated};

/// Block status flags of `base:allocation`: no storage is allocated here.
pub const STATE_HOLE: u32 = 1;
/// Block status flags of `base:allocation`: reads as zeroes.
pub const STATE_ZERO: u32 = 2;
/// Block status flags of `qemu:dirty-bitmap:NAME`: written since the bitmap began.
pub const STATE_DIRTY: u32 = 1;

/// A run of bytes whose status is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusExtent {
    /// First byte, from the beginning of the export.
    pub offset: u64,
    /// Length in bytes, never 0.
    pub len: u64,
    /// What the context says about it, such as [`STATE_DIRTY`].
    pub flags: u32,
}

#[cfg(test)]
pub(crate) mod tests;
