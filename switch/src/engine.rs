//! One worker's engine: each frame is classified, looked up, learned from, decided, sent and
//! counted, in this order, unless the fast path has done it all.

use crate::answer;
use crate::classify::{self, Admitted, Cast};
use crate::cluster::Cluster;
use crate::counters::{Counters, Ingress, Weight};
use crate::egress::{Egress, Remotes, Retagged};
use crate::fast_path::{BURST, FastPath, Tunnel};
use crate::forward::{self, Answer, Decision};
use crate::pace::Pace;
use crate::reason::DropReason;
use crate::router::Router;
use crate::sink::Sink;
use crate::topology::{Segment, Topology, Vtep};
use encap::ecn::{self, Ecn};
use encap::{Frame, Head, Inet, Offload, StationMac, Tag, vxlan};
use fdb::{Dest, Learn, Lookup, PortId, Reader, Refusal, SegmentId, Tick};
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
    pace: Pace,
    tunnel: Option<Tunnel>,
}

impl Engine {
    /// An engine that forwards by `topology`, learns into the table behind `fdb` and counts in
    /// `counters`, which must be its alone.
    #[must_use]
    pub fn new(topology: Arc<Topology>, fdb: Reader, counters: Arc<Counters>) -> Self {
        let events = Vec::with_capacity(EVENTS);
        Self { topology, fdb, counters, events, pace: Pace::default(), tunnel: None }
    }

    /// Forwards by `topology` from the next frame on.
    pub fn adopt(&mut self, topology: Arc<Topology>) {
        self.topology = topology;
        self.tunnel = None;
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

    /// Whether there are events that nobody has taken yet.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Takes the events since the last call.
    pub fn take_events(&mut self) -> impl Iterator<Item = Event> + '_ {
        self.events.drain(..)
    }

    /// Lets go of memory that only the next frame's look-up would let go of: for a worker that has
    /// not seen one for a while.
    pub fn release(&mut self) {
        self.fdb.release();
    }

    /// Forwards a frame that was read from `port`.
    #[inline]
    pub fn from_port(&mut self, now: Tick, port: PortId, frame: &Frame<'_>, sink: &mut impl Sink) {
        let Self { topology, fdb, .. } = self;
        let weight = FastPath::from_port(topology, fdb, port, now).and_then(|mut path| {
            let candidate = path.candidate(frame)?;
            path.forward(candidate, frame, sink)
        });
        match weight {
            Some(weight) => self.counters.port(port).rx.forwarded(weight),
            None => self.walk_from_port(now, port, frame, sink),
        }
    }

