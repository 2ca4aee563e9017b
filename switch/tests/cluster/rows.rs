//! The table: from a pod, from the gateway port, from the underlay.

use crate::fragments::piece;
use crate::kit::vtep_ip;
use crate::world::{Row, Unit, framed, ip, mac, on, udp, udp_to, via};
use encap::MacAddr;
use etherparse::{Icmpv4Type, IpNumber, icmpv4};
use std::net::SocketAddr;
use switch::{DropReason as Why, GATEWAY_MAC, SharedMap, TopologySpec};

pub(crate) const TWO: &str = "10.244.1.2";
pub(crate) const TWO6: &str = "fd44:0:0:1::2";
/// Type and code of ICMP errors, IPv4 and IPv6.
const HOST: [(u8, u8); 2] = [(3, 1), (1, 3)];
const NET: [(u8, u8); 2] = [(3, 0), (1, 0)];
const TIME: [(u8, u8); 2] = [(11, 0), (3, 0)];
const BIG: [(u8, u8); 2] = [(3, 4), (2, 0)];
/// Groups of a link.
pub(crate) const ALL_NODES: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
pub(crate) const MDNS: MacAddr = MacAddr([1, 0, 0x5e, 0, 0, 0xfb]);
pub(crate) const PODS: &[&str] = &["three", "narrow", "loose"];

fn without_gateway(spec: &mut TopologySpec) {
    spec.ports.retain(|port| port.name != "gw");
}

fn gateway_down(spec: &mut TopologySpec) {
    spec.ports.iter_mut().filter(|port| port.name == "gw").for_each(|port| port.up = false);
}

pub(crate) fn flood_multicast(spec: &mut TopologySpec) {
    spec.segments[0].cluster.as_mut().unwrap().flood_multicast = true;
}

fn alone(spec: &mut TopologySpec) {
    spec.ports.retain(|port| ["two", "gw"].contains(&&*port.name));
}

/// The third node's VTEP, and that of another segment, listen on a port of their own.
fn others_listen_elsewhere(spec: &mut TopologySpec) {
    let [pods, plain] = &mut spec.segments[..] else { panic!("two segments") };
    let elsewhere = |vtep: &SocketAddr| {
        let port = if vtep.ip() == vtep_ip(2) { vtep.port() } else { 7777 };
        SocketAddr::new(vtep.ip(), port)
    };
    let cluster = pods.cluster.as_mut().unwrap();
    cluster.routes = cluster.routes.iter().map(|(net, vtep)| (*net, elsewhere(vtep))).collect();
    plain.peers.iter_mut().for_each(|vtep| *vtep = elsewhere(vtep));
}

