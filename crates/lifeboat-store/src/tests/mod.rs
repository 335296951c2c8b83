//! Tests of the store on real files. What is right is known from plain byte arrays the tests keep and is compared by
//! `qemu-img`, never by reading back through the code under test.

mod batch;
mod bench;
mod changed;
mod crash;
mod document;
mod faults;
mod forged;
mod history;
mod hostile;
mod keeper;
mod lifecycle;
mod locked;
mod lost;
mod media;
pub(crate) mod medium;
mod order;
mod proof;
mod quota;
mod release;
mod scrub;
mod space;
mod spool;
pub(crate) mod world;
