//! Where layer 4 begins: a dissection of IPv4 and IPv6 that reads no more than it must.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::EtherType;
use crate::ethernet::Ethernet;
pub use crate::mtu::IpVersion;

/// IP protocol numbers that mean something here.
pub mod proto {
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
    pub fn at(head: &[u8], ethernet: &Ethernet) -> Option<Self> {
        match ethernet.l3_type {
            EtherType::IPV4 => Self::v4(head, ethernet.l3),
            EtherType::IPV6 => Self::v6(head, ethernet.l3),
            _ => None,
        }
    }

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

    /// Bytes from layer 4 on, as the packet claims.
    #[must_use]
    pub const fn l4_len(&self) -> usize {
        self.l3_len - (self.l4 - self.l3)
    }

    /// Offsets of the two addresses: source, destination and what follows; both are in the head.
    #[must_use]
    pub(crate) const fn address_range(&self) -> core::ops::Range<usize> {
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
