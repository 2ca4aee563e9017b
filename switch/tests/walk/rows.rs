//! The table: what is a frame, whose tag, which tunnel, what place.

use crate::inet::{udp4, udp6};
use crate::kit::{C_TAG, OPAQUE, S_TAG, mac, vtep_ip};
use crate::world::{At, Ingress, Out, Row, World, from_to, on, plain, row, via};
use encap::MacAddr;
use fdb::Origin;
use switch::DropReason as Why;

const ZERO: MacAddr = MacAddr([0; 6]);
pub(crate) const GROUP: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

fn reserved(last: u8) -> MacAddr {
    MacAddr([0x01, 0x80, 0xc2, 0, 0, last])
}

pub(crate) fn bare(port: &'static str) -> Out {
    Out::Port(port, None)
}

pub(crate) fn tagged(port: &'static str, tci: u16) -> Out {
    Out::Port(port, Some((C_TAG, tci)))
}

/// Everyone in blue but blue1.
fn blue_from_blue1() -> Vec<Out> {
    vec![bare("blue2"), tagged("trunk1", 10), tagged("trunk2", 11), Out::Vteps(&[2, 3])]
}

/// Every port in blue.
fn blue_ports() -> Vec<Out> {
    vec![bare("blue1"), bare("blue2"), tagged("trunk1", 10), tagged("trunk2", 11)]
}

/// What is a frame at all, whichever way it comes.
pub(crate) fn admission() -> Vec<Row> {
    let port = on("blue1");
    let tunnel = via(2, 100);
    let to_all = from_to(mac(1), MacAddr::BROADCAST);
    vec![
        row("runt from a port", port, plain(1, 2).cut(13)).drops(Why::FrameTruncated),
        row("nothing from a port", port, plain(1, 2).cut(0)).drops(Why::FrameTruncated),
        row("runt from a tunnel", tunnel, plain(1, 2).cut(13)).drops(Why::FrameTruncated),
        row("bare header", port, plain(1, 2).carrying((OPAQUE, vec![]))).reaches(blue_from_blue1()),
        row("ends in its tag", on("trunk1"), plain(1, 2).tag(C_TAG, 10).cut(17))
            .drops(Why::TagTruncated),
        row(
            "ends in its second tag",
            on("trunk1"),
            plain(1, 2).tag(C_TAG, 10).tag(C_TAG, 1).cut(21),
        )
        .drops(Why::TagTruncated),
        row("ends in its tag, from a tunnel", tunnel, plain(1, 2).tag(C_TAG, 0).cut(15))
            .drops(Why::TagTruncated),
        row("source is multicast", port, from_to(GROUP, mac(2))).drops(Why::SourceMacInvalid),
        row("source is broadcast", port, from_to(MacAddr::BROADCAST, mac(2)))
            .drops(Why::SourceMacInvalid),
        row("source is zero", port, from_to(ZERO, mac(2))).drops(Why::SourceMacInvalid),
        row("source is multicast, from a tunnel", tunnel, from_to(GROUP, mac(2)))
            .drops(Why::SourceMacInvalid),
        row("source is zero, from a tunnel", tunnel, from_to(ZERO, mac(2)))
            .drops(Why::SourceMacInvalid),
        row("destination is zero", port, from_to(mac(1), ZERO)).drops(Why::DestMacInvalid),
        row("destination is zero, from a tunnel", tunnel, from_to(mac(1), ZERO))
            .drops(Why::DestMacInvalid),
        row("spanning tree", port, from_to(mac(1), reserved(0))).drops(Why::LinkLocal),
        row("last reserved address", port, from_to(mac(1), reserved(0x0f))).drops(Why::LinkLocal),
        row("first address that is not reserved", port, from_to(mac(1), reserved(0x10)))
            .reaches(blue_from_blue1()),
        row("link discovery from a tunnel", tunnel, from_to(mac(1), reserved(0x0e)))
            .drops(Why::LinkLocal),
        row("pause to one station", port, plain(1, 2).carrying((0x8808, vec![0; 46])))
            .drops(Why::MacControl),
        row(
            "pause in a tag",
            on("trunk1"),
            plain(1, 2).tag(C_TAG, 10).carrying((0x8808, vec![0; 46])),
        )
        .drops(Why::MacControl),
        row("pause from a tunnel", tunnel, plain(1, 2).carrying((0x8808, vec![0; 46])))
            .drops(Why::MacControl),
        row("802.3 length in place of a type", port, plain(1, 2).carrying((46, vec![0x42; 46])))
            .reaches(blue_from_blue1()),
        row("broadcast", port, to_all.clone()).reaches(blue_from_blue1()),
        row("multicast", port, from_to(mac(1), GROUP)).reaches(blue_from_blue1()),
        row("broadcast from a tunnel", tunnel, to_all).reaches(blue_ports()),
    ]
}

