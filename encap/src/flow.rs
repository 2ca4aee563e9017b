//! Which flow a frame belongs to, as one number.

use crate::ethernet::Ethernet;
use crate::inet::Inet;

/// A hash of the inner flow, the same for both of its directions: IP addresses, of IPv6 their last
/// eight bytes, and ports unless the packet is a fragment (also the first one: the others could not
/// follow it). Of a frame without IP, the last four bytes of the MAC addresses. Tags are left out. A
/// superframe hashes as each of its segments does.
///
/// It is made to be computed elsewhere too, by whatever shares frames out: with all fields as
/// big-endian numbers, what names the one end is added to what names the other, and the sum multiplied by
/// 2<sup>32</sup> divided by the golden ratio, all of it modulo 2<sup>32</sup>. So flows that count
/// up, as ports do, are spread more evenly than by chance (Knuth, volume 3, section 6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowHash(pub u32);

/// First UDP source port RFC 7348 section 5 recommends, and how many there are.
const PORT_FIRST: u16 = 49_152;
const PORTS: u32 = 16_384;

impl FlowHash {
    /// What the sum of a flow is multiplied by: 2<sup>32</sup> divided by the golden ratio, odd.
    pub const MULTIPLIER: u32 = 0x9e37_79b1;

    /// The hash of the frame that begins with `head`. Bytes that are no Ethernet frame hash to zero.
    #[must_use]
    pub fn of(head: &[u8]) -> Self {
        match Ethernet::parse(head) {
            Ok(ethernet) => Self::with(head, Inet::at(head, &ethernet).as_ref()),
            Err(_) => Self(0),
        }
    }

    /// The same for a head that was dissected already.
    #[must_use]
    #[inline]
    pub fn with(head: &[u8], inet: Option<&Inet>) -> Self {
        let sum = match inet {
            Some(inet) => inet.address_sum(head).wrapping_add(match inet.ports(head) {
                Some((src, dst)) => u32::from(src) + u32::from(dst),
                None => 0,
            }),
            None => match head.first_chunk() {
                Some(&[_, _, a, b, c, d, _, _, e, f, g, h]) => {
                    u32::from_be_bytes([a, b, c, d]).wrapping_add(u32::from_be_bytes([e, f, g, h]))
                }
                None => 0,
            },
        };
        Self(sum.wrapping_mul(Self::MULTIPLIER))
    }

    /// The UDP source port of the tunnel, 49152 to 65535 (RFC 7348 section 5).
    #[must_use]
    pub const fn source_port(self) -> u16 {
        PORT_FIRST + ((self.0 as u64 * PORTS as u64) >> 32) as u16
    }

    /// One of `buckets` equal classes, 0 when there is none or one.
    #[must_use]
    pub const fn bucket(self, buckets: usize) -> usize {
        ((self.0 as u128 * buckets as u128) >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{tagged, tcp4, tcp6, udp4, udp6};

    fn hash(frame: &[u8]) -> FlowHash {
        FlowHash::of(frame)
    }

    /// The frame of the other direction: of IPv4 without options, or IPv6.
    fn back(frame: &[u8]) -> Vec<u8> {
        let mut back = frame.to_vec();
        let (addresses, len, ports) =
            if frame[12..14] == [8, 0] { (26, 4, 34) } else { (22, 16, 54) };
        for (at, len) in [(0, 6), (addresses, len), (ports, 2)] {
            back[at..at + 2 * len].rotate_left(len);
        }
        back
    }

    #[test]
    fn both_directions_hash_alike() {
        for frame in [tcp4(4), udp4(4), tcp6(4), udp6(4)] {
            assert_ne!(back(&frame), frame);
            assert_eq!(hash(&back(&frame)), hash(&frame));
        }
        let mut other = tcp4(4);
        other[12..14].copy_from_slice(&[0x88, 0xb5]);
        let mut back = other.clone();
        back[..12].rotate_left(6);
        assert_eq!(hash(&back), hash(&other));
    }

    #[test]
    fn every_field_of_the_flow_counts() {
        // Offsets of addresses, of IPv6 their last eight bytes, and of ports.
        let v4: Vec<usize> = (26..38).collect();
        let v6: Vec<usize> = (30..38).chain(46..58).collect();
        for (frame, fields) in [(tcp4(4), &v4), (udp4(4), &v4), (tcp6(4), &v6), (udp6(4), &v6)] {
            let original = hash(&frame);
            for at in 0..frame.len() {
                let mut other = frame.clone();
                other[at] ^= 1;
                let counts = fields.contains(&at);
                // EtherType, version, length, fragment and protocol say where the fields are.
                if counts || !(12..26).contains(&at) {
                    assert_eq!(hash(&other) != original, counts, "byte {at}");
                }
            }
            for at in if fields.len() == v4.len() { [18, 19, 22] } else { [17, 18, 21] } {
                let mut other = frame.clone();
                other[at] ^= 1;
                assert_eq!(hash(&other), original, "byte {at}");
            }
        }
        let other = |at: usize| {
            let mut frame = [0x55; 60];
            frame[at] ^= 1;
            hash(&frame)
        };
        for at in 0..12 {
            assert_eq!(other(at) != other(20), (2..6).contains(&at) || at >= 8, "byte {at}");
        }
    }

    #[test]
    fn tags_do_not_count() {
        let frame = tcp4(10);
        let once = tagged(&frame, [0x81, 0, 0x60, 10]);
        let twice = tagged(&once, [0x88, 0xa8, 0, 9]);
        assert_eq!([hash(&once), hash(&twice)], [hash(&frame); 2]);
    }

    #[test]
    fn fragments_of_one_packet_hash_alike() {
        let mut first = udp4(64);
        first[20] = 0x20;
        let mut later = first.clone();
        later[20..22].copy_from_slice(&[0x00, 0x08]);
        later[34..38].copy_from_slice(&[0xde, 0xad, 0xbe, 0xef]);
        assert_eq!(hash(&first), hash(&later));
        assert_ne!(hash(&first), hash(&udp4(64)));
    }

    #[test]
    fn ports_and_buckets_are_in_range_and_spread() {
        for low in [0, 1, u32::MAX / 2, u32::MAX] {
            assert!(FlowHash(low).source_port() >= 49_152);
            assert_eq!(FlowHash(low).bucket(1), 0);
            assert_eq!(FlowHash(low).bucket(0), 0);
        }
        assert_eq!(FlowHash(u32::MAX).source_port(), 65_535);
        assert_eq!(FlowHash(u32::MAX).bucket(7), 6);

        // 16000 flows that differ in the source port only, in 16 buckets: 1000 each, nearly.
        let mut buckets = [0usize; 16];
        let mut frame = tcp4(4);
        for port in 0..16_000u16 {
            frame[34..36].copy_from_slice(&port.to_be_bytes());
            buckets[hash(&frame).bucket(16)] += 1;
        }
        assert!(buckets.iter().all(|&count| (990..1010).contains(&count)), "{buckets:?}");
    }

    #[test]
    fn short_frames_have_a_hash() {
        let frame = tcp6(4);
        for len in 0..frame.len() {
            let _: FlowHash = hash(&frame[..len]);
        }
        assert_eq!(hash(&[]), hash(&[1, 2, 3]));
    }
}
