use encap::{Checksum, Frame, GsoKind, Offload, SegmentError, Segments, segment};
use proptest::prelude::*;

use crate::common::{
    ACK, CWR, FIN, PSH, Spec, assert_sound, bytes_of, cut, naive_sum, specs, wire,
};

/// Checks each segment of a superframe against what the description says it must be.
fn check(spec: &Spec, frames: &[Vec<u8>], size: usize) {
    let (l3, l4, header_len) = (spec.l3(), spec.l4(), spec.header_len());
    let original = spec.build();
    let mut payload: Vec<u8> = Vec::new();
    assert_eq!(frames.len(), spec.payload.len().div_ceil(size));
    for (i, frame) in frames.iter().enumerate() {
        assert_sound(frame, spec);
        let mut varies = vec![l4 + spec.checksum_offset(), l4 + spec.checksum_offset() + 1];
        if spec.v6 {
            varies.extend([l3 + 4, l3 + 5]);
        } else {
            varies.extend([l3 + 2, l3 + 3, l3 + 4, l3 + 5, l3 + 10, l3 + 11]);
            let id = u16::from_be_bytes([frame[l3 + 4], frame[l3 + 5]]);
            assert_eq!(id, spec.identification.wrapping_add(i as u16));
        }
        if spec.kind == GsoKind::Tcp {
            varies.extend([l4 + 4, l4 + 5, l4 + 6, l4 + 7, l4 + 13]);
            let sequence = u32::from_be_bytes(frame[l4 + 4..l4 + 8].try_into().unwrap());
            assert_eq!(sequence, spec.sequence.wrapping_add((i * size) as u32));
            let last = i + 1 == frames.len();
            let mut flags = spec.flags;
            flags &= if i == 0 { 0xff } else { !CWR };
            flags &= if last { 0xff } else { !(FIN | PSH) };
            assert_eq!(frame[l4 + 13], flags);
        } else {
            varies.extend([l4 + 4, l4 + 5]);
        }
        for at in (0..header_len).filter(|at| !varies.contains(at)) {
            assert_eq!(frame[at], original[at], "byte {at} of segment {i}");
        }
        assert!(i + 1 == frames.len() || frame.len() == header_len + size);
        payload.extend(&frame[header_len..]);
    }
    assert_eq!(payload, spec.payload);
}

