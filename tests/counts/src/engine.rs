//! The engine between a port and a VTEP, with a sink that only looks at what it gets.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use encap::{Contiguous, Frame, Offload, Vni, vxlan};
use fdb::{Dest, Fdb, PortId, SegmentLimits, Settings, Tick};
use switch::{
    Counters, Engine, Outer, PortModeSpec, PortRole, PortSpec, Remote, SegmentSpec, Sink, Topology,
    TopologySpec,
};

use crate::measured;
use crate::table::station;
use crate::train;

pub(crate) const NOW: Tick = Tick(1_000);
/// Stations behind the VTEP and behind the second port.
const STATIONS: u64 = 1_000;
/// The number of the first one behind the VTEP.
const FAR: u64 = 1 << 20;
/// The station that sends.
const SENDER: u64 = 1 << 30;
/// Frames in a burst.
const BURST: usize = 32;
/// Layer 4 payload of a frame of 64 bytes, its check sequence included.
const SMALL: usize = 6;

/// Counts what came; writes the VXLAN header, as the underlay's driver does, and leaves it at that.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) to_ports: u64,
    pub(crate) to_vteps: u64,
}

impl Sink for Seen {
    fn to_port(&mut self, port: PortId, _: u16, frame: &Frame<'_>) {
        self.to_ports += 1;
        black_box((port, frame.head));
    }

    fn to_vteps(&mut self, remote: Remote<'_>, frame: &Frame<'_>) {
        self.to_vteps += remote.vteps.len() as u64;
        black_box((vxlan::emit(remote.vni), remote, frame.head));
    }
}

struct Node {
    engine: Engine,
    ports: Vec<PortId>,
}

fn address(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, n))
}

fn vni() -> Vni {
    Vni::new(100).expect("a VNI")
}

/// Two ports and eight VTEPs in one segment; everybody has been heard.
fn node() -> Node {
    let name = || "blue".to_owned();
    let segment = SegmentSpec {
        name: name(),
        vni: vni(),
        peers: (2..10).map(|n| (address(n), vxlan::PORT).into()).collect(),
        multicast: None,
        learning: true,
        flood_unknown: true,
        strict_peers: true,
        strict_header: false,
        cluster: None,
    };
    let port = |n| PortSpec {
        name: format!("p{n}"),
        mode: PortModeSpec::Access(name()),
        mtu: 1450,
        mac: None,
        up: true,
        role: PortRole::Station,
    };
    let spec = TopologySpec {
        local: address(1),
        overlay_mtu: 1450,
        segments: vec![segment],
        ports: (0..2).map(port).collect(),
        heard: Vec::new(),
    };
    let topology = Topology::empty(spec.local, 1450).succeed(&spec).expect("a topology");
    let fdb = Arc::new(Fdb::new(Settings { seed: Some(1), ..Settings::default() }));
    let ports: Vec<PortId> = topology.ports().map(|port| port.id).collect();
    let vtep = topology.vtep_at(address(2)).expect("a VTEP").id;
    let segment = topology.segment_named("blue").expect("the segment").id;
    fdb.configure_segment(segment, SegmentLimits::default());
    for n in 0..STATIONS {
        fdb.learn(segment, station(n), Dest::Port(ports[1]), NOW);
        fdb.learn(segment, station(FAR + n), Dest::Vtep(vtep), NOW);
    }
    let engine = Engine::new(Arc::new(topology), fdb.reader(), Arc::new(Counters::default()));
    Node { engine, ports }
}

/// A frame for each station from `first` on.
fn frames(first: u64, sender: u64) -> Vec<Vec<u8>> {
    let to = |n| train::frame(station(first + n), station(sender), 1, SMALL);
    (0..STATIONS).map(to).collect()
}

fn from_port(runs: u64, first: u64) -> Seen {
    let Node { mut engine, ports } = node();
    let frames = frames(first, SENDER);
    let mut seen = Seen::default();
    measured(runs, |n| {
        let unit = Contiguous::new(&frames[(n * 7 % STATIONS) as usize], Offload::default());
        engine.from_port(NOW, ports[0], &unit.frame(), &mut seen);
    });
    seen
}

pub(crate) fn port_to_port(runs: u64) {
    assert_eq!(from_port(runs, 0), Seen { to_ports: runs, to_vteps: 0 });
}

/// As [`port_to_port`], 32 frames in one call.
pub(crate) fn burst(runs: u64) {
    let Node { mut engine, ports } = node();
    let frames = frames(0, SENDER);
    let units: Vec<Contiguous<'_>> =
        frames.iter().map(|bytes| Contiguous::new(bytes, Offload::default())).collect();
    let frames: Vec<Frame<'_>> = units.iter().map(Contiguous::frame).collect();
    let bursts: Vec<&[Frame<'_>]> = frames.chunks_exact(BURST).collect();
    let mut seen = Seen::default();
    measured(runs, |n| {
        engine.burst_from_port(NOW, ports[0], bursts[n as usize % bursts.len()], &mut seen);
    });
    assert_eq!(seen, Seen { to_ports: runs * BURST as u64, to_vteps: 0 });
}

pub(crate) fn port_to_vtep(runs: u64) {
    assert_eq!(from_port(runs, FAR), Seen { to_ports: 0, to_vteps: runs });
}

pub(crate) fn vtep_to_port(runs: u64) {
    let Node { mut engine, .. } = node();
    let datagrams: Vec<Vec<u8>> =
        frames(0, FAR + 1).iter().map(|frame| [&vxlan::emit(vni())[..], frame].concat()).collect();
    let mut seen = Seen::default();
    measured(runs, |n| {
        let datagram = &datagrams[(n * 7 % STATIONS) as usize];
        let (header, frame) = vxlan::split(black_box(datagram)).expect("a sound datagram");
        let outer = Outer { peer: address(2), header, tos: 0 };
        let unit = Contiguous::new(frame, Offload::default());
        engine.from_underlay(NOW, outer, &unit.frame(), &mut seen);
    });
    assert_eq!(seen, Seen { to_ports: runs, to_vteps: 0 });
}

pub(crate) fn superframe(runs: u64) {
    let Node { mut engine, ports } = node();
    let bytes = train::superframe(station(FAR), station(SENDER));
    let unit = Contiguous::new(&bytes, train::offload());
    let mut seen = Seen::default();
    measured(runs, |_| engine.from_port(NOW, ports[0], &unit.frame(), &mut seen));
    assert_eq!(seen, Seen { to_ports: 0, to_vteps: runs });
}
