//! A cluster segment between a pod and a VTEP: 5,000 nodes, each with a podCIDR and an address of
//! its own, and as many pods here as a podCIDR holds.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use encap::{Contiguous, Frame, MacAddr, Offload, StationMac, Vni, checksum, vxlan};
use fdb::{Fdb, PortId, Settings};
use ipnet::{IpNet, Ipv4Net};
use switch::{
    ClusterSpec, Counters, Engine, GATEWAY_MAC, Outer, PortModeSpec, PortRole, PortSpec, Remote,
    SegmentSpec, Sink, Topology, TopologySpec,
};

use crate::engine::{NOW, Seen};
use crate::{measured, train};

const NODES: u32 = 5_000;
const PODS: u32 = 250;
/// Frames that are sent in turn.
const FRAMES: u32 = 1_000;
/// Layer 4 payload of a frame of 64 bytes, its check sequence included.
const SMALL: usize = 6;

/// The podCIDR of a node: `10.n.n.0/24`, this one's being `10.0.0.0/24`.
fn pod(node: u32, index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 | node << 8 | (index + 2))
}

fn mac(index: u32) -> StationMac {
    let [a, b, c, d] = pod(0, index).octets();
    MacAddr([0x0a, 0x7a, a, b, c, d]).station().expect("a station")
}

/// A node's VTEP.
fn vtep(node: u32) -> IpAddr {
    Ipv4Addr::from_bits(0xc633_0000 | (node + 1)).into()
}

/// A sink of its own, so that the compiler makes these paths apart from the bridged ones.
#[derive(Debug, Default, PartialEq, Eq)]
struct Routed(Seen);

impl Sink for Routed {
    fn to_port(&mut self, port: PortId, mtu: u16, frame: &Frame<'_>) {
        self.0.to_port(port, mtu, frame);
    }

    fn to_vteps(&mut self, remote: Remote<'_>, frame: &Frame<'_>) {
        self.0.to_vteps(remote, frame);
    }
}

impl Routed {
    fn new(to_ports: u64, to_vteps: u64) -> Self {
        Self(Seen { to_ports, to_vteps })
    }
}

struct Node {
    engine: Engine,
    pods: Vec<PortId>,
}

fn spec() -> TopologySpec {
    let name = || "pods".to_owned();
    let cidr = |node| Ipv4Net::new(pod(node, 0), 24).expect("a prefix").trunc();
    let routes = (1..NODES).flat_map(|node| {
        let at = SocketAddr::new(vtep(node), vxlan::PORT);
        let own = IpNet::from(IpAddr::from(Ipv4Addr::from_bits(0xac10_0000 | node)));
        [(IpNet::V4(cidr(node)), at), (own, at)]
    });
    let cluster = ClusterSpec {
        networks: vec!["10.0.0.0/8".parse().expect("a network")],
        own: vec![IpNet::V4(cidr(0))],
        own_addresses: Vec::new(),
        routes: routes.collect(),
        vtep_port: vxlan::PORT,
        flood_multicast: false,
    };
    let segment = SegmentSpec {
        name: name(),
        vni: vni(),
        peers: Vec::new(),
        multicast: None,
        learning: false,
        flood_unknown: false,
        strict_peers: true,
        strict_header: false,
        cluster: Some(cluster),
    };
    let port = |n| PortSpec {
        name: format!("pod{n}"),
        mode: PortModeSpec::Access(name()),
        mtu: 1450,
        mac: Some(mac(n)),
        up: true,
        role: PortRole::Pod { addresses: vec![pod(0, n).into()], spoof: false },
    };
    TopologySpec {
        local: vtep(0),
        overlay_mtu: 1450,
        segments: vec![segment],
        ports: (0..PODS).map(port).collect(),
        heard: Vec::new(),
    }
}

