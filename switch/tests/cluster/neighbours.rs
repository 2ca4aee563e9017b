//! What the gateway says about itself: read and asked by smoltcp, which is not ours.

use crate::fragments::piece;
use crate::kit::Sent;
use crate::rows::icmp6;
use crate::world::{At, Row, Unit, World, framed, ip, mac, naive_sum, on, ours, spec};
use encap::{Arp, Checksum, MacAddr, Offload};
use etherparse::IpNumber;
use fdb::Tick;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags as Flags,
    NdiscRepr,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use switch::{DropReason as Why, GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6};

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// An ARP message of pod two's.
fn arp(operation: ArpOperation, sender: &str, target: &str) -> Unit {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(mac(2).get().0),
        source_protocol_addr: v4(sender),
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: v4(target),
    };
    let mut l3 = vec![0; repr.buffer_len()];
    repr.emit(&mut ArpPacket::new_unchecked(&mut l3));
    let (dst, src) = (MacAddr::BROADCAST, mac(2).get());
    Unit { dst, src, tags: vec![], ethertype: 0x0806, l3, offload: Offload::default() }
}

/// A neighbour solicitation of pod two's.
fn solicit(source: &str, to: &str, target: &str) -> Unit {
    let lladdr = (!v6(source).is_unspecified()).then(|| EthernetAddress(mac(2).get().0).into());
    let message = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr: v6(target), lladdr });
    let header = Ipv6Repr {
        src_addr: v6(source),
        dst_addr: v6(to),
        next_header: IpProtocol::Icmpv6,
        payload_len: message.buffer_len(),
        hop_limit: 255,
    };
    let mut l3 = vec![0; 40 + message.buffer_len()];
    header.emit(&mut Ipv6Packet::new_unchecked(&mut l3));
    let packet = &mut Icmpv6Packet::new_unchecked(&mut l3[40..]);
    message.emit(&v6(source), &v6(to), packet, &ChecksumCapabilities::default());
    framed(l3).to(MacAddr([0x33, 0x33, 0xff, 0, 0, 1]))
}

const TWO6: &str = "fd44:0:0:1::2";
const SOLICITED: &str = "ff02::1:ff00:1";

/// What a cluster segment does not answer.
pub(crate) fn unanswered() -> Vec<Row> {
    use ArpOperation::{Reply, Request};
    let two = |name, unit| on(name, "two", unit).drops(Why::LinkControl);
    vec![
        two("ARP for a pod's own address", arp(Request, "10.244.1.2", "10.244.1.2")),
        two("ARP for its own address, as another", arp(Request, "10.244.1.9", "10.244.1.2")),
        two("ARP probe", arp(Request, "0.0.0.0", "10.244.1.9")),
        two("ARP reply", arp(Reply, "10.244.1.2", "169.254.1.1")),
        two("ARP that ends early", {
            let mut unit = arp(Request, "10.244.1.2", "169.254.1.1");
            unit.l3.truncate(20);
            unit
        }),
        two("probe for its own address", solicit("::", SOLICITED, TWO6)),
        two("probe for the gateway's", solicit("::", SOLICITED, "fe80::1")),
        two("solicitation for its own address", solicit("fe80::2", SOLICITED, TWO6)),
        two("a message that is none", icmp6(135, TWO6, "ff02::1")),
        two("advertisement", icmp6(136, TWO6, "ff02::1")),
        two(
            "solicitation that went through a router",
            solicit(TWO6, "fe80::1", "fe80::1").ttl(254),
        ),
        on(
            "ARP from another's MAC",
            "two",
            arp(Request, "10.244.1.2", "169.254.1.1").from(mac(3).get()),
        )
        .drops(Why::SpoofedMac),
    ]
}

