//! What a cluster segment's specification cannot be, and what a change of it is.

use crate::kit::{access, port, segment, trunk, vtep_ip};
use crate::world::{At, World, mac, ours, pod, spec, udp};
use fdb::{Dest, Origin, SegmentLimits, Tick};
use std::net::SocketAddr;
use std::sync::Arc;
use switch::{
    Change, ClusterSpec, DropReason, GATEWAY_MAC, GATEWAY_V4, PortRole, PortSpec, Topology,
    TopologyError, TopologySpec,
};

fn errors(edit: impl FnOnce(&mut TopologySpec)) -> Vec<TopologyError> {
    let mut spec = spec();
    edit(&mut spec);
    Topology::empty(spec.local, 1450).succeed(&spec).err().unwrap_or_default()
}

fn cluster(spec: &mut TopologySpec) -> &mut ClusterSpec {
    spec.segments[0].cluster.as_mut().unwrap()
}

fn name(text: &str) -> String {
    text.to_owned()
}

#[test]
fn roles_belong_into_cluster_segments() {
    assert_eq!(errors(|_| ()), []);
    let stray = errors(|spec| {
        spec.ports.push(port("station", access("pods")));
        spec.ports.push(port("trunk", trunk(&[(7, "pods")], Some("plain"))));
        spec.ports.push(PortSpec { mode: access("plain"), ..pod("astray", 20, false) });
        spec.ports.push(PortSpec { mode: trunk(&[], Some("pods")), ..pod("tagged", 21, false) });
    });
    let station =
        |port| TopologyError::StationInCluster { port: name(port), segment: name("pods") };
    let astray = |port| TopologyError::NotInCluster { port: name(port) };
    let want = [station("station"), station("trunk"), astray("astray"), astray("tagged")];
    assert_eq!(stray, want);
}

#[test]
fn ports_have_addresses_of_their_own() {
    let second = PortRole::Gateway { addresses: vec![] };
    let wrong = errors(|spec| {
        spec.ports.push(PortSpec { mac: None, ..pod("bare", 20, false) });
        spec.ports.push(PortSpec { mac: Some(GATEWAY_MAC), ..pod("posing", 21, false) });
        spec.ports.push(PortSpec { role: second, ..pod("gw2", 22, false) });
        spec.ports.push(pod("twin", 1, false));
        let addresses =
            ["224.0.0.1", "127.0.0.1", "169.254.1.1", "fe80::9", "::", "255.255.255.255"];
        let addresses = addresses.map(|ip| ip.parse().unwrap()).to_vec();
        let role = PortRole::Pod { addresses, spoof: false };
        spec.ports.push(PortSpec { role, ..pod("nowhere", 23, false) });
        let addresses = vec!["172.16.0.1".parse().unwrap()];
        let role = PortRole::Pod { addresses, spoof: true };
        spec.ports.push(PortSpec { role, ..pod("node", 24, false) });
    });
    let twin = |at: usize| TopologyError::DuplicateAddress {
        port: name("twin"),
        address: ours(1)[at],
        owner: name("gw"),
    };
    let bad = |ip: &str| TopologyError::BadAddress {
        port: name("nowhere"),
        address: ip.parse().unwrap(),
    };
    assert_eq!(bad("169.254.1.1"), bad(&GATEWAY_V4.to_string()));
    let want = [
        TopologyError::NoMac { port: name("bare") },
        TopologyError::NoMac { port: name("posing") },
        TopologyError::SecondGateway { port: name("gw2"), segment: name("pods") },
        twin(0),
        twin(1),
        bad("224.0.0.1"),
        bad("127.0.0.1"),
        bad("169.254.1.1"),
        bad("fe80::9"),
        bad("::"),
        bad("255.255.255.255"),
        TopologyError::BadAddress { port: name("node"), address: "172.16.0.1".parse().unwrap() },
    ];
    assert_eq!(wrong, want);
    let elsewhere = errors(|spec| {
        spec.segments.push(switch::SegmentSpec {
            cluster: Some(ClusterSpec::default()),
            ..segment("other", 901, &[])
        });
        spec.ports.push(PortSpec { mode: access("other"), ..pod("same", 2, false) });
    });
    assert_eq!(elsewhere, [], "another cluster has the same addresses");
    let of_node = errors(|spec| {
        let gateway = spec.ports.iter_mut().find(|port| port.name == "gw").unwrap();
        gateway.role = PortRole::Gateway { addresses: vec!["172.16.0.1".parse().unwrap()] };
    });
    assert_eq!(of_node, [], "the node's own address may be its gateway port's");
}

#[test]
fn a_prefix_has_one_owner() {
    let vtep = |n| SocketAddr::new(vtep_ip(n), 4789);
    let wrong = errors(|spec| {
        let routes = &mut cluster(spec).routes;
        routes.insert("10.244.2.7/24".parse().unwrap(), vtep(3));
        routes.insert("10.244.3.0/24".parse().unwrap(), vtep(3));
        routes.insert("fd44:0:0:1::/64".parse().unwrap(), vtep(3));
        routes.insert("10.244.9.0/24".parse().unwrap(), SocketAddr::new(vtep_ip(3), 1));
        routes.insert("10.244.10.0/24".parse().unwrap(), vtep(1));
    });
    let conflict = |prefix: &str| TopologyError::RouteConflict {
        segment: name("pods"),
        prefix: prefix.parse().unwrap(),
    };
    let want = [
        TopologyError::PeerPorts(vtep_ip(3)),
        TopologyError::PeerIsSelf(name("pods")),
        conflict("fd44:0:0:1::/64"),
        TopologyError::HostBits { segment: name("pods"), prefix: "10.244.2.7/24".parse().unwrap() },
    ];
    assert_eq!(wrong, want);
}

