//! Where decided frames go: the drivers in the daemon, a vector in tests.

use encap::{FlowHash, Frame, Vni};
use fdb::{PortId, VtepId};

/// A frame's copies for the underlay: one segment, one flow, any number of VTEPs.
#[derive(Clone, Copy, Debug)]
pub struct Remote<'a> {
    /// The VTEPs, each of which gets the same bytes.
    pub vteps: &'a [VtepId],
    /// The segment's number.
    pub vni: Vni,
    /// Picks the outer source port (RFC 7348 section 5).
    pub flow: FlowHash,
    /// The inner IPv4 TOS or IPv6 traffic class; zero for what is neither.
    pub tos: u8,
}

/// Takes frames from the engine. Whoever implements it also counts what it sent and what it could
/// not, in the [`crate::Egress`] of the output.
pub trait Sink {
    /// Sends `frame`, tagged as this port wants it, out of `port`. A frame longer than `mtu` (layer
    /// 3 bytes) can only be a TCP superframe, which is cut to fit.
    fn to_port(&mut self, port: PortId, mtu: u16, frame: &Frame<'_>);

    /// Sends `frame`, untagged, to every VTEP of `remote`.
    fn to_vteps(&mut self, remote: Remote<'_>, frame: &Frame<'_>);
}
