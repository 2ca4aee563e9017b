//! What the engine costs per frame: in memory, with a sink that only counts. A superframe counts as
//! many elements as it has segments, a flood as one.
#![expect(clippy::expect_used, reason = "a benchmark")]

mod memory;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use encap::{Checksum, Contiguous, Frame, Gso, GsoKind, MacAddr, Offload, VlanId, Vni, vxlan};
use etherparse::PacketBuilder;
use fdb::{Dest, Fdb, PortId, SegmentLimits, Settings};
use switch::{
    Counters, Engine, Outer, PortModeSpec, PortRole, PortSpec, SegmentSpec, Topology, TopologySpec,
};

use memory::{Counting, NOW, station};

const VLAN: u16 = 10;
const MSS: u16 = 1398;
const SEGMENTS: u16 = 44;

fn vtep_ip(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, n))
}

/// One segment with two VTEPs, `access` access ports and a trunk.
struct Bench {
    engine: Engine,
    fdb: Arc<Fdb>,
    sink: Counting,
    ports: Vec<PortId>,
    trunk: PortId,
}

impl Bench {
    fn new(access: usize) -> Self {
        let blue = || "blue".to_owned();
        let vni = Vni::new(100).expect("a VNI");
        let segment = SegmentSpec {
            name: blue(),
            vni,
            peers: [2, 3].map(|n| (vtep_ip(n), vxlan::PORT).into()).to_vec(),
            multicast: None,
            learning: true,
            flood_unknown: true,
            strict_peers: true,
            strict_header: false,
            cluster: None,
        };
        let port = |name: String, mode| PortSpec {
            name,
            mode,
            mtu: 1450,
            mac: None,
            up: true,
            role: PortRole::Station,
        };
        let vlan = VlanId::new(VLAN).expect("a VLAN");
        let trunk = PortModeSpec::Trunk { vlans: vec![(vlan, blue())], native: None };
        let mut ports: Vec<PortSpec> =
            (0..access).map(|n| port(format!("p{n}"), PortModeSpec::Access(blue()))).collect();
        ports.push(port("trunk".to_owned(), trunk));
        let spec = TopologySpec {
            local: vtep_ip(1),
            overlay_mtu: 1450,
            segments: vec![segment],
            ports,
            heard: Vec::new(),
        };
        let topology = Topology::empty(spec.local, 1450).succeed(&spec).expect("a topology");
        let fdb = Arc::new(Fdb::new(Settings { seed: Some(1), ..Settings::default() }));
        let all = 1 << 20;
        let limits = SegmentLimits {
            max_macs: all,
            per_port: all,
            per_vtep: all,
            ..SegmentLimits::default()
        };
        topology.segments().for_each(|segment| fdb.configure_segment(segment.id, limits));
        let mut ports: Vec<PortId> = topology.ports().map(|port| port.id).collect();
        let trunk = ports.pop().expect("the trunk");
        let engine = Engine::new(Arc::new(topology), fdb.reader(), Arc::new(Counters::default()));
        Self { engine, fdb, sink: Counting::default(), ports, trunk }
    }

    /// One with so many stations behind its second port, and a driver's few buffers with frames from the
    /// first one.
    fn among(macs: u32) -> (Self, Vec<Vec<u8>>) {
        let bench = Self::new(2);
        bench.learn(1..macs + 1, Dest::Port(bench.ports[1]));
        (bench, vec![frame(station(1).get(), 0x00ff_0001, SMALL, None); RING])
    }

    fn learn(&self, macs: impl Iterator<Item = u32>, dest: Dest) {
        let segment = self.engine.topology().segment_named("blue").expect("the segment").id;
        for n in macs {
            self.fdb.learn(segment, station(n), dest, NOW);
        }
    }

    fn vtep(&self, n: u8) -> Dest {
        Dest::Vtep(self.engine.topology().vtep_at(vtep_ip(n)).expect("a VTEP").id)
    }
}

/// A TCP segment with `payload` bytes, from station `src`.
fn frame(dst: MacAddr, src: u32, payload: usize, vlan: Option<u16>) -> Vec<u8> {
    let source = station(src).get().0;
    let builder = PacketBuilder::ethernet2(source, dst.0);
    let mut bytes = Vec::new();
    let payload = vec![0x5a; payload];
    let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    match vlan {
        None => builder.ipv4(a, b, 64).tcp(40_000, 5201, 1, 501).write(&mut bytes, &payload),
        Some(vlan) => builder
            .single_vlan(etherparse::VlanId::try_new(vlan).expect("a VLAN"))
            .ipv4(a, b, 64)
            .tcp(40_000, 5201, 1, 501)
            .write(&mut bytes, &payload),
    }
    .expect("a frame");
    bytes
}

/// 64 bytes with the frame check sequence.
const SMALL: usize = 6;

/// Frames after which a driver comes back to a buffer.
const RING: usize = 256;

/// Addresses the `n`th frame to another station than the frame that lay there before. A stride that is
/// coprime to the counts: neighbours in the table do not follow each other.
fn address(bytes: &mut [u8], n: usize, macs: u32) {
    let to = station(1 + (n * 7_919 % macs as usize) as u32);
    bytes[..6].copy_from_slice(&to.get().0);
}

