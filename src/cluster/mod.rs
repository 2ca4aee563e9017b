//! The cluster: which nodes there are, which share of the pods' address space each has, and what
//! follows from it for this node.
//!
//! A store says what is (the configuration file, etcd or the Kubernetes API), as [`store::Update`]s;
//! [`membership`] decides what of it is believed, and yields [`model::View`]s.

mod claims;
pub mod conflist;
pub mod guard;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod membership;
pub mod model;
pub mod rules;
pub mod store;
mod view;
