//! ICMP errors, read by a parser that is not ours, and summed naively.

use crate::world::{Unit, naive_sum};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use std::net::IpAddr;
use switch::GATEWAY_MAC;

/// Whether `answer` is this type, code and word, in the name of `voice`, to who sent `asked`.
pub(crate) fn check(answer: &[u8], asked: &Unit, (kind, code, word): (u8, u8, u32), voice: &str) {
    assert_eq!(answer[..6], asked.src.0, "to the station that sent it");
    assert_eq!(answer[6..12], GATEWAY_MAC.get().0);
    let packet = SlicedPacket::from_ethernet(answer).unwrap();
    let (source, destination, hops, pseudo): (IpAddr, IpAddr, u8, Vec<u8>) =
        match packet.net.as_ref().unwrap() {
            NetSlice::Ipv4(ip) => {
                let header = ip.header();
                assert_eq!(naive_sum(header.slice()), 0, "the header sums up");
                let (source, destination) = (header.source_addr(), header.destination_addr());
                (source.into(), destination.into(), header.ttl(), vec![])
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header();
                let (source, destination) = (header.source_addr(), header.destination_addr());
                let len = u32::from(header.payload_length()).to_be_bytes();
                let ends = [source.octets(), destination.octets()].concat();
                let pseudo = [&ends[..], &len, &[0, 0, 0, 58]].concat();
                (source.into(), destination.into(), header.hop_limit(), pseudo)
            }
            NetSlice::Arp(_) => panic!("an ICMP error is wanted"),
        };
    assert_eq!((source, hops), (voice.parse().unwrap(), 64));
    let (from, to): (IpAddr, IpAddr) = ends(&asked.l3);
    assert_eq!(destination, from);
    assert_ne!(to, from);
    let icmp = match packet.transport.as_ref().unwrap() {
        TransportSlice::Icmpv4(icmp) => icmp.slice(),
        TransportSlice::Icmpv6(icmp) => icmp.slice(),
        other => panic!("an ICMP error is wanted: {other:?}"),
    };
    assert_eq!(naive_sum(&[&pseudo[..], icmp].concat()), 0, "the message sums up");
    assert_eq!((icmp[0], icmp[1]), (kind, code));
    assert_eq!(icmp[4..8], word.to_be_bytes());
    let quoted = &icmp[8..];
    assert_eq!(quoted, &asked.l3[..quoted.len()], "what is quoted is what was sent");
    assert_eq!(quoted.len(), asked.l3.len().min(128));
}

/// Source and destination.
fn ends(l3: &[u8]) -> (IpAddr, IpAddr) {
    let v4 = |at: usize| <[u8; 4]>::try_from(&l3[at..at + 4]).unwrap().into();
    let v6 = |at: usize| <[u8; 16]>::try_from(&l3[at..at + 16]).unwrap().into();
    if l3[0] >> 4 == 4 { (v4(12), v4(16)) } else { (v6(8), v6(24)) }
}
