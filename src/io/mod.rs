//! Descriptors: the port and underlay drivers, and the system calls they rest on.

pub mod addr;
pub mod errors;
pub mod limit;
pub mod listening;
pub mod port;
pub(crate) mod program;
pub mod readiness;
#[allow(unsafe_code)]
pub mod sys;
pub mod underlay;
