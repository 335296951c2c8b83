//! The QEMU adapter: everything Lifeboat says to a QEMU process, its disks and the agent in its guest.
//!
//! [`qmp`] speaks to monitors and guest agents, [`nbd`] reads and writes exported disks. What to do with a
//! VM, and when, is the engine's business; it reaches this crate only through its ports.

pub mod nbd;
pub mod qmp;
