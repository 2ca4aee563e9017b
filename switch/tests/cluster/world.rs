//! The node that the rows are about, the packets on it, and what a row is.

use crate::kit::{Recorder, Sent, access, ethernet, port, readings, segment, vtep_ip};
use encap::{Contiguous, FlowHash, MacAddr, Offload, StationMac, Vni, vxlan};
use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, PacketBuilderStep};
use fdb::{Fdb, Settings, Tick};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use switch::{
    ClusterSpec, Counters, DropReason, Engine, GATEWAY_MAC, Outer, PortRole, PortSpec, Reading,
    SegmentSpec, Topology, TopologySpec,
};

pub(crate) const VNI: u32 = 900;

/// The node `192.0.2.1`, known to others as `172.16.0.1`:
///
/// ```text
/// networks 10.244.0.0/16 fd44::/48     own 10.244.1.0/24 fd44:0:0:1::/64
/// VTEP .2  10.244.2.0/24 fd44:0:0:2::/64 172.16.0.2/32
/// VTEP .3  10.244.3.0/24 fd44:0:0:3::/64 172.16.0.3/32, exceptions 10.244.2.77/32 10.244.1.88/32
/// pods two, three, narrow (MTU 1300), down, loose (may spoof): 10.244.1.n and fd44:0:0:1::n
/// gateway port .1, MAC 02:..:01
/// ```
pub(crate) fn spec() -> TopologySpec {
    let mut pods = SegmentSpec { cluster: Some(cluster()), ..segment("pods", VNI, &[]) };
    pods.strict_peers = false;
    let mut narrow = pod("narrow", 4, false);
    narrow.mtu = 1300;
    let mut down = pod("down", 5, false);
    down.up = false;
    let gateway = PortRole::Gateway { addresses: ours(1) };
    TopologySpec {
        local: vtep_ip(1),
        overlay_mtu: 1450,
        // Another segment's VTEP is not one of the cluster's.
        segments: vec![pods, segment("plain", 100, &[9])],
        ports: vec![
            pod("two", 2, false),
            pod("three", 3, false),
            narrow,
            down,
            pod("loose", 6, true),
            PortSpec { mac: Some(mac(1)), role: gateway, ..port("gw", access("pods")) },
        ],
        heard: Vec::new(),
    }
}

fn cluster() -> ClusterSpec {
    let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
    let routes = [
        ("10.244.2.0/24", 2),
        ("fd44:0:0:2::/64", 2),
        ("172.16.0.2/32", 2),
        ("10.244.3.0/24", 3),
        ("fd44:0:0:3::/64", 3),
        ("172.16.0.3/32", 3),
        ("10.244.2.77/32", 3),
        ("10.244.1.88/32", 3),
    ];
    let route = |(net, n): (&str, u8)| (net.parse().unwrap(), SocketAddr::new(vtep_ip(n), 4789));
    ClusterSpec {
        networks: nets(&["10.244.0.0/16", "fd44::/48"]),
        own: nets(&["10.244.1.0/24", "fd44:0:0:1::/64"]),
        own_addresses: vec!["172.16.0.1".parse().unwrap()],
        routes: routes.into_iter().map(route).collect(),
        vtep_port: 4789,
        flood_multicast: false,
    }
}

/// The VTEP `2001:db8::n`.
pub(crate) fn vtep_ip6(n: u8) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into()).into()
}

pub(crate) fn mac(n: u8) -> StationMac {
    MacAddr([0x0a, 0x7a, 10, 244, 1, n]).station().unwrap()
}

pub(crate) fn ours(n: u8) -> Vec<IpAddr> {
    [format!("10.244.1.{n}"), format!("fd44:0:0:1::{n:x}")].map(|ip| ip.parse().unwrap()).to_vec()
}

pub(crate) fn pod(name: &str, n: u8, spoof: bool) -> PortSpec {
    let role = PortRole::Pod { addresses: ours(n), spoof };
    PortSpec { mac: Some(mac(n)), role, ..port(name, access("pods")) }
}

/// A frame by its parts.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(crate) dst: MacAddr,
    pub(crate) src: MacAddr,
    pub(crate) tags: Vec<(u16, u16)>,
    pub(crate) ethertype: u16,
    pub(crate) l3: Vec<u8>,
    pub(crate) offload: Offload,
}

