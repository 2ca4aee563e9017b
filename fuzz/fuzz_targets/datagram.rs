//! See `tapestry_fuzz::datagram`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tapestry_fuzz::datagram::check(bytes));
