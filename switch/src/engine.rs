//! One worker's engine: each frame is classified, looked up, learned from, decided, sent and
//! counted, in this order.

use crate::answer;
use crate::classify::{self, Admitted, Cast};
use crate::counters::{Counters, Ingress, Weight};
use crate::egress::{Egress, Remotes, tagged};
use crate::forward::{self, Answer, Decision};
use crate::reason::DropReason;
use crate::sink::Sink;
use crate::topology::{Segment, Topology};
use encap::{Frame, Head, Offload, VlanId, ecn, vxlan};
use fdb::{Dest, Learn, Lookup, PortId, Reader, Refusal, SegmentId, StationMac, Tick};
use std::net::IpAddr;
use std::sync::Arc;

/// News for the control side. Bounded: what does not fit is forgotten, and happens again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A VTEP that nobody has named sends into a segment without `strict_peers`.
    VtepHeard {
        /// Where it sends from.
        address: IpAddr,
        /// Where to.
        segment: SegmentId,
    },
    /// A station was seen in another place than before.
    Moved {
        /// Its segment.
        segment: SegmentId,
        /// The station.
        mac: StationMac,
        /// Where it was.
        from: Dest,
        /// Where it is.
        to: Dest,
    },
    /// A station moves so often that it stays where it is for a while.
    Damped {
        /// Its segment.
        segment: SegmentId,
        /// The station.
        mac: StationMac,
    },
}

/// The most events that wait for [`Engine::take_events`].
const EVENTS: usize = 64;

/// A datagram's circumstances, as the underlay's driver knows them.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    /// The address it came from.
    pub peer: IpAddr,
    /// Its VXLAN header.
    pub header: vxlan::Header,
    /// Its IPv4 TOS or IPv6 traffic class.
    pub tos: u8,
}

/// The forwarding engine of one worker.
#[derive(Debug)]
pub struct Engine {
    topology: Arc<Topology>,
    fdb: Reader,
    counters: Arc<Counters>,
    events: Vec<Event>,
}

impl Engine {
    /// An engine that forwards by `topology`, learns into the table behind `fdb` and counts in
    /// `counters`, which must be its alone.
    #[must_use]
    pub fn new(topology: Arc<Topology>, fdb: Reader, counters: Arc<Counters>) -> Self {
        Self { topology, fdb, counters, events: Vec::with_capacity(EVENTS) }
    }

    /// Forwards by `topology` from the next frame on.
    pub fn adopt(&mut self, topology: Arc<Topology>) {
        self.topology = topology;
    }

