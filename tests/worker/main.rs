//! The real worker loop without root: socket pairs as ports, loopback as the underlay.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod crossing;
mod kit;
mod life;
mod sharing;
