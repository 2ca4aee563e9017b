//! What must hold for any bytes: one module for each kind of input, each with a function `check`
//! that panics when a relation is broken.
//!
//! A target is a module here and a row of [`TARGETS`]; a file in `fuzz_targets/` and its entry in
//! `Cargo.toml`; and a directory of seeds, `corpus/<name>/`. The workspace's tests replay all
//! seeds on each run, without a fuzzer; `cargo run --example seeds` writes them anew. To search for
//! new inputs, from this directory's parent:
//!
//! ```text
//! RUSTC_BOOTSTRAP=1 cargo fuzz run --features libfuzzer datagram fuzz/target/found fuzz/corpus/datagram
//! ```
//!
//! (`fuzz/target/found` takes what the fuzzer finds on its way; it must exist.)

pub mod coalescing;
pub mod config;
pub mod datagram;
pub mod frame;
pub mod segmentation;
mod sums;

/// A target's check.
pub type Check = fn(&[u8]);

/// Every target by the name of its corpus directory.
pub const TARGETS: &[(&str, Check)] = &[
    ("coalescing", coalescing::check),
    ("config", config::check),
    ("datagram", datagram::check),
    ("frame", frame::check),
    ("segmentation", segmentation::check),
];