/// Access, trunk and native; which tag goes where.
pub(crate) fn tags() -> Vec<Row> {
    let to_2 = |world: &mut World| world.knows("blue", 2, At::Port("blue2"));
    let to_trunk = |world: &mut World| world.knows("blue", 2, At::Port("trunk1"));
    let to_native = |world: &mut World| world.knows("green", 2, At::Port("trunk2"));
    let to_vtep = |world: &mut World| world.knows("blue", 2, At::Vtep(3));
    vec![
        row("tag at an access port", on("blue1"), plain(1, 2).tag(C_TAG, 10))
            .drops(Why::VlanTagged),
        row("reserved VLAN at an access port", on("blue1"), plain(1, 2).tag(C_TAG, 4095))
            .drops(Why::VlanTagged),
        row("service tag at an access port", on("blue1"), plain(1, 2).tag(S_TAG, 10))
            .drops(Why::VlanTagged),
        row("service priority tag at an access port", on("blue1"), plain(1, 2).tag(S_TAG, 0))
            .drops(Why::VlanTagged),
        row(
            "VLAN hopping behind a priority tag",
            on("blue1"),
            plain(1, 2).tag(C_TAG, 0).tag(C_TAG, 20),
        )
        .drops(Why::VlanTagged),
        row("priority tag at an access port", on("blue1"), plain(1, 2).tag(C_TAG, 5 << 13))
            .given(to_2)
            .reaches([bare("blue2")]),
        row("priority tag to the underlay", on("blue1"), plain(1, 2).tag(C_TAG, 5 << 13))
            .given(to_vtep)
            .reaches([Out::Vteps(&[3])]),
        row(
            "priority tag to a trunk keeps its priority",
            on("blue1"),
            plain(1, 2).tag(C_TAG, 0xb000),
        )
        .given(to_trunk)
        .reaches([tagged("trunk1", 0xb000 | 10)]),
        row("untagged at a trunk without native", on("trunk1"), plain(1, 2))
            .drops(Why::VlanUntagged),
        row(
            "priority tag at a trunk without native",
            on("trunk1"),
            plain(1, 2).tag(C_TAG, 7 << 13),
        )
        .drops(Why::VlanUntagged),
        row("VLAN that the trunk does not carry", on("trunk1"), plain(1, 2).tag(C_TAG, 11))
            .drops(Why::VlanUnknown),
        row("VLAN 4095 at a trunk", on("trunk1"), plain(1, 2).tag(C_TAG, 4095))
            .drops(Why::VlanUnknown),
        row("service tag at a trunk", on("trunk1"), plain(1, 2).tag(S_TAG, 10))
            .drops(Why::VlanUnknown),
        row("two tags at a trunk", on("trunk1"), plain(1, 2).tag(C_TAG, 10).tag(C_TAG, 20))
            .drops(Why::VlanUnknown),
        row(
            "service tag behind a priority tag",
            on("trunk2"),
            plain(1, 2).tag(C_TAG, 0).tag(S_TAG, 20),
        )
        .drops(Why::VlanUnknown),
        row("trunk to access", on("trunk1"), plain(1, 2).tag(C_TAG, 0x600a))
            .given(to_2)
            .reaches([bare("blue2")]),
        row("access to trunk", on("blue1"), plain(1, 2))
            .given(to_trunk)
            .reaches([tagged("trunk1", 10)]),
        row("trunk to trunk keeps priority and DEI", on("trunk2"), plain(1, 2).tag(C_TAG, 0xf00b))
            .given(to_trunk)
            .reaches([tagged("trunk1", 0xf00a)]),
        row("trunk to native", on("trunk1"), plain(1, 2).tag(C_TAG, 0x2014))
            .given(to_native)
            .reaches([bare("trunk2")]),
        row("native to trunk", on("trunk2"), plain(1, 2))
            .given(|world| world.knows("green", 2, At::Port("trunk1")))
            .reaches([tagged("trunk1", 20)]),
        row("priority tag at a native trunk", on("trunk2"), plain(1, 2).tag(C_TAG, 0x4000))
            .given(|world| world.knows("green", 2, At::Port("trunk1")))
            .reaches([tagged("trunk1", 0x4014)]),
        row("trunk to the underlay", on("trunk1"), plain(1, 2).tag(C_TAG, 0x400a))
            .given(to_vtep)
            .reaches([Out::Vteps(&[3])]),
        row("flood from a trunk", on("trunk1"), from_to(mac(1), GROUP).tag(C_TAG, 0x200a))
            .reaches([bare("blue1"), bare("blue2"), tagged("trunk2", 0x200b), Out::Vteps(&[2, 3])]),
        row("flood in a trunk's other segment", on("trunk1"), plain(1, 2).tag(C_TAG, 20))
            .reaches([bare("trunk2"), Out::Vteps(&[2])]),
        row("tunnel to trunk", via(2, 100), plain(1, 2))
            .given(to_trunk)
            .reaches([tagged("trunk1", 10)]),
        row("VLAN in a tunnel", via(2, 100), plain(1, 2).tag(C_TAG, 10)).drops(Why::InnerVlan),
        row("VLAN 4095 in a tunnel", via(2, 100), plain(1, 2).tag(C_TAG, 4095))
            .drops(Why::InnerVlan),
        row("service tag in a tunnel", via(2, 100), plain(1, 2).tag(S_TAG, 0))
            .drops(Why::InnerVlan),
        row(
            "VLAN behind a priority tag in a tunnel",
            via(2, 100),
            plain(1, 2).tag(C_TAG, 0).tag(C_TAG, 10),
        )
        .drops(Why::InnerVlan),
        row("priority tag in a tunnel", via(2, 100), plain(1, 2).tag(C_TAG, 0x6000))
            .given(to_trunk)
            .reaches([tagged("trunk1", 0x600a)]),
    ]
}

