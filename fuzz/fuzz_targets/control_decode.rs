//! Arbitrary bytes as the control documents of two hosts: requests, offers and updates among them, and their answers.
#![no_main]

#[path = "../checks/control.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::decode(bytes));