fn answer(unit: &Unit, port: &'static str) -> Vec<u8> {
    let mut world = World::new(&spec());
    let mut sent = world.send(Tick(0), At::Port(port), unit);
    assert_eq!(sent.len(), 1);
    match sent.remove(0) {
        Sent::ToPort { port: to, bytes, offload, .. } => {
            assert_eq!(to, world.engine.topology().port_named(port).unwrap().id);
            assert_eq!(offload, Offload::default());
            bytes
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn arp_for_anything_is_answered_with_the_gateways_mac() {
    for target in ["169.254.1.1", "10.244.1.3", "10.244.1.1", "198.51.100.1"] {
        for (dst, tags) in [(MacAddr::BROADCAST, vec![]), (GATEWAY_MAC.get(), vec![(0x8100, 0)])] {
            let asked = arp(ArpOperation::Request, "10.244.1.2", target).to(dst);
            let bytes = answer(&Unit { tags, ..asked }, "two");
            let frame = EthernetFrame::new_checked(&bytes[..]).unwrap();
            assert_eq!(frame.dst_addr().0, mac(2).get().0);
            assert_eq!(frame.src_addr().0, GATEWAY_MAC.get().0);
            assert_eq!(frame.ethertype(), EthernetProtocol::Arp);
            let reply = ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).unwrap()).unwrap();
            let want = ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Reply,
                source_hardware_addr: EthernetAddress(GATEWAY_MAC.get().0),
                source_protocol_addr: v4(target),
                target_hardware_addr: EthernetAddress(mac(2).get().0),
                target_protocol_addr: v4("10.244.1.2"),
            };
            assert_eq!(reply, want);
            assert!(Arp::parse(&bytes).is_some(), "and by the parser of this house");
        }
    }
}

#[test]
fn solicitations_for_anything_are_answered_with_the_gateways_mac() {
    for (source, to, target) in [
        (TWO6, SOLICITED, "fe80::1"),
        ("fe80::2", SOLICITED, "fe80::1"),
        ("fe80::2", "fe80::1", "fe80::1"),
        (TWO6, SOLICITED, "fd44:0:0:1::3"),
    ] {
        let unit = solicit(source, to, target);
        let unit = if v6(to).is_multicast() { unit } else { unit.to(GATEWAY_MAC.get()) };
        let bytes = answer(&unit, "two");
        let frame = EthernetFrame::new_checked(&bytes[..]).unwrap();
        assert_eq!(frame.dst_addr().0, mac(2).get().0);
        assert_eq!(frame.src_addr().0, GATEWAY_MAC.get().0);
        let packet = Ipv6Packet::new_checked(frame.payload()).unwrap();
        let header = Ipv6Repr::parse(&packet).unwrap();
        assert_eq!((header.src_addr, header.dst_addr), (GATEWAY_V6, v6(source)));
        assert_eq!(header.hop_limit, 255);
        let message = Icmpv6Packet::new_checked(packet.payload()).unwrap();
        let caps = ChecksumCapabilities::default();
        let message = Icmpv6Repr::parse(&GATEWAY_V6, &v6(source), &message, &caps).unwrap();
        let mut flags = Flags::ROUTER | Flags::SOLICITED;
        flags.set(Flags::OVERRIDE, v6(target) == GATEWAY_V6);
        let want = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
            flags,
            target_addr: v6(target),
            lladdr: Some(EthernetAddress(GATEWAY_MAC.get().0).into()),
        });
        assert_eq!(message, want);
    }
}

#[test]
fn the_gateway_port_is_answered_as_well() {
    let from_gateway = |unit: Unit| unit.from(mac(1).get());
    let arp = from_gateway(arp(ArpOperation::Request, "10.244.1.1", "169.254.1.1"));
    assert!(Arp::parse(&answer(&arp, "gw")).is_some());
    let solicit = from_gateway(solicit("fd44:0:0:1::1", SOLICITED, "fe80::1"));
    assert_eq!(answer(&solicit, "gw").len(), 14 + 40 + 32);
}

/// A ping of `len` bytes, to the gateway's own address.
fn ping(source: IpAddr, len: usize) -> Unit {
    let (mut l3, payload) = (Vec::new(), vec![0xa5; len]);
    match source {
        IpAddr::V4(_) => {
            let builder = ip(&source.to_string(), &GATEWAY_V4.to_string(), IpNumber::ICMP);
            builder.icmpv4_echo_request(7, 9).write(&mut l3, &payload).unwrap();
        }
        IpAddr::V6(_) => {
            let builder = ip(&source.to_string(), &GATEWAY_V6.to_string(), IpNumber::IPV6_ICMP);
            builder.icmpv6_echo_request(7, 9).write(&mut l3, &payload).unwrap();
        }
    }
    framed(l3)
}

