//! What adapters do with a QEMU process that is there already: its monitor, its exported disks, the agent in its guest, and the
//! capture of its disks.
//!
//! [`qmp`] speaks to monitors, [`agent`] to guest agents, [`nbd`] reads and writes exported disks; [`capture`] puts them together
//! behind the engine's port. How a process is started, found and ended is not known here, nor what became of images while no
//! process had them open: adapters say so by the traits of [`capture`].
// To move into [workspace.lints] when all crates hold it.
#![warn(clippy::match_bool, clippy::option_option, clippy::struct_excessive_bools)]
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

pub mod agent;
pub mod capture;
pub mod fdset;
pub mod files;
pub mod graph;
pub mod held;
pub mod nbd;
pub mod qmp;
