//! Devices: making, configuring, adopting and removing them.

pub mod adopt;
pub mod error;
pub mod handed;
pub mod journal;
pub mod make;
pub mod many;
pub mod netlink;
pub mod netns;
pub mod offload;
mod settle;
pub mod spec;
pub mod steering;
pub mod watch;
