//! ICMP errors: what a sender is told of a frame that goes nowhere.
//!
//! A bridge has no address of its own, so its errors speak with the voice of the station that the
//! frame was for; the kernel's bridged tunnels do the same. A cluster segment's gateway has one.
//! Quoted is as much of the offending datagram as RFC 792, RFC 1812 section 4.3.2.3 and RFC 4443
//! section 3.2 ask for.

use crate::check::is_station;
use crate::forward::{Answer, Unreachable};
use encap::inet::proto;
use encap::{EtherType, Ethernet, Fragment, Frame, Inet, IpVersion, MacAddr};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Packet, Icmpv6Packet, IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr, Ipv6Address,
    Ipv6Packet, Ipv6Repr,
};
use std::net::IpAddr;

/// IPv4 header without options.
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const ICMP_HEADER: usize = 8;
/// ICMPv6 type of a redirect (RFC 4861 section 4.5), about which nobody is told either.
const REDIRECT: u8 = 137;
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
    /// An answer to the sender of `to`, whose layer 3 `emit` writes and gives the length of.
    pub(crate) fn new(
        to: &Ethernet,
        from: MacAddr,
        emit: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Option<Self> {
        let mut reply = Self { bytes: [0; ANSWER_MAX], len: 0 };
        let (header, l3) = reply.bytes.split_first_chunk_mut::<14>()?;
        emit_ethernet(header, to.src, from, to.l3_type);
        reply.len = 14 + emit(l3)?;
        Some(reply)
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Whether a sender may be told of `frame`: it is IP, from one station to one station, itself no
/// ICMP error and no later fragment (RFC 1122 section 3.2.2, RFC 4443 section 2.4). Only that it is
/// too big is said of later fragments as well, over IPv6: they are what does not fit.
///
/// RFC 1191 has a router say "too big" only where DF is set, because it fragments the rest. A switch
/// does not fragment, and a host that is told keeps the path's MTU for what it sends without DF as
/// well, so everybody is told: the alternative is a silent loss.
pub(crate) fn may_be_told(frame: &Frame<'_>, ethernet: &Ethernet, answer: Answer) -> bool {
    let Some(inet) = Inet::at(frame.head, ethernet) else { return false };
    let Some((source, destination)) = inet.addresses(frame.head) else { return false };
    // A later fragment has no ICMP header to tell an error by.
    let later = inet.fragment == Fragment::Later;
    let kind = frame.head.get(inet.l4).filter(|_| !later);
    let too_big = matches!(answer, Answer::TooBig { .. });
    let (permitted, error) = match inet.version {
        IpVersion::V4 => {
            let error = matches!(kind, None | Some(3 | 4 | 5 | 11 | 12));
            (!later, inet.proto == proto::ICMP && error)
        }
        IpVersion::V6 => {
            let error = kind.is_none_or(|kind| *kind < 128 || *kind == REDIRECT);
            (!later || too_big, inet.proto == proto::ICMP6 && error)
        }
    };
    permitted && !error && is_station(source) && is_station(destination)
}

/// An ICMP message without its checksum: type, code and the word behind them.
struct Message {
    kind: u8,
    code: u8,
    word: u32,
}

impl Message {
    /// What `answer` is over this version of IP; `None` for what is no ICMP error.
    const fn of(answer: Answer, version: IpVersion) -> Option<Self> {
        let (kind, code, word) = match (answer, version) {
            // RFC 1191 section 4: the low 16 bits of the second word carry the next hop's MTU.
            (Answer::TooBig { mtu }, IpVersion::V4) => (3, 4, mtu as u32),
            (Answer::TooBig { mtu }, IpVersion::V6) => (2, 0, mtu as u32),
            (Answer::TimeExceeded, IpVersion::V4) => (11, 0, 0),
            (Answer::TimeExceeded, IpVersion::V6) => (3, 0, 0),
            (Answer::Unreachable(Unreachable::Host), IpVersion::V4) => (3, 1, 0),
            (Answer::Unreachable(Unreachable::Host), IpVersion::V6) => (1, 3, 0),
            (Answer::Unreachable(Unreachable::Network), IpVersion::V4) => (3, 0, 0),
            (Answer::Unreachable(Unreachable::Network), IpVersion::V6) => (1, 0, 0),
            (Answer::Neighbour | Answer::Echo, _) => return None,
        };
        Some(Self { kind, code, word })
    }

    fn head(&self) -> [u8; ICMP_HEADER] {
        let [a, b, c, d] = self.word.to_be_bytes();
        [self.kind, self.code, 0, 0, a, b, c, d]
    }
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

/// The error that tells the sender of `frame`, in the name of `voice` where that is of the frame's
/// version, and else in that of the frame's destination. `None` when it must not be told.
pub(crate) fn icmp(
    answer: Answer,
    voice: Option<IpAddr>,
    frame: &Frame<'_>,
    ethernet: &Ethernet,
) -> Option<Reply> {
    if !may_be_told(frame, ethernet, answer) {
        return None;
    }
    let l3 = frame.head.get(ethernet.l3..)?;
    let quote = l3.get(..QUOTE.min(l3.len()))?;
    Reply::new(ethernet, ethernet.dst, |out| match ethernet.l3_type {
        EtherType::IPV4 => emit_ipv4(out, quote, voice, &Message::of(answer, IpVersion::V4)?),
        _ => emit_ipv6(out, quote, voice, &Message::of(answer, IpVersion::V6)?),
    })
}

fn emit_ethernet(header: &mut [u8; 14], dst: MacAddr, src: MacAddr, ethertype: EtherType) {
    header[..6].copy_from_slice(&dst.0);
    header[6..12].copy_from_slice(&src.0);
    header[12..].copy_from_slice(&ethertype.0.to_be_bytes());
}

fn emit_ipv4(
    out: &mut [u8],
    quote: &[u8],
    voice: Option<IpAddr>,
    message: &Message,
) -> Option<usize> {
    let (asker, station) = ipv4_addresses(quote.first_chunk()?);
    let voice = match voice {
        Some(IpAddr::V4(voice)) => voice,
        _ => station,
    };
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
    let (head, rest) = icmp.split_first_chunk_mut()?;
    *head = message.head();
    rest.copy_from_slice(quote);
    Icmpv4Packet::new_unchecked(icmp).fill_checksum();
    Some(IPV4_HEADER + payload_len)
}

fn emit_ipv6(
    out: &mut [u8],
    quote: &[u8],
    voice: Option<IpAddr>,
    message: &Message,
) -> Option<usize> {
    let (asker, station) = ipv6_addresses(quote.first_chunk()?);
    let voice = match voice {
        Some(IpAddr::V6(voice)) => voice,
        _ => station,
    };
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
    let (head, rest) = icmp.split_first_chunk_mut()?;
    *head = message.head();
    rest.copy_from_slice(quote);
    Icmpv6Packet::new_unchecked(icmp).fill_checksum(&voice, &asker);
    Some(IPV6_HEADER + payload_len)
}
