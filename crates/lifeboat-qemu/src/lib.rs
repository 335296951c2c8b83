//! The QEMU adapter: everything Lifeboat says to a QEMU process, its disks and the agent in its guest.
//!
//! [`qmp`] speaks to monitors and guest agents, [`nbd`] reads and writes exported disks. What to do with a
//! VM, and when, is the engine's business; it reaches this crate only through its ports.

mod capture;
mod command;
mod config;
mod confine;
#[cfg(test)]
mod confine_tests;
mod console;
mod files;
mod firmware;
mod graph;
mod guest;
#[cfg(test)]
mod guest_tests;
mod handed;
mod hypervisor;
mod identity;
mod image;
mod layers;
mod ledger;
mod limits;
mod locate;
mod merge;
pub mod nbd;
mod power;
mod preflight;
mod probe;
mod process;
pub mod qmp;
mod seed;
mod shell;
mod start;
#[cfg(test)]
mod testing;
mod writers;

pub use config::{Accel, FIRMWARE_DIRS, QemuConfig};
pub use confine::UserRange;
pub use hypervisor::Qemu;