fn peer(n: u8, vni: u32, reserved: bool, tos: u8) -> Ingress {
    Ingress::Vtep { n, vni, reserved, tos }
}

/// Who may send into which segment, and what the outer header means.
pub(crate) fn tunnel() -> Vec<Row> {
    let mut rows = vec![
        row("VNI that nobody has", via(2, 999), plain(1, 2)).drops(Why::VniUnknown),
        row("VNI that nobody has, from a stranger", via(9, 999), plain(1, 2))
            .drops(Why::VniUnknown),
        row("stranger", via(9, 100), plain(1, 2)).drops(Why::PeerUnknown),
        row("peer of another segment", via(4, 100), plain(1, 2)).drops(Why::PeerNotInSegment),
        row("this node's own address", via(1, 100), plain(1, 2)).drops(Why::Reflected),
        row("stranger where all may send", via(9, 400), plain(1, 2)).reaches([bare("open1")]),
        row("peer of another segment where all may send", via(4, 400), plain(1, 2))
            .reaches([bare("open1")]),
        row("own address where all may send", via(1, 400), plain(1, 2)).drops(Why::Reflected),
        row("reserved bits", peer(2, 100, true, 0), plain(1, 2)).reaches(blue_ports()),
        row("reserved bits, strict", peer(4, 300, true, 0), from_to(mac(1), GROUP))
            .drops(Why::ReservedBits),
        row("clean header, strict", via(4, 300), from_to(mac(1), GROUP))
            .reaches([bare("quiet1"), bare("quiet2")]),
        row("a forged frame teaches nothing", via(9, 100), plain(1, 2))
            .given(|world| world.pins("blue", 1, At::Port("blue1"), Origin::Static))
            .drops(Why::PeerUnknown),
    ];
    rows.extend(ecn());
    rows
}

