//! Checksums, the naive way: an oracle.

/// The folded sum of some bytes (RFC 1071 section 1).
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [hi, lo] => u32::from(u16::from_be_bytes([hi, lo])),
        [hi] => u32::from(hi) << 8,
        _ => 0,
    });
    words.fold(0u32, |sum, word| if sum + word > 0xffff { sum + word - 0xffff } else { sum + word })
        as u16
}

/// The sum over pseudo-header and layer 4 of a whole frame: 0xffff when its checksum is right.
pub(crate) fn l4_sum(frame: &[u8], inet: &encap::Inet) -> u16 {
    let l4 = &frame[inet.l4..];
    let addresses = match inet.version {
        encap::IpVersion::V4 => &frame[inet.l3 + 12..inet.l3 + 20],
        encap::IpVersion::V6 => &frame[inet.l3 + 8..inet.l3 + 40],
    };
    let length = (l4.len() as u32).to_be_bytes();
    sum(&[addresses, &[0, inet.proto], &length, l4].concat())
}
