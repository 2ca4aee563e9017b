//! See `tapestry_fuzz::coalescing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tapestry_fuzz::coalescing::check(bytes));
