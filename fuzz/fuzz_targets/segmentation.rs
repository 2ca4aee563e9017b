//! See `tapestry_fuzz::segmentation`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tapestry_fuzz::segmentation::check(bytes));
