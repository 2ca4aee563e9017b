//! Two stations have talked, so that what they say next takes the fast path; and then something is
//! unusual about it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod kit;

use encap::{Contiguous, Offload, Vni, checksum, vxlan};
use etherparse::PacketBuilder;
use fdb::{Fdb, PortId, SegmentLimits, Settings, Tick};
use kit::{Recorder, Sent, access, ethernet, mac, port, segment, vtep_ip};
use std::sync::Arc;
use switch::{
    Counters, DropReason, Engine, Event, Outer, Reading, Topology, TopologySpec, read_port,
    read_vtep,
};

const VNI: u32 = 100;
const NOW: Tick = Tick(5000);
/// The station behind port `a`.
const A: u8 = 1;
/// The one behind port `b`.
const B: u8 = 2;
/// The one behind VTEP 2.
const FAR: u8 = 3;
const NOT_ECT: u8 = 0;
/// ECT(0).
const ECT: u8 = 2;
/// Congestion experienced.
const CE: u8 = 3;

struct Node {
    engine: Engine,
    spec: TopologySpec,
}

impl Node {
    fn warm(strict_header: bool) -> Self {
        let mut blue = segment("blue", VNI, &[2, 3]);
        blue.strict_header = strict_header;
        let ports = vec![port("a", access("blue")), port("b", access("blue"))];
        let (local, heard) = (vtep_ip(1), Vec::new());
        let spec = TopologySpec { local, overlay_mtu: 1450, segments: vec![blue], ports, heard };
        let topology = Topology::empty(local, 1450).succeed(&spec).unwrap();
        let fdb = Arc::new(Fdb::new(Settings { seed: Some(1), ..Settings::default() }));
        let blue = topology.segment_named("blue").unwrap().id;
        fdb.configure_segment(blue, SegmentLimits::default());
        let counters = Arc::new(Counters::default());
        let engine = Engine::new(Arc::new(topology), fdb.reader(), counters);
        let mut node = Self { engine, spec };
        for _ in 0..3 {
            node.send("b", &datagram(B, A, NOT_ECT));
            node.send("a", &datagram(A, B, NOT_ECT));
            node.receive(2, NOT_ECT, false, &datagram(FAR, A, NOT_ECT));
        }
        assert_eq!(node.receive(2, NOT_ECT, false, &datagram(FAR, A, NOT_ECT)).len(), 1);
        node
    }

    fn port(&self, name: &str) -> PortId {
        self.engine.topology().port_named(name).unwrap().id
    }

    fn send(&mut self, port: &str, bytes: &[u8]) -> Vec<Sent> {
        let (port, mut sink) = (self.port(port), Recorder::default());
        let unit = Contiguous::new(bytes, Offload::default());
        self.engine.from_port(NOW, port, &unit.frame(), &mut sink);
        sink.0
    }

    fn receive(&mut self, peer: u8, tos: u8, reserved: bool, bytes: &[u8]) -> Vec<Sent> {
        let mut sink = Recorder::default();
        let header = vxlan::Header { vni: Vni::new(VNI).unwrap(), reserved_bits_set: reserved };
        let unit = Contiguous::new(bytes, Offload::default());
        let outer = Outer { peer: vtep_ip(peer), header, tos };
        self.engine.from_underlay(NOW, outer, &unit.frame(), &mut sink);
        sink.0
    }

    fn at_port(&self, name: &str) -> Reading {
        read_port([&**self.engine.counters()], self.port(name))
    }

    fn at_vtep(&self, n: u8) -> Reading {
        let vtep = self.engine.topology().vtep_at(vtep_ip(n)).unwrap().id;
        read_vtep([&**self.engine.counters()], vtep)
    }
}

/// An IPv4 datagram from station to station.
fn datagram(src: u8, dst: u8, tos: u8) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(mac(src).0, mac(dst).0);
    let mut bytes = Vec::new();
    builder
        .ipv4([10, 0, 0, src], [10, 0, 0, dst], 64)
        .udp(7, 9)
        .write(&mut bytes, &[7; 40])
        .unwrap();
    let (old, new) =
        (u16::from_be_bytes([bytes[14], bytes[15]]), u16::from_be_bytes([bytes[14], tos]));
    let sum = checksum::update(u16::from_be_bytes([bytes[24], bytes[25]]), old, new);
    bytes[15] = tos;
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// The only copy, which is `want`.
fn assert_one(sent: &[Sent], to: PortId, want: &[u8]) {
    let [Sent::ToPort { port, bytes, .. }] = sent else { unreachable!("{sent:?}") };
    assert_eq!((*port, &bytes[..]), (to, want));
}

#[test]
fn what_is_as_usual_arrives_and_is_counted() {
    let mut node = Node::warm(false);
    let (a, b) = (node.port("a"), node.port("b"));
    let (there, back) = (datagram(A, B, NOT_ECT), datagram(FAR, A, NOT_ECT));
    let before = (node.at_port("a"), node.at_vtep(2));
    assert_one(&node.send("a", &there), b, &there);
    assert_one(&node.receive(2, ECT, false, &back), a, &back);
    let sent = node.send("a", &datagram(A, FAR, CE));
    let vtep = node.engine.topology().vtep_at(vtep_ip(2)).unwrap().id;
    assert!(
        matches!(&sent[..], [Sent::ToVteps { vteps, tos, .. }] if *vteps == [vtep] && *tos == CE),
        "{sent:?}"
    );
    let (port, tunnel) = (node.at_port("a").since(&before.0), node.at_vtep(2).since(&before.1));
    assert_eq!((port.forwarded, port.rx.bytes), (2, 2 * there.len() as u64));
    assert_eq!((tunnel.forwarded, tunnel.rx.bytes), (1, back.len() as u64));
    let counters = node.engine.counters().vtep(vtep);
    assert_eq!(counters.rx.last_heard(), Some(NOW));
}

