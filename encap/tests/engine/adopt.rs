use encap::{Checksum, Contiguous, GsoKind, Offload, Train, adopt_partial, vxlan};
use proptest::prelude::*;

use crate::common::{Spec, assert_sound, specs, wire};

const MTU: u16 = 1450;

proptest! {
    #[test]
    fn unfinished_checksums_are_adopted_and_finished(spec in specs(0..1300)) {
        let (bytes, offload) = spec.superframe(60_000);
        let adopted = adopt_partial(&bytes, MTU, None);
        prop_assert_eq!(adopted, Some(Offload { gso: None, ..offload }));
        let frame = wire(&Contiguous::new(&bytes, adopted.unwrap()).frame(), Some(MTU)).remove(0);
        assert_sound(&frame, &spec);
        // Adopting what is finished would be an accident of one in 65536.
        let again = adopt_partial(&frame, MTU, None);
        prop_assert!(again.is_none() || frame == bytes);
    }

    #[test]
    fn a_long_tcp_frame_is_a_superframe(spec in specs(1500..9000)) {
        let (bytes, offload) = spec.superframe(60_000);
        let adopted = adopt_partial(&bytes, MTU, None).unwrap();
        prop_assert_eq!(adopted.checksum, offload.checksum);
        let contiguous = Contiguous::new(&bytes, adopted);
        if spec.kind == GsoKind::Udp {
            prop_assert_eq!(adopted.gso, None);
            prop_assert!(encap::Segments::plan(&contiguous.frame(), Some(MTU)).is_err());
            let sized = adopt_partial(&bytes, MTU, Some(900)).unwrap();
            prop_assert_eq!(sized.gso.map(|gso| gso.size), Some(900));
            prop_assert_eq!(wire(&Contiguous::new(&bytes, sized).frame(), Some(MTU)).len(),
                spec.payload.len().div_ceil(900));
        } else {
            let size = usize::from(MTU) - (spec.header_len() - spec.l3());
            prop_assert_eq!(adopted.gso.map(|gso| usize::from(gso.size)), Some(size));
            for frame in wire(&contiguous.frame(), Some(MTU)) {
                assert_sound(&frame, &spec);
            }
        }
    }
}

#[test]
fn others_are_left_alone() {
    for spec in [Spec::tcp4(100), Spec::udp4(100), Spec::new(GsoKind::Tcp, true, 100)] {
        let finished = spec.build();
        assert_eq!(adopt_partial(&finished, MTU, None), None);
        let (bytes, _) = spec.superframe(60_000);
        assert!(adopt_partial(&bytes, MTU, None).is_some());
        assert_eq!(adopt_partial(&bytes[..bytes.len() - 1], MTU, None), None, "cut short");
        let mut fragment = bytes.clone();
        if !spec.v6 {
            fragment[20] |= 0x20;
            assert_eq!(adopt_partial(&fragment, MTU, None), None);
        }
    }
    // A UDP checksum of zero is none, not an unfinished one.
    let (mut none, _) = Spec::udp4(20).superframe(60_000);
    let pseudo = u16::from_be_bytes([none[40], none[41]]);
    // A source address with which the pseudo-header sum is zero as well.
    let part = u16::from_be_bytes([none[26], none[27]]) + !pseudo;
    none[26..28].copy_from_slice(&part.to_be_bytes());
    none[40..42].fill(0);
    assert_eq!(adopt_partial(&none, MTU, None), None);
    none[40..42].fill(0xff);
    assert!(adopt_partial(&none, MTU, None).is_some());
}

#[test]
fn sizes_that_cannot_be_are_not_adopted() {
    let udp = Spec::udp4(9000);
    let (bytes, _) = udp.superframe(1000);
    for size in [0, 20, 1423, 60_000] {
        let adopted = adopt_partial(&bytes, MTU, Some(size)).unwrap();
        assert_eq!(adopted.gso, None, "{size}");
        assert_eq!(adopted.checksum, Checksum::Partial { start: 34, offset: 6 });
    }
    let (bytes, _) = Spec::tcp4(9000).superframe(1000);
    assert_eq!(adopt_partial(&bytes, 40, None).unwrap().gso, None, "no room for payload");
}

#[test]
fn trains_are_told_from_udp_superframes() {
    let frame = Spec::udp4(400).build();
    let header = vxlan::emit(encap::Vni::new(7).unwrap());
    let datagram = [&header[..], &frame].concat();
    let bytes = [&datagram[..], &datagram, &datagram[..80]].concat();
    let train = Train::new(&bytes, Some(datagram.len() as u16));
    assert_eq!(train.inner_udp_size(), None);
    let lens: Vec<usize> = train.map(<[u8]>::len).collect();
    assert_eq!(lens, [datagram.len(), datagram.len(), 80]);

    let (frame, _) = Spec::udp4(4000).superframe(400);
    let one = [&header[..], &frame].concat();
    let train = Train::new(&one, Some(400));
    assert_eq!(train.inner_udp_size(), Some(400));
    assert_eq!(train.collect::<Vec<_>>(), [&one[..]]);

    for size in [None, Some(0), Some(5000)] {
        assert_eq!(Train::new(&one, size).collect::<Vec<_>>(), [&one[..]]);
    }
    assert_eq!(Train::new(&[], Some(9)).count(), 0);
}
