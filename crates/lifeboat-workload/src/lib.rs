//! The recording workload: writers that leave numbered, checksummed records on disks, and verifiers that say
//! from an image alone which records are there and whether they form a state the disks really had.
//!
//! A crash-consistent copy holds a *prefix* of what was written: some number `high`, every record up to it in
//! its newest form, and nothing after it. Every record's place and content follow from its number, so the
//! verifier needs no log, no network and no help from the code under test; it runs in the guest and on the host.
//!
//! | mode | writes | proves |
//! |---|---|---|
//! | `append` | 512-byte records at the end of a file, one `fdatasync` each | the file system recovered, no record lost |
//! | `scatter` | 4 KiB blocks over a ring of slots in pseudo-random order | no block lost, stale, torn or misplaced |
//! | `pair` | the same number to disk A, then to disk B | two disks were caught at one instant |
//!
//! This crate knows nothing of Lifeboat. It is an oracle, so it must never share code with what it judges.
// To move into [workspace.lints] when all crates hold it.
#![warn(clippy::match_bool, clippy::option_option, clippy::struct_excessive_bools)]
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

pub mod args;
mod latency;
pub mod record;
pub mod verify;
pub mod write;

use std::fmt;

/// Which of the three record streams is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Records at the end of a file on a file system.
    Append,
    /// Blocks in a pseudo-random ring on a device or file.
    Scatter,
    /// The same numbers on two devices, always first A and then B.
    Pair,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Append => "append",
            Self::Scatter => "scatter",
            Self::Pair => "pair",
        })
    }
}
