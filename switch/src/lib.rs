//! A sans-IO virtual switch.
#![forbid(unsafe_code)]
