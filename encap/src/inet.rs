//! Where layer 4 begins: a dissection of IPv4 and IPv6 that reads no more than it must.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::EtherType;
use crate::ethernet::Ethernet;
pub use crate::mtu::IpVersion;

/// IP protocol numbers that mean something here.
pub mod proto {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IGMP, which is IPv4's.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMP6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const DESTINATION: u8 = 60;
}

/// IPv6 extension headers that are walked; a longer chain is not understood.
const EXTENSIONS_MAX: usize = 8;

/// Whether the packet is a piece of a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// Not fragmented.
    None,
    /// An IPv6 fragment header around a whole packet (RFC 6946).
    Atomic,
    /// The first fragment: layer 4 begins here, but its payload is not whole.
    First,
    /// A later one: what stands at `l4` is payload.
    Later,
}

impl Fragment {
    /// Whether something is missing: other fragments carry it.
    #[must_use]
    pub const fn is_piece(self) -> bool {
        matches!(self, Self::First | Self::Later)
    }
}

/// An IP header and the way to layer 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inet {
    /// IPv4 or IPv6.
    pub version: IpVersion,
    /// TOS or traffic class: DSCP and ECN.
    pub tos: u8,
    /// Layer 4 protocol: behind the extension headers that are known.
    pub proto: u8,
    /// Whether this is a fragment.
    pub fragment: Fragment,
    /// Whether there are IPv4 options or IPv6 extension headers.
    pub extended: bool,
    /// Offset of the IP header in the frame.
    pub l3: usize,
    /// Offset of layer 4 in the frame. The head may end there.
    pub l4: usize,
    /// Bytes of the packet, IP header included, as it claims. At least `l4 - l3`; compare with
    /// the frame by [`Self::fits`].
    pub l3_len: usize,
}

impl Inet {
    /// Finds the IP header of a frame. `None` when there is none, when it contradicts itself or
    /// when `head` ends within it.
    #[must_use]
    pub fn parse(head: &[u8]) -> Option<Self> {
        Self::at(head, &Ethernet::parse(head).ok()?)
    }

    /// The same for a frame whose Ethernet header was read already.
    #[must_use]
    #[inline]
    pub fn at(head: &[u8], ethernet: &Ethernet) -> Option<Self> {
        Self::behind(head, ethernet.l3_type, ethernet.l3)
    }

    /// The same for a head whose layer 3 is known to be of this type and to begin here.
    #[must_use]
    #[inline]
    pub fn behind(head: &[u8], l3_type: EtherType, l3: usize) -> Option<Self> {
        match l3_type {
            EtherType::IPV4 => Self::v4(head, l3),
            EtherType::IPV6 => Self::v6(head, l3),
            _ => None,
        }
    }

    #[inline]
    fn v4(head: &[u8], l3: usize) -> Option<Self> {
        let packet = head.get(l3..)?;
        let &[first, tos, len0, len1, _, _, frag0, frag1, _, proto, ..] =
            packet.first_chunk::<20>()?;
        let header_len = usize::from(first & 0x0f) * 4;
        let l3_len = usize::from(u16::from_be_bytes([len0, len1]));
        if first >> 4 != 4 || header_len < 20 || packet.len() < header_len || l3_len < header_len {
            return None;
        }
        let more = frag0 & 0x20 != 0;
        let fragment = match (u16::from_be_bytes([frag0 & 0x1f, frag1]), more) {
            (0, false) => Fragment::None,
            (0, true) => Fragment::First,
            _ => Fragment::Later,
        };
        Some(Self {
            version: IpVersion::V4,
            tos,
            proto,
            fragment,
            extended: header_len > 20,
            l3,
            l4: l3 + header_len,
            l3_len,
        })
    }

    fn v6(head: &[u8], l3: usize) -> Option<Self> {
        let packet = head.get(l3..)?;
        let &[a, b, _, _, len0, len1, mut proto, ..] = packet.first_chunk::<40>()?;
        if a >> 4 != 6 {
            return None;
        }
        let l3_len = 40 + usize::from(u16::from_be_bytes([len0, len1]));
        let mut fragment = Fragment::None;
        let mut at = 40;
        for _ in 0..EXTENSIONS_MAX {
            let fixed = packet.get(at..).and_then(|rest| rest.first_chunk::<8>());
            match proto {
                proto::HOP_BY_HOP | proto::ROUTING | proto::DESTINATION => {
                    let &[next, units, ..] = fixed?;
                    proto = next;
                    at += (usize::from(units) + 1) * 8;
                }
                proto::FRAGMENT => {
                    let &[next, _, off0, off1, ..] = fixed?;
                    proto = next;
                    at += 8;
                    let field = u16::from_be_bytes([off0, off1]);
                    fragment = match (field >> 3, field & 1 != 0) {
                        (0, false) => Fragment::Atomic,
                        (0, true) => Fragment::First,
                        _ => Fragment::Later,
                    };
                    if fragment == Fragment::Later {
                        break;
                    }
                }
                _ => break,
            }
        }
        let unfinished = matches!(
            proto,
            proto::HOP_BY_HOP | proto::ROUTING | proto::DESTINATION | proto::FRAGMENT
        );
        if at > l3_len || at > packet.len() || (unfinished && fragment != Fragment::Later) {
            return None;
        }
        Some(Self {
            version: IpVersion::V6,
            tos: (a << 4) | (b >> 4),
            proto,
            fragment,
            extended: at > 40,
            l3,
            l4: l3 + at,
            l3_len,
        })
    }

