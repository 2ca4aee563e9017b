//! The table's part about MTUs, answers and superframes.

use crate::inet::{
    fragment4, icmp4_error, icmp6_error, ping4, tcp4, udp4, udp4_from, udp6, udp6_from_nobody,
};
use crate::kit::{C_TAG, OPAQUE, mac, station, vtep_ip};
use crate::rows::{GROUP, bare, tagged};
use crate::world::{At, Out, Row, World, from_to, on, plain, row, via};
use encap::{Checksum, Gso, GsoKind, MacAddr};
use switch::DropReason as Why;

fn at_narrow(world: &mut World) {
    world.knows("thin", 2, At::Port("narrow"));
}

/// Station 2 is behind VTEP 2, whose path takes 1350 bytes.
fn at_thin_vtep(world: &mut World) {
    world.knows("thin", 2, At::Vtep(2));
    thin_path(world);
}

fn thin_path(world: &mut World) {
    world.engine.topology().vtep_at(vtep_ip(2)).unwrap().set_mtu(1350);
}

/// MTUs, answers and superframes.
pub(crate) fn sizes() -> Vec<Row> {
    let from = on("thin1");
    let carrying = |l3| plain(1, 2).carrying(l3);
    let narrow = |name, l3| row(name, from, carrying(l3)).given(at_narrow);
    let thin_vtep = |name, l3| row(name, from, carrying(l3)).given(at_thin_vtep);
    let mut rows = vec![
        narrow("fits the port exactly", udp4(1300, 0, true)).reaches([bare("narrow")]),
        narrow("IPv4 a byte too big for the port", udp4(1301, 0, true)).told(1300, None),
        narrow("IPv6 a byte too big for the port", udp6(1301, 0)).told(1300, None),
        thin_vtep("fits the path exactly", udp6(1350, 0)).reaches([Out::Vteps(&[2])]),
        thin_vtep("IPv4 too big for the path", udp4(1351, 0, true)).told(1350, None),
        thin_vtep("IPv6 too big for the path", udp6(1351, 0)).told(1350, None),
        thin_vtep("TCP too big for the path", tcp4(1351)).told(1350, None),
        thin_vtep("ping too big for the path", ping4(1400)).told(1350, None),
        thin_vtep("fragmentable and too big", udp4(1400, 0, false)).told(1350, None),
        thin_vtep("later fragment too big", fragment4(1400)).drops(Why::TooBig),
        thin_vtep("ICMP error too big", icmp4_error(1400)).drops(Why::TooBig),
        thin_vtep("ICMPv6 error too big", icmp6_error(1400, false)).drops(Why::TooBig),
        thin_vtep("ICMPv6 error behind options too big", icmp6_error(1400, true))
            .drops(Why::TooBig),
        thin_vtep("from 0.0.0.0 and too big", udp4_from(1400, 0, true, [0; 4])).drops(Why::TooBig),
        thin_vtep("from a group and too big", udp4_from(1400, 0, true, [224, 0, 0, 9]))
            .drops(Why::TooBig),
        thin_vtep("from :: and too big", udp6_from_nobody(1400)).drops(Why::TooBig),
        thin_vtep("neither IP nor small", (OPAQUE, vec![0; 1351])).drops(Why::TooBig),
        thin_vtep("IPv4 that lies and is too big", (0x0800, vec![0x43; 1351])).drops(Why::TooBig),
        row("too big from a tunnel", via(2, 700), carrying(udp4(1400, 0, true)))
            .given(at_narrow)
            .drops(Why::TooBig),
        row(
            "too big from a trunk is told in its VLAN",
            on("trunk1"),
            carrying(udp4(1400, 0, true)).tag(C_TAG, 0xe00a),
        )
        .given(|world| {
            world.knows("blue", 2, At::Vtep(2));
            thin_path(world);
        })
        .told(1350, Some((C_TAG, 10))),
        row(
            "a tag does not count against the MTU",
            on("trunk1"),
            carrying(udp4(1350, 0, true)).tag(C_TAG, 10),
        )
        .given(|world| {
            world.knows("blue", 2, At::Vtep(2));
            thin_path(world);
        })
        .reaches([Out::Vteps(&[2])]),
        row(
            "flood too big for one port",
            from,
            from_to(mac(1), GROUP).carrying(udp4(1400, 0, true)),
        )
        .reaches([Out::Vteps(&[2, 3])])
        .lost_at(&["narrow"]),
        row(
            "flood too big for one path",
            from,
            from_to(mac(1), GROUP).carrying(udp4(1400, 0, true)),
        )
        .given(thin_path)
        .reaches([Out::Vteps(&[3])])
        .lost_at(&["narrow", "192.0.2.2"]),
        row(
            "flood too big for the last path",
            from,
            from_to(mac(1), GROUP).carrying(udp4(1400, 0, true)),
        )
        .given(|world| {
            world.engine.topology().vtep_at(vtep_ip(3)).unwrap().set_mtu(1350);
        })
        .reaches([Out::Vteps(&[2])])
        .lost_at(&["narrow", "192.0.2.3"]),
    ];
    rows.extend(superframes());
    rows
}

