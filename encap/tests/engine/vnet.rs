use encap::{Checksum, Contiguous, Frame, GsoKind, Offload, Segments, VnetError, VnetHeader};
use proptest::prelude::*;

use crate::common::{ACK, CWR, Spec, assert_sound, specs, wire};

/// The header a kernel sends with such a superframe.
fn header(spec: &Spec, size: u16) -> VnetHeader {
    VnetHeader {
        flags: 1,
        gso_type: match (spec.kind, spec.v6) {
            (GsoKind::Tcp, false) => 1,
            (GsoKind::Tcp, true) => 4,
            (GsoKind::Udp, _) => 5,
        },
        hdr_len: spec.header_len() as u16,
        gso_size: size,
        csum_start: spec.l4() as u16,
        csum_offset: spec.checksum_offset() as u16,
    }
}

fn resolve(header: VnetHeader, bytes: &[u8]) -> Result<Offload, VnetError> {
    let head = &mut bytes[..bytes.len().min(256)].to_vec();
    header.resolve(head, bytes.len())
}

proptest! {
    #[test]
    fn fields_survive(bytes: [u8; 12]) {
        let decoded = VnetHeader::decode(&bytes);
        let mut zeroed = bytes;
        zeroed[10..].fill(0);
        prop_assert_eq!(decoded.encode(), zeroed);
    }

    #[test]
    fn what_a_kernel_sends_is_taken_and_written_back(spec in specs(1..8000), size in 36..3000u16) {
        let size = size.max((spec.payload.len() / 100) as u16);
        let (bytes, offload) = spec.superframe(usize::from(size));
        let mut sent = header(&spec, size);
        if spec.kind == GsoKind::Tcp && spec.flags & CWR != 0 {
            sent.gso_type |= 0x80;
        }
        let resolved = resolve(sent, &bytes).unwrap();
        prop_assert_eq!(resolved.checksum, offload.checksum);
        let is_super = spec.payload.len() > usize::from(size);
        prop_assert_eq!(resolved.gso, offload.gso.filter(|_| is_super));
        // The hint changes nothing.
        for hdr_len in [0, 1, 40, u16::MAX] {
            prop_assert_eq!(resolve(VnetHeader { hdr_len, ..sent }, &bytes), Ok(resolved));
        }
        let contiguous = Contiguous::new(&bytes, resolved);
        for frame in wire(&contiguous.frame(), None) {
            assert_sound(&frame, &spec);
        }
        let written = VnetHeader::of(&contiguous.frame());
        if is_super {
            prop_assert_eq!(written, sent);
        } else {
            let (start, offset) = (sent.csum_start, sent.csum_offset);
            prop_assert_eq!(written, VnetHeader { flags: 1, hdr_len: start + offset + 2,
                csum_start: start, csum_offset: offset, ..VnetHeader::default() });
        }
    }
}

#[test]
fn the_wire_format_is_little_endian() {
    let bytes = [1, 4, 0x42, 0, 0x76, 0x05, 0x36, 0, 0x10, 0, 9, 9];
    let header = VnetHeader::decode(&bytes);
    let want = VnetHeader {
        flags: 1,
        gso_type: 4,
        hdr_len: 66,
        gso_size: 1398,
        csum_start: 54,
        csum_offset: 16,
    };
    assert_eq!(header, want);
    assert_eq!(header.encode()[10..], [0, 0]);
}

#[test]
fn g1_size_zero_and_the_kernels_own() {
    let spec = Spec::tcp4(3000);
    let (bytes, _) = spec.superframe(1000);
    for size in [0, 65_535] {
        assert_eq!(resolve(header(&spec, size), &bytes), Err(VnetError::GsoSize { size }));
    }
}

#[test]
fn g2_unknown_types() {
    let spec = Spec::tcp4(3000);
    let (bytes, _) = spec.superframe(1000);
    let with = |gso_type| resolve(VnetHeader { gso_type, ..header(&spec, 1000) }, &bytes);
    assert_eq!(with(3), Err(VnetError::Ufo));
    // ECN alone, reserved numbers, tunnels, ECN with UDP.
    for gso_type in [0x80, 2, 6, 0x7f, 0xff, 0x21, 0x41, 0x85] {
        assert_eq!(with(gso_type), Err(VnetError::GsoType { gso_type }));
    }
    assert!(with(0x81).is_ok());
}

