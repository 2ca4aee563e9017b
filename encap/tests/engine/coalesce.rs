use encap::{Checksum, Coalescer, Contiguous, Frame, GsoKind, Merge, Offload, Segments, Trust};
use proptest::prelude::*;

use crate::common::{
    ACK, CWR, ECE, FIN, PSH, RST, SYN, Spec, URG, assert_sound, bytes_of, specs, wire,
};

const ALL: Merge = Merge { tcp: true, udp: true, adopt: None };

/// One frame as it was handed out.
#[derive(Debug)]
struct Out {
    bytes: Vec<u8>,
    head: usize,
    offload: Offload,
    /// What it is on a wire.
    wire: Vec<Vec<u8>>,
}

fn coalesce_with(frames: &[Vec<u8>], trust: Trust, merge: Merge) -> Vec<Out> {
    let mut out = Vec::new();
    let mut emit = |frame: Frame<'_>| {
        let (bytes, head) = (bytes_of(&frame), frame.head.len());
        out.push(Out { bytes, head, offload: frame.offload, wire: wire(&frame, None) });
    };
    let mut coalescer = Coalescer::new(merge);
    for frame in frames {
        coalescer.push(frame, trust, &mut emit);
    }
    coalescer.finish(&mut emit);
    out
}

fn coalesce(frames: &[Vec<u8>]) -> Vec<Out> {
    coalesce_with(frames, Trust::Verify, ALL)
}

fn sizes(out: &[Out]) -> Vec<u64> {
    out.iter().map(|out| out.wire.len() as u64).collect()
}

/// The frames of a stream: what a superframe of this description is on a wire.
fn stream(spec: &Spec, size: usize) -> Vec<Vec<u8>> {
    let (bytes, offload) = spec.superframe(size);
    wire(&Contiguous::new(&bytes, offload).frame(), None)
}

proptest! {
    #[test]
    fn cutting_gives_back_what_was_joined(spec in specs(1..20_000), size in 1..2500usize, trusted: bool) {
        let size = size.max(spec.payload.len() / 120);
        let frames = stream(&spec, size);
        let trust = if trusted { Trust::Vouched } else { Trust::Verify };
        let out = coalesce_with(&frames, trust, ALL);
        let again: Vec<_> = out.iter().flat_map(|out| out.wire.clone()).collect();
        prop_assert_eq!(&again, &frames);
        // CWR stays alone; all the others make full superframes.
        let alone = spec.kind == GsoKind::Tcp && spec.flags & CWR != 0;
        let merged = frames.len() - usize::from(alone);
        let per_super = 64.min((65_535 - (spec.header_len() - spec.l3())) / size);
        prop_assert_eq!(out.len(), usize::from(alone) + merged.div_ceil(per_super));
        for out in &out {
            match out.offload.gso {
                Some(gso) => {
                    prop_assert_eq!(usize::from(gso.header_len), spec.header_len());
                    prop_assert_eq!(out.head, spec.header_len());
                    let partial = matches!(out.offload.checksum, Checksum::Partial { .. });
                    prop_assert!(partial);
                    prop_assert_eq!(usize::from(gso.segments), out.wire.len());
                }
                None => {
                    let want = if trusted { Checksum::Vouched } else { Checksum::Done };
                    prop_assert_eq!(out.offload.checksum, want);
                }
            }
        }
    }

    #[test]
    fn interleaved_flows_keep_their_order(
        order in proptest::collection::vec(0..6usize, 1..80), kinds: [bool; 6], v6: [bool; 6],
        pushes in proptest::collection::vec(any::<u8>(), 80),
    ) {
        let mut specs: Vec<Spec> = (0..6).map(|flow| {
            let kind = if kinds[flow] { GsoKind::Tcp } else { GsoKind::Udp };
            Spec { source_port: 40_000 + flow as u16, ..Spec::new(kind, v6[flow], 50) }
        }).collect();
        let mut frames = Vec::new();
        for (&flow, push) in order.iter().zip(pushes) {
            let spec = &mut specs[flow];
            spec.flags = if push < 40 { ACK | PSH } else if push < 50 { ACK | ECE } else { ACK };
            frames.push(spec.build());
            spec.sequence = spec.sequence.wrapping_add(50);
            spec.identification = spec.identification.wrapping_add(1);
        }
        let again: Vec<_> = coalesce(&frames).into_iter().flat_map(|out| out.wire).collect();
        let of_flow = |frames: &[Vec<u8>], flow: u16| {
            let port = (40_000 + flow).to_be_bytes();
            let mine = |frame: &&Vec<u8>| {
                let l4 = if frame[12] == 0x86 { 54 } else { 34 };
                frame[l4..l4 + 2] == port
            };
            frames.iter().filter(mine).cloned().collect::<Vec<_>>()
        };
        prop_assert_eq!(again.len(), frames.len());
        for flow in 0..6 {
            prop_assert_eq!(of_flow(&again, flow), of_flow(&frames, flow));
        }
    }

    #[test]
    fn what_does_not_fit_is_never_changed(
        spec in specs(200..2000), size in 50..200usize, edits in proptest::collection::vec((any::<usize>(), 0..100usize, any::<u8>()), 1..6),
    ) {
        let mut frames = stream(&spec, size);
        for (frame, at, value) in edits {
            let frame = frame % frames.len();
            let at = at % frames[frame].len();
            frames[frame][at] ^= value;
        }
        let mut again: Vec<_> = coalesce(&frames).into_iter().flat_map(|out| out.wire).collect();
        // A damaged address or port makes another flow, so only the set is the same. Of a packet
        // with DF set the identification means nothing (RFC 6864).
        for frame in again.iter_mut().chain(&mut frames) {
            forget_identification(frame, &spec);
        }
        again.sort();
        frames.sort();
        prop_assert_eq!(again, frames);
    }
}

