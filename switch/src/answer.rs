//! What the switch says itself: that a frame is too big for where it would go.
//!
//! The error speaks with the voice of the station that the frame was for, since a bridge has no
//! address of its own; the kernel's bridged tunnels do the same. Quoted is as much of the offending
//! datagram as RFC 792, RFC 1812 section 4.3.2.3 and RFC 4443 section 3.2 ask for.

use encap::inet::proto;
use encap::{EtherType, Ethernet, Fragment, Frame, Inet, IpVersion, MacAddr};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol, Ipv4Address, Ipv4Packet,
    Ipv4Repr, Ipv6Address, Ipv6Packet, Ipv6Repr,
};
use std::net::{IpAddr, Ipv4Addr};

/// IPv4 header without options.
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const ICMP_HEADER: usize = 8;
/// IP protocol number of ICMP over IPv4.
const ICMP: u8 = 1;
/// Bytes of the offending datagram that are quoted: what a head always holds, within 576 bytes.
const QUOTE: usize = 128;
/// The longest answer: Ethernet, IPv6, ICMPv6 and the quote.
const ANSWER_MAX: usize = 14 + IPV6_HEADER + ICMP_HEADER + QUOTE;

/// An answer's bytes, untagged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply {
    bytes: [u8; ANSWER_MAX],
    len: usize,
}

impl Reply {
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Whether a sender may be told that `frame` is too big: it is IP, from one station to one station,
/// itself no ICMP error and no later fragment (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
///
/// RFC 1191 has a router say this only where DF is set, because it fragments the rest. A switch
/// does not fragment, and a host that is told keeps the path's MTU for what it sends without DF as
/// well, so everybody is told: the alternative is a silent loss.
pub(crate) fn may_be_told(frame: &Frame<'_>, ethernet: &Ethernet) -> bool {
    let Some(inet) = Inet::at(frame.head, ethernet) else { return false };
    let Some((source, destination)) = inet.addresses(frame.head) else { return false };
    // A later fragment has no ICMP header to tell an error by.
    let kind = frame.head.get(inet.l4).filter(|_| inet.fragment != Fragment::Later);
    let (permitted, error) = match inet.version {
        IpVersion::V4 => {
            let error = matches!(kind, None | Some(3 | 4 | 5 | 11 | 12));
            (inet.fragment != Fragment::Later, inet.proto == ICMP && error)
        }
        IpVersion::V6 => (true, inet.proto == proto::ICMP6 && kind.is_none_or(|kind| *kind < 128)),
    };
    permitted && !error && is_station(source) && is_station(destination)
}

/// Whether the address can be that of one station.
fn is_station(address: IpAddr) -> bool {
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !address.is_multicast() && !address.is_unspecified() && !broadcast
}

fn ipv4_addresses(header: &[u8; IPV4_HEADER]) -> (Ipv4Address, Ipv4Address) {
    let [.., a, b, c, d, e, f, g, h] = *header;
    (Ipv4Address::new(a, b, c, d), Ipv4Address::new(e, f, g, h))
}

fn ipv6_addresses(header: &[u8; IPV6_HEADER]) -> (Ipv6Address, Ipv6Address) {
    let mut octets = [[0; 16]; 2];
    octets[0].copy_from_slice(&header[8..24]);
    octets[1].copy_from_slice(&header[24..40]);
    (Ipv6Address::from(octets[0]), Ipv6Address::from(octets[1]))
}

/// The answer to `frame`: its sender may send at most `mtu` layer 3 bytes to where it goes. `None`
/// when it must not be told.
pub(crate) fn too_big(frame: &Frame<'_>, ethernet: &Ethernet, mtu: u16) -> Option<Reply> {
    if !may_be_told(frame, ethernet) {
        return None;
    }
    let l3 = frame.head.get(ethernet.l3..)?;
    let quote = l3.get(..QUOTE.min(l3.len()))?;
    let mut reply = Reply { bytes: [0; ANSWER_MAX], len: 0 };
    let (header, l3) = reply.bytes.split_first_chunk_mut::<14>()?;
    emit_ethernet(header, ethernet.src, ethernet.dst, ethernet.l3_type);
    let l3_len = if ethernet.l3_type == EtherType::IPV4 {
        emit_ipv4(l3, quote, mtu)?
    } else {
        emit_ipv6(l3, quote, mtu)?
    };
    reply.len = 14 + l3_len;
    Some(reply)
}

fn emit_ethernet(header: &mut [u8; 14], dst: MacAddr, src: MacAddr, ethertype: EtherType) {
    header[..6].copy_from_slice(&dst.0);
    header[6..12].copy_from_slice(&src.0);
    header[12..].copy_from_slice(&ethertype.0.to_be_bytes());
}

fn emit_ipv4(out: &mut [u8], quote: &[u8], mtu: u16) -> Option<usize> {
    let (asker, voice) = ipv4_addresses(quote.first_chunk()?);
    let payload_len = ICMP_HEADER + quote.len();
    let repr = Ipv4Repr {
        src_addr: voice,
        dst_addr: asker,
        next_header: IpProtocol::Icmp,
        payload_len,
        hop_limit: 64,
    };
    let out = out.get_mut(..IPV4_HEADER + payload_len)?;
    repr.emit(&mut Ipv4Packet::new_unchecked(&mut *out), &ChecksumCapabilities::default());
    let icmp = out.get_mut(IPV4_HEADER..)?;
    icmp.get_mut(ICMP_HEADER..)?.copy_from_slice(quote);
    // RFC 1191 section 4: the low 16 bits of the second word carry the next hop's MTU.
    icmp.get_mut(6..8)?.copy_from_slice(&mtu.to_be_bytes());
    let mut icmp = Icmpv4Packet::new_unchecked(icmp);
    icmp.set_msg_type(Icmpv4Message::DstUnreachable);
    icmp.set_msg_code(4);
    icmp.fill_checksum();
    Some(IPV4_HEADER + payload_len)
}

fn emit_ipv6(out: &mut [u8], quote: &[u8], mtu: u16) -> Option<usize> {
    let (asker, voice) = ipv6_addresses(quote.first_chunk()?);
    let payload_len = ICMP_HEADER + quote.len();
    let repr = Ipv6Repr {
        src_addr: voice,
        dst_addr: asker,
        next_header: IpProtocol::Icmpv6,
        payload_len,
        hop_limit: 64,
    };
    let out = out.get_mut(..IPV6_HEADER + payload_len)?;
    repr.emit(&mut Ipv6Packet::new_unchecked(&mut *out));
    let icmp = out.get_mut(IPV6_HEADER..)?;
    icmp.get_mut(ICMP_HEADER..)?.copy_from_slice(quote);
    icmp.get_mut(4..8)?.copy_from_slice(&u32::from(mtu).to_be_bytes());
    let mut icmp = Icmpv6Packet::new_unchecked(icmp);
    icmp.set_msg_type(Icmpv6Message::PktTooBig);
    icmp.set_msg_code(0);
    icmp.fill_checksum(&voice, &asker);
    Some(IPV6_HEADER + payload_len)
}
