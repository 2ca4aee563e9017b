//! What the outer header says: congestion, reserved bits, and addresses of the other family.

use crate::rows::{ALL_NODES, MDNS, TWO, TWO6, flood_multicast};
use crate::world::{Row, Unit, mac, on, udp, udp_to, via, vtep_ip6};
use std::net::{IpAddr, SocketAddr};
use switch::{DropReason as Why, GATEWAY_MAC, TopologySpec};

/// DSCP EF and AF21, the congestion field left out.
const EF: u8 = 46 << 2;
const AF21: u8 = 18 << 2;
/// The congestion field (RFC 3168 section 5).
const ECT1: u8 = 1;
const ECT0: u8 = 2;
const CE: u8 = 3;

/// Congestion on the way through the underlay (RFC 6040 section 4.2), and what a sender has marked.
pub(crate) fn marked() -> Vec<Row> {
    let four = |tos| udp("10.244.2.9", TWO).from(GATEWAY_MAC.get()).tos(tos);
    let six = |tos| udp("fd44:0:0:2::9", TWO6).from(GATEWAY_MAC.get()).tos(tos);
    let two = |name, unit, outer, becomes: Unit| {
        via(name, 2, unit).marked(outer).routed_as("two", 2, &becomes)
    };
    let group = |tos| udp("10.244.2.9", "224.0.0.251").to(MDNS).tos(tos);
    vec![
        two("congestion", four(AF21 | ECT0), EF | CE, four(AF21 | CE)),
        two("congestion, IPv6", six(AF21 | ECT0), EF | CE, six(AF21 | CE)),
        two("congestion, tagged", four(AF21 | ECT1).priority(), EF | CE, four(AF21 | CE)),
        two("congestion on its way already", four(AF21 | CE), EF, four(AF21 | CE)),
        two("congestion on its way already, IPv6", six(AF21 | CE), EF | ECT0, six(AF21 | CE)),
        two("ECT0 in ECT1", four(AF21 | ECT0), EF | ECT1, four(AF21 | ECT1)),
        two("no congestion control in ECT1", six(AF21), EF | ECT1, six(AF21)),
        via("congestion that cannot be", 2, four(AF21)).marked(EF | CE).drops(Why::EcnIllegal),
        via("congestion that cannot be, IPv6", 2, six(0)).marked(CE).drops(Why::EcnIllegal),
        via("congestion of a group", 2, group(AF21))
            .given(flood_multicast)
            .marked(CE)
            .drops(Why::EcnIllegal),
        on("a pod's marks, here", "two", udp(TWO, "10.244.1.3").tos(EF | ECT1))
            .routed_to("three", 3),
        on("a pod's marks", "two", udp(TWO, "10.244.2.9").tos(EF | ECT1)).tunnelled_to(2),
        on("a pod's marks, IPv6", "two", udp(TWO6, "fd44:0:0:2::9").tos(EF | CE)).tunnelled_to(2),
        on("a pod's marks, tagged", "two", udp(TWO6, "fd44:0:0:2::9").tos(EF | CE).priority())
            .tunnelled_to(2),
        on("a pod's marks, to a group", "two", udp(TWO6, "ff02::fb").tos(EF | ECT0).to(ALL_NODES))
            .given(flood_multicast)
            .floods(crate::rows::PODS, &[2, 3]),
    ]
}

/// Reserved bits of the VXLAN header (RFC 7348 section 5).
pub(crate) fn reserved() -> Vec<Row> {
    let strict = |spec: &mut TopologySpec| spec.segments[0].strict_header = true;
    let from = |name| via(name, 2, udp("10.244.2.9", TWO).from(GATEWAY_MAC.get()));
    vec![
        from("reserved bits").reserved().routed_to("two", 2),
        from("reserved bits, strict").reserved().given(strict).drops(Why::ReservedBits),
        from("a clean header, strict").given(strict).routed_to("two", 2),
    ]
}

/// All VTEPs have IPv6 addresses.
fn over_six(spec: &mut TopologySpec) {
    let six = |address: IpAddr| match address {
        IpAddr::V4(address) => vtep_ip6(address.octets()[3]),
        IpAddr::V6(_) => address,
    };
    spec.local = six(spec.local);
    for segment in &mut spec.segments {
        let over_six = |vtep: &SocketAddr| SocketAddr::new(six(vtep.ip()), vtep.port());
        if let Some(cluster) = &mut segment.cluster {
            let routes = cluster.routes.iter().map(|(net, vtep)| (*net, over_six(vtep)));
            cluster.routes = routes.collect();
        }
        segment.peers.iter_mut().for_each(|vtep| *vtep = over_six(vtep));
    }
}

/// The same rules over IPv6.
pub(crate) fn over_ipv6() -> Vec<Row> {
    let rows = vec![
        on("over IPv6: to a pod elsewhere", "two", udp(TWO, "10.244.2.9")).tunnelled_to(2),
        on("over IPv6: to a pod elsewhere, IPv6", "two", udp(TWO6, "fd44:0:0:3::9"))
            .tunnelled_to(3),
        on("over IPv6: to another node", "two", udp(TWO, "172.16.0.3")).tunnelled_to(3),
        on("over IPv6: to a VTEP", "two", udp_to(TWO6, "2001:db8::2", 4789, 30))
            .drops(Why::PodToVtep),
        on("over IPv6: to another segment's VTEP", "two", udp_to(TWO6, "2001:db8::9", 4789, 30))
            .drops(Why::PodToVtep),
        on("over IPv6: to this node's VTEP", "two", udp_to(TWO6, "2001:db8::1", 4789, 30))
            .drops(Why::PodToVtep),
        on("over IPv6: to a VTEP's other ports", "two", udp_to(TWO6, "2001:db8::2", 53, 30))
            .routed_to("gw", 1),
        via("over IPv6: from a pod elsewhere", 2, udp("10.244.2.9", TWO)).routed_to("two", 2),
        via("over IPv6: from a pod elsewhere, IPv6", 3, udp("fd44:0:0:3::9", TWO6))
            .routed_to("two", 2),
        via("over IPv6: another node's pod", 3, udp("10.244.2.9", TWO)).drops(Why::SpoofedAddress),
        via("over IPv6: from a stranger", 8, udp("10.244.2.9", TWO)).drops(Why::PeerUnknown),
        via("over IPv6: from this node", 1, udp("10.244.2.9", TWO)).drops(Why::Reflected),
        via("over IPv6: to a pod's MAC", 2, udp("10.244.2.9", TWO).to(mac(2).get()))
            .drops(Why::NotGateway),
    ];
    rows.into_iter().map(|row| row.given(over_six)).collect()
}
