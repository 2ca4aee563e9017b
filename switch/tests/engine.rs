//! What the engine does beside forwarding: news, learning across reloads, counters of its own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod kit;

use encap::{Contiguous, Offload, vxlan};
use fdb::{Damping, Dest, Fdb, Learn, Lookup, PortId, SegmentLimits, Settings, Tick};
use kit::{OPAQUE, Recorder, Sent, access, ethernet, mac, port, segment, station, vtep_ip};
use std::sync::Arc;
use switch::{
    Change, Counters, DropReason, Engine, Event, Outer, PortSpec, SegmentSpec, Topology,
    TopologyError, TopologySpec, Weight, read_port, read_stranger,
};

fn spec(segments: Vec<SegmentSpec>, ports: Vec<PortSpec>) -> TopologySpec {
    TopologySpec { local: vtep_ip(1), overlay_mtu: 1450, segments, ports, heard: Vec::new() }
}

fn two_ports() -> TopologySpec {
    let ports = vec![port("a", access("blue")), port("b", access("blue"))];
    spec(vec![segment("blue", 100, &[2])], ports)
}

struct Node {
    engine: Engine,
    fdb: Arc<Fdb>,
}

fn node(spec: &TopologySpec) -> Node {
    let topology = Topology::empty(spec.local, spec.overlay_mtu).succeed(spec).unwrap();
    let damping = Damping { moves: 3, window_ms: 60_000, freeze_ms: 30_000 };
    let fdb = Arc::new(Fdb::new(Settings { seed: Some(1), damping, ..Settings::default() }));
    for segment in topology.segments() {
        fdb.configure_segment(segment.id, SegmentLimits::default());
    }
    let counters = Arc::new(Counters::default());
    let engine = Engine::new(Arc::new(topology), fdb.reader(), counters);
    Node { engine, fdb }
}

impl Node {
    fn port(&self, name: &str) -> PortId {
        self.engine.topology().port_named(name).unwrap().id
    }

    fn send(&mut self, now: u64, port: PortId, src: u8, dst: u8) -> Vec<Sent> {
        let bytes = ethernet(mac(dst), mac(src), &[], OPAQUE, &[0; 46]);
        let mut sink = Recorder::default();
        let unit = Contiguous::new(&bytes, Offload::default());
        self.engine.from_port(Tick(now), port, &unit.frame(), &mut sink);
        sink.0
    }

    fn receive(&mut self, peer: u8, vni: u32, reserved: bool, src: u8) -> Vec<Sent> {
        let bytes = ethernet(mac(99), mac(src), &[], OPAQUE, &[0; 46]);
        let mut sink = Recorder::default();
        let vni = encap::Vni::new(vni).unwrap();
        let header = vxlan::Header { vni, reserved_bits_set: reserved };
        let unit = Contiguous::new(&bytes, Offload::default());
        let outer = Outer { peer: vtep_ip(peer), header, tos: 0 };
        self.engine.from_underlay(Tick(0), outer, &unit.frame(), &mut sink);
        sink.0
    }

    fn reload(&mut self, spec: &TopologySpec) -> Vec<Change> {
        let next = self.engine.topology().succeed(spec).unwrap();
        let changes = self.engine.topology().diff(&next);
        self.engine.adopt(Arc::new(next));
        changes
    }
}

#[test]
fn a_station_that_moves_is_news_until_it_is_held() {
    let mut node = node(&two_ports());
    let (a, b) = (node.port("a"), node.port("b"));
    let segment = node.engine.topology().segment_named("blue").unwrap().id;
    node.send(0, a, 1, 9);
    assert_eq!(node.engine.take_events().count(), 0, "a first sighting is no move");
    let moved = |from, to| Event::Moved {
        segment,
        mac: station(1),
        from: Dest::Port(from),
        to: Dest::Port(to),
    };
    for (at, to) in [(1, b), (2, a), (3, b), (4, a), (5, a)] {
        node.send(at * 1000, to, 1, 9);
    }
    let damped = Event::Damped { segment, mac: station(1) };
    let events: Vec<Event> = node.engine.take_events().collect();
    assert_eq!(events, [moved(a, b), moved(b, a), moved(a, b), damped]);
    assert_eq!(node.fdb.lookup(segment, mac(1), Tick(6000)), Lookup::Port(b), "held");
    assert_eq!(node.engine.take_events().count(), 0);
}

#[test]
fn news_waits_in_bounded_room() {
    let mut segments = vec![segment("open", 100, &[])];
    segments[0].strict_peers = false;
    let mut node = node(&spec(segments, vec![port("a", access("open"))]));
    for n in 2..=255 {
        assert_eq!(node.receive(n, 100, false, 1).len(), 1);
        assert_eq!(node.receive(n, 100, false, 1).len(), 1);
    }
    let events: Vec<Event> = node.engine.take_events().collect();
    assert_eq!(events.len(), 64);
    for (n, event) in (2..).zip(&events) {
        let segment = node.engine.topology().segment_named("open").unwrap().id;
        assert_eq!(*event, Event::VtepHeard { address: vtep_ip(n), segment });
    }
    let stranger = read_stranger([&**node.engine.counters()]);
    assert_eq!((stranger.rx.frames, stranger.forwarded), (508, 508));
}

