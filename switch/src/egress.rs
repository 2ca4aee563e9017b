//! Carrying a decision out: tags are edited in a copy of the head, one per kind of output; the body
//! is shared by all of them.

use crate::classify::Admitted;
use crate::counters::Counters;
use crate::forward::{Forward, fits};
use crate::reason::DropReason;
use crate::sink::{Remote, Sink};
use crate::topology::{Member, Segment, Topology};
use core::convert::Infallible;
use encap::{EtherType, Ethernet, FlowHash, Frame, Head, Tag, VlanId};
use fdb::VtepId;

/// How a decision names its VTEPs.
pub(crate) trait Remotes {
    fn vteps(&self) -> &[VtepId];
}

impl Remotes for &[VtepId] {
    fn vteps(&self) -> &[VtepId] {
        self
    }
}

impl Remotes for Infallible {
    fn vteps(&self) -> &[VtepId] {
        match *self {}
    }
}

/// What every output of one frame needs to know.
pub(crate) struct Egress<'a> {
    pub(crate) topology: &'a Topology,
    pub(crate) segment: &'a Segment,
    pub(crate) counters: &'a Counters,
    pub(crate) admitted: &'a Admitted,
    pub(crate) frame: &'a Frame<'a>,
}

impl Egress<'_> {
    /// Hands the frame to every output of `forward`.
    #[inline]
    pub(crate) fn carry_out<R: Remotes>(&self, forward: &Forward<'_, R>, sink: &mut impl Sink) {
        match forward {
            Forward::Port(member) => self.to_member(*member, sink),
            Forward::Remote(remote) => self.to_remote(remote.vteps(), sink),
            Forward::Flood { members, except, remote } => {
                for member in members.iter().filter(|member| Some(member.port) != *except) {
                    self.to_member(*member, sink);
                }
                if let Some(remote) = remote {
                    self.flood_remote(remote.vteps(), sink);
                }
            }
        }
    }

    #[inline]
    fn to_member(&self, member: Member, sink: &mut impl Sink) {
        let Some(port) = self.topology.port(member.port) else { return };
        let mtu = port.spec.mtu;
        if fits(self.frame, self.admitted, mtu) {
            tagged(self.frame, self.admitted.ethernet.tag, member.vlan, |frame| {
                sink.to_port(member.port, mtu, frame);
            });
        } else {
            let egress = &self.counters.port(member.port).tx;
            egress.dropped(self.frame.wire_frames(), DropReason::TooBig);
        }
    }

    #[inline]
    fn to_remote(&self, vteps: &[VtepId], sink: &mut impl Sink) {
        let ethernet = &self.admitted.ethernet;
        let flow = FlowHash::of(self.frame.head);
        let tos = traffic_class(self.frame.head, ethernet);
        let remote = Remote { vteps, vni: self.segment.spec.vni, flow, tos };
        tagged(self.frame, ethernet.tag, None, |frame| sink.to_vteps(remote, frame));
    }

    /// As [`Self::to_remote`], for VTEPs whose path may be too narrow for this frame: the list is
    /// sent in runs between those.
    fn flood_remote(&self, vteps: &[VtepId], sink: &mut impl Sink) {
        let fits = |id: &VtepId| {
            let vtep = self.topology.vtep(*id);
            vtep.is_some_and(|vtep| fits(self.frame, self.admitted, vtep.mtu()))
        };
        let mut rest = vteps;
        while !rest.is_empty() {
            let run = rest.iter().take_while(|id| fits(id)).count();
            let (fitting, others) = rest.split_at(run);
            if !fitting.is_empty() {
                self.to_remote(fitting, sink);
            }
            let narrow = others.iter().take_while(|id| !fits(id)).count();
            let (narrow, others) = others.split_at(narrow);
            for id in narrow {
                let egress = &self.counters.vtep(*id).tx;
                egress.dropped(self.frame.wire_frames(), DropReason::TooBig);
            }
            rest = others;
        }
    }
}

/// Passes on `frame` with the tag that is wanted in place of the one it has. The priority bits of
/// a tag that is replaced stay.
#[inline]
pub(crate) fn tagged(
    frame: &Frame<'_>,
    has: Option<Tag>,
    wants: Option<VlanId>,
    then: impl FnOnce(&Frame<'_>),
) {
    let wants = wants.map(|vlan| Tag {
        vid: vlan.get(),
        pcp: has.map_or(0, |tag| tag.pcp),
        dei: has.is_some_and(|tag| tag.dei),
    });
    if wants == has {
        return then(frame);
    }
    let mut head = Head::copy_of(frame.head);
    let mut shift = 0;
    if has.is_some() && head.pop_tag().is_some() {
        shift -= 4;
    }
    if let Some(tag) = wants {
        head.push_tag(tag);
        shift += 4;
    }
    then(&Frame { head: head.as_slice(), body: frame.body, offload: frame.offload.shifted(shift) });
}

/// The IPv4 TOS or IPv6 traffic class of a frame, zero for what is neither.
#[inline]
fn traffic_class(head: &[u8], ethernet: &Ethernet) -> u8 {
    match (ethernet.ethertype, head.get(ethernet.l3..)) {
        (EtherType::IPV4, Some([_, tos, ..])) => *tos,
        (EtherType::IPV6, Some([high, low, ..])) => (high << 4) | (low >> 4),
        _ => 0,
    }
}