fn unicast(c: &mut Criterion) {
    let mut group = c.benchmark_group("unicast_64B");
    group.throughput(Throughput::Elements(1));
    for macs in [1, 1_000, 64_000] {
        let (mut bench, mut ring) = Bench::among(macs);
        let (from, mut n) = (bench.ports[0], 0);
        group.bench_function(BenchmarkId::from_parameter(macs), |b| {
            b.iter(|| {
                n += 1;
                let bytes = &mut ring[n % RING];
                address(bytes, n, macs);
                let unit = Contiguous::new(bytes, Offload::default());
                bench.engine.from_port(NOW, from, &unit.frame(), &mut bench.sink);
            });
        });
    }
    group.finish();
}

/// Frames of a burst: what a driver reads in one go.
const BURST: usize = 32;

/// As [`unicast`], a burst of frames in one call.
fn burst(c: &mut Criterion) {
    let mut group = c.benchmark_group("burst_64B");
    group.throughput(Throughput::Elements(BURST as u64));
    for macs in [1, 1_000, 64_000] {
        let (mut bench, mut ring) = Bench::among(macs);
        let (from, mut n) = (bench.ports[0], 0);
        group.bench_function(BenchmarkId::from_parameter(macs), |b| {
            b.iter(|| {
                let at = n % RING;
                let frames = &mut ring[at..at + BURST];
                for bytes in frames.iter_mut() {
                    n += 1;
                    address(bytes, n, macs);
                }
                let units: [Contiguous<'_>; BURST] =
                    std::array::from_fn(|at| Contiguous::new(&frames[at], Offload::default()));
                let frames: [Frame<'_>; BURST] = std::array::from_fn(|at| units[at].frame());
                bench.engine.burst_from_port(NOW, from, &frames, &mut bench.sink);
            });
        });
    }
    group.finish();
}

fn superframe(c: &mut Criterion) {
    let mut group = c.benchmark_group("superframe");
    group.throughput(Throughput::Elements(u64::from(SEGMENTS)));
    let mut bench = Bench::new(1);
    bench.learn(1..2, bench.vtep(2));
    let bytes = frame(station(1).get(), 0x00ff_0001, usize::from(MSS * SEGMENTS), None);
    let gso = Gso { kind: GsoKind::Tcp, size: MSS, segments: SEGMENTS, header_len: 54 };
    let offload = Offload { checksum: Checksum::Partial { start: 34, offset: 16 }, gso: Some(gso) };
    let unit = Contiguous::new(&bytes, offload);
    let from = bench.ports[0];
    group.bench_function("to_vtep", |b| {
        b.iter(|| bench.engine.from_port(NOW, from, &unit.frame(), &mut bench.sink));
    });
    group.finish();
}

fn flood(c: &mut Criterion) {
    let mut group = c.benchmark_group("flood");
    group.throughput(Throughput::Elements(1));
    let bytes = frame(MacAddr::BROADCAST, 1, SMALL, None);
    let unit = Contiguous::new(&bytes, Offload::default());
    for ports in [4, 32] {
        // One more, from which it comes.
        let mut bench = Bench::new(ports + 1);
        let from = bench.ports[0];
        group.bench_function(BenchmarkId::new("ports", ports), |b| {
            b.iter(|| bench.engine.from_port(NOW, from, &unit.frame(), &mut bench.sink));
        });
    }
    group.finish();
}

fn trunk(c: &mut Criterion) {
    let mut group = c.benchmark_group("trunk");
    group.throughput(Throughput::Elements(1));
    let mut bench = Bench::new(1);
    let (access, trunk) = (bench.ports[0], bench.trunk);
    bench.learn(1..2, Dest::Port(access));
    bench.learn(2..3, Dest::Port(trunk));
    let push = frame(station(2).get(), 1, SMALL, None);
    let pop = frame(station(1).get(), 2, SMALL, Some(VLAN));
    for (name, from, bytes) in [("push", access, push), ("pop", trunk, pop)] {
        let unit = Contiguous::new(&bytes, Offload::default());
        group.bench_function(name, |b| {
            b.iter(|| bench.engine.from_port(NOW, from, &unit.frame(), &mut bench.sink));
        });
    }
    let flooded = frame(MacAddr::BROADCAST, 2, SMALL, Some(VLAN));
    let mut many = Bench::new(32);
    let (unit, from) = (Contiguous::new(&flooded, Offload::default()), many.trunk);
    group.bench_function("flood_to_32_access", |b| {
        b.iter(|| many.engine.from_port(NOW, from, &unit.frame(), &mut many.sink));
    });
    group.finish();
}

fn underlay(c: &mut Criterion) {
    let mut group = c.benchmark_group("from_underlay");
    group.throughput(Throughput::Elements(1));
    let mut bench = Bench::new(2);
    bench.learn(1..2, Dest::Port(bench.ports[1]));
    let bytes = frame(station(1).get(), 0x00ff_0001, SMALL, None);
    let unit = Contiguous::new(&bytes, Offload::default());
    let header = vxlan::Header { vni: Vni::new(100).expect("a VNI"), reserved_bits_set: false };
    let outer = Outer { peer: vtep_ip(2), header, tos: 0 };
    group.bench_function("unicast_64B", |b| {
        b.iter(|| bench.engine.from_underlay(NOW, outer, &unit.frame(), &mut bench.sink));
    });
    group.finish();
}

criterion_group!(benches, unicast, burst, superframe, flood, trunk, underlay);
criterion_main!(benches);
