//! The frames of the script, and what etherparse sees in any.

use anyhow::Result;
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, NetSlice, PacketBuilder, SlicedPacket,
    TransportSlice,
};

/// Who has 10.77.0.2? And a ping to it.
pub(crate) fn script() -> Result<[Vec<u8>; 2]> {
    let (me, broadcast, my_ip) = ([2, 0, 0, 0, 0, 1], [0xff; 6], [10, 77, 0, 9]);
    let (mut question, mut ping) = (Vec::new(), Vec::new());
    let arp = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &me,
        &my_ip,
        &[0; 6],
        &crate::guest::IP,
    )?;
    PacketBuilder::ethernet2(me, broadcast).arp(arp).write(&mut question)?;
    PacketBuilder::ethernet2(me, crate::guest::MAC)
        .ipv4(my_ip, crate::guest::IP, 64)
        .icmpv4_echo_request(1, 1)
        .write(&mut ping, b"hello")?;
    Ok([question, ping])
}

/// What etherparse sees in a frame.
pub(crate) fn dissect(bytes: &[u8]) -> String {
    match SlicedPacket::from_ethernet(bytes) {
        Ok(packet) => {
            let net = packet.net.map(|net| match net {
                NetSlice::Ipv4(ip) => {
                    let header = ip.header();
                    format!("{} > {}", header.source_addr(), header.destination_addr())
                }
                NetSlice::Ipv6(ip) => {
                    let header = ip.header();
                    format!("{} > {}", header.source_addr(), header.destination_addr())
                }
                NetSlice::Arp(arp) => match arp.operation() {
                    ArpOperation::REQUEST => format!("who has {:?}?", arp.target_protocol_addr()),
                    _ => format!("{:?} is here", arp.sender_protocol_addr()),
                },
            });
            let transport = packet.transport.map(|transport| match transport {
                TransportSlice::Icmpv4(icmp) => format!("{:?}", icmp.icmp_type()),
                TransportSlice::Icmpv6(icmp) => format!("{:?}", icmp.icmp_type()),
                TransportSlice::Tcp(tcp) => {
                    format!("TCP to {}", tcp.destination_port())
                }
                TransportSlice::Udp(udp) => {
                    format!("UDP to {}", udp.destination_port())
                }
                other => format!("{other:?}"),
            });
            let parts = [net, transport].into_iter().flatten().collect::<Vec<_>>().join(", ");
            format!("{} bytes: {parts}", bytes.len())
        }
        Err(error) => format!("{} bytes that are no packet: {error}", bytes.len()),
    }
}
