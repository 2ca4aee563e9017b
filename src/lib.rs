//! The edge of Tapestry: everything that touches the kernel, the disk or an operator.
#![deny(unsafe_code)]

pub mod attach;
pub mod cli;
pub mod cluster;
pub mod cni;
pub mod config;
pub mod control;
pub mod daemon;
pub mod device;
pub mod durable;
pub mod gateway;
pub mod io;
pub mod privilege;
