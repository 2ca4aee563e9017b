//! What a guest writes: one byte that stands for an MTU, a vnet header, and a frame.

use encap::{
    Checksum, Contiguous, Frame, GsoKind, HEAD_MAX, Inet, IpVersion, SegmentError, Segments,
    VnetHeader, segment,
};

use super::sums;

/// Believes the header or not, and cuts what it believes.
pub fn check(bytes: &[u8]) {
    let Some((&mtu, bytes)) = bytes.split_first() else { return };
    let Ok((header, frame)) = VnetHeader::split(bytes) else { return assert!(bytes.len() < 12) };
    let mut frame = frame.to_vec();
    let original = frame.clone();
    let (len, head_len) = (frame.len(), frame.len().min(HEAD_MAX));
    let Ok(offload) = header.resolve(&mut frame[..head_len], len) else {
        return assert_eq!(frame, original);
    };
    let place = match offload.checksum {
        Checksum::Partial { start, offset } => usize::from(start) + usize::from(offset),
        _ => len,
    };
    let untouched = |at: usize| at == place || at == place + 1 || frame[at] == original[at];
    assert!((0..len).all(untouched), "only a checksum field is ever written");

    let contiguous = Contiguous::new(&frame, offload);
    let whole = contiguous.frame();
    let written = VnetHeader::of(&whole);
    assert_eq!(written.gso_type == 0, offload.gso.is_none());
    assert_eq!(written.flags & 1 != 0, matches!(offload.checksum, Checksum::Partial { .. }));

    let mtu = (mtu != 0).then_some(u16::from(mtu) * 16);
    match Segments::plan(&whole, mtu) {
        Ok(segments) => cut(&whole, &segments, mtu),
        Err(SegmentError::TooBig { len, mtu }) => assert!(len > usize::from(mtu)),
        Err(SegmentError::Headers) => unreachable!("a header that was believed, not understood"),
    }
}

fn cut(whole: &Frame<'_>, segments: &Segments<'_>, mtu: Option<u16>) {
    let header_len = segments.header_len();
    let count = segments.count();
    let mut payload = Vec::new();
    for i in 0..count {
        let mut frame = vec![0; header_len];
        assert_eq!(segments.write_header(i, &mut frame), header_len);
        for slice in segments.payload(i) {
            frame.extend_from_slice(slice);
        }
        assert_eq!(frame.len(), segments.segment_len(i));
        payload.extend_from_slice(&frame[header_len..]);
        if whole.offload.gso.is_some() {
            sound(&frame, mtu);
        } else if let Some((at, value)) = segment::complete(whole) {
            assert_eq!(frame[at..at + 2], value.to_be_bytes());
        }
    }
    let mut bytes = whole.head.to_vec();
    whole.body.iter().for_each(|slice| bytes.extend_from_slice(slice));
    assert_eq!(payload, bytes[header_len..], "the payload is the same, in order");
    let ranges: usize = segments.batches(44).map(|range| range.len()).sum();
    assert_eq!(ranges, count);
}

/// A segment is a packet in its own right.
fn sound(frame: &[u8], mtu: Option<u16>) {
    let Some(inet) = Inet::parse(frame) else { unreachable!("a segment that is no IP packet") };
    assert!(inet.fits_exactly(frame.len()));
    assert!(mtu.is_none_or(|mtu| inet.l3_len <= usize::from(mtu)));
    if inet.version == IpVersion::V4 {
        assert_eq!(sums::sum(&frame[inet.l3..inet.l4]), 0xffff);
    }
    assert_eq!(sums::l4_sum(frame, &inet), 0xffff);
    let kind = if inet.proto == 6 { GsoKind::Tcp } else { GsoKind::Udp };
    if kind == GsoKind::Udp {
        assert_eq!(
            usize::from(u16::from_be_bytes([frame[inet.l4 + 4], frame[inet.l4 + 5]])),
            inet.l4_len()
        );
        assert_ne!(frame[inet.l4 + 6..inet.l4 + 8], [0, 0]);
    }
}
