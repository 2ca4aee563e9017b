//! The router against a naive one that scans a list of prefixes, and against bytes that nobody
//! sends in good faith.

use crate::kit::{Sent, access, port, readings, segment, vtep_ip};
use crate::world::{At, Unit, VNI, World, mac, resum, spec, udp};
use encap::{Ethernet, GsoKind, Inet, Offload};
use fdb::Tick;
use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::test_runner::{Config as ProptestConfig, TestCaseError};
use proptest::{prop_assert, prop_assert_eq, proptest};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use switch::{
    ClusterSpec, DropReason, GATEWAY_MAC, GATEWAY_V6, PortRole, PortSpec, SegmentSpec, TopologySpec,
};

/// An address from few: `10.0.a.b`, and in the other family the same in other words.
fn address(six: bool, a: u8, b: u8) -> IpAddr {
    if six {
        Ipv6Addr::new(0xfd00, 0, 0, a.into(), 0, 0, 0, b.into()).into()
    } else {
        Ipv4Addr::new(10, 0, a, b).into()
    }
}

fn addresses() -> impl Strategy<Value = IpAddr> {
    (any::<bool>(), 0u8..6, 0u8..6).prop_map(|(six, a, b)| address(six, a, b))
}

/// A prefix around such an address.
fn prefixes() -> impl Strategy<Value = IpNet> {
    let lengths = prop_oneof![4 => 24u8..=24, 4 => 32u8..=32, 1 => 0u8..=32];
    (addresses(), lengths).prop_map(|(address, len)| {
        let len = match address {
            IpAddr::V4(_) => len,
            IpAddr::V6(_) => match len {
                32 => 128,
                24 => 64,
                len => len * 4,
            },
        };
        IpNet::new(address, len).unwrap().trunc()
    })
}

/// A node with pods `p0` to `p3`, maybe a gateway port `gw`, and VTEPs 2 to 5.
fn specs() -> impl Strategy<Value = TopologySpec> {
    let pods = vec((vec(addresses(), 0..3), any::<bool>()), 0..4);
    let gateway = (vec(addresses(), 0..3), any::<bool>(), 0u8..4);
    let routes = vec((prefixes(), 2u8..6), 0..12);
    let lists = (vec(prefixes(), 0..3), vec(prefixes(), 0..3), vec(addresses(), 0..3));
    (pods, gateway, routes, lists).prop_map(|(pods, gateway, routes, lists)| {
        let (networks, own, own_addresses) = lists;
        // The node's own are no pod's.
        let mut taken: Vec<IpAddr> = own_addresses.clone();
        let mut fresh = |list: Vec<IpAddr>| -> Vec<IpAddr> {
            let of_port = taken.len();
            for address in list {
                if !taken.contains(&address) {
                    taken.push(address);
                }
            }
            taken[of_port..].to_vec()
        };
        let mut ports = Vec::new();
        for (n, (addresses, up)) in (0..).zip(pods) {
            let role = PortRole::Pod { addresses: fresh(addresses), spoof: false };
            let base = port(&format!("p{n}"), access("pods"));
            ports.push(PortSpec { mac: Some(mac(n + 2)), role, up, ..base });
        }
        let (addresses, up, there) = gateway;
        if there > 0 {
            let free = |own: &IpAddr| own_addresses.contains(own) || !taken.contains(own);
            let addresses = addresses.into_iter().filter(free).collect();
            let role = PortRole::Gateway { addresses };
            ports.push(PortSpec { mac: Some(mac(1)), role, up, ..port("gw", access("pods")) });
        }
        // One owner for each prefix.
        let routes: BTreeMap<IpNet, u8> =
            routes.into_iter().filter(|(prefix, _)| !own.contains(prefix)).collect();
        let vtep = |n: u8| SocketAddr::new(vtep_ip(n), 4789);
        let routes = routes.into_iter().map(|(prefix, n)| (prefix, vtep(n))).collect();
        let (vtep_port, flood_multicast) = (4789, false);
        let cluster =
            ClusterSpec { networks, own, own_addresses, routes, vtep_port, flood_multicast };
        let pods = SegmentSpec { cluster: Some(cluster), ..segment("pods", VNI, &[2, 3, 4, 5]) };
        let (local, segments) = (vtep_ip(1), vec![pods]);
        TopologySpec { local, overlay_mtu: 1450, segments, ports, heard: Vec::new() }
    })
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Port(String),
    Vtep(u8),
    Told,
    Drop(DropReason),
}

