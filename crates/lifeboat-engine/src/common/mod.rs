//! The words that records, messages between hosts and views share, and that have no state of their own: who asks, what is wrong, the
//! key of an export, the address of a host.

pub(crate) mod address;
pub mod by;
pub(crate) mod export_key;
pub mod person;
pub mod problem;