    /// The snapshot in use.
    #[must_use]
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// The engine's counters.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Takes the events since the last call.
    pub fn take_events(&mut self) -> impl Iterator<Item = Event> + '_ {
        self.events.drain(..)
    }

    /// Forwards a frame that was read from `port`.
    #[inline]
    pub fn from_port(&mut self, now: Tick, port: PortId, frame: &Frame<'_>, sink: &mut impl Sink) {
        let weight = Weight::of(frame);
        let counters = Arc::clone(&self.counters);
        let ingress = &counters.port(port).rx;
        match self.forward_from_port(now, port, frame, sink) {
            Ok(Done::Forwarded) => ingress.forwarded(weight),
            Ok(Done::Answered) => ingress.answered(weight),
            Err(reason) => ingress.dropped(weight, reason),
        }
    }

    /// Counts what a port's driver could not make a frame of.
    pub fn refuse_from_port(&self, port: PortId, weight: Weight, reason: DropReason) {
        self.counters.port(port).rx.dropped(weight, reason);
    }

    /// Forwards a frame that was taken out of a datagram.
    #[inline]
    pub fn from_underlay(
        &mut self,
        now: Tick,
        outer: Outer,
        frame: &Frame<'_>,
        sink: &mut impl Sink,
    ) {
        let weight = Weight::of(frame);
        let counters = Arc::clone(&self.counters);
        let done = self.forward_from_underlay(now, outer, frame, sink);
        let ingress = self.peer_ingress(&counters, outer.peer);
        match done {
            Ok(Done::Forwarded) => ingress.forwarded(weight),
            Ok(Done::Answered) => ingress.answered(weight),
            Err(reason) => ingress.dropped(weight, reason),
        }
    }

    /// Counts what the underlay's driver could not make a frame of.
    pub fn refuse_from_underlay(&self, peer: IpAddr, weight: Weight, reason: DropReason) {
        self.peer_ingress(&self.counters, peer).dropped(weight, reason);
    }

    fn peer_ingress<'c>(&self, counters: &'c Counters, peer: IpAddr) -> &'c Ingress {
        match self.topology.vtep_at(peer) {
            Some(vtep) => &counters.vtep(vtep.id).rx,
            None => &counters.stranger().rx,
        }
    }

    #[inline]
    fn forward_from_port(
        &mut self,
        now: Tick,
        port: PortId,
        frame: &Frame<'_>,
        sink: &mut impl Sink,
    ) -> Result<Done, DropReason> {
        let topology = Arc::clone(&self.topology);
        let port = topology.port(port).ok_or(DropReason::PortDown)?;
        let admitted = classify::admit(frame.head)?;
        let segment = classify::from_port(&topology, port, &admitted.ethernet)?;
        let lookup = self.look_up(segment, &admitted, now);
        self.learn(segment, admitted.source, Dest::Port(port.id), now)?;
        match forward::from_port(&topology, segment, port, &admitted, lookup, frame) {
            Decision::Forward(forward) => {
                self.send(&topology, segment, &admitted, frame, &forward, sink)
            }
            Decision::Answer(answer) => {
                let vlan = admitted.ethernet.tag.and_then(|tag| VlanId::new(tag.vid).ok());
                reply(answer, frame, &admitted, |frame| {
                    tagged(frame, None, vlan, |frame| {
                        sink.to_port(port.id, port.spec.mtu, frame);
                    });
                })
            }
            Decision::Drop(reason) => Err(reason),
        }
    }

    #[inline]
    fn forward_from_underlay(
        &mut self,
        now: Tick,
        outer: Outer,
        frame: &Frame<'_>,
        sink: &mut impl Sink,
    ) -> Result<Done, DropReason> {
        let topology = Arc::clone(&self.topology);
        let (segment, vtep) = classify::from_underlay(&topology, outer.peer, outer.header)?;
        let admitted = classify::admit(frame.head)?;
        classify::untagged(&admitted.ethernet)?;
        let mut head = None;
        let frame = &ecn_applied(frame, &admitted, outer.tos, &mut head)?;
        let lookup = self.look_up(segment, &admitted, now);
        match vtep {
            Some(vtep) => self.learn(segment, admitted.source, Dest::Vtep(vtep.id), now)?,
            None => self.note(Event::VtepHeard { address: outer.peer, segment: segment.id }),
        }
        if outer.header.reserved_bits_set {
            self.counters.reserved_bits().add(frame.wire_frames());
        }
        match forward::from_vtep(&topology, segment, &admitted, lookup, frame) {
            Decision::Forward(forward) => {
                self.send(&topology, segment, &admitted, frame, &forward, sink)
            }
            // The sender is behind a tunnel, and there is no way back through it from here but a
            // decision that may name VTEPs: what comes from a tunnel is not answered.
            Decision::Answer(Answer::TooBig { .. }) => Err(DropReason::TooBig),
            Decision::Drop(reason) => Err(reason),
        }
    }

    #[inline]
    fn look_up(&mut self, segment: &Segment, admitted: &Admitted, now: Tick) -> Lookup {
        match admitted.cast {
            Cast::Unicast(mac) => self.fdb.lookup(segment.id, mac, now),
            Cast::Group => Lookup::Unknown,
        }
    }

    /// Remembers where `mac` is.
    ///
    /// # Errors
    /// When a static entry says that it is elsewhere: the frame is a forgery, or the entry is wrong.
    #[inline]
    fn learn(
        &mut self,
        segment: &Segment,
        mac: StationMac,
        dest: Dest,
        now: Tick,
    ) -> Result<(), DropReason> {
        if !segment.spec.learning {
            return Ok(());
        }
        match self.fdb.learn(segment.id, mac, dest, now) {
            Learn::Moved { from } => {
                self.note(Event::Moved { segment: segment.id, mac, from, to: dest });
            }
            Learn::Refused(Refusal::Static) => return Err(DropReason::StaticMac),
            Learn::Refused(Refusal::Damped) => {
                self.note(Event::Damped { segment: segment.id, mac });
            }
            _ => {}
        }
        Ok(())
    }

    #[inline]
    fn send<R: Remotes>(
        &self,
        topology: &Topology,
        segment: &Segment,
        admitted: &Admitted,
        frame: &Frame<'_>,
        forward: &forward::Forward<'_, R>,
        sink: &mut impl Sink,
    ) -> Result<Done, DropReason> {
        let egress = Egress { topology, segment, counters: &self.counters, admitted, frame };
        egress.carry_out(forward, sink);
        Ok(Done::Forwarded)
    }

    #[cold]
    fn note(&mut self, event: Event) {
        if self.events.len() < EVENTS && self.events.last() != Some(&event) {
            self.events.push(event);
        }
    }
}

/// What became of a frame that was not dropped.
enum Done {
    Forwarded,
    Answered,
}

#[cold]
fn reply(
    answer: Answer,
    frame: &Frame<'_>,
    admitted: &Admitted,
    send: impl FnOnce(&Frame<'_>),
) -> Result<Done, DropReason> {
    let Answer::TooBig { mtu } = answer;
    let reply = answer::too_big(frame, &admitted.ethernet, mtu).ok_or(DropReason::TooBig)?;
    send(&Frame { head: reply.as_slice(), body: &[], offload: Offload::default() });
    Ok(Done::Answered)
}

/// The frame with the congestion mark of the outer header carried over (RFC 6040 section 4.2).
#[inline]
fn ecn_applied<'f>(
    frame: &Frame<'f>,
    admitted: &Admitted,
    outer_tos: u8,
    scratch: &'f mut Option<Head>,
) -> Result<Frame<'f>, DropReason> {
    let _ = (admitted, outer_tos, scratch, ecn::NOT_ECT);
    Ok(*frame)
}
