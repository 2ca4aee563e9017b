//! Arbitrary bytes into everything that parses: nothing panics, and what is accepted is within
//! bounds.

use encap::{
    Arp, Coalescer, Contiguous, Ethernet, FlowHash, Frame, Head, Inet, Merge, Neighbour, Offload,
    Plain, Segments, Train, Trust, VnetHeader, adopt_partial, segment, vxlan,
};
use proptest::prelude::*;

use crate::common::{bytes_of, specs};

/// Bytes without structure, and sound frames with a few bytes overwritten and the end cut off.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let edits = proptest::collection::vec((0..120usize, any::<u8>()), 0..6);
    let mangled = (specs(0..600), edits, 0..700usize).prop_map(|(spec, edits, keep)| {
        let mut frame = spec.build();
        for (at, value) in edits {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        frame.truncate(keep);
        frame
    });
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..400), mangled]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn parsers(bytes in hostile()) {
        let plain = Ethernet::parse(&bytes).ok().filter(|it| it.tag.is_none()).and_then(|it| {
            Some((it.dst.station()?, it.src.station()?, it.ethertype))
        });
        let found = Plain::parse(&bytes).map(|it| (it.dst.mac(), it.src.mac(), it.ethertype));
        prop_assert_eq!(found, plain);
        if let Ok(ethernet) = Ethernet::parse(&bytes) {
            prop_assert!(ethernet.l3 <= bytes.len() && (14..=22).contains(&ethernet.l3));
        }
        if let Some(inet) = Inet::parse(&bytes) {
            prop_assert!(inet.l4 <= bytes.len() && inet.l3 + inet.l3_len >= inet.l4);
            prop_assert!(inet.addresses(&bytes).is_some());
        }
        let _: (Option<Arp>, Option<Neighbour>) = (Arp::parse(&bytes), Neighbour::parse(&bytes));
        prop_assert!(FlowHash::of(&bytes).source_port() >= 49_152);
        if let Ok((_, inner)) = vxlan::split(&bytes) {
            prop_assert_eq!(inner.len() + 8, bytes.len());
        }
        let mut head = Head::copy_of(&bytes[..bytes.len().min(256)]);
        if head.pop_tag().is_some() {
            prop_assert!(Ethernet::parse(&bytes).map_or(true, |ethernet| ethernet.tag.is_some()));
        }
        for ecn in [encap::Ecn::Ce, encap::Ecn::NotEct] {
            if let Some(inet) = Inet::parse(head.as_slice()) {
                encap::ecn::set(head.as_mut_slice(), &inet, ecn);
                prop_assert_eq!(Inet::parse(head.as_slice()).map(|i| i.tos & 3), Some(ecn.bits()));
            }
        }
    }

    #[test]
    fn vnet_headers(bytes in hostile(), raw: [u8; 12], fields in any::<[u8; 4]>(), size: u16) {
        let [kind, flags, start, offset] = fields;
        let likely = VnetHeader {
            flags: flags & 1,
            gso_type: [0, 1, 4, 5, 0x81][usize::from(kind) % 5],
            gso_size: size % 600,
            csum_start: [34, 54, 38, u16::from(start)][usize::from(start) % 4],
            csum_offset: [6, 16, u16::from(offset)][usize::from(offset) % 3],
            hdr_len: 0,
        };
        for header in [VnetHeader::decode(&raw), likely] {
            let mut bytes = bytes.clone();
            let len = bytes.len();
            let head_len = len.min(256);
            let Ok(offload) = header.resolve(&mut bytes[..head_len], len) else { continue };
            let contiguous = Contiguous::new(&bytes, offload);
            let frame = contiguous.frame();
            prop_assert_eq!(bytes_of(&frame), &bytes[..]);
            let written = VnetHeader::of(&frame);
            prop_assert_eq!(written.flags & 1 == 1, header.flags & 1 == 1 || offload.gso.is_some());
            // What was accepted can be laid out, and nothing is lost.
            let segments = Segments::plan(&frame, None).unwrap();
            let payload: usize = (0..segments.count()).map(|i| segments.payload_len(i)).sum();
            prop_assert_eq!(payload + segments.header_len(), frame.len());
            prop_assert_eq!(segments.count() as u64, frame.wire_frames());
            let mut out = [0; 300];
            for i in 0..segments.count() {
                prop_assert_eq!(segments.write_header(i, &mut out), segments.header_len());
                prop_assert_eq!(segments.payload(i).map(<[u8]>::len).sum::<usize>(),
                    segments.payload_len(i));
            }
        }
    }

    #[test]
    fn offloads_that_do_not_fit_the_frame(
        bytes in hostile(), start: u16, offset: u16, size: u16, header_len: u16, udp: bool, mtu: u16,
    ) {
        let kind = if udp { encap::GsoKind::Udp } else { encap::GsoKind::Tcp };
        let gso = Some(encap::Gso { kind, size, segments: start, header_len });
        let checksum = encap::Checksum::Partial { start, offset };
        for offload in [Offload { checksum, gso }, Offload { checksum, gso: None }] {
            let contiguous = Contiguous::new(&bytes, offload);
            let frame = contiguous.frame();
            let _: VnetHeader = VnetHeader::of(&frame);
            if let Some((at, _)) = segment::complete(&frame) {
                prop_assert!(at + 2 <= frame.head.len());
            }
            if let Ok(segments) = Segments::plan(&frame, Some(mtu)) {
                prop_assert!(segments.count() >= 1);
                prop_assert!(segments.write_header(0, &mut [0; 300]) > 0 || bytes.is_empty());
            }
        }
        let _: Offload = Offload { checksum, gso }.shifted(-4);
    }

    #[test]
    fn trains(frames in proptest::collection::vec(hostile(), 0..12), trusted: bool, mtu: u16) {
        let merge = Merge { tcp: true, udp: true, adopt: Some(mtu) };
        let trust = if trusted { Trust::Vouched } else { Trust::Verify };
        let mut coalescer = Coalescer::new(merge);
        let (mut bytes, mut count) = (0, 0);
        let mut emit = |frame: Frame<'_>| {
            bytes += frame.len();
            count += 1;
        };
        for frame in &frames {
            coalescer.push(frame, trust, &mut emit);
            let _: Option<Offload> = adopt_partial(frame, mtu, Some(mtu / 3));
        }
        coalescer.finish(&mut emit);
        prop_assert!(count <= frames.len());
        prop_assert!(bytes <= frames.iter().map(Vec::len).sum());
        let all = frames.concat();
        let parts = Train::new(&all, Some(mtu));
        prop_assert_eq!(parts.map(<[u8]>::len).sum::<usize>(), all.len());
    }
}