fn forget_identification(frame: &mut [u8], spec: &Spec) {
    let l3 = spec.l3();
    if !spec.v6 && frame.get(l3 + 6).is_some_and(|flags| flags & 0x40 != 0) {
        let header = &frame[l3..l3 + 20];
        let valid = crate::common::naive_sum(header) == 0xffff;
        if valid {
            frame[l3 + 4..l3 + 6].fill(0);
            frame[l3 + 10..l3 + 12].fill(0);
        }
    }
}

#[test]
fn a_shorter_piece_ends_the_run_and_a_longer_one_starts_the_next() {
    for spec in [Spec::tcp4(1050), Spec::udp4(1050)] {
        let mut frames = stream(&spec, 100);
        assert_eq!(sizes(&coalesce(&frames)), [11]);
        let mut next = spec.clone();
        next.sequence = spec.sequence.wrapping_add(1050);
        next.identification = spec.identification.wrapping_add(11);
        frames.extend(stream(&next, 100));
        assert_eq!(sizes(&coalesce(&frames)), [11, 11]);
        next.payload.truncate(900);
        frames.truncate(11);
        frames.extend(stream(&next, 300));
        assert_eq!(sizes(&coalesce(&frames)), [11, 3]);
    }
}

/// Three pieces that would merge, the middle one changed by `edit`.
fn sandwich(base: &Spec, edit: impl Fn(&mut Spec)) -> Vec<u64> {
    let frames: Vec<_> = (0..3u16)
        .map(|i| {
            let mut spec = base.clone();
            spec.sequence = base.sequence.wrapping_add(u32::from(i) * spec.payload.len() as u32);
            spec.identification = base.identification.wrapping_add(i);
            if i == 1 {
                edit(&mut spec);
            }
            spec.build()
        })
        .collect();
    let out = coalesce(&frames);
    let again: Vec<_> = out.iter().flat_map(|out| out.wire.clone()).collect();
    assert_eq!(again, frames);
    sizes(&out)
}

#[test]
fn tcp_rules() {
    let tcp = Spec::tcp4(100);
    assert_eq!(sandwich(&tcp, |_| ()), [3]);
    assert_eq!(sandwich(&tcp, |spec| spec.flags |= PSH), [2, 1]);
    assert_eq!(sandwich(&tcp, |spec| spec.flags |= FIN), [2, 1]);
    for flag in [SYN, RST, URG, CWR, ECE] {
        assert_eq!(sandwich(&tcp, |spec| spec.flags |= flag), [1, 1, 1], "{flag:#x}");
    }
    assert_eq!(sandwich(&tcp, |spec| spec.flags = 0), [1, 1, 1]);
    assert_eq!(sandwich(&tcp, |spec| spec.ack += 1), [1, 1, 1]);
    assert_eq!(sandwich(&tcp, |spec| spec.window += 1), [1, 1, 1]);
    assert_eq!(sandwich(&tcp, |spec| spec.sequence += 1), [1, 1, 1]);
    assert_eq!(sandwich(&tcp, |spec| spec.options = 2), [1, 1, 1]);
    assert_eq!(sandwich(&tcp, |spec| spec.tos = 3), [1, 1, 1]);
    assert_eq!(sandwich(&tcp, |spec| spec.ttl = 9), [1, 1, 1]);
    assert_eq!(sandwich(&tcp, |spec| spec.df = false), [1, 1, 1]);
    assert_eq!(sandwich(&tcp, |spec| spec.payload.clear()), [1, 1, 1]);
    assert_eq!(sandwich(&tcp, |spec| spec.payload.truncate(60)), [2, 1]);
    assert_eq!(sandwich(&tcp, |spec| spec.payload.extend([0; 60])), [1, 1, 1]);
    let v6 = Spec::new(GsoKind::Tcp, true, 100);
    assert_eq!(sandwich(&v6, |_| ()), [3]);
    assert_eq!(sandwich(&v6, |spec| spec.tos = 3), [1, 1, 1]);
    assert_eq!(sandwich(&v6, |spec| spec.ttl = 9), [1, 1, 1]);
}