proptest! {
    #[test]
    fn segments_are_what_they_must_be(
        spec in specs(1..6000),
        size in 1..3000usize,
        cuts in proptest::collection::vec(any::<usize>(), 0..12),
        in_head in 0..200usize,
    ) {
        let size = size.max(spec.payload.len() / 120);
        let (bytes, offload) = spec.superframe(size);
        // Part of the payload may lie in the head.
        let at = (spec.header_len() + in_head).min(bytes.len());
        let body = cut(&bytes[at..], &cuts);
        let frame = Frame { head: &bytes[..at], body: &body, offload };
        check(&spec, &wire(&frame, None), size);
        prop_assert_eq!(frame.wire_frames(), Segments::plan(&frame, None).unwrap().count() as u64);
        let total: usize = wire(&frame, None).iter().map(Vec::len).sum();
        prop_assert_eq!(frame.wire_bytes(), total as u64);
    }

    #[test]
    fn an_mtu_cuts_tcp_smaller_and_refuses_udp(
        spec in specs(1..6000),
        size in 100..3000usize,
        mtu in 0..1600u16,
    ) {
        let size = size.min(spec.payload.len());
        let (bytes, offload) = spec.superframe(size);
        let at = spec.header_len();
        let body = cut(&bytes[at..], &[]);
        let frame = Frame { head: &bytes[..at], body: &body, offload };
        let repeated = spec.header_len() - spec.l3();
        let room = usize::from(mtu).saturating_sub(repeated);
        match Segments::plan(&frame, Some(mtu)) {
            Ok(segments) => {
                prop_assert!(segments.segment_len(0) - spec.l3() <= usize::from(mtu));
                prop_assert!(spec.kind == GsoKind::Tcp || size <= room);
                check(&spec, &wire(&frame, Some(mtu)), size.min(room));
            }
            Err(error) => {
                let len = repeated + size;
                prop_assert_eq!(error, SegmentError::TooBig { len, mtu });
                prop_assert!(size > room && (spec.kind == GsoKind::Udp || room < 8));
            }
        }
    }

    #[test]
    fn a_partial_checksum_is_completed(
        spec in specs(0..2000),
        cuts in proptest::collection::vec(any::<usize>(), 0..12),
    ) {
        let (bytes, offload) = spec.superframe(60_000);
        let offload = Offload { gso: None, ..offload };
        let at = spec.header_len() + (bytes.len() - spec.header_len()) / 3;
        let body = cut(&bytes[at..], &cuts);
        let frame = Frame { head: &bytes[..at], body: &body, offload };
        let whole = wire(&frame, None);
        prop_assert_eq!(whole.len(), 1);
        assert_sound(&whole[0], &spec);
        let mut head = bytes[..at].to_vec();
        prop_assert!(segment::complete_into(&frame, &mut head));
        prop_assert_eq!(&head[..], &whole[0][..at]);
        let done = Frame { offload: Offload::default(), ..frame };
        prop_assert_eq!(segment::complete(&done), None);
        prop_assert_eq!(&wire(&done, None)[0], &bytes_of(&frame));
    }

    #[test]
    fn batches_cover_every_segment_once(payload in 1..4000usize, size in 1..200usize, most in 0..150usize) {
        let spec = Spec::tcp4(payload);
        let (bytes, offload) = spec.superframe(size);
        let body = cut(&bytes[spec.header_len()..], &[]);
        let frame = Frame { head: &bytes[..spec.header_len()], body: &body, offload };
        let segments = Segments::plan(&frame, None).unwrap();
        let batches: Vec<_> = segments.batches(most).collect();
        let all: Vec<usize> = batches.iter().cloned().flatten().collect();
        prop_assert_eq!(all, (0..segments.count()).collect::<Vec<_>>());
        let longest = batches.iter().map(ExactSizeIterator::len).max().unwrap();
        let shortest = batches.iter().map(ExactSizeIterator::len).min().unwrap();
        prop_assert!(longest <= most.max(1) && longest - shortest <= 1);
        prop_assert_eq!(batches.len(), segments.count().div_ceil(most.max(1)));
    }
}

#[test]
fn a_full_superframe_goes_in_two_balanced_sends() {
    let spec = Spec::tcp4(65_535 - 52);
    let (bytes, offload) = spec.superframe(1398);
    let body = cut(&bytes[spec.header_len()..], &[]);
    let frame = Frame { head: &bytes[..spec.header_len()], body: &body, offload };
    let segments = Segments::plan(&frame, Some(1450)).unwrap();
    assert_eq!(segments.count(), 47);
    let most = encap::mtu::segments_per_send(8 + segments.segment_len(0), 128);
    assert_eq!(segments.batches(most).collect::<Vec<_>>(), [0..24, 24..47]);
    check(&spec, &wire(&frame, Some(1450)), 1398);
}

#[test]
fn a_header_depends_on_its_number_only() {
    let spec = Spec { flags: ACK | PSH | CWR, ..Spec::tcp4(5000) };
    let (bytes, offload) = spec.superframe(700);
    let body = cut(&bytes[spec.header_len()..], &[123, 1500, 4001]);
    let frame = Frame { head: &bytes[..spec.header_len()], body: &body, offload };
    let segments = Segments::plan(&frame, None).unwrap();
    let header = |i| {
        let mut out = [0xee; 200];
        let len = segments.write_header(i, &mut out);
        assert!(out[len..].iter().all(|&byte| byte == 0xee), "nothing behind the header");
        out[..len].to_vec()
    };
    let forward: Vec<_> = (0..segments.count()).map(header).collect();
    let mut backward: Vec<_> = (0..segments.count()).rev().map(header).collect();
    backward.reverse();
    assert_eq!(forward, backward);
}

