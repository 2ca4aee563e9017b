//! Carrying a decision out: tags are edited in a copy of the head, one per tag that is wanted; the
//! body is shared by all outputs.

use crate::classify::Admitted;
use crate::counters::Counters;
use crate::forward::{Forward, fits};
use crate::reason::DropReason;
use crate::sink::{Remote, Sink};
use crate::topology::{Member, Segment, Topology};
use core::convert::Infallible;
use encap::{EtherType, Ethernet, FlowHash, Frame, Head, Inet, Offload, Tag, VlanId};
use fdb::{PortId, VtepId};

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
    #[inline(always)]
    pub(crate) fn carry_out<R: Remotes>(&self, forward: &Forward<'_, R>, sink: &mut impl Sink) {
        let retagged = || Retagged::new(self.frame, self.admitted.ethernet.tag);
        match forward {
            Forward::Port { member, mtu } => {
                sink.to_port(member.port, *mtu, &retagged().with(member.vlan));
            }
            Forward::Remote(remote) => self.to_remote(remote.vteps(), &mut retagged(), sink),
            Forward::Flood { members, except, remote } => {
                let remote = remote.as_ref().map_or(&[][..], Remotes::vteps);
                Egress { admitted: &self.admitted.clone(), ..*self }
                    .flood(members, *except, remote, sink);
            }
        }
    }

    #[inline(never)]
    fn flood(
        &self,
        members: &[Member],
        except: Option<PortId>,
        remote: &[VtepId],
        sink: &mut impl Sink,
    ) {
        let frame = &mut Retagged::new(self.frame, self.admitted.ethernet.tag);
        for member in members.iter().filter(|member| Some(member.port) != except) {
            self.to_member(*member, frame, sink);
        }
        self.flood_remote(remote, frame, sink);
    }

    #[inline]
    fn to_member(&self, member: Member, frame: &mut Retagged<'_>, sink: &mut impl Sink) {
        let Some(port) = self.topology.port(member.port) else { return };
        let mtu = port.spec.mtu;
        if fits(self.frame, self.admitted.ethernet.l3, mtu) {
            sink.to_port(member.port, mtu, &frame.with(member.vlan));
        } else {
            let egress = &self.counters.port(member.port).tx;
            egress.dropped(self.frame.wire_frames(), DropReason::TooBig);
        }
    }

    #[inline(always)]
    fn to_remote(&self, vteps: &[VtepId], frame: &mut Retagged<'_>, sink: &mut impl Sink) {
        let Ethernet { l3_type, l3, .. } = self.admitted.ethernet;
        let (flow, tos) = flow_and_tos(self.frame.head, l3_type, l3);
        let remote = Remote { vteps, vni: self.segment.spec.vni, flow, tos };
        sink.to_vteps(remote, &frame.with(None));
    }

    /// As [`Self::to_remote`], for VTEPs whose path may be too narrow for this frame: the list is
    /// sent in runs between those.
    fn flood_remote(&self, vteps: &[VtepId], frame: &mut Retagged<'_>, sink: &mut impl Sink) {
        let fits = |id: &VtepId| {
            let vtep = self.topology.vtep(*id);
            vtep.is_some_and(|vtep| fits(self.frame, self.admitted.ethernet.l3, vtep.mtu()))
        };
        let mut rest = vteps;
        while !rest.is_empty() {
            let run = rest.iter().take_while(|id| fits(id)).count();
            let (fitting, others) = rest.split_at(run);
            if !fitting.is_empty() {
                self.to_remote(fitting, frame, sink);
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

/// What the underlay has to know of a head whose layer 3 is of this type and begins here.
#[inline(always)]
pub(crate) fn flow_and_tos(head: &[u8], l3_type: EtherType, l3: usize) -> (FlowHash, u8) {
    let inet = Inet::behind(head, l3_type, l3);
    let flow = FlowHash::with(head, inet.as_ref());
    (flow, inet.map_or(0, |inet| inet.tos))
}

/// A frame as its outputs want it tagged. The last edited head is kept: the members of a flood mostly
/// want the same tag.
pub(crate) struct Retagged<'f> {
    frame: &'f Frame<'f>,
    has: Option<Tag>,
    edited: Option<(Option<Tag>, Head, Offload)>,
}

impl<'f> Retagged<'f> {
    #[inline]
    pub(crate) fn new(frame: &'f Frame<'f>, has: Option<Tag>) -> Self {
        Self { frame, has, edited: None }
    }

    /// The frame with the tag that is wanted in place of the one it has. The priority bits of a tag
    /// that is replaced stay.
    #[inline]
    pub(crate) fn with(&mut self, wants: Option<VlanId>) -> Frame<'_> {
        if wants.is_none() && self.has.is_none() { *self.frame } else { self.retag(wants) }
    }

    #[inline(never)]
    fn retag(&mut self, wants: Option<VlanId>) -> Frame<'_> {
        let (pcp, dei) = self.has.map_or((0, false), |tag| (tag.pcp, tag.dei));
        let wants = wants.map(|vlan| Tag { pcp, dei, ..Tag::new(vlan) });
        if wants == self.has {
            return *self.frame;
        }
        if !matches!(&self.edited, Some((tag, ..)) if *tag == wants) {
            let (head, offload) = edit(self.frame, self.has.is_some(), wants);
            self.edited = Some((wants, head, offload));
        }
        match &self.edited {
            Some((_, head, offload)) => head.frame(self.frame, *offload),
            None => *self.frame,
        }
    }
}

fn edit(frame: &Frame<'_>, pop: bool, push: Option<Tag>) -> (Head, Offload) {
    let (mut head, mut offload) = (Head::copy_of(frame.head), frame.offload);
    if pop {
        offload = head.untag(offload);
    }
    if let Some(tag) = push {
        // A head that was copied has room for a tag, and what was admitted has two MAC addresses.
        offload = head.tag(tag, offload).unwrap_or(offload);
    }
    (head, offload)
}