/// RFC 6040 figure 4: inner, outer, and what becomes of it; over IPv4 and IPv6.
fn ecn() -> Vec<Row> {
    const NOT: u8 = 0;
    const ECT1: u8 = 1;
    const ECT0: u8 = 2;
    const CE: u8 = 3;
    // A DSCP that must survive, and one of the outer header that must not come in.
    const AF21: u8 = 18 << 2;
    const EF: u8 = 46 << 2;
    type Case = (&'static str, &'static str, u8, u8, Option<u8>);
    let table: [Case; 16] = [
        ("ECN4 not-ECT, not-ECT", "ECN6 not-ECT, not-ECT", NOT, NOT, Some(NOT)),
        ("ECN4 not-ECT, ECT0", "ECN6 not-ECT, ECT0", NOT, ECT0, Some(NOT)),
        ("ECN4 not-ECT, ECT1", "ECN6 not-ECT, ECT1", NOT, ECT1, Some(NOT)),
        ("ECN4 not-ECT, CE", "ECN6 not-ECT, CE", NOT, CE, None),
        ("ECN4 ECT0, not-ECT", "ECN6 ECT0, not-ECT", ECT0, NOT, Some(ECT0)),
        ("ECN4 ECT0, ECT0", "ECN6 ECT0, ECT0", ECT0, ECT0, Some(ECT0)),
        ("ECN4 ECT0, ECT1", "ECN6 ECT0, ECT1", ECT0, ECT1, Some(ECT1)),
        ("ECN4 ECT0, CE", "ECN6 ECT0, CE", ECT0, CE, Some(CE)),
        ("ECN4 ECT1, not-ECT", "ECN6 ECT1, not-ECT", ECT1, NOT, Some(ECT1)),
        ("ECN4 ECT1, ECT0", "ECN6 ECT1, ECT0", ECT1, ECT0, Some(ECT1)),
        ("ECN4 ECT1, ECT1", "ECN6 ECT1, ECT1", ECT1, ECT1, Some(ECT1)),
        ("ECN4 ECT1, CE", "ECN6 ECT1, CE", ECT1, CE, Some(CE)),
        ("ECN4 CE, not-ECT", "ECN6 CE, not-ECT", CE, NOT, Some(CE)),
        ("ECN4 CE, ECT0", "ECN6 CE, ECT0", CE, ECT0, Some(CE)),
        ("ECN4 CE, ECT1", "ECN6 CE, ECT1", CE, ECT1, Some(CE)),
        ("ECN4 CE, CE", "ECN6 CE, CE", CE, CE, Some(CE)),
    ];
    let mut rows = Vec::new();
    for (name4, name6, inner, outer, becomes) in table {
        let of = |name, carried: fn(u8) -> (u16, Vec<u8>)| {
            let unit = plain(1, 2).carrying(carried(AF21 | inner));
            let row = row(name, peer(2, 100, false, EF | outer), unit);
            match becomes {
                Some(ecn) => row.becomes(carried(AF21 | ecn).1).reaches(blue_ports()),
                None => row.drops(Why::EcnIllegal),
            }
        };
        rows.push(of(name4, |tos| udp4(400, tos, true)));
        rows.push(of(name6, |tos| udp6(400, tos)));
    }
    let opaque = row("congestion around what is not IP", peer(2, 100, false, CE), plain(1, 2));
    rows.push(opaque.reaches(blue_ports()));
    rows
}

