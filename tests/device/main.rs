//! Devices and namespaces against the kernel, with `ip -json` as the independent witness.
//!
//! Needs root, or a user namespace with its own /run and a /dev/net/tun that may be opened.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod configure;
mod many;
mod netlink;
mod pods;
mod support;
mod tap;
