//! See `tapestry_fuzz::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tapestry_fuzz::config::check(bytes));