#[test]
fn errors_read_as_sentences() {
    let prefix = "10.244.2.0/24".parse().unwrap();
    let text = TopologyError::RouteConflict { segment: name("pods"), prefix }.to_string();
    assert_eq!(text, "segment \"pods\": 10.244.2.0/24 belongs to two nodes");
}

/// Nothing leads to a VTEP any more.
fn leave(spec: &mut TopologySpec, vtep: u8) {
    let routes = &mut cluster(spec).routes;
    let left = routes.iter().filter(|(_, address)| address.ip() != vtep_ip(vtep));
    *routes = left.map(|(net, address)| (*net, *address)).collect();
}

/// How a node's answers change with its specification.
#[test]
fn routes_and_pods_come_and_go() {
    let mut spec = spec();
    let mut world = World::new(&spec);
    let to_two = udp("10.244.1.3", "10.244.2.9").from(mac(3).get());
    let is_sent = |world: &mut World, slot: u8| {
        let sent = world.send(Tick(0), At::Port("three"), &to_two);
        let id = world.engine.topology().vtep_at(vtep_ip(slot)).map(|vtep| vtep.id);
        matches!(&sent[..], [crate::kit::Sent::ToVteps { vteps, .. }] if Some(vteps[0]) == id)
    };
    let reload = |world: &mut World, spec: &TopologySpec| {
        let next = world.engine.topology().succeed(spec).unwrap();
        let changes = world.engine.topology().diff(&next);
        world.engine.adopt(Arc::new(next));
        changes
    };
    assert!(is_sent(&mut world, 2));
    // A pod goes: the routes stay as they are.
    spec.ports.retain(|port| port.name != "two");
    assert_eq!(reload(&mut world, &spec).len(), 1);
    assert!(is_sent(&mut world, 2));
    // The podCIDR moves to a new node, whose VTEP takes over the old one's slot in the end.
    let routes = cluster(&mut spec).routes.clone();
    for (net, _) in routes.iter().filter(|(_, vtep)| vtep.ip() == vtep_ip(2)) {
        if net.prefix_len() < 32 {
            cluster(&mut spec).routes.insert(*net, SocketAddr::new(vtep_ip(4), 4789));
        }
    }
    let changes = reload(&mut world, &spec);
    assert!(changes.iter().any(|change| matches!(change, Change::VtepAdded(_))), "{changes:?}");
    assert!(is_sent(&mut world, 4));
    let id = world.engine.topology().vtep_at(vtep_ip(4)).unwrap().id;
    leave(&mut spec, 2);
    reload(&mut world, &spec);
    assert!(is_sent(&mut world, 4));
    leave(&mut spec, 4);
    assert!(reload(&mut world, &spec).contains(&Change::VtepRemoved(id)));
    assert!(!is_sent(&mut world, 4));
    let three = world.engine.topology().port_named("three").unwrap().id;
    let reading = switch::read_port([&**world.engine.counters()], three);
    assert_eq!((reading.forwarded, reading.answered), (4, 1));
}

/// Errors of routing are told so often and no more; what is too big, always.
#[test]
fn errors_have_their_pace() {
    let mut world = World::new(&spec());
    let nobody = udp("10.244.1.2", "10.244.9.9");
    let mut told = |now, unit: &_| {
        (0..300).filter(|_| !world.send(Tick(now), At::Port("two"), unit).is_empty()).count()
    };
    assert_eq!(told(10, &nobody), 100);
    assert_eq!(told(15, &nobody), 5);
    let expired = udp("10.244.1.2", "10.244.2.9").ttl(1);
    assert_eq!((told(15, &expired), told(20, &expired)), (0, 5), "one pace for all errors");
    assert_eq!(told(15, &crate::world::udp_to("10.244.1.2", "10.244.2.9", 7, 1430)), 300);
    let two = world.engine.topology().port_named("two").unwrap().id;
    let reading = switch::read_port([&**world.engine.counters()], two);
    assert_eq!(reading.rx_dropped[DropReason::NoRoute as usize], 495);
    assert_eq!(reading.rx_dropped[DropReason::TtlExceeded as usize], 595);
    assert!(reading.law_holds());
}

#[test]
fn pods_are_routed_whatever_the_forwarding_database_says() {
    let mut world = World::new(&spec());
    let topology = Arc::clone(world.engine.topology());
    let pods = topology.segment_named("pods").unwrap().id;
    let at = |name: &str| Dest::Port(topology.port_named(name).unwrap().id);
    world.fdb.configure_segment(pods, SegmentLimits::default());
    world.fdb.insert(pods, mac(2), at("two"), Origin::Static, Tick(0));
    world.fdb.insert(pods, mac(3), at("three"), Origin::Static, Tick(0));
    let switched = udp("10.244.1.2", "10.244.1.3").to(mac(3).get());
    assert_eq!(world.send(Tick(5), At::Port("two"), &switched), []);
    let port = topology.port_named("two").unwrap().id;
    let reading = switch::read_port([&**world.engine.counters()], port);
    assert_eq!(reading.rx_dropped[DropReason::NotGateway as usize], 1);
}