#[test]
fn identification_rules() {
    let fragmentable = Spec { df: false, ..Spec::tcp4(100) };
    assert_eq!(sandwich(&fragmentable, |_| ()), [3]);
    assert_eq!(sandwich(&fragmentable, |spec| spec.identification = 7), [1, 1, 1]);
    // With DF any identification will do: constant ones merge, too.
    let frames: Vec<_> = (0..3u32)
        .map(|i| Spec { sequence: 100 * i, identification: 0, ..Spec::tcp4(100) }.build())
        .collect();
    assert_eq!(sizes(&coalesce(&frames)), [3]);
}

#[test]
fn udp_rules() {
    let udp = Spec::udp4(100);
    assert_eq!(sandwich(&udp, |_| ()), [3]);
    assert_eq!(sandwich(&udp, |spec| spec.tos = 3), [1, 1, 1]);
    assert_eq!(sandwich(&udp, |spec| spec.payload.clear()), [1, 1, 1]);
    assert_eq!(sandwich(&udp, |spec| spec.payload.truncate(60)), [2, 1]);
    let other = |edit: fn(&mut Vec<u8>)| {
        let mut frames = stream(&Spec::udp4(300), 100);
        edit(&mut frames[1]);
        let out = coalesce(&frames);
        assert_eq!(out.iter().flat_map(|out| out.wire.clone()).collect::<Vec<_>>(), frames);
        sizes(&out)
    };
    assert_eq!(other(|frame| frame[40..42].fill(0)), [1, 1, 1], "no checksum");
    assert_eq!(other(|frame| frame[39] -= 1), [1, 1, 1], "a length of its own");
    assert_eq!(other(|frame| frame[90] ^= 1), [1, 1, 1], "damaged");
    // Another flow in between does not end a run.
    let mut frames = stream(&Spec::udp4(300), 100);
    frames.insert(1, Spec { source_port: 9, ..Spec::udp4(100) }.build());
    assert_eq!(sizes(&coalesce(&frames)), [3, 1]);
}

#[test]
fn nothing_is_laundered() {
    for at in [24, 36, 50, 70, 165] {
        let mut frames = stream(&Spec::tcp4(300), 100);
        frames[1][at] ^= 0x10;
        let out = coalesce(&frames);
        assert!(out.iter().any(|out| out.bytes == frames[1] && out.offload == Offload::default()));
        assert!(out.iter().all(|out| out.offload.gso.is_none()), "byte {at}");
    }
    // The first one damaged: the next two are a run of their own.
    let mut frames = stream(&Spec::tcp4(300), 100);
    frames[0][100] ^= 1;
    let out = coalesce(&frames);
    assert_eq!(sizes(&out), [1, 2]);
    assert_eq!(out[0].bytes, frames[0]);
    // A damaged IPv4 header is not repaired even when the outer checksum vouched.
    let mut frames = stream(&Spec::tcp4(300), 100);
    frames[1][24] ^= 1;
    let out = coalesce_with(&frames, Trust::Vouched, ALL);
    assert_eq!(sizes(&out), [1, 1, 1]);
}

#[test]
fn what_is_switched_off_stays_single() {
    let tcp = stream(&Spec::tcp4(300), 100);
    let udp = stream(&Spec::udp4(300), 100);
    let frames = [tcp, udp].concat();
    let only =
        |tcp, udp| sizes(&coalesce_with(&frames, Trust::Verify, Merge { tcp, udp, adopt: None }));
    assert_eq!(only(true, true), [3, 3]);
    assert_eq!(only(true, false), [1, 1, 1, 3]);
    assert_eq!(only(false, true).len(), 4);
    assert_eq!(only(false, false), [1; 6]);
}

#[test]
fn padding_is_trimmed_before_merging_only() {
    let spec = Spec { options: 0, ..Spec::tcp4(6) };
    let frames: Vec<_> = (0..3u32)
        .map(|i| {
            let sequence = spec.sequence.wrapping_add(6 * i);
            let identification = spec.identification.wrapping_add(i as u16);
            Spec { sequence, identification, ..spec.clone() }.build()
        })
        .collect();
    let padded: Vec<_> = frames.iter().map(|frame| [&frame[..], &[0; 9]].concat()).collect();
    let out = coalesce(&padded);
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].wire, frames);
    assert_eq!(coalesce(&padded[..1])[0].bytes, padded[0]);
}

