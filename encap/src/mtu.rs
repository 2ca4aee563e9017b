//! What the tunnel costs, in bytes.

use crate::{ethernet, vxlan};

/// The IP version of the underlay or of an inner frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpVersion {
    /// IPv4 (RFC 791).
    V4,
    /// IPv6 (RFC 8200).
    V6,
}

impl IpVersion {
    /// Bytes of the fixed IP header.
    #[must_use]
    pub const fn header_len(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }
}

/// Bytes of a UDP header.
pub const UDP_HEADER_LEN: usize = 8;
/// The most bytes one UDP send takes over IPv4, all segments of a `UDP_SEGMENT` send together;
/// used for IPv6 as well.
pub const UDP_PAYLOAD_MAX: usize = 65_535 - 20 - UDP_HEADER_LEN;
/// The most segments of one `UDP_SEGMENT` send since Linux 6.9 (`UDP_MAX_SEGMENTS`).
pub const UDP_SEGMENTS_MAX: usize = 128;
/// The same before Linux 6.9.
pub const UDP_SEGMENTS_MAX_OLD: usize = 64;

/// What an inner L3 packet grows by until it stands in the underlay's IP packet, whose MTU counts
/// the outer IP header: outer IP, UDP, VXLAN and the inner Ethernet header.
#[must_use]
pub const fn overhead(underlay: IpVersion) -> u16 {
    (underlay.header_len() + UDP_HEADER_LEN + vxlan::HEADER_LEN + ethernet::HEADER_LEN) as u16
}

/// The overlay's MTU on an underlay with this one; `None` when nothing is left. An inner tag
/// costs four more.
#[must_use]
pub const fn overlay_mtu(underlay_mtu: u16, underlay: IpVersion) -> Option<u16> {
    match underlay_mtu.checked_sub(overhead(underlay)) {
        None | Some(0) => None,
        some => some,
    }
}

/// How many datagrams of `datagram_len` bytes (UDP payload: VXLAN header and inner frame) one
/// `UDP_SEGMENT` send takes on a kernel that takes `kernel_max`. At least one.
#[must_use]
pub const fn segments_per_send(datagram_len: usize, kernel_max: usize) -> usize {
    match UDP_PAYLOAD_MAX.checked_div(datagram_len) {
        Some(0) => 1,
        Some(fit) if fit < kernel_max => fit,
        _ => kernel_max,
    }
}

const _: () = {
    assert!(overhead(IpVersion::V4) == 50);
    assert!(overhead(IpVersion::V6) == 70);
    assert!(matches!(overlay_mtu(1500, IpVersion::V4), Some(1450)));
    assert!(matches!(overlay_mtu(1500, IpVersion::V6), Some(1430)));
    // An inner TCP segment of 1398 bytes with timestamps: 8 + 14 + 20 + 32 + 1398.
    assert!(segments_per_send(1472, UDP_SEGMENTS_MAX) == 44);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiny_underlays_leave_nothing() {
        assert_eq!(overlay_mtu(50, IpVersion::V4), None);
        assert_eq!(overlay_mtu(49, IpVersion::V4), None);
        assert_eq!(overlay_mtu(51, IpVersion::V4), Some(1));
        assert_eq!(overlay_mtu(9000, IpVersion::V6), Some(8930));
    }

    #[test]
    fn sends_stay_within_both_limits() {
        for len in 1..=UDP_PAYLOAD_MAX {
            for kernel in [UDP_SEGMENTS_MAX_OLD, UDP_SEGMENTS_MAX] {
                let segments = segments_per_send(len, kernel);
                assert!(segments >= 1 && segments <= kernel);
                assert!(segments * len <= UDP_PAYLOAD_MAX);
                assert!(segments == kernel || (segments + 1) * len > UDP_PAYLOAD_MAX);
            }
        }
        assert_eq!(segments_per_send(70_000, 128), 1);
    }
}