#[test]
fn no_such_segment_and_no_room() {
    let spec = Spec::udp4(100);
    let (bytes, offload) = spec.superframe(40);
    let frame = Frame { head: &bytes, body: &[], offload };
    let segments = Segments::plan(&frame, None).unwrap();
    assert_eq!(segments.count(), 3);
    let mut out = [7; 200];
    assert_eq!(segments.write_header(3, &mut out), 0);
    assert_eq!(segments.write_header(usize::MAX, &mut out), 0);
    assert_eq!(segments.write_header(0, &mut out[..41]), 0);
    assert_eq!(out, [7; 200]);
    assert_eq!((segments.payload_len(2), segments.payload_len(3)), (20, 0));
    assert_eq!(segments.payload(3).count(), 0);
}

#[test]
fn a_udp_checksum_of_zero_is_written_as_ones() {
    let mut spec = Spec::udp4(4);
    spec.payload = vec![1, 2, 3, 4];
    // Two bytes of payload that bring the sum to 0xffff.
    let built = spec.build();
    let check = u16::from_be_bytes([built[40], built[41]]);
    let payload = u16::from_be_bytes([3, 4]);
    let sum = u32::from(payload) + u32::from(check);
    let folded = (sum & 0xffff) as u16 + (sum >> 16) as u16;
    spec.payload[2..].copy_from_slice(&folded.to_be_bytes());
    let (mut bytes, offload) = spec.superframe(2000);
    let frame = Frame { head: &bytes, body: &[], offload };
    let sent = wire(&frame, None).remove(0);
    assert_eq!(sent[40..42], [0xff, 0xff]);
    assert_sound(&sent, &spec);
    let plain = Frame { offload: Offload { gso: None, ..offload }, ..frame };
    assert_eq!(segment::complete(&plain), Some((40, 0xffff)));
    bytes[40] ^= 1;
    assert_ne!(naive_sum(&bytes), 0);
}

#[test]
fn a_plain_frame_is_one_segment_or_too_big() {
    let spec = Spec { tags: 1, ..Spec::tcp4(500) };
    let bytes = spec.build();
    let body = cut(&bytes[256..], &[]);
    let frame = Frame { head: &bytes[..256], body: &body, offload: Offload::default() };
    let packet = bytes.len() - 18;
    assert_eq!(wire(&frame, Some(packet as u16)), std::slice::from_ref(&bytes));
    let mtu = packet as u16 - 1;
    let error = SegmentError::TooBig { len: packet, mtu };
    assert_eq!(Segments::plan(&frame, Some(mtu)).unwrap_err(), error);
}

#[test]
fn superframes_without_sound_headers_are_refused() {
    let spec = Spec::tcp4(3000);
    let (bytes, offload) = spec.superframe(1000);
    let plan = |bytes: &[u8], head: usize, offload: Offload| {
        let body = cut(&bytes[head..], &[]);
        let frame = Frame { head: &bytes[..head], body: &body, offload };
        Segments::plan(&frame, None).map(|segments| segments.count())
    };
    assert_eq!(plan(&bytes, 66, offload), Ok(3));
    assert_eq!(plan(&bytes, 65, offload), Err(SegmentError::Headers), "options not in the head");
    let mut gso = offload.gso.unwrap();
    gso.size = 0;
    let none = Offload { gso: Some(gso), ..offload };
    assert_eq!(plan(&bytes, 66, none), Err(SegmentError::Headers));
    gso.size = 1000;
    gso.kind = GsoKind::Udp;
    let udp = Offload { gso: Some(gso), ..offload };
    assert_eq!(plan(&bytes, 66, udp), Err(SegmentError::Headers));
    for (at, value) in [(12, 9), (14, 0x43), (20, 0x20), (46, 0x40)] {
        let mut broken = bytes.clone();
        broken[at] = value;
        assert_eq!(plan(&broken, 66, offload), Err(SegmentError::Headers), "byte {at}");
    }
    // Offsets that lie outside the head leave the frame as it is.
    let far = Offload { checksum: Checksum::Partial { start: 60, offset: 9 }, gso: None };
    let frame = Frame { head: &bytes[..66], body: &[], offload: far };
    assert_eq!(segment::complete(&frame), None);
}
