//! Devices: making, configuring, adopting and removing them.

pub mod netlink;
pub mod netns;