impl Unit {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        ethernet(self.dst, self.src, &self.tags, self.ethertype, &self.l3)
    }

    pub(crate) fn to(self, dst: MacAddr) -> Self {
        Self { dst, ..self }
    }

    pub(crate) fn from(self, src: MacAddr) -> Self {
        Self { src, ..self }
    }

    pub(crate) fn carrying(self, ethertype: u16, l3: Vec<u8>) -> Self {
        Self { ethertype, l3, ..self }
    }

    /// With this byte of layer 3; an IPv4 header is summed again.
    pub(crate) fn byte(mut self, at: usize, value: u8) -> Self {
        self.l3[at] = value;
        resum(&mut self.l3);
        self
    }

    pub(crate) fn ttl(self, ttl: u8) -> Self {
        let at = if self.ethertype == 0x0800 { 8 } else { 7 };
        self.byte(at, ttl)
    }

    /// With this TOS or traffic class.
    pub(crate) fn tos(self, tos: u8) -> Self {
        match self.ethertype {
            0x0800 => self.byte(1, tos),
            _ => {
                let flow = self.l3[1] & 0x0f;
                self.byte(0, 0x60 | tos >> 4).byte(1, tos << 4 | flow)
            }
        }
    }

    pub(crate) fn priority(mut self) -> Self {
        self.tags = vec![(0x8100, 0xe000)];
        self
    }
}

/// A naive Internet checksum (RFC 1071).
pub(crate) fn naive_sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [hi, lo] => u32::from(hi) << 8 | u32::from(lo),
        _ => u32::from(pair[0]) << 8,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Sums the header anew if it is IPv4.
pub(crate) fn resum(l3: &mut [u8]) {
    if l3[0] == 0x45 {
        l3[10..12].fill(0);
        let sum = naive_sum(&l3[..20]);
        l3[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

pub(crate) fn ip(source: &str, destination: &str, proto: IpNumber) -> PacketBuilderStep<IpHeaders> {
    let headers = match (source.parse().unwrap(), destination.parse().unwrap()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header = Ipv4Header::new(0, 64, proto, source.octets(), destination.octets());
            let mut header = header.unwrap();
            header.dont_fragment = true;
            IpHeaders::Ipv4(header, Default::default())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let (source, destination) = (source.octets(), destination.octets());
            let (next_header, hop_limit) = (proto, 64);
            let header =
                Ipv6Header { source, destination, next_header, hop_limit, ..Ipv6Header::default() };
            IpHeaders::Ipv6(header, Default::default())
        }
        pair => panic!("{pair:?} are of two versions"),
    };
    PacketBuilder::ip(headers)
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 % 251) as u8).collect()
}

/// A UDP packet to this port with so many bytes of payload, as pod two sends it.
pub(crate) fn udp_to(source: &str, destination: &str, port: u16, len: usize) -> Unit {
    let mut l3 = Vec::new();
    let builder = ip(source, destination, IpNumber::UDP).udp(5000, port);
    builder.write(&mut l3, &payload(len)).unwrap();
    framed(l3)
}

/// A short one to port 7.
pub(crate) fn udp(source: &str, destination: &str) -> Unit {
    udp_to(source, destination, 7, 30)
}

/// A frame from pod two to the gateway.
pub(crate) fn framed(l3: Vec<u8>) -> Unit {
    let ethertype = if l3[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    let (dst, src, offload) = (GATEWAY_MAC.get(), mac(2).get(), Offload::default());
    Unit { dst, src, tags: vec![], ethertype, l3, offload }
}

/// What an outer header says beside who sends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wrapping {
    pub(crate) reserved: bool,
    pub(crate) tos: u8,
}

/// Where a row's frame comes in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At {
    Port(&'static str),
    Vtep(u8),
}

/// What a row expects.
#[derive(Clone, Debug)]
pub(crate) enum Want {
    Drop(DropReason),
    /// To this port, with these bytes.
    Port(&'static str, Vec<u8>),
    /// To this VTEP, with these bytes.
    Vtep(u8, Vec<u8>),
    /// To these ports and VTEPs, as it is but for its tag.
    Flood(&'static [&'static str], &'static [u8]),
    /// An ICMP error of this type and code, in the name of this address.
    Told {
        kind: u8,
        code: u8,
        word: u32,
        voice: &'static str,
    },
    /// Exactly these bytes, back to the port.
    Answer(Vec<u8>),
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) given: fn(&mut TopologySpec),
    pub(crate) at: At,
    pub(crate) wrapping: Wrapping,
    pub(crate) unit: Unit,
    pub(crate) want: Want,
}