#[test]
fn a_stranger_teaches_once_it_was_heard() {
    let mut spec = spec(vec![segment("open", 100, &[])], vec![port("a", access("open"))]);
    spec.segments[0].strict_peers = false;
    let mut node = node(&spec);
    let a = node.port("a");
    node.receive(7, 100, false, 1);
    assert_eq!(node.send(0, a, 9, 1), [], "nowhere to flood to, and nothing learned");
    let Some(Event::VtepHeard { address, .. }) = node.engine.take_events().next() else {
        unreachable!("the stranger is news");
    };
    spec.heard.push((address, "open".to_owned()));
    let changes = node.reload(&spec);
    let vtep = node.engine.topology().vtep_at(vtep_ip(7)).unwrap().id;
    assert_eq!(changes, [Change::VtepAdded(vtep)]);
    node.receive(7, 100, false, 1);
    assert_eq!(node.engine.take_events().count(), 0);
    let sent = node.send(0, a, 9, 1);
    assert!(matches!(&sent[..], [Sent::ToVteps { vteps, .. }] if *vteps == [vtep]), "{sent:?}");
}

#[test]
fn a_port_that_is_down_teaches_nothing() {
    let mut spec = two_ports();
    let mut node = node(&spec);
    let a = node.port("a");
    spec.ports[0].up = false;
    assert_eq!(node.reload(&spec), [Change::PortChanged { id: a, flush: true }]);
    assert_eq!(node.send(0, a, 1, 9), []);
    assert_eq!(node.fdb.entries(Tick(0)), []);
}

#[test]
fn a_frame_for_a_port_of_another_generation_hits_nobody() {
    let mut spec = two_ports();
    let mut node = node(&spec);
    let old = node.port("a");
    let gone = spec.ports.remove(0);
    assert_eq!(node.reload(&spec), [Change::PortRemoved(old)]);
    spec.ports.push(port("c", gone.mode));
    node.reload(&spec);
    let new = node.port("c");
    assert_eq!(new.slot, old.slot, "the slot is used again");
    assert_ne!(new, old);
    assert_eq!(node.send(0, old, 1, 9), []);
    let reading = read_port([&**node.engine.counters()], new);
    assert_eq!(reading.rx_dropped[DropReason::PortDown as usize], 1);
    assert!(reading.law_holds());
}

#[test]
fn a_name_that_comes_as_another_goes_does_not_get_its_slot() {
    let mut spec = two_ports();
    let mut node = node(&spec);
    let old = node.port("a");
    spec.ports[0].name = "c".to_owned();
    let changes = node.reload(&spec);
    let new = node.port("c");
    assert_ne!(new.slot, old.slot);
    assert_eq!(changes, [Change::PortRemoved(old), Change::PortAdded(new)]);
}

#[test]
fn what_keeps_its_name_keeps_its_place() {
    let mut spec = two_ports();
    let mut node = node(&spec);
    let (b, vtep) = (node.port("b"), node.engine.topology().vtep_at(vtep_ip(2)).unwrap().id);
    node.engine.topology().vtep(vtep).unwrap().set_mtu(1300);
    spec.ports.reverse();
    spec.segments.insert(0, segment("green", 200, &[9, 2]));
    let green = |node: &Node| node.engine.topology().segment_named("green").unwrap().id;
    let changes = node.reload(&spec);
    let nine = node.engine.topology().vtep_at(vtep_ip(9)).unwrap().id;
    assert_eq!(changes, [Change::SegmentAdded(green(&node)), Change::VtepAdded(nine)]);
    assert_eq!(node.port("b"), b);
    let kept = node.engine.topology().vtep_at(vtep_ip(2)).unwrap();
    assert_eq!((kept.id, kept.mtu()), (vtep, 1300), "what the path taught stays");
    spec.segments.remove(0);
    let removed = green(&node);
    assert_eq!(node.reload(&spec), [Change::VtepRemoved(nine), Change::SegmentRemoved(removed)]);
    spec.overlay_mtu = 8950;
    node.reload(&spec);
    assert_eq!(node.engine.topology().vtep(vtep).unwrap().mtu(), 8950, "another underlay");
}

