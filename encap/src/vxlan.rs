//! The VXLAN header (RFC 7348 section 5):
//!
//! ```text
//! |R|R|R|R|I|R|R|R|            Reserved                           |
//! |                VXLAN Network Identifier (VNI) |   Reserved    |
//! ```

use crate::{Vni, ethernet};

/// Bytes of the VXLAN header.
pub const HEADER_LEN: usize = 8;
/// The UDP port IANA assigned to VXLAN.
pub const PORT: u16 = 4789;

/// The I flag: the VNI is valid.
const FLAG_VNI: u8 = 0x08;

/// A received header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The segment.
    pub vni: Vni,
    /// Whether a reserved bit was set. RFC 7348 says to ignore them; extensions (GBP, GPE, RCO)
    /// use them. What follows from it is the receiver's policy.
    pub reserved_bits_set: bool,
}

/// Why a datagram is no VXLAN frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecapError {
    /// Shorter than a VXLAN header.
    #[error("datagram of {len} bytes is shorter than a VXLAN header (8)")]
    Truncated {
        /// Bytes there are.
        len: usize,
    },
    /// The I flag is not set.
    #[error("VXLAN flags {flags:#04x} do not mark the VNI as valid")]
    NoVni {
        /// The flags byte.
        flags: u8,
    },
    /// The VNI is zero, which no segment can have.
    #[error("VNI is zero")]
    ZeroVni,
    /// What follows the header is shorter than an Ethernet header.
    #[error("inner frame of {len} bytes is shorter than an Ethernet header (14)")]
    InnerTruncated {
        /// Bytes behind the VXLAN header.
        len: usize,
    },
}

/// Splits a UDP payload into its VXLAN header and the inner frame (14 bytes at least).
///
/// # Errors
/// When there is no valid header, or too little behind it.
pub fn split(datagram: &[u8]) -> Result<(Header, &[u8]), DecapError> {
    let Some((&[flags, r1, r2, r3, v0, v1, v2, r4], inner)) =
        datagram.split_first_chunk::<HEADER_LEN>()
    else {
        return Err(DecapError::Truncated { len: datagram.len() });
    };
    if flags & FLAG_VNI == 0 {
        return Err(DecapError::NoVni { flags });
    }
    let vni = Vni::from_wire([v0, v1, v2]).ok_or(DecapError::ZeroVni)?;
    if inner.len() < ethernet::HEADER_LEN {
        return Err(DecapError::InnerTruncated { len: inner.len() });
    }
    let reserved_bits_set = (flags & !FLAG_VNI) | r1 | r2 | r3 | r4 != 0;
    Ok((Header { vni, reserved_bits_set }, inner))
}

/// The header of a frame of segment `vni`: I flag set, every reserved bit zero.
#[must_use]
pub const fn emit(vni: Vni) -> [u8; HEADER_LEN] {
    let [a, b, c] = vni.to_wire();
    [FLAG_VNI, 0, 0, 0, a, b, c, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(header: [u8; 8], inner: usize) -> Vec<u8> {
        [&header[..], &vec![0xab; inner]].concat()
    }

    #[test]
    fn emitted_headers_are_read_back() {
        for raw in [1, 100, 0x0001_0203, Vni::MAX] {
            let vni = Vni::new(raw).unwrap();
            let bytes = datagram(emit(vni), 60);
            let (header, inner) = split(&bytes).unwrap();
            assert_eq!(header, Header { vni, reserved_bits_set: false });
            assert_eq!(inner, [0xab; 60]);
        }
        assert_eq!(emit(Vni::new(0x0a0b0c).unwrap()), [8, 0, 0, 0, 0x0a, 0x0b, 0x0c, 0]);
    }

    #[test]
    fn every_reserved_bit_is_reported() {
        let mut reserved = 0;
        for bit in 0..64 {
            let mut bytes = datagram([8, 0, 0, 0, 0, 0, 1, 0], 14);
            bytes[bit / 8] |= 0x80 >> (bit % 8);
            let (header, _) = split(&bytes).unwrap();
            reserved += usize::from(header.reserved_bits_set);
        }
        // All but the I flag and the 24 bits of the VNI.
        assert_eq!(reserved, 64 - 1 - 24);
    }

    #[test]
    fn refused() {
        for len in 0..8 {
            assert_eq!(split(&[8; 8][..len]), Err(DecapError::Truncated { len }));
        }
        for len in 0..14 {
            let bytes = datagram([8, 0, 0, 0, 0, 0, 1, 0], len);
            assert_eq!(split(&bytes), Err(DecapError::InnerTruncated { len }));
        }
        let no_flag = datagram([0xf7, 0, 0, 0, 0, 0, 1, 0], 60);
        assert_eq!(split(&no_flag), Err(DecapError::NoVni { flags: 0xf7 }));
        let zero = datagram([8, 0, 0, 0, 0, 0, 0, 0], 60);
        assert_eq!(split(&zero), Err(DecapError::ZeroVni));
    }
}
