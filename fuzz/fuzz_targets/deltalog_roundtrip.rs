//! A structured delta log, written and read back.
#![no_main]

#[path = "../checks/deltalog.rs"]
#[allow(dead_code, reason = "each target runs one of the checks")]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| -> libfuzzer_sys::Corpus {
    // Input that ends early makes no log, and is not worth keeping.
    match checks::roundtrip(bytes) {
        Ok(()) => libfuzzer_sys::Corpus::Keep,
        Err(_) => libfuzzer_sys::Corpus::Reject,
    }
});
