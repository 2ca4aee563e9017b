//! The cluster: which nodes there are, which share of the pods' address space each has, and what
//! follows from it for this node.
//!
//! A store says what is (the configuration file, etcd or the Kubernetes API), as [`store::Update`]s;
//! [`membership`] decides what of it is believed, and yields [`model::View`]s. [`feed`] runs both:
//! [`start`] it.

pub mod backoff;
mod causes;
mod claims;
pub mod conflist;
pub mod etcd;
pub mod feed;
mod fixed;
pub mod guard;
pub mod identity;
mod intake;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod last_good;
pub mod membership;
pub mod model;
mod requests;
pub mod rules;
pub mod store;
mod view;

pub use feed::{Feed, Identity, StartError, start};
pub use requests::Requests;
