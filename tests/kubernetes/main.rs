//! The Kubernetes store against a server that answers as a real one was recorded to, against a
//! real one where there is one, and what is packaged for Kubernetes.

#![cfg(feature = "kubernetes")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod follow;
mod manifests;
mod own;
mod real;
mod recordings;
mod scale;
mod seen;
mod stand_in;
mod tls;
