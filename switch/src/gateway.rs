//! What the gateway of a cluster segment is to those on its link: the neighbour they ask for, and
//! somebody who answers a ping.

use crate::answer::Reply;
use crate::classify::Admitted;
use crate::cluster::Stop;
use crate::forward::Answer;
use crate::reason::DropReason;
use crate::spec::{GATEWAY_MAC, GATEWAY_V6};
use crate::topology::Port;
use encap::inet::proto;
use encap::{
    Arp, Checksum, Fragment, Frame, Head, Inet, IpVersion, Neighbour, StationMac, checksum,
};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, Icmpv6Packet, Icmpv6Repr, IpProtocol,
    Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr,
};
use std::net::IpAddr;

/// Whether the packet is about the link alone: neighbour and router discovery, redirects (RFC 4861),
/// and who listens to which multicast group (RFC 2710, RFC 3810, RFC 3376).
///
/// So is an ICMPv6 message whose first piece ends before its type: the next one would bring it past
/// here (RFC 7113 section 2.2). Nobody in good faith sends discovery in pieces (RFC 6980).
#[inline]
pub(crate) fn is_link_control(head: &[u8], inet: &Inet) -> bool {
    match (inet.version, inet.proto) {
        (IpVersion::V4, proto::IGMP) => true,
        (IpVersion::V6, proto::ICMP6) if inet.fragment != Fragment::Later => {
            // What stands behind the packet is padding.
            let kind = head.get(inet.l4).filter(|_| inet.l4_len() > 0);
            matches!(kind, None | Some(130..=137 | 143))
        }
        _ => false,
    }
}

/// Whether `port` is told that the gateway has this address: yes for all but its own, as a proxy
/// would (RFC 1027, RFC 4861 section 7.2.8), since everything is behind the gateway.
fn is_ours(port: &Port, address: IpAddr) -> bool {
    !port.spec.role.addresses().contains(&address)
}

/// What becomes of an ARP message from `port`.
#[cold]
pub(crate) fn asked(frame: &Frame<'_>, admitted: &Admitted, port: &Port) -> Stop {
    let arp = Arp::at(frame.head, &admitted.ethernet);
    // A probe (RFC 5227) comes from nobody: that nobody objects is what it is for.
    let asks = arp.filter(|arp| !arp.sender.is_unspecified()).and_then(|arp| arp.who_has());
    match asks {
        Some(address) if is_ours(port, address.into()) => Stop::Answer(Answer::Neighbour),
        _ => Stop::Drop(DropReason::LinkControl),
    }
}

/// What becomes of link control over IP from `port`: a solicitation is answered, and no probe
/// (RFC 4862) is one.
#[cold]
pub(crate) fn solicited(head: &[u8], inet: &Inet, port: &Port) -> Stop {
    match Neighbour::at(head, inet).and_then(|message| message.who_has()) {
        Some(address) if is_ours(port, address.into()) => Stop::Answer(Answer::Neighbour),
        _ => Stop::Drop(DropReason::LinkControl),
    }
}

/// What becomes of a packet for the gateway's own address.
#[cold]
pub(crate) fn called(head: &[u8], inet: &Inet) -> Stop {
    match echo_reply(head, inet) {
        Some(_) => Stop::Answer(Answer::Echo),
        None => Stop::Drop(DropReason::NoRoute),
    }
}

/// The ICMP type that replies to the packet, if it is a whole echo request (RFC 792, RFC 4443
/// section 4.1).
fn echo_reply(head: &[u8], inet: &Inet) -> Option<u8> {
    let &[kind, 0, ..] = head.get(inet.l4..)?.first_chunk::<8>()? else { return None };
    match (inet.version, inet.proto, kind, inet.fragment) {
        (IpVersion::V4, proto::ICMP, 8, Fragment::None) => Some(0),
        (IpVersion::V6, proto::ICMP6, 128, Fragment::None | Fragment::Atomic) => Some(129),
        _ => None,
    }
}

/// The head of the reply to a ping: the same one with both ends exchanged, so that the payload need
/// not be copied. Exchanging addresses changes no checksum.
pub(crate) fn echo(frame: &Frame<'_>, to: StationMac, inet: &Inet) -> Option<Head> {
    let reply = echo_reply(frame.head, inet)?;
    let mut head = Head::copy_of(frame.head);
    head.set_dst(to.get());
    head.set_src(GATEWAY_MAC.get());
    let bytes = head.as_mut_slice();
    let (addresses, len) = match inet.version {
        IpVersion::V4 => (inet.l3 + 12, 4),
        IpVersion::V6 => (inet.l3 + 8, 16),
    };
    let (source, destination) = bytes.get_mut(addresses..addresses + 2 * len)?.split_at_mut(len);
    source.swap_with_slice(destination);
    let [kind, code, c0, c1, ..] = bytes.get_mut(inet.l4..)?.first_chunk_mut::<8>()?;
    if !matches!(frame.offload.checksum, Checksum::Partial { .. }) {
        let words = [*kind, reply].map(|kind| u16::from_be_bytes([kind, *code]));
        let sum = checksum::update(u16::from_be_bytes([*c0, *c1]), words[0], words[1]);
        [*c0, *c1] = sum.to_be_bytes();
    }
    *kind = reply;
    Some(head)
}

/// What tells the sender of an ARP request or a neighbour solicitation that the address which it asks
/// for is the gateway's.
pub(crate) fn neighbour(frame: &Frame<'_>, admitted: &Admitted) -> Option<Reply> {
    let mac = EthernetAddress(GATEWAY_MAC.get().0);
    if let Some(arp) = Arp::at(frame.head, &admitted.ethernet) {
        let repr = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: mac,
            source_protocol_addr: arp.target,
            target_hardware_addr: EthernetAddress(admitted.ethernet.src.0),
            target_protocol_addr: arp.sender,
        };
        return Reply::new(&admitted.ethernet, GATEWAY_MAC.get(), |out| {
            let len = repr.buffer_len();
            repr.emit(&mut ArpPacket::new_unchecked(out.get_mut(..len)?));
            Some(len)
        });
    }
    let message = Neighbour::at(frame.head, &Inet::at(frame.head, &admitted.ethernet)?)?;
    let (asker, voice) = (message.source, GATEWAY_V6);
    let mut flags = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::SOLICITED;
    // RFC 4861 section 7.2.8: a proxy does not override.
    flags.set(NdiscNeighborFlags::OVERRIDE, message.target == GATEWAY_V6);
    let advert = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags,
        target_addr: message.target,
        lladdr: Some(mac.into()),
    });
    let ip = Ipv6Repr {
        src_addr: voice,
        dst_addr: asker,
        next_header: IpProtocol::Icmpv6,
        payload_len: advert.buffer_len(),
        hop_limit: 255,
    };
    Reply::new(&admitted.ethernet, GATEWAY_MAC.get(), |out| {
        let len = ip.buffer_len() + advert.buffer_len();
        let out = out.get_mut(..len)?;
        ip.emit(&mut Ipv6Packet::new_unchecked(&mut *out));
        let message = &mut Icmpv6Packet::new_unchecked(out.get_mut(ip.buffer_len()..)?);
        advert.emit(&voice, &asker, message, &ChecksumCapabilities::default());
        Some(len)
    })
}
