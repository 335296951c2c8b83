//! The measurements, one module for each group of rows.

pub(crate) mod cim;
pub(crate) mod copy;
pub(crate) mod encryption;
pub(crate) mod failover;
pub(crate) mod floods;
pub(crate) mod guest;
pub(crate) mod media;
pub(crate) mod memory;
