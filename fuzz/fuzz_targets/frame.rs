//! See `tapestry_fuzz::frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tapestry_fuzz::frame::check(bytes));
