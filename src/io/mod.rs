//! Descriptors: the port and underlay drivers, and the system calls they rest on.

#[allow(unsafe_code)]
pub mod sys;