#[test]
fn a_run_ends_before_it_outgrows_a_packet() {
    // 52 bytes of headers: 11 pieces of 5953 make a packet of 65535 bytes, 12 of 5457 one more.
    for (size, count, want) in [(5953, 11, &[11][..]), (5457, 12, &[11, 1])] {
        let base = Spec::tcp4(size);
        let frames: Vec<_> = (0..count)
            .map(|i| {
                let sequence = base.sequence.wrapping_add(u32::from(i) * size as u32);
                let identification = base.identification.wrapping_add(i);
                Spec { sequence, identification, ..base.clone() }.build()
            })
            .collect();
        assert_eq!(sizes(&coalesce(&frames)), want);
    }
    let tiny = stream(&Spec::udp4(300), 3);
    assert_eq!(sizes(&coalesce(&tiny)), [64, 36]);
}

#[test]
fn reserved_tcp_bits_must_agree() {
    let mut frames = stream(&Spec::tcp4(300), 100);
    // Accurate ECN's bit beside the data offset, its checksum mended.
    frames[1][46] |= 1;
    let check = u16::from_be_bytes([frames[1][50], frames[1][51]]);
    let check = encap::checksum::update(check, 0x8010, 0x8110);
    frames[1][50..52].copy_from_slice(&check.to_be_bytes());
    assert_eq!(sizes(&coalesce(&frames)), [1, 1, 1]);
}

#[test]
fn fragments_and_strangers_do_not_overtake() {
    let mut frames = stream(&Spec::udp4(300), 100);
    let mut fragment = Spec::udp4(100).build();
    fragment[20] = 0x20;
    frames.insert(2, fragment.clone());
    let out = coalesce(&frames);
    assert_eq!(sizes(&out), [2, 1, 1]);
    assert_eq!(out[1].bytes, fragment);
    let arp = vec![0xff; 60];
    frames[2] = arp.clone();
    let out = coalesce(&frames);
    assert_eq!(out.iter().map(|out| out.bytes.len()).collect::<Vec<_>>(), [242, 60, 142]);
}

#[test]
fn singles_are_adopted_when_asked() {
    let spec = Spec { flags: SYN, ..Spec::tcp4(0) };
    let (bytes, offload) = spec.superframe(1);
    let adopting = Merge { adopt: Some(1450), ..ALL };
    let out = coalesce_with(std::slice::from_ref(&bytes), Trust::Vouched, adopting);
    assert_eq!(out[0].offload, Offload { gso: None, ..offload });
    assert_sound(&out[0].wire[0], &spec);
    let out = coalesce_with(&[bytes], Trust::Vouched, ALL);
    assert_eq!(out[0].offload.checksum, Checksum::Vouched);
}

#[test]
fn a_single_frame_is_split_for_its_head() {
    for len in [10, 200, 1000] {
        let frame = Spec::tcp4(len).build();
        let mut seen = 0;
        let mut coalescer = Coalescer::new(ALL);
        let mut emit = |out: Frame<'_>| {
            seen += 1;
            assert_eq!(out.head.len(), frame.len().min(256));
            assert_eq!(out.body.is_empty(), frame.len() <= 256);
            assert_eq!(bytes_of(&out), frame);
            assert_eq!(Segments::plan(&out, None).unwrap().count(), 1);
        };
        coalescer.push(&frame, Trust::Verify, &mut emit);
        coalescer.finish(&mut emit);
        coalescer.finish(&mut emit);
        assert_eq!(seen, 1);
    }
}

#[test]
fn frames_whose_checksums_are_still_to_be_finished_are_joined_unverified() {
    for (spec, offset) in [(Spec::tcp4(300), 16), (Spec::udp4(300), 6)] {
        let finished = stream(&spec, 100);
        let l4 = 34;
        let start = l4 as u16;
        // As a stack leaves them to its device: any value goes, here one that is wrong.
        let mut frames = finished.clone();
        for frame in &mut frames {
            frame[l4 + offset..l4 + offset + 2].copy_from_slice(&[0x12, 0x34]);
        }
        let unfinished = Trust::Unfinished { start, offset: offset as u16 };
        let out = coalesce_with(&frames, unfinished, ALL);
        assert_eq!(sizes(&out), [3]);
        assert_eq!(out[0].wire, finished, "finished when they are cut again");
        // Verified as finished ones they would not be: nor are they, and nothing is mended.
        let out = coalesce_with(&frames, Trust::Verify, ALL);
        assert_eq!(out.iter().map(|out| out.bytes.clone()).collect::<Vec<_>>(), frames);
        // A checksum of something else than the transport header stays with its frame.
        let elsewhere = Trust::Unfinished { start: start + 8, offset: 6 };
        let out = coalesce_with(&frames, elsewhere, ALL);
        assert_eq!(out.len(), 3);
        for (out, frame) in out.iter().zip(&frames) {
            assert_eq!(out.bytes, *frame);
            assert_eq!(out.offload.checksum, Checksum::Partial { start: start + 8, offset: 6 });
        }
    }
}
