//! Those that Tapestry must get on with, each as a node with one pod behind it.

pub mod kernel;
pub mod ovs;
