//! Policy documents of any bytes.
#![no_main]

#[path = "../bodies/policy_document.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::policy_document(bytes));
