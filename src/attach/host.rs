//! What the book of attachments needs of whoever has the ports.

use std::os::fd::OwnedFd;

use encap::MacAddr;

use super::Pod;
use super::protocol::Refused;
use crate::config::{Name, PortSpec};
use crate::device::offload::OffloadWish;

/// What the book needs of the daemon.
pub trait Host {
    /// What a new port of this segment is to be like; without a name, of the cluster's.
    ///
    /// # Errors
    ///
    /// `NotFound` or `NotReady`.
    fn place(&self, segment: Option<&str>) -> Result<Place, Refused>;

    /// Whether there could be such a port.
    ///
    /// # Errors
    ///
    /// `Invalid`, with everything that is wrong.
    fn check(&self, spec: &PortSpec) -> Result<(), Refused>;

    /// Adds a port whose device was made by somebody else: records it, makes the device persistent,
    /// and begins to forward, in this order.
    ///
    /// # Errors
    ///
    /// When that cannot be; nothing is left of it then, but the device if it is still held open.
    fn add(&mut self, spec: &PortSpec, queues: Vec<OwnedFd>, ifindex: u32) -> Result<(), Refused>;

    /// Stops forwarding for a port, removes its device, and forgets it. It may be gone.
    ///
    /// # Errors
    ///
    /// When the device is there and cannot be removed.
    fn remove(&mut self, port: &str) -> Result<(), Refused>;

    /// The attachment of this port.
    fn pod(&self, port: &str) -> Option<PodRow>;

    /// All attachments by the names of their ports.
    fn pods(&self) -> Vec<PodRow>;
}

/// What ports of a segment are like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// This node's name.
    pub node: Name,
    /// The segment's name.
    pub segment: String,
    /// Whether it routes.
    pub routed: bool,
    /// The MTU of a port that is given none, in bytes.
    pub mtu: u32,
    /// How many queues a device has.
    pub queues: u16,
    /// The uid that devices belong to.
    pub owner: u32,
    /// The length of their rings.
    pub txqueuelen: Option<u32>,
    /// Their offloads.
    pub offload: OffloadWish,
}

/// An attachment that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRow {
    /// The name of its port.
    pub port: String,
    /// What the journal says of it.
    pub pod: Pod,
    /// The path of its namespace.
    pub netns: String,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Why it is down; `None`: it is up.
    pub trouble: Option<String>,
    /// Its namespace is not where it was.
    pub gone: bool,
}
