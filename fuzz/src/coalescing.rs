//! What a peer sends in one train: frames, each behind two bytes of length.

use encap::{Coalescer, FlowHash, Frame, Inet, IpVersion, Merge, Segments, Trust};

use super::sums;

/// Joins the frames and cuts what came of it: the same frames come back, in order in each flow.
pub fn check(bytes: &[u8]) {
    let frames = frames(bytes);
    let merge = Merge { tcp: true, udp: true, adopt: None };
    let mut coalescer = Coalescer::new(merge);
    let mut again: Vec<Vec<u8>> = Vec::new();
    let mut emit = |frame: Frame<'_>| again.extend(cut(&frame));
    for frame in &frames {
        coalescer.push(frame, Trust::Verify, &mut emit);
    }
    coalescer.finish(&mut emit);
    assert_eq!(again.len(), frames.len());
    for key in frames.iter().map(|frame| flow(frame)) {
        let of_flow = |frames: &[&[u8]]| -> Vec<Vec<u8>> {
            let mine = frames.iter().filter(|frame| flow(frame) == key);
            mine.map(|frame| essence(frame)).collect()
        };
        let again: Vec<&[u8]> = again.iter().map(Vec::as_slice).collect();
        assert_eq!(of_flow(&again), of_flow(&frames));
    }
}

fn frames(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    while let Some((&len, rest)) = bytes.split_first_chunk::<2>() {
        let len = usize::from(u16::from_le_bytes(len) & 0x0fff).min(rest.len());
        let (frame, rest) = rest.split_at(len);
        frames.push(frame);
        bytes = rest;
    }
    frames.truncate(100);
    frames
}

fn cut(frame: &Frame<'_>) -> Vec<Vec<u8>> {
    let Ok(segments) = Segments::plan(frame, None) else { unreachable!("joined, but not to cut") };
    assert_eq!(segments.count() as u64, frame.wire_frames());
    let segment = |i| {
        let mut out = vec![0; segments.header_len()];
        segments.write_header(i, &mut out);
        segments.payload(i).for_each(|slice| out.extend_from_slice(slice));
        out
    };
    (0..segments.count()).map(segment).collect()
}

/// MAC addresses and tags, and the flow's hash.
fn flow(frame: &[u8]) -> (Vec<u8>, FlowHash) {
    let l3 = encap::Ethernet::parse(frame).map_or(0, |ethernet| ethernet.l3);
    (frame[..l3].to_vec(), FlowHash::of(frame))
}

/// The frame less what joining may change: padding behind the packet, the identification of a
/// packet that is not to be fragmented (RFC 6864), and which of its two zeros a sum has.
fn essence(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let Some(inet) = Inet::parse(&frame).filter(|inet| inet.fits(frame.len())) else {
        return frame;
    };
    let header = &frame[inet.l3..inet.l4];
    if inet.version == IpVersion::V4 {
        if sums::sum(header) != 0xffff {
            return frame;
        }
        frame[inet.l3 + 10..inet.l3 + 12].fill(0);
        if frame[inet.l3 + 6] & 0x40 != 0 {
            frame[inet.l3 + 4..inet.l3 + 6].fill(0);
        }
    }
    frame.truncate(inet.l3 + inet.l3_len);
    if inet.proto == 6
        && let Some(field) = frame.get_mut(inet.l4 + 16..inet.l4 + 18)
        && field == [0xff; 2]
    {
        field.fill(0);
    }
    frame
}
