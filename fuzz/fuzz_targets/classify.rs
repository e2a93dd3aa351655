//! Classifiers of any rules.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lamina_testkit::fuzz::classify_any(bytes));