/// Where frames go, by what is known.
pub(crate) fn places() -> Vec<Row> {
    let mut rows = vec![
        row("unknown unicast", on("blue1"), plain(1, 2)).reaches(blue_from_blue1()),
        row("unknown unicast from a tunnel", via(2, 100), plain(1, 2)).reaches(blue_ports()),
        row("unknown unicast, not flooded", on("quiet1"), plain(1, 2)).drops(Why::UnknownUnicast),
        row("unknown unicast, not flooded, from a tunnel", via(4, 300), plain(1, 2))
            .drops(Why::UnknownUnicast),
        row("group where unknown unicast is not flooded", on("quiet1"), from_to(mac(1), GROUP))
            .reaches([bare("quiet2"), Out::Vteps(&[4])]),
        row("known at a port", on("blue1"), plain(1, 2))
            .given(|world| world.knows("blue", 2, At::Port("blue2")))
            .reaches([bare("blue2")]),
        row("known at a VTEP", on("blue1"), plain(1, 2))
            .given(|world| world.knows("blue", 2, At::Vtep(3)))
            .reaches([Out::Vteps(&[3])]),
        row("known in another segment only", on("quiet1"), plain(1, 2))
            .given(|world| world.knows("blue", 2, At::Port("blue2")))
            .drops(Why::UnknownUnicast),
        row("known at a port, from a tunnel", via(2, 100), plain(1, 2))
            .given(|world| world.knows("blue", 2, At::Port("blue2")))
            .reaches([bare("blue2")]),
        row("known at another VTEP, from a tunnel", via(2, 100), plain(1, 2))
            .given(|world| world.knows("blue", 2, At::Vtep(3)))
            .drops(Why::SplitHorizon),
        row("known at the same VTEP, from a tunnel", via(2, 100), plain(1, 2))
            .given(|world| world.knows("blue", 2, At::Vtep(2)))
            .drops(Why::SplitHorizon),
        row("known at the port it came from", on("blue1"), plain(1, 2))
            .given(|world| world.knows("blue", 2, At::Port("blue1")))
            .drops(Why::SamePort),
        row("to itself: looked up before it is learned", on("blue1"), plain(1, 1))
            .reaches(blue_from_blue1()),
        row("nobody else is there", on("alone1"), from_to(mac(1), MacAddr::BROADCAST))
            .drops(Why::NoDestination),
        row("unknown unicast with nobody else there", on("alone1"), plain(1, 2))
            .drops(Why::NoDestination),
        row("segment without ports", via(2, 600), plain(1, 2)).drops(Why::NoDestination),
        row("age makes unknown", on("quiet1"), plain(1, 2))
            .given(|world| {
                world.knows("quiet", 2, At::Port("quiet2"));
                world.now.0 += 300_000;
            })
            .drops(Why::UnknownUnicast),
        row("age spares what is static", on("quiet1"), plain(1, 2))
            .given(|world| {
                world.pins("quiet", 2, At::Port("quiet2"), Origin::Static);
                world.now.0 += 300_000_000;
            })
            .reaches([bare("quiet2")]),
    ];
    rows.extend(owned());
    rows.extend(gone());
    rows
}

