//! What a router changes in an IP header: one hop less to live.

use crate::checksum;
use crate::inet::Inet;
use crate::mtu::IpVersion;

/// Offset of time to live, or hop limit, in the IP header.
const fn offset(version: IpVersion) -> usize {
    match version {
        IpVersion::V4 => 8,
        IpVersion::V6 => 7,
    }
}

/// The hops that are left to the packet (time to live, RFC 791; hop limit, RFC 8200). `None` when
/// `inet` was not parsed from this head.
#[must_use]
pub fn left(head: &[u8], inet: &Inet) -> Option<u8> {
    head.get(inet.l3 + offset(inet.version)).copied()
}

/// Takes one hop away and mends the IPv4 header checksum (RFC 1624): one that was wrong stays
/// wrong. `inet` must have been parsed from this head. Returns whether there was a hop to take.
pub fn take(head: &mut [u8], inet: &Inet) -> bool {
    let Some(header) = head.get_mut(inet.l3..) else { return false };
    match inet.version {
        IpVersion::V4 => {
            let Some([.., ttl, proto, c0, c1]) = header.first_chunk_mut::<12>() else {
                return false;
            };
            let Some(less) = ttl.checked_sub(1) else { return false };
            let old = u16::from_be_bytes([*ttl, *proto]);
            let check = u16::from_be_bytes([*c0, *c1]);
            let check = checksum::update(check, old, u16::from_be_bytes([less, *proto]));
            *ttl = less;
            [*c0, *c1] = check.to_be_bytes();
            true
        }
        IpVersion::V6 => {
            let Some([.., limit]) = header.first_chunk_mut::<8>() else { return false };
            let Some(less) = limit.checked_sub(1) else { return false };
            *limit = less;
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{tagged, tcp4, tcp6, udp4, udp6};

    #[test]
    fn a_hop_less_and_nothing_else() {
        for frame in [tcp4(9), udp4(9), tcp6(9), udp6(9), tagged(&udp4(9), [0x81, 0, 0, 0])] {
            let inet = Inet::parse(&frame).unwrap();
            let mut edited = frame.clone();
            let before = left(&frame, &inet).unwrap();
            assert!(take(&mut edited, &inet));
            assert_eq!(left(&edited, &inet), Some(before - 1));
            let at = inet.l3 + offset(inet.version);
            for (i, (old, new)) in frame.iter().zip(&edited).enumerate() {
                let checksum = inet.version == IpVersion::V4 && (at + 2..at + 4).contains(&i);
                assert!(old == new || i == at || checksum, "byte {i}");
            }
            if inet.version == IpVersion::V4 {
                assert_eq!(checksum::of(&edited[inet.l3..inet.l4]), 0);
            }
        }
    }

    #[test]
    fn the_ipv4_checksum_holds_for_every_time_to_live() {
        let mut frame = tcp4(0);
        let inet = Inet::parse(&frame).unwrap();
        for ident in 0..=u16::MAX {
            frame[18..20].copy_from_slice(&ident.to_be_bytes());
            frame[22] = (ident >> 3) as u8 | 1;
            frame[24..26].fill(0);
            let sum = checksum::of(&frame[inet.l3..inet.l4]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            assert!(take(&mut frame, &inet));
            assert_eq!(checksum::of(&frame[inet.l3..inet.l4]), 0, "identification {ident}");
        }
    }

    #[test]
    fn what_is_wrong_stays_wrong() {
        let mut frame = tcp4(0);
        let inet = Inet::parse(&frame).unwrap();
        frame[24] ^= 0x10;
        assert!(take(&mut frame, &inet));
        assert_ne!(checksum::of(&frame[inet.l3..inet.l4]), 0);
    }

    #[test]
    fn there_is_nothing_below_zero() {
        for (mut frame, at) in [(tcp4(0), 22), (tcp6(0), 21)] {
            let inet = Inet::parse(&frame).unwrap();
            frame[at] = 0;
            let before = frame.clone();
            assert!(!take(&mut frame, &inet));
            assert_eq!(frame, before);
            assert!(!take(&mut frame[..18], &inet), "not the head that was parsed");
            assert_eq!(left(&frame[..18], &inet), None);
        }
    }
}
