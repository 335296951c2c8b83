//! Arbitrary bytes as a request of CIM-XML.
#![no_main]

#[path = "../checks/cimxml.rs"]
#[allow(dead_code, reason = "each target runs one of the checks")]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::decode(bytes));
