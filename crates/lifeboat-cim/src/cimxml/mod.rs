//! CIM-XML (DSP0200, DSP0201): requests of strangers into typed operations, answers into text that can be sent while it is
//! being made, and indications for listeners. No HTTP: what its headers must say is checked by [`check_headers`].

#[cfg(test)]
pub(crate) mod fixture;
mod values;

pub use values::{ShapeError, decode_instance};
