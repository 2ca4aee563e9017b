//! Superframes go through the router whole, and what is cut from them sums up.

use crate::kit::Sent;
use crate::world::{At, Unit, World, framed, ip, mac, naive_sum, spec};
use encap::{Checksum, Contiguous, Gso, GsoKind, Offload, Segments};
use etherparse::{IpNumber, TcpHeader};
use fdb::Tick;
use switch::GATEWAY_MAC;

const MSS: usize = 1300;
const SEGMENTS: usize = 9;
/// The last segment is shorter, and odd.
const PAYLOAD: usize = MSS * (SEGMENTS - 1) + 777;

fn payload() -> Vec<u8> {
    (0..PAYLOAD).map(|i| (i * 31 % 251) as u8).collect()
}

/// Bytes of the pseudo-header.
fn pseudo(l3: &[u8], l4: usize) -> Vec<u8> {
    let len = (l3.len() - l4) as u32;
    let ends = if l3[0] >> 4 == 4 { &l3[12..20] } else { &l3[8..40] };
    [ends, &len.to_be_bytes(), &[0, 0, 0, 6]].concat()
}

/// A TCP superframe from pod two's addresses, as a TAP hands it over.
fn superframe(source: &str, to: &str, priority: bool) -> Unit {
    let mut l3 = Vec::new();
    let tcp = TcpHeader::new(5000, 80, 1000, 1000);
    ip(source, to, IpNumber::TCP).tcp_header(tcp).write(&mut l3, &payload()).unwrap();
    let mut unit = framed(l3);
    let l4 = if unit.ethertype == 0x0800 { 20 } else { 40 };
    let sum = !naive_sum(&pseudo(&unit.l3, l4));
    unit.l3[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
    let tag = if priority { 4 } else { 0 };
    if priority {
        unit = unit.priority();
    }
    let start = (14 + tag + l4) as u16;
    let gso = Gso {
        kind: GsoKind::Tcp,
        size: MSS as u16,
        segments: SEGMENTS as u16,
        header_len: start + 20,
    };
    unit.offload = Offload { checksum: Checksum::Partial { start, offset: 16 }, gso: Some(gso) };
    unit
}

/// Cuts what was sent, as an output does, and sums every piece.
fn check(bytes: &[u8], offload: Offload, hops: u8) {
    let unit = Contiguous::new(bytes, offload);
    let frame = unit.frame();
    assert_eq!(frame.wire_frames(), SEGMENTS as u64, "it is still one");
    let segments = Segments::plan(&frame, Some(1450)).unwrap();
    let mut got = Vec::new();
    for at in 0..segments.count() {
        let mut bytes = vec![0; segments.header_len()];
        segments.write_header(at, &mut bytes);
        segments.payload(at).for_each(|slice| bytes.extend_from_slice(slice));
        let l3 = &bytes[14..];
        let l4 = if l3[0] >> 4 == 4 { 20 } else { 40 };
        if l4 == 20 {
            assert_eq!(naive_sum(&l3[..20]), 0, "IPv4 header of segment {at}");
        }
        assert_eq!(l3[if l4 == 20 { 8 } else { 7 }], hops);
        assert_eq!(naive_sum(&[&pseudo(l3, l4)[..], &l3[l4..]].concat()), 0, "segment {at}");
        got.extend_from_slice(&l3[l4 + 20..]);
    }
    assert!(got == payload(), "the payload is what was sent");
}

#[test]
fn superframes_are_edited_in_their_head_alone() {
    let (four, six) = ("10.244.1.2", "fd44:0:0:1::2");
    for (at, source, to, n) in [
        (At::Port("two"), four, "10.244.1.3", Some(3)),
        (At::Port("two"), six, "fd44:0:0:1::3", Some(3)),
        (At::Port("two"), four, "10.244.1.4", Some(4)),
        (At::Port("two"), four, "198.51.100.1", Some(1)),
        (At::Port("two"), four, "10.244.2.9", None),
        (At::Port("two"), six, "fd44:0:0:2::9", None),
        (At::Vtep(2), "10.244.2.9", four, Some(2)),
        (At::Vtep(2), "fd44:0:0:2::9", six, Some(2)),
    ] {
        for priority in [false, true] {
            let mut world = World::new(&spec());
            let unit = superframe(source, to, priority);
            let sent = world.send(Tick(0), at, &unit);
            let (bytes, offload, mac) = match &sent[..] {
                [Sent::ToPort { bytes, offload, .. }] => (bytes, *offload, mac(n.unwrap())),
                [Sent::ToVteps { bytes, offload, .. }] if n.is_none() => {
                    (bytes, *offload, GATEWAY_MAC)
                }
                other => panic!("{source} to {to}: {other:?}"),
            };
            assert_eq!(bytes[..12], [mac.get().0, GATEWAY_MAC.get().0].concat());
            check(bytes, offload, if matches!(at, At::Port(_)) { 63 } else { 64 });
        }
    }
}
