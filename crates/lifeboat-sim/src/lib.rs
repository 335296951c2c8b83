//! Tests only: a seeded world of hosts, guests, links and crashes over the engine's ports, all in memory and in virtual
//! time. The same seed gives the same history.
//!
//! The truth about disks is kept by the simulated hypervisor: what every disk held at every instant. No check asks the
//! engine, the store's answers or the wire for it. What is deliberately absent: image formats, certificates, real files.
//! It runs on a current-thread runtime whose clock is paused; [`harness`] makes one, and has what tests share beyond it.

mod capture;
mod catalog;
mod disk;
mod environment;
mod gate;
pub mod harness;
mod hosts;
mod hypervisor;
mod lies;
mod link;
mod logs;
mod many;
mod media;
mod medium;
mod oracle;
mod port;
mod read;
mod replica;
mod rng;
mod rot;
mod spool;
mod state;
mod store;
mod stores;
mod tell;
mod world;

pub use disk::{BLOCK, Content, Image, Tracked};
pub use gate::Fault;
pub use lies::Lies;
pub use medium::{Medium, Sealed};
pub use port::Port;
pub use rng::Rng;
pub use state::{HostState, KeptLog, Order, Ran, Replica, Shared, State, Truth};
pub use tell::BEHIND;
pub use world::{DATA_BYTES, SYS_BYTES, VM, World};