/// Where unicast from a pod goes.
pub(crate) fn from_pod() -> Vec<Row> {
    let pod = |name, to| on(name, "two", udp(TWO, to));
    let pod6 = |name, to| on(name, "two", udp(TWO6, to));
    vec![
        pod("to a pod here", "10.244.1.3").routed_to("three", 3),
        pod6("to a pod here, IPv6", "fd44:0:0:1::3").routed_to("three", 3),
        pod("to a pod of another node", "10.244.2.9").tunnelled_to(2),
        pod6("to a pod of another node, IPv6", "fd44:0:0:3::9").tunnelled_to(3),
        pod("to an exception", "10.244.2.77").tunnelled_to(3),
        pod("to an exception of this node's own", "10.244.1.88").tunnelled_to(3),
        pod("to another node itself", "172.16.0.3").tunnelled_to(3),
        pod("to the gateway port", "10.244.1.1").routed_to("gw", 1),
        pod6("to the gateway port, IPv6", "fd44:0:0:1::1").routed_to("gw", 1),
        pod("to this node by its other name", "172.16.0.1").routed_to("gw", 1),
        pod("out of the cluster", "198.51.100.1").routed_to("gw", 1),
        pod6("out of the cluster, IPv6", "2001:db8::1").routed_to("gw", 1),
        pod("the cloud's metadata", "169.254.169.254").routed_to("gw", 1),
        pod("to nobody of this node", "10.244.1.200").told(HOST[0], "10.244.1.1"),
        pod6("to nobody of this node, IPv6", "fd44:0:0:1::200").told(HOST[1], "fd44:0:0:1::1"),
        pod("to nobody's podCIDR", "10.244.9.1").told(HOST[0], "10.244.1.1"),
        pod6("to nobody's podCIDR, IPv6", "fd44:0:0:9::1").told(HOST[1], "fd44:0:0:1::1"),
        pod("to a pod that is down", "10.244.1.5").told(HOST[0], "10.244.1.1"),
        pod("without a gateway port, nobody", "10.244.9.1")
            .given(without_gateway)
            .told(HOST[0], "169.254.1.1"),
        pod6("without a gateway port, nobody, IPv6", "fd44:0:0:9::1")
            .given(without_gateway)
            .told(HOST[1], "fe80::1"),
        pod("without a gateway port, out", "198.51.100.1")
            .given(without_gateway)
            .told(NET[0], "169.254.1.1"),
        pod6("without a gateway port, out, IPv6", "2001:db8::1")
            .given(without_gateway)
            .told(NET[1], "fe80::1"),
        pod("without a gateway port, to this node", "172.16.0.1")
            .given(without_gateway)
            .told(HOST[0], "169.254.1.1"),
        pod("gateway port down, out", "198.51.100.1")
            .given(gateway_down)
            .told(NET[0], "10.244.1.1"),
        pod("gateway port down, to it", "10.244.1.1")
            .given(gateway_down)
            .told(HOST[0], "10.244.1.1"),
        pod("to itself", TWO).drops(Why::SamePort),
        pod("to loopback", "127.0.0.1").drops(Why::NoRoute),
        pod("to a group in a unicast frame", "224.0.0.251").drops(Why::NoRoute),
        pod("to everybody in a unicast frame", "255.255.255.255").drops(Why::NoRoute),
        pod6("to a link-local address", "fe80::2").drops(Why::NoRoute),
        pod6("to the unspecified address", "::").drops(Why::NoRoute),
        on("with a priority tag", "two", udp(TWO, "10.244.2.9").priority()).tunnelled_to(2),
        on("with a priority tag, here", "two", udp(TWO, "10.244.1.3").priority())
            .routed_to("three", 3),
        on("with a VLAN tag", "two", {
            let mut unit = udp(TWO, "10.244.1.3");
            unit.tags = vec![(0x8100, 7)];
            unit
        })
        .drops(Why::VlanTagged),
        on("from a pod that is down", "down", udp(TWO, "10.244.1.3")).drops(Why::PortDown),
    ]
}

/// Who may send, and to which MAC address.
pub(crate) fn identity() -> Vec<Row> {
    let to_three = || udp(TWO, "10.244.1.3");
    vec![
        on("from another pod's MAC", "two", to_three().from(mac(3).get())).drops(Why::SpoofedMac),
        on("from the gateway's MAC", "two", to_three().from(GATEWAY_MAC.get()))
            .drops(Why::SpoofedMac),
        on("from another pod's address", "two", udp("10.244.1.3", "10.244.2.9"))
            .drops(Why::SpoofedAddress),
        on("from another pod's address, IPv6", "two", udp("fd44:0:0:1::3", "fd44:0:0:2::9"))
            .drops(Why::SpoofedAddress),
        on("from outside", "two", udp("198.51.100.1", "10.244.1.3")).drops(Why::SpoofedAddress),
        on("from link-local", "two", udp("fe80::2", "fd44:0:0:1::3")).drops(Why::SpoofedAddress),
        on("from nobody", "two", udp("0.0.0.0", "10.244.1.3")).drops(Why::SpoofedAddress),
        on("who may spoof, does", "loose", udp("198.51.100.1", "10.244.2.9")).tunnelled_to(2),
        on("to a pod's own MAC", "two", to_three().to(mac(3).get())).drops(Why::NotGateway),
        on("neither version of IP", "two", to_three().carrying(0x88b5, vec![0; 46]))
            .drops(Why::NotIp),
        on(
            "two tags and no IP",
            "two",
            to_three().to(MacAddr::BROADCAST).carrying(0x8847, vec![0; 46]),
        )
        .drops(Why::NotIp),
        on("longer than its frame", "two", {
            let mut unit = to_three();
            unit.l3.truncate(50);
            unit
        })
        .drops(Why::IpMalformed),
        on("version 6 in an IPv4 frame", "two", to_three().byte(0, 0x65)).drops(Why::IpMalformed),
        on("shorter than its header", "two", to_three().carrying(0x0800, vec![0x45; 12]))
            .drops(Why::IpMalformed),
        on("padded", "two", {
            let mut unit = udp_to(TWO, "10.244.1.3", 7, 1);
            unit.l3.resize(46, 0);
            unit
        })
        .routed_to("three", 3),
    ]
}

