//! IP packets for the rows, built by etherparse.

use etherparse::{
    Icmpv4Type, Icmpv6Type, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, TcpHeader, icmpv4,
};

/// EtherType and packet.
pub(crate) type L3 = (u16, Vec<u8>);

const A4: [u8; 4] = [10, 9, 0, 1];
const B4: [u8; 4] = [10, 9, 0, 2];

fn a6() -> [u8; 16] {
    "fd09::1".parse::<std::net::Ipv6Addr>().unwrap().octets()
}

fn b6() -> [u8; 16] {
    "fd09::2".parse::<std::net::Ipv6Addr>().unwrap().octets()
}

fn header4(tos: u8, df: bool, source: [u8; 4], protocol: IpNumber) -> Ipv4Header {
    let mut header = Ipv4Header::new(0, 64, protocol, source, B4).unwrap();
    header.dscp = etherparse::IpDscp::try_new(tos >> 2).unwrap();
    header.ecn = etherparse::IpEcn::try_new(tos & 3).unwrap();
    header.dont_fragment = df;
    header
}

fn ip4(header: Ipv4Header) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ip(etherparse::IpHeaders::Ipv4(header, Default::default()))
}

/// A UDP packet of `len` bytes from its IPv4 header on.
pub(crate) fn udp4(len: usize, tos: u8, df: bool) -> L3 {
    udp4_from(len, tos, df, A4)
}

/// The same from another source.
pub(crate) fn udp4_from(len: usize, tos: u8, df: bool, source: [u8; 4]) -> L3 {
    let mut bytes = Vec::new();
    let builder = ip4(header4(tos, df, source, IpNumber::UDP)).udp(5000, 7);
    builder.write(&mut bytes, &payload(len - 28)).unwrap();
    (0x0800, bytes)
}

/// A TCP packet of `len` bytes from its IPv4 header on.
pub(crate) fn tcp4(len: usize) -> L3 {
    let mut bytes = Vec::new();
    let tcp = TcpHeader::new(5000, 80, 1, 1000);
    let builder = ip4(header4(0, true, A4, IpNumber::TCP)).tcp_header(tcp);
    builder.write(&mut bytes, &payload(len - 40)).unwrap();
    (0x0800, bytes)
}

/// An ICMP error, "port unreachable", of `len` bytes.
pub(crate) fn icmp4_error(len: usize) -> L3 {
    let mut bytes = Vec::new();
    let reason = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
    let builder = ip4(header4(0, true, A4, IpNumber::ICMP)).icmpv4(reason);
    builder.write(&mut bytes, &payload(len - 28)).unwrap();
    (0x0800, bytes)
}

/// A ping of `len` bytes.
pub(crate) fn ping4(len: usize) -> L3 {
    let mut bytes = Vec::new();
    let builder = ip4(header4(0, true, A4, IpNumber::ICMP)).icmpv4_echo_request(1, 1);
    builder.write(&mut bytes, &payload(len - 28)).unwrap();
    (0x0800, bytes)
}

/// A later IPv4 fragment of `len` bytes.
pub(crate) fn fragment4(len: usize) -> L3 {
    let mut header = header4(0, true, A4, IpNumber::UDP);
    header.fragment_offset = etherparse::IpFragOffset::try_new(100).unwrap();
    header.set_payload_len(len - 20).unwrap();
    header.header_checksum = header.calc_header_checksum();
    let mut bytes = Vec::new();
    header.write(&mut bytes).unwrap();
    bytes.extend(payload(len - 20));
    (0x0800, bytes)
}

fn header6(tos: u8, next_header: IpNumber, source: [u8; 16]) -> Ipv6Header {
    Ipv6Header {
        traffic_class: tos,
        next_header,
        hop_limit: 64,
        source,
        destination: b6(),
        ..Ipv6Header::default()
    }
}

fn ip6(header: Ipv6Header) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ip(etherparse::IpHeaders::Ipv6(header, Default::default()))
}

/// A UDP packet of `len` bytes from its IPv6 header on.
pub(crate) fn udp6(len: usize, tos: u8) -> L3 {
    let mut bytes = Vec::new();
    let builder = ip6(header6(tos, IpNumber::UDP, a6())).udp(5000, 7);
    builder.write(&mut bytes, &payload(len - 48)).unwrap();
    (0x86dd, bytes)
}

/// The same from the unspecified address.
pub(crate) fn udp6_from_nobody(len: usize) -> L3 {
    let mut bytes = Vec::new();
    let builder = ip6(header6(0, IpNumber::UDP, [0; 16])).udp(5000, 7);
    builder.write(&mut bytes, &payload(len - 48)).unwrap();
    (0x86dd, bytes)
}

/// An ICMPv6 error of `len` bytes, "no route", behind a destination options header if asked for.
pub(crate) fn icmp6_error(len: usize, options: bool) -> L3 {
    let mut bytes = Vec::new();
    let reason =
        Icmpv6Type::DestinationUnreachable(etherparse::icmpv6::DestUnreachableCode::NoRoute);
    let builder = ip6(header6(0, IpNumber::IPV6_ICMP, a6())).icmpv6(reason);
    builder.write(&mut bytes, &payload(len - 48 - 8 * usize::from(options))).unwrap();
    if options {
        // Next header, length in units beyond the first, and a PadN that fills the rest.
        let header = [bytes[6], 0, 1, 4, 0, 0, 0, 0];
        bytes[6] = 60;
        let len = u16::from_be_bytes([bytes[4], bytes[5]]) + 8;
        bytes[4..6].copy_from_slice(&len.to_be_bytes());
        bytes.splice(40..40, header);
    }
    (0x86dd, bytes)
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 % 251) as u8).collect()
}
