//! Faults from below and from outside, for tests that run the real daemons: a disk that loses what was not flushed, fails,
//! hangs or lies; a link that is cut or goes silent; a clock that jumps; and the record of what was written, which says
//! what every copy must hold.
//!
//! | module | is |
//! |---|---|
//! | [`disk`] | a disk with a volatile cache, as data in memory |
//! | [`served`] | that disk as a file of a FUSE mount, with errors, hangs, delays and power cuts |
//! | [`volume`] | a real file system on a loop device on that file |
//! | [`keys`] | an encrypted directory's key, taken away |
//! | [`link`] | the way between two hosts |
//! | [`clock`] | the wall clock a process sees |
//! | [`monitor`] | writing to the disks of a running QEMU the way a guest does |
//! | [`history`] | what was written when, and whether an image is a state the disks have had |
//! | [`random`] | random numbers from a printed seed |
//! | [`sandbox`] | a mount and process namespace in which nothing is left behind |
//!
//! This crate knows nothing of Lifeboat. It is an oracle, so it must never share code with what it judges.
// To move into [workspace.lints] when all crates hold it.
#![warn(clippy::match_bool, clippy::option_option, clippy::struct_excessive_bools)]
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

pub mod clock;
pub mod disk;
pub mod history;
pub mod keys;
pub mod link;
pub mod monitor;
pub mod port;
pub mod random;
pub mod sandbox;
pub mod served;
pub mod volume;