    /// Whether the packet, as long as it claims to be, lies within a frame of this many bytes.
    #[must_use]
    pub const fn fits(&self, frame_len: usize) -> bool {
        self.l3 + self.l3_len <= frame_len
    }

    /// Whether the packet ends where a frame of this many bytes does: no trailing padding.
    #[must_use]
    pub const fn fits_exactly(&self, frame_len: usize) -> bool {
        self.l3 + self.l3_len == frame_len
    }

    /// Bytes from layer 4 on, as the packet claims.
    #[must_use]
    pub const fn l4_len(&self) -> usize {
        self.l3_len - (self.l4 - self.l3)
    }

    /// Offsets of source and destination address, one behind the other.
    const fn address_range(&self) -> core::ops::Range<usize> {
        match self.version {
            IpVersion::V4 => self.l3 + 12..self.l3 + 20,
            IpVersion::V6 => self.l3 + 8..self.l3 + 40,
        }
    }

    /// Source and destination, one behind the other. Empty when this is not the head that was
    /// parsed.
    pub(crate) fn address_bytes<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        head.get(self.address_range()).unwrap_or_default()
    }

    /// The sum of source and destination as big-endian numbers of four bytes each; of IPv6, of the
    /// last two of each address. Missing ones count as zero.
    #[inline]
    pub(crate) fn address_sum(&self, head: &[u8]) -> u32 {
        let addresses = self.address_bytes(head);
        let word = |at: usize| {
            let bytes = addresses.get(at..).and_then(|rest| rest.first_chunk());
            bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
        };
        let sum = |of: &[usize]| of.iter().fold(0, |sum: u32, at| sum.wrapping_add(word(*at)));
        match self.version {
            IpVersion::V4 => sum(&[0, 4]),
            IpVersion::V6 => sum(&[8, 12, 24, 28]),
        }
    }

    /// Source and destination address; `None` when this is not the head that was parsed.
    #[must_use]
    pub fn addresses(&self, head: &[u8]) -> Option<(IpAddr, IpAddr)> {
        let bytes = self.address_bytes(head);
        Some(match self.version {
            IpVersion::V4 => {
                let (&src, rest) = bytes.split_first_chunk::<4>()?;
                let &dst = rest.first_chunk::<4>()?;
                (Ipv4Addr::from(src).into(), Ipv4Addr::from(dst).into())
            }
            IpVersion::V6 => {
                let (&src, rest) = bytes.split_first_chunk::<16>()?;
                let &dst = rest.first_chunk::<16>()?;
                (Ipv6Addr::from(src).into(), Ipv6Addr::from(dst).into())
            }
        })
    }

    /// Source and destination port of an unfragmented TCP, UDP or SCTP packet.
    #[must_use]
    pub fn ports(&self, head: &[u8]) -> Option<(u16, u16)> {
        if self.fragment.is_piece()
            || !matches!(self.proto, proto::TCP | proto::UDP | proto::SCTP)
            || self.l4_len() < 4
        {
            return None;
        }
        let &[a, b, c, d] = head.get(self.l4..)?.first_chunk::<4>()?;
        Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{tagged, tcp4, tcp6, udp4, udp6};

    /// An IPv6 frame with these extension headers in front of `proto`.
    fn extended(extensions: &[(u8, [u8; 7])], proto: u8, payload: usize) -> Vec<u8> {
        let mut frame = udp6(0)[..54].to_vec();
        let mut kinds: Vec<u8> = extensions.iter().map(|(kind, _)| *kind).collect();
        kinds.push(proto);
        frame[20] = kinds[0];
        for ((_, rest), next) in extensions.iter().zip(&kinds[1..]) {
            frame.push(*next);
            frame.extend(rest);
            let padding = if rest[0] < 8 { usize::from(rest[0]) * 8 } else { 0 };
            frame.extend(vec![0; padding]);
        }
        frame.extend(vec![0xaa; payload]);
        let len = (frame.len() - 54) as u16;
        frame[18..20].copy_from_slice(&len.to_be_bytes());
        frame
    }

    #[test]
    fn agrees_with_etherparse() {
        for (frame, proto) in [
            (tcp4(9), proto::TCP),
            (tcp6(9), proto::TCP),
            (udp4(9), proto::UDP),
            (udp6(9), proto::UDP),
            (tagged(&udp6(9), [0x81, 0, 0, 5]), proto::UDP),
            // A protocol that etherparse does not look into.
            (extended(&[(0, [1; 7]), (60, [0; 7])], 253, 12), 253),
        ] {
            let inet = Inet::parse(&frame).unwrap();
            let oracle = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
            let net = oracle.net.unwrap();
            let payload = net.ip_payload_ref().unwrap();
            let l4 = payload.payload.as_ptr() as usize - frame.as_ptr() as usize;
            assert_eq!((inet.l4, inet.proto), (l4, proto));
            assert_eq!(inet.l4_len(), payload.payload.len());
            assert!(inet.fits(frame.len()) && inet.fits_exactly(frame.len()));
            assert!(!inet.fits(frame.len() - 1));
            let (src, dst) = match net {
                etherparse::NetSlice::Ipv4(ip) => {
                    let header = ip.header();
                    (header.source_addr().into(), header.destination_addr().into())
                }
                etherparse::NetSlice::Ipv6(ip) => {
                    let header = ip.header();
                    (header.source_addr().into(), header.destination_addr().into())
                }
                etherparse::NetSlice::Arp(_) => panic!("no ARP was built"),
            };
            assert_eq!(inet.addresses(&frame), Some((src, dst)));
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let broken = |at: usize, value: u8| {
            let mut frame = tcp4(0);
            frame[at] = value;
            Inet::parse(&frame)
        };
        assert!(broken(14, 0x45).is_some());
        assert_eq!(broken(14, 0x44), None, "header length below 20");
        assert_eq!(broken(14, 0x65), None, "version 6 in an IPv4 frame");
        assert_eq!(broken(17, 19), None, "total length below the header's");
        assert!(broken(14, 0x4f).is_none(), "header length beyond total length");
        let mut v6 = tcp6(0);
        v6[14] = 0x45;
        assert_eq!(Inet::parse(&v6), None);
        for frame in [tcp4(0), tcp6(0)] {
            let l4 = Inet::parse(&frame).unwrap().l4;
            for len in 0..l4 {
                assert_eq!(Inet::parse(&frame[..len]), None);
            }
            assert!(Inet::parse(&frame[..l4]).is_some_and(|inet| !inet.fits(l4)));
        }
    }

    #[test]
    fn fragments() {
        let v4 = |field: [u8; 2]| {
            let mut frame = udp4(8);
            frame[20..22].copy_from_slice(&field);
            Inet::parse(&frame).unwrap()
        };
        assert_eq!(v4([0x40, 0]).fragment, Fragment::None);
        assert_eq!(v4([0x20, 0]).fragment, Fragment::First);
        assert_eq!(v4([0x20, 1]).fragment, Fragment::Later);
        assert_eq!(v4([0x00, 1]).fragment, Fragment::Later);
        let v6 = |field: [u8; 2]| {
            let [hi, lo] = field;
            Inet::parse(&extended(&[(44, [0, hi, lo, 0, 0, 0, 9])], proto::UDP, 8)).unwrap()
        };
        assert_eq!(v6([0, 0]).fragment, Fragment::Atomic);
        assert_eq!(v6([0, 1]).fragment, Fragment::First);
        assert_eq!(v6([0, 8]).fragment, Fragment::Later);
        assert_eq!(v6([1, 1]).fragment, Fragment::Later);
        assert!(!Fragment::Atomic.is_piece());
    }

    #[test]
    fn ports_only_where_they_are() {
        let frame = udp4(8);
        let inet = Inet::parse(&frame).unwrap();
        assert_eq!(inet.ports(&frame), Some((40_000, 53)));
        for fragment in [Fragment::First, Fragment::Later] {
            assert_eq!(Inet { fragment, ..inet }.ports(&frame), None);
        }
        assert_eq!(Inet { proto: 1, ..inet }.ports(&frame), None);
        assert_eq!(inet.ports(&frame[..37]), None);
        // A packet that ends before its ports must not lend them from padding.
        assert_eq!(Inet { l3_len: 22, ..inet }.ports(&frame), None);
    }

    #[test]
    fn extension_chains_are_bounded() {
        let chain = |count| extended(&vec![(60, [0; 7]); count], proto::TCP, 20);
        assert_eq!(Inet::parse(&chain(8)).map(|inet| inet.l4), Some(54 + 64));
        assert_eq!(Inet::parse(&chain(9)), None);
        // A header that says it is longer than the packet.
        assert_eq!(Inet::parse(&extended(&[(60, [9, 0, 0, 0, 0, 0, 0])], 6, 20)), None);
        // No next header ends the chain.
        let none = extended(&[(0, [0; 7])], 59, 4);
        assert_eq!(Inet::parse(&none).map(|inet| (inet.proto, inet.l4)), Some((59, 62)));
    }
}