#[test]
fn a_vtep_that_leaves_one_segment_is_named() {
    let mut spec = two_ports();
    spec.segments.push(segment("green", 200, &[2]));
    let mut node = node(&spec);
    let blue = node.engine.topology().segment_named("blue").unwrap().id;
    let vtep = node.engine.topology().vtep_at(vtep_ip(2)).unwrap().id;
    spec.segments[0].peers.clear();
    let left = Change::VtepLeft { segment: blue, vtep };
    assert_eq!(node.reload(&spec), [left, Change::SegmentChanged(blue)]);
    assert_eq!(node.receive(2, 100, false, 1), [], "and may no longer send there");
}

#[test]
fn reserved_bits_are_counted_where_they_are_tolerated() {
    let mut node = node(&two_ports());
    node.receive(2, 100, true, 1);
    node.receive(2, 100, false, 1);
    assert_eq!(node.engine.counters().reserved_bits().get(), 1);
}

#[test]
fn refusals_of_drivers_obey_the_law() {
    let node = node(&two_ports());
    let a = node.port("a");
    node.engine.refuse_from_port(a, Weight::single(5), DropReason::VnetTruncated);
    node.engine.refuse_from_underlay(vtep_ip(77), Weight::single(7), DropReason::HeaderTruncated);
    let counters = [&**node.engine.counters()];
    let (port, stranger) = (read_port(counters, a), read_stranger(counters));
    assert_eq!((port.rx.frames, port.rx.bytes, port.rx_dropped_total()), (1, 5, 1));
    assert_eq!((stranger.rx.frames, stranger.rx.bytes, stranger.rx_dropped_total()), (1, 7, 1));
    assert!(port.law_holds() && stranger.law_holds());
}

#[test]
fn workers_share_what_they_learn() {
    let mut first = node(&two_ports());
    let (a, b) = (first.port("a"), first.port("b"));
    let counters = Arc::new(Counters::default());
    let topology = Arc::clone(first.engine.topology());
    let engine = Engine::new(topology, first.fdb.reader(), Arc::clone(&counters));
    let mut second = Node { engine, fdb: Arc::clone(&first.fdb) };
    first.send(0, a, 1, 9);
    let sent = second.send(0, b, 2, 1);
    assert!(matches!(&sent[..], [Sent::ToPort { port, .. }] if *port == a), "{sent:?}");
    let both = [&**first.engine.counters(), &*counters];
    assert_eq!(read_port(both, a).rx.frames + read_port(both, b).rx.frames, 2);
}

#[test]
fn all_errors_of_a_specification_come_at_once() {
    let mut spec = two_ports();
    spec.segments.push(segment("blue", 100, &[1]));
    spec.segments[0].peers.push("192.0.2.2:9999".parse().unwrap());
    spec.ports.push(port("a", access("red")));
    spec.ports.push(port("t", kit::trunk(&[(1, "blue"), (2, "blue")], None)));
    let error = Topology::empty(vtep_ip(1), 1450).succeed(&spec).unwrap_err();
    let vni = encap::Vni::new(100).unwrap();
    let want = [
        TopologyError::PeerPorts(vtep_ip(2)),
        TopologyError::DuplicateName("blue".to_owned()),
        TopologyError::DuplicateVni(vni),
        TopologyError::PeerIsSelf("blue".to_owned()),
        TopologyError::DuplicateName("a".to_owned()),
        TopologyError::NoSegment { port: "a".to_owned(), segment: "red".to_owned() },
        TopologyError::DuplicateOnTrunk { port: "t".to_owned(), what: "blue".to_owned() },
    ];
    assert_eq!(error, want);
}

#[test]
fn a_segment_that_does_not_learn_floods_on() {
    let mut spec = two_ports();
    spec.segments[0].learning = false;
    let mut node = node(&spec);
    let (a, b) = (node.port("a"), node.port("b"));
    let segment = node.engine.topology().segment_named("blue").unwrap().id;
    node.send(0, a, 1, 9);
    assert_eq!(node.send(0, b, 2, 1).len(), 2, "the port and the underlay");
    assert!(matches!(
        node.fdb.learn(segment, station(1), Dest::Port(a), Tick(0)),
        Learn::New { .. }
    ));
    assert_eq!(node.send(0, b, 2, 1).len(), 1, "what is known all the same is used");
}

#[test]
fn of_many_vteps_each_may_send_only_into_its_own_segments() {
    let third = |n: u8| n.is_multiple_of(3);
    let peers = |of: bool| (2..=250).filter(|n| third(*n) == of).collect::<Vec<u8>>();
    let segments = vec![segment("third", 100, &peers(true)), segment("rest", 101, &peers(false))];
    let ports = vec![port("a", access("third")), port("b", access("rest"))];
    let mut node = node(&spec(segments, ports));
    for n in 2..=250 {
        for (vni, of) in [(100, true), (101, false)] {
            let expected = usize::from(third(n) == of);
            assert_eq!(node.receive(n, vni, false, 1).len(), expected, "VTEP {n} into {vni}");
        }
    }
}