#[test]
fn g3_type_and_protocol_disagree() {
    for (spec, gso_type) in [
        (Spec::new(GsoKind::Tcp, true, 3000), 1),
        (Spec::tcp4(3000), 4),
        (Spec::tcp4(3000), 5),
        (Spec::udp4(3000), 1),
        (Spec::new(GsoKind::Udp, true, 3000), 4),
    ] {
        let (bytes, _) = spec.superframe(1000);
        let lie = VnetHeader { gso_type, ..header(&spec, 1000) };
        let proto = if spec.kind == GsoKind::Tcp { 6 } else { 17 };
        assert_eq!(resolve(lie, &bytes), Err(VnetError::Protocol { gso_type, proto }));
    }
}

#[test]
fn g4_checksum_places() {
    let spec = Spec::tcp4(300);
    let (bytes, _) = spec.superframe(60_000);
    let len = bytes.len();
    let with = |start: usize, offset: usize| {
        let (csum_start, csum_offset) = (start as u16, offset as u16);
        resolve(VnetHeader { flags: 1, csum_start, csum_offset, ..Default::default() }, &bytes)
    };
    assert!(with(34, 16).is_ok());
    // In front of layer 4, at or behind the end, odd, behind the head.
    let bad = [
        (0, 16),
        (14, 10),
        (32, 16),
        (len, 0),
        (len - 1, 0),
        (34, len),
        (65_534, 65_534),
        (65_535, 65_535),
        (35, 16),
        (34, 15),
        (35, 15),
        (256, 0),
    ];
    for (start, offset) in bad {
        let error = VnetError::ChecksumPlace { start: start as u16, offset: offset as u16, len };
        assert_eq!(with(start, offset), Err(error), "{start}+{offset}");
    }
}

#[test]
fn g5_other_protocols_are_summed_generically() {
    let mut bytes = Spec::udp4(64).build();
    bytes[23] = 47;
    let header = VnetHeader { flags: 1, csum_start: 50, csum_offset: 4, ..Default::default() };
    let checksum = Checksum::Partial { start: 50, offset: 4 };
    assert_eq!(resolve(header, &bytes), Ok(Offload { checksum, gso: None }));
    let mut other = bytes.clone();
    other[12..14].copy_from_slice(&[0x88, 0x47]);
    assert_eq!(resolve(VnetHeader { csum_start: 14, ..header }, &other).map(|o| o.gso), Ok(None));
    assert!(resolve(VnetHeader { csum_start: 12, ..header }, &other).is_err());
    assert!(resolve(header, &bytes[..10]).is_err());
}

#[test]
fn g6_a_superframe_without_checksum_flag_gets_one() {
    for spec in [Spec::tcp4(3000), Spec::new(GsoKind::Udp, true, 3000)] {
        let (want, offload) = spec.superframe(1000);
        // Sent with its checksum finished, over the whole: no segment could keep it.
        let mut bytes = spec.build();
        assert_ne!(bytes, want);
        let lazy = VnetHeader { flags: 0, csum_start: 9, ..header(&spec, 1000) };
        assert_eq!(lazy.resolve(&mut bytes, want.len()), Ok(offload));
        assert_eq!(bytes, want, "the pseudo-header sum was put in, nothing else");
        for frame in wire(&Contiguous::new(&bytes, offload).frame(), None) {
            assert_sound(&frame, &spec);
        }
        // One that is no longer than a segment keeps its own.
        let mut bytes = spec.build();
        let short = VnetHeader { gso_size: 3000, ..lazy };
        assert_eq!(short.resolve(&mut bytes, want.len()), Ok(Offload::default()));
        assert_eq!(bytes, spec.build());
    }
}

#[test]
fn g8_too_many_segments() {
    let tcp = Spec::tcp4(60_000);
    let (bytes, _) = tcp.superframe(32);
    for size in [1, 8, 31] {
        let error = VnetError::TooManySegments { size, payload: 60_000 };
        assert_eq!(resolve(header(&tcp, size), &bytes), Err(error));
    }
    assert_eq!(resolve(header(&tcp, 32), &bytes).unwrap().gso.unwrap().segments, 1875);
    let udp = Spec::udp4(128 * 18);
    let (bytes, _) = udp.superframe(18);
    assert_eq!(resolve(header(&udp, 18), &bytes).unwrap().gso.unwrap().segments, 128);
    let more = Spec::udp4(128 * 18 + 1);
    let (bytes, _) = more.superframe(18);
    let error = VnetError::TooManySegments { size: 18, payload: 128 * 18 + 1 };
    assert_eq!(resolve(header(&more, 18), &bytes), Err(error));
}