/// Hops, sizes, and who is not told.
pub(crate) fn errors() -> Vec<Row> {
    let two = |to, ttl| udp(TWO, to).ttl(ttl);
    let two6 = |to, ttl| udp(TWO6, to).ttl(ttl);
    let big = |source, to, len| udp_to(source, to, 7, len);
    vec![
        on("one hop left", "two", two("10.244.2.9", 1)).told(TIME[0], "10.244.1.1"),
        on("one hop left, IPv6", "two", two6("fd44:0:0:2::9", 1)).told(TIME[1], "fd44:0:0:1::1"),
        on("no hop left", "two", two("10.244.1.3", 0)).told(TIME[0], "10.244.1.1"),
        on("two hops left", "two", two("10.244.2.9", 2)).tunnelled_to(2),
        on("no hop left and nobody there", "two", two("10.244.9.9", 1)).told(HOST[0], "10.244.1.1"),
        on("one hop left, from the gateway port", "gw", udp("10.244.1.1", "10.244.2.9").ttl(1))
            .told(TIME[0], "169.254.1.1"),
        on(
            "one hop left, from the gateway port, IPv6",
            "gw",
            udp("fd44:0:0:1::1", "fd44:0:0:2::9").ttl(1),
        )
        .told(TIME[1], "fe80::1"),
        on("the last byte that fits", "two", big(TWO, "10.244.2.9", 1422)).tunnelled_to(2),
        on("one byte too many", "two", big(TWO, "10.244.2.9", 1423)).too_big(
            1450,
            BIG[0],
            "10.244.1.1",
        ),
        on("one byte too many, IPv6", "two", big(TWO6, "fd44:0:0:2::9", 1403)).too_big(
            1450,
            BIG[1],
            "fd44:0:0:1::1",
        ),
        on("too big for a pod", "two", big(TWO, "10.244.1.4", 1300)).too_big(
            1300,
            BIG[0],
            "10.244.1.1",
        ),
        on("too big, from the gateway port", "gw", big("198.51.100.1", "10.244.1.4", 1300))
            .too_big(1300, BIG[0], "10.244.1.4"),
        via("too big from a tunnel", 2, big("10.244.2.9", "10.244.1.4", 1300)).drops(Why::TooBig),
        on("too big, and an error itself", "two", icmp_error("10.244.2.9", 1440))
            .drops(Why::TooBig),
        on("an error about nobody", "two", icmp_error("10.244.9.9", 30)).drops(Why::NoRoute),
        on("an error without a hop", "two", icmp_error("10.244.2.9", 30).ttl(1))
            .drops(Why::TtlExceeded),
        on("a later fragment to nobody", "two", two("10.244.9.9", 9).byte(6, 0).byte(7, 5))
            .drops(Why::NoRoute),
        on(
            "a later fragment, IPv6, to nobody",
            "two",
            piece(udp_to(TWO6, "fd44:0:0:9::9", 9, 64), 5, true),
        )
        .drops(Why::NoRoute),
        on("a later fragment to somebody", "two", two("10.244.2.9", 9).byte(6, 0).byte(7, 5))
            .tunnelled_to(2),
        on("a header that does not sum up, to nobody", "two", {
            let mut unit = two("10.244.9.9", 9);
            unit.l3[11] ^= 4;
            unit
        })
        .drops(Why::IpMalformed),
    ]
}

