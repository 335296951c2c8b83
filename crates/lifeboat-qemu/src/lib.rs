//! The QEMU adapter: VMs as QEMU processes that Lifeboat starts itself, and the capture of their disks.
//!
//! How a monitor, an export and a guest's agent are spoken to is `lifeboat-block`'s. What to do with a VM, and when, is the
//! engine's business; it reaches this crate only through its ports.
// To move into [workspace.lints] when all crates hold it.
#![warn(clippy::match_bool, clippy::option_option, clippy::struct_excessive_bools)]
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

mod capture;
mod command;
mod config;
mod confine;
#[cfg(test)]
mod confine_tests;
mod console;
mod error;
mod files;
mod firmware;
mod graph;
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
mod power;
mod preflight;
mod probe;
mod process;
mod qemu;
mod seed;
mod start;
mod tell;
#[cfg(test)]
mod testing;
mod tracking_overlay;
mod writers;

pub use config::{Accel, FIRMWARE_DIRS, QemuConfig};
pub use confine::UserRange;
pub use qemu::Qemu;