fn row(name: &'static str, at: At, unit: Unit) -> Row {
    let (wrapping, want) = (Wrapping::default(), Want::Answer(vec![]));
    Row { name, given: |_| (), at, wrapping, unit, want }
}

pub(crate) fn on(name: &'static str, port: &'static str, unit: Unit) -> Row {
    row(name, At::Port(port), unit)
}

pub(crate) fn via(name: &'static str, vtep: u8, unit: Unit) -> Row {
    row(name, At::Vtep(vtep), unit)
}

/// The frame as a router has to pass it on.
fn passed(unit: &Unit, to: StationMac, ages: bool) -> Vec<u8> {
    let mut l3 = unit.l3.clone();
    if ages {
        let at = if l3[0] >> 4 == 4 { 8 } else { 7 };
        l3[at] -= 1;
        resum(&mut l3);
    }
    ethernet(to.get(), GATEWAY_MAC.get(), &[], unit.ethertype, &l3)
}

impl Row {
    pub(crate) fn given(self, given: fn(&mut TopologySpec)) -> Self {
        Self { given, ..self }
    }

    /// In a datagram with this outer TOS.
    pub(crate) fn marked(mut self, tos: u8) -> Self {
        self.wrapping.tos = tos;
        self
    }

    /// In a datagram with reserved bits in its VXLAN header.
    pub(crate) fn reserved(mut self) -> Self {
        self.wrapping.reserved = true;
        self
    }

    pub(crate) fn drops(self, reason: DropReason) -> Self {
        Self { want: Want::Drop(reason), ..self }
    }

    /// Is routed to a port, to the MAC address that ends with `n`.
    pub(crate) fn routed_to(self, port: &'static str, n: u8) -> Self {
        let unit = self.unit.clone();
        self.routed_as(port, n, &unit)
    }

    /// As [`Self::routed_to`], as this frame would be.
    pub(crate) fn routed_as(self, port: &'static str, n: u8, unit: &Unit) -> Self {
        let ages = matches!(self.at, At::Port(_));
        Self { want: Want::Port(port, passed(unit, mac(n), ages)), ..self }
    }

    pub(crate) fn tunnelled_to(self, n: u8) -> Self {
        Self { want: Want::Vtep(n, passed(&self.unit, GATEWAY_MAC, true)), ..self }
    }

    pub(crate) fn floods(self, ports: &'static [&'static str], vteps: &'static [u8]) -> Self {
        Self { want: Want::Flood(ports, vteps), ..self }
    }

    pub(crate) fn told(self, (kind, code): (u8, u8), voice: &'static str) -> Self {
        Self { want: Want::Told { kind, code, word: 0, voice }, ..self }
    }

    pub(crate) fn too_big(self, mtu: u16, kind: (u8, u8), voice: &'static str) -> Self {
        let (kind, code) = kind;
        Self { want: Want::Told { kind, code, word: mtu.into(), voice }, ..self }
    }

    pub(crate) fn answered(self, bytes: Vec<u8>) -> Self {
        Self { want: Want::Answer(bytes), ..self }
    }

    /// Runs the row on a world of its own.
    pub(crate) fn run(&self) {
        let mut spec = spec();
        (self.given)(&mut spec);
        let mut world = World { wrapping: self.wrapping, ..World::new(&spec) };
        let sent = world.send(Tick(5), self.at, &self.unit);
        self.check_counters(&world);
        let entries = world.fdb.entries(Tick(5));
        assert!(entries.is_empty(), "nothing is learned: {entries:?}");
        self.check_output(&world, &sent);
    }

    fn check_counters(&self, world: &World) {
        let ingress = match self.at {
            At::Port(name) => name.to_owned(),
            At::Vtep(n) if world.engine.topology().vtep_at(world.vtep(n)).is_some() => {
                world.vtep(n).to_string()
            }
            At::Vtep(_) => "stranger".to_owned(),
        };
        for (name, reading) in readings(world.engine.topology(), world.engine.counters()) {
            let mut want = Reading::default();
            if name == ingress {
                (want.rx.frames, want.rx.bytes) = (1, self.unit.bytes().len() as u64);
                match self.want {
                    Want::Drop(reason) => want.rx_dropped[reason as usize] = 1,
                    Want::Port(..) | Want::Vtep(..) | Want::Flood(..) => want.forwarded = 1,
                    Want::Told { .. } | Want::Answer(_) => want.answered = 1,
                }
            }
            assert_eq!(reading, want, "counters of {name}");
        }
        let noted = self.wrapping.reserved && !matches!(self.want, Want::Drop(_));
        assert_eq!(world.engine.counters().reserved_bits().get(), u64::from(noted));
    }

    fn check_output(&self, world: &World, sent: &[Sent]) {
        let untagged = Unit { tags: vec![], ..self.unit.clone() }.bytes();
        match &self.want {
            Want::Drop(_) => assert_eq!(sent, [], "a frame that is dropped goes nowhere"),
            Want::Port(name, bytes) => assert_eq!(sent, [world.to_port(name, bytes.clone())]),
            Want::Vtep(n, bytes) => {
                assert_eq!(sent, [world.to_vteps(&[*n], bytes.clone(), &self.unit)]);
            }
            Want::Flood(ports, vteps) => {
                let ports = ports.iter().map(|name| world.to_port(name, untagged.clone()));
                let vteps = (!vteps.is_empty())
                    .then(|| world.to_vteps(vteps, untagged.clone(), &self.unit));
                assert_eq!(sent, ports.chain(vteps).collect::<Vec<_>>());
            }
            Want::Answer(bytes) => {
                let At::Port(name) = self.at else { panic!("tunnels are not answered") };
                assert_eq!(sent, [world.to_port(name, bytes.clone())]);
            }
            Want::Told { kind, code, word, voice } => {
                let At::Port(name) = self.at else { panic!("tunnels are not answered") };
                let [Sent::ToPort { port, bytes, .. }] = sent else {
                    panic!("one answer is wanted: {sent:?}");
                };
                assert_eq!(*port, world.engine.topology().port_named(name).unwrap().id);
                crate::told::check(bytes, &self.unit, (*kind, *code, *word), voice);
            }
        }
    }
}

