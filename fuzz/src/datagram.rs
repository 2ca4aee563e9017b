//! What a socket on the VXLAN port receives: two bytes that stand for the kernel's segment size,
//! then a train of datagrams.

use encap::{Checksum, FlowHash, Inet, Train, adopt_partial, vxlan};

/// Overlay MTU of the daemon that is imagined here.
const MTU: u16 = 1450;

/// Splits the train and opens each datagram.
pub fn check(bytes: &[u8]) {
    let Some((&size, bytes)) = bytes.split_first_chunk::<2>() else { return };
    let size = u16::from_le_bytes(size);
    let train = Train::new(bytes, Some(size));
    let inner_udp_size = train.inner_udp_size();
    let datagrams: Vec<&[u8]> = train.collect();
    assert_eq!(datagrams.concat(), bytes, "a train loses nothing");
    assert!(inner_udp_size.is_none() || datagrams.len() == 1);
    for datagram in datagrams {
        open(datagram, inner_udp_size);
    }
}

fn open(datagram: &[u8], inner_udp_size: Option<u16>) {
    let (header, inner) = match vxlan::split(datagram) {
        Ok(parts) => parts,
        Err(vxlan::DecapError::Truncated { len }) => return assert!(len < 8),
        Err(vxlan::DecapError::NoVni { flags }) => return assert!(flags & 8 == 0),
        Err(vxlan::DecapError::ZeroVni) => return assert_eq!(datagram[4..7], [0; 3]),
        Err(vxlan::DecapError::InnerTruncated { len }) => return assert!(len < 14),
    };
    assert_eq!(inner.len() + vxlan::HEADER_LEN, datagram.len());
    let clean = vxlan::emit(header.vni) == datagram[..8];
    assert_eq!(clean, !header.reserved_bits_set);

    let hash = FlowHash::of(inner);
    assert!(hash.source_port() >= 49_152 && hash.bucket(16) < 16);
    // What follows the addresses and ports has no say.
    if let Some(inet) = Inet::parse(inner) {
        assert_eq!(FlowHash::with(inner, Some(&inet)), hash);
        let mut other = inner.to_vec();
        for byte in other.iter_mut().skip(inet.l4 + 4) {
            *byte = !*byte;
        }
        assert_eq!(FlowHash::of(&other), hash);
    }
    let Some(offload) = adopt_partial(inner, MTU, inner_udp_size) else { return };
    let partial = matches!(offload.checksum, Checksum::Partial { start, offset }
        if usize::from(start) + usize::from(offset) + 2 <= inner.len());
    assert!(partial);
    if let Some(gso) = offload.gso {
        let payload = inner.len() - usize::from(gso.header_len);
        assert!(gso.size > 0 && payload > 0);
        assert_eq!(usize::from(gso.segments), payload.div_ceil(usize::from(gso.size)));
    }
}