/// The naive router.
struct Naive<'s> {
    spec: &'s TopologySpec,
    cluster: &'s ClusterSpec,
}

impl Naive<'_> {
    fn port_of(&self, address: IpAddr) -> Option<&PortSpec> {
        let has = |port: &&PortSpec| port.role.addresses().contains(&address);
        let own = self.cluster.own_addresses.contains(&address);
        self.spec.ports.iter().find(has).or_else(|| own.then(|| self.gateway()).flatten())
    }

    fn gateway(&self) -> Option<&PortSpec> {
        self.spec.ports.iter().find(|port| matches!(port.role, PortRole::Gateway { .. }))
    }

    /// Length of the longest prefix among these; a length more than none is none.
    fn longest<'n>(nets: impl Iterator<Item = &'n IpNet>, address: IpAddr) -> u8 {
        let around = nets.filter(|net| net.contains(&address));
        around.map(|net| net.prefix_len() + 1).max().unwrap_or(0)
    }

    /// The VTEP that has an address, and whether the address is the cluster's at all.
    fn owner(&self, address: IpAddr) -> (Option<u8>, bool) {
        let routes = || self.cluster.routes.iter();
        let remote = Self::longest(routes().map(|(net, _)| net), address);
        let own = Self::longest(self.cluster.own.iter(), address);
        let network = Self::longest(self.cluster.networks.iter(), address);
        if remote > 0 && remote >= own && remote >= network {
            let mut routes = routes();
            let route =
                routes.find(|(net, _)| net.prefix_len() + 1 == remote && net.contains(&address));
            let IpAddr::V4(vtep) = route.unwrap().1.ip() else { panic!("VTEPs are IPv4") };
            return (Some(vtep.octets()[3]), true);
        }
        (None, own > 0 || network > 0)
    }

    fn of_port(&self, from: &PortSpec, source: IpAddr, to: IpAddr, ttl: u8) -> Fate {
        let gateway = matches!(from.role, PortRole::Gateway { .. });
        if !from.up {
            return Fate::Drop(DropReason::PortDown);
        }
        if !gateway && !from.role.addresses().contains(&source) {
            return Fate::Drop(DropReason::SpoofedAddress);
        }
        let fate = match (self.port_of(to), self.owner(to)) {
            (Some(port), _) if port.name == from.name => return Fate::Drop(DropReason::SamePort),
            (Some(port), _) if !port.up => return Fate::Told,
            (Some(port), _) => Fate::Port(port.name.clone()),
            // An address of this node's own, and no port that leads there.
            (None, _) if self.cluster.own_addresses.contains(&to) => return Fate::Told,
            (None, (Some(vtep), _)) => Fate::Vtep(vtep),
            (None, (None, true)) => return Fate::Told,
            (None, (None, false)) if gateway => return Fate::Drop(DropReason::NoRoute),
            (None, (None, false)) => match self.gateway().filter(|port| port.up) {
                Some(port) => Fate::Port(port.name.clone()),
                None => return Fate::Told,
            },
        };
        if ttl <= 1 { Fate::Told } else { fate }
    }

    fn of_vtep(&self, vtep: u8, source: IpAddr, to: IpAddr) -> Fate {
        if self.owner(source).0 != Some(vtep) {
            return Fate::Drop(DropReason::SpoofedAddress);
        }
        let reason = match (self.port_of(to), self.owner(to).0) {
            (Some(port), _) if port.up => return Fate::Port(port.name.clone()),
            (Some(_), _) => DropReason::PortDown,
            (None, _) if self.cluster.own_addresses.contains(&to) => DropReason::NoRoute,
            (None, Some(_)) => DropReason::SplitHorizon,
            (None, None) => DropReason::NoRoute,
        };
        Fate::Drop(reason)
    }
}

const PORTS: [&str; 5] = ["p0", "p1", "p2", "p3", "gw"];

/// A packet, and where it comes in: at one of the ports, or from VTEP 2 to 5.
#[derive(Clone, Debug)]
struct Step {
    at: u8,
    source: IpAddr,
    to: IpAddr,
    /// Sent by a pod from its own address, if it has one.
    honest: bool,
    ttl: u8,
}

