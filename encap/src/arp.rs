//! Who has which address: ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861). Views only.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum::Sum;
use crate::ethernet::Ethernet;
use crate::inet::{Fragment, Inet, IpVersion, proto};
use crate::{EtherType, MacAddr};

/// An ARP message for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Request, reply, or another operation.
    pub op: ArpOp,
    /// The sender's MAC address as the message has it; the frame's source may differ.
    pub sender_mac: MacAddr,
    /// The sender's address; unspecified in a probe (RFC 5227).
    pub sender: Ipv4Addr,
    /// The target's MAC address; without meaning in a request.
    pub target_mac: MacAddr,
    /// The address in question.
    pub target: Ipv4Addr,
}

/// What an ARP message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOp {
    /// Who has the target address?
    Request,
    /// The sender has the sender address.
    Reply,
    /// Anything else (RARP, InARP): never to be answered.
    Other(u16),
}

impl Arp {
    /// Reads the ARP message of a frame; `None` when it carries none, or one for other than
    /// IPv4 over Ethernet.
    #[must_use]
    pub fn parse(head: &[u8]) -> Option<Self> {
        Self::at(head, &Ethernet::parse(head).ok()?)
    }

    /// The same for a frame whose Ethernet header was read already.
    #[must_use]
    pub fn at(head: &[u8], ethernet: &Ethernet) -> Option<Self> {
        if ethernet.l3_type != EtherType::ARP {
            return None;
        }
        let (fixed, rest) = head.get(ethernet.l3..)?.split_first_chunk::<8>()?;
        let &[0, 1, 0x08, 0x00, 6, 4, op0, op1] = fixed else { return None };
        let (&sender_mac, rest) = rest.split_first_chunk::<6>()?;
        let (&sender, rest) = rest.split_first_chunk::<4>()?;
        let (&target_mac, rest) = rest.split_first_chunk::<6>()?;
        let &target = rest.first_chunk::<4>()?;
        let op = match u16::from_be_bytes([op0, op1]) {
            1 => ArpOp::Request,
            2 => ArpOp::Reply,
            other => ArpOp::Other(other),
        };
        Some(Self {
            op,
            sender_mac: MacAddr(sender_mac),
            sender: sender.into(),
            target_mac: MacAddr(target_mac),
            target: target.into(),
        })
    }

    /// The address a request asks for, unless the sender asks for its own (an announcement, RFC
    /// 5227 section 2.3).
    #[must_use]
    pub fn who_has(&self) -> Option<Ipv4Addr> {
        (self.op == ArpOp::Request && self.sender != self.target).then_some(self.target)
    }
}

/// A neighbour solicitation or advertisement that passed the checks of RFC 4861 sections 7.1.1
/// and 7.1.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Solicitation, or advertisement with its flags.
    pub kind: NeighbourKind,
    /// IPv6 source; unspecified in a probe (RFC 4862).
    pub source: Ipv6Addr,
    /// IPv6 destination.
    pub destination: Ipv6Addr,
    /// The address in question.
    pub target: Ipv6Addr,
    /// The source (solicitation) or target (advertisement) link-layer address option.
    pub link_layer: Option<MacAddr>,
}

/// What a neighbour discovery message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourKind {
    /// Who has the target address?
    Solicitation,
    /// The target address is here.
    Advertisement {
        /// R: the sender is a router.
        router: bool,
        /// S: the answer to a solicitation.
        solicited: bool,
        /// O: replaces what is cached.
        overrides: bool,
    },
}

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;

impl Neighbour {
    /// Reads the message of a frame that lies in `head` altogether. `None` when it is neither a
    /// solicitation nor an advertisement, or fails a check: hop limit 255, code 0, checksum, not
    /// fragmented (RFC 6980), target no multicast address, every option within the message and
    /// longer than zero.
    #[must_use]
    pub fn parse(head: &[u8]) -> Option<Self> {
        Self::at(head, &Inet::parse(head)?)
    }

    /// The same for a frame whose IP header was found already.
    #[must_use]
    pub fn at(head: &[u8], inet: &Inet) -> Option<Self> {
        let whole = inet.version == IpVersion::V6
            && inet.proto == proto::ICMP6
            && inet.fragment == Fragment::None
            && inet.fits(head.len());
        if !whole || *head.get(inet.l3 + 7)? != 255 {
            return None;
        }
        let message = head.get(inet.l4..inet.l3 + inet.l3_len)?;
        let (&[kind, 0, _, _, flags, _, _, _], rest) = message.split_first_chunk::<8>()? else {
            return None;
        };
        let mut sum = Sum::pseudo(head, inet, message.len());
        sum.add(message);
        if sum.checksum() != 0 {
            return None;
        }
        let (IpAddr::V6(source), IpAddr::V6(destination)) = inet.addresses(head)? else {
            return None;
        };
        let (&target, options) = rest.split_first_chunk::<16>()?;
        let target = Ipv6Addr::from(target);
        let (kind, wanted) = match kind {
            SOLICITATION => (NeighbourKind::Solicitation, OPTION_SOURCE),
            ADVERTISEMENT => {
                let router = flags & 0x80 != 0;
                let solicited = flags & 0x40 != 0;
                let overrides = flags & 0x20 != 0;
                let kind = NeighbourKind::Advertisement { router, solicited, overrides };
                (kind, OPTION_TARGET)
            }
            _ => return None,
        };
        let link_layer = link_layer(options, wanted)?;
        let message = Self { kind, source, destination, target, link_layer };
        message.is_consistent().then_some(message)
    }

    fn is_consistent(&self) -> bool {
        let addressed = match self.kind {
            NeighbourKind::Solicitation if self.source.is_unspecified() => {
                is_solicited_node(self.destination) && self.link_layer.is_none()
            }
            NeighbourKind::Solicitation => true,
            NeighbourKind::Advertisement { solicited, .. } => {
                !(solicited && self.destination.is_multicast())
            }
        };
        addressed && !self.target.is_multicast()
    }

    /// The address a solicitation asks for, unless it is a probe for the sender's own.
    #[must_use]
    pub fn who_has(&self) -> Option<Ipv6Addr> {
        (self.kind == NeighbourKind::Solicitation && !self.source.is_unspecified())
            .then_some(self.target)
    }
}

/// ff02::1:ff00:0/104 (RFC 4291 section 2.7.1).
fn is_solicited_node(address: Ipv6Addr) -> bool {
    matches!(address.octets(), [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, ..])
}

/// Walks the options: the outer `None` when one is malformed, the inner when none is `wanted`.
fn link_layer(mut options: &[u8], wanted: u8) -> Option<Option<MacAddr>> {
    let mut found = None;
    while !options.is_empty() {
        let &[kind, units] = options.first_chunk::<2>()?;
        if units == 0 {
            return None;
        }
        let (option, rest) = options.split_at_checked(usize::from(units) * 8)?;
        if kind == wanted && found.is_none() {
            let &[_, _, mac @ ..] = option.first_chunk::<8>()?;
            found = Some(MacAddr(mac));
        }
        options = rest;
    }
    Some(found)
}
