//! One frame's way through a cluster segment: decided, sent and counted. A superframe stays whole:
//! only its head is edited.

use crate::answer;
use crate::classify::Admitted;
use crate::cluster::{Cluster, Hop, Next, Packet, Passage, Routing, Stop};
use crate::counters::Counters;
use crate::egress::{Egress, Remotes};
use crate::engine::Done;
use crate::forward::Answer;
use crate::gateway;
use crate::pace::Pace;
use crate::reason::DropReason;
use crate::sink::{Remote, Sink};
use crate::spec::{GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, PortRole};
use crate::topology::{Port, Segment, Topology, Vtep};
use encap::{EtherType, FlowHash, Frame, Head, Inet, IpVersion, Offload, hop};
use fdb::Tick;

/// What every frame of a cluster segment needs.
pub(crate) struct Router<'e> {
    pub(crate) topology: &'e Topology,
    pub(crate) segment: &'e Segment,
    pub(crate) cluster: &'e Cluster,
    pub(crate) counters: &'e Counters,
}

impl<'e> Router<'e> {
    fn routing<'f>(&self, admitted: &'f Admitted, frame: &'f Frame<'f>) -> Routing<'e, 'f> {
        let Self { topology, segment, cluster, .. } = *self;
        Routing { topology, segment, cluster, admitted, frame }
    }

    /// Forwards a frame that was read from `port`. Apart, so that the way of a bridged frame has
    /// nothing of it.
    #[inline(never)]
    pub(crate) fn forward_from_port(
        &self,
        port: &'e Port,
        admitted: &Admitted,
        frame: &Frame<'_>,
        (pace, now): (&mut Pace, Tick),
        sink: &mut impl Sink,
    ) -> Result<Done, DropReason> {
        if let PortRole::Pod { spoof: false, .. } = port.spec.role
            && port.spec.mac != Some(admitted.source)
        {
            return Err(DropReason::SpoofedMac);
        }
        let routing = self.routing(admitted, frame);
        if admitted.ethernet.l3_type == EtherType::ARP {
            let stop = gateway::asked(frame, admitted, port);
            return self.stop(stop, port, admitted, frame, None, sink);
        }
        let packet = routing.packet()?;
        match routing.of_port(port, &packet) {
            Ok(passage) => Ok(self.pass(passage, admitted, &packet, frame, sink)),
            Err(Stop::Answer(answer)) if answer.is_paced() && !pace.take(now) => {
                Err(answer.untold())
            }
            Err(stop) => self.stop(stop, port, admitted, frame, Some(&packet.inet), sink),
        }
    }

    /// Forwards a frame that came from `vtep`, one of the segment's.
    #[inline(never)]
    pub(crate) fn forward_from_vtep(
        &self,
        vtep: &Vtep,
        admitted: &Admitted,
        frame: &Frame<'_>,
        sink: &mut impl Sink,
    ) -> Result<Done, DropReason> {
        let routing = self.routing(admitted, frame);
        if admitted.ethernet.l3_type == EtherType::ARP {
            return Err(DropReason::LinkControl);
        }
        let packet = routing.packet()?;
        let passage = routing.of_vtep(vtep, &packet)?;
        Ok(self.pass(passage, admitted, &packet, frame, sink))
    }

    #[inline]
    fn pass<R: Remotes>(
        &self,
        passage: Passage<'_, R>,
        admitted: &Admitted,
        packet: &Packet,
        frame: &Frame<'_>,
        sink: &mut impl Sink,
    ) -> Done {
        let Self { topology, segment, counters, .. } = *self;
        match passage {
            Passage::Routed(hop) => self.route(&hop, admitted, &packet.inet, frame, sink),
            Passage::Link(forward) => {
                Egress { topology, segment, counters, admitted, frame }.carry_out(&forward, sink);
            }
        }
        Done::Forwarded
    }

    #[inline]
    fn route<R: Remotes>(
        &self,
        hop: &Hop<R>,
        admitted: &Admitted,
        inet: &Inet,
        frame: &Frame<'_>,
        sink: &mut impl Sink,
    ) {
        let mut head = Head::new();
        head.copy_from(frame.head);
        head.set_dst(hop.mac.get());
        head.set_src(GATEWAY_MAC.get());
        if hop.ages {
            hop::take(head.as_mut_slice(), inet);
        }
        let mut offload = frame.offload;
        if admitted.ethernet.tag.is_some() {
            // A tag of no VLAN: its priority ends with the link.
            offload = head.untag(offload);
        }
        let routed = head.frame(frame, offload);
        match &hop.to {
            Next::Port { port, mtu } => sink.to_port(*port, *mtu, &routed),
            Next::Remote(remote) => {
                let flow = FlowHash::with(frame.head, Some(inet));
                let (vteps, vni, tos) = (remote.vteps(), self.segment.spec.vni, inet.tos);
                sink.to_vteps(Remote { vteps, vni, flow, tos }, &routed);
            }
        }
    }

    /// Drops the frame, or answers it to the port that it came from.
    #[cold]
    fn stop(
        &self,
        stop: Stop,
        port: &Port,
        admitted: &Admitted,
        frame: &Frame<'_>,
        inet: Option<&Inet>,
        sink: &mut impl Sink,
    ) -> Result<Done, DropReason> {
        let answer = match stop {
            Stop::Drop(reason) => return Err(reason),
            Stop::Answer(answer) => answer,
        };
        let mut send = |frame: &Frame<'_>| sink.to_port(port.id, port.spec.mtu, frame);
        let reply = match (answer, inet) {
            (Answer::Echo, Some(inet)) => {
                let mut head =
                    gateway::echo(frame, admitted.source, inet).ok_or(answer.untold())?;
                let offload = head.untag(frame.offload);
                send(&head.frame(frame, offload));
                return Ok(Done::Answered);
            }
            (Answer::Echo | Answer::Neighbour, _) => gateway::neighbour(frame, admitted),
            (_, inet) => {
                let voice = inet.and_then(|inet| self.voice(answer, port, inet.version));
                answer::icmp(answer, voice, frame, &admitted.ethernet)
            }
        };
        let reply = reply.ok_or(answer.untold())?;
        send(&Frame { head: reply.as_slice(), body: &[], offload: Offload::default() });
        Ok(Done::Answered)
    }

    /// In whose name an error goes to `port`; `None` for that of the station which was not reached.
    ///
    /// A pod hears the node. The node itself would take its own address, seen from outside, for a
    /// forgery, and drop the link-local one where reverse paths are checked (`rp_filter`): it hears
    /// the station, and of a hop that is missing, where that would mislead, the gateway.
    fn voice(&self, answer: Answer, port: &Port, version: IpVersion) -> Option<std::net::IpAddr> {
        match (&port.spec.role, answer, version) {
            (PortRole::Gateway { .. }, Answer::TimeExceeded, IpVersion::V4) => {
                Some(GATEWAY_V4.into())
            }
            (PortRole::Gateway { .. }, Answer::TimeExceeded, IpVersion::V6) => {
                Some(GATEWAY_V6.into())
            }
            (PortRole::Gateway { .. }, ..) => None,
            _ => Some(self.cluster.voice(version)),
        }
    }
}