/// A TCP superframe of three segments of 1400 bytes, the last shorter; and a UDP one.
fn superframes() -> Vec<Row> {
    let cut = |kind, header_len| Gso { kind, size: 1400, segments: 3, header_len };
    let partial = |offset| Checksum::Partial { start: 34, offset };
    let unit = |src, dst| from_to(src, dst);
    let tcp = move |dst| {
        unit(mac(1), dst).carrying(tcp4(40 + 3000)).gso(cut(GsoKind::Tcp, 54), partial(16))
    };
    let udp = move |dst| {
        unit(mac(1), dst).carrying(udp4(28 + 3000, 0, true)).gso(cut(GsoKind::Udp, 42), partial(6))
    };
    let station_2 = station(2).get();
    vec![
        row("TCP superframe to a port", on("blue1"), tcp(station_2))
            .given(|world| world.knows("blue", 2, At::Port("blue2")))
            .reaches([bare("blue2")]),
        row("TCP superframe passes a smaller MTU", on("thin1"), tcp(station_2))
            .given(at_narrow)
            .reaches([bare("narrow")]),
        row("TCP superframe passes a smaller path", on("thin1"), tcp(station_2))
            .given(at_thin_vtep)
            .reaches([Out::Vteps(&[2])]),
        row("UDP superframe that fits", on("blue1"), udp(station_2))
            .given(|world| world.knows("blue", 2, At::Vtep(2)))
            .reaches([Out::Vteps(&[2])]),
        row("UDP superframe does not pass a smaller MTU", on("thin1"), udp(station_2))
            .given(at_narrow)
            .told(1300, None),
        row("UDP superframe does not pass a smaller path", on("thin1"), udp(station_2))
            .given(at_thin_vtep)
            .told(1350, None),
        row("superframe dropped by all its segments", on("alone1"), tcp(MacAddr::BROADCAST))
            .drops(Why::NoDestination),
        row("superframe from a tunnel to a trunk", via(2, 100), tcp(station_2))
            .given(|world| world.knows("blue", 2, At::Port("trunk1")))
            .reaches([tagged("trunk1", 10)]),
        row("tagged superframe to the underlay", on("trunk1"), tcp(station_2).tag(C_TAG, 0x600a))
            .given(|world| world.knows("blue", 2, At::Vtep(2)))
            .reaches([Out::Vteps(&[2])]),
        row("superframe from trunk to trunk", on("trunk1"), udp(station_2).tag(C_TAG, 0x600a))
            .given(|world| world.knows("blue", 2, At::Port("trunk2")))
            .reaches([tagged("trunk2", 0x600b)]),
        row(
            "superframe floods with all its tags",
            on("trunk2"),
            tcp(MacAddr::BROADCAST).tag(C_TAG, 11),
        )
        .reaches([bare("blue1"), bare("blue2"), tagged("trunk1", 10), Out::Vteps(&[2, 3])]),
        row("flooded UDP superframe loses one output by all its segments", on("thin1"), udp(GROUP))
            .reaches([Out::Vteps(&[2, 3])])
            .lost_at(&["narrow"]),
    ]
}