/// A node that runs.
pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) fdb: Arc<Fdb>,
    /// Of datagrams.
    pub(crate) wrapping: Wrapping,
}

impl World {
    pub(crate) fn new(spec: &TopologySpec) -> Self {
        let topology = Topology::empty(spec.local, spec.overlay_mtu).succeed(spec).unwrap();
        let fdb = Arc::new(Fdb::new(Settings { seed: Some(7), ..Settings::default() }));
        let counters = Arc::new(Counters::default());
        let engine = Engine::new(Arc::new(topology), fdb.reader(), counters);
        Self { engine, fdb, wrapping: Wrapping::default() }
    }

    /// The address of VTEP `n`, of whichever family the underlay is.
    fn vtep(&self, n: u8) -> IpAddr {
        if self.engine.topology().local().is_ipv4() { vtep_ip(n) } else { vtep_ip6(n) }
    }

    pub(crate) fn send(&mut self, now: Tick, at: At, unit: &Unit) -> Vec<Sent> {
        self.send_bytes(now, at, &unit.bytes(), unit.offload)
    }

    pub(crate) fn send_bytes(
        &mut self,
        now: Tick,
        at: At,
        bytes: &[u8],
        offload: Offload,
    ) -> Vec<Sent> {
        let mut sink = Recorder::default();
        let unit = Contiguous::new(bytes, offload);
        match at {
            At::Port(name) => {
                let port = self.engine.topology().port_named(name).unwrap().id;
                self.engine.from_port(now, port, &unit.frame(), &mut sink);
            }
            At::Vtep(n) => {
                let vni = Vni::new(VNI).unwrap();
                let Wrapping { reserved, tos } = self.wrapping;
                let header = vxlan::Header { vni, reserved_bits_set: reserved };
                let outer = Outer { peer: self.vtep(n), header, tos };
                self.engine.from_underlay(now, outer, &unit.frame(), &mut sink);
            }
        }
        sink.0
    }

    pub(crate) fn to_port(&self, name: &str, bytes: Vec<u8>) -> Sent {
        let port = self.engine.topology().port_named(name).unwrap();
        Sent::ToPort { port: port.id, mtu: port.spec.mtu, bytes, offload: Offload::default() }
    }

    fn to_vteps(&self, vteps: &[u8], bytes: Vec<u8>, unit: &Unit) -> Sent {
        let topology = self.engine.topology();
        let [a, b, ..] = unit.l3[..] else { panic!("no IP") };
        let tos = if unit.ethertype == 0x0800 { b } else { a << 4 | b >> 4 };
        Sent::ToVteps {
            vteps: vteps.iter().map(|n| topology.vtep_at(self.vtep(*n)).unwrap().id).collect(),
            vni: Vni::new(VNI).unwrap(),
            flow: FlowHash::of(&unit.bytes()),
            tos,
            bytes,
            offload: Offload::default(),
        }
    }
}