fn icmp_error(to: &str, len: usize) -> Unit {
    let mut l3 = Vec::new();
    let reason = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
    ip(TWO, to, IpNumber::ICMP).icmpv4(reason).write(&mut l3, &vec![0; len]).unwrap();
    framed(l3)
}

/// Pods and the nodes' VXLAN ports.
pub(crate) fn tunnels() -> Vec<Row> {
    let to = |to, port| udp_to(TWO, to, port, 30);
    vec![
        on("to a VTEP", "two", to("192.0.2.2", 4789)).drops(Why::PodToVtep),
        on("to another segment's VTEP", "two", to("192.0.2.9", 4789)).drops(Why::PodToVtep),
        on("to this node's VTEP", "two", to("192.0.2.1", 8472)).drops(Why::PodToVtep),
        on("to a node's address", "two", to("172.16.0.2", 4789)).drops(Why::PodToVtep),
        on("to this node's address", "two", to("172.16.0.1", 8472)).drops(Why::PodToVtep),
        on("to the gateway port's address", "two", to("10.244.1.1", 4789)).drops(Why::PodToVtep),
        on("who may spoof may not this", "loose", to("192.0.2.2", 4789)).drops(Why::PodToVtep),
        on("to a VTEP's other ports", "two", to("192.0.2.2", 53)).routed_to("gw", 1),
        on("to a pod's VXLAN port", "two", to("10.244.2.9", 4789)).tunnelled_to(2),
        on("to an exception's VXLAN port", "two", to("10.244.2.77", 8472)).tunnelled_to(3),
        on("to a configured port", "two", to("192.0.2.2", 7777))
            .given(|spec| spec.segments[0].cluster.as_mut().unwrap().vtep_port = 7777)
            .drops(Why::PodToVtep),
        on("to a VTEP's own port", "two", to("192.0.2.3", 7777))
            .given(others_listen_elsewhere)
            .drops(Why::PodToVtep),
        on("to the port of another segment's VTEP", "two", to("192.0.2.9", 7777))
            .given(others_listen_elsewhere)
            .drops(Why::PodToVtep),
        on("to the port of a node's VTEP, by another address", "two", to("172.16.0.3", 7777))
            .given(others_listen_elsewhere)
            .drops(Why::PodToVtep),
        on("to our port, at a VTEP that listens elsewhere", "two", to("172.16.0.3", 4789))
            .given(others_listen_elsewhere)
            .drops(Why::PodToVtep),
        on("to another VTEP's port", "two", to("192.0.2.2", 7777))
            .given(others_listen_elsewhere)
            .routed_to("gw", 1),
        on("to another VTEP's port, here", "two", to("172.16.0.1", 7777))
            .given(others_listen_elsewhere)
            .routed_to("gw", 1),
        on("to a VTEP's own port, outside", "two", to("198.51.100.1", 7777))
            .given(others_listen_elsewhere)
            .routed_to("gw", 1),
        on("a first fragment to a VTEP", "two", to("192.0.2.2", 4789).byte(6, 0x20))
            .drops(Why::PodToVtep),
        on("a fragment that ends before its port", "two", {
            let mut unit = to("192.0.2.2", 7).byte(6, 0x20);
            unit.l3.truncate(22);
            unit.byte(3, 22)
        })
        .drops(Why::PodToVtep),
        on("a padded fragment that ends before its port", "two", {
            let mut unit = to("192.0.2.2", 7).byte(6, 0x20);
            unit.l3.truncate(24);
            unit.byte(3, 22)
        })
        .drops(Why::PodToVtep),
        on("a later fragment to a VTEP", "two", to("192.0.2.2", 4789).byte(7, 3))
            .routed_to("gw", 1),
        on("TCP to a VTEP", "two", to("192.0.2.2", 4789).byte(9, 6)).routed_to("gw", 1),
        on("VXLAN to the outside", "two", to("198.51.100.1", 4789)).routed_to("gw", 1),
        on("the gateway port may", "gw", to("172.16.0.2", 4789)).tunnelled_to(2),
    ]
}