fn steps() -> impl Strategy<Value = Step> {
    let ttl = prop_oneof![3 => 64u8..=64, 1 => 0u8..=2];
    let ends = (any::<bool>(), 0u8..6, 0u8..6, 0u8..6, 0u8..6);
    (0u8..9, ends, 0u8..4, ttl).prop_map(|(at, (six, a, b, c, d), honest, ttl)| {
        let (source, to) = (address(six, a, b), address(six, c, d));
        Step { at, source, to, honest: honest > 0, ttl }
    })
}

fn run(spec: &TopologySpec, steps: &[Step]) -> Result<(), TestCaseError> {
    let naive = Naive { spec, cluster: spec.segments[0].cluster.as_ref().unwrap() };
    let mut world = World::new(spec);
    for (n, step) in (1u64..).zip(steps) {
        let (at, from) = match PORTS.get(usize::from(step.at)) {
            Some(name) => {
                let from = spec.ports.iter().find(|port| port.name == *name);
                let Some(from) = from else { continue };
                (At::Port(name), Some(from))
            }
            None => (At::Vtep(step.at - 3), None),
        };
        let own = from.and_then(|port| {
            port.role.addresses().iter().find(|own| own.is_ipv4() == step.to.is_ipv4())
        });
        let source = *own.filter(|_| step.honest).unwrap_or(&step.source);
        let mut unit = udp(&source.to_string(), &step.to.to_string()).ttl(step.ttl);
        let want = match (from, at) {
            (Some(port), _) => {
                unit = unit.from(port.mac.unwrap().get());
                naive.of_port(port, source, step.to, step.ttl)
            }
            (None, At::Vtep(vtep)) => naive.of_vtep(vtep, source, step.to),
            (None, At::Port(_)) => unreachable!("a port was found"),
        };
        // A second later: errors have their pace.
        let sent = world.send(Tick(n * 1000), at, &unit);
        let topology = world.engine.topology();
        let fate = match &sent[..] {
            [] => None,
            [Sent::ToVteps { vteps, bytes, .. }] => {
                prop_assert_eq!(&bytes[..12], [GATEWAY_MAC.get().0; 2].concat());
                prop_assert_eq!(vteps.len(), 1);
                let vtep = topology.vtep(vteps[0]).unwrap().address.ip();
                (2..6).find(|n| vtep == vtep_ip(*n)).map(Fate::Vtep)
            }
            [Sent::ToPort { port, bytes, .. }] => {
                let port = topology.port(*port).unwrap();
                let told = bytes[14..] != unit.l3[..] && bytes.len() > unit.bytes().len();
                prop_assert_eq!(&bytes[..6], port.spec.mac.unwrap().get().0);
                prop_assert_eq!(&bytes[6..12], GATEWAY_MAC.get().0);
                let name = port.spec.name.clone();
                Some(if told { Fate::Told } else { Fate::Port(name) })
            }
            more => panic!("one output at the most: {more:?}"),
        };
        match (&want, fate) {
            (Fate::Drop(reason), None) => {
                let counted = readings(topology, world.engine.counters());
                let drops = counted.iter().map(|(_, one)| one.rx_dropped[*reason as usize]);
                prop_assert!(drops.sum::<u64>() > 0, "{step:?} is {want:?}: {counted:?}");
            }
            (want, fate) => {
                prop_assert_eq!(Some(want), fate.as_ref(), "{:?} from {}", step, source);
            }
        }
    }
    for (name, reading) in readings(world.engine.topology(), world.engine.counters()) {
        prop_assert!(reading.law_holds(), "{name}");
    }
    Ok(())
}

/// How bytes are spoilt.
#[derive(Clone, Debug)]
enum Spoil {
    Set(usize, u8),
    Cut(usize),
    Grow(u8),
}

fn spoils() -> impl Strategy<Value = Spoil> {
    prop_oneof![
        6 => (0usize..90, any::<u8>()).prop_map(|(at, value)| Spoil::Set(at, value)),
        1 => (0usize..90).prop_map(Spoil::Cut),
        1 => any::<u8>().prop_map(Spoil::Grow),
    ]
}

/// Sound frames of many kinds to begin with.
fn seeds() -> Vec<Unit> {
    let rows = crate::all();
    rows.into_iter().map(|row| row.unit).collect()
}

