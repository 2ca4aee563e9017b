//! The cluster: which nodes there are, which share of the pods' address space each has, and what
//! follows from it for this node.
//!
//! A store says what is (the configuration file, etcd or the Kubernetes API); [`model`] is what
//! they all speak of.

pub mod model;