/// From the node's kernel.
pub(crate) fn from_gateway() -> Vec<Row> {
    let gw = |name, from, to| on(name, "gw", udp(from, to).from(mac(1).get()));
    vec![
        gw("the node to a pod", "10.244.1.1", TWO).routed_to("two", 2),
        gw("the node to a pod, IPv6", "fd44:0:0:1::1", TWO6).routed_to("two", 2),
        gw("the node to a pod elsewhere", "10.244.1.1", "10.244.3.9").tunnelled_to(3),
        gw("the node to another node", "10.244.1.1", "172.16.0.2").tunnelled_to(2),
        gw("outside to a pod", "198.51.100.1", TWO).routed_to("two", 2),
        gw("a Service's backend back to its pod", TWO, TWO).routed_to("two", 2),
        gw("a Service's backend elsewhere", TWO, "10.244.2.9").tunnelled_to(2),
        gw("back out again", "10.244.1.1", "198.51.100.1").drops(Why::NoRoute),
        gw("back out again, IPv6", "fd44:0:0:1::1", "2001:db8::1").drops(Why::NoRoute),
        gw("the node to itself", "10.244.1.1", "172.16.0.1").drops(Why::SamePort),
        gw("the node to nobody", "10.244.1.1", "10.244.1.200").told(HOST[0], "10.244.1.200"),
        gw("the node to nobody, IPv6", "fd44:0:0:1::1", "fd44:0:0:9::1")
            .told(HOST[1], "fd44:0:0:9::1"),
        gw("the node to a pod that is down", "10.244.1.1", "10.244.1.5")
            .told(HOST[0], "10.244.1.5"),
        on("the node's multicast", "gw", udp("10.244.1.1", "224.0.0.251").to(MDNS))
            .drops(Why::LinkControl),
        on("the node to a pod's own MAC", "gw", udp("10.244.1.1", TWO).to(mac(2).get()))
            .drops(Why::NotGateway),
    ]
}