    /// Forwards frames that were read from `port`, one after the other, as [`Self::from_port`] does. Their
    /// destinations are looked up side by side, which is what look-ups among many stations need: they
    /// wait for memory. What others change in the table meanwhile may show 32 frames late.
    pub fn burst_from_port(
        &mut self,
        now: Tick,
        port: PortId,
        frames: &[Frame<'_>],
        sink: &mut impl Sink,
    ) {
        for frames in frames.chunks(BURST) {
            let usual = self.forward_usual(now, port, frames, sink);
            let Some((unusual, rest)) = frames.split_at(usual).1.split_first() else { continue };
            self.walk_from_port(now, port, unusual, sink);
            for frame in rest {
                self.from_port(now, port, frame, sink);
            }
        }
    }

    /// Forwards the first of these frames by the fast path and returns how many they are: up to the first
    /// one that does not belong there.
    #[inline(always)]
    fn forward_usual(
        &mut self,
        now: Tick,
        port: PortId,
        frames: &[Frame<'_>],
        sink: &mut impl Sink,
    ) -> usize {
        let Self { topology, fdb, counters, .. } = self;
        let Some(mut path) = FastPath::from_port(topology, fdb, port, now) else { return 0 };
        let candidates: [_; BURST] = std::array::from_fn(|at| path.candidate(frames.get(at)?));
        let mut sum = Weight::default();
        let mut usual = 0;
        for (frame, candidate) in frames.iter().zip(&candidates) {
            let weight = candidate.and_then(|it| path.forward(it, frame, sink));
            let Some(weight) = weight else { break };
            sum += weight;
            usual += 1;
        }
        counters.port(port).rx.forwarded(sum);
        usual
    }

    #[inline(never)]
    fn walk_from_port(&mut self, now: Tick, port: PortId, frame: &Frame<'_>, sink: &mut impl Sink) {
        let (counters, mut walk) = self.walk(now);
        let fate = walk.forward_from_port(port, frame, sink);
        count(&counters.port(port).rx, Weight::of(frame), fate);
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
        let Self { topology, fdb, tunnel, .. } = self;
        let weight = tunnel.as_ref().and_then(|tunnel| {
            let mut path = FastPath::from_tunnel(topology, fdb, tunnel, outer, now)?;
            let candidate = path.candidate(frame)?;
            let weight = path.forward(candidate, frame, sink)?;
            Some((tunnel.vtep, weight))
        });
        let Some((vtep, weight)) = weight else {
            return self.walk_from_underlay(now, outer, frame, sink);
        };
        let ingress = &self.counters.vtep(vtep).rx;
        ingress.heard_at(now);
        ingress.forwarded(weight);
    }

    #[inline(never)]
    fn walk_from_underlay(
        &mut self,
        now: Tick,
        outer: Outer,
        frame: &Frame<'_>,
        sink: &mut impl Sink,
    ) {
        let (counters, mut walk) = self.walk(now);
        let vtep = walk.topology.vtep_at(outer.peer);
        let fate = walk.forward_from_underlay(outer, vtep, frame, sink);
        let ingress = peer_ingress(counters, vtep);
        if fate.is_ok() {
            ingress.heard_at(now);
        }
        count(ingress, Weight::of(frame), fate);
    }

    /// Counts what the underlay's driver could not make a frame of.
    pub fn refuse_from_underlay(&self, peer: IpAddr, weight: Weight, reason: DropReason) {
        peer_ingress(&self.counters, self.topology.vtep_at(peer)).dropped(weight, reason);
    }

    /// The engine's parts, lent for one frame: the snapshot and the counters stay put while the
    /// rest changes, so that no reference count that other workers share is touched.
    #[inline]
    fn walk(&mut self, now: Tick) -> (&Counters, Walk<'_>) {
        let Self { topology, fdb, counters, events, pace, tunnel } = self;
        (counters, Walk { topology, fdb, counters, events, pace, tunnel, now })
    }
}

#[inline]
fn count(ingress: &Ingress, weight: Weight, fate: Result<Done, DropReason>) {
    match fate {
        Ok(Done::Forwarded) => ingress.forwarded(weight),
        Ok(Done::Answered) => ingress.answered(weight),
        Err(reason) => ingress.dropped(weight, reason),
    }
}

#[inline]
fn peer_ingress<'c>(counters: &'c Counters, vtep: Option<&Vtep>) -> &'c Ingress {
    match vtep {
        Some(vtep) => &counters.vtep(vtep.id).rx,
        None => &counters.stranger().rx,
    }
}

/// One frame's way through the engine.
struct Walk<'e> {
    topology: &'e Topology,
    fdb: &'e mut Reader,
    counters: &'e Counters,
    events: &'e mut Vec<Event>,
    pace: &'e mut Pace,
    tunnel: &'e mut Option<Tunnel>,
    now: Tick,
}

impl<'e> Walk<'e> {
    #[inline]
    fn forward_from_port(
        &mut self,
        port: PortId,
        frame: &Frame<'_>,
        sink: &mut impl Sink,
    ) -> Result<Done, DropReason> {
        let topology = self.topology;
        let port = topology.port(port).filter(|port| port.spec.up).ok_or(DropReason::PortDown)?;
        let admitted = classify::admit(frame.head)?;
        let segment = classify::from_port(topology, port, &admitted.ethernet)?;
        if let Some(cluster) = segment.cluster.as_deref() {
            // A copy, as below.
            let (router, admitted) = (self.router(segment, cluster), admitted);
            let pace = (&mut *self.pace, self.now);
            return router.forward_from_port(port, &admitted, frame, pace, sink);
        }
        let lookup = self.look_up(segment, &admitted);
        self.learn(segment, admitted.source, Dest::Port(port.id))?;
        match forward::from_port(topology, segment, port, &admitted, lookup, frame) {
            Decision::Forward(forward) => Ok(self.send(segment, &admitted, frame, &forward, sink)),
            Decision::Answer(answer) => {
                let vlan = admitted.ethernet.tag.and_then(Tag::vlan);
                // A copy, here and in other rare places: what only inlined code has a reference to
                // stays in registers.
                reply(answer, frame, &admitted.clone(), |frame| {
                    let mut frame = Retagged::new(frame, None);
                    sink.to_port(port.id, port.spec.mtu, &frame.with(vlan));
                })
            }
            Decision::Drop(reason) => Err(reason),
        }
    }

