//! Whether the cost of known unicast depends on how much else is configured: the same frames through
//! an engine with 2 peers and through one with 5,000, in memory.
//!
//! `one` is a conversation with one peer, `all` goes round the peers that there are: what differs
//! there is how much of the tables is in the processor's caches.
#![expect(clippy::expect_used, reason = "a benchmark")]

mod memory;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use encap::{Contiguous, Offload, Vni, vxlan};
use etherparse::PacketBuilder;
use fdb::{Dest, Fdb, PortId, SegmentLimits, Settings};
use switch::{
    Counters, Engine, Outer, PortModeSpec, PortRole, PortSpec, SegmentSpec, Topology, TopologySpec,
};

use memory::{Counting, NOW, station};

const PEERS: [u32; 2] = [2, 5_000];
const SEGMENTS: u32 = 200;
const PORTS: u32 = 1_000;

fn address(n: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 1)) + n).into()
}

struct Bench {
    engine: Engine,
    sink: Counting,
    port: PortId,
}

/// Stations behind peers have the peers' numbers, the one behind the port has this one.
const LOCAL: u32 = 0x00ff_0001;

impl Bench {
    /// `peers` in the first of `segments`, and `ports`, of which the first is in that segment.
    fn new(peers: u32, segments: u32, ports: u32) -> Self {
        let segment = |n: u32| SegmentSpec {
            name: format!("s{n}"),
            vni: Vni::new(100 + n).expect("a VNI"),
            peers: (0..if n == 0 { peers } else { 0 })
                .map(|n| (address(n), vxlan::PORT).into())
                .collect(),
            multicast: None,
            learning: true,
            flood_unknown: true,
            strict_peers: true,
            strict_header: false,
            cluster: None,
        };
        let port = |n: u32| PortSpec {
            name: format!("p{n}"),
            mode: PortModeSpec::Access(format!("s{}", n % segments)),
            mtu: 1450,
            mac: None,
            up: true,
            role: PortRole::Station,
        };
        let spec = TopologySpec {
            local: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            overlay_mtu: 1450,
            segments: (0..segments).map(segment).collect(),
            ports: (0..ports).map(port).collect(),
            heard: Vec::new(),
        };
        let topology = Topology::empty(spec.local, 1450).succeed(&spec).expect("a topology");
        let fdb = Arc::new(Fdb::new(Settings { seed: Some(1), ..Settings::default() }));
        topology
            .segments()
            .for_each(|segment| fdb.configure_segment(segment.id, SegmentLimits::default()));
        let blue = topology.segment_named("s0").expect("the segment").id;
        let port = topology.port_named("p0").expect("the port").id;
        fdb.learn(blue, station(LOCAL), Dest::Port(port), NOW);
        for n in 0..peers {
            let vtep = topology.vtep_at(address(n)).expect("a VTEP").id;
            fdb.learn(blue, station(n), Dest::Vtep(vtep), NOW);
        }
        let engine = Engine::new(Arc::new(topology), fdb.reader(), Arc::new(Counters::default()));
        Self { engine, sink: Counting::default(), port }
    }
}

/// A UDP datagram of 18 bytes between two stations: 60 bytes on the wire.
fn frame(dst: u32, src: u32) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(station(src).get().0, station(dst).get().0);
    let mut bytes = Vec::new();
    let builder = builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(40_000, 5201);
    builder.write(&mut bytes, &[0x5a; 18]).expect("a frame");
    bytes
}

/// Frames to or from the peers in turn, or always the first; a stride that is coprime to the counts.
fn turns(peers: u32, all: bool) -> impl Iterator<Item = u32> {
    let stride = if all { 1_009 } else { 0 };
    (0_u32..).map(move |n| n.wrapping_mul(stride) % peers)
}

fn known_unicast(c: &mut Criterion) {
    for (spread, all) in [("one", false), ("all", true)] {
        let mut group = c.benchmark_group(format!("to_peer/{spread}"));
        group.throughput(Throughput::Elements(1));
        for peers in PEERS {
            let mut bench = Bench::new(peers, SEGMENTS, PORTS);
            let frames: Vec<_> = (0..peers).map(|n| frame(n, LOCAL)).collect();
            let mut turns = turns(peers, all);
            group.bench_function(BenchmarkId::from_parameter(peers), |b| {
                b.iter(|| {
                    let at = turns.next().unwrap_or(0) as usize;
                    let unit = Contiguous::new(&frames[at], Offload::default());
                    bench.engine.from_port(NOW, bench.port, &unit.frame(), &mut bench.sink);
                });
            });
        }
        group.finish();

        let mut group = c.benchmark_group(format!("from_peer/{spread}"));
        group.throughput(Throughput::Elements(1));
        for peers in PEERS {
            let mut bench = Bench::new(peers, SEGMENTS, PORTS);
            let frames: Vec<_> = (0..peers).map(|n| frame(LOCAL, n)).collect();
            let vni = Vni::new(100).expect("a VNI");
            let header = vxlan::Header { vni, reserved_bits_set: false };
            let mut turns = turns(peers, all);
            group.bench_function(BenchmarkId::from_parameter(peers), |b| {
                b.iter(|| {
                    let n = turns.next().unwrap_or(0);
                    let unit = Contiguous::new(&frames[n as usize], Offload::default());
                    let outer = Outer { peer: address(n), header, tos: 0 };
                    bench.engine.from_underlay(NOW, outer, &unit.frame(), &mut bench.sink);
                });
            });
        }
        group.finish();
    }
}

/// What a reload of one change costs in the engine's own tables.
fn successor(c: &mut Criterion) {
    let mut group = c.benchmark_group("successor");
    for peers in PEERS {
        let bench = Bench::new(peers, SEGMENTS, PORTS);
        let before = Arc::clone(bench.engine.topology());
        let mut spec = TopologySpec {
            local: before.local(),
            overlay_mtu: before.overlay_mtu(),
            segments: before.segments().map(|segment| segment.spec.clone()).collect(),
            ports: before.ports().map(|port| port.spec.clone()).collect(),
            heard: Vec::new(),
        };
        if let Some(peer) = spec.segments.first_mut().and_then(|first| first.peers.last_mut()) {
            peer.set_ip(address(9_999));
        }
        group.bench_function(BenchmarkId::from_parameter(peers), |b| {
            b.iter(|| {
                let next = before.succeed(black_box(&spec)).expect("a topology");
                black_box(before.diff(&next)).len()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, known_unicast, successor);
criterion_main!(benches);