#[test]
fn g9_no_longer_than_a_segment_and_wrong_lengths() {
    let spec = Spec::tcp4(1000);
    let (mut bytes, offload) = spec.superframe(1000);
    for size in [1000, 1001, 60_000] {
        assert_eq!(resolve(header(&spec, size), &bytes), Ok(Offload { gso: None, ..offload }));
    }
    assert!(resolve(header(&spec, 999), &bytes).unwrap().gso.is_some());
    bytes.push(0);
    let error = VnetError::Length { claimed: bytes.len() - 1, actual: bytes.len() };
    assert_eq!(resolve(header(&spec, 100), &bytes), Err(error));
    bytes.truncate(900);
    assert!(matches!(resolve(header(&spec, 100), &bytes), Err(VnetError::Length { .. })));
}

#[test]
fn g10_a_superframes_checksum_begins_at_its_transport_header() {
    for spec in [Spec::tcp4(3000), Spec::udp4(3000)] {
        let (bytes, _) = spec.superframe(1000);
        let good = header(&spec, 1000);
        for (start, offset) in [(36, good.csum_offset), (34, 2), (34, 20)] {
            let lie = VnetHeader { csum_start: start, csum_offset: offset, ..good };
            let error = VnetError::ChecksumPlace { start, offset, len: bytes.len() };
            assert_eq!(resolve(lie, &bytes), Err(error));
        }
    }
}

#[test]
fn g11_short_headers() {
    for len in 0..12 {
        assert_eq!(VnetHeader::split(&[0; 12][..len]), Err(VnetError::Truncated { len }));
    }
    assert_eq!(VnetHeader::split(&[0; 13]), Ok((VnetHeader::default(), &[0][..])));
}

#[test]
fn g13_fragments_and_broken_headers() {
    let spec = Spec::tcp4(3000);
    let (bytes, _) = spec.superframe(1000);
    let sent = VnetHeader { flags: 0, ..header(&spec, 1000) };
    for (at, value, want) in [
        (20, 0x20, VnetError::Fragment),
        (21, 0x01, VnetError::Fragment),
        (46, 0x40, VnetError::Headers),
        (14, 0x41, VnetError::Headers),
        (12, 0x07, VnetError::Headers),
    ] {
        let mut broken = bytes.clone();
        broken[at] = value;
        assert_eq!(resolve(sent, &broken), Err(want), "byte {at}");
    }
    assert_eq!(resolve(sent, &bytes[..10]), Err(VnetError::Headers));
}

#[test]
fn g15_a_plain_frame_is_written_with_zeros() {
    for checksum in [Checksum::Done, Checksum::Vouched] {
        let bytes = Spec::tcp4(100).build();
        let frame = Frame { head: &bytes, body: &[], offload: Offload { checksum, gso: None } };
        assert_eq!(VnetHeader::of(&frame).encode(), [0; 12]);
    }
}

#[test]
fn tags_move_the_offsets() {
    let spec = Spec { tags: 1, flags: ACK | CWR, ..Spec::tcp4(3000) };
    let (bytes, offload) = spec.superframe(1000);
    assert_eq!(resolve(header(&spec, 1000), &bytes), Ok(offload));
    let untagged = Spec { tags: 0, ..spec };
    let (bytes, plain) = untagged.superframe(1000);
    let mut head = encap::Head::copy_of(&bytes[..66]);
    head.push_tag(encap::Tag::new(encap::VlanId::new(10).unwrap())).unwrap();
    let contiguous = Contiguous::new(&bytes, plain);
    let tagged = head.frame(&contiguous.frame(), plain.shifted(4));
    let written = VnetHeader::of(&tagged);
    assert_eq!((written.csum_start, written.hdr_len, written.gso_type), (38, 70, 0x81));
    assert_eq!(Segments::plan(&tagged, None).unwrap().count(), 3);
}
