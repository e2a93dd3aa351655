//! Requests of any bytes to the responders that read them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lamina_testkit::fuzz::message_any(bytes));
