//! What adapters say to a QEMU process, whoever started it: its monitor, its exported disks, the agent in its guest.
//!
//! [`qmp`] speaks to monitors, [`agent`] to guest agents, [`nbd`] reads and writes exported disks. How a process is started, found and
//! ended is not known here, nor what an exported disk is for.

pub mod agent;
pub mod nbd;
pub mod qmp;