/// From other nodes.
pub(crate) fn from_underlay() -> Vec<Row> {
    let from = |name, n, source, to| via(name, n, udp(source, to).from(GATEWAY_MAC.get()));
    vec![
        from("underlay: its pod to a pod", 2, "10.244.2.9", TWO).routed_to("two", 2),
        from("underlay: its pod to a pod, IPv6", 3, "fd44:0:0:3::9", TWO6).routed_to("two", 2),
        from("underlay: an exception to a pod", 3, "10.244.2.77", TWO).routed_to("two", 2),
        from("underlay: an exception's old place", 2, "10.244.2.77", TWO)
            .drops(Why::SpoofedAddress),
        from("underlay: its node to a pod", 2, "172.16.0.2", TWO).routed_to("two", 2),
        from("underlay: its pod to this node", 2, "10.244.2.9", "172.16.0.1").routed_to("gw", 1),
        from("underlay: its pod to the gateway port", 2, "10.244.2.9", "10.244.1.1")
            .routed_to("gw", 1),
        from("underlay: another node's pod", 2, "10.244.3.9", TWO).drops(Why::SpoofedAddress),
        from("underlay: a pod of this node", 2, "10.244.1.3", TWO).drops(Why::SpoofedAddress),
        from("underlay: this node itself", 2, "10.244.1.1", TWO).drops(Why::SpoofedAddress),
        from("underlay: somebody outside", 2, "198.51.100.1", TWO).drops(Why::SpoofedAddress),
        from("underlay: to a third node", 2, "10.244.2.9", "10.244.3.9").drops(Why::SplitHorizon),
        from("underlay: back where it came from", 2, "10.244.2.9", "10.244.2.8")
            .drops(Why::SplitHorizon),
        from("underlay: to the outside", 2, "10.244.2.9", "198.51.100.1").drops(Why::NoRoute),
        from("underlay: to nobody", 2, "10.244.2.9", "10.244.1.200").drops(Why::NoRoute),
        from("underlay: to nobody's podCIDR", 2, "10.244.2.9", "10.244.9.1").drops(Why::NoRoute),
        from("underlay: to a pod that is down", 2, "10.244.2.9", "10.244.1.5").drops(Why::PortDown),
        from("underlay: to this node, gateway port down", 2, "10.244.2.9", "172.16.0.1")
            .given(gateway_down)
            .drops(Why::PortDown),
        from("underlay: to this node, no gateway port", 2, "10.244.2.9", "172.16.0.1")
            .given(without_gateway)
            .drops(Why::NoRoute),
        from("underlay: from a stranger", 8, "10.244.2.9", TWO).drops(Why::PeerUnknown),
        from("underlay: from another segment's VTEP", 9, "10.244.2.9", TWO)
            .drops(Why::PeerNotInSegment),
        from("underlay: from this node", 1, "10.244.2.9", TWO).drops(Why::Reflected),
        via(
            "underlay: with a priority tag, through a tunnel",
            2,
            udp("10.244.2.9", TWO).priority(),
        )
        .routed_to("two", 2),
        via("underlay: the last hop is not taken", 2, udp("10.244.2.9", TWO).ttl(1))
            .routed_to("two", 2),
        via("underlay: to a pod's MAC", 2, udp("10.244.2.9", TWO).to(mac(2).get()))
            .drops(Why::NotGateway),
        via("underlay: ARP", 2, udp("10.244.2.9", TWO).carrying(0x0806, vec![0; 46]))
            .drops(Why::LinkControl),
        via("underlay: no IP", 2, udp("10.244.2.9", TWO).carrying(0x88b5, vec![0; 46]))
            .drops(Why::NotIp),
        via("underlay: multicast", 2, udp("10.244.2.9", "224.0.0.251").to(MDNS))
            .drops(Why::LinkControl),
        via(
            "underlay: multicast, where it is flooded",
            2,
            udp("10.244.2.9", "224.0.0.251").to(MDNS),
        )
        .given(flood_multicast)
        .floods(&["two", "three", "narrow", "loose"], &[]),
        via("underlay: link-local multicast", 2, udp("fe80::9", "ff02::fb").to(ALL_NODES))
            .given(flood_multicast)
            .floods(&["two", "three", "narrow", "loose"], &[]),
        via("underlay: multicast of somebody else", 2, udp("10.244.3.9", "224.0.0.251").to(MDNS))
            .given(flood_multicast)
            .drops(Why::SpoofedAddress),
        via(
            "underlay: unicast in a broadcast frame",
            2,
            udp("10.244.2.9", TWO).to(MacAddr::BROADCAST),
        )
        .given(flood_multicast)
        .drops(Why::NotGateway),
        via("underlay: the gateway's address", 2, udp("fe80::1", "ff02::fb").to(ALL_NODES))
            .given(flood_multicast)
            .drops(Why::SpoofedAddress),
        via("underlay: the gateway's address, IPv4", 2, udp("169.254.1.1", "224.0.0.251").to(MDNS))
            .given(flood_multicast)
            .drops(Why::SpoofedAddress),
        via(
            "underlay: from a VTEP that was only heard",
            8,
            udp("fe80::9", "ff02::fb").to(ALL_NODES),
        )
        .given(|spec| {
            flood_multicast(spec);
            spec.heard.push((vtep_ip(8), "pods".to_owned()));
        })
        .drops(Why::PeerNotInSegment),
        via("underlay: link-local unicast", 2, udp("fe80::9", TWO6)).drops(Why::SpoofedAddress),
    ]
}