#[test]
fn a_vtep_is_heard_whenever_something_comes() {
    let mut node = Node::warm(false);
    let vtep = node.engine.topology().vtep_at(vtep_ip(2)).unwrap().id;
    let (unit, mut sink) = (datagram(FAR, A, NOT_ECT), Recorder::default());
    let unit = Contiguous::new(&unit, Offload::default());
    let header = vxlan::Header { vni: Vni::new(VNI).unwrap(), reserved_bits_set: false };
    let outer = Outer { peer: vtep_ip(2), header, tos: 0 };
    // Less than a tenth of a second later, so that nothing is learned anew.
    let later = Tick(NOW.0 + 60);
    node.engine.from_underlay(later, outer, &unit.frame(), &mut sink);
    assert_eq!(sink.0.len(), 1);
    assert_eq!(node.engine.counters().vtep(vtep).rx.last_heard(), Some(later));
}

#[test]
fn a_marked_datagram_marks_or_is_dropped() {
    let mut node = Node::warm(false);
    let a = node.port("a");
    assert_one(&node.receive(2, CE, false, &datagram(FAR, A, ECT)), a, &datagram(FAR, A, CE));
    assert_eq!(node.receive(2, CE, false, &datagram(FAR, A, NOT_ECT)), []);
    assert_eq!(node.at_vtep(2).rx_dropped[DropReason::EcnIllegal as usize], 1);
}

#[test]
fn another_vtep_is_another() {
    let mut node = Node::warm(false);
    let before = node.at_vtep(3);
    node.engine.take_events().for_each(drop);
    assert_eq!(node.receive(3, NOT_ECT, false, &datagram(FAR, A, NOT_ECT)).len(), 1);
    assert_eq!(node.at_vtep(3).since(&before).forwarded, 1);
    assert!(matches!(node.engine.take_events().next(), Some(Event::Moved { .. })));
}

#[test]
fn reserved_bits_are_looked_at() {
    let frame = datagram(FAR, A, NOT_ECT);
    let mut node = Node::warm(false);
    for count in 1..=3 {
        assert_eq!(node.receive(2, NOT_ECT, true, &frame).len(), 1);
        assert_eq!(node.engine.counters().reserved_bits().get(), count);
    }
    assert_eq!(node.receive(2, NOT_ECT, false, &frame).len(), 1);
    assert_eq!(node.engine.counters().reserved_bits().get(), 3);
    let mut node = Node::warm(true);
    assert_eq!(node.receive(2, NOT_ECT, true, &frame), []);
    assert_eq!(node.at_vtep(2).rx_dropped[DropReason::ReservedBits as usize], 1);
}

#[test]
fn a_vtep_that_is_no_peer_any_more_is_not_heard() {
    let mut node = Node::warm(false);
    node.spec.segments[0].peers.remove(0);
    let next = node.engine.topology().succeed(&node.spec).unwrap();
    node.engine.adopt(Arc::new(next));
    assert_eq!(node.receive(2, NOT_ECT, false, &datagram(FAR, A, NOT_ECT)), []);
    let stranger = switch::read_stranger([&**node.engine.counters()]);
    assert_eq!(stranger.rx_dropped[DropReason::PeerUnknown as usize], 1);
}

#[test]
fn mac_control_stays_where_it_is() {
    let mut node = Node::warm(false);
    let pause = ethernet(mac(B), mac(A), &[], 0x8808, &[0; 46]);
    assert_eq!(node.send("a", &pause), []);
    assert_eq!(node.at_port("a").rx_dropped[DropReason::MacControl as usize], 1);
    let pause = ethernet(mac(A), mac(FAR), &[], 0x8808, &[0; 46]);
    assert_eq!(node.receive(2, NOT_ECT, false, &pause), []);
}

#[test]
fn a_burst_is_its_frames_in_order() {
    let mut node = Node::warm(false);
    let before = node.at_port("a");
    let mut frames: Vec<Vec<u8>> = (0..75).map(|n| [datagram(A, B, 0), vec![n]].concat()).collect();
    frames[20] = [datagram(A, 0xff, 0), vec![20]].concat();
    frames[40] = ethernet(mac(B), mac(A), &[], 0x8808, &[0; 46]);
    let units: Vec<Contiguous<'_>> =
        frames.iter().map(|bytes| Contiguous::new(bytes, Offload::default())).collect();
    let burst: Vec<_> = units.iter().map(Contiguous::frame).collect();
    let (port, mut sink) = (node.port("a"), Recorder::default());
    node.engine.burst_from_port(NOW, port, &burst, &mut sink);
    // The stranger's goes to the port and to the VTEPs.
    let to_ports = sink.0.iter().filter_map(|sent| match sent {
        Sent::ToPort { bytes, .. } => Some(bytes.clone()),
        Sent::ToVteps { .. } => None,
    });
    frames.remove(40);
    assert_eq!(to_ports.collect::<Vec<_>>(), frames);
    let reading = node.at_port("a").since(&before);
    assert!(reading.law_holds());
    assert_eq!((reading.rx.frames, reading.forwarded, reading.rx_dropped_total()), (75, 74, 1));
}
