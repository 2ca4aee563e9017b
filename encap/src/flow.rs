//! Which flow a frame belongs to, as one number.

use crate::EtherType;
use crate::ethernet::Ethernet;
use crate::inet::Inet;

/// A hash of the inner flow: MAC addresses and EtherType, IP addresses and protocol, and ports
/// unless the packet is a fragment (also the first one: the others could not follow it). Tags are
/// left out. A superframe hashes as each of its segments does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowHash(pub u32);

/// First UDP source port RFC 7348 section 5 recommends, and how many there are.
const PORT_FIRST: u16 = 49_152;
const PORTS: u32 = 16_384;

// Odd constants without structure: the fractional digits of pi.
const KEYS: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7345, 0xa409_3822_299f_31d1, 0x082e_fa98_ec4e_6c89];

impl FlowHash {
    /// The hash of the frame that begins with `head`. Bytes that are no Ethernet frame hash to a
    /// constant of the seed.
    #[must_use]
    pub fn of(head: &[u8], seed: u64) -> Self {
        match Ethernet::parse(head) {
            Ok(ethernet) => {
                Self::with(head, ethernet.l3_type, Inet::at(head, &ethernet).as_ref(), seed)
            }
            Err(_) => finish(seed),
        }
    }

    /// The same for a head that was dissected already, and has this behind its tags.
    #[must_use]
    #[inline]
    pub fn with(head: &[u8], l3_type: EtherType, inet: Option<&Inet>, seed: u64) -> Self {
        let [k0, k1, k2, k3] = KEYS;
        // The addresses as they lie, in eight bytes and four.
        let Some((&first, rest)) = head.split_first_chunk() else { return finish(seed) };
        let Some(&rest) = rest.first_chunk() else { return finish(seed) };
        let kind = u32::from(l3_type.0) << 8 | inet.map_or(0, |inet| u32::from(inet.proto));
        let rest = u64::from(u32::from_le_bytes(rest)) << 32 | u64::from(kind);
        let mut state = fold(seed ^ k0 ^ u64::from_le_bytes(first), k1 ^ rest);
        let Some(inet) = inet else { return finish(state) };
        let addresses = inet.address_bytes(head);
        let (pairs, rest) = addresses.as_chunks::<16>();
        for &pair in pairs {
            let pair = u128::from_be_bytes(pair);
            state = fold(state ^ (pair >> 64) as u64, k2 ^ pair as u64);
        }
        let mut last = 0;
        if let Some(&short) = rest.first_chunk::<8>() {
            last = u64::from_be_bytes(short);
        }
        let ports = match inet.ports(head) {
            Some((src, dst)) => (u64::from(src) << 16) | u64::from(dst),
            None => 0,
        };
        finish(fold(state ^ last, k3 ^ (ports << 16)))
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

/// Multiplies to 128 bits and folds the halves: every input bit reaches the whole result.
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

const fn finish(state: u64) -> FlowHash {
    let [_, k1, _, k3] = KEYS;
    let mixed = fold(state ^ k3, k1);
    FlowHash((mixed ^ (mixed >> 32)) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{tagged, tcp4, tcp6, udp4, udp6};

    const SEED: u64 = 0x5eed;

    fn hash(frame: &[u8]) -> FlowHash {
        FlowHash::of(frame, SEED)
    }

    #[test]
    fn every_field_of_the_flow_counts() {
        // Offsets of MAC addresses, EtherType aside: addresses, protocol and ports.
        let v4: Vec<usize> = (0..12).chain(26..38).collect();
        let v6: Vec<usize> = (0..12).chain(22..58).collect();
        for (frame, fields) in [(tcp4(4), &v4), (udp4(4), &v4), (tcp6(4), &v6), (udp6(4), &v6)] {
            let original = hash(&frame);
            for &at in fields {
                let mut other = frame.clone();
                other[at] ^= 1;
                assert_ne!(hash(&other), original, "byte {at}");
            }
            // Identification and TTL of IPv4, length and hop limit of IPv6, and all behind ports.
            let others = if fields.len() == v4.len() { [18, 19, 22] } else { [18, 19, 21] };
            for at in others.into_iter().chain(fields[fields.len() - 1] + 1..frame.len()) {
                let mut other = frame.clone();
                other[at] ^= 1;
                assert_eq!(hash(&other), original, "byte {at}");
            }
        }
        assert_ne!(hash(&tcp4(4)), FlowHash::of(&tcp4(4), SEED + 1));
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

        // 16000 flows that differ in the source port only, in 16 buckets: 1000 each, give or take
        // six standard deviations.
        let mut buckets = [0usize; 16];
        let mut frame = tcp4(4);
        for port in 0..16_000u16 {
            frame[34..36].copy_from_slice(&port.to_be_bytes());
            buckets[hash(&frame).bucket(16)] += 1;
        }
        assert!(buckets.iter().all(|&count| (816..1184).contains(&count)), "{buckets:?}");
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
