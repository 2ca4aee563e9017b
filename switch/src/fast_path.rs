//! The fast path: what nearly every frame of a bridged segment is. Untagged, from a station that is
//! known where it comes from, to one that is known at another place, and short enough for that.
//!
//! Nothing is decided here that [`crate::classify`] and [`crate::forward`] would not decide so; what is
//! unusual in any way is left to them, from the beginning, and nothing has been written by then.

use crate::counters::Weight;
use crate::egress::flow_and_tos;
use crate::engine::Outer;
use crate::forward::fits;
use crate::sink::{Remote, Sink};
use crate::topology::{Segment, Topology, Vtep};
use encap::ecn::Ecn;
use encap::ethernet::HEADER_LEN;
use encap::{EtherType, Frame, Plain, vxlan};
use fdb::{Dest, Foreseen, PortId, Reader, SegmentId, Tick, View, VtepId};
use std::net::IpAddr;

/// How many frames' destinations are looked up side by side.
pub(crate) const BURST: usize = 32;

/// Where datagrams came from last, and where they belong by the snapshot in use: a train's all do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tunnel {
    peer: IpAddr,
    header: vxlan::Header,
    pub(crate) vtep: VtepId,
    segment: SegmentId,
}

impl Tunnel {
    /// The tunnel of a datagram that a bridged segment takes from `vtep`, if its frames may take the fast
    /// path.
    pub(crate) fn of(outer: Outer, segment: &Segment, vtep: &Vtep) -> Option<Self> {
        let Outer { peer, header, .. } = outer;
        let tunnel = Self { peer, header, vtep: vtep.id, segment: segment.id };
        (!header.reserved_bits_set).then_some(tunnel)
    }
}

/// The fast path of frames that came from one place.
pub(crate) struct FastPath<'e> {
    topology: &'e Topology,
    segment: SegmentId,
    from: Dest,
    view: View<'e>,
}

/// A frame that may take the fast path.
#[derive(Clone, Copy)]
pub(crate) struct Candidate<'e> {
    plain: Plain,
    to: Foreseen<'e>,
}

impl<'e> FastPath<'e> {
    /// The fast path of a port, if it has one.
    #[inline(always)]
    pub(crate) fn from_port(
        topology: &'e Topology,
        fdb: &'e mut Reader,
        port: PortId,
        now: Tick,
    ) -> Option<Self> {
        let segment = topology.gate(port)?.segment;
        Some(Self { topology, segment, from: Dest::Port(port), view: fdb.view(segment, now)? })
    }

    /// The fast path of a datagram's frame, if it came through `tunnel`, and nothing on its way marked it.
    #[inline(always)]
    pub(crate) fn from_tunnel(
        topology: &'e Topology,
        fdb: &'e mut Reader,
        tunnel: &Tunnel,
        outer: Outer,
        now: Tick,
    ) -> Option<Self> {
        let Tunnel { peer, header, vtep, segment } = *tunnel;
        if !Ecn::of_tos(outer.tos).leaves_inner() || outer.header != header || outer.peer != peer {
            return None;
        }
        Some(Self { topology, segment, from: Dest::Vtep(vtep), view: fdb.view(segment, now)? })
    }

    /// Whether a frame may take it, as far as its header says.
    #[inline(always)]
    pub(crate) fn candidate(&self, frame: &Frame<'_>) -> Option<Candidate<'e>> {
        let plain = Plain::parse(frame.head)?;
        if plain.ethertype == EtherType::MAC_CONTROL {
            return None;
        }
        Some(Candidate { plain, to: self.view.foresee(plain.dst)? })
    }

    /// Sends a frame to where it belongs, or leaves it alone and returns `None`.
    #[inline(always)]
    pub(crate) fn forward(
        &mut self,
        candidate: Candidate<'e>,
        frame: &Frame<'_>,
        sink: &mut impl Sink,
    ) -> Option<Weight> {
        let Candidate { plain, to } = candidate;
        if !self.view.knows(plain.src, self.from) {
            return None;
        }
        match (self.from, self.view.find(to)?) {
            (_, Dest::Port(to)) if self.from == Dest::Port(to) => return None,
            (_, Dest::Port(to)) => self.to_port(to, frame, sink)?,
            (Dest::Port(_), Dest::Vtep(to)) => self.to_vtep(to, plain, frame, sink)?,
            (Dest::Vtep(_), Dest::Vtep(_)) => return None,
        }
        Some(Weight::of(frame))
    }

    #[inline(always)]
    fn to_port(&self, to: PortId, frame: &Frame<'_>, sink: &mut impl Sink) -> Option<()> {
        let gate = self.topology.gate(to)?;
        let mtu = gate.mtu.get();
        if gate.segment != self.segment || !fits(frame, HEADER_LEN, mtu) {
            return None;
        }
        sink.to_port(to, mtu, frame);
        Some(())
    }

    #[inline(always)]
    fn to_vtep(
        &self,
        to: VtepId,
        plain: Plain,
        frame: &Frame<'_>,
        sink: &mut impl Sink,
    ) -> Option<()> {
        let to = self.topology.vtep(to).filter(|to| fits(frame, HEADER_LEN, to.mtu()))?;
        let vni = self.topology.segment(self.segment)?.spec.vni;
        let (flow, tos) = flow_and_tos(frame.head, plain.ethertype, HEADER_LEN);
        let vteps = core::slice::from_ref(&to.id);
        sink.to_vteps(Remote { vteps, vni, flow, tos }, frame);
        Some(())
    }
}