/// What no frame may achieve, whatever it is made of.
fn check_sent(
    at: At,
    sent: &[Sent],
    world: &World,
    spec: &TopologySpec,
) -> Result<(), TestCaseError> {
    let topology = world.engine.topology();
    let naive = Naive { spec, cluster: spec.segments[0].cluster.as_ref().unwrap() };
    let gateway = topology.port_named("gw").unwrap().id;
    for one in sent {
        let (bytes, remote) = match one {
            Sent::ToPort { port, bytes, .. } => {
                let own =
                    matches!(at, At::Port(name) if topology.port_named(name).unwrap().id == *port);
                prop_assert!(
                    own || *port != gateway || bytes[0] & 1 == 0,
                    "the gateway port is flooded"
                );
                if own {
                    continue;
                }
                (bytes, false)
            }
            Sent::ToVteps { bytes, .. } => (bytes, true),
        };
        let ethernet = Ethernet::parse(bytes).unwrap();
        // IP alone goes on.
        let inet = Inet::at(bytes, &ethernet);
        let (source, _) = inet.and_then(|inet| inet.addresses(bytes)).unwrap();
        match at {
            At::Vtep(n) => {
                prop_assert!(!remote, "split horizon");
                let known = naive.owner(source).0 == Some(n);
                let group = bytes[0] & 1 == 1;
                prop_assert!(known || group && is_of_link(source), "{source} from VTEP {n}");
            }
            At::Port("two") => {
                let own = crate::world::ours(2).contains(&source);
                let group = bytes[0] & 1 == 1;
                prop_assert!(own || group && is_of_link(source), "{source} from a pod");
            }
            At::Port(_) => {}
        }
    }
    Ok(())
}

fn is_of_link(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local() && address != GATEWAY_V6)
}

/// An offload that a driver may vouch for, around these bytes.
fn offload(bytes: &[u8], superframe: bool) -> Offload {
    let tcp = Inet::parse(bytes).filter(|inet| inet.proto == 6 && bytes.len() > inet.l4 + 20);
    let Some(inet) = tcp.filter(|_| superframe) else { return Offload::default() };
    let header_len = (inet.l4 + 20) as u16;
    let segments = (bytes.len() as u16 - header_len).div_ceil(8).max(1);
    let gso = encap::Gso { kind: GsoKind::Tcp, size: 8, segments, header_len };
    let checksum = encap::Checksum::Partial { start: inet.l4 as u16, offset: 16 };
    Offload { checksum, gso: Some(gso) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_naive_router(spec in specs(), steps in vec(steps(), 1..60)) {
        run(&spec, &steps)?;
    }

    #[test]
    fn no_bytes_are_worse_than_dropped(
        picks in vec((any::<u16>(), vec(spoils(), 0..4), any::<bool>(), any::<bool>()), 1..30),
        flood in any::<bool>(),
    ) {
        let mut spec = spec();
        spec.segments[0].cluster.as_mut().unwrap().flood_multicast = flood;
        let mut world = World::new(&spec);
        let seeds = seeds();
        for (pick, spoils, summed, superframe) in picks {
            let unit = &seeds[usize::from(pick) % seeds.len()];
            let mut bytes = unit.bytes();
            for spoil in spoils {
                match spoil {
                    Spoil::Set(at, value) => {
                        if let Some(byte) = bytes.get_mut(at) {
                            *byte = value;
                        }
                    }
                    Spoil::Cut(at) => bytes.truncate(at),
                    Spoil::Grow(by) => bytes.resize(bytes.len() + usize::from(by), by),
                }
            }
            if summed && bytes.len() > 34 && bytes[14] == 0x45 {
                resum(&mut bytes[14..]);
            }
            for at in [At::Port("two"), At::Port("loose"), At::Port("gw"), At::Vtep(2), At::Vtep(3)] {
                let offload = offload(&bytes, superframe);
                let sent = world.send_bytes(Tick(pick.into()), at, &bytes, offload);
                check_sent(at, &sent, &world, &spec)?;
            }
        }
        for (name, reading) in readings(world.engine.topology(), world.engine.counters()) {
            prop_assert!(reading.law_holds(), "{name}");
        }
    }

    #[test]
    fn nor_is_noise(noise in vec(any::<u8>(), 0..200), arp in any::<bool>()) {
        let spec = spec();
        let mut world = World::new(&spec);
        let head = [&GATEWAY_MAC.get().0[..], &mac(2).get().0, &[8, if arp { 6 } else { 0 }]].concat();
        for bytes in [noise.clone(), [&head[..], &noise].concat()] {
            for at in [At::Port("two"), At::Vtep(2)] {
                let sent = world.send_bytes(Tick(0), at, &bytes, Offload::default());
                check_sent(at, &sent, &world, &spec)?;
            }
        }
    }
}
