//! Tests only: a seeded world of hosts, guests, links and crashes over the engine's ports, all in memory and in virtual
//! time. The same seed gives the same history.
//!
//! The truth about disks is kept by the simulated hypervisor: what every disk held at every instant. No check asks the
//! engine, the store's answers or the wire for it. What is deliberately absent: image formats, certificates, real files.
//! Run it on a current-thread runtime whose clock is paused.
// To move into [workspace.lints] when all crates hold it.
#![warn(clippy::match_bool, clippy::option_option, clippy::struct_excessive_bools)]
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

mod capture;
mod catalog;
mod disk;
mod environment;
mod gate;
mod hypervisor;
mod lies;
mod link;
mod many;
mod media;
mod oracle;
mod read;
mod replica;
mod rot;
mod spool;
mod state;
mod store;
mod world;

pub use disk::{BLOCK, Content, Image, Tracked};
pub use gate::{Fault, Port};
pub use lies::Lies;
pub use media::{Medium, Sealed};
pub use state::{HostState, KeptLog, Ran, Replica, Rng, Shared, State, Truth};
pub use world::{DATA_BYTES, SYS_BYTES, VM, World};
