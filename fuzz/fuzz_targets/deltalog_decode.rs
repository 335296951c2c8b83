//! Arbitrary bytes into the delta log decoder.
#![no_main]

#[path = "../checks/deltalog.rs"]
#[allow(dead_code, reason = "each target runs one of the checks")]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::decode(bytes));
