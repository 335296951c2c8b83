//! Replica disks of this host as chains of qcow2 layers in one directory per VM, and the spool of logs on their way.
//! Implements the engine's `ImageStore` and `LogStore`, one object behind both, and `Spool`.
//!
//! ```text
//! <location>/<vm>/manifest.json                     what counts; replaced atomically
//!                 manifest.backup.json              the same without the head, for when that is damaged
//!                 disks/<disk>/base.raw             bulk copy, then everything older than the oldest point; absent
//!                                                   when an image of this host was taken over where it is
//!                              <sequence>-<n>.qcow2 sealed points, each on the one before, and the head on top
//!                 logs/<generation>-<sequence>.lbd  durable delta logs
//!                 incoming/*.part                   transfers under way
//!                 branches/<branch>/<disk>.qcow2    writable layer on a point (and <disk>.replay.qcow2 below it)
//!                 branches/<branch>/firmware.fd     the branch's own firmware variables, made from firmware.fd
//!                 damaged/                          files that could not be used; only a person deletes them
//!                 divergence-<n>.json               where this copy may differ from others
//!                 scrub/                            digests of what is sealed, how far verifying is, what is damaged
//!                 run/                              sockets of readers
//! ```
//!
//! An operation takes effect in the instant the manifest is replaced; before it there are files the manifest does not
//! name, after it files it no longer names, and both are removed by the next start. So there is no list of half-done
//! states to handle. A layer's name is given when it is begun and stays: sealing moves no file.
//!
//! Deliberately absent: schedules, retention rules, decisions about what to fail over to (the engine's), and running
//! anything on the images (the hypervisor's). `docs/recovery-without-lifeboat.md` says how to use the directory
//! without this program.
// To move into [workspace.lints] when all crates hold it.
#![warn(clippy::match_bool, clippy::option_option, clippy::struct_excessive_bools)]
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

mod adopt;
mod apply;
mod branch;
mod bulk;
mod chain;
mod compare;
mod comparison;
mod damage;
mod damaged;
mod digest;
mod digest_merge;
mod digested;
mod divergence;
mod durable;
mod error;
mod expire;
mod export;
mod faults;
mod files;
mod firmware;
mod found;
mod layer;
mod locked;
mod log_store;
mod logs;
mod look;
mod manifest;
mod map;
mod media;
mod merge;
mod open;
mod place;
mod presence;
mod progress;
mod proof;
mod qemu_img;
mod receive;
mod repair;
mod replica;
mod room;
mod scrub;
mod seal;
mod shown;
mod spoiled;
mod spool;
mod steps;
mod store;
#[cfg(test)]
mod tests;
mod twin;
mod verify;
mod view;
mod watch;

pub use media::FileMedia;
pub use spool::FileSpool;
pub use store::QcowStore;