/// The reply to a ping, made anew.
fn pong(asked: &Unit) -> Vec<u8> {
    let mut l3 = asked.l3.clone();
    if l3[0] == 0x45 {
        l3[12..16].copy_from_slice(&asked.l3[16..20]);
        l3[16..20].copy_from_slice(&asked.l3[12..16]);
        l3[20] = 0;
        l3[22..24].fill(0);
        let sum = naive_sum(&l3[20..]);
        l3[22..24].copy_from_slice(&sum.to_be_bytes());
    } else {
        l3[8..24].copy_from_slice(&asked.l3[24..40]);
        l3[24..40].copy_from_slice(&asked.l3[8..24]);
        l3[40] = 129;
        l3[42..44].fill(0);
        let len = (l3.len() as u32 - 40).to_be_bytes();
        let sum = naive_sum(&[&l3[8..40], &len, &[0, 0, 0, 58], &l3[40..]].concat());
        l3[42..44].copy_from_slice(&sum.to_be_bytes());
    }
    Unit { l3, tags: vec![], ..asked.clone() }.to(mac(2).get()).from(GATEWAY_MAC.get()).bytes()
}

pub(crate) fn pings() -> Vec<Row> {
    let [four, six] = <[IpAddr; 2]>::try_from(ours(2)).unwrap();
    let answered = |name, unit: Unit| {
        let want = pong(&unit);
        on(name, "two", unit).answered(want)
    };
    vec![
        answered("ping to the gateway", ping(four, 30)),
        answered("ping to the gateway, longer than a head", ping(four, 1400)),
        answered("ping to the gateway, odd", ping(four, 31)),
        answered("ping to the gateway, IPv6", ping(six, 1400)),
        answered("ping to the gateway from link-local", ping("fe80::2".parse().unwrap(), 30)),
        answered("ping to the gateway, with a priority tag", ping(four, 30).priority()),
        on("ping to the gateway in the only piece", "two", piece(ping(six, 30), 0, false))
            .answered({
                let l3 = pong(&ping(six, 30)).split_off(14);
                let reply = Unit { l3, ..ping(six, 30) };
                piece(reply, 0, false).to(mac(2).get()).from(GATEWAY_MAC.get()).bytes()
            }),
        on("a first piece of a ping to the gateway, IPv6", "two", piece(ping(six, 32), 0, true))
            .drops(Why::NoRoute),
        on("a later piece of a ping to the gateway, IPv6", "two", piece(ping(six, 32), 2, false))
            .drops(Why::NoRoute),
        on("a piece of a ping to the gateway", "two", ping(four, 32).byte(6, 0x20))
            .drops(Why::NoRoute),
        on("another code than a ping's", "two", ping(four, 32).byte(21, 1)).drops(Why::NoRoute),
        on("a reply to the gateway", "two", ping(four, 32).byte(20, 0)).drops(Why::NoRoute),
        on("another protocol to the gateway", "two", ping(four, 32).byte(9, 17))
            .drops(Why::NoRoute),
    ]
}

#[test]
fn a_ping_whose_checksum_is_not_finished_stays_so() {
    let untagged = Checksum::Partial { start: 54, offset: 2 };
    let plain = ping(ours(2)[1], 40);
    for (mut unit, start) in [(plain.clone(), 54), (plain.priority(), 58)] {
        unit.l3[42..44].copy_from_slice(&[0x12, 0x34]);
        unit.offload.checksum = Checksum::Partial { start, offset: 2 };
        let mut world = World::new(&spec());
        let sent = world.send(Tick(0), At::Port("two"), &unit);
        let [Sent::ToPort { bytes, offload, .. }] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!(offload.checksum, untagged);
        assert_eq!(bytes[54..58], [129, 0, 0x12, 0x34]);
    }
}
