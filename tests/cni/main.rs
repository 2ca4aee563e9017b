//! Attaching containers: the addresses' pool, the book of attachments, and the plugin and the daemon
//! as a runtime meets them, with `ip -json` as the witness.
//!
//! What touches namespaces needs root, or a user namespace with its own /run and a /dev/net/tun that
//! may be opened.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod book;
mod crashes;
mod delegated;
mod kit;
mod plugin;
mod pool;
mod socket;