    #[inline]
    fn forward_from_underlay(
        &mut self,
        outer: Outer,
        vtep: Option<&Vtep>,
        frame: &Frame<'_>,
        sink: &mut impl Sink,
    ) -> Result<Done, DropReason> {
        let topology = self.topology;
        let (segment, member) = classify::from_underlay(topology, outer.peer, vtep, outer.header)?;
        let admitted = classify::admit(frame.head)?;
        classify::untagged(&admitted.ethernet)?;
        let mut head = None;
        let frame = &ecn_applied(frame, &admitted, outer.tos, &mut head)?;
        if let Some(cluster) = segment.cluster.as_deref() {
            let vtep = member.ok_or(DropReason::PeerUnknown)?;
            self.note_reserved_bits(outer, frame);
            // Copies, as above.
            let (admitted, frame) = (admitted, *frame);
            let router = self.router(segment, cluster);
            return router.forward_from_vtep(vtep, &admitted, &frame, sink);
        }
        *self.tunnel = member.and_then(|vtep| Tunnel::of(outer, segment, vtep));
        let lookup = self.look_up(segment, &admitted);
        match member {
            Some(vtep) => self.learn(segment, admitted.source, Dest::Vtep(vtep.id))?,
            None => self.note(Event::VtepHeard { address: outer.peer, segment: segment.id }),
        }
        self.note_reserved_bits(outer, frame);
        match forward::from_vtep(topology, segment, &admitted, lookup, frame) {
            Decision::Forward(forward) => Ok(self.send(segment, &admitted, frame, &forward, sink)),
            // The sender is behind a tunnel, and there is no way back through it from here but a
            // decision that may name VTEPs: what comes from a tunnel is not answered.
            Decision::Answer(answer) => Err(answer.untold()),
            Decision::Drop(reason) => Err(reason),
        }
    }

    /// The router of a cluster segment.
    #[inline(always)]
    fn router(&self, segment: &'e Segment, cluster: &'e Cluster) -> Router<'e> {
        let Self { topology, counters, .. } = *self;
        Router { topology, segment, cluster, counters }
    }

    #[inline]
    fn note_reserved_bits(&self, outer: Outer, frame: &Frame<'_>) {
        if outer.header.reserved_bits_set {
            self.counters.reserved_bits().add(frame.wire_frames());
        }
    }

    #[inline(always)]
    fn look_up(&mut self, segment: &Segment, admitted: &Admitted) -> Lookup {
        match admitted.cast {
            Cast::Unicast => self.fdb.lookup(segment.id, admitted.ethernet.dst, self.now),
            Cast::Group => Lookup::Unknown,
        }
    }

    /// Remembers where `mac` is.
    ///
    /// # Errors
    /// When a static entry says that it is elsewhere: the frame is a forgery, or the entry is wrong.
    #[inline(always)]
    fn learn(&mut self, segment: &Segment, mac: StationMac, dest: Dest) -> Result<(), DropReason> {
        if !segment.spec.learning {
            return Ok(());
        }
        match self.fdb.learn(segment.id, mac, dest, self.now) {
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

    #[inline(always)]
    fn send<R: Remotes>(
        &self,
        segment: &Segment,
        admitted: &Admitted,
        frame: &Frame<'_>,
        forward: &forward::Forward<'_, R>,
        sink: &mut impl Sink,
    ) -> Done {
        let Self { topology, counters, .. } = *self;
        Egress { topology, segment, counters, admitted, frame }.carry_out(forward, sink);
        Done::Forwarded
    }

    #[cold]
    fn note(&mut self, event: Event) {
        if self.events.len() < EVENTS && self.events.last() != Some(&event) {
            self.events.push(event);
        }
    }
}

/// What became of a frame that was not dropped.
pub(crate) enum Done {
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
    let reply = answer::icmp(answer, None, frame, &admitted.ethernet).ok_or(answer.untold())?;
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
    let outer = Ecn::of_tos(outer_tos);
    if outer.leaves_inner() {
        return Ok(*frame);
    }
    let Some(inet) = Inet::at(frame.head, &admitted.ethernet) else { return Ok(*frame) };
    let inner = Ecn::of_tos(inet.tos);
    let combined = ecn::decapsulate(outer, inner).map_err(|_| DropReason::EcnIllegal)?;
    if combined == inner {
        return Ok(*frame);
    }
    let head = scratch.insert(Head::copy_of(frame.head));
    ecn::set(head.as_mut_slice(), &inet, combined);
    Ok(head.frame(frame, frame.offload))
}
