//! Arbitrary bytes as the text of an embedded instance and as that of a path.
#![no_main]

#[path = "../checks/cimxml.rs"]
#[allow(dead_code, reason = "each target runs one of the checks")]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::embedded(bytes));
