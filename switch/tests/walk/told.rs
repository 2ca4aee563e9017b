//! "Too big" answers, read by two parsers that are not ours.

use crate::kit::RawTag;
use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice, icmpv4};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Icmpv4Message, Icmpv4Packet, Icmpv6Packet, Icmpv6Repr,
    Ipv4Packet, Ipv4Repr, Ipv6Packet,
};

/// Whether `answer` tells the sender of `asked` (untagged) that `mtu` is the limit.
pub(crate) fn check(answer: &[u8], tag: Option<RawTag>, asked: &[u8], mtu: u16) {
    let untagged = match tag {
        Some((tpid, tci)) => {
            let want = [tpid.to_be_bytes(), tci.to_be_bytes()].concat();
            assert_eq!(answer[12..16], want, "the sender's own VLAN");
            [&answer[..12], &answer[16..]].concat()
        }
        None => answer.to_vec(),
    };
    let (reply, question) =
        (EthernetFrame::new_checked(&untagged), EthernetFrame::new_checked(asked));
    let (reply, question) = (reply.unwrap(), question.unwrap());
    assert_eq!(reply.dst_addr(), question.src_addr());
    assert_eq!(reply.src_addr(), question.dst_addr());
    assert_eq!(reply.ethertype(), question.ethertype());
    match reply.ethertype() {
        EthernetProtocol::Ipv4 => check_v4(reply.payload(), question.payload(), mtu),
        EthernetProtocol::Ipv6 => check_v6(reply.payload(), question.payload(), mtu),
        other => panic!("answered to {other}"),
    }
    check_with_etherparse(answer, mtu);
}

fn check_v4(reply: &[u8], question: &[u8], mtu: u16) {
    let (ip, asked) = (Ipv4Packet::new_checked(reply).unwrap(), Ipv4Packet::new_checked(question));
    let asked = asked.unwrap();
    assert!(ip.verify_checksum());
    assert_eq!((ip.dst_addr(), ip.src_addr()), (asked.src_addr(), asked.dst_addr()));
    assert_eq!(usize::from(ip.total_len()), reply.len());
    let icmp = Icmpv4Packet::new_checked(ip.payload()).unwrap();
    assert!(icmp.verify_checksum());
    Ipv4Repr::parse(&ip, &ChecksumCapabilities::default()).unwrap();
    // smoltcp's own reading of the message wants the whole offending datagram quoted.
    assert_eq!(icmp.msg_type(), Icmpv4Message::DstUnreachable);
    assert_eq!(icmp.msg_code(), 4);
    assert_eq!(ip.payload()[6..8], mtu.to_be_bytes());
    let quote = &ip.payload()[8..];
    assert!(quote.len() >= usize::from(asked.header_len()) + 8, "RFC 792");
    assert_eq!(quote, &question[..quote.len()]);
}

fn check_v6(reply: &[u8], question: &[u8], mtu: u16) {
    let (ip, asked) = (Ipv6Packet::new_checked(reply).unwrap(), Ipv6Packet::new_checked(question));
    let asked = asked.unwrap();
    assert_eq!((ip.dst_addr(), ip.src_addr()), (asked.src_addr(), asked.dst_addr()));
    assert_eq!(ip.total_len(), reply.len());
    let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
    let (src, dst) = (ip.src_addr(), ip.dst_addr());
    let repr = Icmpv6Repr::parse(&src, &dst, &icmp, &ChecksumCapabilities::default()).unwrap();
    let Icmpv6Repr::PktTooBig { mtu: told, .. } = repr else { panic!("{repr:?}") };
    assert_eq!(told, u32::from(mtu));
    let quote = &ip.payload()[8..];
    assert!(quote.len() >= 48, "enough to find the socket by");
    assert_eq!(quote, &question[..quote.len()]);
}

fn check_with_etherparse(answer: &[u8], mtu: u16) {
    let packet = SlicedPacket::from_ethernet(answer).unwrap();
    match (packet.net.unwrap(), packet.transport.unwrap()) {
        (NetSlice::Ipv4(ip), TransportSlice::Icmpv4(icmp)) => {
            let header = ip.header();
            let computed = header.to_header().calc_header_checksum();
            assert_eq!(header.header_checksum(), computed);
            let Icmpv4Type::DestinationUnreachable(reason) = icmp.icmp_type() else {
                panic!("{:?}", icmp.icmp_type());
            };
            let too_big = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
            assert_eq!(reason, too_big);
        }
        (NetSlice::Ipv6(ip), TransportSlice::Icmpv6(icmp)) => {
            let header = ip.header().to_header();
            assert!(icmp.is_checksum_valid(header.source, header.destination));
            assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: u32::from(mtu) });
        }
        other => panic!("{other:?}"),
    }
}
