//! Whole-crate tests against oracles that share no code with it: naive checksums, etherparse.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod adopt;
mod checksum;
mod coalesce;
mod common;
mod hostile;
mod segment;
mod vnet;
