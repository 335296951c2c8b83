//! What only an ioctl of the kernel can do, as safe functions. It knows nothing of Lifeboat's formats and decides nothing about
//! replicas.
//!
//! - `ioctl` makes the calls. It is the only module of the project with unsafe code.
//! - [`encryption`] is the encryption of directories by their file system (fscrypt, policies of version 2): keys, policies, and
//!   whether a directory is encrypted or locked.
//! - [`at_rest`] is what follows from that for a program that keeps files in such directories: it gives the key to a file system,
//!   makes new directories encrypted, and refuses locked ones.
//! - [`tap`] attaches to tap devices for processes that have no right to.
// To move into [workspace.lints] when all crates hold it.
#![warn(clippy::match_bool, clippy::option_option, clippy::struct_excessive_bools)]
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

pub mod at_rest;
pub mod encryption;
#[allow(
    unsafe_code,
    reason = "an ioctl is a pointer and a promise; this module makes the promises"
)]
mod ioctl;
pub mod tap;

pub use at_rest::{AtRest, AtRestError};
pub use encryption::{KeyError, KeyId, MasterKey, Standing};