/// Addresses that belong somewhere by order.
fn owned() -> Vec<Row> {
    let by_operator = |world: &mut World| world.pins("blue", 1, At::Port("blue2"), Origin::Static);
    let remote = |world: &mut World| world.pins("blue", 1, At::Vtep(3), Origin::Static);
    // A port's own MAC address is set as a control entry before the port sends.
    let ports_own = |world: &mut World| world.pins("blue", 1, At::Port("blue1"), Origin::Control);
    vec![
        row("static address from another port", on("blue1"), plain(1, 2))
            .given(by_operator)
            .drops(Why::StaticMac),
        row("static address from a tunnel", via(2, 100), plain(1, 2))
            .given(by_operator)
            .drops(Why::StaticMac),
        row("static remote address from another tunnel", via(2, 100), plain(1, 2))
            .given(remote)
            .drops(Why::StaticMac),
        row("static remote address from its tunnel", via(3, 100), plain(1, 2))
            .given(remote)
            .reaches(blue_ports()),
        row("static address from its port", on("blue2"), plain(1, 2)).given(by_operator).reaches([
            bare("blue1"),
            tagged("trunk1", 10),
            tagged("trunk2", 11),
            Out::Vteps(&[2, 3]),
        ]),
        row("a port's own address from a tunnel", via(2, 100), plain(1, 2))
            .given(ports_own)
            .drops(Why::StaticMac),
        row("a port's own address from another port", on("blue2"), plain(1, 2))
            .given(ports_own)
            .drops(Why::StaticMac),
        row("a port's own address from the port", on("blue1"), plain(1, 2))
            .given(ports_own)
            .reaches(blue_from_blue1()),
        row("static address in another segment", on("quiet1"), plain(1, 2))
            .given(|world| {
                world.pins("blue", 1, At::Port("blue2"), Origin::Static);
                world.pins("quiet", 2, At::Port("quiet2"), Origin::Static);
            })
            .reaches([bare("quiet2")]),
    ]
}

/// Ports and VTEPs that are down, gone, or elsewhere by now.
fn gone() -> Vec<Row> {
    vec![
        row("from a port that is down", on("down"), plain(1, 2)).drops(Why::PortDown),
        row("to a port that is down", on("blue1"), plain(1, 2))
            .given(|world| world.knows("blue", 2, At::Port("down")))
            .drops(Why::PortDown),
        row("to a port that is down, from a tunnel", via(2, 100), plain(1, 2))
            .given(|world| world.knows("blue", 2, At::Port("down")))
            .drops(Why::PortDown),
        row("behind a port that is gone", on("blue1"), plain(1, 2))
            .given(|world| {
                world.knows("blue", 2, At::Port("blue2"));
                world.reload(|spec| spec.ports.retain(|port| port.name != "blue2"));
            })
            .reaches([tagged("trunk1", 10), tagged("trunk2", 11), Out::Vteps(&[2, 3])]),
        row("behind a port that has left the segment", on("quiet1"), plain(1, 2))
            .given(|world| {
                world.knows("quiet", 2, At::Port("quiet2"));
                world.reload(|spec| {
                    let port = spec.ports.iter_mut().find(|port| port.name == "quiet2").unwrap();
                    port.mode = crate::kit::access("blue");
                });
            })
            .drops(Why::UnknownUnicast),
        row("behind a VTEP that is gone", on("blue1"), plain(1, 2))
            .given(|world| {
                world.knows("blue", 2, At::Vtep(3));
                world.reload(|spec| {
                    for segment in &mut spec.segments {
                        segment.peers.retain(|peer| peer.ip() != vtep_ip(3));
                    }
                });
            })
            .reaches([bare("blue2"), tagged("trunk1", 10), tagged("trunk2", 11), Out::Vteps(&[2])]),
        row("behind a VTEP that is gone, not flooded", on("quiet1"), plain(1, 2))
            .given(|world| {
                world.knows("quiet", 2, At::Vtep(4));
                world.reload(|spec| spec.segments[2].peers.clear());
            })
            .drops(Why::UnknownUnicast),
        row("a peer that is listed twice gets one copy", on("blue1"), plain(1, 2))
            .given(|world| {
                world.reload(|spec| {
                    let again = spec.segments[0].peers.clone();
                    spec.segments[0].peers.extend(again);
                });
            })
            .reaches(blue_from_blue1()),
        row("multicast in place of the peers", on("blue1"), plain(1, 2))
            .given(|world| {
                world.reload(|spec| {
                    spec.segments[0].multicast = Some("192.0.2.77:4789".parse().unwrap());
                });
            })
            .reaches([
                bare("blue2"),
                tagged("trunk1", 10),
                tagged("trunk2", 11),
                Out::Vteps(&[77]),
            ]),
    ]
}
