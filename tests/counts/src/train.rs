//! A TCP superframe of 44 full segments: cut, and joined again.

use std::hint::black_box;

use encap::{
    Checksum, Coalescer, Contiguous, Frame, Gso, GsoKind, Merge, Offload, Segments, StationMac,
    Trust, checksum,
};

use crate::measured;
use crate::table::station;

const MSS: u16 = 1398;
const SEGMENTS: u16 = 44;
/// Ethernet, IPv4, and TCP with twelve bytes of options.
const HEADER_LEN: usize = 66;
const L3: usize = 14;
const L4: usize = 34;
const CHECKSUM_AT: usize = L4 + 16;

/// A TCP segment from `src` to `dst`, its checksums in order.
pub(crate) fn frame(dst: StationMac, src: StationMac, seq: u32, payload: usize) -> Vec<u8> {
    let mut frame = [&dst.get().0[..], &src.get().0, &[8, 0]].concat();
    let len = (HEADER_LEN - L3 + payload).min(0xffff) as u16;
    let [len0, len1] = len.to_be_bytes();
    frame.extend([0x45, 0, len0, len1, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let sum = checksum::of(&frame[L3..]).to_be_bytes();
    frame[L3 + 10..L3 + 12].copy_from_slice(&sum);
    frame.extend([0x9c, 0x40, 0x14, 0x51]);
    frame.extend(seq.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0x80, 0x10, 1, 0xf5, 0, 0, 0, 0]);
    frame.extend([1; 12]);
    frame.extend((0..payload).map(|n| (n * 7) as u8));
    let [tcp0, tcp1] = (len - 20).to_be_bytes();
    let pseudo = [&frame[L3 + 12..L4], &[0, 6, tcp0, tcp1], &frame[L4..]].concat();
    let sum = checksum::of(&pseudo).to_be_bytes();
    frame[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&sum);
    frame
}

/// The superframe's bytes, as a port hands it over: only the pseudo-header is summed.
pub(crate) fn superframe(dst: StationMac, src: StationMac) -> Vec<u8> {
    let mut bytes = frame(dst, src, 1, usize::from(MSS * SEGMENTS));
    let [tcp0, tcp1] = ((bytes.len() - L4) as u16).to_be_bytes();
    let pseudo = [&bytes[L3 + 12..L4], &[0, 6, tcp0, tcp1]].concat();
    let sum = (!checksum::of(&pseudo)).to_be_bytes();
    bytes[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&sum);
    bytes
}

/// What is left to do with it.
pub(crate) fn offload() -> Offload {
    let gso =
        Gso { kind: GsoKind::Tcp, size: MSS, segments: SEGMENTS, header_len: HEADER_LEN as u16 };
    Offload { checksum: Checksum::Partial { start: L4 as u16, offset: 16 }, gso: Some(gso) }
}

pub(crate) fn segmentation(runs: u64) {
    let bytes = superframe(station(1), station(2));
    let unit = Contiguous::new(&bytes, offload());
    let mut out = vec![0; usize::from(SEGMENTS) * HEADER_LEN];
    measured(runs, |_| {
        let frame: Frame<'_> = black_box(&unit).frame();
        let segments = Segments::plan(&frame, Some(1450)).expect("a sound superframe");
        for (n, out) in out.chunks_exact_mut(HEADER_LEN).enumerate() {
            segments.write_header(n, out);
            black_box(segments.payload(n).count());
        }
    });
}

/// Joins the segments of a superframe of each of so many flows that take turns.
fn join(runs: u64, flows: u16, trust: Trust) {
    let part = |n| {
        let (to, n) = (station(2 + u64::from(n % flows)), u32::from(n / flows));
        frame(to, station(1), 1 + n * u32::from(MSS), MSS.into())
    };
    let frames: Vec<Vec<u8>> = (0..SEGMENTS).map(part).collect();
    let merge = Merge { tcp: true, udp: true, adopt: None };
    measured(runs, |_| {
        let (mut units, mut joined) = (0, 0);
        let mut emit =
            |frame: Frame<'_>| (units, joined) = (units + 1, joined + frame.wire_frames());
        let mut coalescer = Coalescer::new(merge);
        for frame in black_box(&frames) {
            coalescer.push(frame, trust, &mut emit);
        }
        coalescer.finish(&mut emit);
        assert_eq!((units, joined), (flows, u64::from(SEGMENTS)), "units, frames");
    });
}

pub(crate) fn coalescing(runs: u64) {
    join(runs, 1, Trust::Vouched);
}

pub(crate) fn alternating(runs: u64) {
    join(runs, 2, Trust::Vouched);
}

pub(crate) fn verifying(runs: u64) {
    join(runs, 1, Trust::Verify);
}
