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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tagged;

    fn arp(op: u8) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, 2, 0x08, 0x06]);
        frame.extend([0, 1, 8, 0, 6, 4, 0, op]);
        frame.extend([2, 0, 0, 0, 0, 2, 10, 0, 0, 2]);
        frame.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
        frame
    }

    #[test]
    fn a_request_asks() {
        let frame = arp(1);
        let padded = [&frame[..], &[0; 18]].concat();
        for frame in [frame.clone(), padded, tagged(&frame, [0x81, 0, 0, 3])] {
            let message = Arp::parse(&frame).unwrap();
            assert_eq!(message.op, ArpOp::Request);
            assert_eq!(message.who_has(), Some([10, 0, 0, 1].into()));
            assert_eq!(message.sender, Ipv4Addr::from([10, 0, 0, 2]));
            assert_eq!(message.sender_mac, MacAddr([2, 0, 0, 0, 0, 2]));
        }
        let mut own = frame;
        own[41] = 2;
        assert_eq!(Arp::parse(&own).unwrap().who_has(), None, "an announcement asks nobody");
        assert_eq!(Arp::parse(&arp(2)).unwrap().who_has(), None);
        assert_eq!(Arp::parse(&arp(9)).unwrap().op, ArpOp::Other(9));
    }

    #[test]
    fn other_hardware_and_short_messages_are_none() {
        for (at, value) in [(13, 0), (15, 2), (16, 9), (18, 8), (19, 16)] {
            let mut frame = arp(1);
            frame[at] = value;
            assert_eq!(Arp::parse(&frame), None, "byte {at}");
        }
        for len in 0..42 {
            assert_eq!(Arp::parse(&arp(1)[..len]), None);
        }
    }

    const SOLICITED_NODE: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 9];
    const HERE: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    const TARGET: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    const SOURCE_OPTION: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 2];
    const TARGET_OPTION: [u8; 8] = [2, 1, 2, 0, 0, 0, 0, 9];

    /// A message with its checksum by etherparse.
    fn nd(kind: u8, flags: u8, from: [u8; 16], to: [u8; 16], options: &[u8]) -> Vec<u8> {
        let body = [&TARGET, options].concat();
        let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [0x33; 6])
            .ipv6(from, to, 255)
            .icmpv6_raw(kind, 0, [flags, 0, 0, 0]);
        let mut frame = Vec::new();
        builder.write(&mut frame, &body).unwrap();
        frame
    }

    #[test]
    fn a_solicitation_asks() {
        let frame = nd(135, 0, HERE, SOLICITED_NODE, &SOURCE_OPTION);
        let message = Neighbour::parse(&frame).unwrap();
        assert_eq!(message.who_has(), Some(TARGET.into()));
        assert_eq!(message.link_layer, Some(MacAddr([2, 0, 0, 0, 0, 2])));
        let probe = Neighbour::parse(&nd(135, 0, [0; 16], SOLICITED_NODE, &[])).unwrap();
        assert_eq!(probe.who_has(), None);
    }

    #[test]
    fn an_advertisement_answers() {
        let frame = nd(136, 0xe0, TARGET, HERE, &TARGET_OPTION);
        let message = Neighbour::parse(&frame).unwrap();
        let all = NeighbourKind::Advertisement { router: true, solicited: true, overrides: true };
        assert_eq!(message.kind, all);
        assert_eq!(message.link_layer, Some(MacAddr([2, 0, 0, 0, 0, 9])));
        assert_eq!(message.who_has(), None);
    }

    #[test]
    fn rfc_4861_checks() {
        let option = |bytes: &[u8]| nd(135, 0, HERE, SOLICITED_NODE, bytes);
        assert!(Neighbour::parse(&option(&[])).is_some());
        assert!(Neighbour::parse(&option(&[14, 1, 0, 0, 0, 0, 0, 0])).is_some(), "others pass");
        let zero = [SOURCE_OPTION, [1, 0, 0, 0, 0, 0, 0, 0]].concat();
        for (name, frame) in [
            ("option of length zero", option(&zero)),
            ("option past the end", option(&[1, 2, 2, 0, 0, 0, 0, 2])),
            ("half an option", option(&[1])),
            ("option with a probe", nd(135, 0, [0; 16], SOLICITED_NODE, &SOURCE_OPTION)),
            ("probe to a host", nd(135, 0, [0; 16], HERE, &[])),
            ("solicited to a group", nd(136, 0x40, TARGET, SOLICITED_NODE, &TARGET_OPTION)),
            ("router advertisement", nd(134, 0, HERE, SOLICITED_NODE, &[])),
        ] {
            assert_eq!(Neighbour::parse(&frame), None, "{name}");
        }
        let good = option(&SOURCE_OPTION);
        // Hop limit, code, checksum, payload length.
        for at in [21, 55, 56, 60, 19] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(Neighbour::parse(&bad), None, "byte {at}");
        }
        for len in 0..good.len() {
            assert_eq!(Neighbour::parse(&good[..len]), None);
        }
    }

    #[test]
    fn a_multicast_target_is_refused() {
        let mut frame = nd(135, 0, HERE, SOLICITED_NODE, &[]);
        frame[62] = 0xff;
        // Mended by hand, so that only the target is wrong.
        let check = u16::from_be_bytes([frame[56], frame[57]]);
        let check = crate::checksum::update(check, 0xfd00, 0xff00);
        frame[56..58].copy_from_slice(&check.to_be_bytes());
        assert_eq!(Neighbour::parse(&frame), None);
    }
}
