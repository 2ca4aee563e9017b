//! What the edge of the tunnel costs per frame and per superframe.
#![expect(clippy::expect_used, reason = "a benchmark")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use encap::{
    Checksum, Coalescer, Contiguous, FlowHash, Frame, Gso, GsoKind, Merge, Offload, Segments,
    Trust, VnetHeader, Vni, checksum, vxlan,
};
use etherparse::PacketBuilder;

/// Inner TCP payload of a full segment at an underlay MTU of 1500.
const MSS: u16 = 1398;
const HEADER_LEN: usize = 66;

/// A TCP superframe of `segments` full segments, as it comes from a TAP, and its vnet header.
fn superframe(segments: u16) -> (VnetHeader, Vec<u8>) {
    let payload: Vec<u8> = (0..usize::from(segments * MSS)).map(|i| (i * 7) as u8).collect();
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .tcp(40_000, 5201, 1, 501)
        .ack(1)
        .options_raw(&[1; 12])
        .expect("twelve bytes of options");
    let mut frame = Vec::new();
    builder.write(&mut frame, &payload).expect("a frame within 64 KiB");
    // Without the flag, the header's resolution puts the pseudo-header sum in.
    let header = VnetHeader { gso_type: 1, gso_size: MSS, ..VnetHeader::default() };
    let len = frame.len();
    header.resolve(&mut frame, len).expect("a sound superframe");
    let header = VnetHeader { flags: 1, csum_start: 34, csum_offset: 16, ..header };
    (header, frame)
}

fn offload(segments: u16) -> Offload {
    let gso = Gso { kind: GsoKind::Tcp, size: MSS, segments, header_len: HEADER_LEN as u16 };
    Offload { checksum: Checksum::Partial { start: 34, offset: 16 }, gso: Some(gso) }
}

/// The superframe's segments as frames of their own.
fn train(segments: u16) -> Vec<Vec<u8>> {
    let (_, bytes) = superframe(segments);
    let contiguous = Contiguous::new(&bytes, offload(segments));
    let segments = Segments::plan(&contiguous.frame(), None).expect("a sound superframe");
    let frame = |i| {
        let mut frame = vec![0; segments.header_len()];
        segments.write_header(i, &mut frame);
        segments.payload(i).for_each(|slice| frame.extend_from_slice(slice));
        frame
    };
    (0..segments.count()).map(frame).collect()
}

fn headers(c: &mut Criterion) {
    let vni = Vni::new(100).expect("a VNI");
    let frame = train(2).remove(0);
    let datagram = [&vxlan::emit(vni)[..], &frame].concat();
    let mut group = c.benchmark_group("header");
    group.bench_function("vxlan emit", |b| b.iter(|| vxlan::emit(black_box(vni))));
    group.bench_function("vxlan split", |b| b.iter(|| vxlan::split(black_box(&datagram)).is_ok()));
    group.bench_function("flow hash", |b| b.iter(|| FlowHash::of(black_box(&frame))));
    let (header, mut bytes) = superframe(44);
    let len = bytes.len();
    group.bench_function("vnet resolve", |b| {
        b.iter(|| black_box(&header).resolve(black_box(&mut bytes), len).is_ok());
    });
    group.finish();
}

fn checksums(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for len in [64, 1400, 65_536] {
        let bytes: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_with_input(BenchmarkId::from_parameter(len), &bytes, |b, bytes| {
            b.iter(|| checksum::of(black_box(bytes)));
        });
    }
    group.finish();
}

fn segmentation(c: &mut Criterion) {
    let (_, bytes) = superframe(44);
    let contiguous = Contiguous::new(&bytes, offload(44));
    let mut out = vec![0; 44 * HEADER_LEN];
    let mut group = c.benchmark_group("segment");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("44 of TCP", |b| {
        b.iter(|| {
            let frame: Frame<'_> = black_box(&contiguous).frame();
            let Ok(segments) = Segments::plan(&frame, Some(1450)) else { return 0 };
            let mut slices = 0;
            for (i, out) in out.chunks_exact_mut(HEADER_LEN).enumerate() {
                segments.write_header(i, out);
                slices += segments.payload(i).count();
            }
            slices
        });
    });
    group.finish();
}

fn coalescing(c: &mut Criterion) {
    let frames = train(44);
    let merge = Merge { tcp: true, udp: true, adopt: None };
    let mut group = c.benchmark_group("coalesce");
    group.throughput(Throughput::Bytes(frames.iter().map(Vec::len).sum::<usize>() as u64));
    for (name, trust) in [("44 verified", Trust::Verify), ("44 vouched", Trust::Vouched)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut segments = 0;
                let mut emit = |frame: Frame<'_>| segments += frame.wire_frames();
                let mut coalescer = Coalescer::new(merge);
                for frame in black_box(&frames) {
                    coalescer.push(frame, trust, &mut emit);
                }
                coalescer.finish(&mut emit);
                segments
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("1 alone", |b| {
        b.iter(|| {
            let mut bytes = 0;
            let mut emit = |frame: Frame<'_>| bytes += frame.head.len();
            let mut coalescer = Coalescer::new(merge);
            coalescer.push(black_box(&frames[1]), Trust::Vouched, &mut emit);
            coalescer.finish(&mut emit);
            bytes
        });
    });
    group.finish();
}

criterion_group!(benches, headers, checksums, segmentation, coalescing);
criterion_main!(benches);