/// One node of them all moves to another VTEP, and the next time back.
pub(crate) fn node_moves(runs: u64) {
    let mut spec = spec();
    let mut topology = Topology::empty(spec.local, 1450).succeed(&spec).expect("a topology");
    let net = IpNet::new(pod(7, 0).into(), 24).expect("a prefix").trunc();
    measured(runs, |n| {
        let at = if n.is_multiple_of(2) { NODES + 1 } else { 7 };
        let cluster = spec.segments[0].cluster.as_mut().expect("a cluster");
        cluster.routes.insert(net, SocketAddr::new(vtep(at), vxlan::PORT));
        let next = topology.succeed(&spec).expect("a topology");
        assert!(!black_box(topology.diff(&next)).is_empty());
        topology = next;
    });
}

fn node() -> Node {
    let spec = spec();
    let topology = Topology::empty(spec.local, 1450).succeed(&spec).expect("a topology");
    let fdb = Arc::new(Fdb::new(Settings { seed: Some(1), ..Settings::default() }));
    let named = |n| topology.port_named(&format!("pod{n}")).expect("a port").id;
    let pods = (0..PODS).map(named).collect();
    let engine = Engine::new(Arc::new(topology), fdb.reader(), Arc::new(Counters::default()));
    Node { engine, pods }
}

fn vni() -> Vni {
    Vni::new(900).expect("a VNI")
}

/// The same frame between these addresses; its TCP checksum is nobody's business here.
fn addressed(mut frame: Vec<u8>, source: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    frame[26..30].copy_from_slice(&source.octets());
    frame[30..34].copy_from_slice(&to.octets());
    frame[24..26].fill(0);
    let sum = checksum::of(&frame[14..34]).to_be_bytes();
    frame[24..26].copy_from_slice(&sum);
    frame
}

fn frame(source: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    addressed(train::frame(GATEWAY_MAC, mac(0), 1, SMALL), source, to)
}

/// Frames of the first pod to each of these addresses in turn.
fn from_pod(runs: u64, to: impl Fn(u32) -> Ipv4Addr) -> Routed {
    let Node { mut engine, pods } = node();
    let frames: Vec<Vec<u8>> = (0..FRAMES).map(|n| frame(pod(0, 0), to(n))).collect();
    let mut seen = Routed::default();
    measured(runs, |n| {
        let bytes = &frames[(n * 7 % u64::from(FRAMES)) as usize];
        let unit = Contiguous::new(bytes, Offload::default());
        engine.from_port(NOW, pods[0], &unit.frame(), &mut seen);
    });
    seen
}

pub(crate) fn pod_to_pod(runs: u64) {
    let seen = from_pod(runs, |n| pod(0, 1 + n % (PODS - 1)));
    assert_eq!(seen, Routed::new(runs, 0));
}

pub(crate) fn pod_to_vtep(runs: u64) {
    let seen = from_pod(runs, |n| pod(1 + n * 3 % (NODES - 1), n % PODS));
    assert_eq!(seen, Routed::new(0, runs));
}

pub(crate) fn vtep_to_pod(runs: u64) {
    let Node { mut engine, .. } = node();
    let from = |n: u32| 1 + n * 3 % (NODES - 1);
    let datagrams: Vec<Vec<u8>> = (0..FRAMES)
        .map(|n| [&vxlan::emit(vni())[..], &frame(pod(from(n), 7), pod(0, n % PODS))].concat())
        .collect();
    let mut seen = Routed::default();
    measured(runs, |n| {
        let n = (n * 7 % u64::from(FRAMES)) as u32;
        let (header, frame) = vxlan::split(black_box(&datagrams[n as usize])).expect("a datagram");
        let outer = Outer { peer: vtep(from(n)), header, tos: 0 };
        let unit = Contiguous::new(frame, Offload::default());
        engine.from_underlay(NOW, outer, &unit.frame(), &mut seen);
    });
    assert_eq!(seen, Routed::new(runs, 0));
}

pub(crate) fn superframe(runs: u64) {
    let Node { mut engine, pods } = node();
    let bytes = addressed(train::superframe(GATEWAY_MAC, mac(0)), pod(0, 0), pod(9, 9));
    let unit = Contiguous::new(&bytes, train::offload());
    let mut seen = Routed::default();
    measured(runs, |_| engine.from_port(NOW, pods[0], &unit.frame(), &mut seen));
    assert_eq!(seen, Routed::new(0, runs));
}
