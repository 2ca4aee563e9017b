//! Which flow a frame belongs to, as one number.

use crate::MacAddr;
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
            Ok(ethernet) => Self::with(head, &ethernet, Inet::at(head, &ethernet).as_ref(), seed),
            Err(_) => finish(seed),
        }
    }

    /// The same for a head that was dissected already.
    #[must_use]
    pub fn with(head: &[u8], ethernet: &Ethernet, inet: Option<&Inet>, seed: u64) -> Self {
        let [k0, k1, k2, k3] = KEYS;
        let mac = |mac: MacAddr| mac.to_bits() << 16;
        let mut state = fold(
            seed ^ k0 ^ mac(ethernet.dst) ^ u64::from(ethernet.l3_type.0),
            k1 ^ mac(ethernet.src) ^ inet.map_or(0, |inet| u64::from(inet.proto)),
        );
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