/// What stays on the link.
pub(crate) fn link() -> Vec<Row> {
    let pod = |name, from, to, group| on(name, "two", udp(from, to).to(group));
    vec![
        pod("multicast", TWO, "224.0.0.251", MDNS).floods(PODS, &[]),
        pod("multicast, IPv6", TWO6, "ff02::fb", ALL_NODES).floods(PODS, &[]),
        pod("multicast, link-local", "fe80::2", "ff02::1", ALL_NODES).floods(PODS, &[]),
        pod("broadcast", TWO, "255.255.255.255", MacAddr::BROADCAST).floods(PODS, &[]),
        pod("multicast to other nodes", TWO, "224.0.0.251", MDNS)
            .given(flood_multicast)
            .floods(PODS, &[2, 3]),
        pod("multicast with one hop", TWO, "224.0.0.251", MDNS).floods(PODS, &[]),
        pod("multicast from another", "10.244.1.3", "224.0.0.251", MDNS).drops(Why::SpoofedAddress),
        pod("multicast from the gateway's address", "fe80::1", "ff02::1", ALL_NODES)
            .drops(Why::SpoofedAddress),
        pod("multicast from the gateway's address, IPv4", "169.254.1.1", "224.0.0.1", MDNS)
            .drops(Why::SpoofedAddress),
        on("who may spoof, to a group", "loose", udp("10.244.1.3", "224.0.0.251").to(MDNS))
            .floods(&["two", "three", "narrow"], &[]),
        pod("DHCP", "0.0.0.0", "255.255.255.255", MacAddr::BROADCAST).drops(Why::SpoofedAddress),
        pod("unicast in a broadcast", TWO, "10.244.1.3", MacAddr::BROADCAST).drops(Why::NotGateway),
        pod("multicast, alone", TWO, "224.0.0.251", MDNS).given(alone).drops(Why::NoDestination),
        pod("multicast, alone on this node", TWO, "224.0.0.251", MDNS)
            .given(|spec| {
                alone(spec);
                flood_multicast(spec);
            })
            .floods(&[], &[2, 3]),
        pod("multicast, alone in the cluster", TWO, "224.0.0.251", MDNS)
            .given(|spec| {
                alone(spec);
                flood_multicast(spec);
                spec.segments[0].cluster.as_mut().unwrap().routes = SharedMap::default();
            })
            .drops(Why::NoDestination),
        on("IGMP", "two", {
            let mut unit = udp(TWO, "224.0.0.22").to(MacAddr([1, 0, 0x5e, 0, 0, 0x16]));
            unit.l3[9] = 2;
            unit.byte(8, 1)
        })
        .drops(Why::LinkControl),
        on("listener report", "two", icmp6(143, "::", "ff02::16")).drops(Why::LinkControl),
        on("listener query", "two", icmp6(130, "fe80::2", "ff02::1")).drops(Why::LinkControl),
        on("what is next to listener queries", "two", icmp6(129, "fe80::2", "ff02::1"))
            .floods(PODS, &[]),
        on("what is next to redirects", "two", icmp6(138, "fe80::2", "ff02::1")).floods(PODS, &[]),
        on("router solicitation", "two", icmp6(133, "fe80::2", "ff02::2")).drops(Why::LinkControl),
        on("router advertisement", "two", icmp6(134, "fe80::2", "ff02::1")).drops(Why::LinkControl),
        on("redirect, routed", "two", icmp6(137, TWO6, "fd44:0:0:1::3").to(GATEWAY_MAC.get()))
            .drops(Why::LinkControl),
        via("router advertisement from afar", 2, icmp6(134, "fe80::9", "ff02::1"))
            .given(flood_multicast)
            .drops(Why::LinkControl),
    ]
}

/// An ICMPv6 message of this type to all nodes' MAC address.
pub(crate) fn icmp6(kind: u8, source: &str, to: &str) -> Unit {
    let mut l3 = Vec::new();
    let builder = ip(source, to, IpNumber::IPV6_ICMP);
    builder.icmpv6_raw(kind, 0, [0; 4]).write(&mut l3, &[0; 24]).unwrap();
    framed(l3).to(ALL_NODES).ttl(255)
}
