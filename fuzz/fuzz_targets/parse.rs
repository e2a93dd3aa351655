//! Frames of any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lamina_testkit::fuzz::parse_any(bytes));
